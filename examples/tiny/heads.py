"""Heads into the joint space on features of frozen towers, and the captions they learn from."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from data import Photo
from lower_maps import photos
from safetensors.torch import load_file, save_file
from text_tower import minilm_features
from torch import Tensor, nn
from torch.nn import functional as F

JOINT = 256
BATCH = 1000
EPOCHS, RATE = 30, 3e-3


class Head(nn.Module):
    """Standardisation and projection to unit vectors; `hidden` adds a layer beside the linear."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: Tensor, dropout: float, hidden: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(0))
        # Features that all but never fire are not to be blown up.
        self.register_buffer("std", features.std(0).clamp(min=0.05 if hidden == 0 else 0.01))
        self.dropout, wide = nn.Dropout(dropout), features.shape[1]
        self.linear = nn.Linear(wide, JOINT)
        layers = [nn.Linear(wide, hidden), nn.GELU(), nn.Dropout(0.3), nn.Linear(hidden, JOINT)]
        self.deep = nn.Sequential(*layers) if hidden else None

    def forward(self, features: Tensor) -> Tensor:
        x = self.dropout((features - self.mean) / self.std)
        y = self.linear(x)
        return F.normalize(y if self.deep is None else y + self.deep(x), dim=-1)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the linear layer that act on raw features."""
        weight = self.linear.weight / self.std
        return weight, self.linear.bias - weight @ self.mean


class Captions:
    """Whose the captions of photos are."""

    def __init__(self, group: list[Photo]) -> None:
        self.texts = [caption for photo in group for caption in photo.captions]
        ends = np.cumsum([len(photo.captions) for photo in group])
        self.rows = np.split(np.arange(ends[-1]), ends[:-1])
        self.owners = torch.from_numpy(
            np.repeat(np.arange(len(group)), [len(r) for r in self.rows])
        )

    def draw(self, chosen: np.ndarray, count: int, random: np.random.RandomState) -> np.ndarray:
        """Rows of `count` different captions of each photo, (count, B)."""
        rows = [random.choice(self.rows[i], count, replace=False) for i in chosen]
        return np.stack(rows, axis=1)


def sentence_features(texts: list[str], cache: Path) -> Tensor:
    """MiniLM's embeddings (n, 384), kept in a file."""
    if not cache.exists():
        save_file({"features": minilm_features(texts, "cpu").half()}, cache)
    return load_file(cache)["features"].float()


def train_captions(data: Path) -> Captions:
    """The captions of the training photos of both data sets."""
    return Captions(photos(data, "train"))


def fit_heads(
    image: Head,
    features: Tensor,
    text: nn.Module,
    sentences: Tensor,
    captions: Captions,
    draws: int,
) -> Tensor:
    """Symmetric InfoNCE between photos and `draws` captions of each; returns the log-scale.

    Strong weight decay, for the heads see few pairs.
    """
    log_scale = nn.Parameter(torch.tensor(math.log(20.0)))
    groups = by_decay([*image.parameters(), *text.parameters(), log_scale], RATE, 1.0)
    optimizer, random = torch.optim.AdamW(groups), np.random.RandomState(0)
    steps, step = EPOCHS * -(-len(features) // BATCH), 0
    for _ in range(EPOCHS):
        order = random.permutation(len(features))
        for chosen in np.split(order, range(BATCH, len(order), BATCH)):
            step += 1
            set_rates(optimizer, min(step / 20, cosine(step / steps, 0.05)))
            photo, labels, loss = (
                image(features[chosen]),
                torch.arange(len(chosen)),
                torch.zeros(()),
            )
            for rows in captions.draw(chosen, draws, random):
                logits = log_scale.exp() * photo @ text(sentences[rows]).T
                both = F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)
                loss = loss + both / (2 * draws)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return log_scale.detach()


def by_decay(parameters: Iterable[Tensor], rate: float, decay: float) -> list[dict[str, object]]:
    """Groups for an optimiser: weight decay on matrices alone."""
    parameters = list(parameters)
    matrices, others = ([p for p in parameters if (p.ndim > 1) == kind] for kind in (True, False))
    groups = ((matrices, decay), (others, 0.0))
    return [{"params": g, "lr": rate, "top": rate, "weight_decay": d} for g, d in groups if g]


def cosine(done: float, lowest: float) -> float:
    """A factor that falls from 1 to `lowest` while `done` grows from 0 to 1."""
    return lowest + (1 - lowest) * (0.5 + 0.5 * math.cos(math.pi * done))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's learning rate to a share of its highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["top"] * factor
