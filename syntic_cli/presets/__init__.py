"""Presets: TOML files that name models and settings, and how options go over them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DamagedError, MissingError, SynticError
from ..schema import STAGES, SYNTHESIZE
from ..settings import fields_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent
# The captioner that ships with the package, and the preset that says how it decodes.
SHIPPED = FOLDER / "tiny" / "captioner.h5"
SHIPPED_PRESET = "tiny"

Settings = TypeVar("Settings")
Preset = Mapping[str, Mapping[str, Any]]
# What says which of its versions a model is.
TAGS = {"model": ("revision", "pretrained"), "writer": ("writer_model", "writer_revision")}


def preset_names() -> list[str]:
    """Names of the presets that come with syntic."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_preset(name: str) -> dict[str, dict[str, Any]]:
    """Read a preset by its name or the path of a TOML file.

    A file that says `base = "tiny"` at its head goes over that preset, value by value.

    Raises:
        MissingError: where it does not exist.
        DamagedError: where it is no TOML.
        SynticError: where it has an unknown section or key, or a value of another type.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise MissingError(
            f"--preset {name}: no such preset; "
            f"take one of {', '.join(preset_names())} or the path of a .toml file"
        )
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path}: not a readable TOML file ({error})") from error
    base = sections.pop("base", None)
    if base is not None and base not in preset_names():
        raise SynticError(f"{path}: base = {base!r}: must be one of {', '.join(preset_names())}")
    under = load_preset(base) if base else {}
    for section, values in sections.items():
        _check_section(path, section, values)
        _resolve_folder(values, path.parent)
    return {
        name: over(under.get(name, {}), sections.get(name, {})) for name in {**under, **sections}
    }


def _check_section(path: Path, section: str, values: object) -> None:
    kinds = {name: stage.settings for name, stage in STAGES.items() if stage.settings}
    if section not in kinds or not isinstance(values, dict):
        raise SynticError(f"{path}: unknown section {section!r}; known: {', '.join(kinds)}")
    known = {field.name: field for field in fields_of(kinds[section])}
    for key, value in values.items():
        if key not in known:
            raise SynticError(
                f"{path}: [{section}] has no {key!r}; known: {', '.join(sorted(known))}"
            )
        if wrong := known[key].check(value):
            raise SynticError(f"{path}: [{section}] {key} = {value!r}: {wrong}")


def _resolve_folder(values: dict[str, Any], beside: Path) -> None:
    """A model folder given relative to the preset file becomes a path that works anywhere."""
    model = values.get("model", "")
    if model.startswith(("./", "../")):
        values["model"] = str((beside / model).resolve())


def over(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values with those given over them; a model that is named brings none of the tags of the one
    before along."""
    tags = {tag for named, its in TAGS.items() if named in given for tag in its}
    return {**{name: value for name, value in values.items() if name not in tags}, **given}


def makes_images(preset: Preset) -> bool:
    """Whether a preset names a text-to-image model; without one the chain is of texts alone."""
    return "model" in preset.get(SYNTHESIZE.name, {})


def resolve(kind: type[Settings], preset: Preset, **options: Any) -> Settings:
    """A stage's settings: the preset's values under the options that were given (not None).

    Raises:
        SynticError: where a value is missing or out of its range.
    """
    (section,) = [name for name, stage in STAGES.items() if stage.settings is kind]
    given = {name: value for name, value in options.items() if value is not None}
    values = over(preset.get(section, {}), given)
    try:
        return kind(**values)
    except TypeError as error:
        raise SynticError(
            f"preset: [{section}] lacks a value ({error}); give it by its option, such as --model"
        ) from error
