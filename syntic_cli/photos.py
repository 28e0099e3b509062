"""Photos in: each file as upright RGB pixels. Which files a command means is in photo_files."""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageFile

from .errors import SynticError, shown
from .photo_files import IMAGE_SUFFIXES, PhotoList, find_photos, list_photos, unreadable

__all__ = [
    "IMAGE_SUFFIXES",
    "PhotoList",
    "decode_image",
    "find_photos",
    "list_photos",
    "load_photo",
]

# A photo beyond either limit is refused before a pixel of it is decoded: a file of a few kilobytes
# can declare enough pixels to fill the memory. Pillow refuses from the same number of pixels on.
MAX_PIXELS = 178_956_970
MAX_SIDE = 20_000

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


def load_photo(path: str | Path, *, at_least: int | None = None) -> Image.Image:
    """Read one photo as upright RGB pixels: first frame, EXIF turned, transparency over white.

    Args:
        path: the file.
        at_least: the shorter side in pixels that the caller needs. A larger JPEG is then decoded
            at 1/2, 1/4 or 1/8 of its size, several times as fast, never below this side.

    Returns:
        An RGB image without metadata, independent of the file.

    Raises:
        SynticError: the file cannot be read, is no image, is damaged, or is too large; the message
            is one line that names it.
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


def decode_image(data: bytes, name: str, at_least: int | None = None) -> Image.Image:
    """Decode an encoded image as `load_photo` does.

    Args:
        data: the bytes of a JPEG, PNG, WebP, ... file.
        name: what to call the image in an error.
        at_least: as for `load_photo`.

    Returns:
        An RGB image without metadata.

    Raises:
        SynticError: the bytes are no image, are damaged, or declare too large an image.
    """
    return _decode(io.BytesIO(data), shown(name), at_least)


def _decode(stream: IO[bytes], name: str, at_least: int | None) -> Image.Image:
    try:
        image = _opened(stream, name)
        _refuse_too_large(image.size, name)
        if at_least:
            image.draft(None, (at_least, at_least))
        image.load()
        return _as_rgb(_upright(image))
    except SynticError:
        raise
    except Image.DecompressionBombError as error:  # WebP and TIFF judge what they allocate at once
        raise SynticError(f"{name} is too large ({error}): scale it down") from error
    except Exception as error:
        # Decoders answer damaged bytes with any exception at all (struct.error, SyntaxError, ...).
        reason = str(error) or type(error).__name__
        raise SynticError(
            f"{name} cannot be decoded ({reason}): copy it again, or convert it to JPEG or PNG"
        ) from error


def _opened(stream: IO[bytes], name: str) -> ImageFile.ImageFile:
    """Read the header, as `Image.open` does, but leave it to us to judge the size it declares.

    `Image.open` raises above its own limit without saying the sides, and below that warns on
    standard error; both can be changed only for the whole process.
    """
    head = stream.read(16)
    if not head:
        raise SynticError(f"{name} is empty (0 bytes): copy or download it again")
    Image.init()
    for kind in _FORMATS:
        factory, accepts = Image.OPEN.get(kind, (None, None))
        if factory is not None and accepts is not None and accepts(head) is True:
            stream.seek(0)
            # Without a file name Pillow reads and never maps the file, which may change meanwhile.
            return factory(stream, "")
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"hevc", b"mif1"):
        raise SynticError(f"{name} is a HEIC image, which syntic cannot read: convert it to JPEG")
    raise SynticError(f"{name} is not an image that syntic reads ({', '.join(_FORMATS)})")


def _refuse_too_large(size: tuple[int, int], name: str) -> None:
    width, height = size
    if max(size) > MAX_SIDE or width * height > MAX_PIXELS:
        raise SynticError(
            f"{name} is too large ({width} x {height} pixels; at most {MAX_SIDE} a side and"
            f" {MAX_PIXELS // 1_000_000} million in all): scale it down"
        )


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF, in as many ways as there are; the pixels are fine
        turn = None
    return image if turn is None else image.transpose(turn)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        flat = Image.new("RGB", layer.size, "white")
        flat.paste(layer, mask=layer.getchannel("A"))
    else:
        flat = image.convert("RGB")
    flat.info.clear()
    return flat


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale deep greyscale to 0..255; Pillow's own conversion would clip it."""
    if image.mode.startswith("I;16"):
        table = np.rint(np.arange(65536) / 257).astype(np.uint8)
        return Image.fromarray(table[np.asarray(image)])
    # 32-bit integers and floats do not say what white is: the smallest usual value that holds all.
    values: np.ndarray[Any, np.dtype[np.float32]] = np.nan_to_num(
        np.asarray(image, dtype=np.float32), posinf=0.0
    )
    top = float(values.max())
    usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    white = next((value for value in usual if top <= value), top)
    return Image.fromarray(np.rint(values.clip(0, white) * (255 / white)).astype(np.uint8))
