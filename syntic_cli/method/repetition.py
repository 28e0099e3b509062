"""What a caption pays for a word that it has already, learnt from how texts repeat theirs.

A decoder trained on short texts writes "a plate of food on a plate" more often than people do. How
often people do is counted: of the texts that have a word, the share that has it again. Equation 6
knows no such cost; with a weight of 0 there is none.

A word is known by the token that bears its mark: the one with the space before it, or, in CLIP's
encoding, the one that ends the word. Words that differ in case or by an ending that many words of
the corpus take ("plate", "plates") are one family, and are counted and paid for as one word.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# An ending counts as one of the language where this share of the words take it, and so many do.
PRODUCTIVE = 0.01
FEWEST_PAIRS = 3
SHORTEST_STEM = 3
LONGEST_ENDING = 4
# With fewer marks than this a token, the texts are written without spaces: each token is a word.
UNSPACED = 0.25
# A word that never came twice in however large a corpus costs no more than this, in nats.
FLOOR = -7.0


@dataclass(frozen=True)
class Repetition:
    """What tokens cost in a caption that has one of their family already.

    costs: (V,), in nats, 0 or less. relatives: (V, K), the tokens of each token's family in
    ascending order, itself among them, filled up with the first.
    """

    costs: Tensor
    relatives: Tensor

    def charge_(self, scores: Tensor, written: Tensor) -> Tensor:
        """Add the costs to the scores of next tokens, in place.

        Args:
            scores: (..., V), log-probabilities.
            written: the tokens so far, (..., T).

        Returns:
            The scores.
        """
        repeated = self.relatives[written].flatten(-2)
        return scores.scatter_(-1, repeated, scores.gather(-1, repeated) + self.costs[repeated])

    def paid(self, captions: Tensor) -> Tensor:
        """What whole captions, (..., L), have paid in all: (...), in nats."""
        family = self.relatives[captions, 0]
        same = family[..., :, None] == family[..., None, :]
        return (self.costs[captions] * same.tril(-1).any(-1)).sum(-1)


def make_repetition(family: Tensor, share: Tensor, weight: float) -> Repetition:
    """The costs that `learn_repetition` found, by their weight.

    Args:
        family: (V,), numbers of families.
        share: (V,), in 0..1.
        weight: of the share's logarithm; 1 charges what texts say.
    """
    order = family.argsort(stable=True)
    _, place, sizes = family.unique(return_inverse=True, return_counts=True)
    slots = torch.arange(int(sizes.max()), device=family.device)
    first = (sizes.cumsum(0) - sizes)[place]
    # A slot beyond a family's size holds its first token once more.
    within = slots * (slots < sizes[place, None])
    return Repetition(weight * share.log().clamp(min=FLOOR), order[first[:, None] + within])


def learn_repetition(
    tokens: np.ndarray, offsets: np.ndarray, spellings: Sequence[str], marked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Count how often words come again in the texts that have them.

    The share is (again + ½) / (texts + 1), so that a rare word costs little. Tokens that are no
    words, and those that no text has, get a share of 1: they cost nothing.

    Args:
        tokens: of all texts, one after the other.
        offsets: where each text begins, and the end, (N + 1,).
        spellings: what each token reads, V of them.
        marked: which tokens bear the mark of a word, (V,) bool.

    Returns:
        The number of each token's family, (V,) int32, and that family's share, (V,) float32.
    """
    there = np.bincount(tokens, minlength=len(marked)) > 0
    if marked[tokens].sum() < UNSPACED * len(tokens):
        marked = np.ones_like(marked)
    words = marked & there
    family = _families(spellings, np.flatnonzero(words), len(marked))
    text = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    # A text and a family in one number.
    pairs, times = np.unique(text * len(marked) + family[tokens], return_counts=True)
    found = pairs % len(marked)
    texts = np.bincount(found, minlength=len(marked))
    again = np.bincount(found[times > 1], minlength=len(marked))
    share = np.where(words, ((again + 0.5) / (texts + 1))[family], 1.0)
    return family.astype(np.int32), share.astype(np.float32)


def _families(spellings: Sequence[str], words: np.ndarray, size: int) -> np.ndarray:
    """The lowest token of every token's family, (size,); tokens that are no words are alone."""
    alike: defaultdict[str, list[int]] = defaultdict(list)
    for word in words.tolist():
        # Numbers, and the first bytes of a letter, are like no other.
        if spellings[word].isalpha():
            alike[spellings[word].casefold()].append(word)
    stems = [
        (word[:cut], word)
        for word in alike
        for cut in range(max(SHORTEST_STEM, len(word) - LONGEST_ENDING), len(word))
        if word[:cut] in alike
    ]
    endings = Counter(word[len(stem) :] for stem, word in stems)
    productive = max(FEWEST_PAIRS, PRODUCTIVE * len(alike))
    family = np.arange(size)
    for members in alike.values():
        family[members] = members[0]
    for stem, word in stems:
        if endings[word[len(stem) :]] >= productive:
            joined = family[[alike[stem][0], alike[word][0]]]
            family[family == joined.max()] = joined.min()
    return family
