"""References: every format read, every photo found by name or id, every bad entry named."""

from __future__ import annotations

import csv
import gzip
import json
import unicodedata
from pathlib import Path

import pytest

from syntic_cli.errors import DamagedError, MissingError, SynticError
from syntic_cli.metrics.references import References, load_candidates, load_references, match

COCO = {
    "images": [
        {"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"},
        {"id": 522418, "file_name": "COCO_val2014_000000522418.jpg"},
        {"id": 7, "file_name": "COCO_val2014_000000000007.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 391895, "caption": "a man on a moped"},
        {"id": 2, "image_id": 522418, "caption": "a woman cuts a cake"},
        {"id": 3, "image_id": 391895, "caption": "a man with a helmet"},
    ],
}
KARPATHY = {
    "dataset": "flickr8k",
    "images": [
        {"filename": "1_a.jpg", "imgid": 0, "split": "train", "sentences": [{"raw": "one ."}]},
        {
            "filename": "2_b.jpg",
            "imgid": 1,
            "split": "test",
            "sentences": [{"raw": "two", "tokens": ["two"]}, {"raw": "zwei"}],
        },
        {"filename": "3_c.jpg", "imgid": 2, "split": "val", "sentences": [{"raw": "three"}]},
    ],
}
CSV = 'image,split,caption\na.jpg,train,"One, two"\na.jpg,train,"three\nfour"\n\nb.jpg,test,five\n'


def _write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def _references(tmp_path: Path, content: object) -> References:
    return load_references(_write(tmp_path, "refs.json", content))


def _named(*keys: str) -> References:
    return References("refs", {key: [f"of {key}"] for key in keys})


def test_coco(tmp_path: Path) -> None:
    references = _references(tmp_path, COCO)
    assert references.captions == {
        "COCO_val2014_000000391895.jpg": ["a man on a moped", "a man with a helmet"],
        "COCO_val2014_000000522418.jpg": ["a woman cuts a cake"],
    }
    assert references.find_id("391895") == "COCO_val2014_000000391895.jpg"
    assert references.find_id("7") is None


def test_coco_without_images(tmp_path: Path) -> None:
    references = _references(tmp_path, {"annotations": COCO["annotations"]})
    assert list(references.captions) == ["391895", "522418"]
    assert references.find("x/COCO_val2014_000000391895.jpg") == "391895"
    assert references.find("000000391895.png") == "391895"


def test_karpathy_by_split(tmp_path: Path) -> None:
    path = _write(tmp_path, "dataset.json", KARPATHY)
    assert load_references(path, "test").captions == {"2_b.jpg": ["two", "zwei"]}
    assert list(load_references(path, "train, val").captions) == ["1_a.jpg", "3_c.jpg"]
    assert len(load_references(path).captions) == 3
    assert load_references(path).find_id("2") == "3_c.jpg"
    with pytest.raises(
        SynticError, match=r"dataset\.json has no split tset; there are: test, train"
    ):
        load_references(path, "tset")


def test_karpathy_coco_ids(tmp_path: Path) -> None:
    image = {"filename": "COCO_val2014_000000000009.jpg", "cocoid": 9, "imgid": 0}
    references = _references(tmp_path, {"images": [{**image, "sentences": [{"raw": "a"}]}]})
    assert references.ids == {"9": "COCO_val2014_000000000009.jpg"}


def test_csv(tmp_path: Path) -> None:
    path = _write(tmp_path, "refs.csv", CSV)
    assert load_references(path).captions == {
        "a.jpg": ["One, two", "three\nfour"],
        "b.jpg": ["five"],
    }
    assert list(load_references(path, "test").captions) == ["b.jpg"]


@pytest.mark.parametrize("image", ["image", "path", "file", "filename", "file_name", "image_id"])
@pytest.mark.parametrize("caption", ["caption", "text", "sentence"])
def test_csv_columns(tmp_path: Path, image: str, caption: str) -> None:
    path = _write(tmp_path, "refs.csv", f"n, {image.upper()} ,{caption}\r\n1,42,A\u2028b\0c\r\n")
    references = load_references(path)
    assert references.captions == {"42": ["A\u2028b c"]}
    assert references.find("photos/000000000042.jpg") == "42"


def test_byte_order_mark(tmp_path: Path) -> None:
    assert len(load_references(_write(tmp_path, "a.csv", "\ufeff" + CSV)).captions) == 2
    content = "\ufeff" + json.dumps(COCO)
    assert len(load_references(_write(tmp_path, "a.json", content)).captions) == 2
    content = "\ufeff" + json.dumps([{"image_id": 1, "caption": "a"}])
    assert load_candidates(_write(tmp_path, "b.json", content)) == [("1", "a")]


def _every_format(folder: Path) -> list[Path]:
    rows = [("a.jpg", "A dog"), ("a.jpg", 'A "cat"'), ("b.jpg", "A bird")]
    objects = [{"Image": photo, "Sentence": text} for photo, text in rows]
    names = ("x.csv", "x.tsv", "excel.csv", "captions.txt")
    tables = [_write(folder, name, "") for name in names]
    for path, delimiter in zip(tables, (",", "\t", ";", ","), strict=True):
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter).writerows([("Image", "CAPTION"), *rows])
    lines = "".join(f"{photo}#{i}\t{text}\n" for i, (photo, text) in enumerate(rows))
    sentences = {photo: [{"raw": t} for p, t in rows if p == photo] for photo, _ in rows}
    images = [{"filename": photo, "sentences": texts} for photo, texts in sentences.items()]
    return [
        *tables,
        _write(folder, "x.token", lines),
        _write(folder, "token.txt", lines),
        _write(folder, "x.jsonl", "\n".join(map(json.dumps, objects))),
        _write(folder, "pretty.jsonl", json.dumps(objects, indent=1)),
        _write(folder, "x.json", objects),
        _write(folder, "karpathy.json", {"images": images}),
    ]


