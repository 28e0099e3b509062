"""Equation 3: project features on the support set of text features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def project(features: Tensor, support: Tensor, temperature: float) -> Tensor:
    """Express each feature as a softmax-weighted sum of the support set's text features.

    p_i = Σ_j softmax_j(cos(v_i, s_j)/τ) · s_j, then normalised  (SynTIC, equation 3; DeCap)

    This is attention with the support set as keys and values, so the fused kernel computes it in
    tiles and the N × M weights are never held.

    Args:
        features: v, (N, d), of any length.
        support: s, (M, d), of unit length.
        temperature: τ.

    Returns:
        p, (N, d), of unit length.
    """
    queries = F.normalize(features, dim=-1).to(support.dtype)
    keys = support[None, None]
    projected = F.scaled_dot_product_attention(
        queries[None, None], keys, keys, scale=1.0 / temperature
    )
    return F.normalize(projected[0, 0].to(features.dtype), dim=-1)


def nearest(features: Tensor, support: Tensor, tile: int = 65536) -> tuple[Tensor, Tensor]:
    """The most similar support feature of each feature (the paper's CLIPRe baseline).

    Args:
        features: v, (N, d), of unit length.
        support: s, (M, d), of unit length.
        tile: support rows compared at a time, which bounds the memory.

    Returns:
        The cosines, (N,), and the rows of the support set, (N,).
    """
    best = torch.full((len(features),), -torch.inf, device=features.device, dtype=features.dtype)
    rows = torch.zeros(len(features), dtype=torch.long, device=features.device)
    for start in range(0, len(support), tile):
        cosines, found = (features @ support[start : start + tile].T).max(dim=1)
        better = cosines > best
        best = torch.where(better, cosines, best)
        rows = torch.where(better, found + start, rows)
    return best, rows
