"""Prints the corpus of the shipped captioner: the captions of both data sets' training photos."""

import argparse
from pathlib import Path

from data import coco, flickr8k


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k/, coco/")
    arguments = parser.parse_args()
    for photo in flickr8k(arguments.data, "train") + coco(arguments.data, "train"):
        print("\n".join(photo.captions))


if __name__ == "__main__":
    main()
