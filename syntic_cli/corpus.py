"""Texts in: a corpus file of any usual format, as a list of tidy captions."""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from .errors import SynticError, shown

# The field that holds the text where none is named: the first of these that a record has.
TEXT_FIELDS = ("caption", "text", "sentence", "raw")

_SUFFIXES = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
}

# Control characters, and the halves of surrogate pairs that JSON's \u escapes can leave alone:
# neither can be stored as UTF-8 text. Those of them that are white space collapse with the rest.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Corpus:
    """The captions of a corpus in its order, and what became of the texts left out.

    Attributes:
        captions: the texts kept: white space collapsed, never empty.
        source: the file's name as given, or `standard input`.
        digest: SHA-256 of the captions, whatever file or format they came from.
        dropped_empty: texts with nothing but white space.
        dropped_long: texts of more than `max_words` words.
        not_sampled: texts left out by `sample`.
    """

    captions: list[str]
    source: str
    digest: str
    dropped_empty: int = 0
    dropped_long: int = 0
    not_sampled: int = 0

    def summary(self) -> str:
        """What was read and left out, in a line."""
        left_out = [
            f"{count} {reason}"
            for count, reason in (
                (self.dropped_empty, "empty"),
                (self.dropped_long, "too long"),
                (self.not_sampled, "not drawn"),
            )
            if count
        ]
        aside = f" (left out: {', '.join(left_out)})" if left_out else ""
        return f"{self.source}: {len(self.captions)} texts{aside}"


