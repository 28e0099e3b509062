"""COCO's JSON: captions of synthetic images (an annotation file), or results to be scored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any

from ..artifacts.writing import atomic_path
from ..schema import SYNTHESIZE
from .rows import TEXTS_AT_A_TIME, Source

# 000000123456.jpg and COCO_val2014_000000123456.jpg, whose number is COCO's id.
_NUMBERED = re.compile(r"(?:COCO_[a-z]+\d{4}_)?0*(\d+)", re.ASCII)


def write(target: Path, source: Source) -> None:
    """Write the file, a few rows in memory at a time."""
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8") as file:
        for part in _captions(source) if source.stage == SYNTHESIZE.name else _results(source):
            file.write(part)


def _captions(source: Source) -> Iterator[str]:
    """`images` and `annotations`; the id of an image and of its text is the row's number."""
    yield '{"info": {"description": "synthetic images of syntic"}, "licenses": [],\n"images": '
    rows = source.read(0, source.rows, images=False)
    yield from _listed({"id": row.number, "file_name": row.name} for row in rows)
    source.left_out.clear()  # counted once more below
    yield ',\n"annotations": '
    rows = source.read(0, source.rows, images=False)
    yield from _listed(
        {"id": row.number, "image_id": row.number, "caption": row.text} for row in rows
    )
    yield "}\n"


def _results(source: Source) -> Iterator[str]:
    """A list of image_id and caption; the id is COCO's number where every photo has one."""
    numbered = _all_have_numbers(source)
    rows = source.read(0, source.rows, images=False)
    yield from _listed(
        {"image_id": _number(row.name) if numbered else row.name, "caption": row.text}
        for row in rows
    )
    yield "\n"


def _listed(entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield "["
    for place, entry in enumerate(entries):
        yield (",\n" if place else "\n") + json.dumps(entry, ensure_ascii=False)
    yield "\n]"


def _all_have_numbers(source: Source) -> bool:
    """Whether each photo has a number in its name that no other has."""
    found: set[int] = set()
    for start in range(0, source.rows, TEXTS_AT_A_TIME):
        for path in source.artifact.texts("path", start, start + TEXTS_AT_A_TIME):
            number = _number(path)
            if number is None or number in found:
                return False
            found.add(number)
    return True


def _number(path: str) -> int | None:
    match = _NUMBERED.fullmatch(PurePath(path).stem)
    return int(match[1]) if match else None
