"""Prints the corpus of the shipped captioner: the captions of both data sets' training photos.

In one order for all, so that the first so many of them are of both; without those that a photo
which scores has, too, word for word.
"""

import argparse
import random
import re
from pathlib import Path

from data import coco, coco_captions, flickr8k, scoring_ids

SHORTEST = 3  # words


def tidied(text: str) -> str:
    """A caption as people write one: no space before a mark, a capital first, a full stop last."""
    text = re.sub(r" +([.,!?;:])", r"\1", " ".join(text.replace('"', "").split()))
    text = text.rstrip(".,;: ")
    return text[:1].upper() + text[1:] + ("" if text.endswith(("!", "?")) else ".")


def corpus(data: Path) -> list[str]:
    """The texts, each once."""
    scoring = scoring_ids(data)
    scored = {tidied(text) for number, text in coco_captions() if number in scoring}
    scored |= {tidied(text) for photo in flickr8k(data, "dev") for text in photo.captions}
    photos = flickr8k(data, "train") + coco(data, "train")
    texts = dict.fromkeys(tidied(text) for photo in photos for text in photo.captions)
    kept = [text for text in texts if text not in scored and len(text.split()) >= SHORTEST]
    random.Random(0).shuffle(kept)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k/, coco/")
    print("\n".join(corpus(parser.parse_args().data)))


if __name__ == "__main__":
    main()
