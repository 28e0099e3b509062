"""report: one HTML page of a run, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import console
from ..errors import MissingError
from ..report.gather import gather
from ..report.page import write_page

ITEMS = 150
FILE = Path("report.html")


def report(
    sources: Sequence[Path],
    *,
    items: int = ITEMS,
    output: Path = FILE,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Write a page that shows what is in workspaces, side by side where there are several.

    Args:
        sources: workspaces, and artifacts of `caption` to be set beside theirs.
        items: photos, and synthetic images of all workspaces together, that are shown.
        output: the page.
        force: whether to write over a file that is no report.
        quiet: print warnings only.

    Returns:
        The path of the page.

    Raises:
        SynticError: where nothing is there to show, or the page cannot be written.
    """
    for source in sources:
        if not source.exists():
            raise MissingError(f"{source}: no such workspace or captions; name another")
    found = gather(sources, items)
    notes = [*found.notes, *(note for one in found.workspaces for note in one.notes)]
    for note in dict.fromkeys([*notes, *(found.photos.notes if found.photos else ())]):
        console.warn(note)
    write_page(output, found, force=force)
    console.note(
        f"report: {output}, {output.stat().st_size / 1e6:.1f} MB; open it in a browser", quiet=quiet
    )
    return output
