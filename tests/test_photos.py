"""Photos whose pixels are known beforehand, in every kind of file; bad ones by the table."""

from __future__ import annotations

import glob
import io
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image, ImageFile

from syntic_cli.errors import SynticError
from syntic_cli.photos import (
    TRUNCATED,
    Photo,
    check_model_input,
    decode_image,
    decoding,
    find_photos,
    list_photos,
    load_photo,
    preparing,
    read_photo,
)
from syntic_cli.photos import files as photo_files

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(width: int = 32, height: int = 48) -> np.ndarray[Any, Any]:
    """Red, green over blue, white: no turn or flip of it looks like another."""
    pixels = np.zeros((height, width, 3), np.uint8)
    middle = (slice(None, height // 2), slice(height // 2, None))
    left, right = slice(None, width // 2), slice(width // 2, None)
    pixels[middle[0], left], pixels[middle[0], right] = RED, GREEN
    pixels[middle[1], left], pixels[middle[1], right] = BLUE, WHITE
    return pixels


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels_of(image: Image.Image) -> np.ndarray[Any, Any]:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that declares a size, with no pixels behind it."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + png_chunk(b"IEND", b"")


JPEG = encoded(Image.fromarray(quarters()), "JPEG")
PNG = encoded(Image.fromarray(quarters()), "PNG")


def png_with_text_of_size(width: int, height: int) -> bytes:
    """The same, behind a text that Pillow refuses."""
    text = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * (2 << 20)))
    data = png_of_size(width, height)
    return data[:33] + text + data[33:]


def tiff_of(
    samples: np.ndarray[Any, Any], order: str = "<", bits: int | None = None, deflate: bool = False
) -> bytes:
    """A TIFF of one strip, written from the specification (TIFF 6.0)."""
    height, width = samples.shape[:2]
    bands = samples.shape[2] if samples.ndim == 3 else 1
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    if bits == 12:
        pairs = samples.reshape(-1, 2)
        data = b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in pairs.astype(int))
    data = zlib.compress(data) if deflate else data
    tags = [
        *((256, width), (257, height), (258, bits or samples.dtype.itemsize * 8)),
        *((259, 8 if deflate else 1), (262, 2 if bands > 2 else 1), (273, 0), (277, bands)),
        *((278, height), (279, len(data)), (339, kind)),
    ]
    if bands == 4:  # colours multiplied by the last band (section 18)
        tags.insert(-1, (338, 1))
    table = 8 + 2 + 12 * len(tags) + 4
    extra, entries = b"", b""
    for tag, value in tags:
        if tag in (258, 339) and bands > 2:
            entries += struct.pack(order + "HHII", tag, 3, bands, table + len(extra))
            extra += struct.pack(order + "H" * bands, *[value] * bands)
        else:
            # Where the strip is: behind the two lists, a number a band, of an image of colours.
            place = table + (4 * bands if bands > 2 else 0)
            entries += struct.pack(order + "HHII", tag, 4, 1, place if tag == 273 else value)
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    count = struct.pack(order + "H", len(tags))
    return start + count + entries + struct.pack(order + "I", 0) + extra + data


