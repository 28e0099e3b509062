"""Which worker computes which rows, with workers that die played by hand."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import pytest

from syntic_cli.artifacts.reading import Values
from syntic_cli.artifacts.records import join_columns
from syntic_cli.passes import cut_batches
from syntic_cli.plan import DEATHS, POISON, RANGES_A_WORKER, Plan, Share


def columns_of(batch: tuple[int, int], failed: str = "") -> Mapping[str, Values]:
    rows = range(*batch)
    return {"number": np.array(rows), "error": [failed] * len(rows)}


class Factory:
    """Workers that compute a plan; `kills` says whether a batch kills its worker now."""

    def __init__(self, plan: Plan, workers: int) -> None:
        self.plan = plan
        self.held: list[list[Share]] = [[] for _ in range(workers)]
        self.rows: dict[int, str] = {}
        self.computed: list[tuple[int, int]] = []
        self.deaths = 0

    def run(self, draw: random.Random, poison: set[int], at_random: float = 0.0) -> None:
        for _ in range(10_000):
            if self.plan.done:
                return
            held = draw.choice(self.held)
            while share := self.plan.take(held):
                assert not share.alone or not held
                held.append(share)
            assert len(held) <= RANGES_A_WORKER
            if held:
                self._step(held, draw, poison, at_random)
        raise AssertionError("the plan does not end")

    def _step(
        self, held: list[Share], draw: random.Random, poison: set[int], at_random: float
    ) -> None:
        share = draw.choice(held)
        batch = share.batches[0]
        kills = not share.failed and not poison.isdisjoint(range(*batch))
        if kills or draw.random() < at_random:
            self.deaths += 1
            self.plan.lost(held)
            held.clear()
            return
        self.computed.append(batch)
        finished = self.plan.arrived(share, columns_of(batch, share.failed))
        if not share.batches:
            held.remove(share)
        if finished:
            for first, columns in finished.pieces():
                for row, error in enumerate(columns["error"], first):
                    assert row not in self.rows
                    self.rows[row] = str(error)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_row_is_computed_once_in_the_batches_of_a_local_pass(workers: int) -> None:
    missing = [(0, 37), (50, 131)]
    factory = Factory(Plan(missing, 4, 32, workers), workers)
    factory.run(random.Random(workers), set())
    assert sorted(factory.rows) == [*range(37), *range(50, 131)]
    assert sorted(factory.computed) == list(cut_batches(missing, 4, 32))
    assert set(factory.rows.values()) == {""}


@pytest.mark.parametrize("seed", range(20))
def test_deaths_at_random_neither_fail_a_row_nor_change_a_batch(seed: int) -> None:
    missing = [(0, 400)]
    factory = Factory(Plan(missing, 8, 64, 3), 3)
    factory.run(random.Random(seed), set(), at_random=0.02)
    assert sorted(factory.rows) == list(range(400))
    assert set(factory.rows.values()) == {""}
    assert sorted(set(factory.computed)) == list(cut_batches(missing, 8, 64))


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("seed", range(10))
def test_rows_that_kill_become_their_errors_and_no_others(seed: int, size: int) -> None:
    poison = {5, 21, 22}
    factory = Factory(Plan([(0, 40)], size, 16, 3), 3)
    factory.run(random.Random(seed), poison)
    assert sorted(factory.rows) == list(range(40))
    assert {row for row, error in factory.rows.items() if error} == poison
    assert {factory.rows[row] for row in poison} == {POISON}
    # Each batch kills so often, and each of its rows alone; once, both at a time.
    assert factory.deaths <= 2 * DEATHS * len(poison)


def test_what_is_in_hand_is_kept_without_the_gaps() -> None:
    plan = Plan([(0, 64)], 4, 16, 1)
    share = plan.take([])
    assert share
    assert len(share.batches) == 4
    for batch in list(share.batches)[:3]:
        plan.arrived(share, columns_of(batch))
    ((first, columns),) = plan.in_hand()
    assert (first, list(columns["number"])) == (0, [*range(12)])
    assert not plan.done


def test_joined_columns_are_those_packed_at_once() -> None:
    parts = [
        {"offsets": np.array(o, np.int64), "label": np.array(label, np.int32), "error": error}
        for o, label, error in (([0, 2, 2], [7, 8], ["", "no"]), ([0], [], []), ([0, 1], [9], [""]))
    ]
    joined = join_columns(parts)
    np.testing.assert_array_equal(joined["offsets"], [0, 2, 2, 3])
    np.testing.assert_array_equal(joined["label"], [7, 8, 9])
    assert joined["error"] == ["", "no", ""]
    assert [joined[name].dtype for name in ("offsets", "label")] == [np.int64, np.int32]  # type: ignore[union-attr]
