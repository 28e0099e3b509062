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


def texts_of_images(image_features: Tensor, text_features: Tensor, texts: int) -> Tensor:
    """The texts that each image stands for: the nearest to it, (G, T) int32.

    Args:
        image_features: v, (G, d), of unit length.
        text_features: t, (N, d), of unit length.
        texts: T.
    """
    return k_nearest(image_features, text_features, texts)[1]


@torch.no_grad()
def choose_images(
    own: Tensor, text_features: Tensor, image_features: Tensor, standing: Tensor, images: int = 15
) -> tuple[Tensor, Tensor, Tensor]:
    """The image of each text from which a text like it is found again.

    From a text t_i to its nearest images, and from each of them back to its nearest texts:

        s(i, g) = max { cos(t_i, t_k) : k among the texts nearest to image g }

    over the `images` nearest images g of t_i; of equal scores the more similar image is taken.

    Args:
        own: t_i, (n, d), of unit length.
        text_features: all texts, (N, d), of unit length.
        image_features: v, (G, d), of unit length.
        standing: from `texts_of_images`.
        images: how many images a text is compared with.

    Returns:
        The image of each text, (n,) int64; its score, (n,); and its cosine with the text, (n,).
    """
    chosen = torch.empty(len(own), dtype=torch.int64, device=own.device)
    best, cosine = own.new_empty(2, len(own), dtype=torch.float32)
    for start in range(0, len(own), TILE):
        part = slice(start, start + TILE)
        some = own[part].float()
        cosines, near = k_nearest(some, image_features, images)  # (n, I)
        back = text_features[standing[near.long()].long()].float()  # (n, I, T, d)
        scores = torch.einsum("nitd,nd->nit", back, some).amax(dim=2)
        best[part], place = scores.round(decimals=DECIMALS).max(dim=1)
        chosen[part] = near.gather(1, place[:, None]).squeeze(1)
        cosine[part] = cosines.gather(1, place[:, None]).squeeze(1)
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
