"""How much a caption agrees with the texts that are nearest to its photo.

What most of the nearest texts say is true more often than what the decoder finds most likely
(Devlin et al., "Exploring nearest neighbor approaches for image captioning", 2015). Agreement is
CIDEr (Vedantam et al., CVPR 2015): the cosine of two texts' n-grams, those that few texts have
weighing more, by the mean of the orders 1 to 4. The n-grams are of tokens, so that no language is
different; of the support set they are counted once, and its texts are not needed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ORDERS = 4
# N-grams of fewer texts are in hardly any caption; they count in the length of a text's vector.
FEWEST_TEXTS = 3
SHORTEST = 1e-3
_MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)


@dataclass(frozen=True)
class Consensus:
    """The n-grams of a support set of S texts.

    hashes: of G n-grams, (G,) int64, rising. order: 0 to 3, (G,). rarity: log(S / texts that have
    it), (G,). grams: rows of these, as often as a text has them, all texts one after the other,
    cut by offsets, (S + 1,). lengths: of the vectors of a text's n-grams, an order each, (S, 4).
    """

    hashes: Tensor
    order: Tensor
    rarity: Tensor
    grams: Tensor
    offsets: Tensor
    lengths: Tensor

    def agreement(self, captions: Tensor, end: int, near: Tensor, shares: Tensor) -> Tensor:
        """The mean CIDEr of captions to the texts that are nearest to their photo.

        Args:
            captions: tokens of B captions for each of N photos, (N, B, L).
            end: the token that ends a caption.
            near: rows of the support set, (N, K).
            shares: of each of these in the mean, (N, K), with a sum of 1.

        Returns:
            (N, B), 0 to 10.
        """
        photos, each, _ = captions.shape
        said, strength = self._sayings(near, shares)
        if not len(said):
            return shares.new_zeros(photos, each)
        text, gram, value = self._vectors(captions.flatten(0, 1), end)
        wanted = text // each * len(self.hashes) + gram
        place = torch.searchsorted(said, wanted).clamp(max=len(said) - 1)
        value = torch.where((gram >= 0) & (said[place] == wanted), value * strength[place], 0)
        scores = value.new_zeros(photos * each).index_add_(0, text, value)
        return (10 / ORDERS * scores).view(photos, each)

    def _sayings(self, near: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """The n-grams of the texts near each photo, as photo · G + gram, and their mean weights."""
        rows = near.flatten()
        counts = self.offsets[rows + 1] - self.offsets[rows]
        text = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
        before = self.offsets[rows] - counts.cumsum(0) + counts
        grams = self.grams[torch.arange(len(text), device=rows.device) + before[text]].long()
        values = self.rarity[grams] / self.lengths[rows[text], self.order[grams].long()].float()
        said, which = (text // near.shape[1] * len(self.hashes) + grams).unique(return_inverse=True)
        strength = values.new_zeros(len(said)).index_add_(0, which, values * shares.flatten()[text])
        return said, strength

    def _vectors(self, captions: Tensor, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """The n-grams of captions, (M, L): caption, row of `hashes` (-1: none) and weight of each,
        so that those of one order and caption have a length of 1."""
        there = (captions == end).cumsum(dim=1) == 0
        offsets = F.pad(there.sum(dim=1).cumsum(0), (1, 0))
        # What no text has is as rare as can be.
        rarest = math.log(len(self.offsets) - 1)
        found = []
        for text, which, times, distinct in _count_ngrams(captions[there], offsets):
            row = torch.searchsorted(self.hashes, distinct).clamp(max=len(self.hashes) - 1)
            known = self.hashes[row] == distinct
            weights = times * torch.where(known, self.rarity[row], rarest)[which]
            weights = weights / _lengths(text, weights, len(captions))[text]
            found.append((text, torch.where(known, row, -1)[which], weights))
        text, row, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
        return text, row, weights


def learn_consensus(tokens: np.ndarray, offsets: np.ndarray) -> Consensus:
    """Count the n-grams of a support set.

    Args:
        tokens: of all texts, one after the other.
        offsets: where each text begins, and the end, (S + 1,).
    """
    count = len(offsets) - 1
    hashes: list[Tensor] = []
    orders, rarities, lengths = [], [], []
    texts, grams = [], []
    first = 0
    counts = _count_ngrams(torch.from_numpy(tokens), torch.from_numpy(offsets))
    for order, (text, which, times, distinct) in enumerate(counts):
        spread = which.bincount(minlength=len(distinct))
        rarity = math.log(count) - spread.float().log()
        lengths.append(_lengths(text, times * rarity[which], count))
        kept = spread >= FEWEST_TEXTS
        number = kept.cumsum(0) - 1 + first
        copies = times * kept[which]
        texts.append(text.repeat_interleave(copies))
        grams.append(number[which].repeat_interleave(copies))
        hashes.append(distinct[kept])
        rarities.append(rarity[kept])
        orders.append(torch.full_like(hashes[-1], order, dtype=torch.uint8))
        first += len(hashes[-1])
    text = torch.cat(texts)
    by_text, by_hash = text.argsort(stable=True), torch.cat(hashes).argsort()
    place = by_hash.argsort()
    return Consensus(
        hashes=torch.cat(hashes)[by_hash],
        order=torch.cat(orders)[by_hash],
        rarity=torch.cat(rarities)[by_hash],
        grams=place[torch.cat(grams)[by_text]].int(),
        offsets=F.pad(text.bincount(minlength=count).cumsum(0), (1, 0)),
        lengths=torch.stack(lengths, dim=1).half(),
    )


def _count_ngrams(
    tokens: Tensor, offsets: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """For each order, the n-grams of texts cut by offsets, once a text: the text, the row of the
    distinct n-grams and how often it is there; and the hashes of the distinct ones."""
    tokens = tokens.long()
    text = torch.arange(len(offsets) - 1, device=tokens.device).repeat_interleave(offsets.diff())
    first = torch.arange(len(tokens), device=tokens.device)
    hashes = torch.zeros_like(tokens)
    for order in range(ORDERS):
        # An n-gram goes on from the shorter one that begins where it does.
        there = first + order < offsets[1:][text]
        text, first, hashes = text[there], first[there], hashes[there]
        hashes = ((hashes ^ (hashes >> 32)) + tokens[first + order] + 1) * _MULTIPLIER
        distinct, which = hashes.unique(return_inverse=True)
        size = max(1, len(distinct))
        pairs, times = (text * size + which).unique(return_counts=True)
        yield pairs // size, pairs % size, times, distinct


def _lengths(text: Tensor, weights: Tensor, texts: int) -> Tensor:
    """The length of each text's vector of weights; at least so much that one can divide by it."""
    squares = weights.new_zeros(texts).index_add_(0, text, weights**2)
    return squares.sqrt().clamp(min=SHORTEST)
