"""The workspace: one folder that holds the artifacts of one run, its preset and its lock."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .artifacts import Artifact, Input
from .errors import SynticError
from .writing import atomic_path

FILES = {
    "synthesize": "synthetic.h5",
    "encode": "features.h5",
    "optimize": "optimized.h5",
    "detect": "objects.h5",
    "project": "projected.h5",
    "train": "captioner.h5",
    "caption": "captions.h5",
    "evaluate": "scores.h5",
}
SETTINGS = "workspace.json"
LOCK = ".syntic.lock"
OWNER = ".syntic.lock.owner"


def find_input(
    workspace: Path, *stages: str, given: Path | None = None, checked: bool = True
) -> Path:
    """The artifact that a stage reads: the one that is named, else the workspace's own.

    Args:
        workspace: the folder of the run.
        stages: stages whose artifact will do, the one that is looked for first.
        given: a path from an option, which wins.
        checked: whether the artifact must not be stale.

    Raises:
        SynticError: where it is missing, not readable, of another stage, or stale.
    """
    path = given or workspace / FILES[stages[0]]
    if given is None and not path.exists():
        raise SynticError(f"{path}: no such artifact; run `syntic {stages[0]}` first")
    with Artifact(path, *stages) as artifact:
        if checked:
            refuse_stale(artifact)
    return path


def refuse_stale(artifact: Artifact) -> None:
    """Refuse an artifact some of whose ancestors have since been made anew.

    Raises:
        SynticError: naming the stage to run again.
    """
    for given in artifact.recipe.inputs.values():
        path = artifact.path.parent / given.file
        if given.stage not in FILES or not path.exists():
            continue
        with Artifact(path) as ancestor:
            if ancestor.state != given.fingerprint:
                raise SynticError(
                    f"{artifact.path}: stale, it was made from an earlier {given.file}; "
                    f"run `syntic {artifact.stage} --force` again"
                )
            refuse_stale(ancestor)


def as_input(path: Path, beside: Path) -> Input:
    """How an artifact at `path` is recorded in an output that lies at `beside`."""
    with Artifact(path) as artifact:
        return Input(artifact.stage, artifact.state, relative_name(path, beside))


def relative_name(path: Path, beside: Path) -> str:
    """The file's name where it lies in the same folder as the output, else its whole path."""
    path, folder = path.resolve(), beside.resolve().parent
    return path.name if path.parent == folder else str(path)


def remembered_preset(workspace: Path) -> str | None:
    """The preset that the workspace's first stage set, if there is one.

    Raises:
        SynticError: where the workspace's settings cannot be read.
    """
    path = workspace / SETTINGS
    if not path.exists():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["preset"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SynticError(f"{path}: not readable; delete it and give --preset") from error


def begun(workspace: Path) -> bool:
    """Whether a stage has written to the workspace: an artifact, or a part of one."""
    return any(workspace.glob("*.h5*"))


def remember_preset(workspace: Path, preset: str) -> None:
    """Set the workspace's preset, unless a stage that wrote something has."""
    if remembered_preset(workspace) is None or not begun(workspace):
        with atomic_path(workspace / SETTINGS) as temporary:
            temporary.write_text(json.dumps({"preset": preset}) + "\n", encoding="utf-8")


@contextmanager
def locked(workspace: Path) -> Iterator[None]:
    """Hold the workspace for writing; the system frees it when this process dies.

    Raises:
        SynticError: where another process holds it, naming that process.
    """
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        lock = FileLock(workspace / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise SynticError(
            f"{workspace}: in use by {_owner(workspace)}; wait for it, or give another --workspace"
        ) from None
    except OSError as error:
        raise SynticError(f"{workspace}: cannot be written ({error.strerror})") from error
    owner = workspace / OWNER
    try:
        with suppress(OSError):  # it is for a person to read, and the disk may be full
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}: {_command()}")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _owner(workspace: Path) -> str:
    try:
        return (workspace / OWNER).read_text()
    except OSError:
        return "another process"


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
