"""Micro models with random weights, in the libraries' own formats, for the real loading code."""

from __future__ import annotations

import json
from pathlib import Path

import torch

PRESET = """
[synthesize]
model = "./text_to_image"
steps = 2
size = 32
guidance = 2.0

[encode]
model = "./clip"

[optimize]
temperature = 0.05
lr = 0.01
epochs = 3
batch_size = 8

[detect]
model = "./detector"
threshold = 0.01
max_objects = 3

[project]
temperature = 0.05

[train]
tokenizer = "bpe:400"
layers = 2
heads = 2
width = 32
epochs = 3
batch_size = 8
lr = 0.002
warmup = 4
max_length = 24
validation = 0.1

[caption]
beam = 2
max_length = 12
"""


def build(folder: Path) -> Path:
    """Build every micro model and a preset that names them; returns the preset's path."""
    torch.manual_seed(0)
    _build_clip(folder / "clip")
    _build_text_to_image(folder / "text_to_image")
    _build_detector(folder / "detector")
    preset = folder / "micro.toml"
    preset.write_text(PRESET)
    return preset


def _build_clip(folder: Path, embed_dim: int = 16) -> None:
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = {
        "embed_dim": embed_dim,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 32,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    normalise = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": normalise})
    )
    model = open_clip.model.CLIP(**config)
    # Random weights give nearly the same feature for every image; larger ones tell them apart.
    for parameter in model.visual.parameters():
        parameter.data.mul_(3.0)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def build_language_model(folder: Path) -> Path:
    """A GPT-2 of two layers with random weights, whose tokens are bytes and a few common pairs."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

    folder.mkdir(parents=True)
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        ["a dog runs on the beach.", "the old woman looks at a cup."],
        vocab_size=300,
        min_frequency=1,
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    trained.save_model(str(folder))
    tokenizer = GPT2Tokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.5,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def _build_text_to_image(folder: Path) -> None:
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    )
    words = CLIPTextConfig(
        vocab_size=1000,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=1,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(words),
        tokenizer=_tokenizer(folder, CLIPTokenizer),
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def _tokenizer(folder: Path, kind: type) -> object:
    """A CLIP tokenizer of single letters."""
    from syntic_cli.tokenizer import _clip_letters

    letters = _clip_letters()
    entries = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    folder.mkdir(parents=True)
    vocabulary, merges = folder / "letters.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({entry: index for index, entry in enumerate(entries)}))
    merges.write_text("#version: 0.2\n")
    made = kind(str(vocabulary), str(merges), model_max_length=32)
    vocabulary.unlink()
    merges.unlink()
    return made


def _build_detector(folder: Path) -> None:
    from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, ResNetConfig

    config = DetrConfig(
        backbone_config=ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 8, 8, 8],
            depths=[1, 1, 1, 1],
            out_features=["stage4"],
        ),
        num_queries=5,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        id2label={0: "cat", 1: "dog", 2: "cup", 3: "tree"},
        label2id={"cat": 0, "dog": 1, "cup": 2, "tree": 3},
    )
    DetrForObjectDetection(config).save_pretrained(folder)
    DetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
