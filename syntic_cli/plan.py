"""Which rows which worker computes, and what becomes of them when it dies. Knows nothing of Ray."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .artifacts.reading import Values
from .artifacts.records import join_columns
from .passes import BATCHES_AHEAD, cut_batches

Batch = tuple[int, int]
Columns = Mapping[str, Values]

# Each worker has so many ranges in hand: while one is packed and sent, the next is computed.
RANGES_A_WORKER = 2
# Where there are few rows, ranges are so short that each worker gets at least so many of them.
TURNS_A_WORKER = 4
# So often a batch may lose its worker until its rows go singly, and then so often each row.
DEATHS = 3
POISON = f"whatever worker had it alone died, {DEATHS} times (killed, or out of memory)"


class Range:
    """Rows from start to stop that are committed together, and their columns so far."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self._parts: dict[int, tuple[int, Columns]] = {}

    def add(self, batch: Batch, columns: Columns) -> None:
        """Take a batch that is computed."""
        self._parts[batch[0]] = batch[1], columns

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        return sum(stop - start for start, (stop, _) in self._parts.items()) == (
            self.stop - self.start
        )

    def pieces(self) -> Iterator[tuple[int, Columns]]:
        """What is there: the first row and the columns of each run of rows without a gap."""
        run: list[Columns] = []
        first = last = self.start
        for start in sorted(self._parts):
            if run and start != last:
                yield first, join_columns(run)
                run = []
            first = first if run else start
            last, columns = self._parts[start]
            run.append(columns)
        if run:
            yield first, join_columns(run)


@dataclass(eq=False)
class Share:
    """Batches of a range that one worker has in hand, without those it has given back.

    alone: the worker must have nothing else in hand, so that its death tells of this batch. failed:
    why the row is not to be computed, where it is to be packed as a failure.
    """

    range: Range
    batches: deque[Batch]
    alone: bool = False
    failed: str = ""


class Plan:
    """The rows of a pass, cut into ranges, and the ranges into batches.

    Batches begin at the fixed rows of a local pass, whoever computes them and however often.
    """

    def __init__(
        self, missing: Sequence[Batch], batch_size: int, shard_size: int, workers: int
    ) -> None:
        left = sum(stop - start for start, stop in missing)
        turns = math.ceil(left / (batch_size * TURNS_A_WORKER * max(1, workers)))
        ranges = [
            Range(*rows) for rows in cut_batches(missing, batch_size * max(1, turns), shard_size)
        ]
        self._open = dict.fromkeys(ranges)
        self._shares = deque(
            Share(rows, deque(cut_batches([(rows.start, rows.stop)], batch_size, shard_size)))
            for rows in ranges
        )
        self._alone: deque[Share] = deque()
        self._deaths: Counter[Batch] = Counter()

    @property
    def done(self) -> bool:
        """Whether every row has been computed."""
        return not self._open

    @property
    def waiting(self) -> int:
        """How many shares no worker has in hand."""
        return len(self._shares) + len(self._alone)

    def take(self, held: Collection[Share]) -> Share | None:
        """What a worker that holds these shares is to compute next; None where it has enough."""
        if len(held) == RANGES_A_WORKER or any(share.alone for share in held):
            return None
        if self._alone:
            return None if held else self._alone.popleft()
        return self._shares.popleft() if self._shares else None

    def arrived(self, share: Share, columns: Columns) -> Range | None:
        """Take the next batch of a share; returns its range where that is complete now."""
        share.range.add(share.batches.popleft(), columns)
        if not share.range.complete:
            return None
        del self._open[share.range]
        return share.range

    def lost(self, shares: Collection[Share]) -> None:
        """A worker has died with these in hand: find out alone which batch is to blame.

        It was computing one of the first batches, or reading those behind them.
        """
        for share in shares:
            batches = list(share.batches)
            if share.failed:
                self._alone.append(share)
                continue
            for batch in batches[: BATCHES_AHEAD + 1]:
                self._suspect(share.range, batch)
            if rest := batches[BATCHES_AHEAD + 1 :]:
                self._shares.appendleft(Share(share.range, deque(rest)))

    def _suspect(self, rows: Range, batch: Batch) -> None:
        self._deaths[batch] += 1
        start, stop = batch
        if self._deaths[batch] < DEATHS:
            self._alone.append(Share(rows, deque([batch]), alone=True))
        elif stop - start == 1:
            self._alone.append(Share(rows, deque([batch]), alone=True, failed=POISON))
        else:
            for row in range(start, stop):
                self._alone.append(Share(rows, deque([(row, row + 1)]), alone=True))

    def in_hand(self) -> Iterator[tuple[int, Columns]]:
        """What has been computed of ranges that are not complete, to be kept when stopping."""
        for rows in self._open:
            yield from rows.pieces()
