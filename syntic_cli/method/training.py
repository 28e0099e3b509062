"""Equation 6 in training: batches of captions, their loss, and the optimiser's steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..transfer import to_device
from .decoder import Decoder

# Captions are sorted by length within this many batches, so that little of a batch is padding.
POOL_BATCHES = 64


@dataclass(frozen=True)
class Pairs:
    """Everything a decoder is trained on, on one device but for the offsets.

    prefixes: p, (N, d). images: v, (N, d). tokens: all captions one after the other, cut by
    token_offsets, (N + 1). labels: names of all objects, cut by label_offsets, (N + 1).
    names: text features of the vocabulary, (K, d). end: the token that ends a caption.
    weights: of each caption's loss, (N,); None for all alike.
    The offsets are on the host: a batch's shape follows from them without asking the device.
    """

    prefixes: Tensor
    images: Tensor
    tokens: Tensor
    token_offsets: Tensor
    labels: Tensor
    label_offsets: Tensor
    names: Tensor
    end: int
    weights: Tensor | None = None

    def batch_tokens(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A batch, (B,), of captions with an end after each.

        Returns:
            Tokens, (B, L); where a token or an end is wanted, (2, W), as rows and positions
            0..L; and which one, (W,).
        """
        tokens, present = _ragged(self.tokens, self.token_offsets, rows)
        device = self.tokens.device
        tokens = tokens.masked_fill(~to_device(present, device), self.end)
        wanted = F.pad(present, (1, 0), value=True).nonzero().T.contiguous()
        wanted = to_device(wanted, device)
        row, position = wanted.unbind()
        return tokens, wanted, F.pad(tokens, (0, 1), value=self.end)[row, position]

    def batch_tags(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """T, (B, K, d) with K ≥ 1, and which tags are there, (B, K)."""
        labels, present = _ragged(self.labels, self.label_offsets, rows)
        return self.names[labels], to_device(present, self.names.device)


def _ragged(values: Tensor, offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a ragged array, padded to the longest (at least 1), and which entries are there.

    The rows, the offsets and the second result are on the host.
    """
    first, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    steps = torch.arange(max(1, int(lengths.max())))
    present = steps < lengths[:, None]
    if len(values) == 0:
        return torch.zeros(present.shape, dtype=torch.long, device=values.device), present
    places = (first[:, None] + steps).clamp(max=len(values) - 1)
    return values[to_device(places, values.device)].long(), present


def token_loss(
    decoder: Decoder,
    prefix: Tensor,
    tokens: Tensor,
    wanted: Tensor,
    targets: Tensor,
    label_smoothing: float,
    weights: Tensor | None = None,
) -> Tensor:
    """The mean cross-entropy of a batch's tokens, most of a step's work and fit to be compiled.

    Args:
        decoder: the decoder.
        prefix: (B, P, width).
        tokens, wanted, targets: from `Pairs.batch_tokens`.
        label_smoothing: share of the target spread over the vocabulary.
        weights: of each caption's tokens, (B,), if they do not count alike.
    """
    row, position = wanted.unbind()
    # Only positions with a target go through the vocabulary, the widest product of all.
    logits = decoder.head(decoder.hidden(prefix, tokens)[row, position])
    if weights is None:
        return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
    losses = F.cross_entropy(
        logits.float(), targets, label_smoothing=label_smoothing, reduction="none"
    )
    return (weights[row] * losses).mean()


TokenLoss = Callable[..., Tensor]


def clip_weights(cosines: Tensor, scale: float) -> Tensor:
    """How much each caption's loss counts: min(1, W · cos(image, text)), and never below 0.

    The CLIP-weighted cross-entropy of PCM-Net (Luo et al., ECCV 2024): a caption that its synthetic
    image does not show teaches the decoder to make things up.

    Args:
        cosines: of each image, before refinement, with its own text, (N,).
        scale: W, of the order of 1 / cosine of a fair pair, which differs between encoders.
    """
    return (scale * cosines).clamp(0, 1)


def caption_loss(
    decoder: Decoder,
    pairs: Pairs,
    rows: Tensor,
    label_smoothing: float,
    token_loss: TokenLoss = token_loss,
    *,
    noise: float = 0.0,
) -> tuple[Tensor, int]:
    """The mean cross-entropy of the captions' tokens  (SynTIC, equation 6), weighted where
    captions have weights (PCM-Net).

    Args:
        decoder: the decoder.
        pairs: what it is trained on.
        rows: the batch, (B,), on the host.
        label_smoothing: share of the target spread over the vocabulary.
        token_loss: `token_loss`, or what it was compiled to.
        noise: standard deviation of Gaussian noise on p, as CapDec's (Nukrai et al., 2022).

    Returns:
        The loss, a scalar, and the number of tokens it is the mean of.
    """
    tokens, wanted, targets = pairs.batch_tokens(rows)
    tags, present = pairs.batch_tags(rows) if decoder.config.objects else (None, None)
    here = to_device(rows, pairs.prefixes.device)
    features = pairs.prefixes[here]
    if noise:
        features = F.normalize(features + noise * torch.randn_like(features), dim=-1)
    prefix = decoder.embed_prefix(features, pairs.images[here], tags, present)
    given = [] if pairs.weights is None else [pairs.weights[here]]
    loss = token_loss(decoder, prefix, tokens, wanted, targets, label_smoothing, *given)
    return loss, len(targets)


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int) -> list[np.ndarray]:
    """Cut a random order of the rows into batches of similar length, in random order.

    Args:
        lengths: tokens of each row, (N,).
        batch_size: rows a batch.
        seed: decides the order; the same seed gives the same batches.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths))
    batches = []
    for first in range(0, len(order), POOL_BATCHES * batch_size):
        pool = order[first : first + POOL_BATCHES * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Linear warm-up to the peak, then a cosine down to zero."""
    warmup = min(warmup, steps // 2)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def make_optimizer(decoder: Decoder, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW, without decay on biases, norms and the null token."""
    matrices = [p for p in decoder.parameters() if p.ndim >= 2]
    vectors = [p for p in decoder.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)


def training_step(
    decoder: Decoder,
    optimizer: torch.optim.Optimizer,
    pairs: Pairs,
    rows: Tensor,
    *,
    lr: float,
    label_smoothing: float,
    autocast: torch.dtype | None,
    token_loss: TokenLoss = token_loss,
    noise: float = 0.0,
) -> tuple[Tensor, int]:
    """One step of the optimiser on one batch; returns what `caption_loss` does, detached.

    Nothing here waits for a CUDA device.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    device = pairs.prefixes.device.type
    with torch.autocast(device, dtype=autocast, enabled=autocast is not None):
        loss, tokens = caption_loss(decoder, pairs, rows, label_smoothing, token_loss, noise=noise)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
    optimizer.step()
    return loss.detach(), tokens


@torch.no_grad()
def held_out_loss(decoder: Decoder, pairs: Pairs, rows: np.ndarray, batch_size: int) -> float:
    """The cross-entropy a token of held-out captions, without smoothing, dropout or weights, in
    nats."""
    decoder.eval()
    pairs = replace(pairs, weights=None)
    device = pairs.prefixes.device
    total, count = torch.zeros((), device=device), 0
    for batch in _chunks(torch.from_numpy(rows), batch_size):
        loss, tokens = caption_loss(decoder, pairs, batch, 0.0)
        total += loss * tokens
        count += tokens
    decoder.train()
    return float(total) / max(count, 1)


def _chunks(rows: Tensor, size: int) -> Iterator[Tensor]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]
