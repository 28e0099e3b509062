"""BLEU, ROUGE-L and CIDEr: pycocoevalcap's own scorers, kept quiet and fed what they bear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Result:
    """A metric's score of the corpus and of each caption, in the metric's own unit."""

    corpus: float
    items: npt.NDArray[np.float64]


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[Result]:
    """BLEU-1 to BLEU-4 of tokenized captions, with the closest reference's length.

    Source:
        Papineni et al., "BLEU: a method for automatic evaluation of machine translation", ACL 2002.
    """
    scorer = import_module("pycocoevalcap.bleu.bleu").Bleu(4)
    corpus, items = scorer.compute_score(*_as_dicts(captions, references), verbose=0)
    return [_result(*pair) for pair in zip(corpus, items, strict=True)]


def rouge_l(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Result:
    """ROUGE-L of tokenized captions.

    Source:
        Lin, "ROUGE: a package for automatic evaluation of summaries", ACL 2004.
    """
    scorer = import_module("pycocoevalcap.rouge.rouge").Rouge()
    return _result(*scorer.compute_score(*_as_dicts(captions, references)))


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Result:
    """CIDEr (with the clipping and length penalty of CIDEr-D, as in COCO's evaluation).

    Source:
        Vedantam et al., "CIDEr: consensus-based image description evaluation", CVPR 2015.
    """
    if not any(text.split() for texts in references for text in texts):
        return Result(0.0, np.zeros(len(captions)))  # pycocoevalcap takes the maximum of nothing
    scorer = import_module("pycocoevalcap.cider.cider").Cider()
    return _result(*scorer.compute_score(*_as_dicts(captions, references)))


def _as_dicts(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Number the items, references first, as pycocoevalcap wants them."""
    return dict(enumerate(map(list, references))), {i: [text] for i, text in enumerate(captions)}


def _result(corpus: Any, items: Any) -> Result:
    return Result(float(corpus), np.asarray(items, dtype=np.float64))
