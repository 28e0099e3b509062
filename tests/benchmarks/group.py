"""compose's groups: exact neighbours against the machine's matrix product, and their memory."""

from __future__ import annotations

import subprocess
import sys

import torch

from syntic_cli.method.grouping import gather_groups

from .measure import Options, Row, compare, interleave, limit
from .project import SQUARE, WIDTH, made_up, square

SIZE = 30
# Heads of groups and texts; COCO's 566,747 texts are the size that ICSD gathers groups of.
SIZES = {"cpu": (2_048, 100_000), "cuda": (65_536, 566_747)}
COCO = {"cpu": (2_048, 566_747), "cuda": (566_747, 566_747)}
TOPK = "topk over whole rows"
# The peak of a process of its own, which holds the groups of all texts, but gathers those of some.
MEMORY_PROBE = """
import re, torch
from syntic_cli.method.grouping import TILE, first_of_each_set, gather_groups
torch.set_num_threads({threads})
def memory(figure):
    return 1024 * int(re.search(figure + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
features = torch.empty({texts}, {width}).normal_().mul_({width} ** -0.5)
gather_groups(features[:5000], torch.arange(600), {size})
before = memory("VmRSS")
groups = torch.empty({texts}, {size}, dtype=torch.int32).random_({texts})
groups[:TILE] = gather_groups(features, torch.arange(TILE), {size})
first_of_each_set(groups.numpy())
print(memory("VmHWM") - before)
"""


def whole_rows(features: torch.Tensor, heads: torch.Tensor, chunk: int = 256) -> None:
    """The cosines of a head with every text at once, and their largest."""
    for some in heads.split(chunk):
        (features[some] @ features.T).topk(SIZE, dim=1)


@torch.no_grad()
def run(options: Options) -> list[Row]:
    """Speed in billions of operations a second, and memory."""
    results = []
    for sizes, repeats in ((SIZES, None), (COCO, 1)):
        heads, texts = sizes[options.device]
        results += _speed(heads, texts, options, repeats)
    return [*results, _memory(options)]


def _speed(heads: int, texts: int, options: Options, repeats: int | None) -> list[Row]:
    _, features = made_up(1, texts, options.device)
    rows = torch.randperm(texts, generator=torch.Generator().manual_seed(0))[:heads]
    rows = rows.to(options.device)
    few = rows[:512]
    size = 2048 if options.device == "cpu" else 8192
    candidates = {
        "ours": lambda: gather_groups(features, rows, SIZE),
        SQUARE: square(size, options.device, features.dtype),
        TOPK: lambda: whole_rows(features, few),
    }
    times = interleave(candidates, options, repeats=repeats)
    flops = 2.0 * WIDTH * texts / 1e9
    amounts = {"ours": flops * heads, SQUARE: 2.0 * size**3 / 1e9, TOPK: flops * len(few)}
    return compare(
        "group",
        f"{heads:,} heads of {texts:,} texts, {SIZE} each",
        "GFLOP/s",
        times,
        amounts,
        targets={SQUARE: 0.7},
        clock=options.clock,
    )


def _memory(options: Options) -> Row:
    texts = COCO["cpu"][1]
    code = MEMORY_PROBE.format(threads=options.threads, texts=texts, width=WIDTH, size=SIZE)
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    what = f"memory beyond the features, {texts:,} texts and as many groups"
    return limit("group", what, "MB", int(found.stdout) / 1e6, 256)
