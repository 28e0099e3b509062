"""Writing captions with a decoder: greedy and beam search, batched, with a key-value cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoder import Decoder
from .repetition import Repetition


@torch.no_grad()
def greedy(
    decoder: Decoder,
    prefix: Tensor,
    *,
    end: int,
    max_length: int,
    repetition: Repetition | None = None,
) -> tuple[Tensor, Tensor]:
    """Take the most likely token each time.

    Args:
        decoder: in evaluation mode.
        prefix: (N, P, width).
        end: the token that ends a caption.
        max_length: the most tokens a caption has, the end token included.
        repetition: what a word costs that a caption has already, if anything.

    Returns:
        Tokens, (N, max_length), filled up with `end`; log-probabilities, (N,), in nats.
    """
    rows = torch.arange(len(prefix), device=prefix.device)
    sequences = torch.full((len(rows), max_length), end, device=prefix.device)
    totals = prefix.new_zeros(len(rows), dtype=torch.float32)
    logits, cache = decoder.start(prefix, steps=max_length)
    for position in range(max_length):
        best, tokens = _scores(logits, sequences[rows, :position], repetition).max(-1)
        sequences[rows, position] = tokens
        totals[rows] += best
        going = (tokens != end).nonzero().squeeze(1)
        if len(going) == 0 or position + 1 == max_length:
            break
        if len(going) < len(rows):
            rows, tokens = rows[going], tokens[going]
            cache.select(going)
        logits = decoder.step(tokens[:, None], cache)[:, 0]
    return sequences, totals - _paid(sequences, repetition)


@torch.no_grad()
def beam_search(
    decoder: Decoder,
    prefix: Tensor,
    *,
    end: int,
    beam: int,
    max_length: int,
    length_penalty: float = 1.0,
    repetition: Repetition | None = None,
) -> tuple[Tensor, Tensor]:
    """Keep the best partial captions of each row; finished ones compete with the others.

    Captions are ranked by score / length ** length_penalty, the score being the log-probability
    with what repetitions cost. A beam of 1 is greedy search.

    Args:
        decoder: in evaluation mode.
        prefix: (N, P, width).
        end: the token that ends a caption.
        beam: partial captions kept a row.
        max_length: the most tokens a caption has, the end token included.
        length_penalty: 0 ranks by log-probability alone, 1 by its mean a token.
        repetition: what a word costs that a caption has already, if anything.

    Returns:
        Tokens, (N, max_length), filled up with `end`; log-probabilities, (N,), in nats.
    """
    found = beam_candidates(
        decoder,
        prefix,
        end=end,
        beam=beam,
        max_length=max_length,
        length_penalty=length_penalty,
        repetition=repetition,
    )
    return found.take(found.ranks.argmax(dim=1))


@dataclass(frozen=True)
class Candidates:
    """The captions that a beam search ends with, B for each of N rows.

    tokens: (N, B, max_length), filled up with the end token. log_probabilities: (N, B), in nats.
    ranks: (N, B), what they are ranked by.
    """

    tokens: Tensor
    log_probabilities: Tensor
    ranks: Tensor

    def take(self, best: Tensor) -> tuple[Tensor, Tensor]:
        """The captions at `best`, (N,): tokens, (N, max_length), and log-probabilities, (N,)."""
        rows = torch.arange(len(best), device=best.device)
        return self.tokens[rows, best], self.log_probabilities[rows, best]


@torch.no_grad()
def beam_candidates(
    decoder: Decoder,
    prefix: Tensor,
    *,
    end: int,
    beam: int,
    max_length: int,
    length_penalty: float = 1.0,
    repetition: Repetition | None = None,
) -> Candidates:
    """What `beam_search` chooses from; the arguments are its own."""
    if beam == 1:
        tokens, totals = greedy(
            decoder, prefix, end=end, max_length=max_length, repetition=repetition
        )
        return Candidates(tokens[:, None], totals[:, None], totals[:, None])
    n = len(prefix)
    beam = min(beam, decoder.config.vocabulary)
    logits, cache = decoder.start(prefix, steps=max_length, branches=beam)
    scores, tokens = logits.float().log_softmax(-1).topk(beam)  # (N, B)
    sequences = torch.full((n, beam, max_length), end, device=prefix.device)
    sequences[:, :, 0] = tokens
    lengths = torch.ones_like(scores)
    found = Candidates(sequences.clone(), scores.clone(), scores.clone())
    rows = torch.arange(n, device=prefix.device)

    for position in range(1, max_length + 1):
        finished = sequences[:, :, position - 1] == end
        alive = (~finished.all(dim=1)).nonzero().squeeze(1)
        if position == max_length or len(alive) < len(rows):
            # Rows that go on are written again later.
            found.tokens[rows] = sequences
            found.log_probabilities[rows] = scores - _paid(sequences, repetition)
            found.ranks[rows] = scores / lengths**length_penalty
        if position == max_length or len(alive) == 0:
            break
        if len(alive) < len(rows):
            cache.select(alive)
            rows, finished = rows[alive], finished[alive]
            sequences, scores, lengths = sequences[alive], scores[alive], lengths[alive]

        logits = decoder.step(sequences[:, :, position - 1], cache)
        written = sequences[:, :, :position]
        next_scores, next_tokens = _scores(logits, written, repetition).topk(beam)  # (N, B, B)
        # A finished caption has one continuation: itself.
        next_scores[finished] = -torch.inf
        next_tokens[finished] = end
        next_scores[..., 0].masked_fill_(finished, 0.0)

        lengths = lengths + (~finished)
        grown = scores[..., None] + next_scores  # (N, B, B)
        ranked = (grown / lengths[..., None] ** length_penalty).flatten(1)
        best = ranked.topk(beam).indices
        parents = best // beam
        scores = grown.flatten(1).gather(1, best)
        lengths = lengths.gather(1, parents)
        sequences = sequences.gather(1, parents[..., None].expand(-1, -1, max_length))
        sequences[:, :, position] = next_tokens.flatten(1).gather(1, best)
        cache.branch(parents)
    return found


def token_log_probabilities(decoder: Decoder, prefix: Tensor, captions: Tensor, end: int) -> Tensor:
    """The log-probability of each token of given captions, its end included; 0 behind it.

    Args:
        decoder: in evaluation mode.
        prefix: (N, P, width).
        captions: (N, L), filled up with `end`.
        end: the token that ends a caption.

    Returns:
        (N, L), in nats.
    """
    ended = captions == end
    there = ended.cumsum(dim=1) - ended.long() == 0
    longest = int(there.sum(dim=1).max())
    hidden = decoder.hidden(prefix, captions[:, : longest - 1])[there[:, :longest]]
    own = -F.cross_entropy(decoder.head(hidden).float(), captions[there], reduction="none")
    return own.new_zeros(captions.shape).masked_scatter(there, own)


def _scores(logits: Tensor, written: Tensor, repetition: Repetition | None) -> Tensor:
    """What each next token adds to a caption's score, (..., V), by what is written, (..., T)."""
    scores = logits.float().log_softmax(-1)
    return scores if repetition is None else repetition.charge_(scores, written)


def _paid(captions: Tensor, repetition: Repetition | None) -> Tensor | float:
    """What repetitions have cost each caption, (...), in nats."""
    return 0.0 if repetition is None else repetition.paid(captions)
