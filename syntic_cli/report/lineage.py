"""What a run's artifacts were made from, each with its settings, models, age, and state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..artifacts.making import kept_beside
from ..artifacts.reading import Artifact
from ..artifacts.recipe import Input
from ..artifacts.workspace import refuse_stale
from ..errors import StaleError, SynticError
from ..schema import STAGES

READY, STALE, BROKEN, OUTSIDE, ABSENT = "ready", "stale", "unreadable", "given", "not here"


@dataclass(frozen=True)
class Node:
    """An artifact, or something given from outside that an artifact was made from.

    state is one of those above; problem says in a line what is wrong, where something is.
    """

    key: str
    stage: str
    name: str
    state: str
    problem: str = ""
    rows: int = 0
    created: str = ""
    version: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Edge:
    """That `target` was made from `source`; not `fresh` where that has been made anew since."""

    source: str
    target: str
    role: str
    fresh: bool


@dataclass(frozen=True)
class Lineage:
    nodes: Sequence[Node]
    edges: Sequence[Edge]


def artifacts_of(folder: Path) -> list[Path]:
    """The artifacts of a workspace: in the order of the stages, then those of other names.

    Earlier results that a stage has kept beside its own are left out.
    """
    standard = [folder / stage.file for stage in STAGES.values()]
    kept = {path for own in standard for path in kept_beside(own)}
    others = sorted(path for path in folder.glob("*.h5") if path not in {*standard, *kept})
    return [*(path for path in standard if path.exists()), *others]


def gather_lineage(paths: Iterable[Path]) -> Lineage:
    """The artifacts at these paths with all that they were made from."""
    nodes: dict[str, Node] = {}
    edges: dict[tuple[str, str], Edge] = {}
    states: dict[str, str] = {}
    inputs: list[tuple[str, Path, str, Input]] = []
    for path in paths:
        key = _key(path)
        nodes[key], made_from = _node(path, states)
        inputs += [(key, path.parent, role, one) for role, one in made_from.items()]
    for target, folder, role, given in inputs:
        node = _given_node(folder, given, nodes)
        nodes.setdefault(node.key, node)
        fresh = states.get(node.key, given.fingerprint) == given.fingerprint
        # Features that are their own support set are one arrow.
        edges.setdefault((node.key, target), Edge(node.key, target, role, fresh))
    return Lineage(list(nodes.values()), list(edges.values()))


def _key(path: Path) -> str:
    return str(path.resolve())


def _node(path: Path, states: dict[str, str]) -> tuple[Node, Mapping[str, Input]]:
    try:
        with Artifact(path) as artifact:
            states[_key(path)] = artifact.state
            problem = _staleness(artifact)
            node = Node(
                _key(path),
                artifact.stage,
                path.name,
                STALE if problem else READY,
                problem,
                artifact.rows,
                artifact.created,
                str(artifact.attributes.get("version", "")),
                artifact.recipe.settings,
                {role: _model(model) for role, model in artifact.recipe.models.items()},
            )
            return node, artifact.recipe.inputs
    except SynticError as error:
        stage = next((stage.name for stage in STAGES.values() if stage.file == path.name), "")
        problem = str(error).removeprefix(f"{path}: ")
        return Node(_key(path), stage, path.name, BROKEN, problem), {}


def _staleness(artifact: Artifact) -> str:
    try:
        refuse_stale(artifact)
    except StaleError as error:
        return str(error).removeprefix(f"{artifact.path}: ")
    except SynticError as error:
        return f"made from what cannot be read now ({error})"
    return ""


def _model(model: Any) -> str:
    """A frozen model in a line: its name, tag and revision, else what identifies it."""
    if not isinstance(model, dict):
        return str(model)
    named = [model.get(part) for part in ("model", "pretrained", "revision")]
    return " ".join(str(part) for part in named if part) or str(model.get("identity", ""))


def _given_node(folder: Path, given: Input, nodes: Mapping[str, Node]) -> Node:
    if given.stage not in STAGES:
        return Node(f"{given.stage} {given.file}", given.stage, Path(given.file).name, OUTSIDE)
    path = folder / given.file
    if _key(path) in nodes:
        return nodes[_key(path)]
    if path.exists():
        return _node(path, {})[0]
    return Node(_key(path), given.stage, path.name, ABSENT, "not here any more")
