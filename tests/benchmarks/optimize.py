"""optimize (equations 1 and 2): items a second against a loop over single items."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from syntic_cli.method.refinement import refine

from .measure import Options, Row, compare, interleave
from .project import made_up

EPOCHS = 5
BATCH = 512
ITEMS = {"cpu": 20_480, "cuda": 1_000_000}


def item_by_item(images: Tensor, texts: Tensor) -> None:
    """The same steps for a mini-batch, with the loss summed over its items in Python."""
    features = images.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([features], lr=1e-5)
    own = torch.arange(len(images), device=images.device)
    for _ in range(EPOCHS):
        losses = [
            F.cross_entropy(F.cosine_similarity(features[row][None], texts) / 0.01, own[row])
            for row in range(len(features))
        ]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()


def products(images: Tensor, texts: Tensor) -> None:
    """The floor: a cosine product and its gradient's product, for every batch and step."""
    for some, own in zip(images.split(BATCH), texts.split(BATCH), strict=True):
        for _ in range(EPOCHS):
            (some @ own.T) @ own


def run(options: Options) -> list[Row]:
    """Items a second of five epochs."""
    items = ITEMS[options.device]
    images, texts = made_up(items, items, options.device)
    candidates: dict[str, Callable[[], object]] = {
        "ours": lambda: refine(images, texts, epochs=EPOCHS, batch_size=BATCH),
        "item by item": lambda: item_by_item(images[:BATCH], texts[:BATCH]),
        "floor: matrix products": lambda: products(images, texts),
    }
    times = interleave(candidates, options)
    return compare(
        "optimize",
        f"{items:,} items, batches of {BATCH}, {EPOCHS} epochs",
        "items/s",
        times,
        {"ours": items, "item by item": BATCH, "floor: matrix products": items},
        clock=options.clock,
    )
