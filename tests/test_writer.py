"""Writers: what they accept, a micro language model, and a server on this machine's loopback."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from syntic_cli.errors import SynticError
from syntic_cli.models.chat_server import KEY_VARIABLE, ChatServer, connect
from syntic_cli.models.scenes import (
    Group,
    Limits,
    Scene,
    UnusableAnswer,
    make_chat,
    parse_scene,
    prompt_digest,
)
from syntic_cli.models.writer import LanguageModel, load_language_model
from syntic_cli.stages.compose import Extractive

from .conftest import CAPTIONS

LIMITS = Limits(least=2, most=4, words=6)
KEY = "sk-not/for+anybody's=eyes"


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


Reply = Callable[["Handler"], None]


@dataclass
class Served:
    """What a server of the test's own is to reply, request by request, and what it was asked.

    The last reply is given to all further requests.
    """

    replies: list[Reply]
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)


class Handler(BaseHTTPRequestHandler):
    served: Served
    asked: dict[str, Any]

    def do_POST(self) -> None:
        served = self.served
        self.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with served.lock:
            number = min(len(served.requests), len(served.replies) - 1)
            served.requests.append({"path": self.path, **self.asked})
            served.headers.append(dict(self.headers))
        with suppress(OSError):  # the client has given up
            served.replies[number](self)

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(*replies: Reply) -> Iterator[Served]:
    served = Served(list(replies))
    handler = type("OwnHandler", (Handler,), {"served": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield served
        finally:
            served.ended.set()
            server.shutdown()
            thread.join()


def says(content: object) -> Reply:
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})
    return lambda handler: handler.reply(200, body.encode())


def status(code: int, text: str = "", **headers: str) -> Reply:
    return lambda handler: handler.reply(code, text.encode(), **headers)


def hangs(handler: Handler) -> None:
    handler.served.ended.wait(20)


def trickles(handler: Handler) -> None:
    """A reply that never ends, with a byte before each time-out of the socket."""
    handler.send_response(200)
    handler.end_headers()
    while not handler.served.ended.wait(0.05):
        handler.wfile.write(b" ")


GOOD = says(answer())


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def client(url: str, *, timeout: float = 5.0, concurrency: int = 4, tries: int = 2) -> ChatServer:
    made = connect(url, "micro", LIMITS, tries, timeout=timeout, concurrency=concurrency)
    return replace(made, first_wait=0.01)


def errors(found: Sequence[Scene | SynticError]) -> list[str]:
    return [str(one) if isinstance(one, SynticError) else "" for one in found]


class TestServer:
    def test_good_answers_in_the_order_of_the_groups(self) -> None:
        waiting, most, lock = 0, 0, threading.Lock()

        def slow(handler: Handler) -> None:
            # Counted until the answer goes out: what comes after it may be the next request.
            nonlocal waiting, most
            with lock:
                waiting += 1
                most = max(most, waiting)
            time.sleep(0.02)
            with lock:
                waiting -= 1
            GOOD(handler)

        with serving(slow) as served:
            found = client(served.url, concurrency=3).write([group(n) for n in range(9)])
        assert found == [Scene([0, 1, 2], "a dog in the snow")] * 9
        assert 1 < most <= 3
        first = served.requests[0]
        assert first["path"] == "/v1/chat/completions"
        assert first["model"] == "micro"
        assert first["temperature"] == 0
        schema = first["response_format"]["json_schema"]["schema"]
        assert schema["properties"]["sentences"]["maxItems"] == LIMITS.most
        assert {headers["Authorization"] for headers in served.headers} == {f"Bearer {KEY}"}

    def test_each_group_gets_its_own_answer(self) -> None:
        def repeats(handler: Handler) -> None:
            """Its answer is the group's first text, after longer for the earlier groups."""
            first = handler.asked["messages"][1]["content"].split("\n")[0].removeprefix("1. ")
            time.sleep(0.2 / (1 + CAPTIONS.index(first)))
            says(answer(summary=first.split()[-2]))(handler)

        with serving(repeats) as served:
            found = client(served.url, concurrency=3).write([group(n) for n in range(5)])
        assert found == [Scene([0, 1, 2], CAPTIONS[n].split()[-2]) for n in range(5)]
        assert len({scene.summary for scene in found if isinstance(scene, Scene)}) > 1

    @pytest.mark.parametrize(
        "bad",
        [
            says("no idea"),
            says(answer([1, 99])),
            says(answer([2, 2])),
            says(None),
            status(200, "{"),
            status(200, "[" * 5000),
            status(200, '{"choices": []}'),
            status(200, "null"),
        ],
    )
    def test_an_answer_of_no_use_is_asked_for_again_with_the_reason(self, bad: Reply) -> None:
        with serving(bad, GOOD) as served:
            found = client(served.url).write([group()])
        assert found == [Scene([0, 1, 2], "a dog in the snow")]
        roles = [said["role"] for said in served.requests[1]["messages"]]
        assert roles == ["system", "user", "assistant", "user"]
        assert "cannot be used" in served.requests[1]["messages"][-1]["content"]

    def test_after_so_many_tries_it_is_the_groups_error(self) -> None:
        with serving(GOOD, says("no idea")) as served:
            found = client(served.url, concurrency=1, tries=3).write([group(), group(1)])
        assert found[0] == Scene([0, 1, 2], "a dog in the snow")
        assert errors(found)[1] == (
            "no usable answer in 3 tries: there is no JSON object in the answer"
        )
        assert len(served.requests) == 1 + 3

    @pytest.mark.parametrize("code", [429, 500, 502, 503])
    def test_a_busy_server_is_asked_again(self, code: int) -> None:
        with serving(status(code), status(code), GOOD) as served:
            assert errors(client(served.url).write([group()])) == [""]
        assert len(served.requests) == 3
        assert served.requests[0] == served.requests[2]

    def test_retry_after_is_waited_for(self) -> None:
        with serving(status(429, Retry_After="1"), GOOD) as served:
            began = time.monotonic()
            assert errors(client(served.url).write([group()])) == [""]
        assert time.monotonic() - began >= 1

    def test_one_group_without_a_reply_does_not_stop_the_others(self) -> None:
        with serving(GOOD, status(500)) as served:
            found = client(served.url, concurrency=1).write([group(), group(1)])
        assert errors(found) == ["", "the server answers with status 500, asked 6 times"]

    def test_a_server_that_never_replies_stops_the_run(self) -> None:
        with serving(status(503)) as served, pytest.raises(SynticError) as raised:
            client(served.url).write([group(), group(1)])
        assert served.url in str(raised.value)
        assert "goes on from here" in str(raised.value)

    @pytest.mark.parametrize("silent", [hangs, trickles])
    def test_a_hang_is_given_up_and_asked_again(self, silent: Reply) -> None:
        with serving(silent, GOOD) as served:
            began = time.monotonic()
            found = client(served.url, timeout=0.4).write([group()])
            assert errors(found) == [""]
            assert time.monotonic() - began < 3

    def test_nothing_but_hangs(self) -> None:
        with serving(hangs) as served, pytest.raises(SynticError, match=r"within 0\.1 s"):
            client(served.url, timeout=0.1).write([group()])

    def test_nobody_listens(self) -> None:
        with serving(GOOD) as served:
            pass
        with pytest.raises(SynticError, match="cannot be reached"):
            client(served.url).write([group()])

    def test_wrong_address_or_model(self) -> None:
        with serving(status(404)) as served, pytest.raises(SynticError, match="no model 'micro'"):
            client(served.url).write([group(), group(1)])

    def test_without_a_key_none_is_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(KEY_VARIABLE)
        monkeypatch.setenv("OPENAI_API_KEY", "another server's")
        with serving(GOOD) as served:
            client(served.url).write([group()])
        assert "Authorization" not in served.headers[0]


