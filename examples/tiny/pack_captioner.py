"""Makes a captioner small: matrices in bytes, the support set in 19 levels, all compressed."""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from syntic_cli import Captioner
from syntic_cli.artifacts.reading import Artifact
from syntic_cli.artifacts.writing import HDF5_VERSION, write_artifact
from syntic_cli.models.clip import load_clip
from syntic_cli.models.identity import identity
from syntic_cli.presets import load_preset, resolve
from syntic_cli.schema import STAGES
from syntic_cli.settings import CaptionSettings, EncodeSettings
from syntic_cli.wording import KEPT_AT

KEPT = ("decoder_config", "projection_temperature", "projection", "best_epoch")
LARGEST = 127
ALIKE = 0.99  # cosine of features that differ by rounding alone
# In standard deviations of a row. Five levels (steps of 0.9 up to 2) are half as large a file, but
# with a sharp projection they cost two points of CIDEr.
STEP, MOST = 0.3, 9


def in_bytes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a matrix as small integers, and the scale of each row, (N,)."""
    scale = np.abs(values).max(axis=1) / LARGEST + 1e-12
    return np.round(values / scale[:, None]).astype(np.int8), scale.astype(np.float16)


def in_levels(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit features, (N, d), as integers from -MOST to MOST, and the scale of each row, (N,)."""
    steps = STEP * np.sqrt(np.mean(features**2, axis=1, keepdims=True))
    levels = np.clip(np.round(features / steps), -MOST, MOST).astype(np.int8)
    scale = 1 / np.linalg.norm(levels.astype(np.float32), axis=1)
    return levels, scale.astype(np.float16)


def with_encoder(models: Mapping[str, Any], name: str, support: Artifact) -> dict[str, Any]:
    """The frozen models, with another dual encoder that has the same text tower.

    Captions are learned from text features alone, so the image tower may be tuned afterwards.
    """
    settings = EncodeSettings(name)
    model = load_clip(settings, torch.device("cpu"), torch.float32)
    texts = support.texts("support_captions", 0, 250)
    found, known = model.encode_texts(texts).numpy(), support.numbers("support", 0, 250)
    if (found * known).sum(axis=1).min() < ALIKE:
        raise SystemExit(f"{name} has another text tower than the captioner's dual encoder")
    return {**models, "clip": {**asdict(settings), "identity": identity(name)}}


def write_compressed(source: h5py.File, target: h5py.File, scales: dict[str, np.ndarray]) -> None:
    """Copy an artifact with its datasets compressed, and with the scales of those in integers."""

    def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group):
            target.require_group(name)
            return
        if item.shape == ():
            target.create_dataset(name, data=item[()])
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
            shuffle=item.dtype.kind in "iuf",
            fletcher32=item.fletcher32,
        )
        if name in scales:
            made.attrs["scale"] = scales[name]

    source.visititems(copy)
    for name, value in source.attrs.items():
        target.attrs[name] = value


def read_out(captioner: Path) -> np.ndarray:
    """What a captioner makes of the feature of each text of its support set, (S, L) tokens."""
    settings = replace(resolve(CaptionSettings, load_preset("tiny")), repetition=KEPT_AT)
    wording = Captioner.load(captioner, settings=settings)._wording
    texts, embed = wording._texts, wording._decoder.embed_prefix
    assert texts is not None
    pieces = torch.arange(len(texts.support)).split(1024)
    with torch.no_grad():
        read = [
            wording._read_out(texts, rows[:, None], lambda features: embed(features[:, 0]))
            for rows in pieces
        ]
    tokens = torch.cat(read)[:, 0].numpy()
    longest = int((tokens != wording._end).sum(axis=1).max()) + 1
    return tokens[:, :longest].astype(np.uint16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captioner", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--clip", help="the dual encoder it is used with, if not its own")
    arguments = parser.parse_args()
    scales: dict[str, np.ndarray] = {}
    with Artifact(arguments.captioner, "train") as artifact:
        stored = [name for name in STAGES["train"].columns if name in artifact]
        columns = {name: artifact.column(name) for name in stored}
        # Nothing at run time reads the texts themselves, whose n-grams are counted.
        columns["support_captions"] = [""] * len(columns["support_captions"])
        columns["support"], scales["support"] = in_levels(np.asarray(columns["support"]))
        decoder = artifact.group("decoder")
        for name, values in decoder.items():
            if values.ndim == 2:
                decoder[name], scales[f"decoder/{name}"] = in_bytes(values)
        groups = {"decoder": decoder}
        others = ("history", "repetition", "consensus", "calibration")
        groups |= {name: artifact.group(name) for name in others}
        attributes = {name: artifact.attributes[name] for name in KEPT}
        # Where its inputs lay says nothing on another machine.
        inputs = {
            role: replace(given, file=Path(given.file).name)
            for role, given in artifact.recipe.inputs.items()
        }
        models = artifact.recipe.models
        if arguments.clip:
            models = with_encoder(models, arguments.clip, artifact)
        recipe = replace(artifact.recipe, inputs=inputs, models=models)
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "captioner.h5"

            def write() -> None:
                write_artifact(whole, recipe, columns, groups=groups, attributes=attributes)
                with (
                    h5py.File(whole) as source,
                    h5py.File(arguments.output, "w", libver=HDF5_VERSION) as target,
                ):
                    write_compressed(source, target, scales)
                whole.unlink()

            write()
            # By the packed decoder, so that they are what it would write.
            groups["read_out"] = {"tokens": read_out(arguments.output)}
            write()
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
