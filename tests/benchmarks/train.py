"""Training against DeCap's way: GPT-2's class, 20 tokens a caption, tokenised on the fly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from syntic_cli.method.decoder import Decoder, DecoderConfig
from syntic_cli.method.training import (
    Pairs,
    epoch_batches,
    make_optimizer,
    token_loss,
    training_step,
)
from syntic_cli.tokenizer import clip_tokenizer, encode_captions, end_token

from .corpus import coco_captions
from .measure import Options, Row, compare, interleave

PADDED = 20
FEATURES = 512
SIZES = {"cpu": ((256, 64, 2), (512, 64, 1)), "cuda": ((512, 512, 50),)}


def run(options: Options) -> list[Row]:
    """Real tokens a second at the same size of decoder, vocabulary and batch."""
    captions = [texts[0] for texts in coco_captions(8192)]
    results = []
    for width, batch, steps in SIZES[options.device]:
        results += _compare(captions, width, batch, steps, options)
    return results


def _compare(
    captions: list[str], width: int, batch: int, steps: int, options: Options
) -> list[Row]:
    tokenizer = clip_tokenizer()
    tokens, offsets, _ = encode_captions(tokenizer, captions, PADDED - 1)
    a_step = float((offsets[-1] + len(captions)) / len(captions) * batch)
    ours = _ours(tokens, offsets, end_token(tokenizer), width, batch, options)
    theirs = _decap(captions, width, batch, options.device)
    vocabulary = tokenizer.get_vocab_size()
    candidates: dict[str, Callable[[], object]] = {
        "ours": lambda: [next(ours) for _ in range(steps)],
        "DeCap's arrangement": lambda: [next(theirs) for _ in range(steps)],
        "floor: matrix products": _products(
            width, vocabulary, round(a_step), steps, options.device
        ),
    }
    times = interleave(candidates, options)
    dtype = "bfloat16 autocast and compiled for ours" if options.device == "cuda" else "float32"
    return compare(
        "train",
        f"width {width}, 4 layers, vocabulary {vocabulary:,}, batch {batch}, {dtype}",
        "real tokens/s",
        times,
        a_step * steps,
        targets={"DeCap's arrangement": 3.0},
        clock=options.clock,
    )


def _ours(
    tokens: np.ndarray, offsets: np.ndarray, end: int, width: int, batch: int, options: Options
) -> Iterator[object]:
    torch.manual_seed(0)
    device, rows = options.device, len(offsets) - 1
    none = torch.zeros(rows + 1, dtype=torch.long)
    features = F.normalize(torch.randn(rows, FEATURES, device=device), dim=1)
    pairs = Pairs(
        prefixes=features,
        images=features,
        tokens=torch.from_numpy(tokens).to(device),
        token_offsets=torch.from_numpy(offsets),
        labels=none[:0].to(device),
        label_offsets=none,
        names=features[:1],
        end=end,
    )
    config = DecoderConfig(
        vocabulary=end + 1, features=FEATURES, width=width, max_length=PADDED, objects=False
    )
    decoder = Decoder(config).to(device).train()
    optimizer = make_optimizer(decoder, 1e-4, 0.01)
    on_cuda = device == "cuda"
    loss = torch.compile(token_loss, dynamic=True) if on_cuda else token_loss
    for epoch in itertools.count():
        # A last batch may be smaller; only whole ones are counted.
        for chosen in epoch_batches(np.diff(offsets), batch, epoch):
            if len(chosen) == batch:
                yield training_step(
                    decoder,
                    optimizer,
                    pairs,
                    torch.from_numpy(chosen),
                    lr=1e-4,
                    label_smoothing=0.1,
                    autocast=torch.bfloat16 if on_cuda else None,
                    token_loss=loss,
                )


def _decap(captions: list[str], width: int, batch: int, device: str) -> Iterator[object]:
    """DeCap's loop: a linear prefix, GPT2LMHeadModel, logits of every padded position, AdamW."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    tokenizer = SimpleTokenizer()
    config = GPT2Config(vocab_size=49_408, n_embd=width, n_layer=4, n_head=4)
    model: Any = GPT2LMHeadModel(config).to(device).train()
    project = torch.nn.Linear(FEATURES, width).to(device)
    optimizer = torch.optim.AdamW([*model.parameters(), *project.parameters()], lr=1e-4)
    features = F.normalize(torch.randn(len(captions), FEATURES, device=device), dim=1)
    for chosen in _shuffled(len(captions), batch):
        padded = torch.zeros(batch, PADDED, dtype=torch.long)
        for row, index in enumerate(chosen):
            found = [*tokenizer.encode(captions[index])[: PADDED - 1], 49_407]
            padded[row, : len(found)] = torch.tensor(found)
        padded = padded.to(device)
        words = model.transformer.wte(padded)
        inputs = torch.cat([project(features[chosen])[:, None], words], dim=1)
        logits = model(inputs_embeds=inputs).logits[:, :-1]
        loss = F.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), padded.flatten(), ignore_index=0
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def _shuffled(rows: int, batch: int) -> Iterator[list[int]]:
    random = np.random.default_rng(0)
    while True:
        order = random.permutation(rows)[: rows - rows % batch]
        yield from order.reshape(-1, batch).tolist()


def _products(
    width: int, vocabulary: int, tokens: int, steps: int, device: str
) -> Callable[[], None]:
    """The products of one forward and backward pass over real tokens: three times the forward."""
    half = torch.bfloat16 if device == "cuda" else torch.float32
    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)] * 4
    matrices = [torch.randn(s, device=device, dtype=half) for s in [*shapes, (vocabulary, width)]]
    inputs = {n: torch.randn(tokens, n, device=device, dtype=half) for n in (width, 4 * width)}

    def multiply() -> None:
        for _ in range(3 * steps):
            for matrix in matrices:
                F.linear(inputs[matrix.shape[1]], matrix)

    return multiply
