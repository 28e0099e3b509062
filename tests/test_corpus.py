"""Corpus files as the standard library's own writers make them, and bad ones by the table."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from syntic_cli.corpus import read_corpus
from syntic_cli.errors import SynticError
from syntic_cli.texts.characters import mostly_not_latin

TEXTS = [
    "a dog runs on grass",
    'she said "hello", then left',
    "una niña 👩‍👩‍👧 salta",
    "כלב רץ על הדשא",
    "🐕🌿🎾",
]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(path: Path, rows: list[list[str]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def karpathy() -> dict[str, object]:
    def image(split: str, *texts: str) -> dict[str, object]:
        sentences = [{"tokens": t.split(), "raw": t, "imgid": 0, "sentid": 1} for t in texts]
        return {"filename": "x.jpg", "split": split, "sentids": [1], "sentences": sentences}

    return {
        "dataset": "coco",
        "images": [image("train", "a", "b"), image("restval", "c"), image("test", "d\n", "e")],
    }


def coco(texts: list[str]) -> dict[str, object]:
    return {
        "info": {},
        "images": [{"id": 7, "file_name": "7.jpg"}],
        "annotations": [{"image_id": 7, "id": i, "caption": t} for i, t in enumerate(texts)],
    }


def every_format(folder: Path) -> list[Path]:
    lines = "".join(f"{text}\n" for text in TEXTS)
    rows = [["image", "caption"], *(["7.jpg", text] for text in TEXTS)]
    objects = "".join(json.dumps({"id": 1, "caption": text}) + "\n" for text in TEXTS)
    images = [{"split": "train", "sentences": [{"raw": text}]} for text in TEXTS]
    packed = folder / "packed.txt.gz"
    packed.write_bytes(gzip.compress(lines.encode()))
    return [
        written(folder / "lines.txt", lines),
        written(folder / "dos.TXT", lines.replace("\n", "\r\n")),
        written(folder / "mac.txt", lines.replace("\n", "\r")),
        written(folder / "mark.txt", "\ufeff" + lines),
        written(folder / "nosuffix", lines),
        packed,
        written(folder / "objects.jsonl", objects),
        written(folder / "strings.jsonl", "".join(json.dumps(text) + "\n" for text in TEXTS)),
        written(folder / "objects", " " + objects.replace('"caption"', '"text"')),
        written(folder / "lines.json", objects),
        written(folder / "coco.json", json.dumps(coco(TEXTS))),
        written(folder / "results.json", json.dumps([{"caption": text} for text in TEXTS])),
        written(folder / "karpathy.json", json.dumps({"images": images}, indent=1)),
        table(folder / "table.csv", rows),
        table(folder / "table.tsv", rows, "\t"),
        written(folder / "mark.csv", b"\xef\xbb\xbf" + table(folder / "t.csv", rows).read_bytes()),
    ]


def test_every_format_gives_the_same_captions_and_digest(tmp_path: Path) -> None:
    expected = hashlib.sha256("".join(f"{text}\n" for text in TEXTS).encode()).hexdigest()
    for path in every_format(tmp_path):
        corpus = read_corpus(path)
        assert corpus.captions == TEXTS, path.name
        assert (corpus.digest, corpus.source) == (expected, str(path))
        assert (corpus.dropped_empty, corpus.dropped_long, corpus.not_sampled) == (0, 0, 0)


# name, content, the captions that are read
AS_THEY_COME: list[tuple[str, str, list[str]]] = [
    # What is no plain text though it is named so.
    ("captions.txt", "image,caption\na.jpg,A dog , sits .\nb.jpg,two\n", ["A dog , sits .", "two"]),
    ("quoted.txt", 'Image,Caption\na.jpg,"A ""dog"", red"\na.jpg,"Rex" sits\n',
     ['A "dog", red', '"Rex" sits']),
    ("results.txt", "image_name| comment_number| comment\na.jpg| 0| A dog | sits\n",
     ["A dog | sits"]),
    ("flickr.token", "a.jpg#0\tA dog .\na.jpg#1\tA cat .\n", ["A dog .", "A cat ."]),
    ("Flickr8k.token.txt", "a.jpg.1#0\tA dog .\n\na.jpg.1#1\tA cat .\n", ["A dog .", "A cat ."]),
    ("pairs.txt", "a b.jpg\tA dog\nc.PNG\tA cat\n", ["A dog", "A cat"]),
    ("commas.txt", 'a.jpg,"A dog, running"\nb.jpg,A cat, too\n', ["A dog, running", "A cat, too"]),
    ("blanks.txt", "a.jpg#0 A dog\nb.jpg#1 A cat\n", ["A dog", "A cat"]),
    ("excel.txt", "sep=;\nid;caption\n1;A dog\n", ["A dog"]),
    ("objects.txt", '{"caption": "A dog"}\n{"caption": "A cat"}\n', ["A dog", "A cat"]),
    ("list.txt", '[\n {"caption": "A dog"}\n]', ["A dog"]),
    ("strings.txt", '["A dog",\n "A cat"]', ["A dog", "A cat"]),
]  # fmt: skip
PLAIN_AFTER_ALL = [
    "dog.jpg is a file of mine\n",
    "image, caption and title\nof a book\n",
    "[a dog] barks\n{and} a cat\n",
    "sepia=tones\n",
    "a.jpg shows a dog\na cat\n",
    "a dog #1\ta cat\nno number\tthere\n",
]


@pytest.mark.parametrize(("name", "content", "expected"), AS_THEY_COME, ids=lambda v: str(v)[:20])
def test_what_is_no_plain_text_is_read_as_what_it_is_and_said(
    tmp_path: Path, name: str, content: str, expected: list[str]
) -> None:
    for path in (
        written(tmp_path / name, content),
        written(tmp_path / f"{name}.gz", gzip.compress(content.encode())),
    ):
        corpus = read_corpus(path)
        assert corpus.captions == expected
        [note] = corpus.notes
        assert note.startswith(f"{path}: read as ")


@pytest.mark.parametrize("content", PLAIN_AFTER_ALL)
def test_what_only_looks_like_another_format_is_plain_text(tmp_path: Path, content: str) -> None:
    corpus = read_corpus(written(tmp_path / "c.txt", content))
    assert corpus.captions == [" ".join(line.split()) for line in content.splitlines()]
    assert corpus.notes == []


def test_a_table_without_a_header_is_doubted(tmp_path: Path) -> None:
    path = written(tmp_path / "c.txt", "".join(f"{i}\ta dog\n" for i in range(3)))
    corpus = read_corpus(path)
    assert corpus.captions == ["0 a dog", "1 a dog", "2 a dog"]
    assert "every line holds a tab" in corpus.notes[0]


TABLES = [
    ("semicolons.csv", 'Image;CAPTION\na.jpg;"A dog; a ""cat"""\n', ['A dog; a "cat"']),
    ("decimal.csv", "score;caption\n0,5;A dog, a cat\n", ["A dog, a cat"]),
    ("excel.csv", '\ufeffsep=;\r\nimage;caption\r\n1;"A dog"\r\n', ["A dog"]),
    ("excel2.csv", 'sep=,\nid,Text\n1,"A dog, a cat"\n', ["A dog, a cat"]),
    ("excel3.csv", '"sep=|"\nid|Sentence\n1|A dog\n', ["A dog"]),
    ("tabs.csv", "image\tcaption\n1\tA dog, a cat\n", ["A dog, a cat"]),
    ("commas.tsv", 'image,caption\n1,"A dog, a cat"\n', ["A dog, a cat"]),
    ("one.csv", "caption\nA dog; a cat\n", ["A dog; a cat"]),
    ("nothing.csv", "image,caption\na.jpg,A dog\n,\n\n", ["A dog"]),
    ("first.csv", "Text,Caption\nA cat,A dog\n", ["A dog"]),
    # A quote that begins a text of a TSV is one, unless the table is quoted.
    ("speech.tsv", 'id\ttext\n1\t"Sit" he said\n2\tA dog\n', ['"Sit" he said', "A dog"]),
    ("open.tsv", 'id\ttext\n1\t"Sit he said\n2\tA "dog"\n', ['"Sit he said', 'A "dog"']),
    ("closed.tsv", 'id\ttext\n1\t"Sit he\n2\tsaid"\n', ['"Sit he', 'said"']),
    ("inch.tsv", 'text\tid\n5" nails\t1\n"6" nails\t2\n', ['5" nails', '"6" nails']),
    ("last.tsv", 'id\ttext\n1\t"Sit he said', ['"Sit he said']),
    ("quoted.tsv", 'id\ttext\n1\t"A ""dog""\tsits"\n', ['A "dog" sits']),
    ("lines.tsv", 'id\ttext\n1\t"A dog\n\nsits"\n2\tA cat\n', ["A dog sits", "A cat"]),
    ("alone.tsv", 'text\n"A dog\nsits"\nA cat\n', ["A dog sits", "A cat"]),
]


