"""What a metric says of a set of captions, and how sure a difference of two such sets is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import SynticError

Array = npt.NDArray[np.float64]
# Random numbers drawn at a time, which bounds the memory.
_DRAWN = 4_000_000


@dataclass(frozen=True)
class Result:
    """A metric's scores, in the metric's own unit.

    Attributes:
        items: (P,), the score of each caption.
        statistics: (P, S), what each caption adds to the corpus score. METEOR and BLEU are no means
            of captions' scores: they come from sums of counts.
        combine: turns sums of statistics, (..., S), into corpus scores, (...).
    """

    items: Array
    statistics: Array
    combine: Callable[[Array], Array]

    @property
    def corpus(self) -> float:
        """The score of all captions together."""
        return float(self.combine(self.statistics.sum(axis=0)))


def mean_of(items: npt.ArrayLike) -> Result:
    """The result of a metric whose corpus score is the mean of the captions' scores, (P,)."""
    scores = np.asarray(items, dtype=np.float64)
    return Result(scores, np.stack([scores, np.ones_like(scores)], axis=1), _mean)


def _mean(sums: Array) -> Array:
    return np.asarray(sums[..., 0] / sums[..., 1])


@dataclass(frozen=True)
class Difference:
    """How much better the second of two is, and the interval that holds that 95 times in 100."""

    value: float
    low: float
    high: float


def bootstrap(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    samples: int = 1000,
    seed: int = 0,
    combine: Callable[[Array], Array] | None = None,
) -> Difference:
    """The paired bootstrap: both sides are measured anew on photos drawn with replacement.

    Args:
        a, b: (P,) scores of the same photos in the same order, whose means are compared; or (P, S)
            statistics, whose sums `combine` turns into the scores to compare.
        samples: how often P photos are drawn.
        seed: of the draws; the same seed draws the same photos for every metric.
        combine: turns sums, (..., S), into scores, (...).

    Returns:
        The difference b − a, with the 2.5th and the 97.5th percentile of those of the samples.

    Raises:
        SynticError: the two are not of the same photos, or there are none.

    Source:
        Efron & Tibshirani, "An introduction to the bootstrap", 1993, chapter 13 (percentiles);
        Koehn, "Statistical significance tests for machine translation evaluation", EMNLP 2004.
    """
    pair = [_statistics(side, combine) for side in (a, b)]
    if pair[0].shape != pair[1].shape or not len(pair[0]):
        raise SynticError(
            f"a paired bootstrap needs scores of the same photos, not {len(pair[0])} and"
            f" {len(pair[1])} of them"
        )
    if samples < 1:
        raise SynticError("a bootstrap needs one sample or more")
    score = combine or _mean
    both = np.concatenate(pair, axis=1)
    width, rng = pair[0].shape[1], np.random.default_rng(seed)
    differences: list[float] = []
    while len(differences) < samples:
        rows = min(samples - len(differences), max(1, _DRAWN // len(both)))
        sums = _times_drawn(rng, rows, len(both)) @ both
        differences += [*(score(sums[:, width:]) - score(sums[:, :width]))]
    total = both.sum(axis=0)
    value = float(score(total[width:]) - score(total[:width]))
    low, high = np.percentile(differences, [2.5, 97.5])
    return Difference(value, float(low), float(high))


def _statistics(side: npt.ArrayLike, combine: object) -> Array:
    values = np.asarray(side, dtype=np.float64)
    return values if combine is not None else mean_of(values).statistics


def _times_drawn(rng: np.random.Generator, rows: int, count: int) -> Array:
    """How often each of `count` photos is drawn, in each of `rows` samples: (rows, count)."""
    drawn = rng.integers(0, count, (rows, count)) + np.arange(rows)[:, None] * count
    return np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(float)
