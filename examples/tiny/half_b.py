"""Prints the texts of half B: the captions, or the first few, of each of its photos.

The dual encoder that `dual_encoder.py --half` makes has not seen them with their photos.
"""

import argparse
from pathlib import Path

from data import flickr8k, half_b


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k/")
    parser.add_argument("--per-photo", type=int, default=5, help="captions of each photo")
    args = parser.parse_args()
    photos = flickr8k(args.data, "train")
    for row in sorted(half_b(args.data)):
        print("\n".join(photos[row].captions[: args.per_photo]))


if __name__ == "__main__":
    main()
