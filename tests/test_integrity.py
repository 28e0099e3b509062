"""What an artifact, a workspace and a run must withstand, and what they must refuse."""

from __future__ import annotations

import ast
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

import syntic_cli
from syntic_cli.artifacts.reading import Artifact
from syntic_cli.artifacts.recipe import Recipe
from syntic_cli.artifacts.shards import Draft
from syntic_cli.errors import Interrupted, SynticError

from . import faults
from .conftest import RunCli

pytestmark = pytest.mark.timeout(120)
NAMES = {
    "synthesize": "synthetic.h5",
    "encode": "features.h5",
    "optimize": "optimized.h5",
    "detect": "objects.h5",
    "project": "projected.h5",
    "train": "captioner.h5",
    "caption": "captions.h5",
}


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Iterator[Path]:
    """A workspace of one's own with every artifact, to be damaged."""
    workspace = tmp_path / "run"
    workspace.mkdir()
    for name in (*NAMES.values(), "workspace.json"):
        shutil.copy(finished / name, workspace)
    yield workspace
    shutil.rmtree(workspace, ignore_errors=True)


def read_all(path: Path) -> list[Any]:
    """Everything that the stages read of an artifact."""
    with Artifact(path) as artifact:
        found: list[Any] = [sorted((k, str(v)) for k, v in artifact.attributes.items())]
        for name, column in artifact.columns.items():
            values = artifact.column(name)
            found.append(values if column.kind != "number" else np.asarray(values).tobytes())
        for group in ("decoder", "history"):
            found += [(name, v.tobytes()) for name, v in sorted(artifact.group(group).items())]
        return found


def one_error(result: Any) -> str:
    """The one line of a command that was refused."""
    assert result.exit_code == 2, result.stderr
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == [lines[-1]], result.stderr
    assert "Traceback" not in result.stderr
    return str(lines[-1])


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))


