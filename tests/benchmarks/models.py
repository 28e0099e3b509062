"""Frozen models with random weights: of true size for a GPU, of small size for a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def pipeline_folder(folder: Path, device: str) -> Path:
    """A Stable Diffusion pipeline: v1-5's sizes on CUDA, a small one on the CPU."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from tests.micro import _tokenizer

    torch.manual_seed(0)
    large = device == "cuda"
    words = 768 if large else 64
    channels = (320, 640, 1280, 1280) if large else (64, 128)
    latent = (128, 256, 512, 512) if large else (32, 64)
    cross = len(channels) - 1 if large else 1
    unet = UNet2DConditionModel(
        sample_size=64 if large else 16,
        block_out_channels=channels,
        layers_per_block=2 if large else 1,
        down_block_types=("CrossAttnDownBlock2D",) * cross + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * cross,
        cross_attention_dim=words,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        block_out_channels=latent,
        down_block_types=("DownEncoderBlock2D",) * len(latent),
        up_block_types=("UpDecoderBlock2D",) * len(latent),
        layers_per_block=2 if large else 1,
        latent_channels=4,
    )
    text = CLIPTextConfig(
        vocab_size=1000,
        hidden_size=words,
        intermediate_size=4 * words,
        num_hidden_layers=12 if large else 2,
        num_attention_heads=12 if large else 2,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=_tokenizer(folder, CLIPTokenizer),
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def dual_encoder(device: str) -> Any:
    """ViT-B/32 on CUDA, a small encoder of its kind on the CPU."""
    import open_clip

    torch.manual_seed(0)
    if device == "cuda":
        return open_clip.create_model("ViT-B-32", pretrained=None)
    images = open_clip.model.CLIPVisionCfg(image_size=224, layers=4, width=256, patch_size=32)
    texts = open_clip.model.CLIPTextCfg(width=64, heads=2, layers=1)
    return open_clip.model.CLIP(256, images, texts)


def object_detector(device: str) -> Any:
    """DETR-R50 on CUDA, a small one on the CPU."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    torch.manual_seed(0)
    if device == "cuda":
        return DetrForObjectDetection(DetrConfig(use_pretrained_backbone=False))
    sizes = [16, 32, 64, 128]
    backbone = ResNetConfig(
        embedding_size=16, hidden_sizes=sizes, depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    config = DetrConfig(
        backbone_config=backbone, d_model=64, encoder_layers=2, decoder_layers=2, num_queries=50
    )
    return DetrForObjectDetection(config)
