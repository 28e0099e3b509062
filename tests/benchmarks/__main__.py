"""Run the benchmarks: python -m tests.benchmarks [--only NAME] [--device cuda]."""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

from .measure import Options, Row, machine
from .report import HERE, line, save

NAMES = (
    "startup",
    "project",
    "group",
    "decode",
    "train",
    "optimize",
    "read",
    "encode",
    "synthesize",
    "caption",
    "cluster",
    "evaluate",
    "growth",
)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", choices=NAMES, action="append", help="may be given repeatedly")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: as many as cores")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE, help="folder of results-DEVICE.*")
    return parser.parse_args()


def main() -> None:
    """Run, print each row as it comes, and save them all."""
    import torch

    given = parse()
    if given.threads:
        torch.set_num_threads(given.threads)
    options = Options(given.device, torch.get_num_threads(), given.clock, given.repeats)
    if options.clock == "cpu" and options.threads > 1:
        raise SystemExit("--clock cpu counts the seconds of all threads: give --threads 1 too")
    print(machine(options))
    for name in given.only or NAMES:
        began = time.perf_counter()
        rows: list[Row] = importlib.import_module(f".{name}", __package__).run(options)
        for row in rows:
            print(f"{name}: {line(row)}", flush=True)
        print(f"{name}: took {time.perf_counter() - began:.0f} s", flush=True)
        save(rows, options, given.output)


if __name__ == "__main__":
    main()
