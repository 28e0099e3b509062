"""The table that the settings of the tiny preset are chosen from, measured on the dev photos.

Reads the workspace that `ablation.sh` leaves. One setting is changed at a time; the decoders attend
to no objects, so that a row takes one training of the decoder.
"""

from collections.abc import Iterator
from dataclasses import replace

from ablation import METRICS, Variant, make_parser, open_bench, refined

from syntic_cli.method.projection import project
from syntic_cli.presets import load_preset, resolve
from syntic_cli.settings import OptimizeSettings

TEMPERATURES = (1 / 100, 1 / 50, 1 / 20)
EPOCHS = (0, 4, 8, 16, 32)
BATCHES = (128, 2048)
BEAMS = (1, 3, 5)


def rows(preset: OptimizeSettings, temperature: float) -> Iterator[tuple[OptimizeSettings, float]]:
    """The preset's settings, then each of them with one changed."""
    yield preset, temperature
    for epochs in EPOCHS:
        if epochs != preset.epochs:
            yield replace(preset, epochs=epochs), temperature
    for size in BATCHES:
        yield replace(preset, batch_size=size), temperature
    for other in TEMPERATURES:
        yield preset, other


def main() -> None:
    args = make_parser(__doc__).parse_args()
    bench, preset = open_bench(args), resolve(OptimizeSettings, load_preset("tiny"))
    columns = ("epochs", "batch", "τ", "beam", "cosine to own text", *METRICS)
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for number, (by, temperature) in enumerate(rows(preset, bench.temperature)):
        prefixes = project(refined(bench.texts, by), bench.texts.texts, temperature)
        cosine = (prefixes * bench.texts.texts).sum(-1).mean()
        bench.near = project(bench.photos.features, bench.texts.texts, temperature)
        variant = Variant("", lambda _, prefixes=prefixes: prefixes, projected=True)
        decoder = bench.train(variant, seed=0)
        for beam in BEAMS if number == 0 else (3,):
            found = bench.score(variant, decoder, beam)
            scores = " | ".join(f"{found[metric]:.1f}" for metric in METRICS)
            row = f"{by.epochs} | {by.batch_size} | {temperature:.3f} | {beam} | {cosine:.3f}"
            print(f"| {row} | {scores} |", flush=True)


if __name__ == "__main__":
    main()
