"""Text to image, through diffusers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..settings import SynthesizeSettings
from ..transfer import HostCopy
from .identity import model_folder
from .loading import loading, quiet_libraries


@dataclass(frozen=True)
class Generated:
    """One image of a batch, and whether a safety checker blanked it; looking at the image waits
    until the device has made it and the host has got it."""

    batch: HostCopy
    row: int
    flagged: bool

    @property
    def pixels(self) -> Tensor:
        """The image, (H, W, 3) uint8, on the host."""
        return self.batch.wait()[0][self.row]

    @property
    def finite(self) -> bool:
        """Whether every value of the image was finite."""
        return bool(self.batch.wait()[1][self.row])


@dataclass(frozen=True)
class TextToImage:
    """A frozen text-to-image pipeline with its sampling settings."""

    pipeline: Any
    settings: SynthesizeSettings
    device: torch.device
    negative: Tensor | None

    @torch.inference_mode()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Generated]:
        """One image a prompt; image i depends on prompt i and seed i alone.

        Nothing waits for the images here, so that the device can begin with the next batch while
        another thread takes and stores them.

        Args:
            prompts: N texts; what exceeds the text encoder's context is cut off.
            seeds: N seeds of the starting noise, drawn on the CPU so that devices agree.
        """
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        arguments: dict[str, Any] = {
            "num_inference_steps": self.settings.steps,
            "guidance_scale": self.settings.guidance,
            "height": self.settings.size,
            "width": self.settings.size,
            "generator": generators,
        }
        # A prompt that is cut off would be told of each time.
        with quiet_libraries():
            if self.negative is not None:
                embeddings, _ = self.pipeline.encode_prompt(list(prompts), self.device, 1, False)
                arguments["prompt_embeds"] = embeddings
                arguments["negative_prompt_embeds"] = self.negative.expand(len(prompts), -1, -1)
            else:
                arguments["prompt"] = list(prompts)
            output = self.pipeline(output_type="pt", **arguments)
        return _as_pixels(output.images, getattr(output, "nsfw_content_detected", None))

    @property
    def context_length(self) -> int:
        """Tokens of a text that the text encoder takes."""
        tokenizer = getattr(self.pipeline, "tokenizer", None)
        return int(tokenizer.model_max_length) if tokenizer is not None else sys.maxsize

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many of the texts have more tokens than the text encoder takes."""
        size = self.context_length
        # No token is shorter than a byte, so that few texts have to be looked at.
        long = [text for text in texts if len(text.encode()) > size - 2]
        if not long:
            return 0
        with quiet_libraries():
            tokens = self.pipeline.tokenizer(long, truncation=False).input_ids
        return sum(len(row) > size for row in tokens)

    def compile(self) -> None:
        """Compile the denoiser, which takes about a minute when it next runs."""
        if hasattr(self.pipeline, "unet"):
            self.pipeline.unet.compile()


def _as_pixels(images: Tensor, flagged: Sequence[bool] | None) -> list[Generated]:
    images = images.float()
    finite = images.isfinite().flatten(1).all(dim=1)
    levels = images.nan_to_num().clamp(0, 1).mul(255).round().to(torch.uint8)
    marks = flagged if flagged is not None else [False] * len(images)
    batch = HostCopy(levels.permute(0, 2, 3, 1), finite)
    return [Generated(batch, row, bool(mark)) for row, mark in enumerate(marks)]


def load_text_to_image(
    settings: SynthesizeSettings, device: torch.device, dtype: torch.dtype
) -> TextToImage:
    """Load the pipeline that the settings name: a hub id with its revision, or a diffusers folder.

    The safety checker is loaded only where the settings ask for it.

    Args:
        settings: the model and how it samples.
        device, dtype: where it runs, and in what.

    Raises:
        SynticError: where it cannot be loaded.
    """
    with loading("text-to-image model", settings.model):
        from diffusers import DiffusionPipeline

        source = model_folder(settings.model) or settings.model
        options: dict[str, Any] = {"revision": settings.revision} if settings.revision else {}
        if not settings.safety_checker:
            options["safety_checker"] = None
        pipeline = DiffusionPipeline.from_pretrained(
            source, dtype=dtype, use_safetensors=True, **options
        )
        pipeline = pipeline.to(device)
        pipeline.set_progress_bar_config(disable=True)
        # A text that says <|endoftext|> must not end there.
        if getattr(pipeline, "tokenizer", None) is not None:
            pipeline.tokenizer.split_special_tokens = True
    if device.type == "cuda" and hasattr(pipeline, "unet"):
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
    return TextToImage(pipeline, settings, device, _negative(pipeline, settings, device))


def _negative(pipeline: Any, settings: SynthesizeSettings, device: torch.device) -> Tensor | None:
    """The embedding of the empty prompt, the same for every batch, so encoded once.

    None for pipelines that guide in another way than by an unconditional pass.
    """
    from diffusers import StableDiffusionPipeline

    if not isinstance(pipeline, StableDiffusionPipeline) or settings.guidance <= 1:
        return None
    with torch.inference_mode():
        embedding, _ = pipeline.encode_prompt([""], device, 1, False)
    return embedding
