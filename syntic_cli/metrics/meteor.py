"""METEOR 1.5 by its own jar: all captions in one start of Java, which can begin to load early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType

import numpy as np

from ..errors import SynticError
from .java import PATIENCE, Java, jar
from .ngrams import Result

_SEPARATOR = "|||"


class Meteor:
    """A running METEOR; ask it once, within a `with` block.

    Java and its tables take seconds to load. That happens beside whatever the caller does between
    `start`, `send` and `receive`.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        """Start to load METEOR.

        Args:
            patience: seconds to wait for a line before METEOR is given up.

        Raises:
            SynticError: Java or the jar is missing.
        """
        path = jar("meteor", "meteor-1.5.jar")
        # The parallel collector starts METEOR a quarter faster on two cores than the default one.
        options = ("-XX:+UseParallelGC", "-Xmx2G")
        arguments = (*options, "-jar", str(path), "-", "-", "-stdio", "-l", "en", "-norm")
        self._java = Java("METEOR", arguments, patience)
        self._count = 0

    def __enter__(self) -> Meteor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._java.__exit__(kind, error, trace)

    def send(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Hand over tokenized captions and their references; returns at once."""
        self._count = len(captions)
        self._java.send(
            " ||| ".join(("SCORE", *map(_field, texts), _field(caption)))
            for caption, texts in zip(captions, references, strict=True)
        )

    def receive(self) -> Result:
        """Wait for the scores.

        Raises:
            SynticError: METEOR failed, ended or fell silent, with the reason.

        Source:
            Denkowski & Lavie, "Meteor Universal", WMT 2014.
        """
        statistics = self._java.receive(self._count)
        # The corpus score comes from the sums of all captions' statistics: they go back as a line.
        self._java.send([" ||| ".join(("EVAL", *statistics))], last=True)
        scores = [_number(line) for line in self._java.receive(self._count + 1)]
        self._java.finish()
        return Result(scores[-1], np.array(scores[:-1]))


def _field(text: str) -> str:
    """Keep a text from being taken for two, as pycocoevalcap does for the captions alone."""
    return text.replace(_SEPARATOR, "").replace("  ", " ") if _SEPARATOR in text else text


def _number(line: str) -> float:
    try:
        value = float(line)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SynticError(f"METEOR answered {line[:80]!r} where a score was due; report this")
    return value
