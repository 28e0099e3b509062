"""train: a caption decoder, on texts and synthetic images alone (equations 5 and 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import console
from ..artifacts.foreign import open_artifact
from ..artifacts.making import making
from ..artifacts.reading import Artifact, Values
from ..artifacts.recipe import Recipe
from ..artifacts.records import features, image_of_texts, support_set
from ..artifacts.shards import Draft
from ..artifacts.workspace import open_input
from ..errors import ConflictError, MissingError, StaleError, SynticError
from ..method.ragged import Ragged, join, take
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
        if settings.projection or settings.retrieve:
            inputs["support"] = stack.enter_context(_open_support(inputs["projected"], support))
        recipe = _recipe(path, settings, run, seed, inputs)
        draft = stack.enter_context(making(path, recipe, run))
        if draft.up_to_date:
            return path
        data = _read(inputs, settings, run, seed)
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
    # What is off is left out, as before there was such a switch.
    for switch in [name for name in ("weigh", "retrieve") if not chosen[name]]:
        del chosen[switch]
    if not settings.retrieve:
        del chosen["retrieve_words"]
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
    weights: np.ndarray | None
    tokens: np.ndarray
    token_offsets: np.ndarray
    labels: np.ndarray
    label_offsets: np.ndarray
    names: np.ndarray
    vocabulary: list[str]
    words: dict[str, Values]
    support: np.ndarray
    support_captions: list[str]
    temperature: float
    tokenizer: Any


def _read(inputs: Mapping[str, Artifact], settings: TrainSettings, run: Run, seed: int) -> _Data:
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
    if "support" in inputs:
        support, support_captions = support_set(inputs["support"])
    clip = pairs.recipe.models.get("clip", {})
    words: dict[str, Values] = {}
    if settings.retrieve:
        content, retrieved = _retrieve(
            (support, support_captions), images, image, captions, settings, run, seed
        )
        words = {
            "words": content,
            "word_features": _name_features(clip, content, images.shape[1]),
        }
        retrieved = (retrieved[0] + len(vocabulary), retrieved[1])
        labels, label_offsets = join((labels, label_offsets), retrieved)
    return _Data(
        prefixes=features(pairs, "projected")[image] if settings.projection else images,
        images=images,
        image=image,
        weights=_weights(pairs, valid, settings.weigh, run) if settings.weigh else None,
        tokens=tokens,
        token_offsets=token_offsets,
        labels=labels,
        label_offsets=label_offsets,
        names=_name_features(clip, vocabulary, images.shape[1]),
        vocabulary=vocabulary,
        words=words,
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
    return *take((found["label"], found["offsets"]), rows), artifact.texts("vocabulary")


def _weights(pairs: Artifact, rows: np.ndarray, scale: float, run: Run) -> np.ndarray:
    """How much the caption of each of some texts counts, (n,)."""
    import torch

    from ..method.training import clip_weights

    if "cosine" not in pairs:
        raise SynticError(
            f"{pairs.path}: has no cosines of texts and images, for an earlier syntic made it; "
            "run `syntic optimize --force` and `syntic project --force` to use --weigh"
        )
    cosines = pairs.numbers("cosine")[rows]
    weights = clip_weights(torch.from_numpy(cosines), scale).numpy()
    low, middle, high = np.quantile(cosines, [0.1, 0.5, 0.9])
    console.note(
        f"{TRAIN.name}: cosines of images and their texts {low:.2f} to {high:.2f}, median "
        f"{middle:.2f}; {100 * (weights == 1).mean():.0f} % of the captions count in full",
        quiet=run.quiet,
    )
    return weights


def _retrieve(
    support: tuple[np.ndarray, list[str]],
    images: np.ndarray,
    image: np.ndarray,
    captions: Sequence[str],
    settings: TrainSettings,
    run: Run,
    seed: int,
) -> tuple[list[str], Ragged]:
    """The content words of the support set, and the tags that texts near its image give a caption.

    A text of the support set that is word for word a caption of the image is left out: the photos
    to come have none such.
    """
    import torch

    from ..method.retrieval import Retriever, find_content_words
    from ..models.loading import find_device

    device = find_device(run.device)
    keys = torch.from_numpy(support[0]).float().to(device)
    words = find_content_words(keys, support[1], settings.retrieve, seed)
    _, first, which = np.unique(image, return_index=True, return_inverse=True)
    places: dict[str, list[int]] = {}
    for row, text in enumerate(support[1]):
        places.setdefault(text, []).append(row)
    own = {
        (row, place)
        for row, text in zip(which, captions, strict=True)
        for place in places.get(text, ())
    }
    rows, texts = torch.tensor(sorted(own), device=device).reshape(-1, 2).unbind(dim=1)
    retriever = Retriever(keys, words, settings.retrieve, settings.retrieve_words)
    tags = retriever.tags(torch.from_numpy(images[first]).float().to(device), (rows, texts))
    return words.vocabulary, take(tags, which)


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
        objects=settings.objects or settings.retrieve > 0,
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

    names = [data.names]
    if data.words:
        names += [np.asarray(data.words["word_features"]), data.support]
    return Pairs(
        prefixes=moved(data.prefixes, torch.float32),
        images=moved(data.images, torch.float32),
        tokens=moved(data.tokens, torch.int32),
        token_offsets=on_host(data.token_offsets).long(),
        labels=moved(data.labels, torch.int32),
        label_offsets=on_host(data.label_offsets).long(),
        names=moved(np.concatenate(names), torch.float32),
        weights=None if data.weights is None else moved(data.weights, torch.float32),
        end=end_token(data.tokenizer),
    )