@pytest.mark.parametrize(("name", "content", "expected"), TABLES, ids=lambda v: str(v)[:20])
def test_tables_as_they_come(tmp_path: Path, name: str, content: str, expected: list[str]) -> None:
    corpus = read_corpus(written(tmp_path / name, content))
    assert corpus.captions == expected
    assert corpus.notes == []


JSONS = [
    ("pretty.jsonl", json.dumps([{"caption": "A dog"}, {"caption": "A cat"}], indent=2)),
    ("line.jsonl", json.dumps([{"caption": "A dog"}, {"caption": "A cat"}])),
    ("one-by-one.jsonl", '{\n "caption": "A dog"\n}\n{\n "caption": "A cat"\n}\n'),
    ("coco.jsonl", json.dumps(coco(["A dog", "A cat"]), indent=1)),
    ("nan.jsonl", '{"caption": NaN}\n{"caption": "A dog"}\nnull\n{"caption": "A cat"}\n'),
    ("nan.json", '["A dog", NaN, {"caption": null}, "A cat"]'),
    ("case.jsonl", '{"Caption": "A dog", "text": "x"}\n{"CAPTION": "A cat"}\n'),
    ("lines.ndjson", '\ufeff\n"A dog"\r\n"A cat"'),
    ("karpathy.json", json.dumps({"images": [{"sentences": ["A dog", {"raw": "A cat"}]}]})),
]


