"""Groups of texts that could describe one scene (ICSD, AAAI 2024, section 3.2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .neighbours import k_nearest

# Heads and sets looked at a time, which bounds the memory.
TILE = 8192


def draw_heads(texts: int, groups: int | None, seed: int) -> Tensor:
    """The texts around which groups are gathered, in the order of the corpus.

    Args:
        texts: N.
        groups: how many are drawn; None, or more than there are texts, takes every text.
        seed: decides which.

    Returns:
        Rows of texts, (G,) int64.
    """
    if groups is None or groups >= texts:
        return torch.arange(texts)
    drawn = torch.randperm(texts, generator=torch.Generator().manual_seed(seed))[:groups]
    return drawn.sort().values


def gather_groups(features: Tensor, heads: Tensor, size: int) -> Tensor:
    """Each head with the texts nearest to it.

    Args:
        features: t, (N, d), of unit length.
        heads: rows of texts, (G,).
        size: texts of a group, the head among them.

    Returns:
        Rows of texts, (G, K) int32 with K = min(size, N): the head, then the others from the most
        similar on.
    """
    others = min(size, len(features)) - 1
    groups = torch.empty(len(heads), others + 1, dtype=torch.int32, device=heads.device)
    for some, group in zip(heads.split(TILE), groups.split(TILE), strict=True):
        own = torch.arange(len(some), device=some.device), some
        group[:, 0] = some
        group[:, 1:] = k_nearest(features[some], features, others, without=own)[1]
    return groups


def first_of_each_set(groups: np.ndarray) -> np.ndarray:
    """The first of all groups that hold the same texts.

    Args:
        groups: rows of texts, (G, K); a text stands in a group once.

    Returns:
        Which groups are kept, rising.
    """
    keys = np.concatenate([_keys(groups[at : at + TILE]) for at in range(0, len(groups), TILE)])
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    same = first[which]
    alike = np.flatnonzero(same != np.arange(len(groups)))
    repeated = np.zeros(len(groups), bool)
    for at in range(0, len(alike), TILE):
        some = alike[at : at + TILE]
        # Two sets may share a key, so equal keys are looked at.
        repeated[some] = (np.sort(groups[some]) == np.sort(groups[same[some]])).all(axis=1)
    return np.flatnonzero(~repeated)


def _keys(groups: np.ndarray) -> np.ndarray:
    """A number for each set, (G,) uint64: the sum of its texts' rows mixed well (splitmix64)."""
    mixed = groups.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed ^ (mixed >> np.uint64(31))).sum(axis=1, dtype=np.uint64)
