"""Prints the corpus of the shipped captioner: Flickr8k's training captions and some of COCO's."""

import argparse
from pathlib import Path

import numpy as np
from data import coco128, coco_captions, flickr8k


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k/, coco128/")
    parser.add_argument("--flickr", type=int, default=30_000, help="captions of Flickr8k")
    parser.add_argument("--coco", type=int, default=12_000, help="captions of COCO")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    own = [text for photo in flickr8k(arguments.data, "train") for text in photo.captions]
    scoring = {int(photo.path.stem) for photo in coco128(arguments.data, "score")}
    other = [text for photo, text in coco_captions() if photo not in scoring]
    for texts, count in ((own, arguments.flickr), (other, arguments.coco)):
        for row in np.sort(random.permutation(len(texts))[:count]):
            print(texts[row])


if __name__ == "__main__":
    main()
