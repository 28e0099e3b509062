"""A small run whose artifacts are written by hand: every value in it is known, no model is run."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from syntic_cli.artifacts.reading import Artifact
from syntic_cli.artifacts.recipe import Input, Recipe
from syntic_cli.artifacts.writing import write_artifact
from syntic_cli.stages.caption import photo_state

TEXTS = [f"A {colour} {thing} on a table ." for colour in ("red", "green", "blue", "black")
         for thing in ("cup", "dog", "hat")]  # fmt: skip
FAILED, BLANKED = 3, 5
METRICS = ("BLEU-4", "CIDEr")


def jpeg(seed: int, side: int = 48) -> bytes:
    """An image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def write_pairs(folder: Path, texts: Sequence[str] = TEXTS, *, seed: int = 0) -> None:
    """synthetic.h5, features.h5, optimized.h5 and objects.h5: one row failed, one was blanked."""
    rows = len(texts)
    error = ["the model failed on it" if row == FAILED else "" for row in range(rows)]
    flagged = np.arange(rows) == BLANKED
    images = [b"" if error[row] else jpeg(row) for row in range(rows)]
    write_artifact(
        folder / "synthetic.h5",
        Recipe(
            "synthesize",
            {"steps": 4, "seed": seed},
            {"corpus": Input("corpus", "0" * 64, "corpus.txt")},
            {"text_to_image": {"model": "micro/pipeline", "revision": "abc"}},
            "0" * 64,
        ),
        {
            "captions": list(texts),
            "image": np.arange(rows),
            "prompts": list(texts),
            "images": images,
            "seeds": np.arange(100, 100 + rows, dtype=np.uint64),
            "flagged": flagged,
            "error": error,
        },
    )
    draw = np.random.default_rng(0)
    text_features = _unit(draw.normal(size=(rows, 8)))
    before = _unit(text_features + 2 * draw.normal(size=(rows, 8)))
    after = _unit(before + text_features)
    for stage, file, features in (
        ("encode", "features.h5", before),
        ("optimize", "optimized.h5", after),
    ):
        source = "synthetic.h5" if stage == "encode" else "features.h5"
        with Artifact(folder / "synthetic.h5") as pairs:
            origin = pairs.state
        with Artifact(folder / source) as given:
            recipe = Recipe(
                stage,
                {"temperature": 0.05} if stage == "optimize" else {"model": "micro"},
                {"features": given.as_input(folder / file)},
                {"clip": {"model": "micro/clip", "identity": "micro/clip"}},
                origin,
            )
        history = {"loss": np.array([2.0, 1.5, 1.25])}
        history["retrieval_accuracy"] = np.array([0.25, 0.75])
        write_artifact(
            folder / file,
            recipe,
            {
                "captions": list(texts),
                "image": np.arange(rows),
                "image_features": features.astype(np.float32),
                "text_features": text_features.astype(np.float32),
                "valid": ~flagged & (np.arange(rows) != FAILED),
                "error": error,
            },
            groups={"history": history} if stage == "optimize" else None,
        )
    _write_objects(folder, rows)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _write_objects(folder: Path, rows: int) -> None:
    """One object in every image: a cup in the upper left quarter."""
    with Artifact(folder / "synthetic.h5") as pairs:
        inputs = {"synthetic": pairs.as_input(folder / "objects.h5")}
        recipe = Recipe("detect", {"threshold": 0.5}, inputs, {}, pairs.state)
    write_artifact(folder / "objects.h5", recipe, {**one_object_each(rows), "error": [""] * rows})


def one_object_each(rows: int) -> dict[str, Any]:
    return {
        "offsets": np.arange(rows + 1),
        "label": np.zeros(rows, np.int32),
        "score": np.full(rows, 0.9, np.float32),
        "box": np.tile(np.array([0.0, 0.0, 0.5, 0.5], np.float32), (rows, 1)),
        "vocabulary": ["cup"],
    }


def write_photos(folder: Path, number: int, side: int = 64) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"photo{row:03d}.jpg" for row in range(number)]
    for row, path in enumerate(paths):
        path.write_bytes(jpeg(1000 + row, side))
    return paths


def write_captions(
    path: Path,
    photos: Sequence[Path | str],
    captions: Sequence[str],
    errors: Sequence[str] | None = None,
) -> None:
    """captions.h5 of these photos; the log-probability of row i is -i."""
    rows = len(photos)
    states = [photo_state(Path(photo)) for photo in photos]
    write_artifact(
        path,
        Recipe(
            "caption",
            {"beam": 2},
            {"photos": Input("photos", f"{abs(hash(path)):064d}", f"{rows} photos")},
        ),
        {
            "path": [str(photo) for photo in photos],
            "caption": list(captions),
            "log_probability": -np.arange(rows, dtype=np.float32),
            "error": list(errors or [""] * rows),
            "state": states,
            **one_object_each(rows),
        },
    )


def write_scores(
    path: Path, captions: Path, references: Path, per_photo: dict[str, np.ndarray]
) -> None:
    """scores.h5 of all photos in captions.h5."""
    with Artifact(captions) as artifact:
        inputs = {
            "captions": artifact.as_input(path),
            "references": Input("references", "1" * 64, str(references)),
        }
        paths = artifact.texts("path")
    write_artifact(
        path,
        Recipe("evaluate", {"metrics": list(per_photo), "split": None}, inputs),
        {"path": paths},
        groups={"per_image": per_photo},
        attributes={
            **{metric: float(values.mean()) for metric, values in per_photo.items()},
            "items": len(paths),
            "missing": json.dumps([]),
            "extra": json.dumps([]),
            "notes": json.dumps([]),
        },
    )


def write_run(folder: Path, photos: int = 30, first_caption: str = "A dog runs .") -> Path:
    """A whole workspace, with photos and references beside it; returns it."""
    folder.mkdir(parents=True)
    write_pairs(folder)
    files = write_photos(folder.parent / "photos", photos)
    words = ["dog", "cat", "train", "boat", "horse"]
    captions = [f"A {words[row % 5]} stands in place {row} ." for row in range(photos)]
    captions[0] = first_caption
    write_captions(folder / "captions.h5", files, captions)
    references = folder.parent / "references.csv"
    lines = [f"{file.name},The reference of {file.stem} ." for file in files]
    references.write_text("\n".join(["image,caption", *lines]) + "\n")
    draw = np.random.default_rng(1)
    scores = {metric: draw.permutation(photos).astype(float) * 2 for metric in METRICS}
    write_scores(folder / "scores.h5", folder / "captions.h5", references, scores)
    return folder
