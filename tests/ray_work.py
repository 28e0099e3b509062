"""Work for the tests of Ray that needs no model: rows that wait, and that kill where they are told.

Workers import it by its name, so it is a module of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from syntic_cli.artifacts.making import making
from syntic_cli.artifacts.reading import Values
from syntic_cli.artifacts.recipe import Recipe
from syntic_cli.artifacts.records import errors_of
from syntic_cli.errors import Interrupted, MissingError, SynticError
from syntic_cli.passes import Mapper, Opened, Work, map_work
from syntic_cli.settings import Run

# What is wrong with a node, in the environment of its workers.
NODE = "SYNTIC_TEST_NODE"
BATCH_SIZE = 4


@dataclass(frozen=True)
class Waiting:
    """Rows that take so many seconds and have images of so many bytes; each batch is logged.

    A batch that has been logged waits for the gate, where there is one.
    """

    seconds: float = 0.0
    poison: tuple[int, ...] = ()
    image_bytes: int = 10
    log: Path | None = None
    gate: Path | None = None
    title: ClassVar[str] = "synthesize"
    unit: ClassVar[str] = "rows"

    @contextmanager
    def open(self, run: Run) -> Iterator[Opened]:
        node = os.environ.get(NODE, "")
        if node == "lacks the model":
            raise MissingError("model some/model: cannot be loaded")
        if node == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        # Names will do: importing torch would take each worker seconds.
        dtype: Any = "float16" if node == "computes in float16" else "float32"
        device: Any = SimpleNamespace(type="cpu")
        mapper = Mapper(lambda row: row, self._compute, self._pack)
        yield Opened(mapper, run.batch_size or BATCH_SIZE, device, dtype)

    def _compute(self, rows: Sequence[int]) -> list[int]:
        if not set(self.poison).isdisjoint(rows):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds * len(rows))
        if self.log is not None:
            with self.log.open("a") as log:
                log.write(f"{os.getpid()} {rows[0]} {rows[-1] + 1} {time.time()}\n")
        while self.gate is not None and not self.gate.exists():
            time.sleep(0.01)
        return list(rows)

    def _pack(self, first: int, results: Sequence[Any]) -> Mapping[str, Values]:
        rows = range(first, first + len(results))
        return {
            "captions": [f"row {row}" for row in rows],
            "prompts": [f"row {row}" for row in rows],
            "image": np.array(rows),
            "images": [
                b"" if isinstance(found, SynticError) else bytes([row % 251]) * self.image_bytes
                for row, found in zip(rows, results, strict=True)
            ],
            "seeds": np.array(rows, np.uint64),
            "flagged": np.zeros(len(rows), bool),
            "error": errors_of(results),
        }


def make(path: Path, rows: int, work: Work, run: Run, stage: str = "synthesize") -> None:
    """An artifact of so many rows of the work."""
    with making(path, Recipe(stage, {"rows": rows}), run) as draft:
        if not draft.up_to_date:
            map_work(draft, rows, work, run)


def batches(log: Path) -> list[tuple[int, int, int]]:
    """Worker, first row and last of each batch in a log."""
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [(int(line[0]), int(line[1]), int(line[2])) for line in lines if len(line) == 4]


def main() -> None:
    """`make` as a command: PATH ROWS SECONDS LOG, on Ray that is started for it."""
    path, rows, seconds, log = sys.argv[1:]
    run = Run(device="cpu", engine="ray", workers=2, shard_size=16)
    try:
        make(Path(path), int(rows), Waiting(float(seconds), log=Path(log)), run)
    except Interrupted as interrupted:
        raise SystemExit(128 + interrupted.signal_number) from None
