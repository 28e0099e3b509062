"""The upper stages of EfficientNet-Lite in a form that trains fast on a processor.

Maps are (channels, images, height, width), so that a pointwise convolution is one matrix product
and a depthwise one a batched product with a matrix per channel. On maps of at most 14×14 cells this
trains more than twice the photos a second of the convolutions themselves, whose gradients are slow.
"""

import copy
import itertools
from functools import cache

import torch
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F

FIRST_STAGE = 4  # of the seven: the lower four stay as ImageNet left them
FROZEN_LAYERS = 4  # of the upper ones: the whole of the fifth stage of EfficientNet-Lite2


def folded(model: EfficientNet) -> EfficientNet:
    """A copy with each batch norm folded into the convolution before it."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for (_, conv), (name, norm) in itertools.pairwise(list(module.named_children())):
            if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
                continue
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], False)
            conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale, False)
            setattr(module, name, nn.Sequential(*norm.children()))  # the activation
    return model


def upper_stages(model: EfficientNet, maps: Tensor) -> Tensor:
    """The 1280 features that the classifier sees, from the lower stages' maps."""
    return model.bn2(model.conv_head(model.blocks[FIRST_STAGE:](maps))).mean((2, 3))


def lower_stages(model: EfficientNet, images: Tensor) -> Tensor:
    """The maps that the upper stages take: (B, C, H/16, W/16)."""
    return model.blocks[:FIRST_STAGE](model.bn1(model.conv_stem(images)))


@cache
def _taps(height: int, kernel: int, stride: int) -> tuple[Tensor, int]:
    """Which weight of a kernel leads from which cell to which: (kernel², cells in · cells out).

    Padded as TensorFlow does, which puts the odd cell of padding at the end.
    """
    out = -(-height // stride)
    before = max((out - 1) * stride + kernel - height, 0) // 2
    offset = torch.arange(height)[:, None] - (torch.arange(out) * stride - before)
    axis = torch.stack([(offset == tap).float() for tap in range(kernel)])  # (kernel, in, out)
    taps = torch.einsum("aip,bjq->abijpq", axis, axis)
    return taps.reshape(kernel**2, -1), out


class Layer(nn.Module):
    """An inverted residual of folded convolutions."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.expand, self.expand_bias = _parameters(block.conv_pw)
        self.depthwise, self.depthwise_bias = _parameters(block.conv_dw)
        self.reduce, self.reduce_bias = _parameters(block.conv_pwl)
        self.kernel, self.stride = block.conv_dw.kernel_size[0], block.conv_dw.stride[0]
        self.skip = block.has_skip

    def forward(self, x: Tensor, drop: float) -> Tensor:
        channels, images, height, _ = x.shape
        taps, out = _taps(height, self.kernel, self.stride)
        wide = len(self.expand)
        y = F.relu6(torch.addmm(self.expand_bias[:, None], self.expand, x.reshape(channels, -1)))
        maps = (self.depthwise @ taps).view(wide, height**2, out**2)
        y = torch.baddbmm(self.depthwise_bias[:, None, None], y.view(wide, images, -1), maps)
        y = torch.addmm(self.reduce_bias[:, None], self.reduce, F.relu6(y).view(wide, -1))
        y = y.view(-1, images, out, out)
        if not self.skip:
            return y
        if drop and self.training:
            y = y * ((torch.rand(1, images, 1, 1) > drop) / (1 - drop)).to(y.dtype)
        return x + y


def _parameters(conv: nn.Conv2d) -> tuple[nn.Parameter, nn.Parameter]:
    assert conv.bias is not None
    return nn.Parameter(conv.weight.detach().flatten(1).clone()), nn.Parameter(
        conv.bias.detach().clone()
    )


class Top(nn.Module):
    """The upper stages with the 1280-channel head, mean-pooled."""

    def __init__(self, model: EfficientNet) -> None:
        super().__init__()
        blocks = itertools.chain.from_iterable(folded(model).blocks[FIRST_STAGE:])
        self.layers = nn.ModuleList(Layer(block) for block in blocks)
        self.head, self.head_bias = _parameters(folded(model).conv_head)
        self.layers[:FROZEN_LAYERS].requires_grad_(False)

    def forward(self, maps: Tensor, drop: float = 0.0) -> Tensor:
        """Features (B, 1280) of maps (C, B, H, W); `drop` is the share of skipped residuals."""
        x = maps
        for number, layer in enumerate(self.layers):
            share = drop * (number + 1) / len(self.layers) if number >= FROZEN_LAYERS else 0.0
            x = layer(x, share)
        _, images, height, width = x.shape
        y = torch.addmm(self.head_bias[:, None], self.head, x.reshape(len(x), -1))
        return F.relu6(y).view(-1, images, height * width).float().mean(2).T

    def write_into(self, model: EfficientNet) -> None:
        """Put the weights into timm's model, whose norms then only add a bias."""
        blocks = itertools.chain.from_iterable(model.blocks[FIRST_STAGE:])
        for layer, block in zip(self.layers, blocks, strict=True):
            _put(block.conv_pw, block.bn1, layer.expand, layer.expand_bias)
            _put(block.conv_dw, block.bn2, layer.depthwise, layer.depthwise_bias)
            _put(block.conv_pwl, block.bn3, layer.reduce, layer.reduce_bias)
        _put(model.conv_head, model.bn2, self.head, self.head_bias)


@torch.no_grad()
def _put(conv: nn.Conv2d, norm: nn.BatchNorm2d, weight: Tensor, bias: Tensor) -> None:
    conv.weight.copy_(weight.view_as(conv.weight))
    norm.weight.fill_(1)
    norm.bias.copy_(bias)
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
