"""detect: the objects in every synthetic image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .. import console
from ..artifacts.making import making
from ..artifacts.reading import Artifact
from ..artifacts.recipe import Recipe
from ..artifacts.records import errors_of, pack_objects, read_image, reopen
from ..artifacts.workspace import open_input
from ..models.identity import identity, refuse_another
from ..passes import Mapper, Opened, map_work
from ..photos import preparing
from ..schema import DETECT
from ..settings import DetectSettings, Run

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.detector import Detector, Objects

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
        SynticError: where an input or the model cannot be used, another artifact is in the way, or
            the output cannot be written.
    """
    run = run or Run()
    path = output or Path(workspace) / DETECT.file
    chosen = asdict(settings)
    chosen["model"] = identity(settings.model, settings.revision)
    del chosen["revision"]
    chosen.update(run.chosen_dtype())
    with open_input(Path(workspace), "synthesize", given=synthetic) as pairs:
        models = {"detector": {**asdict(settings), "identity": chosen["model"]}}
        inputs = {"synthetic": pairs.as_input(path)}
        recipe = Recipe(DETECT.name, chosen, inputs, models, pairs.state)
        with making(path, recipe, run) as draft:
            if not draft.up_to_date:
                work = Detection(pairs.path, pairs.state, settings, chosen["model"])
                map_work(draft, pairs.rows, work, run)
    _report(path, run)
    return path


@dataclass(frozen=True)
class Detection:
    """The work on each image of the artifact at `source` while it is in this state, by the model of
    this identity."""

    source: Path
    state: str
    settings: DetectSettings
    identity: str
    title: ClassVar[str] = DETECT.name
    unit: ClassVar[str] = "images"

    @contextmanager
    def open(self, run: Run) -> Iterator[Opened]:
        """Load the detector; see `passes.Work`."""
        from ..models.detector import load_detector
        from ..models.loading import find_device, find_dtype

        device = find_device(run.device)
        dtype = find_dtype(run.dtype, device)
        refuse_another(self.identity, self.settings.model, self.settings.revision)
        with reopen(self.source, self.state, "synthesize") as pairs:
            model = load_detector(self.settings, device, dtype, with_openvino=run.openvino)
            yield Opened(
                _mapper(model, pairs),
                run.batch_size or BATCH_SIZE[device.type],
                device,
                dtype,
                {"vocabulary": model.vocabulary},
                runtime=model.runtime,
            )


def _mapper(model: Detector, pairs: Artifact) -> Mapper[Tensor, Objects]:
    from ..models.loading import FittingBatch

    fitting = FittingBatch(console.warn)

    def compute(images: Sequence[Tensor]) -> list[Objects]:
        parts = fitting.run(lambda start, stop: model.detect(images[start:stop]), len(images))
        return [objects for part in parts for objects in part]

    def read(row: int) -> Tensor:
        with preparing(f"image of row {row}"):
            return model.preprocess(read_image(pairs, row, None))

    return Mapper(
        read=read,
        compute=compute,
        pack=lambda _, results: {**pack_objects(results), "error": errors_of(results)},
    )


def _report(path: Path, run: Run) -> None:
    with Artifact(path) as made:
        errors = made.texts("error")
        counts = np.diff(made.numbers("offsets"))
    console.failures(DETECT.name, errors, "image")
    console.note(
        f"{DETECT.name}: {counts.mean():.1f} objects an image, none in "
        f"{100 * (counts == 0).mean():.0f} % of them",
        quiet=run.quiet,
    )
