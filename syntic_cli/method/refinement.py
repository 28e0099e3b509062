"""Equations 1 and 2: refine the features of synthetic images against their texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    image_features: Tensor, text_features: Tensor, temperature: float, image: Tensor | None = None
) -> Tensor:
    """The mean over a mini-batch of how badly each image feature picks its own texts.

    With one text an image  (SynTIC, equations 1 and 2):

        −(1/B) Σ_i log [ e(i, i) / Σ_j e(i, j) ],  e(i, j) = exp(cos(v_i, t_j)/τ)

    With several, P_i being those of image i and k going over the others of the mini-batch:

        −(1/B) Σ_i (1/|P_i|) Σ_{j ∈ P_i} log [ e(i, j) / (e(i, j) + Σ_{k ∉ P_i} e(i, k)) ]

    Args:
        image_features: v, (B, d), of any length.
        text_features: t, (T, d), of any length.
        temperature: τ.
        image: the image that each text belongs to, (T,), each image at least once; without it
            row i of the texts belongs to image i.

    Returns:
        The loss, a scalar.
    """
    texts = _Texts.of(text_features, temperature, len(image_features), image)
    return _loss(image_features, texts)


@dataclass(frozen=True)
class _Texts:
    """What a mini-batch's texts are to the loss from step to step.

    scaled: t of length 1/τ, (T, d). With one text an image, in the images' order, that is all;
    else own: whose they are, (B, T) bool; image: the same, (T,); weights: 1/(B |P_i|), (T,).
    """

    scaled: Tensor
    own: Tensor | None = None
    image: Tensor | None = None
    weights: Tensor | None = None

    @staticmethod
    def of(features: Tensor, temperature: float, images: int, image: Tensor | None) -> _Texts:
        scaled = F.normalize(features, dim=-1) / temperature
        rows = torch.arange(images, device=features.device)
        if image is None or torch.equal(image, rows):
            return _Texts(scaled)
        counts = torch.bincount(image, minlength=images)
        if not counts.all():
            raise ValueError("an image of the mini-batch has no text")
        return _Texts(scaled, image == rows[:, None], image, 1 / (images * counts[image]))


def _loss(image_features: Tensor, texts: _Texts) -> Tensor:
    logits = F.normalize(image_features, dim=-1) @ texts.scaled.T  # (B, T)
    if texts.own is None or texts.image is None or texts.weights is None:
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
    others = logits.masked_fill(texts.own, -torch.inf).logsumexp(dim=1)  # (B,)
    positive = logits[texts.image, torch.arange(len(texts.image), device=logits.device)]  # (T,)
    # −log [e^p / (e^p + e^o)] = log(1 + e^(o − p))
    return (texts.weights * F.softplus(others[texts.image] - positive)).sum()


def refine_batch(
    image_features: Tensor,
    text_features: Tensor,
    *,
    temperature: float,
    lr: float,
    epochs: int,
    image: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Minimise the contrastive loss of one mini-batch over its image features alone, with Adam.

    Args:
        image_features: v, (B, d).
        text_features: t, (T, d).
        temperature: τ.
        lr: Adam's learning rate.
        epochs: how often the batch is seen, which is the number of Adam's steps.
        image: as in `contrastive_loss`.

    Returns:
        The refined features, (B, d), of unit length, and the loss before each step, (epochs,).
    """
    features = image_features.detach().clone().requires_grad_(True)
    texts = _Texts.of(text_features, temperature, len(features), image)
    optimizer = torch.optim.Adam([features], lr=lr, fused=True)
    losses = torch.empty(epochs, device=features.device)
    for epoch in range(epochs):
        loss = _loss(features, texts)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses[epoch] = loss.detach()
    return F.normalize(features.detach(), dim=-1), losses


class TextsOfImages:
    """Finds the texts of some images where each text names its image."""

    def __init__(self, image: Tensor, images: int) -> None:
        """
        Args:
            image: the image of each text, (N,), −1 for a text that has none.
            images: G.
        """
        self._order = image.argsort(stable=True)
        ends = torch.searchsorted(image[self._order], torch.arange(images + 1))
        self._first, self.counts = ends[:-1], ends.diff()

    def of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The texts of some images, (B,): rows of texts, (T,), and which of the images, (T,)."""
        counts = self.counts[images]
        which = torch.arange(len(images)).repeat_interleave(counts)
        steps = torch.arange(len(which)) - (counts.cumsum(0) - counts)[which]
        return self._order[self._first[images][which] + steps], which


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
    image: Tensor | None = None,
) -> Tensor:
    """Refine every image feature within its mini-batch (SynTIC, equations 1 and 2).

    Args:
        image_features: v, (G, d).
        text_features: t, (N, d).
        temperature: τ.
        lr: Adam's learning rate.
        epochs: passes over the items.
        batch_size: images of a mini-batch, the texts of the others being the negatives.
        seed: decides which images share a mini-batch.
        image: the image of each text, (N,), −1 for a text that has none; without it row i of the
            texts belongs to image i.

    Returns:
        The refined features, (G, d), of unit length; an image without texts keeps its direction.
    """
    refined = F.normalize(image_features, dim=-1)
    own = torch.arange(len(image_features)) if image is None else image
    texts = TextsOfImages(own, len(image_features))
    items = texts.counts.nonzero().squeeze(1)
    for batch in partition(len(items), batch_size, seed):
        images = items[batch]
        rows, which = texts.of(images)
        refined[images], _ = refine_batch(
            image_features[images],
            text_features[rows],
            temperature=temperature,
            lr=lr,
            epochs=epochs,
            image=which.to(text_features.device),
        )
    return refined