@pytest.mark.parametrize(("name", "content"), JSONS, ids=lambda v: str(v)[:20])
def test_json_as_it_comes(tmp_path: Path, name: str, content: str) -> None:
    assert read_corpus(written(tmp_path / name, content)).captions == ["A dog", "A cat"]


def test_a_text_field_in_any_case(tmp_path: Path) -> None:
    for path in (
        table(tmp_path / "c.csv", [["ALT", "caption"], ["a", "c"]]),
        written(tmp_path / "c.json", '[{"Alt": "a", "caption": "c"}]'),
    ):
        assert read_corpus(path, text_field="alt").captions == ["a"]
        assert read_corpus(path, text_field="aLT").captions == ["a"]


def test_fields_longer_than_csv_allows_and_the_limit_of_others_stays(tmp_path: Path) -> None:
    long = "dog " * 40_000 + "end"
    limit = csv.field_size_limit()
    for name, delimiter in (("c.csv", ","), ("c.tsv", "\t")):
        path = table(
            tmp_path / name, [["id", "caption"], ["1", long], ["2", f'"{long}"']], delimiter
        )
        assert read_corpus(path).captions == [long, f'"{long}"']
    assert csv.field_size_limit() == limit


def test_texts_in_which_nothing_can_be_seen_are_empty(tmp_path: Path) -> None:
    unseen = ["\u200b", "\u200d\u2060", "\ufeff", "\u00ad", "\u2800", "\u3164", "\ufe0f", "\u180e"]
    seen = ["\u200bdog\u200b", "👩\u200d👧", "\u0301", "☺\ufe0f", "…"]
    corpus = read_corpus(written(tmp_path / "c.txt", "\n".join([*unseen, *seen])))
    assert corpus.captions == seen
    assert corpus.dropped_empty == len(unseen)


def test_marks_at_the_head_of_texts_are_left_out(tmp_path: Path) -> None:
    twice = written(tmp_path / "c.txt", b"\xef\xbb\xbfa dog\n\xef\xbb\xbfa cat\n")
    wide = written(tmp_path / "w.txt", "\ufeffa dog\na cat\n".encode("utf-16-le"))
    assert read_corpus(twice).captions == ["a dog", "a cat"]
    assert read_corpus(wide, encoding="utf-16-le").captions == ["a dog", "a cat"]


def test_gzip_by_content_and_one_that_packs_well(tmp_path: Path) -> None:
    packed = gzip.compress(b"a dog\n" * 100_000)
    assert len(read_corpus(written(tmp_path / "c.txt", packed)).captions) == 100_000
    # 10 MB of 20 kB: packed too well for texts, but not enough to fill a memory.
    bigger = written(tmp_path / "b.txt.gz", gzip.compress(f"{'dog ' * 250}\n".encode() * 10_000))
    assert bigger.stat().st_size * 200 < 10_000_000
    assert len(read_corpus(bigger).captions) == 10_000


def test_a_bomb_takes_little_memory(tmp_path: Path) -> None:
    path = written(tmp_path / "bomb.txt.gz", BOMB * 20)  # 800 MB
    tracemalloc.start()
    try:
        with pytest.raises(SynticError, match="unpacks to more than"):
            read_corpus(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100e6


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a dog", "ein Hund läuft", "pies biegnie", "con chó chạy"], False),
        (["собака бежит", "犬が走る", "كلب في الثلج"], True),
        (["собака", "a dog", "a cat"], False),
        (["собака Rex", "кошка", "a cat"], True),
        (["🐕🌲", "12:30", "—"], False),
        (["🐕", "कुत्ता"], True),
        ([], False),
        ([*["a dog"] * 9_000, *["собака"] * 10_000], True),
    ],
)
def test_mostly_not_latin(texts: list[str], expected: bool) -> None:
    assert mostly_not_latin(texts) is expected


def test_the_summary_counts_as_people_do(tmp_path: Path) -> None:
    path = written(tmp_path / "c.txt", "a dog\n")
    assert read_corpus(path).summary() == f"{path}: 1 text"
    assert read_corpus(written(path, "a dog\n\na cat\n")).summary() == (
        f"{path}: 2 texts (left out: 1 empty)"
    )


def test_white_space_collapses_and_only_line_breaks_end_a_line(tmp_path: Path) -> None:
    text = " a\t dog\x0bon\x0cgrass \u2028by\x85the\u2029sea\x1c.\n\n \t\u3000\r\r\nlast\xa0one"
    corpus = read_corpus(written(tmp_path / "c.txt", text))
    assert corpus.captions == ["a dog on grass by the sea .", "last one"]
    assert corpus.dropped_empty == 3


