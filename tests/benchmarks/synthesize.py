"""synthesize against a plain pipeline loop, and against UNet, scheduler and decoder alone."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from syntic_cli.corpus import Corpus
from syntic_cli.models.loading import quiet_libraries
from syntic_cli.settings import Run, SynthesizeSettings
from syntic_cli.stages.synthesize import synthesize

from .corpus import coco_captions
from .measure import Options, Row, compare, interleave
from .models import pipeline_folder


@dataclass(frozen=True)
class _Sizes:
    images: int
    batch: int
    size: int
    steps: int


SIZES = {"cpu": _Sizes(34, 8, 32, 4), "cuda": _Sizes(130, 16, 512, 20)}
ONCE = 2  # images of a run that shows what the stage does once, such as loading
GUIDANCE = 7.5


def run(options: Options) -> list[Row]:
    """Images a second; loading the models is in none of the figures."""
    sizes = SIZES[options.device]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with quiet_libraries():
            model = pipeline_folder(folder / "model", options.device)
            return _compare(model, folder, sizes, options)


def _compare(model: Path, folder: Path, sizes: _Sizes, options: Options) -> list[Row]:
    prompts = [texts[0] for texts in coco_captions(sizes.images)]
    pipeline = _load(model, options.device)
    candidates: dict[str, Callable[[], object]] = {
        "ours": lambda: _stage(prompts, model, folder, sizes, options.device),
        "once": lambda: _stage(prompts[:ONCE], model, folder, sizes, options.device),
        "plain pipe(prompt) loop": lambda: _plain(pipeline, prompts[: sizes.batch], folder, sizes),
        "floor: UNet, scheduler, decoder": lambda: _bare(pipeline, sizes),
    }
    times = interleave(candidates, options, warm=options.device == "cuda")
    once = times.pop("once")
    times["ours"] = [whole - one for whole, one in zip(times["ours"], once, strict=True)]
    plain = "plain pipe(prompt) loop"
    amounts = dict.fromkeys(times, float(sizes.images - ONCE)) | {plain: float(sizes.batch)}
    return compare(
        "synthesize",
        f"{sizes.size} pixels, {sizes.steps} steps, batch {sizes.batch}",
        "images/s",
        times,
        amounts,
        targets={"plain pipe(prompt) loop": 1.5, "floor: UNet, scheduler, decoder": 0.95},
        clock=options.clock,
    )


def _load(model: Path, device: str) -> Any:
    from diffusers import StableDiffusionPipeline

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=dtype, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _stage(prompts: list[str], model: Path, folder: Path, sizes: _Sizes, device: str) -> None:
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    settings = SynthesizeSettings(str(model), steps=sizes.steps, size=sizes.size, guidance=GUIDANCE)
    synthesize(
        Corpus(prompts, "benchmark", digest),
        folder / "workspace",
        settings,
        Run(device=device, batch_size=sizes.batch, force=True, quiet=True),
    )


@torch.inference_mode()
def _plain(pipeline: Any, prompts: list[str], folder: Path, sizes: _Sizes) -> None:
    for index, prompt in enumerate(prompts):
        image = pipeline(
            prompt,
            num_inference_steps=sizes.steps,
            guidance_scale=GUIDANCE,
            height=sizes.size,
            width=sizes.size,
        ).images[0]
        image.save(folder / f"{index}.jpg", quality=95)


@torch.inference_mode()
def _bare(pipeline: Any, sizes: _Sizes) -> None:
    """Guided sampling in batches, and decoding: no text, no host copy, no file."""
    unet, vae, scheduler = pipeline.unet, pipeline.vae, pipeline.scheduler
    device, dtype = unet.device, unet.dtype
    words = torch.zeros(2 * sizes.batch, 77, unet.config.cross_attention_dim).to(device, dtype)
    side = sizes.size // 2 ** (len(vae.config.block_out_channels) - 1)
    for _ in range((sizes.images - ONCE) // sizes.batch):
        latents = torch.randn(sizes.batch, 4, side, side).to(device, dtype)
        scheduler.set_timesteps(sizes.steps, device=device)
        for step in scheduler.timesteps:
            both = unet(torch.cat([latents] * 2), step, encoder_hidden_states=words).sample
            without, given = both.chunk(2)
            noise = without + GUIDANCE * (given - without)
            latents = scheduler.step(noise, step, latents).prev_sample
        vae.decode(latents / vae.config.scaling_factor)