class TestKey:
    @pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
    def test_is_not_shown_where_the_server_repeats_it(
        self, code: int, capfd: pytest.CaptureFixture[str]
    ) -> None:
        said: object
        with serving(status(code, f"bad key: Bearer {KEY} " * 20)) as served:
            writer = client(served.url)
            try:
                said = writer.write([group()])
            except SynticError as error:
                said = "".join(traceback.format_exception(error))
        seen = f"{said!r} {said} {errors(said) if isinstance(said, list) else ''} {writer!r}"
        assert "status" in seen
        assert KEY not in seen + "".join(capfd.readouterr())
        assert KEY[-8:] not in seen

    def test_does_not_follow_a_redirect(self) -> None:
        with serving(GOOD) as elsewhere, serving(status(302, Location=elsewhere.url)) as served:
            with pytest.raises(SynticError, match="redirects"):
                client(served.url).write([group()])
            assert not elsewhere.requests

    def test_in_the_url_is_refused_without_being_shown(self) -> None:
        with pytest.raises(SynticError) as raised:
            client(f"http://me:{KEY}@127.0.0.1/v1")
        assert KEY not in str(raised.value)
        assert KEY_VARIABLE in str(raised.value)

    def test_that_no_header_can_hold(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(KEY_VARIABLE, f"{KEY}\r\nX-Other: 1")
        with pytest.raises(SynticError) as raised:
            client("http://127.0.0.1/v1")
        assert KEY not in "".join(traceback.format_exception(raised.value))

    @pytest.mark.parametrize(
        "url", ["ftp://a/v1", "http:///v1", "http://a/v1?key=1", "http://a/v1#x", "localhost:80"]
    )
    def test_what_is_no_url(self, url: str) -> None:
        with pytest.raises(SynticError, match="such as http://localhost:8000/v1"):
            client(url)

    def test_the_model_needs_a_name(self) -> None:
        with pytest.raises(SynticError, match="--writer-model"):
            connect("http://a/v1", None, LIMITS, 2)

    @pytest.mark.parametrize("end", ["", "/", "/chat/completions"])
    def test_ends_of_the_address(self, end: str) -> None:
        assert client(f"http://a/v1{end}").url == "http://a/v1"
