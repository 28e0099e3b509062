"""One pass over rows: read ahead in threads, compute on the device, commit shards behind it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from .. import console
from ..artifacts import Artifact, Recipe, Values
from ..errors import Interrupted, SynticError
from ..settings import Run
from ..shards import Output
from ..workspace import locked

Item = TypeVar("Item")
Result = TypeVar("Result")

READERS = max(2, min(16, os.cpu_count() or 2))
BATCHES_AHEAD = 2
COMMITS_BEHIND = 2


@contextmanager
def making(
    path: Path,
    recipe: Recipe,
    run: Run,
    *,
    unrelated: Callable[[Recipe, Recipe], bool] | None = None,
) -> Iterator[Output | None]:
    """The output of a stage, with its folder locked; None where it is up to date already.

    Args:
        path: the artifact.
        recipe: what it is made from.
        run: how the stage runs.
        unrelated: whether the recipe of an artifact that is there has nothing to do with the new
            one, so that it is kept under another name.

    Raises:
        SynticError: where an artifact of another recipe is in the way, or the folder is in use.
    """
    with locked(path.parent):
        if unrelated and path.exists() and not run.force:
            _keep_earlier(path, recipe, unrelated, run)
        output = Output(path, recipe, force=run.force, retry_failed=run.retry_failed)
        if output.up_to_date:
            failed = f"; {output.failed} rows failed (--retry-failed runs them again)"
            more = failed if output.failed else ""
            console.note(f"{recipe.stage}: {path} is up to date{more}", quiet=run.quiet)
            yield None
            return
        yield output


def _keep_earlier(
    path: Path, recipe: Recipe, unrelated: Callable[[Recipe, Recipe], bool], run: Run
) -> None:
    """Rename an artifact of other photos or captions, which a new command must not cost."""
    with Artifact(path, recipe.stage) as earlier:
        if not unrelated(earlier.recipe, recipe):
            return
        created = str(earlier.attributes["created"])[:19].replace(":", "")
    kept = path.with_name(f"{path.stem}-{created}-{os.getpid()}{path.suffix}")
    path.rename(kept)
    console.note(f"{recipe.stage}: what was made of other input is kept as {kept}", quiet=run.quiet)


class StopRequest:
    """Turns SIGINT and SIGTERM into a flag, so that the work in hand is committed first."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Catch the signals within the block; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number

    def check(self) -> None:
        """Raise where a signal has come.

        Raises:
            Interrupted: naming the signal.
        """
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)


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


def map_rows(
    output: Output,
    rows: int,
    mapper: Mapper[Any, Any],
    *,
    title: str,
    unit: str,
    batch_size: int,
    run: Run,
) -> int:
    """Map the rows that the output lacks, shard by shard.

    Batches begin at fixed rows: a resumed pass computes the batches of an uninterrupted one.

    Args:
        output: where shards go.
        rows: N.
        mapper: the stage's work.
        title, unit: for the progress.
        batch_size: rows computed at a time; does not change the result.
        run: how the stage runs.

    Returns:
        How many rows were computed now.

    Raises:
        Interrupted: after SIGINT or SIGTERM, once the rows in hand are committed.
        SynticError: where the disk is full.
    """
    batches = list(cut_batches(output.missing(rows), batch_size, run.shard_size))
    left = sum(stop - start for start, stop in batches)
    if 0 < left < rows and not run.quiet:
        console.note(f"{title}: {rows - left} of {rows} {unit} are there, going on")
    waits, began = Waits(), time.monotonic()
    request = StopRequest()
    with (
        request.listening(),
        console.progress(title, rows, done=rows - left, unit=unit, quiet=run.quiet) as advance,
        ThreadPoolExecutor(READERS, "read") as readers,
        _Writer(output, mapper.pack, waits) as writer,
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
        seconds = time.monotonic() - began
        console.note(
            f"{title}: {left} {unit} in {console.duration(seconds)}, "
            f"{left / max(seconds, 1e-9):,.1f} {unit}/s, {waits.summary()}",
            quiet=run.quiet,
        )
    return left


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
    """Results in the rows' order, with what could not be read left out of the computation."""
    good = [item for item in items if not isinstance(item, SynticError)]
    computed = iter(compute(good) if good else ())
    return [item if isinstance(item, SynticError) else next(computed) for item in items]


class _Writer:
    """Collects results and commits each shard from a thread of its own."""

    def __init__(
        self,
        output: Output,
        pack: Callable[[int, Sequence[Any]], Mapping[str, Values]],
        waits: Waits,
    ) -> None:
        self._output, self._pack, self._waits = output, pack, waits
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
        self._output.commit(first, self._pack(first, results))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None or issubclass(kind, (KeyboardInterrupt, SynticError)):
                self._commit()
            with self._waits.on("writing"):
                while self._pending:
                    self._pending.popleft().result()
        finally:
            self._thread.shutdown(wait=True)


def errors_of(results: Sequence[Any]) -> list[str]:
    """The `error` column: why each row failed, empty where it did not."""
    return [str(result) if isinstance(result, SynticError) else "" for result in results]


def report_failures(stage: str, errors: Sequence[str], unit: str) -> None:
    """Say how many rows failed, with the first reason."""
    reasons = [error for error in errors if error]
    if reasons:
        console.warn(
            f"{stage}: {len(reasons)} of {len(errors)} {unit} failed, the first because: "
            f"{reasons[0]}; in a workspace the same command with --retry-failed runs them again"
        )
