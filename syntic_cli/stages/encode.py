"""encode: features of every synthetic image and of every text, or of texts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import console
from ..artifacts.making import making
from ..artifacts.reading import Artifact, Values
from ..artifacts.recipe import Input, Recipe
from ..artifacts.records import cut_texts, errors_of, features, read_image, reopen
from ..artifacts.workspace import open_input
from ..corpus import Corpus
from ..errors import SynticError
from ..models.identity import identity, refuse_another, same_model
from ..passes import Mapper, Opened, map_work
from ..photos import preparing
from ..schema import ENCODE
from ..settings import EncodeSettings, Run

if TYPE_CHECKING:
    from ..models.clip import Clip

# On a CPU small batches are twice as fast: their activations stay in the cache.
BATCH_SIZE = {"cpu": 4, "cuda": 256, "mps": 64}
TEXTS = {"cpu": 64, "cuda": 1024, "mps": 256}
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
    """Encode every synthetic image and every text with the dual encoder.

    Text features that `compose` has made with the same model are taken over.

    Args:
        workspace: the folder of the run.
        settings: the dual encoder.
        run: how the stage runs.
        compiled: whether to compile the image tower; by default on CUDA, where it is repaid.
        synthetic: the images, if not the workspace's own.
        output: the artifact, if not the workspace's own.

    Returns:
        The path of the artifact: unit-length features of the images, and of the texts in the
        corpus's order; images that failed or were blanked are marked as not valid.

    Raises:
        SynticError: where an input or the model cannot be used, another artifact is in the way, or
            the output cannot be written.
    """
    run = run or Run()
    path = output or Path(workspace) / ENCODE.file
    name = identity(settings.model, settings.revision, settings.pretrained)
    with open_input(Path(workspace), "synthesize", given=synthetic) as pairs:
        recipe = Recipe(
            ENCODE.name,
            {"model": name, **run.chosen_dtype()},
            {"synthetic": pairs.as_input(path)},
            {**pairs.recipe.models, "clip": {**asdict(settings), "identity": name}},
            pairs.state,
        )
        with making(path, recipe, run) as draft:
            if not draft.up_to_date:
                composed = _composed(pairs, name)
                work = Encoding(pairs.path, pairs.state, settings, name, compiled, composed)
                map_work(draft, max(pairs.rows, pairs.text_rows), work, run)
    with Artifact(path) as made:
        console.failures(ENCODE.name, made.texts("error"), "pair")
    return path


def encode_texts(
    corpus: Corpus,
    workspace: str | Path,
    settings: EncodeSettings,
    run: Run | None = None,
    *,
    output: Path | None = None,
) -> Path:
    """Encode texts that have no images: each one's own feature stands in for its image's.

    What DeCap (Li et al., ICLR 2023) trains on. `project` and `train` take it as features of
    images, `train` without objects.

    Args:
        corpus: the texts.
        workspace: the folder of the run.
        settings: the dual encoder.
        run: how the stage runs.
        output: the artifact, if not the workspace's own.

    Returns:
        The path of the artifact.

    Raises:
        SynticError: where the model cannot be used, another artifact is in the way, or the output
            cannot be written.
    """
    run = run or Run()
    path = output or Path(workspace) / ENCODE.file
    name = identity(settings.model, settings.revision, settings.pretrained)
    recipe = Recipe(
        ENCODE.name,
        {"model": name, "images": "none, texts alone", **run.chosen_dtype()},
        {"corpus": Input("corpus", corpus.digest, corpus.source)},
        {"clip": {**asdict(settings), "identity": name}},
        corpus.digest,
    )
    with making(path, recipe, run) as draft:
        if not draft.up_to_date:
            work = TextEncoding(corpus.captions, settings, name)
            map_work(draft, len(corpus.captions), work, run)
    with Artifact(path) as made:
        console.failures(ENCODE.name, made.texts("error"), "text")
    return path


@dataclass(frozen=True)
class TextEncoding:
    """The work on each of some texts by the model of this identity."""

    captions: Sequence[str]
    settings: EncodeSettings
    identity: str
    title: ClassVar[str] = ENCODE.name
    unit: ClassVar[str] = "texts"

    @contextmanager
    def open(self, run: Run) -> Iterator[Opened]:
        """Load the dual encoder; see `passes.Work`."""
        from ..models.clip import load_clip
        from ..models.loading import find_device, find_dtype

        device = find_device(run.device)
        dtype = find_dtype(run.dtype, device)
        chosen = self.settings
        refuse_another(self.identity, chosen.model, chosen.revision, chosen.pretrained)
        model = load_clip(chosen, device, dtype, with_openvino=run.openvino)
        yield Opened(
            _text_mapper(model, self.captions),
            run.batch_size or TEXTS[device.type],
            device,
            dtype,
            {"captions": self.captions, "image": np.arange(len(self.captions))},
            cut_texts(model.count_cut(self.captions), model.context_length),
            model.runtime if model.texts else "torch",
        )


@dataclass(frozen=True)
class Encoding:
    """The work on each image and text of the artifact at `source` while it is in this state, by the
    model of this identity.

    features: an artifact of `compose` with the texts' features by the same model, if there is one.
    """

    source: Path
    state: str
    settings: EncodeSettings
    identity: str
    compiled: bool | None
    features: Path | None = None
    title: ClassVar[str] = ENCODE.name
    unit: ClassVar[str] = "pairs"

    @contextmanager
    def open(self, run: Run) -> Iterator[Opened]:
        """Load the dual encoder; see `passes.Work`."""
        from ..models.clip import load_clip
        from ..models.loading import find_device, find_dtype, worth_compiling

        device = find_device(run.device)
        dtype = find_dtype(run.dtype, device)
        chosen = self.settings
        refuse_another(self.identity, chosen.model, chosen.revision, chosen.pretrained)
        with reopen(self.source, self.state, "synthesize") as pairs:
            # Who asks for torch's compiler gets torch.
            with_openvino = run.openvino and not self.compiled
            model = load_clip(self.settings, device, dtype, with_openvino=with_openvino)
            batch_size = run.batch_size or BATCH_SIZE[device.type]
            batches = pairs.rows // batch_size
            if worth_compiling(self.compiled, device, batches, BATCHES_WORTH_COMPILING):
                model.compile()
            captions = pairs.texts("captions")
            given = self._given(str(dtype).removeprefix("torch."))
            yield Opened(
                _mapper(model, pairs, captions, given),
                batch_size,
                device,
                dtype,
                {"captions": captions, "image": pairs.image()},
                cut_texts(model.count_cut(captions), model.context_length),
                model.runtime,
            )

    def _given(self, dtype: str) -> np.ndarray | None:
        """Text features that were computed in the same dtype already."""
        if self.features is None:
            return None
        with Artifact(self.features, "compose") as composed:
            if composed.attributes.get("dtype") != dtype:
                return None
            return features(composed, "text_features")


def _composed(pairs: Artifact, name: str) -> Path | None:
    """The artifact of `compose` that the images were made from, where it has text features of this
    dual encoder."""
    given = pairs.recipe.inputs.get("composed")
    path = pairs.path.parent / given.file if given else None
    if given is None or path is None or not path.exists():
        return None
    with Artifact(path, "compose") as composed:
        encoder = composed.recipe.models["clip"]["identity"]
        same = composed.state == given.fingerprint and same_model(encoder, name)
    return path if same else None


def _text_mapper(model: Clip, captions: Sequence[str]) -> Mapper[str, np.ndarray]:
    import torch

    from ..models.loading import FittingBatch

    fitting = FittingBatch(console.warn)

    def compute(texts: Sequence[str]) -> list[np.ndarray]:
        parts = fitting.run(lambda a, b: model.encode_texts(texts[a:b]), len(texts))
        return list(torch.cat(parts).numpy())

    def pack(first: int, results: Sequence[Any]) -> Mapping[str, Values]:
        good = [row for row in results if not isinstance(row, SynticError)]
        zeros = np.zeros_like(good[0] if good else model.encode_texts([""]).numpy()[0])
        rows = [zeros if isinstance(row, SynticError) else row for row in results]
        errors = errors_of(results)
        return {
            "image_features": np.stack(rows),
            "text_features": np.stack(rows),
            "valid": np.array([not error for error in errors], bool),
            "error": errors,
        }

    return Mapper(read=lambda row: captions[row], compute=compute, pack=pack)


@dataclass(frozen=True)
class _Row:
    """Image and text of one row, or their features: `image` is preprocessed, or None where there is
    none (why, if there should be one, is the error); `text` is None where there are fewer texts."""

    image: Any
    text: Any
    error: str = ""


def _mapper(
    model: Clip, pairs: Artifact, captions: Sequence[str], given: np.ndarray | None
) -> Mapper[_Row, _Row]:
    import torch

    from ..models.loading import FittingBatch
    from ..transfer import stack_on

    fitting = FittingBatch(console.warn)
    flagged = pairs.numbers("flagged")

    def read(row: int) -> _Row:
        text = captions[row] if row < len(captions) else None
        if text is not None and given is not None:
            text = given[row]
        if row >= pairs.rows:
            return _Row(None, text)
        try:
            with preparing(f"image of row {row}"):
                image = read_image(pairs, row, model.image_size)
                return _Row(model.preprocess(image), text)
        except SynticError as error:
            return _Row(None, text, str(error))

    def compute(rows: Sequence[_Row]) -> list[_Row]:
        pixels = [row.image for row in rows if row.image is not None]
        texts = [row.text for row in rows if isinstance(row.text, str)]
        images = fitting.run(
            lambda start, stop: model.encode_images(stack_on(pixels[start:stop], model.device)),
            len(pixels),
        )
        encoded = fitting.run(lambda start, stop: model.encode_texts(texts[start:stop]), len(texts))
        found = iter(torch.cat(images).numpy() if images else ())
        said = iter(torch.cat(encoded).numpy() if encoded else ())
        return [
            _Row(
                None if row.image is None else next(found),
                next(said) if isinstance(row.text, str) else row.text,
                row.error,
            )
            for row in rows
        ]

    def pack(first: int, results: Sequence[Any]) -> Mapping[str, Values]:
        rows = [_Row(None, None, str(r)) if isinstance(r, SynticError) else r for r in results]
        there = [value for row in rows for value in (row.image, row.text) if value is not None]
        # A failed row keeps its place, with zeros for what is not there.
        zeros = np.zeros_like(there[0] if there else model.encode_texts([""]).numpy()[0])

        def stacked(values: Sequence[Any]) -> np.ndarray:
            filled = [zeros if value is None else value for value in values]
            return np.stack(filled) if filled else np.empty((0, len(zeros)), zeros.dtype)

        images, texts = rows[: max(0, pairs.rows - first)], rows[: max(0, len(captions) - first)]
        errors = [row.error for row in images]
        return {
            "image_features": stacked([row.image for row in images]),
            "text_features": stacked([row.text for row in texts]),
            "valid": np.array([not error for error in errors], bool)
            & ~flagged[first : first + len(images)],
            "error": errors,
        }

    return Mapper(read=read, compute=compute, pack=pack)
