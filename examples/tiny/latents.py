"""The latent space of the text-to-image model: what is seen, and the colours, on a 4x4 grid.

Each grid cell holds the leading principal components of EfficientNet-Lite0's features there, the
mean colours of its four quarters and, the same in every cell, those of the dual encoder's feature
of the whole photo. Such latents follow from a caption far more directly than those of a pixel
autoencoder, so that a small model learns them in an hour on a CPU.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from data import load_pixels
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from towers import efficientnet_lite0, normalise, pooled

GRID = 4
IMAGE = 64
LOCAL = 24
WHOLE = 64
COLOURS = 12
CHANNELS = LOCAL + WHOLE + COLOURS


@dataclass
class LatentSpace:
    """The fixed linear maps from features to latent channels."""

    mean: Tensor  # (320,)
    axes: Tensor  # (320, LOCAL)
    whole_mean: Tensor  # (256,)
    whole_axes: Tensor  # (256, WHOLE)

    @classmethod
    def fit(cls, maps: np.ndarray, features: Tensor, seed: int = 0) -> "LatentSpace":
        """Principal components of training maps (n, 320, 8, 8) and photo features (n, 256)."""
        rows = np.random.RandomState(seed).permutation(len(maps))[:2000]
        cells = _cells(torch.from_numpy(maps[np.sort(rows)])).movedim(1, -1).reshape(-1, 320)
        return cls(*_principal(cells, LOCAL), *_principal(features, WHOLE))

    def encode(self, maps: Tensor, features: Tensor, images: Tensor) -> Tensor:
        """Latents (B, CHANNELS, 4, 4) of maps (B, 320, 8, 8), features and 64-pixel images."""
        local = torch.einsum("bchw,cd->bdhw", _cells(maps) - self.mean[:, None, None], self.axes)
        whole = (features - self.whole_mean) @ self.whole_axes
        whole = whole[:, :, None, None].expand(-1, -1, GRID, GRID)
        colours = F.pixel_unshuffle(F.avg_pool2d(images, IMAGE // (2 * GRID)), 2)
        return torch.cat([local, whole, 2 * colours], 1)

    def save(self, path: Path) -> None:
        save_file({name: value.contiguous() for name, value in vars(self).items()}, path)

    @classmethod
    def load(cls, path: Path) -> "LatentSpace":
        return cls(**load_file(path))


class PhotoHead:
    """From EfficientNet-Lite0's maps to the features of the dual encoder."""

    def __init__(self, clip: Path, device: str = "cpu") -> None:
        state = load_file(clip / "open_clip_model.safetensors", device=device)
        self.weight, self.bias = (
            state[f"visual.head.proj.{kind}"].float() for kind in ("weight", "bias")
        )
        self.tower = efficientnet_lite0().to(device)

    def __call__(self, maps: Tensor) -> Tensor:
        """Unit features (B, 256) of maps (B, 320, H, W)."""
        return F.normalize(F.linear(pooled(self.tower, maps), self.weight, self.bias), dim=-1)


def _principal(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and half-whitened axes: leading components keep more weight than trailing ones."""
    mean = rows.mean(0)
    variance, axes = torch.linalg.eigh(torch.cov((rows - mean).T))
    variance, axes = variance.flip(0)[:count], axes.flip(1)[:, :count]
    scale = variance.pow(-0.25)
    scale /= (variance.sqrt() * scale).square().mean().sqrt()
    return mean, axes * scale


def _cells(maps: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(maps.float(), GRID)


def small_images(paths: list[Path]) -> Tensor:
    """Photos as (n, 3, 64, 64) uint8."""
    return torch.stack([load_pixels(path, IMAGE) for path in paths])


def features_of_maps(head: PhotoHead, maps: np.ndarray) -> Tensor:
    """Features of many photos, in pieces that fit in memory."""
    pieces = [torch.from_numpy(maps[i : i + 250]).float() for i in range(0, len(maps), 250)]
    return torch.cat([head(piece) for piece in pieces])


def encode_photos(space: LatentSpace, maps: np.ndarray, features: Tensor, pixels: Tensor) -> Tensor:
    """Latents of many photos, in pieces that fit in memory."""
    pieces = [
        space.encode(torch.from_numpy(maps[s]), features[s], normalise(pixels[s]))
        for s in (slice(i, i + 500) for i in range(0, len(maps), 500))
    ]
    return torch.cat(pieces)
