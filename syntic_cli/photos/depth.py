"""Samples of more than 8 bits as the 8 that models are shown."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from PIL import Image, ImageFile
from PIL import TiffImagePlugin as TiffTags

# What white may be in integers, by the bits in use: 1 (a mask), 8, 10, 12, 14 or 16.
_WHITES = (1, 255, 1023, 4095, 16383, 65535)
# The sample format of signed integers (TIFF 6.0, section 19).
_SIGNED = 2
# How Pillow calls what it makes RGB or RGBA of, `RGBa` being colours multiplied by their alpha.
_DEEP_COLOURS = ("RGB;16", "RGBX;16", "RGBA;16", "RGBa;16", "LA;16")
# The largest upper byte of a sample of 14 bits: above it all 16 are in use.
UPPER_OF_14_BITS = 16383 >> 8


def eight_bits(samples: np.ndarray[Any, Any]) -> Image.Image:
    """Scale samples to 0..255 by the range that they use; Pillow's own conversion clips them.

    Few files say what white is, and those of 12 bits in 16 say it wrong. Of integers it is the
    smallest of 1, 255, 1023, 4095, 16383 and 65535 that holds the brightest sample, or else that
    sample. Of floats it is the brightest sample, or the 99.9th percentile where a few lights lie
    more than four times as far above black. Black is 0, or the darkest sample where that is
    negative.

    Args:
        samples: (H, W) integers or floats, or (H, W, 3) of 16 bits; not a number is black.

    Returns:
        An image of mode L or RGB.

    Raises:
        ValueError: no sample is a finite number, so that nothing can be seen.
    """
    black, white = _range(samples)
    if samples.dtype.itemsize == 2:  # a table takes less memory than all samples as floats
        values = np.arange(65536, dtype=np.float32)
    else:
        values = np.nan_to_num(samples.astype(np.float32), nan=black, posinf=white, neginf=black)
    scaled = np.rint((values.clip(black, white) - black) * (255 / (white - black)))
    scaled = scaled.astype(np.uint8)
    return Image.fromarray(scaled[samples] if samples.dtype.itemsize == 2 else scaled)


def deep_mode(image: ImageFile.ImageFile) -> str:
    """How an opened image stores colours of 16 bits, of which Pillow keeps the upper 8: as `RGB`,
    `RGBX`, `RGBA`, `RGBa` or `LA`; empty where it stores others."""
    rawmodes = {_rawmode(tile) for tile in image.tile}
    deep = len(rawmodes) == 1 and min(rawmodes).startswith(_DEEP_COLOURS)
    return min(rawmodes).partition(";")[0] if deep else ""


def leave_multiplied(image: ImageFile.ImageFile) -> None:
    """Let an opened image of deep colours load them as stored, multiplied by their alpha."""
    image.tile = [_of_rawmode(t, _rawmode(t).replace("RGBa", "RGBA")) for t in image.tile]


def scale_key(image: ImageFile.ImageFile) -> None:
    """Give the grey that stands for nothing in an opened image the 8 bits that Pillow makes of 2
    or 4 (ISO 15948, 11.3.2.1)."""
    key = image.info.get("transparency")
    rawmode = _rawmode(image.tile[0]) if image.tile else ""
    if isinstance(key, int) and rawmode in ("L;2", "L;4"):
        image.info["transparency"] = key * (255 // (2 ** int(rawmode[-1]) - 1))


def deep_samples(
    image: Image.Image, other: Image.Image, mode: str
) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """All 16 bits, (H, W, 2 to 4): of an image, and of it after `swap_byte_order`."""
    lower = np.asarray(other)
    if mode == "LA":  # which was loaded as its four bytes
        return lower[..., ::2].astype(np.uint16) << 8 | lower[..., 1::2]
    return np.asarray(image).astype(np.uint16) << 8 | lower


def undo_alpha(samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Colours (H, W, 3) of 16 bits, of (H, W, 4) in which they are multiplied by their alpha."""
    alpha = samples[..., 3:].astype(np.float32)
    shares = np.divide(_range(samples[..., 3])[1], alpha, out=np.zeros_like(alpha), where=alpha > 0)
    return np.asarray((samples[..., :3] * shares).clip(0, 65535).astype(np.uint16))


