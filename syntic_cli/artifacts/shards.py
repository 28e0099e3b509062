"""Sharded writing: finished rows are committed atomically, so that a killed stage resumes."""

from __future__ import annotations

import glob
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ..errors import ConflictError, DamagedError, count
from ..schema import STAGES, Column
from ..settings import Run
from .checkpoint import Checkpoint
from .reading import Artifact, Values
from .recipe import Recipe
from .writing import (
    HDF5_VERSION,
    append_rows,
    atomic_path,
    check_room,
    write_artifact,
    write_groups,
    write_header,
)

if TYPE_CHECKING:
    import torch

RECIPE = "recipe.json"
# Axes of which a shard has a part.
ROWS = ("item", "text")


@dataclass(frozen=True)
class Piece:
    """Rows start to stop of the output: rows from `first` on of a shard or an earlier artifact."""

    start: int
    stop: int
    path: Path
    first: int = 0


@dataclass(frozen=True)
class Precision:
    """What rows were computed in: rows of two dtypes must not meet in one artifact.

    runtime is what has run the models, which differs by rounding alone; several are joined.
    """

    device: str
    dtype: str
    runtime: str = "torch"


class Draft:
    """The artifact that a stage is making: which rows are there, and how the others get in.

    Rows are committed as shards in `<output>.parts/`; `finish` puts the artifact together, renames
    it onto its name and removes the shards. Nothing is written before the first commit.
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        *,
        force: bool = False,
        retry_failed: bool = False,
        same_rows: Sequence[int] | None = None,
        keep_as: Path | None = None,
    ) -> None:
        """Compare what is on disk with the recipe.

        Args:
            path: the artifact.
            recipe: what it is to be made from.
            force: make it again, whatever is there.
            retry_failed: make the rows anew that failed.
            same_rows: for an artifact that is there and of other items: which of its rows each of
                the new rows is, -1 for none. Those are taken over.
            keep_as: the name that an artifact that is there gets when the new one is whole.

        Raises:
            ConflictError: where an artifact or unfinished shards of another recipe are in the way
                and `force` is not given; the message names each difference.
        """
        self.path = path
        self.recipe = recipe
        self.failed = 0
        self.up_to_date = False
        self.precision: Precision | None = None
        self._columns = STAGES[recipe.stage].columns
        self._kept: list[Piece] = []
        self._keep_as = keep_as
        self._forced = force
        self._begun = False
        # A retry and a forced run have folders of their own: what an undisturbed run has left
        # there (killed between its rename and its tidying up) must not be taken for their work.
        self.parts = self._parts_named("forced." if force else "")
        if not force and path.exists():
            if same_rows is None:
                self._compare_finished(retry_failed)
            else:
                self._take_over(np.asarray(same_rows, np.int64), retry_failed)
        if not self.up_to_date:
            self._compare_unfinished()

    def _parts_named(self, infix: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{infix}parts")

    def _compare_finished(self, retry_failed: bool) -> None:
        with Artifact(self.path) as existing:
            if existing.fingerprint != self.recipe.fingerprint:
                raise ConflictError(_conflict(self.path, existing.recipe, self.recipe))
            failed = failed_rows(existing)
            self.failed = len(failed)
            self.up_to_date = not (retry_failed and self.failed)
            if self.up_to_date:
                self._tidy_up()
            else:
                rows = np.arange(existing.rows)
                rows[failed] = -1
                self._keep(existing, rows)

    def _take_over(self, rows: np.ndarray, retry_failed: bool) -> None:
        with Artifact(self.path) as existing:
            if retry_failed:
                rows = np.where(np.isin(rows, failed_rows(existing)), -1, rows)
            self._keep(existing, rows)

    def _keep(self, existing: Artifact, rows: np.ndarray) -> None:
        """Take over rows of an earlier artifact: rows[i] is what row i is there, -1 nothing."""
        self._kept = [
            Piece(start, stop, self.path, int(rows[start])) for start, stop in _runs(rows)
        ]
        attributes = existing.attributes
        if "dtype" in attributes and self._kept:
            names = [one.name for one in fields(Precision) if one.name in attributes]
            self.precision = Precision(**{name: str(attributes[name]) for name in names})
        # Named after the very file whose rows are kept, so that a later retry does not take the
        # outcome of this one for its own.
        self.parts = self._parts_named(f"retry{self.path.stat().st_mtime_ns}.")

    def _compare_unfinished(self) -> None:
        recipe_file = self.parts / RECIPE
        if recipe_file.exists():
            unfinished, precision = self._read_unfinished(recipe_file)
            if unfinished.fingerprint == self.recipe.fingerprint:
                self.precision = precision or self.precision
                return
            if not self._forced:
                raise ConflictError(
                    f"{_conflict(self.parts, unfinished, self.recipe)}; it is unfinished: the "
                    "command that began it goes on with it"
                )
        # Shards whose recipe is gone could be of anything.
        if self.parts.exists():
            shutil.rmtree(self.parts)

    def _read_unfinished(self, recipe_file: Path) -> tuple[Recipe, Precision | None]:
        try:
            content = json.loads(recipe_file.read_text(encoding="utf-8"))
            precision = content.get("precision")
            return Recipe.from_json(content), Precision(**precision) if precision else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(
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

    def _begin(self) -> None:
        """Make room for shards; leftovers of a write that was cut off are removed."""
        if self._begun:
            return
        content = self.recipe.to_json()
        if self.precision is not None:
            content["precision"] = vars(self.precision)
        with atomic_path(self.parts / RECIPE) as temporary:
            temporary.write_text(json.dumps(content, sort_keys=True), encoding="utf-8")
        self._remove_half_written(self.parts, ".*.tmp")
        self._remove_half_written(self.path.parent, f".{glob.escape(self.path.name)}.*.tmp")
        self._begun = True

    def in_its_dtype(self, run: Run) -> Run:
        """The run, in the dtype of the rows that are there, unless it names one."""
        if self.precision is None or run.dtype != "auto":
            return run
        return replace(run, dtype=self.precision.dtype)

    def computed_in(self, device: torch.device, dtype: torch.dtype, runtime: str = "torch") -> None:
        """Say what the rows to come are computed in, and by what.

        Raises:
            ConflictError: where rows that are there were computed in another dtype.
        """
        before = self.precision
        runtimes = [*(before.runtime.split(", ") if before else []), runtime]
        now = Precision(
            device.type,
            str(dtype).removeprefix("torch."),
            ", ".join(dict.fromkeys(runtimes)),
        )
        if before is not None and before.dtype != now.dtype:
            raise ConflictError(
                f"{self.path}: has rows computed in {before.dtype} on {before.device}, and would go"
                f" on in {now.dtype} on {now.device}; go on with the same --device, or give "
                "--force to start again"
            )
        self.precision = now

    def checkpoint(self) -> Checkpoint:
        """Where a stage that works on everything at once keeps its state."""
        return Checkpoint(self.parts, self._begin)

    def pieces(self) -> list[Piece]:
        """Rows that are there already, in order and without overlap."""
        shards = [_as_piece(path) for path in self.parts.glob("[0-9]*-[0-9]*.h5")]
        return sorted([*shards, *self._kept], key=lambda piece: piece.start)

    def missing(self, total: int) -> list[tuple[int, int]]:
        """Ranges (start, stop) of rows that are not committed yet."""
        ranges, position = [], 0
        for piece in self.pieces():
            if piece.start > position:
                ranges.append((position, piece.start))
            position = max(position, piece.stop)
        if position < total:
            ranges.append((position, total))
        return ranges

    def commit(self, start: int, columns: Mapping[str, Values]) -> None:
        """Commit rows from `start` on as one shard: written, synced, renamed.

        Args:
            start: the first row.
            columns: every item dataset of the stage; ragged ones as `offsets` from 0 and objects.
                Datasets of texts, too, where the stage makes them; text i is part of row i, and
                where there are fewer images or fewer texts, the last rows lack one or the other.

        Raises:
            SynticError: where the shard cannot be written; the rows before it are safe.
        """
        self._begin()
        # Made in memory first: a full disk then fails in a plain write, never inside HDF5.
        memory = io.BytesIO()
        with h5py.File(memory, "w", libver=HDF5_VERSION) as file:
            rows = 0
            for name, values in columns.items():
                column = self._columns[name]
                append_rows(file, name, column.kind, values, total=len(values))
                rows = max(rows, len(values)) if column.axis in ROWS else rows
            write_header(file, self.recipe, {})
        name = f"{start:010d}-{start + rows:010d}.h5"
        with atomic_path(self.parts / name) as temporary:
            temporary.write_bytes(memory.getbuffer())

    @contextmanager
    def _open_piece(self, piece: Piece) -> Iterator[Artifact]:
        """A piece, open for reading; a damaged shard is removed, so that its rows are made again.

        Raises:
            DamagedError: where it is damaged.
        """
        try:
            with _Shard(piece.path, self.recipe.stage) as shard:
                yield shard
        except DamagedError as error:
            if piece.path == self.path:
                raise
            piece.path.unlink(missing_ok=True)
            raise DamagedError(
                f"{piece.path}: was damaged and has been removed; run the same command again to "
                f"make {count(piece.stop - piece.start, 'row')} of it anew"
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
        columns, groups = columns or {}, groups or {}
        attributes = {**(attributes or {}), **(vars(self.precision) if self.precision else {})}
        if not self.pieces():
            write_artifact(
                self.path,
                self.recipe,
                columns,
                groups=groups,
                attributes=attributes,
                keep_as=self._keep_as,
            )
        else:
            size = sum(path.stat().st_size for path in {piece.path for piece in self.pieces()})
            with atomic_path(self.path, self._keep_as) as temporary:
                check_room(temporary, size)
                with h5py.File(temporary, "w", libver=HDF5_VERSION) as file:
                    self._merge(file, columns)
                    for name, values in columns.items():
                        append_rows(file, name, self._columns[name].kind, values, total=len(values))
                    write_groups(file, groups)
                    write_header(file, self.recipe, attributes)
        self._tidy_up()

    def _merge(self, file: h5py.File, given: Mapping[str, Values]) -> None:
        pieces = self.pieces()
        total = pieces[-1].stop
        ragged = "offsets" in self._columns
        objects, all_objects = 0, self._count_objects(pieces) if ragged else 0
        if ragged:
            append_rows(file, "offsets", "number", np.zeros(1, np.int64), total=total + 1)
        for piece in pieces:
            with self._open_piece(piece) as shard:
                last = piece.first + piece.stop - piece.start
                for name, column in self._columns.items():
                    of_texts = column.axis == "text" and name in shard and name not in given
                    if column.axis == "item" or of_texts:
                        values = shard.column(name, piece.first, last)
                        append_rows(file, name, column.kind, values, total=total)
                if ragged:
                    ragged_columns = shard.objects(piece.first, last)
                    offsets = ragged_columns.pop("offsets") + objects
                    objects = int(offsets[-1])
                    append_rows(file, "offsets", "number", offsets[1:])
                    for name, numbers in ragged_columns.items():
                        append_rows(file, name, "number", numbers, total=all_objects)

    def _count_objects(self, pieces: Sequence[Piece]) -> int:
        """How many objects the rows have, so that no chunk is larger than its dataset."""
        total = 0
        for piece in pieces:
            with self._open_piece(piece) as shard:
                last = piece.first + piece.stop - piece.start
                first, end = (shard.numbers("offsets", at, at + 1)[0] for at in (piece.first, last))
                total += int(end - first)
        return total


class _Shard(Artifact):
    """A shard: an artifact of some rows, without the datasets that only the whole one has."""

    def _may_lack(self, column: Column) -> bool:
        return column.axis != "item" or super()._may_lack(column)


def _as_piece(shard: Path) -> Piece:
    start, stop = map(int, shard.stem.split("-"))
    return Piece(start, stop, shard)


def failed_rows(artifact: Artifact) -> np.ndarray:
    """Rows whose `error` is not empty."""
    if "error" not in artifact:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero([bool(error) for error in artifact.texts("error")])


def _runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """Ranges (start, stop) in which the rows, none of them -1, follow one another."""
    kept = np.flatnonzero(rows >= 0)
    if not len(kept):
        return []
    follows = (np.diff(kept) == 1) & (np.diff(rows[kept]) == 1)
    cuts = np.flatnonzero(~follows) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(kept, cuts)]


def _conflict(path: Path, old: Recipe, new: Recipe) -> str:
    what = "; ".join(old.differences(new)) or f"stage: {old.stage} → {new.stage}"
    return (
        f"{path} was made with other settings or inputs ({what}); "
        "give --force to make it again, or --output FILE to keep both"
    )
