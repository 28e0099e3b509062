"""select: pair each text anew with the image that says it best (SynC, 2025)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from .. import console
from ..artifacts.checkpoint import Checkpoint
from ..artifacts.making import making
from ..artifacts.reading import Artifact
from ..artifacts.recipe import Recipe
from ..artifacts.records import features as read_features
from ..artifacts.workspace import open_input
from ..errors import ConflictError, SynticError, plural
from ..interrupts import StopRequest
from ..schema import ENCODE, SELECT
from ..settings import Run, SelectSettings

# Texts looked at between two looks for a signal.
TEXTS = 4096
SECONDS_A_CHECKPOINT = 60.0


def select(
    workspace: str | Path,
    settings: SelectSettings,
    run: Run | None = None,
    *,
    features: Path | None = None,
    clip: Path | None = None,
    output: Path | None = None,
) -> Path:
    """Choose an image of the corpus for each text, and leave out the texts that none says well.

    Args:
        workspace: the folder of the run.
        settings: how many images and texts are looked at, and the share that stays.
        run: how the stage runs.
        features: the features, if not the workspace's own.
        clip: features of the same images and texts by another dual encoder, to choose by.
        output: the artifact, if not the workspace's own.

    Returns:
        The path of the artifact: the features with another image of each text.

    Raises:
        SynticError: where the features cannot be used, another artifact is in the way, or the
            output cannot be written.
    """
    run, folder = run or Run(), Path(workspace)
    path = output or folder / SELECT.file
    with (
        open_input(folder, ENCODE.name, given=features) as pairs,
        open_input(folder, ENCODE.name, given=clip or pairs.path) as judge,
    ):
        if (judge.recipe.origin, judge.rows) != (pairs.recipe.origin, pairs.rows):
            raise ConflictError(
                f"{judge.path}: is of other images than {pairs.path}; encode the same ones"
            )
        inputs = {"features": pairs.as_input(path)}
        if clip is not None:
            inputs["clip"] = judge.as_input(path)
        recipe = Recipe(
            SELECT.name, asdict(settings), inputs, pairs.recipe.models, pairs.recipe.origin
        )
        with making(path, recipe, run) as draft:
            if draft.up_to_date:
                return path
            image = _select(judge, settings, run, draft.checkpoint())
            before = pairs.image()
            names = ("captions", "image_features", "text_features", "valid", "error")
            draft.finish(columns={"image": image, **{n: pairs.column(n) for n in names}})
    kept = image >= 0
    used = len(np.unique(image[kept]))
    console.note(
        f"{SELECT.name}: kept {int(kept.sum()):,} of {len(image):,} {plural(len(image), 'text')}, "
        f"{int((kept & (image != before)).sum()):,} with another image; "
        f"{used:,} {plural(used, 'image')} in use",
        quiet=run.quiet,
    )
    return path


def _select(
    judge: Artifact, settings: SelectSettings, run: Run, checkpoint: Checkpoint
) -> np.ndarray:
    """The image of each text, (N,) int64, -1 for one that is left out."""
    import torch

    from ..method.selection import choose_images, keep_best, texts_of_images
    from ..models.loading import find_device

    device = find_device(run.device)
    valid = np.flatnonzero(judge.numbers("valid"))
    all_texts = read_features(judge, "text_features")
    there = np.flatnonzero(all_texts.any(axis=1))
    if not len(valid) or not len(there):
        raise SynticError(f"{judge.path}: every pair failed or was blanked; nothing to select")
    texts = torch.from_numpy(all_texts[there]).to(device)
    images = torch.from_numpy(read_features(judge, "image_features")[valid]).to(device)
    state = checkpoint.load() or {
        "standing": texts_of_images(images, texts, settings.texts).cpu(),
        "chosen": torch.zeros(len(there), dtype=torch.int64),
        "scores": torch.zeros(2, len(there)),
        "done": torch.tensor(0),
    }
    standing, request = state["standing"].to(device), StopRequest()
    done = int(state["done"])
    with (
        request.listening(),
        console.progress(
            SELECT.name, len(there), done=done, unit="texts", quiet=run.quiet
        ) as advance,
    ):
        for start in range(done, len(there), TEXTS):
            own = texts[start : start + TEXTS]
            end = start + len(own)
            chosen, *scores = choose_images(own, texts, images, standing, settings.images)
            state["chosen"][start:end] = chosen.cpu()
            state["scores"][:, start:end] = torch.stack(scores).cpu()
            state["done"] = torch.tensor(end)
            advance(len(own))
            if request.signal_number is not None or checkpoint.due(SECONDS_A_CHECKPOINT):
                checkpoint.save(state)
            request.check()
    best, cosines = state["scores"].numpy()
    kept = keep_best(best, cosines, settings.keep_best)
    image = np.full(len(all_texts), -1, np.int64)
    image[there[kept]] = valid[state["chosen"].numpy()[kept]]
    return image
