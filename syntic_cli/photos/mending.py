"""Image files that lack their end, or carry what gets in a decoder's way: the part that decodes."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from typing import IO

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# A marker, but for those that stand within a scan: stuffed zeros and restarts.
_JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
# Markers that no length follows: TEM and another start.
_BARE = b"\x01\xd8"
# The tables of Huffman coding; where a frame of arithmetic coding, which has none, starts; a scan.
_HUFFMAN, _ARITHMETIC, _SCAN = 0xC4, frozenset([0xC9, 0xCA]), 0xDA

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = frozenset([b"IHDR", b"PLTE", b"IDAT", b"IEND"])
_PNG_OTHERS = frozenset([b"tRNS", b"eXIf"])

# The pixels of a still WebP, and the flags of its header that other chunks are announced with.
_WEBP_PIXELS = (b"VP8 ", b"VP8L")
_WEBP_KEPT = {b"EXIF": 0x08, b"ALPH": 0x10}
# Of less than this share of the pixels' data, modes and colours come first, nothing is seen.
_LEAST_OF_WEBP = 0.25
# Of one colour alone, a WebP ends in a twentieth of zeros.
_MOST_ZEROS = 1 / 8


def mend(data: bytes) -> tuple[bytes, bool]:
    """The part of an image file that matters to its pixels, and whether its end was added.

    A JPEG that lacks its end is cut before the segment that is incomplete and given one; decoders
    fill the rest with grey. Of a PNG the chunks that make the pixels and their orientation are
    kept, texts and profiles of any size dropped. A WebP that lacks its end is filled up with zeros,
    which decode to a smear of the last rows. Any other file is returned as it is.
    """
    if data.startswith(_JPEG_START):
        end = _incomplete_from(data)
        return (data, False) if end is None else (data[:end] + _JPEG_END, True)
    if data.startswith(_PNG_START):
        return _PNG_START + b"".join(_needed_chunks(data)), False
    if _is_webp(data):
        return _filled_webp(data)
    return data, False


def names_wrong_coding(stream: IO[bytes]) -> bool:
    """Whether a JPEG has another coding than its frame says (ITU T.81, B.2): arithmetic decoders
    make pixels of any bytes."""
    stream.seek(len(_JPEG_START))
    kinds = set()
    while len(start := stream.read(4)) == 4 and start[0] == 0xFF and start[1] != _SCAN:
        kinds.add(start[1])
        stream.seek(int.from_bytes(start[2:], "big") - 2, io.SEEK_CUR)
    return _HUFFMAN in kinds and bool(kinds & _ARITHMETIC)


def is_unfilled_webp(stream: IO[bytes]) -> bool:
    """Whether a WebP ends in zeros, as a file made at its full size before what is in it came."""
    stream.seek(0)
    if not _is_webp(stream.read(12)):
        return False
    size = stream.seek(0, io.SEEK_END)
    stream.seek(-int(size * _MOST_ZEROS), io.SEEK_END)
    return not stream.read().strip(b"\0")


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _incomplete_from(data: bytes) -> int | None:
    """Where what is complete of a JPEG ends; None where its end marker is there (ITU T.81, B)."""
    position = len(_JPEG_START)
    while marker := _JPEG_MARKER.search(data, position):
        kind, position = marker[1], marker.end()
        if kind == _JPEG_END[1:]:
            return None
        if kind in _BARE:
            continue
        length = data[position : position + 2]
        position += int.from_bytes(length, "big")
        if len(length) < 2 or position > len(data):
            return marker.start()
    return len(data)


def _needed_chunks(data: bytes) -> Iterator[bytes]:
    """The chunks of a PNG that its pixels need, the last perhaps incomplete (ISO 15948, 5.3)."""
    start = len(_PNG_START)
    while start + 8 <= len(data):
        size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        end = start + 12 + size
        chunk = data[start:end]
        if kind in _PNG_PIXELS or (kind in _PNG_OTHERS and _is_sound(chunk)):
            yield chunk
        start = end


def _is_sound(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _filled_webp(data: bytes) -> tuple[bytes, bool]:
    """A still WebP made of its pixels and what is whole of the rest (RFC 9649, 2.7)."""
    flags, kept, truncated = 0, dict[bytes, bytes](), False
    start = 12
    while start + 8 <= len(data):
        kind, size = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
        body = data[start + 8 : start + 8 + size]
        if kind in _WEBP_PIXELS:
            truncated = len(body) < size
            if len(body) < size * _LEAST_OF_WEBP:
                return data, False
            body = body.ljust(size, b"\0")
        if len(body) == size:
            kept[kind] = kind + size.to_bytes(4, "little") + body + b"\0" * (size % 2)
            flags |= _WEBP_KEPT.get(kind, 0)
        start += 8 + size + size % 2
    header = kept.get(b"VP8X")
    if header is not None:
        kept[b"VP8X"] = header[:8] + bytes([flags]) + header[9:]
    chunks = b"".join(kept[k] for k in (b"VP8X", b"ALPH", *_WEBP_PIXELS, b"EXIF") if k in kept)
    return b"RIFF" + (4 + len(chunks)).to_bytes(4, "little") + b"WEBP" + chunks, truncated
