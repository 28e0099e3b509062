"""The latent space of the text-to-image model: what is seen, and the colours, on a 4x4 grid.

Each grid cell holds the leading principal components of EfficientNet-Lite0's features there and
the mean colours of its four quarters. Such latents follow from a caption far more directly than
those of a pixel autoencoder, so that a small model learns them in an hour on a CPU.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from data import load_pixels
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from towers import normalise

GRID = 4
IMAGE = 64
COMPONENTS = 48
CHANNELS = COMPONENTS + 12


@dataclass
class LatentSpace:
    """The fixed linear map from feature maps to latent channels."""

    mean: Tensor  # (320,)
    axes: Tensor  # (320, COMPONENTS)

    @classmethod
    def fit(cls, maps: np.ndarray, seed: int = 0) -> "LatentSpace":
        """Principal components of training maps (n, 320, 8, 8)."""
        rows = np.random.RandomState(seed).permutation(len(maps))[:2000]
        cells = _cells(torch.from_numpy(maps[np.sort(rows)])).movedim(1, -1).reshape(-1, 320)
        mean = cells.mean(0)
        variance, axes = torch.linalg.eigh(torch.cov((cells - mean).T))
        variance, axes = variance.flip(0)[:COMPONENTS], axes.flip(1)[:, :COMPONENTS]
        # Half-whitened: leading components keep more weight than trailing ones.
        scale = variance.pow(-0.25)
        scale /= (variance.sqrt() * scale).square().mean().sqrt()
        return cls(mean, axes * scale)

    def encode(self, maps: Tensor, images: Tensor) -> Tensor:
        """Latents (B, CHANNELS, 4, 4) from maps (B, 320, 8, 8) and images (B, 3, 64, 64)."""
        content = torch.einsum("bchw,cd->bdhw", _cells(maps) - self.mean[:, None, None], self.axes)
        colours = F.pixel_unshuffle(F.avg_pool2d(images, IMAGE // (2 * GRID)), 2)
        return torch.cat([content, 2 * colours], 1)

    def save(self, path: Path) -> None:
        save_file({"mean": self.mean, "axes": self.axes.contiguous()}, path)

    @classmethod
    def load(cls, path: Path) -> "LatentSpace":
        return cls(**load_file(path))


def _cells(maps: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(maps.float(), GRID)


def small_images(paths: list[Path]) -> Tensor:
    """Photos as (n, 3, 64, 64) uint8."""
    return torch.stack([load_pixels(path, IMAGE) for path in paths])


def encode_photos(space: LatentSpace, maps: np.ndarray, pixels: Tensor) -> Tensor:
    """Latents of many photos, in pieces that fit in memory."""
    pieces = [
        space.encode(torch.from_numpy(maps[i : i + 500]), normalise(pixels[i : i + 500]))
        for i in range(0, len(maps), 500)
    ]
    return torch.cat(pieces)
