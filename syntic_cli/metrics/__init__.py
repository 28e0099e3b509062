"""Caption metrics, as pycocoevalcap computes them: BLEU, METEOR, ROUGE-L, CIDEr and SPICE."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..errors import SynticError
from . import ngrams, spice
from .meteor import Meteor
from .ngrams import Result
from .tokenizer import tokenize

__all__ = ["METRICS", "Scores", "resolve", "score"]

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "SPICE")


@dataclass(frozen=True)
class Scores:
    """Scores x 100, as papers print them.

    Attributes:
        corpus: a number a metric, in the order of `METRICS`.
        per_item: an array a metric: the score of each caption.
        notes: what a reader of the scores should know, a line each.
    """

    corpus: dict[str, float]
    per_item: dict[str, npt.NDArray[np.float64]]
    notes: list[str] = field(default_factory=list)


def resolve(names: Iterable[str]) -> tuple[str, ...]:
    """Turn names as people type them into those of `METRICS`, in its order.

    Args:
        names: metrics in any case; `all` is all of them and `bleu` its four.

    Raises:
        SynticError: one is no metric, or there is none.
    """
    groups = {name.lower(): {name} for name in METRICS}
    groups |= {"all": set(METRICS), "bleu": set(METRICS[:4])}
    wanted: set[str] = set()
    for name in names:
        if name.strip().lower() not in groups:
            raise _unknown(name)
        wanted |= groups[name.strip().lower()]
    if not wanted:
        raise SynticError(f"no metric named: choose from {', '.join(METRICS)}")
    return tuple(name for name in METRICS if name in wanted)


def score(
    captions: Sequence[str], references: Sequence[Sequence[str]], metrics: Sequence[str]
) -> Scores:
    """Score captions against their references.

    Args:
        captions: one for each photo, as written.
        references: one or more for each photo, as written.
        metrics: names from `METRICS`, spelt as there.

    Returns:
        The scores. SPICE is left out, with a note, where its jars are absent or it fails.

    Raises:
        SynticError: an unknown metric, nothing to score, or a failure of the tokenizer or METEOR.
    """
    for name in metrics:
        if name not in METRICS:
            raise _unknown(name)
    _check(captions, references)
    notes = _warnings(captions, metrics)
    with ExitStack() as stack:
        # Java loads METEOR's tables while the tokenizer runs, and scores while Python does.
        meteor = stack.enter_context(Meteor()) if "METEOR" in metrics else None
        found, expected = _tokens(captions, references)
        if meteor is not None:
            meteor.send(found, expected)
        results = _by_python(found, expected, metrics)
        if meteor is not None:
            results["METEOR"] = meteor.receive()
    if "SPICE" in metrics:
        try:
            results |= _spice(found, expected, notes)
        except SynticError as error:
            notes.append(f"SPICE left out: {error}")
    chosen = [name for name in METRICS if name in results]
    return Scores(
        {name: 100 * results[name].corpus for name in chosen},
        {name: 100 * results[name].items for name in chosen},
        notes,
    )


def _by_python(
    captions: Sequence[str], references: Sequence[Sequence[str]], metrics: Sequence[str]
) -> dict[str, Result]:
    results: dict[str, Result] = {}
    if any(name.startswith("BLEU") for name in metrics):
        bleus = zip(METRICS[:4], ngrams.bleu(captions, references), strict=True)
        results |= {name: result for name, result in bleus if name in metrics}
    if "ROUGE-L" in metrics:
        results["ROUGE-L"] = ngrams.rouge_l(captions, references)
    if "CIDEr" in metrics:
        results["CIDEr"] = ngrams.cider(captions, references)
    return results


def _spice(
    captions: Sequence[str], references: Sequence[Sequence[str]], notes: list[str]
) -> dict[str, Result]:
    absent = spice.missing()
    if absent is None:
        return {"SPICE": spice.spice(captions, references)}
    notes.append(absent)
    return {}


def _tokens(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Tokenize captions and references together, in one start of Java."""
    tokens = iter(tokenize([*(text for texts in references for text in texts), *captions]))
    expected = [[next(tokens) for _ in texts] for texts in references]
    return list(tokens), expected


def _check(captions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not captions:
        raise SynticError("there is no caption to score: caption some photos first")
    if len(captions) != len(references):
        raise SynticError(f"{len(captions)} captions, but {len(references)} lists of references")
    for index, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise SynticError(f"caption {index + 1} needs a list of one or more references")


def _warnings(captions: Sequence[str], metrics: Sequence[str]) -> list[str]:
    notes = []
    empty = sum(not text.strip() for text in captions)
    if empty:
        notes.append(f"{empty} of {len(captions)} captions are empty")
    if len(captions) == 1 and "CIDEr" in metrics:
        notes.append(
            "CIDEr of a single photo is 0, whatever its caption: words are weighted by how few of"
            " the photos' references use them"
        )
    return notes


def _unknown(name: str) -> SynticError:
    return SynticError(f"no metric is called {name!r}: choose from {', '.join(METRICS)}")
