"""The rows of an artifact as they are handed on: a text with its image, features or objects."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ..artifacts.reading import Artifact
from ..artifacts.records import features, find_again, named_objects
from ..errors import SynticError
from ..schema import CAPTION, ENCODE, OPTIMIZE, PROJECT, SYNTHESIZE

IMAGES_AT_A_TIME, TEXTS_AT_A_TIME = 64, 4096
# Datasets of vectors that a stage's artifact has.
VECTORS = {
    ENCODE.name: ("image_features", "text_features"),
    OPTIMIZE.name: ("image_features", "text_features"),
    PROJECT.name: ("image_features", "projected"),
}
KINDS = (SYNTHESIZE.name, *VECTORS, CAPTION.name)
_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp"}


@dataclass(frozen=True)
class Row:
    """One row: its number in the artifact (of pairs and features that of the text), a file name for
    it, and what it holds.

    image is the encoded image as it was stored, None where none was asked for; more has what
    differs from stage to stage.
    """

    number: int
    name: str
    text: str
    image: bytes | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Source:
    """An open artifact whose rows are handed on; left_out counts the rows that are not, and why."""

    artifact: Artifact
    left_out: Counter[str] = field(default_factory=Counter)
    _root: str | None = None
    _image: np.ndarray | None = None

    @property
    def stage(self) -> str:
        return self.artifact.stage

    @property
    def rows(self) -> int:
        return self.artifact.rows if self.stage == CAPTION.name else self.artifact.text_rows

    def read(self, start: int, stop: int, *, images: bool) -> Iterator[Row]:
        """Rows start to stop, a few in memory at a time; those that failed are left out.

        Args:
            start, stop: row numbers.
            images: whether encoded images are wanted, too.

        Raises:
            DamagedError: where the artifact cannot be read.
        """
        step = IMAGES_AT_A_TIME if images else TEXTS_AT_A_TIME
        read = {SYNTHESIZE.name: self._synthetic, CAPTION.name: self._captioned}.get(
            self.stage, self._features
        )
        for first in range(start, stop, step):
            yield from read(first, min(first + step, stop), images)

    def _synthetic(self, start: int, stop: int, images: bool) -> Iterator[Row]:
        artifact, owner = self.artifact, self._images_of(start, stop)
        errors, flagged, seeds = (
            _of_images(partial(artifact.column, name), owner)
            for name in ("error", "flagged", "seeds")
        )
        data = _of_images(partial(artifact.byte_strings, "images"), owner) if images else {}
        for at, text in enumerate(artifact.texts("captions", start, stop)):
            own = int(owner[at])
            if own < 0 or errors[own] or flagged[own]:
                self.left_out[
                    "of no image" if own < 0 else "failed" if errors[own] else "blanked"
                ] += 1
                continue
            image = data[own] if images else None
            name = f"{start + at:09d}{_suffix(image or b'')}"
            yield Row(start + at, name, text, image, {"seed": int(seeds[own])})

    def _features(self, start: int, stop: int, images: bool) -> Iterator[Row]:
        artifact, owner = self.artifact, self._images_of(start, stop)
        texts = range(start, stop)
        valid = _of_images(partial(artifact.numbers, "valid"), owner)
        vectors = {
            name: (
                dict(zip(texts, features(artifact, name, start, stop), strict=True))
                if artifact.columns[name].axis == "text"
                else _of_images(partial(features, artifact, name), owner)
            )
            for name in VECTORS[self.stage]
        }
        for at, text in enumerate(artifact.texts("captions", start, stop)):
            own = int(owner[at])
            if own < 0 or not valid[own]:
                self.left_out["of no image" if own < 0 else "failed or blanked"] += 1
                continue
            rows = {"text": start + at, "item": own}
            more = {
                name: values[rows[artifact.columns[name].axis]].astype(np.float32)
                for name, values in vectors.items()
            }
            yield Row(start + at, f"{start + at:09d}", text, None, more)

    def _images_of(self, start: int, stop: int) -> np.ndarray:
        """The image of each text, -1 for none."""
        if self._image is None:
            self._image = self.artifact.image()
        return self._image[start:stop]

    def _captioned(self, start: int, stop: int, images: bool) -> Iterator[Row]:
        artifact = self.artifact
        paths, errors = (artifact.texts(name, start, stop) for name in ("path", "error"))
        texts = artifact.texts("caption", start, stop)
        likely = artifact.numbers("log_probability", start, stop).tolist()
        found, names = artifact.objects(start, stop), artifact.texts("vocabulary")
        cuts = found["offsets"]
        for at, (path, text) in enumerate(zip(paths, texts, strict=True)):
            data = self._photo(path) if images and not errors[at] else None
            if errors[at] or (images and data is None):
                self.left_out["failed" if errors[at] else "photo not there any more"] += 1
                continue
            part = slice(cuts[at], cuts[at + 1])
            objects = named_objects(
                found["label"][part], found["score"][part], found["box"][part], names
            )
            more = {"path": path, "log_probability": likely[at], "objects": objects}
            yield Row(start + at, self.name_of(path), text, data, more)

    def _photo(self, path: str) -> bytes | None:
        found = find_again(path, self.artifact.path.parent)
        try:
            return found.read_bytes() if found else None
        except OSError:
            return None

    def name_of(self, photo: str) -> str:
        """A photo's name from the nearest folder that holds all photos of the artifact."""
        return PurePath(os.path.relpath(photo, self.root)).as_posix()

    @property
    def root(self) -> str:
        """The nearest folder that holds all photos of the artifact.

        Raises:
            SynticError: where they lie on two drives.
        """
        if self._root is None:
            folders: set[str] = set()
            for start in range(0, self.rows, TEXTS_AT_A_TIME):
                paths = self.artifact.texts("path", start, start + TEXTS_AT_A_TIME)
                folders |= {os.path.dirname(os.path.abspath(path)) for path in paths}  # noqa: PTH100, PTH120
                try:
                    folders = {os.path.commonpath(folders)}
                except ValueError as error:
                    raise SynticError(f"{self.artifact.path}: {error}; export each") from error
            self._root = folders.pop() if folders else "."
        return self._root


def _of_images(read: Callable[[int, int], Any], owner: np.ndarray) -> dict[int, Any]:
    """What a dataset has of some images, by their numbers; read at once where they follow on one
    another, as those of a plain chain do."""
    images = np.unique(owner[owner >= 0]).tolist()
    if images and len(images) == images[-1] + 1 - images[0]:
        return dict(zip(images, read(images[0], images[-1] + 1), strict=True))
    return {image: read(image, image + 1)[0] for image in images}


def _suffix(image: bytes) -> str:
    """The usual suffix of an encoded image; that of JPEG, as syntic writes them, for none."""
    return next((s for magic, s in _SUFFIXES.items() if image.startswith(magic)), ".jpg")


def plain(more: Mapping[str, Any]) -> dict[str, Any]:
    """What a row has beside text and image, as JSON takes it."""
    shown = {**more, "objects": [vars(found) for found in more.get("objects", ())]}
    return shown if "objects" in more else dict(more)


def refuse_other_stages(artifact: Path, stage: str, format: str, stages: tuple[str, ...]) -> None:
    """Refuse an artifact that lacks what a format needs.

    Raises:
        SynticError: saying which artifacts have it.
    """
    if stage not in stages:
        raise SynticError(
            f"{artifact}: written by `syntic {stage}`, which --to {format} has no use for; name an "
            f"artifact of {', '.join(stages)}"
        )
