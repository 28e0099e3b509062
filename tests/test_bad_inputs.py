"""What a user may get wrong: each row ends as it should, in a line, and costs nothing else."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from syntic_cli.artifacts.reading import Artifact

from .conftest import CAPTIONS, RunCli

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Place:
    """Where a row happens: a folder for its files, and a finished workspace of its own."""

    folder: Path
    workspace: Path
    photos: list[Path]
    corpus: Path
    other: Path

    def file(self, name: str, content: bytes | str = b"") -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def preset(self, content: str) -> Path:
        return self.file("mine.toml", content)

    def link(self, name: str) -> Path:
        path = self.folder / name
        path.symlink_to("nowhere")
        return path

    def image(self, name: str, size: tuple[int, int]) -> Path:
        path = self.folder / name
        Image.new("1", size).save(path, "PNG")
        return path

    def cut_photo(self, name: str = "cut.jpg") -> Path:
        return self.file(name, self.photos[0].read_bytes()[:150])


Command = Callable[[Place], Sequence[object]]


@dataclass(frozen=True)
class Row:
    """A command, the exit code it must have, and what it must say on standard error.

    `new` rows write to a fresh workspace, so that an earlier artifact is not what stops them.
    """

    name: str
    command: Command
    says: str
    code: int = 2
    new: bool = False


def synthesize(name: str, content: bytes | str, *options: object) -> Command:
    return lambda at: ["synthesize", at.file(name, content), *options]


def caption(bad: Callable[[Place], Path]) -> Command:
    """A bad photo between two good ones."""
    return lambda at: ["caption", at.photos[0], bad(at), at.photos[1], "-f", "jsonl", "--force"]


def option(*arguments: object) -> Command:
    return lambda at: arguments


def referring(name: str, content: bytes | str) -> Command:
    return lambda at: ["evaluate", "--references", at.file(name, content)]


def scored(name: str, content: bytes | str) -> Command:
    return lambda at: ["evaluate", at.file(name, content), "--references", good_references(at)]


def preset(content: str) -> Command:
    return lambda at: ["synthesize", at.corpus, "--preset", at.preset(content)]


STAGES = ("synthesize", "encode", "optimize", "detect", "project", "train", "caption", "evaluate")
LONG = "word " * 5000
DAMAGED = "damaged or foreign"
NONSENSE = "dog " * 4_500_000
BOMB = gzip.compress((b"dog " * 2_500 + b"end\n") * 4_000)  # 40 MB in 40 kB
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
TIMES = "00:00:01,000 --> 00:00:02,000"
TOKEN = "a.jpg#0\tA dog .\na.jpg#1\tA cat .\n"

CORPUS = [
    Row("corpus missing", option("synthesize", "nowhere.txt"), "nowhere.txt: no such file"),
    Row("corpus empty", synthesize("c.txt", ""), "c.txt is empty"),
    Row("corpus of empty lines", synthesize("c.txt", "\n \n\t\n"), "only 3 empty lines or fields"),
    Row("corpus not UTF-8", synthesize("c.txt", b"a dog\na caf\xe9\n"), "line 2: the byte 0xe9 at"),
    Row("its byte offset", synthesize("c.txt", b"a dog\na caf\xe9\n"), "offset 11 is not utf-8"),
    Row("its remedy", synthesize("c.txt", b"a caf\xe9\n"), "--encoding (cp1252?)"),
    Row(
        "corpus in the encoding named",
        synthesize("c.txt", b"a caf\xe9\nb\n", "--encoding", "cp1252"),
        "2 texts",
        0,
        new=True,
    ),
    Row(
        "corpus in no such encoding",
        synthesize("c.txt", "a", "--encoding", "klingon"),
        "--encoding klingon: no such text",
    ),
    Row("corpus binary", synthesize("c.txt", bytes(range(256)) * 9), "looks like a binary file"),
    Row("corpus of NUL bytes only", synthesize("c.txt", b"\0\n\0\0\n"), "c.txt holds no text"),
    Row("NUL bytes in a text", synthesize("c.txt", "a\0dog\nb\n"), "2 texts", 0, new=True),
    Row("text of 5,000 words", synthesize("c.txt", f"{LONG}\nb\n"), "2 texts", 0, new=True),
    Row("emoji only", synthesize("c.txt", "🐕🌲👨‍👩‍👧\n🐈\n"), "2 texts", 0, new=True),
    Row("right to left", synthesize("c.txt", "كلب في الثلج\nכלב\n"), "2 texts", 0, new=True),
    Row("all texts too long", synthesize("c.txt", LONG, "--max-words", 9), "more than 9 words"),
    Row("corpus a folder", lambda at: ["synthesize", at.folder], "is a folder: name the corpus"),
    Row("corpus a dangling link", lambda at: ["synthesize", at.link("c.txt")], "(a link to nowhe"),
    Row("corpus of another kind", synthesize("c.docx", "a"), "syntic reads no .docx corpus"),
    Row("jsonl malformed", synthesize("c.jsonl", '{"text": "a"}\n{"te\n'), "c.jsonl, line 2: malf"),
    Row("json malformed", synthesize("c.json", '{"annotations": ['), "c.json, line 1: malformed"),
    Row("json of something else", synthesize("c.json", '{"a": 1}'), "holds neither COCO captions"),
    Row(
        "csv without the field",
        synthesize("c.csv", "a,b\n1,2\n", "--text-field", "t"),
        "no field `t`",
    ),
    Row("csv with a ragged row", synthesize("c.csv", "a,text\n1,x,y\n"), "line 2: 3 fields where"),
    Row("csv with an open quote", synthesize("c.csv", 'text\n"a\n'), "line 2: malformed table"),
    Row("gz damaged", synthesize("c.txt.gz", b"\x1f\x8bnot gzip at all"), "cannot be read"),
    Row("split of a text file", synthesize("c.txt", "a\n", "--split", "train"), "has no splits"),
    Row("a name with newlines", option("synthesize", "no\nwhere.txt"), r"no\nwhere.txt"),
    Row(
        "an empty name",
        option("synthesize", ""),
        "CORPUS: an empty name was given; is a variable unset?",
    ),
    Row("a name not UTF-8", option("synthesize", "caf\udce9.txt"), r"caf\xe9.txt: no such file"),
    Row("a name that moves the cursor", option("synthesize", "\x1b[2J.txt"), r"\x1b[2J.txt: no"),
    Row(
        "corpus of unseen characters", synthesize("c.txt", "\u200b\n\ufeff\u2060\n"), "only 2 empty"
    ),
    Row("corpus a web page", synthesize("c.txt", "<!DOCTYPE html>\n<p>"), "is a web page"),
    Row(
        "corpus rich text", synthesize("c.txt", "{\\rtf1\\ansi a dog\\par}\n"), "is a document, not"
    ),
    Row("corpus PDF in letters", synthesize("c.txt", "%PDF-1.4\n1 0 obj\n"), "is a document, not"),
    Row("corpus subtitles", synthesize("c.txt", f"1\n{TIMES}\na dog\n"), "is subtitles, not texts"),
    Row("corpus WebVTT", synthesize("c.txt", f"WEBVTT\n\n{TIMES}\na dog\n"), "is subtitles, not"),
    Row(
        "corpus in JIS", synthesize("c.txt", "犬が走る\n".encode("iso2022_jp")), "is not UTF-8: say"
    ),
    Row(
        "corpus in JIS, later", synthesize("c.txt", "a 犬\n".encode("iso2022_jp")), "iso2022_jp (or"
    ),
    Row(
        "corpus in JIS, named",
        synthesize("c.txt", "犬\n".encode("iso2022_jp"), "--encoding", "iso2022_jp"),
        "1 text",
        0,
        new=True,
    ),
    Row(
        "corpus an artifact",
        lambda at: ["synthesize", at.workspace / "features.h5"],
        "written by `syntic encode`",
    ),
    Row("corpus a photo", lambda at: ["synthesize", at.photos[0]], "is a photo (JPEG): name a"),
    Row("corpus a spreadsheet", synthesize("c.csv", b"PK\3\4\x14\0\xff\xff"), "save it as .csv"),
    Row("corpus Parquet", synthesize("c.csv", b"PAR1\x15\x04\xff\0"), "is Parquet: convert it"),
    Row("photo names with blanks", synthesize("c.txt", "a b.jpg\nc.png\n"), "lists photos, not"),
    Row("photo names of phones", synthesize("c.txt", "a.heic\nc.avif\n"), "lists photos, not"),
    Row("a column twice", synthesize("c.csv", "text,id,text\na,1,b\n"), "more than one column is"),
    Row(
        "a photo column twice", referring("r.csv", "image,caption,image\na,b,c\n"), "named `image`"
    ),
    Row(
        "photos of phones before texts",
        synthesize("c.txt", "a.heic: a dog\nb.heic: a cat\n"),
        "read as lines of a photo's name and a text",
        0,
        new=True,
    ),
    Row(
        "sep= filled up",
        synthesize("c.csv", "sep=;;\nid;text\n1;a dog\n"),
        "1 text",
        0,
        new=True,
    ),
    Row("corpus left by Git LFS", synthesize("c.json", LFS), "run `git lfs pull`"),
    Row(
        "corpus a list of photos", synthesize("c.txt", "a.jpg\nb.jpg\n"), "lists photos, not texts"
    ),
    Row(
        "corpus of an endless line", synthesize("c.txt", "a " * 600_000), "c.txt, line 1: has more"
    ),
    Row("an endless cell", synthesize("c.csv", f"text\n{'a ' * 600_000}"), "line 2: a text of 1,2"),
    Row(
        "an endless quote",
        synthesize("c.csv", f'text\n"{NONSENSE}'.replace(" dog d", "\n")),
        "is a quote left open",
    ),
    Row("an endless JSON line", synthesize("c.jsonl", f'"{NONSENSE}"'), "line 1: has more than 16"),
    Row("a gzip bomb", synthesize("c.txt.gz", BOMB), "c.txt.gz unpacks to more than 32 MB"),
    Row("a gzip bomb under another name", synthesize("c.txt", BOMB), "unpacks to more than 32 MB"),
    Row("gz cut off", synthesize("c.txt.gz", gzip.compress(b"a dog\n" * 99)[:-9]), "copy it again"),
    Row(
        "gz of a binary", synthesize("c.txt.gz", gzip.compress(bytes(range(256)))), "a binary file"
    ),
    Row("token line without a photo", synthesize("c.token", "a dog\n"), "line 1: no photo before"),
    Row("split of a token file", synthesize("c.token", TOKEN, "--split", "a"), "but no splits"),
    Row("captions.txt ragged", synthesize("c.txt", "image,caption\na.jpg\n"), "line 2: 1 field "),
    Row("semicolons without the field", synthesize("c.csv", "a;b\n1;2\n"), "there are: a, b;"),
    Row("sep= and nothing else", synthesize("c.csv", "sep=;\n"), "c.csv is empty"),
    Row("tsv ragged", synthesize("c.tsv", 'id\ttext\n1\t"a"\tb\n'), "line 2: 3 fields where"),
    Row(
        "jsonl pretty-printed, malformed", synthesize("c.jsonl", '[\n{"a"}\n]'), "line 2: malformed"
    ),
    Row("jsonl of NaN", synthesize("c.jsonl", '{"text": NaN}\n'), "only 1 empty"),
    Row("jsonl of numbers", synthesize("c.jsonl", '{"text": 1.5}\n'), "`text` holds a float, not"),
    Row(
        "UTF-16 without a mark",
        synthesize("c.txt", "a".encode("utf-16-le") * 9, "--encoding", "utf-16"),
        "c.txt is not utf-16",
    ),
    Row(
        "captions.txt of Kaggle",
        synthesize("captions.txt", "image,caption\na.jpg,a dog\n"),
        "1 text",
        0,
        new=True,
    ),
    Row("a token file", synthesize("c.token", TOKEN), "2 texts", 0, new=True),
    Row(
        "JSON in a .txt",
        synthesize("c.txt", '{"text": "a"}\n{"text": "b"}\n'),
        "2 texts",
        0,
        new=True,
    ),
    Row(
        "a mark in every line",
        synthesize("c.txt", "\ufeffa\n\ufeffb\n\ufeff\n"),
        "2 texts (left out: 1 empty)",
        0,
        new=True,
    ),
    Row(
        "a long list in a .jsonl",
        synthesize("c.jsonl", '[\n "a",\n NaN,\n "b"\n]'),
        "2 texts (left out: 1 empty)",
        0,
        new=True,
    ),
    Row(
        "a speech in a .tsv",
        synthesize("c.tsv", 'id\ttext\n1\t"No" said a dog\n2\t"b\n'),
        "2 texts",
        0,
        new=True,
    ),
    Row(
        "jsonl with a key twice",
        synthesize("c.jsonl", '"a"\n{"text": "b", "text": "c"}\n'),
        "c.jsonl, line 2: the key `text` is there twice; keep one",
    ),
    Row(
        "json with a key twice",
        synthesize("c.json", '[{"text": "a"}, {"a": 1, "text": "", "a": 2}]'),
        "c.json, entry 2: the key `a` is there twice",
    ),
    Row(
        "COCO with a key twice",
        synthesize(
            "c.json", '{"annotations": [{"caption": "a"}], "annotations": [{"caption": "b"}]}'
        ),
        "c.json: the key `annotations` is there twice",
    ),
    Row(
        "Karpathy with a key twice",
        synthesize(
            "c.json", '{"images": [{"sentences": [{"raw": "a"}], "sentences": [{"raw": "b"}]}]}'
        ),
        "c.json, image 1: the key `sentences` is there twice",
    ),
    Row(
        "a sentence with a key twice",
        synthesize("c.json", '{"images": [{"sentences": [{"raw": "a", "raw": "b"}]}]}'),
        "c.json, image 1: the key `raw` is there twice",
    ),
    Row(
        "lines in quotes",
        synthesize("c.txt", '"a dog"\n"a ""big"" cat"\n'),
        "c.txt: read without the quotes around its lines",
        0,
        new=True,
    ),
    Row(
        "lines of a list",
        synthesize("c.txt", '"a dog",\n  "a cat",\n"a cow"\n'),
        "read without the quotes",
        0,
        new=True,
    ),
    Row(
        "a lone header",
        synthesize("c.txt", 'Caption\na dog, a cat\n"a cow"\n\n'),
        "its first line, `Caption`, is read as the name of a column",
        0,
        new=True,
    ),
    Row(
        "a lone header in quotes",
        synthesize("c.txt", '"text"\n"a dog"\n'),
        "c.txt: 1 text",
        0,
        new=True,
    ),
    Row(
        "cells of nothing",
        synthesize("c.csv", "id,text\n1,a dog\n2,NaN\n3,null\n4,NULL\n5,\n6,<NA>\n7,None\n"),
        "1 text (left out: 6 empty)",
        0,
        new=True,
    ),
    Row(
        "cells of nothing alone", synthesize("c.csv", "text\nNaN\n"), "only 1 empty line or field;"
    ),
    Row(
        "lines with numbers",
        synthesize("c.txt", "1. a dog\n2. a cat\n3. a cow\n"),
        "every line begins with its number, read as part of its text",
        0,
        new=True,
    ),
    Row(
        "lines from 0 on", synthesize("c.txt", "(0) a dog\n(1) a cat\n"), "its number", 0, new=True
    ),
    Row(
        "lines with ids",
        synthesize("c.txt", "391895 a dog\n184613 a cat\n"),
        "every line begins with an id, read",
        0,
        new=True,
    ),
    Row(
        "lines with startseq",
        synthesize("c.txt", "startseq a dog endseq\nstartseq a cat endseq\n"),
        "every line begins with `startseq`",
        0,
        new=True,
    ),
    Row(
        "a table in quotes without a header",
        synthesize("c.txt", '"a.jpg","a dog"\n"b.jpg","b"\n'),
        "read as lines of a photo's name and a text",
        0,
        new=True,
    ),
    Row(
        "a column of photos",
        synthesize("c.csv", "text\na.jpg\nb.png\n"),
        "its texts are names, addresses or numbers, such as a.jpg; name the field",
    ),
    Row(
        "a field of addresses",
        synthesize("c.jsonl", '{"text": "http://a.b/c?d=e"}\n'),
        "its texts are names, addresses or numbers",
    ),
    Row("a column of numbers", synthesize("c.csv", "comment\n1\n2.5\n"), "its texts are names, "),
    Row(
        "a bulleted list",
        synthesize("c.txt", "* a dog\n* a cat\n"),
        "every line begins with `*`, read",
        0,
        new=True,
    ),
    Row(
        "lines with a mark",
        synthesize("c.txt", "<s> a dog </s>\n<s> a cat </s>\n"),
        "every line begins with `<s>`, read",
        0,
        new=True,
    ),
    Row(
        "a table of Markdown",
        synthesize("c.txt", "| image | text |\n|:--|--|\n| a.jpg | a dog |\n"),
        "is a page of Markdown: save it as .csv",
    ),
    Row(
        "a piece of XML",
        synthesize("c.txt", '<texts lang="en">\n<t>a dog</t>\n</texts>\n'),
        "is a web page or XML",
    ),
    Row(
        "names and texts by =",
        synthesize("c.txt", "a.jpg=a dog\nb b.png => a cat\n"),
        "read as lines of a photo's name and a text",
        0,
        new=True,
    ),
    Row(
        "lines in curly quotes",
        synthesize("c.txt", "“a dog”\n“a cat's toy”\n"),
        "read without the quotes",
        0,
        new=True,
    ),
    Row(
        "lines in single quotes",
        synthesize("c.txt", "'a dog',\n'a cat'\n"),
        "read without the quotes",
        0,
        new=True,
    ),
    Row(
        "a column in two cases",
        synthesize("c.csv", "Text,text\na,b\n"),
        "line 1: more than one column is named `text`",
    ),
    Row(
        "UTF-8 under another name",
        synthesize("c.txt", "a café\n", "--encoding", "latin-1"),
        "c.txt: seems to be UTF-8, but is read as latin-1",
        0,
        new=True,
    ),
    Row(
        "ASCII under the name of UTF-16",
        synthesize("c.txt", "a dog\n", "--encoding", "utf-16-be"),
        "c.txt: seems to be UTF-8, but is read as utf-16-be",
        0,
        new=True,
    ),
    Row(
        "UTF-8 that the encoding named lacks",
        synthesize("c.txt", "“a dog”\n", "--encoding", "cp1252"),
        "by --encoding (utf-8?)",
    ),
    Row(
        "one text too long",
        synthesize("c.txt", "a dog\n", "--max-words", 1),
        "no text is left, 1 text has more than 1 word; raise",
    ),
    Row("another corpus", synthesize("c.txt", "a dog\n"), "corpus: "),
    Row("what to do with it", synthesize("c.txt", "a dog\n"), "give --force to make it again"),
]

PHOTOS = [
    Row("photo corrupt", caption(lambda at: at.cut_photo()), "cut.jpg cannot be decoded", 0),
    Row("photo of zero bytes", caption(lambda at: at.file("0.jpg")), "0.jpg is empty (0 bytes)", 0),
    Row("photo no image", caption(lambda at: at.file("t.jpg", "text")), "t.jpg is not an image", 0),
    Row(
        "photo of 30,000 pixels",
        caption(lambda at: at.image("w.png", (30_000, 10))),
        "w.png is too large (30000 x 10 pixels",
        0,
    ),
    Row(
        "decompression bomb",
        caption(lambda at: at.image("b.png", (19_000, 19_000))),
        "b.png is too large (19000 x 19000 pixels",
        0,
    ),
    Row("photo of 1 x 1", caption(lambda at: at.image("1.png", (1, 1))), "caption: 3 photos in", 0),
    Row("link dangling", caption(lambda at: at.link("l.jpg")), "l.jpg is a link to nowhere", 0),
    Row("photo missing", caption(lambda at: at.folder / "no.jpg"), "no.jpg: no such file", 0),
    Row("photo a fifo", caption(lambda at: fifo(at.folder)), "is not a regular file", 0),
    Row("name with newlines", caption(lambda at: at.cut_photo("a\nb.jpg")), r"a\nb.jpg", 0),
    Row("HEIC", caption(lambda at: at.file("h.jpg", b"\0\0\0\x18ftypheic....")), "is a HEIC", 0),
    Row("the only photo missing", option("caption", "no.jpg"), "no.jpg: no such file"),
    Row("the only photo a dangling link", lambda at: ["caption", at.link("l.jpg")], "is a link to"),
    Row("folder with no image", lambda at: ["caption", at.folder], "holds no image file"),
    Row("no name at all", option("caption", ""), "an empty name was given"),
    Row("pattern without a match", option("caption", "no*.jpg"), "no*.jpg: no such file"),
]

ARTIFACTS = [
    *(
        Row(f"{stage} with nothing before it", option(stage), f"{file}: no such artifact", new=True)
        for stage, file in (
            ("encode", "synthetic.h5"),
            ("optimize", "features.h5"),
            ("detect", "synthetic.h5"),
            ("project", "optimized.h5"),
            ("train", "projected.h5"),
        )
    ),
    Row("what to run first", option("encode"), "run `syntic synthesize` first", new=True),
    Row(
        "evaluate with nothing before it",
        lambda at: ["evaluate", "--references", at.file("r.csv", "image,caption\na,b\n")],
        "captions.h5: no such artifact", new=True,
    ),
    Row(
        "artifact of another stage",
        lambda at: ["encode", "--synthetic", at.workspace / "features.h5"],
        "written by `syntic encode`, but an artifact of `syntic synthesize` is needed",
    ),
    Row(
        "captioner of another stage",
        lambda at: ["caption", at.photos[0], "--captioner", at.workspace / "objects.h5", "--force"],
        "written by `syntic detect`",
    ),
    Row(
        "artifact not HDF5",
        lambda at: ["detect", "--synthetic", at.file("s.h5", "text")], DAMAGED,
    ),
    Row("artifact empty", lambda at: ["optimize", "--features", at.file("f.h5")], DAMAGED),
    Row("artifact a folder", lambda at: ["project", "--features", at.folder], "is a folder, not"),
    Row("artifact missing", option("train", "--projected", "no.h5"), "no.h5: no such artifact"),
    Row("inspect of nothing", option("inspect", "no.h5"), "no.h5: no such artifact"),
    Row(
        "objects of other images",
        lambda at: ["train", "--objects", at.other / "objects.h5", "-o", at.folder / "c.h5"],
        "its rows are of other images",
    ),
    Row(
        "support set of no features",
        lambda at: ["project", "--support", at.workspace / "objects.h5", "--force"],
        "written by `syntic detect`",
    ),
    Row(
        "output is a folder",
        lambda at: ["project", "-o", at.folder], "is a folder, not an artifact",
    ),
    Row("output a pipe", lambda at: ["project", "-o", fifo(at.folder)],
        "is a device or a pipe, which no file can replace"),
    Row("output what a process has open", lambda at: ["caption", *at.photos, "-o",
        link_to(at.folder, "/proc/self/fd/2")], "is a device or a pipe, which no file can replace"),
    Row("COCO's file a pipe", lambda at: ["export", at.workspace / "captions.h5", fifo(at.folder),
        "--to", "coco", "--force"], "is a device or a pipe, which no file can replace"),
    Row("report a pipe", lambda at: ["report", at.workspace, "-o", fifo(at.folder), "--force"],
        "is a device or a pipe, which no file can replace"),
    Row(
        "output below a file",
        lambda at: ["project", "-o", at.corpus / "p.h5"], "cannot be written",
    ),
    Row("workspace is a file", lambda at: ["project", "-w", at.corpus], "is not a folder"),
]  # fmt: skip

MODELS = [
    Row(
        "model folder missing",
        lambda at: ["encode", "--model", "/no/such/folder", "-o", at.folder / "f.h5"],
        "/no/such/folder: no such model folder",
    ),
    Row(
        "model folder empty",
        lambda at: ["detect", "--model", at.folder, "-o", at.folder / "o.h5"],
        "cannot be loaded",
    ),
    Row(
        "CLIP model unknown",
        lambda at: ["encode", "--model", "ViT-Q-99", "-o", at.folder / "f.h5"],
        "CLIP model ViT-Q-99: cannot be loaded",
    ),
    Row(
        "detector unknown",
        lambda at: ["detect", "--model", "nobody/nothing", "-o", at.folder / "o.h5"],
        "detector nobody/nothing: cannot be loaded",
    ),
    Row(
        "text-to-image model unknown",
        lambda at: ["synthesize", at.corpus, "--model", "nobody/no", "-o", at.folder / "s.h5"],
        "text-to-image model nobody/no: cannot be loaded",
    ),
]

PRESETS = [
    Row("preset unknown", option("encode", "--preset", "huge"), "--preset huge: no such preset"),
    Row("preset file missing", option("encode", "--preset", "no.toml"), "no.toml: no such preset"),
    Row("preset malformed", preset("[encode\n"), "mine.toml: not a readable TOML file"),
    Row("preset section unknown", preset("[decode]\n"), "unknown section 'decode'"),
    Row("preset key unknown", preset("[synthesize]\nstep = 3\n"), "[synthesize] has no 'step'"),
    Row(
        "preset without a model", preset("[synthesize]\nsteps = 3\n"), "[synthesize] lacks a value"
    ),
    Row(
        "preset with a text for a number", preset('[synthesize]\nmodel="a"\nsteps = "3"\n'), "steps"
    ),
    Row(
        "preset with a number for a text", preset("[synthesize]\nmodel = 3\n"), "model = 3: not str"
    ),
]

OPTIONS = [
    *(
        Row(" ".join(map(str, arguments)), option(*arguments), says)
        for arguments, says in (
            (("optimize", "--temperature", 0), "--temperature 0.0: must be a number of at least"),
            (("project", "--temperature", 1e-40), "--temperature 1e-40: must be a number of at le"),
            (("project", "--temperature", 1e308), "0.000001 and at most 1000000"),
            (("optimize", "--lr", "nan"), "--lr nan: must be a number above 0"),
            (("optimize", "--epochs", 0), "--epochs 0: must be at least 1"),
            (("project", "--temperature", -1), "--temperature -1.0: must be"),
            (("detect", "--threshold", 2), "--threshold 2.0: must be at least 0 and below 1"),
            (("detect", "--max-objects", -1), "--max-objects -1: must be at least 0 and at most"),
            (("train", "--width", 30, "--heads", 4), "the width must be a multiple of the heads"),
            (("train", "--validation", 1), "--validation 1.0: must be"),
            (("train", "--tokenizer", "words", "--force"), "--tokenizer words"),
            (("train", "--tokenizer", "bpe:2", "--force"), "--tokenizer bpe:2"),
            (("train", "--tokenizer", f"bpe:{10**12}", "--force"), "and at most 1,000,000"),
            (("train", "--tokenizer", "bpe:5000²", "--force"), "--tokenizer bpe:5000²: give clip"),
            (("train", "--max-length", 1), "--max-length 1: must be at least 2"),
            (("encode", "--device", "tpu", "--force"), "--device tpu: give auto, cpu, cuda"),
            (("encode", "--device", "cuda:99", "--force"), "--device cuda:99: this machine has"),
            (("encode", "--dtype", "int8", "--force"), "--dtype int8: give auto, float32"),
            (("train", "--dtype", "float16", "--force"), "--dtype float16: gradients of training"),
            (("encode", "--batch-size", 0), "Invalid value for '--batch-size'"),
            (("encode", "--shard-size", "x"), "Invalid value for '--shard-size'"),
            (
                ("train", "--layers", 1_000_000),
                "--layers 1000000: must be at least 1 and at most 128",
            ),
            (("train", "--layers", 128, "--width", 16384), "a decoder of some 412 billion weights"),
            (("train", "--heads", 10**6), "--heads 1000000: must be"),
            (("train", "--batch-size", 10**9), "--batch-size 1000000000: must be"),
            (("train", "--max-length", 10**7), "--max-length 10000000: must be"),
            (("train", "--warmup", 10**20), "must be at least 0 and at most 1,000,000,000"),
            (("train", "--retrieve", 10**7), "--retrieve 10000000: must be"),
            (("train", "--seed", 2**63), "Invalid value for '--seed'"),
            (("optimize", "--batch-size", 10**7), "--batch-size 10000000: must be"),
            (("encode", "--batch-size", 10**7), "--batch-size 10000000: must be"),
            (("encode", "--shard-size", 10**9), "--shard-size 1000000000: must be"),
            (("encode", "--workers", 10**9), "--workers 1000000000: must be"),
            (("select", "--images", 10**9), "--images 1000000000: must be"),
            (("compose", "c.txt", "--timeout", 1e300), "--timeout 1e+300: must be above 0 and"),
            (("caption", "x.jpg", "--beam", 10**6), "--beam 1000000: must be at least 1 and at"),
            (("caption", "x.jpg", "--max-length", 10**6), "--max-length 1000000: must be"),
            (("project", "-w", ""), "--workspace: an empty name was given; is a variable unset?"),
            (("inspect", ""), "ARTIFACT: an empty name was given; is a variable unset?"),
            (("caption", "x.jpg", "--captioner", ""), "--captioner: an empty name was given"),
            (("caption", "x.jpg", "--clip="), "--clip: an empty name was given"),
            (("evaluate", "--references", ""), "--references: an empty name was given"),
            (("evaluate", "--references", "r.csv", "a.json", ""), "CAPTIONS: an empty name was"),
            (("report", ""), "SOURCES: an empty name was given"),
            (("report", "-o", "pages/"), "--output pages/: is the name of a folder; name a file"),
            (("export", "a.h5", "", "--to", "coco"), "TARGET: an empty name was given"),
            (("export", "a.h5", "coco/", "--to", "coco"), "TARGET coco/: is the name of a folder"),
            (("project", "-o", "plain/"), "--output plain/: is the name of a folder; name a file"),
            (("project", "-o", "."), ".: is a folder, not an artifact; give --output the name of"),
            (
                ("caption", "x.jpg", "-o", "captions/"),
                "--output captions/: is the name of a folder",
            ),
            (("run", "c.txt", "--references", "r.csv"), "--references r.csv: are of photos; name"),
            (("encode", "--no-such-option"), "No such option"),
            (("decode",), "No such command 'decode'"),
            (("synthesize",), "Missing argument"),
            (("caption", "x.jpg", "--format", "xml"), "Invalid value for '--format'"),
        )
    ),
    Row("size", lambda at: ["synthesize", at.corpus, "--size", 30], "--size 30: must be a multip"),
    Row("steps", lambda at: ["synthesize", at.corpus, "--steps", 0], "--steps 0: must be at least"),
    Row(
        "sample",
        lambda at: ["synthesize", at.corpus, "--sample", 2],
        "--sample 2.0: must be above 0",
    ),
    Row("beam", lambda at: ["caption", *at.photos, "--beam", 0], "--beam 0: must be at least 1"),
    Row("rerank", lambda at: ["caption", *at.photos, "--rerank", "nan"], "--rerank nan: must be"),
]

REFERENCES = [
    Row("references missing", option("evaluate", "--references", "no.csv"), "no.csv"),
    Row("references empty", referring("r.csv", ""), "r.csv: holds no refer"),
    Row("references without columns", referring("r.csv", "caption\n2\n"), "no field `image`"),
    Row("references ragged", referring("r.csv", "image,caption\na,b,c\n"), "line 2: 3 fields"),
    Row("references with a key twice",
        referring("r.json", '[{"image": "a", "caption": "a", "caption": "b"}]'),
        "r.json, entry 1: the key `caption` is there twice"),
    Row("COCO references with a key twice", referring("r.json", '{"images": [{"id": 1, "file_name":'
        ' "a", "file_name": "b"}], "annotations": [{"image_id": 1, "caption": "a"}]}'),
        "r.json, image 1: the key `file_name` is there twice"),
    Row("captions with a key twice", scored("c.jsonl", '{"path": "a", "path": "b", "caption": ""}'),
        "c.jsonl, line 1: the key `path` is there twice"),
    Row("references of nothing in cells", referring("r.csv", "image,caption\na.jpg,nan\n"),
        "only empty ones"),
    Row("references of a photo called NaN", referring("r.csv", "image,caption\nNaN,a dog\n"),
        "line 2: no photo beside the caption"),
    Row("captions of a program that writes NaN",
        lambda at: ["evaluate", at.file("c.csv", f"path,caption,error\n{at.photos[0].name},a,NaN\n"
        f"{at.photos[1].name},NaN,NaN\n"), "--references", good_references(at), "--metrics",
        "BLEU-1", "-o", "s.h5"], "1 caption is empty, of 2", 0),
    Row("references that are the captions", lambda at: ["evaluate", good := scored("c.json",
        '[{"image_id": 1, "caption": "a"}]')(at)[1], "--references", good],
        "is the same as the captions"),
    Row("what caption printed as references", referring("r.jsonl",
        '{"path": "a.jpg", "caption": "a dog", "log_probability": -1.5}'),
        "is what `syntic caption` printed, not references"),
    Row("what caption printed as a table", referring("r.csv",
        "path,caption,log_probability,objects,error,note\na.jpg,a dog,-1.5,,,\n"),
        "is what `syntic caption` printed, not references"),
    Row("references that may be results", lambda at: ["evaluate", "--references", at.file("r.json",
        json.dumps([{"image_id": photo.stem, "caption": "a"} for photo in at.photos])), "--metrics",
        "BLEU-1", "-o", "s.h5"], "r.json has one caption a photo, as results have", 0),
    Row("references of ids with a point", lambda at: ["evaluate", at.file("c.json",
        '[{"image_id": 7, "caption": "a"}]'), "--references", at.file("r.json",
        '[{"image_id": 7.0, "caption": "a"}, {"image_id": 7.0, "caption": "b"}]'), "--metrics",
        "BLEU-1", "-o", "s.h5"], "1 photo", 0),
    Row("references a pipe", lambda at: ["evaluate", "--references", fifo(at.folder)],
        "references are read from a file, not a stream; save them"),
    Row("references on standard input", option("evaluate", "--references", "-"),
        "-: references are read from a file, not a stream"),
    Row("captions a pipe", lambda at: ["evaluate", fifo(at.folder), "--references",
        good_references(at)], "captions are read from a file, not a stream"),
    Row("references malformed", referring("r.json", "{"), "r.json, line 1: malformed JSON"),
    Row("references of another kind", referring("r.json", '{"a": 1}'), "neither COCO captions"),
    Row("references of other photos", referring("r.csv", "image,caption\nz.jpg,b\n"), "none of"),
    Row(
        "references not UTF-8", referring("r.csv", b"image,caption\nz.jpg,caf\xe9\n"), "r.csv",
    ),
    Row("references a bomb", referring("r.csv.gz", BOMB), "r.csv.gz"),
    Row("references of plain text", referring("r.txt", "a dog\n"), "which names no photos"),
    Row("references of texts alone", referring("r.jsonl", '"a dog"\n'), "line 1: a bare str where"),
    Row("references all empty", referring("r.csv", "image,caption\na,\n"), "only empty ones"),
    Row("references without a photo", referring("r.tsv", "path\ttext\n\ta\n"), "line 2: no photo"),
    Row("references with a null photo", referring("r.json", '[{"path": null, "text": "a"}]'),
        "entry 1: no `path` that"),
    Row("references of another suffix", referring("r.xlsx", "a"), "reads no .xlsx references"),
    Row("references a web page", referring("r.json", "<html>"), "is a web page"),
    Row("COCO boxes as references",
        referring("r.json", '{"annotations": [{"image_id": 1, "bbox": []}]}'),
        "annotation 1: no field `caption`"),
    Row("COCO of other images", referring("r.json", '{"images": [{"id": 1}], "annotations":'
        ' [{"image_id": 2, "caption": "a"}]}'), "image_id 2 is not among its"),
    Row("splits of references without", lambda at: ["evaluate", "--references", good_references(at),
        "--split", "test"], "no field `split`"),
    Row("captions of two for a photo", scored("c.json", '[{"path": "a", "caption": "b"},'
        ' {"path": "a", "caption": "c"}]'), "entry 2: a has a caption in entry 1, too"),
    Row("captions that all failed",
        scored("c.json", '[{"path": "a", "caption": "", "error": "e"}]'),
        "no photo in it has a caption"),
    Row("captions without a text", scored("c.json", '[{"path": "a"}]'), "no field `caption`"),
    Row(
        "metric unknown",
        lambda at: ["evaluate", "--references", good_references(at), "--metrics", "FAME"], "FAME",
    ),
    Row(
        "captions malformed",
        lambda at: ["evaluate", at.file("c.json", "[}"), "--references", good_references(at)],
        "c.json, line 1: malformed JSON",
    ),
]  # fmt: skip

ROWS = [*CORPUS, *PHOTOS, *ARTIFACTS, *MODELS, *PRESETS, *OPTIONS, *REFERENCES]


def fifo(folder: Path) -> Path:
    """A pipe that nobody writes to: opening it would wait for ever."""
    os.mkfifo(folder / "pipe.jpg")
    return folder / "pipe.jpg"


def link_to(folder: Path, target: str) -> Path:
    (folder / "link.h5").symlink_to(target)
    return folder / "link.h5"


def good_references(at: Place) -> Path:
    lines = [f"{photo.name},a square" for photo in at.photos]
    return at.file("good.csv", "\n".join(["image,caption", *lines]))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, finished: Path, micro_preset: Path) -> Path:
    """A workspace of another corpus."""
    from .conftest import run_in_process

    folder = tmp_path_factory.mktemp("other")
    (folder / "c.txt").write_text("a red car\na blue car\n")
    here = ["-w", folder, "-q"]
    for command in (["synthesize", folder / "c.txt", "--preset", micro_preset], ["detect"]):
        assert run_in_process(*command, *here).exit_code == 0
    return folder


@pytest.fixture
def place(
    tmp_path: Path,
    finished: Path,
    photos: list[Path],
    corpus_file: Path,
    other: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Place]:
    """A folder to work in, and links to the finished artifacts: a stage never writes into a file
    that is there, so whatever happens to the link does not happen to the file."""
    workspace, folder = tmp_path / "run", tmp_path / "files"
    workspace.mkdir()
    folder.mkdir()
    for path in finished.iterdir():
        if path.suffix == ".h5":
            os.link(path, workspace / path.name)
    shutil.copy(finished / "workspace.json", workspace)
    monkeypatch.chdir(folder)
    yield Place(folder, workspace, photos, corpus_file, other)
    shutil.rmtree(tmp_path, ignore_errors=True)


def state(workspace: Path) -> dict[str, tuple[int, int, int]]:
    """Which files there are, and whether one has been written since."""
    found = {}
    for path in sorted(workspace.rglob("*")):
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and "lock" not in path.name:
            found[path.name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_bad_input(row: Row, place: Place, run_cli: RunCli, micro_preset: Path) -> None:
    workspace = place.folder / "new" if row.new else place.workspace
    before = state(workspace)
    arguments = [*row.command(place)]
    if row.new and arguments[0] == "synthesize":
        arguments += ["--preset", micro_preset]
    if row.new or (arguments[0] in STAGES and "-w" not in arguments and len(arguments) > 1):
        arguments += ["-w", workspace]

    result = run_cli(*arguments)

    said = " ".join(result.stderr.replace("│", " ").split())
    assert result.exit_code == row.code, result.stderr
    assert row.says in said
    assert "Traceback" not in result.stderr
    if row.code:
        assert result.stdout == ""
        assert_one_error(result.stderr)
        assert {k: v for k, v in state(workspace).items() if k != "workspace.json"} == {
            k: v for k, v in before.items() if k != "workspace.json"
        }
    assert_works(place, run_cli)


def assert_one_error(stderr: str) -> None:
    """One line that says what went wrong, last; Typer draws a box where an option is unknown."""
    if stderr.startswith("Usage:") or stderr.lstrip().startswith("Usage:"):
        return
    lines = stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == [lines[-1]], stderr


def assert_works(place: Place, run_cli: RunCli) -> None:
    """The workspace holds what it held, and the stages know it."""
    commands: list[list[object]] = [["synthesize", place.corpus], ["project"]]
    for command in commands:
        result = run_cli(*command, "-w", place.workspace)
        assert result.exit_code == 0, result.stderr
        assert "is up to date" in result.stderr
    with Artifact(place.workspace / "captions.h5", "caption") as captions:
        assert captions.rows >= 3
    assert not [path for path in place.workspace.iterdir() if path.suffix in (".parts", ".tmp")]


def test_the_table_is_long_enough() -> None:
    assert len(ROWS) >= 40
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_bad_photos_keep_their_place_among_good_ones(place: Place, run_cli: RunCli) -> None:
    bad = [place.cut_photo(), place.file("zero.jpg"), place.link("link.jpg")]
    names = [place.photos[0], *bad, place.photos[1]]
    result = run_cli("caption", *names, "-w", place.workspace, "-f", "jsonl", "-o", "c.h5")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["path"] for row in rows] == [str(name) for name in names]
    assert [bool(row["error"]) for row in rows] == [False, True, True, True, False]
    assert [bool(row["caption"]) for row in rows] == [True, False, False, False, True]
    assert "3 of 5 photos failed" in result.stderr


def test_a_name_with_newlines_is_captioned(place: Place, run_cli: RunCli) -> None:
    odd = place.file("two\nlines.jpg", place.photos[0].read_bytes())
    result = run_cli("caption", odd, "-w", place.workspace, "-f", "jsonl", "-o", "c.h5")
    assert result.exit_code == 0
    [row] = [json.loads(line) for line in result.stdout.splitlines()]
    assert row["path"] == str(odd)
    assert row["caption"]
    table = run_cli("caption", odd, "-w", place.workspace, "-o", "c.h5").stdout
    assert r"two\nlines.jpg" in table.replace(" ", "").replace("\n", "")


def test_odd_texts_go_through_the_whole_chain(
    place: Place, run_cli: RunCli, micro_preset: Path
) -> None:
    odd = [LONG, "🐕🌲", "كلب في الثلج", "a\0dog", "é́́́", *CAPTIONS[:6]]
    corpus = place.file("odd.txt", "\n".join(odd))
    here = ["-w", place.folder / "odd", "-q"]
    commands: list[list[object]] = [["synthesize", corpus, "--preset", micro_preset]]
    commands += [[stage] for stage in ("encode", "optimize", "detect", "project", "train")]
    for command in [*commands, ["caption", place.photos[0]]]:
        result = run_cli(*command, *here)
        assert result.exit_code == 0, result.stderr
    with Artifact(place.folder / "odd" / "captioner.h5") as captioner:
        kept = captioner.texts("support_captions")
    assert kept == [LONG.strip(), *odd[1:3], "a dog", *odd[4:]]
