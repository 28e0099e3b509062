"""A causal language model that goes on from tokens, through transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import SynticError
from .identity import model_folder
from .loading import loading


@dataclass(frozen=True)
class CausalLanguage:
    """A frozen language model with its tokenizer; ends are tokens that end a sentence."""

    model: Any
    tokenizer: Any
    device: torch.device
    begin: int
    full_stop: int
    ends: frozenset[int]

    def __call__(self, tokens: Tensor, cache: Any) -> tuple[Tensor, Tensor, Any]:
        """See `method.magic.Language`."""
        output = self.model(
            input_ids=tokens, past_key_values=cache, use_cache=True, output_hidden_states=True
        )
        return output.logits[:, -1].float(), output.hidden_states[-1], output.past_key_values

    def prompt(self, text: str) -> Tensor:
        """The token that begins a text, and those of `text`, (T,)."""
        tokens = self.tokenizer(text, add_special_tokens=False).input_ids if text else []
        return torch.tensor([self.begin, *tokens], device=self.device)

    def read(self, tokens: Tensor) -> list[str]:
        """The texts of rows of tokens, (N, L), with white space collapsed."""
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]


def load_causal_language(
    name: str, revision: str | None, device: torch.device, dtype: torch.dtype
) -> CausalLanguage:
    """Load a causal language model: a hub id with its revision, or a folder.

    Raises:
        SynticError: where it cannot be loaded, or has no token that begins a text.
    """
    with loading("language model", name):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        source = model_folder(name) or name
        options = {"revision": revision} if revision else {}
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, **options
        )
    end = tokenizer.eos_token_id
    begin = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if begin is None:
        raise SynticError(f"language model {name}: has no token that begins a text; give another")
    stops = [ids[-1] for ids in tokenizer([".", " ."], add_special_tokens=False).input_ids]
    return CausalLanguage(
        model.to(device).eval().requires_grad_(False),
        tokenizer,
        device,
        begin,
        stops[0],
        frozenset([*stops, *([] if end is None else [end])]),
    )
