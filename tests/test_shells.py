"""What shells and systems do: names and texts in any encoding, streams that are closed or full."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import RunCli

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).resolve().parents[1]
# A name that no UTF-8 has, as Latin-1 systems leave them behind.
ODD = "caf\udce9"


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Iterator[Path]:
    workspace = tmp_path / "run"
    shutil.copytree(finished, workspace)
    yield workspace
    shutil.rmtree(workspace)


def shell(
    line: str, *arguments: object, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """A line of bash in which `syntic` is this syntic, and "$@" are the arguments."""
    started = f'syntic() {{ "{sys.executable}" -m syntic_cli "$@"; }}\n{line}'
    return subprocess.run(
        ["bash", "-c", started, "bash", *map(os.fsencode, map(str, arguments))],
        capture_output=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    )


class TestNames:
    def test_every_stage_with_names_that_are_no_utf8(
        self, tmp_path: Path, micro_preset: Path, corpus_file: Path, photos: list[Path],
        run_cli: RunCli,
    ) -> None:  # fmt: skip
        corpus, photo = tmp_path / f"{ODD}.txt", tmp_path / f"{ODD}.jpg"
        shutil.copy(corpus_file, corpus)
        shutil.copy(photos[0], photo)
        references = tmp_path / "r.csv"
        references.write_text("image,caption\ncaf\\xe9.jpg,a red square\n")
        run = tmp_path / f"{ODD} run"
        for command in (
            ["synthesize", corpus, "--preset", micro_preset],
            *([stage] for stage in ("encode", "optimize", "detect", "project", "train")),
            ["caption", photo],
            ["evaluate", "--references", references, "--metrics", "BLEU-1"],
        ):
            result = run_cli(*command, "-w", run)
            assert result.exit_code == 0, result.stderr
            for printed in (result.stdout, result.stderr):
                printed.encode()
        for command in (["inspect", run], ["inspect", run / "scores.h5"]):
            shown = run_cli(*command)
            assert shown.exit_code == 0, shown.stderr
            shown.stdout.encode()
        assert "caf\\xe9 run" in run_cli("train", "-w", run).stderr

    def test_a_model_in_a_folder_that_safetensors_cannot_open(
        self, tmp_path: Path, micro_preset: Path, finished: Path, run_cli: RunCli
    ) -> None:
        folder = shutil.copytree(micro_preset.parent / "clip", tmp_path / ODD)
        out = tmp_path / "f.h5"
        result = run_cli("encode", "-w", finished, "--model", folder, "-o", out)
        assert result.exit_code == 2
        assert f"CLIP model {tmp_path}/caf\\xe9: cannot be loaded" in result.stderr
        result.stderr.encode()

    def test_names_in_errors(self, tmp_path: Path, run_cli: RunCli) -> None:
        for command in (
            ["caption", tmp_path / f"{ODD}.jpg"],
            ["synthesize", tmp_path / f"{ODD}.txt"],
            ["inspect", tmp_path / f"{ODD}.h5"],
            ["encode", "-w", tmp_path / ODD],
            ["encode", "--preset", f"{ODD}.toml"],
            ["evaluate", "--references", tmp_path / f"{ODD}.csv"],
        ):
            result = run_cli(*command, *([] if "-w" in command else ["-w", tmp_path / "run"]))
            assert result.exit_code == 2
            assert "Traceback" not in result.stderr
            result.stderr.encode()

    @pytest.mark.parametrize(
        "environment",
        [
            {"LC_ALL": "C", "PYTHONUTF8": "0"},
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            {"PYTHONIOENCODING": "ascii"},
            {"PYTHONIOENCODING": "latin-1:strict"},
        ],
        ids=["C", "C, not coerced", "ascii", "latin-1"],
    )
    def test_names_that_the_terminal_cannot_show(
        self, tmp_path: Path, photos: list[Path], run: Path, environment: dict[str, str]
    ) -> None:
        photo = tmp_path / "猫.jpg"
        shutil.copy(photos[0], photo)
        done = shell('syntic caption "$1" -w "$2" -f csv', photo, run, environment=environment)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert b"\\u732b.jpg" in done.stdout or "猫.jpg".encode() in done.stdout

    def test_no_word_between_colons_becomes_an_emoji(
        self, tmp_path: Path, photos: list[Path], run: Path, run_cli: RunCli
    ) -> None:
        assert "none:dog:.jpg: no such" in run_cli("caption", "none:dog:.jpg", "-w", run).stderr
        photo = tmp_path / "a:dog:.jpg"
        shutil.copy(photos[0], photo)
        assert "a:dog:.jpg" in run_cli("caption", photo, "-w", run).stdout

    def test_composed_and_decomposed_names_are_one(
        self, tmp_path: Path, photos: list[Path], run: Path, run_cli: RunCli
    ) -> None:
        photo = tmp_path / unicodedata.normalize("NFD", "Grüße.jpg")
        shutil.copy(photos[0], photo)
        assert run_cli("caption", photo, "-w", run).exit_code == 0
        references = tmp_path / "r.csv"
        references.write_text("image,caption\n" + unicodedata.normalize("NFC", "Grüße.jpg,a dog"))
        result = run_cli("evaluate", "-w", run, "--references", references, "-f", "json")
        assert json.loads(result.stdout)["n"] == 1

    def test_half_a_character_in_captions_to_score(self, tmp_path: Path, run_cli: RunCli) -> None:
        results, references = tmp_path / "c.json", tmp_path / "r.json"
        results.write_text('[{"image_id": "a\\ud800", "caption": "a dog \\udfff"}]')
        references.write_text(
            '{"annotations": [{"image_id": "a\\ud800", "caption": "a \\ud83d dog"}]}'
        )
        command = ("evaluate", results, "--references", references, "-w", tmp_path / "run")
        result = run_cli(*command, "--metrics", "BLEU-1")
        assert result.exit_code == 0, result.stderr


class TestStreams:
    @pytest.mark.parametrize("command", ["caption - -w $1", "synthesize - -w $1"])
    def test_closed_standard_input(self, tmp_path: Path, command: str) -> None:
        done = shell(f"syntic {command} <&-", tmp_path)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(b"error: ")
        assert b"Traceback" not in done.stderr

    @pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "<&-"])
    def test_closed_streams_change_no_exit_code(self, run: Path, redirection: str) -> None:
        for command, code in (("inspect $1", 0), ("inspect $1/none.h5", 2), ("--help", 0)):
            done = shell(f"syntic {command} {redirection}", run)
            assert done.returncode == code, done.stderr
            assert b"Traceback" not in done.stderr

    @pytest.mark.parametrize(
        "command", ["inspect $1", "inspect $1/captions.h5 -f json", "--help", "--version"]
    )
    def test_full_standard_output(self, run: Path, command: str) -> None:
        done = shell(f"syntic {command} > /dev/full", run)
        assert done.returncode == 2
        assert done.stderr == b"error: standard output: No space left on device\n"

    def test_captions_on_a_full_standard_output(self, run: Path, photos: list[Path]) -> None:
        done = shell('syntic caption "$1" -w "$2" -q -f txt > /dev/full', photos[0], run)
        assert done.returncode == 2
        assert done.stderr == b"error: standard output: No space left on device\n"

    @pytest.mark.parametrize(
        ("command", "code"),
        [("inspect $1", 0), ("inspect $1/none.h5", 2), ("bogus", 2), ("caption none.jpg", 2)],
    )
    def test_full_standard_error_changes_no_exit_code(
        self, run: Path, command: str, code: int
    ) -> None:
        assert shell(f"syntic {command} 2> /dev/full", run).returncode == code

    def test_full_standard_error_stops_no_stage(self, run: Path, photos: list[Path]) -> None:
        done = shell('syntic caption "$1" -w "$2" -f txt 2> /dev/full', photos[0], run)
        assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)

    def test_no_warnings_of_libraries(self, tmp_path: Path, run: Path) -> None:
        from PIL import Image

        photo = tmp_path / "exif.jpg"
        odd = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\x09\0\0\0"
        Image.new("RGB", (60, 40), "red").save(photo, exif=odd)
        done = shell('syntic caption "$1" -w "$2" -q', photo, run)
        assert (done.returncode, done.stderr) == (0, b"")

    @pytest.mark.parametrize("form", ["table", "json"])
    def test_a_reader_that_goes_away(self, run: Path, form: str) -> None:
        line = 'syntic inspect "$1" -f $2 | true; echo "${PIPESTATUS[0]}"'
        for _ in range(3):
            done = shell(line, run, form)
            # What is written before the reader is gone is no error.
            assert done.stdout.strip() in (b"1", b"0")
            assert done.stderr == b""

    def test_no_room_at_all(self, run: Path) -> None:
        done = shell("syntic inspect $1", run, environment={"COLUMNS": "0"})
        assert b"captioner.h5" in done.stdout
        for command in ("bogus", "inspect $1/none.h5"):
            assert shell(f"syntic {command}", run, environment={"COLUMNS": "0"}).stderr


class TestSystems:
    def test_a_working_folder_that_is_gone(self, tmp_path: Path, photos: list[Path]) -> None:
        line = 'mkdir "$1/gone"; cd "$1/gone"; rmdir "$1/gone"; syntic caption "$2"'
        done = shell(line, tmp_path, photos[0], environment={"PYTHONPATH": str(ROOT)})
        assert done.returncode == 2
        assert done.stderr.startswith(b"error: the working folder cannot be found (")
        assert done.stderr.count(b"\n") == 1

    def test_too_little_memory_for_the_libraries(self, run: Path, photos: list[Path]) -> None:
        line = 'ulimit -v 1500000; syntic caption "$1" -w "$2" --force'
        done = shell(line, photos[0], run)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(b"error: ")
        assert b"Traceback" not in done.stderr

    @pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("HUP", 129)])
    def test_signals_leave_nothing_temporary(
        self, tmp_path: Path, photos: list[Path], name: str, code: int
    ) -> None:
        """While the models are loaded; what a pass does then is tested with it."""
        if signal.getsignal(getattr(signal, f"SIG{name}")) is signal.SIG_IGN:
            pytest.skip("the signal is ignored here, and so by what is started from here")
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        with started(photos[0], tmp_path, temporary) as process:
            process.send_signal(getattr(signal, f"SIG{name}"))
            said = process.communicate(timeout=60)[1]
        assert process.returncode == code
        assert b"Traceback" not in said
        assert not [*temporary.glob("syntic-*")]

    def test_a_hangup_does_not_end_what_ignores_it(
        self, tmp_path: Path, photos: list[Path]
    ) -> None:
        with started(photos[0], tmp_path, tmp_path, "nohup") as process:
            process.send_signal(signal.SIGHUP)
            out = process.communicate(timeout=100)[0]
        assert process.returncode == 0
        assert out.strip()


@contextmanager
def started(
    photo: Path, folder: Path, temporary: Path, *before: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`syntic caption` without a workspace, once it has begun to load the models."""
    command = [*before, sys.executable, "-m", "syntic_cli", "caption", photo, "-f", "txt"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
    )
    try:
        assert process.stderr is not None
        while (line := process.stderr.readline()) and b"no captioner in" not in line:
            pass
        for _ in range(600):
            if [*temporary.glob("syntic-*")]:
                break
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


