"""project: express every image feature in text features of the support set (equation 3)."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from .. import console
from ..artifacts.foreign import announce
from ..artifacts.making import making
from ..artifacts.reading import Artifact, Values
from ..artifacts.recipe import Recipe
from ..artifacts.records import cosines_of_texts, refuse_other_clip, support_set
from ..artifacts.records import features as read_features
from ..artifacts.shards import Draft
from ..artifacts.workspace import open_input
from ..interrupts import StopRequest
from ..passes import cut_batches
from ..schema import OPTIMIZE, PROJECT
from ..settings import ProjectSettings, Run

BATCH_SIZE = {"cpu": 1024, "cuda": 16384, "mps": 4096}
ROWS_A_SHARD = 16384


def project(
    workspace: str | Path,
    settings: ProjectSettings,
    run: Run | None = None,
    *,
    features: Path | None = None,
    support: Path | None = None,
    output: Path | None = None,
) -> Path:
    """Project every image feature on the support set.

    Args:
        workspace: the folder of the run.
        settings: the temperature.
        run: how the stage runs.
        features: features, if not the workspace's optimized ones; those of `encode` leave the
            optimisation out. Also a file made by others.
        support: a features file whose text features are the support set, if not the same one; also
            one made by others.
        output: the artifact, if not the workspace's own.

    Returns:
        The path of the artifact.

    Raises:
        SynticError: where the features cannot be used or are of two dual encoders, another artifact
            is in the way, or the output cannot be written.
    """
    run, folder = run or Run(), Path(workspace)
    path = output or folder / PROJECT.file
    with (
        open_input(folder, "optimize", "encode", "select", given=features) as pairs,
        open_input(folder, "optimize", "encode", "select", given=support or pairs.path) as texts,
    ):
        announce(pairs, quiet=run.quiet)
        if texts.path != pairs.path:
            announce(texts, quiet=run.quiet)
        refuse_other_clip(pairs, texts)
        inputs = {"features": pairs.as_input(path), "support": texts.as_input(path)}
        recipe = Recipe(
            PROJECT.name, asdict(settings), inputs, pairs.recipe.models, pairs.recipe.origin
        )
        with making(path, recipe, run) as draft:
            if draft.up_to_date:
                return path
            began = time.monotonic()
            _project_rows(draft, pairs, support_set(texts)[0], settings, run)
            draft.finish(columns=_columns(pairs))
        console.note(
            f"{PROJECT.name}: {console.count(pairs.rows, 'feature')} on "
            f"{console.count(texts.text_rows, 'text')} in "
            f"{console.duration(time.monotonic() - began)}",
            quiet=run.quiet,
        )
    return path


def _columns(pairs: Artifact) -> dict[str, Values]:
    """The texts with their images, and the cosines of the two before refinement, where known."""
    found: dict[str, Values] = {"captions": pairs.texts("captions"), "image": pairs.image()}
    if pairs.stage != OPTIMIZE.name:
        found["cosine"] = cosines_of_texts(pairs)
    elif "cosine" in pairs:
        found["cosine"] = pairs.numbers("cosine")
    return found


def _project_rows(
    draft: Draft, pairs: Artifact, support: np.ndarray, settings: ProjectSettings, run: Run
) -> None:
    import torch

    from ..method.projection import project as project_features
    from ..models.loading import FittingBatch, find_device, find_dtype

    device = find_device(run.device)
    run = draft.in_its_dtype(run)
    # It takes seconds anyway, so float32 unless half precision is asked for.
    dtype = torch.float32 if run.dtype == "auto" else find_dtype(run.dtype, device)
    draft.computed_in(device, dtype)
    keys = torch.from_numpy(support).to(device, dtype)
    batch_size = run.batch_size or BATCH_SIZE[device.type]
    fitting, request = FittingBatch(console.warn), StopRequest()
    missing = draft.missing(pairs.rows)
    left = sum(stop - start for start, stop in missing)
    with (
        request.listening(),
        console.progress(
            PROJECT.name, pairs.rows, done=pairs.rows - left, unit="features", quiet=run.quiet
        ) as advance,
    ):
        for first, last in cut_batches(missing, ROWS_A_SHARD, ROWS_A_SHARD):
            images = read_features(pairs, "image_features", first, last)
            projected = []
            for start in range(0, last - first, batch_size):
                batch = torch.from_numpy(images[start : start + batch_size]).to(device)
                projected += fitting.run(
                    lambda a, b, batch=batch: project_features(  # type: ignore[misc]
                        batch[a:b], keys, settings.temperature
                    ).cpu(),
                    len(batch),
                )
                advance(len(batch))
            draft.commit(
                first,
                {
                    "projected": torch.cat(projected).numpy(),
                    "image_features": images,
                    "valid": pairs.numbers("valid", first, last),
                },
            )
            request.check()
