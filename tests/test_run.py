"""The whole chain in one command, and what a first command finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from syntic_cli.artifacts.reading import Artifact
from syntic_cli.errors import SynticError
from syntic_cli.models import devices
from syntic_cli.presets import load_preset
from syntic_cli.schema import STAGES

from . import faults
from .conftest import RunCli

pytestmark = pytest.mark.timeout(120)


def test_it_does_what_the_stages_do(
    finished: Path, micro_preset: Path, corpus_file: Path, photos: list[Path], run_cli: RunCli,
    tmp_path: Path,
) -> None:  # fmt: skip
    workspace, references = tmp_path / "run", tmp_path / "r.csv"
    references.write_text("image,caption\n" + "".join(f"{p.name},a square\n" for p in photos))
    command = ("run", corpus_file, *photos, "-w", workspace, "--references", references)
    result = run_cli(*command, "--preset", micro_preset, "--shard-size", 16)
    assert result.exit_code == 0, result.stderr
    for stage in STAGES.values():
        if (finished / stage.file).exists():
            one, other = (faults.contents(f / stage.file) for f in (workspace, finished))
            assert one == other, stage.name
    assert photos[0].name in result.stdout
    assert "CIDEr" in result.stdout
    assert "run: 8 stages in" in result.stderr
    again = run_cli(*command)
    assert again.stderr.count("is up to date") == 8
    assert again.stdout == result.stdout


def test_it_goes_on_where_it_stopped(
    finished: Path, micro_preset: Path, corpus_file: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    workspace = tmp_path / "run"
    workspace.mkdir()
    for name in ("synthetic.h5", "features.h5", "workspace.json"):
        shutil.copy(finished / name, workspace)
    result = run_cli("run", corpus_file, "-w", workspace, "--shard-size", 16)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("is up to date") == 2
    assert (workspace / "captioner.h5").exists()


@pytest.mark.parametrize(("cuda", "name"), [(False, "tiny"), (True, "paper")])
def test_a_preset_that_suits_the_machine(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: bool, name: str
) -> None:
    monkeypatch.setattr(devices, "has_cuda", lambda: cuda)
    result = run_cli("encode", "-w", tmp_path / "run")
    assert f"preset {name}: there is {'a' if cuda else 'no'} CUDA device" in result.stderr
    assert "--preset takes another" in result.stderr
    assert "preset tiny" not in run_cli("encode", "-w", tmp_path / "run", "--preset", "tiny").stderr


def test_a_workspace_that_is_named_is_kept(
    finished: Path, photos: list[Path], run_cli: RunCli, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    references = tmp_path / "r.csv"
    references.write_text(f"image,caption\n{photos[0].name},a red square\n")
    captioner = ("--captioner", finished / "captioner.h5")
    assert run_cli("caption", photos[0], *captioner).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["r.csv"]
    assert run_cli("caption", photos[0], *captioner, "-w", "run").exit_code == 0
    scored = run_cli("evaluate", "--references", references, "-w", "run", "--metrics", "BLEU-1")
    assert scored.exit_code == 0, scored.stderr
    monkeypatch.setenv("SYNTIC_WORKSPACE", "by-variable")
    assert run_cli("caption", photos[0], *captioner).exit_code == 0
    with Artifact(tmp_path / "by-variable" / "captions.h5") as artifact:
        assert artifact.rows == 1


def test_where_no_photo_could_be_captioned(finished: Path, run_cli: RunCli, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"no photo")
    command = ("caption", tmp_path, "-w", finished, "-o", tmp_path / "c.h5", "-f", "jsonl")
    result = run_cli(*command)
    assert result.exit_code == 2
    assert "error: no photo could be captioned: " in result.stderr
    assert [bool(json.loads(line)["error"]) for line in result.stdout.splitlines()] == [True] * 2


class TestBase:
    def test_a_preset_over_another(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text('base = "paper"\n[train]\nepochs = 3\n[encode]\nmodel = "mine"\n')
        mine, paper = load_preset(str(path)), load_preset("paper")
        assert mine["train"] == {**paper["train"], "epochs": 3}
        assert mine["encode"] == {"model": "mine"}
        assert mine["caption"] == paper["caption"]

    @pytest.mark.parametrize("base", ['"huge"', "3", '"../paper"'])
    def test_a_base_that_is_none(self, tmp_path: Path, base: str) -> None:
        path = tmp_path / "mine.toml"
        path.write_text(f"base = {base}\n")
        with pytest.raises(SynticError, match=r"base = .*: must be one of laptop, paper,"):
            load_preset(str(path))

    def test_the_quickstarts(self) -> None:
        path = Path(__file__).resolve().parents[1] / "examples" / "quickstart.toml"
        assert load_preset(str(path))["train"]["epochs"] == 40


class TestDryRun:
    def test_of_the_chain(
        self, micro_preset: Path, corpus_file: Path, run_cli: RunCli, tmp_path: Path
    ) -> None:
        workspace = tmp_path / "run"
        command = ("run", corpus_file, "-w", workspace, "--preset", micro_preset, "--dry-run")
        result = run_cli(*command)
        assert result.exit_code == 0, result.stderr
        stages = [line.split()[0] for line in result.stdout.splitlines()[1:]]
        assert stages == ["synthesize", "encode", "detect", "optimize", "project", "train"]
        assert "48 texts: about " in result.stderr
        assert not workspace.exists()

    def test_of_synthesize_is_near_the_truth(
        self, finished: Path, micro_preset: Path, corpus_file: Path, tmp_path: Path
    ) -> None:
        """Of the disk, that is: the time of another moment is another on a busy machine."""
        from syntic_cli.corpus import read_corpus
        from syntic_cli.estimate import estimate_synthesis
        from syntic_cli.presets import resolve
        from syntic_cli.settings import Run, SynthesizeSettings

        settings = resolve(SynthesizeSettings, load_preset(str(micro_preset)))
        found = estimate_synthesis(read_corpus(corpus_file), settings, Run())
        assert found.items == 48
        assert found.disk_bytes == pytest.approx(
            (finished / "synthetic.h5").stat().st_size, rel=0.2
        )
        assert found.seconds > 0
