"""Caption decoding against a greedy loop over single photos without a cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from syntic_cli.method.decoder import Decoder, DecoderConfig
from syntic_cli.method.repetition import Repetition, make_repetition
from syntic_cli.method.search import beam_search, greedy

from .measure import Options, Row, compare, interleave

# Tokens of a caption: a COCO caption has 11 to 13, and its end.
LENGTH = 14
BATCHES = {"cpu": 128, "cuda": 1024}
# No token, so that every caption has the same length whatever the random weights say.
NO_END = -1


def one_by_one(decoder: Decoder, prefixes: Tensor) -> Tensor:
    """DeCap's decoding: one photo at a time, the whole caption anew for every token."""
    captions = []
    for prefix in prefixes.split(1):
        tokens = torch.empty(1, 0, dtype=torch.long, device=prefix.device)
        for _ in range(LENGTH):
            chosen = decoder(prefix, tokens)[:, -1].argmax(dim=-1)
            tokens = torch.cat([tokens, chosen[:, None]], dim=1)
            if int(chosen) == NO_END:
                break
        captions.append(tokens)
    return torch.cat(captions)


@torch.no_grad()
def run(options: Options) -> list[Row]:
    """Captions a second with small and CLIP's vocabulary, small and large width."""
    results = []
    for width, vocabulary in ((256, 4_000), (512, 49_408)):
        results += _compare(width, vocabulary, options)
    return results


def _compare(width: int, vocabulary: int, options: Options) -> list[Row]:
    torch.manual_seed(0)
    config = DecoderConfig(vocabulary=vocabulary, features=512, width=width)
    decoder = Decoder(config).to(options.device).eval()
    batch = BATCHES[options.device]
    prefixes = torch.randn(batch, 2, width, device=options.device)
    few = prefixes[:4]
    assert torch.equal(
        greedy(decoder, few, end=NO_END, max_length=LENGTH)[0], one_by_one(decoder, few)
    )
    loop, floor = "one photo at a time, no cache", "floor: matrix products"
    ours = {
        "greedy": lambda: greedy(decoder, prefixes, end=NO_END, max_length=LENGTH),
        "beam 3": lambda: beam_search(decoder, prefixes, end=NO_END, beam=3, max_length=LENGTH),
    }
    rows = []
    for name, search in ours.items():
        beams = 3 if name == "beam 3" else 1
        candidates = {
            "ours": search,
            loop: lambda: one_by_one(decoder, few),
            floor: _products(decoder, batch * beams),
        }
        times = interleave(candidates, options, warm=options.device == "cuda")
        what = f"{name}, width {width}, vocabulary {vocabulary:,}, batch {batch}"
        amounts = {"ours": batch, loop: len(few), floor: batch}
        targets = {loop: 20.0, floor: 0.7} if name == "beam 3" else {loop: 20.0}
        rows += compare(
            "decode", what, "captions/s", times, amounts, targets=targets, clock=options.clock
        )
    return rows + _compare_paid(decoder, prefixes, options)


def _compare_paid(decoder: Decoder, prefixes: Tensor, options: Options) -> list[Row]:
    """Beam search where words that come again are paid for, and where they are not."""

    def search(repetition: Repetition | None) -> Callable[[], object]:
        return lambda: beam_search(
            decoder, prefixes, end=NO_END, beam=3, max_length=LENGTH, repetition=repetition
        )

    size = decoder.config.vocabulary
    # Families of six words, as large as those of English captions.
    family = torch.arange(size, device=prefixes.device) // 6
    repetition = make_repetition(family, torch.rand(size, device=prefixes.device), 0.25)
    free = "repetition for free"
    times = interleave({"ours": search(repetition), free: search(None)}, options)
    what = f"beam 3 with repetition, width {decoder.config.width}, vocabulary {size:,}"
    return compare(
        "decode", what, "captions/s", times, len(prefixes), targets={free: 0.95},
        clock=options.clock,
    )  # fmt: skip


def _products(decoder: Decoder, rows: int) -> Callable[[], None]:
    """Every matrix product of the decoder, once for each token of `rows` captions."""
    matrices: list[Tensor] = [p for b in decoder.blocks for p in b.parameters() if p.ndim == 2]
    matrices.append(decoder.token.weight)
    inputs = {m.shape[1]: torch.randn(rows, m.shape[1], device=m.device) for m in matrices}

    def multiply() -> None:
        for _ in range(LENGTH):
            for matrix in matrices:
                torch.nn.functional.linear(inputs[matrix.shape[1]], matrix)

    return multiply
