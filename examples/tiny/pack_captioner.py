"""Makes a captioner small: matrices in bytes, the support set in five levels, all compressed."""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from syntic_cli.artifacts.reading import Artifact
from syntic_cli.artifacts.writing import HDF5_VERSION, write_artifact
from syntic_cli.schema import STAGES

KEPT = ("decoder_config", "projection_temperature", "projection", "best_epoch")
# Compressed, the preset just stays below its 64 MB with numbers of up to this.
LARGEST = 95
# In standard deviations of a row: the steps with which five levels lose least of a normal variable.
FIVE_LEVELS = 0.9


def in_bytes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a matrix as small integers, and the scale of each row, (N,)."""
    scale = np.abs(values).max(axis=1) / LARGEST + 1e-12
    return np.round(values / scale[:, None]).astype(np.int8), scale.astype(np.float16)


def in_five_levels(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit features, (N, d), as integers from -2 to 2, and the scale that makes them unit again.

    A projection is a mean of thousands of texts, in which errors this large cancel out.
    """
    steps = FIVE_LEVELS * np.sqrt(np.mean(features**2, axis=1, keepdims=True))
    levels = np.clip(np.round(features / steps), -2, 2).astype(np.int8)
    scale = 1 / np.linalg.norm(levels.astype(np.float32), axis=1)
    return levels, scale.astype(np.float16)


def write_compressed(source: h5py.File, target: h5py.File, scales: dict[str, np.ndarray]) -> None:
    """Copy an artifact with its datasets compressed, and with the scales of those in integers."""

    def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group):
            target.require_group(name)
            return
        values = item[:]
        made = target.create_dataset(
            name,
            item.shape,
            item.dtype,
            # Empty strings that nobody wrote take no room.
            data=values if np.any(values) else None,
            maxshape=item.maxshape,
            chunks=item.chunks,
            compression="gzip",
            compression_opts=9,
            fletcher32=item.fletcher32,
        )
        if name in scales:
            made.attrs["scale"] = scales[name]

    source.visititems(copy)
    for name, value in source.attrs.items():
        target.attrs[name] = value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captioner", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    scales: dict[str, np.ndarray] = {}
    with Artifact(arguments.captioner, "train") as artifact:
        columns = {name: artifact.column(name) for name in STAGES["train"].columns}
        # Nothing at run time reads the texts themselves, which would be 2 MB.
        columns["support_captions"] = [""] * len(columns["support_captions"])
        columns["support"], scales["support"] = in_five_levels(np.asarray(columns["support"]))
        decoder = artifact.group("decoder")
        for name, values in decoder.items():
            if values.ndim == 2:
                decoder[name], scales[f"decoder/{name}"] = in_bytes(values)
        groups = {"decoder": decoder}
        groups |= {name: artifact.group(name) for name in ("history", "repetition")}
        attributes = {name: artifact.attributes[name] for name in KEPT}
        # Where its inputs lay says nothing on another machine.
        inputs = {
            role: replace(given, file=Path(given.file).name)
            for role, given in artifact.recipe.inputs.items()
        }
        recipe = replace(artifact.recipe, inputs=inputs)
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "captioner.h5"
            write_artifact(whole, recipe, columns, groups=groups, attributes=attributes)
            with (
                h5py.File(whole) as source,
                h5py.File(arguments.output, "w", libver=HDF5_VERSION) as target,
            ):
                write_compressed(source, target, scales)
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