class TestDamage:
    def flip_in(self, path: Path, pattern: bytes, after: int = 0) -> None:
        place = path.read_bytes().find(pattern)
        assert place >= 0
        flip(path, place + after)

    def test_cut_off(self, run: Path, run_cli: RunCli) -> None:
        path = run / "features.h5"
        size = path.stat().st_size
        for keep in (size - 1, size // 2, 100, 8):
            os.truncate(path, keep)
            message = one_error(run_cli("optimize", "-w", run, "--force"))
            assert "features.h5" in message
            assert "make it again" in message

    def test_bit_flipped_in_numbers(self, run: Path, run_cli: RunCli) -> None:
        with Artifact(run / "features.h5") as artifact:
            row = artifact.numbers("image_features")[7].tobytes()
        self.flip_in(run / "features.h5", row, 9)
        message = one_error(run_cli("optimize", "-w", run, "--force"))
        assert "'image_features' cannot be read" in message
        assert "make it again with `syntic encode --force`" in message

    def test_bit_flipped_in_a_text(self, run: Path, run_cli: RunCli) -> None:
        self.flip_in(run / "features.h5", b"A dog looks at the camera in the snow", 4)
        message = one_error(run_cli("optimize", "-w", run, "--force"))
        assert "'captions' cannot be read (checksum of row 6 does not match)" in message

    def test_bit_flipped_in_an_image(self, run: Path, run_cli: RunCli) -> None:
        with Artifact(run / "synthetic.h5") as artifact:
            image = artifact.byte_strings("images", 3, 4)[0]
        self.flip_in(run / "synthetic.h5", image, 300)
        result = run_cli("encode", "-w", run, "--force")
        # One image does not stop the others: it counts as failed, and its row is not trained on.
        assert result.exit_code == 0
        assert "1 of 48 pairs failed" in result.stderr
        assert "'images' cannot be read (checksum of row 3 does not match)" in result.stderr
        with Artifact(run / "features.h5") as features:
            assert np.flatnonzero(~features.numbers("valid")).tolist() == [3]

    def test_bit_flipped_in_the_header(self, run: Path, run_cli: RunCli) -> None:
        self.flip_in(run / "features.h5", b'{"model": "folder', 4)
        message = one_error(run_cli("optimize", "-w", run, "--force"))
        assert "its header is damaged; make it again" in message

    @pytest.mark.parametrize("name", ["synthetic.h5", "captioner.h5"])
    def test_no_flipped_bit_goes_unnoticed(self, run: Path, tmp_path: Path, name: str) -> None:
        """In a process of its own: HDF5 could crash on what it was never meant to read."""
        path, log = run / name, tmp_path / "log.txt"
        whole, wanted = path.read_bytes(), read_all(path)
        places = [place for place, byte in enumerate(whole) if byte]
        chosen = random.Random(0).sample(places, 150)

        def check() -> None:
            noticed = 0
            for place in chosen:
                path.write_bytes(whole)
                flip(path, place)
                try:
                    assert read_all(path) == wanted, f"the flip at {place} went unnoticed"
                except SynticError:
                    noticed += 1
            assert noticed > 50, noticed

        assert faults.finish(faults.start(check, log)) == 0, log.read_text()

    def test_foreign_hdf5(self, run: Path, run_cli: RunCli) -> None:
        with h5py.File(run / "features.h5", "w") as file:
            file["x"] = [1, 2]
        assert "not one that syntic wrote" in one_error(run_cli("optimize", "-w", run, "--force"))
        with h5py.File(run / "features.h5", "a") as file:
            file.attrs.update({"schema": "new", "stage": 3})
        assert "not one that syntic wrote" in one_error(run_cli("inspect", run / "features.h5"))

    def test_newer_schema(self, run: Path, run_cli: RunCli) -> None:
        with h5py.File(run / "features.h5", "r+") as file:
            file.attrs["schema"] = 7
        message = one_error(run_cli("optimize", "-w", run, "--force"))
        assert "schema 7 is newer than this syntic" in message
        assert "upgrade syntic" in message

    def test_unfinished(self, run: Path, run_cli: RunCli) -> None:
        with h5py.File(run / "features.h5", "r+") as file:
            file.attrs["complete"] = False
        message = one_error(run_cli("optimize", "-w", run, "--force"))
        assert "not complete; run `syntic encode --force`" in message

    def test_rows_missing(self, run: Path, run_cli: RunCli) -> None:
        with h5py.File(run / "features.h5", "r+") as file:
            file["valid"].resize(5, axis=0)
        message = one_error(run_cli("optimize", "-w", run, "--force"))
        assert "'valid' has 5 rows where 48 should be" in message

    def test_dataset_missing(self, run: Path, run_cli: RunCli) -> None:
        with h5py.File(run / "features.h5", "r+") as file:
            del file["text_features"]
        message = one_error(run_cli("optimize", "-w", run, "--force"))
        assert "dataset 'text_features' is missing" in message

    @pytest.mark.parametrize("kind", ["external link", "soft link", "external data", "virtual"])
    def test_data_of_other_files_is_refused(self, run: Path, run_cli: RunCli, kind: str) -> None:
        with h5py.File(run / "features.h5", "r+") as file:
            shape = file["valid"].shape
            del file["valid"]
            if kind == "external link":
                file["valid"] = h5py.ExternalLink("/etc/passwd", "/x")
            elif kind == "soft link":
                file["valid"] = h5py.SoftLink("/text_features")
            elif kind == "external data":
                stored = [("/etc/passwd", 0, shape[0])]
                file.create_dataset("valid", shape, "u1", external=stored)
            else:
                layout = h5py.VirtualLayout(shape, "u1")
                layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape)
                file.create_virtual_dataset("valid", layout)
        message = one_error(run_cli("optimize", "-w", run, "--force"))
        assert message.endswith("refused")
        assert "'valid'" in message

    def test_damaged_checkpoint(self, run: Path, run_cli: RunCli) -> None:
        interrupt_before_finish("train", run_cli, run)
        checkpoint = run / "captioner.h5.forced.parts" / "checkpoint"
        checkpoint.write_bytes(checkpoint.read_bytes()[:100])
        message = one_error(run_cli("train", "-w", run, "--force"))
        assert "checkpoint: damaged" in message
        checkpoint.unlink()
        assert run_cli("train", "-w", run, "--force").exit_code == 0

    def test_damaged_shard_is_made_again(self, run: Path, finished: Path, run_cli: RunCli) -> None:
        interrupt_before_finish("encode", run_cli, run, "--shard-size", 16)
        shard = run / "features.h5.forced.parts" / "0000000016-0000000032.h5"
        with h5py.File(shard, "r") as file:
            row = file["text_features"][3].tobytes()
        self.flip_in(shard, row, 4)
        command = ("encode", "-w", run, "--force", "--shard-size", 16)
        message = one_error(run_cli(*command))
        assert "was damaged and has been removed; run the same command again" in message
        assert not shard.exists()
        result = run_cli(*command)
        assert result.exit_code == 0, result.stderr
        assert "32 of 48 pairs are there" in result.stderr
        # Texts are encoded in other batches than those of an uninterrupted run.
        assert_close(run / "features.h5", finished / "features.h5")


