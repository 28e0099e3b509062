"""The table of an experiment from what `syntic evaluate --format json` printed of several files.

    python table.py scores.json [--plot curve.png]

Files are named NAME-SEED.h5; a row is the mean over the seeds of a name ± their standard deviation.
With --plot names are METHOD@SHARE, and a curve a method is drawn over the shares.
"""

import argparse
import json
from pathlib import Path

import numpy as np

METRICS = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


def read(path: Path) -> dict[str, list[dict[str, float]]]:
    """The scores of each seed by name, in the order of the files."""
    found = json.loads(path.read_text())
    files = [found, *found.get("others", [])]
    runs: dict[str, list[dict[str, float]]] = {}
    for one in files:
        name = Path(one["captions"]).stem.rpartition("-")[0] if "captions" in one else path.stem
        runs.setdefault(name, []).append(one["metrics"])
    return runs


def cell(values: list[float]) -> str:
    mean = f"{np.mean(values):.1f}"
    return f"{mean} ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


def table(runs: dict[str, list[dict[str, float]]]) -> str:
    """The scores as Markdown."""
    lines = ["| captioner | " + " | ".join(METRICS) + " | seeds |", "|---" * 6 + "|"]
    for name, scores in runs.items():
        cells = [cell([run[metric] for run in scores]) for metric in METRICS]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(scores)} |")
    return "\n".join(lines)


def plot(runs: dict[str, list[dict[str, float]]], target: Path) -> None:
    """CIDEr over the share of the texts, a curve a method."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for method in dict.fromkeys(name.partition("@")[0] for name in runs):
        points = {
            float(name.partition("@")[2]): [run["CIDEr"] for run in scores]
            for name, scores in runs.items()
            if name.startswith(f"{method}@")
        }
        means = [np.mean(values) for values in points.values()]
        spread = [np.std(values, ddof=1) if len(values) > 1 else 0 for values in points.values()]
        axes.errorbar(list(points), means, yerr=spread, marker="o", capsize=3, label=method)
    axes.set(xscale="log", xlabel="texts, % of the corpus", ylabel="CIDEr")
    shares = sorted({float(name.partition("@")[2]) for name in runs})
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.minorticks_off()
    axes.legend()
    figure.savefig(target, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scores", type=Path)
    parser.add_argument("--plot", type=Path, help="draw here instead")
    args = parser.parse_args()
    runs = read(args.scores)
    if args.plot:
        plot(runs, args.plot)
    else:
        print(table(runs))


if __name__ == "__main__":
    main()
