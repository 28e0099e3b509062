"""Start-up: `syntic --help` and `syntic inspect` against an empty Python program."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from .measure import Options, Row, limit

RUNS, WALL_RUNS = 9, 5
HELP = "import sys; sys.argv = ['syntic', '--help']; from syntic_cli.cli import main; main()"


def seconds(folder: str, clock: str, runs: int, code: str) -> list[float]:
    """The seconds of several runs of a program, by either clock.

    Its modules are compiled beforehand, as those of an installed package are.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command, found = [sys.executable, "-c", code], []
    for _ in range(runs + 1):
        began = _clock(clock)
        subprocess.run(command, check=True, capture_output=True, env=environment)
        found.append(_clock(clock) - began)
    return found[1:]


def _clock(clock: str) -> float:
    if clock == "wall":
        return time.perf_counter()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(options: Options) -> list[Row]:
    """Seconds of each: what the program itself takes, which is the shortest of several runs, how
    many empty programs that is, and what a person waits, the median in wall time."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = _artifact(Path(folder))
        inspect = HELP.replace("'--help'", f"'inspect', {str(artifact)!r}")
        commands = {"syntic --help": (HELP, 0.25), "syntic inspect": (inspect, 0.35)}
        empty = min(seconds(folder, options.clock, RUNS, "pass"))
        rows = []
        for name, (code, most) in commands.items():
            taken = min(seconds(folder, options.clock, RUNS, code))
            waited = statistics.median(seconds(folder, "wall", WALL_RUNS, code))
            own, what = f"{name}, above an empty program", f"{name}, median of {WALL_RUNS}"
            rows.append(limit("startup", own, "s", taken - empty, most, options.clock))
            rows.append(limit("startup", what, "s", waited, most + empty, "wall"))
            rows.append(
                Row(
                    "startup",
                    name,
                    "s",
                    taken,
                    "python -c pass",
                    empty,
                    taken / empty,
                    clock=options.clock,
                )
            )
    return rows


def _artifact(folder: Path) -> Path:
    """A small artifact to look at."""
    from syntic_cli.artifacts.recipe import Recipe
    from syntic_cli.artifacts.shards import Draft

    path = folder / "features.h5"
    recipe = Recipe("encode", {"model": "none"}, {}, {}, "0" * 64)
    draft = Draft(path, recipe)
    features = np.ones((100, 16), np.float32)
    draft.commit(
        0,
        {
            "captions": ["a caption"] * 100,
            "image": np.arange(100),
            "image_features": features,
            "text_features": features,
            "valid": np.ones(100, bool),
            "error": [""] * 100,
        },
    )
    draft.finish()
    return path
