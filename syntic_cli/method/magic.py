"""MAGIC: a language model's contrastive search, with the dual encoder's say in each token.

Su et al., "Language Models Can See: Plugging Visual Controls in Text Generation", 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Tokens, (N, T), behind a cache of those before (None: of nothing) → logits of the next token,
# (N, V), the last layer's hidden states, (N, T, w), and the cache with these tokens in it.
Language = Callable[[Tensor, Any], tuple[Tensor, Tensor, Any]]


def magic_scores(
    probabilities: Tensor,
    hidden: Tensor,
    context: Tensor,
    likeness: Tensor,
    *,
    alpha: float,
    beta: float,
) -> Tensor:
    """What each of k candidates for the next token is worth  (MAGIC, equations 4 and 5).

    (1 − α) · p(v | x) − α · max_j cos(h_v, h_j) + β · softmax_v(likeness)

    Args:
        probabilities: p, (k,).
        hidden: h_v, (k, w), of each candidate as the next token.
        context: h_j, (T, w), of the tokens so far.
        likeness: of the photo and the text that ends with each candidate, (k,): the dual encoder's
            cosine times its scale.
        alpha: weight of the degeneration penalty.
        beta: weight of the photo.

    Returns:
        (k,).
    """
    cosines = F.normalize(hidden, dim=-1) @ F.normalize(context, dim=-1).T
    penalty = cosines.amax(dim=1)
    return (1 - alpha) * probabilities - alpha * penalty + beta * likeness.softmax(dim=0)


@torch.no_grad()
def magic_search(
    language: Language,
    prompt: Tensor,
    likeness: Callable[[Tensor], Tensor],
    *,
    ends: Collection[int],
    max_length: int,
    candidates: int = 45,
    alpha: float = 0.1,
    beta: float = 2.0,
) -> tuple[Tensor, float]:
    """Write a caption of one photo.

    Args:
        language: the language model.
        prompt: tokens to go on from, (T,) with T ≥ 1.
        likeness: of the photo and each of some texts, given as tokens without the prompt, (k, L),
            see `magic_scores`.
        ends: tokens that end a caption.
        max_length: most tokens of the caption.
        candidates: k, the likeliest tokens that are looked at; this and the weights as published.
        alpha, beta: see `magic_scores`.

    Returns:
        The caption's tokens, (L,), with the one that ended it; its log-probability by the language
        model alone, in nats.
    """
    logits, hidden, cache = language(prompt[None], None)
    context, written, total = hidden[0], prompt[:0], 0.0
    for _ in range(max_length):
        count = min(candidates, logits.shape[-1])
        probabilities, tokens = logits[0].float().softmax(dim=-1).topk(count)
        cache.batch_repeat_interleave(count)
        logits, hidden, cache = language(tokens[:, None], cache)
        texts = torch.cat([written.expand(count, -1), tokens[:, None]], dim=1)
        scores = magic_scores(
            probabilities, hidden[:, -1], context, likeness(texts), alpha=alpha, beta=beta
        )
        best = int(scores.argmax())
        written, total = texts[best], total + float(probabilities[best].log())
        if int(tokens[best]) in ends:
            break
        cache.batch_select_indices(torch.tensor([best], device=tokens.device))
        logits, context = logits[best : best + 1], torch.cat([context, hidden[best]])
    return written, total