def interrupt_before_finish(stage: str, run_cli: RunCli, workspace: Path, *more: object) -> None:
    """Leave a forced run with all of its work committed, but not put together."""

    def stop(*_: object, **__: object) -> None:
        raise Interrupted(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Draft, "finish", stop)
        assert run_cli(stage, "-w", workspace, "--force", *more).exit_code == 143


def assert_close(one: Path, other: Path) -> None:
    with Artifact(one) as first, Artifact(other) as second:
        for name, column in first.columns.items():
            if column.kind == "number":
                np.testing.assert_allclose(first.numbers(name), second.numbers(name), atol=1e-5)
            else:
                assert first.column(name) == second.column(name)


class TestCaching:
    def test_up_to_date_without_torch(
        self, finished: Path, corpus_file: Path, photos: list[Path]
    ) -> None:
        program = f"""
import sys, time
from syntic_cli import cli
for arguments in {[["synthesize", str(corpus_file)], *([s] for s in list(NAMES)[1:-1])]!r}:
    sys.argv = ["syntic", *arguments, "-w", {str(finished)!r}]
    try:
        cli.main()
    except SystemExit as stop:
        assert not stop.code, arguments
heavy = {{"torch", "diffusers", "transformers", "open_clip"}} & set(sys.modules)
assert not heavy, heavy
"""
        command = [sys.executable, "-c", program]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stderr.count("is up to date") == 6

    def test_differences_are_named(self, run: Path, run_cli: RunCli) -> None:
        message = one_error(run_cli("project", "-w", run, "--temperature", 0.0125))
        assert "(temperature: 0.05 → 0.0125)" in message
        assert "give --force to make it again, or --output FILE to keep both" in message
        message = one_error(run_cli("optimize", "-w", run, "--epochs", 4, "--lr", 0.5))
        assert "epochs: 3 → 4; lr: 0.01 → 0.5" in message

    def test_what_does_not_change_the_result(
        self, run: Path, run_cli: RunCli, corpus_file: Path
    ) -> None:
        here = ("-w", run, "--batch-size", 3, "--device", "cpu", "--shard-size", 5)
        for command in (["synthesize", corpus_file], ["encode"], ["detect"]):
            result = run_cli(*command, *here)
            assert result.exit_code == 0
            assert "is up to date" in result.stderr

    def test_redone_stage_makes_what_follows_stale(self, run: Path, run_cli: RunCli) -> None:
        again = run_cli("optimize", "-w", run, "--temperature", 0.1, "--force")
        assert again.exit_code == 0, again.stderr
        message = one_error(run_cli("project", "-w", run))
        assert "features: optimized.h5 (" in message
        stale = "projected.h5: stale, it was made from an earlier optimized.h5"
        assert stale in one_error(run_cli("train", "-w", run))
        references = run / "references.csv"
        references.write_text("image,caption\n0 red.jpg,a red square\n")
        message = one_error(run_cli("evaluate", "-w", run, "--references", references))
        assert stale in message
        assert "run `syntic project --force` again" in message
        assert run_cli("project", "-w", run, "--force").exit_code == 0
        message = one_error(run_cli("evaluate", "-w", run, "--references", references))
        stale = "captioner.h5: stale, it was made from an earlier projected.h5"
        assert stale in message
        photo = run / "photo.png"
        Image.new("RGB", (32, 32), "red").save(photo)
        assert stale in one_error(run_cli("caption", "-w", run, photo))

    def test_first_stage_redone(self, run: Path, run_cli: RunCli, corpus_file: Path) -> None:
        again = run_cli("synthesize", corpus_file, "-w", run, "--seed", 5, "--force")
        assert again.exit_code == 0, again.stderr
        for stage in ("encode", "detect"):
            assert "synthetic: synthetic.h5 (" in one_error(run_cli(stage, "-w", run))
        for stage, file in (("optimize", "features.h5"), ("project", "features.h5")):
            message = one_error(run_cli(stage, "-w", run))
            assert f"{file}: stale, it was made from an earlier synthetic.h5" in message

    def test_redone_with_the_same_settings_stays_fresh(self, run: Path, run_cli: RunCli) -> None:
        assert run_cli("optimize", "-w", run, "--force").exit_code == 0
        assert "is up to date" in run_cli("project", "-w", run).stderr
        assert "is up to date" in run_cli("train", "-w", run).stderr


