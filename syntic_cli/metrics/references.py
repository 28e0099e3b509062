"""Reference captions in: read from any usual format, and matched to captioned photos."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import SynticError, count, plural, shown
from ..texts.characters import is_blank
from ..texts.fields import Record, Wanted
from ..texts.formats import PHOTO_FIELDS, TEXT_FIELDS
from ..texts.records import Texts, open_texts

_NO_CAPTION = "name the captions so"
_PRINTED = ("log_probability", "what `syntic caption` printed, not references: name those")
# A COCO results file has image_id, what `syntic caption` prints has path.
_CANDIDATE_FIELDS = ("image_id", *(name for name in PHOTO_FIELDS if name != "image_id"))
# 000000123456.jpg and COCO_val2014_000000123456.jpg; not the hex digits that end Flickr8k's names.
_NUMBERED = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d+)", re.ASCII)


@dataclass(frozen=True)
class References:
    """The reference captions of some photos.

    Attributes:
        source: the file's name as given.
        captions: by photo: the file name in the references, or the id where they hold no name.
        ids: the photo of each id that the file itself gives.
        notes: what was left out, and how the file was read, a line each.
    """

    source: str
    captions: dict[str, list[str]]
    ids: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def find(self, photo: str) -> str | None:
        """Find a photo by its path, as `find_name` does, or else as an id.

        Returns:
            The photo's key in `captions`, or None.

        Raises:
            SynticError: it could be several photos.
        """
        key = self.find_name(photo)
        return self.find_id(photo) if key is None else key

    def find_name(self, photo: str) -> str | None:
        """Find a photo by its file name: whole, without folders, without suffix, by its number.

        Letters with marks are the same composed (NFC) and, as macOS writes names, decomposed (NFD).

        Returns:
            The photo's key in `captions`, or None.

        Raises:
            SynticError: it could be several photos.
        """
        if photo in self.captions:
            return photo
        parts = _parts(composed(photo))
        stem = _stem(parts[-1])
        keys = (
            self._names.get(parts[-1]) or self._stems.get(stem) or self._numbers.get(_number(stem))
        )
        return self._nearest(photo, parts, keys) if keys else None

    def find_id(self, identifier: str) -> str | None:
        """Find a photo by the id that the references' file gives it."""
        return self.ids.get(identifier)

    def _nearest(self, photo: str, parts: list[str], keys: list[str]) -> str:
        """Choose, of photos that share a name, the one that shares most folders with it, too."""
        shared = [_shared_folders(parts, _parts(composed(key))) for key in keys]
        best = [key for key, folders in zip(keys, shared, strict=True) if folders == max(shared)]
        if len(best) > 1:
            raise SynticError(
                f"{self.source}: {shown(photo)} could be {' or '.join(map(shown, best[:3]))}; name"
                " the photo with its folder as there"
            )
        return best[0]

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        return _table((_parts(composed(key))[-1], key) for key in self.captions)

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        return _table((_stem(name), key) for name, keys in self._names.items() for key in keys)

    @cached_property
    def _numbers(self) -> dict[str | None, list[str]]:
        numbered = ((_number(stem), key) for stem, keys in self._stems.items() for key in keys)
        return _table((number, key) for number, key in numbered if number is not None)


@dataclass(frozen=True)
class Matched:
    """Captions beside their references, in the captions' order.

    Attributes:
        ids: the photos, named as the captions name them.
        captions: one for each photo.
        references: one or more for each photo.
        missing: photos with references but no caption, as the references name them.
        extra: photos with a caption but no references.
        keys: the photos, named as the references name them.
    """

    ids: list[str]
    captions: list[str]
    references: list[list[str]]
    missing: list[str]
    extra: list[str]
    keys: list[str] = field(default_factory=list)


