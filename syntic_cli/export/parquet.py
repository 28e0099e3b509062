"""Parquet: a table of texts with images, features or objects, as `datasets` and pandas read it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..artifacts.writing import atomic_path
from ..errors import MissingError
from ..schema import CAPTION, SYNTHESIZE
from .rows import IMAGES_AT_A_TIME, TEXTS_AT_A_TIME, VECTORS, Row, Source

if TYPE_CHECKING:
    import pyarrow


def check_library() -> None:
    """Refuse to begin where pyarrow is not installed.

    Raises:
        MissingError: saying what to install.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingError(
            "--to parquet: pyarrow is not installed; pip install 'syntic-cli[export]'"
        ) from error


def write(target: Path, shard: int, shards: int, rows: Iterable[Row], source: Source) -> None:
    """Write one file, a few rows in memory at a time."""
    import pyarrow.parquet as pq

    schema = _schema(source)
    step = IMAGES_AT_A_TIME if "image" in schema.names else TEXTS_AT_A_TIME
    left = iter(rows)
    with (
        atomic_path(target / f"train-{shard:05d}-of-{shards:05d}.parquet") as temporary,
        pq.ParquetWriter(temporary, schema) as writer,
    ):
        while some := list(islice(left, step)):
            writer.write_table(_table(some, schema))


def _schema(source: Source) -> pyarrow.Schema:
    import pyarrow as pa

    fields: list[tuple[str, Any]] = [("row", pa.int64()), ("text", pa.string())]
    if source.stage in VECTORS:
        for name in VECTORS[source.stage]:
            width = source.artifact.shape(name)[1]
            fields.append((name, pa.list_(pa.float32(), width)))
        return pa.schema(fields)
    fields.append(("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
    if source.stage == SYNTHESIZE.name:
        fields.append(("seed", pa.uint64()))
    if source.stage == CAPTION.name:
        found = [("label", pa.string()), ("score", pa.float32())]
        found.append(("box", pa.list_(pa.float32(), 4)))
        fields += [
            ("path", pa.string()),
            ("log_probability", pa.float32()),
            ("objects", pa.list_(pa.struct(found))),
        ]
    # By this `datasets` knows that the struct is an image.
    about = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})
    return pa.schema(fields, metadata={"huggingface": about})


def _table(rows: list[Row], schema: pyarrow.Schema) -> pyarrow.Table:
    import pyarrow as pa

    return pa.Table.from_arrays([_column(rows, field) for field in schema], schema=schema)


def _column(rows: list[Row], field: pyarrow.Field) -> pyarrow.Array:
    import pyarrow as pa

    if field.name in ("row", "text"):
        values: list[Any] = [row.number if field.name == "row" else row.text for row in rows]
    elif field.name == "image":
        values = [{"bytes": row.image, "path": row.name} for row in rows]
    elif field.name == "objects":
        values = [[vars(found) for found in row.more["objects"]] for row in rows]
    else:
        values = [row.more[field.name] for row in rows]
        if values and isinstance(values[0], np.ndarray):
            flat = pa.array(np.concatenate(values))
            return pa.FixedSizeListArray.from_arrays(flat, field.type.list_size)
    return pa.array(values, field.type)
