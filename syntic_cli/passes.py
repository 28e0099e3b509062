"""One pass over rows: read ahead in threads, compute on the device, commit shards behind it.

On Ray the same happens in several processes, see `on_ray`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from . import console
from .artifacts.reading import Values
from .artifacts.shards import Draft
from .errors import SynticError
from .interrupts import StopRequest
from .settings import Run

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

READERS = max(2, min(16, os.cpu_count() or 2))
BATCHES_AHEAD = 2
COMMITS_BEHIND = 2


@dataclass
class Waits:
    """Seconds that the pass spent waiting for each of its parts."""

    seconds: dict[str, float] = field(
        default_factory=lambda: {"reading": 0.0, "the device": 0.0, "writing": 0.0}
    )

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - began

    def summary(self) -> str:
        """What bounds the pass, such as `bound by the device (92 %)`."""
        total = sum(self.seconds.values())
        part = max(self.seconds, key=lambda name: self.seconds[name])
        return f"bound by {part} ({100 * self.seconds[part] / max(total, 1e-9):.0f} %)"


@dataclass(frozen=True)
class Mapper(Generic[Item, Result]):
    """What a stage does with its rows.

    read(row) makes a row's input in a worker thread; a SynticError it raises becomes that row's
    failure. compute(items) gives one result for each good input, on the device. pack(first, rows)
    makes a shard's datasets from the results of consecutive rows, in a writer thread; a result is
    the reason (a SynticError) where the row failed.
    """

    read: Callable[[int], Item]
    compute: Callable[[Sequence[Item]], Sequence[Result | SynticError]]
    pack: Callable[[int, Sequence[Result | SynticError]], Mapping[str, Values]]


@dataclass(frozen=True)
class Opened:
    """A stage's work with its models loaded and its inputs open.

    columns are the artifact's datasets beside those of the rows; warnings are what a person should
    know of the inputs; runtime is what runs the models.
    """

    mapper: Mapper[Any, Any]
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    columns: Mapping[str, Values] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    runtime: str = "torch"


class Work(Protocol):
    """A stage's work as settings and paths, with no model and no open file, so that it can be sent
    to whatever process opens it. title and unit are for the progress."""

    @property
    def title(self) -> str: ...

    @property
    def unit(self) -> str: ...

    def open(self, run: Run) -> AbstractContextManager[Opened]:
        """Load the models and open the inputs.

        Raises:
            SynticError: where that cannot be done, or an input has been made anew since.
        """


def map_work(draft: Draft, total: int, work: Work, run: Run) -> None:
    """Do a stage's work on the rows that the draft lacks, and put the artifact together.

    Args:
        draft: where shards go.
        total: how many rows the artifact has.
        work: what is done with them.
        run: how the stage runs.

    Raises:
        Interrupted: after SIGINT or SIGTERM, once the rows in hand are committed.
        SynticError: where the work cannot be opened, or the disk is full.
    """
    run = draft.in_its_dtype(run)
    if run.engine == "ray":
        from .on_ray import map_on_ray

        columns = map_on_ray(draft, total, work, run)
        draft.finish(columns=columns)
        return
    with work.open(run) as opened:
        draft.computed_in(opened.device, opened.dtype, opened.runtime)
        for warning in opened.warnings:
            console.warn(f"{work.title}: {warning}")
        map_rows(
            draft,
            total,
            opened.mapper,
            title=work.title,
            unit=work.unit,
            batch_size=opened.batch_size,
            run=run,
            runtime=opened.runtime,
        )
        draft.finish(columns=opened.columns)


def map_rows(
    draft: Draft,
    total: int,
    mapper: Mapper[Any, Any],
    *,
    title: str,
    unit: str,
    batch_size: int,
    run: Run,
    runtime: str = "torch",
) -> None:
    """Map the rows that the draft lacks, shard by shard.

    Batches begin at fixed rows: a resumed pass computes the batches of an uninterrupted one.

    Args:
        draft: where shards go.
        total: how many rows the artifact has.
        mapper: the stage's work.
        title, unit: for the progress.
        batch_size: rows computed at a time; does not change the result.
        run: how the stage runs.
        runtime: what runs the models, for the closing line.

    Raises:
        Interrupted: after SIGINT or SIGTERM, once the rows in hand are committed.
        SynticError: where the disk is full.
    """
    batches = list(cut_batches(draft.missing(total), batch_size, run.shard_size))
    left = sum(stop - start for start, stop in batches)
    note_resumed(title, total, left, unit, run)
    waits, began = Waits(), time.monotonic()
    request = StopRequest()
    with (
        request.listening(),
        console.progress(title, total, done=total - left, unit=unit, quiet=run.quiet) as advance,
        ThreadPoolExecutor(READERS, "read") as readers,
        _Writer(draft, mapper.pack, waits) as writer,
    ):
        for start, stop, items in read_ahead(batches, mapper.read, readers, waits):
            with waits.on("the device"):
                results = compute_rows(mapper.compute, items)
            writer.add(start, results, last_of_shard=stop % run.shard_size == 0)
            advance(stop - start)
            if request.signal_number is not None:
                break
    request.check()
    if left:
        seconds, done = time.monotonic() - began, console.count(left, unit.removesuffix("s"))
        by = "" if runtime == "torch" else f" by {runtime}"
        console.note(
            f"{title}: {done} in {console.duration(seconds)}{by}, "
            f"{left / max(seconds, 1e-9):,.1f} {unit}/s, {waits.summary()}",
            quiet=run.quiet,
        )


def note_resumed(title: str, total: int, left: int, unit: str, run: Run) -> None:
    """Say where a pass goes on with what another has left."""
    if 0 < left < total:
        console.note(
            f"{title}: {total - left} of {total} {unit} are there, going on", quiet=run.quiet
        )


def cut_batches(
    ranges: Sequence[tuple[int, int]], batch_size: int, shard_size: int
) -> Iterator[tuple[int, int]]:
    """Cut row ranges into batches that begin at fixed rows of each shard."""
    for first, last in ranges:
        start = first
        while start < last:
            shard = start - start % shard_size
            next_batch = start + batch_size - (start - shard) % batch_size
            stop = min(last, next_batch, shard + shard_size)
            yield start, stop
            start = stop


def read_ahead(
    batches: Sequence[tuple[int, int]],
    read: Callable[[int], Item],
    readers: ThreadPoolExecutor,
    waits: Waits,
) -> Iterator[tuple[int, int, list[Item | SynticError]]]:
    """Yield (start, stop, inputs) of each batch, with the next ones being read meanwhile."""

    def attempt(row: int) -> Item | SynticError:
        try:
            return read(row)
        except SynticError as error:
            return error

    waiting: deque[tuple[int, int, list[Future[Item | SynticError]]]] = deque()
    for start, stop in [*batches, *[(-1, -1)] * BATCHES_AHEAD]:
        if start >= 0:
            futures = [readers.submit(attempt, row) for row in range(start, stop)]
            waiting.append((start, stop, futures))
        if waiting and (start < 0 or len(waiting) > BATCHES_AHEAD):
            first, last, futures = waiting.popleft()
            with waits.on("reading"):
                items = [future.result() for future in futures]
            yield first, last, items


def compute_rows(
    compute: Callable[[Sequence[Item]], Sequence[Result | SynticError]],
    items: Sequence[Item | SynticError],
) -> list[Result | SynticError]:
    """Results in the rows' order, with what could not be read left out of the computation.

    Where a batch fails, its rows are computed one by one, and a row that fails alone is a failure
    of that row: one odd photo must not end a pass over a million.
    """
    good = [item for item in items if not isinstance(item, SynticError)]
    if not good:
        return [item for item in items if isinstance(item, SynticError)]
    try:
        computed = iter(compute(good))
    except SynticError:
        raise
    # The model libraries raise anything at all.
    except Exception:
        computed = iter([_compute_alone(compute, item) for item in good])
    return [item if isinstance(item, SynticError) else next(computed) for item in items]


def _compute_alone(
    compute: Callable[[Sequence[Item]], Sequence[Result | SynticError]], item: Item
) -> Result | SynticError:
    try:
        return compute([item])[0]
    except SynticError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        return SynticError(f"the model failed on it ({type(error).__name__}: {reason})")


class _Writer:
    """Collects results and commits each shard from a thread of its own."""

    def __init__(
        self,
        draft: Draft,
        pack: Callable[[int, Sequence[Any]], Mapping[str, Values]],
        waits: Waits,
    ) -> None:
        self._draft, self._pack, self._waits = draft, pack, waits
        self._thread = ThreadPoolExecutor(1, "write")
        self._pending: deque[Future[None]] = deque()
        self._first = 0
        self._results: list[Any] = []

    def __enter__(self) -> _Writer:
        return self

    def add(self, start: int, results: Sequence[Any], *, last_of_shard: bool) -> None:
        """Take the results of rows from `start` on; rows that do not follow begin a new shard."""
        if self._results and start != self._first + len(self._results):
            self._commit()
        if not self._results:
            self._first = start
        self._results.extend(results)
        if last_of_shard:
            self._commit()

    def _commit(self) -> None:
        if self._results:
            self._pending.append(self._thread.submit(self._write, self._first, self._results))
            self._results = []
        with self._waits.on("writing"):
            while len(self._pending) > COMMITS_BEHIND or (
                self._pending and self._pending[0].done()
            ):
                self._pending.popleft().result()

    def _write(self, first: int, results: Sequence[Any]) -> None:
        self._draft.commit(first, self._pack(first, results))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None or issubclass(kind, (KeyboardInterrupt, SynticError)):
                self._commit()
            with self._waits.on("writing"):
                while self._pending:
                    self._pending.popleft().result()
        finally:
            self._thread.shutdown(wait=True)
