"""WebDataset: tar files of samples, each KEY.jpg, KEY.txt and KEY.json.

It is plain tar, so the library that reads it is not needed to write it.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePath

from ..artifacts.writing import atomic_path
from .rows import Row, plain


def write(target: Path, shard: int, rows: Iterable[Row]) -> None:
    """Write one tar; keys are row numbers, since a key ends at a name's first dot."""
    with (
        atomic_path(target / f"{shard:06d}.tar") as temporary,
        tarfile.TarFile(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for row in rows:
            key, suffix = f"{row.number:09d}", PurePath(row.name).suffix.lower() or ".jpg"
            more = {"row": row.number, "file_name": row.name, **plain(row.more)}
            about = json.dumps(more, ensure_ascii=False).encode()
            for name, data in (
                (key + suffix, row.image or b""),
                (f"{key}.txt", row.text.encode()),
                (f"{key}.json", about),
            ):
                # No time and no owner: the same rows give the same bytes.
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o644
                tar.addfile(member, io.BytesIO(data))
