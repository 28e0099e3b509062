"""Settings: one typed dataclass a stage, filled from a preset (TOML) and then from options."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from .errors import SynticError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = Path(__file__).parent / "presets"
DEFAULT_PRESET = "paper"
# A model named so lies in the package's own presets folder, on whatever machine that is.
PACKAGED = "preset:"
HASHED_BYTES = 1 << 16
# What TOML may give for a setting of a type; a bool is no int here.
TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
}


@dataclass(frozen=True)
class SynthesizeSettings:
    """Text to image. steps, guidance and size (pixels a side) as diffusers takes them."""

    stage: ClassVar[str] = "synthesize"
    model: str
    revision: str | None = None
    steps: int = 20
    size: int = 512
    guidance: float = 7.5
    safety_checker: bool = False
    quality: int = 95


@dataclass(frozen=True)
class EncodeSettings:
    """A dual encoder: an open_clip name and pretrained tag, a hub id and revision, or a folder."""

    stage: ClassVar[str] = "encode"
    model: str
    pretrained: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class OptimizeSettings:
    """Equations 1 and 2. batch_size is the contrastive mini-batch: it changes the result."""

    stage: ClassVar[str] = "optimize"
    temperature: float = 0.01
    lr: float = 1e-5
    epochs: int = 100
    batch_size: int = 512


@dataclass(frozen=True)
class DetectSettings:
    """Objects with at least `threshold` of confidence, the best `max_objects` of an image."""

    stage: ClassVar[str] = "detect"
    model: str
    revision: str | None = None
    threshold: float = 0.7
    max_objects: int = 10


@dataclass(frozen=True)
class ProjectSettings:
    """Equation 3."""

    stage: ClassVar[str] = "project"
    temperature: float = 0.01


@dataclass(frozen=True)
class TrainSettings:
    """Equations 5 and 6. warmup is in optimiser steps, max_length in tokens; noise is the standard
    deviation of Gaussian noise on the prefix in training, as CapDec's."""

    stage: ClassVar[str] = "train"
    tokenizer: str = "clip"
    layers: int = 4
    heads: int = 4
    width: int = 512
    dropout: float = 0.1
    epochs: int = 10
    lr: float = 5e-4
    batch_size: int = 128
    warmup: int = 500
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    max_length: int = 40
    noise: float = 0.0
    validation: float = 0.02
    objects: bool = True
    projection: bool = True


@dataclass(frozen=True)
class CaptionSettings:
    """Decoding. max_length is in tokens; temperature is equation 3's (the captioner's if None).

    rerank is the weight of the dual encoder's cosine between photo and caption, beside the
    log-probability a token, where the beam's captions are ranked; 0 is the paper's method.
    mirror averages a photo's feature with that of its mirror image.
    """

    stage: ClassVar[str] = "caption"
    beam: int = 3
    max_length: int = 30
    length_penalty: float = 1.0
    rerank: float = 0.0
    mirror: bool = False
    temperature: float | None = None


Settings = TypeVar(
    "Settings",
    SynthesizeSettings,
    EncodeSettings,
    OptimizeSettings,
    DetectSettings,
    ProjectSettings,
    TrainSettings,
    CaptionSettings,
)
SECTIONS = {
    kind.stage: kind
    for kind in (
        SynthesizeSettings,
        EncodeSettings,
        OptimizeSettings,
        DetectSettings,
        ProjectSettings,
        TrainSettings,
        CaptionSettings,
    )
}


@dataclass(frozen=True)
class Run:
    """How a stage runs: nothing here changes its result.

    batch_size is None where the stage is to choose; shard_size is in items.
    """

    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    shard_size: int = 256
    force: bool = False
    retry_failed: bool = False
    quiet: bool = False

    def chosen_dtype(self) -> dict[str, str]:
        """The dtype as a setting: it changes the result, so it counts where it was chosen."""
        return {} if self.dtype == "auto" else {"dtype": self.dtype}


