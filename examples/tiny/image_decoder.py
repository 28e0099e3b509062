"""Trains the decoder that turns latents into 64x64 images (diffusers' AutoencoderKL).

The loss is the distance in colours and in EfficientNet-Lite0's features, with small
discriminators on the same features (as in Projected GANs) that ask for sharp texture. The
encoder learns to read the latents off the small image, so that the autoencoder is whole.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from budget import Budget
from data import coco128, flickr8k
from diffusers import AutoencoderKL
from latents import CHANNELS, IMAGE, LatentSpace, encode_photos, small_images
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from towers import efficientnet_lite0, normalise

BLOCKS = (16, 32, 64, 96, 128)
COLOURS_FIRST = 600  # steps on colours alone, which take half the time of the others
SEEN_AT = 96  # the size at which features are compared
JUDGED = (2, 3, 4, 6)  # the feature stages that the discriminators see


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

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.interpolate(images, SEEN_AT, mode="bilinear", align_corners=False)
        x = self.net.bn1(self.net.conv_stem(x))
        stages = []
        for block in self.net.blocks:
            x = block(x)
            stages.append(x)
        return stages


class Discriminator(nn.Module):
    """One small patch classifier per judged stage."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(width, 64, 1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(64, 64, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(64, 1, 1)),
            )
            for width in channels
        )

    def forward(self, stages: list[Tensor]) -> list[Tensor]:
        return [head(stages[i]) for head, i in zip(self.heads, JUDGED, strict=True)]


def feature_distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """Mean relative distance over the stages."""
    terms = [(a - b).abs().mean() / b.abs().mean() for a, b in zip(ours, theirs, strict=True)]
    return torch.stack(terms).mean()


class Trainer:
    """The models, optimisers and one training step."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.model = build_autoencoder().to(device).to(memory_format=torch.channels_last)
        self.average = build_autoencoder().to(device).requires_grad_(False)
        self.features = Features().to(device).to(memory_format=torch.channels_last)
        with torch.no_grad():
            channels = [x.shape[1] for x in self.features(torch.zeros(1, 3, 64, 64, device=device))]
        self.judge = Discriminator([channels[i] for i in JUDGED]).to(device)
        self.see = torch.compile(self.features)
        self.optimizer = torch.optim.Adam(self.model.parameters(), betas=(0.5, 0.95))
        self.judge_optimizer = torch.optim.Adam(self.judge.parameters(), 4e-4, betas=(0.0, 0.95))
        self.step = 0

    def train_step(self, latents: Tensor, images: Tensor, adversarial: float) -> dict[str, float]:
        """One update of the autoencoder and, where asked for, of the discriminators."""
        # Latents that a diffusion model makes are never exact: learn to forgive.
        noise = 0.3 * torch.rand(len(latents), 1, 1, 1, device=self.device)
        fake = self.model.decode(latents + noise * torch.randn_like(latents)).sample
        losses = {"colour": F.l1_loss(fake, images)}
        total = losses["colour"]
        if features := self.step >= COLOURS_FIRST:
            with torch.no_grad():
                real_seen = self.see(images)
            seen = self.see(fake)
            losses["features"] = feature_distance(seen, real_seen)
            total = total + losses["features"]
        if self.step % 4 == 0:  # the encoder is the easier part and no one waits for it
            read = self.model.encode(images).latent_dist.mean
            losses["encoder"] = F.mse_loss(read, latents)
            total = total + losses["encoder"]
        if features and adversarial:
            verdicts = self.judge(seen)
            total = total - adversarial * sum(v.mean() for v in verdicts) / len(verdicts)
        self.optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        if features and adversarial:
            losses["judge"] = self._judge_step([x.detach() for x in seen], real_seen)
        self.step += 1
        self._update_average()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _judge_step(self, fake: list[Tensor], real: list[Tensor]) -> Tensor:
        pairs = zip(self.judge(fake), self.judge(real), strict=True)
        loss = torch.stack([F.relu(1 + f).mean() + F.relu(1 - r).mean() for f, r in pairs]).mean()
        self.judge_optimizer.zero_grad()
        loss.backward()
        self.judge_optimizer.step()
        return loss

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(0.998, (1 + self.step) / (10 + self.step))
        for ours, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
            ours.lerp_(new, 1 - decay)

    def set_rate(self, rate: float) -> None:
        """Sets the autoencoder's learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        parts = ("model", "average", "judge", "optimizer", "judge_optimizer")
        return {"step": self.step} | {name: getattr(self, name).state_dict() for name in parts}

    def load(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self.step = state.pop("step")
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)


def load_pairs(data: Path, out: Path) -> tuple[Tensor, Tensor]:
    """Latents and uint8 images of the training photos, then of their mirror images."""
    paths = [p.path for p in flickr8k(data, "train") + coco128(data, "train")]
    plain, mirrored = (
        np.concatenate([np.load(out / f"{group}{kind}.npy") for group in ("train", "coco_train")])
        for kind in ("", "_mirrored")
    )
    pixels = small_images(paths)
    target = out / "latent_space.safetensors"
    if not target.exists():
        LatentSpace.fit(plain).save(target)
    space = LatentSpace.load(target)
    views = ((plain, pixels), (mirrored, pixels.flip(-1)))
    latents = [encode_photos(space, maps, images) for maps, images in views]
    return torch.cat(latents), torch.cat([images for _, images in views])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the caches")
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--adversarial", type=float, default=0.05)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    latents, pixels = load_pairs(args.data, args.out)
    trainer, checkpoint = Trainer(args.device), args.out / "decoder.ckpt"
    if checkpoint.exists():
        trainer.load(torch.load(checkpoint, map_location=args.device, weights_only=True))
    budget, saved = Budget(args.minutes), time.time()
    while budget.left > 0:
        trainer.set_rate(args.rate * budget.rate(trainer.step, 20, 0.3))
        rows = torch.randint(len(latents), (args.batch,))
        images = normalise(pixels[rows]).to(args.device, memory_format=torch.channels_last)
        losses = trainer.train_step(latents[rows].to(args.device), images, args.adversarial)
        if trainer.step % 20 == 0:
            words = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
            print(f"step {trainer.step}  {budget.used:.0f} s  {words}", flush=True)
        if time.time() - saved > 240:
            torch.save(trainer.state(), checkpoint)
            saved = time.time()
    torch.save(trainer.state(), checkpoint)


if __name__ == "__main__":
    main()
