"""Texts without images (DeCap, CapDec, CLOSE), and parts of a corpus whose images are made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from syntic_cli.artifacts.reading import Artifact
from syntic_cli.presets import load_preset

from .conftest import CAPTIONS, RunCli


@pytest.fixture
def laptop(micro_preset: Path, tmp_path: Path) -> Path:
    """The micro preset without what the preset `laptop` leaves out."""
    lines = (micro_preset.parent / "micro.toml").read_text()
    kept = [
        section
        for section in lines.split("\n\n")
        if not section.strip().startswith(("[synthesize]", "[optimize]", "[detect]"))
    ]
    path = micro_preset.parent / "texts-alone.toml"
    path.write_text("\n\n".join(kept).replace("[train]", "[train]\nobjects = false\nnoise = 0.1"))
    return path


class TestEncode:
    def test_each_texts_feature_stands_in_for_its_images(
        self, finished: Path, corpus_file: Path, micro_preset: Path, run_cli: RunCli, tmp_path: Path
    ) -> None:
        result = run_cli("encode", corpus_file, "-w", tmp_path, "--preset", micro_preset)
        assert result.exit_code == 0, result.stderr
        with (
            Artifact(tmp_path / "features.h5", "encode") as alone,
            Artifact(finished / "features.h5", "encode") as pairs,
        ):
            texts = alone.numbers("text_features")
            assert np.allclose(texts, pairs.numbers("text_features"), atol=1e-6)
            assert np.array_equal(alone.numbers("image_features"), texts)
            assert alone.texts("captions") == CAPTIONS
            assert alone.numbers("valid").all()
            assert alone.image().tolist() == list(range(len(CAPTIONS)))

    def test_a_share_of_the_texts(
        self, corpus_file: Path, micro_preset: Path, run_cli: RunCli, tmp_path: Path
    ) -> None:
        given = ("-w", tmp_path, "--preset", micro_preset, "--sample", 0.25, "--seed", 3)
        assert run_cli("encode", corpus_file, *given).exit_code == 0
        with Artifact(tmp_path / "features.h5", "encode") as alone:
            assert alone.rows == len(CAPTIONS) // 4

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--sample", 0.5], "--sample: says what to take of a CORPUS, which is not given"),
            (["{corpus}", "--synthetic", "s.h5"], "texts are encoded alone, so give no --synth"),
        ],
    )
    def test_what_does_not_go_together(
        self, arguments: list[object], says: str, corpus_file: Path, run_cli: RunCli, tmp_path: Path
    ) -> None:
        given = [corpus_file if a == "{corpus}" else a for a in arguments]
        result = run_cli("encode", *given, "-w", tmp_path, "--preset", "tiny")
        assert result.exit_code == 2
        assert says in result.stderr


class TestRun:
    def test_a_preset_without_images(
        self, laptop: Path, corpus_file: Path, photos: list[Path], run_cli: RunCli, tmp_path: Path
    ) -> None:
        command = ("run", corpus_file, *photos, "-w", tmp_path / "run", "--preset", laptop)
        result = run_cli(*command, "--format", "txt")
        assert result.exit_code == 0, result.stderr
        assert "run: 4 stages in" in result.stderr
        assert len(result.stdout.splitlines()) == len(photos)
        assert {path.name for path in (tmp_path / "run").glob("*.h5")} == {
            "features.h5", "projected.h5", "captioner.h5", "captions.h5"
        }  # fmt: skip
        assert run_cli(*command).stderr.count("is up to date") == 4
        for look in (["inspect", tmp_path / "run"], ["report", "-o", tmp_path / "report.html"]):
            result = run_cli(*look, *(["-w", tmp_path / "run"] if look[0] == "report" else []))
            assert result.exit_code == 0, result.stderr

    def test_its_dry_run(
        self, laptop: Path, corpus_file: Path, run_cli: RunCli, tmp_path: Path
    ) -> None:
        command = ("run", corpus_file, "-w", tmp_path / "run", "--preset", laptop, "--dry-run")
        result = run_cli(*command)
        assert result.exit_code == 0, result.stderr
        stages = [line.split()[0] for line in result.stdout.splitlines()[1:]]
        assert stages == ["encode", "project", "train"]
        assert not (tmp_path / "run").exists()

    def test_the_shipped_one_takes_the_papers_dual_encoder(self) -> None:
        laptop, paper = load_preset("laptop"), load_preset("paper")
        assert laptop["encode"] == paper["encode"]
        assert not laptop["train"]["objects"]

    def test_objects_that_no_image_shows(
        self, laptop: Path, corpus_file: Path, run_cli: RunCli, tmp_path: Path
    ) -> None:
        here = ("-w", tmp_path, "--preset", laptop)
        run_cli("encode", corpus_file, *here)
        run_cli("project", "--features", tmp_path / "features.h5", *here)
        result = run_cli("train", "--with-objects", *here)
        assert result.exit_code == 2
        assert "features of texts alone" in result.stderr


class TestTrainFromTexts:
    def train(self, finished: Path, run_cli: RunCli, output: Path, *options: object) -> Path:
        command = ("train", "-w", finished, "--no-objects", *options, "-o", output)
        result = run_cli(*command)
        assert result.exit_code == 0, result.stderr
        return output

    def test_the_prefixes_are_the_texts_own_features(self, finished: Path) -> None:
        from syntic_cli.settings import Run, TrainSettings
        from syntic_cli.training_data import read_training_data

        with (
            Artifact(finished / "projected.h5") as projected,
            Artifact(finished / "optimized.h5") as features,
        ):
            inputs = {"projected": projected, "support": features, "texts": features}
            settings = TrainSettings(tokenizer="bpe:400", objects=False, from_texts=True)
            data = read_training_data(inputs, settings, Run(quiet=True), 0)
            assert np.array_equal(data.prefixes, features.numbers("text_features"))
            assert np.array_equal(data.images, data.prefixes)
            assert len(data.support) == len(CAPTIONS)  # of photos: they are projected on it

    def test_decap_and_capdec(
        self, finished: Path, run_cli: RunCli, photos: list[Path], tmp_path: Path
    ) -> None:
        decap = self.train(finished, run_cli, tmp_path / "decap.h5", "--from-texts")
        capdec = self.train(
            finished, run_cli, tmp_path / "capdec.h5",
            "--from-texts", "--no-projection", "--noise", 0.126,
        )  # fmt: skip
        with Artifact(decap) as one, Artifact(capdec) as other:
            assert one.attributes["projection"]
            assert not other.attributes["projection"]
            assert one.recipe.settings["from_texts"] is True
        for captioner in (decap, capdec):
            given = (
                "--captioner",
                captioner,
                "-o",
                tmp_path / f"c-{captioner.name}",
                "-w",
                finished,
            )
            assert run_cli("caption", photos[0], *given).exit_code == 0

    def test_an_earlier_captioner_is_still_up_to_date(
        self, finished: Path, run_cli: RunCli
    ) -> None:
        """A switch that is off is no part of a recipe."""
        with Artifact(finished / "captioner.h5") as made:
            assert "from_texts" not in made.recipe.settings
        with Artifact(finished / "captions.h5") as made:
            assert not {"decoding", "language_model"} & set(made.recipe.settings)


class TestOnly:
    def test_texts_keep_their_images_and_objects(
        self, finished: Path, micro_preset: Path, run_cli: RunCli, tmp_path: Path
    ) -> None:
        part = [CAPTIONS[7], CAPTIONS[3], CAPTIONS[7], *CAPTIONS[20:30]]
        (tmp_path / "part.txt").write_text("\n".join(part) + "\n")
        here = ("-w", tmp_path / "part", "-q", "--preset", micro_preset)
        features, objects = finished / "features.h5", finished / "objects.h5"
        for command in (
            ["select", "--features", features, "--only", tmp_path / "part.txt"],
            ["optimize"],
            ["project"],
            ["train", "--objects", objects],
        ):
            result = run_cli(*command, *here)
            assert result.exit_code == 0, result.stderr
        rows = [CAPTIONS.index(text) for text in part]
        with (
            Artifact(tmp_path / "part" / "selected.h5", "select") as kept,
            Artifact(features, "encode") as whole,
        ):
            assert kept.texts("captions") == part
            assert kept.image().tolist() == rows
            texts = whole.numbers("text_features")
            assert np.array_equal(kept.numbers("text_features"), texts[rows])
        with Artifact(tmp_path / "part" / "captioner.h5", "train") as captioner:
            assert captioner.texts("support_captions") == part

    def test_equal_texts_take_turns(
        self, micro_preset: Path, run_cli: RunCli, tmp_path: Path
    ) -> None:
        (tmp_path / "all.txt").write_text("a\nb\na\na\n")
        (tmp_path / "part.txt").write_text("a\na\nb\na\na\n")
        here = ("-w", tmp_path, "-q", "--preset", micro_preset)
        run_cli("encode", tmp_path / "all.txt", *here)
        assert run_cli("select", "--only", tmp_path / "part.txt", *here).exit_code == 0
        with Artifact(tmp_path / "selected.h5") as kept:
            assert kept.image().tolist() == [0, 2, 1, 3, 3]

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--only", "{other}"], "has no features of 1 text to be kept, such as 'a zebra'"),
            (["--only", "{other}", "--images", 3], "goes with no option of SynC's"),
            (["--sample", 0.1], "--sample: says what to take of --only, which is not given"),
        ],
    )
    def test_what_cannot_be(
        self, options: list[object], says: str, finished: Path, run_cli: RunCli, tmp_path: Path
    ) -> None:
        other = tmp_path / "other.txt"
        other.write_text(f"a zebra\n{CAPTIONS[0]}\n")
        given = [other if option == "{other}" else option for option in options]
        features = ("--features", finished / "features.h5")
        result = run_cli("select", *given, *features, "-w", tmp_path / "new", "--preset", "tiny")
        assert result.exit_code == 2
        assert says in result.stderr
