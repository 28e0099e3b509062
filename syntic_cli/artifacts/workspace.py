"""The workspace: one folder that holds the artifacts of one run and the preset they follow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DamagedError, MissingError, StaleError, SynticError
from ..schema import STAGES
from .foreign import open_artifact
from .reading import Artifact
from .writing import atomic_path

SETTINGS = "workspace.json"


def open_input(workspace: Path, *stages: str, given: Path | None = None) -> Artifact:
    """Open the artifact that a stage reads: the one that is named, else the workspace's own.

    What is named by an option is taken as it is, and features may be made by others; the
    workspace's own must not be stale.

    Args:
        workspace: the folder of the run.
        stages: stages whose artifact will do, the one that is looked for first.
        given: a path from an option, which wins.

    Returns:
        The artifact, open; use it as a context manager.

    Raises:
        MissingError: where there is none.
        DamagedError: where it is not readable, or of another stage.
        StaleError: where it was made from something that has been made anew since.
    """
    path = given or workspace / STAGES[stages[0]].file
    if given is None and workspace.exists() and not workspace.is_dir():
        raise SynticError(f"{workspace}: is not a folder; name another --workspace")
    if given is None and not path.exists():
        raise MissingError(f"{path}: no such artifact; run `syntic {stages[0]}` first")
    artifact = Artifact(path, *stages) if given is None else open_artifact(path, *stages)
    try:
        if given is None:
            refuse_stale(artifact)
    except BaseException:
        artifact.close()
        raise
    return artifact


def refuse_stale(artifact: Artifact) -> None:
    """Refuse an artifact some of whose ancestors have since been made anew.

    Raises:
        StaleError: naming the stage to run again.
    """
    for given in artifact.recipe.inputs.values():
        path = artifact.path.parent / given.file
        if given.stage not in STAGES or not path.exists():
            continue
        with Artifact(path) as ancestor:
            if ancestor.state != given.fingerprint:
                raise StaleError(
                    f"{artifact.path}: stale, it was made from an earlier {given.file}; "
                    f"run `syntic {artifact.stage} --force` again"
                )
            # A state holds those of its inputs, so no lineage leads back to itself.
            refuse_stale(ancestor)


def remembered_preset(workspace: Path) -> str | None:
    """The preset that the workspace's first stage set, if there is one.

    Raises:
        DamagedError: where the workspace's settings cannot be read.
    """
    path = workspace / SETTINGS
    if not path.exists():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["preset"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: not readable; delete it and give --preset") from error


def begun(workspace: Path) -> bool:
    """Whether a stage has written to the workspace: an artifact, or a part of one."""
    return any(workspace.glob("*.h5*"))


@contextmanager
def preset_remembered(workspace: Path) -> Iterator[Callable[[str], None]]:
    """Give what sets the workspace's preset, unless a stage that wrote something has.

    A stage that fails before it has written anything leaves no preset behind.
    """
    path = workspace / SETTINGS
    is_new = not path.exists()

    def remember(preset: str) -> None:
        if remembered_preset(workspace) is None or not begun(workspace):
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps({"preset": preset}) + "\n", encoding="utf-8")

    try:
        yield remember
    except BaseException:
        if is_new and not begun(workspace):
            path.unlink(missing_ok=True)
        raise
