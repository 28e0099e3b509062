"""encode: image and text features of every synthetic pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import console
from ..artifacts import Artifact, Recipe, Values
from ..errors import SynticError
from ..photos import decode_image
from ..settings import EncodeSettings, Run, identity
from ..workspace import FILES, as_input, find_input
from .rows import Mapper, making, map_rows, report_failures

if TYPE_CHECKING:
    from PIL import Image

    from ..models.clip import Clip

STAGE = "encode"
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
        SynticError: see the message.
    """
    run = run or Run()
    path = output or Path(workspace) / FILES[STAGE]
    source = find_input(Path(workspace), "synthesize", given=synthetic)
    name = identity(settings.model, settings.revision, settings.pretrained)
    with Artifact(source, "synthesize") as pairs:
        recipe = Recipe(
            STAGE,
            {"model": name, **run.chosen_dtype()},
            {"synthetic": as_input(source, path)},
            {**pairs.recipe.models, "clip": {**asdict(settings), "identity": name}},
            pairs.state,
        )
        _make(path, recipe, pairs, settings, run, compiled)
    with Artifact(path) as made:
        report_failures(STAGE, made.texts("error"), "pairs")
    return path


def _make(
    path: Path,
    recipe: Recipe,
    pairs: Artifact,
    settings: EncodeSettings,
    run: Run,
    compiled: bool | None,
) -> None:
    with making(path, recipe, run) as making_output:
        if making_output is None:
            return
        from ..models.clip import load_clip
        from ..models.loading import find_device, find_dtype, worth_compiling

        device = find_device(run.device)
        model = load_clip(settings, device, find_dtype(run.dtype, device))
        batch_size = run.batch_size or BATCH_SIZE[device.type]
        if worth_compiling(compiled, device, pairs.rows // batch_size, BATCHES_WORTH_COMPILING):
            model.compile()
        making_output.begin()
        map_rows(
            making_output,
            pairs.rows,
            _mapper(model, pairs),
            title=STAGE,
            unit="pairs",
            batch_size=batch_size,
            run=run,
        )
        making_output.finish()


def read_image(pairs: Artifact, row: int, at_least: int | None) -> Image.Image:
    """The synthetic image of a row.

    Raises:
        SynticError: where it was not generated or cannot be decoded.
    """
    data = pairs.byte_strings("images", row, row + 1)[0]
    if not data:
        raise SynticError("the image was not generated")
    return decode_image(data, f"image of row {row}", at_least=at_least)


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
            image = read_image(pairs, row, model.image_size)
        except SynticError as error:
            return _Pair(None, captions[row], str(error))
        return _Pair(model.preprocess(image), captions[row])

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

    def pack(first: int, results: Sequence[Any]) -> Mapping[str, Values]:
        last = first + len(results)
        images, texts, errors = zip(*results, strict=True)
        return {
            "captions": captions[first:last],
            "image_features": np.stack(images),
            "text_features": np.stack(texts),
            "valid": np.array([not error for error in errors]) & ~flagged[first:last],
            "error": list(errors),
        }

    return Mapper(read=read, compute=compute, pack=pack)
