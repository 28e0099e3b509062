"""Shows how close refined features come to their texts, beside how close real photos are.

`optimize` should neither leave a synthetic image far from its text nor make it the text itself:
the decoder is to see in training what it will see of photos.
"""

import argparse
from pathlib import Path

import torch
from data import flickr8k
from torch import Tensor

from syntic_cli.artifacts import Artifact
from syntic_cli.method.projection import project
from syntic_cli.method.refinement import refine
from syntic_cli.models.clip import load_clip
from syntic_cli.photos import load_photo
from syntic_cli.settings import EncodeSettings

TEMPERATURES = (1 / 100, 1 / 50, 1 / 30, 1 / 20)
CAPTIONS = 5


def dev_features(data: Path) -> tuple[Tensor, Tensor]:
    """Features of the dev photos, (N, d), and of their captions, (N, 5, d)."""
    model = load_clip(EncodeSettings("preset:tiny/clip"), torch.device("cpu"), torch.float32)
    images, texts = [], []
    for photo in flickr8k(data, "dev"):
        pixels = model.preprocess(load_photo(photo.path, at_least=model.image_size))
        images.append(model.encode_images(pixels[None]))
        texts.append(model.encode_texts(photo.captions[:CAPTIONS])[None])
    return torch.cat(images), torch.cat(texts)


def show(name: str, images: Tensor, texts: Tensor, support: Tensor) -> None:
    """A row: the mean cosine to the own texts, before and after projection."""
    cosines = [float((images[:, None] * texts).sum(-1).mean())]
    for temperature in TEMPERATURES:
        projected = project(images, support, temperature)
        cosines.append(float((projected[:, None] * texts).sum(-1).mean()))
    print(f"| {name} | {' | '.join(f'{cosine:.3f}' for cosine in cosines)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k/")
    parser.add_argument("--features", type=Path, required=True, help="features.h5 of a run")
    parser.add_argument("--epochs", type=int, nargs="+", default=[20, 30, 35, 40, 50])
    parser.add_argument("--lr", type=float, default=1e-3)
    arguments = parser.parse_args()
    with Artifact(arguments.features, "encode") as artifact:
        images = torch.from_numpy(artifact.numbers("image_features"))
        support = torch.from_numpy(artifact.numbers("text_features"))
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:1024]
    print("| cosine to own text | image | " + " | ".join(f"τ {t:.3f}" for t in TEMPERATURES) + " |")
    print("|---" * (len(TEMPERATURES) + 2) + "|")
    show("dev photos", *dev_features(arguments.data), support)
    for epochs in arguments.epochs:
        refined = refine(
            images[rows], support[rows], temperature=0.05, lr=arguments.lr, epochs=epochs
        )
        show(f"{epochs} epochs", refined, support[rows][:, None], support)


if __name__ == "__main__":
    main()
