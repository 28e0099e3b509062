"""optimize: refine the image features against their texts (equations 1 and 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .. import console
from ..artifacts import Artifact, Recipe
from ..errors import SynticError
from ..settings import OptimizeSettings, Run
from ..workspace import FILES, as_input, find_input
from .checkpoint import Checkpoint
from .rows import StopRequest, making

STAGE = "optimize"
# Retrieval accuracy is measured on this many items, against every text.
RETRIEVAL_SAMPLE = 2000
SECONDS_A_CHECKPOINT = 30.0


def optimize(
    workspace: str | Path,
    settings: OptimizeSettings,
    run: Run | None = None,
    *,
    seed: int = 0,
    features: Path | None = None,
    output: Path | None = None,
) -> Path:
    """Refine every valid image feature within its mini-batch.

    Args:
        workspace: the folder of the run.
        settings: temperature, learning rate, epochs and mini-batch.
        run: how the stage runs.
        seed: decides which items share a mini-batch.
        features: the features, if not the workspace's own.
        output: the artifact, if not the workspace's own.

    Returns:
        The path of the artifact: the features with refined images, the loss of each epoch and the
        share of items whose own text is the nearest, before and after.

    Raises:
        SynticError: see the message.
    """
    run = run or Run()
    if run.dtype not in ("auto", "float32"):
        raise SynticError(
            f"--dtype {run.dtype}: optimize works in float32, its steps are too small for less"
        )
    path = output or Path(workspace) / FILES[STAGE]
    source = find_input(Path(workspace), "encode", given=features)
    with Artifact(source, "encode") as pairs:
        chosen = {**asdict(settings), "seed": seed}
        inputs = {"features": as_input(source, path)}
        recipe = Recipe(STAGE, chosen, inputs, pairs.recipe.models, pairs.recipe.origin)
        with making(path, recipe, run) as making_output:
            if making_output is None:
                return path
            making_output.begin()
            checkpoint = Checkpoint(making_output.parts)
            columns = {name: pairs.column(name) for name in ("captions", "error")}
            images, texts = pairs.numbers("image_features"), pairs.numbers("text_features")
            valid = pairs.numbers("valid")
            rows = np.flatnonzero(valid)
            if not len(rows):
                raise SynticError(f"{source}: every pair failed or was blanked; nothing to refine")
            refined, losses = _refine(
                images[rows], texts[rows], settings, seed=seed, run=run, checkpoint=checkpoint
            )
            accuracy = [_retrieval(f, texts[rows], seed) for f in (images[rows], refined)]
            images[rows] = refined
            making_output.finish(
                columns={
                    **columns,
                    "image_features": images,
                    "text_features": texts,
                    "valid": valid,
                },
                groups={"history": _history(losses, accuracy)},
            )
    _report(losses, accuracy, run)
    return path


def _refine(
    images: np.ndarray,
    texts: np.ndarray,
    settings: OptimizeSettings,
    *,
    seed: int,
    run: Run,
    checkpoint: Checkpoint,
) -> tuple[np.ndarray, np.ndarray]:
    """Refined features, (N, d), and the mean loss of each epoch, (epochs,)."""
    import torch

    from ..method.refinement import partition, refine_batch
    from ..models.loading import find_device

    device = find_device(run.device)
    batches = list(partition(len(images), settings.batch_size, seed))
    refined, losses, done = _resumed(images, settings.epochs, checkpoint)
    request = StopRequest()

    def save(batch: int) -> None:
        state = {"refined": refined, "losses": losses, "done": np.array(batch)}
        checkpoint.save({name: torch.from_numpy(value) for name, value in state.items()})

    total = sum(len(batch) for batch in batches)
    first = sum(len(batch) for batch in batches[:done])
    with (
        request.listening(),
        console.progress(STAGE, total, done=first, unit="items", quiet=run.quiet) as advance,
    ):
        for number in range(done, len(batches)):
            rows = batches[number].numpy()
            features, curve = refine_batch(
                torch.from_numpy(images[rows]).float().to(device),
                torch.from_numpy(texts[rows]).float().to(device),
                temperature=settings.temperature,
                lr=settings.lr,
                epochs=settings.epochs,
            )
            refined[rows] = features.cpu().numpy()
            losses += curve.cpu().numpy().astype(np.float64) * len(rows) / total
            advance(len(rows))
            if request.signal_number is not None or checkpoint.due(SECONDS_A_CHECKPOINT):
                save(number + 1)
            request.check()
    return refined, losses


def _resumed(
    images: np.ndarray, epochs: int, checkpoint: Checkpoint
) -> tuple[np.ndarray, np.ndarray, int]:
    state = checkpoint.load()
    if state is None:
        return images.copy(), np.zeros(epochs), 0
    done = int(state["done"])
    console.note(f"{STAGE}: going on after {done} mini-batches")
    return state["refined"].numpy(), state["losses"].numpy(), done


def _retrieval(images: np.ndarray, texts: np.ndarray, seed: int) -> float:
    """The share of a sample of items whose own text is the nearest of all texts."""
    import torch

    from ..method.projection import nearest

    rows = np.random.default_rng(seed).permutation(len(images))[:RETRIEVAL_SAMPLE]
    queries, keys = torch.from_numpy(images[rows]).float(), torch.from_numpy(texts).float()
    best, _ = nearest(queries, keys)
    own = (queries * keys[torch.from_numpy(rows)]).sum(dim=1)
    # A text may stand in the corpus twice; either copy is its own.
    return float((own >= best - 1e-6).float().mean())


def _history(losses: np.ndarray, accuracy: Sequence[float]) -> Mapping[str, Any]:
    return {
        "epoch": np.arange(len(losses)),
        "loss": losses.astype(np.float32),
        "retrieval_accuracy": np.array(accuracy, np.float32),
    }


def _report(losses: np.ndarray, accuracy: Sequence[float], run: Run) -> None:
    console.note(
        f"{STAGE}: loss {losses[0]:.3f} → {losses[-1]:.3f}; own text nearest for "
        f"{100 * accuracy[0]:.1f} % → {100 * accuracy[1]:.1f} % of the items",
        quiet=run.quiet,
    )
