"""Features of photo files and of texts by a dual encoder, where all fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..photos import load_photo
from ..transfer import stack_on
from .clip import Clip
from .loading import FittingBatch

READERS = 4


def photo_features(
    model: Clip,
    photos: Sequence[Path],
    batch_size: int,
    advance: Callable[[int], None],
    warn: Callable[[str], None],
) -> np.ndarray:
    """Unit-length features, (N, d), of photos.

    Args:
        model: the dual encoder.
        photos: image files.
        batch_size: photos held in memory, and encoded, at a time.
        advance: told how many were done.
        warn: told where fewer fit into the device's memory.

    Raises:
        SynticError: a photo cannot be read.
    """

    def read(photo: Path) -> torch.Tensor:
        return model.preprocess(load_photo(photo, at_least=model.image_size))

    def encode(pixels: Sequence[torch.Tensor], start: int, stop: int) -> torch.Tensor:
        return model.encode_images(stack_on(pixels[start:stop], model.device))

    fitting, found = FittingBatch(warn), list[torch.Tensor]()
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(photos), batch_size):
            pixels = list(pool.map(read, photos[start : start + batch_size]))
            found += fitting.run(partial(encode, pixels), len(pixels))
            advance(len(pixels))
    return torch.cat(found).numpy()


def text_features(
    model: Clip, texts: Sequence[str], batch_size: int, warn: Callable[[str], None]
) -> np.ndarray:
    """Unit-length features, (N, d), of texts; equal texts are encoded once."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    distinct = list(numbers)

    def encode(first: int, start: int, stop: int) -> torch.Tensor:
        return model.encode_texts(distinct[first + start : first + stop])

    fitting, found = FittingBatch(warn), list[torch.Tensor]()
    for first in range(0, len(distinct), batch_size):
        size = min(batch_size, len(distinct) - first)
        found += fitting.run(partial(encode, first), size)
    return torch.cat(found).numpy()[[numbers[text] for text in texts]]
