"""Writers: what they accept, and a micro language model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from syntic_cli.errors import SynticError
from syntic_cli.models.writer import (
    Extractive,
    Group,
    LanguageModel,
    Limits,
    Scene,
    UnusableAnswer,
    load_language_model,
    make_chat,
    parse_scene,
    prompt_digest,
)

from .conftest import CAPTIONS

LIMITS = Limits(least=2, most=4, words=6)


def group(first: int = 0, texts: int = 5) -> Group:
    return Group(CAPTIONS[first : first + texts], np.eye(texts, 8, dtype=np.float32))


def answer(sentences: object = (1, 2, 3), summary: object = "a dog in the snow") -> str:
    return json.dumps({"sentences": sentences, "summary": summary})


class TestAnswers:
    @pytest.mark.parametrize(
        "text",
        [
            answer(),
            f"```json\n{answer()}\n```",
            f'Thinking: {{"sentences": [9]}} is too few. { {1} }\n{answer()} That is all {{',
            answer(summary="a  dog\nin the snow"),
        ],
    )
    def test_good_ones(self, text: str) -> None:
        assert parse_scene(text, 5, LIMITS) == Scene([0, 1, 2], "a dog in the snow")

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "no JSON"),
            ("I cannot help with that.", "no JSON"),
            ("[1, 2, 3]", "no JSON"),
            (answer()[:-3], "no JSON"),
            ('{"a":' * 2000, "no JSON"),
            ("__import__('os').abort()", "no JSON"),
            ("x" * 30_000, "too long"),
            ('{"summary": "a dog"}', "whole numbers"),
            (answer([1, 2.0, 3]), "whole numbers"),
            (answer(["1", "2"]), "whole numbers"),
            (answer([True, 2]), "whole numbers"),
            (answer({"1": 2}), "whole numbers"),
            (answer([0, 1]), "outside 1 to 5"),
            (answer([-1, 1]), "outside 1 to 5"),
            (answer([1, 6]), "outside 1 to 5"),
            (answer([1, 10**30]), "outside 1 to 5"),
            (answer([1, 2, 1]), "twice"),
            (answer([1]), "1 numbers, not 2 to 4"),
            (answer([1, 2, 3, 4, 5]), "5 numbers, not 2 to 4"),
            (answer(summary=None), "not a sentence"),
            (answer(summary=["a dog"]), "not a sentence"),
            (answer(summary=" \n"), "not a sentence"),
            (answer(summary="one two three four five six seven"), "7 words, more than 6"),
            (answer(summary="a dog \ud800"), "no text"),
            (answer(summary="a dog \u001b[2J"), "no text"),
        ],
    )
    def test_bad_ones(self, text: str, reason: str) -> None:
        with pytest.raises(UnusableAnswer, match=reason):
            parse_scene(text, 5, LIMITS)

    def test_letters_of_any_script(self) -> None:
        assert parse_scene(answer(summary="می‌خواهم نمک"), 5, LIMITS).summary == "می‌خواهم نمک"

    def test_the_prompt_says_what_is_checked(self) -> None:
        system, user = make_chat(["a dog", "1. a\ncat"], Limits(least=3, most=9, words=41))
        assert "from 3 to 9 sentences" in system["content"]
        assert "at most 41 words" in system["content"]
        assert "$" not in system["content"]
        assert user["content"] == "1. a dog\n2. 1. a cat"
        assert len(prompt_digest()) == 64

    def test_rules_give_a_scene_or_the_reason(self) -> None:
        writer = Extractive(Limits(least=2, most=3, words=30))
        alike = Group(CAPTIONS[:3], np.ones((3, 1), np.float32))
        scene, error = writer.write([group(), alike])
        assert isinstance(scene, Scene)
        assert scene.sentences[0] == 0
        assert scene.summary.startswith(CAPTIONS[0].rstrip(" ."))
        assert isinstance(error, SynticError)


TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def build_language_model(folder: Path, template: str | None = TEMPLATE) -> Path:
    """A causal language model with random weights, and a tokenizer trained on what it reads."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from syntic_cli.tokenizer import END, train_tokenizer

    texts = [chat["content"] for chat in make_chat(CAPTIONS, LIMITS)] + [answer()]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(texts, 600), eos_token=END, chat_template=template
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(folder: Path, tries: int = 2) -> LanguageModel:
    device = torch.device("cpu")
    return load_language_model(str(folder), None, LIMITS, tries, device, torch.float32)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(build_language_model(tmp_path_factory.mktemp("model")))


class TestLanguageModel:
    def test_answers_greedily_alike_alone_and_in_a_batch(
        self, language_model: LanguageModel
    ) -> None:
        """Against a loop over one chat, without padding or cache."""
        chats = [make_chat(CAPTIONS[:n], LIMITS) for n in (3, 12, 6)]
        model, tokenizer = language_model.model, language_model.tokenizer
        for chat, found in zip(chats, language_model._answer(chats), strict=True):
            prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            assert prompt.endswith("<|assistant|>\n")
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            start = ids.shape[1]
            while ids.shape[1] < start + LIMITS.answer_tokens:
                with torch.no_grad():
                    following = model(ids, use_cache=False).logits[:, -1].argmax(-1)
                if following.item() == tokenizer.eos_token_id:
                    break
                ids = torch.cat([ids, following[:, None]], dim=1)
            assert found == tokenizer.decode(ids[0, start:], skip_special_tokens=True)

    def test_babble_is_an_error_of_each_group(self, language_model: LanguageModel) -> None:
        for found in language_model.write([group(), group(7)]):
            assert isinstance(found, SynticError)
            assert "no usable answer in 2 tries: there is no JSON" in str(found)

    def test_a_model_that_has_learnt_to_answer(self, language_model: LanguageModel) -> None:
        """A few steps on one answer make the micro model give it after any group."""
        import copy

        tokenizer, model = language_model.tokenizer, copy.deepcopy(language_model.model)
        given = answer((4, 1), "a dog")
        model.requires_grad_(True)
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for step in range(120):
            chat = make_chat(group(step % 3).texts, LIMITS)
            prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            before = len(tokenizer(prompt).input_ids)
            ids = tokenizer(f"{prompt}{given}{tokenizer.eos_token}", return_tensors="pt").input_ids
            labels = ids.masked_fill(torch.arange(ids.shape[1]) < before, -100)
            optimizer.zero_grad()
            model(ids, labels=labels).loss.backward()
            optimizer.step()
        scenes = replace(language_model, model=model.eval()).write([group(0), group(1)])
        assert scenes == [Scene([3, 0], "a dog")] * 2

    def test_a_prompt_longer_than_the_context(self, language_model: LanguageModel) -> None:
        long = Group(["words " * 3000, "a dog"], np.eye(2, dtype=np.float32))
        found = language_model.write([long, group()])
        assert "tokens of prompt are more than the model's 1936" in str(found[0])
        assert "no usable answer" in str(found[1])

    def test_a_model_without_a_chat_template(self, tmp_path: Path) -> None:
        folder = build_language_model(tmp_path / "model", template=None)
        with pytest.raises(SynticError, match="no chat template; give an instruct model"):
            load(folder)

    def test_no_such_model(self) -> None:
        with pytest.raises(SynticError, match="language model nobody/nothing: cannot be loaded"):
            load(Path("nobody/nothing"))
