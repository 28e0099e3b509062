"""Photos in: JPEG's reduced-size decoding against full decoding; reading ahead against none."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torchvision.transforms.v2 as transforms
from PIL import Image

from syntic_cli.passes import READERS, Waits, cut_batches, read_ahead
from syntic_cli.photos import decode_image

from .measure import Options, Row, compare, interleave

PHOTOS = 24
SIDE = 224


def photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG with smooth and with noisy parts, as large as a photo of that size."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noisy = pixels.astype(np.int16) + random.integers(-12, 13, pixels.shape, dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def run(options: Options) -> list[Row]:
    """Photos a second for two sizes, then through an image model with and without reading ahead."""
    results = []
    for width, height in ((640, 480), (2048, 1536)):
        results += _decoding([photo(width, height, 0)] * PHOTOS, f"{width}×{height}", options)
    return results + _ahead([photo(640, 480, seed) for seed in range(PHOTOS * 4)], options)


def _decoding(files: list[bytes], size: str, options: Options) -> list[Row]:
    """Decode and scale, by one thread."""
    scale = transforms.Resize(SIDE)

    def decode(at_least: int | None) -> None:
        for data in files:
            scale(decode_image(data, "photo", at_least))

    candidates: dict[str, Callable[[], object]] = {
        "ours": lambda: decode(SIDE),
        "full decoding": lambda: decode(None),
    }
    times = interleave(candidates, options)
    what = f"{size} JPEG to {SIDE} pixels"
    targets = {"full decoding": 1.0}
    return compare(
        "read", what, "photos/s", times, len(files), targets=targets, clock=options.clock
    )


@torch.inference_mode()
def _ahead(files: list[bytes], options: Options) -> list[Row]:
    """Read while the device computes, or by turns; bound by whichever part is the slower one."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 768, 32, 32), torch.nn.Flatten(2), torch.nn.Linear(49, 512)
    ).to(options.device)
    scale = transforms.Compose(
        [
            transforms.Resize((SIDE, SIDE)),
            transforms.ToImage(),
            transforms.ToDtype(torch.float32, scale=True),
        ]
    )

    def read(row: int) -> torch.Tensor:
        return scale(decode_image(files[row], "photo", SIDE))

    def compute(items: list[torch.Tensor]) -> torch.Tensor:
        return model(torch.stack(items).to(options.device)).cpu()

    def ahead() -> None:
        batches = list(cut_batches([(0, len(files))], 16, len(files)))
        with ThreadPoolExecutor(READERS) as readers:
            for _, _, items in read_ahead(batches, read, readers, Waits()):
                compute([item for item in items if isinstance(item, torch.Tensor)])

    def by_turns() -> None:
        for first in range(0, len(files), 16):
            compute([read(row) for row in range(first, min(first + 16, len(files)))])

    candidates = {"ours": ahead, "no reading ahead": by_turns}
    times = interleave(candidates, options, wall=True)
    return compare("read", "decode and compute, 640×480", "photos/s", times, len(files))
