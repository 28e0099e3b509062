"""project (equation 3) against the chunked softmax, DeCap's loop, and bare matrix products."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from syntic_cli.method.projection import project

from .measure import Options, Row, compare, interleave, limit

WIDTH = 512
TEMPERATURE = 0.01
SIZES = {"cpu": (1024, 100_000), "cuda": (16_384, 1_000_000)}
# A thousand photos on a large support set: in the order of half a minute on two cores.
LARGE = (1_000, 1_000_000)
SQUARE, FLOOR = "floor: square product", "floor: the two products"
DECAP_TEXTS = 500_000
# Extra memory is read off the peak of a process of its own.
MEMORY_PROBE = """
import re, torch
from syntic_cli.method.projection import project
torch.set_num_threads({threads})
def peak(): return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
support = torch.empty({texts}, 512).normal_().mul_(512 ** -0.5)
features = torch.empty({rows}, 512).normal_()
project(features[:8], support[:8], 0.01)
before = peak()
out = project(features, support, 0.01)
print(peak() - before - out.numel() * out.element_size())
"""


def made_up(rows: int, texts: int, device: str) -> tuple[Tensor, Tensor]:
    """Image and text features in two narrow cones, as a dual encoder's are: cosines 0.1 to 0.4."""
    generator = torch.Generator().manual_seed(0)
    support = torch.empty(texts, WIDTH).normal_(generator=generator)
    support += torch.randn(WIDTH, generator=generator)
    support = F.normalize(support, dim=1)
    own = support[torch.randint(texts, (rows,), generator=generator)]
    noise = torch.randn(rows, WIDTH, generator=generator) / WIDTH**0.5
    return F.normalize(0.3 * own + noise, dim=1).to(device), support.to(device)


def chunked(features: Tensor, support: Tensor, chunk: int = 64) -> Tensor:
    """Softmax over whole rows, a chunk of features at a time."""
    parts = [
        (part @ support.T / TEMPERATURE).softmax(-1) @ support for part in features.split(chunk)
    ]
    return F.normalize(torch.cat(parts), dim=-1)


def one_by_one(features: Tensor, support: Tensor) -> None:
    """DeCap's inference: one photo at a time."""
    for feature in features:
        similarity = (feature[None] @ support.T / TEMPERATURE).softmax(dim=-1)
        F.normalize(similarity @ support, dim=-1)


def products(features: Tensor, support: Tensor, tile: int = 2048) -> None:
    """The floor: the two matrix products alone, in tiles and into buffers."""
    rows = min(len(features), 4096)
    cosines, out = features.new_empty(rows, tile), torch.zeros_like(features[:rows])
    for some in features.split(rows):
        for texts in support.split(tile):
            if len(texts) == tile:
                torch.mm(some, texts.T, out=cosines)
                out.addmm_(cosines, texts)


def fused(features: Tensor, support: Tensor) -> None:
    """torch's own fused attention."""
    keys = support[None, None]
    F.scaled_dot_product_attention(features[None, None], keys, keys, scale=1 / TEMPERATURE)


def square(size: int, device: str, dtype: torch.dtype) -> Callable[[], object]:
    """A square matrix product, for the machine's best rate."""
    matrix = torch.randn(size, size, device=device).to(dtype)
    return lambda: matrix @ matrix


@torch.no_grad()
def run(options: Options) -> list[Row]:
    """Speed in billions of operations a second, photos a second, error, memory."""
    rows, texts = SIZES[options.device]
    features, support = made_up(rows, texts, options.device)
    results = _speed(features, support, options)
    if options.device == "cuda":
        results += _speed(features.bfloat16(), support.bfloat16(), options)
    results += _speed(*made_up(*LARGE, options.device), options, peers=(FLOOR, SQUARE), repeats=1)
    results += _decap(features, support, options)
    for dtype, most in ((torch.float32, 1e-4), (torch.bfloat16, 5e-3)):
        found = error(features[:64], support, dtype)
        name = str(dtype).removeprefix("torch.")
        results.append(limit("project", f"largest error, {name}", "relative", found, most))
    return [*results, _memory(options)]


def _speed(
    features: Tensor,
    support: Tensor,
    options: Options,
    *,
    peers: Collection[str] = (FLOOR, SQUARE, "fused attention", "chunked softmax"),
    repeats: int | None = None,
) -> list[Row]:
    name = str(features.dtype).removeprefix("torch.")
    flops = 4.0 * len(features) * len(support) * WIDTH
    size = 2048 if options.device == "cpu" else 8192
    candidates: dict[str, Callable[[], object]] = {
        "ours": lambda: project(features, support, TEMPERATURE),
        FLOOR: lambda: products(features, support),
        SQUARE: square(size, options.device, features.dtype),
        "fused attention": lambda: fused(features, support),
        "chunked softmax": lambda: chunked(features, support),
    }
    for peer in [peer for peer in candidates if peer not in ("ours", *peers)]:
        del candidates[peer]
    if options.device == "cuda":
        # The fused kernels for CUDA take fewer columns; what is left would hold all weights.
        candidates.pop("fused attention", None)
    times = interleave(candidates, options, repeats=repeats, warm=options.device == "cuda")
    amounts = dict.fromkeys(candidates, flops) | {SQUARE: 2.0 * size**3}
    wanted = 0.8 if features.dtype == torch.float32 else 0.5
    what = f"{len(features):,} features on {len(support):,} texts, {name}"
    return compare(
        "project",
        what,
        "GFLOP/s",
        times,
        {name: amount / 1e9 for name, amount in amounts.items()},
        targets={SQUARE: wanted, "chunked softmax": 1.0},
        clock=options.clock,
    )


def _decap(features: Tensor, support: Tensor, options: Options) -> list[Row]:
    texts = support.repeat(-(-DECAP_TEXTS // len(support)), 1)[:DECAP_TEXTS]
    few, batch = features[:8], features[:256]
    candidates = {
        "ours": lambda: project(batch, texts, TEMPERATURE),
        "DeCap: one photo at a time": lambda: one_by_one(few, texts),
    }
    times = interleave(candidates, options, repeats=2, warm=False)
    return compare(
        "project",
        f"photos on {DECAP_TEXTS:,} texts",
        "photos/s",
        times,
        {"ours": len(batch), "DeCap: one photo at a time": len(few)},
        targets={"DeCap: one photo at a time": 1.0},
        clock=options.clock,
    )


def error(features: Tensor, support: Tensor, dtype: torch.dtype) -> float:
    """The largest error of a projection over its length, against float64."""
    features, support = features.to(dtype), support.to(dtype)
    found = project(features, support, TEMPERATURE).double()
    # The reference sees the same rounded, unit-length inputs.
    queries, keys = F.normalize(features.float(), dim=-1).to(dtype).double(), support.double()
    wanted = F.normalize((queries @ keys.T / TEMPERATURE).softmax(-1) @ keys, dim=-1)
    return float((found - wanted).norm(dim=1).max())


def _memory(options: Options) -> Row:
    rows, texts = 2048, 200_000
    code = MEMORY_PROBE.format(threads=options.threads, rows=rows, texts=texts)
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    what = f"memory beyond inputs and output, {rows:,} on {texts:,}"
    return limit("project", what, "MB", int(found.stdout) / 1e6, 256)
