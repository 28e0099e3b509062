"""What a writer is given and gives back: groups of texts, and the scenes made of them.

A model's answer is text of unknown worth: it is parsed as JSON and checked, never more.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Protocol

import numpy as np

from ..errors import SynticError, count

PROMPT = Path(__file__).with_name("writer_prompt.txt")
# Characters of an answer that are looked at; a good one has some hundreds.
LONGEST_ANSWER = 20_000

Chat = list[dict[str, str]]


@dataclass(frozen=True)
class Limits:
    """What a scene may be: from `least` to `most` sentences, at most `words` in its summary."""

    least: int = 5
    most: int = 10
    words: int = 50

    @property
    def answer_tokens(self) -> int:
        """Tokens that an answer within the limits takes, with room for rare words."""
        return 64 + 6 * self.most + 4 * self.words


@dataclass(frozen=True)
class Group:
    """Texts that could describe one scene, the head first, and their features, (K, d)."""

    texts: Sequence[str]
    features: np.ndarray


@dataclass(frozen=True)
class Scene:
    """The sentences of a group that go together, as rows of the group, and what they all say."""

    sentences: list[int]
    summary: str


class Writer(Protocol):
    """Makes a scene of each group, or says why it could not."""

    def write(self, groups: Sequence[Group]) -> list[Scene | SynticError]:
        """
        Raises:
            SynticError: where no group at all can be written, such as when a server is down.
        """
        ...


def prompt_digest() -> str:
    """sha256 of the prompt, which decides what a model writes."""
    return hashlib.sha256(PROMPT.read_bytes()).hexdigest()


def converse(
    groups: Sequence[Group],
    answer: Callable[[Sequence[Chat]], Sequence[str | SynticError]],
    limits: Limits,
    tries: int,
) -> list[Scene | SynticError]:
    """Ask for every group, and ask again, with the reason, where an answer is of no use.

    Args:
        groups: what is asked about.
        answer: gives the answer to each chat, or the reason why there is none.
        limits: what an answer is checked for.
        tries: how often a group is asked about at most.
    """
    chats = [make_chat(group.texts, limits) for group in groups]
    scenes: list[Scene | SynticError] = [SynticError("was not asked about")] * len(groups)
    left = list(range(len(groups)))
    for _ in range(tries):
        answers = answer([chats[row] for row in left]) if left else []
        again = []
        for row, text in zip(left, answers, strict=True):
            if isinstance(text, SynticError):
                scenes[row] = text
                continue
            try:
                scenes[row] = parse_scene(text, len(groups[row].texts), limits)
            except UnusableAnswer as reason:
                scenes[row] = SynticError(
                    f"no usable answer in {count(tries, 'try', 'tries')}: {reason}"
                )
                chats[row] += [_said("assistant", text), _said("user", _objection(reason))]
                again.append(row)
        left = again
    return scenes


def make_chat(texts: Sequence[str], limits: Limits) -> Chat:
    """The instructions, and the texts with numbers from 1 on."""
    instructions = Template(PROMPT.read_text(encoding="utf-8")).substitute(
        least=limits.least, most=limits.most, words=limits.words
    )
    lines = [f"{number}. {' '.join(text.split())}" for number, text in enumerate(texts, start=1)]
    return [_said("system", instructions.strip()), _said("user", "\n".join(lines))]


def _said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text[:LONGEST_ANSWER]}


def _objection(reason: Exception) -> str:
    return f"That cannot be used: {reason}. Answer again, with the JSON alone."


class UnusableAnswer(ValueError):
    """Why an answer is of no use, in words that do not repeat it."""


def parse_scene(answer: str, texts: int, limits: Limits) -> Scene:
    """The scene of a model's answer.

    Args:
        answer: JSON, with anything before and after it.
        texts: how many there were to choose from.
        limits: what it may be.

    Raises:
        UnusableAnswer: where the answer holds no scene within the limits.
    """
    found = _last_object(answer)
    numbers, summary = found.get("sentences"), found.get("summary")
    # True is an int to Python.
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise UnusableAnswer('"sentences" is not a list of whole numbers')
    if not all(1 <= number <= texts for number in numbers):
        raise UnusableAnswer(f'"sentences" has a number outside 1 to {texts}')
    if len(set(numbers)) < len(numbers):
        raise UnusableAnswer('"sentences" has a number twice')
    if not limits.least <= len(numbers) <= limits.most:
        raise UnusableAnswer(
            f'"sentences" has {len(numbers)} numbers, not {limits.least} to {limits.most}'
        )
    if not isinstance(summary, str) or not summary.strip():
        raise UnusableAnswer('"summary" is not a sentence')
    summary = " ".join(summary.split())
    # JSON can name control characters, and surrogates, which no file can hold.
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in summary):
        raise UnusableAnswer('"summary" has characters that are no text')
    if len(summary.split()) > limits.words:
        raise UnusableAnswer(
            f'"summary" has {len(summary.split())} words, more than {limits.words}'
        )
    return Scene([number - 1 for number in numbers], summary)


def _last_object(answer: str) -> dict[str, Any]:
    """The last JSON object in a text; models think aloud, and fence what they say."""
    if len(answer) > LONGEST_ANSWER:
        raise UnusableAnswer("the answer is far too long")
    decoder, found = json.JSONDecoder(), None
    place = answer.find("{")
    while place >= 0:
        try:
            found, end = decoder.raw_decode(answer, place)
        except (ValueError, RecursionError):
            end = place + 1
        place = answer.find("{", end)
    if not isinstance(found, dict):
        raise UnusableAnswer("there is no JSON object in the answer")
    return found
