"""HDF5's global heaps, which hold its strings: checked before HDF5 reads them.

HDF5 keeps no checksum of them, and loops for ever in one whose free space has a length of 0.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

SIGNATURE = b"GCOL\x01\0\0\0"
HEADER = 16
# Larger files are those of long runs, in which looking would take longer than reading.
LARGEST_CHECKED = 64 << 20


def has_broken_heap(path: Path) -> bool:
    """Whether a global heap of a file of at most 64 MB would lead HDF5 astray."""
    size = path.stat().st_size
    if not 0 < size <= LARGEST_CHECKED:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(SIGNATURE)
        while at >= 0:
            if _is_broken(data, at, size):
                return True
            at = data.find(SIGNATURE, at + len(SIGNATURE))
    return False


def _is_broken(data: mmap.mmap, at: int, size: int) -> bool:
    """Whether the objects of the heap that begins there do not fill it one after the other."""
    (length,) = struct.unpack_from("<Q", data, at + 8) if at + HEADER <= size else (size,)
    position, end = at + HEADER, at + length
    if end > size:
        return True
    while position + HEADER <= end:
        index, taken = struct.unpack_from("<H6xQ", data, position)
        step = HEADER + (taken + 7) // 8 * 8 if index else taken
        if not 0 < step <= end - position:
            return True
        position += step
    return False
