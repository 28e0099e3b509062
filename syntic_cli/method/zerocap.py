"""ZeroCap: a language model whose memory of the words so far is bent towards the photo.

Tewel et al., "ZeroCap: Zero-Shot Image-to-Text Generation for Visual-Semantic Arithmetic", CVPR
2022. Where the paper is silent (how gradients are normalised, how the distributions before and
after are mixed) the values are those of the authors' program; its list of forbidden words is not
taken over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .magic import Language

# Keeps a gradient of zeros from being divided by its length.
LEAST_NORM = 1e-15


@dataclass(frozen=True)
class ZeroCapSettings:
    """iterations gradient steps of size step a token, on the dual encoder's view of the likeliest
    `candidates` tokens at a temperature, and fluency (λ) times the divergence from the language
    model; norm_power says how far gradients are normalised. fusion is the share of the bent
    distribution in the product of both. end_factor makes the end likelier, from the second token.
    """

    beam: int = 5
    max_length: int = 15
    candidates: int = 512
    iterations: int = 5
    step: float = 0.3
    temperature: float = 0.01
    fluency: float = 0.2
    norm_power: float = 0.9
    fusion: float = 0.99
    end_factor: float = 1.01


def zerocap_loss(
    logits: Tensor, plain: Tensor, cosines: Tensor, tokens: Tensor, by: ZeroCapSettings
) -> Tensor:
    """What the memory is bent to lessen, of each row  (ZeroCap, equations 2 to 4).

    −Σ_k p_k log q_k + λ KL(q ‖ q⁰),  p = softmax over the candidates of cos / τ

    Args:
        logits: of the next token by the bent memory, (N, V); q is their softmax.
        plain: logits by the memory as it was, (N, V); q⁰.
        cosines: of the photo and the text that ends with each candidate, (N, k).
        tokens: the candidates, (N, k).
        by: the temperature and λ.

    Returns:
        (N,).
    """
    log_q, log_plain = logits.log_softmax(dim=-1), plain.log_softmax(dim=-1)
    target = (cosines / by.temperature).softmax(dim=-1)
    photo = -(target * log_q.gather(1, tokens)).sum(dim=-1)
    return photo + by.fluency * (log_q.exp() * (log_q - log_plain)).sum(dim=-1)


def zerocap_search(
    language: Language,
    prompt: Tensor,
    cosines: Callable[[Tensor], Tensor],
    *,
    end: int,
    by: ZeroCapSettings | None = None,
) -> tuple[Tensor, Tensor]:
    """Write captions of one photo with a beam, the memory bent anew for each token.

    Args:
        language: the language model, its parameters without gradients.
        prompt: tokens to go on from, (T,) with T ≥ 2.
        cosines: of the photo and each of k texts, (k,), given as tokens with the prompt, (k, L).
        end: the token that ends a caption, such as a full stop.
        by: the settings; the published ones by default.

    Returns:
        The captions without the prompt, (B, L), filled up with `end`, the likeliest first; their
        log-probabilities a token, (B,), in nats.
    """
    by = by or ZeroCapSettings()
    rows = prompt[None]
    scores = torch.zeros(1, device=prompt.device)
    lengths = torch.zeros_like(scores)
    stopped = torch.zeros_like(scores, dtype=torch.bool)
    for position in range(by.max_length):
        found = _next(language, rows, cosines, end if position else None, by).log()
        # A finished caption has one continuation, which costs nothing: its end once more.
        found[stopped] = -torch.inf
        found[stopped, end] = 0.0
        lengths = lengths + (~stopped)
        means = (scores[:, None] + found) / lengths[:, None]
        best = means.flatten().topk(min(by.beam, means.numel()))
        parents, tokens = best.indices // means.shape[1], best.indices % means.shape[1]
        lengths = lengths[parents]
        scores = best.values * lengths
        rows = torch.cat([rows[parents], tokens[:, None]], dim=1)
        stopped = stopped[parents] | (tokens == end)
        if stopped.all():
            break
    return rows[:, len(prompt) :], scores / lengths


def _next(
    language: Language,
    rows: Tensor,
    cosines: Callable[[Tensor], Tensor],
    end: int | None,
    by: ZeroCapSettings,
) -> Tensor:
    """The distribution of the next token, (N, V), by the bent memory, mixed with the plain one."""
    with torch.no_grad():
        memory = language(rows[:, :-1], None)[2]
        held = [tensor for layer in memory for tensor in layer[:2]]
        plain = language(rows, None)[0].float()
    shifts = [torch.zeros_like(tensor) for tensor in held]

    def bent(shifts: list[Tensor]) -> Tensor:
        moved = [tensor + shift for tensor, shift in zip(held, shifts, strict=True)]
        cache: Any = type(memory)(list(zip(moved[::2], moved[1::2], strict=True)))
        return language(rows[:, -1:], cache)[0].float()

    for _ in range(by.iterations):
        with torch.enable_grad():
            shifts = [shift.detach().requires_grad_() for shift in shifts]
            logits = bent(shifts)
            tokens = logits.detach().topk(min(by.candidates, logits.shape[1])).indices
            likeness = torch.stack(
                [
                    cosines(torch.cat([row.expand(len(own), -1), own[:, None]], dim=1))
                    for row, own in zip(rows, tokens, strict=True)
                ]
            )
            loss = zerocap_loss(logits, plain, likeness, tokens, by).sum()
            gradients = torch.autograd.grad(loss, shifts)
        shifts = [
            shift.detach() - by.step * gradient / _length(gradient) ** by.norm_power
            for shift, gradient in zip(shifts, gradients, strict=True)
        ]
    with torch.no_grad():
        logits = bent(shifts)
        if end is not None:
            logits[:, end] = torch.where(
                logits[:, end] > 0, logits[:, end] * by.end_factor, logits[:, end] / by.end_factor
            )
        mixed = by.fusion * logits.log_softmax(-1) + (1 - by.fusion) * plain.log_softmax(-1)
        return F.softmax(mixed, dim=-1)


def _length(gradient: Tensor) -> Tensor:
    """The length of each row's gradient, shaped to divide it."""
    return gradient.flatten(1).norm(dim=1)[:, None, None, None] + LEAST_NORM
