"""train: a caption decoder, on texts and synthetic images alone (equations 5 and 6)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .. import console
from ..artifacts.foreign import open_artifact
from ..artifacts.making import making
from ..artifacts.reading import Artifact
from ..artifacts.recipe import Recipe
from ..artifacts.shards import Draft
from ..artifacts.workspace import open_input
from ..errors import ConflictError, MissingError, StaleError, SynticError
from ..schema import TRAIN
from ..settings import Run, TrainSettings
from ..tokenizer import encode_captions, to_bytes, word_marks
from ..training_data import TrainingData, read_training_data

# Steps from which on a minute of compiling is repaid, a step being some milliseconds on a GPU.
STEPS_WORTH_COMPILING = 10_000
# The inputs of `project` in words.
WHAT = {"support": "support set", "features": "features file"}


def train(
    workspace: str | Path,
    settings: TrainSettings,
    run: Run | None = None,
    *,
    seed: int = 0,
    compiled: bool | None = None,
    projected: Path | None = None,
    objects: Path | None = None,
    support: Path | None = None,
    output: Path | None = None,
) -> Path:
    """Train a decoder and store it with all that captioning a photo needs.

    Args:
        workspace: the folder of the run.
        settings: the decoder and its training.
        run: how the stage runs.
        seed: of initialisation, held-out pairs, order and dropout.
        compiled: whether to compile the steps; by default on CUDA, where it is repaid.
        projected: the projected features, if not the workspace's own.
        objects: the detected objects, if not the workspace's own.
        support: the support set's features file, if it has moved since `project`.
        output: the captioner, if not the workspace's own.

    Returns:
        The path of the captioner.

    Raises:
        SynticError: where an input cannot be used, inputs do not belong together, another artifact
            is in the way, the training diverges, or the output cannot be written.
    """
    run, folder = run or Run(), Path(workspace)
    if run.dtype == "float16":
        raise SynticError(
            "--dtype float16: gradients of training vanish in it; give bfloat16 or float32"
        )
    path = output or folder / TRAIN.file
    with ExitStack() as stack:
        inputs = {"projected": stack.enter_context(open_input(folder, "project", given=projected))}
        if settings.objects:
            _refuse_without_images(inputs["projected"])
            inputs["objects"] = stack.enter_context(open_input(folder, "detect", given=objects))
        if settings.projection or settings.retrieve:
            opened = _open_recorded(inputs["projected"], "support", support)
            inputs["support"] = stack.enter_context(opened)
        if settings.from_texts:
            opened = _open_recorded(inputs["projected"], "features", None)
            inputs["texts"] = stack.enter_context(opened)
        recipe = _recipe(path, settings, run, seed, inputs)
        draft = stack.enter_context(making(path, recipe, run))
        if draft.up_to_date:
            return path
        data = read_training_data(inputs, settings, run, seed)
        trained = _train(data, settings, run, seed, compiled, draft)
        draft.finish(
            columns={
                "support": data.support,
                "support_captions": data.support_captions,
                "vocabulary": data.vocabulary,
                "vocabulary_features": data.names,
                "tokenizer": to_bytes(data.tokenizer),
                **data.words,
            },
            groups={
                "decoder": trained.parameters,
                "history": trained.history,
                "repetition": _repetition(data),
                "consensus": _consensus(data, settings),
            },
            attributes={
                "decoder_config": trained.config,
                "projection_temperature": data.temperature,
                "projection": settings.projection,
                "best_epoch": trained.best_epoch,
            },
        )
    console.note(
        f"{TRAIN.name}: {path}, epoch {trained.best_epoch + 1} of {settings.epochs} kept, "
        f"held-out loss {trained.history['held_out_loss'][trained.best_epoch]:.3f}",
        quiet=run.quiet,
    )
    return path


def _refuse_without_images(projected: Artifact) -> None:
    """Refuse to look for objects in images that syntic has not made.

    Raises:
        ConflictError: where the features are of texts alone, or were made by others.
    """
    if "text_to_image" not in projected.recipe.models:
        raise ConflictError(
            f"{projected.path}: goes back to features of texts alone, or made by others, so that "
            "there are no images whose objects were detected; give --no-objects"
        )


def _open_recorded(projected: Artifact, role: str, given: Path | None) -> Artifact:
    """The file that `project` took its `support` set, or its `features`, from.

    Raises:
        MissingError: where it has moved.
        StaleError: where it has changed since.
    """
    recorded, what = projected.recipe.inputs[role], WHAT[role]
    path = given or projected.path.parent / recorded.file
    option = ", or give --support FILE" if role == "support" else ""
    if not path.exists():
        raise MissingError(
            f"{path}: the {what} that {projected.path.name} was made with is not there; "
            f"put it there again{option}"
        )
    found = open_artifact(path, "optimize", "encode", "select")
    if found.state != recorded.fingerprint:
        found.close()
        raise StaleError(
            f"{path}: not the {what} that {projected.path.name} was made with; "
            f"run `syntic project --force` again{option}"
        )
    return found


def _recipe(
    path: Path, settings: TrainSettings, run: Run, seed: int, inputs: Mapping[str, Artifact]
) -> Recipe:
    projected, objects = inputs["projected"], inputs.get("objects")
    origin, models = projected.recipe.origin, dict(projected.recipe.models)
    if objects is not None:
        if (objects.recipe.origin, objects.rows) != (origin, projected.rows):
            raise ConflictError(
                f"{objects.path}: its rows are of other images than those of {projected.path}; "
                "run `syntic detect` on the same images"
            )
        models.update(objects.recipe.models)
    chosen = {**asdict(settings), "seed": seed}
    # What is off is left out, as before there was such a switch.
    for switch in [name for name in ("weigh", "retrieve", "from_texts") if not chosen[name]]:
        del chosen[switch]
    if not settings.retrieve:
        del chosen["retrieve_words"]
    chosen.update(run.chosen_dtype())
    given = {role: artifact.as_input(path) for role, artifact in inputs.items()}
    return Recipe(TRAIN.name, chosen, given, models, origin)


def _repetition(data: TrainingData) -> dict[str, np.ndarray]:
    """How often the texts repeat their words, for the search to charge captions by."""
    from ..method.repetition import learn_repetition

    marks = word_marks(data.tokenizer)
    family, share = learn_repetition(data.tokens, data.token_offsets, *marks)
    return {"family": family, "share": share}


def _consensus(data: TrainingData, settings: TrainSettings) -> dict[str, np.ndarray]:
    """The n-grams of the support set, for captions to be compared with; nothing without a set."""
    from ..method.consensus import learn_consensus

    if not data.support_captions:
        return {}
    encoded = encode_captions(data.tokenizer, data.support_captions, settings.max_length)
    return {name: value.numpy() for name, value in vars(learn_consensus(*encoded[:2])).items()}


@dataclass(frozen=True)
class _Trained:
    parameters: dict[str, np.ndarray]
    history: dict[str, np.ndarray]
    config: str
    best_epoch: int


def _train(
    data: TrainingData,
    settings: TrainSettings,
    run: Run,
    seed: int,
    compiled: bool | None,
    draft: Draft,
) -> _Trained:
    """Train to the end, from the checkpoint if there is one; keep the best held-out epoch."""
    import json

    import torch

    from ..fit import Fit
    from ..method.decoder import Decoder, DecoderConfig
    from ..models.loading import find_device, find_dtype, worth_compiling

    device = find_device(run.device)
    dtype = find_dtype(draft.in_its_dtype(run).dtype, device)
    draft.computed_in(device, dtype)
    config = DecoderConfig(
        vocabulary=data.tokenizer.get_vocab_size(),
        features=data.images.shape[1],
        width=settings.width,
        layers=settings.layers,
        heads=settings.heads,
        max_length=settings.max_length,
        dropout=settings.dropout,
        objects=settings.objects or settings.retrieve > 0,
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        decoder = Decoder(config).to(device).train()
        fit = Fit(
            decoder,
            data.on_device(device),
            np.diff(data.token_offsets),
            data.image,
            settings,
            seed,
            draft.checkpoint(),
            quiet=run.quiet,
        )
        if worth_compiling(compiled, device, fit.steps, STEPS_WORTH_COMPILING):
            fit.compile()
        fit.run_epochs(None if dtype == torch.float32 else dtype)
    return _Trained(
        {name: value.numpy() for name, value in fit.best.items()},
        {
            "epoch": np.arange(len(fit.curves)),
            "loss": np.array([loss for loss, _ in fit.curves], np.float32),
            "held_out_loss": np.array([loss for _, loss in fit.curves], np.float32),
        },
        json.dumps(asdict(config)),
        fit.best_epoch,
    )