class TestLock:
    def test_live_process_is_named(self, run: Path, run_cli: RunCli) -> None:
        program = (
            "import sys; from pathlib import Path; from syntic_cli.artifacts.making import locked\n"
            "with locked(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", program, run]
        with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as holder:
            assert holder.stdout
            assert holder.stdout.readline() == "held\n"
            message = one_error(run_cli("project", "-w", run, "--force"))
            assert f"in use by process {holder.pid} on " in message
            assert "wait for it, or give another --workspace" in message
            holder.kill()
            holder.wait()
        # It died without tidying up: its name is still there, its lock is not.
        assert str(holder.pid) in (run / ".syntic.lock.owner").read_text()
        assert "is up to date" in run_cli("project", "-w", run).stderr
        assert not (run / ".syntic.lock.owner").exists()


def in_child(work: Callable[[], object], log: Path) -> tuple[int, str]:
    """Exit code and output of something run in a process of its own."""
    code = faults.finish(faults.start(work, log))
    return code, log.read_text()


class TestFullDisk:
    def command(self, workspace: Path, corpus: Path, preset: Path) -> Callable[[], None]:
        options = ["--preset", str(preset), "--shard-size", "8", "--batch-size", "4"]

        def run() -> None:
            from syntic_cli import cli

            sys.argv = ["syntic", "synthesize", str(corpus), "-w", str(workspace), *options]
            cli.main()

        return run

    def test_file_size_limit(
        self, tmp_path: Path, corpus_file: Path, micro_preset: Path, run_cli: RunCli
    ) -> None:
        command = self.command(tmp_path / "run", corpus_file, micro_preset)

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            command()

        code, said = in_child(limited, tmp_path / "log.txt")
        assert code == 2
        assert said.splitlines()[-1].startswith("error: ")
        assert "cannot be written (File too large); what was finished is safe" in said
        assert "Traceback" not in said
        assert not list((tmp_path / "run").rglob("*.tmp"))
        assert in_child(command, tmp_path / "log2.txt")[0] == 0

    def test_no_room_to_put_it_together(self, run: Path, tmp_path: Path, run_cli: RunCli) -> None:
        """All shards are there, but what they add up to does not fit."""
        interrupt_before_finish("synthesize", run_cli, run, *self.again(run))
        before = (run / "synthetic.h5").stat()
        parts = run / "synthetic.h5.forced.parts"
        shards = sorted(path.name for path in parts.glob("*.h5"))

        def limited() -> None:
            from syntic_cli import cli

            most = before.st_size // 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            sys.argv = ["syntic", "synthesize", *self.again(run), "-w", str(run), "--force"]
            cli.main()

        code, said = in_child(limited, tmp_path / "log.txt")
        assert code == 2, said
        assert "cannot be written" in said.splitlines()[-1]
        assert "Traceback" not in said
        assert sorted(path.name for path in parts.glob("*.h5")) == shards
        assert (run / "synthetic.h5").stat().st_ino == before.st_ino
        result = run_cli("synthesize", *self.again(run), "-w", run, "--force")
        assert result.exit_code == 0
        assert read_all(run / "synthetic.h5")
        assert not parts.exists()

    def again(self, run: Path) -> list[str]:
        with Artifact(run / "synthetic.h5") as artifact:
            (run / "c.txt").write_text("\n".join(artifact.texts("captions")))
        return [str(run / "c.txt"), "--shard-size", "16"]

    def test_small_file_system(
        self, tmp_path: Path, corpus_file: Path, micro_preset: Path, finished: Path
    ) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        # Room for some of the shards only.
        mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
        tried = subprocess.run(mount, capture_output=True, text=True, check=False)
        if tried.returncode:
            pytest.skip(f"no file system can be mounted here: {tried.stderr.strip()}")
        try:
            command = self.command(disk / "run", corpus_file, micro_preset)
            code, said = in_child(command, tmp_path / "log.txt")
            assert code == 2, said
            assert "free some space and run the same command again" in said.splitlines()[-1]
            assert "Traceback" not in said
            assert len(list((disk / "run" / "synthetic.h5.parts").glob("0*.h5"))) >= 1
            bigger = ["mount", "-o", "remount,size=64m", str(disk)]
            subprocess.run(bigger, check=True, capture_output=True)
            code, said = in_child(command, tmp_path / "log2.txt")
            assert code == 0, said
            assert "of 48 images are there, going on" in said
            assert_close_images(disk / "run" / "synthetic.h5", finished / "synthetic.h5")
        finally:
            subprocess.run(["umount", str(disk)], check=False)


