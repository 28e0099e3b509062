"""Trains the upper stages of EfficientNet-Lite2 and the image head against a fixed text tower.

The text tower is `align_text.py`'s. As it does not change, a batch has thousands of captions of
other photos as negatives at no cost, and beside its own photos those of the last steps. An epoch
is a unit of work: run again, the training continues after the last one. What is written lies
`--share` of the way from the weights that the training began with to those at its end, which sees
more than either end (WiSE-FT, Wortsman et al., CVPR 2022). At last the head is fitted anew to
photos at `--size`, where such a tower sees more than at the size it was trained at (FixRes, Touvron
et al., NeurIPS 2019).
"""

import argparse
import math
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from align_text import text_features
from heads import JOINT, Captions, Head, by_decay, cosine, fit_heads, set_rates, train_captions
from joint_space import write_open_clip
from lower_maps import LITE, maps_file, photos, pooled_features, pooled_file
from measure import recall
from safetensors.torch import load_file
from text_tower import text_transformer
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F
from tower_top import Top
from towers import efficientnet_lite
from transformers import CLIPTokenizer

BATCH = 128
OTHER_TEXTS, PAST_PHOTOS = 6000, 4096  # negatives beside the batch
CAPTIONS = 3  # of a photo, a step
CROP = 12  # of 14 cells: other cuts of a photo, and a quarter less work
DECAY = 0.85  # of the learning rate, a layer down
HEAD_RATE = 3e-4


def to_maps(rows: np.ndarray) -> Tensor:
    """Cached maps (B, H, W, C) as the top takes them."""
    return torch.from_numpy(rows).permute(3, 0, 1, 2).contiguous().bfloat16()


