"""Scores ways of decoding on dev photos: the preset's settings, one of them changed at a time.

Prints a row a setting as it comes: CIDEr on the first photos of Flickr8k dev and COCO dev, and how
many percent of the captions have no content word that none of the photo's five references has, with
the mean of both sets. By these settings are chosen.
"""

import argparse
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from calibrate import singular, words
from data import Photo, coco, flickr8k
from torch import Tensor

from syntic_cli import Captioner
from syntic_cli.metrics import score
from syntic_cli.models.clip import Clip
from syntic_cli.presets import load_preset, resolve
from syntic_cli.settings import CaptionSettings

CHANGES: dict[str, tuple[float | None, ...]] = {
    "mirror": (True, False),
    "temperature": (0.012, 0.016, 0.022, 0.027, 0.033),
    "repetition": (0.0, 0.5, 1.0, 1.5),
    "length_penalty": (0.7, 1.0, 1.3, 1.6),
    "rerank": (0.0, 0.5, 1.0, 2.0),
    "consensus": (0, 100, 300, 1000),
    "evidence": (0.0, 0.5, 0.75, 1.0, 1.5),
    "shorten": (None, 0.1, 0.25, 0.5, 1.0),
    "beam": (3, 5, 8, 12),
}
# Words that say nothing of a photo that could be wrong, beside those of one or two letters.
FUNCTION_WORDS = """
the and with are that this his her their its there some for from has have next near top front other
each while being very him them one
"""
EMPTY = set(FUNCTION_WORDS.split())


def content(text: str) -> set[str]:
    return {singular(word) for word in words(text) if len(word) > 2} - EMPTY


def confirmed(caption: str, photo: Photo) -> bool:
    """Whether some reference has each content word."""
    return content(caption) <= set().union(*map(content, photo.captions))


class Remembering:
    """A dual encoder that looks at the same pixels only once."""

    def __init__(self, clip: Clip, known: dict[bytes, Tensor]) -> None:
        self._clip, self._known = clip, known

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clip, name)

    def encode_images(self, pixels: Tensor) -> Tensor:
        key = sha256(pixels.numpy().tobytes()).digest()
        if key not in self._known:
            self._known[key] = self._clip.encode_images(pixels)
        return self._known[key]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k/, coco/")
    parser.add_argument("--captioner", type=Path, help="captioner.h5, if not the shipped one")
    parser.add_argument("--clip", help="its dual encoder, if it lies elsewhere")
    parser.add_argument("--photos", type=int, default=350, help="of each set")
    parser.add_argument("--changes", nargs="*", default=list(CHANGES), choices=list(CHANGES))
    args = parser.parse_args()
    sets = [photos(args.data, "dev")[: args.photos] for photos in (flickr8k, coco)]
    usual, known = resolve(CaptionSettings, load_preset("tiny")), {}

    def judge(settings: CaptionSettings, photos: list[Photo]) -> tuple[float, float]:
        captioner = Captioner.load(args.captioner, settings=settings, clip=args.clip)
        captioner._clip = Remembering(captioner._clip, known)
        found = [one.caption for one in captioner.caption([photo.path for photo in photos])]
        cider = score(found, [photo.captions for photo in photos], ["CIDEr"]).corpus["CIDEr"]
        return cider, 100 * sum(map(confirmed, found, photos)) / len(photos)

    columns = ("Flickr8k dev", "COCO dev", "mean", "Flickr8k confirmed", "COCO confirmed", "mean")
    print(f"| setting | {' | '.join(columns)} |" + "\n" + "|---" * 7 + "|")
    for name in args.changes:
        for value in CHANGES[name]:
            found = [judge(replace(usual, **{name: value}), photos) for photos in sets]
            rows = [(*each, sum(each) / 2) for each in zip(*found, strict=True)]
            cells = " | ".join(f"{one:.1f}" for row in rows for one in row)
            print(f"| {name} {value} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
