"""Reading artifacts: opened once, checked, and refused where a file is not what it says."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from .. import __version__
from ..errors import DamagedError, MissingError, count
from ..schema import SCHEMA, STAGES, Column
from .heaps import UNREADABLE, Lengths, open_hdf5
from .recipe import Input, Recipe

CHECKSUM = "header_crc32"
# A file of kilobytes can declare datasets of terabytes, which nobody has written. What is packed
# (a captioner's) is at most so many times its size.
DECLARED_BYTES = 64 << 20
MOST_PACKED = 32
DEEPEST_GROUP = 2

T = TypeVar("T")
Values = np.ndarray | Sequence[str] | Sequence[bytes]


class Artifact:
    """A finished artifact, open for reading; use it as a context manager.

    Raises:
        MissingError: from the constructor where there is no file.
        DamagedError: from the constructor where the file is damaged, unfinished, foreign, of
            another stage or of a newer schema; from the readers where a checksum does not match.
    """

    def __init__(self, path: str | Path, *stages: str) -> None:
        self.path = Path(path)
        if not self.path.exists():
            wanted = f"; run `syntic {stages[0]}` first" if stages else ""
            raise MissingError(f"{self.path}: no such artifact{wanted}")
        if self.path.is_dir():
            raise DamagedError(f"{self.path}: is a folder, not an artifact; name a file")
        if not self.path.is_file():
            # A pipe with no writer would be waited for without end.
            raise DamagedError(f"{self.path}: is not a regular file, so no artifact; name another")
        if not os.access(self.path, os.R_OK):
            raise DamagedError(f"{self.path}: may not be read; change its permissions")
        try:
            self._file = open_hdf5(self.path)
        except OSError as error:
            raise DamagedError(
                f"{self.path}: not a readable HDF5 file (damaged or foreign); make it again"
            ) from error
        self._lengths_of_strings = Lengths(self.path, self._file)
        try:
            self._check(stages)
        except BaseException:
            self._file.close()
            raise

    def _check(self, stages: Sequence[str]) -> None:
        with self._reading("its header"):
            attributes = dict(self._file.attrs)
        if not isinstance(attributes.get("schema"), np.integer) or "stage" not in attributes:
            raise DamagedError(f"{self.path}: an HDF5 file, but not one that syntic wrote")
        if int(attributes["schema"]) > SCHEMA:
            raise DamagedError(
                f"{self.path}: schema {attributes['schema']} is newer than this syntic "
                f"({__version__}, schema {SCHEMA}); upgrade syntic"
            )
        self.schema, self.stage = int(attributes["schema"]), str(attributes["stage"])
        if stages and self.stage not in stages:
            raise DamagedError(
                f"{self.path}: written by `syntic {self.stage}`, but an artifact of "
                f"`syntic {'` or `syntic '.join(stages)}` is needed here"
            )
        if attributes.get("complete") != True:  # noqa: E712 - a NumPy bool
            raise DamagedError(f"{self.path}: not complete; run `syntic {self.stage} --force`")
        self.attributes: dict[str, Any] = attributes
        try:
            self._read_header(attributes)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise DamagedError(f"{self.path}: its header is damaged; make it again") from error
        self._check_datasets()

    def _read_header(self, attributes: Mapping[str, Any]) -> None:
        if attributes.get(CHECKSUM, checksum := header_checksum(attributes)) != checksum:
            raise ValueError("checksum")
        self.columns = STAGES[self.stage].columns
        content = {
            name: json.loads(attributes.get(name, "{}"))
            for name in ("settings", "inputs", "models")
        }
        origin = str(attributes.get("origin", ""))
        self.recipe = Recipe.from_json({**content, "stage": self.stage, "origin": origin})
        self.fingerprint = str(attributes["fingerprint"])
        if self.fingerprint != self.recipe.fingerprint:
            raise ValueError("fingerprint")
        self.created = str(attributes.get("created", ""))
        self.failed = int(attributes.get("failed", 0))

    @property
    def state(self) -> str:
        """What an artifact made from this one records of it.

        The fingerprint, in which a retry that recovers failed rows changes nothing; so where rows
        have failed, how many is part of it.
        """
        if not self.failed:
            return self.fingerprint
        return hashlib.sha256(f"{self.fingerprint} {self.failed} failed".encode()).hexdigest()

    def as_input(self, beside: Path) -> Input:
        """How the artifact is recorded in an output that lies at `beside`."""
        path, folder = self.path.resolve(), beside.resolve().parent
        return Input(self.stage, self.state, path.name if path.parent == folder else str(path))

    def _check_datasets(self) -> None:
        with self._reading("its datasets"):
            self._refuse_foreign(self._file, self.path.stat().st_size)
            lengths = self._lengths()
        if "offsets" in lengths and lengths["offsets"] != lengths["item"] + 1:
            raise DamagedError(f"{self.path}: 'offsets' does not fit the rows; make it again")
        self.rows, self._objects = lengths.get("item", 0), lengths.get("object", 0)
        self.text_rows, self._names = lengths.get("text", 0), lengths.get("vocabulary")
        if self.schema == 1 and "text" in lengths and self.text_rows != self.rows:
            raise DamagedError(f"{self.path}: its texts do not fit its rows; make it again")

    def _lengths(self) -> dict[str, int]:
        """The length of each axis, which its datasets have in common."""
        lengths: dict[str, int] = {}
        for name, column in self.columns.items():
            if name not in self._file:
                if self._may_lack(column):
                    continue
                raise DamagedError(f"{self.path}: dataset {name!r} is missing; make it again")
            length = len(self._file[name])
            if lengths.setdefault(column.axis, length) != length:
                raise DamagedError(
                    f"{self.path}: {name!r} has {count(length, 'row')} where "
                    f"{lengths[column.axis]} should be; make it again"
                )
            values = self._file[name]
            numeric = values.dtype.kind in ("biu" if column.whole else "biuf")
            if numeric != (column.kind == "number") or values.ndim != column.ndim:
                raise DamagedError(
                    f"{self.path}: {name!r} is of another kind than expected; make it again"
                )
        return lengths

    def _may_lack(self, column: Column) -> bool:
        return column.optional or self.schema < column.since

    def _refuse_foreign(self, group: Any, file_bytes: int, depth: int = 1) -> None:
        """Refuse what syntic never writes: links and external storage could make it read other
        files of the machine; groups within themselves and declared sizes exhaust it."""
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise DamagedError(f"{self.path}: {name!r} is a link out of its place; refused")
            member = group[name]
            if isinstance(member, h5py.Group):
                if depth == DEEPEST_GROUP:
                    raise DamagedError(f"{self.path}: {name!r} is too deep a group; refused")
                self._refuse_foreign(member, file_bytes, depth + 1)
            elif not isinstance(member, h5py.Dataset):
                raise DamagedError(f"{self.path}: {name!r} is no dataset; refused")
            elif member.external or member.is_virtual:
                raise DamagedError(f"{self.path}: {name!r} keeps its data in another file; refused")
            elif member.nbytes > max(DECLARED_BYTES, MOST_PACKED * file_bytes):
                raise DamagedError(
                    f"{self.path}: {name!r} declares {member.nbytes:,} bytes, more than a file of "
                    f"{file_bytes:,} can hold; refused"
                )

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except UNREADABLE as error:
            raise DamagedError(
                f"{self.path}: {what} cannot be read ({error}); the file is damaged, "
                f"make it again with `syntic {getattr(self, 'stage', 'STAGE')} --force`"
            ) from error

    def __enter__(self) -> Artifact:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return name in self._file

    def attribute(self, name: str, kind: Callable[[Any], T]) -> T:
        """A root attribute, as `kind` (such as float or json.loads) makes it of what is stored."""
        with self._reading(f"attribute {name!r}"):
            return kind(self.attributes[name])

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file[name].shape)

    def group(self, name: str) -> dict[str, np.ndarray]:
        """Every dataset of a group, such as the parameters in `decoder` or curves in `history`."""
        with self._reading(repr(name)):
            return {key: _unscaled(data, 0, None) for key, data in self._file.get(name, {}).items()}

    def numbers(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start to stop (all by default) of a numeric dataset."""
        with self._reading(repr(name)):
            return _unscaled(self._file[name], start, stop)

    def texts(self, name: str, start: int = 0, stop: int | None = None) -> list[str]:
        """Rows start to stop (all by default) of a dataset of strings."""
        with self._reading(repr(name)):
            self._lengths_of_strings.check(name, start, stop)
            values = [bytes(value) for value in self._file[name][start:stop]]
            self._check_crc(name, values, start, stop)
            return [value.decode() for value in values]

    def byte_strings(self, name: str, start: int = 0, stop: int | None = None) -> list[bytes]:
        """Rows start to stop (all by default) of a dataset of byte strings, such as images."""
        with self._reading(repr(name)):
            self._lengths_of_strings.check(name, start, stop)
            values = [value.tobytes() for value in self._file[name][start:stop]]
            self._check_crc(name, values, start, stop)
            return values

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Values:
        """Rows of a dataset, read as its schema says; for what an earlier schema lacks, those of
        what stood for it, and for an optional one that is not there, empty texts or no numbers."""
        kind = self.columns[name].kind
        if name not in self._file and self.schema < self.columns[name].since:
            name = self.columns[name].before
        if name not in self._file:
            missing = len(range(self.rows)[start:stop])
            return np.full(missing, np.nan, np.float32) if kind == "number" else [""] * missing
        if kind == "number":
            return self.numbers(name, start, stop)
        return (self.texts if kind == "text" else self.byte_strings)(name, start, stop)

    def image(self) -> np.ndarray:
        """The image of each text, (N,) int64, -1 for a text that has none."""
        if self.schema < self.columns["image"].since:
            return np.arange(self.rows)
        found = self.numbers("image")
        if len(found) and not -1 <= found.min() <= found.max() < self.rows:
            raise DamagedError(f"{self.path}: 'image' names images that are not there; refused")
        return found

    def objects(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Objects of rows start to stop: `offsets` from 0 and the object columns."""
        with self._reading("'offsets'"):
            offsets = self.numbers("offsets", start, stop + 1)
            if offsets[0] < 0 or np.any(np.diff(offsets) < 0) or offsets[-1] > self._objects:
                raise ValueError("it does not fit the objects")
        columns = {
            name: self.numbers(name, int(offsets[0]), int(offsets[-1]))
            for name, column in self.columns.items()
            if column.axis == "object"
        }
        if "label" in columns and self._names is not None:  # a shard has no names yet
            self._check_labels(columns["label"], self._names)
        return {"offsets": offsets - offsets[0], **columns}

    def _check_labels(self, labels: np.ndarray, names: int) -> None:
        if len(labels) and not 0 <= labels.min() <= labels.max() < names:
            raise DamagedError(f"{self.path}: 'label' has no name; make it again")

    def _check_crc(self, name: str, values: Sequence[bytes], start: int, stop: int | None) -> None:
        stored = self._file["crc32"][name][start:stop]
        computed = np.fromiter(map(zlib.crc32, values), np.uint32, len(values))
        wrong = np.flatnonzero(stored != computed)
        if len(wrong):
            raise OSError(f"checksum of row {start + int(wrong[0])} does not match")


def written_by(path: Path) -> str | None:
    """The stage that wrote a file, as its header says, unchecked.

    Returns:
        The stage; an empty text for HDF5 that syntic has not written; None where the file is no
        readable HDF5.
    """
    try:
        with open_hdf5(path) as file:
            return str(file.attrs.get("stage", ""))
    except UNREADABLE:
        return None


def _unscaled(dataset: h5py.Dataset, start: int, stop: int | None) -> np.ndarray:
    """Rows of a dataset; integers with a `scale` a row (a packed captioner's) become floats."""
    values = np.asarray(dataset[start:stop] if dataset.ndim else dataset[()])
    if "scale" not in dataset.attrs:
        return values
    scale = dataset.attrs["scale"][start:stop].astype(np.float32)
    return values * scale.reshape(-1, *[1] * (values.ndim - 1))


def header_checksum(attributes: Mapping[str, Any]) -> np.uint32:
    """CRC-32 of the root attributes: HDF5 keeps their texts where it checks no sum of its own."""
    values = [(name, str(value)) for name, value in attributes.items() if name != CHECKSUM]
    return np.uint32(zlib.crc32(repr(sorted(values)).encode("utf-8", "surrogateescape")))
