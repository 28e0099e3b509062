"""HDF5 artifacts: what each one holds, its fingerprint, and how it is read back and checked."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from . import __version__
from .errors import SynticError

SCHEMA = 1
CHECKSUM = "header_crc32"

Values = np.ndarray | Sequence[str] | Sequence[bytes]
Kind = Literal["text", "bytes", "number"]


@dataclass(frozen=True)
class Column:
    """One dataset of an artifact: what its rows hold and along which axis they run.

    axis is "item" (row i is text or photo i), "object" (objects of all items, one after the other,
    cut by `offsets`) or a free name for a dataset with a length of its own.
    """

    kind: Kind
    axis: str = "item"


TEXT, BYTES, NUMBER = Column("text"), Column("bytes"), Column("number")
OBJECTS = {
    "offsets": Column("number", "offsets"),
    "label": Column("number", "object"),
    "score": Column("number", "object"),
    "box": Column("number", "object"),
}
FEATURES = {
    "captions": TEXT,
    "image_features": NUMBER,
    "text_features": NUMBER,
    "valid": NUMBER,
    "error": TEXT,
}

COLUMNS: dict[str, dict[str, Column]] = {
    "synthesize": {
        "captions": TEXT,
        "images": BYTES,
        "seeds": NUMBER,
        "flagged": NUMBER,
        "error": TEXT,
    },
    "encode": FEATURES,
    "optimize": FEATURES,
    "detect": {**OBJECTS, "vocabulary": Column("text", "vocabulary"), "error": TEXT},
    "project": {
        "captions": TEXT,
        "projected": NUMBER,
        "image_features": NUMBER,
        "valid": NUMBER,
    },
    "train": {
        "support": Column("number", "support"),
        "support_captions": Column("text", "support"),
        "vocabulary": Column("text", "vocabulary"),
        "vocabulary_features": Column("number", "vocabulary"),
        "tokenizer": Column("number", "tokenizer"),
    },
    "caption": {
        "path": TEXT,
        "caption": TEXT,
        "log_probability": NUMBER,
        "error": TEXT,
        **OBJECTS,
        "vocabulary": Column("text", "vocabulary"),
    },
    "evaluate": {"path": TEXT},
}


@dataclass(frozen=True)
class Input:
    """An artifact or file that another artifact was made from.

    fingerprint is the artifact's `state`, or the sha256 of the file.
    """

    stage: str
    fingerprint: str
    file: str


@dataclass(frozen=True)
class Recipe:
    """All that decides what a stage's output holds, and so its fingerprint.

    settings are JSON values; models names the frozen models that the artifact's lineage has used;
    origin is the fingerprint of the corpus or images that its rows go back to.
    """

    stage: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Input] = field(default_factory=dict)
    models: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over stage, settings and the inputs' fingerprints."""
        content = {
            "stage": self.stage,
            "settings": dict(self.settings),
            "inputs": {role: given.fingerprint for role, given in self.inputs.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps(
            {
                "stage": self.stage,
                "settings": dict(self.settings),
                "inputs": {role: vars(given) for role, given in self.inputs.items()},
                "models": dict(self.models),
                "origin": self.origin,
            },
            sort_keys=True,
        )

    @staticmethod
    def from_json(text: str) -> Recipe:
        content = json.loads(text)
        inputs = {role: Input(**given) for role, given in content["inputs"].items()}
        return Recipe(
            content["stage"], content["settings"], inputs, content["models"], content["origin"]
        )

    def differences(self, other: Recipe) -> list[str]:
        """What changed from this recipe to the other one, each as `name: old → new`."""
        found = []
        for name in dict.fromkeys([*self.settings, *other.settings]):
            old, new = self.settings.get(name), other.settings.get(name)
            if old != new:
                found.append(f"{name}: {_short(old)} → {_short(new)}")
        for role in dict.fromkeys([*self.inputs, *other.inputs]):
            before, after = self.inputs.get(role), other.inputs.get(role)
            if (before and before.fingerprint) != (after and after.fingerprint):
                names = [
                    f"{g.file} ({g.fingerprint[:8]})" if g else "none" for g in (before, after)
                ]
                found.append(f"{role}: {names[0]} → {names[1]}")
        return found


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Artifact:
    """A finished artifact, open for reading; use it as a context manager.

    Raises:
        SynticError: from the constructor where the file is missing, damaged, unfinished, of another
            stage or of a newer schema; from the readers where a checksum does not match.
    """

    def __init__(self, path: str | Path, *stages: str) -> None:
        self.path = Path(path)
        if not self.path.exists():
            wanted = f"; run `syntic {stages[0]}` first" if stages else ""
            raise SynticError(f"{self.path}: no such artifact{wanted}")
        if self.path.is_dir():
            raise SynticError(f"{self.path}: is a folder, not an artifact; name a file")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise SynticError(
                f"{self.path}: not a readable HDF5 file (damaged or foreign); make it again"
            ) from error
        try:
            self._check(stages)
        except BaseException:
            self._file.close()
            raise

    def _check(self, stages: Sequence[str]) -> None:
        with self._reading("its header"):
            attributes = dict(self._file.attrs)
        if not isinstance(attributes.get("schema"), np.integer) or "stage" not in attributes:
            raise SynticError(f"{self.path}: an HDF5 file, but not one that syntic wrote")
        if int(attributes["schema"]) > SCHEMA:
            raise SynticError(
                f"{self.path}: schema {attributes['schema']} is newer than this syntic "
                f"({__version__}, schema {SCHEMA}); upgrade syntic"
            )
        self.stage = str(attributes["stage"])
        if stages and self.stage not in stages:
            raise SynticError(
                f"{self.path}: written by `syntic {self.stage}`, but an artifact of "
                f"`syntic {'` or `syntic '.join(stages)}` is needed here"
            )
        if not bool(attributes.get("complete", False)):
            raise SynticError(f"{self.path}: not complete; run `syntic {self.stage} --force`")
        self.attributes: dict[str, Any] = attributes
        try:
            if attributes.get(CHECKSUM, checksum := header_checksum(attributes)) != checksum:
                raise ValueError("checksum")
            self.fingerprint = str(attributes["fingerprint"])
            self.recipe = Recipe(
                self.stage,
                json.loads(attributes["settings"]),
                {r: Input(**given) for r, given in json.loads(attributes["inputs"]).items()},
                json.loads(attributes.get("models", "{}")),
                str(attributes.get("origin", "")),
            )
            columns = COLUMNS[self.stage]
        except (KeyError, TypeError, ValueError) as error:
            raise SynticError(f"{self.path}: its header is damaged; make it again") from error
        self._check_rows(columns)

    @property
    def state(self) -> str:
        """What an artifact made from this one records of it.

        The fingerprint, in which a retry that recovers failed rows changes nothing; so where rows
        have failed, how many is part of it.
        """
        failed = int(self.attributes.get("failed", 0))
        if not failed:
            return self.fingerprint
        return hashlib.sha256(f"{self.fingerprint} {failed} failed".encode()).hexdigest()

    def _check_rows(self, columns: Mapping[str, Column]) -> None:
        lengths: dict[str, int] = {}
        with self._reading("its datasets"):
            self._refuse_links(self._file)
            for name, column in columns.items():
                if name not in self._file:
                    raise SynticError(f"{self.path}: dataset {name!r} is missing; make it again")
                length = len(self._file[name])
                if lengths.setdefault(column.axis, length) != length:
                    raise SynticError(
                        f"{self.path}: {name!r} has {length} rows where "
                        f"{lengths[column.axis]} are expected; make it again"
                    )
        if "offsets" in lengths and lengths["offsets"] != lengths["item"] + 1:
            raise SynticError(f"{self.path}: 'offsets' does not fit the rows; make it again")
        self.rows = lengths.get("item", 0)

    def _refuse_links(self, group: Any) -> None:
        """Links and external storage could make a foreign file read other files of the machine."""
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise SynticError(f"{self.path}: {name!r} is a link out of its place; refused")
            member = group[name]
            if isinstance(member, h5py.Group):
                self._refuse_links(member)
            elif member.external or member.is_virtual:
                raise SynticError(f"{self.path}: {name!r} keeps its data in another file; refused")

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        # h5py reports a failed checksum, a cut file or a broken heap as any of these.
        try:
            yield
        except (OSError, RuntimeError, KeyError, ValueError, UnicodeDecodeError) as error:
            raise SynticError(
                f"{self.path}: {what} cannot be read ({error}); the file is damaged, "
                f"make it again with `syntic {getattr(self, 'stage', 'STAGE')} --force`"
            ) from error

    def __enter__(self) -> Artifact:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return name in self._file

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
            values = [bytes(value) for value in self._file[name][start:stop]]
            self._check_crc(name, values, start, stop)
            return [value.decode() for value in values]

    def byte_strings(self, name: str, start: int = 0, stop: int | None = None) -> list[bytes]:
        """Rows start to stop (all by default) of a dataset of byte strings, such as images."""
        with self._reading(repr(name)):
            values = [value.tobytes() for value in self._file[name][start:stop]]
            self._check_crc(name, values, start, stop)
            return values

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Values:
        """Rows of a dataset, read as its schema says."""
        kind = COLUMNS[self.stage][name].kind
        if kind == "number":
            return self.numbers(name, start, stop)
        return (self.texts if kind == "text" else self.byte_strings)(name, start, stop)

    def objects(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Objects of rows start to stop: `offsets` from 0 and the object columns."""
        offsets = self.numbers("offsets", start, stop + 1)
        columns = COLUMNS[self.stage]
        found = {
            name: self.numbers(name, int(offsets[0]), int(offsets[-1]))
            for name, column in columns.items()
            if column.axis == "object"
        }
        return {"offsets": offsets - offsets[0], **found}

    def _check_crc(self, name: str, values: Sequence[bytes], start: int, stop: int | None) -> None:
        stored = self._file["crc32"][name][start:stop]
        found = np.fromiter(map(zlib.crc32, values), np.uint32, len(values))
        wrong = np.flatnonzero(stored != found)
        if len(wrong):
            raise OSError(f"checksum of row {start + int(wrong[0])} does not match")


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
