"""optimize (equations 1 and 2): items a second against a loop over single items, and its memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from syntic_cli.artifacts.checkpoint import Checkpoint
from syntic_cli.method.refinement import refine
from syntic_cli.settings import OptimizeSettings, Run
from syntic_cli.stages.optimize import Ownership, _refine

from .measure import Options, Row, clock_of, compare, interleave, limit
from .project import WIDTH, made_up

EPOCHS = 5
BATCH = 512
ITEMS = {"cpu": 20_480, "cuda": 1_000_000}
# Takes 7 GB of the host's memory.
MANY = 1_000_000


def item_by_item(images: Tensor, texts: Tensor) -> None:
    """The same steps for a mini-batch, with the loss summed over its items in Python."""
    features = images.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([features], lr=1e-5)
    own = torch.arange(len(images), device=images.device)
    for _ in range(EPOCHS):
        losses = [
            F.cross_entropy(F.cosine_similarity(features[row][None], texts) / 0.01, own[row])
            for row in range(len(features))
        ]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()


def products(images: Tensor, texts: Tensor) -> None:
    """The floor: a cosine product and its gradient's product, for every batch and step."""
    for some, own in zip(images.split(BATCH), texts.split(BATCH), strict=True):
        for _ in range(EPOCHS):
            (some @ own.T) @ own


def run(options: Options) -> list[Row]:
    """Items a second of five epochs."""
    items = ITEMS[options.device]
    images, texts = made_up(items, items, options.device)
    candidates: dict[str, Callable[[], object]] = {
        "ours": lambda: refine(images, texts, epochs=EPOCHS, batch_size=BATCH),
        "item by item": lambda: item_by_item(images[:BATCH], texts[:BATCH]),
        "floor: matrix products": lambda: products(images, texts),
    }
    times = interleave(candidates, options)
    rows = compare(
        "optimize",
        f"{items:,} items, batches of {BATCH}, {EPOCHS} epochs",
        "items/s",
        times,
        {"ours": items, "item by item": BATCH, "floor: matrix products": items},
        clock=options.clock,
    )
    return rows + _many(MANY, options)


def _many(items: int, options: Options) -> list[Row]:
    """An epoch of the stage over many items, in a process of its own for the peak of its memory."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        seconds, taken = process.submit(_an_epoch, items, options).result()
    what = f"{items:,} items of {WIDTH}, 1 epoch of the stage"
    rate = Row("optimize", what, "items/s", items / seconds, "", None, None, clock=options.clock)
    memory = f"{what}, device memory beyond inputs and output"
    return [rate, limit("optimize", memory, "MB", taken / 1e6, 256)]


class _NoCheckpoint(Checkpoint):
    """Is never due: whether one is taken in the time depends on the machine."""

    def due(self, seconds: float) -> bool:
        return False


def _an_epoch(items: int, options: Options) -> tuple[float, int]:
    """Seconds, and bytes on the device beyond the features that the host holds."""
    torch.set_num_threads(options.threads)
    random = np.random.default_rng(0)
    images, texts = (random.random((items, WIDTH), np.float32) for _ in range(2))
    clock = clock_of(options)

    def refine_first(rows: int) -> int:
        settings, run = OptimizeSettings(epochs=1), Run(device=options.device, quiet=True)
        kept = _NoCheckpoint(Path("there is none"), lambda: None)
        refined, _ = _refine(
            images[:rows],
            Ownership(texts[:rows], np.arange(rows)),
            settings,
            seed=0,
            run=run,
            checkpoint=kept,
        )
        return refined.nbytes if options.device == "cpu" else 0

    refine_first(2 * BATCH)
    before, began = _memory(options.device, "VmRSS"), clock()
    output = refine_first(items)
    return clock() - began, _memory(options.device, "VmHWM") - before - output


def _memory(device: str, figure: str) -> int:
    """Bytes that this process holds on the device (VmRSS), or the most it has held (VmHWM)."""
    if device == "cuda":
        held = {"VmRSS": torch.cuda.memory_allocated, "VmHWM": torch.cuda.max_memory_allocated}
        return held[figure]()
    found = re.search(rf"{figure}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])
