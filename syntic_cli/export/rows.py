"""The rows of an artifact as they are handed on: a text with its image, features or objects."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
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
    """One row: its number in the artifact, a file name for it, and what it holds.

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
    _texts: dict[int, list[int]] | None = None
    _image: tuple[np.ndarray, np.ndarray] | None = None
    _held: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        return self.artifact.stage

    @property
    def rows(self) -> int:
        """Images of a synthetic artifact, texts of features, photos of captions."""
        return self.artifact.text_rows if self.stage in VECTORS else self.artifact.rows

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
        artifact = self.artifact
        errors = artifact.column("error", start, stop)
        flagged = artifact.numbers("flagged", start, stop)
        seeds = artifact.numbers("seeds", start, stop).tolist()
        texts = artifact.column("prompts", start, stop)
        data = artifact.byte_strings("images", start, stop) if images else []
        for at, text in enumerate(texts):
            if errors[at] or flagged[at]:
                self.left_out["failed" if errors[at] else "blanked"] += 1
                continue
            image = data[at] if images else None
            name = f"{start + at:09d}{_suffix(image or b'')}"
            yield Row(
                start + at, name, str(text), image, {"seed": seeds[at], **self._of(start + at)}
            )

    def _of(self, row: int) -> dict[str, Any]:
        """The texts of an image that was made of a summary of them."""
        if self._texts is None:
            image = self.artifact.image()
            order = np.argsort(image, kind="stable")
            same = len(image) == self.rows and bool((image == np.arange(self.rows)).all())
            self._texts = (
                {}
                if same
                else {
                    int(group[0]): texts.tolist() for group, texts in _groups(image[order], order)
                }
            )
        texts = self._texts.get(row)
        if texts is None:
            return {}
        return {"captions": [self.artifact.texts("captions", t, t + 1)[0] for t in texts]}

    def _features(self, start: int, stop: int, images: bool) -> Iterator[Row]:
        artifact = self.artifact
        texts = artifact.texts("captions", start, stop)
        image, valid = self._images_of_texts()
        own = image[start:stop]
        vectors = {name: self._vectors(name, own, start, stop) for name in VECTORS[self.stage]}
        for at, text in enumerate(texts):
            if not valid[start + at]:
                self.left_out["failed or blanked"] += 1
                continue
            more = {name: values[at].astype(np.float32) for name, values in vectors.items()}
            yield Row(start + at, f"{start + at:09d}", text, None, more)

    def _images_of_texts(self) -> tuple[np.ndarray, np.ndarray]:
        """The image of each text, and which texts have a valid one."""
        if self._image is None:
            image = self.artifact.image()
            self._image = image, (image >= 0) & self.artifact.numbers("valid").astype(bool)[image]
        return self._image

    def _vectors(self, name: str, image: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Vectors of texts start to stop, or of their images, (n, d)."""
        if self.artifact.columns[name].axis == "text":
            return features(self.artifact, name, start, stop)
        if len(image) and np.array_equal(image, np.arange(start, start + len(image))):
            return features(self.artifact, name, start, stop)
        if name not in self._held:  # images in another order than their texts
            self._held[name] = features(self.artifact, name)
        return self._held[name][np.maximum(image, 0)]

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


def _groups(keys: np.ndarray, values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Values of each key, keys being sorted."""
    cuts = np.flatnonzero(np.diff(keys)) + 1
    return zip(np.split(keys, cuts), np.split(values, cuts), strict=True)


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
