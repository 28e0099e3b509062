"""Equations 1 and 2: refine the features of synthetic images against their texts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(image_features: Tensor, text_features: Tensor, temperature: float) -> Tensor:
    """The mean over a mini-batch of how badly each image feature picks its own text.

    −(1/B) Σ_i log [ exp(cos(v_i, t_i)/τ) / Σ_j exp(cos(v_i, t_j)/τ) ]  (SynTIC, equations 1 and 2)

    Args:
        image_features: v, (B, d), of any length.
        text_features: t, (B, d), of any length; row i belongs to image i.
        temperature: τ.

    Returns:
        The loss, a scalar.
    """
    return _loss(image_features, F.normalize(text_features, dim=-1) / temperature)


def _loss(image_features: Tensor, scaled_texts: Tensor) -> Tensor:
    """The loss with t of length 1/τ, which a mini-batch's texts keep from step to step."""
    logits = F.normalize(image_features, dim=-1) @ scaled_texts.T  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits, own)


def refine_batch(
    image_features: Tensor, text_features: Tensor, *, temperature: float, lr: float, epochs: int
) -> tuple[Tensor, Tensor]:
    """Minimise the contrastive loss of one mini-batch over its image features alone, with Adam.

    Args:
        image_features: v, (B, d).
        text_features: t, (B, d).
        temperature: τ.
        lr: Adam's learning rate.
        epochs: how often the batch is seen, which is the number of Adam's steps.

    Returns:
        The refined features, (B, d), of unit length, and the loss before each step, (epochs,).
    """
    features = image_features.detach().clone().requires_grad_(True)
    scaled_texts = F.normalize(text_features, dim=-1) / temperature
    optimizer = torch.optim.Adam([features], lr=lr, fused=True)
    losses = torch.empty(epochs, device=features.device)
    for epoch in range(epochs):
        loss = _loss(features, scaled_texts)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses[epoch] = loss.detach()
    return F.normalize(features.detach(), dim=-1), losses


def partition(items: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Cut a random order of the items into mini-batches.

    Neighbours in a corpus often describe one scene; drawn in order they would be each other's
    negatives. The partition is drawn once, so each mini-batch can be refined on its own.

    Args:
        items: N.
        batch_size: B; a last batch of a single item joins the one before it.
        seed: decides the order.

    Yields:
        The indices of each mini-batch.
    """
    order = torch.randperm(items, generator=torch.Generator().manual_seed(seed))
    ends = [*range(batch_size, items, batch_size), items]
    if len(ends) > 1 and ends[-1] - ends[-2] == 1:
        del ends[-2]
    start = 0
    for end in ends:
        yield order[start:end]
        start = end


def refine(
    image_features: Tensor,
    text_features: Tensor,
    *,
    temperature: float = 0.01,
    lr: float = 1e-5,
    epochs: int = 100,
    batch_size: int = 512,
    seed: int = 0,
) -> Tensor:
    """Refine every image feature within its mini-batch (SynTIC, equations 1 and 2).

    Args:
        image_features: v, (N, d).
        text_features: t, (N, d); row i belongs to image i.
        temperature: τ.
        lr: Adam's learning rate.
        epochs: passes over the items.
        batch_size: the mini-batch, whose other texts are the negatives.
        seed: decides which items share a mini-batch.

    Returns:
        The refined features, (N, d), of unit length.
    """
    refined = torch.empty_like(image_features)
    for batch in partition(len(image_features), batch_size, seed):
        refined[batch], _ = refine_batch(
            image_features[batch],
            text_features[batch],
            temperature=temperature,
            lr=lr,
            epochs=epochs,
        )
    return refined
