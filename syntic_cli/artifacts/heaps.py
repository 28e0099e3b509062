"""HDF5's strings, checked before HDF5 reads them.

They lie in global heaps, of which it keeps no checksum: it loops for ever in one whose free space
has a length of 0. Datasets hold a reference a string, and its length, which HDF5 believes: a single
damaged one makes it allocate gigabytes.
"""

from __future__ import annotations

import mmap
import struct
import threading
import zlib
from pathlib import Path

import h5py
import numpy as np

SIGNATURE = b"GCOL\x01\0\0\0"
HEADER = 16
# Larger files are those of long runs, in which looking would take longer than reading.
LARGEST_CHECKED = 64 << 20
# What h5py reports a failed checksum, a cut file or a broken heap as.
UNREADABLE = (OSError, zlib.error, RuntimeError, LookupError, TypeError, ValueError, MemoryError)
REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])


def open_hdf5(path: Path) -> h5py.File:
    """A file of HDF5, open for reading.

    Raises:
        OSError: where it is none, or a heap of its strings is damaged.
    """
    if has_broken_heap(path):
        raise OSError("a heap of its strings is damaged")
    return h5py.File(path, "r")


class Lengths:
    """What the strings of an open file say of their lengths; together no more than the file has."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self._path, self._file = path, file
        self._seen: set[tuple[str, int]] = set()
        # Rows are read by several threads, and a chunk that two of them count is too long.
        self._lock = threading.Lock()
        self._left: dict[str, int] = {}

    def check(self, name: str, start: int, stop: int | None) -> None:
        """Look at the lengths of rows start to stop of a dataset of strings, each chunk once.

        Raises:
            OSError, zlib.error: where they are not kept as syntic keeps them, or cannot be true.
        """
        dataset = self._file[name]
        filters = dataset.id.get_create_plist()
        codes = [filters.get_filter(number)[0] for number in range(filters.get_nfilters())]
        if dataset.chunks is None or codes not in ([], [h5py.h5z.FILTER_DEFLATE]):
            raise OSError("its strings are not in chunks, plain or deflated")
        rows = dataset.chunks[0]
        first, last, _ = slice(start, stop).indices(len(dataset))
        for at in range(first // rows * rows, last, rows):
            with self._lock:
                if (name, at) not in self._seen:
                    self._check_chunk(name, dataset, at)
                    self._seen.add((name, at))

    def _check_chunk(self, name: str, dataset: h5py.Dataset, at: int) -> None:
        chunk = dataset.id.get_chunk_info_by_coord((at,))
        if chunk.byte_offset is None:
            return
        with self._path.open("rb") as file:
            file.seek(chunk.byte_offset)
            data = file.read(chunk.size)
        if dataset.compression:
            most = dataset.chunks[0] * REFERENCE.itemsize
            data = zlib.decompressobj().decompress(data, most)
        references = np.frombuffer(data, REFERENCE, len(data) // REFERENCE.itemsize)
        left = self._left.get(name, self._path.stat().st_size)
        self._left[name] = left - int(
            references["length"][: len(dataset) - at].sum(dtype=np.uint64)
        )
        if self._left[name] < 0:
            raise OSError("its strings are longer than the file")


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
