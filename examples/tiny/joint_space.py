"""The dual encoder while it is trained, and how it is written as an open_clip folder."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from open_clip.transformer import TextTransformer
from safetensors.torch import save_file
from text_tower import (
    CONTEXT,
    HEADS,
    LAYERS,
    WIDTH,
    encode_tokens,
    save_tokenizer,
)
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F
from towers import EFFICIENTNET, IMAGE_SIZE, efficientnet_lite0
from transformers import CLIPTokenizer

JOINT = 256


class ImageHead(nn.Module):
    """Standardisation and projection of pooled features; folds into one linear layer."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: Tensor, dropout: float = 0.7) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("std", features.std(0) + 1e-3)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features.shape[1], JOINT)

    def forward(self, features: Tensor) -> Tensor:
        x = self.dropout((features - self.mean) / self.std)
        return F.normalize(self.linear(x), dim=-1)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias that act on raw features."""
        weight = self.linear.weight / self.std
        return weight, self.linear.bias - weight @ self.mean


class Encoder(nn.Module):
    """The trainable part: image head, text tower with its head, temperature."""

    mean: Tensor
    std: Tensor
    norm: Tensor

    def __init__(self, features: Tensor, sentences: Tensor, tower: TextTransformer) -> None:
        super().__init__()
        self.image = ImageHead(features)
        self.register_buffer("mean", sentences.mean(0))
        self.register_buffer("std", sentences.std(0).clamp(min=0.01))  # one is all but constant
        self.text = nn.Linear(sentences.shape[1], JOINT)
        self.tower = tower
        self.register_buffer("norm", torch.tensor(1.0))  # mean length of the tower's embeddings
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(20))))

    def encode_sentences(self, sentences: Tensor) -> Tensor:
        """Unit text vectors (B, JOINT) from MiniLM's or the tower's sentence embeddings."""
        x = F.dropout((sentences - self.mean) / self.std, 0.1, self.training)
        return F.normalize(self.text(x), dim=-1)

    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Unit text vectors (B, JOINT) by the tower."""
        length = int(ids.argmax(1).max()) + 1  # the end mark has the highest number
        return self.encode_sentences(encode_tokens(self.tower, ids[:, :length]) / self.norm)

    @torch.no_grad()
    def folded_tower(self) -> dict[str, Tensor]:
        """The tower with the head folded into its projection."""
        state = self.tower.state_dict()
        head = self.text.weight / self.std
        weight, bias = state["text_projection.weight"], state["text_projection.bias"]
        state["text_projection.weight"] = head @ weight / self.norm
        state["text_projection.bias"] = self.text.bias + head @ (bias / self.norm - self.mean)
        return state

    def parameter_groups(self, tower: bool) -> list[dict[str, object]]:
        """Strong weight decay on the heads, which see few pairs."""
        free = [self.image.linear.bias, self.text.bias, self.log_scale]
        heads = [self.image.linear.weight, self.text.weight]
        groups = [{"params": heads, "weight_decay": 1.0}, {"params": free, "weight_decay": 0.0}]
        if tower:
            groups.append({"params": list(self.tower.parameters()), "weight_decay": 0.05})
        return groups


def write_folder(encoder: Encoder, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes an open_clip folder of a trained encoder on the frozen EfficientNet-Lite0."""
    weight, bias = encoder.image.folded()
    head = {"proj.weight": weight, "proj.bias": bias}
    text = encoder.folded_tower()
    scale = encoder.log_scale
    write_open_clip(
        folder, tokenizer, EFFICIENTNET, IMAGE_SIZE, efficientnet_lite0(), head, text, scale
    )


def write_open_clip(
    folder: Path,
    tokenizer: CLIPTokenizer,
    trunk: str,
    image_size: int,
    image_tower: EfficientNet,
    head: Mapping[str, Tensor],
    text_tower: Mapping[str, Tensor],
    log_scale: Tensor,
) -> None:
    """Writes an open_clip folder with float16 weights.

    Args:
        folder: where.
        tokenizer: of the text tower.
        trunk: timm's name of the image tower.
        image_size: pixels of the square that it sees.
        image_tower: its weights; a classifier is left out.
        head: state of the image head on raw pooled features, as open_clip names it: `proj` where
            it is linear, `mlp` with a hidden layer.
        text_tower: state of the text tower.
        log_scale: logarithm of the inverse temperature.
    """
    config = {
        "model_cfg": {
            "embed_dim": JOINT,
            "custom_text": True,
            "vision_cfg": {
                "timm_model_name": trunk,
                "timm_pool": "avg",
                "timm_proj": "linear" if "proj.weight" in head else "mlp",
                "timm_proj_bias": True,
                "image_size": image_size,
            },
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": len(tokenizer),
                "hf_tokenizer_name": ".",  # open_clip reads it from this folder
                "width": WIDTH,
                "heads": HEADS,
                "layers": LAYERS,
                "proj_bias": True,
            },
        },
        "preprocess_cfg": {
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))
    save_tokenizer(tokenizer, folder)
    state = {f"visual.trunk.{k}": v for k, v in image_tower.state_dict().items()}
    state = {k: v for k, v in state.items() if "classifier" not in k}
    state |= {f"visual.head.{k}": v for k, v in head.items()}
    state |= {f"text.{k}": v for k, v in text_tower.items()}
    state["logit_scale"] = log_scale
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    half = {k: v.detach().contiguous() for k, v in half.items()}
    save_file(half, folder / "open_clip_model.safetensors")
