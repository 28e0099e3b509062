"""Real photos of a report: what each captioner said of them, their references, their scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ..artifacts.reading import Artifact
from ..artifacts.records import DetectedObject, find_again, named_objects
from ..errors import SynticError
from ..metrics.references import load_references
from ..passes import READERS
from ..photos import load_photo
from ..schema import CAPTION, EVALUATE
from .thumbnails import Thumbnail, thumbnail

SIDE, MOST_BYTES = 360, 13_000
WORST = 20
FIRST_METRIC = "CIDEr"


@dataclass(frozen=True)
class Said:
    """What one source said of a photo, and how it scored."""

    caption: str
    log_probability: float
    error: str
    objects: Sequence[DetectedObject]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Photo:
    """A photo with what each source said of it, by the source's number.

    image is None where the file is not there or cannot be decoded; problem then says why.
    """

    name: str
    path: str
    image: Thumbnail | None
    problem: str
    said: Mapping[int, Said]
    references: Sequence[str]
    groups: Sequence[str]


@dataclass(frozen=True)
class Scores:
    """What `evaluate` found for a source's captions."""

    items: int
    metrics: Mapping[str, float]
    per_photo: Mapping[str, Mapping[str, float]]
    references: Path
    split: str | None

    @property
    def first_metric(self) -> str:
        """By which the worst are chosen: CIDEr, else the first that there is; empty if none."""
        names = [name for name in self.metrics if name in self.per_photo]
        return FIRST_METRIC if FIRST_METRIC in names else next(iter(names), "")


@dataclass(frozen=True)
class Captions:
    """A source: captions with their scores, where `evaluate` has run on them."""

    label: str
    path: Path
    photos: int
    failed: int
    scores: Scores | None


@dataclass(frozen=True)
class Photos:
    sources: Sequence[Captions]
    total: int
    photos: Sequence[Photo]
    metrics: Sequence[str]
    notes: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Row:
    """Where a photo stands in a source."""

    row: int
    path: str
    state: str


def gather_photos(sources: Sequence[tuple[str, Path]], items: int) -> Photos:
    """The photos that the captions of all sources are of, at most `items` of them shown.

    Args:
        sources: a label and an artifact of `caption` each.
        items: how many photos to show; the worst by the first metric are among them.

    Raises:
        SynticError: where captions cannot be read.
    """
    notes: list[str] = []
    rows = [_rows(path) for _, path in sources]
    by_name = _names_are_enough(rows)
    keyed = [{_name(row.path) if by_name else row.path: row for row in one} for one in rows]
    captions = [_captions(label, path, notes) for label, path in sources]
    scores = [one.scores for one in captions]
    metrics = list(dict.fromkeys(m for one in captions if one.scores for m in one.scores.metrics))
    keys = list(dict.fromkeys(key for one in keyed for key in one))
    groups = _chosen(keys, keyed, scores, items)
    said: dict[str, dict[int, Said]] = {key: {} for key in groups}
    for number, (_, path) in enumerate(sources):
        for key, one in _said(path, keyed[number], groups, scores[number]):
            said[key][number] = one
    references = _References(captions, notes)
    folders = [path.parent for _, path in sources]
    first = {key: next(one[key] for one in keyed if key in one) for key in groups}
    with ThreadPoolExecutor(READERS) as pool:
        shown = list(pool.map(lambda key: _look_at(first[key], folders), groups))
    photos = [
        Photo(
            _name(first[key].path),
            first[key].path,
            *image,
            said[key],
            references.of(first[key].path),
            groups[key],
        )
        for key, image in zip(groups, shown, strict=True)
    ]
    return Photos(captions, len(keys), photos, metrics, notes)


def _name(path: str) -> str:
    return PurePath(path).name


def _rows(path: Path) -> list[_Row]:
    with Artifact(path, CAPTION.name) as artifact:
        columns = zip(artifact.texts("path"), artifact.column("state"), strict=True)
        return [_Row(row, photo, str(state)) for row, (photo, state) in enumerate(columns)]


def _names_are_enough(sources: Sequence[Sequence[_Row]]) -> bool:
    """Whether no source has two photos of one name; then they need not lie in one folder."""
    return all(len({_name(row.path) for row in one}) == len(one) for one in sources)


def _captions(label: str, path: Path, notes: list[str]) -> Captions:
    with Artifact(path, CAPTION.name) as artifact:
        scores = None
        try:
            scores = _scores(artifact)
        except SynticError as error:
            notes.append(str(error))
        return Captions(label, path, artifact.rows, artifact.failed, scores)


