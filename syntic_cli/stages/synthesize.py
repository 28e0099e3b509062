"""synthesize: one image for every text of the corpus."""

from __future__ import annotations

import hashlib
import io
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
from ..artifacts.records import cut_texts, errors_of, scenes
from ..artifacts.workspace import refuse_stale
from ..corpus import Corpus
from ..errors import SynticError
from ..models.identity import PACKAGED, identity, refuse_another
from ..passes import Mapper, Opened, map_work
from ..schema import COMPOSE, SYNTHESIZE
from ..settings import Run, SynthesizeSettings
from ..texts.characters import mostly_not_latin

if TYPE_CHECKING:
    from ..models.text_to_image import Generated, TextToImage

BATCH_SIZE = {"cpu": 4, "cuda": 16, "mps": 4}
# Batches of smaller images grow to so many pixels, which keep the device busy; on CUDA as far as
# its memory goes, elsewhere up to so many images.
PIXELS = {"cpu": 4 * 512**2, "cuda": 32 * 512**2, "mps": 4 * 512**2}
MOST_WITHOUT_CUDA = 32
# Seconds a UNet pass of Stable Diffusion v1-5 takes at 512×512 on a desktop CPU, to warn with.
SECONDS_A_PASS_ON_CPU = 5.0
# Denoiser passes over batches from which on a minute of compiling is repaid.
PASSES_WORTH_COMPILING = 5_000
NOT_FINITE = "the model's image has values that are not finite"


def synthesize(
    corpus: Corpus | Path,
    workspace: str | Path,
    settings: SynthesizeSettings,
    run: Run | None = None,
    *,
    seed: int = 0,
    compiled: bool | None = None,
    output: Path | None = None,
) -> Path:
    """Generate an image for every text, or for every scene of composed texts.

    Args:
        corpus: the texts, or the artifact of `compose`.
        workspace: the folder of the run.
        settings: the model and how it samples.
        run: how the stage runs.
        seed: of the whole run; image i starts from noise of hash(seed, i).
        compiled: whether to compile the denoiser; by default on CUDA, where it is repaid.
        output: the artifact, if not the workspace's own.

    Returns:
        The path of the artifact.

    Raises:
        SynticError: where the model cannot be used, another artifact is in the way, or the output
            cannot be written.
    """
    run = run or Run()
    path = output or Path(workspace) / SYNTHESIZE.file
    source = _of_corpus(corpus) if isinstance(corpus, Corpus) else _of_scenes(corpus, path)
    if not source.prompts:
        raise SynticError(f"{corpus}: holds no scene; nothing to make an image of")
    recipe = _recipe(source, settings, run, seed)
    with making(path, recipe, run) as draft:
        if not draft.up_to_date:
            if isinstance(corpus, Corpus):
                console.notes(corpus.said(), quiet=run.quiet)
            _warn_of_script(source, settings)
            work = Generation(source, settings, recipe.settings["model"], seed, compiled)
            map_work(draft, len(source.prompts), work, run)
    with Artifact(path) as made:
        errors = made.texts("error")
        flagged = int(made.numbers("flagged").sum())
    console.failures(SYNTHESIZE.name, errors, "image")
    if flagged:
        console.warn(
            f"{SYNTHESIZE.name}: {console.count(flagged, 'image')} blanked by the safety checker; "
            "left out of training"
        )
    return path


@dataclass(frozen=True)
class Prompts:
    """What images are made of, and the texts with the image of each, (N,), -1 for none.

    inputs, models and origin are what the recipe says of where they come from.
    """

    prompts: Sequence[str]
    captions: Sequence[str]
    image: np.ndarray
    inputs: Mapping[str, Input]
    models: Mapping[str, Any]
    origin: str


def as_prompts(corpus: Corpus | Path) -> Corpus:
    """What an image is made of each, as a corpus.

    Args:
        corpus: as `synthesize` takes it.
    """
    if isinstance(corpus, Corpus):
        return corpus
    source = _of_scenes(corpus, corpus)
    return Corpus(list(source.prompts), str(corpus), source.origin)


def _of_corpus(corpus: Corpus) -> Prompts:
    given = {"corpus": Input("corpus", corpus.digest, corpus.source)}
    image = np.arange(len(corpus.captions))
    return Prompts(corpus.captions, corpus.captions, image, given, {}, corpus.digest)


def _of_scenes(path: Path, output: Path) -> Prompts:
    with Artifact(path, COMPOSE.name) as composed:
        refuse_stale(composed)
        found = scenes(composed)
        return Prompts(
            found.prompts,
            composed.texts("captions"),
            found.image,
            {"composed": composed.as_input(output)},
            composed.recipe.models,
            composed.state,
        )


