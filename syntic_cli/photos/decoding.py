"""Each photo as upright RGB pixels."""

from __future__ import annotations

import io
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from ..errors import SynticError, shown
from .depth import (
    UPPER_OF_14_BITS,
    deep_mode,
    deep_samples,
    eight_bits,
    is_inverted,
    leave_multiplied,
    misread,
    repair_palette,
    scale_key,
    stored_greys,
    swap_byte_order,
    undo_alpha,
)
from .files import unreadable
from .mending import is_unfilled_webp, mend, names_wrong_coding

# A photo beyond a limit is refused before a pixel of it is decoded: a file of a few kilobytes can
# declare enough pixels to fill the memory. Pillow refuses from the same number of pixels on.
MAX_PIXELS = 178_956_970
MAX_SIDE = 20_000
# Longer side to shorter. Models scale the shorter side up to what they look at, so that a strip of
# 20000 x 1 would become gigabytes; the longest panoramas and screenshots are about 25 to 1.
MAX_ASPECT = 50
# What a detector may be given that keeps the aspect ratio: three times DETR's largest input. Its
# attention grows with the square of this number, to half a gigabyte a layer.
MAX_MODEL_PIXELS = 4_000_000

# The note on a photo whose file ends too early.
TRUNCATED = "truncated"

# What is read into memory of a file that may lack its end.
_MOST_TO_MEND = 1 << 28
# Less of its rows than this share, and a truncated photo shows nothing.
_LEAST_ROWS = 0.05

# Pillow knows more formats; those left out are not for photos or, like EPS, start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")

# EXIF orientation to the turn that undoes it; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Photo:
    """A photo as RGB pixels, and what its viewer should know: `TRUNCATED`, or nothing."""

    image: Image.Image
    note: str = ""


def read_photo(path: str | Path, *, at_least: int | None = None) -> Photo:
    """Read one photo as upright RGB pixels: first frame, EXIF turned, transparency over white.

    Of a file that lacks its end (JPEG, WebP, BMP, PPM; PNG and GIF unless interlaced, TIFF unless
    compressed) what is there is decoded, the rest is grey, black or smeared, and the note says so.

    Samples of more than 8 bits are scaled by the range that the photo itself uses, so that 12 bits
    in a file of 16 are not seen as night (`depth.eight_bits` has the rule).

    Args:
        path: the file.
        at_least: the shorter side in pixels that the caller needs. A larger JPEG is then decoded
            at 1/2, 1/4 or 1/8 of its size, several times as fast, never below this side.

    Returns:
        An RGB image without metadata, independent of the file, and the note.

    Raises:
        SynticError: the file cannot be read, is no image, is damaged, or is too large or too thin;
            the message is one line that names it.
    """
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode):
            raise SynticError(f"{shown(path)} is a folder, not an image: name the files in it")
        if not stat.S_ISREG(mode):
            # A pipe with no writer would be waited for without end.
            raise SynticError(f"{shown(path)} is not a regular file: save the image to a file")
        with Path(path).open("rb") as stream:
            return _decode(stream, shown(path), at_least)
    except (OSError, ValueError) as error:  # ValueError: a NUL within the name
        raise SynticError(unreadable(path, error)) from error


def load_photo(path: str | Path, *, at_least: int | None = None) -> Image.Image:
    """The image of `read_photo`, without its note."""
    return read_photo(path, at_least=at_least).image


def decode_image(data: bytes, name: str, at_least: int | None = None) -> Image.Image:
    """Decode an encoded image as `read_photo` does, but refuse one that is truncated.

    Args:
        data: the bytes of a JPEG, PNG, WebP, ... file.
        name: what to call the image in an error.
        at_least: as for `read_photo`.

    Returns:
        An RGB image without metadata.

    Raises:
        SynticError: the bytes are no image, are damaged, or declare too large or thin an image.
    """
    photo = _decode(io.BytesIO(data), shown(name), at_least)
    if photo.note:
        raise SynticError(f"{shown(name)} cannot be decoded ({photo.note}): write it again")
    return photo.image


@contextmanager
def preparing(path: str | Path) -> Iterator[None]:
    """Make what goes wrong with one photo in this block a SynticError of one line that names it."""
    try:
        yield
    except SynticError:
        raise
    except Exception as error:
        # Resizing and normalising fail with any exception at all, by the library they are from.
        raise SynticError(
            f"{shown(path)} cannot be prepared for the models ({_reason(error)}): "
            "crop or convert it, or leave it out"
        ) from error