def test_every_format_gives_the_same_references(tmp_path: Path) -> None:
    expected = {"a.jpg": ["A dog", 'A "cat"'], "b.jpg": ["A bird"]}
    for path in _every_format(tmp_path):
        assert load_references(path).captions == expected, path.name
        packed = path.with_name(f"{path.name}.gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert load_references(packed).captions == expected, packed.name
        wide = path.with_name(f"wide-{path.name}")
        wide.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))
        assert load_references(wide, encoding="utf-16").captions == expected, wide.name


def test_splits_of_every_table(tmp_path: Path) -> None:
    rows = [
        {"path": "a.jpg", "Split": "test", "text": "A"},
        {"path": "b", "Split": "v", "text": "B"},
    ]
    lines = _write(tmp_path, "x.jsonl", "\n".join(map(json.dumps, rows)))
    table = _write(tmp_path, "x.tsv", "path\tSPLIT\ttext\na.jpg\ttest\tA\nb\tv\tB\n")
    for path in (lines, table):
        assert load_references(path, "test").captions == {"a.jpg": ["A"]}
        with pytest.raises(SynticError, match="has no split w; there are: test, v"):
            load_references(path, "w")


def test_empty_captions_are_left_out_and_their_photos_named(tmp_path: Path) -> None:
    path = _write(tmp_path, "x.csv", 'image,caption\na,A dog\na," "\nb,\u200b\nc,\nc,A cat\n\n,\n')
    references = load_references(path)
    assert references.captions == {"a": ["A dog"], "c": ["A cat"]}
    [note] = references.notes
    assert f"3 empty captions are left out of {path}, of a, b, c; 1 photo has no other" in note
    assert note.endswith("not scored: b")
    images = [
        {"filename": "a.jpg", "sentences": [{"raw": "A dog"}]},
        {"filename": "b.jpg", "sentences": []},
        {"filename": "c.jpg", "sentences": [{"raw": None}, {"raw": "A cat"}]},
    ]
    references = _references(tmp_path, {"images": images})
    assert list(references.captions) == ["a.jpg", "c.jpg"]
    assert "of b.jpg, c.jpg; 1 photo has no other and is not scored: b.jpg" in references.notes[0]
    annotations = [*COCO["annotations"], {"image_id": 7, "caption": ""}]
    references = _references(tmp_path, {**COCO, "annotations": annotations})
    assert len(references.captions) == 2
    assert references.find_id("7") is None
    assert references.notes[0].startswith("1 empty caption is left out of ")
    assert _references(tmp_path, COCO).notes == []


