"""Hugging Face's imagefolder: images, and a metadata.jsonl of `file_name` and `text`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..artifacts.writing import atomic_path
from .rows import Row

METADATA = "metadata.jsonl"
LISTS = ".lists"


def write(target: Path, shard: int, rows: Iterable[Row], *, below: str) -> None:
    """Write the images of a shard, and then its part of the metadata.

    Args:
        target: the folder.
        shard: its number.
        rows: with their images.
        below: the subfolder of the images; empty for none.
    """
    with (
        atomic_path(target / LISTS / f"{shard:06d}.jsonl") as temporary,
        temporary.open("w", encoding="utf-8") as lines,
    ):
        for row in rows:
            name = f"{below}/{row.name}" if below else row.name
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(row.image or b"")
            about: dict[str, Any] = {"file_name": name, "text": row.text, **_scalars(row.more)}
            lines.write(json.dumps(about, ensure_ascii=False) + "\n")


def _scalars(more: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in more.items() if isinstance(value, int | float)}


def finish(target: Path) -> None:
    """Put the metadata together, in the order of the rows."""
    with atomic_path(target / METADATA) as temporary, temporary.open("wb") as whole:
        for part in sorted((target / LISTS).glob("*.jsonl")):
            with part.open("rb") as lines:
                shutil.copyfileobj(lines, whole)
    shutil.rmtree(target / LISTS)
