"""caption: the whole stage with the shipped captioner against one photo at a time."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from syntic_cli import Captioner, console
from syntic_cli.presets import load_preset, resolve
from syntic_cli.settings import CaptionSettings, Run
from syntic_cli.stages.caption import caption

from .measure import Options, Row, compare, interleave
from .read import photo

PHOTOS = {"cpu": 128, "cuda": 2048}
ALONE = 16
DIFFERENT = 32


def run(options: Options) -> list[Row]:
    """Photos a second, from the files to the artifact; loading the models is in neither figure."""
    with tempfile.TemporaryDirectory() as name:
        return _compare(_photos(Path(name), PHOTOS[options.device]), Path(name), options)


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
