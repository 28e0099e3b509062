"""Captions as other tools look for them: a text file beside each photo, of the photo's name."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import console
from .artifacts.writing import atomic_path
from .errors import SynticError, shown

SUFFIX = ".txt"


@dataclass(frozen=True)
class Sidecars:
    """Where the caption of each photo goes: beside it, or to its place in a folder like its own.

    root is the folder of the photos that `folder` mirrors; force writes over files that are there.
    """

    root: Path
    folder: Path | None = None
    force: bool = False

    def path(self, photo: Path) -> Path:
        """The text file of a photo.

        Raises:
            SynticError: where that is the photo itself.
        """
        beside = photo.with_suffix(SUFFIX)
        if self.folder is not None:
            return self.folder / os.path.relpath(beside, self.root)
        if beside == photo:
            raise SynticError(f"{shown(photo)}: its caption would be written over it; rename it")
        return beside

    def has(self, photo: Path) -> bool:
        """Whether a photo has a text file that is to be left as it is."""
        return not self.force and os.path.lexists(self.path(photo))

    def choose(self, photos: Sequence[Path], keep: Collection[Path], *, quiet: bool) -> list[Path]:
        """The photos to caption: those that have no text file yet, a line says how many have one.

        Of photos that would share a file (a.jpg and a.png) the first gets it.

        Args:
            photos: in order.
            keep: of those that have a file, the ones that cost nothing, since they are captioned.
            quiet: print warnings only.
        """
        chosen: dict[Path, Path] = {}
        there, shared = 0, []
        for photo in photos:
            path = self.path(photo)
            owner = chosen.get(path)
            if owner is not None and owner != photo:
                shared.append(photo)
            elif self.has(photo) and photo not in keep:
                there += 1
            else:
                chosen[path] = photo
        if there:
            console.note(
                f"{console.count(there, 'photo')} left as captioned: the text file is there "
                "(--force writes it anew)",
                quiet=quiet,
            )
        if shared:
            console.warn(
                f"{console.count(len(shared), 'photo')} left out, since another photo of the same "
                f"name has the text file, such as {shown(self.path(shared[0]))}, not of "
                f"{shown(shared[0].name)}"
            )
        left = set(chosen.values())
        return [photo for photo in photos if photo in left]

    def write(self, photos: Sequence[Path], captions: Sequence[str], errors: Sequence[str]) -> None:
        """Write the text files of photos that lack one; a photo that failed gets none.

        Raises:
            SynticError: where a file cannot be written.
        """
        for photo, caption, error in zip(photos, captions, errors, strict=True):
            if error or self.has(photo):
                continue
            with atomic_path(self.path(photo)) as temporary:
                temporary.write_text(caption + "\n", encoding="utf-8")


def common_folder(inputs: Sequence[str], photos: Sequence[Path]) -> Path:
    """The nearest folder that holds all that was named: folders, and the photos named one by one.

    Args:
        inputs: the arguments of the command.
        photos: what they stand for.

    Raises:
        SynticError: where there is none, as with photos on two drives.
    """
    folders = [Path(os.path.abspath(name)) for name in inputs if os.path.isdir(name)]  # noqa: PTH100, PTH112
    inside = {str(folder) for folder in folders}
    roots = set(folders)
    for parent in {photo.parent for photo in photos}:
        absolute = Path(os.path.abspath(parent))  # noqa: PTH100 - a link keeps its name
        if inside.isdisjoint({str(absolute), *map(str, absolute.parents)}):
            roots.add(absolute)
    try:
        return Path(os.path.commonpath(roots))
    except ValueError as error:
        raise SynticError(
            f"no folder holds all photos ({error}); name those of one drive"
        ) from error
