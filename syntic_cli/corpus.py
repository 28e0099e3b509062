"""Texts in: a corpus file of any usual format, as a list of tidy captions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import SynticError, count, shown
from .texts.characters import is_markup, tidy
from .texts.fields import Wanted
from .texts.formats import NO_CAPTION, NUMBER, TEXT_FIELDS
from .texts.records import open_texts


@dataclass(frozen=True)
class Corpus:
    """The captions of a corpus in its order, and what became of the texts left out.

    Attributes:
        captions: the texts kept: white space collapsed, never empty.
        source: the file's name as given, or `standard input`.
        digest: SHA-256 of the captions, whatever file or format they came from.
        dropped_empty: texts in which nothing can be seen.
        dropped_long: texts of more than `max_words` words.
        not_sampled: texts left out by `sample`.
        notes: what a person should know of how the file was read, a line each.
    """

    captions: list[str]
    source: str
    digest: str
    dropped_empty: int = 0
    dropped_long: int = 0
    not_sampled: int = 0
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """What was read and left out, in a line."""
        left_out = [
            f"{number} {reason}"
            for number, reason in (
                (self.dropped_empty, "empty"),
                (self.dropped_long, "too long"),
                (self.not_sampled, "not drawn"),
            )
            if number
        ]
        aside = f" (left out: {', '.join(left_out)})" if left_out else ""
        return f"{self.source}: {count(len(self.captions), 'text')}{aside}"

    def said(self) -> list[str]:
        """What a person should know of what was read, a line each."""
        return [*self.notes, self.summary()]


def read_corpus(
    source: str | Path,
    *,
    text_field: str | None = None,
    split: str | None = None,
    encoding: str = "utf-8",
    max_words: int | None = None,
    sample: float | None = None,
    seed: int = 0,
) -> Corpus:
    """Read the texts of a corpus.

    The format follows the file's suffix: `.txt` (a text a line), `.jsonl` (an object or a string a
    line), `.csv` and `.tsv` (columns named by the first row, in any case; any usual separator),
    `.json` (COCO captions, Karpathy's dataset file, or a list), `.token` (Flickr's lines of a photo
    and a text), each gzipped or not. `-` is standard input; it and files without a suffix hold JSON
    where `{` comes first, else a text a line. A table, photo lines or JSON under the name of a
    `.txt` are read as what they are, and a note says so.

    Args:
        source: the file, or `-`.
        text_field: the field or column of the text; else the first of `caption`, `text`,
            `sentence`, `raw` (as in Karpathy's file) and `comment` that there is.
        split: keep only records of this split (of any of these, separated by commas).
        encoding: of the file.
        max_words: drop longer texts.
        sample: keep this share of the texts, above 0 and at most 1, drawn by `seed`; a smaller
            share is part of a larger one with the same seed. The order stays.
        seed: of `sample`.

    Returns:
        The captions and what was left out.

    Raises:
        SynticError: the file cannot be read or understood, or no text is left; one line that names
            the file, the line where there is one, and what to do.
    """
    if max_words is not None and max_words < 1:
        raise SynticError(f"--max-words {max_words}: give a number of at least 1")
    if sample is not None and not 0 < sample <= 1:
        raise SynticError(f"--sample {sample}: give a share above 0 and at most 1")
    wanted = Wanted("corpus", TEXT_FIELDS if text_field is None else (text_field,), split=split)
    with open_texts(source, encoding, wanted) as opened:
        # Plain lines are many, and read without a record for each.
        plain = opened.format.kind == "txt"
        texts = opened.lines() if plain else (record.text or "" for record in opened.records())
        captions, empty, long = _tidied(texts, max_words)
        name, notes = opened.name, opened.notes
    for no_caption in (NO_CAPTION,) if plain else (NO_CAPTION, NUMBER):
        if captions and all(map(no_caption.fullmatch, captions)):
            raise SynticError(
                f"{name}: its texts are names, addresses or numbers, such as"
                f" {shown(captions[0][:80])}; name the field of captions by --text-field, or"
                " another file"
            )
    if marked := sum(map(is_markup, captions)):
        have = count(marked, "text holds", "texts hold")
        notes.append(
            f"{name}: {have} marks of a web page, such as `&amp;` or `<br>`, left as they are"
        )
    kept = captions if sample is None else _sampled(captions, sample, seed)
    if not kept:
        raise SynticError(_nothing_left(name, len(captions), empty, long, max_words))
    return Corpus(kept, name, _digest(kept), empty, long, len(captions) - len(kept), notes)


def _tidied(texts: Iterable[str], max_words: int | None) -> tuple[list[str], int, int]:
    """Tidy texts; drop the empty and the long; count both."""
    captions: list[str] = []
    empty = long = 0
    for text in map(tidy, texts):
        if not text:
            empty += 1
        elif max_words is not None and text.count(" ") >= max_words:
            long += 1
        else:
            captions.append(text)
    return captions, empty, long


def _sampled(captions: list[str], share: float, seed: int) -> list[str]:
    """Keep a share of the captions: those whose own random numbers are the smallest."""
    drawn = np.random.default_rng(seed).random(len(captions))
    kept = np.argsort(drawn, kind="stable")[: round(share * len(captions))]
    return [captions[index] for index in np.sort(kept)]


def _digest(captions: list[str]) -> str:
    # A caption holds no line break, so that a line each is unambiguous.
    digest = hashlib.sha256()
    for start in range(0, len(captions), 4096):
        digest.update("".join(f"{text}\n" for text in captions[start : start + 4096]).encode())
    return digest.hexdigest()


def _nothing_left(name: str, found: int, empty: int, long: int, max_words: int | None) -> str:
    if found:
        return f"{name}: --sample leaves nothing of {count(found, 'text')}; raise it"
    if long:
        texts = count(long, "text has", "texts have")
        words = count(max_words or 0, "word")
        return f"{name}: no text is left, {texts} more than {words}; raise --max-words"
    if empty:
        lines = count(empty, "empty line or field", "empty lines or fields")
        return f"{name} holds no text, only {lines}; name another corpus"
    return f"{name} is empty; name a file with a text a line"
