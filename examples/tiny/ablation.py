"""Trains every variant of the method, and its relatives, on the same features, and scores them.

`corpus` prints the texts: captions of half B of Flickr8k's training photos. `run` reads what
`syntic synthesize`, `encode` and `detect` made of them, trains a decoder for each variant and seed,
captions the dev photos, and prints and saves the table. A run that was ended goes on where it was.

The dual encoder has not been trained on half B's pairs (its text tower was distilled on all
training captions, as texts); the text-to-image model and the detector have seen photos of half B.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import Photo, flickr8k, half_b
from torch import Tensor
from torch.nn import functional as F

from syntic_cli.artifacts.reading import Artifact
from syntic_cli.method.decoder import Decoder, DecoderConfig
from syntic_cli.method.projection import nearest, project
from syntic_cli.method.refinement import refine
from syntic_cli.method.search import beam_search
from syntic_cli.method.training import (
    Pairs,
    epoch_batches,
    learning_rate,
    make_optimizer,
    training_step,
)
from syntic_cli.metrics import score
from syntic_cli.models.clip import load_clip
from syntic_cli.models.detector import load_detector
from syntic_cli.models.identity import identity
from syntic_cli.photos import load_photo
from syntic_cli.presets import load_preset, resolve
from syntic_cli.settings import (
    DetectSettings,
    EncodeSettings,
    OptimizeSettings,
    ProjectSettings,
    TrainSettings,
)
from syntic_cli.tokenizer import decode_captions, encode_captions, end_token, make_tokenizer

METRICS = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
LONGEST = 30
CAPDEC_VARIANCE, CLOSE_DEVIATION = 0.016, 0.08  # as published, for CLIP's spaces

Labels = tuple[Tensor, Tensor]  # all rows' labels, and where each row's begin


def digest(*settings: Any, artifacts: Sequence[Path] = ()) -> str:
    """Names what was computed with these settings, the models they name, and these artifacts."""
    content: list[Any] = []
    for part in settings:
        content += [asdict(part), identity(part.model) if hasattr(part, "model") else ""]
    for path in artifacts:
        with Artifact(path) as artifact:
            content.append(artifact.state)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def texts_of_half_b(data: Path, per_photo: int) -> tuple[list[Photo], list[str]]:
    """The photos of half B and the first captions of each, photo by photo."""
    photos = flickr8k(data, "train")
    chosen = [photos[row] for row in sorted(half_b(data))]
    return chosen, [text for photo in chosen for text in photo.captions[:per_photo]]


@dataclass(frozen=True)
class Texts:
    """The corpus with what the stages found: unit features (N, d) and objects."""

    captions: list[str]
    synthetic: Tensor
    texts: Tensor
    paired: Tensor  # features of the real photos that the captions were written for
    labels: Labels
    names: Tensor


@dataclass(frozen=True)
class RealPhotos:
    """The photos that score: unit features (P, d), objects, captions of people."""

    features: Tensor
    labels: Labels
    references: list[tuple[str, ...]]


@dataclass(frozen=True)
class Variant:
    """A row of the table: what its decoder sees in training and of a photo."""

    name: str
    prefixes: Callable[[torch.Generator], Tensor]  # of an epoch, (N, d)
    projected: bool = False
    objects: bool = False
    query: Tensor | None = None  # v of equation 5, (N, d)


def refined(texts: Texts, by: OptimizeSettings) -> Tensor:
    """The synthetic images' features after equations 1 and 2."""
    return refine(
        texts.synthetic,
        texts.texts,
        temperature=by.temperature,
        lr=by.lr,
        epochs=by.epochs,
        batch_size=by.batch_size,
    )


def variants(texts: Texts, refine_by: OptimizeSettings, temperature: float) -> Iterator[Variant]:
    """The method's parts one by one, then its relatives."""
    for name, source in (("", texts.synthetic), ("FO", refined(texts, refine_by))):
        near = project(source, texts.texts, temperature)
        for parts in ((), ("FP",), ("AF",), ("FP", "AF")):
            yield Variant(
                " + ".join(filter(None, ("baseline", name, *parts))),
                lambda _, x=near if "FP" in parts else source: x,
                projected="FP" in parts,
                objects="AF" in parts,
                query=source,
            )
    yield Variant("DeCap", lambda _: texts.texts, projected=True)
    yield Variant("CapDec", lambda random: noisy(texts.texts, CAPDEC_VARIANCE**0.5, random))
    yield Variant("CLOSE", lambda random: noisy(texts.texts, CLOSE_DEVIATION, random))
    yield Variant("real pairs", lambda _: texts.paired)


def noisy(features: Tensor, deviation: float, random: torch.Generator) -> Tensor:
    """Features with Gaussian noise, of unit length again."""
    noise = torch.randn(features.shape, generator=random)
    return F.normalize(features + deviation * noise, dim=-1)


