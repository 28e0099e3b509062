"""A pass over rows on Ray: workers hold the models and compute, this process, the driver, writes.

It gives each worker ranges of rows and takes the results a batch at a time, so that a death costs
the batches in hand and no more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import console
from .artifacts.reading import Values
from .artifacts.shards import Draft
from .cluster import Died, Pool, connected, quiet
from .errors import SynticError
from .interrupts import StopRequest
from .passes import Work, note_resumed
from .plan import Plan
from .settings import Run

if TYPE_CHECKING:
    from .worker import Terms

# Seconds after which signals are looked at even where no worker has returned anything.
TICK = 0.5


def map_on_ray(draft: Draft, total: int, work: Work, run: Run) -> Mapping[str, Values]:
    """Map the rows that the draft lacks on the workers of a Ray cluster.

    Args:
        draft: where shards go.
        total: how many rows the artifact has.
        work: what is done with them.
        run: how the stage runs, in the dtype of the rows that are there.

    Returns:
        The artifact's datasets beside those of the rows.

    Raises:
        Interrupted: after SIGINT or SIGTERM, once what the workers have returned is committed.
        SynticError: where Ray or every worker cannot be used, or the disk is full.
    """
    missing = draft.missing(total)
    left = sum(stop - start for start, stop in missing)
    note_resumed(work.title, total, left, work.unit, run)
    request, began = StopRequest(), time.monotonic()
    with (
        connected(run),
        request.listening(),
        console.progress(
            work.title, total, done=total - left, unit=work.unit, quiet=run.quiet
        ) as advance,
        # On a terminal the bar has put an output of its own before that of `connected`.
        quiet(),
        Pool(work, run) as pool,
    ):
        terms = _Pass(draft, missing, run, pool, advance).run_until_done(request)
    request.check()
    if left:
        seconds = time.monotonic() - began
        console.note(
            f"{work.title}: {left} {work.unit} in {console.duration(seconds)}, "
            f"{left / seconds:,.1f} {work.unit}/s on {console.count(pool.most, 'worker')}",
            quiet=run.quiet,
        )
    return terms.columns if terms else {}


class _Pass:
    """Goes on between the pool, which computes, the plan, which says what, and the draft."""

    def __init__(
        self,
        draft: Draft,
        missing: list[tuple[int, int]],
        run: Run,
        pool: Pool,
        advance: console.Advance,
    ) -> None:
        self._draft, self._missing, self._run = draft, missing, run
        self._pool, self._advance = pool, advance
        self._plan: Plan | None = None

    def run_until_done(self, request: StopRequest) -> Terms | None:
        """Compute every row, or as many as there is time for before a signal.

        Returns:
            What the workers have in common; None where the signal came before one was ready.
        """
        try:
            while (self._plan is None or not self._plan.done) and request.signal_number is None:
                self._pool.keep(self._useful_workers())
                self._hand_out()
                self._take_in()
        except SynticError:
            self._commit_in_hand()
            raise
        if request.signal_number is not None:
            self._commit_in_hand()
        return self._pool.terms

    def _useful_workers(self) -> int:
        if self._plan is None:
            return max(1, sum(stop - start for start, stop in self._missing))
        return self._plan.waiting + self._pool.busy

    def _hand_out(self) -> None:
        if self._pool.terms is None:
            return
        plan = self._plan = self._plan or self._agreed_plan(self._pool.terms)
        for worker in self._pool.ready:
            while share := plan.take(worker.shares):
                self._pool.give(worker, share)
        self._advance.retitle(f"on {console.count(len(self._pool.ready), 'worker')}")

    def _agreed_plan(self, terms: Terms) -> Plan:
        # The draft takes a device as torch names it, which the driver has no other need of.
        import torch

        device, dtype = torch.device(terms.device), getattr(torch, terms.dtype)
        self._draft.computed_in(device, dtype, terms.runtime)
        size = self._run.shard_size
        return Plan(self._missing, terms.batch_size, size, len(self._pool.workers))

    def _take_in(self) -> None:
        for event in self._pool.events(TICK):
            if self._plan is None:  # a worker has died before it had anything in hand
                continue
            if isinstance(event, Died):
                self._plan.lost(event.shares)
                continue
            start, stop = event.share.batches[0]
            if finished := self._plan.arrived(event.share, event.columns):
                for first, columns in finished.pieces():
                    self._draft.commit(first, columns)
            self._advance(stop - start)

    def _commit_in_hand(self) -> None:
        for first, columns in self._plan.in_hand() if self._plan else ():
            self._draft.commit(first, columns)
