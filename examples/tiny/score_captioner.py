"""Scores a captioner on real photos: both sets of dev photos and the scoring half of coco128."""

import argparse
import time
from pathlib import Path

from data import Photo, coco, coco128, flickr8k

from syntic_cli import Captioner
from syntic_cli.metrics import score
from syntic_cli.presets import load_preset, resolve
from syntic_cli.settings import CaptionSettings

METRICS = ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


def score_photos(captioner: Captioner, photos: list[Photo], name: str) -> None:
    """Caption photos and print a row of scores and the rate."""
    began = time.perf_counter()
    found = captioner.caption([photo.path for photo in photos])
    rate = len(photos) / (time.perf_counter() - began)
    scores = score(
        [caption.caption for caption in found], [photo.captions for photo in photos], METRICS
    )
    shown = " | ".join(f"{scores.corpus[metric]:.1f}" for metric in METRICS)
    print(f"| {name}, {len(photos)} photos | {shown} | {rate:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with flickr8k/, coco/, coco128/"
    )
    parser.add_argument("--captioner", type=Path, help="captioner.h5, if not the shipped one")
    arguments = parser.parse_args()
    settings = resolve(CaptionSettings, load_preset("tiny"))
    captioner = Captioner.load(arguments.captioner, settings=settings)
    print(f"| photos | {' | '.join(METRICS)} | photos a second |")
    print("|---" * (len(METRICS) + 2) + "|")
    score_photos(captioner, flickr8k(arguments.data, "dev"), "Flickr8k dev")
    score_photos(captioner, coco(arguments.data, "dev"), "COCO dev")
    score_photos(captioner, coco128(arguments.data, "score"), "coco128, scoring half")


if __name__ == "__main__":
    main()
