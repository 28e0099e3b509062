"""encode and detect: the adapters' passes over images against the bare models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from syntic_cli.models.clip import Clip
from syntic_cli.models.detector import Detector
from syntic_cli.models.loading import quiet_libraries
from syntic_cli.transfer import pinned, stack_on

from .measure import Options, Row, compare, interleave
from .models import dual_encoder, object_detector


def run(options: Options) -> list[Row]:
    """Images a second, the copy to the device and back included in ours."""
    device = torch.device(options.device)
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    with quiet_libraries():
        return _encoding(device, dtype, options) + _detecting(device, dtype, options)


def _encoding(device: torch.device, dtype: torch.dtype, options: Options) -> list[Row]:
    model = dual_encoder(options.device).to(device, dtype).eval()
    pixels = torch.randn(512 if device.type == "cuda" else 64, 3, 224, 224)
    clip = Clip(model, lambda image: pixels[0], lambda texts: pixels, device, dtype)
    images = [pinned(image, device, dtype) for image in pixels]
    bare = _bare(model.encode_image, pixels.to(device, dtype))
    return _rows(
        "encode, 224 pixels",
        lambda: clip.encode_images(stack_on(images, device)),
        bare,
        pixels,
        options,
    )


def _detecting(device: torch.device, dtype: torch.dtype, options: Options) -> list[Row]:
    from transformers import DetrImageProcessor

    model = object_detector(options.device).to(device, dtype).eval()
    large = device.type == "cuda"
    pixels = torch.randn(16 if large else 8, 3, 800 if large else 224, 1056 if large else 224)
    detector = Detector(model, DetrImageProcessor(), [], 0.7, 10, device, dtype)
    what = f"detect, {pixels.shape[3]}×{pixels.shape[2]}"
    images = [pinned(image, device, dtype) for image in pixels]
    bare = _bare(model, pixels.to(device, dtype))
    return _rows(what, lambda: detector.detect(images), bare, pixels, options)


def _bare(model: Callable[[Any], Any], pixels: torch.Tensor) -> Callable[[], object]:
    @torch.inference_mode()
    def forward() -> object:
        return model(pixels)

    return forward


def _rows(
    what: str,
    ours: Callable[[], object],
    bare: Callable[[], object],
    pixels: torch.Tensor,
    options: Options,
) -> list[Row]:
    times = interleave({"ours": ours, "floor: bare model": bare}, options)
    return compare("encode", what, "images/s", times, len(pixels), clock=options.clock)
