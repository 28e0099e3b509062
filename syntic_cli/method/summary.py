"""From a group of texts, those that describe one scene, and a sentence of them, without a model.

The place of ICSD's language model (AAAI 2024, section 3.2) where there is none: sentences are
chosen by maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), and what contradicts
them is left out. What contradicts is known of English alone; in other languages nothing does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

# The weight of being like the head, against being unlike what is chosen.
RELEVANCE = 0.7
NEAR_COPY = 0.95


def _words_in(line: str) -> frozenset[str]:
    return frozenset(line.split())


NUMBERS = {
    word: number
    for number, line in enumerate(
        (
            "a an one single lone 1",
            "two couple pair both 2",
            "three 3",
            "four 4",
            "five 5",
            "six 6",
        ),
        start=1,
    )
    for word in _words_in(line)
}
COLOURS = _words_in(
    "black white red blue green yellow orange purple pink brown grey gray golden silver"
)
MEN = _words_in("man men boy boys guy guys gentleman gentlemen male he his him himself")
WOMEN = _words_in("woman women girl girls lady ladies female she her hers herself")
SINGULAR = {"men": "man", "women": "woman", "children": "child", "people": "person"}
# Words that end the noun phrase that a number or colour speaks of.
BOUNDS = _words_in(
    "a an the and or but of in on at to with by from for near over under into onto through behind "
    "is are was were be being while as that who which this these those his her their its"
)
# What a sentence says that another can contradict: the kind and of what, and its values.
Claims = dict[tuple[str, str], set[str | int]]


class NoScene(ValueError):
    """Why a group of texts cannot be made one scene of."""


def choose_sentences(
    texts: Sequence[str], features: np.ndarray, *, least: int, most: int
) -> list[int]:
    """The head, and sentences about its scene that each say something else.

    Args:
        texts: a group, the head first.
        features: their text features, (K, d), of unit length.
        least, most: how many sentences.

    Returns:
        Rows of the group in the order in which they were chosen.

    Raises:
        NoScene: where fewer than `least` sentences fit together.
    """
    cosines = features.astype(np.float32) @ features.astype(np.float32).T
    claims = [_claims(text) for text in texts]
    chosen = [0]
    left = np.ones(len(texts), bool)
    while len(chosen) < most:
        left &= cosines[chosen[-1]] <= NEAR_COPY
        left &= [not _clash(claims[chosen[-1]], other) for other in claims]
        left[chosen] = False
        if not left.any():
            break
        worth = RELEVANCE * cosines[0] - (1 - RELEVANCE) * cosines[chosen].max(axis=0)
        chosen.append(int(np.where(left, worth, -np.inf).argmax()))
    if len(chosen) < least:
        raise NoScene(
            f"only {len(chosen)} of its {len(texts)} texts differ and fit together; "
            f"--least asks for {least}"
        )
    return chosen


def summarise(texts: Sequence[str], words: int) -> str:
    """The head, and then whole sentences, the most new words a word first.

    Args:
        texts: chosen sentences, the head first.
        words: the most words of the summary.

    Raises:
        NoScene: where the head alone is longer.
    """
    taken = [texts[0]]
    room = words - len(texts[0].split())
    if room < 0:
        raise NoScene(f"its head has {words - room} words; --words allows {words}")
    said, left = set(_words(texts[0])), list(texts[1:])
    while left:
        news = [len(set(_words(text)) - said - BOUNDS) / len(text.split()) for text in left]
        best = int(np.argmax(news))
        if not news[best]:
            break
        text = left.pop(best)
        if len(text.split()) <= room:
            taken.append(text)
            room -= len(text.split())
            said.update(_words(text))
    return " ".join(text[:1].upper() + text[1:].rstrip(" .") + "." for text in taken)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _claims(text: str) -> Claims:
    found: Claims = {}
    words = _words(text)
    for place, word in enumerate(words):
        number = NUMBERS.get(word)
        if number is None and word not in COLOURS:
            continue
        kind = "number" if number else "colour"
        for noun in _phrase(words[place + 1 :]):
            found.setdefault((kind, noun), set()).add(number or word)
    men, women = bool(MEN & set(words)), bool(WOMEN & set(words))
    if men != women:
        found["gender", "person"] = {"man" if men else "woman"}
    return found


def _phrase(words: Sequence[str]) -> list[str]:
    """The words that a number or colour before them speaks of, in the singular."""
    found = []
    for place, word in enumerate(words):
        # "a couple of dogs": the number goes on behind the "of".
        if word in BOUNDS and not (word == "of" and place < 2):
            break
        if word not in COLOURS and word not in NUMBERS and word != "of":
            found.append(SINGULAR.get(word, word.removesuffix("s")))
    return found


def _clash(one: Claims, other: Claims) -> bool:
    """Whether two sentences say different things of the same."""
    return any(not values & other[what] for what, values in one.items() if what in other)
