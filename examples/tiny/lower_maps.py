"""Caches what the lower stages of EfficientNet-Lite2 make of Flickr8k's and COCO's photos."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from data import Photo, coco, flickr8k, load_pixels
from safetensors.torch import save_file
from timm.models.efficientnet import EfficientNet
from torch import Tensor
from tower_top import folded, lower_stages, upper_stages
from towers import efficientnet_lite, normalise

BATCH = 32
SIZE = 224
LITE = 2


def photos(data: Path, split: str) -> list[Photo]:
    """The photos of a split (`train`, `dev`) of both data sets."""
    return flickr8k(data, split) + coco(data, split)


def batches(data: Path, split: str, size: int = SIZE) -> Iterator[Tensor]:
    """All photos of a split, squashed: uint8 (B, 3, size, size)."""
    paths = [photo.path for photo in photos(data, split)]
    for start in range(0, len(paths), BATCH):
        yield torch.stack([load_pixels(path, size) for path in paths[start : start + BATCH]])


@torch.no_grad()
def pooled_features(tower: EfficientNet, data: Path, split: str, size: int) -> Tensor:
    """Features (n, 1280) of all photos of a split as a tower sees them at a size."""
    model, found = folded(tower).to(memory_format=torch.channels_last), []
    for pixels in batches(data, split, size):
        images = normalise(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(upper_stages(model, lower_stages(model, images)).float())
    return torch.cat(found)


@torch.no_grad()
def cache(data: Path, split: str, mirrored: bool, out: Path) -> None:
    """Writes maps (n, 14, 14, C) in float16, and of photos as they are the pooled features."""
    model = folded(efficientnet_lite(LITE)).to(memory_format=torch.channels_last)
    target = maps_file(out, split, mirrored)
    count, start, part = len(photos(data, split)), 0, target.with_suffix(".part")
    maps, pooled = None, []
    for pixels in batches(data, split):
        images = normalise(pixels.flip(-1) if mirrored else pixels)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            lower = lower_stages(model, images)
            pooled += [] if mirrored else [upper_stages(model, lower).float()]
        found = lower.permute(0, 2, 3, 1).half().numpy()
        if maps is None:
            shape = (count, *found.shape[1:])
            maps = np.lib.format.open_memmap(part, "w+", np.float16, shape)
        maps[start : start + len(found)] = found
        start += len(found)
    if not mirrored:
        save_file({"features": torch.cat(pooled)}, pooled_file(out, split))
    if maps is not None:
        maps.flush()
        part.rename(target)


def maps_file(out: Path, split: str, mirrored: bool) -> Path:
    """Where the maps of a split lie."""
    return out / f"lower_{split}{'_mirrored' if mirrored else ''}.npy"


def pooled_file(out: Path, split: str) -> Path:
    """Where the features of a split lie as ImageNet's weights give them."""
    return out / f"pooled_{split}.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k/, coco/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the caches")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for split, mirrored in (("dev", False), ("train", False), ("train", True)):
        if not maps_file(args.out, split, mirrored).exists():
            cache(args.data, split, mirrored, args.out)
        print(split, "mirrored" if mirrored else "", flush=True)


if __name__ == "__main__":
    main()
