"""Sharded writing: finished rows are committed atomically, so that a killed stage resumes."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .artifacts import (
    COLUMNS,
    HDF5_VERSION,
    Artifact,
    Recipe,
    Values,
    append_rows,
    atomic_path,
    write_artifact,
    write_groups,
    write_header,
)
from .errors import SynticError

RECIPE = "recipe.json"


@dataclass(frozen=True)
class Piece:
    """Rows start to stop of the output, held by a shard or by an earlier artifact."""

    start: int
    stop: int
    path: Path


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
        self.parts = path.with_name(path.name + ".parts")
        self._kept: list[Piece] = []
        self.up_to_date = False
        if force:
            shutil.rmtree(self.parts, ignore_errors=True)
        elif path.exists():
            self._compare_finished(retry_failed)
        if not self.up_to_date:
            self._compare_unfinished()

    def _compare_finished(self, retry_failed: bool) -> None:
        with Artifact(self.path) as existing:
            if existing.fingerprint != self.recipe.fingerprint:
                raise SynticError(_conflict(self.path, existing.recipe, self.recipe))
            failed = failed_rows(existing)
            self.failed = len(failed)
            self.up_to_date = not (retry_failed and self.failed)
            if not self.up_to_date:
                good = np.setdiff1d(np.arange(existing.rows), failed)
                self._kept = [Piece(a, b, self.path) for a, b in _runs(good)]

    def _compare_unfinished(self) -> None:
        recipe_file = self.parts / RECIPE
        if recipe_file.exists():
            unfinished = Recipe.from_json(recipe_file.read_text())
            if unfinished.fingerprint != self.recipe.fingerprint:
                raise SynticError(_conflict(self.parts, unfinished, self.recipe))

    def begin(self) -> None:
        """Make room for shards; leftovers of a write that was cut off are removed."""
        self.parts.mkdir(parents=True, exist_ok=True)
        for leftover in (
            *self.parts.glob(".*.tmp"),
            *self.path.parent.glob(f".{self.path.name}.*.tmp"),
        ):
            leftover.unlink(missing_ok=True)
        with atomic_path(self.parts / RECIPE) as temporary:
            temporary.write_text(self.recipe.to_json())

    def pieces(self) -> list[Piece]:
        """Rows that are there already, in order and without overlap."""
        shards = [
            Piece(*map(int, path.stem.split("-")), path)  # type: ignore[call-arg]
            for path in self.parts.glob("[0-9]*-[0-9]*.h5")
        ]
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
                append_rows(file, name, schema[name].kind, values)
                rows = len(values) if schema[name].axis == "item" else rows
            write_header(file, self.recipe, {})
        name = f"{start:010d}-{start + rows:010d}.h5"
        with atomic_path(self.parts / name) as temporary:
            temporary.write_bytes(memory.getbuffer())

    def shards(self) -> Iterator[tuple[Piece, Artifact]]:
        """Each committed piece in order, open for reading."""
        for piece in self.pieces():
            with _Shard(piece.path, self.recipe.stage) as shard:
                yield piece, shard

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
            self._check_room()
            with (
                atomic_path(self.path) as temporary,
                h5py.File(temporary, "w", libver=HDF5_VERSION) as file,
            ):
                self._merge(file)
                for name, values in (columns or {}).items():
                    append_rows(file, name, COLUMNS[self.recipe.stage][name].kind, values)
                write_groups(file, groups or {})
                write_header(file, self.recipe, attributes or {})
        shutil.rmtree(self.parts, ignore_errors=True)

    def _merge(self, file: h5py.File) -> None:
        schema = COLUMNS[self.recipe.stage]
        objects = 0
        if "offsets" in schema:
            append_rows(file, "offsets", "number", np.zeros(1, np.int64))
        for piece, shard in self.shards():
            first = 0 if shard.path != self.path else piece.start
            last = first + piece.stop - piece.start
            for name, column in schema.items():
                if column.axis == "item":
                    append_rows(file, name, column.kind, shard.column(name, first, last))
            if "offsets" in schema:
                ragged = shard.objects(first, last)
                offsets = ragged.pop("offsets") + objects
                objects = int(offsets[-1])
                append_rows(file, "offsets", "number", offsets[1:])
                for name, values in ragged.items():
                    append_rows(file, name, "number", values)

    def _check_room(self) -> None:
        needed = sum(path.stat().st_size for path in {piece.path for piece in self.pieces()})
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise SynticError(
                f"{self.path}: {needed / 1e9:.2f} GB are needed to put the artifact together and "
                f"{free / 1e9:.2f} GB are free; every row is safe in {self.parts.name}, "
                "free some space and run the same command again"
            )


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
