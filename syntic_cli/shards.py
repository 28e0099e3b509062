"""Sharded writing: finished rows are committed atomically, so that a killed stage resumes."""

from __future__ import annotations

import glob
import io
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .artifacts import COLUMNS, Artifact, Recipe, Values
from .errors import SynticError
from .writing import (
    HDF5_VERSION,
    append_rows,
    atomic_path,
    reserve,
    write_artifact,
    write_groups,
    write_header,
)

RECIPE = "recipe.json"


@dataclass(frozen=True)
class Piece:
    """Rows start to stop of the output, held by a shard or by an earlier artifact."""

    start: int
    stop: int
    path: Path


def _as_piece(shard: Path) -> Piece:
    start, stop = map(int, shard.stem.split("-"))
    return Piece(start, stop, shard)


class Output:
    """The artifact that a stage is making: which rows are there, and how the others get in.

    Rows are committed as shards in `<output>.parts/`; `finish` puts the artifact together, renames
    it onto its name and removes the shards.
    """

    def __init__(self, path: Path, recipe: Recipe, *, force: bool, retry_failed: bool) -> None:
        """Compare what is on disk with the recipe.

        Raises:
            SynticError: where an artifact or unfinished shards of another recipe are in the way and
                `force` is not given; the message names each difference.
        """
        self.path = path
        self.recipe = recipe
        self.failed = 0
        self.up_to_date = False
        self._kept: list[Piece] = []
        self._forced = force
        # A retry and a forced run have folders of their own: what an undisturbed run has left
        # there (killed between its rename and its tidying up) must not be taken for their work.
        self.parts = self._parts_named("forced." if force else "")
        if not force and path.exists():
            self._compare_finished(retry_failed)
        if not self.up_to_date:
            self._compare_unfinished()

    def _parts_named(self, infix: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{infix}parts")

    def _compare_finished(self, retry_failed: bool) -> None:
        with Artifact(self.path) as existing:
            if existing.fingerprint != self.recipe.fingerprint:
                raise SynticError(_conflict(self.path, existing.recipe, self.recipe))
            failed = failed_rows(existing)
            self.failed = len(failed)
            self.up_to_date = not (retry_failed and self.failed)
            if self.up_to_date:
                self._tidy_up()
            else:
                good = np.setdiff1d(np.arange(existing.rows), failed)
                self._kept = [Piece(a, b, self.path) for a, b in _runs(good)]
                # Named after the very file whose failures are retried, so that a later retry
                # does not take the outcome of this one for its own.
                self.parts = self._parts_named(f"retry{self.path.stat().st_mtime_ns}.")

    def _compare_unfinished(self) -> None:
        recipe_file = self.parts / RECIPE
        if recipe_file.exists():
            unfinished = self._read_unfinished(recipe_file)
            if unfinished.fingerprint != self.recipe.fingerprint:
                if not self._forced:
                    raise SynticError(_conflict(self.parts, unfinished, self.recipe))
                shutil.rmtree(self.parts)
        elif self.parts.exists():
            # Shards whose recipe is gone could be of anything.
            shutil.rmtree(self.parts)

    def _read_unfinished(self, recipe_file: Path) -> Recipe:
        try:
            return Recipe.from_json(recipe_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SynticError(
                f"{recipe_file}: cannot be read ({error}); delete {self.parts.name} to start again"
            ) from error

    def _tidy_up(self) -> None:
        """Remove the shards of this artifact, and whatever a killed run of it has left."""
        for infix in ("", "forced.", "retry[0-9]*."):
            for parts in self.path.parent.glob(f"{glob.escape(self.path.name)}.{infix}parts"):
                shutil.rmtree(parts, ignore_errors=True)
        self._remove_half_written(self.path.parent, f".{glob.escape(self.path.name)}.*.tmp")

    def _remove_half_written(self, folder: Path, pattern: str) -> None:
        for leftover in folder.glob(pattern):
            leftover.unlink(missing_ok=True)

    def begin(self) -> None:
        """Make room for shards; leftovers of a write that was cut off are removed.

        Raises:
            SynticError: where the folder cannot be written.
        """
        with atomic_path(self.parts / RECIPE) as temporary:
            temporary.write_text(self.recipe.to_json(), encoding="utf-8")
        self._remove_half_written(self.parts, ".*.tmp")
        self._remove_half_written(self.path.parent, f".{glob.escape(self.path.name)}.*.tmp")

    def pieces(self) -> list[Piece]:
        """Rows that are there already, in order and without overlap."""
        shards = [_as_piece(path) for path in self.parts.glob("[0-9]*-[0-9]*.h5")]
        return sorted([*shards, *self._kept], key=lambda piece: piece.start)

    def missing(self, rows: int) -> list[tuple[int, int]]:
        """Ranges (start, stop) of rows that are not committed yet."""
        found, position = [], 0
        for piece in self.pieces():
            if piece.start > position:
                found.append((position, piece.start))
            position = max(position, piece.stop)
        if position < rows:
            found.append((position, rows))
        return found

    def commit(self, start: int, columns: Mapping[str, Values]) -> None:
        """Commit rows from `start` on as one shard: written, synced, renamed.

        Args:
            start: the first row.
            columns: every item dataset of the stage; ragged ones as `offsets` from 0 and objects.

        Raises:
            SynticError: where the shard cannot be written; the rows before it are safe.
        """
        schema = COLUMNS[self.recipe.stage]
        # Made in memory first: a full disk then fails in a plain write, never inside HDF5.
        memory = io.BytesIO()
        with h5py.File(memory, "w", libver=HDF5_VERSION) as file:
            rows = 0
            for name, values in columns.items():
                append_rows(file, name, schema[name].kind, values, total=len(values))
                rows = len(values) if schema[name].axis == "item" else rows
            write_header(file, self.recipe, {})
        name = f"{start:010d}-{start + rows:010d}.h5"
        with atomic_path(self.parts / name) as temporary:
            temporary.write_bytes(memory.getbuffer())

    @contextmanager
    def _shard(self, piece: Piece) -> Iterator[Artifact]:
        """A piece, open for reading; a damaged shard is removed, so that its rows are made again.

        Raises:
            SynticError: where it is damaged.
        """
        try:
            with _Shard(piece.path, self.recipe.stage) as shard:
                yield shard
        except SynticError as error:
            if piece.path == self.path:
                raise
            piece.path.unlink(missing_ok=True)
            raise SynticError(
                f"{piece.path}: was damaged and has been removed; run the same command again to "
                f"make its {piece.stop - piece.start} rows anew"
            ) from error

    def finish(
        self,
        *,
        columns: Mapping[str, Values] | None = None,
        groups: Mapping[str, Mapping[str, np.ndarray]] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Put the artifact together and remove the shards.

        Args:
            columns: datasets beside those of the shards; all of them where there are no shards.
            groups: further groups of numeric datasets.
            attributes: further root attributes.

        Raises:
            SynticError: where the disk has no room for it; the shards are kept.
        """
        if not self.pieces():
            write_artifact(
                self.path, self.recipe, columns or {}, groups=groups, attributes=attributes
            )
        else:
            size = sum(path.stat().st_size for path in {piece.path for piece in self.pieces()})
            with atomic_path(self.path) as temporary:
                reserve(temporary, size)
                with h5py.File(temporary, "w", libver=HDF5_VERSION) as file:
                    self._merge(file)
                    for name, values in (columns or {}).items():
                        kind = COLUMNS[self.recipe.stage][name].kind
                        append_rows(file, name, kind, values, total=len(values))
                    write_groups(file, groups or {})
                    write_header(file, self.recipe, attributes or {})
        self._tidy_up()

    def _merge(self, file: h5py.File) -> None:
        schema = COLUMNS[self.recipe.stage]
        pieces, objects = self.pieces(), 0
        total = pieces[-1].stop
        if "offsets" in schema:
            append_rows(file, "offsets", "number", np.zeros(1, np.int64), total=total + 1)
        for piece in pieces:
            with self._shard(piece) as shard:
                first = 0 if shard.path != self.path else piece.start
                last = first + piece.stop - piece.start
                for name, column in schema.items():
                    if column.axis == "item":
                        values = shard.column(name, first, last)
                        append_rows(file, name, column.kind, values, total=total)
                if "offsets" in schema:
                    ragged = shard.objects(first, last)
                    offsets = ragged.pop("offsets") + objects
                    objects = int(offsets[-1])
                    append_rows(file, "offsets", "number", offsets[1:])
                    for name, numbers in ragged.items():
                        append_rows(file, name, "number", numbers)


class _Shard(Artifact):
    """A shard: an artifact of some rows, without the datasets that only the whole one has."""

    def _check_rows(self, columns: Mapping[str, Any]) -> None:
        super()._check_rows({n: c for n, c in columns.items() if n in self._file})


def failed_rows(artifact: Artifact) -> np.ndarray:
    """Rows whose `error` is not empty."""
    if "error" not in artifact:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero([bool(error) for error in artifact.texts("error")])


def _runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """Consecutive rows as (start, stop) ranges."""
    if not len(rows):
        return []
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(rows, cuts)]


def _conflict(path: Path, old: Recipe, new: Recipe) -> str:
    what = "; ".join(old.differences(new)) or f"stage: {old.stage} → {new.stage}"
    return (
        f"{path} was made with other settings or inputs ({what}); "
        "give --force to make it again, or --output FILE to keep both"
    )