@dataclass(frozen=True)
class _Wanted:
    """What to take from each record, and the file to name where a record does not have it."""

    name: str
    fields: tuple[str, ...]
    splits: frozenset[str] | None


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
    line), `.csv` and `.tsv` (columns named by the first row), `.json` (COCO captions, Karpathy's
    dataset file, or a list), each also with `.gz` behind it. `-` is standard input; it and files
    without a suffix hold JSON where `{` comes first, else a text a line.

    Args:
        source: the file, or `-`.
        text_field: the field or column of the text; else the first of `caption`, `text`,
            `sentence` and (as in Karpathy's file) `raw` that there is.
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
    _check_options(encoding, max_words, sample)
    name = "standard input" if str(source) == "-" else shown(source)
    splits = None if split is None else frozenset(part.strip() for part in split.split(","))
    wanted = _Wanted(name, TEXT_FIELDS if text_field is None else (text_field,), splits)
    with _opened(source, name, encoding) as stream:
        try:
            kind = _kind(source, stream, name, encoding)
            lines = _lines(stream, encoding)
            captions, empty, long = _tidied(_texts(kind, lines, wanted), max_words)
        except UnicodeError as error:
            raise SynticError(_undecodable(stream, name, encoding, error)) from error
        except (OSError, EOFError, zlib.error) as error:  # the last two: a damaged .gz
            raise SynticError(f"{name} cannot be read ({error}): copy it again") from error
    kept = captions if sample is None else _sampled(captions, sample, seed)
    if not kept:
        raise SynticError(_nothing_left(name, len(captions), empty, long, max_words))
    return Corpus(kept, name, _digest(kept), empty, long, len(captions) - len(kept))


def _check_options(encoding: str, max_words: int | None, sample: float | None) -> None:
    try:
        "".encode(encoding)
    except (LookupError, ValueError) as error:
        raise SynticError(f"--encoding {shown(encoding)}: no such text encoding") from error
    if max_words is not None and max_words < 1:
        raise SynticError(f"--max-words {max_words}: give a number of at least 1")
    if sample is not None and not 0 < sample <= 1:
        raise SynticError(f"--sample {sample}: give a share above 0 and at most 1")


def _opened(source: str | Path, name: str, encoding: str) -> IO[bytes]:
    """Open the bytes of a corpus; always seekable, to look at the start and to locate errors."""
    if str(source) == "-":
        raw = getattr(sys.stdin, "buffer", None)
        return io.BytesIO(sys.stdin.read().encode(encoding) if raw is None else raw.read())
    path = Path(source)
    try:
        if path.is_dir():
            raise SynticError(f"{name} is a folder: name the corpus file in it")
        if path.suffix.lower() == ".gz":
            return cast(IO[bytes], gzip.open(path))
        stream = path.open("rb")
        if not stream.seekable():  # a pipe, as of `<(head -1000 corpus.txt)`
            with stream:
                return io.BytesIO(stream.read())
        return stream
    except FileNotFoundError as error:
        link = f" (a link to {shown(path.readlink())})" if path.is_symlink() else ""
        raise SynticError(f"{name}{link}: no such file; check the name") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL within the name
        reason = getattr(error, "strerror", None) or error
        raise SynticError(f"{name} cannot be read ({reason}): check its permissions") from error


def _kind(source: str | Path, stream: IO[bytes], name: str, encoding: str) -> str:
    """Tell the format from the suffix and, where there is none, from the content."""
    path = Path(source)
    suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    kind = _SUFFIXES.get(suffix.lower())
    if kind is None and suffix:
        known = ", ".join(_SUFFIXES)
        raise SynticError(
            f"{name}: syntic reads no {shown(suffix)} corpus, but {known} (also with .gz), or"
            " plain text by `-`; convert or rename it"
        )
    head = stream.read(8192)
    stream.seek(0)
    start = codecs.getincrementaldecoder(encoding)(errors="replace").decode(head)
    if _is_binary(head, start):
        raise SynticError(
            f"{name} looks like a binary file: name a text file, or say --encoding utf-16 (or"
            " what it is) if it is one"
        )
    if kind is None:
        kind = "json" if start.lstrip("\ufeff \t\r\n").startswith("{") else "txt"
    return kind


def _is_binary(head: bytes, start: str) -> bool:
    """Judge by the first bytes, forgiving the odd NUL or control character in a text."""
    odd = len(_UNPRINTABLE.findall(start)) - sum(start.count(c) for c in "\t\n\r\v\f\x1b\x85")
    return (b"\0" in head and "\ufffd" in start) or (odd >= 8 and odd > 0.2 * len(start))


def _lines(stream: IO[bytes], encoding: str) -> io.TextIOWrapper:
    if codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-8-sig"  # the same, less a byte order mark
    # Its lines end at \n, \r\n and \r and nowhere else, unlike those of str.splitlines.
    return io.TextIOWrapper(stream, encoding)


def _texts(kind: str, lines: io.TextIOWrapper, wanted: _Wanted) -> Iterable[str]:
    """Give the texts of a file as they are, in order."""
    if kind == "json":
        return _from_json(lines, wanted)
    if kind == "jsonl":
        return _from_records(_json_lines(lines, wanted.name), "line", wanted)
    if kind == "txt":
        if wanted.splits is not None:
            raise SynticError(f"{wanted.name} is plain text, which has no splits: omit --split")
        return lines
    delimiter = "\t" if kind == "tsv" else ","
    return _from_records(_rows(lines, delimiter, wanted.name), "line", wanted)


def _from_json(lines: io.TextIOWrapper, wanted: _Wanted) -> Iterable[str]:
    """Give the texts of a JSON document: COCO, Karpathy, a list of records, or lines after all."""
    name = wanted.name
    used = {"annotations", "images", "sentences", "split", *wanted.fields}

    def trimmed(pairs: list[tuple[str, object]]) -> dict[str, object]:
        # Karpathy's file is mostly lists of tokens: without them it takes half the memory and time.
        return {key: value if key in used else None for key, value in pairs}

    text = lines.read()  # outside the try: a decoding error is a ValueError too
    try:
        document = json.loads(text, object_pairs_hook=trimmed)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one value after another, that is JSON lines
            lines.seek(0)
            return _from_records(_json_lines(lines, name), "line", wanted)
        raise SynticError(
            f"{name}, line {error.lineno}: malformed JSON ({error.msg}); correct or copy it again"
        ) from error
    except (ValueError, RecursionError) as error:  # endless digits, endless brackets
        raise SynticError(f"{name}: malformed JSON ({error}); make it anew") from error
    if isinstance(document, list):
        return _from_records(enumerate(document, 1), "item", wanted)
    if isinstance(document, dict):
        if isinstance(document.get("annotations"), list):
            return _from_records(enumerate(document["annotations"], 1), "annotation", wanted)
        if isinstance(document.get("images"), list):
            sentences = _sentences(document["images"], name)
            return _from_records(enumerate(sentences, 1), "sentence", wanted)
        if any(field in document for field in wanted.fields):
            return _from_records([(1, document)], "record", wanted)
    raise SynticError(
        f"{name} holds neither COCO captions (`annotations`), nor Karpathy's `images` with"
        " `sentences`, nor a list of texts: convert it to .jsonl or .txt"
    )


def _sentences(images: list[object], name: str) -> Iterator[object]:
    """Give the sentences of Karpathy's images as records, each with the split of its image."""
    for number, image in enumerate(images, 1):
        if not isinstance(image, dict) or not isinstance(image.get("sentences"), list):
            raise SynticError(f"{name}, image {number}: no list of `sentences`, so no captions")
        split = {"split": image["split"]} if "split" in image else {}
        for sentence in image["sentences"]:
            yield {**sentence, **split} if isinstance(sentence, dict) else sentence


def _json_lines(lines: Iterable[str], name: str) -> Iterator[tuple[int, object]]:
    decode = json.JSONDecoder().decode
    for number, line in enumerate(lines, 1):
        try:
            yield number, (None if line.isspace() else decode(line))
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise SynticError(
                f"{name}, line {number}: malformed JSON ({reason}); correct or delete the line"
            ) from error


def _rows(lines: Iterable[str], delimiter: str, name: str) -> Iterator[tuple[int, object]]:
    """Give the rows of a table as records, with the line each ends on."""
    # Before Python 3.11 csv refuses NUL, which is no reason to refuse a text.
    rows = csv.reader((line.replace("\0", " ") for line in lines), delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next((row for row in rows if row), [])]
        for row in rows:
            if row and len(row) != len(header):
                raise SynticError(
                    f"{name}, line {rows.line_num}: {len(row)} fields where the first row names"
                    f" {len(header)}; quote a text that holds the separator"
                )
            yield rows.line_num, (dict(zip(header, row, strict=True)) if row else None)
    except csv.Error as error:
        raise SynticError(
            f"{name}, line {rows.line_num}: malformed table ({error}); is a quote left open or"
            " not doubled?"
        ) from error


def _from_records(
    records: Iterable[tuple[int, object]], unit: str, wanted: _Wanted
) -> Iterator[str]:
    """Give the text of each record (an object, a string, or nothing) of the wanted splits."""
    seen: set[str] = set()
    for number, record in records:
        where = (wanted.name, unit, number)
        if wanted.splits is not None and record is not None:
            split = _field(record, ("split",), where)
            seen.add(split)
            if split not in wanted.splits:
                continue
        yield record if isinstance(record, str) else _field(record, wanted.fields, where)
    unknown = ", ".join(sorted((wanted.splits or frozenset()) - seen))
    if unknown and seen:
        raise SynticError(f"{wanted.name} has no split {unknown}; there are: {_some(seen)}")


def _field(record: object, fields: tuple[str, ...], where: tuple[str, str, int]) -> str:
    """Give the first of these fields that a record has; no record counts as empty, as null does."""
    if record is None:
        return ""
    if not isinstance(record, dict):
        raise SynticError(
            f"{_place(where)}: a bare {type(record).__name__} where an object with"
            f" `{'` or `'.join(fields)}` is expected"
        )
    for field in fields:
        value = record.get(field, record)
        if isinstance(value, str):
            return value
        if value is None:
            return ""
        if value is not record:
            raise SynticError(
                f"{_place(where)}: `{field}` holds a {type(value).__name__}, not a text; correct it"
            )
    hint = "omit --split" if fields == ("split",) else "name the text's field by --text-field"
    raise SynticError(
        f"{_place(where)}: no field `{'` or `'.join(fields)}`; there are: {_some(record)}; {hint}"
    )


def _place(where: tuple[str, str, int]) -> str:
    name, unit, number = where
    return f"{name}, {unit} {number}"


def _tidied(texts: Iterable[str], max_words: int | None) -> tuple[list[str], int, int]:
    """Collapse white space; drop the empty and the long; count both."""
    captions: list[str] = []
    empty = long = 0
    for raw in texts:
        text = " ".join(raw.split())
        if not text.isprintable():
            text = " ".join(_UNPRINTABLE.sub(" ", text).split())
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
        return f"{name}: --sample leaves none of its {found} texts; raise it"
    if long:
        return f"{name}: all {long} texts have more than {max_words} words; raise --max-words"
    if empty:
        return f"{name} holds no text, only {empty} empty lines or fields; name another corpus"
    return f"{name} is empty; name a file with a text a line"


def _undecodable(stream: IO[bytes], name: str, encoding: str, error: UnicodeError) -> str:
    """Locate the first byte that is no text; the reader only knew its place in a chunk."""
    stream.seek(0)
    data = stream.read()
    try:
        data.decode(encoding)
    except UnicodeDecodeError as located:
        before = data[: located.start].decode(encoding, "replace")
        line = 1 + len(re.findall("\r\n?|\n", before))
        byte = f"0x{data[located.start]:02x}"
        guess = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "cp1252"
        return (
            f"{name}, line {line}: the byte {byte} at offset {located.start} is not {encoding}; say"
            f" what the file is by --encoding ({guess}?)"
        )
    return f"{name} is not {encoding} ({error}); say what the file is by --encoding"


def _some(names: Iterable[str]) -> str:
    """A few names on one line."""
    found = sorted(shown(name)[:40] for name in names)
    return ", ".join(found[:12]) + (", ..." if len(found) > 12 else "")
