"""export: synthetic pairs, features and captions as other tools read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from .. import console
from ..artifacts.reading import Artifact
from ..errors import ConflictError, SynticError, plural
from ..export import coco, imagefolder, parquet, text_files, webdataset
from ..export.rows import KINDS, Row, Source, refuse_other_stages
from ..export.shards import number_of_shards, write_shards
from ..schema import CAPTION, SYNTHESIZE

WITH_IMAGES = (SYNTHESIZE.name, CAPTION.name)
# What each format takes: all but parquet need an image for every text.
TAKES = {
    "imagefolder": WITH_IMAGES,
    "webdataset": WITH_IMAGES,
    "parquet": KINDS,
    "coco": WITH_IMAGES,
    "sidecar": WITH_IMAGES,
}
SHARD_SIZE = 10_000


def export(
    artifact: Path,
    to: str,
    target: Path,
    *,
    shard_size: int = SHARD_SIZE,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Write an artifact in another format, a few rows in memory at a time.

    Rows that failed, were blanked, or whose photo has gone are left out, and counted in a line.

    Args:
        artifact: of `synthesize`, `encode`, `optimize`, `project` or `caption`.
        to: a format of `TAKES`.
        target: a folder; a file for `coco`.
        shard_size: rows in a tar, a parquet file, or a subfolder of images.
        force: write over the file of `coco`, or the text files of `sidecar`.
        quiet: print warnings only.

    Returns:
        The target.

    Raises:
        SynticError: where the artifact cannot be read or has not what the format needs, the target
            holds something else, or it cannot be written.
    """
    if to not in TAKES:
        raise SynticError(f"--to {to}: no such format; take one of {', '.join(TAKES)}")
    if to == "parquet":
        parquet.check_library()
    with Artifact(artifact) as opened:
        refuse_other_stages(artifact, opened.stage, to, TAKES[to])
        source = Source(opened)
        if to == "coco":
            left_out = _to_file(source, target, force)
        elif to == "sidecar":
            left_out = _to_text_files(source, target, shard_size, force, quiet)
        else:
            left_out = _to_shards(source, to, target, shard_size, quiet)
        written = source.rows - sum(left_out.values())
    if left_out:
        reasons = ", ".join(f"{rows} {reason}" for reason, rows in left_out.most_common())
        console.warn(f"export: {console.count(sum(left_out.values()), 'row')} left out: {reasons}")
    console.note(f"export: {console.count(written, 'row')} in {target}", quiet=quiet)
    return target


def _to_file(source: Source, target: Path, force: bool) -> Counter[str]:
    if target.exists() and not force:
        raise ConflictError(f"{target}: is there; give --force to write over it")
    coco.write(target, source)
    return source.left_out


def _to_text_files(
    source: Source, target: Path, shard_size: int, force: bool, quiet: bool
) -> Counter[str]:
    with console.progress("export", source.rows, unit="rows", quiet=quiet) as advance:
        there = text_files.write(
            target,
            source,
            below=lambda row: _subfolder(source, row // shard_size, shard_size),
            force=force,
            advance=advance,
        )
    if there:
        left = (
            f"export: {console.count(there, 'text file is', 'text files are')} there and left as "
            f"{plural(there, 'it is', 'they are')} (--force writes anew)"
        )
        console.note(left, quiet=quiet)
    return source.left_out


def _to_shards(source: Source, to: str, target: Path, shard_size: int, quiet: bool) -> Counter[str]:
    shards = number_of_shards(source.rows, shard_size)

    def write(shard: int, rows: Iterable[Row]) -> None:
        if to == "webdataset":
            webdataset.write(target, shard, rows)
        elif to == "parquet":
            parquet.write(target, shard, shards, rows, source)
        else:
            below = _subfolder(source, shard, shard_size)
            imagefolder.write(target, shard, rows, below=below)

    return write_shards(
        source,
        target,
        format=to,
        shard_size=shard_size,
        images=source.stage in WITH_IMAGES,
        write=write,
        finish=(lambda: imagefolder.finish(target)) if to == "imagefolder" else None,
        quiet=quiet,
    )


def _subfolder(source: Source, shard: int, shard_size: int) -> str:
    """Where the images of a shard go: photos keep their tree, many synthetic images get folders."""
    many = source.stage == SYNTHESIZE.name and source.rows > shard_size
    return f"{shard:06d}" if many else ""
