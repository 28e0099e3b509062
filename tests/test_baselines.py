"""CLIPRe, MAGIC and ZeroCap, against what NumPy, or plain loops, make of the papers' formulas."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from syntic_cli.artifacts.reading import Artifact
from syntic_cli.method.magic import magic_scores, magic_search
from syntic_cli.method.zerocap import ZeroCapSettings, zerocap_loss, zerocap_search
from syntic_cli.models.clip import load_clip
from syntic_cli.models.language import CausalLanguage, load_causal_language
from syntic_cli.photos import load_photo
from syntic_cli.settings import EncodeSettings

from . import micro
from .conftest import CAPTIONS, RunCli

CPU = torch.device("cpu")
PROMPT = torch.tensor([3, 7, 11])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro.build_language_model(tmp_path_factory.mktemp("language") / "gpt2")


@pytest.fixture(scope="module")
def language(folder: Path) -> CausalLanguage:
    return load_causal_language(str(folder), None, CPU, torch.float32)


def softmax(values: np.ndarray) -> np.ndarray:
    grown = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(grown / grown.sum(-1, keepdims=True))


def likeness(tokens: torch.Tensor) -> torch.Tensor:
    """A stand-in for the dual encoder that depends on every token."""
    weights = 1 / torch.arange(1, tokens.shape[1] + 1)
    return ((tokens * 37 % 11) * weights).sum(dim=1) - 5


class TestMagic:
    def test_the_score_is_the_papers(self) -> None:
        rng = np.random.default_rng(0)
        p, h, c, f = rng.random(5), rng.normal(size=(5, 4)), rng.normal(size=(3, 4)), rng.random(5)
        wanted = []
        for v in range(5):
            worst = max(h[v] @ x / np.linalg.norm(h[v]) / np.linalg.norm(x) for x in c)
            photo = np.exp(f[v]) / sum(np.exp(f))
            wanted.append((1 - 0.1) * p[v] - 0.1 * worst + 2.0 * photo)
        found = magic_scores(*(torch.from_numpy(a) for a in (p, h, c, f)), alpha=0.1, beta=2.0)
        assert np.allclose(found.numpy(), wanted)

    def test_the_search_with_its_cache_is_the_one_without(self, language: CausalLanguage) -> None:
        """Every step over, from whole sequences, as the paper writes it."""

        def whole(tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
            with torch.no_grad():
                out = language.model(torch.tensor([tokens]), output_hidden_states=True)
            return out.logits[0, -1].double().numpy(), out.hidden_states[-1][0].double().numpy()

        written: list[int] = []
        total = 0.0
        for _ in range(6):
            logits, context = whole([*PROMPT.tolist(), *written])
            probabilities = softmax(logits)
            candidates = np.argsort(-probabilities, kind="stable")[:9]
            photo = softmax(
                likeness(torch.tensor([[*written, int(v)] for v in candidates])).double().numpy()
            )
            scores = []
            for v, f in zip(candidates, photo, strict=True):
                own = whole([*PROMPT.tolist(), *written, int(v)])[1][-1]
                cosines = context @ own / np.linalg.norm(context, axis=1) / np.linalg.norm(own)
                scores.append(0.9 * probabilities[v] - 0.1 * cosines.max() + 2.0 * f)
            best = int(candidates[int(np.argmax(scores))])
            written.append(best)
            total += float(np.log(probabilities[best]))
        found, log_probability = magic_search(
            language, PROMPT, likeness, ends=(), max_length=6, candidates=9
        )
        assert found.tolist() == written
        assert log_probability == pytest.approx(total, abs=1e-3)

    def test_a_caption_ends_where_it_ends(self, language: CausalLanguage) -> None:
        endless, _ = magic_search(language, PROMPT, likeness, ends=(), max_length=8)
        stop = int(endless[2])
        found, _ = magic_search(language, PROMPT, likeness, ends=[stop], max_length=8)
        assert found.tolist() == endless[: endless.tolist().index(stop) + 1].tolist()


class TestZeroCap:
    def test_the_loss_is_the_papers(self) -> None:
        rng = np.random.default_rng(1)
        logits, plain, cosines = (
            rng.normal(size=(2, 7)),
            rng.normal(size=(2, 7)),
            rng.random((2, 3)),
        )
        tokens = np.array([[0, 3, 5], [6, 1, 2]])
        q, before = softmax(logits), softmax(plain)
        target = softmax(cosines / 0.01)
        wanted = [
            -sum(target[n, k] * np.log(q[n, tokens[n, k]]) for k in range(3))
            + 0.2 * sum(q[n, v] * np.log(q[n, v] / before[n, v]) for v in range(7))
            for n in range(2)
        ]
        found = zerocap_loss(
            *(torch.from_numpy(a) for a in (logits, plain, cosines, tokens)), ZeroCapSettings()
        )
        assert np.allclose(found.numpy(), wanted)

    def test_without_a_step_it_is_beam_search(self, language: CausalLanguage) -> None:
        by = ZeroCapSettings(beam=4, max_length=5, iterations=0, end_factor=1.0)
        found, means = zerocap_search(language, PROMPT, likeness, end=2, by=by)
        rows: list[tuple[float, list[int]]] = [(0.0, [])]
        for _ in range(by.max_length):
            grown = []
            for score, row in rows:
                with torch.no_grad():
                    logits = language.model(torch.tensor([[*PROMPT.tolist(), *row]])).logits[0, -1]
                log_p = np.log(softmax(logits.double().numpy()))
                if row and row[-1] == 2:
                    grown.append((score, [*row, 2]))
                    continue
                grown += [(score + log_p[v], [*row, v]) for v in range(len(log_p))]
            rows = sorted(grown, key=lambda one: -one[0] / max(1, length(one[1])))[: by.beam]
        assert found.tolist() == [row for _, row in rows]
        assert means.tolist() == pytest.approx([s / length(r) for s, r in rows], abs=1e-4)

    def test_the_photo_has_a_say(self, language: CausalLanguage) -> None:
        """Where one token is all that a photo shows, gradient steps make it likelier."""
        wanted = 17

        def cosines(tokens: torch.Tensor) -> torch.Tensor:
            return (tokens[:, -1] == wanted).float()

        def first(iterations: int) -> float:
            by = ZeroCapSettings(beam=300, max_length=1, iterations=iterations, candidates=300)
            found, means = zerocap_search(language, PROMPT, cosines, end=2, by=by)
            return float(means[found[:, 0].tolist().index(wanted)])

        assert first(5) > first(1) > first(0)

    def test_a_step_is_that_of_finite_differences(self, language: CausalLanguage) -> None:
        """One gradient step, from the loss at both sides of each of the memory's numbers."""
        by = ZeroCapSettings(beam=300, max_length=1, iterations=1, candidates=300)
        with torch.no_grad():
            memory = language(PROMPT[None, :-1], None)[2]
            plain = language(PROMPT[None], None)[0].double()
        held = [tensor.double() for layer in memory for tensor in layer[:2]]
        model = copy.deepcopy(language.model).double()

        def logits(values: list[torch.Tensor]) -> torch.Tensor:
            cache = type(memory)(list(zip(values[::2], values[1::2], strict=True)))
            with torch.no_grad():
                return model(PROMPT[None, -1:], past_key_values=cache).logits[:, -1]

        every = torch.arange(plain.shape[1])[None]
        rows = torch.cat([PROMPT.expand(len(every[0]), -1), every[0][:, None]], dim=1)
        likely = likeness(rows)[None].double()

        def loss(tensor: int, place: tuple[int, ...], move: float) -> float:
            moved = [value.clone() for value in held]
            moved[tensor][place] += move
            return float(zerocap_loss(logits(moved), plain, likely, every, by))

        moved = []
        for tensor, value in enumerate(held):
            slopes = np.zeros(value.shape)
            for place in np.ndindex(*value.shape):
                slopes[place] = (loss(tensor, place, 1e-5) - loss(tensor, place, -1e-5)) / 2e-5
            step = 0.3 * slopes / np.linalg.norm(slopes) ** 0.9
            moved.append(value - torch.from_numpy(step))
        q, before = softmax(logits(moved).numpy())[0], softmax(plain.numpy())[0]
        mixed = q**0.99 * before**0.01
        mixed /= mixed.sum()
        found, means = zerocap_search(language, PROMPT, likeness, end=2, by=by)
        assert np.allclose(means.exp().numpy(), mixed[found[:, 0].numpy()], atol=1e-4)
        assert not np.allclose(before, mixed, atol=1e-2)