def _scores(captions: Artifact) -> Scores | None:
    """The newest scores of these very captions, in their folder.

    Raises:
        SynticError: where they cannot be read.
    """
    found: list[tuple[str, Path, str]] = []
    for path in captions.path.parent.glob("*.h5"):
        try:
            with Artifact(path, EVALUATE.name) as artifact:
                given = artifact.recipe.inputs.items()
                roles = [role for role, one in given if one.fingerprint == captions.state]
                found += [(artifact.created, path, role) for role in roles]
        except SynticError:
            continue  # of another stage, or unreadable, which the lineage says
    if not found:
        return None
    _, path, role = max(found)
    with Artifact(path, EVALUATE.name) as artifact:
        settings, attributes = artifact.recipe.settings, artifact.attributes
        metrics, group = attributes, "per_image"
        # Of several files that were compared, "captions 2" is the first of the others.
        if number := role.removeprefix("captions").strip():
            metrics = artifact.attribute("others", json.loads)[int(number) - 2]["metrics"]
            group = f"per_image_{number}"
        paths, per_photo = artifact.texts("path"), artifact.group(group)
        return Scores(
            len(paths),
            {m: float(metrics[m]) for m in settings["metrics"] if m in metrics},
            {m: dict(zip(paths, values.tolist(), strict=True)) for m, values in per_photo.items()},
            Path(artifact.recipe.inputs["references"].file),
            settings.get("split"),
        )


def _chosen(
    keys: Sequence[str],
    keyed: Sequence[Mapping[str, _Row]],
    scores: Sequence[Scores | None],
    items: int,
) -> dict[str, list[str]]:
    """Which photos to show, in the sources' order, and in which tabs beside that of all.

    The worst by CIDEr (else by the first metric) of each source, and others evenly from the rest.
    """
    worst: dict[str, list[str]] = {}
    for number, (rows, found) in enumerate(zip(keyed, scores, strict=True)):
        values = found.per_photo.get(found.first_metric, {}) if found else {}
        there = [key for key in keys if key in rows and rows[key].path in values]
        judged = sorted(there, key=lambda key: values[rows[key].path])
        for key in judged[: min(WORST, items)]:
            worst.setdefault(key, []).append(f"worst{number}")
    rest = [key for key in keys if key not in worst]
    left = max(0, min(items - len(worst), len(rest)))
    sample = {rest[i] for i in np.linspace(0, len(rest) - 1, left).round().astype(int)}
    return {key: worst.get(key, []) for key in keys if key in worst or key in sample}


def _said(
    path: Path,
    rows: Mapping[str, _Row],
    wanted: Mapping[str, Any],
    scores: Scores | None,
) -> Iterator[tuple[str, Said]]:
    with Artifact(path, CAPTION.name) as artifact:
        vocabulary = artifact.texts("vocabulary")
        per_photo = scores.per_photo if scores else {}
        for key in wanted:
            if key not in rows:
                continue
            at, photo = rows[key].row, rows[key].path
            found = artifact.objects(at, at + 1)
            yield (
                key,
                Said(
                    artifact.texts("caption", at, at + 1)[0],
                    float(artifact.numbers("log_probability", at, at + 1)[0]),
                    artifact.texts("error", at, at + 1)[0],
                    named_objects(found["label"], found["score"], found["box"], vocabulary),
                    {m: values[photo] for m, values in per_photo.items() if photo in values},
                ),
            )


class _References:
    """The references of the photos, from the files that `evaluate` has recorded."""

    def __init__(self, captions: Sequence[Captions], notes: list[str]) -> None:
        self._read = []
        files = {(o.scores.references, o.scores.split): o for o in captions if o.scores}
        for (recorded, split), one in files.items():
            path = find_again(recorded, one.path.parent)
            if path is None:
                notes.append(f"{recorded}: these references are gone, so none are shown")
                continue
            try:
                self._read.append(load_references(path, split))
            except SynticError as error:
                notes.append(f"references are left out: {error}")

    def of(self, photo: str) -> list[str]:
        for references in self._read:
            try:
                key = references.find(photo)
            except SynticError:  # ambiguous; `evaluate` would have refused it
                continue
            if key is not None:
                return references.captions[key]
        return []


def _look_at(row: _Row, folders: Sequence[Path]) -> tuple[Thumbnail | None, str]:
    """A photo's thumbnail, or why there is none; a change since it was captioned is told, too."""
    path = next((p for f in folders if (p := find_again(Path(row.path), f))), None)
    if path is None:
        return None, "the photo is not there any more"
    try:
        shown = thumbnail(load_photo(path, at_least=SIDE), SIDE, MOST_BYTES)
    except SynticError as error:
        return None, str(error)
    size = row.state.partition(" ")[0]
    changed = size.isdigit() and int(size) != path.stat().st_size
    return shown, "the photo has changed since it was captioned" if changed else ""
