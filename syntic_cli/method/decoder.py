"""Equations 5 and 6: attention over object names, and the caption decoder with its prefix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a decoder.

    vocabulary counts tokens, features is the dual encoder's d, max_length counts caption tokens;
    without objects the prefix is [p] alone (the paper's ablation).
    """

    vocabulary: int
    features: int
    width: int = 512
    layers: int = 4
    heads: int = 4
    max_length: int = 40
    dropout: float = 0.1
    objects: bool = True

    @property
    def prefix_length(self) -> int:
        return 2 if self.objects else 1


class KeyValueCache:
    """Keys and values of all positions decoded so far, for each layer.

    A row has B branches, the captions of its beam, and holds B positions a step behind its prefix.
    A mask tells every branch which positions are its own past: to go on from another's caption, it
    takes over that one's line of the mask, and no key moves.
    """

    def __init__(self, config: DecoderConfig, prefix: Tensor, branches: int, steps: int) -> None:
        rows, self._prefix, width = prefix.shape
        self._branches = branches
        positions = self._prefix + branches * steps
        shape = (2, rows, config.heads, positions, width // config.heads)
        self._held = [prefix.new_empty(shape) for _ in range(config.layers)]
        # What is added to the logits of attention, (N, 1, B, positions).
        self._mask = prefix.new_full((rows, 1, branches, positions), -torch.inf)
        self._mask[..., : self._prefix] = 0.0
        self.length = 0

    @property
    def depth(self) -> int:
        """Where the next token stands in its own caption, behind the prefix."""
        return self._prefix + (self.length - self._prefix) // self._branches

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add a layer's keys and values, (N, H, T, D), and return all of that layer's."""
        end = self.length + keys.shape[2]
        held_keys, held_values = self._held[layer]
        held_keys[:, :, self.length : end] = keys
        held_values[:, :, self.length : end] = values
        return held_keys[:, :, :end], held_values[:, :, :end]

    def mask(self) -> Tensor | None:
        """The mask of a step's tokens, (N, 1, B, T); None for the prefix and where B is 1."""
        if self.length < self._prefix or self._branches == 1:
            return None
        end = self.length + self._branches
        self._mask[..., self.length : end].diagonal(dim1=2, dim2=3).zero_()
        return self._mask[..., :end]

    def branch(self, parents: Tensor) -> None:
        """Let every branch go on from one of its row, by its number: (N, B)."""
        past = self._mask[..., : self.length]
        past.copy_(past.gather(2, parents[:, None, :, None].expand(-1, 1, -1, self.length)))

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in that order."""
        for layer, held in enumerate(self._held):
            kept = held[..., : self.length, :].index_select(1, rows)
            self._held[layer] = held[:, : len(rows)]
            self._held[layer][..., : self.length, :] = kept
        self._mask = self._mask[rows]


class SelfAttention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(
        self, x: Tensor, layer: int, cache: KeyValueCache | None, mask: Tensor | None
    ) -> Tensor:
        n, t, width = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (N, H, T, D)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        # Without a cache t is not asked for: a compiled step holds for captions of any length.
        causal = mask is None and (cache is None or t > 1)
        mixed = F.scaled_dot_product_attention(
            q, k, v, mask, dropout_p=self.dropout if self.training else 0.0, is_causal=causal
        )
        return self.out(mixed.transpose(1, 2).reshape(n, t, width))


class Block(nn.Module):
    """A pre-norm Transformer layer."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config)
        self.norm_mlp = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, 4 * config.width),
            nn.GELU(),
            nn.Linear(4 * config.width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, layer: int, cache: KeyValueCache | None, mask: Tensor | None
    ) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_attention(x), layer, cache, mask))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


