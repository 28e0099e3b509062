"""All that a report shows, read from the artifacts of one or several runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..artifacts.reading import Artifact
from ..errors import MissingError, SynticError
from ..schema import CAPTION, ENCODE, OPTIMIZE, PROJECT, SYNTHESIZE, TRAIN
from .corpus import CorpusFacts, gather_corpus
from .lineage import Lineage, artifacts_of, gather_lineage
from .pairs import Pairs, gather_pairs
from .photos import Photos, gather_photos

Part = TypeVar("Part")


@dataclass(frozen=True)
class Curves:
    """What a stage has recorded while it worked: a value an epoch, and values before and after.

    best is the epoch that was kept, None where all are.
    """

    stage: str
    lines: Mapping[str, Sequence[float]]
    best: int | None
    retrieval: Sequence[float]


@dataclass(frozen=True)
class Workspace:
    """One source: its lineage, and of the rest what is there; notes say what could not be read."""

    label: str
    folder: Path
    lineage: Lineage
    corpus: CorpusFacts | None
    pairs: Pairs | None
    curves: Sequence[Curves]
    notes: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    workspaces: Sequence[Workspace]
    photos: Photos | None
    notes: Sequence[str]


def gather(sources: Sequence[Path], items: int) -> Report:
    """Read what a report shows.

    Args:
        sources: workspaces, and artifacts of `caption` to be set beside theirs.
        items: photos, and synthetic images of all workspaces together, that are shown.

    Returns:
        The report; what could not be read is left out, with a note.

    Raises:
        MissingError: where a source is not there, or none holds an artifact.
        SynticError: where a file is no artifact of `caption`.
    """
    labels = _labels(sources)
    folders = [path for path in sources if path.is_dir()]
    workspaces, captions = [], []
    for label, source in zip(labels, sources, strict=True):
        if not source.is_dir():
            Artifact(source, CAPTION.name).close()
            captions.append((label, source))
            workspaces.append(_of_file(label, source))
            continue
        workspaces.append(_workspace(label, source, items // len(folders)))
        if (source / CAPTION.file).exists():
            captions.append((label, source / CAPTION.file))
    if not any(workspace.lineage.nodes for workspace in workspaces):
        raise MissingError(
            f"{', '.join(map(str, sources))}: holds no artifact of syntic; run a stage first, or "
            "name a workspace"
        )
    notes: list[str] = []
    readable = [one for one in captions if _attempt(notes, lambda p=one[1]: _readable(p))]  # type: ignore[misc]
    photos = _attempt(notes, lambda: gather_photos(readable, items)) if readable else None
    return Report(workspaces, photos, notes)


def _readable(captions: Path) -> bool:
    Artifact(captions, CAPTION.name).close()
    return True


def _labels(sources: Sequence[Path]) -> list[str]:
    """A short name for each source: the last part of its path where that tells them apart."""
    names = [source.resolve().name for source in sources]
    paths = [str(source) for source in sources]
    return [n if names.count(n) == 1 else p for n, p in zip(names, paths, strict=True)]


def _of_file(label: str, path: Path) -> Workspace:
    """Captions that were named alone: what they were made from."""
    return Workspace(label, path.parent, gather_lineage([path]), None, None, [])


def _workspace(label: str, folder: Path, items: int) -> Workspace:
    notes: list[str] = []
    holds_texts = [folder / stage.file for stage in (SYNTHESIZE, ENCODE, OPTIMIZE, PROJECT)]
    texts = next((path for path in holds_texts if path.exists()), None)
    curves = [_attempt(notes, lambda s=s: _curves(folder / s.file)) for s in (OPTIMIZE, TRAIN)]  # type: ignore[misc]
    pairs = _attempt(notes, lambda: gather_pairs(folder, items))
    return Workspace(
        label,
        folder,
        gather_lineage(artifacts_of(folder)),
        _attempt(notes, lambda: gather_corpus(texts)) if texts else None,
        pairs,
        [one for one in curves if one is not None],
        list(dict.fromkeys([*notes, *(pairs.notes if pairs else ())])),
    )


def _attempt(notes: list[str], read: Callable[[], Part]) -> Part | None:
    """A part of the report, or None and a note where it cannot be read."""
    try:
        return read()
    except SynticError as error:
        notes.append(str(error))
        return None


def _curves(path: Path) -> Curves | None:
    if not path.exists():
        return None
    with Artifact(path) as artifact:
        history = artifact.group("history")
        best = artifact.attributes.get("best_epoch")
        lines: dict[str, Sequence[float]] = {
            name: np.asarray(history[name], float).tolist()
            for name in ("loss", "held_out_loss")
            if name in history
        }
        if not lines:
            return None
        return Curves(
            artifact.stage,
            lines,
            None if best is None else int(best),
            history.get("retrieval_accuracy", np.zeros(0)).tolist(),
        )
