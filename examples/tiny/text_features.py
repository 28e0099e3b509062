"""Writes features of texts alone: each text's own feature stands in for its image's, as in DeCap.

What `syntic encode` writes with images, for `syntic project` and `syntic train` to go on from. A
synthetic image refined for long ends up at its text's feature; this leaves the way there out.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from align_text import text_features
from transformers import CLIPTokenizer

from syntic_cli.artifacts.recipe import Input, Recipe
from syntic_cli.artifacts.writing import write_artifact
from syntic_cli.corpus import read_corpus
from syntic_cli.models.clip import load_clip
from syntic_cli.models.identity import identity, model_folder
from syntic_cli.settings import EncodeSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--clip", default="preset:tiny/clip")
    args = parser.parse_args()
    corpus, settings = read_corpus(args.corpus), EncodeSettings(args.clip)
    model = load_clip(settings, torch.device("cpu"), torch.float32).model
    texts, name, folder = list(corpus.captions), identity(args.clip), model_folder(args.clip)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    features = text_features(model.text, tokenizer, texts).numpy()
    recipe = Recipe(
        "encode",
        {"model": name, "images": "none; the texts' own features"},
        {"corpus": Input("corpus", corpus.digest, corpus.source)},
        {"clip": {**asdict(settings), "identity": name}},
        corpus.digest,
    )
    columns = {
        "captions": texts,
        "image": np.arange(len(texts)),
        "image_features": features,
        "text_features": features,
        "valid": np.ones(len(texts), bool),
        "error": [""] * len(texts),
    }
    write_artifact(args.output, recipe, columns)


if __name__ == "__main__":
    main()