class TestOutputs:
    @pytest.mark.parametrize("name", ["res.json", "res.csv", "res.txt", "captions.jsonl"])
    def test_a_suffix_that_lies(
        self, run: Path, photos: list[Path], run_cli: RunCli, name: str
    ) -> None:
        result = run_cli("caption", photos[0], "-w", run, "-o", run / name)
        assert result.exit_code == 2
        assert "an artifact is HDF5, so name it .h5" in result.stderr
        assert not (run / name).exists()

    @pytest.mark.parametrize(
        ("stage", "place"),
        [
            ("encode", "synthetic.h5"),
            ("detect", "synthetic.h5"),
            ("project", "optimized.h5"),
            ("train", "projected.h5"),
            ("optimize", "captions.h5"),
        ],
    )
    @pytest.mark.parametrize("more", [(), ("--force",)], ids=["", "forced"])
    def test_no_stage_replaces_what_another_made(
        self, run: Path, run_cli: RunCli, stage: str, place: str, more: tuple[str, ...]
    ) -> None:
        before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
        result = run_cli(stage, "-w", run, "-o", run / place, *more)
        assert result.exit_code == 2
        assert f"`syntic {stage}` does not replace" in result.stderr
        assert before == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}

    def test_a_link_to_what_another_made_is_followed(
        self, tmp_path: Path, run: Path, run_cli: RunCli
    ) -> None:
        link = tmp_path / "elsewhere.h5"
        link.symlink_to(run / "synthetic.h5")
        result = run_cli("encode", "-w", run, "-o", link, "--force")
        assert (result.exit_code, link.is_symlink()) == (2, True)
        assert "holds what `syntic synthesize` wrote" in result.stderr

    def test_a_file_of_somebody_else_is_not_replaced(
        self, tmp_path: Path, run: Path, photos: list[Path], run_cli: RunCli
    ) -> None:
        import h5py

        photo, foreign = tmp_path / "photo", tmp_path / "foreign.h5"
        shutil.copy(photos[0], photo)
        with h5py.File(foreign, "w") as file:
            file["data"] = 1
        for place in (photo, foreign):
            before = place.read_bytes()
            result = run_cli("caption", photos[0], "-w", run, "-o", place, "--force")
            assert result.exit_code == 2
            assert "holds what syntic has not written" in result.stderr
            assert place.read_bytes() == before

    def test_a_damaged_artifact_is_replaced(self, run: Path, run_cli: RunCli) -> None:
        for damaged in (b"", b"not HDF5 any more"):
            (run / "optimized.h5").write_bytes(damaged)
            assert run_cli("optimize", "-w", run, "--force").exit_code == 0

    def test_a_name_too_long_for_its_shards(self, run: Path, run_cli: RunCli) -> None:
        names = sorted(path.name for path in run.iterdir())
        result = run_cli("optimize", "-w", run, "-o", run / f"{'é' * 120}.h5")
        assert result.exit_code == 2
        assert "a name of more than 200 bytes" in result.stderr
        assert sorted(path.name for path in run.iterdir()) == names

    def test_a_stage_that_fails_at_once_sets_no_preset(
        self, tmp_path: Path, corpus_file: Path, run_cli: RunCli
    ) -> None:
        new = tmp_path / "new"
        command = ("synthesize", corpus_file, "--preset", "tiny", "--model", "/no/such/model")
        assert run_cli(*command, "-w", new).exit_code == 2
        assert not (new / "workspace.json").exists()

    def test_an_empty_name(self, run: Path, photos: list[Path], run_cli: RunCli) -> None:
        for command in (["caption", photos[0]], ["encode"], ["project"], ["train"]):
            result = run_cli(*command, "-w", run, "-o", "")
            assert result.exit_code == 2
            assert "--output: an empty name was given; is a variable unset?" in result.stderr

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_workspace_that_may_not_be_written(
        self, run: Path, photos: list[Path], run_cli: RunCli
    ) -> None:
        run.chmod(0o500)
        try:
            result = run_cli("caption", photos[0], "-w", run)
        finally:
            run.chmod(0o700)
        assert result.exit_code == 2
        assert "cannot be written (Permission denied)" in result.stderr
        assert "--output elsewhere" in result.stderr
