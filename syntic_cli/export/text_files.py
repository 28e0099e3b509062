"""A text file for each image: of photos at their place in a tree, of synthetic images beside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..artifacts.writing import atomic_path
from ..schema import SYNTHESIZE
from .rows import Source


def write(
    target: Path, source: Source, *, below: Callable[[int], str], force: bool,
    advance: Callable[[int], None],
) -> int:  # fmt: skip
    """Write the text files that are not there yet; with synthetic images come the images.

    Args:
        target: the folder.
        source: the artifact.
        below: the subfolder of a row, given its number; empty for none.
        force: whether to write over files that are there.
        advance: called with the number of rows done.

    Returns:
        How many files were there and are left as they are.
    """
    images, there = source.stage == SYNTHESIZE.name, 0
    for row in source.read(0, source.rows, images=images):
        image = target / below(row.number) / row.name
        text = image.with_suffix(".txt")
        advance(1)
        if text.exists() and not force:
            there += 1
            continue
        # The text last: where it is, its image is there, too.
        for path, data in ((image, row.image), (text, f"{row.text}\n".encode())):
            if data is not None:
                with atomic_path(path) as temporary:
                    temporary.write_bytes(data)
    return there
