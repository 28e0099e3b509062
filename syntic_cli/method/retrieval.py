"""What the texts nearest to an image say of it: their features, and the words they share.

After IFCap (Lee et al., EMNLP 2024), which lets the decoder see retrieved texts, with the shared
words in the place of a detector's names, which are few.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .neighbours import k_nearest

# Rows of neighbours whose words are counted at a time, which bounds the memory.
TILE = 65536


@dataclass(frozen=True)
class Words:
    """The words of N texts, each once a text.

    vocabulary: V words. words: rows of the vocabulary, rising within a text, all texts one after
    the other, cut by offsets, (N + 1).
    """

    vocabulary: list[str]
    words: np.ndarray
    offsets: np.ndarray

    def only(self, kept: np.ndarray) -> Words:
        """The texts with the words that `kept`, (V,) bool, names."""
        number = np.cumsum(kept) - 1
        stay = kept[self.words]
        before = np.concatenate([[0], np.cumsum(stay)])
        vocabulary = [word for word, keep in zip(self.vocabulary, kept, strict=True) if keep]
        return Words(vocabulary, number[self.words[stay]].astype(np.int32), before[self.offsets])


def index_words(texts: Sequence[str]) -> Words:
    """Cut texts at white space; case, and punctuation around a word, do not count."""
    vocabulary: dict[str, int] = {}
    seen: dict[str, int] = {}
    words, offsets = array("i"), array("q", [0])
    for text in texts:
        found = set()
        for piece in text.split():
            if piece not in seen:
                word = _bare(piece)
                seen[piece] = vocabulary.setdefault(word, len(vocabulary)) if word else -1
            found.add(seen[piece])
        found.discard(-1)
        words.extend(sorted(found))
        offsets.append(len(words))
    return Words(list(vocabulary), np.array(words, np.int32), np.array(offsets, np.int64))


def _bare(piece: str) -> str:
    """A word in lower case without the punctuation around it, in any script."""
    letters = [not unicodedata.category(c).startswith(("P", "S")) for c in piece]
    if not any(letters):
        return ""
    return piece[letters.index(True) : len(piece) - letters[::-1].index(True)].casefold()


def content_words(
    words: Words, rows: np.ndarray, neighbours: np.ndarray, *, lift: float = 4.0, least: int = 5
) -> np.ndarray:
    """Which words tell something of the scene, in any language.

    Texts near a text with such a word have it too, far more often than texts at large:

        lift(w) = P(w in a neighbour | w in the text) / P(w in a text)

    A word of grammar stands in any text, so its lift is near 1, however rare or frequent it is.

    Args:
        words: of N texts.
        rows: some of these texts, (n,).
        neighbours: the texts nearest to them, themselves left out, (n, L); −1 where there is none.
        lift: the least that a word has.
        least: in how many of the n texts a word stands at least.

    Returns:
        (V,) bool.
    """
    size = len(words.vocabulary)
    share = np.bincount(words.words, minlength=size) / max(1, len(words.offsets) - 1)
    own = np.bincount(_words_of(words, rows)[1], minlength=size)
    both = np.zeros(size)
    for start in range(0, len(rows), TILE):
        some, near = rows[start : start + TILE], neighbours[start : start + TILE]
        keys, counts = _counted(words, near)
        row, word = _words_of(words, some)
        place = np.searchsorted(keys, row * size + word)
        here = np.flatnonzero(place < len(keys))
        here = here[keys[place[here]] == row[here] * size + word[here]]
        both += np.bincount(word[here], weights=counts[place[here]], minlength=size)
    expected = own * neighbours.shape[1] * share
    return (own >= least) & (both >= lift * expected) & (both > 0)


def shared_words(words: Words, neighbours: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """The words that stand in at least so many of an image's nearest texts.

    Args:
        words: of the support set.
        neighbours: rows of the support set, (N, L); −1 where there is none.
        least: K.

    Returns:
        Rows of the vocabulary, int32, all images one after the other, and where each one's begin,
        (N + 1,) int64.
    """
    size = len(words.vocabulary)
    found, held = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for start in range(0, len(neighbours), TILE):
        near = neighbours[start : start + TILE]
        keys, counts = _counted(words, near)
        keys = keys[counts >= least]
        found.append((keys % max(1, size)).astype(np.int32))
        held.append(np.bincount(keys // max(1, size), minlength=len(near)))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(held))])
    return np.concatenate(found), offsets


def retrieve(
    image_features: Tensor, support: Tensor, count: int, own: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """The texts of the support set nearest to each image.

    Args:
        image_features: v, (N, d), of unit length.
        support: s, (M, d), of unit length.
        count: L.
        own: rows of images and rows of their own texts in the support set, (P,) each, left out.

    Returns:
        Rows of the support set, (N, L) int32, from the most similar on; −1 where there are too few.
    """
    return k_nearest(image_features, support, count, without=own)[1]


def _words_of(words: Words, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The words of some texts one after the other: which of the texts, and which word."""
    first, counts = words.offsets[texts], words.offsets[texts + 1] - words.offsets[texts]
    which = np.repeat(np.arange(len(texts)), counts)
    steps = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    return which, words.words[np.repeat(first, counts) + steps].astype(np.int64)


def _counted(words: Words, neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """row · V + word of each word in a row's neighbours, rising, and in how many it stands."""
    there = neighbours >= 0
    row = np.nonzero(there)[0]
    which, word = _words_of(words, neighbours[there])
    keys: np.ndarray = row[which] * len(words.vocabulary) + word
    return np.unique(keys, return_counts=True)
