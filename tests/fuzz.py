"""Damage artifacts in random ways and see that every reader ends in a line.

    python -m tests.fuzz --mutations 1000 --seed 0

runs `inspect` and the stage that reads it on mutations of an artifact of each stage: each must end
with exit code 0 or 2, without a traceback, and in less than 1 GB.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

from syntic_cli.artifacts.reading import CHECKSUM, header_checksum

READERS = {
    "composed.h5": ["synthesize", "composed.h5"],
    "synthetic.h5": ["encode"],
    "features.h5": ["optimize", "--features", "features.h5"],
    "selected.h5": ["optimize"],
    "optimized.h5": ["project"],
    "objects.h5": ["train"],
    "projected.h5": ["train"],
    "captioner.h5": ["caption", "photo.jpg"],
    "captions.h5": ["evaluate", "--references", "r.csv", "--metrics", "BLEU-1"],
}
# Beside the chain: the commands that make these.
BESIDE = {
    "composed.h5": [
        "compose",
        "--groups",
        "12",
        "--neighbours",
        "8",
        "--least",
        "2",
        "--most",
        "5",
    ],
    "selected.h5": ["select", "--images", "5"],
}
MOST_MB = 1024


def rewrite(path: Path, **attributes: object) -> None:
    """Change root attributes, with the checksum made to fit."""
    with h5py.File(path, "r+") as file:
        file.attrs.update(attributes)
        file.attrs[CHECKSUM] = header_checksum(dict(file.attrs))


def mutate(path: Path, whole: bytes, rng: random.Random) -> None:
    """Write a mutation: half of them of the bytes, half of what HDF5 holds, with sums that fit."""
    if rng.random() < 0.5:
        path.write_bytes(mutated(whole, rng))
        return
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        names = [name for name in file if isinstance(file[name], h5py.Dataset)]
        name = rng.choice(names)
        kind = rng.randrange(4)
        if kind == 0:
            del file[name]
        elif kind == 1:
            shape = tuple(rng.choice((0, 1, 7, 48, 49)) for _ in range(rng.randint(0, 3)))
            del file[name]
            file[name] = np.full(shape, rng.choice((-1, 0, 1 << 40, np.nan, np.inf)))
        elif kind == 2 and file[name].dtype.kind in "iu" and len(file[name]):
            most = min(1 << 30, np.iinfo(file[name].dtype).max)
            file[name][rng.randrange(len(file[name]))] = rng.choice((0, most))
        else:
            junk = rng.choice(("", "{", "[]", "{}", "\ud800", "9" * 5000, "[" * 3000, "null"))
            attribute = rng.choice([a for a in file.attrs if a != CHECKSUM])
            file.attrs[attribute] = rng.choice((junk.encode("utf-8", "replace"), 7, -1.5))
    rewrite(path)


def mutated(whole: bytes, rng: random.Random) -> bytes:
    """A copy with a few bytes changed, a stretch overwritten, repeated or left out, or cut off."""
    data = bytearray(whole)
    kind, place = rng.randrange(5), rng.randrange(len(data))
    length = rng.choice((1, 2, 8, 64, 512))
    if kind == 0:
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1:
        data[place : place + length] = rng.randbytes(length)
    elif kind == 2:
        data[place : place + length] = data[: len(data[place : place + length])]
    elif kind == 3:
        del data[place : place + length]
    else:
        del data[place:]
    return bytes(data)


def make_beside(run: Path, corpus: Path, name: str) -> None:
    """Make an artifact that the chain does without."""
    from .conftest import run_in_process

    stage, *options = BESIDE[name]
    given = [corpus] if stage == "compose" else []
    result = run_in_process(stage, *given, *options, "-w", run, "-q")
    assert result.exit_code == 0, result.stderr


def fuzz(run: Path, photo: Path, name: str, mutations: int, seed: int) -> None:
    """`inspect` and the stage that reads it on mutations of an artifact, within bounds."""
    from .conftest import run_in_process

    rng, path = random.Random(seed), run / name
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    whole = path.read_bytes()
    shutil.copy(photo, run / "photo.jpg")
    (run / "r.csv").write_text("image,caption\n0 red.jpg,a red square\n")
    reader = [str(run / part) if "." in part else part for part in READERS[name]]
    for _ in range(mutations):
        mutate(path, whole, rng)
        for command in (["inspect", path], [*reader, "-w", run, "-o", run / "out.h5", "-q"]):
            result = run_in_process(*command)
            assert result.exit_code in (0, 2), (command, result.stderr)
            assert "Traceback" not in result.stderr
            (run / "out.h5").unlink(missing_ok=True)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - began
    assert taken < MOST_MB, f"{taken:.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=1000, help="of each artifact")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=READERS, action="append", help="may be given repeatedly")
    arguments = parser.parse_args()
    from . import faults, micro
    from .conftest import CAPTIONS, run_in_process

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        from PIL import Image

        photo = folder / "0 red.jpg"
        Image.new("RGB", (40, 60), "red").save(photo)
        (folder / "corpus.txt").write_text("\n".join(CAPTIONS))
        preset, run = micro.build(folder / "models"), folder / "run"
        for command in (
            ["synthesize", folder / "corpus.txt", "--preset", preset],
            *([stage] for stage in ("encode", "optimize", "detect", "project", "train")),
            ["caption", photo],
        ):
            assert run_in_process(*command, "-w", run, "-q").exit_code == 0
        for artifact in arguments.only or READERS:
            mine = folder / f"run of {artifact}"
            shutil.copytree(run, mine)
            if artifact in BESIDE:
                make_beside(mine, folder / "corpus.txt", artifact)
            log = folder / "log.txt"
            work = faults.start(
                lambda name=artifact, at=mine: fuzz(  # type: ignore[misc]
                    at, photo, name, arguments.mutations, arguments.seed
                ),
                log,
            )
            if faults.finish(work):
                sys.exit(f"{artifact}: {log.read_text()[-3000:]}")
            print(f"{artifact}: {arguments.mutations} mutations, every command exits with 0 or 2")


if __name__ == "__main__":
    main()
