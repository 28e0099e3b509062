"""Growth with size of project and optimize, as rows and as a plot."""

from __future__ import annotations

import torch

from syntic_cli.method.projection import project
from syntic_cli.method.refinement import refine

from .measure import Options, Row, clock_of
from .project import TEMPERATURE, made_up
from .report import HERE

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUERIES = 128
# A size is left out once the one before it took longer than a tenth of this.
SECONDS = 40.0
Points = list[tuple[int, float]]


@torch.no_grad()
def projecting(size: int, options: Options) -> float:
    """Seconds of a fixed number of features on `size` texts."""
    features, support = made_up(QUERIES, size, options.device)
    clock = clock_of(options)
    began = clock()
    project(features, support, TEMPERATURE)
    return clock() - began


def optimizing(size: int, options: Options) -> float:
    """Seconds of two epochs over `size` items."""
    images, texts = made_up(size, size, options.device)
    clock = clock_of(options)
    began = clock()
    refine(images, texts, epochs=2)
    return clock() - began


def run(options: Options) -> list[Row]:
    """Seconds at each size against ten times those of the size before: 1 is linear growth."""
    stages = {
        f"project, {QUERIES} features on N texts": projecting,
        "optimize, N items, 2 epochs": optimizing,
    }
    rows, curves = [], {}
    for name, measured in stages.items():
        points: Points = []
        measured(SIZES[0], options)
        for size in SIZES:
            if points and points[-1][1] > SECONDS / 10:
                break
            points.append((size, measured(size, options)))
        curves[name] = points
        rows += [_row(name, index, points, options.clock) for index in range(len(points))]
    _plot(curves, options)
    return rows


def _row(name: str, index: int, points: Points, clock: str) -> Row:
    size, seconds = points[index]
    what = name.replace(" N ", f" {size:,} ")
    if not index:
        return Row("growth", what, "s", seconds, "", None, None, clock=clock)
    linear = 10 * points[index - 1][1]
    return Row("growth", what, "s", seconds, "linear", linear, seconds / linear, clock=clock)


def _plot(curves: dict[str, Points], options: Options) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), dpi=100)
    for name, points in curves.items():
        axes.loglog(*zip(*points, strict=True), marker="o", label=name)
    axes.set(xlabel="N", ylabel=f"seconds ({options.clock}, {options.threads} threads)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(HERE / f"growth-{options.device}.png")
    plt.close(figure)
