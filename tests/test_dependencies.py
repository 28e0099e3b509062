"""The package declares what it imports, and the constraints file meets what it declares."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import syntic_cli

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The extras of the package itself; the others are for those who work on it.
USED = ("cpu", "export", "ray")
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(folder: Path) -> set[str]:
    """The top-level packages that modules below a folder import, our own left out."""
    names: set[str] = set()
    for module in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"syntic_cli", "tests"}


def declared(*extras: str) -> set[str]:
    lists = [PROJECT["dependencies"], *(EXTRAS[extra] for extra in extras)]
    return {normalised(Requirement(line).name) for lines in lists for line in lines}


def test_the_package_declares_what_it_imports() -> None:
    distributions = packages_distributions()
    names = {
        normalised(name)
        for package in imported(Path(syntic_cli.__file__).parent) - {"tomli"}
        for name in distributions.get(package, [package])[:1]
    }
    assert names <= declared(*USED)


def constraints() -> dict[str, str]:
    lines = (ROOT / "examples" / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {normalised(name): version for name, version in pairs}


@pytest.mark.parametrize(
    "line", [*PROJECT["dependencies"], *(one for name in USED for one in EXTRAS[name])]
)
def test_the_constraints_meet_each_dependency(line: str) -> None:
    requirement = Requirement(line)
    if requirement.marker and not requirement.marker.evaluate():
        pytest.skip(f"not needed here: {requirement.marker}")
    assert requirement.specifier.contains(constraints()[normalised(requirement.name)])
