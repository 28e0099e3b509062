"""Trains the decoder that turns latents into 64x64 images (diffusers' AutoencoderKL).

The loss is the distance in colours, in EfficientNet-Lite0's features and in the dual encoder's
feature of the whole image, so that an image is seen as what its latents say. The encoder learns to
read the latents off the small image, so that the autoencoder is whole.
"""

from pathlib import Path

import numpy as np
import torch
from data import coco, coco128, flickr8k
from diffusers import AutoencoderKL
from latents import (
    CHANNELS,
    IMAGE,
    LatentSpace,
    PhotoHead,
    encode_photos,
    features_of_maps,
    small_images,
)
from torch import Tensor, nn
from torch.nn import functional as F
from towers import efficientnet_lite0, normalise
from training import Budget, Checkpoint, set_rate, training_parser, update_average

BLOCKS = (16, 32, 64, 96, 128)
COLOURS_FIRST = 600  # steps on colours alone, which take half the time of the others
SEEN_AT = (128, 256)  # sizes at which features are compared; the dual encoder looks at 256
WHOLE_WEIGHT = 2.0


def build_autoencoder() -> AutoencoderKL:
    """The autoencoder, 16 times smaller per side and with deterministic latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(BLOCKS),
        up_block_types=("UpDecoderBlock2D",) * len(BLOCKS),
        block_out_channels=BLOCKS,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=16,
        sample_size=IMAGE,
        scaling_factor=1.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


class Features(nn.Module):
    """The outputs of EfficientNet-Lite0's seven stages for images in -1..1."""

    def __init__(self) -> None:
        super().__init__()
        self.net = efficientnet_lite0()

    def forward(self, images: Tensor, size: int) -> list[Tensor]:
        x = F.interpolate(images, size, mode="bicubic", align_corners=False)
        x = self.net.bn1(self.net.conv_stem(x))
        stages = []
        for block in self.net.blocks:
            x = block(x)
            stages.append(x)
        return stages


def feature_distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """Mean relative distance over the stages."""
    terms = [(a - b).abs().mean() / b.abs().mean() for a, b in zip(ours, theirs, strict=True)]
    return torch.stack(terms).mean()


class Trainer:
    """The autoencoder, its running average and one training step."""

    def __init__(self, clip: Path, device: str) -> None:
        self.device = device
        self.model = build_autoencoder().to(device).to(memory_format=torch.channels_last)
        self.average = build_autoencoder().to(device).requires_grad_(False)
        features = Features().to(device).to(memory_format=torch.channels_last)
        self.see = torch.compile(features, dynamic=False)  # a graph for each of the two sizes
        self.read = PhotoHead(clip, device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), betas=(0.5, 0.95))

    def train_step(
        self, step: int, latents: Tensor, images: Tensor, features: Tensor, size: int
    ) -> dict[str, float]:
        """One update towards `images`, whose features in full are `features`, as seen at `size`."""
        # Latents that a diffusion model makes are never exact: learn to forgive.
        noise = 0.3 * torch.rand(len(latents), 1, 1, 1, device=self.device)
        fake = self.model.decode(latents + noise * torch.randn_like(latents)).sample
        losses = {"colour": F.l1_loss(fake, images)}
        if step >= COLOURS_FIRST:
            seen = self.see(fake, size)
            with torch.no_grad():
                real_seen = self.see(images, size)
            losses["features"] = feature_distance(seen, real_seen)
            losses["whole"] = WHOLE_WEIGHT * (1 - (self.read(seen[-1]) * features).sum(1).mean())
        if step % 8 == 0:  # the encoder is the easier part and no one waits for it
            losses["encoder"] = F.mse_loss(self.model.encode(images).latent_dist.mean, latents)
        self.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        update_average(self.average, self.model, step + 1, 0.998)
        return {name: float(loss.detach()) for name, loss in losses.items()}


def load_pairs(data: Path, out: Path, clip: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, uint8 images and features of the training photos, then of their mirror images."""
    first = flickr8k(data, "train") + coco128(data, "train")
    paths = [p.path for p in first + coco(data, "train")]
    groups = ("train", "coco_train", "coco")
    plain, mirrored = (
        np.concatenate([np.load(out / f"{group}{kind}.npy") for group in groups])
        for kind in ("", "_mirrored")
    )
    pixels, head = small_images(paths), PhotoHead(clip)
    features = [features_of_maps(head, maps) for maps in (plain, mirrored)]
    target = out / "latent_space.safetensors"
    if not target.exists():
        # Of the photos that it has been of from the first, so that it is that of earlier weights.
        LatentSpace.fit(plain[: len(first)], features[0][: len(first)]).save(target)
    space = LatentSpace.load(target)
    views = zip((plain, mirrored), features, (pixels, pixels.flip(-1)), strict=True)
    latents = [encode_photos(space, *view) for view in views]
    return torch.cat(latents), torch.cat([pixels, pixels.flip(-1)]), torch.cat(features)


def main() -> None:
    parser = training_parser(__doc__, minutes=45.0, batch=16, rate=1e-3)
    parser.add_argument("--clip", type=Path, required=True, help="folder of the dual encoder")
    parser.add_argument("--start", type=Path, help="an autoencoder's folder to begin from")
    args = parser.parse_args()
    latents, pixels, features = load_pairs(args.data, args.out, args.clip)
    trainer, budget = Trainer(args.clip, args.device), Budget(args.minutes)
    if args.start:
        weights = AutoencoderKL.from_pretrained(args.start).float().state_dict()
        for model in (trainer.model, trainer.average):
            model.load_state_dict(weights)
    parts = {name: getattr(trainer, name) for name in ("model", "average", "optimizer")}
    # Weights to begin from know the colours.
    ahead = COLOURS_FIRST if args.start else 0
    for step in Checkpoint(args.out / "decoder.ckpt", parts, args.device).steps(budget):
        set_rate(trainer.optimizer, args.rate * budget.rate(step, 20, 0.3))
        size = SEEN_AT[step % len(SEEN_AT)]
        # As many pixels are seen at either size.
        rows = torch.randint(len(latents), (args.batch * SEEN_AT[0] ** 2 // size**2,))
        images = normalise(pixels[rows]).to(args.device, memory_format=torch.channels_last)
        losses = trainer.train_step(
            step + ahead,
            latents[rows].to(args.device),
            images,
            features[rows].to(args.device),
            size,
        )
        if step % 20 < 2:
            words = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
            print(f"step {step}  {budget.used:.0f} s  {words}", flush=True)


if __name__ == "__main__":
    main()
