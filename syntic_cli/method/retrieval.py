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
import torch
from torch import Tensor

from .neighbours import k_nearest
from .ragged import join, take

# Rows of neighbours whose words are counted at a time, which bounds the memory.
TILE = 65536
# Texts whose neighbours tell which words are of content.
SAMPLE = 20_000
# Among COCO's captions this leaves out a, on, of, the, with, to, an, that, it, there, and keeps man
# (6), two (5) and all names of things (10 to 80), however frequent.
LIFT = 4.0


@dataclass(frozen=True)
class Words:
    """The words of N texts, each once a text.

    vocabulary: V words. words: rows of the vocabulary, rising within a text, all texts one after
    the other, cut by offsets, (N + 1).
    """

    vocabulary: list[str]
    words: np.ndarray
    offsets: np.ndarray

    def rename(self, vocabulary: list[str]) -> Words:
        """The texts with the words of another vocabulary, as its rows."""
        place = {word: row for row, word in enumerate(vocabulary)}
        number = np.array([place.get(word, -1) for word in self.vocabulary], np.int32)
        kept = self.only(number >= 0)
        return Words(vocabulary, number[number >= 0][kept.words], kept.offsets)

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


def first_of_each(texts: Sequence[str]) -> np.ndarray:
    """The rows of different texts, each at its first place: copies would tell nothing more."""
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        first.setdefault(text, row)
    return np.fromiter(first.values(), np.int64, len(first))


def _bare(piece: str) -> str:
    """A word in lower case without the punctuation around it, in any script."""
    letters = [not unicodedata.category(c).startswith(("P", "S")) for c in piece]
    if not any(letters):
        return ""
    return piece[letters.index(True) : len(piece) - letters[::-1].index(True)].casefold()


def content_words(
    words: Words, rows: np.ndarray, neighbours: np.ndarray, *, lift: float = LIFT, least: int = 5
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


@dataclass(frozen=True)
class Retriever:
    """What an image's nearest texts say of it, as tags: the texts themselves, and shared words.

    support: s, (S, d), of unit length. words: the content words of these texts, W of them.
    count: L, the texts of an image. least: K, in how many of them a word stands to be a tag.
    """

    support: Tensor
    words: Words
    count: int
    least: int

    @property
    def tag_count(self) -> int:
        """How many different tags there are."""
        return len(self.words.vocabulary) + len(self.support)

    def tags(
        self, image_features: Tensor, own: tuple[Tensor, Tensor] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The tags of images.

        Args:
            image_features: v, (N, d), of unit length.
            own: rows of images and rows of their own texts in the support set, (P,) each, which
                are left out: they would tell the decoder what it is to say.

        Returns:
            Of all images one after the other, words as 0 … W − 1 and text s as W + s, int64; and
            where each image's begin, (N + 1,) int64.
        """
        near = k_nearest(image_features, self.support, self.count, without=own)[1].cpu().numpy()
        words, offsets = shared_words(self.words, near, self.least)
        there = near >= 0
        texts = len(self.words.vocabulary) + near[there].astype(np.int64)
        text_offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
        return join((words.astype(np.int64), offsets), (texts, text_offsets))


def find_content_words(support: Tensor, captions: Sequence[str], count: int, seed: int) -> Words:
    """The content words of a support set, told by the neighbours of a sample of its texts.

    Args:
        support: s, (S, d), of unit length.
        captions: the S texts.
        count: how many neighbours of a text are looked at.
        seed: decides the sample.
    """
    words = index_words(captions)
    rows = np.random.default_rng(seed).permutation(len(captions))[:SAMPLE]
    own = torch.from_numpy(rows).to(support.device)
    apart = torch.arange(len(own), device=own.device), own
    near = k_nearest(support[own], support, count, without=apart)[1].cpu().numpy()
    return words.only(content_words(words, rows, near, lift=LIFT))


def _words_of(words: Words, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The words of some texts one after the other: which of the texts, and which word."""
    found, offsets = take((words.words, words.offsets), texts)
    return np.repeat(np.arange(len(texts)), np.diff(offsets)), found.astype(np.int64)


def _counted(words: Words, neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """row · V + word of each word in a row's neighbours, rising, and in how many it stands."""
    there = neighbours >= 0
    row = np.nonzero(there)[0]
    which, word = _words_of(words, neighbours[there])
    keys: np.ndarray = row[which] * len(words.vocabulary) + word
    return np.unique(keys, return_counts=True)
