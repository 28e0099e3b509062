"""detect: the objects in every synthetic image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import console
from ..artifacts import Artifact, Recipe, Values
from ..errors import SynticError
from ..settings import DetectSettings, Run, identity
from ..workspace import FILES, as_input, find_input
from .encode import read_image
from .rows import Mapper, errors_of, making, map_rows, report_failures

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.detector import Detector, Objects

STAGE = "detect"
# On a CPU small batches are twice as fast: their activations stay in the cache.
BATCH_SIZE = {"cpu": 4, "cuda": 64, "mps": 8}


def detect(
    workspace: str | Path,
    settings: DetectSettings,
    run: Run | None = None,
    *,
    synthetic: Path | None = None,
    output: Path | None = None,
) -> Path:
    """Detect the objects of every synthetic image.

    Args:
        workspace: the folder of the run.
        settings: the detector, its score threshold and the most objects of an image.
        run: how the stage runs.
        synthetic: the images, if not the workspace's own.
        output: the artifact, if not the workspace's own.

    Returns:
        The path of the artifact: objects of all rows one after the other, cut by offsets.

    Raises:
        SynticError: see the message.
    """
    run = run or Run()
    path = output or Path(workspace) / FILES[STAGE]
    source = find_input(Path(workspace), "synthesize", given=synthetic)
    chosen = asdict(settings)
    chosen["model"] = identity(settings.model, settings.revision)
    del chosen["revision"]
    chosen.update(run.chosen_dtype())
    with Artifact(source, "synthesize") as pairs:
        inputs, models = (
            {"synthetic": as_input(source, path)},
            {"detector": {**asdict(settings), "identity": chosen["model"]}},
        )
        recipe = Recipe(STAGE, chosen, inputs, models, pairs.state)
        _make(path, recipe, pairs, settings, run)
    _report(path, run)
    return path


def _make(path: Path, recipe: Recipe, pairs: Artifact, settings: DetectSettings, run: Run) -> None:
    with making(path, recipe, run) as making_output:
        if making_output is None:
            return
        from ..models.detector import load_detector
        from ..models.loading import find_device, find_dtype

        device = find_device(run.device)
        model = load_detector(settings, device, find_dtype(run.dtype, device))
        making_output.begin()
        map_rows(
            making_output,
            pairs.rows,
            _mapper(model, pairs),
            title=STAGE,
            unit="images",
            batch_size=run.batch_size or BATCH_SIZE[device.type],
            run=run,
        )
        making_output.finish(columns={"vocabulary": model.vocabulary})


def _mapper(model: Detector, pairs: Artifact) -> Mapper[Tensor, Objects]:
    from ..models.loading import FittingBatch

    fitting = FittingBatch(console.warn)

    def compute(images: Sequence[Tensor]) -> list[Objects]:
        parts = fitting.run(lambda start, stop: model.detect(images[start:stop]), len(images))
        return [found for part in parts for found in part]

    return Mapper(
        read=lambda row: model.preprocess(read_image(pairs, row, None)),
        compute=compute,
        pack=lambda _, results: {**pack_objects(results), "error": errors_of(results)},
    )


def pack_objects(results: Sequence[Any]) -> dict[str, Values]:
    """Objects of consecutive rows as ragged datasets; a failed row has none."""
    from ..models.detector import NO_OBJECTS

    rows = [NO_OBJECTS if isinstance(result, SynticError) else result for result in results]
    counts = [len(row.labels) for row in rows]
    return {
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "label": np.concatenate([row.labels for row in rows]),
        "score": np.concatenate([row.scores for row in rows]),
        "box": np.concatenate([row.boxes for row in rows]),
    }


def _report(path: Path, run: Run) -> None:
    with Artifact(path) as made:
        errors = made.texts("error")
        counts = np.diff(made.numbers("offsets"))
    report_failures(STAGE, errors, "images")
    console.note(
        f"{STAGE}: {counts.mean():.1f} objects an image, none in "
        f"{100 * (counts == 0).mean():.0f} % of them",
        quiet=run.quiet,
    )
