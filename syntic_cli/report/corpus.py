"""The corpus of a run in numbers: how long its texts are, which words they use, what repeats."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..artifacts.reading import Artifact

ROWS_AT_A_TIME = 16384
TOP_WORDS, TOP_DUPLICATES = 30, 8
# Words beyond so many different ones are counted only where they come again: bounded memory.
MOST_WORDS = 200_000

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
# Function words of English, which is what the shipped models read.
_FUNCTION_WORDS = """
a about above across after against all along also am among an and another any are around as at
away back be because been before behind being below beside besides between both but by can
could did do does doing down each either for from front get gets getting had has have having
he her here hers him his how i if in inside into is it its itself just like many may me more
most much my near next no nor not of off on one onto or other others our out outside over own
she side so some somebody someone something such than that the their theirs them then there
these they this those three through to together top toward towards two under until up upon us
very was we were what when where which while who whose will with within without would you
your it's there's that's he's she's
"""


@dataclass(frozen=True)
class CorpusFacts:
    """lengths[n] is how many texts have n words; a duplicate is equal but for case and spaces."""

    source: str
    texts: int
    lengths: Sequence[int]
    mean_words: float
    words: int
    frequent: Sequence[tuple[str, int]]
    duplicates: int
    repeated: Sequence[tuple[str, int]]


def gather_corpus(path: Path) -> CorpusFacts:
    """Count the texts of an artifact that holds the corpus as `captions`.

    Raises:
        DamagedError: where it cannot be read.
    """
    lengths: Counter[int] = Counter()
    words: Counter[str] = Counter()
    function_words = frozenset(_FUNCTION_WORDS.split())
    total = 0
    with Artifact(path) as artifact:
        hashes = np.empty(artifact.text_rows, np.int64)
        for start in range(0, artifact.text_rows, ROWS_AT_A_TIME):
            texts = artifact.texts("captions", start, start + ROWS_AT_A_TIME)
            for row, text in enumerate(texts, start):
                found = text.split()
                lengths[len(found)] += 1
                total += len(found)
                hashes[row] = _hash(text)
                words.update(w for w in _WORD.findall(text.lower()) if w not in function_words)
            if len(words) > MOST_WORDS:
                words = Counter(dict(words.most_common(MOST_WORDS // 2)))
        _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        most = np.argsort(-counts, kind="stable")[:TOP_DUPLICATES]
        repeated = [
            (artifact.texts("captions", int(first[i]), int(first[i]) + 1)[0], int(counts[i]))
            for i in most
            if counts[i] > 1
        ]
        given = artifact.recipe.inputs.get("corpus")
        return CorpusFacts(
            source=given.file if given else "",
            texts=artifact.text_rows,
            lengths=[lengths[n] for n in range(max(lengths, default=0) + 1)],
            mean_words=total / max(1, artifact.text_rows),
            words=total,
            frequent=words.most_common(TOP_WORDS),
            duplicates=int((counts - 1).sum()),
            repeated=repeated,
        )


def _hash(text: str) -> int:
    """64 bits of a text: a million of them are 8 MB, and two texts do not share one by chance."""
    return hash(" ".join(text.lower().split()))
