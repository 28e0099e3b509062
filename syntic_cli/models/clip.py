"""The dual encoder, through open_clip."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..settings import EncodeSettings
from ..transfer import pinned
from . import openvino
from .identity import model_folder
from .loading import loading, quiet_libraries


@dataclass(frozen=True)
class Clip:
    """A frozen dual encoder.

    preprocess turns a photo into the tensor that the image tower takes; it may run in any thread.
    images and texts are the towers as OpenVINO runs them, where it does.
    """

    model: Any
    preprocess: Callable[[Image.Image], Tensor]
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    images: openvino.Run | None = None
    texts: openvino.Run | None = None

    @property
    def runtime(self) -> str:
        """What runs the image tower."""
        return openvino.NAME if self.images else "torch"

    @property
    def image_size(self) -> int:
        """Pixels of the shorter side that the image tower looks at."""
        size = self.model.visual.image_size
        return int(max(size) if isinstance(size, (tuple, list)) else size)

    @property
    def context_length(self) -> int:
        """Tokens of a text that the text tower takes."""
        return int(self.tokenizer.context_length)

    @property
    def scale(self) -> float:
        """What the dual encoder was trained to multiply cosines by: 1 / its own temperature."""
        return float(self.model.logit_scale.exp())

    def compile(self) -> None:
        """Compile the image tower, which takes about a minute when it next runs."""
        # Frozen weights let convolutions and their norms become one.
        self.model.visual = torch.compile(
            self.model.visual, dynamic=False, options={"freezing": True}
        )

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Unit-length features, (N, d) float32, of preprocessed photos, (N, 3, H, W)."""
        if self.images is not None:
            return F.normalize(self.images(pixels)[0], dim=-1)
        pixels = pixels.to(self.device, self.dtype, non_blocking=True)
        return F.normalize(self.model.encode_image(pixels).float(), dim=-1).cpu()

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit-length features, (N, d) float32, of texts; what exceeds the context is cut off."""
        tokens = self.tokenizer(list(texts))
        tower = _TextTower(self.model)
        if tower.takes_any_length:
            tokens = tokens[:, : _used(tokens)]
        if self.texts is not None:
            return F.normalize(self.texts(tokens)[0], dim=-1)
        return F.normalize(tower(tokens.to(self.device)).float(), dim=-1).cpu()

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many of the texts have more tokens than the text tower takes."""
        size = self.context_length
        # No token is shorter than a byte, so that few texts have to be looked at.
        long = [text for text in texts if len(text.encode()) > size - 2]
        if not long:
            return 0
        # With room for one token more, a text that fits has its end, or padding, at the last place.
        *rows, empty = self.tokenizer([*long, ""], context_length=size + 1)
        ends = {int(empty[1]), int(empty[-1])}
        return sum(int(row[size - 1]) not in ends for row in rows)


def load_clip(
    settings: EncodeSettings,
    device: torch.device,
    dtype: torch.dtype,
    *,
    with_openvino: bool = False,
) -> Clip:
    """Load the dual encoder that the settings name.

    Args:
        settings: an open_clip name with its pretrained tag, a hub id with its revision, or a folder
            with open_clip_config.json and open_clip_model.safetensors.
        device: where it runs.
        dtype: of its weights.
        with_openvino: let OpenVINO run it, where that can be.

    Raises:
        SynticError: where it cannot be loaded.
    """
    with loading("CLIP model", settings.model):
        import open_clip
        from open_clip.pretrained import get_pretrained_cfg

        folder = model_folder(settings.model)
        if folder is None and "/" in settings.model:
            folder = _download(settings.model, settings.revision)
        options: dict[str, Any] = {}
        if folder is not None:
            name = f"local-dir:{folder}"
        else:
            name = settings.model
            # open_clip only warns where a tag was trained with the other activation.
            tag = get_pretrained_cfg(name, settings.pretrained or "") or {}
            options["force_quick_gelu"] = bool(tag.get("quick_gelu", False))
            options["require_pretrained"] = True
        model, _, preprocess = open_clip.create_model_and_transforms(
            name, pretrained=settings.pretrained if folder is None else None, **options
        )
        tokenizer = open_clip.get_tokenizer(name)
    if hasattr(tokenizer, "tokenizer"):  # a transformers tokenizer within
        # A text that says <|endoftext|> must not end there.
        tokenizer.tokenizer.split_special_tokens = True
    model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
    # Convolutional towers run faster so; a transformer's tokens would come out of order in memory.
    if any(isinstance(module, nn.BatchNorm2d) for module in model.visual.modules()):
        model = model.to(memory_format=torch.channels_last)
        if device.type == "cpu" and dtype == torch.float32:
            model.visual = _folded(model.visual)
    clip = Clip(
        model,
        lambda image: pinned(preprocess(image), device, dtype),
        tokenizer,
        device,
        dtype,
    )
    return _on_openvino(clip) if openvino.is_used(with_openvino, device, dtype) else clip


