"""Making an artifact: its folder locked, what is there compared, and nothing done twice."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from .. import console
from ..errors import ConflictError, DamagedError, SynticError, count, plural
from ..settings import Run
from .reading import Artifact, written_by
from .recipe import Recipe
from .shards import Draft
from .workspace import preset_remembered
from .writing import refuse_special

SUFFIXES = (".h5", ".hdf5", ".hdf", "")
# File systems take names of 255 bytes; those of shards and kept artifacts are up to 50 longer.
LONGEST_NAME = 200
LOCK = ".syntic.lock"
OWNER = ".syntic.lock.owner"
_COUNTED = [f"-{number}" for number in range(2, 1000)]


@dataclass(frozen=True)
class Earlier:
    """What becomes of an artifact of other items, such as other photos, that is in the way.

    same_rows: which of its rows each new row is, -1 for none; these are taken over. keep: whether
    the artifact gets another name once the new one is whole, and is not replaced.
    """

    same_rows: Sequence[int]
    keep: bool


@contextmanager
def making(
    path: Path,
    recipe: Recipe,
    run: Run,
    *,
    earlier: Callable[[Artifact], Earlier | None] | None = None,
) -> Iterator[Draft]:
    """The output of a stage, with its folder locked; `up_to_date` where nothing is to do.

    Args:
        path: the artifact.
        recipe: what it is made from.
        run: how the stage runs.
        earlier: what becomes of an artifact of another recipe that is there; None, or its answer
            None, refuses to touch it.

    Raises:
        ConflictError: where an artifact of another recipe is in the way, or the folder is in use.
    """
    if path.is_dir():
        raise SynticError(
            f"{path}: is a folder, not an artifact; give --output the name of a file, in it or "
            "elsewhere"
        )
    refuse_special(path)
    if path.suffix.lower() not in SUFFIXES:
        raise SynticError(
            f"--output {path}: an artifact is HDF5, so name it .h5; other formats are printed "
            f"(--format json > {path.with_suffix('.json').name})"
        )
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise SynticError(
            f"--output {path}: a name of more than {LONGEST_NAME} bytes; give a shorter one"
        )
    with locked(path.parent), preset_remembered(path.parent) as remember:
        _refuse_to_replace(path, recipe.stage)
        fate = _fate(path, recipe, earlier, force=run.force) if path.exists() else None
        keep_as = _kept_name(path) if fate and fate.keep and run.keep else None
        draft = Draft(
            path,
            recipe,
            force=run.force,
            retry_failed=run.retry_failed,
            same_rows=fate.same_rows if fate and not run.force else None,
            keep_as=keep_as,
        )
        if draft.up_to_date:
            them = plural(draft.failed, "it", "them")
            failed = f"; {count(draft.failed, 'row')} failed (--retry-failed runs {them} again)"
            more = failed if draft.failed else ""
            console.note(f"{recipe.stage}: {path} is up to date{more}", quiet=run.quiet)
        elif run.preset is not None:
            remember(run.preset)
        yield draft
        if keep_as is not None and keep_as.exists():
            console.note(
                f"{recipe.stage}: what was made of other input is kept as {keep_as}",
                quiet=run.quiet,
            )
            for old in kept_beside(path)[: -run.keep]:
                old.unlink(missing_ok=True)


def _refuse_to_replace(path: Path, stage: str) -> None:
    """Refuse a place that holds anything but an artifact of the stage: --force makes that again,
    and what it was made from, or a file of somebody else, must not be lost by a wrong name.

    Raises:
        ConflictError: naming what is there.
    """
    if not path.is_file():
        return
    there = written_by(path)
    # Damaged, as far as the name tells; without .h5 it may be a photo or a corpus.
    if there is None and (path.suffix or not path.stat().st_size):
        return
    if there != stage:
        held = f"what `syntic {there}` wrote" if there else "what syntic has not written"
        raise ConflictError(
            f"{path}: holds {held}, which `syntic {stage}` does not replace, --force or not; "
            "give --output another name"
        )


def _fate(
    path: Path,
    recipe: Recipe,
    earlier: Callable[[Artifact], Earlier | None] | None,
    *,
    force: bool,
) -> Earlier | None:
    if earlier is None:
        return None
    try:
        with Artifact(path, recipe.stage) as existing:
            return None if existing.fingerprint == recipe.fingerprint else earlier(existing)
    except DamagedError:
        if force:
            return None
        raise


def _kept_name(path: Path) -> Path:
    with Artifact(path) as existing:
        created = re.sub(r"[^0-9T-]", "", existing.created[:19])
    # Two of one second are of one process, which the folder's lock leaves alone.
    names = (f"{path.stem}-{created}-{os.getpid()}{n}{path.suffix}" for n in ("", *_COUNTED))
    return next(kept for kept in map(path.with_name, names) if not kept.exists())


def kept_beside(path: Path) -> list[Path]:
    """Earlier artifacts of other input, kept beside the one at `path`; the oldest first."""
    name = re.compile(re.escape(path.stem) + r"-[0-9T-]+" + re.escape(path.suffix))
    earlier = [other for other in path.parent.glob("*.h5") if name.fullmatch(other.name)]
    return sorted(earlier, key=lambda other: (other.stat().st_mtime_ns, other.name))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for writing; the system frees it when this process dies.

    Raises:
        ConflictError: where another process holds it, naming that process.
        SynticError: where it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise ConflictError(
            f"{folder}: in use by {_owner(folder)}; wait for it, or give another --workspace"
        ) from None
    except (FileExistsError, NotADirectoryError) as error:
        raise SynticError(
            f"{folder}: cannot be written (is not a folder); name another --workspace or --output"
        ) from error
    except OSError as error:
        raise SynticError(
            f"{folder}: cannot be written ({error.strerror}); name another --workspace, or an "
            "--output elsewhere"
        ) from error
    owner = folder / OWNER
    try:
        with suppress(OSError):  # it is for a person to read, and the disk may be full
            owner.write_text(
                f"process {os.getpid()} on {socket.gethostname()}: {_command()}",
                encoding="utf-8",
                errors="backslashreplace",
            )
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _owner(folder: Path) -> str:
    try:
        return (folder / OWNER).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "another process"


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