class ObjectAttention(nn.Module):
    """a = MultiHeadAttention(query v, key T, value T)  (SynTIC, equation 5)."""

    def __init__(self, features: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(features, features)
        self.key = nn.Linear(features, features)
        self.value = nn.Linear(features, features)
        self.out = nn.Linear(features, features)
        # Stands for "no object was found".
        self.null = nn.Parameter(torch.randn(features) / features**0.5)

    def forward(self, image: Tensor, tags: Tensor, present: Tensor) -> Tensor:
        """Attend from an image's feature to the names of its objects.

        Args:
            image: v, (N, d).
            tags: T, text features of the detected names, (N, K, d) with K ≥ 1.
            present: which tags are there, (N, K) bool; a row may have none.

        Returns:
            a, (N, d).
        """
        empty = ~present.any(dim=1)
        first = torch.zeros_like(present)
        first[:, 0] = empty
        tags = torch.where(first[..., None], self.null.to(tags.dtype), tags)
        q = self._split(self.query(image[:, None]))
        k, v = self._split(self.key(tags)), self._split(self.value(tags))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=(present | first)[:, None, None])
        return self.out(mixed.transpose(1, 2).reshape(image.shape))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (N, H, K, D)


class Decoder(nn.Module):
    """A Transformer that writes a caption after the prefix [p; a]  (SynTIC, equation 6)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.objects = ObjectAttention(config.features) if config.objects else None
        self.prefix = nn.ModuleList(
            nn.Linear(config.features, config.width) for _ in range(config.prefix_length)
        )
        self.token = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Embedding(config.prefix_length + config.max_length, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self._initialise()

    def _initialise(self) -> None:
        for module in (self.token, self.position, *self.blocks.modules()):
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
        for name, parameter in self.named_parameters():
            # Keeps the variance of the residual stream level with depth (GPT-2).
            if name.endswith(("attention.out.weight", "mlp.2.weight")):
                nn.init.normal_(parameter, std=0.02 / (2 * self.config.layers) ** 0.5)
        for linear in self.prefix:
            # Unit-length features have entries of about 1/√d; this brings them to unit scale.
            nn.init.normal_(linear.weight, std=1.0)  # type: ignore[arg-type]

    def embed_prefix(
        self,
        projected: Tensor,
        image: Tensor | None = None,
        tags: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """The prefix [p; a], or [p] for a decoder without objects.

        Args:
            projected: p, (N, d).
            image: v, (N, d).
            tags: text features of the detected names, (N, K, d), K ≥ 1.
            present: which tags are there, (N, K) bool.

        Returns:
            (N, P, width).
        """
        parts = [self.prefix[0](projected)]
        if self.objects is not None:
            if image is None or tags is None or present is None:
                raise ValueError("this decoder attends to objects: image, tags and present needed")
            parts.append(self.prefix[1](self.objects(image, tags, present)))
        return torch.stack(parts, dim=1)

    def forward(self, prefix: Tensor, tokens: Tensor) -> Tensor:
        """Predict every token of a caption, and what comes after it.

        Args:
            prefix: (N, P, width).
            tokens: caption tokens, (N, L).

        Returns:
            Logits, (N, L + 1, vocabulary): entry t predicts token t from those before it.
        """
        return self.head(self.hidden(prefix, tokens))

    def hidden(self, prefix: Tensor, tokens: Tensor) -> Tensor:
        """Hidden states before the head, (N, L + 1, width), in the order of `forward`'s logits."""
        x = torch.cat([prefix, self.token(tokens)], dim=1)
        x = x + self.position.weight[: x.shape[1]]
        return self._run(x, None)[:, prefix.shape[1] - 1 :]

    def start(
        self, prefix: Tensor, *, steps: int, branches: int = 1
    ) -> tuple[Tensor, KeyValueCache]:
        """Logits of the first token, (N, vocabulary), and a cache for `steps` more, in branches."""
        cache = KeyValueCache(self.config, prefix, branches, steps)
        x = prefix + self.position.weight[: prefix.shape[1]]
        return self.head(self._run(x, cache)[:, -1]), cache

    def step(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Logits of the next token, (N, B, vocabulary), after one more token, (N, B), a branch."""
        x = self.token(tokens) + self.position.weight[cache.depth]
        return self.head(self._run(x, cache))

    def head(self, x: Tensor) -> Tensor:
        """Logits from hidden states, through the token embedding."""
        return F.linear(x, self.token.weight)

    def _run(self, x: Tensor, cache: KeyValueCache | None) -> Tensor:
        mask = cache.mask() if cache is not None else None
        x = self.dropout(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, cache, mask)
        if cache is not None:
            cache.length += x.shape[1]
        return self.norm(x)