def misread(image: ImageFile.ImageFile) -> str:
    """Why an opened TIFF is one that Pillow would take for another; empty where it is not."""
    tags = getattr(image, "tag_v2", {})
    bits = max(tags.get(TiffTags.BITSPERSAMPLE, (1,)))
    if tags.get(TiffTags.PLANAR_CONFIGURATION) == 2 and image.mode != "L" and bits > 8:
        return f"its colours of {bits} bits lie plane by plane"
    if bits == 8 and _SIGNED in tags.get(TiffTags.SAMPLEFORMAT, ()):
        return "its bytes are signed"
    return ""


def is_inverted(image: Image.Image) -> bool:
    """Whether 0 is white in a TIFF of deep greys, which Pillow knows of 8 bits alone."""
    return getattr(image, "tag_v2", {}).get(TiffTags.PHOTOMETRIC_INTERPRETATION) == 0


def stored_greys(image: Image.Image) -> np.ndarray[Any, Any]:
    """The samples of an image of deep greys; Pillow takes 32 bits for signed."""
    samples = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    unsigned = tags.get(TiffTags.SAMPLEFORMAT, (1,)) == (1,)
    is_long = tags.get(TiffTags.BITSPERSAMPLE) == (32,)
    return samples.view(np.uint32) if image.mode == "I" and unsigned and is_long else samples


def repair_palette(image: Image.Image) -> None:
    """Take the colours of a TIFF's palette as 8 bits where none has more; 16 are the standard."""
    colours = getattr(image, "tag_v2", {}).get(TiffTags.COLORMAP, (256,))
    if image.mode == "P" and max(colours) < 256:
        image.putpalette(np.reshape(colours, (3, -1)).T.astype(np.uint8).tobytes())


def swap_byte_order(image: ImageFile.ImageFile) -> None:
    """Let an opened image of deep colours load as the lower 8 bits instead of the upper; of grey
    and alpha, of which there is no other order, as their four bytes."""
    image.tile = [_of_other_order(tile) for tile in image.tile]


def _range(samples: np.ndarray[Any, Any]) -> tuple[float, float]:
    return _float_range(samples) if samples.dtype.kind == "f" else _whole_range(samples)


def _whole_range(samples: np.ndarray[Any, Any]) -> tuple[float, float]:
    low, top = int(samples.min()), int(samples.max())
    if low < 0:
        return low, max(top, 0)
    return 0, next((white for white in _WHITES if top <= white), top)


def _float_range(samples: np.ndarray[Any, Any]) -> tuple[float, float]:
    finite = samples[np.isfinite(samples)]
    if not finite.size:
        raise ValueError("no sample is a number, all are NaN or infinite")
    black, top = min(0.0, float(finite.min())), float(finite.max())
    bulk = float(np.percentile(finite, 99.9))
    white = bulk if black < bulk < black + (top - black) / 4 else top
    return black, white if white > black else black + 1.0


def _rawmode(tile: ImageFile._Tile) -> str:
    args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    return str(args[0])


def _of_other_order(tile: ImageFile._Tile) -> ImageFile._Tile:
    rawmode = _rawmode(tile)
    if rawmode == "LA;16B":
        return _of_rawmode(tile, "RGBA")
    native = "L" if sys.byteorder == "little" else "B"
    other = "L" if rawmode[-1].replace("N", native) == "B" else "B"
    return _of_rawmode(tile, rawmode[:-1] + other)


def _of_rawmode(tile: ImageFile._Tile, rawmode: str) -> ImageFile._Tile:
    args = (rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode
    return tile._replace(args=args)