def assert_close_images(one: Path, other: Path) -> None:
    """The same images, but for what other batches round differently."""
    with Artifact(one) as first, Artifact(other) as second:
        assert first.texts("captions") == second.texts("captions")
        pairs = zip(first.byte_strings("images"), second.byte_strings("images"), strict=True)
        for found, wanted in pairs:
            pixels = [np.asarray(Image.open(io.BytesIO(data)), int) for data in (found, wanted)]
            assert np.abs(pixels[0] - pixels[1]).max() <= 8


class TestSignals:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_the_shard_in_hand_is_committed(
        self,
        tmp_path: Path,
        corpus_file: Path,
        micro_preset: Path,
        finished: Path,
        run_cli: RunCli,
        number: int,
        code: int,
    ) -> None:
        workspace, log = tmp_path / "run", tmp_path / "log.txt"
        arguments = ["synthesize", str(corpus_file), "--preset", str(micro_preset), "-w"]
        arguments += [str(workspace), "--shard-size", "16", "--batch-size", "4"]

        def run() -> None:
            from syntic_cli import cli

            sys.argv = ["syntic", *arguments]
            cli.main()

        parts = workspace / "synthetic.h5.parts"
        child = faults.start(run, log)
        until = time.monotonic() + 60
        while not (parts / "recipe.json").exists() and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(0.02)
        os.kill(child, number)
        assert faults.finish(child) == code
        said = log.read_text()
        assert "stopped; run the same command again to go on" in said
        assert "Traceback" not in said
        committed = sum(
            int(path.stem[11:]) - int(path.stem[:10]) for path in parts.glob("0*-0*.h5")
        )
        # Batches of 4: the rows in hand are there although they do not fill a shard of 16.
        assert committed % 4 == 0
        assert 0 < committed < 48
        result = run_cli(*arguments)
        assert f"{committed} of 48 images are there, going on" in result.stderr
        assert_close_images(workspace / "synthetic.h5", finished / "synthetic.h5")

    @pytest.mark.parametrize(
        ("stage", "module", "function"),
        [("optimize", "refinement", "refine_batch"), ("train", "training", "training_step")],
    )
    def test_a_stopped_training_goes_on_to_the_same_end(
        self, run: Path, finished: Path, run_cli: RunCli, stage: str, module: str, function: str
    ) -> None:
        import importlib

        from syntic_cli import fit

        where = importlib.import_module(f"syntic_cli.method.{module}")
        original, calls = getattr(where, function), []

        def stopping(*arguments: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) in (2, 7):
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*arguments, **options)

        codes = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(where, function, stopping)
            patch.setattr(fit, function, stopping, raising=False)
            while not codes or codes[-1] == 143:
                result = run_cli(stage, "-w", run, "--force")
                codes.append(result.exit_code)
                assert len(codes) == 1 or "going on " in result.stderr
        assert codes == ([143, 0] if len(calls) < 7 else [143, 143, 0])
        again, peaceful = (faults.contents(f / NAMES[stage]) for f in (run, finished))
        assert again == peaceful


