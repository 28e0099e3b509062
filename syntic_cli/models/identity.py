"""What a model's name stands for: a folder's content, or a pinned name of the hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .. import presets
from ..errors import ConflictError, MissingError

# A model named so lies in the package's own presets folder, on whatever machine that is.
PACKAGED = "preset:"
HASHED_BYTES = 1 << 16


def model_folder(name: str) -> Path | None:
    """The local folder that a model's name means, or None for a hub id or a library's own name.

    Raises:
        MissingError: where the name is written as a path and there is no such folder.
    """
    packaged = name.startswith(PACKAGED)
    path = presets.FOLDER / name.removeprefix(PACKAGED) if packaged else Path(name)
    if path.is_dir():
        return path
    if name.startswith((PACKAGED, "/", "./", "../", "~")) or name.count("/") > 1:
        raise MissingError(f"{name}: no such model folder")
    return None


def identity(model: str, revision: str | None = None, pretrained: str | None = None) -> str:
    """What a model's name stands for, for a fingerprint: a folder's content, or the pinned name."""
    folder = model_folder(model)
    if folder is not None:
        return f"folder {folder.name} {folder_digest(folder)[:16]}"
    return " ".join(part for part in (model, pretrained, revision) if part)


def refuse_another(
    expected: str, model: str, revision: str | None = None, pretrained: str | None = None
) -> None:
    """Refuse a model that is not the one of a recipe: a machine may have another under its name.

    Raises:
        ConflictError: naming both.
    """
    found = identity(model, revision, pretrained)
    if not same_model(found, expected):
        raise ConflictError(
            f"{model}: is {found}, where {expected} is meant; copy the right one there, or begin "
            "anew with `syntic encode --force`"
        )


def same_model(one: str, other: str) -> bool:
    """Whether two identities are of one model: the content of a folder counts, not its name."""
    return _content(one) == _content(other)


def is_folder(found: str) -> bool:
    """Whether an identity is the content of a local folder, and not a name alone."""
    return found.startswith("folder ")


def _content(found: str) -> str:
    return found.rpartition(" ")[2] if is_folder(found) else found


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
