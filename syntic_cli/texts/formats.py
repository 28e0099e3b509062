"""Which format a file of texts is in: what its suffix says, unless its first lines know better."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..errors import SynticError, count, shown
from .streams import TextFile
from .tables import column_names, find_delimiter

# The field that holds the text, and the one that names its photo: the first that a record has.
TEXT_FIELDS = ("caption", "text", "sentence", "raw", "comment")
PHOTO_FIELDS = ("image", "path", "file", "filename", "file_name", "image_name", "image_id")

_SUFFIXES = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".token": "lines",
}
# Names of columns that, beside one of texts, make a table of a .txt.
_OTHER_COLUMNS = frozenset(
    (*PHOTO_FIELDS, "id", "split", "url", "comment_number", "sentid", "imgid")
)

# A photo and its text in a line, as in Flickr's .token files: 1000.jpg#0, a tab, the text.
_TOKEN = re.compile(r"(.+?)#\d+\t(.*)")
# The same with any separator, where the name ends as those of photos do.
_PHOTO = r"\.(?:jpe?g|jfif|png|webp|gif|bmp|tiff?|hei[cf]|avif|jp2)"
_NAMED = re.compile(
    rf'"?(.+?{_PHOTO})"?(?:#\d+)?(?:\s*(?:[\t,;|:=]|[=-]>)\s*|\s+)(\S.*)', re.IGNORECASE
)
_PHOTO_ALONE = re.compile(rf"\S+{_PHOTO}\s*", re.IGNORECASE)
# Lines that all end so are names, blanks within them or not.
_PHOTO_LAST = re.compile(rf".+{_PHOTO}\s*", re.IGNORECASE)
# A line in quotes as a table writes a cell of it, perhaps with the comma of a list; and in others.
QUOTED = re.compile(r'\s*"((?:[^"]|"")*)"\s*,?\s*')
_OTHER_QUOTES = [
    re.compile(rf"\s*{opens}(.*){closes}\s*,?\s*")
    for opens, closes in (("'", "'"), ("“", "”"), ("„", "[“”]"), ("«", "»"), ("「", "」"))
]
# What stands before the texts of a list: a number, or a mark, which holds no letter or begins and
# ends as none does, such as `-`, `*` or `<s>`.
_NUMBERED = re.compile(r"\s*([\[(#]?)(\d+)([\].:)]*)\s+\S")
_MARKED = re.compile(
    r"\s*([^\w\s\"'“„«「][^\w\s]*|<\S+>|\[\S+\]|__\w+|startseq|[\"']?\w+[\"']?:)\s+\S|\s*(\w+\s*=|<\|\w+\|>)\s*\S"
)
# What no sentence ends with.
_ENDED = re.compile(r".*[^|>,;\\/\]}]([|>,;\\/\]}]+|\[\w+\]|</?\w+>)\s*")
_TIMED = re.compile(r"\s*[\[(]?(?:\d{4}-\d\d-\d\d|\d?\d/\d?\d/\d{2,4}|\d?\d:\d\d(?::\d\d)?\b)")
# A line of a record, as those of mail and of many programs: a name, a colon, a value.
_KEYED = re.compile(r"\s*[\"']?(\w+)[\"']?\s*[:=]\s*\S")
_LEAST_IN_AN_ID = 5
# A word that no text begins with: an address, the name of a file, letters with digits among them.
_NAME = re.compile(r"https?://\S+|[\w-]+\.[a-z]\w{1,3}|(?=\D*[a-z_]\D*\d)[\w-]{5,99}", re.I)
# What stands where a caption should, in a field that is another: a photo or page, or a number.
NO_CAPTION = re.compile(rf"\S+{_PHOTO}|https?://\S+", re.IGNORECASE)
NUMBER = re.compile(r"[\d.:/+-]+|true|false|[\da-f-]{32,36}", re.IGNORECASE)
# JSON: an object's key comes first, or a list of strings.
_JSON = re.compile(r'(?:\[\s*)?\{\s*"[^"\n]+"\s*:|\[\s*"(?:[^"\\\n]|\\.)*"\s*,\s*"')
_TIME = r"\d?\d:\d\d(?::\d\d)?"
# How other things begin that are text as far as their characters go.
_NO_TEXTS = {
    # Not what marks where a text begins and ends: `<s> a dog </s>`.
    re.compile(
        r"<!doctype|<html|<\?xml|<(?:p|br|li|[uo]l|div|td|tr|table|h\d)(?:\s[^>]*)?/?>"
        r"|<(?!(?:s|start|[sb]os)>)([a-z][\w:-]*)(?:\s[^>]*)?>[\s\S]*</\1>",
        re.IGNORECASE,
    ): "a web page or XML, not texts: download the file itself, or take its texts out",
    re.compile(r"\|[^\n]*\|\s*\n\|[ :|-]+\|\s*\n|!\[[^\n]*\]\([^\n]*\)"): (
        "a page of Markdown: save it as .csv"
    ),
    re.compile(r"version https://git-lfs\.github\.com/spec/"): (
        "what Git LFS left in a file's place: run `git lfs pull`"
    ),
    re.compile(r"\{\\rtf|%PDF-|%!PS|\\(?:documentclass|begin)\b|@\w+\{|diff --git |From: "): (
        "a document, not texts: save it as plain text"
    ),
    re.compile(
        rf"(?:\d+\n)?{_TIME}[,.]\d+(?: *--> *|,){_TIME}|WEBVTT\b|\[Script Info\]"
        r"|\[\d+:\d\d[.:]\d\d\]"
    ): "subtitles, not texts: take their texts out, a line each",
    re.compile(r"BEGIN:V[A-Z]+\n"): "a card or calendar, not texts: name a file of texts",
    re.compile(r"(?:(?://|#)[^\n]*\n\s*)+[\[{]\s*[\"{\[]"): (
        "JSON with comments, which JSON has not: delete them"
    ),
    re.compile(
        r"[\[{(]\s*\(?'|\w+\s*=\s*[\[{(]\s|[\[(]\d+,\s*[\"'].*[\])]\s*$"
        r"|(?:INSERT INTO|CREATE TABLE) ",
        re.MULTILINE,
    ): "code of a program, not texts: let it write JSON",
    re.compile(
        r"%YAML|---[ \t]*\n|[^\s:][^\n:]*:[ \t]*\n[ \t]*- |- [\w-]+:[^\n]*\n[ \t]+[\w-]+:"
    ): ("YAML, not texts: save it as .jsonl or .csv"),
    re.compile(r"\[+[^\]\n]+\]+[ \t]*\n\s*[\w.-]+[ \t]*[=:]"): (
        "a file of settings, not texts: take its texts out, a line each"
    ),
    re.compile(r"\x1b(?:\$[@B(]|\([BIJ])|[^\n]*\x1b\$[@B]"): (
        "not UTF-8: say --encoding iso2022_jp (or what it is)"
    ),
}


@dataclass(frozen=True)
class Format:
    """How a file is read.

    Attributes:
        kind: `txt`, a text a line; `lines`, a photo and its text a line; `jsonl`; `json`; `table`.
        delimiter: of a table, if its header does not tell another.
        unquoted: the last cell of a row takes the rest of its line.
        line: of `lines`: photo and text.
        quoted: how the lines of `txt` stand in quotes, which are no part of their texts.
    """

    kind: str
    delimiter: str = ","
    unquoted: bool = False
    line: re.Pattern[str] = _TOKEN
    quoted: re.Pattern[str] | None = None


def sniffed(file: TextFile, what: str, texts: Collection[str]) -> tuple[Format, list[str]]:
    """Tell the format of a file.

    Args:
        file: the open file.
        what: it holds, for messages.
        texts: the fields that may hold the text.

    Returns:
        The format, and what a person should know of it: a line where it is not what the suffix
        says.

    Raises:
        SynticError: the suffix is of no text format, or the content of none of texts.
    """
    kind = _SUFFIXES.get(file.suffix)
    if kind is None and file.suffix:
        raise SynticError(
            f"{file.name}: syntic reads no {shown(file.suffix)} {what}, but {', '.join(_SUFFIXES)}"
            " (also with .gz), or plain text by `-`; convert or rename it"
        )
    start = file.head.lstrip("\ufeff \t\n")
    for pattern, reason in _NO_TEXTS.items():
        if pattern.match(start):
            raise SynticError(f"{file.name} is {reason}")
    if kind in ("json", "jsonl"):
        return Format(_json_kind(start, file, kind)), []
    if kind in ("csv", "tsv"):
        return Format("table", "\t" if kind == "tsv" else ","), []
    if kind is None and start.startswith("{"):
        return Format(_json_kind(start, file, "json")), []
    return _sniffed_lines(file, start, {name.lower() for name in texts})


def _json_kind(start: str, file: TextFile, named: str) -> str:
    """Tell JSON lines from a document by the first line, whatever the suffix says."""
    line, broken, rest = start.partition("\n")
    if not broken and not file.head_is_all:
        return "json" if start.startswith("[") else named
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        opens_alone = line.strip() in ("[", "{", "[{", "[[")
        return "json" if opens_alone or line.startswith("[") else named
    if isinstance(first, list) or _is_document(first):
        return "json"
    return "jsonl" if rest.strip() else named


def _is_document(value: object) -> bool:
    return isinstance(value, dict) and any(
        isinstance(value.get(name), list) for name in ("annotations", "images")
    )


def _sniffed_lines(file: TextFile, start: str, texts: Collection[str]) -> tuple[Format, list[str]]:
    """Tell plain lines from tables, photo lines and JSON in a file that might be any of them."""
    named_token = file.suffix == ".token"
    if _JSON.match(start):
        return Format(_json_kind(start, file, "json")), [
            f"{file.name}: read as JSON, which it holds"
        ]
    lines = [line for line in start.split("\n") if line.strip()]
    if len(lines) > 1 and not file.head_is_all:
        lines.pop()  # which is cut off
    if not lines:
        return Format("lines" if named_token else "txt"), []
    known = {*texts, *_OTHER_COLUMNS}
    delimiter = find_delimiter(lines[0], known)
    columns = set(column_names(lines[0], delimiter))
    if lines[0].lower().startswith("sep=") or (columns & set(texts) and columns & _OTHER_COLUMNS):
        note = f"{file.name}: read as a table, of which the first line names the columns"
        return Format("table", delimiter, unquoted=True), [note]
    if len(lines) > 1 and len(columns) == 1 and columns & set(texts):
        note = f"{file.name}: its first line, `{lines[0].strip()}`, is read as the name of a column"
        return Format("table", delimiter, unquoted=True), [note]
    for pattern in (_TOKEN, _NAMED):
        # A line alone might speak of a file.
        if all(map(pattern.fullmatch, lines)) and (pattern is _TOKEN or len(lines) > 1):
            note = f"{file.name}: read as lines of a photo's name and a text"
            return Format("lines", line=pattern), [note]
    keyed = [key[1].lower() for key in map(_KEYED.match, lines) if key]
    if len(keyed) == len(lines) and len(set(keyed)) > 1 and known & set(keyed):
        raise SynticError(
            f"{file.name} is lines of keys and values, such as `{shown(lines[0].strip()[:40])}`,"
            " not texts: save it as .jsonl or .csv"
        )
    listed = _PHOTO_LAST if len(lines) > 1 else _PHOTO_ALONE
    if all(map(listed.fullmatch, lines)):
        raise SynticError(f"{file.name} lists photos, not texts: name the file of their captions")
    return (Format("lines"), []) if named_token else _plain(file.name, lines)


def _plain(name: str, lines: Sequence[str]) -> tuple[Format, list[str]]:
    """Plain lines, and what stands around the texts in all of them."""
    heading = lines[0].strip()
    quotes = (p for p in (QUOTED, *_OTHER_QUOTES) if all(map(p.fullmatch, lines)))
    quoted = next(quotes, None) if len(lines) > 1 else None
    notes = [f"{name}: read without the quotes around its lines"] if quoted else []
    if heading.startswith("#") and not all(line.lstrip().startswith("#") for line in lines):
        notes.append(f"{name}: its first line, `{shown(heading[:40])}`, is read as a text")
    if len(lines) > 2 and all("\t" in line.strip() for line in lines):
        notes.append(
            f"{name}: every line holds a tab and is read as one text; if it is a table, name"
            " its columns in a first line and the file .tsv"
        )
    elif any("\0" in line for line in lines):
        notes.append(f"{name}: holds NUL characters, which are read as blanks and end no text")
    elif mark := _mark_of(lines):
        notes.append(f"{name}: every line begins with {mark}, read as part of its text")
    elif not quoted and (end := _end_of(lines)):
        notes.append(f"{name}: every line ends with `{shown(end)}`, read as part of its text")
    if photos := sum(map(bool, map(_PHOTO_ALONE.fullmatch, lines))):
        names = count(photos, "line is the name of a photo", "lines are names of photos")
        notes.append(f"{name}: {names} alone, of the first {len(lines)}, and read as a text")
    return Format("txt", quoted=quoted), notes


def _end_of(lines: Sequence[str]) -> str:
    """What no text ends with, but all of these lines do."""
    ends = {end[1] if end else "" for end in map(_ENDED.fullmatch, lines)}
    return ends.pop() if len(lines) > 1 and len(ends) == 1 else ""


def _mark_of(lines: Sequence[str]) -> str:
    """What no text begins with, but all of these lines do: their number, or a mark."""
    numbers = [number for line in lines if (number := _NUMBERED.match(line))]
    if len(lines) > 1 and len(numbers) == len(lines):
        first = int(numbers[0][2])
        counted = all(int(number[2]) == row for row, number in enumerate(numbers, first))
        # Two lines may well be of 2 dogs and of 3 cats.
        if counted and (len(lines) > 2 or all(number[1] or number[3] for number in numbers)):
            return "its number"
        if all(len(number[2]) >= _LEAST_IN_AN_ID for number in numbers):
            return "an id"
    if len(lines) > 1 and all(map(_TIMED.match, lines)):
        return "a date or time"
    parted = [line.split(maxsplit=1) for line in lines]
    if len(lines) > 1 and all(
        len(words) > 1 and _NAME.fullmatch(words[0][:100]) for words in parted
    ):
        return "a name or an id"
    marks = [_MARKED.match(line) for line in lines]
    found_marks = {mark[1] or mark[2] for mark in marks if mark}
    if len(lines) > 1 and all(marks) and len(found_marks) == 1:
        return f"`{shown(found_marks.pop())}`"
    return ""
