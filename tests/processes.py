"""What runs on this machine, as the tests of Ray look at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def children(parents: set[int]) -> Iterator[tuple[int, str]]:
    """Ids and titles of the processes that any of these has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            stat = (folder / "stat").read_text()
            if int(stat.rpartition(")")[2].split()[1]) in parents:
                yield int(folder.name), title(int(folder.name))


def title(process: int) -> str:
    """What a process calls itself; empty where it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def family(process: int) -> set[int]:
    """A process and all that descend from it."""
    found, new = {process}, {process}
    while new:
        new = {pid for pid, _ in children(new)} - found
        found |= new
    return found


def names(processes: set[int]) -> set[str]:
    """What the programs of those of them that still run are called, without folder and options."""
    return {Path(found.split()[0]).name for found in map(title, processes) if found}
