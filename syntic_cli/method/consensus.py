"""How much a caption agrees with the texts that are nearest to its photo.

What most of the nearest texts say is true more often than what the decoder finds most likely
(Devlin et al., "Exploring nearest neighbor approaches for image captioning", 2015). Agreement is
CIDEr (Vedantam et al., CVPR 2015): the cosine of two texts' n-grams, those that few texts have
weighing more, by the mean of the orders 1 to 4. It forgives a caption a word that no other text
has, if the rest is as they say; evidence does not: it is the logarithm of how many of the nearest
texts have a word, by the mean of the caption's words, where rare ones weigh more, too.

The n-grams are of tokens, so that no language is different; of the support set they are counted
once, and its texts are not needed again.
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
# A caption may end behind tokens where this share of the texts that have them does.
CLOSE = 0.05
# The share of the nearest texts that is taken to have a token that none of them has.
LEAST_SHARE = 1e-3
_MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)


@dataclass(frozen=True)
class Sayings:
    """What the texts say that are nearest to each of N photos.

    grams: their n-grams, as photo · G + row of the support set's G n-grams, rising. strengths: the
    mean weight of each in these texts. often: how often it is in one of them, on average.
    """

    grams: Tensor
    strengths: Tensor
    often: Tensor


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

    def ask(self, near: Tensor, shares: Tensor) -> Sayings:
        """What the texts say that are nearest to each photo.

        Args:
            near: rows of the support set, (N, K).
            shares: of each of these in a mean, (N, K), with a sum of 1.
        """
        rows = near.flatten()
        counts = self.offsets[rows + 1] - self.offsets[rows]
        text = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
        before = self.offsets[rows] - counts.cumsum(0) + counts
        grams = self.grams[torch.arange(len(text), device=rows.device) + before[text]].long()
        share = shares.flatten()[text]
        values = self.rarity[grams] / self.lengths[rows[text], self.order[grams].long()].float()
        said, which = (text // near.shape[1] * len(self.hashes) + grams).unique(return_inverse=True)
        strengths, often = values.new_zeros(2, len(said))
        strengths.index_add_(0, which, values * share)
        return Sayings(said, strengths, often.index_add_(0, which, share))

    def judge(self, captions: Tensor, end: int, sayings: Sayings) -> tuple[Tensor, Tensor]:
        """How far the texts that are nearest to their photo bear captions out.

        Args:
            captions: tokens of B captions for each of N photos, (N, B, L).
            end: the token that ends a caption.
            sayings: of these texts.

        Returns:
            Agreement, the mean CIDEr to these texts, (N, B), 0 to 10; and evidence, the mean of
            log(share of these texts that have a token), (N, B), -7 to 0.
        """
        photos, each, _ = captions.shape
        agreement, evidence, weight = sayings.strengths.new_zeros(3, photos * each)
        for order, (text, row, value, rarity) in enumerate(self._ngrams(captions, end)):
            place, said = _find(text // each * len(self.hashes) + row, sayings.grams)
            said &= row >= 0
            agreement.index_add_(0, text[said], value[said] * sayings.strengths[place[said]])
            if order == 0:
                share = torch.full_like(rarity, LEAST_SHARE)
                share[said] = sayings.often[place[said]].clamp(LEAST_SHARE, 1)
                evidence.index_add_(0, text, rarity * share.log())
                weight.index_add_(0, text, rarity)
        evidence = torch.where(weight > 0, evidence / weight, math.log(LEAST_SHARE))
        return (10 / ORDERS * agreement).view(photos, each), evidence.view(photos, each)

    def shorten(self, captions: Tensor, end: int, closing: Tensor) -> Tensor:
        """Beginnings of captions, closed where the support set's texts close.

        Args:
            captions: tokens of B captions for each of N photos, (N, B, L).
            end: the token that ends a caption.
            closing: the token that closes the captions of each photo, a full stop for instance,
                (N,); -1: none does, and there are no beginnings.

        Returns:
            (N, C, L), each of at least `ORDERS` tokens and the closing one; where a photo has fewer
            than C, the others are empty.
        """
        count, last = last_tokens(captions, end)
        hashes = torch.zeros_like(captions[..., ORDERS - 2 :])
        for back in range(ORDERS - 1):
            hashes = _hash_on(hashes, captions[..., back : back + hashes.shape[2]])
        before, _ = _find(hashes, self.hashes)
        closed, known = _find(_hash_on(hashes, last), self.hashes)
        ends = (self.rarity[before[known]] - self.rarity[closed[known]]).exp() >= CLOSE
        known = F.pad(known.masked_scatter(known, ends), (ORDERS - 1, 0))
        # So many tokens stay.
        positions = torch.arange(captions.shape[2], device=captions.device)
        can = known[..., : len(positions)] & (positions >= ORDERS) & (positions + 1 < count)
        photo, caption, kept = (can & (last == closing[:, None, None])).nonzero(as_tuple=True)
        each = photo.bincount(minlength=len(captions))
        place = torch.arange(len(photo), device=photo.device) - (each.cumsum(0) - each)[photo]
        made = captions.new_full((len(captions), int(each.max()), captions.shape[2]), end)
        made[photo, place] = captions[photo, caption].where(positions < kept[:, None], end)
        made[photo, place, kept] = last[photo, caption, 0]
        return made

    def _ngrams(self, captions: Tensor, end: int) -> Iterator[tuple[Tensor, ...]]:
        """The n-grams of captions, (N, B, L), an order at a time: caption, row of `hashes` (-1:
        none), weight, so that those of a caption have a length of 1, and rarity of each."""
        captions = captions.flatten(0, 1)
        there = (captions == end).cumsum(dim=1) == 0
        offsets = F.pad(there.sum(dim=1).cumsum(0), (1, 0))
        # What no text has is as rare as can be.
        rarest = math.log(len(self.offsets) - 1)
        for text, which, times, distinct in _count_ngrams(captions[there], offsets):
            row, known = _find(distinct, self.hashes)
            rarity = torch.full_like(distinct, rarest, dtype=self.rarity.dtype)
            rarity[known] = self.rarity[row[known]]
            weights = times * rarity[which]
            weights = weights / _lengths(text, weights, len(captions))[text]
            yield text, torch.where(known, row, -1)[which], weights, rarity[which]


def last_tokens(captions: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """How many tokens captions, (N, B, L), have before their end, and the last of these: both
    (N, B, 1)."""
    count = ((captions == end).cumsum(dim=2) == 0).sum(dim=2, keepdim=True)
    return count, captions.gather(2, (count - 1).clamp(min=0))


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
        hashes = _hash_on(hashes, tokens[first + order])
        distinct, which = hashes.unique(return_inverse=True)
        size = max(1, len(distinct))
        pairs, times = (text * size + which).unique(return_counts=True)
        yield pairs // size, pairs % size, times, distinct


def _hash_on(hashes: Tensor, tokens: Tensor) -> Tensor:
    """The hashes of n-grams that go on with a token, by those of the shorter ones (0: of none)."""
    return ((hashes ^ (hashes >> 32)) + tokens + 1) * _MULTIPLIER


def _find(wanted: Tensor, rising: Tensor) -> tuple[Tensor, Tensor]:
    """Where each value stands among others that rise, and whether it does."""
    place = torch.searchsorted(rising, wanted)
    inside = place < len(rising)
    place = torch.where(inside, place, 0)
    return place, inside & (rising[place] == wanted) if len(rising) else inside


def _lengths(text: Tensor, weights: Tensor, texts: int) -> Tensor:
    """The length of each text's vector of weights; at least so much that one can divide by it."""
    squares = weights.new_zeros(texts).index_add_(0, text, weights**2)
    return squares.sqrt().clamp(min=SHORTEST)
