"""Exports in shards: each is written whole, and a run that was stopped goes on with the next."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import console
from ..artifacts.writing import atomic_path
from ..errors import ConflictError, DamagedError, SynticError
from ..interrupts import StopRequest
from .rows import Row, Source

MANIFEST = ".syntic-export.json"


@dataclass
class Manifest:
    """What a folder holds: of which artifact, in which format, and which shards are done.

    done has for each finished shard how many of its rows are left out, by the reason.
    """

    path: Path
    of: dict[str, Any]
    done: dict[str, dict[str, int]] = field(default_factory=dict)
    complete: bool = False

    @staticmethod
    def open(target: Path, of: dict[str, Any]) -> Manifest:
        """The manifest of a folder, which is made where it is not there.

        Raises:
            ConflictError: where the folder holds something else.
            DamagedError: where the manifest cannot be read.
            SynticError: where the folder cannot be written.
        """
        path = target / MANIFEST
        if path.exists():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                there = Manifest(path, content["of"], content["done"], content["complete"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise DamagedError(f"{path}: cannot be read; delete {target}") from error
            if there.of != of:
                changed = [name for name in of if there.of.get(name) != of[name]]
                raise ConflictError(
                    f"{target}: holds another export (other {', '.join(changed)}); delete it, or "
                    "name another folder"
                )
            return there
        try:
            if target.exists() and any(target.iterdir()):
                raise ConflictError(
                    f"{target}: is not empty and no export of syntic; name another folder"
                )
        except OSError as error:
            raise SynticError(f"{target}: is no folder to write to ({error.strerror})") from error
        made = Manifest(path, of)
        made.save()
        return made

    def save(self) -> None:
        content = {"of": self.of, "done": self.done, "complete": self.complete}
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @property
    def left_out(self) -> Counter[str]:
        """How many rows are left out in all, by the reason."""
        total: Counter[str] = Counter()
        for counts in self.done.values():
            total.update(counts)
        return total


def write_shards(
    source: Source,
    target: Path,
    *,
    format: str,
    shard_size: int,
    images: bool,
    write: Callable[[int, Iterable[Row]], None],
    finish: Callable[[], None] | None = None,
    quiet: bool = False,
) -> Counter[str]:
    """Write the rows of an artifact shard by shard into a folder, those that it lacks.

    Args:
        source: the artifact.
        target: the folder.
        format: its name, for the manifest.
        shard_size: rows of the artifact in a shard.
        images: whether rows are to have their images.
        write: writes one shard, given its number and its rows, whole or not at all.
        finish: called once all shards are there.
        quiet: print warnings only.

    Returns:
        How many rows were left out, by the reason.

    Raises:
        ConflictError: where the folder holds something else.
        Interrupted: after SIGINT or SIGTERM, once the shard in hand is written.
    """
    of = {"artifact": source.artifact.state, "format": format, "shard size": shard_size}
    manifest = Manifest.open(target, of)
    if manifest.complete:
        console.note(f"export: {target} is up to date", quiet=quiet)
        return manifest.left_out
    _remove_half_written(target)
    shards = range(-(-source.rows // shard_size))
    missing = [shard for shard in shards if str(shard) not in manifest.done]
    done = min(source.rows, (len(shards) - len(missing)) * shard_size)
    request = StopRequest()
    with (
        request.listening(),
        console.progress("export", source.rows, done=done, unit="rows", quiet=quiet) as advance,
    ):
        for shard in missing:
            start, stop = shard * shard_size, min((shard + 1) * shard_size, source.rows)
            source.left_out.clear()
            write(shard, _counted(source.read(start, stop, images=images), advance))
            advance(sum(source.left_out.values()))
            manifest.done[str(shard)] = dict(source.left_out)
            manifest.save()
            request.check()
    if finish is not None:
        finish()
    manifest.complete = True
    manifest.save()
    return manifest.left_out


def _counted(rows: Iterator[Row], advance: Callable[[int], None]) -> Iterator[Row]:
    for row in rows:
        yield row
        advance(1)


def _remove_half_written(target: Path) -> None:
    for leftover in target.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def number_of_shards(rows: int, shard_size: int) -> int:
    return max(1, -(-rows // shard_size))