class Trainer:
    """The image tower, its data and its state."""

    def __init__(self, data: Path, out: Path, tokenizer: CLIPTokenizer) -> None:
        tower = text_transformer(len(tokenizer), JOINT)
        tower.load_state_dict(load_file(out / "aligned_text.safetensors"))
        self.text_tower = tower.eval()
        self.captions, self.dev = train_captions(data), Captions(photos(data, "dev"))
        self.texts = text_features(tower, tokenizer, self.captions.texts)
        self.dev_texts = text_features(tower, tokenizer, self.dev.texts)
        self.views = [np.load(maps_file(out, "train", flip), mmap_mode="r") for flip in (0, 1)]
        self.dev_maps = np.load(maps_file(out, "dev", False), mmap_mode="r")
        folders = [photo.path.parts[-3] for photo in photos(data, "dev")]
        self.dev_sets = {name: np.array(folders) == name for name in ("flickr8k", "coco")}
        torch.manual_seed(0)
        self.top = Top(efficientnet_lite(LITE))
        self.log_scale = nn.Parameter(torch.tensor(math.log(20.0)))
        self.pooled = load_file(pooled_file(out, "train"))["features"]
        self.image = Head(self.pooled, 0.6)

    def fit_head(self, pooled: Tensor) -> None:
        """A new head on features of the training photos, (n, 1280)."""
        self.image = Head(pooled, 0.6)
        parts = (self.image, pooled, nn.Identity(), self.texts, self.captions, CAPTIONS)
        self.log_scale.data.copy_(fit_heads(*parts))

    def optimizer(self, rate: float) -> torch.optim.Optimizer:
        """Lower layers learn more slowly; strong decay on the head."""
        groups = by_decay([*self.image.parameters(), self.log_scale], HEAD_RATE, 1.0)
        layers = [*self.top.layers, nn.ParameterList([self.top.head, self.top.head_bias])]
        for depth, layer in enumerate(reversed(layers)):
            trained = [p for p in layer.parameters() if p.requires_grad]
            groups += by_decay(trained, rate * DECAY**depth, 0.05)
        return torch.optim.AdamW(groups, betas=(0.9, 0.98))

    def epoch(self, number: int, optimizer: torch.optim.Optimizer, epochs: int) -> float:
        """One pass over the photos; returns the mean loss."""
        random, count = np.random.RandomState(100 + number), len(self.captions.rows)
        torch.manual_seed(100 + number)
        steps, order, total = count // BATCH, random.permutation(count), 0.0
        past, past_numbers = torch.zeros(0, JOINT), torch.zeros(0, dtype=torch.long)
        for step in range(steps):
            done = number * steps + step + 1
            set_rates(optimizer, min(done / 60, cosine(done / (epochs * steps), 0.02)))
            chosen = order[step * BATCH : (step + 1) * BATCH]
            images = self._encode(chosen, random)
            loss = self._loss(images, chosen, past, past_numbers, random)
            optimizer.zero_grad()
            loss.backward()
            trained = [p for p in self.top.parameters() if p.requires_grad]
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            with torch.no_grad():
                self.log_scale.clamp_(max=math.log(100))
            past = torch.cat([images.detach(), past])[:PAST_PHOTOS]
            past_numbers = torch.cat([torch.from_numpy(chosen), past_numbers])[:PAST_PHOTOS]
            total += loss.item() / steps
        return total

    def _encode(self, chosen: np.ndarray, random: np.random.RandomState) -> Tensor:
        """Unit vectors of a cut of each photo, half of them mirrored."""
        views = random.randint(2, size=len(chosen))
        y, x = random.randint(0, 15 - CROP, 2)
        cut = (slice(y, y + CROP), slice(x, x + CROP))
        maps = [self.views[view][row][cut] for view, row in zip(views, chosen, strict=True)]
        with torch.autocast("cpu", torch.bfloat16):
            pooled = self.top(to_maps(np.stack(maps)), 0.1)
        return self.image(pooled.float())

    def _loss(
        self,
        images: Tensor,
        chosen: np.ndarray,
        past: Tensor,
        past_numbers: Tensor,
        random: np.random.RandomState,
    ) -> Tensor:
        draw = random.permutation(len(self.captions.rows))[: OTHER_TEXTS + BATCH]
        (rows,) = self.captions.draw(np.setdiff1d(draw, chosen)[:OTHER_TEXTS], 1, random)
        to_others = images @ self.texts[rows].T
        same = torch.from_numpy(chosen)[:, None] == past_numbers
        labels, loss = torch.arange(len(chosen)), torch.zeros(())
        for rows in self.captions.draw(chosen, CAPTIONS, random):
            own = self.texts[rows]
            to_text = torch.cat([images @ own.T, to_others], 1)
            to_photo = torch.cat([own @ images.T, (own @ past.T).masked_fill(same, -9.0)], 1)
            for cosines in (to_text, to_photo):
                found = F.cross_entropy(self.log_scale.exp() * cosines, labels)
                loss = loss + found / (2 * CAPTIONS)
        return loss

    def state(self) -> list[dict[str, Tensor]]:
        """A copy of the weights of the upper stages and of the head."""
        return [deepcopy(dict(part.state_dict())) for part in (self.top, self.image)]

    def blend(
        self,
        start: list[Mapping[str, Tensor]],
        end: list[Mapping[str, Tensor]],
        share: float,
    ) -> None:
        """Takes the weights that lie `share` of the way from one state to another."""
        for part, first, last in zip((self.top, self.image), start, end, strict=True):
            part.load_state_dict({name: first[name].lerp(last[name], share) for name in first})

    @torch.no_grad()
    def dev_features(self) -> Tensor:
        """Pooled features of the dev photos, (n, 1280), from their maps."""
        self.top.eval()
        pooled, maps = [], self.dev_maps
        for start in range(0, len(maps), 100):
            with torch.autocast("cpu", torch.bfloat16):
                pooled.append(self.top(to_maps(maps[start : start + 100].copy())).float())
        self.top.train()
        return torch.cat(pooled)

    @torch.no_grad()
    def recall(self, dev: Tensor) -> str:
        """Photo-to-text recall on both dev sets, each among its own, by pooled features."""
        self.image.eval()
        similarity, found = self.image(dev) @ self.dev_texts.T, []
        self.image.train()
        for name, mask in self.dev_sets.items():
            numbers = torch.from_numpy(np.flatnonzero(mask))
            mine = torch.isin(self.dev.owners, numbers)
            right = self.dev.owners[mine][None] == numbers[:, None]
            values = (recall(similarity[numbers][:, mine], right, k) for k in (1, 5, 10))
            found.append(f"{name} " + "/".join(f"{value:.1f}" for value in values))
        return "  ".join(found)

    def tower(self) -> EfficientNet:
        """The image tower with the upper stages as they are now."""
        model = efficientnet_lite(LITE)
        self.top.write_into(model)
        return model

    def write(self, tokenizer: CLIPTokenizer, folder: Path, size: int) -> None:
        """Writes the dual encoder's folder, for photos of a size."""
        weight, bias = self.image.folded()
        write_open_clip(
            folder,
            tokenizer,
            f"tf_efficientnet_lite{LITE}",
            size,
            self.tower(),
            {"proj.weight": weight, "proj.bias": bias},
            self.text_tower.state_dict(),
            self.log_scale,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k/, coco/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the caches")
    parser.add_argument("--start", type=Path, required=True, help="a folder with the tokenizer")
    parser.add_argument("--folder", type=Path, required=True, help="where the result is written")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1e-4, help="highest, of the topmost layer")
    parser.add_argument("--share", type=float, default=0.4, help="of the way, see above")
    parser.add_argument("--size", type=int, default=256, help="pixels of the square it is to see")
    args = parser.parse_args()
    tokenizer = CLIPTokenizer.from_pretrained(args.start)
    trainer, checkpoint = Trainer(args.data, args.out, tokenizer), args.out / "fine_tune.pt"
    done = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        start, done = saved["start"], saved["epochs"]
        trainer.blend(start, saved["parts"], 1.0)
        trainer.log_scale.data.copy_(saved["log_scale"])
    else:
        trainer.fit_head(trainer.pooled)
        print("head", trainer.recall(trainer.dev_features()), flush=True)
        start = trainer.state()
    optimizer = trainer.optimizer(args.rate)
    if done:
        optimizer.load_state_dict(saved["optimizer"])
    for number in range(done, args.epochs):
        loss = trainer.epoch(number, optimizer, args.epochs)
        state = {
            "start": start,
            "parts": trainer.state(),
            "log_scale": trainer.log_scale.data,
            "optimizer": optimizer.state_dict(),
            "epochs": number + 1,
        }
        torch.save(state, checkpoint.with_suffix(".part"))
        checkpoint.with_suffix(".part").rename(checkpoint)
        recall = trainer.recall(trainer.dev_features())
        print(f"epoch {number + 1}  loss {loss:.3f}  {recall}", flush=True)
    trainer.blend(start, trainer.state(), args.share)
    print(f"share {args.share}  {trainer.recall(trainer.dev_features())}", flush=True)
    tower = trainer.tower()
    trainer.fit_head(pooled_features(tower, args.data, "train", args.size))
    dev = pooled_features(tower, args.data, "dev", args.size)
    print(f"size {args.size}  {trainer.recall(dev)}", flush=True)
    trainer.write(tokenizer, args.folder, args.size)


if __name__ == "__main__":
    main()
