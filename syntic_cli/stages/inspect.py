"""inspect: what an artifact holds, its settings, and the artifacts it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..artifacts import COLUMNS, Artifact, Input
from ..errors import SynticError
from ..workspace import FILES, refuse_stale


def describe(path: Path) -> dict[str, Any]:
    """An artifact as plain values: header, settings, datasets, history and lineage.

    Raises:
        SynticError: where it cannot be read.
    """
    with Artifact(path) as artifact:
        header = artifact.attributes
        shown = {"schema", "stage", "version", "fingerprint", "settings", "inputs", "models"}
        shown |= {"origin", "created", "complete"}
        return {
            "path": str(path),
            "stage": artifact.stage,
            "rows": artifact.rows,
            "version": str(header["version"]),
            "created": str(header["created"]),
            "fingerprint": artifact.fingerprint,
            "settings": dict(artifact.recipe.settings),
            "attributes": {k: _plain(v) for k, v in header.items() if k not in shown},
            "datasets": {name: list(artifact.shape(name)) for name in COLUMNS[artifact.stage]},
            "history": {k: v.tolist() for k, v in artifact.group("history").items()},
            "lineage": lineage(artifact),
        }


def describe_workspace(folder: Path) -> list[dict[str, Any]]:
    """What each stage has left in a workspace: its file, rows, and whether it is of use.

    Raises:
        SynticError: where the folder holds no artifact.
    """
    found = [_state(stage, folder / name) for stage, name in FILES.items()]
    if all(entry["state"] == "not made" for entry in found):
        raise SynticError(f"{folder}: holds no artifact of syntic")
    return found


def _state(stage: str, path: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {"stage": stage, "file": path.name, "rows": None, "state": "not made"}
    if any(path.parent.glob(f"{path.name}.*parts")):
        entry["state"] = "unfinished, run the stage again"
    if path.exists():
        try:
            with Artifact(path, stage) as artifact:
                entry["rows"] = artifact.rows
                refuse_stale(artifact)
            entry["state"] = "ready"
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
    found: dict[str, Any] = {
        "role": role,
        "stage": given.stage,
        "file": given.file,
        "fingerprint": given.fingerprint,
        "state": "",
        "lineage": [],
    }
    path = folder / given.file
    if given.stage not in COLUMNS:
        return found
    if not path.exists():
        return {**found, "state": "not here"}
    with Artifact(path) as ancestor:
        state = "" if ancestor.state == given.fingerprint else "made anew since: stale"
        return {**found, "state": state, "lineage": lineage(ancestor)}


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
