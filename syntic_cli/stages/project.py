"""project: express every image feature in text features of the support set (equation 3)."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from .. import console
from ..artifacts import Artifact, Recipe
from ..errors import SynticError
from ..settings import ProjectSettings, Run
from ..shards import Output
from ..workspace import FILES, as_input, find_input
from .rows import StopRequest, cut_batches, making

STAGE = "project"
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
            optimisation out.
        support: a features file whose text features are the support set, if not the same one.
        output: the artifact, if not the workspace's own.

    Returns:
        The path of the artifact.

    Raises:
        SynticError: see the message.
    """
    run = run or Run()
    path = output or Path(workspace) / FILES[STAGE]
    source = find_input(Path(workspace), "optimize", "encode", given=features)
    support_path = find_input(Path(workspace), "optimize", "encode", given=support or source)
    inputs = {"features": as_input(source, path), "support": as_input(support_path, path)}
    with Artifact(source) as pairs, Artifact(support_path) as texts:
        refuse_other_clip(pairs, texts)
        recipe = Recipe(STAGE, asdict(settings), inputs, pairs.recipe.models, pairs.recipe.origin)
        with making(path, recipe, run) as making_output:
            if making_output is None:
                return path
            making_output.begin()
            began = time.monotonic()
            _project_rows(making_output, pairs, support_set(texts)[0], settings, run)
            making_output.finish()
            console.note(
                f"{STAGE}: {pairs.rows} features on {texts.rows} texts in "
                f"{console.duration(time.monotonic() - began)}",
                quiet=run.quiet,
            )
    return path


def support_set(texts: Artifact) -> tuple[np.ndarray, list[str]]:
    """The support set of a features file: its valid text features, (M, d), and their captions.

    A text feature does not depend on its image, so texts whose image failed are in it too.
    """
    features = texts.numbers("text_features")
    if not len(features):
        raise SynticError(f"{texts.path}: holds no texts; the support set would be empty")
    return features, texts.texts("captions")


def refuse_other_clip(one: Artifact, other: Artifact) -> None:
    """Refuse to mix features of two dual encoders.

    Raises:
        SynticError: naming both.
    """
    names = [artifact.recipe.models.get("clip", {}).get("identity") for artifact in (one, other)]
    if names[0] != names[1]:
        raise SynticError(
            f"{other.path}: its features are of {names[1]}, those of {one.path} of {names[0]}; "
            "encode both with the same --model"
        )


def _project_rows(
    output: Output, pairs: Artifact, support: np.ndarray, settings: ProjectSettings, run: Run
) -> None:
    import torch

    from ..method.projection import project as project_features
    from ..models.loading import FittingBatch, find_device, find_dtype

    device = find_device(run.device)
    # It takes seconds anyway, so float32 unless half precision is asked for.
    dtype = torch.float32 if run.dtype == "auto" else find_dtype(run.dtype, device)
    keys = torch.from_numpy(support).to(device, dtype)
    batch_size = run.batch_size or BATCH_SIZE[device.type]
    fitting, request = FittingBatch(console.warn), StopRequest()
    missing = output.missing(pairs.rows)
    left = sum(stop - start for start, stop in missing)
    with (
        request.listening(),
        console.progress(
            STAGE, pairs.rows, done=pairs.rows - left, unit="features", quiet=run.quiet
        ) as advance,
    ):
        for first, last in cut_batches(missing, ROWS_A_SHARD, ROWS_A_SHARD):
            images = pairs.numbers("image_features", first, last)
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
            output.commit(
                first,
                {
                    "captions": pairs.texts("captions", first, last),
                    "projected": torch.cat(projected).numpy(),
                    "image_features": images,
                    "valid": pairs.numbers("valid", first, last),
                },
            )
            request.check()