def check_model_input(
    size: tuple[int, int], path: str | Path, shortest: int, longest: int | None = None
) -> None:
    """Refuse a photo that a model which keeps the aspect ratio would scale to too much or nothing.

    Args:
        size: width and height of the photo in pixels.
        path: the photo, for the message.
        shortest: the shorter side in pixels that the model scales a photo to,
        longest: unless the longer side would exceed this.

    Raises:
        SynticError: with the size that the photo would have.
    """
    scale = shortest / min(size)
    if longest:
        scale = min(scale, longest / max(size))
    width, height = (round(side * scale) for side in size)
    if min(width, height) < 1 or width * height > MAX_MODEL_PIXELS:
        raise SynticError(
            f"{shown(path)} is too thin ({size[0]} x {size[1]} pixels): the detector, which keeps "
            f"the aspect ratio, would be given {width} x {height} (at least 1 a side, at most "
            f"{MAX_MODEL_PIXELS // 1_000_000} million in all); crop it"
        )


def _decode(stream: IO[bytes], name: str, at_least: int | None) -> Photo:
    try:
        image = _whole(stream, name, at_least)
        return Photo(image, TRUNCATED if is_unfilled_webp(stream) else "")
    except SynticError:
        raise
    except Image.DecompressionBombError as error:  # WebP and TIFF judge what they allocate at once
        raise SynticError(f"{name} is too large ({error}): scale it down") from error
    except Exception as error:
        # Decoders answer damaged bytes with any exception at all (struct.error, SyntaxError, ...).
        try:
            return _mended(stream, name, at_least)
        except SynticError:
            raise
        except Exception:  # the first reason says more
            raise _undecodable(name, _reason(error)) from error


def _whole(stream: IO[bytes], name: str, at_least: int | None) -> Image.Image:
    return _read(stream, name, at_least, lambda image: image.load())


def _mended(stream: IO[bytes], name: str, at_least: int | None) -> Photo:
    """Decode what is there of a file that Pillow does not take as it is.

    Pillow has switches for this, but they would hold for the whole process and all its threads.
    """
    stream.seek(0)
    data, truncated = mend(stream.read(_MOST_TO_MEND))
    if stream.read(1):
        raise ValueError("too large to be mended")

    def load(image: ImageFile.ImageFile) -> None:
        nonlocal truncated
        truncated |= _load_what_is_there(image)
        if truncated:
            _refuse_empty(image, name)

    image = _read(io.BytesIO(data), name, at_least, load)
    return Photo(image, TRUNCATED if truncated else "")


def _load_what_is_there(image: ImageFile.ImageFile) -> bool:
    """Load the rows of an opened image that its file has; tell whether some are missing."""
    interlaced = image.info.get("interlace") or _is_interlaced_gif(image)
    try:
        image.load()
    except OSError as error:
        # Rows that are stored in another order would leave gaps all over the image.
        if "truncated" not in str(error) or interlaced:
            raise
        image.tile = []  # take the rows that were decoded
        return True
    return False


def _read(
    stream: IO[bytes],
    name: str,
    at_least: int | None,
    load: Callable[[ImageFile.ImageFile], object],
) -> Image.Image:
    image = _opened(stream, name, at_least)
    mode = deep_mode(image)
    if mode:
        leave_multiplied(image)
    scale_key(image)
    load(image)
    turn = _turn(image)

    def other() -> Image.Image:
        again = _opened(stream, name)
        leave_multiplied(again)
        swap_byte_order(again)
        load(again)
        return again

    return _as_rgb(_in_own_range(image, other, mode) if mode else image, turn)


def _is_interlaced_gif(image: ImageFile.ImageFile) -> bool:
    if image.format != "GIF" or not image.tile:
        return False
    args = image.tile[0].args
    return isinstance(args, tuple) and bool(args[1])


def _refuse_empty(image: Image.Image, name: str) -> None:
    """Refuse a truncated image of which nearly all rows are of one colour: what decoders fill in.

    At the lower end are the rows that are missing, in a BMP at the upper.
    """
    pixels = np.asarray(image).reshape(image.height, -1)
    bands = pixels.shape[1] // image.width
    for fill in (pixels[-1, -bands:], pixels[0, :bands]):
        there = (pixels != np.tile(fill, image.width)).any(axis=1).mean()
        if there < _LEAST_ROWS:
            raise _undecodable(name, "nearly all of it is missing")


