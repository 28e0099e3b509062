"""evaluate: score captions against references with the standard metrics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py

from .. import console
from ..artifacts.making import Earlier, making
from ..artifacts.reading import Artifact
from ..artifacts.recipe import Input, Recipe
from ..artifacts.records import read_captions
from ..artifacts.workspace import open_input
from ..errors import MissingError, SynticError
from ..metrics import resolve, score
from ..metrics.references import Candidates, load_candidates, load_references, match
from ..schema import EVALUATE
from ..settings import Run

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
    photos: Sequence[Path] | None = None,
    split: str | None = None,
    encoding: str = "utf-8",
    output: Path | None = None,
) -> Evaluation:
    """Score captions against references.

    Args:
        references: any format of texts that names a photo for each.
        workspace: the folder of the run.
        metrics: names from `syntic_cli.metrics.METRICS`.
        run: how the stage runs.
        captions: captions.h5, a COCO results JSON, or what `syntic caption` printed, if not the
            workspace's own captions.
        photos: the photos of a plain text file of captions, in its order.
        split: the part of the references to score on.
        encoding: of the references and of captions that are text.
        output: the artifact, if not the workspace's own.

    Returns:
        The scores; they are stored in the artifact, too, with those of each photo.

    Raises:
        SynticError: where captions or references cannot be read or do not belong together, a metric
            fails, another artifact is in the way, or the output cannot be written.
    """
    run = run or Run()
    metrics = resolve(metrics)
    path = output or Path(workspace) / EVALUATE.file
    candidates, given = _candidates(captions, Path(workspace), path, photos, encoding)
    inputs = {"captions": given, "references": _file_input("references", references)}
    recipe = Recipe(EVALUATE.name, {"metrics": list(metrics), "split": split}, inputs)

    def earlier(there: Artifact) -> Earlier | None:
        # A file that was named is not renamed for another.
        of_others = any(there.recipe.inputs[role].file != one.file for role, one in inputs.items())
        return Earlier((), keep=True) if of_others and output is None else None

    with making(path, recipe, run, earlier=earlier) as draft:
        if not draft.up_to_date:
            expected = load_references(references, split, encoding=encoding)
            matched = match(candidates, expected)
            if not matched.ids:
                raise MissingError(
                    f"{references}: describes none of the {len(candidates)} captioned photos; "
                    "photos are matched by file name or id"
                )
            scores = score(matched.captions, matched.references, metrics)
            draft.finish(
                columns={"path": matched.ids},
                groups={"per_image": scores.per_item},
                attributes={
                    **scores.corpus,
                    "items": len(matched.ids),
                    "missing": json.dumps(list(matched.missing)),
                    "extra": json.dumps(list(matched.extra)),
                    "notes": json.dumps([*candidates.notes, *expected.notes, *scores.notes]),
                },
            )
    return read_evaluation(path)


def read_evaluation(path: Path) -> Evaluation:
    """The scores of an artifact of `evaluate`.

    Raises:
        SynticError: where it cannot be read.
    """
    with Artifact(path, EVALUATE.name) as artifact:
        found = artifact.attributes
        names = artifact.recipe.settings["metrics"]
        return Evaluation(
            int(found["items"]),
            {name: float(found[name]) for name in names if name in found},
            json.loads(found["missing"]),
            json.loads(found["extra"]),
            json.loads(found["notes"]),
        )


def _candidates(
    given: Path | None,
    workspace: Path,
    path: Path,
    photos: Sequence[Path] | None,
    encoding: str,
) -> tuple[Candidates, Input]:
    """(photo, caption) of every photo that has one, and what they came from."""
    if given is not None and given.is_file() and not h5py.is_hdf5(given) and given.suffix != ".h5":
        found = load_candidates(given, photos=photos, encoding=encoding)
        return found, _file_input("captions", given)
    with open_input(workspace, "caption", given=given) as artifact:
        rows, as_input = read_captions(artifact), artifact.as_input(path)
        where = artifact.path
    failed = [row for row in rows if row.error]
    notes = [f"{console.count(len(failed), 'photo')} without a caption (see `error` in {where})"]
    good = [(row.path, row.caption) for row in rows if not row.error]
    if not good:
        raise MissingError(f"{where}: no photo in it has a caption")
    return Candidates(good, notes if failed else []), as_input


def _file_input(kind: str, path: Path) -> Input:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise MissingError(f"{path}: no such file; check the name") from error
    except OSError as error:
        raise SynticError(f"{path}: cannot be read ({error.strerror}); name another") from error
    return Input(kind, digest, str(path))