@dataclass(frozen=True)
class Generation:
    """The work of drawing an image for each prompt, by the model of this identity."""

    source: Prompts
    settings: SynthesizeSettings
    identity: str
    seed: int
    compiled: bool | None
    title: ClassVar[str] = SYNTHESIZE.name
    unit: ClassVar[str] = "images"

    @contextmanager
    def open(self, run: Run) -> Iterator[Opened]:
        """Load the text-to-image model; see `passes.Work`."""
        # torch is needed from here on; an artifact that is up to date is told so without it.
        from ..models.loading import find_device, find_dtype, worth_compiling
        from ..models.text_to_image import load_text_to_image

        refuse_another(self.identity, self.settings.model, self.settings.revision)
        device = find_device(run.device)
        dtype = find_dtype(run.dtype, device)
        images = len(self.source.prompts)
        _warn_if_slow(self.settings, images, device.type)
        model = load_text_to_image(self.settings, device, dtype)
        batch_size = run.batch_size or _batch_size(model, images, run)
        passes = images * self.settings.steps // batch_size
        if worth_compiling(self.compiled, device, passes, PASSES_WORTH_COMPILING):
            model.compile()
        yield Opened(
            _mapper(model, self.source.prompts, self.settings, self.seed),
            batch_size,
            device,
            dtype,
            {"captions": self.source.captions, "image": self.source.image},
            cut_texts(model.count_cut(self.source.prompts), model.context_length),
        )


def _warn_of_script(source: Prompts, settings: SynthesizeSettings) -> None:
    if settings.model.startswith(f"{PACKAGED}tiny/") and mostly_not_latin(source.captions):
        console.warn(
            f"{SYNTHESIZE.name}: most texts are not in Latin script, and the models of the preset "
            "tiny read English; name a multilingual --model here and for `encode`"
        )


def item_seed(seed: int, index: int) -> int:
    """The seed of item `index`: it depends on the run's seed and the index alone."""
    digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
    # torch takes seeds of 63 bits on every device.
    return int.from_bytes(digest[:8], "little") >> 1


def _recipe(source: Prompts, settings: SynthesizeSettings, run: Run, seed: int) -> Recipe:
    chosen = asdict(settings)
    chosen["model"] = identity(settings.model, settings.revision)
    del chosen["revision"]
    chosen.update(run.chosen_dtype())
    return Recipe(
        SYNTHESIZE.name,
        {**chosen, "seed": seed},
        source.inputs,
        {
            **source.models,
            "text_to_image": {"model": settings.model, "revision": settings.revision},
        },
        source.origin,
    )


def _batch_size(model: TextToImage, images: int, run: Run) -> int:
    """As many images at a time as keep the device busy and fit into its memory."""
    from ..models.loading import fill_device

    kind = model.device.type
    usual, most = BATCH_SIZE[kind], PIXELS[kind] // model.settings.size**2
    if kind != "cuda":
        return max(usual, min(MOST_WITHOUT_CUDA, most))
    if images <= usual:
        return usual
    most = min(most, run.shard_size, images)
    return fill_device(lambda items: model.generate([""] * items, range(items)), model.device, most)


def _mapper(
    model: TextToImage, prompts: Sequence[str], settings: SynthesizeSettings, seed: int
) -> Mapper[int, Generated]:
    from ..models.loading import FittingBatch

    fitting = FittingBatch(console.warn)

    def compute(rows: Sequence[int]) -> list[Generated]:
        def generate(start: int, stop: int) -> list[Generated]:
            chosen = rows[start:stop]
            return model.generate(
                [prompts[row] for row in chosen], [item_seed(seed, row) for row in chosen]
            )

        return [image for part in fitting.run(generate, len(rows)) for image in part]

    def pack(first: int, results: Sequence[Any]) -> Mapping[str, Values]:
        rows = range(first, first + len(results))
        made = [
            r if isinstance(r, SynticError) or r.finite else SynticError(NOT_FINITE)
            for r in results
        ]
        return {
            "prompts": [prompts[row] for row in rows],
            "images": [
                b"" if isinstance(r, SynticError) else _jpeg(r.pixels.numpy(), settings.quality)
                for r in made
            ],
            "seeds": np.array([item_seed(seed, row) for row in rows], np.uint64),
            "flagged": np.array([getattr(r, "flagged", False) for r in results], bool),
            "error": errors_of(made),
        }

    return Mapper(read=lambda row: row, compute=compute, pack=pack)


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def _warn_if_slow(settings: SynthesizeSettings, images: int, device: str) -> None:
    if device != "cpu" or settings.size < 256:
        return
    passes = settings.steps * (2 if settings.guidance > 1 else 1)
    seconds = images * passes * SECONDS_A_PASS_ON_CPU * (settings.size / 512) ** 2
    console.warn(
        f"no GPU: {console.count(images, 'image')} of {settings.size}×{settings.size} will take "
        f"about {console.duration(seconds)}; `--preset tiny` takes minutes"
    )