class _ImageTower(nn.Module):
    """The image tower as a module of its own."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)


class _TextTower(nn.Module):
    """The text tower as a module of its own.

    A tower in which a token looks at those before it, and the feature is read from the one that
    ends the text, takes tokens of any length: what is behind that one changes nothing.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        # Older architectures, OpenAI's among them, hold the tower's parts themselves.
        text = getattr(model, "text", model)
        pool = getattr(text, "text_pool_type" if text is model else "pool_type", "")
        self.takes_any_length = (
            getattr(text, "attn_mask", None) is not None
            and getattr(text, "cls_emb", None) is None
            and pool in ("argmax", "eos")
        )

    def forward(self, tokens: Tensor) -> Tensor:
        if not self.takes_any_length:
            return self.model.encode_text(tokens)
        text, length = getattr(self.model, "text", self.model), tokens.shape[1]
        inside = "model" if text is self.model else "model.text"
        parts = {
            f"{inside}.attn_mask": text.attn_mask[:length, :length],
            f"{inside}.positional_embedding": text.positional_embedding[:length],
        }
        return torch.func.functional_call(_Texts(self.model), parts, (tokens,))


class _Texts(nn.Module):
    """`encode_text` as a module's forward."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


def _used(tokens: Tensor) -> int:
    """How many tokens the longest of the texts has, (N, L), the one that ends it included."""
    # The end may be the padding, too, so one more is kept.
    columns = (tokens != tokens[:, -1:]).any(dim=0).nonzero()
    return min(tokens.shape[1], int(columns.max()) + 2) if len(columns) else tokens.shape[1]


def _on_openvino(clip: Clip) -> Clip:
    """The dual encoder with the towers that OpenVINO can run run by it."""
    model, photo = clip.model, clip.preprocess(Image.new("RGB", (64, 64), "gray"))[None]
    tokens = clip.tokenizer(["a text"])
    with quiet_libraries():
        images = openvino.converted(_ImageTower(model), photo, (openvino.IMAGES, *photo.shape[1:]))
        tower = _TextTower(model)
        length = -1 if tower.takes_any_length else tokens.shape[1]
        texts = openvino.converted(tower, tokens, (-1, length))
    return replace(clip, images=images, texts=texts)


@torch.no_grad()
def _folded(tower: Any) -> Any:
    """The tower with each batch norm folded into the convolution before it, and with convolutions
    that pad by themselves: a third faster.

    Modules are taken to run in the order in which they were defined; a tower that then answers
    otherwise is left as it is.
    """
    folded = copy.deepcopy(tower)
    for module in list(folded.modules()):
        for (_, conv), (name, norm) in itertools.pairwise(list(module.named_children())):
            if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
                continue
            if norm.num_features == conv.out_channels:
                _fold(conv, norm)
                # What is left of timm's norms: the activation.
                setattr(module, name, nn.Sequential(*norm.children()))
    size = tower.image_size
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    photo = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    _pad_within(folded, photo)
    same = torch.allclose(tower(photo), folded(photo), rtol=1e-3, atol=1e-3)
    return folded if same else tower


def _fold(conv: Any, norm: Any) -> None:
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
    conv.bias = nn.Parameter(norm.bias + shift * scale, requires_grad=False)


def _pad_within(tower: Any, photo: Tensor) -> None:
    """Let convolutions pad by themselves that TensorFlow has padded more at the end than at the
    beginning: a zero at the head of the kernel makes both ends alike.

    Their input is then not copied into a larger one; what they answer is the same to the last bit.
    """
    from timm.layers import Conv2dSame

    sizes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, inputs: Any, _: Any) -> None:
        sizes[module] = inputs[0].shape[2:]

    padded = [module for module in tower.modules() if isinstance(module, Conv2dSame)]
    hooks = [module.register_forward_hook(note) for module in padded]
    tower(photo)
    for hook in hooks:
        hook.remove()
    for parent in list(tower.modules()):
        for name, conv in list(parent.named_children()):
            if conv in sizes and set(conv.dilation) == {1}:
                setattr(parent, name, _padding_alike(conv, sizes[conv]))


def _padding_alike(conv: Any, size: Sequence[int]) -> nn.Conv2d:
    """The convolution for inputs of one size, height and width, padded alike at both ends."""
    # What the last place of the kernel reaches over the input, in all.
    over = [
        max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        for side, stride, kernel in zip(size, conv.stride, conv.kernel_size, strict=True)
    ]
    high, wide = (one % 2 for one in over)
    weight = F.pad(conv.weight, (wide, 0, high, 0))
    made = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        tuple(weight.shape[2:]),  # type: ignore[arg-type]
        conv.stride,
        tuple(one - one // 2 for one in over),  # type: ignore[arg-type]
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    weight = weight.contiguous(memory_format=torch.channels_last)
    made.weight, made.bias = nn.Parameter(weight, requires_grad=False), conv.bias
    return made


def _download(model: str, revision: str | None) -> Any:
    """The local folder of a hub id at its revision, from the cache where it is there already."""
    from pathlib import Path

    from huggingface_hub import snapshot_download

    patterns = ["*.json", "open_clip_model.safetensors", "*.txt", "*.model"]
    return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
