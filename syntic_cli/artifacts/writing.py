"""Writing artifacts: whole or not at all, checksummed, and with room for them made sure of."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .. import __version__
from ..errors import SynticError
from ..schema import SCHEMA, STAGES, Kind
from .reading import CHECKSUM, Values, header_checksum
from .recipe import Recipe

# From v110 on HDF5 checksums its own metadata too, so a flipped bit in a header is noticed.
HDF5_VERSION = ("v110", "v110")
CHUNK_BYTES = 1 << 18


@contextmanager
def atomic_path(path: Path, keep_as: Path | None = None) -> Iterator[Path]:
    """A temporary path beside `path`, synced and renamed onto it when the block ends well.

    Args:
        path: the file to write.
        keep_as: what an earlier file at `path` is renamed to, once the new one is whole.


    Raises:
        SynticError: where the disk is full or the folder cannot be written; `path` is as before.
    """
    refuse_special(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        if keep_as is not None:
            path.rename(keep_as)
        temporary.replace(path)
        sync_folder(path.parent)
    except (FileExistsError, NotADirectoryError) as error:
        raise SynticError(
            f"{path}: cannot be written ({path.parent} is not a folder); name another place"
        ) from error
    except (OSError, RuntimeError) as error:
        # h5py raises RuntimeError where closing a file could not write it out.
        reason = getattr(error, "strerror", None) or str(error).partition("(")[0].strip()
        raise SynticError(
            f"{path}: cannot be written ({reason}); what was finished is safe, "
            f"{_remedy(error)} and run the same command again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def refuse_special(path: Path) -> None:
    """Refuse to put a file in the place of a device, a pipe, or a link to what a process has open,
    such as /dev/stdout: a rename would take it from everybody, where the user is root.

    Raises:
        SynticError: naming it.
    """
    is_special = path.exists() and not path.is_file() and not path.is_dir()
    if is_special or (path.is_symlink() and str(path.readlink()).startswith("/proc/")):
        raise SynticError(
            f"{path}: is a device or a pipe, which no file can replace; name a file (what is "
            "printed can be redirected)"
        )


def _remedy(error: OSError | RuntimeError) -> str:
    forbidden = getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS)
    return "change its permissions" if forbidden else "free some space"


def check_room(temporary: Path, size: int) -> None:
    """Look whether a file of this size can be written, before HDF5 begins to.

    HDF5 that meets a full disk half-way prints a traceback for every object that it has open. The
    room is given back for HDF5 to take; where another program is faster, it is that traceback.

    Raises:
        OSError: where there is no room, for `atomic_path` to explain.
    """
    if shutil.disk_usage(temporary.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if not hasattr(os, "posix_fallocate"):
        return
    with temporary.open("wb") as file:
        try:
            # Free space is not the only limit: there are quotas and limits on a file's size.
            os.posix_fallocate(file.fileno(), 0, max(1, size))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise


def sync_folder(folder: Path) -> None:
    """Make renames within the folder durable; a system without folder syncing has no need."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_header(file: h5py.File, recipe: Recipe, attributes: Mapping[str, Any]) -> None:
    """Root attributes of a finished artifact (design: artifacts, schema 1)."""
    file.attrs["schema"] = SCHEMA
    file.attrs["stage"] = recipe.stage
    file.attrs["version"] = __version__
    file.attrs["fingerprint"] = recipe.fingerprint
    file.attrs["settings"] = json.dumps(dict(recipe.settings), sort_keys=True)
    file.attrs["inputs"] = json.dumps({r: vars(g) for r, g in recipe.inputs.items()})
    file.attrs["models"] = json.dumps(dict(recipe.models), sort_keys=True)
    file.attrs["origin"] = recipe.origin
    file.attrs["created"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    for name, value in attributes.items():
        file.attrs[name] = value
    if "error" in file:
        file.attrs["failed"] = sum(map(bool, file["error"][:]))
    file.attrs["complete"] = True
    file.attrs[CHECKSUM] = header_checksum(dict(file.attrs))


def append_rows(
    file: h5py.File, name: str, kind: Kind, values: Values, *, total: int | None = None
) -> None:
    """Add rows to a dataset, which is made with the first of them; strings get a CRC-32 each.

    Args:
        file: an open file.
        name: of the dataset.
        kind: what its rows hold.
        values: the rows.
        total: how many rows the dataset will have, where it is known; a chunk is no larger.
    """
    if kind == "number":
        _append(file, name, np.asarray(values), total)
        return
    # Half a surrogate pair, which JSON's \\u escapes can leave alone, has no UTF-8.
    data = [
        v.encode("utf-8", "backslashreplace") if isinstance(v, str) else bytes(v) for v in values
    ]
    rows = np.empty(len(data), dtype=object)
    for row, value in enumerate(data):
        rows[row] = value if kind == "text" else np.frombuffer(value, np.uint8)
    dtype = h5py.string_dtype() if kind == "text" else h5py.vlen_dtype("u1")
    _append(file, name, rows, total, dtype)
    crc = np.fromiter(map(zlib.crc32, data), np.uint32, len(data))
    _append(file, f"crc32/{name}", crc, total)


def _append(
    file: h5py.File, name: str, rows: np.ndarray, total: int | None, dtype: Any = None
) -> None:
    if name not in file:
        row_bytes = 16 if dtype else max(1, rows.itemsize * int(np.prod(rows.shape[1:])))
        chunk = CHUNK_BYTES // row_bytes
        file.create_dataset(
            name,
            shape=(0, *rows.shape[1:]),
            maxshape=(None, *rows.shape[1:]),
            dtype=dtype or rows.dtype,
            chunks=(max(1, chunk if total is None else min(chunk, total)), *rows.shape[1:]),
            fletcher32=dtype is None,
        )
    dataset = file[name]
    first = len(dataset)
    dataset.resize(first + len(rows), axis=0)
    bytes_alone = h5py.check_vlen_dtype(dataset.dtype) and not h5py.check_string_dtype(
        dataset.dtype
    )
    as_matrix = bytes_alone and len({len(value) for value in rows}) == 1
    if as_matrix or len(rows) == 1:
        # h5py takes byte strings of one length for a matrix, and one of them for its bytes.
        for row, value in enumerate(rows, first):
            dataset[row] = value
    elif len(rows):
        dataset[first:] = rows


def write_artifact(
    path: Path,
    recipe: Recipe,
    columns: Mapping[str, Values],
    *,
    groups: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    attributes: Mapping[str, Any] | None = None,
    keep_as: Path | None = None,
) -> None:
    """Write a whole artifact under its name at once, or not at all.

    Args:
        path: the artifact.
        recipe: what it was made from.
        columns: every dataset that the stage's schema names.
        groups: further groups of numeric datasets (`history`, `decoder`, `per_image`).
        attributes: further root attributes.
        keep_as: what an earlier artifact of this name is renamed to, once this one is whole.

    Raises:
        SynticError: where it cannot be written.
    """
    schema, groups = STAGES[recipe.stage].columns, groups or {}
    arrays = [array for group in groups.values() for array in group.values()]
    size = sum(map(_stored_bytes, [*columns.values(), *arrays]))
    with atomic_path(path, keep_as) as temporary:
        check_room(temporary, size)
        with h5py.File(temporary, "w", libver=HDF5_VERSION) as file:
            for name, values in columns.items():
                append_rows(file, name, schema[name].kind, values, total=len(values))
            write_groups(file, groups)
            write_header(file, recipe, attributes or {})


def _stored_bytes(values: Values) -> int:
    """About how much a dataset takes on the disk: chunks are whole, a string has a reference."""
    if isinstance(values, np.ndarray):
        return CHUNK_BYTES + int(values.nbytes)
    return 2 * CHUNK_BYTES + sum(32 + 4 * len(value) for value in values)


def write_groups(file: h5py.File, groups: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Groups of numeric datasets, each checksummed."""
    for group, members in groups.items():
        for name, values in members.items():
            array = np.asarray(values)
            file.create_dataset(
                f"{group}/{name}",
                data=array,
                **({"chunks": True, "fletcher32": True} if array.ndim and array.size else {}),
            )


def copy_with_group(
    source: Path, recipe: Recipe, target: Path, name: str, values: Mapping[str, float]
) -> None:
    """Write a copy of an artifact with a group of numbers more, or in the place of one it has.

    They count as a setting of its recipe, so that what was made from the one without is not taken
    for what is made from the copy.

    Args:
        source: a finished artifact.
        recipe: its own.
        target: the copy; may be the source.
        name: of the group, and of the setting.
        values: its numbers.

    Raises:
        SynticError: where the copy cannot be written.
    """
    digest = hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()[:16]
    changed = replace(recipe, settings={**recipe.settings, name: digest})
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "r+", libver=HDF5_VERSION) as file:
            if name in file:
                del file[name]
            write_groups(file, {name: {key: np.float64(one) for key, one in values.items()}})
            file.attrs["settings"] = json.dumps(dict(changed.settings), sort_keys=True)
            file.attrs["fingerprint"] = changed.fingerprint
            file.attrs[CHECKSUM] = header_checksum(dict(file.attrs))
