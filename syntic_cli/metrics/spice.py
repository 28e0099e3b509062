"""SPICE by its own jar, with the CoreNLP jars and the script engine that it needs."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import SynticError
from . import corenlp
from .java import Java, jar, own_jar
from .results import Array, Result, mean_of

_PACKAGES = ("lang", "math", "util", "util.concurrent", "net", "text")


def spice(files: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> list[Result]:
    """SPICE of each file of tokenized captions: the F-score of all tuples of their scene graphs.

    Raises:
        SynticError: its jars are not there, or the program failed, with the reason.

    Source:
        Anderson et al., "SPICE: semantic propositional image caption evaluation", ECCV 2016.
    """
    needed = corenlp.find()
    if needed is None:
        raise SynticError(
            "it needs Stanford CoreNLP 3.6.0 (GPL, some hundred MB): syntic evaluate --metrics"
            " SPICE --fetch-spice downloads that"
        )
    items = [
        {"image_id": index, "test": caption, "refs": list(texts)}
        for index, (caption, texts) in enumerate(
            pair for captions in files for pair in zip(captions, references, strict=True)
        )
    ]
    # Its serializer reads private fields of Java's classes, closed since JDK 16.
    opened = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in _PACKAGES]
    # Ours first: it answers for the JavaScript that Java has lacked since 15.
    classes = os.pathsep.join(map(str, (own_jar(), jar("spice", "spice-1.0.jar"), *needed)))
    program = ("-Xmx8G", "-cp", classes, "edu.anu.spice.SpiceScorer")
    with tempfile.TemporaryDirectory(prefix="syntic-spice-") as folder:
        given, found = Path(folder, "captions.json"), Path(folder, "scores.json")
        given.write_text(json.dumps(items), encoding="utf-8")
        arguments = (*opened, *program, str(given), "-out", str(found), "-silent")
        # It parses for minutes without a word: some seconds for each text, on the slowest machine.
        patience = 1800.0 + 5.0 * len(files) * sum(1 + len(texts) for texts in references)
        with Java("SPICE", arguments, patience) as java:
            java.send((), last=True)
            java.finish()
        scores = _read(found, len(items))
    return [mean_of(part) for part in scores.reshape(len(files), -1)]


def _read(path: Path, count: int) -> Array:
    scores = np.full(count, math.nan)
    try:
        for entry in json.loads(path.read_text(encoding="utf-8")):
            scores[int(entry["image_id"])] = float(entry["scores"]["All"]["f"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SynticError(f"SPICE wrote no scores that can be read ({error!r})") from error
    if np.isnan(scores).any():
        raise SynticError(f"SPICE scored only {count - int(np.isnan(scores).sum())} of {count}")
    return scores