class TestOutOfMemory:
    def test_batches_are_halved_once_and_for_good(
        self, run_cli: RunCli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        from syntic_cli.models.clip import Clip

        encode_images, tried = Clip.encode_images, []

        def small(self: Clip, pixels: torch.Tensor) -> torch.Tensor:
            tried.append(len(pixels))
            if len(pixels) > 5:
                raise torch.OutOfMemoryError
            return encode_images(self, pixels)

        monkeypatch.setattr(Clip, "encode_images", small)
        output = tmp_path / "features.h5"
        result = run_cli("encode", "-w", finished, "-o", output, "--batch-size", 20)
        assert result.exit_code == 0, result.stderr
        assert result.stderr.count("out of device memory: going on with smaller batches") == 1
        assert tried[:3] == [20, 10, 5]
        assert max(tried[3:]) == 5
        assert_close(output, finished / "features.h5")

    def test_a_single_item_that_does_not_fit(
        self, run_cli: RunCli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        from syntic_cli.models.detector import Detector

        def none(*_: object) -> list[Any]:
            raise torch.OutOfMemoryError

        monkeypatch.setattr(Detector, "detect", none)
        message = one_error(run_cli("detect", "-w", finished, "-o", tmp_path / "objects.h5"))
        assert "out of memory with a single item" in message


def test_shards_whose_recipe_is_gone_are_not_taken(
    run: Path, finished: Path, corpus_file: Path, run_cli: RunCli
) -> None:
    (run / "synthetic.h5").unlink()
    command = ("synthesize", corpus_file, "-w", run, "--shard-size", 16)
    interrupt_before_finish("synthesize", run_cli, run, *command[1:2], "--seed", 1)
    (run / "synthetic.h5.forced.parts").rename(run / "synthetic.h5.parts")
    (run / "synthetic.h5.parts" / "recipe.json").unlink()
    assert run_cli(*command).exit_code == 0
    assert_close(run / "synthetic.h5", finished / "synthetic.h5")


class TestRetry:
    def test_only_failed_rows_run_again(
        self, run: Path, finished: Path, photos: list[Path], run_cli: RunCli, tmp_path: Path
    ) -> None:
        odd = tmp_path / "odd.jpg"
        odd.write_bytes(b"not yet a photo")
        changed = odd.stat()
        command = (
            "caption",
            photos[0],
            odd,
            photos[1],
            "-w",
            run,
            "-f",
            "jsonl",
            "-o",
            run / "c.h5",
        )
        first = run_cli(*command)
        assert "1 of 3 photos failed" in first.stderr
        assert "is up to date; 1 row failed" in run_cli(*command).stderr
        still = run_cli(*command, "--retry-failed")
        assert "1 of 3 photos failed" in still.stderr
        # The same name, size and time, as after a disk that was not there comes back.
        odd.unlink()
        odd.symlink_to(photos[2])
        with pytest.MonkeyPatch.context() as patch:
            digests = Path.stat
            patch.setattr(Path, "stat", lambda p, **k: changed if p == odd else digests(p, **k))
            again = run_cli(*command, "--retry-failed")
        assert again.exit_code == 0, again.stderr
        assert "2 of 3 photos are there, going on" in again.stderr
        before = [json.loads(line) for line in first.stdout.splitlines()]
        after = [json.loads(line) for line in again.stdout.splitlines()]
        assert [before[0], before[2]] == [after[0], after[2]]
        assert not after[1]["error"]
        assert after[1]["caption"]
        assert not list(run.glob("*parts"))

    def test_what_was_made_before_a_retry_is_stale_after_it(
        self, run: Path, run_cli: RunCli
    ) -> None:
        with h5py.File(run / "synthetic.h5", "r+") as file:
            image, crc = file["images"][7], file["crc32/images"][7]
            file["images"][7], file["crc32/images"][7] = np.zeros(0, np.uint8), 0
        assert "1 of 48 pairs failed" in run_cli("encode", "-w", run, "--force").stderr
        assert run_cli("optimize", "-w", run, "--force").exit_code == 0
        with h5py.File(run / "synthetic.h5", "r+") as file:
            file["images"][7], file["crc32/images"][7] = image, crc
        assert run_cli("encode", "-w", run, "--retry-failed").exit_code == 0
        for command in ("project", "optimize"):
            result = run_cli(command, "-w", run)
            assert result.exit_code == 2
            assert "features" in result.stderr
        assert run_cli("optimize", "-w", run, "--force").exit_code == 0
        with Artifact(run / "optimized.h5") as optimized:
            assert optimized.numbers("valid").all()

    def test_shards_of_a_finished_run_are_not_taken_for_a_retry(
        self, run: Path, run_cli: RunCli
    ) -> None:
        """As left by a kill between the renaming of an artifact and the removal of its shards."""
        synthetic = run / "synthetic.h5"
        with h5py.File(synthetic, "r+") as file:
            file["images"][7] = np.zeros(0, np.uint8)
            file["crc32/images"][7] = 0
        assert "1 of 48 images failed" in run_cli("detect", "-w", run, "--force").stderr
        interrupt_before_finish("detect", run_cli, run)
        (run / "objects.h5.forced.parts").rename(run / "objects.h5.parts")
        result = run_cli("detect", "-w", run, "--retry-failed")
        assert result.exit_code == 0, result.stderr
        assert "47 of 48 images are there, going on" in result.stderr
        with Artifact(run / "objects.h5") as objects:
            assert objects.rows == 48
            assert [bool(e) for e in objects.texts("error")] == [row == 7 for row in range(48)]
        assert not list(run.glob("*parts"))


class TestForced:
    def test_a_forced_run_goes_on_where_it_was_stopped(self, run: Path, run_cli: RunCli) -> None:
        interrupt_before_finish("encode", run_cli, run, "--batch-size", 8)
        before = (run / "features.h5").stat().st_ino
        again = run_cli("encode", "-w", run, "--force", "--batch-size", 8)
        assert again.exit_code == 0
        assert "pairs in" not in again.stderr
        assert (run / "features.h5").stat().st_ino != before
        assert "48 pairs in" in run_cli("encode", "-w", run, "--force").stderr


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
FORBIDDEN_CALLS = {
    "torch.load", "torch.save", "torch.hub.load", "np.load", "numpy.load", "pandas.read_pickle",
    "eval", "exec", "os.system", "os.popen", "os.execv", "yaml.load", "tarfile.open",
    "zipfile.ZipFile", "tempfile.mktemp",
}  # fmt: skip
FORBIDDEN_ARGUMENTS = {"allow_pickle", "shell", "trust_remote_code"}


def unsafe(source: str) -> list[str]:
    """What in a module could run code that a file brings along, or hide an error."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            module = getattr(node, "module", None)
            roots = {name.split(".")[0] for name in (names if module is None else [module])}
            found += sorted(roots & FORBIDDEN_MODULES)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += [name] if name in FORBIDDEN_CALLS else []
            for keyword in node.keywords:
                off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in FORBIDDEN_ARGUMENTS and not off:
                    found.append(str(keyword.arg))
                if keyword.arg == "weights_only" and off:
                    found.append("weights_only=False")
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append("bare except")
    return found


class TestSafe:
    def test_the_package_runs_nothing_that_a_file_brings_along(self) -> None:
        folder = Path(syntic_cli.__file__).parent
        modules = sorted(folder.rglob("*.py"))
        assert len(modules) > 30
        assert {str(m): unsafe(m.read_text()) for m in modules if unsafe(m.read_text())} == {}

    @pytest.mark.parametrize(
        "source",
        [
            "import pickle",
            "from pickle import loads",
            "torch.load(path)",
            "np.load(path, allow_pickle=True)",
            "subprocess.run(line, shell=True)",
            "load(name, trust_remote_code=True)",
            "eval(text)",
            "try:\n    pass\nexcept:\n    pass",
        ],
    )
    def test_the_search_finds(self, source: str) -> None:
        assert unsafe(source)

    def test_nothing_is_written_outside_the_workspace(
        self, tmp_path: Path, micro_preset: Path, corpus_file: Path, photos: list[Path],
        run_cli: RunCli, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        inputs = [corpus_file.parent, micro_preset.parent, photos[0].parent]
        before = [sorted((p, p.stat().st_mtime_ns) for p in f.rglob("*")) for f in inputs]
        here = ["-w", tmp_path / "run", "-q"]
        commands: list[list[object]] = [["synthesize", corpus_file, "--preset", micro_preset]]
        commands += [[stage] for stage in ("encode", "detect")]
        commands += [["project", "--features", tmp_path / "run" / "features.h5"]]
        for command in commands:
            assert run_cli(*command, *here).exit_code == 0
        assert run_cli("encode", *here, "-o", tmp_path / "named" / "f.h5").exit_code == 0
        assert not list(elsewhere.iterdir())
        assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "named", "run"]
        assert before == [sorted((p, p.stat().st_mtime_ns) for p in f.rglob("*")) for f in inputs]
        names = {p.name for p in (tmp_path / "run").iterdir()}
        artifacts = {"synthetic.h5", "features.h5", "objects.h5", "projected.h5"}
        assert names == artifacts | {".syntic.lock", "workspace.json"}


@pytest.mark.parametrize(
    "images",
    [
        [b"", b"", b""],
        [b"abc", b"abd", b"abe"],
        [b"", b"ab", b"abc"],
        [b"abc"],
    ],
    ids=["empty", "of one length", "of several lengths", "one"],
)
def test_byte_strings_of_any_lengths_are_written(tmp_path: Path, images: list[bytes]) -> None:
    draft = Draft(tmp_path / "synthetic.h5", Recipe("synthesize", {}))
    number = len(images)
    for shard in range(2):
        draft.commit(
            shard * number,
            {
                "captions": ["a text"] * number,
                "prompts": ["a text"] * number,
                "image": shard * number + np.arange(number),
                "images": images,
                "seeds": np.zeros(number, np.uint64),
                "flagged": np.zeros(number, bool),
                "error": [""] * number,
            },
        )
    draft.finish()
    with Artifact(tmp_path / "synthetic.h5") as made:
        assert made.byte_strings("images") == images * 2
