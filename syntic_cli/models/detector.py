"""The object detector, through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..photos import check_model_input
from ..settings import DetectSettings
from ..transfer import pinned, stack_on
from . import openvino
from .identity import model_folder
from .loading import loading, quiet_libraries


@dataclass(frozen=True)
class Objects:
    """What was found in one image, the surest first.

    labels index the detector's vocabulary, (K,) int32; scores are in 0..1, (K,) float32; boxes are
    x0 y0 x1 y1 in shares of the image's width and height, (K, 4) float32.
    """

    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray


NO_OBJECTS = Objects(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros((0, 4), np.float32))


@dataclass(frozen=True)
class Detector:
    """A frozen detector with the names of what it can find.

    run gives logits and boxes of a batch as OpenVINO finds them, where it does.
    """

    model: Any
    processor: Any
    vocabulary: list[str]
    threshold: float
    max_objects: int
    device: torch.device
    dtype: torch.dtype
    run: openvino.Run | None = None

    @property
    def runtime(self) -> str:
        """What runs it."""
        return openvino.NAME if self.run else "torch"

    @property
    def image_size(self) -> int | None:
        """Pixels of the shorter side that the detector looks at, where its processor says so."""
        size = self.processor.size
        sides = [int(size[key]) for key in ("shortest_edge", "height", "width") if size.get(key)]
        return max(sides) if sides else None

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """The model's pixels for one image, (3, H, W); may run in any thread.

        Raises:
            SynticError: where a processor that keeps the aspect ratio would make too much of it.
        """
        edges = [self.processor.size.get(f"{end}_edge") for end in ("shortest", "longest")]
        if edges[0]:
            check_model_input(image.size, "the photo", *edges)
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pinned(pixels, self.device, self.dtype)

    @torch.inference_mode()
    def detect(self, images: Sequence[torch.Tensor]) -> list[Objects]:
        """Objects of preprocessed images, in their order.

        Only images of one size share a pass: padding would change what is found at the edges, and
        the result would depend on the batch.
        """
        objects: list[Objects] = [NO_OBJECTS] * len(images)
        for size in sorted({image.shape for image in images}):
            rows = [row for row, image in enumerate(images) if image.shape == size]
            pixels = stack_on([images[row] for row in rows], self.device)
            outputs = self._find(pixels)
            answers = self.processor.post_process_object_detection(outputs, self.threshold)
            for row, answer in zip(rows, answers, strict=True):
                objects[row] = self._best(answer)
        return objects

    def _find(self, pixels: torch.Tensor) -> Any:
        """Logits and boxes of all queries, on the host."""
        if self.run is not None:
            logits, boxes = self.run(pixels)
            return SimpleNamespace(logits=logits, pred_boxes=boxes)
        outputs = self.model(pixels.to(self.dtype))
        # Fetched as a whole: what follows would wait for the device at each image.
        outputs.logits = outputs.logits.float().cpu()
        outputs.pred_boxes = outputs.pred_boxes.float().cpu()
        return outputs

    def _best(self, answer: dict[str, torch.Tensor]) -> Objects:
        scores, order = answer["scores"].sort(descending=True, stable=True)
        order = order[: self.max_objects]
        return Objects(
            answer["labels"][order].numpy().astype(np.int32),
            scores[: self.max_objects].numpy().astype(np.float32),
            answer["boxes"][order].clamp(0, 1).numpy().astype(np.float32).reshape(-1, 4),
        )


def load_detector(
    settings: DetectSettings,
    device: torch.device,
    dtype: torch.dtype,
    *,
    with_openvino: bool = False,
) -> Detector:
    """Load the detector that the settings name.

    Args:
        settings: a hub id with its revision, or a folder; the least score and most objects.
        device: where it runs.
        dtype: of its weights.
        with_openvino: let OpenVINO run it, where that can be.

    Raises:
        SynticError: where it cannot be loaded.
    """
    with loading("detector", settings.model):
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        source = model_folder(settings.model) or settings.model
        options = {"revision": settings.revision} if settings.revision else {}
        processor = AutoImageProcessor.from_pretrained(source, **options)
        model = AutoModelForObjectDetection.from_pretrained(
            source, dtype=dtype, use_safetensors=True, **options
        )
    model = model.to(device).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    names = model.config.id2label
    vocabulary = [str(names[index]) for index in range(max(names) + 1)]
    detector = Detector(
        model, processor, vocabulary, settings.threshold, settings.max_objects, device, dtype
    )
    return _on_openvino(detector) if openvino.is_used(with_openvino, device, dtype) else detector


class _Found(nn.Module):
    """The detector as a module that gives logits and boxes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.model(pixels)
        return outputs.logits, outputs.pred_boxes


def _on_openvino(detector: Detector) -> Detector:
    """The detector run by OpenVINO, where it can: of images that all have one size."""
    size = detector.processor.size
    if not (size.get("height") and size.get("width")):
        return detector
    pixels = detector.preprocess(Image.new("RGB", (64, 64), "gray"))[None]
    with quiet_libraries():
        found = openvino.converted(
            _Found(detector.model), pixels, (openvino.IMAGES, *pixels.shape[1:])
        )
    return replace(detector, run=found)
