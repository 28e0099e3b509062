"""What the characters of texts are: seen or unseen, Latin or not."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Control characters, and the halves of surrogate pairs that JSON's \u escapes can leave alone:
# neither can be stored as UTF-8 text. Those of them that are white space collapse with the rest.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

# Categories without a glyph, and what has none though it counts as a letter or mark: joiners,
# fillers, variation selectors, the empty Braille pattern.
_UNSEEN_CATEGORIES = frozenset(("Cc", "Cf", "Cn", "Cs", "Zl", "Zp", "Zs"))
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
_LATIN = re.compile(
    "[A-Za-z\xaa\xba\xc0-\u02af\u1d00-\u1dbf\u1e00-\u1eff\u2c60-\u2c7f\ua720-\ua7ff\uff21-\uff5a]"
)
# What stands for a character, or a break, in a web page.
_MARKUP = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d+|#x[\da-f]+);|</?(?:br|p|b|i)\s*/?>", re.I)
# Texts looked at to tell the script of a corpus.
_TEXTS_LOOKED_AT = 2_000


def tidy(text: str) -> str:
    """Collapse white space and leave out what cannot be stored; empty where nothing can be seen."""
    # Printable white space is the blank alone; most texts are tidy, and quickly told so.
    if not text.isprintable() or "  " in text or text != text.strip():
        text = " ".join(text.split())
        if not text.isprintable():
            text = " ".join(_UNPRINTABLE.sub(" ", text.lstrip("\ufeff")).split())
    return text if text.isascii() or not is_blank(text) else ""


def is_blank(text: str) -> bool:
    """Whether nothing in a text can be seen: white space, zero-width and format characters."""
    return all(
        unicodedata.category(character) in _UNSEEN_CATEGORIES or _UNSEEN.match(character)
        for character in text
    )


def is_markup(text: str) -> bool:
    """Whether a text holds what a web page would show otherwise, such as `&amp;` and `<br>`."""
    return ("&" in text or "<" in text) and _MARKUP.search(text) is not None


def mostly_not_latin(texts: Sequence[str]) -> bool:
    """Tell whether most texts are in another script than the Latin one.

    A text is where more than half of its letters are; one without letters is in none. Of many
    texts, some 2,000 at even distances are looked at.
    """
    latin = other = 0
    for text in texts[:: max(1, len(texts) // _TEXTS_LOOKED_AT)]:
        letters = [character for character in text if character.isalpha()]
        if letters and 2 * len(_LATIN.findall("".join(letters))) < len(letters):
            other += 1
        elif letters:
            latin += 1
    return other > latin
