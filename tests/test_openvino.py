"""Models run by OpenVINO (the extra `cpu`) answer as torch does, and nobody is told of it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from syntic_cli import Captioner
from syntic_cli.artifacts.reading import Artifact
from syntic_cli.errors import SynticError
from syntic_cli.models import openvino
from syntic_cli.models.clip import _ImageTower, load_clip
from syntic_cli.models.detector import _Found, load_detector
from syntic_cli.presets import load_preset, resolve
from syntic_cli.settings import DetectSettings, EncodeSettings

from . import faults
from .conftest import DATA, RunCli

needed = pytest.mark.skipif(
    find_spec("openvino") is None, reason="needs OpenVINO: pip install -e '.[cpu]'"
)
CPU = torch.device("cpu")
TINY = load_preset("tiny")


@pytest.fixture(autouse=True)
def _let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(openvino.SWITCH, "1")


def some_pixels(count: int, side: int) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


class TestWhatIsUsed:
    def test_only_where_it_is_installed_and_can(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(openvino, "find_spec", lambda name: name)
        monkeypatch.setenv(openvino.SWITCH, "0")
        assert not openvino.is_used(True, CPU, torch.float32)
        monkeypatch.delenv(openvino.SWITCH)
        assert openvino.is_used(True, CPU, torch.float32)
        assert not openvino.is_used(False, CPU, torch.float32)
        assert not openvino.is_used(True, CPU, torch.bfloat16)
        assert not openvino.is_used(True, torch.device("cuda"), torch.float32)
        monkeypatch.setattr(openvino, "find_spec", lambda name: None)
        assert not openvino.is_used(True, CPU, torch.float32)

    @needed
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
    def test_a_forked_process_computes_with_torch(self, tmp_path: Path) -> None:
        """Its threads are not there: it would wait for them for ever."""
        batch = torch.ones(1, 4)
        run = openvino.converted(nn.Linear(4, 2).eval().requires_grad_(False), batch, (2, 4))
        assert run is not None

        def work() -> None:
            assert not openvino.is_used(True, CPU, torch.float32)
            with pytest.raises(SynticError, match="forked process"):
                run(batch)

        log = tmp_path / "log.txt"
        assert faults.finish(faults.start(work, log)) == 0, log.read_text()

    @needed
    def test_the_command_line_says_so(
        self, run_cli: RunCli, finished: Path, photos: list[Path], tmp_path: Path
    ) -> None:
        said = {}
        for switch in ("--openvino", "--no-openvino"):
            out = tmp_path / f"{switch}.h5"
            result = run_cli("caption", *photos, "-w", finished, "-o", out, switch, "-f", "jsonl")
            assert result.exit_code == 0, result.stderr
            assert (" by OpenVINO, " in result.stderr) == (switch == "--openvino")
            said[switch] = [json.loads(line)["caption"] for line in result.stdout.splitlines()]
            with Artifact(out) as artifact:
                wanted = "OpenVINO" if switch == "--openvino" else "torch"
                assert artifact.attributes["runtime"] == wanted
                assert artifact.attributes["dtype"] == "float32"
        assert said["--openvino"] == said["--no-openvino"]

    @needed
    @pytest.mark.parametrize("stage", ["encode", "detect"])
    def test_stages_give_what_torch_does(
        self, run_cli: RunCli, finished: Path, tmp_path: Path, stage: str
    ) -> None:
        found = {}
        for switch in ("--openvino", "--no-openvino"):
            out = tmp_path / f"{switch}.h5"
            result = run_cli(stage, "-w", finished, "-o", out, switch)
            assert result.exit_code == 0, result.stderr
            assert (" by OpenVINO, " in result.stderr) == (switch == "--openvino")
            with Artifact(out) as artifact:
                names = {"encode": ("image_features", "text_features"), "detect": ("score", "box")}
                found[switch] = [artifact.numbers(name) for name in names[stage]]
                fingerprint = artifact.fingerprint
        for one, other in zip(found["--openvino"], found["--no-openvino"], strict=True):
            assert len(one)
            assert np.abs(one - other).max() < 1e-3
        # Rows of the one are rows of the other: the same command goes on with either.
        with Artifact(tmp_path / "--openvino.h5") as artifact:
            assert artifact.fingerprint == fingerprint

    @needed
    def test_rows_of_both_are_told(
        self, run_cli: RunCli, finished: Path, photos: list[Path], tmp_path: Path
    ) -> None:
        out = tmp_path / "captions.h5"
        command = ("caption", "-w", finished, "-o", out)
        assert run_cli(*command, *photos[:2], "--no-openvino").exit_code == 0
        assert run_cli(*command, *photos).exit_code == 0
        with Artifact(out) as artifact:
            assert artifact.attributes["runtime"] == "torch, OpenVINO"

    @needed
    def test_who_asks_for_torchs_compiler_gets_it(
        self, run_cli: RunCli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("syntic_cli.models.clip.Clip.compile", lambda self: None)
        result = run_cli("encode", "-w", finished, "-o", tmp_path / "f.h5", "--compile")
        assert result.exit_code == 0, result.stderr
        assert "OpenVINO" not in result.stderr


@needed
class TestAnswers:
    def test_of_the_shipped_dual_encoder(self) -> None:
        settings = resolve(EncodeSettings, TINY)
        ours, theirs = (load_clip(settings, CPU, torch.float32, with_openvino=w) for w in (1, 0))
        assert (ours.runtime, theirs.runtime) == ("OpenVINO", "torch")
        # No multiple of what it is given at a time.
        for count in (1, 5):
            pixels = some_pixels(count, ours.image_size)
            found = ours.encode_images(pixels)
            assert found.shape == (count, 256)
            assert (found - theirs.encode_images(pixels)).abs().max() < 1e-3
        texts = ["a dog", "word " * 40, "", "two children play with a ball in the snow"]
        assert (ours.encode_texts(texts) - theirs.encode_texts(texts)).abs().max() < 1e-3

    def test_of_the_shipped_detector(self) -> None:
        settings = resolve(DetectSettings, TINY, threshold=0.01)
        ours, theirs = (
            load_detector(settings, CPU, torch.float32, with_openvino=w) for w in (1, 0)
        )
        assert ours.runtime == "OpenVINO"
        pixels = [ours.preprocess(Image.new("RGB", (90, 60), c)) for c in ("red", "white", "navy")]
        for one, other in zip(ours.detect(pixels), theirs.detect(pixels), strict=True):
            assert len(one.labels)
            assert one.labels.tolist() == other.labels.tolist()
            assert np.abs(one.scores - other.scores).max() < 1e-3
            assert np.abs(one.boxes - other.boxes).max() < 1e-3

    def test_captions_of_real_photos(self) -> None:
        photos = []
        for name in ("flickr8k", "coco"):
            folder = DATA / name
            if not folder.exists():
                pytest.skip(f"{folder} is not here")
            with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
                rows = csv.DictReader(file)
                names = dict.fromkeys(row["image"] for row in rows if row["split"] == "dev")
            photos += [folder / "images" / name for name in list(names)[:16]]
        ours, theirs = (Captioner.load(openvino=w).caption(photos) for w in (True, False))
        same = [one.caption == other.caption for one, other in zip(ours, theirs, strict=True)]
        assert sum(same) >= 0.99 * len(same) - 1

    def test_a_module_that_it_cannot_run_is_left_to_torch(self) -> None:
        class Odd(nn.Module):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                raise NotImplementedError

        class Fickle(nn.Module):
            """What a trace makes of it is not what it answers."""

            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                return batch + (1.0 if torch.jit.is_tracing() else 2.0)

        batch = torch.zeros(1, 4)
        assert openvino.converted(Odd(), batch, (2, 4)) is None
        assert openvino.converted(Fickle(), batch, (2, 4)) is None
        assert openvino.converted(nn.Linear(4, 2).eval(), batch, (2, 4)) is not None


@needed
class TestCache:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("SYNTIC_CACHE", str(tmp_path / "cache"))
        return tmp_path / "cache" / "openvino"

    @pytest.fixture
    def conversions(self, monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
        """What has been converted since, and not read from the cache."""
        library = openvino._openvino()[0]
        convert, done = library.convert_model, list[nn.Module]()

        def counting(module: nn.Module, **options: object) -> object:
            done.append(module)
            return convert(module, **options)

        monkeypatch.setattr(library, "convert_model", counting)
        return done

    def answer(self, module: nn.Module) -> torch.Tensor:
        batch = torch.arange(12.0).view(3, 4)
        run = openvino.converted(module, batch[:1], (2, 4))
        assert run is not None
        (found,) = run(batch)
        assert torch.allclose(found, module(batch), atol=1e-5)
        return found

    def test_is_converted_once(self, cache: Path, conversions: list[nn.Module]) -> None:
        module = nn.Linear(4, 2).eval().requires_grad_(False)
        first = self.answer(module)
        assert torch.equal(first, self.answer(module))
        assert len(conversions) == 1
        assert len(list(cache.iterdir())) == 1
        # Another weight, other layers of the same weights, another shape.
        other = nn.Sequential(nn.Linear(4, 2), nn.ReLU()).eval().requires_grad_(False)
        other[0].load_state_dict(module.state_dict())
        self.answer(other)
        module.weight[0, 0] += 1
        self.answer(module)
        assert len(conversions) == 3

    def test_what_is_kept_answers_to_the_last_bit_as_at_first(
        self, conversions: list[nn.Module]
    ) -> None:
        clip = load_clip(resolve(EncodeSettings, TINY), CPU, torch.float32)
        detector = load_detector(resolve(DetectSettings, TINY), CPU, torch.float32)
        tower, found = _ImageTower(clip.model), _Found(detector.model)
        for module, side in ((tower, clip.image_size), (found, 256)):
            pixels = some_pixels(3, side)
            answers = []
            for _ in range(2):
                run = openvino.converted(module, pixels[:1], (2, 3, side, side))
                assert run is not None
                answers.append(run(pixels))
            assert all(torch.equal(*both) for both in zip(*answers, strict=True))
        assert len(conversions) == 2

    def test_a_damaged_file_is_made_anew(self, cache: Path, conversions: list[nn.Module]) -> None:
        module = nn.Linear(4, 2).eval().requires_grad_(False)
        self.answer(module)
        (kept,) = cache.iterdir()
        whole = kept.read_bytes()
        for damaged in (whole[:100], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
            kept.write_bytes(damaged)
            self.answer(module)
            assert kept.read_bytes() != damaged
        assert len(conversions) == 4

    def test_does_not_grow_without_end(
        self, cache: Path, conversions: list[nn.Module], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(openvino, "KEPT", 2)
        for size in (4, 4, 4):
            self.answer(nn.Linear(size, 2).eval().requires_grad_(False))
        assert len(list(cache.iterdir())) == 2
        monkeypatch.setattr(openvino, "LARGEST_KEPT", 10)
        before = sorted(cache.iterdir())
        self.answer(nn.Linear(4, 2).eval().requires_grad_(False))
        assert sorted(cache.iterdir()) == before

    def test_cannot_be_written(self, cache: Path) -> None:
        cache.parent.parent.mkdir(exist_ok=True)
        cache.parent.write_text("a file where the folder would be")
        self.answer(nn.Linear(4, 2).eval().requires_grad_(False))


@needed
def test_nobody_is_told_of_a_conversion(tmp_path: Path) -> None:
    """With the reporter of OpenVINO's in place, and a home without the mark of who opted out."""
    told = tmp_path / "told"
    (tmp_path / "openvino_telemetry").mkdir()
    (tmp_path / "openvino_telemetry" / "__init__.py").write_text(
        f"open({str(told)!r}, 'a').write('imported')\n"
    )
    code = (
        "import torch, sys; from syntic_cli.models import openvino\n"
        "module, batch = torch.nn.Linear(4, 2).requires_grad_(False), torch.zeros(1, 4)\n"
        "assert openvino.converted(module, batch, (1, 4)) is not None\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
        "import openvino_telemetry\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "HOME": str(tmp_path),
        "SYNTIC_CACHE": str(tmp_path / "cache"),
    }
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
    # By the last line of the code alone.
    assert told.read_text() == "imported"
