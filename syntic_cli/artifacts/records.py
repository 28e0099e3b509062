"""What stages share of an artifact's rows: synthetic images, features, support set, objects,
captions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..console import count
from ..errors import ConflictError, DamagedError, MissingError, SynticError
from ..models.identity import same_model
from .reading import Artifact, Values

if TYPE_CHECKING:
    from PIL import Image

ROWS_AT_A_TIME = 65536


@dataclass(frozen=True)
class DetectedObject:
    """An object in a photo: its name, score in 0..1, and box x0 y0 x1 y1 in shares of the photo."""

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Caption:
    """What was said of one photo; error says why nothing was, and is empty where all went well.

    note says what a reader of the caption should know of the photo, such as `truncated`. confidence
    is how likely its main noun is right, 0 to 1; None where the captioner is not calibrated.
    """

    path: str
    caption: str
    log_probability: float
    objects: list[DetectedObject]
    error: str = ""
    note: str = ""
    confidence: float | None = None


def errors_of(results: Sequence[Any]) -> list[str]:
    """The `error` column: why each row failed, empty where it did not."""
    return [str(result) if isinstance(result, SynticError) else "" for result in results]


def cut_texts(number: int, tokens: int) -> list[str]:
    """The warning, if any, that so many texts exceed what a model takes."""
    return [f"{count(number, 'text')} cut at {count(tokens, 'token')}"] if number else []


def reopen(path: Path, state: str, *stages: str) -> Artifact:
    """Open an input again, in this process or another, for the rows of a pass.

    Raises:
        ConflictError: where it is no longer what the pass's recipe was made from.
    """
    artifact = Artifact(path, *stages)
    if artifact.state != state:
        artifact.close()
        raise ConflictError(f"{path}: was made anew meanwhile; run the command again")
    return artifact


def read_image(pairs: Artifact, row: int, at_least: int | None) -> Image.Image:
    """The synthetic image of a row.

    Raises:
        SynticError: where it was not generated or cannot be decoded.
    """
    # Most that is done with artifacts has no need of an image library.
    from ..photos import decode_image

    data = pairs.byte_strings("images", row, row + 1)[0]
    if not data:
        raise MissingError("the image was not generated")
    return decode_image(data, f"image of row {row}", at_least=at_least)


def features(artifact: Artifact, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Rows start to stop (all by default) of a dataset of features, (N, d).

    Raises:
        DamagedError: where a feature holds a value that is no number; equations would spread it.
    """
    values = artifact.numbers(name, start, stop)
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(wrong):
        raise DamagedError(
            f"{artifact.path}: {name!r} of row {start + int(wrong[0])} is not finite; make it "
            f"again with `syntic {artifact.stage} --force`"
        )
    return values


def image_of_texts(pairs: Artifact) -> np.ndarray:
    """The valid image of each text of a features file, (N,) int64, -1 for a text that has none.

    A text that could not be encoded, whose feature is all zeros, has none either.
    """
    image, valid = pairs.image(), pairs.numbers("valid")
    there = (image >= 0) & (valid[image] if len(valid) else False)
    if "text_features" in pairs:
        for start in range(0, len(image), ROWS_AT_A_TIME):
            part = slice(start, start + ROWS_AT_A_TIME)
            there[part] &= pairs.numbers("text_features", start, part.stop).any(axis=1)
    return np.where(there, image, -1)


