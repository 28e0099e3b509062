"""Files that somebody has tampered with: refused in a line, without harm to the machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from syntic_cli.artifacts.reading import Artifact
from syntic_cli.artifacts.recipe import Recipe
from syntic_cli.errors import DamagedError, MissingError

from . import faults, fuzz
from .conftest import RunCli
from .fuzz import rewrite

pytestmark = pytest.mark.timeout(280)


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Iterator[Path]:
    """A workspace of one's own with every artifact, to be tampered with."""
    workspace = tmp_path / "run"
    workspace.mkdir()
    for name in (*fuzz.READERS, "workspace.json"):
        if name not in fuzz.BESIDE:
            shutil.copy(finished / name, workspace)
    yield workspace
    shutil.rmtree(workspace)


def refused(run_cli: RunCli, *command: object) -> str:
    result = run_cli(*command)
    assert result.exit_code == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    return str(result.stderr.splitlines()[-1])


class TestLineage:
    def test_that_leads_back_to_itself(self, run: Path, run_cli: RunCli) -> None:
        path = run / "features.h5"
        with Artifact(path) as artifact:
            own = {"stage": "encode", "fingerprint": artifact.fingerprint, "file": path.name}
        rewrite(path, inputs=json.dumps({"synthetic": own}))
        assert "its header is damaged" in refused(run_cli, "inspect", path)
        assert "its header is damaged" in refused(run_cli, "optimize", "-w", run, "--force")

    def test_whose_fingerprint_is_not_that_of_its_recipe(self, run: Path, run_cli: RunCli) -> None:
        rewrite(run / "projected.h5", settings=json.dumps({"temperature": 0.5}))
        assert "its header is damaged" in refused(run_cli, "train", "-w", run, "--force")

    def test_that_names_a_pipe(self, run: Path, run_cli: RunCli) -> None:
        """Opening it would wait without end for somebody to write."""
        (run / "synthetic.h5").unlink()
        os.mkfifo(run / "synthetic.h5")
        assert "is not a regular file" in refused(run_cli, "inspect", run / "features.h5")
        assert "is not a regular file" in refused(run_cli, "optimize", "-w", run, "--force")

    @pytest.mark.parametrize("inputs", ['{"synthetic": 3}', "[]", '{"synthetic": {"file": []}}'])
    def test_that_is_no_lineage(self, run: Path, run_cli: RunCli, inputs: str) -> None:
        rewrite(run / "features.h5", inputs=inputs)
        assert "its header is damaged" in refused(run_cli, "inspect", run / "features.h5")


class TestSizes:
    def test_terabytes_declared_in_megabytes(self, run: Path, run_cli: RunCli) -> None:
        with h5py.File(run / "features.h5", "r+") as file:
            for name in ("image_features", "text_features"):
                del file[name]
                shape = (48, 1 << 38)
                file.create_dataset(name, shape, np.float32, chunks=(1, 1024), maxshape=shape)
        message = refused(run_cli, "optimize", "-w", run, "--force")
        assert "declares 52,776,558,133,248 bytes, more than a file of" in message

    def test_groups_within_themselves(self, run: Path, run_cli: RunCli) -> None:
        with h5py.File(run / "features.h5", "r+") as file:
            group = file.create_group("more")
            group["again"] = group
        assert "too deep a group" in refused(run_cli, "inspect", run / "features.h5")

    def test_another_kind_of_values(self, run: Path, run_cli: RunCli) -> None:
        with h5py.File(run / "features.h5", "r+") as file:
            del file["image_features"]
            file["image_features"] = np.ones(48, np.float32)
        message = refused(run_cli, "optimize", "-w", run, "--force")
        assert "'image_features' is of another kind than expected" in message

    def test_offsets_that_lead_astray(self, run: Path, run_cli: RunCli) -> None:
        with h5py.File(run / "objects.h5", "r+") as file:
            file["offsets"][3] = 1 << 40
        assert "'offsets' cannot be read" in refused(run_cli, "train", "-w", run, "--force")

    def test_a_label_without_a_name(self, run: Path, run_cli: RunCli) -> None:
        with h5py.File(run / "captions.h5", "r+") as file:
            assert len(file["label"])
            file["label"][0] = 99
        references = run / "r.csv"
        references.write_text("image,caption\n0 red.jpg,a square\n")
        command = ("evaluate", "-w", run, "--references", references, "-o", run / "s.h5")
        assert "'label' has no name" in refused(run_cli, *command)