def test_nul_and_control_characters_become_spaces(tmp_path: Path) -> None:
    words = "a long enough caption around them"
    corpus = read_corpus(written(tmp_path / "c.txt", f"a\0dog\x07 runs\x9f\n\0\n{words}\n"))
    assert corpus.captions == ["a dog runs", words]
    assert corpus.dropped_empty == 1
    rows = written(tmp_path / "c.csv", "caption\na\0cat of sufficient length\n")
    assert read_corpus(rows).captions == ["a cat of sufficient length"]


def test_half_a_surrogate_pair_cannot_reach_an_artifact(tmp_path: Path) -> None:
    path = written(tmp_path / "c.jsonl", '{"caption": "a \\ud83d dog \\ud83d\\udc15"}\n')
    assert read_corpus(path).captions == ["a dog 🐕"]


def test_a_text_of_5000_words_is_kept_whole(tmp_path: Path) -> None:
    long = " ".join(f"word{i}" for i in range(5000))
    assert read_corpus(written(tmp_path / "c.txt", f"{long}\n")).captions == [long]
    assert read_corpus(table(tmp_path / "c.csv", [["text"], [long]])).captions == [long]


def test_a_table_may_hold_line_breaks_quotes_and_blank_rows(tmp_path: Path) -> None:
    path = written(
        tmp_path / "c.csv", 'id, sentence \r\n1,"two\r\nlines, ""quoted"""\r\n\r\n2,\r\n'
    )
    corpus = read_corpus(path)
    assert corpus.captions == ['two lines, "quoted"']
    assert corpus.dropped_empty == 2


def test_text_field_names_the_field_and_caption_comes_first(tmp_path: Path) -> None:
    record = {"text": "t", "caption": "c", "alt": "a"}
    lines = written(tmp_path / "c.jsonl", json.dumps(record) + "\n")
    rows = table(tmp_path / "c.csv", [list(record), list(record.values())])
    items = written(tmp_path / "c.json", json.dumps([record]))
    for path in (lines, rows, items):
        assert read_corpus(path).captions == ["c"]
        assert read_corpus(path, text_field="alt").captions == ["a"]


def test_null_and_blank_records_count_as_empty(tmp_path: Path) -> None:
    path = written(tmp_path / "c.jsonl", '{"caption": null}\n\n{"caption": " "}\n"kept"\nnull\n')
    corpus = read_corpus(path)
    assert (corpus.captions, corpus.dropped_empty) == (["kept"], 4)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (None, ["a", "b", "c", "d", "e"]),
        ("train", ["a", "b"]),
        ("test", ["d", "e"]),
        ("train,restval", ["a", "b", "c"]),
    ],
)
def test_split(tmp_path: Path, split: str | None, expected: list[str]) -> None:
    document = karpathy()
    flat = [
        {"split": image["split"], "caption": sentence["raw"].strip()}
        for image in document["images"]  # type: ignore[attr-defined]
        for sentence in image["sentences"]
    ]
    paths = [
        written(tmp_path / "k.json", json.dumps(document)),
        written(tmp_path / "c.jsonl", "".join(json.dumps(record) + "\n" for record in flat)),
        table(tmp_path / "c.csv", [["split", "caption"], *(list(r.values()) for r in flat)]),
    ]
    for path in paths:
        assert read_corpus(path, split=split).captions == expected, path.name


def test_max_words_drops_and_counts_the_longer_texts(tmp_path: Path) -> None:
    path = written(tmp_path / "c.txt", "one two\none  two   three \none two three four\n\n")
    corpus = read_corpus(path, max_words=3)
    assert corpus.captions == ["one two", "one two three"]
    assert (corpus.dropped_long, corpus.dropped_empty) == (1, 1)


def test_sample_is_seeded_ordered_and_nested(tmp_path: Path) -> None:
    path = written(tmp_path / "c.txt", "".join(f"text {i:03}\n" for i in range(205)))
    whole = read_corpus(path)
    some = read_corpus(path, sample=0.1, seed=3)
    assert len(some.captions) == round(0.1 * 205)
    assert some.not_sampled == 205 - len(some.captions)
    assert some.captions == sorted(some.captions) != whole.captions[: len(some.captions)]
    assert some == read_corpus(path, sample=0.1, seed=3)
    assert some.captions != read_corpus(path, sample=0.1, seed=4).captions
    assert set(some.captions) < set(read_corpus(path, sample=0.5, seed=3).captions)
    assert some.digest != whole.digest
    assert read_corpus(path, sample=1.0) == whole


