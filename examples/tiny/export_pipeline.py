"""Writes the text-to-image model as a folder that diffusers' DiffusionPipeline loads."""

import argparse
import json
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from diffusion import SCHEDULE, build_unet, text_encoder
from image_decoder import build_autoencoder
from safetensors.torch import load_file
from text_tower import save_tokenizer
from torch import nn
from transformers import CLIPTokenizer


def load_average(model: nn.Module, checkpoint: Path) -> nn.Module:
    """The model with the running average of a training run's weights."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model.load_state_dict(state["average"])
    print(f"{checkpoint}: step {state['step']}")
    return model.eval()


def build_pipeline(out: Path) -> StableDiffusionPipeline:
    """The pipeline of two finished trainings."""
    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    encoder = text_encoder(load_file(out / "text_tower.safetensors"), len(tokenizer))
    return StableDiffusionPipeline(
        vae=build_autoencoder(),
        text_encoder=encoder.half(),
        tokenizer=tokenizer,
        unet=load_average(build_unet(), out / "diffusion.ckpt").half(),
        scheduler=DPMSolverMultistepScheduler(
            **SCHEDULE, timestep_spacing="trailing", steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the caches")
    parser.add_argument("--folder", type=Path, required=True, help="where the model is written")
    parser.add_argument("--start", type=Path, help="a folder of which all but the decoder is taken")
    args = parser.parse_args()
    if args.start:
        pipeline = StableDiffusionPipeline.from_pretrained(args.start, dtype=torch.float16)
    else:
        pipeline = build_pipeline(args.out)
    pipeline.vae = load_average(build_autoencoder(), args.out / "decoder.ckpt").half()
    pipeline.save_pretrained(args.folder)
    save_tokenizer(pipeline.tokenizer, args.folder / "tokenizer")
    config = args.folder / "text_encoder" / "config.json"
    # Stored in float16; computed in float32 unless a caller asks otherwise.
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2))


if __name__ == "__main__":
    main()
