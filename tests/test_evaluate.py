"""The evaluate stage: several files of captions, a dual encoder's scores, what is stored."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from syntic_cli.artifacts.reading import Artifact
from syntic_cli.metrics import compare, corenlp, score_files
from syntic_cli.metrics.results import mean_of
from syntic_cli.models.clip import load_clip
from syntic_cli.photos import load_photo
from syntic_cli.settings import EncodeSettings

from .conftest import RunCli

TEXTS = [
    ("red.jpg", ["a red square", "something red"]),
    ("green.jpg", ["a green square", "all of it is green"]),
    ("blue.jpg", ["a blue square", "the blue sky"]),
    ("white.jpg", ["a white square", "snow"]),
    ("black.jpg", ["a black square", "it is night"]),
]


def _references(folder: Path, texts: Sequence[tuple[str, list[str]]]) -> Path:
    path = folder / "references.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        rows.writerows([photo, text] for photo, captions in texts for text in captions)
    return path


def _results(path: Path, captions: dict[str, str]) -> Path:
    entries = [{"image_id": photo, "caption": text} for photo, text in captions.items()]
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """References of five photos, and two captioners of four each, three of them the same."""
    references = _references(tmp_path, TEXTS)
    colours = {photo: f"a {photo[:-4]} square" for photo, _ in TEXTS}
    good = _results(tmp_path / "good.json", {p: t for p, t in colours.items() if p != "black.jpg"})
    bad = {"black.jpg": "a cat", "green.jpg": "a square", "blue.jpg": "a dog", "red.jpg": "red cat"}
    return references, good, _results(tmp_path / "bad.json", bad)


METRICS = ("BLEU-1", "METEOR", "ROUGE-L", "CIDEr")


def test_two_captioners_side_by_side(
    run_cli: RunCli, files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    references, good, bad = files
    command = ["evaluate", bad, good, "--references", references, "-w", tmp_path / "run"]
    command += ["--metrics", ",".join(METRICS), "--bootstrap", "150", "--seed", "5"]
    result = run_cli(*command, "--format", "json")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    # Those that both caption, in the first file's order, scored as by hand.
    order = [1, 2, 0]
    captions = [["a square", "a dog", "red cat"], [TEXTS[row][1][0] for row in order]]
    one, other = score_files(captions, [TEXTS[row][1] for row in order], METRICS)
    assert printed["n"] == 3
    assert printed["metrics"] == pytest.approx(one.corpus)
    (second,) = printed["others"]
    assert printed["captions"].endswith("bad.json")
    assert second["captions"].endswith("good.json")
    assert second["metrics"] == pytest.approx(other.corpus)
    for name, found in compare(one, other, 150, 5).items():
        expected = {"value": found.value, "low": found.low, "high": found.high}
        assert second["differences"][name] == pytest.approx(expected)
        assert found.value > 0
    assert sorted(printed["missing"]) == ["black.jpg", "white.jpg"]
    with Artifact(tmp_path / "run" / "scores.h5") as artifact:
        assert artifact.texts("path") == ["green.jpg", "blue.jpg", "red.jpg"]
        for group, scores in (("per_image", one), ("per_image_2", other)):
            for name, items in scores.per_item.items():
                np.testing.assert_allclose(artifact.group(group)[name], items)
    again = run_cli(*command)
    assert "up to date" in again.stderr
    table = again.stdout.splitlines()
    assert table[0].split() == ["metric", "bad", "good", "good", "−", "bad", "(95", "%)"]
    assert [line.split()[0] for line in table[1:]] == list(METRICS)
    found = compare(one, other, 150, 5)["ROUGE-L"]
    assert f"{found.value:+.2f} ({found.low:+.2f} … {found.high:+.2f})" in table[3]


def test_other_files_or_other_samples_are_another_evaluation(
    run_cli: RunCli, files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    references, good, bad = files
    rest = ["--references", references, "-w", tmp_path / "run", "--metrics", "ROUGE-L"]
    assert run_cli("evaluate", good, *rest).exit_code == 0
    assert run_cli("evaluate", good, bad, *rest).exit_code == 0
    assert len(list((tmp_path / "run").glob("scores*.h5"))) == 2
    other_seed = run_cli("evaluate", good, bad, *rest, "--seed", 1)
    assert other_seed.exit_code == 2
    assert "seed: 0 → 1" in other_seed.stderr
    assert run_cli("evaluate", good, bad, *rest, "--seed", 1, "--force").exit_code == 0


def test_files_with_no_photo_in_common(run_cli: RunCli, tmp_path: Path) -> None:
    references = _references(tmp_path, TEXTS)
    one = _results(tmp_path / "one.json", {"red.jpg": "a"})
    other = _results(tmp_path / "other.json", {"blue.jpg": "a"})
    result = run_cli("evaluate", one, other, "--references", references, "-w", tmp_path)
    assert result.exit_code == 2
    assert "none of the photos that all files of captions have" in result.stderr


@pytest.fixture
def described(photos: list[Path], tmp_path: Path) -> tuple[Path, list[list[str]]]:
    texts = [[f"a {photo.stem.split()[1]} square", "one colour"] for photo in photos]
    pairs = [(photo.name, captions) for photo, captions in zip(photos, texts, strict=True)]
    return _references(tmp_path, pairs), texts


def test_clip_scores_are_those_of_the_runs_own_encoder(
    run_cli: RunCli,
    finished: Path,
    photos: list[Path],
    described: tuple[Path, list[list[str]]],
    tmp_path: Path,
) -> None:
    references, texts = described
    scores = tmp_path / "scores.h5"
    result = run_cli(
        "evaluate", "--references", references, "-w", finished, "-o", scores, "--metrics",
        "clip,recall", "--format", "json", "--batch-size", "2",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    with Artifact(finished / "captions.h5") as artifact:
        captions = artifact.texts("caption")
        stored = artifact.recipe.models["clip"]
    assert printed["encoder"] == stored["model"]
    warnings = [line for line in result.stderr.splitlines() if "OpenAI's ViT-B/32" in line]
    assert len(warnings) == 1

    model = load_clip(EncodeSettings(stored["model"]), torch.device("cpu"), torch.float32)
    images = [model.encode_images(model.preprocess(load_photo(p))[None])[0] for p in photos]

    def encoded(text: str) -> np.ndarray:
        return model.encode_texts(["A photo depicts " + text])[0].double().numpy()

    expected: dict[str, list[float]] = {"CLIPScore": [], "RefCLIPScore": [], "R@1": []}
    for row, (caption, others) in enumerate(zip(captions, texts, strict=True)):
        found = encoded(caption)
        cosines = [float(found @ image.double().numpy()) for image in images]
        score = 2.5 * max(cosines[row], 0)
        best = max(0.0, *(float(found @ encoded(text)) for text in others))
        expected["CLIPScore"].append(100 * score)
        expected["RefCLIPScore"].append(200 * score * best / (score + best) if score else 0)
        expected["R@1"].append(100.0 * (max(cosines) == cosines[row]))
    with Artifact(scores) as artifact:
        items = artifact.group("per_image")
    for name, values in expected.items():
        np.testing.assert_allclose(items[name], values, atol=1e-3, err_msg=name)
        assert printed["metrics"][name] == pytest.approx(np.mean(values), abs=1e-3)
    assert printed["metrics"]["R@5"] == 100


def test_clip_scores_of_a_json_need_an_encoder_and_the_photos(
    run_cli: RunCli,
    finished: Path,
    photos: list[Path],
    described: tuple[Path, list[list[str]]],
    tmp_path: Path,
) -> None:
    references, _ = described
    with Artifact(finished / "captions.h5") as artifact:
        captions = artifact.texts("caption")
        model = artifact.recipe.models["clip"]["model"]
    names = [photo.name for photo in photos]
    results = _results(tmp_path / "r.json", dict(zip(names, captions, strict=True)))
    rest = ["--references", references, "-w", tmp_path / "run", "--metrics", "clip"]
    unnamed = run_cli("evaluate", results, *rest)
    assert unnamed.exit_code == 2
    assert "--clip ViT-B-32 --pretrained openai" in unnamed.stderr
    nowhere = run_cli("evaluate", results, *rest, "--clip", model)
    assert nowhere.exit_code == 2
    assert f"{names[0]}: no such photo; name the photos" in nowhere.stderr
    rest += ["--clip", model, "--photos", photos[0].parent, "--format", "json"]
    found = run_cli("evaluate", results, finished / "captions.h5", *rest)
    assert found.exit_code == 0, found.stderr
    printed = json.loads(found.stdout)
    assert printed["metrics"] == pytest.approx(printed["others"][0]["metrics"])
    alone = run_cli("evaluate", "--references", references, "-w", tmp_path, "--pretrained", "x")
    assert alone.exit_code == 2
    assert "give --clip, too" in alone.stderr


def test_a_photo_that_is_damaged_is_named(
    run_cli: RunCli, finished: Path, photos: list[Path], tmp_path: Path
) -> None:
    with Artifact(finished / "captions.h5") as artifact:
        model = artifact.recipe.models["clip"]["model"]
    (tmp_path / "red.jpg").write_bytes(b"no image at all")
    result = run_cli(
        "evaluate", _results(tmp_path / "r.json", {"red.jpg": "a"}), "--references",
        _references(tmp_path, TEXTS[:1]), "-w", tmp_path, "--metrics", "CLIPScore", "--clip", model,
        "--photos", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 2
    assert "red.jpg is not an image" in result.stderr


def test_spice_is_made_up_for_once_its_jars_are_there(
    run_cli: RunCli,
    files: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    references, good, bad = files
    command = ["evaluate", good, bad, "--references", references, "-w", tmp_path / "run"]
    command += ["--metrics", "ROUGE-L,SPICE"]
    monkeypatch.setattr(corenlp, "find", lambda: None)
    first = run_cli(*command)
    assert first.exit_code == 0
    assert first.stderr.count("SPICE left out") == 1
    assert "--fetch-spice" in first.stderr
    monkeypatch.setattr(corenlp, "find", lambda: [tmp_path])
    monkeypatch.setattr(
        "syntic_cli.metrics.spice.spice",
        lambda files, references: [mean_of([0.5] * len(references)) for _ in files],
    )
    second = run_cli(*command)
    assert second.exit_code == 0, second.stderr
    assert "SPICE left out" not in second.stderr
    assert "SPICE" in second.stdout
    assert [path.name for path in (tmp_path / "run").glob("scores*.h5")] == ["scores.h5"]
    assert "up to date" in run_cli(*command).stderr


def test_fetch_spice_fetches_first(
    run_cli: RunCli,
    files: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    references, good, _ = files
    monkeypatch.setenv("SYNTIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(corenlp, "fetch", partial(corenlp.fetch, "http://127.0.0.1:9"))
    result = run_cli(
        "evaluate", good, "--references", references, "-w", tmp_path / "run", "--metrics",
        "SPICE", "--fetch-spice",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "stanford-corenlp-3.6.0.jar: cannot be downloaded" in result.stderr
    assert not (tmp_path / "run").exists()


def test_captions_of_others_in_a_table(
    run_cli: RunCli, files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    references, good, _ = files
    table = tmp_path / "good.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "caption", "error"])
        rows.writerows([e["image_id"], e["caption"], ""] for e in json.loads(good.read_text()))
        rows.writerow(["black.jpg", "", "damaged"])
    rest = ["--references", references, "-w", tmp_path / "run", "--metrics", "ROUGE-L"]
    result = run_cli("evaluate", good, table, *rest, "--format", "json")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["metrics"] == printed["others"][0]["metrics"]
    (note,) = [line for line in result.stderr.splitlines() if "left out" in line]
    assert "good.csv: 1 photo" in note