def test_columns_named_again_are_no_captions(tmp_path: Path) -> None:
    rows = "image,caption\na.jpg,one\nimage,caption\nb.jpg,two\n"
    path = _write(tmp_path, "x.csv", rows)
    references = load_references(path)
    assert references.captions == {"a.jpg": ["one"], "b.jpg": ["two"]}
    assert references.notes == [f"{path}, line 3: names the columns again; left out"]
    assert load_candidates(path).notes == references.notes


def test_captions_that_vizwiz_rejects_are_counted(tmp_path: Path) -> None:
    annotations = [
        {**annotation, "is_rejected": annotation["id"] == 2} for annotation in COCO["annotations"]
    ]
    references = _references(tmp_path, {**COCO, "annotations": annotations})
    [note] = references.notes
    assert "1 caption is marked `is_rejected`" in note
    assert len(references.captions) == 2


def test_lists_in_cells_are_no_captions(tmp_path: Path) -> None:
    """As the published table of Flickr30k has them."""
    row = 'raw,filename\n"[""Two men ."", ""Two dogs .""]",1.jpg\n'
    with pytest.raises(SynticError, match="line 2: `raw` holds a list, not a text"):
        load_references(_write(tmp_path, "x.csv", row))


def test_a_name_decomposed_is_the_same_name(tmp_path: Path) -> None:
    name = "Ång Café 가.jpg"
    composed, decomposed = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    assert composed != decomposed
    for mine, theirs in ((composed, decomposed), (decomposed, composed)):
        rows = f"image,caption\n{theirs},one\n{mine},two\né/x.jpg,three\nf/x.jpg,four\n"
        references = load_references(_write(tmp_path, "x.csv", rows))
        assert references.captions[composed] == ["one", "two"]
        matched = match([(f"/photos/{mine}", "a")], references)
        assert matched.references == [["one", "two"]]
        assert _named(theirs).find(f"x/{mine[:-4]}.png") == theirs
        assert references.find(unicodedata.normalize("NFD", "/a/é/x.jpg")) == "é/x.jpg"


# As `syntic caption` prints them; the second photo could not be read.
PRINTED = {
    "csv": (
        "path,caption,log_probability,objects,error\n"
        'x/a.jpg,"a dog, red",-3.1000,dog;ball,\nx/b.jpg,,,,b.jpg is empty\nx/c.jpg,,-9.0,,\n'
    ),
    "jsonl": (
        '{"path": "x/a.jpg", "caption": "a dog, red", "log_probability": -3.1, "objects":'
        ' [{"label": "dog", "score": 0.9, "box": [0, 0, 1, 1]}], "error": ""}\n'
        '{"path": "x/b.jpg", "caption": "", "log_probability": null, "objects": [], "error": "b"}\n'
        '{"path": "x/c.jpg", "caption": "", "log_probability": -9, "objects": [], "error": ""}\n'
    ),
}
PRINTED["json"] = json.dumps([json.loads(line) for line in PRINTED["jsonl"].splitlines()], indent=1)


@pytest.mark.parametrize("format", ["csv", "jsonl", "json"])
def test_candidates_as_caption_prints_them(tmp_path: Path, format: str) -> None:
    candidates = load_candidates(_write(tmp_path, f"c.{format}", PRINTED[format]))
    assert candidates == [("x/a.jpg", "a dog, red"), ("x/c.jpg", "")]
    assert candidates.notes == [
        f"1 photo has no caption in {tmp_path / f'c.{format}'} and is left out"
    ]
    matched = match(candidates, _named("a.jpg", "b.jpg"))
    assert (matched.ids, matched.missing) == (["x/a.jpg"], ["b.jpg"])


