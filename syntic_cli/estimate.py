"""What a run will take: time and room on the disk of every stage, from a trial of a few items."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .artifacts.reading import Artifact, Values
from .artifacts.writing import write_artifact
from .corpus import Corpus
from .presets import Preset, makes_images, resolve
from .schema import DETECT, ENCODE, PROJECT, STAGES, SYNTHESIZE
from .settings import EncodeSettings, Run, SynthesizeSettings, TrainSettings

# Texts of the two trials whose difference tells what a text takes, by whether an image is minutes
# of work on the device.
FEW, SLOW_FEW = (16, 48), (1, 3)
# The same where texts alone are encoded.
TEXTS = (32, 128)
# Rows of the trials of what computes everything at once, and takes less than a model's loading.
MANY = (512, 2048)
LARGE_IMAGE = 256


@dataclass(frozen=True)
class Estimate:
    """What a stage will take: items are those of its artifact."""

    stage: str
    items: int
    disk_bytes: float
    seconds: float


@dataclass(frozen=True)
class _Trial:
    """What a stage took on a number of items."""

    items: int
    seconds: float
    disk_bytes: int


def estimate_synthesis(
    corpus: Corpus, settings: SynthesizeSettings, run: Run, seed: int = 0
) -> Estimate:
    """What `synthesize` will take for a corpus; the models run on a few of its texts."""
    with tempfile.TemporaryDirectory(prefix="syntic-") as folder:
        trials = [
            _synthesize(corpus, settings, Path(folder, str(items)), _quiet(run), seed, items)
            for items in _few(settings, run)
        ]
    return _linear(SYNTHESIZE.name, trials, len(corpus.captions))


def estimate_chain(corpus: Corpus, preset: Preset, run: Run, seed: int = 0) -> list[Estimate]:
    """What each stage of the chain, up to `train`, will take for a corpus.

    Args:
        corpus: the texts.
        preset: settings of every stage.
        run: how the stages will run.
        seed: of the whole run.

    Returns:
        An estimate a stage, in their order.
    """
    from .stages.detect import detect
    from .stages.encode import encode

    run, texts = _quiet(run), len(corpus.captions)
    if not makes_images(preset):
        return _estimate_texts(corpus, preset, run)
    with tempfile.TemporaryDirectory(prefix="syntic-") as name:
        drawing = resolve(SynthesizeSettings, preset)
        training = resolve(TrainSettings, preset)
        folders = {items: Path(name, str(items)) for items in _few(drawing, run)}
        found = [
            _linear(
                SYNTHESIZE.name,
                [_synthesize(corpus, drawing, f, run, seed, n) for n, f in folders.items()],
                texts,
            )
        ]
        for function in (encode, detect) if training.objects else (encode,):
            stage = STAGES[function.__name__]
            settings: Any = resolve(stage.settings or object, preset)
            trials = [
                _timed(partial(function, folder, settings, run), folder / stage.file, items)
                for items, folder in folders.items()
            ]
            found.append(_linear(stage.name, trials, texts))
        return [*found, *_at_once(folders[max(folders)], Path(name, "many"), preset, run, texts)]


def _estimate_texts(corpus: Corpus, preset: Preset, run: Run) -> list[Estimate]:
    """What each stage of a chain of texts alone will take."""
    from .stages.encode import encode_texts

    settings, trials = resolve(EncodeSettings, preset), list[_Trial]()
    texts = len(corpus.captions)
    with tempfile.TemporaryDirectory(prefix="syntic-") as name:
        for items in TEXTS:
            folder = Path(name, str(items))
            work = partial(encode_texts, _repeated(corpus, items), folder, settings, run)
            trials.append(_timed(work, folder / ENCODE.file, items))
        found = _linear(ENCODE.name, trials, texts)
        return [found, *_at_once(folder, Path(name, "many"), preset, run, texts)]


def _at_once(trial: Path, folder: Path, preset: Preset, run: Run, texts: int) -> list[Estimate]:
    """The stages that take features alone, on those of the trial over and over, for an epoch."""
    from .stages.optimize import optimize
    from .stages.project import project
    from .stages.train import train

    whole = replace(run, batch_size=None)
    stages: list[Callable[..., Path]] = [optimize, project, train]
    if not makes_images(preset):
        stages.remove(optimize)
    trials: dict[str, list[_Trial]] = {function.__name__: [] for function in stages}
    epochs = {PROJECT.name: 1}
    for items in MANY:
        for stage in (ENCODE, DETECT):
            if (trial / stage.file).exists():
                _repeat(trial / stage.file, folder / str(items) / stage.file, items)
        for function in stages:
            stage = STAGES[function.__name__]
            settings: Any = resolve(stage.settings or object, preset)
            if stage is not PROJECT:
                epochs[stage.name] = settings.epochs
                settings = replace(settings, epochs=1)
            work = partial(function, folder / str(items), settings, whole)
            if stage is PROJECT and optimize not in stages:
                work = partial(work, features=folder / str(items) / ENCODE.file)
            trials[stage.name].append(_timed(work, folder / str(items) / stage.file, items))
    return [
        _squared(found, texts)
        if name == PROJECT.name
        else _linear(name, found, texts, epochs[name])
        for name, found in trials.items()
    ]


def _quiet(run: Run) -> Run:
    return replace(run, quiet=True, force=False, retry_failed=False, preset=None)


def _few(settings: SynthesizeSettings, run: Run) -> tuple[int, int]:
    from .models.loading import find_device

    slow = find_device(run.device).type != "cuda" and settings.size >= LARGE_IMAGE
    return SLOW_FEW if slow else FEW


def _synthesize(
    corpus: Corpus, settings: SynthesizeSettings, folder: Path, run: Run, seed: int, items: int
) -> _Trial:
    from .stages.synthesize import synthesize

    work = partial(synthesize, _repeated(corpus, items), folder, settings, run, seed=seed)
    return _timed(work, folder / SYNTHESIZE.file, items)


def _repeated(corpus: Corpus, items: int) -> Corpus:
    """The first texts of a corpus; one shorter than the trial is gone through again."""
    captions = [corpus.captions[row % len(corpus.captions)] for row in range(items)]
    return replace(corpus, captions=captions)


def _timed(work: Callable[[], object], artifact: Path, items: int) -> _Trial:
    began = time.perf_counter()
    work()
    return _Trial(items, time.perf_counter() - began, artifact.stat().st_size)


def _linear(stage: str, trials: Sequence[_Trial], items: int, epochs: int = 1) -> Estimate:
    """What does not depend on the items (a model's loading) once, and the rest for each."""
    few, more = trials
    each = max(0.0, (more.seconds - few.seconds) / (more.items - few.items))
    once = max(0.0, few.seconds - each * few.items)
    return Estimate(stage, items, _disk(trials, items), once + each * items * epochs)


def _squared(trials: Sequence[_Trial], items: int) -> Estimate:
    """Every feature meets every text of the support set."""
    few, more = trials
    each = max(0.0, (more.seconds - few.seconds) / (more.items**2 - few.items**2))
    return Estimate(PROJECT.name, items, _disk(trials, items), few.seconds + each * items**2)


def _disk(trials: Sequence[_Trial], items: int) -> float:
    few, more = trials
    each = max(0.0, (more.disk_bytes - few.disk_bytes) / (more.items - few.items))
    return max(0.0, few.disk_bytes - each * few.items) + each * items


def _repeat(source: Path, target: Path, items: int) -> None:
    """An artifact with the rows of another over and over."""
    with Artifact(source) as artifact:
        rows = np.resize(np.arange(artifact.rows), items)
        columns: dict[str, Values] = {}
        for name, column in artifact.columns.items():
            if name not in artifact:
                continue
            if name == "image":
                columns[name] = np.arange(items)
            elif column.axis in ("item", "text"):
                columns[name] = _at(artifact.column(name), rows)
            elif column.axis not in ("object", "offsets"):
                columns[name] = artifact.column(name)
        if "image" in columns:
            columns["image"] = np.arange(items)
        if "offsets" in artifact.columns:
            columns |= _repeated_objects(artifact.objects(0, artifact.rows), rows)
        write_artifact(target, artifact.recipe, columns)


def _at(values: Values, rows: np.ndarray) -> Values:
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]


def _repeated_objects(objects: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    offsets = objects["offsets"]
    chosen = np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in rows])
    counts = np.diff(offsets)[rows]
    columns = {name: values[chosen] for name, values in objects.items() if name != "offsets"}
    return {"offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), **columns}
