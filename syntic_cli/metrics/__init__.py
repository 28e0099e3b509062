"""Caption metrics: BLEU, METEOR, ROUGE-L, CIDEr and SPICE, CLIPScore and retrieval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..errors import SynticError, count
from . import ngrams, spice
from .alignment import PROMPT, Features, comparability, score_alignment
from .meteor import Meteor
from .results import Difference, Result, bootstrap
from .tokenizer import tokenize

__all__ = [
    "METRICS",
    "PHOTO_METRICS",
    "PROMPT",
    "TEXT_METRICS",
    "Difference",
    "Features",
    "Scores",
    "bootstrap",
    "comparability",
    "compare",
    "resolve",
    "score",
    "score_files",
]

# Of captions and references alone, as pycocoevalcap computes them.
TEXT_METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "SPICE")
# Of photos, by a dual encoder.
PHOTO_METRICS = ("CLIPScore", "RefCLIPScore", "R@1", "R@5", "R@10")
METRICS = TEXT_METRICS + PHOTO_METRICS


@dataclass(frozen=True)
class Scores:
    """Scores of one file of captions.

    Attributes:
        results: a result a metric, in the order of `METRICS` and in the metric's own unit.
        notes: what a reader of the scores should know, a line each.
    """

    results: dict[str, Result]
    notes: list[str] = field(default_factory=list)

    @property
    def corpus(self) -> dict[str, float]:
        """A number a metric, x 100, as papers print them."""
        return {name: 100 * result.corpus for name, result in self.results.items()}

    @property
    def per_item(self) -> dict[str, npt.NDArray[np.float64]]:
        """An array a metric, (P,), x 100: the score of each caption."""
        return {name: 100 * result.items for name, result in self.results.items()}


def resolve(names: Iterable[str]) -> tuple[str, ...]:
    """Turn names as people type them into those of `METRICS`, in its order.

    Args:
        names: metrics in any case; `all` is all that need no photos, `bleu` its four, `clip`
            CLIPScore and RefCLIPScore, and `recall` R@1, R@5 and R@10.

    Raises:
        SynticError: one is no metric, or there is none.
    """
    groups = {name.lower(): {name} for name in METRICS}
    groups |= {"all": set(TEXT_METRICS), "bleu": set(TEXT_METRICS[:4])}
    groups |= {"clip": set(PHOTO_METRICS[:2]), "recall": set(PHOTO_METRICS[2:])}
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
    """Score one file of captions against its references, as `score_files` does several."""
    return score_files([captions], references, metrics)[0]


def score_files(
    files: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str],
    features: Sequence[Features] | None = None,
) -> list[Scores]:
    """Score several files of captions of the same photos against the same references.

    References are tokenized, and their n-grams counted, once for all files.

    Args:
        files: for each captioner one caption for each photo, as written.
        references: one or more for each photo, as written.
        metrics: names from `METRICS`, spelt as there.
        features: for each file those of its captions, for the metrics of `PHOTO_METRICS`.

    Returns:
        The scores of each file. SPICE is left out, with a note, where its jars are absent or it
        fails.

    Raises:
        SynticError: an unknown metric, nothing to score, or a failure of the tokenizer or METEOR.
    """
    for name in metrics:
        if name not in METRICS:
            raise _unknown(name)
    for captions in files:
        _check(captions, references)
    notes = [_warnings(captions, metrics) for captions in files]
    results: list[dict[str, Result]] = [{} for _ in files]
    _collect(results, _by_encoder(features, len(files), metrics))
    if any(name in TEXT_METRICS for name in metrics):
        _collect(results, _by_words(files, references, metrics, notes))
    return [
        Scores({name: found[name] for name in METRICS if name in found}, lines)
        for found, lines in zip(results, notes, strict=True)
    ]


def compare(a: Scores, b: Scores, samples: int = 1000, seed: int = 0) -> dict[str, Difference]:
    """How much better b is than a, x 100, in each metric that both have.

    Every sample of the paired bootstrap draws photos anew and takes the corpus score of what was
    drawn: the mean of the captions' scores or, for BLEU and METEOR, the score of the captions'
    summed counts. CIDEr weighs words by the references of all photos in every sample.

    Args:
        a, b: scores of the same photos in the same order.
        samples: how often photos are drawn.
        seed: of the draws, which are the same for all metrics.
    """
    differences = {}
    for name in a.results:
        if name in b.results:
            one, other = a.results[name], b.results[name]
            found = bootstrap(one.statistics, other.statistics, samples, seed, one.combine)
            differences[name] = Difference(100 * found.value, 100 * found.low, 100 * found.high)
    return differences


def _by_encoder(
    features: Sequence[Features] | None, files: int, metrics: Sequence[str]
) -> list[dict[str, Result]]:
    wanted = [name for name in metrics if name in PHOTO_METRICS]
    if not wanted:
        return [{} for _ in range(files)]
    if features is None:
        raise SynticError(f"{', '.join(wanted)}: need the photos and a dual encoder")
    return [score_alignment(part, wanted) for part in features]


def _by_words(
    files: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str],
    notes: list[list[str]],
) -> list[dict[str, Result]]:
    results: list[dict[str, Result]] = [{} for _ in files]
    with ExitStack() as stack:
        # Java unpacks METEOR's table while the tokenizer runs, and scores while Python does.
        meteor = stack.enter_context(Meteor()) if "METEOR" in metrics else None
        found, expected = _tokens(files, references)
        if meteor is not None:
            meteor.send(found, expected)
        _collect(results, _by_python(found, expected, metrics))
        if meteor is not None:
            _collect(results, [{"METEOR": result} for result in meteor.receive()])
    if "SPICE" in metrics:
        try:
            _collect(results, [{"SPICE": result} for result in spice.spice(found, expected)])
        except SynticError as error:
            for lines in notes:
                lines.append(f"SPICE left out: {error}")
    return results


def _by_python(
    files: Sequence[Sequence[str]], references: Sequence[Sequence[str]], metrics: Sequence[str]
) -> list[dict[str, Result]]:
    results: list[dict[str, Result]] = [{} for _ in files]
    bleus = [name for name in TEXT_METRICS[:4] if name in metrics]
    if bleus or "CIDEr" in metrics:
        counts = ngrams.count(files, references)
        if bleus:
            found = [
                dict(zip(TEXT_METRICS, scores, strict=False)) for scores in ngrams.bleu(counts)
            ]
            _collect(results, [{name: scores[name] for name in bleus} for scores in found])
        if "CIDEr" in metrics:
            _collect(results, [{"CIDEr": result} for result in ngrams.cider(counts)])
    if "ROUGE-L" in metrics:
        _collect(results, [{"ROUGE-L": result} for result in ngrams.rouge_l(files, references)])
    return results


def _collect(results: list[dict[str, Result]], more: list[dict[str, Result]]) -> None:
    for found, part in zip(results, more, strict=True):
        found.update(part)


def _tokens(
    files: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> tuple[list[list[str]], list[list[str]]]:
    """Tokenize captions and references together, in one start of Java."""
    groups = [*references, *files]
    tokens = iter(tokenize([text for texts in groups for text in texts]))
    tokenized = [[next(tokens) for _ in texts] for texts in groups]
    return tokenized[len(references) :], tokenized[: len(references)]


def _check(captions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not captions:
        raise SynticError("there is no caption to score: caption some photos first")
    if len(captions) != len(references):
        raise SynticError(
            f"{count(len(captions), 'caption')}, but {count(len(references), 'list')} of references"
        )
    for index, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise SynticError(f"caption {index + 1} needs a list of one or more references")


def _warnings(captions: Sequence[str], metrics: Sequence[str]) -> list[str]:
    notes = []
    empty = sum(not text.strip() for text in captions)
    if empty:
        notes.append(f"{count(empty, 'caption is', 'captions are')} empty, of {len(captions)}")
    if len(captions) == 1 and "CIDEr" in metrics:
        notes.append(
            "CIDEr of a single photo is 0, whatever its caption: words are weighted by how few of"
            " the photos' references use them"
        )
    return notes


def _unknown(name: str) -> SynticError:
    return SynticError(f"no metric is called {name!r}: choose from {', '.join(METRICS)}")