def test_printed_captions_are_candidates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from syntic_cli.captioner import Caption
    from syntic_cli.printing import print_captions

    captions = [
        Caption("x/a, b.jpg", 'a "dog", red', -3.0, [], ""),
        Caption("x/cafe\u0301.jpg", "", float("nan"), [], "it is empty"),
        Caption("x/c.jpg", "a cat", -2.0, [], ""),
    ]
    expected = [("x/a, b.jpg", 'a "dog", red'), ("x/c.jpg", "a cat")]
    photos = [caption.path for caption in captions]
    for format in ("csv", "json", "jsonl", "txt"):
        print_captions(captions, format)
        path = _write(tmp_path, f"c.{format}", capsys.readouterr().out)
        candidates = load_candidates(path, photos=photos if format == "txt" else None)
        assert candidates == expected, format
        assert len(candidates.notes) == 1


def test_a_column_without_a_name_is_no_error_column(tmp_path: Path) -> None:
    """As pandas writes its index."""
    path = tmp_path / "c.csv"
    path.write_text(",image_id,caption\n0,a.jpg,a dog\n1,b.jpg,a cat\n")
    assert load_candidates(path) == [("a.jpg", "a dog"), ("b.jpg", "a cat")]


def test_lines_beside_photos(tmp_path: Path) -> None:
    path = _write(tmp_path, "c.txt", "a dog\n\n\u200b\na cat\n")
    candidates = load_candidates(path, photos=[Path("a.jpg"), "b.jpg", "c.jpg", "d.jpg"])
    assert candidates == [("a.jpg", "a dog"), ("d.jpg", "a cat")]
    assert candidates.notes == [f"2 photos have no caption in {path} and are left out"]
    with pytest.raises(SynticError, match=r"c\.txt is plain text, .* --photos"):
        load_candidates(path)
    with pytest.raises(SynticError, match="has 4 lines for 1 photo;"):
        load_candidates(path, photos=["a.jpg"])
    with pytest.raises(SynticError, match="names its photos itself: omit --photos"):
        load_candidates(_write(tmp_path, "c.csv", PRINTED["csv"]), photos=["a.jpg"])
    with pytest.raises(SynticError, match="no photo in it has a caption"):
        load_candidates(_write(tmp_path, "e.txt", "\n\n"), photos=["a.jpg", "b.jpg"])


@pytest.mark.parametrize(
    ("photo", "key"),
    [
        ("val/1.jpg", "val/1.jpg"),
        ("/data/val/1.jpg", "val/1.jpg"),
        (r"C:\data\train\1.jpg", "train/1.jpg"),
        ("dog.jpg", "pets/dog.jpg"),
        ("/else/dog.jpg", "pets/dog.jpg"),
        ("/else/dog.PNG", "pets/dog.jpg"),
        ("2513260012_03d33305cf.jpg", "2513260012_03d33305cf"),
        ("/x/COCO_val2014_000000123456.jpg", "000000123456.jpg"),
        ("123456.webp", "000000123456.jpg"),
        ("COCO_train2014_000000000099.jpg", "99"),
        ("1000_1234567890.jpg", None),
        ("1234567890.jpg", "1234567890"),
        ("x_123456.jpg", None),
        ("cat.jpg", None),
        ("", None),
    ],
)
def test_finding_a_photo(photo: str, key: str | None) -> None:
    references = _named(
        *("train/1.jpg", "val/1.jpg", "pets/dog.jpg", "2513260012_03d33305cf"),
        *("000000123456.jpg", "99", "1234567890"),
    )
    assert references.find(photo) == key


def test_an_ambiguous_name_is_not_guessed() -> None:
    with pytest.raises(SynticError, match=r"refs: 1\.jpg could be train/1\.jpg or val/1\.jpg"):
        _named("train/1.jpg", "val/1.jpg").find("1.jpg")


