"""Captions as text files beside photos, and as the metadata of an imagefolder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from syntic_cli.artifacts.reading import Artifact
from syntic_cli.errors import SynticError
from syntic_cli.sidecars import Sidecars, common_folder

from .conftest import Result, RunCli


@pytest.fixture
def folder(photos: list[Path], tmp_path: Path) -> Path:
    """A folder of five photos, two of them in a subfolder."""
    made = tmp_path / "photos"
    (made / "sub").mkdir(parents=True)
    for index, photo in enumerate(photos):
        shutil.copy(photo, made / ("sub" if index > 2 else "") / photo.name)
    return made


@pytest.fixture
def caption(
    run_cli: RunCli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunCli:
    """`syntic caption -r` with the micro captioner, in no workspace."""

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNTIC_WORKSPACE", raising=False)

    def run(*arguments: object) -> Result:
        captioner = ["--captioner", finished / "captioner.h5", "--preset", "tiny"]
        return run_cli("caption", "-r", *arguments, *captioner)

    return run


def texts_in(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*.txt")
    }


class TestSidecars:
    def test_each_photo_has_its_caption_beside_it(self, caption: RunCli, folder: Path) -> None:
        result = caption(folder, "--sidecar", "--format", "jsonl", "-q")
        assert result.exit_code == 0, result.stderr
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        assert len(rows) == 5
        wanted = {
            Path(row["path"]).with_suffix(".txt").relative_to(folder).as_posix(): row["caption"]
            + "\n"
            for row in rows
        }
        assert texts_in(folder) == wanted
        assert not list(folder.rglob(".*"))

    def test_photos_that_have_one_are_not_computed_again(
        self, caption: RunCli, folder: Path
    ) -> None:
        (folder / "0 red.txt").write_text("my own words")
        assert caption(folder, "--sidecar", "-q").exit_code == 0
        before = texts_in(folder)
        assert before["0 red.txt"] == "my own words"
        result = caption(folder, "--sidecar", "--format", "jsonl")
        assert result.exit_code == 0
        assert result.stdout == ""
        assert "5 photos left as captioned" in result.stderr
        (folder / "2 blue.txt").unlink()
        result = caption(folder, "--sidecar", "--format", "jsonl")
        assert [Path(json.loads(line)["path"]).name for line in result.stdout.splitlines()] == [
            "2 blue.jpg"
        ]
        assert texts_in(folder) == before

    def test_force_writes_them_anew(self, caption: RunCli, folder: Path) -> None:
        (folder / "0 red.txt").write_text("my own words")
        assert caption(folder, "--sidecar", "--force", "-q").exit_code == 0
        assert texts_in(folder)["0 red.txt"] != "my own words"

    def test_a_folder_mirrors_the_tree(self, caption: RunCli, folder: Path, tmp_path: Path) -> None:
        target = tmp_path / "texts"
        assert caption(folder, "--sidecar-folder", target, "-q").exit_code == 0
        assert set(texts_in(target)) == {
            "0 red.txt", "1 green.txt", "2 blue.txt", "sub/3 white.txt", "sub/4 black.txt"
        }  # fmt: skip
        assert texts_in(folder) == {}

    def test_a_photo_that_fails_gets_none(self, caption: RunCli, folder: Path) -> None:
        (folder / "broken.jpg").write_bytes(b"no image")
        result = caption(folder, "--sidecar", "-q")
        assert "broken.jpg" in result.stderr
        assert "broken.txt" not in texts_in(folder)
        assert len(texts_in(folder)) == 5

    def test_of_two_photos_of_one_name_the_second_is_left_out(
        self, caption: RunCli, folder: Path
    ) -> None:
        shutil.copy(folder / "1 green.jpg", folder / "0 red.png")
        result = caption(folder, "--sidecar", "--format", "jsonl")
        assert "0 red.png" in result.stderr
        assert len(result.stdout.splitlines()) == 5

    def test_a_folder_that_cannot_be_written_is_told(
        self, caption: RunCli, folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        result = caption(folder, "--sidecar-folder", tmp_path / "file" / "x", "-q")
        assert result.exit_code == 2
        assert "cannot be written" in result.stderr

    def test_a_photo_is_never_written_over(self, caption: RunCli, folder: Path) -> None:
        odd = folder / "odd.txt"
        shutil.copy(folder / "0 red.jpg", odd)
        before = odd.read_bytes()
        result = caption(odd, "--sidecar", "--force", "-q")
        assert result.exit_code == 2
        assert odd.read_bytes() == before

    def test_in_a_workspace_the_artifact_has_all_photos(
        self, run_cli: RunCli, finished: Path, folder: Path, tmp_path: Path
    ) -> None:
        workspace = tmp_path / "run"
        workspace.mkdir()
        shutil.copy(finished / "captioner.h5", workspace)
        arguments = ["caption", "-r", folder, "--sidecar", "-w", workspace, "--preset", "tiny"]
        assert run_cli(*arguments, "-q").exit_code == 0
        shutil.copy(folder / "0 red.jpg", folder / "new.jpg")
        result = run_cli(*arguments, "--format", "jsonl")
        assert result.exit_code == 0, result.stderr
        assert "5 of 6 photos are there" in result.stderr
        with Artifact(workspace / "captions.h5") as artifact:
            assert artifact.rows == 6
        assert len(texts_in(folder)) == 6
        # By other settings they would be computed again, so photos with a text are left out.
        result = run_cli(*arguments, "--beam", 1, "--format", "jsonl")
        assert result.stdout == ""
        assert "6 photos left as captioned" in result.stderr
        assert list(workspace.glob("captions*.h5")) == [workspace / "captions.h5"]

    def test_a_run_that_is_stopped_keeps_what_it_has_written(
        self, finished: Path, folder: Path, tmp_path: Path
    ) -> None:
        for copy in range(200):
            shutil.copy(folder / "0 red.jpg", folder / f"copy {copy:03d}.jpg")
        command = [
            sys.executable, "-c", "from syntic_cli.cli import main; main()", "caption", "-r",
            str(folder), "--sidecar", "--captioner", str(finished / "captioner.h5"),
            "--preset", "tiny", "--shard-size", "1",
            "--batch-size", "1", "--format", "jsonl",
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("SYNTIC_WORKSPACE", None)
        running = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=tmp_path,
        )
        ends = time.monotonic() + 120
        while not texts_in(folder) and time.monotonic() < ends and running.poll() is None:
            time.sleep(0.02)
        running.send_signal(signal.SIGTERM)
        code = running.wait(60)
        first = texts_in(folder)
        assert 0 < len(first) <= 205
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
        )
        assert not (tmp_path / "syntic-run").exists()
        assert len(done.stdout.splitlines()) == 205 - len(first)
        assert len(texts_in(folder)) == 205
        if len(first) < 205:
            assert code == 128 + signal.SIGTERM


class TestMetadata:
    def test_names_begin_at_the_folder_that_was_named(self, caption: RunCli, folder: Path) -> None:
        (folder / "broken.jpg").write_bytes(b"no image")
        result = caption(folder, "--format", "metadata", "-q")
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        assert [row["file_name"] for row in rows] == [
            "0 red.jpg", "1 green.jpg", "2 blue.jpg", "sub/3 white.jpg", "sub/4 black.jpg"
        ]  # fmt: skip
        assert all(set(row) == {"file_name", "text"} and row["text"] for row in rows)

    def test_datasets_loads_it(self, caption: RunCli, folder: Path, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets", reason="datasets is not installed")
        result = caption(folder, "--format", "metadata", "-q")
        (folder / "metadata.jsonl").write_text(result.stdout, encoding="utf-8")
        loaded = datasets.load_dataset(
            "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
        )
        texts = [json.loads(line)["text"] for line in result.stdout.splitlines()]
        assert sorted(loaded["text"]) == sorted(texts)
        assert {image.size for image in loaded["image"]} == {(40 + 16 * i, 60) for i in range(5)}


class TestCommonFolder:
    def test_a_folder_stands_for_itself(self, folder: Path) -> None:
        only_sub = [folder / "sub" / "3 white.jpg"]
        assert common_folder([str(folder)], only_sub) == folder

    def test_files_stand_for_the_folder_that_holds_them_all(self, folder: Path) -> None:
        files = [folder / "0 red.jpg", folder / "sub" / "3 white.jpg"]
        assert common_folder([str(file) for file in files], files) == folder
        assert common_folder([str(files[1])], files[1:]) == folder / "sub"

    def test_names_may_be_relative(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        assert common_folder(["0 red.jpg"], [Path("0 red.jpg")]) == folder
        mirror = Sidecars(common_folder(["."], [Path("sub/3 white.jpg")]), Path("out"))
        assert mirror.path(Path("sub/3 white.jpg")) == Path("out/sub/3 white.txt")

    def test_the_photo_itself_is_refused(self) -> None:
        with pytest.raises(SynticError, match="rename it"):
            Sidecars(Path()).path(Path("a.txt"))
