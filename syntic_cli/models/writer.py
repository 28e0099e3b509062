"""A language model as a writer, through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import SynticError
from .identity import model_folder
from .loading import loading
from .scenes import Chat, Group, Limits, Scene, converse


@dataclass(frozen=True)
class LanguageModel:
    """A frozen instruct model that answers greedily."""

    model: Any
    tokenizer: Any
    device: torch.device
    limits: Limits
    tries: int

    def write(self, groups: Sequence[Group]) -> list[Scene | SynticError]:
        """See `Writer`."""
        return converse(groups, self._answer, self.limits, self.tries)

    @torch.inference_mode()
    def _answer(self, chats: Sequence[Chat]) -> list[str | SynticError]:
        """The answers to chats, computed together."""
        prompts = [
            self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            for chat in chats
        ]
        # The template has written the special tokens already.
        lengths = [len(ids) for ids in self.tokenizer(prompts, add_special_tokens=False).input_ids]
        room = getattr(self.model.config, "max_position_embeddings", None)
        most = (room or max(lengths) + self.limits.answer_tokens) - self.limits.answer_tokens
        fitting = [prompt for prompt, n in zip(prompts, lengths, strict=True) if n <= most]
        answers = iter(self._generate(fitting) if fitting else ())
        return [
            next(answers)
            if length <= most
            else SynticError(f"{length} tokens of prompt are more than the model's {most}")
            for length in lengths
        ]

    def _generate(self, prompts: Sequence[str]) -> list[str]:
        inputs = self.tokenizer(
            list(prompts), add_special_tokens=False, padding=True, return_tensors="pt"
        ).to(self.device)
        output = self.model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            max_new_tokens=self.limits.answer_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            # Greedy, whatever the model's own configuration says.
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
        )
        written = output[:, inputs.input_ids.shape[1] :]
        return list(self.tokenizer.batch_decode(written, skip_special_tokens=True))


def load_language_model(
    name: str,
    revision: str | None,
    limits: Limits,
    tries: int,
    device: torch.device,
    dtype: torch.dtype,
) -> LanguageModel:
    """Load an instruct model: a hub id with its revision, or a folder.

    Raises:
        SynticError: where it cannot be loaded, or has no chat template.
    """
    with loading("language model", name):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        source = model_folder(name) or name
        options = {"revision": revision} if revision else {}
        # Answers begin where prompts end, so the padding stands before.
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", **options)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, **options
        )
    if not tokenizer.chat_template:
        raise SynticError(f"language model {name}: has no chat template; give an instruct model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = model.to(device).eval().requires_grad_(False)
    return LanguageModel(model, tokenizer, device, limits, tries)
