"""Teaches a captioner how sure it is: how likely its captions' main nouns stand in a reference.

Fitted on every second dev photo of Flickr8k and COCO, judged on the others. Writes a copy of the
captioner that has the calibration, and prints the reliability of what it says as Markdown.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from data import Photo, coco, flickr8k

from syntic_cli import Captioner
from syntic_cli.captioner import write_calibrated
from syntic_cli.method.calibration import Calibration, calibration_error, fit_platt, reliability
from syntic_cli.presets import SHIPPED, load_preset, resolve
from syntic_cli.settings import CaptionSettings

DETERMINERS = """
a an the this that these those his her its their some several many two three four five six seven
eight one another each both all
"""
# What ends a noun phrase, beside words in -ing.
BREAKS = """
is are was were be has have had in on at by with of to from for into onto over under near next
behind between through while as and or that which who during around along across down up off out
inside outside against towards beside above below before after like very sits stands holds runs
plays walks looks . ,
"""
# "man" and "men" are one noun, "glass" and "glasses" by the rule below.
IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "mice": "mouse",
    "feet": "foot", "geese": "goose", "leaves": "leaf", "knives": "knife", "shelves": "shelf",
    "buses": "bus",
}  # fmt: skip
DETERMINING, BREAKING = set(DETERMINERS.split()), set(BREAKS.split())
# A noun begins phrases (directly behind a determiner) and ends them in such shares of its uses.
BEGINS, ENDS = 0.05, 0.5
FEWEST = 5


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?|[.,]", text.lower())


def singular(word: str) -> str:
    """A rough singular, the same for both forms."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def breaks(word: str) -> bool:
    return word in BREAKING or (word.endswith("ing") and len(word) > 5)


def learn_nouns(texts: Iterable[str]) -> set[str]:
    """Words, as `singular` has them, that follow a determiner and end the phrase."""
    there, begins, ends = Counter[str](), Counter[str](), Counter[str]()
    for text in texts:
        found = [".", *words(text), "."]
        for before, word, after in zip(found, found[1:], found[2:], strict=False):
            if word not in BREAKING | DETERMINING:
                noun = singular(word)
                there[noun] += 1
                begins[noun] += before in DETERMINING
                ends[noun] += breaks(after)
    return {
        noun
        for noun, number in there.items()
        if number >= FEWEST and begins[noun] >= BEGINS * number and ends[noun] >= ENDS * number
    }


def main_noun(caption: str, nouns: set[str]) -> str | None:
    """The first noun that is not what there is much `of` ("a group of people": person)."""
    found = [*words(caption), "."]
    for word, after in pairwise(found):
        if singular(word) in nouns and after != "of" and singular(after) not in nouns:
            return singular(word)
    return None


def are_right(captions: Sequence[str], photos: Sequence[Photo], nouns: set[str]) -> np.ndarray:
    """Whether the main noun of each caption stands in one of its photo's references, (N,) bool; a
    caption without a noun says nothing that is right."""
    return np.array(
        [
            main_noun(caption, nouns)
            in {singular(word) for text in photo.captions for word in words(text)}
            for caption, photo in zip(captions, photos, strict=True)
        ]
    )


def print_reliability(title: str, confidence: np.ndarray, right: np.ndarray) -> None:
    """A reliability table in Markdown, with what it comes to."""
    table = reliability(confidence, right)
    print(
        f"\n{title}, {len(right)} photos: {100 * right.mean():.1f} % right, mean confidence "
        f"{100 * confidence.mean():.1f} %, calibration error "
        f"{100 * calibration_error(table):.1f} points, AUC {auc(confidence, right):.3f}\n"
    )
    print("| confidence | captions | mean confidence | main noun in a reference |")
    print("|---|---|---|---|")
    for row in table:
        print(
            f"| {row.low:.1f} to {row.high:.1f} | {row.count} | {100 * row.confidence:.0f} % | "
            f"{100 * row.right:.0f} % |"
        )


def auc(confidence: np.ndarray, right: np.ndarray) -> float:
    """How often a caption that is right has more confidence than one that is not."""
    ours, theirs = confidence[right][:, None], confidence[~right][None]
    if not ours.size or not theirs.size:
        return float("nan")
    return float((ours > theirs).mean() + 0.5 * (ours == theirs).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k/ and coco/")
    parser.add_argument("--captioner", type=Path, default=SHIPPED, help="if not the shipped one")
    parser.add_argument("--output", type=Path, required=True, help="the calibrated captioner")
    arguments = parser.parse_args()
    sets = {"Flickr8k": flickr8k(arguments.data, "dev"), "COCO": coco(arguments.data, "dev")}
    photos = [photo for some in sets.values() for photo in some]
    settings = resolve(CaptionSettings, load_preset("tiny"))
    captioner = Captioner.load(arguments.captioner, settings=settings)
    captions, signals = captioner.caption_with_signals([photo.path for photo in photos])
    for caption in captions:
        if caption.error:
            raise SystemExit(f"{caption.path}: {caption.error}")
    training = flickr8k(arguments.data, "train") + coco(arguments.data, "train")
    nouns = learn_nouns(text for photo in training for text in photo.captions)
    right = are_right([caption.caption for caption in captions], photos, nouns)
    fitting = np.arange(len(photos)) % 2 == 0
    calibration = fit_platt(signals[fitting], right[fitting], captioner.signals)
    write_calibrated(arguments.captioner, calibration, arguments.output)
    judge(calibration, signals, right, ~fitting, sets)
    shown = zip(captioner.signals, calibration.weights, strict=True)
    print(f"\n{arguments.output}: " + ", ".join(f"{name} {weight:+.2f}" for name, weight in shown))


def judge(
    calibration: Calibration,
    signals: np.ndarray,
    right: np.ndarray,
    judging: np.ndarray,
    sets: dict[str, list[Photo]],
) -> None:
    """Print how reliable the confidence is on the photos that it was not fitted on."""
    confidence = calibration.confidence(signals)
    of_set = np.repeat(list(sets), [len(some) for some in sets.values()])
    print_reliability("Both", confidence[judging], right[judging])
    for name in sets:
        here = judging & (of_set == name)
        print_reliability(f"{name} dev", confidence[here], right[here])


if __name__ == "__main__":
    main()
