"""Features made by others: an HDF5 file with the datasets of `features.h5` and no recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .. import console
from ..errors import DamagedError, count
from ..models.identity import identity
from ..schema import ENCODE
from ..settings import EncodeSettings
from .heaps import UNREADABLE, open_hdf5
from .reading import Artifact, Values
from .recipe import Input, Recipe

STAGE = "features"
VECTORS = ("image_features", "text_features")
DATASETS = (*VECTORS, "captions")
NEEDED = "features made by others need image_features (N, d), text_features (N, d) and captions (N)"
ROWS_AT_A_TIME = 16384
DIGESTED_AT_A_TIME = 1 << 22


def open_artifact(path: str | Path, *stages: str) -> Artifact:
    """An artifact of one of these stages; where features will do, also a file made by others.

    Raises:
        MissingError, DamagedError: as `Artifact` does.
    """
    if ENCODE.name in stages and _is_foreign(Path(path)):
        return ForeignFeatures(path)
    return Artifact(path, *stages)


def announce(artifact: Artifact, *, quiet: bool) -> None:
    """Say in a line where features were made by others."""
    if isinstance(artifact, ForeignFeatures):
        console.note(artifact.note, quiet=quiet)


class ForeignFeatures(Artifact):
    """Features made by others, read as an artifact of `encode`.

    Vectors are scaled to unit length as they are read. A pair with a vector of zeros is not valid.
    The file's sha256 stands for its fingerprint and its origin, and its attributes `model`,
    `pretrained` and `revision`, as `syntic encode` takes them, name the dual encoder.

    Raises:
        DamagedError: from the constructor, where a dataset lacks or is of another kind or length,
            or a vector holds a value that is no number.
        MissingError: where the attribute `model` names a folder that is not there.
    """

    def _check(self, stages: Sequence[str]) -> None:
        # As in schema 1, row i of each dataset is pair i.
        self.schema, self.stage, self.columns = 1, ENCODE.name, ENCODE.columns
        with self._reading("its datasets"):
            self._refuse_foreign(self._file, self.path.stat().st_size)
            self.attributes: dict[str, Any] = dict(self._file.attrs)
            self.rows = self.text_rows = self._same_rows()
            self._valid = self._valid_rows()
            self.fingerprint = _sha256(self.path)
        self._objects, self.failed, self.created = 0, 0, ""
        self.recipe = Recipe(STAGE, {}, {}, self._models(), self.fingerprint)

    def _same_rows(self) -> int:
        """How many rows the datasets have in common."""
        for name in DATASETS:
            if not isinstance(self._file.get(name), h5py.Dataset):
                raise DamagedError(f"{self.path}: has no dataset {name!r}; {NEEDED}")
        shapes = {name: self._file[name].shape for name in DATASETS}
        texts = h5py.check_string_dtype(self._file["captions"].dtype) is not None
        vectors = all(self._file[name].dtype.kind == "f" for name in VECTORS)
        one, other = (shapes[name] for name in VECTORS)
        if len(one) != 2 or one != other or shapes["captions"] != one[:1] or 0 in one:
            told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise DamagedError(f"{self.path}: {told}; {NEEDED}")
        if not (texts and vectors):
            raise DamagedError(
                f"{self.path}: captions must be strings and vectors floats; {NEEDED}"
            )
        return int(one[0])

    def _valid_rows(self) -> np.ndarray:
        valid = np.ones(self.rows, bool)
        for name in VECTORS:
            for start in range(0, self.rows, ROWS_AT_A_TIME):
                part = slice(start, start + ROWS_AT_A_TIME)
                values = self._file[name][part]
                wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
                if len(wrong):
                    row = start + int(wrong[0])
                    raise DamagedError(f"{self.path}: {name!r} of row {row} is not finite")
                valid[part] &= values.any(axis=1)
        return valid

    def _models(self) -> dict[str, Any]:
        named = {
            name: str(self.attributes[name])
            for name in ("model", "pretrained", "revision")
            if name in self.attributes
        }
        if "model" not in named:
            return {}
        settings = EncodeSettings(**named)
        found = identity(settings.model, settings.revision, settings.pretrained)
        return {"clip": {**asdict(settings), "identity": found}}

    @property
    def note(self) -> str:
        """What a person should know of the file, in a line."""
        width = self._file[VECTORS[0]].shape[1]
        clip = self.recipe.models.get("clip")
        model = f"of {clip['identity']}" if clip else "which name no model (attribute `model`)"
        pairs = count(self.rows, "pair")
        return f"{self.path}: {pairs} of features made by others, {width} wide, {model}"

    @property
    def state(self) -> str:
        return self.fingerprint

    def as_input(self, beside: Path) -> Input:
        found = super().as_input(beside)
        return Input(STAGE, found.fingerprint, found.file)

    def numbers(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        if name == "valid":
            return self._valid[start:stop]
        values = super().numbers(name, start, stop)
        if name not in VECTORS:
            return values
        values = values.astype(np.float32)
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        return values / np.where(lengths > 0, lengths, 1)

    def texts(self, name: str, start: int = 0, stop: int | None = None) -> list[str]:
        with self._reading(repr(name)):
            return [bytes(value).decode() for value in self._file[name][start:stop]]

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Values:
        if name == "valid":
            return self.numbers(name, start, stop)
        return super().column(name, start, stop)

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except UNREADABLE as error:
            raise DamagedError(f"{self.path}: {what} cannot be read ({error}); {NEEDED}") from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(DIGESTED_AT_A_TIME):
            digest.update(data)
    return digest.hexdigest()


def _is_foreign(path: Path) -> bool:
    """Whether a file holds some of the datasets, and no recipe that would make it ours."""
    if not path.is_file():
        return False
    try:
        with open_hdf5(path) as file:
            ours = "schema" in file.attrs or "stage" in file.attrs
            return not ours and any(name in file for name in DATASETS)
    except UNREADABLE:
        return False
