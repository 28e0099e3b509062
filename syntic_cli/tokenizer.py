"""Captions to tokens and back: CLIP's byte-pair encoding, or one trained on the corpus."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from .errors import DamagedError, SynticError

END = "<|endoftext|>"
# What CLIP's own tokenizer cuts a text into before it merges (Radford et al. 2021).
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CLIP_MERGES = 49152 - 256 - 2
SMALLEST = 300
# Room for so many is taken at once.
LARGEST = 1_000_000
# How a token shows that a word begins with it, or, in CLIP's encoding, ends.
WORD_BEGINS, WORD_ENDS = "Ġ", "</w>"


def make_tokenizer(name: str, captions: Sequence[str]) -> Tokenizer:
    """The tokenizer that `--tokenizer` names.

    Args:
        name: `clip`, or `bpe:SIZE` for one of SIZE entries trained on the captions.
        captions: the corpus.

    Raises:
        SynticError: where the name is neither.
    """
    tokenizer = clip_tokenizer() if name == "clip" else _trained(name, captions)
    # A caption that says <|endoftext|> must not end there.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _trained(name: str, captions: Sequence[str]) -> Tokenizer:
    kind, _, size = name.partition(":")
    if kind != "bpe" or not size.isdecimal() or not SMALLEST <= int(size) <= LARGEST:
        raise SynticError(
            f"--tokenizer {name}: give clip, or bpe:SIZE with a size of at least {SMALLEST} and at "
            f"most {LARGEST:,}"
        )
    return train_tokenizer(captions, int(size))


def clip_tokenizer() -> Tokenizer:
    """CLIP's own byte-pair encoding (49,408 entries, lower case), from open_clip's vocabulary."""
    # Its path is asked for without importing open_clip, which would import torch.
    from importlib.util import find_spec

    package = find_spec("open_clip")
    if package is None or package.origin is None:
        raise SynticError("open_clip is not installed; run `pip install open_clip_torch`")
    path = Path(package.origin).with_name("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : CLIP_MERGES + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    letters = _clip_letters()
    entries = [*letters, *(letter + WORD_ENDS for letter in letters), *map("".join, merges)]
    entries += ["<|startoftext|>", END]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=WORD_ENDS, unk_token=END)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace(WORD_ENDS, " "), decoders.Strip(" ", 0, 1)]
    )
    tokenizer.add_special_tokens([END])
    return tokenizer


def _clip_letters() -> list[str]:
    """The 256 bytes as printable characters, in CLIP's order: printable Latin-1 bytes first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + index) for index in range(len(others)))]


def train_tokenizer(captions: Sequence[str], size: int) -> Tokenizer:
    """Train a byte-level byte-pair encoding on the captions; it keeps case and any script."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer


def to_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """The tokenizer as bytes (uint8) for an artifact."""
    return np.frombuffer(tokenizer.to_str().encode(), np.uint8)


def from_bytes(data: np.ndarray) -> Tokenizer:
    """The tokenizer that `to_bytes` stored.

    Raises:
        DamagedError: where it is none.
    """
    try:
        return Tokenizer.from_str(data.tobytes().decode())
    except Exception as error:  # tokenizers has no narrower one
        raise DamagedError(
            f"the tokenizer is damaged ({error}); train the captioner again"
        ) from error


def end_token(tokenizer: Tokenizer) -> int:
    """The token that ends a caption.

    Raises:
        SynticError: where the tokenizer, read from a captioner, is not one of ours.
    """
    token = tokenizer.token_to_id(END)
    if token is None:
        raise SynticError(f"the tokenizer has no {END}; train the captioner again")
    return token


def word_marks(tokenizer: Tokenizer) -> tuple[list[str], np.ndarray]:
    """What each of the V tokens reads, and which of them bear the mark of a word, (V,) bool.

    One token of every word does: its first, with the space before it, or in CLIP's encoding its
    last.
    """
    vocabulary = tokenizer.get_vocab()
    entries = sorted(vocabulary, key=vocabulary.__getitem__)
    marked = [entry.startswith(WORD_BEGINS) or entry.endswith(WORD_ENDS) for entry in entries]
    letters = decoders.ByteLevel()
    spellings = [letters.decode([entry.removesuffix(WORD_ENDS)]).strip() for entry in entries]
    return spellings, np.array(marked)


def encode_captions(
    tokenizer: Tokenizer, captions: Sequence[str], max_length: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Tokens of all captions, one after the other, and where each one begins.

    Args:
        tokenizer: from this module.
        captions: N texts.
        max_length: tokens kept of a caption.

    Returns:
        Tokens (int32) and offsets (N + 1, int64); and how many captions were cut.
    """
    cut = 0
    offsets = np.zeros(len(captions) + 1, dtype=np.int64)
    flat: list[np.ndarray] = []
    # In slices, so that a million encodings are never held at once.
    for first in range(0, len(captions), 8192):
        encoded = tokenizer.encode_batch_fast(
            list(captions[first : first + 8192]), add_special_tokens=False
        )
        rows = [encoding.ids[:max_length] for encoding in encoded]
        cut += sum(len(encoding.ids) > max_length for encoding in encoded)
        offsets[first + 1 : first + 1 + len(rows)] = [len(row) for row in rows]
        flat.append(np.fromiter((token for row in rows for token in row), np.int32))
    return np.concatenate(flat) if flat else np.empty(0, np.int32), np.cumsum(offsets), cut


def decode_captions(tokenizer: Tokenizer, tokens: np.ndarray) -> list[str]:
    """Captions of token rows, (N, L), each cut at its end token."""
    end = end_token(tokenizer)
    rows = []
    for row in tokens:
        ends = np.flatnonzero(row == end)
        rows.append(row[: ends[0]].tolist() if len(ends) else row.tolist())
    return [" ".join(text.split()) for text in tokenizer.decode_batch(rows)]
