"""BLEU, ROUGE-L and CIDEr as pycocoevalcap scores them, counted in NumPy for many files at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from .results import Array, Result, mean_of

Ints = npt.NDArray[np.int64]

ORDERS = 4
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0
# pycocoevalcap adds these to BLEU's counts, so that no quotient is 0 / 0.
_TINY, _SMALL = 1e-15, 1e-9


@dataclass(frozen=True)
class _Entries:
    """Counts of n-grams of one order: text `text[e]` holds the n-gram `gram[e]` `count[e]` times.

    Entries are sorted by text, then n-gram; equal n-grams have equal numbers in all texts.
    """

    text: Ints
    gram: Ints
    count: Ints

    def of_texts(self, first: int, end: int) -> _Entries:
        """The entries of the texts from `first` up to `end`, which are numbered from 0 again."""
        a, b = np.searchsorted(self.text, [first, end])
        return _Entries(self.text[a:b] - first, self.gram[a:b], self.count[a:b])


@dataclass(frozen=True)
class _Order:
    """The n-grams of one order in the references, and in each file of captions.

    Attributes:
        grams: how many n-grams there are.
        references: their entries.
        files: the entries of each file of captions, by photo.
        pairs: the photo × grams + n-gram that occur in references, sorted.
        most: how often at most in one reference, for each pair.
        rarity: of each n-gram, log(photos / photos with it in a reference).
    """

    grams: int
    references: _Entries
    files: list[_Entries]
    pairs: Ints
    most: Ints
    rarity: Array


@dataclass(frozen=True)
class Counts:
    """The n-grams of references and captions, counted once for all metrics and files.

    Attributes:
        owners: (R,), the photo of each reference.
        reference_lengths: (R,), in words.
        lengths: of the captions of each file, (P,), in words.
        orders: the n-grams of orders 1 to 4.
    """

    owners: Ints
    reference_lengths: Ints
    lengths: list[Ints]
    orders: list[_Order]


def count(files: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Counts:
    """Count the n-grams of tokenized texts.

    Args:
        files: one caption for each photo, of one or more captioners.
        references: one or more for each photo.
    """
    photos = len(references)
    owners = np.repeat(np.arange(photos), [len(texts) for texts in references])
    texts = [text for group in (*references, *files) for text in group]
    lengths, entries = _count(texts)
    starts = [*accumulate([len(owners), *(photos for _ in files)], initial=0)]
    orders = [_order(entry, grams, owners, photos, starts) for grams, entry in entries]
    parts = np.split(lengths, starts[1:-1])
    return Counts(owners, parts[0], parts[1:], orders)


def bleu(counts: Counts) -> list[list[Result]]:
    """BLEU-1 to BLEU-4 of each file, with the closest reference's length.

    Source:
        Papineni et al., "BLEU: a method for automatic evaluation of machine translation", ACL 2002.
    """
    return [_bleu(counts, file) for file in range(len(counts.lengths))]


def cider(counts: Counts) -> list[Result]:
    """CIDEr of each file (with the clipping and length penalty of CIDEr-D, as COCO's evaluation).

    Source:
        Vedantam et al., "CIDEr: consensus-based image description evaluation", CVPR 2015.
    """
    return [mean_of(_cider(counts, file)) for file in range(len(counts.lengths))]


def rouge_l(files: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> list[Result]:
    """ROUGE-L of each file of tokenized captions.

    Source:
        Lin, "ROUGE: a package for automatic evaluation of summaries", ACL 2004.
    """
    # pycocoevalcap takes an empty text for one empty word.
    words = [[text.split(" ") for text in texts] for texts in references]
    places = [[_places(text) for text in texts] for texts in words]
    lengths = [[len(text) for text in texts] for texts in words]
    return [
        mean_of([_rouge(*item) for item in zip(captions, places, lengths, strict=True)])
        for captions in files
    ]


def _count(texts: Sequence[str]) -> tuple[Ints, list[tuple[int, _Entries]]]:
    """The texts' lengths; for each order how many n-grams there are, and which texts hold them."""
    words = [text.split() for text in texts]
    lengths = np.array([len(text) for text in words], dtype=np.int64)
    numbers: dict[str, int] = {}
    word = np.array(
        [numbers.setdefault(word, len(numbers)) for text in words for word in text], dtype=np.int64
    )
    text = np.repeat(np.arange(len(texts)), lengths)
    remaining = np.repeat(lengths.cumsum(), lengths) - np.arange(len(word))
    # An n-gram is numbered by the (n - 1)-gram that begins where it does, and its last word.
    gram, grams = word, len(numbers)
    found = []
    for order in range(1, ORDERS + 1):
        place = np.flatnonzero(remaining >= order)
        if order > 1:
            longer = gram[place] * len(numbers) + word[place + order - 1]
            distinct, number = np.unique(longer, return_inverse=True)
            gram, grams = np.zeros_like(word), len(distinct)
            gram[place] = number
        pairs, times = np.unique(text[place] * grams + gram[place], return_counts=True)
        found.append((grams, _Entries(*np.divmod(pairs, max(grams, 1)), times)))
    return lengths, found


def _order(
    entries: _Entries, grams: int, owners: Ints, photos: int, starts: Sequence[int]
) -> _Order:
    references, *files = (entries.of_texts(first, end) for first, end in pairwise(starts))
    pairs, pair = np.unique(owners[references.text] * grams + references.gram, return_inverse=True)
    most = np.zeros_like(pairs)
    np.maximum.at(most, pair, references.count)
    photos_with = np.bincount(pairs % max(grams, 1), minlength=grams)
    rarity = np.log(photos) - np.log(np.maximum(photos_with, 1))
    return _Order(grams, references, files, pairs, most, rarity)


def _bleu(counts: Counts, file: int) -> list[Result]:
    lengths = counts.lengths[file]
    columns = [lengths, _closest(counts, lengths)]
    columns += [np.maximum(lengths - order, 0) for order in range(ORDERS)]
    for order in counts.orders:
        found = order.files[file]
        limits = _look_up(order.pairs, order.most, found.text * order.grams + found.gram)
        matched = np.minimum(found.count, limits)
        columns.append(np.bincount(found.text, matched, minlength=len(lengths)))
    statistics = np.stack(columns, axis=1).astype(np.float64)
    scores = [partial(_bleu_of, order) for order in range(1, ORDERS + 1)]
    return [Result(score(statistics), statistics, score) for score in scores]


def _bleu_of(order: int, sums: Array) -> Array:
    """BLEU of sums of (length, reference length, n-grams of orders 1-4, those that match)."""
    length, reference_length = sums[..., 0], sums[..., 1]
    guessed, correct = sums[..., 2 : 2 + order], sums[..., 2 + ORDERS : 2 + ORDERS + order]
    precision = np.prod((correct + _TINY) / (guessed + _SMALL), axis=-1) ** (1 / order)
    ratio = (length + _TINY) / (reference_length + _SMALL)
    return np.asarray(precision * np.exp(np.minimum(0, 1 - 1 / ratio)))


def _closest(counts: Counts, lengths: Ints) -> Ints:
    """The length of each photo's reference that is closest to its caption's; of two, the lesser."""
    gap = np.abs(counts.reference_lengths - lengths[counts.owners])
    order = np.lexsort((counts.reference_lengths, gap, counts.owners))
    _, first = np.unique(counts.owners[order], return_index=True)
    return np.asarray(counts.reference_lengths[order][first])


def _cider(counts: Counts, file: int) -> Array:
    owners, lengths = counts.owners, counts.lengths[file]
    similarity = np.zeros(len(owners))
    for order in counts.orders:
        mine, theirs = order.files[file], order.references
        times = _look_up(
            mine.text * order.grams + mine.gram,
            mine.count,
            owners[theirs.text] * order.grams + theirs.gram,
        )
        rarity = order.rarity[theirs.gram]
        weight = theirs.count * rarity
        clipped = np.minimum(times * rarity, weight)
        norm = _norms(mine.text, mine.count * order.rarity[mine.gram], len(lengths))[owners]
        norm *= _norms(theirs.text, weight, len(owners))
        product = np.bincount(theirs.text, clipped * weight, minlength=len(owners))
        similarity += product / np.where(norm > 0, norm, 1)
    # Lengths are compared in bigrams.
    gap = np.maximum(lengths - 1, 0)[owners] - np.maximum(counts.reference_lengths - 1, 0)
    similarity *= np.exp(-(gap**2) / (2 * _CIDER_SIGMA**2)) / ORDERS
    return np.asarray(10 * np.bincount(owners, similarity) / np.bincount(owners))


def _norms(text: Ints, weights: Array, texts: int) -> Array:
    return np.sqrt(np.bincount(text, weights**2, minlength=texts))


def _look_up(keys: Ints, values: Ints, wanted: Ints) -> Ints:
    """The value of each wanted key, 0 where it is not among the keys, which are sorted."""
    if not len(keys):
        return np.zeros_like(wanted)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def _places(words: Sequence[str]) -> dict[str, int]:
    """Where each word stands in a text: bit i for the word i."""
    places: dict[str, int] = {}
    for index, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << index
    return places


def _rouge(caption: str, places: Sequence[dict[str, int]], lengths: Sequence[int]) -> float:
    words = caption.split(" ")
    common = [_longest_common(words, *text) for text in zip(places, lengths, strict=True)]
    precision = max(common) / len(words)
    recall = max(n / length for n, length in zip(common, lengths, strict=True))
    if not precision or not recall:
        return 0.0
    weight = _ROUGE_BETA**2
    return (1 + weight) * precision * recall / (recall + weight * precision)


def _longest_common(words: Sequence[str], places: dict[str, int], length: int) -> int:
    """The length of the longest common subsequence of some words and a text of `length` words.

    A row of the usual table is a number, whose zeros stand where the row grows by one.

    Source:
        Hyyrö, "Bit-parallel LCS-length computation revisited", AWOCA 2004.
    """
    row = full = (1 << length) - 1
    for word in words:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & full
    return length - row.bit_count()