def test_sample_draws_each_text_about_as_often(tmp_path: Path) -> None:
    path = written(tmp_path / "c.txt", "".join(f"{i}\n" for i in range(20)))
    drawn = [
        text for seed in range(400) for text in read_corpus(path, sample=0.25, seed=seed).captions
    ]
    counts = [drawn.count(str(i)) for i in range(20)]
    # 100 expected, standard deviation sqrt(400 * 0.25 * 0.75) = 8.7
    assert sum(counts) == 400 * 5
    assert max(abs(count - 100) for count in counts) < 5 * 8.7


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a dog\n\na cat\n", ["a dog", "a cat"]),
        ('\n {"caption": "a dog"}\n{"text": "a cat"}\n', ["a dog", "a cat"]),
        ('{"caption": "a dog"}', ["a dog"]),
        (json.dumps(coco(["a dog"]), indent=2), ["a dog"]),
    ],
)
def test_standard_input(monkeypatch: pytest.MonkeyPatch, content: str, expected: list[str]) -> None:
    # Bytes must be decoded as --encoding says, whatever the terminal's own encoding is.
    stdin = io.TextIOWrapper(io.BytesIO(content.encode()), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", stdin)
    corpus = read_corpus("-")
    assert (corpus.captions, corpus.source) == (expected, "standard input")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_reads_as_a_file_does(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("a dog\na cat\n"))
    writer.start()
    assert read_corpus(pipe).captions == ["a dog", "a cat"]
    writer.join()


def test_other_encodings(tmp_path: Path) -> None:
    for encoding in ("latin-1", "utf-16", "utf-16-le", "shift_jis", "UTF8"):
        text = "café au lait" if encoding != "shift_jis" else "犬が走る"
        path = written(tmp_path / "c.txt", f"{text}\n\n{text} 2\n".encode(encoding))
        assert read_corpus(path, encoding=encoding).captions == [text, f"{text} 2"]


def test_the_offset_of_a_bad_byte_is_found_far_into_a_file(tmp_path: Path) -> None:
    line = "a dog and a café\r\n".encode()
    path = written(tmp_path / "c.txt", line * 9000 + b"caf\xe9\r\n" + line)
    with pytest.raises(SynticError) as caught:
        read_corpus(path)
    message = str(caught.value)
    assert f"{path}, line 9001: " in message
    assert f"0xe9 at offset {len(line) * 9000 + 3} " in message
    assert "--encoding" in message


# 40 MB in 40 kB.
BOMB = gzip.compress((b"dog " * 2_500 + b"end\n") * 4_000)

# name, content, options, parts of the message
BAD = [
    ("empty.txt", "", {}, ["is empty"]),
    ("blank.txt", " \n\t\n\n", {}, ["no text", "3 empty"]),
    ("long.txt", "one two three\n", {"max_words": 2}, ["more than 2 words", "--max-words"]),
    ("few.txt", "one\ntwo\n", {"sample": 0.1}, ["--sample", "2 texts"]),
    ("bytes.txt", b"fine\ncaf\xe9\n", {}, ["line 2", "0xe9", "offset 8", "--encoding"]),
    ("bytes.csv", b"caption\ncaf\xe9 noir\n", {}, ["line 2", "offset 11", "--encoding"]),
    ("bytes.json", b'["caf\xe9"]', {}, ["line 1", "offset 5", "--encoding"]),
    ("chinese.txt", "狗在草地上".encode("utf-16"), {}, ["offset 0", "utf-16"]),
    ("wide.txt", "a dog runs".encode("utf-16"), {}, ["binary", "utf-16"]),
    ("wide-le.txt", ("a dog runs\n" * 9).encode("utf-16-le"), {}, ["binary", "utf-16"]),
    ("photo.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff", {}, ["a photo (PNG)"]),
    ("noise.txt", random.Random(0).randbytes(9000), {}, ["binary"]),
    ("noise2.txt", random.Random(0).randbytes(9000), {"encoding": "latin-1"}, ["binary"]),
    ("corpus.docx", "text", {}, ["no .docx corpus", ".jsonl"]),
    ("corpus.txt", "text", {"split": "train"}, ["no splits", "--split"]),
    ("plain.txt.gz", "not packed", {}, ["cannot be read", "gzip"]),
    ("cut.txt.gz", gzip.compress(b"a dog runs\n" * 99)[:-9], {}, ["cannot be read"]),
    ("broken.jsonl", '"ok"\n{"caption": \n', {}, ["line 2", "malformed JSON"]),
    ("broken", '{"caption": "a"}\n{"caption"}\n', {}, ["line 2", "malformed JSON"]),
    ("deep.jsonl", "[" * 200_000 + "\n", {}, ["malformed JSON"]),
    ("deep2.jsonl", '{"caption":' * 200_000 + "\n", {}, ["line 1", "malformed JSON"]),
    ("number.jsonl", '"ok"\n7\n', {}, ["line 2", "bare int"]),
    ("list.jsonl", '{"caption": ["a", "b"]}\n', {}, ["line 1", "`caption` holds a list"]),
    (
        "other.jsonl",
        '{"alt": "a", "id": 1}\n',
        {},
        ["line 1", "there are: alt, id", "--text-field"],
    ),
    ("field.jsonl", '{"alt": "a"}\n', {"text_field": "x"}, ["no field `x`", "there are: alt"]),
    ("split.jsonl", '{"text": "a"}\n', {"split": "train"}, ["no field `split`", "omit --split"]),
    ("string.jsonl", '"a"\n', {"split": "train"}, ["line 1", "`split`"]),
    ("broken.json", '{"annotations": [\n{"caption": "a"},\n', {}, ["line 3", "malformed JSON"]),
    ("deep.json", "[" * 200_000, {}, ["malformed JSON"]),
    ("other.json", '{"rows": []}', {}, ["COCO", "`images`", ".jsonl"]),
    ("scalar.json", "3", {}, ["COCO"]),
    ("none.json", '{"annotations": []}', {}, ["is empty"]),
    ("boxes.json", '{"annotations": [{"bbox": [], "id": 1}]}', {}, ["annotation 1", "bbox, id"]),
    ("info.json", '{"images": [{"id": 1}]}', {}, ["image 1", "sentences"]),
    ("coco.json", json.dumps(coco(["a"])), {"split": "val"}, ["annotation 1", "`split`"]),
    ("karpathy.json", json.dumps(karpathy()), {"split": "val"}, ["val", "restval, test, train"]),
    ("karpathy.json", json.dumps(karpathy()), {"split": "test,vla"}, ["no split vla;"]),
    ("columns.csv", "image;words\nx;a dog\n", {}, ["line 1", "there are: image, words"]),
    ("header.csv", "image,caption\n", {}, ["is empty"]),
    ("short.csv", "image,caption\nx\n", {}, ["line 2", "1 field ", "2"]),
    ("comma.csv", "image,caption\nx,a dog\nx,a dog, running\n", {}, ["line 3", "3 fields"]),
    ("quote.csv", 'caption\n"a dog\na cat\n', {}, ["line 3", "quote"]),
    ("long-line.txt", "ok\n" + "dog " * 300_000 + "\n", {}, ["line 2", "more than 1,000,000"]),
    ("no-break.txt.gz", gzip.compress(b"a dog " * 3_000_000), {}, ["line 1", "1,000,000"]),
    ("huge.csv", 'caption\n"a ' + "dog " * 300_000 + '"\n', {}, ["line 2", "1,200,002"]),
    ("huge.jsonl", json.dumps("a " * 600_000), {}, ["line 1", "1,200,000 characters"]),
    ("huge.json", json.dumps(coco(["a " * 600_000])), {}, ["annotation 1", "1,200,000"]),
    ("huge.tsv", "caption\n" + "a " * 600_000, {}, ["line 2", "1,200,000"]),
    ("endless.csv", 'caption\n"a ' + f"{'dog ' * 999}\n" * 5_000, {}, ["quote left open"]),
    ("wide.jsonl", '"a"\n"' + "dog " * 5_000_000, {}, ["line 2", "more than 16,777,216"]),
    ("bomb.txt.gz", BOMB, {}, ["unpacks to more than 32 MB"]),
    ("bomb.csv.gz", gzip.compress(b"text\n") + BOMB, {}, ["unpacks to more than 32 MB"]),
    ("bomb.json.gz", gzip.compress(b'["') + BOMB, {}, ["unpacks to more than 32 MB"]),
    ("unseen.txt", "\u200b\n\u2060\u200d\n\ufe0f\n\u3164\u00ad\n", {}, ["no text", "4 empty"]),
    ("page.txt", "<!DOCTYPE html>\n<html>\n", {}, ["web page"]),
    ("page.csv", '\n<?xml version="1.0"?>\n', {}, ["web page or XML"]),
    ("lfs.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n", {}, ["git lfs pull"]),
    ("yaml.txt", "- image: a.jpg\n  caption: a dog\n- image: b.jpg\n", {}, ["is YAML"]),
    ("yaml2.txt", "a.jpg:\n  - a dog\n  - a cat\n", {}, ["is YAML"]),
    ("yaml3.txt", "---\n- a dog\n", {}, ["is YAML"]),
    ("ini.txt", "[a.jpg]\ncaption = a dog\n", {}, ["a file of settings"]),
    ("toml.txt", '[[photo]]\nfile = "a.jpg"\n', {}, ["a file of settings"]),
    ("short.txt", "0\n0:00:01.000 --> 0:00:02.000\na dog\n", {}, ["is subtitles"]),
    ("sbv.txt", "0:00:01.000,0:00:02.000\na dog\n", {}, ["is subtitles"]),
    ("lyrics.txt", "[00:12.00]a dog\n[00:15.30]a cat\n", {}, ["is subtitles"]),
    ("styled.txt", "[Script Info]\nTitle: x\n", {}, ["is subtitles"]),
    ("card.txt", "BEGIN:VCARD\nFN:A Dog\nEND:VCARD\n", {}, ["a card or calendar"]),
    ("tex.txt", "\\documentclass{article}\na dog\n", {}, ["is a document"]),
    ("bib.txt", "@article{dog,\n title={a dog}}\n", {}, ["is a document"]),
    ("items.txt", "<li>a dog\n<li>a cat\n", {}, ["a web page"]),
    ("keys.txt", "image: a.jpg\ncaption: a dog\n\nimage: b.jpg\ncaption: b\n", {}, ["keys and"]),
    ("comments.jsonl", '// of 2024\n{"caption": "a dog"}\n', {}, ["JSON with comments"]),
    ("comments.txt", '# of 2024\n{"caption": "a dog"}\n', {}, ["JSON with comments"]),
    ("python.txt", "{'caption': 'a dog'}\n{'caption': 'a cat'}\n", {}, ["code of a program"]),
    ("python2.txt", "['a dog', 'a cat']\n", {}, ["code of a program"]),
    ("python3.txt", 'captions = [\n"a dog",\n]\n', {}, ["code of a program"]),
    ("links.txt", "![a dog](a.jpg)\n![a cat](b.jpg)\n", {}, ["a page of Markdown"]),
    ("pairs.txt", '[1, "a dog"]\n[2, "a cat"]\n', {}, ["code of a program"]),
    ("dump.sql.txt", "INSERT INTO texts VALUES (1, 'a dog');\n", {}, ["code of a program"]),
    ("mail.txt", "From: a@b.c\nTo: d\n\na dog\n", {}, ["is a document"]),
    ("change.txt", "diff --git a/b c/d\n+a dog\n", {}, ["is a document"]),
    ("truths.csv", "caption\nTrue\nFalse\n", {}, ["names, addresses or numbers"]),
    ("dates.csv", "caption\n2024-01-02\n12/24/2023\n", {}, ["names, addresses or numbers"]),
    ("lists.csv", 'caption\n"[""a dog"", ""a cat""]"\n', {}, ["line 2", "holds a list"]),
    ("lists2.csv", "id,raw\n1,\"['a dog', 'a cat']\"\n", {}, ["line 2", "holds a list"]),
    ("list.txt", "1000_ab.jpg\n1001_cd.JPG\n", {}, ["lists photos, not texts"]),
    ("f.token", "a.jpg#0\ta dog\na cat\n", {}, ["line 2", "no photo before the text"]),
    ("g.token", "a.jpg a dog\n", {}, ["line 1", "no photo before the text"]),
    ("h.token", "a.jpg#0\ta dog\n", {"split": "train"}, ["no splits", "--split"]),
    ("kaggle.txt", "image,caption\na.jpg\n", {}, ["line 2", "1 field ", "2"]),
    ("kaggle2.txt", "caption,image\na dog, running,a.jpg\n", {}, ["line 2", "3 fields"]),
    ("sep.csv", "sep=;\nimage;words\na;b\n", {}, ["line 2", "there are: image, words"]),
    ("nan.jsonl", '{"caption": NaN}\nNaN\n', {}, ["no text", "2 empty"]),
    ("infinity.jsonl", '{"caption": Infinity}\n', {}, ["line 1", "a float, not a text"]),
    ("pretty.jsonl", '[\n {"caption": "a"},\n {"caption"}\n]', {}, ["line 3", "malformed JSON"]),
    ("pretty2.jsonl", '{\n "caption": "a"\n}\n{\n "alt": "b"\n}', {}, ["line 4", "`caption`"]),
    ("far.txt", ("犬が走る\n" * 60_000).encode("shift_jis") + b"\x82\n",
     {"encoding": "shift_jis"}, ["line 60001", "0x82 at offset 540000"]),
]  # fmt: skip


# name, content, texts, part of the only note
NOTED = [
    ("times.txt", "2024-01-02 10:00 a dog\n2024-01-03 11:00 a cat\n", 2, "begins with a date"),
    ("clock.txt", "10:00:01 a dog\n10:00:09 a cat\n", 2, "begins with a date or time"),
    ("clips.txt", "a1.mp4 a dog\nb2.mp4 a cat\n", 2, "begins with a name or an id"),
    ("ids.txt", "mv89psg6zh4_33 a dog\nmv89psg6zh4_34 a cat\n", 2, "begins with a name or an id"),
    ("links.txt", "http://a.b/c a dog\nhttp://a.b/d a cat\n", 2, "begins with a name or an id"),
    ("label.txt", "__label__a a dog\n__label__a a cat\n", 2, "begins with `__label__a`"),
    ("turn.txt", "<|user|>a dog<|end|>\n<|user|>a cat<|end|>\n", 2, "begins with `<|user|>`"),
    ("commas.txt", "a dog,\na cat,\n", 2, "ends with `,`"),
    ("breaks.txt", "a dog\\\na cat\\\n", 2, "ends with `\\`"),
    ("turns.txt", "a.jpg\na dog\nb.jpg\na cat\n", 4, "2 lines are names of photos alone"),
    ("key.txt", "caption: a dog\ncaption: a cat\n", 2, "begins with `caption:`"),
    ("key2.txt", "caption=a dog\ncaption=a cat\n", 2, "begins with `caption=`"),
    ("heading.txt", "# Captions\n\na dog\n", 2, "first line, `# Captions`, is read as a text"),
    ("zeros.txt", "a dog\0a cat\0", 1, "NUL characters, which are read as blanks"),
    ("web.txt", "a dog &amp; a cat\na cow<br>\na < b & c\n", 3, "2 texts hold marks of a web"),
    ("again.csv", "id,text\n1,a dog\nid,text\n2,a\nid,text\n", 2, "line 3: names the columns"),
    ("types.csv", "id,text\n(int),(string)\n1,a dog\n2,text\n", 2, "line 2: names types"),
    ("further.csv", "caption,caption2,Caption_3\na,b,c\n", 1, "not of Caption_3, caption2"),
]


@pytest.mark.parametrize(("name", "content", "texts", "part"), NOTED, ids=lambda v: str(v)[:20])
def test_what_is_odd_about_a_file_is_said(
    tmp_path: Path, name: str, content: str, texts: int, part: str
) -> None:
    corpus = read_corpus(written(tmp_path / name, content))
    assert len(corpus.captions) == texts
    [note] = corpus.notes
    assert part in note
    assert note.startswith(str(tmp_path / name))


@pytest.mark.parametrize("mark", ["\ufeff", "\x1e"])
def test_marks_before_the_json_of_a_line_are_left_out(tmp_path: Path, mark: str) -> None:
    lines = f'{mark}{{"caption": "a dog"}}\n{mark}"a cat"\n'
    assert read_corpus(written(tmp_path / "c.jsonl", lines)).captions == ["a dog", "a cat"]


@pytest.mark.parametrize(
    "text",
    [
        "it is 3:15: a clock on a wall\na dog\n",
        "Photo: a dog\nParis: a tower\n",
        "a dog - and a cat:\na cow\n",
        '["a dog",\n"a cat"]',
        "a dog: two cats\n- a cow\n",
        "(a dog)\n[a cat]\n",
        "mid-90s cars\na tv\n",
        "a 1980s car\n2 dogs\n",
        "From above a dog\na cat\n",
    ],
)
def test_ordinary_texts_are_not_taken_for_other_things(tmp_path: Path, text: str) -> None:
    corpus = read_corpus(written(tmp_path / "c.txt", text))
    assert len(corpus.captions) == 2
    assert [note for note in corpus.notes if "read as JSON" not in note] == []


@pytest.mark.parametrize(("name", "content", "options", "parts"), BAD, ids=lambda v: str(v)[:20])
def test_bad_files_get_one_line_that_names_them(
    tmp_path: Path,
    name: str,
    content: str | bytes,
    options: dict[str, object],
    parts: list[str],
) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(SynticError) as caught:
        read_corpus(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < len(str(path)) + 250
    for part in parts:
        assert part in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"encoding": "utf-99"}, "--encoding utf-99"),
        ({"encoding": "base64"}, "--encoding base64"),
        ({"max_words": 0}, "--max-words 0"),
        ({"sample": 0.0}, "--sample 0.0"),
        ({"sample": 1.5}, "--sample 1.5"),
        ({"sample": float("nan")}, "--sample nan"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: dict[str, object], expected: str) -> None:
    path = written(tmp_path / "c.txt", "text\n")
    with pytest.raises(SynticError, match=expected):
        read_corpus(path, **options)  # type: ignore[arg-type]


