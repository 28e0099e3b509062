"""Ragged arrays: the values of all rows one after the other, cut by offsets, (N + 1,)."""

from __future__ import annotations

import numpy as np

Ragged = tuple[np.ndarray, np.ndarray]


def join(one: Ragged, other: Ragged) -> Ragged:
    """One ragged array of two, with the values of both in each row."""
    rows = [np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) for _, offsets in (one, other)]
    order = np.argsort(np.concatenate(rows), kind="stable")
    return np.concatenate([one[0], other[0]])[order], one[1] + other[1]


def take(ragged: Ragged, rows: np.ndarray) -> Ragged:
    """Some rows of a ragged array, in the order given; a row may be taken more than once."""
    values, offsets = ragged
    counts = np.diff(offsets)[rows]
    steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return (
        values[np.repeat(offsets[rows], counts) + steps],
        np.concatenate([[0], np.cumsum(counts)]),
    )
