"""How sure a captioner is: the fit against another one, and what is printed of it."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from syntic_cli import Captioner
from syntic_cli.artifacts.reading import Artifact
from syntic_cli.captioner import write_calibrated
from syntic_cli.errors import DamagedError
from syntic_cli.method.calibration import (
    PRIOR,
    Calibration,
    calibration_error,
    fit_platt,
    reliability,
)
from syntic_cli.presets import load_preset, resolve
from syntic_cli.settings import CaptionSettings
from syntic_cli.wording import SIGNALS

from .conftest import RunCli

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "tiny"


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Signals of unlike scales, and captions that are right by a logistic map of them."""
    random = np.random.default_rng(seed)
    signals = random.normal([-2.0, 0.3], [0.5, 0.1], (count, 2))
    logits = signals @ [1.5, 6.0] + 1.7
    return signals, random.random(count) < 1 / (1 + np.exp(-logits))


class TestFit:
    @pytest.mark.parametrize("count", [12, 300])
    def test_is_the_likeliest_map(self, count: int) -> None:
        """By torch's gradients and L-BFGS, from Platt's paper."""
        signals, right = drawn(count)
        found = fit_platt(signals, right, ("a", "b"))
        x, y = torch.from_numpy(signals), torch.from_numpy(right)
        scale = x.std(dim=0, correction=0)
        positive = int(y.sum())
        target = torch.where(y, (positive + 1) / (positive + 2), 1 / (count - positive + 2))
        weights = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-12)

        def loss() -> torch.Tensor:
            optimiser.zero_grad()
            value = torch.nn.functional.binary_cross_entropy_with_logits(
                x @ weights[:2] + weights[2], target.double(), reduction="sum"
            ) + ((weights[:2] * scale) ** 2).sum() / (2 * PRIOR**2)
            value.backward()
            return value

        for _ in range(20):
            optimiser.step(loss)
        assert np.allclose(found.weights, weights[:2].detach(), rtol=1e-3)
        assert found.bias == pytest.approx(weights[2].item(), rel=1e-3)
        wanted = torch.sigmoid(x @ weights[:2] + weights[2]).detach().numpy()
        assert np.allclose(found.confidence(signals), wanted, atol=1e-4)

    def test_finds_what_captions_were_drawn_by(self) -> None:
        found = fit_platt(*drawn(20_000), ("a", "b"))
        assert np.allclose([*found.weights, found.bias], [1.5, 6.0, 1.7], atol=0.25)
        signals, right = drawn(20_000, seed=1)
        assert calibration_error(reliability(found.confidence(signals), right)) < 0.02

    def test_captions_that_a_signal_parts_give_numbers(self) -> None:
        signals = np.array([[-1.0], [-2.0], [1.0], [2.0]])
        found = fit_platt(signals, signals[:, 0] > 0, ("a",))
        assert np.isfinite(found.weights).all()
        sure = found.confidence(np.array([[-1e6], [-1.0], [1.0], [1e6]]))
        assert ((sure >= 0) & (sure <= 1)).all()
        assert sure[1] < 0.5 < sure[2]
        for all_right in (True, False):
            one = fit_platt(signals, np.full(4, all_right), ("a",)).confidence(signals)
            assert ((one > 0.5) == all_right).all()

    def test_reliability_counts_each_caption_once(self) -> None:
        confidence = np.array([0.0, 0.05, 0.1, 0.55, 0.59, 0.95, 1.0])
        right = np.array([False, True, False, True, False, True, True])
        table = reliability(confidence, right)
        assert [(round(row.low, 1), row.count) for row in table] == [
            (0.0, 2), (0.1, 1), (0.5, 2), (0.9, 2),
        ]  # fmt: skip
        by_hand = 2 * abs(0.025 - 0.5) + 1 * 0.1 + 2 * abs(0.57 - 0.5) + 2 * abs(0.975 - 1)
        assert calibration_error(table) == pytest.approx(by_hand / 7)


