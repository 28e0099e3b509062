"""What is taken from the records of a file: their text, photo and split, under the usual names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import SynticError, shown
from .formats import TEXT_FIELDS
from .streams import MOST_IN_A_TEXT

# Cells of tables that stand for no value, in lower case.
_NOTHING = frozenset(("nan", "null", "none", "na", "n/a", "<na>", "#n/a"))


class KeyTwice(dict[str, Any]):
    """A JSON object that has a key twice, of which it keeps the last value.

    Attributes:
        key: the first that is there again.
    """

    key: str


def json_object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of its pairs; a `KeyTwice`, where one value would hide another."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    twice = KeyTwice(found)
    twice.key = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
    return twice


class Record(NamedTuple):
    """A text of a file, as it stands there.

    Attributes:
        text: None where the file says null or NaN, or has a blank line.
        photo: the file name of its photo, or its id where there is no name; None in a blank line
            and where photos are not wanted.
        id: the photo's id where the file gives one beside the name.
        split: None where the file has none.
        error: why a photo has no caption, as `syntic caption` says it.
        number: of its line, entry, annotation or image: see `Fields.unit`.
    """

    text: str | None
    photo: str | None = None
    id: str | None = None
    split: str | None = None
    error: str = ""
    number: int = 0


@dataclass(frozen=True)
class Wanted:
    """What to take from a file.

    Attributes:
        what: the file holds, for messages.
        texts: the fields that may hold the text: the first that a record has does.
        photos: the fields that may name its photo; none where photos do not matter.
        split: keep only records of this split (of any of these, separated by commas).
        hint: what to do where no field holds the text.
        wrong: a field that such a file never has, and what a file is that has it.
    """

    what: str = "corpus"
    texts: tuple[str, ...] = TEXT_FIELDS
    photos: tuple[str, ...] = ()
    split: str | None = None
    hint: str = "name the text's field by --text-field"
    wrong: tuple[str, str] | None = None


@dataclass
class Fields:
    """Takes the wanted fields from the records of a file; SynticError where one is wrong.

    Attributes:
        name: the file's.
        wanted: what to take.
        unit: what records are numbered by: line, entry, annotation, image.
    """

    name: str
    wanted: Wanted
    unit: str = "line"

    def place(self, number: int) -> str:
        """Name a record of the file in a message."""
        return f"{self.name}, {self.unit} {number}"

    def object(self, value: object, number: int) -> dict[str, Any]:
        """A record that must be an object."""
        if isinstance(value, dict):
            refuse_twice(value, self.place(number))
            return value
        needed = [self.wanted.texts[0], *self.wanted.photos[:1]]
        needed += ["split"] if self.wanted.split is not None else []
        raise SynticError(
            f"{self.place(number)}: a bare {type(value).__name__} where an object with"
            f" `{'` and `'.join(needed)}` is expected"
        )

    def field(self, record: Collection[str], fields: Sequence[str], number: int, hint: str) -> str:
        """The first of these fields that a record has."""
        key = find_key(record, fields)
        if key is None:
            raise SynticError(
                f"{self.place(number)}: no field `{'` or `'.join(fields)}`; there are:"
                f" {some(record)}; {hint}"
            )
        return key

    def refuse_wrong(self, record: Collection[str]) -> None:
        """Refuse a record that only files of another kind have."""
        if self.wanted.wrong and self.wanted.wrong[0] in record:
            raise SynticError(f"{self.name} is {self.wanted.wrong[1]}")

    def text(self, record: dict[str, Any], number: int) -> str | None:
        """The text of a record; None where it is null."""
        key = self.wanted.texts[0]
        value = record.get(key)
        if isinstance(value, str):  # as it mostly is, a million times
            return self.sound(value, number)
        key = self.field(record, self.wanted.texts, number, self.wanted.hint)
        value = record[key]
        if is_nothing(value):
            return None
        if not isinstance(value, str):
            raise SynticError(
                f"{self.place(number)}: `{key}` holds a {type(value).__name__}, not a text;"
                " correct it"
            )
        return self.sound(value, number)

    def photo(self, record: dict[str, Any], fields: Sequence[str], number: int) -> str:
        """The name or id of a photo, as a text, be it a number or a text there."""
        key = self.field(record, fields, number, "name the photo so")
        value = record[key]
        if isinstance(value, float) and value.is_integer():  # as pandas makes of ids with gaps
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise SynticError(
                f"{self.place(number)}: no `{key}` that is a number or a text; correct it"
            )
        return str(value)

    def split(self, record: dict[str, Any], number: int) -> str | None:
        """The split of a record; None where splits do not matter."""
        if self.wanted.split is None:
            return None
        value = record[self.field(record, ("split",), number, "omit --split")]
        if is_nothing(value):
            return ""
        if not isinstance(value, str):
            raise SynticError(
                f"{self.place(number)}: `split` holds a {type(value).__name__}, not a text;"
                " correct it"
            )
        return value

    def sound(self, text: str, number: int) -> str:
        """A text that is not too long to be one."""
        if len(text) > MOST_IN_A_TEXT:
            raise SynticError(
                f"{self.place(number)}: a text of {len(text):,} characters, of at most"
                f" {MOST_IN_A_TEXT:,}; shorten or delete it"
            )
        return text


def refuse_twice(value: object, place: str) -> None:
    """Refuse a JSON object that has a key twice.

    Raises:
        SynticError: naming the place and the key.
    """
    if isinstance(value, KeyTwice):
        raise SynticError(f"{place}: the key `{shown(value.key)}` is there twice; keep one")


def some(names: Iterable[str]) -> str:
    """A few names on one line."""
    found = sorted(shown(name)[:40] for name in names)
    return ", ".join(found[:12]) + (", ..." if len(found) > 12 else "")


def find_key(record: Collection[str], fields: Sequence[str]) -> str | None:
    """The first of these fields that a record has, in any case."""
    if fields[0] in record:
        return fields[0]
    folded = {key.strip().lower(): key for key in record}
    for name in fields:
        if name in record:
            return name
        if name.lower() in folded:
            return folded[name.lower()]
    return None


def cell(text: str) -> str:
    """A cell of a table, empty where it says that it is: `NaN`, `null` and what else pandas and
    spreadsheets write of a value that is not there."""
    return "" if len(text) < 5 and text.strip().lower() in _NOTHING else text


def is_nothing(value: object) -> bool:
    """Whether a value stands for none: null, or the NaN that some programs write for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))
