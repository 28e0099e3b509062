"""Which image files the arguments of a command mean."""

from __future__ import annotations

import codecs
import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from ..errors import SynticError, count, shown

# What a folder gives. HEIC is listed although Pillow cannot read it: phones fill folders with it,
# and a row that says so is better than a photo that is silently missing.
IMAGE_SUFFIXES = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".heic", ".heif"),
        *(
            ".png",
            ".apng",
            ".webp",
            ".gif",
            ".avif",
            ".jp2",
            ".j2k",
            ".j2c",
            ".jpx",
            ".jpf",
            ".jpc",
        ),
        *(".tif", ".tiff", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    ]
)

# Images all the same, which a folder does not give but counts: what cameras write raw, what
# programs for drawing and rendering write, and formats that Pillow reads too poorly or not at all.
UNREAD_SUFFIXES = frozenset(
    [
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".k25"),
        *(".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2"),
        *(".rwl", ".sr2", ".srf", ".srw", ".x3f", ".gpr"),
        *(".ai", ".cdr", ".clip", ".eps", ".kra", ".ora", ".psb", ".psd", ".svg", ".svgz", ".xcf"),
        *(".bpg", ".cin", ".cur", ".dds", ".dpx", ".emf", ".exr", ".flif", ".hdr", ".heics"),
        *(".hif", ".icns", ".ico", ".jls", ".jng", ".jxl", ".jxr", ".pam", ".pcd", ".pcx", ".pic"),
        *(".qoi", ".ras", ".rgb", ".rgbe", ".sgi", ".tga", ".wbmp", ".wdp", ".wmf", ".xbm", ".xpm"),
    ]
)

# `**` as a whole part of a pattern, with the slashes around it.
_DEEP = re.compile(r"(?:^|/)\*\*(?:/+|$)")


@dataclass(frozen=True)
class PhotoList:
    """The photos that a command means, in order, and a line about each kind of file left out."""

    photos: list[Path]
    notes: list[str]


def list_photos(
    inputs: Sequence[str], recursive: bool = False, stdin: TextIO | None = None
) -> PhotoList:
    """List the photos that the arguments of a command mean, in the order given.

    A folder gives the images in it by name (byte order), hidden ones left out; with `recursive`
    its subfolders are read in their place in that order (links to folders are not followed). `-`
    stands for a list on standard input, one path a line, or NUL-separated where a NUL occurs; a
    byte order mark at its head is dropped. A pattern that no shell has expanded is expanded here,
    and its `**` follows links to folders.

    A file that is named is always listed, whatever its suffix, whether or not it can be read, and
    as many times as it is named, so that one wrong name among good ones becomes one failed row;
    alone, it is an error. Within one folder or pattern each file is listed once: a link is the file
    that it leads to, and its own name is left out. Hard links have no such order among them; each
    is a photo of its own.

    Args:
        inputs: files, folders, patterns, or `-`.
        recursive: also read the subfolders of folders.
        stdin: where `-` reads from; standard input unless given.

    Returns:
        The paths; and as notes how many links were left out, of which types the images are that lie
        in a folder and that syntic does not read, and which folders hold no image.

    Raises:
        SynticError: nothing was named, a folder is unreadable, no folder that was named holds an
            image, the only file named does not exist, or standard input is closed.
    """
    photos: list[Path] = []
    notes: list[str] = []
    empty: list[str] = []
    for name, literal in _names(inputs, stdin):
        if not name:
            raise SynticError("an empty name was given for a photo: is a variable unset?")
        listing = _Listing()
        if literal or os.path.lexists(name) or not glob.has_magic(name):
            listing.add(name, recursive)
        else:
            matches = _matches(name, listing)
            for match in sorted(matches, key=os.fsencode) or [name]:
                listing.add(match, recursive)
            # A folder may have been matched itself and through what lies in it.
            listing.photos = list(dict.fromkeys(listing.photos))
            listing.links = True
        if not listing.photos:
            empty.append(_no_image(name, listing, recursive))
            continue
        listing.leave_out_links()
        photos += listing.photos
        notes += listing.notes(name)
    if not photos and empty:
        raise SynticError(empty[0])
    if not photos:
        where = " on standard input" if "-" in inputs else ""
        raise SynticError(f"no photo was named{where}: name image files or folders")
    if len(photos) == 1 and not os.path.exists(photos[0]):  # noqa: PTH110
        raise SynticError(unreadable(photos[0]))
    return PhotoList(photos, [*notes, *empty])


