"""Which caption a photo gets: the decoder writes some, and one of them is chosen (equation 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .settings import CaptionSettings
from .tokenizer import decode_captions, end_token

if TYPE_CHECKING:
    from torch import Tensor

    from .method.consensus import Consensus
    from .method.decoder import Decoder
    from .method.repetition import Repetition
    from .models.clip import Clip

# What a calibration goes by, of a caption: its log-probability a token, that of its first tokens,
# among which the main noun often is, the cosine of its text feature to the photo's, and, where a
# consensus is asked for, its agreement with the nearest texts.
SIGNALS = ("log_probability", "beginning", "cosine", "agreement")
BEGINNING = 4
# So many of the nearest texts have their features read out by the decoder, as captions to choose
# from beside the beam's; fewer by one that sees tags of the photo, too, and reads them each time.
READ_OUT, READ_EACH_TIME = 32, 8
# So many of the best captions may end earlier, where this share of all ends in the same token.
SHORTENED, ALIKE = 4, 0.9
# What is kept of them in a captioner was written at this weight of `repetition`.
KEPT_AT = 1.0

# From C features p for each of N photos, (N, C, d), to their prefixes [p; a], (N · C, P, width).
Embed = Callable[["Tensor"], "Tensor"]


@dataclass(frozen=True)
class Texts:
    """The support set as a consensus is sought in it: features, (S, d), n-grams, and τ of the
    weights of the nearest texts.

    read_out: what the decoder makes of each text's feature, (S, L) tokens, where that is known
    beforehand; it can be for a decoder that sees nothing of the photo beside it.
    """

    support: Tensor
    consensus: Consensus
    temperature: float
    read_out: Tensor | None = None


@dataclass(frozen=True)
class Written:
    """Captions with their log-probabilities in nats, and the signals of each, (N, S), where they
    are asked for."""

    captions: list[str]
    log_probabilities: list[float]
    signals: np.ndarray | None


class Wording:
    """The decoder, and how one of its captions is chosen."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Any,
        clip: Clip,
        settings: CaptionSettings,
        *,
        repetition: Repetition | None,
        texts: Texts | None,
    ) -> None:
        self._decoder, self._tokenizer, self._clip = decoder, tokenizer, clip
        self._settings, self._repetition, self._texts = settings, repetition, texts
        self._end = end_token(tokenizer)
        self._most = min(settings.max_length, decoder.config.max_length)
        # What the decoder has made of texts, (S, L) tokens; -1 of those it has not read yet.
        self._known: Tensor | None = None

    @property
    def signals(self) -> tuple[str, ...]:
        """Which of `SIGNALS` there are."""
        return SIGNALS if self._texts is not None else SIGNALS[:-1]

    def write(
        self, projected: Tensor, embed: Embed, images: Tensor, *, with_signals: bool
    ) -> Written:
        """The best caption of each photo.

        Of the beam's captions it is the likeliest; with `rerank` the cosine of a caption's text
        feature to the photo's has a say; with `consensus` its agreement with the nearest texts
        takes the place of its likelihood.

        Args:
            projected: p, (N, d).
            embed: makes prefixes of it.
            images: v, (N, d).
            with_signals: whether to give what a calibration goes by.
        """
        import torch

        from .method.search import beam_candidates, token_log_probabilities

        prefix = embed(projected[:, None])
        found = beam_candidates(
            self._decoder,
            prefix,
            end=self._end,
            beam=self._settings.beam,
            max_length=self._most,
            length_penalty=self._settings.length_penalty,
            repetition=self._repetition,
        )
        tokens, ranks, agreement = found.tokens, found.ranks, None
        if self._texts is not None:
            tokens, agreement, ranks = self._agreeing(self._texts, found.tokens, embed, images)
        cosines = None
        if self._settings.rerank and tokens.shape[1] > 1:
            texts = decode_captions(self._tokenizer, tokens.flatten(0, 1).cpu().numpy())
            cosines = self._cosines(texts, images)
            ranks = ranks + self._settings.rerank * cosines
        best = ranks.argmax(dim=1, keepdim=True)
        chosen = tokens.take_along_dim(best[..., None], dim=1).squeeze(1)
        captions = decode_captions(self._tokenizer, chosen.cpu().numpy())
        with torch.no_grad():
            likely = token_log_probabilities(self._decoder, prefix, chosen, self._end)
        totals = likely.sum(dim=1)
        if not with_signals:
            return Written(captions, totals.tolist(), None)
        if cosines is None:
            own = self._cosines(captions, images)
        else:
            own = cosines.take_along_dim(best, dim=1)
        # The token that ends a caption counts as one of its own; one that is cut has none.
        lengths = ((chosen != self._end).sum(dim=1) + 1).clamp(max=chosen.shape[1])
        signals = [totals / lengths, likely[:, :BEGINNING].sum(dim=1), own.squeeze(1)]
        if agreement is not None:
            signals.append(agreement.take_along_dim(best, dim=1).squeeze(1))
        return Written(captions, totals.tolist(), torch.stack(signals, dim=1).cpu().numpy())

    def _agreeing(
        self, texts: Texts, written: Tensor, embed: Embed, images: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Captions, (N, B, L), and those read out or shortened, in one tensor; the agreement of
        each, and what it ranks by."""
        import torch

        from .method.neighbours import k_nearest

        settings, consensus = self._settings, texts.consensus
        cosines, near = k_nearest(images, texts.support, settings.consensus)
        # A feature that is not finite has no neighbours (-1); its caption is refused later.
        near = near.long().clamp(min=0)
        count = READ_EACH_TIME if self._decoder.config.objects else READ_OUT
        read = self._read_out(texts, near[:, :count], embed)
        captions = torch.cat([written, read], dim=1)
        sayings = consensus.ask(near, (cosines / texts.temperature).softmax(dim=1))
        agreement, evidence = consensus.judge(captions, self._end, sayings)
        ranks = agreement + settings.evidence * evidence
        if settings.shorten is None:
            return captions, agreement, ranks
        best = ranks.topk(min(SHORTENED, ranks.shape[1]), dim=1).indices
        closing = self._closing(captions)
        chosen = captions.take_along_dim(best[..., None], dim=1)
        shorter = consensus.shorten(chosen, self._end, closing)
        if not shorter.shape[1]:
            return captions, agreement, ranks
        also, evidence = consensus.judge(shorter, self._end, sayings)
        worth = also + settings.evidence * evidence - settings.shorten
        worth = worth.masked_fill(shorter[..., 0] == self._end, -torch.inf)
        return (
            torch.cat([captions, shorter], dim=1),
            torch.cat([agreement, also], dim=1),
            torch.cat([ranks, worth], dim=1),
        )

    def _closing(self, captions: Tensor) -> Tensor:
        """The token in which captions, (N, B, L), end, (N,); -1 where they end differently."""
        from .method.consensus import last_tokens

        last = last_tokens(captions, self._end)[1].squeeze(2)
        usual = last.mode(dim=1, keepdim=True).values
        alike = (last == usual).float().mean(dim=1) >= ALIKE
        return usual.squeeze(1).where(alike, -1)

    def _read_out(self, texts: Texts, rows: Tensor, embed: Embed) -> Tensor:
        """What the decoder makes of the features of texts, (N, C), as tokens, (N, C, L)."""
        import torch
        import torch.nn.functional as F

        if texts.read_out is not None:
            read = texts.read_out[rows, : self._most].long()
            return F.pad(read, (0, self._most - read.shape[2]), value=self._end)
        if self._decoder.config.objects:
            return self._greedy(embed(texts.support[rows])).view(*rows.shape, -1)
        # A decoder that sees nothing of the photo beside it makes the same of a text each time.
        if self._known is None:
            shape = (len(texts.support), self._most)
            self._known = torch.full(shape, -1, dtype=torch.int32, device=rows.device)
        new = rows[self._known[rows, 0] < 0].unique()
        if len(new):
            read = self._greedy(self._decoder.embed_prefix(texts.support[new]))
            self._known[new] = read.int()
        return self._known[rows].long()

    def _greedy(self, prefix: Tensor) -> Tensor:
        from .method.search import greedy

        tokens, _ = greedy(
            self._decoder,
            prefix,
            end=self._end,
            max_length=self._most,
            repetition=self._repetition,
        )
        return tokens

    def _cosines(self, texts: Sequence[str], images: Tensor) -> Tensor:
        """The cosine of each text to its photo's feature, (N, T), T texts a photo."""
        features = self._clip.encode_texts(texts).to(images.device)
        return (features.view(len(images), -1, images.shape[1]) * images[:, None]).sum(dim=-1)