class Bench:
    """Trains a variant's decoder and scores its captions."""

    def __init__(
        self, texts: Texts, photos: RealPhotos, settings: TrainSettings, temperature: float
    ) -> None:
        self.texts, self.photos, self.settings = texts, photos, settings
        self.temperature = temperature
        self.tokenizer = make_tokenizer(settings.tokenizer, texts.captions)
        found = encode_captions(self.tokenizer, texts.captions, settings.max_length - 1)[:2]
        self.lengths = np.diff(found[1])
        self.tokens, self.offsets = (torch.from_numpy(np.asarray(array)) for array in found)
        self.near = project(photos.features, texts.texts, temperature)

    def train(self, variant: Variant, seed: int) -> Decoder:
        """A decoder trained as `syntic train` does, but for the held-out share."""
        torch.manual_seed(seed)
        config = DecoderConfig(
            vocabulary=self.tokenizer.get_vocab_size(),
            features=self.texts.texts.shape[1],
            width=self.settings.width,
            layers=self.settings.layers,
            heads=self.settings.heads,
            max_length=self.settings.max_length,
            dropout=self.settings.dropout,
            objects=variant.objects,
        )
        decoder = Decoder(config).train()
        optimizer = make_optimizer(decoder, self.settings.lr, self.settings.weight_decay)
        random, step = torch.Generator().manual_seed(seed), 0
        size, epochs = self.settings.batch_size, self.settings.epochs
        steps = epochs * -(-len(self.lengths) // size)
        for epoch in range(epochs):
            pairs = self._pairs(variant, random)
            for batch in epoch_batches(self.lengths, size, 1000 * seed + epoch):
                training_step(
                    decoder,
                    optimizer,
                    pairs,
                    torch.from_numpy(batch),
                    lr=learning_rate(step, steps, self.settings.warmup, self.settings.lr),
                    label_smoothing=self.settings.label_smoothing,
                    autocast=None,
                )
                step += 1
        return decoder.eval()

    def score(self, variant: Variant, decoder: Decoder, beam: int = 3) -> dict[str, float]:
        """The metrics of a variant's trained decoder."""
        features = self.near if variant.projected else self.photos.features
        captions: list[str] = []
        for rows in torch.arange(len(features)).split(100):
            tags = self._tags(rows) if variant.objects else (None, None)
            with torch.no_grad():
                prefix = decoder.embed_prefix(features[rows], self.photos.features[rows], *tags)
            end = end_token(self.tokenizer)
            tokens, _ = beam_search(decoder, prefix, end=end, beam=beam, max_length=LONGEST)
            captions += decode_captions(self.tokenizer, tokens.numpy())
        return self.measure(captions)

    def measure(self, captions: list[str]) -> dict[str, float]:
        """Scores of one caption a photo."""
        return dict(score(captions, self.photos.references, METRICS).corpus)

    def _pairs(self, variant: Variant, random: torch.Generator) -> Pairs:
        prefixes = variant.prefixes(random)
        return Pairs(
            prefixes=prefixes,
            images=prefixes if variant.query is None else variant.query,
            tokens=self.tokens,
            token_offsets=self.offsets,
            labels=self.texts.labels[0],
            label_offsets=self.texts.labels[1],
            names=self.texts.names,
            end=end_token(self.tokenizer),
        )

    def _tags(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        labels, offsets = self.photos.labels
        pairs = self._pairs(Variant("", lambda _: self.texts.texts), torch.Generator())
        return replace(pairs, labels=labels, label_offsets=offsets).batch_tags(rows)


def read_texts(workspace: Path, data: Path, per_photo: int, clip: EncodeSettings) -> Texts:
    """The stages' artifacts, with the real photos' features for the upper line."""
    photos, captions = texts_of_half_b(data, per_photo)
    with Artifact(workspace / "features.h5", "encode") as artifact:
        if artifact.texts("captions") != captions or not artifact.numbers("valid").all():
            raise SystemExit(f"{artifact.path}: not made of what `ablation.py corpus` prints")
        synthetic, texts = (
            torch.from_numpy(artifact.numbers(f"{kind}_features")) for kind in ("image", "text")
        )
    with Artifact(workspace / "objects.h5", "detect") as artifact:
        labels = tuple(torch.from_numpy(artifact.numbers(name)) for name in ("label", "offsets"))
        vocabulary = artifact.texts("vocabulary")
    model = load_clip(clip, torch.device("cpu"), torch.float32)
    target = workspace / f"half_b-{digest(clip)}.pt"
    real = photo_features([photo.path for photo in photos], clip, target)
    return Texts(
        captions,
        synthetic,
        texts,
        real.repeat_interleave(per_photo, 0),
        (labels[0].long(), labels[1].long()),
        model.encode_texts(vocabulary),
    )


def read_photos(
    workspace: Path, data: Path, clip: EncodeSettings, detector: DetectSettings
) -> RealPhotos:
    """The dev photos as the two image models see them."""
    photos = flickr8k(data, "dev")
    paths = [photo.path for photo in photos]
    return RealPhotos(
        photo_features(paths, clip, workspace / f"dev-{digest(clip)}.pt"),
        photo_labels(paths, detector, workspace / f"dev_objects-{digest(detector)}.pt"),
        [photo.captions for photo in photos],
    )


def photo_features(paths: list[Path], settings: EncodeSettings, target: Path) -> Tensor:
    """Unit features (n, d) of photos, kept in a file."""
    if not target.exists():
        model = load_clip(settings, torch.device("cpu"), torch.float32)
        pieces = [
            model.encode_images(
                torch.stack([model.preprocess(load_photo(path)) for path in paths[i : i + 8]])
            )
            for i in range(0, len(paths), 8)
        ]
        torch.save(torch.cat(pieces), target)
    return torch.load(target, weights_only=True)


def photo_labels(paths: list[Path], settings: DetectSettings, target: Path) -> Labels:
    """Labels of the objects in photos, kept in a file."""
    if not target.exists():
        model = load_detector(settings, torch.device("cpu"), torch.float32)
        found = [
            torch.from_numpy(objects.labels).long()
            for i in range(0, len(paths), 8)
            for objects in model.detect([model.preprocess(load_photo(p)) for p in paths[i : i + 8]])
        ]
        counts = torch.tensor([0, *(len(labels) for labels in found)])
        torch.save((torch.cat(found), counts.cumsum(0)), target)
    labels, offsets = torch.load(target, weights_only=True)
    return labels, offsets


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Mean and spread over the seeds, as Markdown."""
    lines = ["| variant | " + " | ".join(METRICS) + " | seeds |", "|---" * 6 + "|"]
    for name, runs in results.items():
        cells = [
            f"{np.mean(values):.1f} ± {np.std(values):.1f}"
            if len(values) > 1
            else f"{values[0]:.1f}"
            for values in ([run[metric] for run in runs] for metric in METRICS)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(runs)} |")
    return "\n".join(lines)


def open_bench(args: argparse.Namespace) -> Bench:
    """A bench with the preset's settings and what lies in the workspace."""
    preset = load_preset("tiny")
    clip, detector = EncodeSettings(str(args.clip)), resolve(DetectSettings, preset)
    settings = resolve(TrainSettings, preset)
    settings = replace(settings, epochs=args.epochs or settings.epochs)
    settings = replace(settings, batch_size=args.batch_size or settings.batch_size)
    return Bench(
        read_texts(args.workspace, args.data, args.per_photo, clip),
        read_photos(args.workspace, args.data, clip, detector),
        settings,
        resolve(ProjectSettings, preset).temperature,
    )


def run(args: argparse.Namespace) -> None:
    """All variants for every seed, seed by seed, so that an early end leaves whole rows."""
    bench, refine_by = open_bench(args), resolve(OptimizeSettings, load_preset("tiny"))
    made = [args.workspace / name for name in ("features.h5", "objects.h5")]
    name = digest(
        refine_by, bench.settings, resolve(ProjectSettings, load_preset("tiny")), artifacts=made
    )
    saved = args.workspace / f"ablation-{name}.json"
    results: dict[str, list[dict[str, float]]] = {}
    if saved.exists():
        results = json.loads(saved.read_text())
    rows = nearest(bench.photos.features, bench.texts.texts)[1].tolist()
    results.setdefault("CLIPRe", [bench.measure([bench.texts.captions[row] for row in rows])])
    for seed in range(args.seeds):
        for variant in variants(bench.texts, refine_by, bench.temperature):
            runs = results.setdefault(variant.name, [])
            if len(runs) <= seed:
                runs.append(bench.score(variant, bench.train(variant, seed)))
                print(f"seed {seed}  {variant.name}  CIDEr {runs[-1]['CIDEr']:.1f}", flush=True)
                saved.write_text(json.dumps(results, indent=1))
    saved.with_suffix(".md").write_text(table(results) + "\n")
    print(table(results))


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that say what is trained on."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k/")
    parser.add_argument("--per-photo", type=int, default=5, help="captions of each photo")
    parser.add_argument("--workspace", type=Path, help="folder of the artifacts")
    parser.add_argument("--clip", type=Path, help="dual encoder trained without half B")
    parser.add_argument("--epochs", type=int, help="of a decoder, if not those of the preset")
    parser.add_argument("--batch-size", type=int, help="of a decoder, if not the preset's")
    return parser


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("what", choices=["corpus", "run"])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    if args.what == "corpus":
        print("\n".join(texts_of_half_b(args.data, args.per_photo)[1]))
    else:
        run(args)


if __name__ == "__main__":
    main()