def length(row: list[int]) -> int:
    """Tokens up to the first end, which is 2."""
    return row.index(2) + 1 if 2 in row else len(row)


class TestCommand:
    def test_clipre_is_the_nearest_text(
        self,
        finished: Path,
        micro_preset: Path,
        photos: list[Path],
        run_cli: RunCli,
        tmp_path: Path,
    ) -> None:
        command = ("caption", *photos, "--decoding", "clipre", "-w", finished, "-f", "jsonl")
        result = run_cli(*command, "-o", tmp_path / "c.h5")
        assert result.exit_code == 0, result.stderr
        clip = load_clip(EncodeSettings(str(micro_preset.parent / "clip")), CPU, torch.float32)
        pixels = torch.stack([clip.preprocess(load_photo(photo)) for photo in photos])
        cosines = clip.encode_images(pixels).numpy() @ clip.encode_texts(CAPTIONS).numpy().T
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        assert [row["caption"] for row in rows] == [CAPTIONS[i] for i in cosines.argmax(axis=1)]
        assert {row["log_probability"] for row in rows} == {None}
        assert {row["error"] for row in rows} == {""}

    @pytest.mark.parametrize("name", ["magic", "zerocap"])
    def test_a_language_model_writes(
        self, name: str, folder: Path, finished: Path, photos: list[Path], run_cli: RunCli,
        tmp_path: Path,
    ) -> None:  # fmt: skip
        command = ("caption", *photos[:2], "--decoding", name, "-w", finished, "-f", "jsonl")
        given = ("--language-model", folder, "--max-length", 2, "-o", tmp_path / "c.h5")
        result = run_cli(*command, *given)
        assert result.exit_code == 0, result.stderr
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        assert not any(row["error"] for row in rows)
        assert all(row["caption"] for row in rows)
        assert all(row["log_probability"] < 0 for row in rows)
        assert "is up to date" in run_cli(*command, *given).stderr
        with Artifact(tmp_path / "c.h5", "caption") as made:
            assert made.recipe.settings["decoding"] == name
            assert made.recipe.settings["language_model"].startswith("folder gpt2 ")

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--decoding", "magic"], "--decoding magic: needs a --language-model"),
            (["--decoding", "best"], "--decoding best: must be decoder, clipre, magic or zerocap"),
            (
                ["--decoding", "zerocap", "--language-model", "/no/such/folder"],
                "/no/such/folder: no such model folder",
            ),
        ],
    )
    def test_what_cannot_be(
        self, options: list[str], says: str, finished: Path, photos: list[Path], run_cli: RunCli,
        tmp_path: Path,
    ) -> None:  # fmt: skip
        output = ("-w", finished, "-o", tmp_path / "c.h5")
        result = run_cli("caption", photos[0], *options, *output)
        assert result.exit_code == 2
        assert says in result.stderr

    def test_the_shipped_captioner_keeps_no_texts(
        self, photos: list[Path], run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        result = run_cli("caption", photos[0], "--decoding", "clipre")
        assert result.exit_code == 2
        assert "keeps no texts of a support set; give --support" in result.stderr
