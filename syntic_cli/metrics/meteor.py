"""METEOR 1.5 by its own scorer: all captions in one start of Java, which can begin early."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType

import numpy as np

from ..errors import SynticError
from .java import PATIENCE, Java, jar, own_jar
from .results import Array, Result

_SEPARATOR = "|||"
# The parameters for English: of precision and recall, of the penalty's shape and size, of content
# words against function words; and the weights of exact matches, stems, synonyms and paraphrases.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
# Lengths and function words of both sides; four counts for each kind of match; chunks and matches.
_COLUMNS = 4 + 4 * len(_WEIGHTS) + 3


class Meteor:
    """A running METEOR; ask it once, within a `with` block.

    Java and METEOR's tables take seconds to load. That happens beside whatever the caller does
    between the start, `send` and `receive`.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        """Start to load METEOR.

        Args:
            patience: seconds to wait for a line before METEOR is given up.

        Raises:
            SynticError: Java or a jar is missing.
        """
        path = jar("meteor", "meteor-1.5.jar")
        classes = os.pathsep.join(map(str, (own_jar(), path)))
        # Java's quicker compiler takes two thirds of the time on some thousand captions.
        options = ("-XX:+UseParallelGC", "-XX:TieredStopAtLevel=1", "-Xmx2G")
        table = jar("meteor", "data", "paraphrase-en.gz")
        self._java = Java(
            "METEOR", (*options, "-cp", classes, "syntic.Meteor", str(table)), patience
        )
        self._files = self._photos = 0

    def __enter__(self) -> Meteor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._java.__exit__(kind, error, trace)

    def send(self, files: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> None:
        """Hand over the tokenized captions of each file, and their references; returns at once."""
        self._files, self._photos = len(files), len(references)
        self._java.send(
            (
                "\t".join(map(_field, (caption, *texts)))
                for captions in files
                for caption, texts in zip(captions, references, strict=True)
            ),
            last=True,
        )

    def receive(self) -> list[Result]:
        """Wait for the scores of each file.

        Raises:
            SynticError: METEOR failed, ended or fell silent, with the reason.

        Source:
            Denkowski & Lavie, "Meteor Universal", WMT 2014.
        """
        lines = self._java.receive(self._files * self._photos)
        if self._java.finish():
            raise SynticError("METEOR gave more lines than captions; report this")
        statistics = np.array([_numbers(line) for line in lines])
        parts = statistics.reshape(self._files, self._photos, _COLUMNS)
        return [Result(combine(part), part, combine) for part in parts]


def combine(sums: Array) -> Array:
    """METEOR of sums of its statistics, (..., 23), as its own `EVAL` has it: (...)."""
    lengths, function_words = sums[..., 0:2], sums[..., 2:4]
    matches = sums[..., 4:20].reshape(*sums.shape[:-1], len(_WEIGHTS), 2, 2)
    weighted = _WEIGHTS @ (matches * np.array([[_DELTA], [1 - _DELTA]])).sum(axis=-2)
    size = _DELTA * (lengths - function_words) + (1 - _DELTA) * function_words
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(weighted / size, -1, 0)
        mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
        fragments = sums[..., 20] / sums[..., 21:23].mean(axis=-1)
        score = mean * (1 - _GAMMA * fragments**_BETA)
    return np.asarray(np.maximum(np.nan_to_num(score), 0))


def _field(text: str) -> str:
    """Leave out what METEOR's own lines would part texts at, as pycocoevalcap does for captions."""
    return text.replace(_SEPARATOR, "").replace("  ", " ") if _SEPARATOR in text else text


def _numbers(line: str) -> Array:
    """The statistics that are summed: a caption that is its reference has no break in it."""
    try:
        values = np.array(line.split(), dtype=np.float64)
    except ValueError:
        values = np.array([np.nan])
    if values.shape != (_COLUMNS,) or not np.isfinite(values).all():
        raise SynticError(f"METEOR answered {line[:80]!r} where statistics were due; report this")
    matched = values[4:20].reshape(-1, 2).sum(axis=0)
    if values[20] == 1 and (matched == values[0:2]).all():
        values[20] = 0
    return values