def match(candidates: Sequence[tuple[str, str]], references: References) -> Matched:
    """Put captions beside their references, by file name or id.

    Args:
        candidates: (photo, caption), a photo being a path or an id.
        references: what they are scored against.

    Returns:
        What belongs together, and what was left out on either side.

    Raises:
        SynticError: two captions are of the same photo, or a photo's name is ambiguous.
    """
    numbers = [photo for photo, _ in candidates if _is_id(photo)]
    find_number = references.find_id if _mean_ids(numbers, references) else references.find_name
    matched = Matched([], [], [], [], [])
    owners: dict[str, str] = {}
    for photo, caption in candidates:
        key = (find_number if _is_id(photo) else references.find)(photo)
        if key is None:
            matched.extra.append(photo)
            continue
        if key in owners:
            raise SynticError(
                f"{references.source}: its photo {shown(key)} has two captions, of"
                f" {shown(owners[key])} and of {shown(photo)}; keep one"
            )
        owners[key] = photo
        matched.ids.append(photo)
        matched.keys.append(key)
        matched.captions.append(caption)
        matched.references.append(references.captions[key])
    matched.missing.extend(key for key in references.captions if key not in owners)
    return matched


class Candidates(list[tuple[str, str]]):
    """(photo, caption) of captions to score, in their file's order.

    Attributes:
        notes: what was left out, and how the file was read, a line each.
    """

    def __init__(self, captions: Iterable[tuple[str, str]], notes: Iterable[str] = ()) -> None:
        super().__init__(captions)
        self.notes = list(notes)


def load_candidates(
    path: str | Path,
    *,
    photos: Sequence[str | Path] | None = None,
    encoding: str = "utf-8",
) -> Candidates:
    """Read captions to score, as `syntic caption` prints them or in a COCO results file.

    Args:
        path: any format of texts that names a photo (image_id, path, image, ...) for each caption:
            JSON, JSON lines or a table. Rows with an `error` are left out.
        photos: the photos of a plain text file, whose lines are their captions in this order; an
            empty line is of a photo that has none.
        encoding: of the file.

    Returns:
        The captions, and what was left out.

    Raises:
        SynticError: the file cannot be read or understood, or there is no caption in it; the
            message names the entry.
    """
    wanted = Wanted("captions", TEXT_FIELDS, _CANDIDATE_FIELDS, hint=_NO_CAPTION)
    with open_texts(path, encoding, wanted) as texts:
        if texts.format.kind == "txt":
            found = _beside(photos, texts)
        elif photos is not None:
            raise SynticError(f"{texts.name} names its photos itself: omit --photos")
        else:
            found = list(_candidates(texts))
        name, notes = texts.name, list(texts.notes)
    good = [(photo, text) for photo, text in found if text is not None]
    if not found:
        raise SynticError(f"{name}: holds no caption; name a file with captions to score")
    if not good:
        raise SynticError(f"{name}: no photo in it has a caption")
    if len(good) < len(found):
        failed = len(found) - len(good)
        have, are = count(failed, "photo has", "photos have"), plural(failed, "is", "are")
        notes.append(f"{have} no caption in {name} and {are} left out")
    return Candidates(good, notes)


def _beside(photos: Sequence[str | Path] | None, texts: Texts) -> list[tuple[str, str | None]]:
    """Photos beside the lines of a plain text."""
    if photos is None:
        raise SynticError(
            f"{texts.name} is plain text, which names no photos: give them by --photos, in the"
            " order in which they were captioned"
        )
    lines = list(texts.lines())
    if len(lines) != len(photos):
        raise SynticError(
            f"{texts.name} has {count(len(lines), 'line')} for"
            f" {count(len(photos), 'photo')}; give those that were captioned, in"
            " that order"
        )
    return [
        (str(photo), None if is_blank(line) else line)
        for photo, line in zip(photos, lines, strict=True)
    ]


def _candidates(texts: Texts) -> Iterator[tuple[str, str | None]]:
    """Photos and their captions, which are None where captioning failed."""
    seen: dict[str, int] = {}
    for record in texts.records():
        if record.photo is None:  # a blank line
            continue
        photo, place = record.photo, texts.place(record.number)
        if not photo:
            raise SynticError(f"{place}: no photo beside the caption; fill it in or delete it")
        if record.text is None and not record.error:
            raise SynticError(f"{place} ({shown(photo)}): no text for a caption; correct it")
        earlier = seen.setdefault(composed(photo), record.number)
        if earlier != record.number:
            raise SynticError(
                f"{place}: {shown(photo)} has a caption in {texts.fields.unit} {earlier}, too; keep"
                " one"
            )
        yield photo, None if record.error else record.text