def _undecodable(name: str, reason: str) -> SynticError:
    return SynticError(
        f"{name} cannot be decoded ({reason}): copy it again, or convert it to JPEG or PNG"
    )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _opened(stream: IO[bytes], name: str, at_least: int | None = None) -> ImageFile.ImageFile:
    """Read the header, as `Image.open` does, but leave it to us to judge the size it declares.

    `Image.open` raises above its own limit without saying the sides, and below that warns on
    standard error; both can be changed only for the whole process.
    """
    stream.seek(0)
    head = stream.read(16)
    if not head:
        raise SynticError(f"{name} is empty (0 bytes): copy or download it again")
    Image.init()
    for kind in _FORMATS:
        factory, accepts = Image.OPEN.get(kind, (None, None))
        if factory is not None and accepts is not None and accepts(head) is True:
            if kind == "JPEG" and names_wrong_coding(stream):
                raise _undecodable(name, "its start says arithmetic coding, its tables Huffman's")
            stream.seek(0)
            # Without a file name Pillow reads and never maps the file, which may change meanwhile.
            image = factory(stream, "")
            _refuse_size(image.size, name)
            if wrong := misread(image):
                raise _undecodable(name, wrong)
            if at_least:
                image.draft(None, (at_least, at_least))
            return image
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"hevc", b"mif1"):
        raise SynticError(f"{name} is a HEIC image, which syntic cannot read: convert it to JPEG")
    raise SynticError(f"{name} is not an image that syntic reads ({', '.join(_FORMATS)})")


def _refuse_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if max(size) > MAX_SIDE or width * height > MAX_PIXELS:
        raise SynticError(
            f"{name} is too large ({width} x {height} pixels; at most {MAX_SIDE} a side and"
            f" {MAX_PIXELS // 1_000_000} million in all): scale it down"
        )
    if max(size) > MAX_ASPECT * min(size):
        raise SynticError(
            f"{name} is too thin ({width} x {height} pixels; at most {MAX_ASPECT} to 1): crop it"
        )


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF, in as many ways as there are; the pixels are fine
        return None


def _as_rgb(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = _shallow(image)
    elif image.mode == "La":
        image = image.convert("LA")
    elif (image.format, image.mode) == ("BMP", "RGBA") and not np.asarray(image)[..., 3].any():
        image = image.convert("RGB")  # with an alpha that most programs leave unused
    repair_palette(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        flat = Image.new("RGB", layer.size, "white")
        flat.paste(layer, mask=layer.getchannel("A"))
    else:
        flat = image.convert("RGB")
    flat.info.clear()
    return flat if turn is None else flat.transpose(turn)


def _shallow(image: Image.Image) -> Image.Image:
    """Deep greys as 8 bits, beside an alpha where one of them stands for nothing."""
    samples, key = stored_greys(image), image.info.get("transparency")
    greys = eight_bits(samples)
    greys = ImageOps.invert(greys) if is_inverted(image) else greys
    if isinstance(key, int):
        greys.putalpha(Image.fromarray(np.where(samples == key, 0, 255).astype(np.uint8)))
    return greys


def _in_own_range(image: Image.Image, other: Callable[[], Image.Image], mode: str) -> Image.Image:
    """Scale 16-bit colours by their own range, where they leave upper bits unused.

    Args:
        image: with the upper 8 bits.
        other: loads the lower ones.
        mode: as of `deep_mode`.
    """
    upper = np.asarray(image)[..., :3]
    key = image.info.get("transparency")  # a colour of 16 bits
    if upper.max() > UPPER_OF_14_BITS and key is None and mode != "RGBa":
        return image
    samples = deep_samples(image, other(), mode)
    if mode in ("RGBA", "RGBa", "LA"):
        seen = undo_alpha(samples) if mode == "RGBa" else samples[..., :-1]
        alpha = eight_bits(samples[..., -1])
    else:
        seen, alpha = samples, None
        if isinstance(key, tuple):
            there = (samples != np.asarray(key)).any(axis=-1)
            alpha = Image.fromarray(np.where(there, 255, 0).astype(np.uint8))
    colours = eight_bits(seen[..., 0] if mode == "LA" else seen)
    if alpha is not None:
        colours.putalpha(alpha)
    return colours
