"""The synthetic pairs of a run: how well images fit their texts; the best, worst and failed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..artifacts.reading import Artifact
from ..artifacts.records import DetectedObject, image_of_texts, named_objects, read_image
from ..errors import SynticError
from ..schema import DETECT, ENCODE, OPTIMIZE, SYNTHESIZE
from .thumbnails import Thumbnail, thumbnail

SIDE, MOST_BYTES = 224, 5_000
ROWS_AT_A_TIME = 16384
BINS = 40
TOP_REASONS, EXAMPLES = 12, 5


@dataclass(frozen=True)
class Pair:
    """A text with its image; before and after are the cosines, NaN where there is none."""

    row: int
    text: str
    seed: int
    image: Thumbnail | None
    objects: Sequence[DetectedObject]
    before: float
    after: float
    problem: str
    groups: Sequence[str]


@dataclass(frozen=True)
class Failure:
    """Why rows failed in a stage: how many, and some of them."""

    stage: str
    reason: str
    count: int
    rows: Sequence[int]


@dataclass(frozen=True)
class Histogram:
    """counts[k] values lie from edges[k] to edges[k + 1]; mean is of all values."""

    edges: Sequence[float]
    counts: Sequence[int]
    mean: float


@dataclass(frozen=True)
class Pairs:
    """What `gather_pairs` found; cosines holds the histograms `before` and `after` optimize."""

    total: int
    pairs: Sequence[Pair]
    failures: Sequence[Failure]
    blanked: int
    cosines: Mapping[str, Histogram]
    notes: Sequence[str] = field(default_factory=list)


def gather_pairs(folder: Path, items: int) -> Pairs | None:
    """The synthetic pairs of a workspace, at most about `items` of them with their images.

    Raises:
        SynticError: where the synthetic images cannot be read.
    """
    if not (folder / SYNTHESIZE.file).exists():
        return None
    notes: list[str] = []
    with ExitStack() as stack:
        images = stack.enter_context(Artifact(folder / SYNTHESIZE.file, SYNTHESIZE.name))
        others: dict[str, Artifact] = {}
        for stage in (ENCODE, OPTIMIZE, DETECT):
            try:
                other = _of_these_images(folder / stage.file, stage.name, images)
            except SynticError as error:
                notes.append(str(error))
                continue
            if other is not None:
                others[stage.name] = stack.enter_context(other)
        cosines = {
            when: _cosines(others[name])
            for when, name in (("before", ENCODE.name), ("after", OPTIMIZE.name))
            if name in others
        }
        groups = _chosen(cosines, images.rows, items)
        failures, failed_rows = _failures([images, *others.values()])
        groups |= {row: ["failed"] for row in failed_rows if row not in groups}
        return Pairs(
            total=images.rows,
            pairs=[_pair(row, groups[row], images, others, cosines) for row in sorted(groups)],
            failures=failures,
            blanked=int(images.numbers("flagged").sum()),
            cosines=_histograms(cosines),
            notes=notes,
        )


def _of_these_images(path: Path, stage: str, images: Artifact) -> Artifact | None:
    """A stage's artifact, open, where there is one.

    Raises:
        SynticError: where it cannot be read, or is of other images than those that are there.
    """
    if not path.exists():
        return None
    artifact = Artifact(path, stage)
    if artifact.recipe.origin == images.state and artifact.rows == images.rows:
        return artifact
    artifact.close()
    raise SynticError(f"{path}: left out, it is of other images than {images.path.name}")


def _cosines(artifact: Artifact) -> np.ndarray:
    """The mean cosine of each image to its own texts, (G,); NaN where there is no valid one."""
    owner = image_of_texts(artifact)
    sums, counts = np.zeros(artifact.rows), np.zeros(artifact.rows)
    for start in range(0, len(owner), ROWS_AT_A_TIME):
        owned = start + np.flatnonzero(owner[start : start + ROWS_AT_A_TIME] >= 0)
        if not len(owned):
            continue
        # In the plain chain texts and their images are the same few rows.
        which = owner[owned]
        first, last = int(which.min()), int(which.max()) + 1
        images = artifact.numbers("image_features", first, last)[which - first].astype(np.float32)
        texts = artifact.numbers("text_features", start, start + ROWS_AT_A_TIME)[owned - start]
        lengths = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
        there = lengths > 0
        dots = (images * texts.astype(np.float32)).sum(axis=1)
        np.add.at(sums, which[there], dots[there] / lengths[there])
        np.add.at(counts, which[there], 1)
    means = np.full(artifact.rows, np.nan, np.float32)
    np.divide(sums, counts, out=means, where=counts > 0, casting="unsafe")
    return means


def _chosen(cosines: Mapping[str, np.ndarray], rows: int, items: int) -> dict[int, list[str]]:
    """Which rows to show, and as what: a third the best, a third the worst, a third of any."""
    groups: dict[int, list[str]] = defaultdict(list)
    third = max(1, items // 3)
    if cosines:
        judged = list(cosines.values())[-1]
        order = np.argsort(judged, kind="stable")
        order = order[np.isfinite(judged[order])]
        for name, some in (("worst", order[:third]), ("best", order[::-1][:third])):
            for row in some.tolist():
                groups[row].append(name)
    sample = third if cosines else items
    for row in np.unique(np.linspace(0, rows - 1, min(sample, rows)).round().astype(int)).tolist():
        groups[row].append("sample")
    return groups


def _failures(artifacts: Sequence[Artifact]) -> tuple[list[Failure], list[int]]:
    """Why rows failed, the most frequent reason first, and a row or some for each."""
    found: list[Failure] = []
    for artifact in artifacts:
        counts: Counter[str] = Counter()
        rows: dict[str, list[int]] = defaultdict(list)
        for row, reason in enumerate(artifact.column("error")) if artifact.failed else ():
            if reason:
                counts[str(reason)] += 1
                if len(rows[str(reason)]) < EXAMPLES:
                    rows[str(reason)].append(row)
        found += [
            Failure(artifact.stage, reason, count, rows[reason])
            for reason, count in counts.most_common(TOP_REASONS)
        ]
    flagged = np.flatnonzero(artifacts[0].numbers("flagged")).tolist()
    shown = [row for failure in found for row in failure.rows]
    return found, [*shown, *flagged[:EXAMPLES]]


def _pair(
    row: int,
    groups: Sequence[str],
    images: Artifact,
    others: Mapping[str, Artifact],
    cosines: Mapping[str, np.ndarray],
) -> Pair:
    problem = "blanked by the safety checker" if images.numbers("flagged", row, row + 1)[0] else ""
    try:
        shown = thumbnail(read_image(images, row, SIDE), SIDE, MOST_BYTES)
    except SynticError as error:
        shown, problem = None, str(images.column("error", row, row + 1)[0] or error)
    objects: Sequence[DetectedObject] = []
    if DETECT.name in others:
        found = others[DETECT.name].objects(row, row + 1)
        names = others[DETECT.name].texts("vocabulary")
        objects = named_objects(found["label"], found["score"], found["box"], names)
    return Pair(
        row,
        str(images.column("prompts", row, row + 1)[0]),
        int(images.numbers("seeds", row, row + 1)[0]),
        shown,
        objects,
        float(cosines["before"][row]) if "before" in cosines else np.nan,
        float(cosines["after"][row]) if "after" in cosines else np.nan,
        problem,
        groups,
    )


def _histograms(cosines: Mapping[str, np.ndarray]) -> dict[str, Histogram]:
    """Histograms over one range, so that they can be laid over one another."""
    valid = {when: values[np.isfinite(values)] for when, values in cosines.items()}
    valid = {when: values for when, values in valid.items() if len(values)}
    if not valid:
        return {}
    low = min(float(values.min()) for values in valid.values())
    high = max(float(values.max()) for values in valid.values())
    found = {}
    for when, values in valid.items():
        counts, edges = np.histogram(values, BINS, (low, max(high, low + 1e-3)))
        found[when] = Histogram(edges.tolist(), counts.tolist(), float(values.mean()))
    return found
