"""synthesize: one image for every text of the corpus."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import console
from ..artifacts import Artifact, Input, Recipe, Values
from ..corpus import Corpus
from ..settings import Run, SynthesizeSettings, identity
from ..workspace import FILES
from .rows import Mapper, making, map_rows, report_failures

if TYPE_CHECKING:
    from ..models.text_to_image import Generated, TextToImage

STAGE = "synthesize"
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
    corpus: Corpus,
    workspace: str | Path,
    settings: SynthesizeSettings,
    run: Run | None = None,
    *,
    seed: int = 0,
    compiled: bool | None = None,
    output: Path | None = None,
) -> Path:
    """Generate an image for every text.

    Args:
        corpus: the texts.
        workspace: the folder of the run.
        settings: the model and how it samples.
        run: how the stage runs.
        seed: of the whole run; image i starts from noise of hash(seed, i).
        compiled: whether to compile the denoiser; by default on CUDA, where it is repaid.
        output: the artifact, if not the workspace's own.

    Returns:
        The path of the artifact.

    Raises:
        SynticError: see the message.
    """
    run = run or Run()
    path = output or Path(workspace) / FILES[STAGE]
    recipe = _recipe(corpus, settings, run, seed)
    with making(path, recipe, run) as making_output:
        if making_output is None:
            return path
        # From here on torch is needed; an artifact that is up to date is told so without it.
        from ..models.loading import find_device, find_dtype, worth_compiling
        from ..models.text_to_image import load_text_to_image

        device = find_device(run.device)
        _warn_if_slow(settings, len(corpus.captions), device.type)
        model = load_text_to_image(settings, device, find_dtype(run.dtype, device))
        batch_size = run.batch_size or _batch_size(model, len(corpus.captions), run)
        passes = len(corpus.captions) * settings.steps // batch_size
        if worth_compiling(compiled, device, passes, PASSES_WORTH_COMPILING):
            model.compile()
        making_output.begin()
        map_rows(
            making_output,
            len(corpus.captions),
            _mapper(model, corpus.captions, settings, seed),
            title=STAGE,
            unit="images",
            batch_size=batch_size,
            run=run,
        )
        making_output.finish()
    _report(path)
    return path


def item_seed(seed: int, index: int) -> int:
    """The seed of item `index`: it depends on the run's seed and the index alone."""
    digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
    # torch takes seeds of 63 bits on every device.
    return int.from_bytes(digest[:8], "little") >> 1


def _recipe(corpus: Corpus, settings: SynthesizeSettings, run: Run, seed: int) -> Recipe:
    chosen = asdict(settings)
    chosen["model"] = identity(settings.model, settings.revision)
    del chosen["revision"]
    chosen.update(run.chosen_dtype())
    return Recipe(
        STAGE,
        {**chosen, "seed": seed},
        {"corpus": Input("corpus", corpus.digest, corpus.source)},
        {"text_to_image": {"model": settings.model, "revision": settings.revision}},
        corpus.digest,
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
    model: TextToImage, captions: Sequence[str], settings: SynthesizeSettings, seed: int
) -> Mapper[int, Generated]:
    from ..models.loading import FittingBatch

    fitting = FittingBatch(console.warn)

    def compute(rows: Sequence[int]) -> list[Generated]:
        def generate(start: int, stop: int) -> list[Generated]:
            chosen = rows[start:stop]
            return model.generate(
                [captions[row] for row in chosen], [item_seed(seed, row) for row in chosen]
            )

        return [image for part in fitting.run(generate, len(rows)) for image in part]

    def pack(first: int, results: Sequence[Any]) -> Mapping[str, Values]:
        rows = range(first, first + len(results))
        finite = [made.finite for made in results]
        return {
            "captions": [captions[row] for row in rows],
            "images": [
                _jpeg(made.pixels.numpy(), settings.quality) if good else b""
                for made, good in zip(results, finite, strict=True)
            ],
            "seeds": np.array([item_seed(seed, row) for row in rows], np.uint64),
            "flagged": np.array([made.flagged for made in results], bool),
            "error": ["" if good else NOT_FINITE for good in finite],
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
        f"no GPU: {images} images of {settings.size}×{settings.size} will take about "
        f"{console.duration(seconds)}; `--preset tiny` takes minutes"
    )


def _report(path: Path) -> None:
    with Artifact(path) as artifact:
        errors = artifact.texts("error")
        flagged = int(artifact.numbers("flagged").sum())
    report_failures(STAGE, errors, "images")
    if flagged:
        console.warn(
            f"{STAGE}: {flagged} images were blanked by the safety checker; "
            "they are left out of training"
        )
