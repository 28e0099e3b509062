"""Features made by others: a file written by h5py alone goes through the chain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from syntic_cli.artifacts.foreign import ForeignFeatures, open_artifact
from syntic_cli.artifacts.reading import Artifact
from syntic_cli.errors import DamagedError

from .conftest import RunCli


@pytest.fixture
def plain(finished: Path) -> dict[str, Any]:
    """The datasets of features.h5 as plain arrays, of the valid rows."""
    with h5py.File(finished / "features.h5") as file:
        valid = file["valid"][:]
        return {
            "image_features": file["image_features"][:][valid],
            "text_features": file["text_features"][:][valid],
            "captions": [text.decode() for text in file["captions"][:][valid]],
        }


def write(path: Path, datasets: dict[str, Any], **attributes: str) -> Path:
    """Write a file as somebody does who has never heard of recipes."""
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
        file.attrs.update(attributes)
    return path


class TestChain:
    def test_it_gives_what_our_own_file_gives(
        self, run_cli: RunCli, finished: Path, plain: dict[str, Any], tmp_path: Path
    ) -> None:
        # Neither the length of the vectors nor the kind of the numbers and strings matters.
        scaled = {
            "image_features": 3.0 * plain["image_features"].astype(np.float64),
            "text_features": 0.5 * plain["text_features"],
            "captions": np.array([text.encode() for text in plain["captions"]]),
        }
        assert scaled["captions"].dtype.kind == "S"
        theirs = write(tmp_path / "theirs.h5", scaled)
        settings = ["--epochs", 3, "--batch-size", 8, "--lr", 0.01, "--temperature", 0.05]
        result = run_cli("optimize", "--features", theirs, "-w", tmp_path / "run", *settings)
        assert result.exit_code == 0, result.stderr
        (line,) = [line for line in result.stderr.splitlines() if "made by others" in line]
        assert f"{len(plain['captions'])} pairs" in line
        with (
            Artifact(tmp_path / "run" / "optimized.h5") as found,
            Artifact(finished / "optimized.h5") as wanted,
        ):
            assert found.texts("captions") == wanted.texts("captions")
            np.testing.assert_allclose(
                found.numbers("image_features"), wanted.numbers("image_features"), atol=1e-4
            )
            assert found.numbers("valid").all()

    def test_from_their_features_to_captions_of_photos(
        self,
        run_cli: RunCli,
        plain: dict[str, Any],
        micro_preset: Path,
        photos: list[Path],
        tmp_path: Path,
    ) -> None:
        clip = micro_preset.parent / "clip"
        theirs = write(tmp_path / "theirs.h5", plain, model=str(clip))
        here = ["-w", tmp_path / "run", "--preset", micro_preset, "-q"]
        for command in (
            ["optimize", "--features", theirs],
            ["project"],
            ["train", "--no-objects"],
            ["caption", *photos],
        ):
            result = run_cli(*command, *here)
            assert result.exit_code == 0, result.stderr
        assert run_cli("optimize", "--features", theirs, *here).exit_code == 0
        with Artifact(tmp_path / "run" / "captions.h5") as artifact:
            assert not any(artifact.texts("error"))

    def test_a_model_that_nothing_names_is_given_when_captioning(
        self,
        run_cli: RunCli,
        plain: dict[str, Any],
        micro_preset: Path,
        photos: list[Path],
        tmp_path: Path,
    ) -> None:
        theirs = write(tmp_path / "theirs.h5", plain)
        here = ["-w", tmp_path / "run", "--preset", micro_preset, "-q"]
        # Not optimised, and so its own support set: train reads theirs.h5 as well.
        for command in (["project", "--features", theirs], ["train", "--no-objects"]):
            result = run_cli(*command, *here)
            assert result.exit_code == 0, result.stderr
        result = run_cli("caption", *photos, *here)
        assert result.exit_code == 2
        assert "--clip MODEL" in result.stderr
        clip = micro_preset.parent / "clip"
        result = run_cli("caption", *photos, "--clip", clip, *here)
        assert result.exit_code == 0, result.stderr

    def test_training_with_objects_says_what_is_missing(
        self, run_cli: RunCli, plain: dict[str, Any], tmp_path: Path
    ) -> None:
        theirs = write(tmp_path / "theirs.h5", plain)
        here = ["-w", tmp_path / "run", "-q"]
        assert run_cli("project", "--features", theirs, *here).exit_code == 0
        result = run_cli("train", *here)
        assert result.exit_code == 2
        assert "--no-objects" in result.stderr

    def test_their_texts_as_the_support_set(
        self,
        run_cli: RunCli,
        finished: Path,
        plain: dict[str, Any],
        micro_preset: Path,
        tmp_path: Path,
    ) -> None:
        few = {name: values[:10] for name, values in plain.items()}
        named = write(tmp_path / "named.h5", few, model=str(micro_preset.parent / "clip"))
        unnamed = write(tmp_path / "unnamed.h5", few)
        arguments = ["project", "--temperature", 0.05, "-w", finished, "-o", tmp_path / "p.h5"]
        result = run_cli(*arguments, "--support", unnamed)
        assert result.exit_code == 2
        assert "attribute `model`" in result.stderr
        result = run_cli(*arguments, "--support", named)
        assert result.exit_code == 0, result.stderr
        assert result.stderr.count("made by others") == 1
        with Artifact(finished / "optimized.h5") as pairs, Artifact(tmp_path / "p.h5") as found:
            images, texts = pairs.numbers("image_features"), few["text_features"]
            weights = np.exp(images @ texts.T / 0.05)
            wanted = weights / weights.sum(axis=1, keepdims=True) @ texts
            wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
            np.testing.assert_allclose(found.numbers("projected"), wanted, atol=1e-4)

    def test_captioning_takes_them_as_the_support_set_where_the_model_is_known(
        self,
        run_cli: RunCli,
        finished: Path,
        plain: dict[str, Any],
        micro_preset: Path,
        photos: list[Path],
        tmp_path: Path,
    ) -> None:
        named = write(tmp_path / "named.h5", plain, model=str(micro_preset.parent / "clip"))
        unnamed = write(tmp_path / "unnamed.h5", plain)
        arguments = ["caption", *photos, "-w", finished, "-o", tmp_path / "c.h5", "-q"]
        result = run_cli(*arguments, "--support", unnamed)
        assert result.exit_code == 2
        assert "a model that nothing names" in result.stderr
        assert run_cli(*arguments, "--support", named).exit_code == 0

    def test_a_file_of_another_width_is_refused(
        self, run_cli: RunCli, plain: dict[str, Any], tmp_path: Path
    ) -> None:
        theirs = write(tmp_path / "theirs.h5", plain)
        narrow = {**plain, **{n: plain[n][:, :7] for n in ("image_features", "text_features")}}
        other = write(tmp_path / "narrow.h5", narrow)
        result = run_cli(
            "project", "--features", theirs, "--support", other, "-w", tmp_path / "run", "-q"
        )
        assert result.exit_code == 2
        assert "7 wide" in result.stderr

    def test_a_changed_file_is_another_input(
        self, run_cli: RunCli, plain: dict[str, Any], tmp_path: Path
    ) -> None:
        theirs = write(tmp_path / "theirs.h5", plain)
        arguments = ["project", "--features", theirs, "-w", tmp_path / "run", "-q"]
        assert run_cli(*arguments).exit_code == 0
        write(theirs, {**plain, "captions": plain["captions"][::-1]})
        result = run_cli(*arguments)
        assert result.exit_code == 2
        assert "other settings or inputs" in result.stderr


class TestReading:
    def test_a_pair_without_an_image_is_not_valid(
        self, plain: dict[str, Any], tmp_path: Path
    ) -> None:
        plain["image_features"][2] = 0
        with ForeignFeatures(write(tmp_path / "f.h5", plain)) as artifact:
            assert np.flatnonzero(~artifact.numbers("valid")).tolist() == [2]
            assert artifact.column("error") == [""] * len(plain["captions"])
            assert not artifact.numbers("image_features", 2, 3).any()

    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda d: d.pop("captions"), "has no dataset 'captions'"),
            (lambda d: d.update(captions=d["captions"][:-1]), "image_features (N, d)"),
            (lambda d: d.update(captions=np.arange(len(d["captions"]))), "must be strings"),
            (lambda d: d.update(image_features=d["image_features"][:, :5]), "(N, d)"),
            (lambda d: d.update(text_features=d["text_features"].astype(int)), "floats"),
            (lambda d: d["text_features"].__setitem__((4, 0), np.nan), "row 4 is not finite"),
            (lambda d: d.update(captions=[b"\xff\xfe"] * len(d["captions"])), "cannot be read"),
        ],
    )
    def test_what_is_not_as_it_must_be_is_told(
        self,
        plain: dict[str, Any],
        tmp_path: Path,
        spoil: Callable[[dict[str, Any]], Any],
        said: str,
    ) -> None:
        spoil(plain)
        path = write(tmp_path / "f.h5", plain)
        with (
            pytest.raises(DamagedError) as caught,
            open_artifact(path, "optimize", "encode") as found,
        ):
            found.texts("captions")
        assert said in str(caught.value)
        assert str(path) in str(caught.value)

    def test_a_link_to_another_file_is_refused(self, plain: dict[str, Any], tmp_path: Path) -> None:
        other = write(tmp_path / "other.h5", plain)
        with h5py.File(tmp_path / "f.h5", "w") as file:
            for name in plain:
                file[name] = h5py.ExternalLink(str(other), name)
        with pytest.raises(DamagedError, match="link"):
            open_artifact(tmp_path / "f.h5", "encode")

    def test_stages_that_need_images_do_not_take_it(
        self, run_cli: RunCli, plain: dict[str, Any], tmp_path: Path
    ) -> None:
        theirs = write(tmp_path / "theirs.h5", plain)
        result = run_cli("encode", "--synthetic", theirs, "--preset", "tiny", "-w", tmp_path / "r")
        assert result.exit_code == 2
        assert "not one that syntic wrote" in result.stderr
