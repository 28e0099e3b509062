"""The rooms of the package: which may know which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import syntic_cli
from syntic_cli.schema import STAGES

PACKAGE = Path(syntic_cli.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(module: Path) -> set[str]:
    """The package's own modules that a module imports, wherever in it, by their dotted names."""
    names = set()
    own = module.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = own[: len(own) - node.level]
            target = [*base, *(node.module.split(".") if node.module else [])]
            names |= {".".join([*target, alias.name]) for alias in node.names}
    return names


def room(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_directions(module: Path) -> None:
    own, used = module.relative_to(PACKAGE).parts[0].removesuffix(".py"), imports(module)
    rooms = {room(name) for name in used}
    if own == "stages":
        assert "stages" not in rooms, "a stage imports a stage"
        assert "cli" not in rooms
    if own == "method":
        assert rooms <= {"method", "transfer"}, "the method knows tensors only"
    if own == "models":
        allowed = {"models", "settings", "presets", "errors", "transfer", "photos", "cache"}
        assert rooms <= allowed, "models know pretrained libraries, and no artifacts"
    if own in ("artifacts", "texts", "photos", "metrics", "passes", "fit", "captioner"):
        assert not rooms & {"stages", "cli", "options", "printing"}
    if own in ("texts", "photos"):
        assert rooms <= {own, "errors"}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_one_file_and_one_row(name: str) -> None:
    assert (PACKAGE / "stages" / f"{name}.py").is_file()
    assert callable(getattr(syntic_cli, name))
    assert name in syntic_cli.__all__