@pytest.fixture(scope="module")
def calibrated(
    finished: Path, photos: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A captioner of micro models that has learnt from its own captions how sure to be."""
    path = tmp_path_factory.mktemp("calibrated") / "captioner.h5"
    captioner = Captioner.load(finished / "captioner.h5", settings=settings())
    _, signals = captioner.caption_with_signals(photos)
    right = np.array([True, False, True, True, False])
    write_calibrated(finished / "captioner.h5", fit_platt(signals, right, captioner.signals), path)
    return path


def settings(**values: object) -> CaptionSettings:
    return CaptionSettings(beam=2, max_length=12, **values)  # type: ignore[arg-type]


class TestCaptioner:
    def test_signals_are_what_they_say(self, finished: Path, photos: list[Path]) -> None:
        for rerank, consensus in ((0.0, 0), (2.0, 0), (0.0, 5), (0.5, 5)):
            captioner = Captioner.load(
                finished / "captioner.h5",
                settings=settings(rerank=rerank, consensus=consensus, shorten=0.0),
                openvino=False,
            )
            plain = captioner.caption(photos)
            captions, signals = captioner.caption_with_signals([*photos, Path("none.jpg")])
            assert captions[:-1] == plain
            assert captions[-1].error
            assert np.isnan(signals[-1]).all()
            clip, tokenizer = captioner._clip, captioner._wording._tokenizer
            for caption, photo, found in zip(captions, photos, signals, strict=False):
                pixels = clip.preprocess(Image.open(photo).convert("RGB"))[None]
                cosine = clip.encode_images(pixels) @ clip.encode_texts([caption.caption]).T
                assert found[2] == pytest.approx(cosine.item(), abs=1e-4)
                tokens = caption.log_probability / found[0]
                assert tokens == pytest.approx(round(tokens), abs=1e-3)
                written = len(tokenizer.encode(caption.caption).ids)
                assert written + 1 == round(tokens) or tokens == pytest.approx(12)
                assert caption.log_probability - 1e-4 <= found[1] <= 0

    def test_the_beginning_of_a_short_caption_is_all_of_it(
        self, finished: Path, photos: list[Path]
    ) -> None:
        for length in (1, 3, 4):
            short = CaptionSettings(beam=2, max_length=length)
            captioner = Captioner.load(finished / "captioner.h5", settings=short)
            captions, signals = captioner.caption_with_signals(photos)
            whole = [caption.log_probability for caption in captions]
            assert signals[:, 1] == pytest.approx(whole, abs=1e-4)

    def test_a_captioner_without_it_has_none(
        self, run_cli: RunCli, finished: Path, photos: list[Path]
    ) -> None:
        captioner = Captioner.load(finished / "captioner.h5")
        assert [caption.confidence for caption in captioner.caption(photos)] == [None] * 5
        command = ("caption", *photos, "-w", finished)
        lines = run_cli(*command, "-f", "jsonl").stdout.splitlines()
        assert [json.loads(line)["confidence"] for line in lines] == [None] * 5
        rows = csv.DictReader(io.StringIO(run_cli(*command, "-f", "csv").stdout))
        assert [row["confidence"] for row in rows] == [""] * 5
        assert "sure" not in run_cli(*command).stdout.splitlines()[0]

    def test_every_format_says_it(
        self, run_cli: RunCli, calibrated: Path, photos: list[Path], tmp_path: Path
    ) -> None:
        bad = tmp_path / "bad.jpg"
        bad.write_bytes(b"no photo")
        out = tmp_path / "captions.h5"
        command = ("caption", *photos, bad, "--captioner", calibrated, "-o", out,
                   "--beam", 2, "--max-length", 12, "--preset", "paper")  # fmt: skip

        def printed(form: str) -> str:
            result = run_cli(*command, "-f", form)
            assert result.exit_code == 0, result.stderr
            return result.stdout

        lines = [json.loads(line) for line in printed("jsonl").splitlines()]
        found = [line["confidence"] for line in lines]
        captioner = Captioner.load(calibrated, settings=settings())
        captions, signals = captioner.caption_with_signals(photos)
        with h5py.File(calibrated) as file:
            weights = {name: float(value[()]) for name, value in file["calibration"].items()}
        logits = weights["bias"] + sum(
            signals[:, column] * weights[name] for column, name in enumerate(captioner.signals)
        )
        assert found[:5] == pytest.approx(list(1 / (1 + np.exp(-logits))), abs=2e-3)
        assert found[5] is None
        assert found[:5] == pytest.approx([one.confidence for one in captions], abs=2e-3)
        assert len(set(found[:5])) > 1
        assert json.loads(printed("json")) == lines
        rows = list(csv.DictReader(io.StringIO(printed("csv"))))
        assert [row["confidence"] for row in rows] == ["" if f is None else str(f) for f in found]
        table = printed("table").splitlines()
        assert table[0].split() == ["photo", "caption", "sure", "objects"]
        assert all(f"{100 * sure:.0f} %" in "".join(table) for sure in found[:5])
        with Artifact(out) as artifact:
            stored = artifact.numbers("confidence")
        assert np.isnan(stored[5])
        assert stored[:5] == pytest.approx(found[:5], abs=1e-3)

    def test_captions_without_it_are_not_taken_for_those_with(
        self, run_cli: RunCli, finished: Path, calibrated: Path, photos: list[Path], tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        run.mkdir()
        for name in ("captioner.h5", "workspace.json"):
            shutil.copy(finished / name, run)
        command = ("caption", photos[0], "-w", run, "-f", "jsonl")
        assert json.loads(run_cli(*command).stdout)["confidence"] is None
        shutil.copy(calibrated, run / "captioner.h5")
        refused = run_cli(*command)
        assert refused.exit_code == 2
        assert "captioner: captioner.h5" in refused.stderr
        forced = run_cli(*command, "--force")
        assert json.loads(forced.stdout)["confidence"] is not None

    def test_can_be_calibrated_again_in_its_place(
        self, finished: Path, calibrated: Path, photos: list[Path], tmp_path: Path
    ) -> None:
        path = Path(shutil.copy(calibrated, tmp_path))
        before = (finished / "captioner.h5").read_bytes()
        prints = set()
        for bias in (5.0, -5.0):
            write_calibrated(path, Calibration(SIGNALS[:3], np.zeros(3), bias), path)
            (caption,) = Captioner.load(path).caption(photos[:1])
            assert caption.confidence == pytest.approx(1 / (1 + np.exp(-bias)), abs=1e-3)
            with Artifact(path, "train") as artifact:
                prints.add(artifact.fingerprint)
        assert len(prints) == 2
        assert (finished / "captioner.h5").read_bytes() == before

    def test_one_that_goes_by_something_else_is_refused(
        self, calibrated: Path, tmp_path: Path
    ) -> None:
        path = Path(shutil.copy(calibrated, tmp_path))
        write_calibrated(path, Calibration(("mood", "beginning", "cosine"), np.zeros(3), 0.0), path)
        with pytest.raises(DamagedError, match="calibration goes by what this syntic does not"):
            Captioner.load(path)


def test_the_example_calibrates_the_shipped_captioner(tmp_path: Path, photos: list[Path]) -> None:
    """By one command, on a folder laid out as the real data are."""
    texts = ["A man is riding a horse", "A dog runs in the snow", "A man sits on a bench"]
    for name in ("flickr8k", "coco"):
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        lines = ["image,split,caption"]
        for number, photo in enumerate(photos):
            shutil.copy(photo, folder / "images" / f"{number}.jpg")
            lines += [f"{number}.jpg,dev,{text}" for text in texts[number % 2 :]]
        lines += [f"t{row}.jpg,train,{text}" for row in range(4) for text in texts]
        (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    target = tmp_path / "calibrated.h5"
    command = [sys.executable, str(EXAMPLES / "calibrate.py"), "--data", str(tmp_path)]
    command += ["--output", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "| confidence | captions | mean confidence | main noun in a reference |" in done.stdout
    assert "Both, 5 photos" in done.stdout
    captioner = Captioner.load(target, settings=resolve(CaptionSettings, load_preset("tiny")))
    (caption,) = captioner.caption(photos[:1])
    assert caption.confidence is not None
    assert 0 < caption.confidence < 1


def test_main_nouns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    calibrate = __import__("calibrate")
    texts = [
        "A man is riding a wave", "A black dog runs in the snow", "A group of people standing",
        "The people are at a table", "A dog and a man on a bench", "A living room with a table",
        "A room with a bench", "A black room in the snow", "A group of dogs on the snow",
    ]  # fmt: skip
    nouns = calibrate.learn_nouns(texts * 5)
    assert {"man", "dog", "room", "table", "person", "group"} <= nouns
    assert not nouns & {"black", "living", "riding", "a", "in"}
    found = {text: calibrate.main_noun(text, nouns) for text in texts}
    assert list(found.values()) == [
        "man", "dog", "person", "person", "dog", "room", "room", "room", "dog",
    ]  # fmt: skip
    assert calibrate.main_noun("Very good", nouns) is None
    for one, many in (("glass", "glasses"), ("bus", "buses"), ("puppy", "puppies"),
                      ("box", "boxes"), ("bench", "benches"), ("child", "children")):  # fmt: skip
        assert calibrate.singular(one) == calibrate.singular(many)