def test_what_is_shown_cannot_move_the_cursor(run: Path, run_cli: RunCli) -> None:
    evil = "\x1b[2J\x1b]0;gone\x07"
    path = run / "features.h5"
    with Artifact(path) as artifact:
        recipe = artifact.recipe
    settings = {**recipe.settings, "model": evil}
    inputs = {role: vars(given) for role, given in recipe.inputs.items()}
    inputs["synthetic"]["file"] = evil
    fingerprint = Recipe("encode", settings, recipe.inputs).fingerprint
    rewrite(path, settings=json.dumps(settings), inputs=json.dumps(inputs), fingerprint=fingerprint)
    result = run_cli("inspect", path)
    assert result.exit_code == 0, result.stderr
    assert "\x1b" not in result.stdout
    assert "\\x1b[2J" in result.stdout


def test_a_feature_that_is_no_number_is_named(run: Path, run_cli: RunCli) -> None:
    with h5py.File(run / "features.h5", "r+") as file:
        file["image_features"][5, 2] = np.nan
    wanted = "'image_features' of row 5 is not finite; make it again with `syntic encode --force`"
    assert wanted in refused(run_cli, "optimize", "-w", run, "--force")
    command = ("project", "-w", run, "--features", run / "features.h5", "--force")
    assert wanted in refused(run_cli, *command)


def test_a_setting_of_a_newer_decoder(run: Path, run_cli: RunCli, photos: list[Path]) -> None:
    with Artifact(run / "captioner.h5") as artifact:
        config = json.loads(artifact.attributes["decoder_config"])
    rewrite(run / "captioner.h5", decoder_config=json.dumps({**config, "rotary": True}))
    message = refused(run_cli, "caption", photos[0], "-w", run, "--force")
    assert "has a setting that this syntic does not know" in message
    assert "upgrade syntic" in message


def test_a_heap_in_which_hdf5_would_loop_for_ever(run: Path, run_cli: RunCli) -> None:
    path = run / "features.h5"
    data = bytearray(path.read_bytes())
    at = data.find(b"GCOL\x01\0\0\0")
    position = at + 16
    while int.from_bytes(data[position : position + 2], "little"):
        taken = int.from_bytes(data[position + 8 : position + 16], "little")
        position += 16 + (taken + 7) // 8 * 8
    # The free space behind the strings.
    data[position + 8 : position + 16] = bytes(8)
    path.write_bytes(data)
    assert "not a readable HDF5 file" in refused(run_cli, "inspect", path)


@pytest.mark.parametrize(
    ("name", "dataset"), [("features.h5", "captions"), ("synthetic.h5", "images")]
)
def test_a_string_that_says_it_is_longer_than_its_file(run: Path, name: str, dataset: str) -> None:
    """HDF5 would make room for all of it before it looks for it."""
    path = run / name
    with h5py.File(path) as file:
        at = file[dataset].id.get_chunk_info_by_coord((0,)).byte_offset
    data = bytearray(path.read_bytes())
    data[at : at + 4] = (3_000_000_000).to_bytes(4, "little")
    path.write_bytes(data)
    with Artifact(path) as artifact, pytest.raises(DamagedError, match="longer than the file"):
        artifact.column(dataset)


def test_small_artifacts_are_small(run: Path) -> None:
    """Objects of a few photos once took a chunk of 256 kB for each of their columns."""
    assert (run / "captions.h5").stat().st_size < 60_000


def test_several_threads_read_the_same_strings(run: Path) -> None:
    for _ in range(20):
        with Artifact(run / "synthetic.h5") as artifact, ThreadPoolExecutor(8) as readers:
            rows = readers.map(lambda row: artifact.column("images", row, row + 1), [0] * 8)
            assert all(len(row) == 1 for row in rows)


def test_errors_can_be_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        Artifact(tmp_path / "none.h5")
    (tmp_path / "some.h5").write_bytes(b"no artifact")
    with pytest.raises(DamagedError):
        Artifact(tmp_path / "some.h5")


@pytest.mark.parametrize("name", fuzz.READERS)
def test_mutations_end_in_a_line(
    run: Path, corpus_file: Path, photos: list[Path], tmp_path: Path, name: str
) -> None:
    """In a process of its own: HDF5 could crash on what it was never meant to read."""
    if name in fuzz.BESIDE:
        fuzz.make_beside(run, corpus_file, name)
    log = tmp_path / "log.txt"
    child = faults.start(lambda: fuzz.fuzz(run, photos[0], name, 6, 0), log)
    assert faults.finish(child) == 0, log.read_text()[-3000:]
