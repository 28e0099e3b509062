"""Moves the small text tower into a space that Flickr8k's and COCO's photos share with MiniLM.

Heads on frozen features (EfficientNet-Lite2's and MiniLM's) make the space. The tower begins from
the dual encoder that `--start` names and learns from all captions of the training photos and from
class names: to point where MiniLM under its head points, and to find its photo among others.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from data import COCO_NAMES
from heads import (
    JOINT,
    Head,
    by_decay,
    cosine,
    fit_heads,
    sentence_features,
    set_rates,
    train_captions,
)
from imagenet import PROMPTS, imagenet_names
from lower_maps import pooled_file
from open_clip.transformer import TextTransformer
from safetensors.torch import load_file, save_file
from text_tower import batches, encode_tokens, text_transformer, tokenize
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

BATCH = 256


def encode(tower: TextTransformer, tokens: Tensor, lengths: np.ndarray) -> Tensor:
    """Unit vectors (B, JOINT) of padded token rows."""
    with torch.autocast("cpu", torch.bfloat16):
        found = encode_tokens(tower, tokens[:, : int(lengths.max())])
    return F.normalize(found.float(), dim=-1)


@torch.no_grad()
def text_features(tower: TextTransformer, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Unit vectors (n, JOINT)."""
    tokens, lengths = tokenize(tokenizer, texts)
    order = np.argsort(lengths, kind="stable")
    features = torch.empty(len(texts), JOINT)
    for rows in np.array_split(order, len(order) // 500 + 1):
        features[rows] = encode(tower, tokens[rows], lengths[rows])
    return features


@torch.no_grad()
def fit_projection(tower: TextTransformer, tokens: Tensor, targets: Tensor) -> None:
    """Sets the last projection by ridge regression on the targets."""
    projection = tower.text_projection
    tower.text_projection = nn.Identity()
    states = torch.cat([encode_tokens(tower, part) for part in tokens.split(250)])
    tower.text_projection = projection
    inputs = torch.cat([states, torch.ones(len(states), 1)], 1)
    ridge = 0.0005 * len(states) * torch.eye(inputs.shape[1])
    weight = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ targets)
    projection.weight.copy_(weight[:-1].T)
    projection.bias.copy_(weight[-1])


class Aligner:
    """The tower with its texts, their targets, and the photos' vectors."""

    def __init__(self, data: Path, out: Path, start: Path) -> None:
        captions = train_captions(data)
        names = COCO_NAMES + [name for names in imagenet_names() for name in names]
        texts = captions.texts + [prompt.format(name) for name in names for prompt in PROMPTS]
        sentences = sentence_features(texts, out / "minilm_align.safetensors")
        pooled = load_file(pooled_file(out, "train"))["features"]
        torch.manual_seed(0)
        image = Head(pooled, 0.6)
        text = Head(sentences[: len(captions.texts)], 0.1, hidden=1024)
        self.scale = fit_heads(image, pooled, text, sentences, captions, 1).exp().item()
        with torch.no_grad():
            self.photos, self.targets = image.eval()(pooled), text.eval()(sentences)
        self.owners = torch.full((len(texts),), -1)
        self.owners[: len(captions.texts)] = captions.owners
        tokenizer = CLIPTokenizer.from_pretrained(start)
        self.tokens, self.lengths = tokenize(tokenizer, texts)
        self.tower = text_transformer(len(tokenizer), JOINT)
        weights = load_file(start / "open_clip_model.safetensors").items()
        self.tower.load_state_dict({k[5:]: v.float() for k, v in weights if k.startswith("text.")})

    def batches(self, random: np.random.RandomState) -> list[np.ndarray]:
        """Batches of about equal length; captions twice as often as names."""
        rows = np.concatenate([np.flatnonzero(self.owners >= 0), np.arange(len(self.tokens))])
        return [rows[batch] for batch in batches(self.lengths[rows], BATCH, random)]

    def loss(self, rows: np.ndarray) -> Tensor:
        """Distance from the teacher, and contrast with the photos."""
        vectors = encode(self.tower, self.tokens[rows], self.lengths[rows])
        apart = (1 - (vectors * self.targets[rows]).sum(1)).mean()
        shown = self.owners[rows] >= 0
        owners, labels = self.owners[rows][shown], torch.arange(int(shown.sum()))
        same = (owners[:, None] == owners).fill_diagonal_(False)
        logits = self.scale * self.photos[owners] @ vectors[shown].T
        logits = logits.masked_fill(same, -1e4)
        found = F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)
        return 3 * apart + 0.15 * found

    def train(self, steps: int, rate: float, checkpoint: Path) -> None:
        """Trains to the end, from the checkpoint if there is one."""
        optimizer = torch.optim.AdamW(
            by_decay(self.tower.parameters(), rate, 0.02), betas=(0.9, 0.98)
        )
        step = 0
        if checkpoint.exists():
            saved = torch.load(checkpoint, weights_only=True)
            self.tower.load_state_dict(saved["tower"])
            optimizer.load_state_dict(saved["optimizer"])
            step = saved["step"]
        else:
            rows = np.random.RandomState(0).permutation(len(self.tokens))[:4000]
            fit_projection(self.tower, self.tokens[rows], self.targets[rows])
        random, left = np.random.RandomState(step), []
        while step < steps:
            left = left or self.batches(random)
            step += 1
            set_rates(optimizer, min(step / 50, cosine(step / steps, 0.02)))
            loss = self.loss(left.pop())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.tower.parameters(), 1.0)
            optimizer.step()
            if step % 100 == 0 or step == steps:
                state = {"tower": self.tower.state_dict(), "optimizer": optimizer.state_dict()}
                part = checkpoint.with_suffix(".part")
                torch.save(state | {"step": step}, part)
                part.rename(checkpoint)
                print(f"step {step} of {steps}  loss {loss.item():.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k/, coco/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the caches")
    parser.add_argument("--start", type=Path, required=True, help="a dual encoder's folder")
    parser.add_argument("--texts", type=int, default=128_000, help="texts to train on, repeated")
    parser.add_argument("--rate", type=float, default=5e-4)
    args = parser.parse_args()
    aligner = Aligner(args.data, args.out, args.start)
    aligner.train(args.texts // BATCH, args.rate, args.out / "align_text.pt")
    save_file(aligner.tower.state_dict(), args.out / "aligned_text.safetensors")


if __name__ == "__main__":
    main()
