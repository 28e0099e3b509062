"""optimize: refine the image features against their texts (equations 1 and 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import console
from ..artifacts.checkpoint import Checkpoint
from ..artifacts.foreign import announce
from ..artifacts.making import making
from ..artifacts.recipe import Recipe
from ..artifacts.records import cosines_of_texts, image_of_texts
from ..artifacts.records import features as read_features
from ..artifacts.workspace import open_input
from ..errors import SynticError
from ..interrupts import StopRequest
from ..schema import ENCODE, OPTIMIZE, SELECT
from ..settings import OptimizeSettings, Run

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
        features: the features, if not the workspace's own, which are those of `select`, else of
            `encode`; also a file made by others.
        output: the artifact, if not the workspace's own.

    Returns:
        The path of the artifact: the features with refined images, the loss of each epoch and the
        share of items whose own text is the nearest, before and after.

    Raises:
        SynticError: where the features cannot be used, another artifact is in the way, or the
            output cannot be written.
    """
    run = run or Run()
    if run.dtype not in ("auto", "float32"):
        raise SynticError(
            f"--dtype {run.dtype}: optimize works in float32, its steps are too small for less"
        )
    path = output or Path(workspace) / OPTIMIZE.file
    folder = Path(workspace)
    # Who has selected wants it: what was encoded is named to leave the selection out.
    stages = [SELECT.name, ENCODE.name]
    if not (folder / SELECT.file).exists():
        stages.reverse()
    with open_input(folder, *stages, given=features) as pairs:
        announce(pairs, quiet=run.quiet)
        recipe = Recipe(
            OPTIMIZE.name,
            {**asdict(settings), "seed": seed},
            {"features": pairs.as_input(path)},
            pairs.recipe.models,
            pairs.recipe.origin,
        )
        with making(path, recipe, run) as draft:
            if draft.up_to_date:
                return path
            columns = {name: pairs.column(name) for name in ("captions", "error", "valid")}
            images = read_features(pairs, "image_features")
            texts = read_features(pairs, "text_features")
            owner = image_of_texts(pairs)
            rows = np.unique(owner[owner >= 0])
            if not len(rows):
                raise SynticError(
                    f"{pairs.path}: every pair failed or was blanked; nothing to refine"
                )
            own = Ownership(texts, np.where(owner < 0, -1, np.searchsorted(rows, owner)))
            refined, losses = _refine(
                images[rows], own, settings, seed=seed, run=run, checkpoint=draft.checkpoint()
            )
            if not np.isfinite(refined).all():
                raise SynticError(
                    f"{OPTIMIZE.name}: the features are no longer finite; give a smaller --lr and "
                    "--force"
                )
            accuracy = [_retrieval(f, own, seed) for f in (images[rows], refined)]
            images[rows] = refined
            draft.finish(
                columns={
                    **columns,
                    "image": pairs.image(),
                    "cosine": cosines_of_texts(pairs),
                    "image_features": images,
                    "text_features": texts,
                },
                groups={"history": _history(losses, accuracy)},
            )
    _report(losses, accuracy, run)
    return path


@dataclass(frozen=True)
class Ownership:
    """Text features, (N, d), and which of the images each belongs to, (N,), -1 for none."""

    texts: np.ndarray
    image: np.ndarray


def _refine(
    images: np.ndarray,
    own: Ownership,
    settings: OptimizeSettings,
    *,
    seed: int,
    run: Run,
    checkpoint: Checkpoint,
) -> tuple[np.ndarray, np.ndarray]:
    """Refined features, (N, d), and the mean loss of each epoch, (epochs,)."""
    import torch

    from ..method.refinement import TextsOfImages, partition, refine_batch
    from ..models.loading import find_device

    device = find_device(run.device)
    texts_of = TextsOfImages(torch.from_numpy(own.image), len(images))
    batches = list(partition(len(images), settings.batch_size, seed))
    refined, losses, done = _resumed(images, settings.epochs, checkpoint, run)
    request = StopRequest()

    def save(batch: int) -> None:
        state = {"refined": refined, "losses": losses, "done": np.array(batch)}
        checkpoint.save({name: torch.from_numpy(value) for name, value in state.items()})

    total = sum(len(batch) for batch in batches)
    first = sum(len(batch) for batch in batches[:done])
    with (
        request.listening(),
        console.progress(
            OPTIMIZE.name, total, done=first, unit="items", quiet=run.quiet
        ) as advance,
    ):
        for number in range(done, len(batches)):
            rows = batches[number].numpy()
            texts, which = texts_of.of(batches[number])
            features, curve = refine_batch(
                torch.from_numpy(images[rows]).float().to(device),
                torch.from_numpy(own.texts[texts.numpy()]).float().to(device),
                temperature=settings.temperature,
                lr=settings.lr,
                epochs=settings.epochs,
                image=which.to(device),
            )
            refined[rows] = features.cpu().numpy()
            losses += curve.cpu().numpy().astype(np.float64) * len(rows) / total
            advance(len(rows))
            if request.signal_number is not None or checkpoint.due(SECONDS_A_CHECKPOINT):
                save(number + 1)
            request.check()
    return refined, losses


def _resumed(
    images: np.ndarray, epochs: int, checkpoint: Checkpoint, run: Run
) -> tuple[np.ndarray, np.ndarray, int]:
    state = checkpoint.load()
    if state is None:
        return images.copy(), np.zeros(epochs), 0
    done = int(state["done"])
    console.note(f"{OPTIMIZE.name}: going on after {done} mini-batches", quiet=run.quiet)
    return state["refined"].numpy(), state["losses"].numpy(), done


def _retrieval(images: np.ndarray, own: Ownership, seed: int) -> float:
    """The share of a sample of items one of whose own texts is the nearest of all texts."""
    import torch

    from ..method.projection import nearest
    from ..method.refinement import TextsOfImages

    sample = np.random.default_rng(seed).permutation(len(images))[:RETRIEVAL_SAMPLE]
    queries = torch.from_numpy(images[sample]).float()
    owned, which = TextsOfImages(torch.from_numpy(own.image), len(images)).of(
        torch.from_numpy(sample)
    )
    best, _ = nearest(queries, torch.from_numpy(own.texts[own.image >= 0]).float())
    cosines = (queries[which] * torch.from_numpy(own.texts[owned.numpy()]).float()).sum(dim=1)
    mine = torch.full_like(best, -torch.inf).scatter_reduce(0, which, cosines, "amax")
    # A text may stand in the corpus twice; either copy is its own.
    return float((mine >= best - 1e-6).float().mean())


def _history(losses: np.ndarray, accuracy: Sequence[float]) -> Mapping[str, Any]:
    return {
        "epoch": np.arange(len(losses)),
        "loss": losses.astype(np.float32),
        "retrieval_accuracy": np.array(accuracy, np.float32),
    }


def _report(losses: np.ndarray, accuracy: Sequence[float], run: Run) -> None:
    console.note(
        f"{OPTIMIZE.name}: loss {losses[0]:.3f} → {losses[-1]:.3f}; own text nearest for "
        f"{100 * accuracy[0]:.1f} % → {100 * accuracy[1]:.1f} % of the items",
        quiet=run.quiet,
    )