def find_photos(
    inputs: Sequence[str], recursive: bool = False, stdin: TextIO | None = None
) -> list[Path]:
    """The photos of `list_photos`, without its notes."""
    return list_photos(inputs, recursive, stdin).photos


def unreadable(path: str | Path, error: Exception | None = None) -> str:
    """One line on why a file could not be opened (by default: it is not there)."""
    name = shown(path)
    if os.path.islink(path) and not os.path.exists(path):  # noqa: PTH110, PTH114
        return f"{name} is a link to {shown(os.readlink(path))}, which is not there: remake it"  # noqa: PTH115
    if error is None or isinstance(error, FileNotFoundError):
        return f"{name}: no such file; check the name"
    if isinstance(error, PermissionError):
        return f"{name} may not be read (permission denied): change its permissions"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{name} cannot be read ({reason}): check the name and the disk"


@dataclass
class _Listing:
    """What one argument stands for."""

    photos: list[Path] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    links: bool = False
    files_again: int = 0
    folders_again: set[str] = field(default_factory=set)

    def add(self, name: str, recursive: bool) -> None:
        """Take a file as it is, and of a folder the images."""
        # Unlike Path.is_dir, this one answers "no" below a folder that may not be searched.
        if not os.path.isdir(name):  # noqa: PTH112
            self.photos.append(Path(name))
            return
        for entry in _files_under(name, recursive):
            suffix = Path(entry.name).suffix.lower().rstrip()
            if suffix in IMAGE_SUFFIXES:
                self.photos.append(Path(entry.path))
                self.links |= entry.is_symlink()
            elif suffix in UNREAD_SUFFIXES:
                self.unread.add(entry.path)

    def leave_out_links(self) -> None:
        """Keep each file once; of several names that lead to it the one that is no link."""
        if not self.links or len(self.photos) < 2:
            return
        files = {photo: os.path.realpath(photo) for photo in self.photos}
        names: dict[str, Path] = {}
        for photo in sorted(self.photos, key=lambda photo: _is_below_link(photo, files[photo])):
            names.setdefault(files[photo], photo)
        kept = [photo for photo in self.photos if names[files[photo]] == photo]
        self.files_again, self.photos = len(self.photos) - len(kept), kept

    def notes(self, name: str) -> list[str]:
        notes = []
        again = [
            count(number, f"link to a {kind}", f"links to {kind}s")
            for number, kind in [(len(self.folders_again), "folder"), (self.files_again, "file")]
            if number
        ]
        if again:
            notes.append(f"left out of {shown(name)}: {' and '.join(again)} listed already")
        if self.unread:
            notes.append(f"left out of {shown(name)}: {self.types()}, which syntic does not read")
        return notes

    def types(self) -> str:
        """How many images of which types are not read, the most frequent first."""
        counts = Counter(Path(path).suffix.lower() for path in self.unread)
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{number} {suffix}" for suffix, number in ordered)


def _is_below_link(photo: Path, file: str) -> bool:
    """Whether a path is not the file's own; where the working folder is below a link, all are."""
    return os.path.abspath(photo) != file  # noqa: PTH100 - Path.absolute keeps `..`


def _no_image(name: str, listing: _Listing, recursive: bool) -> str:
    if listing.unread:
        return (
            f"{shown(name)} holds no image that syntic reads ({listing.types()}): "
            "convert them to JPEG or PNG"
        )
    hint = "name another folder" if recursive else "--recursive also reads its subfolders"
    return f"{shown(name)} holds no image file (.jpg, .png, .webp, ...): {hint}"


