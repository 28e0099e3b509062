"""References: every format read, every photo found by name or id, every bad entry named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from syntic_cli.errors import SynticError
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
    with pytest.raises(SynticError, match=r"dataset\.json: no split tset; there are: test, train"):
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
        ({"a": 1}, "not a COCO results file"),
        ([{"image_id": 1}], r"entry 1 \(image_id 1\): no text `caption`"),
        ([{"image_id": 1, "caption": 5}], r"entry 1 \(image_id 1\): no text `caption`"),
        ([{"image_id": 1, "caption": "a"}, {"caption": "b"}], "entry 2: no `image_id`"),
        ([{"image_id": True, "caption": "a"}], "entry 1: no `image_id`"),
        (["a"], "entry 1: no `image_id`"),
        ([{"image_id": i, "caption": "a"} for i in (1, "1")], "entry 2: image_id 1 .* entry 1"),
        ('[{"image_id": 1,\n}]', "line [12]: malformed JSON"),
        ("[" * 100_000, "malformed JSON"),
        ("", "line 1: malformed JSON"),
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
        ([1], "neither COCO captions"),
        (_coco(annotations=[]), "holds no reference caption"),
        (_coco(annotations=[{"image_id": 7, "bbox": []}]), "annotation 1: no text `caption`"),
        (_coco(annotations=[{"image_id": 7, "caption": " "}]), "annotation 1: no text `caption`"),
        (_coco(annotations=[{"image_id": 8, "caption": "a"}]), "annotation 1: image_id 8 is not"),
        (_coco(annotations=[3]), "annotation 1: no `image_id`"),
        (_coco(images=[{"id": 1, "file_name": "a"}] * 2), "image 2: id 1 or file a is there twice"),
        (_coco(images=[{"id": 1, "file_name": 3}]), "image 1 .*`file_name`"),
        ({"images": [{"id": 1}]}, "image 1: no list of `sentences`"),
        ({"images": [{"filename": "a", "sentences": []}]}, r"image 1 \(a\): no caption"),
        ({"images": [{"sentences": [{"raw": "a"}]}]}, "image 1: no text `filename`"),
        ({"images": [{"filename": "a", "sentences": [{}]}]}, "image 1: no text `raw`"),
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
        ("", ": is empty"),
        ("image,caption\n", ": holds no reference caption"),
        ("photo,caption\na,b\n", r", line 1: no column of images .*there are: photo, caption"),
        ("image,words\na,b\n", ", line 1: no column of captions"),
        ("image,caption\na,b\nc\n", ", line 3: 1 fields where the first row names 2"),
        ("image,caption\na,b,c\n", ", line 2: 3 fields"),
        ("image,caption\na,\n", ", line 2: no image or no caption"),
        ("image,caption\n,a\n", ", line 2: no image or no caption"),
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
    with pytest.raises(SynticError, match="no such file"):
        load_references(tmp_path / "none.json")
    with pytest.raises(SynticError, match="cannot be read"):
        load_candidates(tmp_path)
    path = tmp_path / "latin.csv"
    path.write_bytes("image,caption\na,b\nc,café\n".encode("latin-1"))
    with pytest.raises(SynticError, match=r"latin\.csv, line 3: not UTF-8"):
        load_references(path)
