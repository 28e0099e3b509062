"""SPICE by its own jar, where someone has put the CoreNLP jars that it needs beside it."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import SynticError
from .java import Java, jar
from .ngrams import Result

_NEEDS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_PACKAGES = ("lang", "math", "util", "util.concurrent", "net", "text")


def missing() -> str | None:
    """Say in a line what SPICE lacks, or None where it lacks nothing."""
    folder = jar("spice", "spice-1.0.jar").parent / "lib"
    absent = [name for name in _NEEDS if not (folder / name).is_file()]
    if not absent:
        return None
    return f"SPICE left out: {' and '.join(absent)} (Stanford CoreNLP 3.6.0) not in {folder}"


def spice(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Result:
    """SPICE of tokenized captions: the F-score of all tuples of their scene graphs.

    Raises:
        SynticError: the program failed, with the reason.

    Source:
        Anderson et al., "SPICE: semantic propositional image caption evaluation", ECCV 2016.
    """
    items = [
        {"image_id": index, "test": caption, "refs": list(texts)}
        for index, (caption, texts) in enumerate(zip(captions, references, strict=True))
    ]
    # Its serializer reads private fields of Java's classes, closed since JDK 16.
    opened = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in _PACKAGES]
    with tempfile.TemporaryDirectory(prefix="syntic-spice-") as folder:
        given, found = Path(folder, "captions.json"), Path(folder, "scores.json")
        given.write_text(json.dumps(items), encoding="utf-8")
        program = ("-Xmx8G", "-jar", str(jar("spice", "spice-1.0.jar")))
        arguments = (*opened, *program, str(given), "-out", str(found), "-silent")
        # It parses for minutes without a word: some seconds for each text, on the slowest machine.
        patience = 1800.0 + 5.0 * sum(1 + len(texts) for texts in references)
        with Java("SPICE", arguments, patience) as java:
            java.send((), last=True)
            java.finish()
        return _read(found, len(items))


def _read(path: Path, count: int) -> Result:
    scores = np.full(count, math.nan)
    try:
        for entry in json.loads(path.read_text(encoding="utf-8")):
            scores[int(entry["image_id"])] = float(entry["scores"]["All"]["f"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SynticError(f"SPICE wrote no scores that can be read ({error!r})") from error
    if np.isnan(scores).any():
        raise SynticError(f"SPICE scored only {count - int(np.isnan(scores).sum())} of {count}")
    return Result(float(scores.mean()), scores)