# As the EXIF standard defines the values: how the rows and columns of the upright image are stored.
STORED: dict[int, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: np.rot90,
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientations_all_come_out_upright(kind: str, orientation: int) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](quarters())))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True},
    }
    image = decode_image(encoded(stored, kind, exif=exif, **options.get(kind, {})), "x")
    assert np.abs(pixels_of(image) - quarters()).max() <= (8 if kind == "JPEG" else 0)
    assert not image.getexif().get(0x0112)  # or whoever reads it next would turn it again


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_costs_the_turn_and_not_the_photo() -> None:
    data = encoded(Image.fromarray(quarters()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f\1\2")
    assert decode_image(data, "x").size == (32, 48)


def colour_cases() -> dict[str, tuple[Image.Image, str, dict[str, Any], tuple[int, int, int]]]:
    """Name to an image of one colour, how to save it, and the RGB colour that must come out."""
    clear_palette = Image.new("P", (4, 4), 1)
    clear_palette.putpalette([*RED, *BLUE])
    grey_alpha = Image.new("LA", (4, 4), (40, 0))
    return {
        "grey": (Image.new("L", (4, 4), 77), "JPEG", {}, (77, 77, 77)),
        "bilevel": (Image.new("1", (4, 4), 1), "PNG", {}, WHITE),
        "palette": (clear_palette, "PNG", {}, BLUE),
        "clear palette": (clear_palette, "PNG", {"transparency": 1}, WHITE),
        "palette of alphas": (clear_palette, "PNG", {"transparency": b"\xff\x80"}, (127, 127, 255)),
        "clear GIF": (clear_palette, "GIF", {"transparency": 1}, WHITE),
        "keyed RGB": (Image.new("RGB", (4, 4), RED), "PNG", {"transparency": RED}, WHITE),
        "clear": (Image.new("RGBA", (4, 4), (9, 9, 9, 0)), "PNG", {}, WHITE),
        "half clear": (Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG", {}, (127, 127, 127)),
        "opaque": (Image.new("RGBA", (4, 4), (1, 2, 3, 255)), "PNG", {}, (1, 2, 3)),
        "clear WebP": (Image.new("RGBA", (4, 4), (9, 9, 9, 0)), "WEBP", {"lossless": True}, WHITE),
        "grey and alpha": (grey_alpha, "PNG", {}, WHITE),
        # Ink 0 is paper; Photoshop's JPEGs store ink inverted, a TIFF does not.
        "CMYK JPEG": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", {"quality": 95}, RED),
        "CMYK paper": (Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG", {"quality": 95}, WHITE),
        "CMYK TIFF": (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF", {}, RED),
        "one pixel": (Image.new("RGB", (1, 1), GREEN), "PNG", {}, GREEN),
        "BMP": (Image.new("RGB", (3, 5), GREEN), "BMP", {}, GREEN),
        "PPM": (Image.new("RGB", (3, 5), GREEN), "PPM", {}, GREEN),
        "JPEG 2000": (Image.new("RGB", (8, 8), GREEN), "JPEG2000", {}, GREEN),
    }


@pytest.mark.parametrize("name", colour_cases())
def test_every_colour_space_comes_out_as_rgb(name: str, tmp_path: Path) -> None:
    image, kind, options, expected = colour_cases()[name]
    data = encoded(image, kind, **options)
    path = tmp_path / "any.name"
    path.write_bytes(data)
    for loaded in (decode_image(data, name), load_photo(path)):
        assert loaded.size == image.size
        assert np.abs(pixels_of(loaded) - expected).max() <= (2 if kind == "JPEG" else 0)
        assert loaded.info == {}


def test_an_adobe_cmyk_jpeg_is_one() -> None:
    assert b"Adobe" in encoded(Image.new("CMYK", (8, 8)), "JPEG")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM", "big-endian TIFF"])
def test_16_bit_greyscale_is_scaled_and_not_clipped(kind: str) -> None:
    deep = np.array([[0, 10 * 257, 128 * 257 + 100, 65535]], np.uint16)
    if kind == "PGM":
        data = b"P5\n4 1\n65535\n" + deep.astype(">u2").tobytes()
    elif kind == "big-endian TIFF":
        data = encoded(Image.frombytes("I;16B", (4, 1), deep.astype(">u2").tobytes()), "TIFF")
        assert data[:2] in (b"MM", b"II")
    else:
        data = encoded(Image.fromarray(deep), kind)
    assert pixels_of(decode_image(data, "x"))[0, :, 0].tolist() == [0, 10, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([0.0, 0.75, 1.5], [0, 128, 255]),
        ([0.0, 100.0, 4000.0], [0, 6, 255]),
        ([-1.0, float("nan"), 65535.0], [0, 0, 255]),
        ([-100.0, 100.0, float("inf"), 300.0], [0, 128, 255, 255]),
        ([5.0, 5.0, 0.0], [255, 255, 0]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
        ([0, 257, 65535], [0, 1, 255]),
        ([0, 1 << 29, 1 << 30], [0, 128, 255]),
        ([-1000, 1000, 3000], [0, 128, 255]),
        ([-2, -2, -1], [0, 0, 128]),
    ],
)
def test_deeper_greyscale_is_scaled_too(values: list[float], expected: list[int]) -> None:
    samples = np.array([values], np.float32 if isinstance(values[0], float) else np.int32)
    for order in "<>":
        assert pixels_of(decode_image(tiff_of(samples, order), "x"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("white", "clear"), [(1023, 1023), (1023, 65535), (4095, 4095), (4095, 65535), (65535, 65535)]
)
def test_deep_colours_beside_an_alpha_are_scaled_too(white: int, clear: int) -> None:
    samples = np.array([[[0, white, white // 2, clear], [0, white, 0, 0]]], ">u2")
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 6, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" + samples.tobytes()))
    data = b"\x89PNG\r\n\x1a\n" + header + pixels + png_chunk(b"IEND", b"")
    found = pixels_of(decode_image(data, "x"))[0]
    assert np.abs(found - [[0, 255, 127], WHITE]).max() <= 1


@pytest.mark.parametrize("white", [255, 1023, 4095, 65535])
@pytest.mark.parametrize("full", [False, True])
def test_deep_grey_beside_an_alpha_is_scaled_too(white: int, full: bool) -> None:
    clear = 65535 if full else white
    samples = np.array([[[0, clear], [white // 2, clear], [white, clear], [0, 0]]], ">u2")
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 16, 4, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" + samples.tobytes()))
    data = b"\x89PNG\r\n\x1a\n" + header + pixels + png_chunk(b"IEND", b"")
    seen = pixels_of(decode_image(data, "x"))[0]
    assert np.abs(seen - np.array([0, 127, 255, 255])[:, None]).max() <= 1


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize(
    ("white", "clear"), [(1023, 1023), (4095, 4095), (4095, 65535), (65535, 65535)]
)
def test_deep_colours_multiplied_by_their_alpha(
    white: int, clear: int, deflate: bool, order: str
) -> None:
    # Orange; half of a dark red, over white; nothing.
    pixels = [[white, white // 2, 0, clear], [white // 4, 0, 0, clear // 2], [0] * 4]
    data = tiff_of(np.array([pixels], np.uint16), order, deflate=deflate)
    seen = pixels_of(decode_image(data, "x"))[0]
    assert np.abs(seen - [[255, 127, 0], [191, 127, 127], WHITE]).max() <= 2


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_a_grey_that_stands_for_nothing_is_clear(bits: int) -> None:
    top = 2**bits - 1
    row = np.array([[0, top // 3, top // 3, top]], ">u2" if bits == 16 else np.uint8)
    packed = np.unpackbits(row.astype(np.uint8)[0, :, None], axis=1)[:, 8 - min(bits, 8) :]
    data = row.tobytes() if bits == 16 else np.packbits(packed).tobytes()
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0))
    key = png_chunk(b"tRNS", struct.pack(">H", top // 3))
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" + data))
    png = b"\x89PNG\r\n\x1a\n" + header + key + pixels + png_chunk(b"IEND", b"")
    assert pixels_of(decode_image(png, "x"))[0, :, 0].tolist() == [0, 255, 255, 255]


@pytest.mark.parametrize("white", [1023, 4095, 65535])
def test_a_colour_of_16_bits_that_stands_for_nothing_is_clear(white: int) -> None:
    samples = np.array([[[0, white // 2, white], [7, 8, 9]]], ">u2")
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    key = png_chunk(b"tRNS", struct.pack(">HHH", 7, 8, 9))
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" + samples.tobytes()))
    data = b"\x89PNG\r\n\x1a\n" + header + key + pixels + png_chunk(b"IEND", b"")
    assert np.abs(pixels_of(decode_image(data, "x"))[0] - [[0, 127, 255], WHITE]).max() <= 1


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_truncated_colours_of_12_bits_are_scaled(kind: str, tmp_path: Path) -> None:
    samples = np.asarray(noise()).astype(np.uint16) << 4
    if kind == "TIFF":
        data = tiff_of(samples)
    else:
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
        header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 96, 16, 2, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows))
    photo = read_cut(tmp_path, data[: len(data) * 4 // 5])
    assert photo.note == TRUNCATED
    assert np.abs(pixels_of(photo.image)[:60] - np.asarray(noise())[:60]).max() <= 1


def test_greys_of_32_bits_without_a_sign_are_not_taken_for_signed() -> None:
    samples = np.array([[0, 1 << 31, (1 << 32) - 1]], np.uint32)
    assert pixels_of(decode_image(tiff_of(samples), "x"))[0, :, 0].tolist() == [0, 128, 255]


def test_a_palette_of_8_bits_in_a_tiff_is_one() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *BLUE, *[0] * 762])
    data = encoded(image, "TIFF")
    bands = np.zeros((3, 256), "<u2")
    bands[0, 0] = bands[2, 1] = 255 << 8
    colours = bands.tobytes()
    assert colours in data
    narrow = data.replace(colours, (bands >> 8).tobytes())
    assert (pixels_of(decode_image(narrow, "x")) == BLUE).all()


def test_a_bmp_whose_alpha_is_unused_is_seen() -> None:
    for alpha, seen in ((0, BLUE), (255, BLUE), (128, (127, 127, 255))):
        pixels = bytes([255, 0, 0, alpha]) * 16
        masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000).ljust(68, b"\0")
        header = struct.pack("<IiiHHIIiiII", 108, 4, 4, 1, 32, 3, len(pixels), 0, 0, 0, 0)
        data = b"BM" + struct.pack("<IHHI", 186, 0, 0, 122) + header + masks + pixels
        assert np.abs(pixels_of(decode_image(data, "x")) - seen).max() <= 1


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_whose_start_names_another_coding_is_refused(progressive: bool) -> None:
    data = encoded(noise(), "JPEG", progressive=progressive)
    mark = b"\xff\xc2" if progressive else b"\xff\xc0"
    wrong = data.replace(mark, b"\xff" + bytes([mark[1] + 8 if progressive else 0xC9]), 1)
    with pytest.raises(SynticError, match="its start says arithmetic coding"):
        decode_image(wrong, "x")


@pytest.mark.parametrize("order", "<>")
def test_a_tiff_that_pillow_takes_for_another_is_refused(order: str) -> None:
    signed = tiff_of(np.zeros((4, 4), np.int8), order)
    with pytest.raises(SynticError, match=r"x cannot be decoded \(its bytes are signed"):
        decode_image(signed, "x")
    deep = tiff_of(np.zeros((4, 4, 3), np.uint16), order)
    entry = struct.pack(order + "HHIHH", 278, 4, 1, 4, 0)[:8]
    assert entry in deep  # the rows of a strip, which one strip can do without
    planes = struct.pack(order + "HHIHH", 284, 3, 1, 2, 0)
    at = deep.index(entry)
    with pytest.raises(SynticError, match="its colours of 16 bits lie plane by plane"):
        decode_image(deep[:at] + planes + deep[at + 12 :], "x")


def test_deep_greys_of_which_0_is_white_are_turned_round() -> None:
    samples = np.array([[0, 2000, 4095]], np.uint16)
    data = tiff_of(samples).replace(
        struct.pack("<HHII", 262, 4, 1, 1), struct.pack("<HHII", 262, 4, 1, 0)
    )
    assert pixels_of(decode_image(data, "x"))[0, :, 0].tolist() == [255, 255 - 125, 0]


@pytest.mark.parametrize("sample", [float("nan"), float("inf"), -float("inf")])
def test_a_float_photo_without_a_number_is_refused(tmp_path: Path, sample: float) -> None:
    photo = tmp_path / "depth.tif"
    photo.write_bytes(tiff_of(np.full((30, 40), sample, np.float32)))
    with pytest.raises(SynticError, match=r"depth\.tif .*no sample is a number"):
        read_photo(photo)


def test_a_few_lights_do_not_turn_a_float_photo_into_night() -> None:
    samples = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100)
    samples[7, 7] = 50_000
    seen = pixels_of(decode_image(tiff_of(samples), "x"))[..., 0]
    assert np.abs(seen - np.rint(samples.clip(0, 1) * 255)).max() <= 1


@pytest.mark.parametrize(
    ("top", "white"),
    [
        (1, 1),
        (200, 255),
        (1000, 1023),
        (3900, 4095),
        (4095, 4095),
        (15_000, 16383),
        (40_000, 65535),
    ],
)
def test_16_bits_are_scaled_by_those_in_use(top: int, white: int) -> None:
    samples = np.linspace(0, top, 64).astype(np.uint16).reshape(8, 8)
    colours = np.stack([samples, samples[::-1], samples.T], -1)
    files = [
        encoded(Image.fromarray(samples), "PNG"),
        *(tiff_of(samples, order, deflate=deflate) for order in "<>" for deflate in (False, True)),
    ]
    for data in files:
        seen = pixels_of(decode_image(data, "x"))[..., 0]
        assert np.array_equal(seen, np.rint(samples * (255 / white)))
    for data in (tiff_of(colours, order, deflate=deep) for order in "<>" for deep in (False, True)):
        seen = pixels_of(decode_image(data, "x"))
        # Where all bits are in use Pillow takes the upper 8 of colours.
        assert np.abs(seen - np.rint(colours * (255 / white))).max() <= (white == 65535)


def test_colours_of_12_bits_in_a_png_are_scaled_and_turned() -> None:
    samples = (quarters().astype(np.uint16) << 4) + 15
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 48, 16, 2, 0, 0, 0))
    exif = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\3\0\0\0\0\0\0"  # upside down
    chunks = header + png_chunk(b"eXIf", exif) + png_chunk(b"IDAT", zlib.compress(rows))
    data = b"\x89PNG\r\n\x1a\n" + chunks + png_chunk(b"IEND", b"")
    assert np.abs(pixels_of(decode_image(data, "x")) - quarters()[::-1, ::-1]).max() <= 1


def test_packed_12_bits_are_scaled() -> None:
    samples = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    seen = pixels_of(decode_image(tiff_of(samples, bits=12), "x"))[..., 0]
    assert np.array_equal(seen, np.rint(samples * (255 / 4095)))


def png_with(*chunks: bytes) -> bytes:
    """A PNG of the quarters with chunks before its pixels, and text after them."""
    end = PNG.index(b"IDAT") - 4
    return PNG[:end] + b"".join(chunks) + PNG[end:]


def png_with_much(kind: str) -> bytes:
    megabytes = np.random.default_rng(0).integers(32, 126, 3 << 20, dtype=np.uint8).tobytes()
    small = zlib.compress(b"x" * (80 << 20))
    chunks = {
        "zTXt": [png_chunk(b"zTXt", b"Workflow\0\0" + small)],
        "iTXt": [png_chunk(b"iTXt", b"XML\0\1\0\0\0" + small)],
        "tEXt": [png_chunk(b"tEXt", b"Comment\0" + megabytes)] * 25,
        "iCCP": [png_chunk(b"iCCP", b"wide\0\0" + zlib.compress(megabytes))],
        "wrong checksum": [b"\0\0\0\3tEXta\0b\0\0\0\0"],
    }[kind]
    return png_with(*chunks)


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "tEXt", "iCCP", "wrong checksum"])
@pytest.mark.parametrize("after", [False, True])
def test_texts_and_profiles_of_any_size_cost_a_png_nothing(
    kind: str, after: bool, tmp_path: Path
) -> None:
    data = png_with_much(kind)
    if after:  # the same chunks between the pixels and the end
        extra = data[PNG.index(b"IDAT") - 4 : len(data) - len(PNG) + PNG.index(b"IDAT") - 4]
        data = PNG[:-12] + extra + PNG[-12:]
    path = tmp_path / "much.png"
    path.write_bytes(data)
    photo = read_photo(path)
    assert photo.note == ""
    assert np.array_equal(pixels_of(photo.image), quarters())
    assert np.array_equal(pixels_of(decode_image(data, "x")), quarters())


def test_a_png_with_much_text_keeps_its_transparency_and_turn() -> None:
    image = Image.new("P", (20, 10), 1)
    image.putpalette([*RED, *BLUE])
    image.paste(0, (10, 0, 20, 10))
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encoded(image, "PNG", transparency=0, exif=exif)
    at = data.index(b"PLTE") - 4
    much = png_with_much("zTXt")
    text = much[PNG.index(b"IDAT") - 4 : len(much) - len(PNG) + PNG.index(b"IDAT") - 4]
    seen = pixels_of(decode_image(data[:at] + text + data[at:], "x"))
    assert seen[5, 5].tolist() == list(WHITE)
    assert seen[5, 15].tolist() == list(BLUE)


def noise(width: int = 64, height: int = 96) -> Image.Image:
    small = np.random.default_rng(1).integers(0, 256, (12, 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def read_cut(tmp_path: Path, data: bytes, at_least: int | None = None) -> Photo:
    path = tmp_path / "cut"
    path.write_bytes(data)
    return read_photo(path, at_least=at_least)


WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("JPEG", {"quality": 90}),
    "grey JPEG": ("JPEG", {"quality": 90}),
    "JPEG with restarts": ("JPEG", {"quality": 90, "restart_marker_rows": 1}),
    "PNG": ("PNG", {}),
    "grey PNG": ("PNG", {}),
    "WebP": ("WEBP", {"quality": 90}),
    "lossless WebP": ("WEBP", {"lossless": True}),
    "WebP with alpha": ("WEBP", {"lossless": True}),
    "TIFF": ("TIFF", {}),
    "PPM": ("PPM", {}),
    "GIF": ("GIF", {"interlace": 0}),
    "BMP": ("BMP", {}),
}


def whole_file(name: str) -> bytes:
    kind, options = WHOLE[name]
    mode = "L" if name.startswith("grey") else "RGBA" if "alpha" in name else "RGB"
    return encoded(noise().convert(mode), kind, **options)


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_there_of_a_truncated_photo_is_decoded(name: str, tmp_path: Path) -> None:
    data = whole_file(name)
    expected = pixels_of(decode_image(data, "x"))
    if name == "BMP":  # the only one that is stored from below
        expected = expected[::-1]
    header = {"TIFF": 200, "GIF": 800}.get(name, 650 if "JPEG" in name else 60)
    for share in (0.6, 0.9):
        cut = header + int((len(data) - header) * share)
        photo = read_cut(tmp_path, data[:cut])
        assert photo.note == TRUNCATED
        seen = pixels_of(photo.image)
        seen = seen[::-1] if name == "BMP" else seen
        assert seen.shape == expected.shape
        there = int(len(seen) * (share - 0.25))
        assert np.array_equal(seen[:there], expected[:there])
        assert not np.array_equal(seen, expected)
        assert load_photo(tmp_path / "cut").size == photo.image.size
        with pytest.raises(SynticError, match="truncated"):
            decode_image(data[:cut], "x")  # what syntic has stored itself is whole


def test_a_truncated_progressive_jpeg_is_decoded_from_the_scans_that_are_there(
    tmp_path: Path,
) -> None:
    data = encoded(noise(), "JPEG", quality=90, progressive=True)
    expected = pixels_of(decode_image(data, "x"))
    first_scan = data.index(b"\xff\xda")
    errors = []
    # At every place, be it in a table between two scans.
    for cut in range(len(data) - 1, len(data) // 3, -7):
        assert cut > first_scan
        photo = read_cut(tmp_path, data[:cut])
        assert photo.note == TRUNCATED
        errors.append(np.abs(pixels_of(photo.image) - expected).mean())
    assert errors[0] == 0
    assert max(errors) < 40
    assert np.mean(errors[:50]) < np.mean(errors[-50:])


def test_a_truncated_jpeg_may_be_decoded_small_and_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(noise(640, 960), "JPEG", exif=exif)
    photo = read_cut(tmp_path, data[: len(data) * 3 // 4], at_least=150)
    assert photo == Photo(photo.image, TRUNCATED)
    assert photo.image.size == (240, 160)


@pytest.mark.parametrize("options", [{"quality": 90}, {"lossless": True}])
def test_a_webp_that_was_not_filled_is_truncated(options: dict[str, Any], tmp_path: Path) -> None:
    data = encoded(noise(), "WEBP", **options)
    half = len(data) // 2
    assert read_cut(tmp_path, data[:half] + bytes(len(data) - half)).note == TRUNCATED
    flat = encoded(Image.new("RGB", (2000, 2000), "white"), "WEBP", **options)
    assert [read_cut(tmp_path, whole).note for whole in (data, flat)] == ["", ""]


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "GIF"])
def test_a_photo_that_lacks_nearly_everything_is_an_error(name: str, tmp_path: Path) -> None:
    kind, options = WHOLE[name]
    mode = "L" if name.startswith("grey") else "RGBA" if "alpha" in name else "RGB"
    data = encoded(noise(640, 960).convert(mode), kind, **options)
    start = data.index(b"\xff\xda") + 14 if kind == "JPEG" else 0
    for there in (start, start + (len(data) - start) // 100):
        with pytest.raises(SynticError):
            read_cut(tmp_path, data[:there])
    with pytest.raises(SynticError, match=r"cut cannot be decoded .* copy it again"):
        read_cut(tmp_path, data[: start + (len(data) - start) // 100])


def test_an_interlaced_png_with_gaps_is_an_error(tmp_path: Path) -> None:
    # Any byte below 5 is a kind of filter, so that all of these are rows of some pass.
    rows = zlib.compress(np.random.default_rng(0).integers(0, 5, 3000, np.uint8).tobytes())
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 48, 8, 2, 0, 0, 1))
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", rows)[:-20]
    with pytest.raises(SynticError, match="truncated"):
        read_cut(tmp_path, data)


def test_no_more_of_a_truncated_file_than_a_limit_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = whole_file("JPEG")[:-50]
    monkeypatch.setattr(decoding, "_MOST_TO_MEND", len(data))
    assert read_cut(tmp_path, data).note == TRUNCATED
    monkeypatch.setattr(decoding, "_MOST_TO_MEND", len(data) - 1)
    with pytest.raises(SynticError, match=r"cannot be decoded .*truncated"):
        read_cut(tmp_path, data)


def test_truncated_and_whole_photos_are_read_side_by_side(tmp_path: Path) -> None:
    """A switch for the whole process would let the damaged one through or refuse the others."""
    png, jpeg = whole_file("PNG"), whole_file("JPEG")
    damaged = bytearray(png)
    damaged[len(png) // 2] ^= 255
    kinds = {"cut.png": png[:-900], "cut.jpg": jpeg[:-90], "whole.png": png, "bad.png": damaged}
    for name, data in kinds.items():
        (tmp_path / name).write_bytes(data)

    def outcome(name: str) -> str:
        try:
            return read_photo(tmp_path / name).note
        except SynticError:
            return "error"

    names = list(kinds) * 50
    with ThreadPoolExecutor(8) as readers:
        found = list(readers.map(outcome, names))
    assert found == [TRUNCATED, TRUNCATED, "", "error"] * 50


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    first, *others = (Image.new("RGB", (16, 16), colour) for colour in (BLUE, RED, GREEN))
    options: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "MPO": {"quality": 95}}
    data = encoded(first, kind, save_all=True, append_images=others, **options.get(kind, {}))
    loaded = pixels_of(decode_image(data, "x"))
    assert np.abs(loaded - BLUE).max() <= (2 if kind == "MPO" else 0)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("at_least", "shorter"), [(1, 75), (75, 75), (76, 150), (224, 300), (9999, 600)]
)
def test_a_jpeg_is_decoded_no_larger_than_needed(
    orientation: int, at_least: int, shorter: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](quarters(600, 800)))
    data = encoded(Image.fromarray(stored), "JPEG", quality=95, exif=exif)
    image = decode_image(data, "x", at_least=at_least)
    assert image.size == (shorter, shorter * 4 // 3)
    width, height = image.size
    for across, down, colour in [(1, 1, RED), (3, 1, GREEN), (1, 3, BLUE), (3, 3, WHITE)]:
        seen = pixels_of(image)[down * height // 4, across * width // 4]
        assert np.abs(seen - colour).max() <= 4


def test_other_formats_ignore_at_least() -> None:
    for kind in ("PNG", "GIF", "WEBP", "TIFF"):
        data = encoded(Image.fromarray(quarters(160, 240)), kind)
        assert decode_image(data, "x", at_least=16).size == (160, 240)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
WEBP_LARGEST = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xfe\x3f\0" * 2 + b"VP8 "

BAD = [
    ("empty.jpg", b"", ["empty", "0 bytes"]),
    ("text.jpg", b"this is a text and no photo\n", ["not an image", "JPEG, PNG"]),
    ("short.jpg", b"\xff", ["not an image"]),
    ("figure.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ["not an image"]),
    ("phone.heic", HEIC, ["HEIC", "convert it to JPEG"]),
    ("cut.jpg", JPEG[: len(JPEG) // 2], ["cannot be decoded", "copy it again"]),
    ("head.jpg", JPEG[:20], ["cannot be decoded"]),
    ("cut.png", PNG[:60], ["cannot be decoded"]),
    ("head.png", PNG[:20], ["cannot be decoded"]),
    ("cut.gif", b"GIF89a\x10\0", ["cannot be decoded"]),
    ("none.png", png_of_size(9, 9), ["cannot be decoded"]),
    ("wide.png", png_of_size(30_000, 10), ["too large", "30000 x 10 pixels", "scale it down"]),
    ("tall.png", png_of_size(10, 20_001), ["too large", "10 x 20001"]),
    ("bomb.png", png_of_size(30_000, 30_000), ["too large", "30000 x 30000"]),
    ("many.png", png_of_size(15_000, 15_000), ["too large", "15000 x 15000", "178 million"]),
    ("wide.jpg", encoded(Image.new("L", (30_000, 1)), "JPEG"), ["30000 x 1 pixels"]),
    ("thin.png", encoded(Image.new("L", (3000, 1)), "PNG"), ["too thin", "3000 x 1", "50 to 1"]),
    ("thin.jpg", encoded(Image.new("L", (20_000, 7)), "JPEG"), ["too thin", "20000 x 7 pixels"]),
    ("high.png", encoded(Image.new("L", (2, 101)), "PNG"), ["too thin", "2 x 101", "crop it"]),
    ("thin text.png", png_with_text_of_size(3000, 2), ["too thin", "3000 x 2"]),
    ("line\nbreak.jpg", b"", [r"line\nbreak.jpg", "empty"]),
    ("\x1b[2J.jpg", b"", [r"\x1b[2J.jpg", "empty"]),
]


@pytest.mark.parametrize(("name", "content", "parts"), BAD, ids=[repr(row[0]) for row in BAD])
def test_bad_photos_get_one_line_that_names_them(
    tmp_path: Path, name: str, content: bytes, parts: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    shown = str(path) if name.isprintable() else repr(str(path))[1:-1]
    for at_least in (None, 8):
        with pytest.raises(SynticError) as caught:
            load_photo(path, at_least=at_least)
        message = str(caught.value)
        assert message.startswith(shown)
        assert message.isprintable()
        assert [part for part in parts if part not in message] == []
        with pytest.raises(SynticError) as again:
            decode_image(content, str(path), at_least)
        assert str(again.value) == message


def test_a_photo_of_the_thinnest_allowed_shape_is_read() -> None:
    for size in ((50, 1), (1, 50), (1000, 20)):
        assert decode_image(encoded(Image.new("RGB", size), "PNG"), "x").size == size


def test_what_a_model_would_scale_to_gigabytes_or_to_nothing_is_refused() -> None:
    check_model_input((640, 480), "a.jpg", 800, 1333)
    check_model_input((20_000, 400), "a.jpg", 800, 1333)
    check_model_input((4000, 1000), "a.jpg", 800)
    for size, edges, numbers in [
        ((20_000, 400), (800, None), "40000 x 800"),
        ((400, 20_000), (800, None), "800 x 40000"),
        ((3000, 1), (800, 1333), "1333 x 0"),
        ((3000, 1), (800, None), "2400000 x 800"),
    ]:
        with pytest.raises(SynticError) as caught:
            check_model_input(size, "a\nb.jpg", *edges)
        message = str(caught.value)
        assert message.startswith(r"a\nb.jpg is too thin")
        assert numbers in message
        assert f"{size[0]} x {size[1]} pixels" in message


@pytest.mark.parametrize(
    "error", [ValueError("height and width must be > 0"), MemoryError(), ZeroDivisionError("a\nb")]
)
def test_what_goes_wrong_in_preparing_a_photo_is_its_error(error: Exception) -> None:
    with pytest.raises(SynticError) as caught, preparing("a.jpg"):
        raise error
    message = str(caught.value)
    assert message.startswith("a.jpg cannot be prepared")
    assert (str(error).split("\n")[0] or "MemoryError") in message
    assert message.isprintable()
    for kept in (SynticError("mine"), KeyboardInterrupt()):
        with pytest.raises(type(kept)) as same, preparing("a.jpg"):
            raise kept
        assert same.value is kept


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="older ones decode first")
def test_a_webp_that_pillow_refuses_by_itself_is_too_large() -> None:
    with pytest.raises(SynticError, match=r"^big is too large .*268402689 pixels"):
        decode_image(WEBP_LARGEST, "big")


def test_files_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link.jpg").symlink_to("gone.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, part in [
        ("absent.jpg", "no such file"),
        ("link.jpg", "a link to gone.jpg, which is not there"),
        ("loop.jpg", "a link to loop.jpg"),
        ("folder.jpg", "is a folder"),
        ("pipe.jpg", "not a regular file"),
        ("a\nb.jpg", r"a\nb.jpg: no such file"),
        ("nul\0.jpg", "null"),
        ("x" * 300, "cannot be read (File name too long)"),
    ]:
        with pytest.raises(SynticError) as caught:
            load_photo(tmp_path / name)
        assert part in str(caught.value)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "secret.jpg"
    path.write_bytes(JPEG)
    monkeypatch.setattr(Path, "open", denied)  # root, who often runs tests, may read any file
    with pytest.raises(SynticError, match="permission denied"):
        load_photo(path)


def test_damaged_bytes_give_an_image_or_our_error_and_nothing_else() -> None:
    picks = random.Random(0)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8))
    failed = 0
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM"):
        exif = {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"}
        good = encoded(noise, kind, **(exif if kind in ("JPEG", "PNG", "WEBP") else {}))
        for _ in range(40):
            data = bytearray(good)
            for _ in range(picks.randrange(1, 6)):
                data[picks.randrange(min(len(data), picks.choice([40, 4000])))] = picks.randrange(
                    256
                )
            if picks.random() < 0.3:
                data = data[: picks.randrange(len(data))]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert decode_image(bytes(data), "damaged", at_least=8).mode == "RGB"
                except SynticError as error:
                    assert str(error).startswith("damaged ")  # noqa: PT017 - both ends are right
                    failed += 1
    assert failed > 90


def test_limits_are_ours_and_pillows_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns from 89 million pixels on
        data = encoded(Image.new("1", (9_500, 9_500)), "PNG")
        assert decode_image(data, "large").size == (9_500, 9_500)
    with pytest.raises(SynticError):
        decode_image(JPEG[:-200], "cut")
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 32 * 48)
    assert decode_image(PNG, "exactly").size == (32, 48)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 32 * 48 - 1)
    with pytest.raises(SynticError, match="32 x 48 pixels"):
        decode_image(PNG, "more")


def test_the_module_needs_no_torch_and_leaves_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.png").write_bytes(PNG[:60])
    code = (
        "import sys; from syntic_cli.photos import find_photos, load_photo\n"
        "for photo in find_photos(sys.argv[1:]):\n"
        "    try: load_photo(photo)\n"
        "    except Exception as error: print(type(error).__name__)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "SynticError\n", "")


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of names (no file has content: finding does not open them), and the place to be."""
    names = (
        *("album/b.jpg", "album/B.JPEG", "album/a10.png", "album/a2.webp", "album/é.gif"),
        *("album/.hidden.jpg", "album/notes.txt", "album/phone.HEIC", "album/sub/c.jpg"),
        *("album/sub/.cache/d.jpg", "album/sub.jpg/e.png", "plain/readme.md", "one.dat"),
    )
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "album/dangling.jpg").symlink_to("gone.jpg")
    (tmp_path / "album/around").symlink_to("..", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


FLAT = ["B.JPEG", "a10.png", "a2.webp", "b.jpg", "dangling.jpg", "phone.HEIC", "é.gif"]
DEEP = [*FLAT[:-1], "sub/c.jpg", "sub.jpg/e.png", FLAT[-1]]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["album"], [f"album/{name}" for name in FLAT]),
        (
            ["album/b.jpg", "album", "album/b.jpg"],
            [f"album/{n}" for n in ("b.jpg", *FLAT, "b.jpg")],
        ),
        (["album/é.gif", "album/a10.png"], ["album/é.gif", "album/a10.png"]),
        (["one.dat", "album/.hidden.jpg"], ["one.dat", "album/.hidden.jpg"]),
        (["one.dat", "absent.jpg"], ["one.dat", "absent.jpg"]),
        (
            ["album/*.jpg", "one.*"],
            ["album/b.jpg", "album/dangling.jpg", "album/sub.jpg/e.png", "one.dat"],
        ),
        (["album/a?.webp", "none/*.png"], ["album/a2.webp", "none/*.png"]),
        (["**/one.*", "album/su?/*"], ["one.dat", "album/sub/c.jpg"]),
    ],
)
def test_find_photos(album: Path, inputs: list[str], expected: list[str]) -> None:
    assert find_photos(inputs) == [Path(name) for name in expected]


def test_find_photos_in_subfolders(album: Path) -> None:
    assert find_photos(["album"], recursive=True) == [Path("album", name) for name in DEEP]


def notes_of(*inputs: str, recursive: bool = False) -> list[str]:
    return list_photos(inputs, recursive).notes


def test_a_pattern_through_a_link_loop_gives_each_file_once(album: Path) -> None:
    # A loop by itself; two, through which there are 2^40 ways; and an album linked from elsewhere.
    (album / "album/again").symlink_to(".", target_is_directory=True)
    (album / "album/sub/up").symlink_to("../..", target_is_directory=True)
    (album / "a").symlink_to("album", target_is_directory=True)
    jpg = ["b.jpg", "dangling.jpg", "sub/c.jpg"]
    listed = list_photos(["**/*[!b].jpg", "**/b.jpg"])
    assert listed.photos == [Path("album", name) for name in (*jpg[1:], jpg[0])]
    assert listed.notes == [
        f"left out of {pattern}: 4 links to folders listed already"
        for pattern in ("**/*[!b].jpg", "**/b.jpg")
    ]
    absolute = [photo.relative_to(album) for photo in find_photos([f"{album}/**/c.jpg"])]
    assert absolute == [Path("album/sub/c.jpg")]


@pytest.mark.parametrize(
    "pattern",
    ["**", "**/*", "**/*.png", "album/**", "album/**/?.jpg", "**/sub/**/*.jpg", "al*/**/[a-d].*"],
)
def test_a_deep_pattern_matches_what_pythons_does(album: Path, pattern: str) -> None:
    (album / "album/around").unlink()
    (album / "plain/readme.md").rename(album / "plain/readme.jpg")
    expected = []
    for name in sorted(glob.glob(pattern, recursive=True), key=os.fsencode):  # noqa: PTH207
        if Path(name).is_file() or Path(name).is_symlink():
            expected.append(Path(name))
    listed = list_photos([pattern])
    assert sorted(listed.photos) == sorted(expected)
    assert listed.notes == []


def test_links_to_files_within_a_folder_are_left_out_and_counted(album: Path) -> None:
    (album / "album/Z.jpg").symlink_to("sub/c.jpg")
    (album / "album/A.jpg").symlink_to(album / "album/b.jpg")
    (album / "album/AA.jpg").symlink_to("A.jpg")
    listed = list_photos(["album"])
    assert listed.photos == [Path("album", name) for name in ("B.JPEG", "Z.jpg", *FLAT[1:])]
    assert listed.notes == ["left out of album: 2 links to files listed already"]
    listed = list_photos(["album"], recursive=True)
    assert listed.photos == [Path("album", name) for name in DEEP]
    assert listed.notes == ["left out of album: 3 links to files listed already"]
    listed = list_photos(["album/*A.jpg"])
    assert (listed.photos, len(listed.notes)) == ([Path("album/A.jpg")], 1)


def test_what_is_named_twice_is_listed_twice_links_and_all(album: Path) -> None:
    (album / "link.jpg").symlink_to("album/b.jpg")
    names = ["album/b.jpg", "link.jpg", "album/b.jpg", "link.jpg"]
    assert list_photos(names).photos == [Path(name) for name in names]
    assert len(find_photos(["album", "album"])) == 2 * len(FLAT)
    assert notes_of(*names, "album") == []


def test_hard_links_are_photos_of_their_own(album: Path) -> None:
    os.link(album / "album/b.jpg", album / "album/c.jpg")
    (album / "album/A.jpg").symlink_to("b.jpg")  # so that there is something to leave out
    names = [path.name for path in find_photos(["album"])]
    assert names == sorted([*FLAT, "c.jpg"], key=os.fsencode)


def test_a_blank_behind_a_name_hides_no_photo(album: Path) -> None:
    (album / "album/z.jpg ").touch()
    assert find_photos(["album"])[-2] == Path("album/z.jpg ")


def test_images_that_syntic_does_not_read_are_counted_by_type(album: Path) -> None:
    for name in ("a.jxl", "b.DNG", "c.dng", "sub/d.tga", "sub/e.dng", ".f.dng", "g.txt", "dng"):
        (album / "album" / name).touch()
    assert notes_of("album") == ["left out of album: 2 .dng, 1 .jxl, which syntic does not read"]
    deep = ["left out of album: 3 .dng, 1 .jxl, 1 .tga, which syntic does not read"]
    assert notes_of("album", recursive=True) == deep
    assert notes_of("one.dat", "album/b.jpg") == []
    assert list_photos(["album/c.dng"]).photos == [Path("album/c.dng")]  # named: a failed row
    (album / "plain/x.psd").touch()
    with pytest.raises(SynticError, match=r"plain holds no image that syntic reads \(1 .psd\)"):
        find_photos(["plain"])


def test_what_a_folder_gives_can_be_read_and_what_it_counts_cannot() -> None:
    """The suffixes of Pillow's formats that are read, against the two lists."""
    Image.init()
    readable = {suffix for suffix, kind in Image.EXTENSION.items() if kind in decoding._FORMATS}
    assert not readable & photo_files.UNREAD_SUFFIXES
    assert not photo_files.IMAGE_SUFFIXES & photo_files.UNREAD_SUFFIXES
    assert readable - photo_files.IMAGE_SUFFIXES <= {".avifs"}


def test_a_file_whose_name_looks_like_a_pattern_is_taken_as_it_is(album: Path) -> None:
    (album / "[ab].jpg").touch()
    (album / "a.jpg").touch()
    assert find_photos(["[ab].jpg"]) == [Path("[ab].jpg")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("album/b.jpg\n\none.dat\n", ["album/b.jpg", "one.dat"]),
        ("album/b.jpg\r\none.dat\r\n", ["album/b.jpg", "one.dat"]),
        ("one.dat\0two\nlines.jpg\0", ["one.dat", "two\nlines.jpg"]),
        ("album", [f"album/{name}" for name in FLAT]),
        (" spaced .jpg\nalbum/*.png\n", [" spaced .jpg", "album/*.png"]),
        ("latin\udce9.jpg\none.dat\n", ["latin\udce9.jpg", "one.dat"]),
        ("\ufeffalbum/b.jpg\r\none.dat", ["album/b.jpg", "one.dat"]),
        ("\ufeffone.dat\0\ufeff.jpg\0", ["one.dat", "\ufeff.jpg"]),
    ],
)
def test_a_list_on_standard_input(album: Path, text: str, expected: list[str]) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(os.fsencode(text)), encoding="utf-8")
    for stdin in (io.StringIO(text), pipe):
        found = find_photos(["one.dat", "-", "one.dat"], stdin=stdin)
        assert found == [Path(name) for name in ["one.dat", *expected, "one.dat"]]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_list_that_powershell_wrote(album: Path, encoding: str) -> None:
    data = "\ufeffone.dat\r\nalbum/é.gif\r\n".encode(encoding)
    pipe = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    assert find_photos(["-"], stdin=pipe) == [Path("one.dat"), Path("album/é.gif")]
    cut = io.TextIOWrapper(io.BytesIO(data[:-1]), encoding="utf-8")
    with pytest.raises(SynticError, match="standard input, which cannot be read"):
        find_photos(["-"], stdin=cut)


def test_a_list_on_a_standard_input_that_is_closed(
    album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SynticError, match=r"standard input, which cannot be read .*closed"):
        find_photos(["one.dat", "-"])
    closed = io.StringIO("one.dat")
    closed.close()
    with (album / "album").joinpath("b.jpg").open("wb") as unreadable:
        for stdin in (closed, io.TextIOWrapper(unreadable)):
            with pytest.raises(SynticError, match="standard input, which cannot be read"):
                find_photos(["-"], stdin=stdin)


def test_the_shell_closes_standard_input(album: Path) -> None:
    code = (
        "from syntic_cli.photos import find_photos\n"
        "from syntic_cli.errors import SynticError\n"
        "try: find_photos(['-'])\n"
        "except SynticError as error: print(error)"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" <&-', sys.executable, code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("- stands for a list on standard input"), done.stderr
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


@pytest.mark.parametrize("encoding", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONUTF8": "1"}])
def test_names_that_are_not_utf8_are_found_and_read(
    tmp_path: Path, encoding: dict[str, str]
) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102 - a name of bytes
    for name in (b"\xff.png", "写真.png".encode(), "e\u0301.png".encode()):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(PNG)
    code = (
        "import sys; from syntic_cli.photos import list_photos, load_photo\n"
        "from syntic_cli.errors import SynticError\n"
        "for name in [sys.argv[1], sys.argv[1] + '/*.png', sys.argv[1] + '/**/*.png', '-']:\n"
        "    found = list_photos([name]).photos\n"
        "    print(len(found), [load_photo(photo).size for photo in found])\n"
        "try: load_photo(sys.argv[1] + '/none.png')\n"
        "except SynticError as error: print('no such file' in str(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder],
        input=folder + b"/\xff.png\n",
        env={**os.environ, "PYTHONCOERCECLOCALE": "0", **encoding},
        capture_output=True,
        check=False,
    )
    three, one = f"3 {[(32, 48)] * 3}", f"1 {[(32, 48)]}"
    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == [three, three, three, one, "True"]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([], "no photo was named"),
        (["-"], "no photo was named on standard input"),
        ([""], "empty name"),
        (["one.dat", ""], "empty name"),
        (["plain"], "plain holds no image file .*--recursive"),
        (["absent.jpg"], "absent.jpg: no such file"),
        (["*.tiff"], r"\*.tiff: no such file"),
        (["album/dangling.jpg"], "a link to gone.jpg"),
    ],
)
def test_nothing_to_caption_is_an_error(album: Path, inputs: list[str], expected: str) -> None:
    with pytest.raises(SynticError, match=expected):
        find_photos(inputs, stdin=io.StringIO("\n"))


def test_a_folder_without_an_image_stops_no_others(album: Path) -> None:
    """As a shell's `*` names them beside the photos."""
    listed = list_photos(["one.dat", "plain"])
    assert [photo.name for photo in listed.photos] == ["one.dat"]
    (note,) = listed.notes
    assert note.startswith("plain holds no image file")


def test_a_folder_read_in_full_gets_another_hint(album: Path) -> None:
    with pytest.raises(SynticError, match=r"plain holds no image file .*: name another folder"):
        find_photos(["plain"], recursive=True)


def test_an_unreadable_folder_is_named(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(SynticError, match=r"album may not be read \(permission denied\)"):
        find_photos(["album"])
