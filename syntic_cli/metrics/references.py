"""Reference captions in: read from any usual format, and matched to captioned photos."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import SynticError

_IMAGE_COLUMNS = ("image", "path", "file", "filename", "file_name", "image_id")
_CAPTION_COLUMNS = ("caption", "text", "sentence")
# 000000123456.jpg and COCO_val2014_000000123456.jpg; not the hex digits that end Flickr8k's names.
_NUMBERED = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d+)", re.ASCII)


@dataclass(frozen=True)
class References:
    """The reference captions of some photos.

    Attributes:
        source: the file's name as given.
        captions: by photo: the file name in the references, or the id where they hold no name.
        ids: the photo of each id that the file itself gives.
    """

    source: str
    captions: dict[str, list[str]]
    ids: dict[str, str] = field(default_factory=dict)

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

        Returns:
            The photo's key in `captions`, or None.

        Raises:
            SynticError: it could be several photos.
        """
        if photo in self.captions:
            return photo
        parts = _parts(photo)
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
        shared = [_shared_folders(parts, _parts(key)) for key in keys]
        best = [key for key, count in zip(keys, shared, strict=True) if count == max(shared)]
        if len(best) > 1:
            raise SynticError(
                f"{self.source}: {photo} could be {' or '.join(best[:3])}; name the photo with its"
                " folder as there"
            )
        return best[0]

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        return _table((_parts(key)[-1], key) for key in self.captions)

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        return _table((_stem(_parts(key)[-1]), key) for key in self.captions)

    @cached_property
    def _numbers(self) -> dict[str | None, list[str]]:
        numbered = ((_number(_stem(_parts(key)[-1])), key) for key in self.captions)
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
    """

    ids: list[str]
    captions: list[str]
    references: list[list[str]]
    missing: list[str]
    extra: list[str]


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
                f"{references.source}: its photo {key} has two captions, of {owners[key]} and of"
                f" {photo}; keep one"
            )
        owners[key] = photo
        matched.ids.append(photo)
        matched.captions.append(caption)
        matched.references.append(references.captions[key])
    matched.missing.extend(key for key in references.captions if key not in owners)
    return matched


def load_candidates(path: str | Path) -> list[tuple[str, str]]:
    """Read captions to score from a COCO results file: a list of {"image_id", "caption"}.

    Args:
        path: the JSON file.

    Returns:
        (image id, caption), in the file's order.

    Raises:
        SynticError: the file cannot be read or understood; the message names the entry.
    """
    entries = _json(path)
    if not isinstance(entries, list):
        raise SynticError(
            f'{path}: not a COCO results file, a list of {{"image_id": ..., "caption": ...}}'
        )
    if not entries:
        raise SynticError(f"{path}: holds no caption; name a file with captions to score")
    seen: dict[str, int] = {}
    candidates = []
    for number, entry in enumerate(entries, 1):
        place = f"{path}, entry {number}"
        photo = _identifier(entry, "image_id", place)
        caption = entry.get("caption")
        if not isinstance(caption, str):
            raise SynticError(f"{place} (image_id {photo}): no text `caption`; correct it")
        if photo in seen:
            raise SynticError(
                f"{place}: image_id {photo} has a caption in entry {seen[photo]}, too; keep one"
            )
        seen[photo] = number
        candidates.append((photo, caption))
    return candidates


def load_references(path: str | Path, split: str | None = None) -> References:
    """Read reference captions.

    Args:
        path: COCO captions JSON, Karpathy's dataset JSON, or a `.csv` whose first row names a
            column of images (image, path, file, filename, file_name or image_id), one of captions
            (caption, text or sentence), a row for each caption, and perhaps a column `split`.
        split: keep only photos of this split (of any of these, separated by commas).

    Returns:
        The captions by photo.

    Raises:
        SynticError: the file cannot be read or understood, or no caption is left; the message names
            the line or entry.
    """
    splits = _Splits(str(path), split)
    if Path(path).suffix.lower() == ".csv":
        references = _from_csv(path, splits)
    else:
        document = _json(path)
        if isinstance(document, dict) and isinstance(document.get("annotations"), list):
            splits.refuse("COCO captions")
            references = _from_coco(document, str(path))
        elif isinstance(document, dict) and isinstance(document.get("images"), list):
            references = _from_karpathy(document["images"], str(path), splits)
        else:
            raise SynticError(
                f"{path}: neither COCO captions (`annotations`) nor Karpathy's `images` with"
                " `sentences`; give one of these or a .csv"
            )
    splits.check()
    if not references.captions:
        raise SynticError(f"{path}: holds no reference caption; name another file")
    return references


class _Splits:
    """Which splits are wanted, and which there were."""

    def __init__(self, source: str, wanted: str | None) -> None:
        self.source = source
        self.wanted = None if wanted is None else {name.strip() for name in wanted.split(",")}
        self.seen: set[str] = set()

    def keep(self, split: object) -> bool:
        self.seen.add(str(split))
        return self.wanted is None or split in self.wanted

    def refuse(self, what: str) -> None:
        if self.wanted is not None:
            raise SynticError(f"{self.source}: {what} have no splits; omit --split")

    def check(self) -> None:
        unknown = sorted((self.wanted or set()) - self.seen)
        if unknown:
            raise SynticError(
                f"{self.source}: no split {', '.join(unknown)}; there are:"
                f" {', '.join(sorted(self.seen)[:12])}"
            )


def _from_coco(document: dict[str, Any], source: str) -> References:
    ids = _coco_names(document.get("images") or [], source)
    captions: dict[str, list[str]] = {}
    for number, annotation in enumerate(document["annotations"], 1):
        place = f"{source}, annotation {number}"
        identifier = _identifier(annotation, "image_id", place)
        if ids and identifier not in ids:
            raise SynticError(f"{place}: image_id {identifier} is not among its `images`")
        text = _caption(annotation, "caption", place)
        captions.setdefault(ids.get(identifier, identifier), []).append(text)
    used = {identifier: key for identifier, key in ids.items() if key in captions}
    return References(source, captions, used or {key: key for key in captions})


def _coco_names(images: Iterable[object], source: str) -> dict[str, str]:
    """The file name (or else the id) of each image id."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for number, image in enumerate(images, 1):
        place = f"{source}, image {number}"
        identifier = _identifier(image, "id", place)
        name = image.get("file_name", identifier) if isinstance(image, dict) else identifier
        if not isinstance(name, str) or not name:
            raise SynticError(f"{place} (id {identifier}): `file_name` is not a text; correct it")
        if identifier in names or name in taken:
            raise SynticError(f"{place}: id {identifier} or file {name} is there twice; keep one")
        names[identifier] = name
        taken.add(name)
    return names


