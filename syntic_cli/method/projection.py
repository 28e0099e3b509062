"""Equation 3: project features on the support set of text features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows of features and of the support set compared at a time: large enough for matrix products at
# full speed, small enough for a processor's cache; they bound the memory.
TILE = {"cpu": (1024, 2048)}
TILE_ELSEWHERE = (4096, 4096)
# exp of less is of no weight beside exp(0) = 1, but slow to compute with: denormal numbers.
LEAST_EXPONENT = -80.0


@torch.no_grad()
def project(features: Tensor, support: Tensor, temperature: float) -> Tensor:
    """Express each feature as a softmax-weighted sum of the support set's text features.

    p_i = Σ_j softmax_j(cos(v_i, s_j)/τ) · s_j, then normalised  (SynTIC, equation 3; DeCap)

    The N × M weights are never held: both products go over the support set tile by tile, with the
    largest cosine seen so far as the softmax's shift.

    Args:
        features: v, (N, d), of any length.
        support: s, (M, d), of unit length; in half precision the sums are still in float32.
        temperature: τ.

    Returns:
        p, (N, d), of unit length.

    Raises:
        ValueError: where the support set is empty.
    """
    if not len(support):
        raise ValueError("the support set is empty")
    rows, texts = TILE.get(features.device.type, TILE_ELSEWHERE)
    projected = torch.empty_like(features)
    for some, out in zip(features.split(rows), projected.split(rows), strict=True):
        out.copy_(F.normalize(_weighted_sum(some, support, temperature, texts), dim=-1))
    return projected


def _weighted_sum(features: Tensor, support: Tensor, temperature: float, texts: int) -> Tensor:
    """Equation 3 but for a factor a row, so without the softmax's denominator: (N, d)."""
    precise = torch.promote_types(support.dtype, torch.float32)
    queries = F.normalize(features.to(precise), dim=-1).to(support.dtype)
    total = torch.zeros_like(features, dtype=precise)
    largest = total.new_full((len(features), 1), -torch.inf)
    for tile in support.split(texts):
        weights = _product(queries, tile.T)  # cosines, (N, tile)
        before, largest = largest, torch.maximum(largest, weights.amax(dim=1, keepdim=True))
        torch.add(-largest / temperature, weights, alpha=1 / temperature, out=weights)
        weights.clamp_(min=LEAST_EXPONENT).exp_()
        total.mul_(((before - largest) / temperature).exp_())
        total.add_(_product(weights.to(tile.dtype), tile))
    return total


def _product(left: Tensor, right: Tensor) -> Tensor:
    """A matrix product, summed and returned in float32 where its factors are in half precision."""
    if left.dtype.itemsize >= 4:
        return left @ right
    if left.device.type == "cuda":
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def nearest(features: Tensor, support: Tensor, tile: int = 8192) -> tuple[Tensor, Tensor]:
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