def test_files_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link.txt").symlink_to(tmp_path / "gone.txt")
    (tmp_path / "folder.txt").mkdir()
    for name, part in [
        ("absent.txt", "no such file"),
        ("link.txt", "a link to"),
        ("folder.txt", "is a folder"),
        ("two\nlines.txt", r"two\nlines.txt"),
        ("nul\0.txt", "null"),
        ("caf\udce9.txt", r"caf\xe9.txt"),
        ("tab\t\x1b[31m.txt", r"tab\t\x1b[31m.txt"),
    ]:
        with pytest.raises(SynticError) as caught:
            read_corpus(tmp_path / name)
        assert part in str(caught.value)

    with pytest.raises(SynticError, match="an empty name was given"):
        read_corpus("")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SynticError, match="standard input is closed"):
        read_corpus("-")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = written(tmp_path / "secret.txt", "a dog\n")
    monkeypatch.setattr(Path, "open", denied)  # root, who often runs tests, may read any file
    with pytest.raises(SynticError, match="Permission denied"):
        read_corpus(path)


def test_the_module_needs_no_torch_and_leaves_no_file_open(tmp_path: Path) -> None:
    path = written(tmp_path / "c.txt.gz", gzip.compress(b"a dog\n"))
    code = (
        "import sys; from syntic_cli.corpus import read_corpus\n"
        f"read_corpus({str(path)!r}); assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_many_lines_are_quick(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text("a man riding a wave on top of a surfboard in the sea\n" * 100_000)
    start = time.process_time()
    assert len(read_corpus(path).captions) == 100_000
    # 0.1 s measured; what is guarded against is work that grows with the square.
    assert time.process_time() - start < 2
