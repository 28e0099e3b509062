"""What compose and each switch bring: trains all of them on one corpus and scores them on photos.

    python examples/switches.py CORPUS REFERENCES.csv PHOTOS [REFERENCES.csv PHOTOS ...]

REFERENCES.csv names photos of the folder PHOTOS with their captions. Every variant is trained with
each seed on the same images (of `compose`: on its own), and the table is printed as Markdown, each
cell the mean over the seeds ± their standard deviation. What is made lies in --workspace; a run
that was ended goes on where it was.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from syntic_cli.artifacts.reading import Artifact
from syntic_cli.cli import app

METRICS = ("BLEU-4", "METEOR", "CIDEr")
SWITCHES = {
    "plain": [],
    "plain + select": ["select"],
    "plain + weigh": ["weigh"],
    "plain + retrieve": ["retrieve"],
    "compose": ["compose"],
    "all": ["compose", "select", "weigh", "retrieve"],
}


def syntic(*arguments: object) -> None:
    """Run `syntic ARGUMENTS` in this process."""
    app([str(argument) for argument in arguments], standalone_mode=False)


def prepare(args: argparse.Namespace) -> None:
    """Images, features and objects: of each text, and of each scene."""
    plain, scenes = (args.workspace / name for name in ("plain", "compose"))
    syntic("synthesize", args.corpus, "-w", plain, "--preset", args.preset)
    groups = ["--groups", args.groups] if args.groups else []
    syntic("compose", args.corpus, "-w", scenes, "--preset", args.preset, *groups)
    syntic("synthesize", scenes / "composed.h5", "-w", scenes)
    for workspace in (plain, scenes):
        syntic("encode", "-w", workspace)
        syntic("detect", "-w", workspace)
        syntic("select", "-w", workspace, "-o", workspace / "picked.h5")
        for features, name in (("features.h5", "projected.h5"), ("picked.h5", "of-picked.h5")):
            refined = workspace / f"refined-{features}"
            syntic("optimize", "-w", workspace, "--features", workspace / features, "-o", refined)
            syntic("project", "-w", workspace, "--features", refined, "-o", workspace / name)


def train(switches: Sequence[str], seed: int, captioner: Path, args: argparse.Namespace) -> None:
    """A captioner with some switches on."""
    workspace = args.workspace / ("compose" if "compose" in switches else "plain")
    projected = workspace / ("of-picked.h5" if "select" in switches else "projected.h5")
    options: list[object] = []
    if "weigh" in switches:
        options += ["--weigh", fair_weight(projected)]
    if "retrieve" in switches:
        options += ["--retrieve", args.retrieve]
    given = ("--projected", projected, "--seed", seed, "-o", captioner)
    syntic("train", "-w", workspace, *given, *options)


def fair_weight(projected: Path) -> float:
    """W at which half of the captions count in full."""
    with Artifact(projected) as artifact:
        cosines = artifact.numbers("cosine")[artifact.image() >= 0]
    return round(float(1 / np.median(cosines)), 2)


def scores(captioner: Path, args: argparse.Namespace) -> Iterator[float]:
    """The metrics of a captioner on each set of photos."""
    for number, (references, photos) in enumerate(args.sets):
        captions = captioner.with_name(f"{captioner.stem}-captions{number}.h5")
        found = captioner.with_name(f"{captioner.stem}-scores{number}.h5")
        here = ("-w", args.workspace, "-q")
        model = ("--captioner", captioner, "--preset", args.preset)
        syntic("caption", photos, *here, *model, "-o", captions, "-f", "txt")
        syntic("evaluate", captions, *here, "--references", references, "-o", found)
        with Artifact(found, "evaluate") as artifact:
            yield from (float(artifact.attributes[metric]) for metric in METRICS)


def table(results: dict[str, list[list[float]]], sets: Sequence[tuple[Path, Path]]) -> str:
    """The results as Markdown."""
    heads = [f"{references.stem} {metric}" for references, _ in sets for metric in METRICS]
    lines = [f"| variant | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name, runs in results.items():
        cells = [f"{np.mean(c):.1f} ± {np.std(c):.1f}" for c in zip(*runs, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("sets", type=Path, nargs="+", help="REFERENCES.csv PHOTOS, in turn")
    parser.add_argument("--workspace", type=Path, default=Path("syntic-switches"))
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--groups", type=int, help="scenes; one a text if not given")
    parser.add_argument("--retrieve", type=int, default=8)
    args = parser.parse_args()
    args.sets = list(zip(args.sets[::2], args.sets[1::2], strict=True))
    prepare(args)
    results: dict[str, list[list[float]]] = {}
    for seed in range(args.seeds):
        for name, switches in SWITCHES.items():
            captioner = args.workspace / f"{name.replace(' ', '')}-{seed}.h5"
            train(switches, seed, captioner, args)
            results.setdefault(name, []).append([*scores(captioner, args)])
    print(table(results, args.sets))


if __name__ == "__main__":
    main()