def test_matching_keeps_the_order_and_names_what_is_left_out() -> None:
    references = _named("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    candidates = [("x/c.jpg", "sea"), ("x/z.jpg", "zoo"), ("x/a.jpg", "")]
    matched = match(candidates, references)
    assert matched.ids == ["x/c.jpg", "x/a.jpg"]
    assert matched.captions == ["sea", ""]
    assert matched.references == [["of c.jpg"], ["of a.jpg"]]
    assert matched.missing == ["b.jpg", "d.jpg"]
    assert matched.extra == ["x/z.jpg"]


def test_nothing_matches() -> None:
    matched = match([("q.jpg", "a")], _named("a.jpg"))
    assert (matched.ids, matched.missing, matched.extra) == ([], ["a.jpg"], ["q.jpg"])


def test_two_captions_of_a_photo() -> None:
    with pytest.raises(SynticError, match=r"a\.jpg has two captions, of x/a\.jpg and of y/a\.jpg"):
        match([("x/a.jpg", "one"), ("y/a.jpg", "two")], _named("a.jpg"))


def test_ids_and_numbers_in_names_are_not_mixed_up() -> None:
    keys = [f"{number:012}.jpg" for number in (500, 3, 9, 8)]
    references = References("refs", {key: [key] for key in keys}, {"1": keys[0], "2": keys[1]})
    # These are the file's own ids; 3 is none of them, though a photo is numbered so.
    matched = match([("1", "a"), ("2", "b"), ("3", "c")], references)
    assert (matched.references, matched.extra) == ([[keys[0]], [keys[1]]], ["3"])
    # These can only be the numbers of the files.
    matched = match([("8", "a"), ("500", "b"), ("3", "c")], references)
    assert matched.references == [[keys[3]], [keys[0]], [keys[1]]]


def test_candidates(tmp_path: Path) -> None:
    entries = [{"image_id": 5, "caption": " a"}, {"image_id": "b.jpg", "caption": "", "id": 3}]
    assert load_candidates(_write(tmp_path, "c.json", entries)) == [("5", " a"), ("b.jpg", "")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no caption"),
        ({"a": 1}, "neither COCO captions"),
        ([{"image_id": 1}], "entry 1: no field `caption` .* there are: image_id;"),
        ([{"image_id": 1, "caption": 5}], "entry 1: `caption` holds a int, not a text"),
        ([{"image_id": 1, "caption": None}], r"entry 1 \(1\): no text for a caption"),
        ('[{"image_id": 1, "caption": NaN}]', r"entry 1 \(1\): no text for a caption"),
        ([{"image_id": 1, "caption": "a"}, {"caption": "b"}], "entry 2: no field `image_id`"),
        ([{"path": None, "caption": "a"}], "entry 1: no `path` that is a number or a text"),
        ([{"path": ["x"], "caption": "a"}], "entry 1: no `path` that is a number or a text"),
        ([{"image_id": True, "caption": "a"}], "entry 1: no `image_id`"),
        (["a"], "entry 1: a bare str where an object with `caption` and `image_id` is"),
        (
            [{"image_id": i, "caption": "a"} for i in (1, "1")],
            "entry 2: 1 has a caption in entry 1, too",
        ),
        ('[{"image_id": 1,\n}]', "line [12]: malformed JSON"),
        ("[" * 100_000, "malformed JSON"),
        ("", "holds no caption"),
        (
            [{"path": "cafe\u0301", "caption": "a"}, {"path": "caf\u00e9", "caption": ""}],
            "entry 2: ",
        ),
        ([{"path": "a", "caption": "", "error": "is empty"}], "no photo in it has a caption"),
        ([{"path": "a\nb", "caption": "x"}] * 2, r"entry 2: a\\nb has a caption"),
    ],
)
def test_bad_candidates(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(SynticError, match=rf"c\.json.*{message}") as error:
        load_candidates(_write(tmp_path, "c.json", content))
    assert "\n" not in str(error.value)


def _coco(**changes: object) -> dict[str, object]:
    return {**COCO, **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "neither COCO captions"),
        ([1], "entry 1: a bare int where an object with `caption` and `image` is expected"),
        (_coco(annotations=[]), "holds no reference caption"),
        (_coco(annotations=[{"image_id": 7, "bbox": []}]), "annotation 1: no field `caption`"),
        (_coco(annotations=[{"image_id": 7, "caption": 3}]), "annotation 1: `caption` holds a int"),
        (_coco(annotations=[{"image_id": 7, "caption": " "}]), "no reference caption, only empty"),
        (_coco(annotations=[{"caption": "a"}]), "annotation 1: no field `image_id`"),
        (
            _coco(annotations=[{"image_id": 1.5, "caption": "a"}]),
            "annotation 1: no `image_id` that",
        ),
        (_coco(images=[3]), "image 1: a bare int"),
        (_coco(annotations=[{"image_id": 8, "caption": "a"}]), "annotation 1: image_id 8 is not"),
        (_coco(annotations=[3]), "annotation 1: a bare int"),
        (_coco(images=[{"id": 1, "file_name": "a"}] * 2), "image 2: id 1 or file a is there twice"),
        (_coco(images=[{"id": 1, "file_name": 3}]), "image 1 .*`file_name`"),
        ({"images": [{"id": 1}]}, "image 1: no list of `sentences`"),
        ({"images": [{"filename": "a", "sentences": []}]}, "holds no reference caption, only"),
        (
            {"images": [{"sentences": [{"raw": "a"}]}]},
            "image 1: no field `filename` or `file_name`",
        ),
        (
            {"images": [{"filename": "a", "sentences": [{}]}]},
            "image 1: no field `caption` or .* or `raw`",
        ),
        ({"images": [{"filename": "a", "sentences": [{"raw": "b"}]}] * 2}, "image 2: a is there"),
        ("{", "line 1: malformed JSON"),
    ],
)
def test_bad_json_references(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(SynticError, match=rf"refs\.json.*{message}"):
        _references(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ": holds no reference caption"),
        ("image,caption\n", ": holds no reference caption"),
        ("photo,caption\na,b\n", r", line 1: no field `image` or .*there are: caption, photo"),
        ("image,words\na,b\n", ", line 1: no field `caption` or .*there are: image, words"),
        ("image,caption\na,b\nc\n", ", line 3: 1 field where the first row names 2"),
        ("image,caption\na,b,c\n", ", line 2: 3 fields"),
        ("image,caption\na,\n", ": holds no reference caption, only empty ones"),
        ("image,caption\n,a\n", ", line 2: no photo beside the caption"),
        ("image;caption\na;b;c\n", ", line 2: 3 fields"),
        ('image,caption\na,"b\n', ", line [23]: malformed table"),
    ],
)
def test_bad_csv_references(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(SynticError, match=rf"refs\.csv{message}"):
        load_references(_write(tmp_path, "refs.csv", content))


def test_split_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(SynticError, match="omit --split"):
        load_references(_write(tmp_path, "a.json", COCO), "test")
    with pytest.raises(SynticError, match="omit --split"):
        load_references(_write(tmp_path, "a.csv", "image,caption\na,b\n"), "test")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        load_references(tmp_path / "none.json")
    with pytest.raises(SynticError, match="is a folder: name the captions file in it"):
        load_candidates(tmp_path)
    with pytest.raises(SynticError, match=r"reads no \.docx references"):
        load_references(_write(tmp_path, "refs.docx", "text"))
    with pytest.raises(SynticError, match="plain text, which names no photos"):
        load_references(_write(tmp_path, "refs.txt", "a dog\n"))
    bomb = tmp_path / "bomb.csv.gz"
    row = "a.jpg," + "dog " * 2_500 + "\n"
    bomb.write_bytes(gzip.compress(b"image,caption\n" + row.encode() * 4_000))
    with pytest.raises(DamagedError, match="unpacks to more than 32 MB"):
        load_references(bomb)
    with pytest.raises(SynticError, match="--encoding klingon: no such text encoding"):
        load_references(_write(tmp_path, "refs.csv", CSV), encoding="klingon")
    path = tmp_path / "latin.csv"
    path.write_bytes("image,caption\na,b\nc,café\n".encode("latin-1"))
    with pytest.raises(
        SynticError, match=r"latin\.csv, line 3: the byte 0xe9 at offset 23 is not utf"
    ):
        load_references(path)
    assert load_references(path, encoding="cp1252").captions["c"] == ["café"]
