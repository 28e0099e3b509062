"""Trains the small dual encoder and writes it as an open_clip folder.

EfficientNet-Lite0 stays frozen under a linear head; the distilled text tower is fine-tuned. Pairs
come from Flickr8k, from half of coco128, and from the ImageNet classifier: a class name paired
with the image feature that its weight vector implies.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from data import COCO_NAMES, coco128, flickr8k, half_b
from imagenet import PROMPTS, ImagenetPairs, photo_features
from joint_space import Encoder, write_folder
from measure import recall
from safetensors.torch import load_file
from text_tower import (
    distillation_texts,
    encode_tokens,
    text_transformer,
    tokenize,
)
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer


def contrastive(images: Tensor, texts: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of unit vectors."""
    logits = log_scale.exp() * images @ texts.T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@dataclass
class Corpus:
    """Photos' features (plain and mirrored) and, per photo, the rows of its captions."""

    features: Tensor  # (2, n, 1280)
    rows: list[np.ndarray]

    def sample(
        self, photos: np.ndarray, random: np.random.RandomState
    ) -> tuple[Tensor, np.ndarray]:
        """A view and a caption row of each of the photos."""
        views = random.randint(2, size=len(photos))
        captions = np.array([self.rows[i][random.randint(len(self.rows[i]))] for i in photos])
        return self.features[views, photos], captions


def load_corpus(data: Path, out: Path, half: bool) -> Corpus:
    """Training photos of both data sets (`half`: half A of Flickr8k), and their captions' rows."""
    photos = flickr8k(data, "train") + coco128(data, "train")
    views = [
        torch.cat([photo_features(out, f"{group}{kind}") for group in ("train", "coco_train")])
        for kind in ("", "_mirrored")
    ]
    ends = np.cumsum([len(photo.captions) for photo in photos])
    rows = np.split(np.arange(ends[-1]), ends[:-1])
    if half:
        others = half_b(data)
        chosen = [i for i in range(len(photos)) if i not in others]
        views, rows = [view[chosen] for view in views], [rows[i] for i in chosen]
    return Corpus(torch.stack(views), rows)


class Trainer:
    """Trains on batches of photo pairs, with ImageNet pairs beside them."""

    def __init__(self, data: Path, out: Path, imagenet: int, half: bool) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
        self.corpus = load_corpus(data, out, half)
        texts = distillation_texts(data, coco=0)
        self.tokens = tokenize(self.tokenizer, texts)[0]
        teacher = load_file(out / "minilm.safetensors")["features"]
        self.sentences = teacher[: len(texts)]
        captions = self.corpus.rows[-1][-1] + 1
        named = captions + len(COCO_NAMES) * len(PROMPTS)
        self.imagenet, self.share = ImagenetPairs.imply(self.corpus.features[0], named), imagenet
        tower = text_transformer(len(self.tokenizer), teacher.shape[1])
        tower.load_state_dict(load_file(out / "text_tower.safetensors"))
        self.encoder = Encoder(self.corpus.features[0], self.sentences[:captions], tower)
        self.random = np.random.RandomState(0)

    def batches(self, size: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        """One epoch of image features and the rows of their texts."""
        order = self.random.permutation(len(self.corpus.rows))
        for start in range(0, len(order), size):
            features, rows = self.corpus.sample(order[start : start + size], self.random)
            share = self.share * len(rows) // 1000
            extra, names = self.imagenet.sample(share, self.random)
            yield torch.cat([features, extra]), np.concatenate([rows, names])

    def fit(self, epochs: int, size: int, rate: float, tower: bool) -> Iterator[float]:
        """Trains the heads on the teacher's sentences, or the heads and the tower on tokens."""
        optimizer = torch.optim.AdamW(self.encoder.parameter_groups(tower), lr=rate)
        steps, step = epochs * -(-len(self.corpus.rows) // size), 0
        for _ in range(epochs):
            for features, rows in self.batches(size):
                step += 1
                for group in optimizer.param_groups:
                    cosine = 0.5 + 0.5 * math.cos(math.pi * step / steps)
                    group["lr"] = rate * min(cosine, step / 20)
                texts = self._texts(rows, tower)
                loss = contrastive(self.encoder.image(features), texts, self.encoder.log_scale)
                if tower:  # stay near the teacher, who has read more than captions
                    loss = loss + (1 - (texts * self._texts(rows, False)).sum(1)).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.encoder.parameters(), 5.0)
                optimizer.step()
            yield loss.item()

    @torch.no_grad()
    def start_tower(self) -> None:
        """Sets the scale by which the tower's embeddings become unit vectors on average."""
        rows = self.random.randint(len(self.tokens), size=500)
        self.encoder.norm.copy_(
            encode_tokens(self.encoder.tower, self.tokens[rows]).norm(dim=1).mean()
        )

    def _texts(self, rows: np.ndarray, tower: bool) -> Tensor:
        if tower:
            return self.encoder.encode_tokens(self.tokens[rows])
        return self.encoder.encode_sentences(self.sentences[rows])


class DevPhotos:
    """The photos on which settings are chosen."""

    def __init__(self, data: Path, out: Path, tokenizer: CLIPTokenizer) -> None:
        photos = flickr8k(data, "dev")
        self.features = photo_features(out, "dev")
        self.tokens = tokenize(tokenizer, [c for photo in photos for c in photo.captions])[0]
        owner = torch.tensor([i for i, photo in enumerate(photos) for _ in photo.captions])
        self.right = owner[None] == torch.arange(len(photos))[:, None]

    @torch.no_grad()
    def recall(self, encoder: Encoder) -> str:
        """Photo-to-text recall."""
        encoder.eval()
        texts = torch.cat([encoder.encode_tokens(rows) for rows in self.tokens.split(250)])
        similarity = encoder.image(self.features) @ texts.T
        encoder.train()
        return "  ".join(f"R@{k} {recall(similarity, self.right, k):.1f}" for k in (1, 5, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the caches")
    parser.add_argument("--folder", type=Path, required=True, help="where the model is written")
    parser.add_argument("--imagenet", type=int, default=300, help="ImageNet pairs per 1000 photos")
    parser.add_argument("--epochs", type=int, default=12, help="epochs with the text tower")
    parser.add_argument("--half", action="store_true", help="leave half B out (for the ablation)")
    args = parser.parse_args()
    trainer = Trainer(args.data, args.out, args.imagenet, args.half)
    dev = DevPhotos(args.data, args.out, trainer.tokenizer)
    losses = list(trainer.fit(epochs=40, size=1000, rate=4e-3, tower=False))
    trainer.start_tower()
    print(f"heads: loss {losses[-1]:.3f}  {dev.recall(trainer.encoder)}", flush=True)
    for epoch, loss in enumerate(trainer.fit(args.epochs, 500, 3e-4, tower=True)):
        print(f"epoch {epoch + 1}  loss {loss:.3f}  {dev.recall(trainer.encoder)}", flush=True)
        write_folder(trainer.encoder.eval(), trainer.tokenizer, args.folder)


if __name__ == "__main__":
    main()
