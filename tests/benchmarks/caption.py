"""caption: the whole stage with the shipped captioner against one photo at a time, and what it
costs to attend to retrieved texts."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch

from syntic_cli import Captioner, console
from syntic_cli.artifacts.reading import Artifact
from syntic_cli.cli import app
from syntic_cli.models.clip import load_clip
from syntic_cli.presets import SHIPPED, load_preset, resolve
from syntic_cli.settings import CaptionSettings, EncodeSettings, Run
from syntic_cli.stages.caption import caption

from .measure import Options, Row, compare, interleave
from .read import photo

PHOTOS = {"cpu": 128, "cuda": 2048}
ALONE = 16
DIFFERENT = 32
TEXTS, WORDS, RETRIEVED = 2_000, 5_000, 8


def run(options: Options) -> list[Row]:
    """Photos a second, from the files to the artifact; loading the models is in neither figure."""
    with tempfile.TemporaryDirectory() as name:
        photos = _photos(Path(name), PHOTOS[options.device])
        return [
            *_compare(photos, Path(name), options),
            *_retrieving(photos, Path(name), options),
        ]


def _retrieving(photos: Sequence[Path], folder: Path, options: Options) -> list[Row]:
    """Two captioners that were trained alike, but for the texts that one of them retrieves."""
    few, support = folder / "few.h5", folder / "support.h5"
    with Artifact(SHIPPED) as shipped:
        clip, count = shipped.recipe.models["clip"]["model"], shipped.shape("support")[0]
        texts, features = _texts(count), shipped.numbers("support")
    encoder = load_clip(EncodeSettings(clip), torch.device("cpu"), torch.float32)
    # Of the others it does not matter whether they are the texts' own.
    features[:TEXTS] = encoder.encode_texts(texts[:TEXTS]).numpy()
    for path, kept in ((few, TEXTS), (support, count)):
        with h5py.File(path, "w") as file:
            file.attrs["model"] = clip
            file["image_features"] = file["text_features"] = features[:kept]
            file["captions"] = texts[:kept]
    here = ["-w", str(folder / "train"), "--preset", "tiny", "-q"]
    _syntic("project", "--features", few, "--support", support, *here)
    with_texts, without = (folder / f"{name}.h5" for name in ("with", "without"))
    for path, more in ((without, []), (with_texts, ["--retrieve", RETRIEVED])):
        given = ["--no-objects", "--epochs", 1, "--support", support, "-o", path]
        _syntic("train", *given, *more, *here)
    rows = []
    usual = resolve(CaptionSettings, load_preset("tiny"))
    # Under a consensus a decoder reads some texts out, which one with tags does for each photo.
    for consensus in (0, usual.consensus):
        settings = replace(usual, consensus=consensus)
        ours, alone = (
            Captioner.load(path, settings=settings, device=options.device)
            for path in (with_texts, without)
        )
        times = interleave(
            {"ours": partial(ours.caption, photos), "without": partial(alone.caption, photos)},
            options,
            wall=True,
        )
        what = f"{RETRIEVED} of {count:,} texts retrieved for each of {len(photos):,} photos"
        what += f", a consensus of {consensus}" if consensus else ""
        amounts = {"ours": len(photos), "without": len(photos)}
        targets = {} if consensus else {"without": 0.9}
        rows += compare("caption", what, "photos/s", times, amounts, targets=targets)
    return rows


def _texts(count: int) -> list[str]:
    """Texts of ten words, of which some are far more frequent than others."""
    noise = np.random.default_rng(0)
    rows = noise.zipf(1.3, (count, 10)) % WORDS
    return [" ".join(f"word{word}" for word in row) for row in rows]


def _syntic(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


def _compare(photos: Sequence[Path], folder: Path, options: Options) -> list[Row]:
    model, notes = Captioner.load(device=options.device), ""
    alone, few = "one photo at a time", "stage with two photos"

    def stage() -> None:
        nonlocal notes
        notes = _caption(photos, folder / "run", options.device)

    candidates: dict[str, Callable[[], object]] = {
        "ours": stage,
        few: lambda: _caption(photos[:2], folder / "run", options.device),
        alone: lambda: [model.caption([path]) for path in photos[:ALONE]],
    }
    times = interleave(candidates, options, wall=True)
    # What the stage does once (loading, opening files) is taken off by the run with two photos.
    once = times.pop(few)
    times["ours"] = [whole - one for whole, one in zip(times["ours"], once, strict=True)]
    bound = re.search(r"bound by [^)]*\)", notes)
    what = f"{len(photos):,} photos of 640×480, shipped captioner, {bound[0] if bound else notes}"
    amounts = {"ours": len(photos) - 2, alone: min(ALONE, len(photos))}
    return compare("caption", what, "photos/s", times, amounts, targets={alone: 1.0})


def _photos(folder: Path, number: int) -> list[Path]:
    made = [photo(640, 480, seed) for seed in range(min(number, DIFFERENT))]
    paths = [folder / f"{row}.jpg" for row in range(number)]
    for row, path in enumerate(paths):
        path.write_bytes(made[row % len(made)])
    return paths


def _caption(photos: Sequence[Path], workspace: Path, device: str) -> str:
    """Caption anew; returns what the stage said, in a line."""
    before, said = console.err.file, io.StringIO()
    console.err.file = said
    try:
        settings = resolve(CaptionSettings, load_preset("tiny"))
        caption(photos, workspace, settings, Run(device=device, force=True))
    finally:
        console.err.file = before
    return " ".join(said.getvalue().split())
