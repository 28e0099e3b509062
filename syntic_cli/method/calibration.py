"""How likely it is that what a caption says is right, from what is known when it is written.

A logistic map of a few signals (Platt, 1999), fitted to captions of which it is known: with few
weights a few hundred of them are enough, and it is monotone in every signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Standard deviations of a weight's prior, for signals of unit deviation: a signal that says nothing
# gets a weight near 0, and perfectly separable captions get no infinite one.
PRIOR = 3.0
STEPS = 50


@dataclass(frozen=True)
class Calibration:
    """A logistic map: the weight of each signal, and the log-odds where all of them are 0."""

    signals: tuple[str, ...]
    weights: np.ndarray
    bias: float

    def confidence(self, signals: np.ndarray) -> np.ndarray:
        """The probability that each caption is right, (N,), from its signals, (N, S)."""
        logits = np.asarray(signals, np.float64) @ self.weights + self.bias
        return _sigmoid(logits)


@dataclass(frozen=True)
class Bin:
    """Captions of which the confidence lies in a range: how many, its mean, and the share of them
    that are right."""

    low: float
    high: float
    count: int
    confidence: float
    right: float


def fit_platt(signals: np.ndarray, right: np.ndarray, names: Sequence[str]) -> Calibration:
    """The weights under which what is known of the captions is the likeliest.

    Newton's method on the log-posterior with Platt's targets, (n₊ + 1) / (n₊ + 2) for a caption
    that is right and 1 / (n₋ + 2) for another, which keep few captions from making too sure.

    Args:
        signals: (N, S).
        right: which of the captions are, (N,) bool.
        names: of the signals, S of them.
    """
    mean, deviation = signals.mean(axis=0), signals.std(axis=0) + 1e-12
    rows = np.hstack([(signals - mean) / deviation, np.ones((len(signals), 1))]).astype(np.float64)
    positive = int(right.sum())
    target = np.where(right, (positive + 1) / (positive + 2), 1 / (len(right) - positive + 2))
    # The bias has no prior.
    prior = np.append(np.full(signals.shape[1], PRIOR**-2), 0.0)
    weights = np.zeros(rows.shape[1])
    for _ in range(STEPS):
        likely = _sigmoid(rows @ weights)
        gradient = rows.T @ (likely - target) + prior * weights
        curvature = (rows * (likely * (1 - likely))[:, None]).T @ rows + np.diag(prior)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    scaled = weights[:-1] / deviation
    return Calibration(tuple(names), scaled, float(weights[-1] - scaled @ mean))


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> list[Bin]:
    """What captions of about one confidence are worth; ranges without captions are left out.

    Args:
        confidence: (N,), 0 to 1.
        right: which of the captions are, (N,) bool.
        bins: ranges of equal width.
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Bin(
            number / bins,
            (number + 1) / bins,
            int(here.sum()),
            float(confidence[here].mean()),
            float(right[here].mean()),
        )
        for number in range(bins)
        if (here := place == number).any()
    ]


def calibration_error(table: Sequence[Bin]) -> float:
    """The mean distance of confidence and what is right over the captions of a `reliability`
    (Naeini, Cooper and Hauskrecht, AAAI 2015: ECE)."""
    total = sum(row.count for row in table)
    return sum(row.count * abs(row.confidence - row.right) for row in table) / max(total, 1)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # With tanh no exponential overflows.
    return 0.5 * (1 + np.tanh(0.5 * logits))
