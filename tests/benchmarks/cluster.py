"""Stages on Ray: what each further worker adds, and what a row costs on its way to the driver."""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from syntic_cli.artifacts.reading import Artifact
from syntic_cli.artifacts.recipe import Recipe
from syntic_cli.artifacts.shards import Draft
from syntic_cli.models.identity import identity
from syntic_cli.passes import Opened, Work
from syntic_cli.presets import load_preset, resolve
from syntic_cli.settings import EncodeSettings, Run
from syntic_cli.stages.encode import Encoding
from tests.ray_work import Waiting, make

from .measure import Options, Row

WORKERS = (1, 2, 4)
# Of what a worker adds at best.
# Cores share their caches and the memory, so encoding gains less.
WANTED, WANTED_OF_ENCODE = 0.95, 0.7
SECONDS_A_ROW = 0.01
ROWS, PAIRS = 2_400, 640
SIZES = {"2 kB": 2_000, "100 kB": 100_000}


@dataclass(frozen=True)
class Timed:
    """Work of which each batch is logged: its worker, its rows, and when it was computed."""

    work: Any
    log: Path
    title: ClassVar[str] = "synthesize"
    unit: ClassVar[str] = "rows"

    @contextmanager
    def open(self, run: Run) -> Iterator[Opened]:
        with self.work.open(run) as opened:
            compute = opened.mapper.compute

            def logged(items: Sequence[Any]) -> Any:
                results = compute(items)
                with self.log.open("a") as log:
                    log.write(f"{os.getpid()} {len(items)} {time.time()}\n")
                return results

            yield replace(opened, mapper=replace(opened.mapper, compute=logged))


def run(options: Options) -> list[Row]:
    """Rows a second while all workers are at work; starting them is left out."""
    import ray

    ray.init("local", num_cpus=max(WORKERS), include_dashboard=False, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory(prefix="syntic-") as folder:
            return [
                *_scaling(Path(folder), options),
                *_overhead(Path(folder), options),
                *_encoding(Path(folder), options),
            ]
    finally:
        ray.shutdown()


def _scaling(folder: Path, options: Options) -> list[Row]:
    what = f"rows of {1000 * SECONDS_A_ROW:.0f} ms, 2 kB each"
    work = Waiting(SECONDS_A_ROW, image_bytes=2_000)
    rates: dict[int, list[float]] = {number: [] for number in WORKERS}
    for _ in range(options.repeats):
        for number in WORKERS:
            rows = ROWS * number // max(WORKERS)
            rates[number].append(_rate(folder, "synthesize", rows, work, workers=number))
    return [_added(what, "rows/s", rates, number, WANTED) for number in WORKERS[1:]]


def _added(what: str, unit: str, rates: dict[int, list[float]], number: int, wanted: float) -> Row:
    """A row on so many workers against one; the target is a share of it for each that is added."""
    ratios = sorted(many / one for many, one in zip(rates[number], rates[1], strict=True))
    middle, target = float(np.median(ratios)), 1 + wanted * (number - 1)
    return Row(
        "cluster",
        f"{what}, {number} workers",
        unit,
        float(np.median(rates[number])),
        "1 worker",
        float(np.median(rates[1])),
        middle,
        ratios[0],
        ratios[-1],
        f"≥ {target:g}",
        "yes" if middle >= target else "no",
    )


def _overhead(folder: Path, options: Options) -> list[Row]:
    """Rows that take no time: what is left is packing them, the way to the driver, and writing."""
    rows = []
    for name, size in SIZES.items():
        work, number = Waiting(image_bytes=size), 10_000 if size < 10_000 else 3_000
        rates: dict[int, list[float]] = {0: [], 1: []}
        for _ in range(options.repeats):
            for workers, found in rates.items():
                found.append(_rate(folder, "synthesize", number, work, workers=workers))
        ratios = sorted(there / here for there, here in zip(rates[1], rates[0], strict=True))
        ours, local = (float(np.median(rates[workers])) for workers in (1, 0))
        more = 1e6 / ours - 1e6 / local
        what = f"rows of {name} that take no time: {more:.0f} µs a row more"
        middle = float(np.median(ratios))
        rows.append(
            Row(
                "cluster",
                what,
                "rows/s",
                ours,
                "map_rows",
                local,
                middle,
                ratios[0],
                ratios[-1],
            )
        )
    return rows


def _encoding(folder: Path, options: Options) -> list[Row]:
    source = folder / "synthetic.h5"
    _write_images(source)
    settings = resolve(EncodeSettings, load_preset("tiny"))
    with Artifact(source) as images:
        state = images.state
    work = Encoding(source, state, settings, identity(settings.model, settings.revision), False)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(options.repeats):
        for workers, found in rates.items():
            found.append(_rate(folder, "encode", PAIRS, work, workers=workers))
    what = "encode, tiny preset, a thread a worker"
    return [_added(what, "pairs/s", rates, 2, WANTED_OF_ENCODE)]


def _write_images(path: Path) -> None:
    noise = np.random.default_rng(0)
    draft = Draft(path, Recipe("synthesize", {}))
    images = []
    for _ in range(PAIRS):
        coarse = noise.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(file, "JPEG")
        images.append(file.getvalue())
    draft.commit(
        0,
        {
            "captions": [f"a dog number {row} runs in the snow" for row in range(PAIRS)],
            "image": np.arange(PAIRS),
            "prompts": [f"a dog number {row} runs in the snow" for row in range(PAIRS)],
            "images": images,
            "seeds": np.zeros(PAIRS, np.uint64),
            "flagged": np.zeros(PAIRS, bool),
            "error": [""] * PAIRS,
        },
    )
    draft.finish()


def _rate(folder: Path, stage: str, rows: int, work: Work, *, workers: int) -> float:
    """Rows a second of a pass on so many workers; in this process where they are none."""
    log, path = folder / "log", folder / "made.h5"
    log.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    run = Run(device="cpu", quiet=True, dtype="float32")
    if workers:
        run = replace(run, engine="ray", workers=workers)
    make(path, rows, Timed(work, log), run, stage)
    return _steady(log, max(1, workers))


def _steady(log: Path, workers: int) -> float:
    """Rows a second from when the last worker has begun until the first one has ended."""
    lines = [line.split() for line in log.read_text().splitlines()]
    batches = [(pid, int(rows), float(at)) for pid, rows, at in lines]
    pids = {pid for pid, _, _ in batches}
    if len(pids) != workers:
        raise SystemExit(f"{len(pids)} workers had work in place of {workers}")
    first = max(min(at for pid, _, at in batches if pid == worker) for worker in pids)
    last = min(max(at for pid, _, at in batches if pid == worker) for worker in pids)
    return sum(rows for _, rows, at in batches if first < at <= last) / (last - first)
