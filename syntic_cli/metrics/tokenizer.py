"""Captions to the tokens that the metrics count: Stanford's PTB tokenizer, less punctuation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module

from ..errors import SynticError
from .java import PATIENCE, Java, jar

# The tokenizer ends a line at any of these, though the captions' owners did not: a caption with one
# would shift all captions after it. The other controls are white space to it at best.
_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Halves of surrogate pairs, which JSON's \u escapes can leave alone, have no UTF-8.
_SURROGATES = re.compile("[\ud800-\udfff]")


def tokenize(captions: Sequence[str], patience: float = PATIENCE) -> list[str]:
    """Tokenize captions in one start of Java.

    Args:
        captions: any text; line breaks and control characters count as spaces.
        patience: seconds to wait for a line before the tokenizer is given up.

    Returns:
        For each caption its tokens in lower case, separated by spaces, without punctuation.

    Raises:
        SynticError: Java or the tokenizer failed, with the reason.

    Source:
        pycocoevalcap's PTBTokenizer (COCO caption evaluation, Chen et al. 2015).
    """
    if not captions:
        return []
    arguments = (
        *("-cp", str(jar("tokenizer", "stanford-corenlp-3.4.1.jar"))),
        *("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"),
    )
    with Java("the PTB tokenizer", arguments, patience) as java:
        java.send(map(one_line, captions), last=True)
        lines = java.receive(len(captions))
        if java.finish():
            raise SynticError("the PTB tokenizer gave more lines than captions; report this")
    dropped = frozenset(import_module("pycocoevalcap.tokenizer.ptbtokenizer").PUNCTUATIONS)
    return [
        " ".join(token for token in line.rstrip().split(" ") if token not in dropped)
        for line in lines
    ]


def one_line(text: str) -> str:
    """Make a text safe to send as a line: no line break of any kind, no control, valid UTF-8."""
    return _SURROGATES.sub("\ufffd", _BREAKS.sub(" ", text))
