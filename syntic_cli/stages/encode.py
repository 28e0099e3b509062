"""encode: image and text features of every synthetic pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import console
from ..artifacts.making import making
from ..artifacts.reading import Artifact, Values
from ..artifacts.recipe import Recipe
from ..artifacts.records import cut_texts, read_image, reopen
from ..artifacts.workspace import open_input
from ..errors import SynticError
from ..models.identity import identity, refuse_another
from ..passes import Mapper, Opened, map_work
from ..photos import preparing
from ..schema import ENCODE
from ..settings import EncodeSettings, Run

if TYPE_CHECKING:
    from ..models.clip import Clip

# On a CPU small batches are twice as fast: their activations stay in the cache.
BATCH_SIZE = {"cpu": 4, "cuda": 256, "mps": 64}
# Batches from which on a minute of compiling is repaid.
BATCHES_WORTH_COMPILING = 1_000


def encode(
    workspace: str | Path,
    settings: EncodeSettings,
    run: Run | None = None,
    *,
    compiled: bool | None = None,
    synthetic: Path | None = None,
    output: Path | None = None,
) -> Path:
    """Encode every synthetic image and its text with the dual encoder.

    Args:
        workspace: the folder of the run.
        settings: the dual encoder.
        run: how the stage runs.
        compiled: whether to compile the image tower; by default on CUDA, where it is repaid.
        synthetic: the images, if not the workspace's own.
        output: the artifact, if not the workspace's own.

    Returns:
        The path of the artifact: unit-length features in the corpus's order; rows that failed or
        were blanked are marked as not valid.

    Raises:
        SynticError: where an input or the model cannot be used, another artifact is in the way, or
            the output cannot be written.
    """
    run = run or Run()
    path = output or Path(workspace) / ENCODE.file
    name = identity(settings.model, settings.revision, settings.pretrained)
    with open_input(Path(workspace), "synthesize", given=synthetic) as pairs:
        recipe = Recipe(
            ENCODE.name,
            {"model": name, **run.chosen_dtype()},
            {"synthetic": pairs.as_input(path)},
            {**pairs.recipe.models, "clip": {**asdict(settings), "identity": name}},
            pairs.state,
        )
        with making(path, recipe, run) as draft:
            if not draft.up_to_date:
                work = Encoding(pairs.path, pairs.state, settings, name, compiled)
                map_work(draft, pairs.rows, work, run)
    with Artifact(path) as made:
        console.failures(ENCODE.name, made.texts("error"), "pairs")
    return path


@dataclass(frozen=True)
class Encoding:
    """The work on each pair of the artifact at `source` while it is in this state, by the model of
    this identity."""

    source: Path
    state: str
    settings: EncodeSettings
    identity: str
    compiled: bool | None
    title: ClassVar[str] = ENCODE.name
    unit: ClassVar[str] = "pairs"

    @contextmanager
    def open(self, run: Run) -> Iterator[Opened]:
        """Load the dual encoder; see `passes.Work`."""
        from ..models.clip import load_clip
        from ..models.loading import find_device, find_dtype, worth_compiling

        device = find_device(run.device)
        dtype = find_dtype(run.dtype, device)
        chosen = self.settings
        refuse_another(self.identity, chosen.model, chosen.revision, chosen.pretrained)
        with reopen(self.source, self.state, "synthesize") as pairs:
            model = load_clip(self.settings, device, dtype)
            batch_size = run.batch_size or BATCH_SIZE[device.type]
            batches = pairs.rows // batch_size
            if worth_compiling(self.compiled, device, batches, BATCHES_WORTH_COMPILING):
                model.compile()
            yield Opened(
                _mapper(model, pairs),
                batch_size,
                device,
                dtype,
                warnings=cut_texts(model.count_cut(pairs.texts("captions")), model.context_length),
            )


@dataclass(frozen=True)
class _Pair:
    """One row: its preprocessed image (or why there is none), later its features."""

    image: Any
    caption: str
    error: str = ""


def _mapper(model: Clip, pairs: Artifact) -> Mapper[_Pair, tuple[np.ndarray, np.ndarray, str]]:
    import torch

    from ..models.loading import FittingBatch
    from ..transfer import stack_on

    fitting = FittingBatch(console.warn)
    captions = pairs.texts("captions")
    flagged = pairs.numbers("flagged")

    def read(row: int) -> _Pair:
        try:
            with preparing(f"image of row {row}"):
                image = read_image(pairs, row, model.image_size)
                return _Pair(model.preprocess(image), captions[row])
        except SynticError as error:
            return _Pair(None, captions[row], str(error))

    def compute(rows: Sequence[_Pair]) -> list[tuple[np.ndarray, np.ndarray, str]]:
        good = [row.image for row in rows if not row.error]
        images = fitting.run(
            lambda start, stop: model.encode_images(stack_on(good[start:stop], model.device)),
            len(good),
        )
        texts = torch.cat(
            fitting.run(
                lambda start, stop: model.encode_texts([row.caption for row in rows[start:stop]]),
                len(rows),
            )
        ).numpy()
        features = iter(torch.cat(images).numpy() if images else ())
        # A failed row keeps its place, with zeros for the image that is not there.
        return [
            (np.zeros_like(text) if row.error else next(features), text, row.error)
            for row, text in zip(rows, texts, strict=True)
        ]

    def failed(error: SynticError) -> tuple[np.ndarray, np.ndarray, str]:
        nothing = np.zeros_like(model.encode_texts([""]).numpy()[0])
        return nothing, nothing, str(error)

    def pack(first: int, results: Sequence[Any]) -> Mapping[str, Values]:
        last = first + len(results)
        rows = [failed(r) if isinstance(r, SynticError) else r for r in results]
        images, texts, errors = zip(*rows, strict=True)
        return {
            "captions": captions[first:last],
            "image_features": np.stack(images),
            "text_features": np.stack(texts),
            "valid": np.array([not error for error in errors]) & ~flagged[first:last],
            "error": list(errors),
        }

    return Mapper(read=read, compute=compute, pack=pack)
