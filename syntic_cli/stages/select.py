"""select: pair each text anew with the image that says it best (SynC, 2025), or keep a part of the
texts with the images they have."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from .. import console
from ..artifacts.checkpoint import Checkpoint
from ..artifacts.making import making
from ..artifacts.reading import Artifact
from ..artifacts.recipe import Input, Recipe
from ..artifacts.records import features as read_features
from ..artifacts.workspace import open_input
from ..corpus import Corpus
from ..errors import ConflictError, MissingError, SynticError, plural, shown
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


def keep_only(
    corpus: Corpus,
    workspace: str | Path,
    run: Run | None = None,
    *,
    features: Path | None = None,
    output: Path | None = None,
) -> Path:
    """Keep the texts of a part of the corpus, and no other, each with the image that it has.

    Images are made and encoded once so, for experiments on many parts. All of them stay, those of
    no text of the part, too, so that `detect` has to be run but once.

    Args:
        corpus: the texts to keep; one that stands twice is kept as often.
        workspace: the folder of the run.
        run: how the stage runs.
        features: the features, if not the workspace's own.
        output: the artifact, if not the workspace's own.

    Returns:
        The path of the artifact: features of these texts, in the order of the corpus.

    Raises:
        MissingError: where the features are not of all of these texts.
        SynticError: as `select` does.
    """
    run, folder = run or Run(), Path(workspace)
    path = output or folder / SELECT.file
    with open_input(folder, ENCODE.name, given=features) as pairs:
        inputs = {
            "features": pairs.as_input(path),
            "corpus": Input("corpus", corpus.digest, corpus.source),
        }
        recipe = Recipe(SELECT.name, {}, inputs, pairs.recipe.models, pairs.recipe.origin)
        with making(path, recipe, run) as draft:
            if draft.up_to_date:
                return path
            rows = _rows_of(corpus.captions, pairs)
            columns = {name: pairs.column(name) for name in ("image_features", "valid", "error")}
            columns["captions"] = corpus.captions
            columns["image"] = pairs.image()[rows]
            columns["text_features"] = pairs.numbers("text_features")[rows]
            draft.finish(columns=columns)
    console.note(
        f"{SELECT.name}: {len(corpus.captions):,} of {pairs.text_rows:,} texts stay",
        quiet=run.quiet,
    )
    return path


def _rows_of(captions: Sequence[str], pairs: Artifact) -> np.ndarray:
    """Where each caption stands in the features, (N,); equal ones in turn, the last for any more.

    Raises:
        MissingError: where one stands nowhere.
    """
    places: dict[str, deque[int]] = {}
    for row, text in enumerate(pairs.texts("captions")):
        places.setdefault(text, deque()).append(row)
    missing = [text for text in captions if text not in places]
    if missing:
        raise MissingError(
            f"{pairs.path}: has no features of {console.count(len(missing), 'text')} to be kept, "
            f"such as {shown(missing[0])!r}; encode a corpus that holds them"
        )
    found = (places[text] for text in captions)
    return np.array([own.popleft() if len(own) > 1 else own[0] for own in found], np.int64)


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