def load_references(
    path: str | Path, split: str | None = None, *, encoding: str = "utf-8"
) -> References:
    """Read reference captions.

    Args:
        path: COCO captions JSON, Karpathy's dataset JSON, or any format of texts that names a photo
            (image, path, file, filename, file_name, image_name or image_id) and holds a caption
            (caption, text, sentence, raw or comment), a row or an object for each, and perhaps a
            `split`.
        split: keep only photos of this split (of any of these, separated by commas).
        encoding: of the file.

    Returns:
        The captions by photo; empty ones are left out, and a note names their photos.

    Raises:
        SynticError: the file cannot be read or understood, or no caption is left; the message names
            the line or entry.
    """
    wanted = Wanted("references", TEXT_FIELDS, PHOTO_FIELDS, split, _NO_CAPTION, _PRINTED)
    captions: dict[str, list[str]] = {}
    ids: dict[str, str] = {}
    empty: list[str] = []
    with open_texts(path, encoding, wanted) as texts:
        if texts.format.kind == "txt":
            raise SynticError(
                f"{texts.name} is plain text, which names no photos: give COCO captions, Karpathy's"
                " JSON or a .csv with the columns image and caption"
            )
        for record in texts.records():
            if record.photo is None:  # a blank line
                continue
            photo = _photo(record, texts)
            if record.text is None or is_blank(record.text):
                empty.append(photo)
            else:
                captions.setdefault(photo, []).append(record.text)
                if record.id is not None:
                    ids[record.id] = photo
        name, notes = texts.name, list(texts.notes)
        is_list = texts.fields.unit == "entry"
    if is_list and max(map(len, captions.values()), default=2) == 1:
        notes.append(f"{name} has one caption a photo, as results have; are these references?")
    if not captions:
        reason = ", only empty ones" if empty else ""
        raise SynticError(f"{name}: holds no reference caption{reason}; name another file")
    if empty:
        notes.append(_left_out(empty, captions, name))
    return References(name, captions, ids, notes)


def _photo(record: Record, texts: Texts) -> str:
    if not record.photo:
        raise SynticError(
            f"{texts.place(record.number)}: no photo beside the caption; fill it in or delete it"
        )
    return composed(record.photo)


def _left_out(empty: Sequence[str], captions: Container[str], name: str) -> str:
    """A line on empty captions, and on photos that have no other."""
    photos = list(dict.fromkeys(empty))
    bare = [photo for photo in photos if photo not in captions]
    text = count(len(empty), "empty caption is", "empty captions are")
    text += f" left out of {name}, of {_few(photos)}"
    if bare:
        bare_are = count(len(bare), "photo has no other and is", "photos have no other and are")
        text += f"; {bare_are} not scored" + (f": {_few(bare)}" if bare != photos else "")
    return text


def composed(name: str) -> str:
    """A name in NFC, in which a letter and its marks are one character where there is one."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:5])) + (", ..." if len(names) > 5 else "")


def _is_id(photo: str) -> bool:
    return photo.isascii() and photo.isdigit()


def _mean_ids(numbers: list[str], references: References) -> bool:
    """Tell whether bare numbers are the references' own ids rather than numbers in file names.

    The two can overlap (a file of ids 1 to 5,000 may name COCO's photos by their numbers), so that
    all of a file's numbers are taken in the sense in which more of them are found.
    """
    as_ids = sum(references.find_id(number) is not None for number in numbers)
    as_names = sum(references.find_name(number) is not None for number in numbers)
    return as_ids >= as_names


def _parts(photo: str) -> list[str]:
    return re.split(r"[/\\]", photo)


def _stem(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and dot and suffix.isalnum() else name


def _number(stem: str) -> str | None:
    found = _NUMBERED.fullmatch(stem)
    return found[1].lstrip("0") or "0" if found else None


def _shared_folders(one: list[str], other: list[str]) -> int:
    """How many folders, from the file upwards, two paths have in common."""
    folders = 0
    for mine, theirs in zip(reversed(one[:-1]), reversed(other[:-1]), strict=False):
        if mine != theirs:
            break
        folders += 1
    return folders


def _table(pairs: Iterable[tuple[Any, str]]) -> dict[Any, list[str]]:
    table: dict[Any, list[str]] = defaultdict(list)
    for name, key in pairs:
        table[name].append(key)
    return dict(table)
