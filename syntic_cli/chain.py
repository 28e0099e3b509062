"""The whole chain: each stage with the preset's settings, going on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import console
from .corpus import Corpus
from .presets import Preset, makes_images, resolve
from .schema import ENCODE, STAGES, TRAIN
from .settings import Run, TrainSettings

if TYPE_CHECKING:
    from .artifacts.records import Caption
    from .stages.evaluate import Evaluation


@dataclass(frozen=True)
class Chain:
    """What the whole chain is run on.

    photos are captioned at the end, references score their captions; both may be absent.
    """

    corpus: Corpus
    workspace: Path
    preset: Preset
    seed: int = 0
    photos: Sequence[Path] = field(default_factory=tuple)
    references: Path | None = None

    def settings(self, stage: str) -> Any:
        """A stage's settings by the preset."""
        kind = STAGES[stage].settings
        assert kind is not None
        return resolve(kind, self.preset)


def run_chain(chain: Chain, run: Run) -> tuple[list[Caption], Evaluation | None]:
    """Run every stage that is not up to date.

    A preset that names no text-to-image model is of texts alone: they are encoded without images,
    and there is nothing to refine or to detect.

    Args:
        chain: the corpus, the photos and the preset.
        run: how every stage runs.

    Returns:
        The photos' captions, and their scores where there are references.

    Raises:
        SynticError: where a stage cannot run; what is finished is kept.
    """
    began, captions, evaluation = time.monotonic(), list[Any](), None
    steps = _steps(chain, run)
    for number, step in enumerate(steps, 1):
        with console.part(number, len(steps)):
            result = step()
        if isinstance(result, list):
            captions = result
        elif not isinstance(result, Path):
            evaluation = result
    console.note(
        f"run: {len(steps)} stages in {console.duration(time.monotonic() - began)}; the captioner "
        f"is {chain.workspace / TRAIN.file}",
        quiet=run.quiet,
    )
    return captions, evaluation


def _steps(chain: Chain, run: Run) -> list[Callable[[], Any]]:
    from .stages.caption import caption_and_read
    from .stages.detect import detect
    from .stages.encode import encode, encode_texts
    from .stages.evaluate import evaluate
    from .stages.optimize import optimize
    from .stages.project import project
    from .stages.synthesize import synthesize
    from .stages.train import train

    # Their mini-batches are part of the method, and no number of rows that fit a device.
    whole = replace(run, batch_size=None)
    training = resolve(TrainSettings, chain.preset)
    seed = chain.seed

    def stage(function: Callable[..., Path], how: Run, **more: Any) -> Callable[[], Path]:
        return partial(function, chain.workspace, chain.settings(function.__name__), how, **more)

    def of_corpus(function: Callable[..., Path], name: str, **more: Any) -> Callable[[], Path]:
        settings = chain.settings(name)
        return partial(function, chain.corpus, chain.workspace, settings, run, **more)

    steps: list[Callable[[], Any]] = [of_corpus(encode_texts, "encode")]
    if makes_images(chain.preset):
        steps = [
            of_corpus(synthesize, "synthesize", seed=seed),
            stage(encode, run),
            stage(optimize, whole, seed=seed),
            *([stage(detect, run)] if training.objects else []),
        ]
    # Features of texts alone are not refined, so there is no optimized.h5 to look for.
    alone = {} if makes_images(chain.preset) else {"features": chain.workspace / ENCODE.file}
    steps += [stage(project, run, **alone), stage(train, whole, seed=seed)]
    if chain.photos:
        steps.append(
            partial(caption_and_read, chain.photos, chain.workspace, chain.settings("caption"), run)
        )
        if chain.references is not None:
            steps.append(partial(evaluate, chain.references, chain.workspace, run=run))
    return steps
