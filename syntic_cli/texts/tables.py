"""Rows of text tables, as spreadsheets, data sets and programs write them."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from ..errors import SynticError
from .streams import MOST_IN_A_LINE

DELIMITERS = (",", ";", "\t", "|")
# Lines that a quoted cell of a tab-separated table may go on for.
_MOST_LINES_IN_A_CELL = 100
# Excel's own first line, which other programs fill up to the width of the table.
_SEP = re.compile(r'"?sep=(.)"?[\s,;|]*', re.IGNORECASE)

Row = tuple[int, list[str]]


def read_rows(
    lines: Iterator[str],
    name: str,
    known: Collection[str],
    *,
    usual: str = ",",
    rest_in: Collection[str] = (),
) -> Iterator[Row]:
    """Give the rows of a table, the first of which names its columns; blank rows are empty lists.

    Args:
        lines: of the table.
        name: of the file, for messages.
        known: names that columns may have, in lower case, by which the delimiter is told.
        usual: the delimiter that is most likely.
        rest_in: names of a last column whose text need not be quoted where it holds the delimiter.

    Returns:
        Rows, each with the line on which it ends.

    Raises:
        SynticError: a row is malformed; the message names its line.
    """
    start: list[str] = []
    delimiter = None
    for line in lines:
        start.append(line)
        excel = _SEP.fullmatch(line) if len(start) == 1 else None
        if excel:
            delimiter, start = excel[1], [""]
        elif line.strip():
            delimiter = delimiter or find_delimiter(line, known, usual)
            break
    if delimiter is None:
        return
    header = _cells(start[-1], delimiter)
    following = _chained(start, lines)
    if delimiter == "\t":
        rows = _tab_rows(following, len(header))
    elif header and header[-1].strip().lower() in rest_in:
        rows = _unquoted_rows(following, delimiter, len(header))
    else:
        rows = _quoted_rows(following, delimiter, name)
    yield from rows


def find_delimiter(header: str, known: Collection[str], usual: str = ",") -> str:
    """The delimiter by which a header has most columns that are known, or else most columns."""

    def found(delimiter: str) -> tuple[int, int]:
        cells = _cells(header, delimiter)
        return sum(cell.strip().lower() in known for cell in cells), len(cells)

    return max((usual, *DELIMITERS), key=found)


def column_names(header: str, delimiter: str) -> list[str]:
    """The names of columns, in lower case."""
    return [cell.strip().lower() for cell in _cells(header, delimiter)]


def _chained(start: list[str], lines: Iterator[str]) -> Iterator[str]:
    # Before Python 3.11 csv refuses NUL, which is no reason to refuse a text.
    for line in start:
        yield line.replace("\0", " ")
    for line in lines:
        yield line.replace("\0", " ")


def _cells(line: str, delimiter: str) -> list[str]:
    with _long_fields():
        return next(csv.reader([line], delimiter=delimiter), [])


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let csv read fields of any length that a line may have; its own limit holds for everybody."""
    before = csv.field_size_limit(MOST_IN_A_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _quoted_rows(lines: Iterator[str], delimiter: str, name: str) -> Iterator[Row]:
    """Rows whose cells are quoted where they hold the delimiter, a quote or a line break."""
    rows = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True)
    with _long_fields():
        try:
            for row in rows:
                yield rows.line_num, row
        except csv.Error as error:
            raise SynticError(
                f"{name}, line {rows.line_num}: malformed table ({error}); is a quote left open or"
                " not doubled?"
            ) from error


def _unquoted_rows(lines: Iterator[str], delimiter: str, width: int) -> Iterator[Row]:
    """Rows of a line each, whose last cell takes the rest of the line if it is not quoted."""
    with _long_fields():
        for number, line in enumerate(lines, 1):
            cells = _strict(line, delimiter)
            if cells is None or len(cells) > width:
                cells = line.split(delimiter, width - 1)
            yield number, cells


def _tab_rows(lines: Iterator[str], width: int) -> Iterator[Row]:
    """Rows of tab-separated cells, quoted as csv writes them or, as by most, not at all."""
    ahead: deque[str] = deque()
    number = 0
    with _long_fields():
        while (line := ahead.popleft() if ahead else next(lines, None)) is not None:
            number += 1
            cells = line.split("\t") if line else []
            if any(cell.startswith('"') for cell in cells):
                cells, used = _perhaps_quoted(line, width, ahead, lines)
                number += used
            yield number, cells


def _perhaps_quoted(
    line: str, width: int, ahead: deque[str], lines: Iterator[str]
) -> tuple[list[str], int]:
    """The cells of a line, in which one begins with a quote, and how many further lines they take.

    That quote opens a quoted cell where the table is well-formed so; else it is part of the text.
    """
    text, used = line, 0
    while (cells := _strict(text, "\t")) is None and text.count('"') % 2:
        if used == len(ahead) and (following := next(lines, None)) is not None:
            ahead.append(following)
        is_row = used < len(ahead) and width > 1 and ahead[used].count("\t") == width - 1
        if used == len(ahead) or used == _MOST_LINES_IN_A_CELL or is_row:
            break
        text += f"\n{ahead[used]}"
        used += 1
    if cells is None or len(cells) != width:
        return line.split("\t"), 0
    for _ in range(used):
        ahead.popleft()
    return cells, used


def _strict(line: str, delimiter: str) -> list[str] | None:
    """The cells of a row, or None where its quotes do not match."""
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return None