def _names(inputs: Iterable[str], stdin: TextIO | None) -> Iterator[tuple[str, bool]]:
    """Each name, and whether it is to be taken literally: lists hold names and no patterns."""
    for name in inputs:
        if name == "-":
            yield from (
                (listed, True) for listed in _read_list(sys.stdin if stdin is None else stdin)
            )
        else:
            yield name, False


def _read_list(stdin: TextIO | None) -> list[str]:
    """Read the names on standard input; bytes where there are any, since names need not be text."""
    try:
        if stdin is None:
            raise ValueError("it is closed")
        raw = getattr(stdin, "buffer", None)
        text = stdin.read() if raw is None else _as_text(raw.read())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SynticError(
            f"- stands for a list on standard input, which cannot be read ({reason}): "
            "pipe a list of photos in, or name them"
        ) from error
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        lines = text.split("\0")
    else:
        lines = [line.removesuffix("\r") for line in text.split("\n")]
    # `find -print0 | sort` and the like leave a last line break behind: not a name.
    return [line for line in lines if line.strip()]


def _as_text(data: bytes) -> str:
    """Names as the system decodes them, unless a byte order mark says otherwise."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    return os.fsdecode(data.removeprefix(codecs.BOM_UTF8))


def _matches(pattern: str, listing: _Listing) -> list[str]:
    """What a pattern matches, as in Python's glob, but through no folder twice.

    There, `**` runs in a circle through a link to a folder above until the system stops it, and
    through two such links for longer than anyone waits.
    """
    deep = _DEEP.search(pattern)
    if deep is None:
        return glob.glob(pattern)  # noqa: PTH207 - Path.glob takes no absolute pattern
    top, rest = pattern[: deep.start()], pattern[deep.end() :]
    if not top and pattern.startswith("/"):
        top = "/"
    found: list[str] = []
    for start in glob.glob(top) if glob.has_magic(top) else [top]:  # noqa: PTH207
        for folder in _folders_under(start, listing):
            below = os.path.join(glob.escape(folder), rest or "*")  # noqa: PTH118
            found += _matches(below, listing)
    # Without a rest all that lies below is meant, of which the folders have just been read.
    return found if rest else [name for name in found if not os.path.isdir(name)]  # noqa: PTH112


def _folders_under(top: str, listing: _Listing) -> Iterator[str]:
    """A folder and those below it, hidden ones left out, through links but each only once.

    Links come last, so that what can be reached without one is.
    """
    folders, links, seen = [top], list[str](), set[tuple[int, int]]()
    while folders or links:
        is_link = not folders
        folder = links.pop(0) if is_link else folders.pop()
        try:
            status = os.stat(folder or ".")  # noqa: PTH116
            with os.scandir(folder or ".") as scan:
                entries = [entry for entry in scan if not entry.name.startswith(".")]
        except OSError:  # as in a shell, a pattern does not match what cannot be read
            continue
        if (status.st_dev, status.st_ino) in seen:
            if is_link:
                listing.folders_again.add(folder)
            continue
        seen.add((status.st_dev, status.st_ino))
        yield folder
        for entry in entries:
            path = os.path.join(folder, entry.name)  # noqa: PTH118
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_symlink() and os.path.isdir(path):  # noqa: PTH112
                links.append(path)


def _files_under(folder: str, recursive: bool) -> Iterator[os.DirEntry[str]]:
    """The files in a folder by name, hidden ones left out; subfolders in their place."""
    waiting = _entries(folder)
    while waiting:
        entry = waiting.pop()
        if entry.name.startswith("."):
            continue
        if not entry.is_dir(follow_symlinks=False):
            yield entry
        elif recursive:
            waiting += _entries(entry.path)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """The entries of a folder, the last by name first."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name), reverse=True)
    except OSError as error:
        raise SynticError(unreadable(folder, error)) from error
