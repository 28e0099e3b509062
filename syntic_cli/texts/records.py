"""Caption files in: records of a text, its photo and its split, whatever format holds them.

A corpus, references and captions to score are all read here. The format follows the file's suffix;
what comes under another is told by its first lines, and said in a note.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import SynticError, count, shown
from . import tables
from .fields import (
    Fields,
    Record,
    Wanted,
    cell,
    find_key,
    is_nothing,
    json_object,
    refuse_twice,
    some,
)
from .formats import PHOTO_FIELDS, QUOTED, Format, sniffed
from .streams import MOST_IN_A_LINE, TextFile

_SPACE = re.compile(r"\s*")
# What programs put before the JSON of a line: a byte order mark, a record separator (RFC 7464).
_BEFORE_JSON = "\ufeff\x1e"
# A list where a table has a text, as pandas writes one; a type where it has a value.
_LIST = re.compile(r"\s*\[\s*(['\"]).*\1\s*\]\s*", re.DOTALL)
_TYPE = re.compile(r"[\[(<]?(?:string|str|text|varchar|object|utf-?8)[\])>]?", re.IGNORECASE)
# Of a JSON document: what may be a list, or must not pass for nothing where it is one.
_USED = frozenset(
    ("annotations", "images", "sentences", "split", "id", "cocoid", "imgid", "error", *PHOTO_FIELDS)
)


@contextmanager
def open_texts(source: str | Path, encoding: str, wanted: Wanted) -> Iterator[Texts]:
    """Open a file of texts: plain, JSON, JSON lines or a table, gzipped or not.

    Args:
        source: the file, or `-` for standard input.
        encoding: of the file.
        wanted: what to take from it.

    Returns:
        The texts, to be read within the context.

    Raises:
        SynticError: there is no such file or encoding, or it is of another kind.
    """
    with TextFile(source, encoding, wanted.what) as file:
        format, notes = sniffed(file, wanted.what, wanted.texts)
        if file.seems_utf8:
            notes = [f"{file.name}: seems to be UTF-8, but is read as {encoding}", *notes]
        yield Texts(file, Fields(file.name, wanted), format, notes)


@dataclass
class Texts:
    """An open file of texts.

    Attributes:
        file: the file.
        fields: what is taken from its records, and where they are.
        format: how it is read.
        notes: what a person should know of how it is read, a line each.
    """

    file: TextFile
    fields: Fields
    format: Format
    notes: list[str]

    @property
    def name(self) -> str:
        """The file's name in messages."""
        return self.file.name

    @property
    def wanted(self) -> Wanted:
        """What to take from it."""
        return self.fields.wanted

    def place(self, number: int) -> str:
        """Name a record in a message."""
        return self.fields.place(number)

    def lines(self) -> Iterator[str]:
        """Give the texts of plain text, a line each.

        Raises:
            SynticError: a split is wanted, or a line is too long for a text.
        """
        if self.wanted.split is not None:
            raise SynticError(f"{self.name} is plain text, which has no splits: omit --split")
        quoted = self.format.quoted
        if quoted is None:
            return self.file.lines()
        return (_unquoted(line, quoted) for line in self.file.lines())

    def records(self) -> Iterator[Record]:
        """Give the texts of any format in order, those of the wanted splits.

        Raises:
            SynticError: the file cannot be understood; the message names the place.
        """
        kind = self.format.kind
        records: Iterator[Record]
        if kind == "txt":
            records = (Record(line, number=n) for n, line in enumerate(self.lines(), 1))
        elif kind == "lines":
            records = self._photo_lines()
        elif kind == "jsonl":
            records = self._items(self._json_lines())
        elif kind == "json":
            records = self._json()
        else:
            records = self._table()
        return records if self.wanted.split is None else self._of_splits(records)

    def _of_splits(self, records: Iterator[Record]) -> Iterator[Record]:
        splits = {part.strip() for part in (self.wanted.split or "").split(",")}
        seen: set[str] = set()
        for record in records:
            if record.split is not None:
                seen.add(record.split)
            if record.split is None or record.split in splits:  # None: a blank line
                yield record
        unknown = ", ".join(sorted(splits - seen))
        if unknown and seen:
            raise SynticError(f"{self.name} has no split {unknown}; there are: {some(seen)}")

    def _photo_lines(self) -> Iterator[Record]:
        """Lines of a photo's name and a text."""
        if self.wanted.split is not None:
            raise SynticError(f"{self.name} names photos, but no splits: omit --split")
        for number, line in enumerate(self.file.lines(), 1):
            found = self.format.line.fullmatch(line)
            if found:
                yield Record(_unquoted(found[2]), found[1].strip(), number=number)
            elif not line.strip():
                yield Record(None, number=number)
            else:
                raise SynticError(
                    f"{self.place(number)}: no photo before the text, as there is in the first"
                    " lines; correct or delete it"
                )

    def _json_lines(self) -> Iterator[tuple[int, object]]:
        decode = json.JSONDecoder(object_pairs_hook=json_object).decode
        for number, line in enumerate(self.file.lines(MOST_IN_A_LINE), 1):
            try:
                value = line.lstrip(_BEFORE_JSON)
                yield number, (decode(value) if value.strip() else None)
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else error
                raise SynticError(
                    f"{self.place(number)}: malformed JSON ({reason}); correct or delete the line"
                ) from error

    def _json(self) -> Iterator[Record]:
        """The records of a JSON document, or of one value after another."""
        values = self._json_values("".join(self.file.pieces()))
        first, second = next(values, None), next(values, None)
        if first is None:
            return
        if second is not None:
            yield from self._items(chain((first, second), values))
        else:
            yield from self._document(first[1])

    def _json_values(self, text: str) -> Iterator[tuple[int, object]]:
        """Values with the line on which each begins."""
        used = _USED.union(self.wanted.texts, map(str.lower, self.wanted.texts))

        def trimmed(pairs: list[tuple[str, object]]) -> dict[str, object]:
            # Karpathy's file is mostly lists of tokens: without them it takes half the memory.
            return json_object(
                [
                    (key, value if type(value) is not list or key.strip().lower() in used else None)
                    for key, value in pairs
                ]
            )

        decoder = json.JSONDecoder(object_pairs_hook=trimmed)
        line, counted, at = 1, 0, 0
        try:
            while (at := _after_space(text, at)) < len(text):
                line, counted = line + text.count("\n", counted, at), at
                value, at = decoder.raw_decode(text, at)
                yield line, value
        except json.JSONDecodeError as error:
            raise SynticError(
                f"{self.name}, line {error.lineno}: malformed JSON ({error.msg}); correct or copy"
                " it again"
            ) from error
        except (ValueError, RecursionError) as error:  # endless digits, endless brackets
            raise SynticError(f"{self.name}: malformed JSON ({error}); make it anew") from error

    def _document(self, document: object) -> Iterator[Record]:
        if isinstance(document, list):
            self.fields.unit = "entry"
            return self._items(enumerate(document, 1))
        if isinstance(document, dict):
            refuse_twice(document, self.name)
            if isinstance(document.get("annotations"), list):
                return self._coco(document)
            if isinstance(document.get("images"), list):
                return self._karpathy(document["images"])
            if find_key(document, self.wanted.texts) is not None:
                self.fields.unit = "record"
                return self._items([(1, document)])
        raise SynticError(
            f"{self.name} holds neither COCO captions (`annotations`), nor Karpathy's `images`"
            " with `sentences`, nor a list of texts: convert it to .jsonl or .txt"
        )

    def _items(self, items: Iterable[tuple[int, object]]) -> Iterator[Record]:
        """Records of objects, strings or nothing."""
        wanted, fields = self.wanted, self.fields
        text_alone = not wanted.photos and wanted.split is None
        for number, item in items:
            if is_nothing(item):
                yield Record(None, number=number)
            elif text_alone and isinstance(item, str):
                yield Record(fields.sound(item, number), number=number)
            elif text_alone:
                yield Record(fields.text(fields.object(item, number), number), number=number)
            else:
                record = fields.object(item, number)
                fields.refuse_wrong(record)
                yield Record(
                    fields.text(record, number),
                    fields.photo(record, wanted.photos, number) if wanted.photos else None,
                    split=fields.split(record, number),
                    error=found if isinstance(found := record.get("error"), str) else "",
                    number=number,
                )

    def _coco(self, document: dict[str, Any]) -> Iterator[Record]:
        self.fields.unit = "image"
        names = self._coco_names(document.get("images") or []) if self.wanted.photos else {}
        self.fields.unit = "annotation"
        rejected = 0
        for number, annotation in enumerate(document["annotations"], 1):
            record = self.fields.object(annotation, number)
            rejected += record.get("is_rejected") is True
            photo = identifier = None
            if self.wanted.photos:
                identifier = self.fields.photo(record, ("image_id",), number)
                if names and identifier not in names:
                    raise SynticError(
                        f"{self.place(number)}: image_id {shown(identifier)} is not among its"
                        " `images`; correct it"
                    )
                photo = names.get(identifier, identifier)
            text, split = self.fields.text(record, number), self.fields.split(record, number)
            yield Record(text, photo, identifier, split, number=number)
        if rejected:  # as VizWiz marks them
            captions = count(rejected, "caption is", "captions are")
            self.notes.append(
                f"{self.name}: {captions} marked `is_rejected`, and used all the same"
            )

    def _coco_names(self, images: Iterable[object]) -> dict[str, str]:
        """The file name (or else the id) of each image id."""
        names: dict[str, str] = {}
        taken: set[str] = set()
        for number, image in enumerate(images, 1):
            record = self.fields.object(image, number)
            identifier = self.fields.photo(record, ("id",), number)
            name = record.get("file_name", identifier)
            if not isinstance(name, str) or not name:
                raise SynticError(
                    f"{self.place(number)} (id {shown(identifier)}): `file_name` is not a text;"
                    " correct it"
                )
            if identifier in names or name in taken:
                raise SynticError(
                    f"{self.place(number)}: id {shown(identifier)} or file {shown(name)} is there"
                    " twice; keep one"
                )
            names[identifier] = name
            taken.add(name)
        return names

    def _karpathy(self, images: Iterable[object]) -> Iterator[Record]:
        self.fields.unit = "image"
        taken: set[tuple[str | None, str]] = set()
        for number, image in enumerate(images, 1):
            if not isinstance(image, dict) or not isinstance(image.get("sentences"), list):
                raise SynticError(
                    f"{self.place(number)}: no list of `sentences`, so no captions; give Karpathy's"
                    " dataset file"
                )
            refuse_twice(image, self.place(number))
            split = self.fields.split(image, number)
            photo = identifier = None
            sentences = image["sentences"]
            if self.wanted.photos:
                photo = self.fields.photo(image, ("filename", "file_name"), number)
                if (split, photo) in taken:
                    raise SynticError(
                        f"{self.place(number)}: {shown(photo)} is there twice; keep one"
                    )
                taken.add((split, photo))
                found = image.get("cocoid", image.get("imgid"))
                identifier = None if found is None else str(found)
                sentences = sentences or [None]  # so that a photo without a caption is known
            for sentence in sentences:
                if is_nothing(sentence):
                    text = None
                elif isinstance(sentence, str):
                    text = self.fields.sound(sentence, number)
                else:
                    text = self.fields.text(self.fields.object(sentence, number), number)
                yield Record(text, photo, identifier, split, number=number)

    def _table(self) -> Iterator[Record]:
        """The rows of a table, whose first names the columns in any case."""
        wanted = self.wanted
        known = {*(name.lower() for name in wanted.texts), *PHOTO_FIELDS, "split", "error"}
        rows = tables.read_rows(
            self.file.lines(MOST_IN_A_LINE),
            self.name,
            known,
            usual=self.format.delimiter,
            rest_in=wanted.texts if self.format.unquoted else (),
        )
        first, cells = next(((number, cells) for number, cells in rows if cells), (1, []))
        names = [name.strip() for name in cells]
        if not names:
            return
        self.fields.refuse_wrong(names)
        text = self._column(names, wanted.texts, first, wanted.hint)
        photo = split = error = None
        if wanted.photos:
            photo = self._column(names, wanted.photos, first, "name one so")
            # Not to be mixed up with a column without a name, such as that of pandas' index.
            key = find_key(names, ("error",))
            error = None if key is None else names.index(key)
        if wanted.split is not None:
            split = self._column(names, ("split",), first, "omit --split")
        self._name_further_columns(names, names[text])
        for number, cells in self._values(rows, names, text):
            if not any(cells):
                yield Record(None, number=number)
                continue
            if len(cells) != len(names):
                raise SynticError(
                    f"{self.place(number)}: {count(len(cells), 'field')} where the first row names"
                    f" {len(names)}; quote a text that holds the separator"
                )
            if _LIST.fullmatch(cells[text]):
                raise SynticError(
                    f"{self.place(number)}: `{shown(names[text])}` holds a list, not a text; give"
                    " each text a row"
                )
            yield Record(
                self.fields.sound(cell(cells[text]), number),
                None if photo is None else cell(cells[photo].strip()),
                split=None if split is None else cell(cells[split].strip()),
                error="" if error is None else cell(cells[error]),
                number=number,
            )

    def _name_further_columns(self, names: Sequence[str], text: str) -> None:
        further = re.compile(rf"{re.escape(text)}[\s_-]*\d+", re.IGNORECASE)
        if left_out := [name for name in names if further.fullmatch(name)]:
            self.notes.append(
                f"{self.name}: the texts are those of `{shown(text)}` alone, not of"
                f" {some(left_out)}; give each text a row"
            )

    def _values(
        self, rows: Iterator[tables.Row], names: Sequence[str], text: int
    ) -> Iterator[tables.Row]:
        """Rows, but for the header again, as in tables put together, and types right below it."""
        said = False
        for row, (number, cells) in enumerate(rows):
            again = bool(cells) and cells[0].strip() == names[0]
            if again and [name.strip() for name in cells] == names:
                if not said:
                    self.notes.append(f"{self.place(number)}: names the columns again; left out")
                said = True
            elif row == 0 and len(cells) == len(names) and _TYPE.fullmatch(cells[text].strip()):
                self.notes.append(f"{self.place(number)}: names types and no values; left out")
            else:
                yield number, cells

    def _column(self, names: list[str], fields: Sequence[str], number: int, hint: str) -> int:
        """Where the first of these fields stands among the columns; there must be one alone."""
        key = self.fields.field(names, fields, number, hint)
        if [name.lower() for name in names].count(key.lower()) > 1:
            raise SynticError(
                f"{self.place(number)}: more than one column is named `{shown(key)}`; rename all"
                " but the right one"
            )
        return names.index(key)


def _unquoted(text: str, quoted: re.Pattern[str] = QUOTED) -> str:
    """A text without the quotes in which a table or a list would put it."""
    found = quoted.fullmatch(text)
    if found is None:
        return text
    return found[1].replace('""', '"') if quoted is QUOTED else found[1]


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
