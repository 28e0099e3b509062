"""train: a caption decoder, on texts and synthetic images alone (equations 5 and 6)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import console
from ..artifacts.foreign import open_artifact
from ..artifacts.making import making
from ..artifacts.reading import Artifact
from ..artifacts.recipe import Recipe
from ..artifacts.records import features, image_of_texts, support_set
from ..artifacts.shards import Draft
from ..artifacts.workspace import open_input
from ..errors import ConflictError, MissingError, StaleError, SynticError
from ..schema import TRAIN
from ..settings import EncodeSettings, Run, TrainSettings
from ..tokenizer import encode_captions, end_token, make_tokenizer, to_bytes, word_marks

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..method.training import Pairs

# Steps from which on a minute of compiling is repaid, a step being some milliseconds on a GPU.
STEPS_WORTH_COMPILING = 10_000


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
        if settings.projection:
            inputs["support"] = stack.enter_context(_open_support(inputs["projected"], support))
        recipe = _recipe(path, settings, run, seed, inputs)
        draft = stack.enter_context(making(path, recipe, run))
        if draft.up_to_date:
            return path
        data = _read(inputs, settings, run)
        trained = _train(data, settings, run, seed, compiled, draft)
        draft.finish(
            columns={
                "support": data.support,
                "support_captions": data.support_captions,
                "vocabulary": data.vocabulary,
                "vocabulary_features": data.names,
                "tokenizer": to_bytes(data.tokenizer),
            },
            groups={
                "decoder": trained.parameters,
                "history": trained.history,
                "repetition": _repetition(data),
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
        ConflictError: where the features were made by others.
    """
    if "text_to_image" not in projected.recipe.models:
        raise ConflictError(
            f"{projected.path}: goes back to features made by others, in whose images no objects "
            "were detected; give --no-objects"
        )


def _open_support(projected: Artifact, given: Path | None) -> Artifact:
    """The file whose text features `project` used.

    Raises:
        MissingError: where it has moved.
        StaleError: where it has changed since.
    """
    recorded = projected.recipe.inputs["support"]
    path = given or projected.path.parent / recorded.file
    if not path.exists():
        raise MissingError(
            f"{path}: the support set that {projected.path.name} was made with is not there; "
            "give --support FILE"
        )
    support = open_artifact(path, "optimize", "encode", "select")
    if support.state != recorded.fingerprint:
        support.close()
        raise StaleError(
            f"{path}: not the support set that {projected.path.name} was made with; "
            "run `syntic project --force` again, or give --support FILE"
        )
    return support


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
    chosen.update(run.chosen_dtype())
    given = {role: artifact.as_input(path) for role, artifact in inputs.items()}
    return Recipe(TRAIN.name, chosen, given, models, origin)


@dataclass(frozen=True)
class _Data:
    """What the stage has read: valid texts, with the features of the image of each, and what goes
    into the captioner."""

    prefixes: np.ndarray
    images: np.ndarray
    image: np.ndarray
    tokens: np.ndarray
    token_offsets: np.ndarray
    labels: np.ndarray
    label_offsets: np.ndarray
    names: np.ndarray
    vocabulary: list[str]
    support: np.ndarray
    support_captions: list[str]
    temperature: float
    tokenizer: Any


def _read(inputs: Mapping[str, Artifact], settings: TrainSettings, run: Run) -> _Data:
    pairs = inputs["projected"]
    image = image_of_texts(pairs)
    valid = np.flatnonzero(image >= 0)
    if len(valid) < 2:
        raise SynticError(
            f"{pairs.path}: {console.count(len(valid), 'valid pair')}; at least 2 are needed"
        )
    if failed := int((pairs.image()[image < 0] >= 0).sum()):
        console.note(
            f"{TRAIN.name}: {console.count(failed, 'pair')} left out (failed or blanked)",
            quiet=run.quiet,
        )
    captions = pairs.texts("captions")
    image, captions = image[valid], [captions[row] for row in valid]
    images = features(pairs, "image_features")[image]
    tokenizer = make_tokenizer(settings.tokenizer, captions)
    tokens, token_offsets, cut = encode_captions(tokenizer, captions, settings.max_length - 1)
    if cut:
        console.warn(
            f"{TRAIN.name}: {console.count(cut, 'caption')} cut at {settings.max_length} tokens "
            "(--max-length)"
        )
    labels, label_offsets, vocabulary = _objects(inputs.get("objects"), image)
    support = np.zeros((0, images.shape[1]), np.float32)
    support_captions: list[str] = []
    if settings.projection:
        support, support_captions = support_set(inputs["support"])
    return _Data(
        prefixes=features(pairs, "projected")[image] if settings.projection else images,
        images=images,
        image=image,
        tokens=tokens,
        token_offsets=token_offsets,
        labels=labels,
        label_offsets=label_offsets,
        names=_name_features(pairs.recipe.models.get("clip", {}), vocabulary, images.shape[1]),
        vocabulary=vocabulary,
        support=support,
        support_captions=support_captions,
        temperature=float(pairs.recipe.settings["temperature"]),
        tokenizer=tokenizer,
    )


def _objects(
    artifact: Artifact | None, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels of the rows' objects, where each row's begin, and the names."""
    if artifact is None:
        return np.zeros(0, np.int32), np.zeros(len(rows) + 1, np.int64), []
    found = artifact.objects(0, artifact.rows)
    offsets, labels = found["offsets"], found["label"]
    counts = np.diff(offsets)[rows]
    chosen = [labels[offsets[row] : offsets[row + 1]] for row in rows]
    return (
        np.concatenate(chosen),
        np.concatenate([[0], np.cumsum(counts)]),
        artifact.texts("vocabulary"),
    )


def _repetition(data: _Data) -> dict[str, np.ndarray]:
    """How often the texts repeat their words, for the search to charge captions by."""
    from ..method.repetition import learn_repetition

    marks = word_marks(data.tokenizer)
    family, share = learn_repetition(data.tokens, data.token_offsets, *marks)
    return {"family": family, "share": share}


def _name_features(clip: Mapping[str, Any], names: list[str], width: int) -> np.ndarray:
    """E_text(name) of the vocabulary, (K, d)  (SynTIC, equation 4)."""
    if not names:
        return np.zeros((0, width), np.float32)
    import torch

    from ..models.clip import load_clip

    settings = EncodeSettings(**{k: v for k, v in clip.items() if k != "identity"})
    model = load_clip(settings, torch.device("cpu"), torch.float32)
    return model.encode_texts(names).numpy()


@dataclass(frozen=True)
class _Trained:
    parameters: dict[str, np.ndarray]
    history: dict[str, np.ndarray]
    config: str
    best_epoch: int


def _train(
    data: _Data,
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
        objects=settings.objects,
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        decoder = Decoder(config).to(device).train()
        fit = Fit(
            decoder,
            _on_device(data, device),
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


def _on_device(data: _Data, device: torch.device) -> Pairs:
    import torch

    from ..method.training import Pairs

    def on_host(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array))

    def moved(array: np.ndarray, dtype: torch.dtype) -> Tensor:
        return on_host(array).to(device=device, dtype=dtype)

    return Pairs(
        prefixes=moved(data.prefixes, torch.float32),
        images=moved(data.images, torch.float32),
        tokens=moved(data.tokens, torch.int32),
        token_offsets=on_host(data.token_offsets).long(),
        labels=moved(data.labels, torch.int32),
        label_offsets=on_host(data.label_offsets).long(),
        names=moved(data.names, torch.float32),
        end=end_token(data.tokenizer),
    )
