"""inspect: what an artifact holds, its settings, and the artifacts it was made from."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from ..artifacts.making import kept_beside
from ..artifacts.reading import CHECKSUM, Artifact
from ..artifacts.recipe import Input
from ..artifacts.records import describe_scenes
from ..artifacts.workspace import refuse_stale
from ..errors import MissingError, SynticError
from ..schema import COMPOSE, STAGES


def describe(path: Path) -> dict[str, Any]:
    """An artifact as plain values: header, settings, datasets, history and lineage.

    Raises:
        SynticError: where it cannot be read.
    """
    with Artifact(path) as artifact:
        header = artifact.attributes
        shown = {"schema", "stage", "version", "fingerprint", "settings", "inputs", "models"}
        shown |= {"origin", "created", "complete", CHECKSUM}
        return {
            "path": str(path),
            "stage": artifact.stage,
            "rows": artifact.rows,
            "version": str(header["version"]),
            "created": str(header["created"]),
            "fingerprint": artifact.fingerprint,
            "settings": dict(artifact.recipe.settings),
            "attributes": {
                **{k: _plain(v) for k, v in header.items() if k not in shown},
                **(describe_scenes(artifact) if artifact.stage == COMPOSE.name else {}),
            },
            "datasets": {
                name: list(artifact.shape(name)) for name in artifact.columns if name in artifact
            },
            "history": {k: v.tolist() for k, v in artifact.group("history").items()},
            "lineage": lineage(artifact),
        }


def describe_workspace(folder: Path) -> list[dict[str, Any]]:
    """What each stage has left in a folder: its file, rows, and whether it is of use; then the
    artifacts of other names.

    Raises:
        MissingError: where the folder holds no artifact.
    """
    entries = [_state(stage.name, folder / stage.file) for stage in STAGES.values()]
    standard = {stage.file for stage in STAGES.values()}
    kept = {path for stage in STAGES.values() for path in kept_beside(folder / stage.file)}
    for path in sorted(folder.glob("*.h5")):
        if path.name not in standard:
            entries.append(
                _state("", path, ready="kept, of other input" if path in kept else "ready")
            )
    if all(entry["state"] == "not made" for entry in entries):
        raise MissingError(f"{folder}: holds no artifact of syntic")
    return entries


def _state(stage: str, path: Path, ready: str = "ready") -> dict[str, Any]:
    """What is at a path: of the stage, or of whichever it names itself where that is empty."""
    entry: dict[str, Any] = {"stage": stage, "file": path.name, "rows": None, "state": "not made"}
    if any(path.parent.glob(f"{glob.escape(path.name)}.*parts")):
        entry["state"] = "unfinished, run the stage again"
    if path.exists():
        try:
            with Artifact(path, *filter(None, [stage])) as artifact:
                entry["stage"], entry["rows"] = artifact.stage, artifact.rows
                refuse_stale(artifact)
            entry["state"] = ready
        except SynticError as error:
            entry["state"] = str(error).removeprefix(f"{path}: ")
    return entry


def lineage(artifact: Artifact) -> list[dict[str, Any]]:
    """What an artifact was made from, each with what that was made from in turn."""
    return [
        _ancestor(role, given, artifact.path.parent)
        for role, given in artifact.recipe.inputs.items()
    ]


def _ancestor(role: str, given: Input, folder: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "role": role,
        "stage": given.stage,
        "file": given.file,
        "fingerprint": given.fingerprint,
        "state": "",
        "lineage": [],
    }
    path = folder / given.file
    if given.stage not in STAGES:
        return entry
    if not path.exists():
        return {**entry, "state": "not here"}
    with Artifact(path) as ancestor:
        if ancestor.state != given.fingerprint:
            return {**entry, "state": "made anew since: stale"}
        # A state holds those of its inputs, so no lineage leads back to itself.
        return {**entry, "lineage": lineage(ancestor)}


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