def _from_karpathy(images: list[object], source: str, splits: _Splits) -> References:
    captions: dict[str, list[str]] = {}
    ids: dict[str, str] = {}
    for number, image in enumerate(images, 1):
        place = f"{source}, image {number}"
        if not isinstance(image, dict) or not isinstance(image.get("sentences"), list):
            raise SynticError(f"{place}: no list of `sentences`; give Karpathy's dataset file")
        if not splits.keep(image.get("split")):
            continue
        name = image.get("filename")
        if not isinstance(name, str) or not name:
            raise SynticError(f"{place}: no text `filename`; correct it")
        if name in captions:
            raise SynticError(f"{place}: {name} is there twice; keep one")
        if not image["sentences"]:
            raise SynticError(f"{place} ({name}): no caption; add one or delete the image")
        captions[name] = [_caption(sentence, "raw", place) for sentence in image["sentences"]]
        identifier = image.get("cocoid", image.get("imgid"))
        if identifier is not None:
            ids[str(identifier)] = name
    return References(source, captions, ids)


def _from_csv(path: str | Path, splits: _Splits) -> References:
    rows = _rows(path)
    _, header = next(rows, (1, []))
    if not header:
        raise SynticError(f"{path}: is empty; its first row must name the columns")
    names = [name.strip().lower() for name in header]
    image = _column(names, _IMAGE_COLUMNS, "images", path)
    caption = _column(names, _CAPTION_COLUMNS, "captions", path)
    split = names.index("split") if "split" in names else None
    if split is None:
        splits.refuse("these references (no column `split`)")
    captions: dict[str, list[str]] = {}
    for line, row in rows:
        if len(row) != len(names):
            raise SynticError(
                f"{path}, line {line}: {len(row)} fields where the first row names {len(names)};"
                " quote a caption that holds a comma"
            )
        if split is not None and not splits.keep(row[split].strip()):
            continue
        photo = row[image].strip()
        if not photo or not row[caption].strip():
            raise SynticError(f"{path}, line {line}: no image or no caption; fill in or delete it")
        captions.setdefault(photo, []).append(row[caption])
    return References(str(path), captions)


def _rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table that are not blank, with the line that each ends on."""
    # Before Python 3.11 csv refuses NUL, which is no reason to refuse a caption.
    stream = io.StringIO(_text(path).replace("\0", " "), newline="")
    rows = csv.reader(stream, strict=True)
    try:
        for row in rows:
            if row:
                yield rows.line_num, row
    except csv.Error as error:
        raise SynticError(
            f"{path}, line {rows.line_num}: malformed table ({error}); is a quote left open?"
        ) from error


def _column(names: list[str], known: tuple[str, ...], what: str, path: str | Path) -> int:
    for name in known:
        if name in names:
            return names.index(name)
    raise SynticError(
        f"{path}, line 1: no column of {what} ({', '.join(known)}); there are: {', '.join(names)}"
    )


def _json(path: str | Path) -> Any:
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise SynticError(
            f"{path}, line {error.lineno}: malformed JSON ({error.msg}); correct or copy it again"
        ) from error
    except (ValueError, RecursionError) as error:  # endless digits, endless brackets
        raise SynticError(f"{path}: malformed JSON ({error}); make it anew") from error


def _text(path: str | Path) -> str:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise SynticError(f"{path}: no such file; check the name") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL within the name
        reason = getattr(error, "strerror", None) or error
        raise SynticError(f"{path}: cannot be read ({reason})") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SynticError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error


def _identifier(entry: object, name: str, place: str) -> str:
    """The id in an entry, as a text, be it a number or a text there."""
    value = entry.get(name) if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise SynticError(f"{place}: no `{name}` that is a number or a text; correct it")
    return str(value)


def _caption(entry: object, name: str, place: str) -> str:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise SynticError(f"{place}: no text `{name}` in it; correct or delete it")
    return value


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
    count = 0
    for mine, theirs in zip(reversed(one[:-1]), reversed(other[:-1]), strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def _table(pairs: Iterable[tuple[Any, str]]) -> dict[Any, list[str]]:
    table: dict[Any, list[str]] = defaultdict(list)
    for name, key in pairs:
        table[name].append(key)
    return dict(table)
