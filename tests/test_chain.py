"""The chain on micro models, from a corpus to captions: what the artifacts hold, and why."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from syntic_cli import Captioner
from syntic_cli.artifacts.reading import Artifact
from syntic_cli.models.clip import Clip
from syntic_cli.stages.synthesize import item_seed

from .conftest import CAPTIONS, DATA, RunCli


def datasets(path: Path) -> dict[str, Any]:
    """Every dataset of a file by its full name."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, node: found.update({name: node[()]}) if hasattr(node, "dtype") else None
        )
    return found


def assert_same(one: Path, other: Path) -> None:
    first, second = datasets(one), datasets(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        if values.dtype == object:
            assert all(np.array_equal(a, b) for a, b in zip(values, second[name], strict=True)), (
                name
            )
        else:
            np.testing.assert_array_equal(values, second[name], err_msg=name)


class TestArtifacts:
    def test_rows_follow_the_corpus(self, finished: Path) -> None:
        for name in ("synthetic", "features", "optimized", "projected"):
            with Artifact(finished / f"{name}.h5") as artifact:
                assert artifact.texts("captions") == CAPTIONS

    def test_images_are_decodable_and_seeds_are_those_of_the_items(self, finished: Path) -> None:
        with Artifact(finished / "synthetic.h5") as artifact:
            images = [Image.open(io.BytesIO(data)).size for data in artifact.byte_strings("images")]
            seeds = artifact.numbers("seeds")
        assert set(images) == {(32, 32)}
        assert seeds.tolist() == [item_seed(0, row) for row in range(len(CAPTIONS))]
        assert len(set(seeds.tolist())) == len(CAPTIONS)

    def test_features_have_unit_length(self, finished: Path) -> None:
        for name in ("features", "optimized"):
            with Artifact(finished / f"{name}.h5") as artifact:
                for column in ("image_features", "text_features"):
                    lengths = np.linalg.norm(artifact.numbers(column), axis=1)
                    np.testing.assert_allclose(lengths, 1, atol=1e-5)

    def test_features_are_those_of_open_clip(self, finished: Path, micro_preset: Path) -> None:
        import open_clip
        import torch

        folder = f"local-dir:{micro_preset.parent / 'clip'}"
        model, _, preprocess = open_clip.create_model_and_transforms(folder)
        model.eval()
        with Artifact(finished / "synthetic.h5") as artifact:
            image = Image.open(io.BytesIO(artifact.byte_strings("images", 5, 6)[0]))
        with torch.no_grad():
            wanted_image = model.encode_image(preprocess(image)[None], normalize=True)[0]
            tokens = open_clip.get_tokenizer(folder)([CAPTIONS[5]])
            wanted_text = model.encode_text(tokens, normalize=True)[0]
        with Artifact(finished / "features.h5") as artifact:
            image_feature = artifact.numbers("image_features", 5, 6)[0]
            text_feature = artifact.numbers("text_features", 5, 6)[0]
        np.testing.assert_allclose(image_feature, wanted_image.numpy(), atol=1e-5)
        np.testing.assert_allclose(text_feature, wanted_text.numpy(), atol=1e-5)

    def test_projection_is_of_the_optimized_images(self, finished: Path) -> None:
        with Artifact(finished / "optimized.h5") as artifact:
            images = artifact.numbers("image_features").astype(np.float64)
            texts = artifact.numbers("text_features").astype(np.float64)
        weights = np.exp(images @ texts.T / 0.05)
        wanted = weights / weights.sum(axis=1, keepdims=True) @ texts
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        with Artifact(finished / "projected.h5") as artifact:
            np.testing.assert_allclose(artifact.numbers("projected"), wanted, atol=1e-4)

    def test_objects_are_cut_by_offsets(self, finished: Path) -> None:
        with Artifact(finished / "objects.h5") as artifact:
            offsets, scores = artifact.numbers("offsets"), artifact.numbers("score")
            boxes, labels = artifact.numbers("box"), artifact.numbers("label")
            vocabulary = artifact.texts("vocabulary")
        assert offsets[0] == 0
        assert offsets[-1] == len(labels) == len(scores) == len(boxes)
        assert len(offsets) == len(CAPTIONS) + 1
        assert max(np.diff(offsets)) <= 3
        assert labels.max() < len(vocabulary) == 4
        assert scores.min() >= 0.01
        assert boxes.min() >= 0
        assert boxes.max() <= 1

    def test_histories_have_a_value_an_epoch(self, finished: Path) -> None:
        with Artifact(finished / "optimized.h5") as artifact:
            history = artifact.group("history")
        assert history["loss"].shape == (3,)
        assert history["loss"][-1] < history["loss"][0]
        assert 0 <= history["retrieval_accuracy"][0] <= history["retrieval_accuracy"][1] <= 1
        with Artifact(finished / "captioner.h5") as artifact:
            history, best = artifact.group("history"), artifact.attributes["best_epoch"]
        assert history["held_out_loss"].shape == history["loss"].shape == (3,)
        assert best == history["held_out_loss"].argmin()


class TestSameResult:
    def test_same_seed_gives_the_same_datasets(
        self, run_cli: RunCli, finished: Path, micro_preset: Path, corpus_file: Path, tmp_path: Path
    ) -> None:
        here = ["-w", tmp_path / "again", "-q"]
        run_cli("synthesize", corpus_file, "--preset", micro_preset, "--shard-size", 16, *here)
        for stage in ("encode", "optimize", "detect", "project", "train"):
            assert run_cli(stage, *here).exit_code == 0
        for name in ("synthetic", "features", "optimized", "objects", "projected", "captioner"):
            assert_same(finished / f"{name}.h5", tmp_path / "again" / f"{name}.h5")

    def test_another_seed_gives_other_images(
        self, run_cli: RunCli, finished: Path, micro_preset: Path, corpus_file: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "other.h5"
        run_cli(
            "synthesize", corpus_file, "--preset", micro_preset, "--seed", 1, "-w", tmp_path,
            "-o", output, "-q",
        )  # fmt: skip
        with Artifact(finished / "synthetic.h5") as one, Artifact(output) as other:
            pairs = zip(one.byte_strings("images"), other.byte_strings("images"), strict=True)
            assert all(a != b for a, b in pairs)

    @pytest.mark.parametrize("stage", ["encode", "detect", "project"])
    def test_batch_size_does_not_change_the_result(
        self, run_cli: RunCli, finished: Path, tmp_path: Path, stage: str
    ) -> None:
        name = {"encode": "features", "detect": "objects", "project": "projected"}[stage]
        output = tmp_path / "other.h5"
        result = run_cli(stage, "-w", finished, "-o", output, "--batch-size", 5, "-q")
        assert result.exit_code == 0, result.stderr
        wanted, found = datasets(finished / f"{name}.h5"), datasets(output)
        for key, values in wanted.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(found[key], values, atol=1e-5)

    def test_images_hardly_depend_on_the_batch(
        self, run_cli: RunCli, finished: Path, micro_preset: Path, corpus_file: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "other.h5"
        run_cli(
            "synthesize", corpus_file, "--preset", micro_preset, "--batch-size", 7, "-w", tmp_path,
            "-o", output, "-q",
        )  # fmt: skip
        with Artifact(finished / "synthetic.h5") as one, Artifact(output) as other:
            for a, b in zip(one.byte_strings("images"), other.byte_strings("images"), strict=True):
                pixels = [np.asarray(Image.open(io.BytesIO(data)), int) for data in (a, b)]
                assert np.abs(pixels[0] - pixels[1]).mean() < 0.5


@pytest.mark.parametrize("texts", [1, 5])
def test_a_last_shard_of_one_row(
    run_cli: RunCli, micro_preset: Path, tmp_path: Path, texts: int
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(CAPTIONS[:texts]))
    here = ["-w", tmp_path / "run", "--shard-size", 4]
    for command in (["synthesize", corpus, "--preset", micro_preset], ["encode"], ["detect"]):
        result = run_cli(*command, *here)
        assert result.exit_code == 0, result.stderr
    with Artifact(tmp_path / "run" / "synthetic.h5") as artifact:
        assert artifact.texts("captions") == CAPTIONS[:texts]
        for data in artifact.byte_strings("images"):
            assert Image.open(io.BytesIO(data)).size == (32, 32)


class TestVariants:
    def test_without_optimisation_projection_and_objects(
        self, run_cli: RunCli, finished: Path, photos: list[Path], tmp_path: Path
    ) -> None:
        here = ["-w", finished, "-q"]
        projected, captioner = tmp_path / "projected.h5", tmp_path / "captioner.h5"
        steps: list[list[object]] = [
            ["project", "--features", finished / "features.h5", "-o", projected],
            ["train", "--projected", projected, "--no-objects", "--no-projection", "-o", captioner],
            ["caption", photos[0], "--captioner", captioner, "-o", tmp_path / "captions.h5"],
        ]
        for step in steps:
            result = run_cli(*step, *here)
            assert result.exit_code == 0, result.stderr
        with Artifact(captioner) as artifact:
            assert artifact.shape("support")[0] == 0
            assert artifact.texts("vocabulary") == []

    def test_support_set_of_another_corpus(
        self, run_cli: RunCli, finished: Path, photos: list[Path], tmp_path: Path
    ) -> None:
        here = ["-w", tmp_path / "other", "-q"]
        texts = tmp_path / "other.txt"
        texts.write_text("a red square\na blue circle\n")
        preset = json.loads((finished / "workspace.json").read_text())["preset"]
        run_cli("synthesize", texts, "--preset", preset, *here)
        run_cli("encode", *here)
        support = tmp_path / "other" / "features.h5"
        result = run_cli(
            "project", "--support", support, "-w", finished, "-o", tmp_path / "p.h5", "-q"
        )
        assert result.exit_code == 0, result.stderr
        with Artifact(tmp_path / "p.h5") as artifact, Artifact(support) as other:
            found = artifact.numbers("projected")
            basis = other.numbers("text_features")
        # Every projection lies in the plane of the two texts.
        _, distance, _, _ = np.linalg.lstsq(basis.T, found.T, rcond=None)
        assert distance.max() < 1e-6
        result = run_cli(
            "caption", photos[0], "--support", support, "-w", finished, "-o", tmp_path / "c.h5"
        )
        assert result.exit_code == 0, result.stderr

    def test_blanked_images_are_left_out_of_training(
        self, run_cli: RunCli, finished: Path, tmp_path: Path
    ) -> None:
        import shutil

        workspace = tmp_path / "run"
        workspace.mkdir()
        for name in ("synthetic.h5", "workspace.json"):
            shutil.copy(finished / name, workspace)
        with h5py.File(workspace / "synthetic.h5", "r+") as file:
            file["flagged"][3] = True
        for stage in ("encode", "optimize", "detect", "project", "train"):
            result = run_cli(stage, "-w", workspace)
            assert result.exit_code == 0, result.stderr
        assert "1 pair left out" in result.stderr.replace("\n", " ")
        with Artifact(workspace / "projected.h5") as artifact:
            assert np.flatnonzero(~artifact.numbers("valid")).tolist() == [3]


def test_a_training_that_diverges_says_so(run_cli: RunCli, finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "captioner.h5"
    result = run_cli("train", "--lr", 1e30, "-w", finished, "-o", output)
    assert result.exit_code == 2
    assert "no longer finite" in result.stderr
    assert not output.exists()


def test_a_compiled_training_stores_what_a_plain_one_does(
    run_cli: RunCli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    # The real backend would draw another dropout and take a minute.
    compile_traced = partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", compile_traced)
    output = tmp_path / "captioner.h5"
    result = run_cli("train", "--compile", "-w", finished, "-o", output)
    assert result.exit_code == 0, result.stderr
    assert_same(output, finished / "captioner.h5")


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_a_compiled_encoding_gives_the_features_of_a_plain_one(
    run_cli: RunCli, finished: Path, tmp_path: Path
) -> None:
    output = tmp_path / "features.h5"
    result = run_cli("encode", "--compile", "-w", finished, "-o", output, "-q")
    assert result.exit_code == 0, result.stderr
    with Artifact(output) as found, Artifact(finished / "features.h5") as wanted:
        for column in ("image_features", "text_features"):
            np.testing.assert_allclose(found.numbers(column), wanted.numbers(column), atol=1e-5)


def test_a_first_command_that_fails_binds_the_workspace_to_nothing(
    run_cli: RunCli, micro_preset: Path, corpus_file: Path, tmp_path: Path
) -> None:
    here = ["-w", tmp_path / "run", "-q"]
    assert run_cli("encode", *here).exit_code == 2
    result = run_cli("synthesize", corpus_file, "--preset", micro_preset, *here)
    assert result.exit_code == 0, result.stderr
    remembered = json.loads((tmp_path / "run" / "workspace.json").read_text())["preset"]
    assert Path(remembered) == micro_preset
    # From now on the workspace has an artifact of that preset, and keeps to it.
    assert run_cli("encode", "--preset", "tiny", *here).exit_code == 0
    assert json.loads((tmp_path / "run" / "workspace.json").read_text())["preset"] == remembered


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(
                "not __import__('torch').cuda.is_available()", reason="needs a CUDA device"
            ),
        ),
    ],
)
def test_every_stage_computes_on_any_device_what_the_chain_did(
    run_cli: RunCli, finished: Path, photos: list[Path], tmp_path: Path, device: str
) -> None:
    """Each stage by itself, on the inputs that the finished chain has; other batches, float32."""
    for command, file in (
        (["encode", "--batch-size", 5], "features.h5"),
        (["detect", "--batch-size", 5], "objects.h5"),
        (["optimize"], "optimized.h5"),
        (["project"], "projected.h5"),
        (["caption", *photos, "--batch-size", 2], "captions.h5"),
    ):
        output = tmp_path / file
        result = run_cli(
            *command, "-w", finished, "-o", output, "--device", device, "--dtype", "float32"
        )
        assert result.exit_code == 0, result.stderr
        found, wanted = datasets(output), datasets(finished / file)
        assert found.keys() == wanted.keys()
        for name in (n for n in wanted if np.asarray(wanted[n]).dtype.kind == "f"):
            np.testing.assert_allclose(found[name], wanted[name], atol=2e-3, err_msg=name)


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="needs a CUDA device")
def test_the_chain_on_cuda(
    run_cli: RunCli,
    micro_preset: Path,
    corpus_file: Path,
    finished: Path,
    photos: list[Path],
    tmp_path: Path,
) -> None:
    here = ["-w", tmp_path / "run", "--device", "cuda"]
    for command in (
        ["synthesize", corpus_file, "--preset", micro_preset],
        ["encode"],
        ["optimize"],
        ["detect"],
        ["project"],
        ["train", "--compile"],
        ["caption", *photos],
    ):
        result = run_cli(*command, *here)
        assert result.exit_code == 0, result.stderr
    with Artifact(tmp_path / "run" / "captioner.h5") as found:
        with Artifact(finished / "captioner.h5") as wanted:
            assert found.group("decoder").keys() == wanted.group("decoder").keys()
        assert np.isfinite(found.group("history")["loss"]).all()


def test_what_a_safety_checker_blanks_is_flagged(micro_preset: Path) -> None:
    import torch

    from syntic_cli.models.text_to_image import load_text_to_image
    from syntic_cli.settings import SynthesizeSettings

    settings = SynthesizeSettings(str(micro_preset.parent / "text_to_image"), steps=2, size=32)
    model = load_text_to_image(settings, torch.device("cpu"), torch.float32)

    def blank_the_second(images: torch.Tensor, *_: object) -> tuple[torch.Tensor, list[bool]]:
        images[1] = 0.0
        return images, [False, True, False]

    model.pipeline.run_safety_checker = blank_the_second
    made = model.generate(["a dog", "a cat", "a cup"], [1, 2, 3])
    assert [image.flagged for image in made] == [False, True, False]
    assert not made[1].pixels.any()
    assert made[0].pixels.any()


class TestCaption:
    def test_formats(self, run_cli: RunCli, finished: Path, photos: list[Path]) -> None:
        def printed(form: str) -> str:
            result = run_cli("caption", *photos, "-w", finished, "--format", form)
            assert result.exit_code == 0, result.stderr
            return result.stdout

        lines = [json.loads(line) for line in printed("jsonl").splitlines()]
        assert [line["path"] for line in lines] == list(map(str, photos))
        assert set(lines[0]) == {
            *("path", "caption", "log_probability", "objects", "error", "note", "confidence")
        }
        assert set(lines[0]["objects"][0]) == {"label", "score", "box"}
        assert all(line["log_probability"] < 0 and not line["error"] for line in lines)
        assert json.loads(printed("json")) == lines
        rows = list(csv.DictReader(io.StringIO(printed("csv"))))
        assert [row["caption"] for row in rows] == [line["caption"] for line in lines]
        assert printed("txt").splitlines() == [line["caption"] for line in lines]
        assert all(line["caption"].split()[0] in printed("table") for line in lines)

    def test_a_bad_photo_does_not_stop_the_others(
        self, run_cli: RunCli, finished: Path, photos: list[Path], tmp_path: Path
    ) -> None:
        bad = tmp_path / "bad.jpg"
        bad.write_bytes(photos[1].read_bytes()[:200])
        result = run_cli(
            "caption", photos[0], bad, photos[2], "-w", finished, "--format", "jsonl",
            "-o", tmp_path / "captions.h5",
        )  # fmt: skip
        assert result.exit_code == 0
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert [bool(line["error"]) for line in lines] == [False, True, False]
        assert "bad.jpg" in lines[1]["error"]
        assert lines[1]["log_probability"] is None
        assert "1 of 3 photos failed" in result.stderr

    def test_python_interface_says_the_same(
        self, run_cli: RunCli, finished: Path, photos: list[Path]
    ) -> None:
        from syntic_cli.settings import CaptionSettings

        result = run_cli("caption", *photos, "-w", finished, "--format", "jsonl")
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        captioner = Captioner.load(
            finished / "captioner.h5", settings=CaptionSettings(beam=2, max_length=12)
        )
        found = captioner.caption([str(photo) for photo in photos], batch_size=2)
        assert [caption.caption for caption in found] == [line["caption"] for line in lines]
        assert found[0].objects[0].label == lines[0]["objects"][0]["label"]

    def test_a_photo_of_which_numbers_overflow_is_no_empty_caption(
        self, finished: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        captioner = Captioner.load(finished / "captioner.h5")
        encode = Clip.encode_images

        def overflowing(clip: Clip, pixels: torch.Tensor) -> torch.Tensor:
            features = encode(clip, pixels)
            second = torch.arange(len(features))[:, None] == 1
            return torch.where(second, float("nan"), features)

        monkeypatch.setattr(Clip, "encode_images", overflowing)
        good, bad, other = captioner.caption(photos[:3])
        assert (good.error, other.error) == ("", "")
        assert (bad.caption, "not finite" in bad.error) == ("", True)

    def test_captions_of_other_photos_are_kept(
        self, run_cli: RunCli, finished: Path, photos: list[Path], tmp_path: Path
    ) -> None:
        import shutil

        shutil.copy(finished / "captioner.h5", tmp_path)
        shutil.copy(finished / "workspace.json", tmp_path)
        assert run_cli("caption", photos[0], "-w", tmp_path).exit_code == 0
        assert run_cli("caption", photos[1], "-w", tmp_path).exit_code == 0
        kept = sorted(path for path in tmp_path.glob("captions*.h5"))
        assert len(kept) == 2
        found = []
        for path in kept:
            with Artifact(path) as artifact:
                found += artifact.texts("path")
        assert sorted(found) == sorted(map(str, photos[:2]))

    def test_captioner_works_alone_in_another_place(
        self, run_cli: RunCli, finished: Path, photos: list[Path], tmp_path: Path
    ) -> None:
        import shutil

        shutil.copy(finished / "captioner.h5", tmp_path / "moved.h5")
        result = run_cli(
            "caption", photos[0], "--captioner", tmp_path / "moved.h5", "-w", tmp_path / "none",
            "--format", "txt",
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        assert result.stdout.strip()
        # A workspace that is named is made, and kept.
        assert (tmp_path / "none" / "captions.h5").exists()


class TestEvaluate:
    def test_from_captions_to_scores(
        self, run_cli: RunCli, finished: Path, photos: list[Path], tmp_path: Path
    ) -> None:
        references = tmp_path / "references.csv"
        with references.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "caption"])
            for photo in photos[:4]:
                writer.writerow([photo.name, f"a {photo.stem.split()[1]} square"])
                writer.writerow([photo.name, "a photo of one colour"])
            writer.writerow(["elsewhere.jpg", "a photo that nobody captioned"])
        scores = tmp_path / "scores.h5"
        result = run_cli(
            "evaluate", "--references", references, "-w", finished, "-o", scores, "--format",
            "json",
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        printed = json.loads(result.stdout)
        assert list(printed) == ["n", "metrics", "missing", "extra"]
        assert printed["n"] == 4
        assert printed["missing"] == ["elsewhere.jpg"]
        assert printed["extra"] == [str(photos[4])]
        names = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]
        assert list(printed["metrics"]) == names
        with Artifact(scores) as artifact:
            assert artifact.attributes["METEOR"] == printed["metrics"]["METEOR"]
            rouge = artifact.group("per_image")["ROUGE-L"]
            assert artifact.rows == len(rouge) == 4
        assert rouge.mean() == pytest.approx(printed["metrics"]["ROUGE-L"])
        again = run_cli("evaluate", "--references", references, "-w", finished, "-o", scores)
        assert "up to date" in again.stderr
        assert "METEOR" in again.stdout

    def test_scores_of_other_captions_are_kept(self, run_cli: RunCli, tmp_path: Path) -> None:
        references = tmp_path / "references.csv"
        references.write_text("image,caption\na.jpg,a dog runs\nb.jpg,a cat sleeps\n")
        for name in ("one", "other"):
            results = tmp_path / f"{name}.json"
            results.write_text(
                json.dumps(
                    [
                        {"image_id": "a.jpg", "caption": f"{name} dog"},
                        {"image_id": "b.jpg", "caption": "a cat"},
                    ]
                )
            )
            arguments = ["--references", references, "-w", tmp_path / "run", "--metrics", "BLEU-1"]
            result = run_cli("evaluate", results, *arguments)
            assert result.exit_code == 0, result.stderr
        assert len(list((tmp_path / "run").glob("scores*.h5"))) == 2

    def test_published_captions_get_their_published_scores(
        self, run_cli: RunCli, tmp_path: Path
    ) -> None:
        folder = DATA / "published_captions"
        if not folder.exists():
            pytest.skip(f"{folder} is not here")
        published = json.loads((folder / "published_scores.json").read_text())
        for name, wanted in published.items():
            result = run_cli(
                "evaluate", folder / f"{name}.predictions.json", "--references",
                folder / f"{name}.references.json", "-o", tmp_path / f"{name}.h5", "--metrics",
                "BLEU-4,ROUGE-L,CIDEr", "--format", "json",
            )  # fmt: skip
            found = json.loads(result.stdout)["metrics"]
            assert {metric: round(value, 1) for metric, value in found.items()} == {
                metric: wanted[metric] for metric in found
            }


class TestInspect:
    def test_lineage_goes_back_to_the_corpus(
        self, run_cli: RunCli, finished: Path, corpus_file: Path
    ) -> None:
        result = run_cli("inspect", finished / "captions.h5")
        for name in ("captioner.h5", "projected.h5", "optimized.h5", "features.h5", "objects.h5"):
            assert name in result.stdout
        assert str(corpus_file) in result.stdout.replace("\n", "")
        described = json.loads(
            run_cli("inspect", finished / "features.h5", "--format", "json").stdout
        )
        assert described["rows"] == len(CAPTIONS)
        assert described["datasets"]["image_features"] == [len(CAPTIONS), 16]

    def test_a_captioner_is_not_said_to_be_empty(self, run_cli: RunCli, finished: Path) -> None:
        shown = run_cli("inspect", finished / "captioner.h5").stdout
        assert f"support {len(CAPTIONS)} × 16" in shown
        assert "0 rows" not in shown


HEAVY = ("torch", "diffusers", "transformers", "open_clip", "torchvision")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        *(
            [name, "--help"]
            for name in (
                "synthesize",
                "encode",
                "optimize",
                "detect",
                "project",
                "train",
                "caption",
                "evaluate",
                "inspect",
            )
        ),
    ],
    ids=" ".join,
)
def test_help_needs_no_heavy_library(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom syntic_cli import cli\n"
        f"sys.argv = ['syntic', *{arguments!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout
    assert done.stderr.strip().endswith("[]")


def test_inspect_needs_no_heavy_library(finished: Path) -> None:
    code = (
        "import sys\nfrom syntic_cli import cli\n"
        f"sys.argv = ['syntic', 'inspect', {str(finished / 'captions.h5')!r}]\n"
        "cli.app(standalone_mode=False)\n"
        f"print([name for name in {(*HEAVY, 'PIL')!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "captions.h5" in done.stdout
    assert done.stderr.strip().endswith("[]")
