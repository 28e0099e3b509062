"""What a worker on Ray does: open a stage's work, and compute batches of its rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from .artifacts.reading import Values
from .errors import MissingError, SynticError
from .passes import READERS, Waits, Work, compute_rows, read_ahead
from .settings import Run


@dataclass(frozen=True)
class Terms:
    """What all workers of a pass must have in common; the batch size is the first one's.

    columns are the artifact's datasets beside those of the rows.
    """

    batch_size: int
    device: str
    dtype: str
    runtime: str
    columns: Mapping[str, Values]


@dataclass(frozen=True)
class Refusal:
    """An error as it travels: the name of its class in `errors`, and its line."""

    kind: str
    reason: str

    @property
    def answer(self) -> Refusal:
        """What the driver is told in the place of terms."""
        return self


class Session:
    """A stage's work, open; batches may be asked for in several threads at once."""

    def __init__(self, work: Work, run: Run) -> None:
        # Open for as long as the worker lives.
        self._stack = ExitStack()
        self._opened = self._stack.enter_context(work.open(run))
        self._readers = ThreadPoolExecutor(READERS, "read")
        # One batch at a time on the device; meanwhile other threads read and pack.
        self._device = Lock()

    @property
    def answer(self) -> Terms:
        """What the driver is told of it."""
        opened = self._opened
        dtype = str(opened.dtype).removeprefix("torch.")
        device = opened.device.type
        return Terms(opened.batch_size, device, dtype, opened.runtime, opened.columns)

    def columns(
        self, batches: Sequence[tuple[int, int]], failed: str
    ) -> Iterator[Mapping[str, Values] | Refusal]:
        """Columns of each batch, packed; where `failed` is not empty, as failures for that reason.

        What ends the pass ends the columns with a refusal.
        """
        mapper = self._opened.mapper
        if failed:
            for start, stop in batches:
                yield mapper.pack(start, [SynticError(failed)] * (stop - start))
            return
        try:
            for start, _, items in read_ahead(batches, mapper.read, self._readers, Waits()):
                with self._device:
                    results = compute_rows(mapper.compute, items)
                yield mapper.pack(start, results)
        except SynticError as error:
            yield Refusal(type(error).__name__, str(error))


def open_session(work: Work, run: Run, folder: str, batch_size: int | None) -> Session | Refusal:
    """Open the work in the folder where the command runs, or say why that cannot be done here.

    Args:
        work: the stage's.
        run: how it runs.
        folder: the driver's working folder, to which paths are relative.
        batch_size: the first worker's, where there has been one.
    """
    try:
        if not Path(folder).is_dir():
            raise MissingError(
                f"{folder}: no such folder; the folder where the command runs, the workspace and "
                "the photos must be there under the same paths"
            )
        os.chdir(folder)
        return Session(work, replace(run, batch_size=batch_size or run.batch_size))
    except SynticError as error:
        return Refusal(type(error).__name__, str(error))
    # Drivers and libraries that are broken on one machine raise anything at all.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        return Refusal(
            "SynticError", f"the work cannot be opened ({type(error).__name__}: {reason})"
        )
