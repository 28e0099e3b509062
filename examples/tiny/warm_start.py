"""Trains a captioner on projected features as `syntic train` does, but not from the start.

It begins from the decoder of another captioner, which may belong to another dual encoder: its
first layer is led through the affine map from the new text features to the old ones. The
vocabulary stays the other one's.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from syntic_cli.artifacts.checkpoint import Checkpoint
from syntic_cli.artifacts.reading import Artifact
from syntic_cli.artifacts.recipe import Recipe
from syntic_cli.artifacts.writing import write_artifact
from syntic_cli.fit import Fit
from syntic_cli.method.decoder import Decoder, DecoderConfig
from syntic_cli.method.training import Pairs
from syntic_cli.models.clip import load_clip
from syntic_cli.presets import load_preset, resolve
from syntic_cli.settings import EncodeSettings, TrainSettings
from syntic_cli.tokenizer import encode_captions, end_token, from_bytes

COMPARED = 3_000  # texts from which the map between the two spaces is found


def affine_map(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix and offset that take inputs (n, d) nearest to outputs, by ridge regression."""
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    ridge = 1e-5 * len(inputs) * torch.eye(inputs.shape[1])
    found = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ outputs)
    return found[:-1].T, found[-1]


def started_decoder(start: Artifact, texts: list[str], features: Tensor, clip: str) -> Decoder:
    """The other captioner's decoder, for features of the new dual encoder."""
    config = replace(DecoderConfig(**json.loads(start.attributes["decoder_config"])), dropout=0.2)
    decoder = Decoder(config)
    state = {name: torch.from_numpy(v).float() for name, v in start.group("decoder").items()}
    encoder = load_clip(EncodeSettings(clip), torch.device("cpu"), torch.float32)
    pieces = [encoder.encode_texts(texts[i : i + 250]) for i in range(0, len(texts), 250)]
    matrix, offset = affine_map(features, torch.cat(pieces))
    weight = state["prefix.0.weight"]
    state["prefix.0.weight"] = weight @ matrix
    state["prefix.0.bias"] = state["prefix.0.bias"] + weight @ offset
    decoder.load_state_dict(state)
    return decoder.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with features.h5 and projected.h5")
    parser.add_argument("--start", type=Path, required=True, help="the other captioner")
    parser.add_argument("--start-clip", required=True, help="its dual encoder's folder")
    parser.add_argument("--texts", type=int, help="so many of the texts, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of that draw and of the training")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--noise", type=float, default=0.06)
    args = parser.parse_args()
    output = args.folder / "captioner.h5"
    settings = replace(
        resolve(TrainSettings, load_preset("tiny")),
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        noise=args.noise,
        objects=False,
    )
    torch.manual_seed(args.seed)
    with (
        Artifact(args.folder / "projected.h5", "project") as projected,
        Artifact(args.folder / "features.h5", "encode") as features,
        Artifact(args.start, "train") as start,
    ):
        captions, support = projected.texts("captions"), features.numbers("text_features")
        order = np.random.default_rng(args.seed).permutation(len(captions))
        compared, rows = order[:COMPARED], np.sort(order[: args.texts])
        decoder = started_decoder(
            start,
            [captions[row] for row in compared],
            torch.from_numpy(support[compared]),
            args.start_clip,
        )
        packed = start.numbers("tokenizer")
        tokenizer = from_bytes(packed)
        tokens, offsets, _ = encode_captions(
            tokenizer, [captions[row] for row in rows], settings.max_length - 1
        )
        pairs = Pairs(
            prefixes=torch.from_numpy(projected.numbers("projected")[rows]),
            images=torch.from_numpy(support[rows]),
            tokens=torch.from_numpy(tokens),
            token_offsets=torch.from_numpy(offsets),
            labels=torch.zeros(0, dtype=torch.int32),
            label_offsets=torch.zeros(len(rows) + 1, dtype=torch.long),
            names=torch.zeros(0, support.shape[1]),
            end=end_token(tokenizer),
        )
        temperature = float(projected.recipe.settings["temperature"])
        recipe = Recipe(
            "train",
            {
                **asdict(settings),
                "texts": args.texts,
                "seed": args.seed,
                "start": f"the decoder of {start.state[:16]}",
            },
            {
                "projected": projected.as_input(output),
                "support": features.as_input(output),
            },
            projected.recipe.models,
            projected.recipe.origin,
        )
    parts = args.folder / "captioner.parts"
    fit = Fit(
        decoder,
        pairs,
        np.diff(offsets),
        np.arange(len(rows)),
        settings,
        args.seed,
        Checkpoint(parts, lambda: parts.mkdir(exist_ok=True)),
    )
    fit.run_epochs(torch.bfloat16)
    write_artifact(
        output,
        recipe,
        {
            "support": support,
            "support_captions": captions,
            "vocabulary": [],
            "vocabulary_features": np.zeros((0, support.shape[1]), np.float32),
            "tokenizer": packed,
        },
        groups={
            "decoder": {name: value.numpy() for name, value in fit.best.items()},
            "history": {
                "epoch": np.arange(len(fit.curves)),
                "loss": np.array([loss for loss, _ in fit.curves], np.float32),
                "held_out_loss": np.array([loss for _, loss in fit.curves], np.float32),
            },
        },
        attributes={
            "decoder_config": json.dumps(asdict(decoder.config)),
            "projection_temperature": temperature,
            "projection": True,
            "best_epoch": fit.best_epoch,
        },
    )


if __name__ == "__main__":
    main()