def cosines_of_texts(pairs: Artifact) -> np.ndarray:
    """The cosine of each text of a features file with its image, (N,) float32; 0 without one."""
    image, texts = image_of_texts(pairs), pairs.numbers("text_features")
    images, found = pairs.numbers("image_features"), np.zeros(len(texts), np.float32)
    owned = np.flatnonzero(image >= 0)
    for some in np.array_split(owned, 1 + len(owned) // ROWS_AT_A_TIME):
        found[some] = np.einsum("nd,nd->n", images[image[some]], texts[some])
    return found


@dataclass(frozen=True)
class Scenes:
    """What the groups of a composed artifact have become.

    prompts: of each image that is to be made, (G). image: the image of each text, (N,) int64, -1
    for none. sentences: how many each scene has, (G,), some of which may be in another one, too.
    """

    prompts: list[str]
    image: np.ndarray
    sentences: np.ndarray


def scenes(composed: Artifact) -> Scenes:
    """The scenes of an artifact of `compose`; a group that failed has none.

    A text that several scenes hold belongs to the one whose head is the most like it, so the head
    of a group always to its own, unless the head of another is the same.
    """
    errors, prompts = composed.texts("error"), composed.texts("prompts")
    found = composed.objects(0, composed.rows)
    texts, counts = found["sentence"], np.diff(found["offsets"])
    groups, features = composed.numbers("groups"), composed.numbers("text_features")
    named = np.concatenate([texts, groups.ravel()])
    if len(named) and not 0 <= named.min() <= named.max() < len(features):
        raise DamagedError(f"{composed.path}: groups texts that are not there; make it again")
    good = np.array([not error for error in errors], bool)
    number = np.cumsum(good) - 1
    group = np.repeat(np.arange(len(groups)), counts)
    likeness = np.zeros(len(texts), np.float32)
    for some in np.array_split(np.arange(len(texts)), 1 + len(texts) // ROWS_AT_A_TIME):
        heads = groups[group[some], 0]
        likeness[some] = np.einsum("nd,nd->n", features[heads], features[texts[some]])
    # The last to be written stays: the most alike, and of equals the earlier group.
    order = np.lexsort((-group, likeness))
    image = np.full(len(features), -1, np.int64)
    image[texts[order]] = number[group[order]]
    kept = [prompt for prompt, fine in zip(prompts, good, strict=True) if fine]
    return Scenes(kept, image, counts[good])


def describe_scenes(composed: Artifact) -> dict[str, float]:
    """Counts and means of the scenes, as they are printed."""
    found = scenes(composed)
    words = [len(prompt.split()) for prompt in found.prompts]
    return {
        "scenes": len(found.prompts),
        "sentences_a_scene": round(float(found.sentences.mean()), 2) if words else 0.0,
        "words_a_summary": round(float(np.mean(words)), 2) if words else 0.0,
        "texts_in_no_scene": int((found.image < 0).sum()),
    }


def support_set(texts: Artifact) -> tuple[np.ndarray, list[str]]:
    """The support set of a features file: its text features, (M, d), and their captions.

    A text feature does not depend on its image, so texts whose image failed are in it too.

    Raises:
        MissingError: where it holds no texts.
    """
    vectors, captions = features(texts, "text_features"), texts.texts("captions")
    encoded = np.flatnonzero(vectors.any(axis=1))  # a text that could not be encoded is all zeros
    if not len(encoded):
        raise MissingError(f"{texts.path}: holds no texts; the support set would be empty")
    if len(encoded) == len(captions):
        return vectors, captions
    return vectors[encoded], [captions[row] for row in encoded]


def refuse_other_clip(one: Artifact, other: Artifact) -> None:
    """Refuse to mix features of two dual encoders.

    Raises:
        ConflictError: naming both.
    """
    names = [
        artifact.recipe.models.get("clip", {}).get("identity", "") for artifact in (one, other)
    ]
    if any(names) and not all(names):
        known, unknown = (one, other) if names[0] else (other, one)
        raise ConflictError(
            f"{unknown.path}: nothing says which model its features are of, where those of "
            f"{known.path} are of {names[0] or names[1]}; write it into the attribute `model` of "
            "the features file that was made by others"
        )
    if not same_model(*names):
        raise ConflictError(
            f"{other.path}: its features are of {names[1]}, those of {one.path} of {names[0]}; "
            "encode both with the same --model"
        )
    widths = [one.shape("image_features")[1], other.shape("text_features")[1]]
    if widths[0] != widths[1]:
        raise ConflictError(
            f"{other.path}: its features are {widths[1]} wide, those of {one.path} {widths[0]}; "
            "encode both with one model"
        )


def pack_objects(results: Sequence[Any]) -> dict[str, Values]:
    """Objects of consecutive rows (`labels`, `scores` and `boxes` each) as ragged datasets; a
    failed row has none."""
    rows = [result for result in results if not isinstance(result, SynticError)]
    counts = [0 if isinstance(r, SynticError) else len(r.labels) for r in results]
    return {
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "label": np.concatenate([np.zeros(0, np.int32), *(row.labels for row in rows)]),
        "score": np.concatenate([np.zeros(0, np.float32), *(row.scores for row in rows)]),
        "box": np.concatenate([np.zeros((0, 4), np.float32), *(row.boxes for row in rows)]),
    }


def join_columns(parts: Sequence[Mapping[str, Values]]) -> dict[str, Values]:
    """Datasets of consecutive rows, packed in parts, as if they had been packed together."""
    joined: dict[str, Values] = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if name == "offsets":
            before = np.cumsum([0, *(part[-1] for part in values[:-1])])
            values = [np.add(part[1:], first) for part, first in zip(values, before, strict=True)]
            values.insert(0, np.zeros(1, np.int64))
        if isinstance(values[0], np.ndarray):
            joined[name] = np.concatenate(values)
        else:
            joined[name] = [value for part in values for value in part]  # type: ignore[assignment]
    return joined


def named_objects(
    labels: np.ndarray, scores: np.ndarray, boxes: np.ndarray, vocabulary: Sequence[str]
) -> list[DetectedObject]:
    """Objects with their names, as they are printed."""
    return [
        DetectedObject(
            vocabulary[label],
            round(float(score), 4),
            (round(x0, 4), round(y0, 4), round(x1, 4), round(y1, 4)),
        )
        for label, score, (x0, y0, x1, y1) in zip(labels, scores, boxes.tolist(), strict=True)
    ]


def as_confidence(stored: float) -> float | None:
    """A confidence as it is printed; None where nothing is known of it."""
    return None if np.isnan(stored) else round(stored, 3)


def path_text(photo: str | Path) -> str:
    """A path as UTF-8 text; bytes of a name that are not UTF-8 are shown escaped."""
    return os.fsencode(photo).decode("utf-8", "backslashreplace")


def find_again(recorded: str | Path, folder: Path) -> Path | None:
    """A file by its recorded path: from here, from the artifact's folder, or from the one above."""
    for path in (Path(recorded), folder / recorded, folder.parent / recorded):
        if path.is_file():
            return path
    return None


def read_captions(artifact: Artifact) -> list[Caption]:
    """The rows of an artifact of `caption`.

    Raises:
        DamagedError: where they cannot be read.
    """
    objects = artifact.objects(0, artifact.rows)
    vocabulary = artifact.texts("vocabulary")
    cuts, labels = objects["offsets"], objects["label"]
    columns = zip(
        artifact.texts("path"),
        artifact.texts("caption"),
        artifact.numbers("log_probability").tolist(),
        artifact.texts("error"),
        artifact.column("note"),
        np.asarray(artifact.column("confidence")).tolist(),
        strict=True,
    )
    return [
        Caption(
            photo,
            text,
            log_probability,
            named_objects(
                labels[cuts[row] : cuts[row + 1]],
                objects["score"][cuts[row] : cuts[row + 1]],
                objects["box"][cuts[row] : cuts[row + 1]],
                vocabulary,
            ),
            error,
            note,
            as_confidence(confidence),
        )
        for row, (photo, text, log_probability, error, note, confidence) in enumerate(columns)
    ]
