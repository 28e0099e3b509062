"""Texts paired anew with the images that say them best (SynC, 2025)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .neighbours import k_nearest

# Texts scored at a time, which bounds the memory.
TILE = 512
# Scores are compared to so many decimals: the own text found through two images must be a tie.
DECIMALS = 6


@torch.no_grad()
def choose_images(
    text_features: Tensor, image_features: Tensor, *, images: int = 15, texts: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """The image of each text from which a text like it is found again.

    From a text t_i to its nearest images, and from each of them back to its nearest texts:

        s(i, g) = max { cos(t_i, t_k) : k among the `texts` nearest texts of image g }

    over the `images` nearest images g of t_i; of equal scores the more similar image is taken.

    Args:
        text_features: t, (N, d), of unit length.
        image_features: v, (G, d), of unit length.
        images: how many images a text is compared with.
        texts: how many texts an image stands for.

    Returns:
        The image of each text, (N,) int64; its score, (N,); and its cosine with the text, (N,).
    """
    _, standing = k_nearest(image_features, text_features, texts)  # (G, T)
    chosen = torch.empty(len(text_features), dtype=torch.int64, device=text_features.device)
    best, cosine = text_features.new_empty(2, len(text_features), dtype=torch.float32)
    for start in range(0, len(text_features), TILE):
        some = slice(start, start + TILE)
        own = text_features[some].float()
        cosines, near = k_nearest(own, image_features, images)  # (n, I)
        back = text_features[standing[near.long()].long()].float()  # (n, I, T, d)
        scores = torch.einsum("nitd,nd->nit", back, own).amax(dim=2)
        best[some], place = scores.round(decimals=DECIMALS).max(dim=1)
        chosen[some] = near.gather(1, place[:, None]).squeeze(1)
        cosine[some] = cosines.gather(1, place[:, None]).squeeze(1)
    return chosen, best, cosine


def keep_best(scores: np.ndarray, cosines: np.ndarray, share: float) -> np.ndarray:
    """Which texts stay: the share of them with the highest scores.

    Args:
        scores: of each text, (N,).
        cosines: with its image, (N,); decides between equal scores, and then the earlier text.
        share: 0 to 1, rounded up to whole texts.

    Returns:
        (N,) bool.
    """
    order = np.lexsort((-cosines, -scores))
    kept = np.zeros(len(scores), bool)
    # Rounded first: 0.9 times 10 must be 9 texts.
    kept[order[: math.ceil(round(share * len(scores), 6))]] = True
    return kept
