"""evaluate: score captions against references with the standard metrics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..artifacts import Artifact, Input, Recipe
from ..errors import SynticError
from ..metrics import resolve, score
from ..metrics.references import load_candidates, load_references, match
from ..settings import Run
from ..workspace import FILES, as_input, find_input
from .caption import read_captions
from .rows import making

STAGE = "evaluate"
DEFAULT_METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: scores × 100, and the photos left out on either side."""

    n: int
    metrics: dict[str, float]
    missing: list[str]
    extra: list[str]
    notes: list[str] = field(default_factory=list)


def evaluate(
    references: Path,
    workspace: str | Path,
    metrics: Sequence[str] = DEFAULT_METRICS,
    run: Run | None = None,
    *,
    captions: Path | None = None,
    split: str | None = None,
    output: Path | None = None,
) -> Evaluation:
    """Score captions against references.

    Args:
        references: COCO captions JSON, Karpathy's dataset JSON, or a CSV of images and captions.
        workspace: the folder of the run.
        metrics: names from `syntic_cli.metrics.METRICS`.
        run: how the stage runs.
        captions: captions.h5 or a COCO results JSON, if not the workspace's own captions.
        split: the part of the references to score on.
        output: the artifact, if not the workspace's own.

    Returns:
        The scores; they are stored in the artifact, too, with those of each photo.

    Raises:
        SynticError: see the message.
    """
    run = run or Run()
    metrics = resolve(metrics)
    path = output or Path(workspace) / FILES[STAGE]
    source = captions or find_input(Path(workspace), "caption")
    candidates, given, left_out = _candidates(source, path)
    inputs = {"captions": given, "references": _file_input("references", references)}
    recipe = Recipe(STAGE, {"metrics": list(metrics), "split": split}, inputs)
    # A file that was named is not renamed for another.
    unrelated = _of_other_files if output is None else None
    with making(path, recipe, run, unrelated=unrelated) as making_output:
        if making_output is not None:
            matched = match(candidates, load_references(references, split))
            if not matched.ids:
                raise SynticError(
                    f"{references}: describes none of the {len(candidates)} captioned photos; "
                    "photos are matched by file name or id"
                )
            scores = score(matched.captions, matched.references, metrics)
            making_output.finish(
                columns={"path": matched.ids},
                groups={"per_image": scores.per_item},
                attributes={
                    **scores.corpus,
                    "items": len(matched.ids),
                    "missing": json.dumps(list(matched.missing)),
                    "extra": json.dumps(list(matched.extra)),
                    "notes": json.dumps([*left_out, *scores.notes]),
                },
            )
    return read_evaluation(path)


def _of_other_files(earlier: Recipe, recipe: Recipe) -> bool:
    return any(earlier.inputs[role].file != given.file for role, given in recipe.inputs.items())


def read_evaluation(path: Path) -> Evaluation:
    """The scores of an artifact of `evaluate`.

    Raises:
        SynticError: where it cannot be read.
    """
    with Artifact(path, STAGE) as artifact:
        found = artifact.attributes
        names = artifact.recipe.settings["metrics"]
        return Evaluation(
            int(found["items"]),
            {name: float(found[name]) for name in names if name in found},
            json.loads(found["missing"]),
            json.loads(found["extra"]),
            json.loads(found["notes"]),
        )


def _candidates(source: Path, path: Path) -> tuple[list[tuple[str, str]], Input, list[str]]:
    """(photo, caption) of every photo that has one, what they came from, and what was left out."""
    if source.suffix == ".json":
        return load_candidates(source), _file_input("captions", source), []
    rows = read_captions(source)
    failed = [row for row in rows if row.error]
    notes = [f"{len(failed)} photos have no caption (see `error` in {source})"] if failed else []
    good = [(row.path, row.caption) for row in rows if not row.error]
    if not good:
        raise SynticError(f"{source}: no photo in it has a caption")
    return good, as_input(source, path), notes


def _file_input(kind: str, path: Path) -> Input:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise SynticError(f"{path}: cannot be read ({error.strerror})") from error
    return Input(kind, digest, str(path))