def preset_names() -> list[str]:
    """Names of the presets that come with syntic."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_preset(name: str) -> dict[str, dict[str, Any]]:
    """Read a preset by its name or the path of a TOML file.

    Raises:
        SynticError: where it does not exist, is no TOML, or has an unknown section or key.
    """
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    if not path.is_file():
        raise SynticError(
            f"--preset {name}: no such preset; "
            f"take one of {', '.join(preset_names())} or the path of a .toml file"
        )
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SynticError(f"{path}: not a readable TOML file ({error})") from error
    for section, values in sections.items():
        if section not in SECTIONS or not isinstance(values, dict):
            raise SynticError(f"{path}: unknown section {section!r}; known: {', '.join(SECTIONS)}")
        known = {f.name: str(f.type) for f in fields(SECTIONS[section])}
        if unknown := set(values) - set(known):
            raise SynticError(
                f"{path}: [{section}] has no {min(unknown)!r}; known: {', '.join(sorted(known))}"
            )
        for key, value in values.items():
            if type(value) not in TYPES[known[key].removesuffix(" | None")]:
                raise SynticError(f"{path}: [{section}] {key} = {value!r}: not {known[key]}")
        _resolve_folder(values, path.parent)
    return sections


def _resolve_folder(values: dict[str, Any], beside: Path) -> None:
    """A model folder given relative to the preset file becomes a path that works anywhere."""
    model = values.get("model", "")
    if model.startswith(("./", "../")):
        values["model"] = str((beside / model).resolve())


def resolve(
    kind: type[Settings], preset: Mapping[str, Mapping[str, Any]], **options: Any
) -> Settings:
    """A stage's settings: the preset's values under the options that were given (not None).

    Raises:
        SynticError: where a value is missing or out of its range.
    """
    values = {**preset.get(kind.stage, {}), **{k: v for k, v in options.items() if v is not None}}
    try:
        settings = kind(**values)
    except TypeError as error:
        raise SynticError(f"preset: [{kind.stage}] lacks a value ({error})") from error
    _check_ranges(settings)
    return settings


AT_LEAST_ONE = ("steps", "epochs", "batch_size", "layers", "heads", "width", "beam", "max_length")
POSITIVE = ("temperature", "lr")
NOT_NEGATIVE = ("max_objects", "rerank")
SHARES = ("threshold", "dropout", "label_smoothing", "noise", "validation")


def _check_ranges(settings: Any) -> None:
    for name, value in asdict(settings).items():
        option = "--" + name.replace("_", "-")
        if name in AT_LEAST_ONE and value < 1:
            raise SynticError(f"{option} {value}: must be at least 1")
        if name in POSITIVE and value is not None and not 0 < value < float("inf"):
            raise SynticError(f"{option} {value}: must be a number above 0")
        if name in SHARES and not 0 <= value < 1:
            raise SynticError(f"{option} {value}: must be at least 0 and below 1")
        if name == "size" and (value < 16 or value % 8):
            raise SynticError(f"{option} {value}: must be a multiple of 8, at least 16")
        if name in NOT_NEGATIVE and not 0 <= value < float("inf"):
            raise SynticError(f"{option} {value}: must be a number of 0 or more")
    if isinstance(settings, TrainSettings) and settings.width % settings.heads:
        raise SynticError(
            f"--width {settings.width} --heads {settings.heads}: "
            "the width must be a multiple of the heads"
        )


def model_folder(name: str) -> Path | None:
    """The local folder that a model's name means, or None for a hub id or a library's own name.

    Raises:
        SynticError: where the name is written as a path and there is no such folder.
    """
    path = PRESETS / name[len(PACKAGED) :] if name.startswith(PACKAGED) else Path(name)
    if path.is_dir():
        return path
    if name.startswith((PACKAGED, "/", "./", "../", "~")) or name.count("/") > 1:
        raise SynticError(f"{name}: no such model folder")
    return None


def identity(model: str, revision: str | None = None, pretrained: str | None = None) -> str:
    """What a model's name stands for, for a fingerprint: a folder's content, or the pinned name."""
    folder = model_folder(model)
    if folder is not None:
        return f"folder {folder.name} {folder_digest(folder)[:16]}"
    return " ".join(part for part in (model, pretrained, revision) if part)


def folder_digest(folder: Path) -> str:
    """sha256 over the names, sizes, beginnings and ends of a model folder's files.

    A model of gigabytes is told apart from another in milliseconds; a change in the middle of a
    file that leaves its size is not seen.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".json", ".txt", ".model", ".bin") and path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
            with path.open("rb") as file:
                digest.update(file.read(HASHED_BYTES))
                file.seek(max(0, size - HASHED_BYTES))
                digest.update(file.read())
    return digest.hexdigest()
