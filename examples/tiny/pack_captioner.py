"""Makes a captioner small: matrices in 8 bits, a scale for each row, fewer support texts."""

import argparse
from pathlib import Path

import h5py
import numpy as np

from syntic_cli.artifacts import COLUMNS, Artifact
from syntic_cli.writing import write_artifact

KEPT = ("decoder_config", "projection_temperature", "projection", "best_epoch")


def quantised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a matrix as int8, and the scale of each row, (N,) float32."""
    scale = np.abs(values).max(axis=1) / 127 + 1e-12
    return np.round(values / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captioner", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--support", type=int, default=8_000, help="texts of the support set kept")
    arguments = parser.parse_args()
    scales: dict[str, np.ndarray] = {}
    with Artifact(arguments.captioner, "train") as artifact:
        columns = {name: artifact.column(name) for name in COLUMNS["train"]}
        decoder = artifact.group("decoder")
        count = len(columns["support_captions"])
        kept = np.sort(np.random.RandomState(0).permutation(count)[: arguments.support])
        columns["support_captions"] = [columns["support_captions"][row] for row in kept]
        columns["support"] = np.asarray(columns["support"])[kept]
        columns["support"], scales["support"] = quantised(columns["support"])
        for name, values in decoder.items():
            if values.ndim == 2:
                decoder[name], scales[f"decoder/{name}"] = quantised(values)
        write_artifact(
            arguments.output,
            artifact.recipe,
            columns,
            groups={"decoder": decoder, "history": artifact.group("history")},
            attributes={name: artifact.attributes[name] for name in KEPT},
        )
    with h5py.File(arguments.output, "r+") as file:
        for name, scale in scales.items():
            file[name].attrs.create("scale", scale.astype(np.float16))
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
