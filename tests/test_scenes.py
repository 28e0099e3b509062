"""Texts that name their images: the chain over composed and selected texts, and older artifacts."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from syntic_cli.artifacts.reading import Artifact
from syntic_cli.artifacts.records import image_of_texts, scenes
from syntic_cli.artifacts.shards import Draft
from syntic_cli.captioner import Captioner
from syntic_cli.errors import DamagedError, Interrupted, SynticError
from syntic_cli.export.rows import Source
from syntic_cli.models.detector import NO_OBJECTS
from syntic_cli.report.pairs import gather_pairs
from syntic_cli.settings import CaptionSettings, Run, TrainSettings
from syntic_cli.stages.compose import Extractive
from syntic_cli.training_data import _retrieve

from . import faults
from .conftest import CAPTIONS, run_in_process
from .test_writer import answer, build_language_model, says, serving, status

COMPOSE = ["--groups", 12, "--neighbours", 6, "--least", 2, "--most", 4, "--words", 30]
TEXTS = len(CAPTIONS)


def well(*arguments: object) -> Any:
    result = run_in_process(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def composed(
    tmp_path_factory: pytest.TempPathFactory, micro_preset: Path, corpus_file: Path
) -> Path:
    """A workspace in which the chain has run over composed texts; tests must not change it."""
    workspace = tmp_path_factory.mktemp("composed") / "run"
    here = ["-w", workspace, "-q"]
    well("compose", corpus_file, "--preset", micro_preset, *COMPOSE, *here, "--shard-size", 5)
    well("synthesize", workspace / "composed.h5", *here)
    for stage in ("encode", "optimize", "detect", "project", "train"):
        well(stage, *here)
    return workspace


@pytest.fixture
def run(tmp_path: Path, composed: Path) -> Path:
    """A copy of it that may be changed."""
    return Path(shutil.copytree(composed, tmp_path / "run"))


class TestCompose:
    def test_groups_and_scenes(self, composed: Path) -> None:
        with Artifact(composed / "composed.h5", "compose") as made:
            assert made.texts("captions") == CAPTIONS
            features, groups = made.numbers("text_features"), made.numbers("groups")
            found, errors = scenes(made), made.texts("error")
            sentences = made.objects(0, made.rows)
        assert groups.shape[1] == 6
        assert len({frozenset(group) for group in groups.tolist()}) == len(groups) <= 12
        similar = features @ features.T
        for row, (group, error) in enumerate(zip(groups, errors, strict=True)):
            others = np.sort(np.delete(similar[group[0]], group[0]))[::-1][:5]
            np.testing.assert_allclose(similar[group[0], group[1:]], others, atol=1e-5)
            a, b = sentences["offsets"][row : row + 2]
            chosen = sentences["sentence"][a:b]
            assert bool(error) == (len(chosen) == 0)
            assert error or 2 <= len(chosen) <= 4
            assert set(chosen) <= set(group)
        assert all(1 < len(prompt.split()) <= 30 for prompt in found.prompts)
        # By counting: a text is with the scene whose head is the most like it.
        number = np.cumsum([not error for error in errors]) - 1
        for text in range(TEXTS):
            places = [
                (float(similar[groups[row, 0], text]), -row)
                for row in range(len(groups))
                if text
                in sentences["sentence"][sentences["offsets"][row] : sentences["offsets"][row + 1]]
            ]
            assert found.image[text] == (number[-max(places)[1]] if places else -1)

    def test_the_chain_over_scenes(self, composed: Path) -> None:
        with Artifact(composed / "composed.h5") as made:
            found, text_features = scenes(made), made.numbers("text_features")
        images = len(found.prompts)
        with Artifact(composed / "synthetic.h5") as made:
            assert made.texts("prompts") == found.prompts
            assert made.texts("captions") == CAPTIONS
            assert made.rows == len(made.byte_strings("images")) == images < TEXTS
            np.testing.assert_array_equal(made.image(), found.image)
        with Artifact(composed / "features.h5") as made:
            assert made.texts("captions") == CAPTIONS
            np.testing.assert_array_equal(made.numbers("text_features"), text_features)
            assert made.numbers("image_features").shape == (images, 16)
            before, texts = made.numbers("image_features"), made.numbers("text_features")
        with Artifact(composed / "optimized.h5") as made:
            assert (made.numbers("image_features") != before).any(axis=1).all()
            owned = found.image >= 0
            wanted = (before[found.image[owned]] * texts[owned]).sum(axis=1)
            np.testing.assert_allclose(made.numbers("cosine")[owned], wanted, atol=1e-6)
            assert not made.numbers("cosine")[~owned].any()
            cosines = made.numbers("cosine")
        with Artifact(composed / "projected.h5") as made:
            assert made.numbers("projected").shape == (images, 16)
            np.testing.assert_array_equal(made.numbers("cosine"), cosines)
            np.testing.assert_array_equal(made.image(), found.image)
        with Artifact(composed / "captioner.h5") as made:
            # The support set is the whole corpus, whether its texts have images or not.
            assert made.texts("support_captions") == CAPTIONS

    def test_what_is_said_of_it(self, run: Path, corpus_file: Path) -> None:
        made = well("compose", corpus_file, *COMPOSE, "-w", run, "--force").stderr
        shown = json.loads(well("inspect", run / "composed.h5", "--format", "json").stdout)
        found = shown["attributes"]
        assert f"{found['scenes']} scenes of {shown['rows']} groups" in made
        assert f"{found['texts_in_no_scene']} of {TEXTS} texts in none" in made
        assert found["words_a_summary"] > 5

    def test_features_are_made_anew_where_the_model_is_another(
        self, run: Path, micro_preset: Path, tmp_path: Path
    ) -> None:
        other = Path(shutil.copytree(micro_preset.parent / "clip", tmp_path / "clip"))
        config = json.loads((other / "open_clip_config.json").read_text())
        (other / "open_clip_config.json").write_text(json.dumps(config, indent=1))
        well("encode", "-w", run, "--model", other, "-o", run / "other.h5")
        with Artifact(run / "other.h5") as found, Artifact(run / "features.h5") as before:
            np.testing.assert_allclose(
                found.numbers("text_features"), before.numbers("text_features"), atol=1e-5
            )

    def test_pairs_and_features_are_handed_on_by_texts(self, composed: Path) -> None:
        with Artifact(composed / "synthetic.h5") as made:
            image, images = made.image(), made.byte_strings("images")
            rows = list(Source(made).read(0, Source(made).rows, images=True))
            source = Source(made)
            few = list(source.read(5, 20, images=False))
        owned = np.flatnonzero(image >= 0).tolist()
        assert [row.number for row in rows] == owned
        assert [row.text for row in rows] == [CAPTIONS[row] for row in owned]
        assert [row.image for row in rows] == [images[image[row]] for row in owned]
        assert [row.number for row in few] == [row for row in owned if 5 <= row < 20]
        assert sum(source.left_out.values()) == 15 - len(few)
        for name, vectors in (
            ("optimized.h5", ("image_features", "text_features")),
            ("projected.h5", ("image_features", "projected")),
        ):
            with Artifact(composed / name) as made:
                rows = list(Source(made).read(0, TEXTS, images=False))
                assert [row.number for row in rows] == owned
                for vector in vectors:
                    places = owned if vector == "text_features" else image[owned]
                    np.testing.assert_array_equal(
                        [row.more[vector] for row in rows], made.numbers(vector)[places]
                    )

    def test_a_report_of_scenes(self, run: Path) -> None:
        well("report", run, "-o", run / "report.html")
        pairs = gather_pairs(run, 200)
        with Artifact(run / "optimized.h5") as made:
            image, images = made.image(), made.numbers("image_features")
            texts, count = made.numbers("text_features"), made.rows
        with Artifact(run / "composed.h5") as made:
            prompts = scenes(made).prompts
        assert pairs.total == len(pairs.pairs) == count
        for row, pair in enumerate(pairs.pairs):
            assert pair.text == prompts[row]
            wanted = (texts[image == row] @ images[row]).mean()
            assert pair.after == pytest.approx(float(wanted), abs=1e-5)

    def test_options_of_a_corpus_are_refused(self, run: Path) -> None:
        result = run_in_process("synthesize", run / "composed.h5", "-w", run, "--sample", 0.5)
        assert result.exit_code == 2
        assert "options of `syntic compose`" in result.stderr

    def test_how_long_its_images_will_take(self, run: Path) -> None:
        """Nothing is written, and the images are as many as the scenes."""
        before = sorted(run.iterdir())
        result = well("synthesize", run / "composed.h5", "-w", run, "--dry-run")
        assert sorted(run.iterdir()) == before
        with Artifact(run / "synthetic.h5") as made:
            assert str(made.rows) in result.stdout

    def test_scenes_made_anew_make_what_follows_stale(self, run: Path, corpus_file: Path) -> None:
        well("compose", corpus_file, *COMPOSE, "--seed", 3, "-w", run, "--force")
        result = run_in_process("encode", "-w", run)
        assert "synthetic.h5: stale, it was made from an earlier composed.h5" in result.stderr

    def test_limits_that_do_not_fit(self, corpus_file: Path, tmp_path: Path) -> None:
        for given in (["--least", 4, "--most", 3], ["--neighbours", 5], ["--words", 0]):
            result = run_in_process("compose", corpus_file, "-w", tmp_path / "run", *given)
            assert result.exit_code == 2
            assert str(given[-2]) in result.stderr
        (tmp_path / "few.txt").write_text("a dog\na cat\n")
        result = run_in_process(
            "compose", tmp_path / "few.txt", "-w", tmp_path / "run", "--preset", "tiny"
        )
        assert "2 texts; --least 5 of them make a scene" in result.stderr
        assert not (tmp_path / "run").exists()

    def test_a_writer_that_is_none(self, corpus_file: Path, tmp_path: Path) -> None:
        result = run_in_process("compose", corpus_file, "-w", tmp_path, "--writer", "gpt")
        assert "--writer gpt: give extractive, model:HUB_ID_OR_FOLDER or a server" in result.stderr


class TestWriters:
    def test_a_failed_group_is_retried_alone(
        self, run: Path, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("SYNTIC_WRITER_KEY", "a-secret")
        good = says(answer((2, 1), "a dog in the snow"))
        words = ["compose", corpus_file, *COMPOSE, "-w", run, "--writer-model", "micro"]
        words += ["--concurrency", 1, "--tries", 1, "--writer"]
        with serving(good, good, says("no idea"), good) as served:
            first = well(*words, served.url, "--force")
        assert "1 of 12 groups failed" in first.stderr
        with Artifact(run / "composed.h5") as made:
            assert [bool(error) for error in made.texts("error")] == [n == 2 for n in range(12)]
            assert made.objects(0, 12)["sentence"][0] == made.numbers("groups")[0, 1]
        with serving(status(500)) as silent:
            assert "--retry-failed" in well(*words, silent.url).stderr
            assert not silent.requests
        with serving(good) as served:
            well(*words, served.url, "--retry-failed")
            assert len(served.requests) == 1
        with Artifact(run / "composed.h5") as made:
            assert not any(made.texts("error"))
            assert scenes(made).prompts == ["a dog in the snow"] * 12
        assert b"a-secret" not in (run / "composed.h5").read_bytes()

    def test_a_server_that_goes_down_is_gone_on_with(
        self, run: Path, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("syntic_cli.models.chat_server.LONGEST_WAIT", 0.01)
        good = says(answer((2, 1), "a dog in the snow"))
        words = ["compose", corpus_file, *COMPOSE, "-w", run, "--writer-model", "micro"]
        words += ["--concurrency", 1, "--shard-size", 4, "--batch-size", 4, "-o", run / "x.h5"]
        with serving(*[good] * 6, status(401)) as served:
            result = run_in_process(*words, "--writer", served.url)
        assert result.exit_code == 2
        assert "refuses the key" in result.stderr
        with serving(good) as served:
            assert "4 of 12 groups are there" in well(*words, "--writer", served.url).stderr
            assert len(served.requests) == 8

    def test_a_language_model(self, run: Path, corpus_file: Path, tmp_path: Path) -> None:
        """With random weights: every group is an error, and none stops the run."""
        folder = build_language_model(tmp_path / "model")
        words = ["compose", corpus_file, *COMPOSE, "-w", run, "-o", run / "x.h5"]
        result = well(*words, "--writer", f"model:{folder}", "--tries", 1)
        assert "12 of 12 groups failed, the first because: no usable answer in 1 try" in (
            result.stderr
        )
        with Artifact(run / "x.h5") as made:
            assert made.recipe.settings["writer"].startswith("model folder model ")
            assert len(made.recipe.settings["prompt"]) == 64
        result = run_in_process("synthesize", run / "x.h5", "-w", run, "-o", run / "y.h5")
        assert "holds no scene" in result.stderr


class TestSelect:
    def test_texts_get_other_images_and_the_worst_are_left_out(
        self, tmp_path: Path, finished: Path
    ) -> None:
        run = Path(shutil.copytree(finished, tmp_path / "run"))
        result = well("select", "-w", run, "--images", 5, "--keep-best", 0.75)
        with Artifact(run / "features.h5") as before, Artifact(run / "selected.h5") as made:
            assert made.texts("captions") == CAPTIONS
            for name in ("image_features", "text_features", "valid"):
                np.testing.assert_array_equal(made.numbers(name), before.numbers(name))
            image, texts = made.image(), before.numbers("text_features")
            images = before.numbers("image_features")
        assert (image >= 0).sum() == 36
        across, alike = texts @ images.T, texts @ texts.T
        scores = np.full(TEXTS, -1.0)
        for text in range(TEXTS):
            near = np.argsort(-across[text], kind="stable")[:5]
            back = {g: alike[text, np.argsort(-across[:, g], kind="stable")[:2]] for g in near}
            scores[text] = max(found.max() for found in back.values())
            if image[text] >= 0:
                assert back[image[text]].max() == pytest.approx(scores[text], abs=3e-6)
        assert scores[image >= 0].min() >= scores[image < 0].max() - 3e-6
        assert "kept 36 of 48 texts" in result.stderr
        # The stages behind it take it up.
        result = run_in_process("optimize", "-w", run)
        assert "features: features.h5" in result.stderr
        assert "selected.h5" in result.stderr
        for stage in ("optimize", "project", "train"):
            well(stage, "-w", run, "--force")
        with Artifact(run / "projected.h5") as made:
            np.testing.assert_array_equal(made.image(), image)
        with Artifact(run / "captioner.h5") as made:
            assert len(made.texts("support_captions")) == TEXTS

    def test_by_another_dual_encoder(self, tmp_path: Path, finished: Path) -> None:
        run = Path(shutil.copytree(finished, tmp_path / "run"))
        random = np.random.default_rng(0)
        shutil.copy(run / "features.h5", run / "other.h5")
        with h5py.File(run / "other.h5", "r+") as file:
            for name in ("image_features", "text_features"):
                rows = random.normal(size=file[name].shape)
                file[name][:] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        well("select", "-w", run, "--clip", run / "other.h5")
        well("select", "-w", run, "-o", run / "own.h5")
        with Artifact(run / "selected.h5") as one, Artifact(run / "own.h5") as other:
            assert (one.image() != other.image()).any()
            np.testing.assert_array_equal(
                one.numbers("image_features"), other.numbers("image_features")
            )
        result = run_in_process(
            "select", "-w", run, "--clip", run / "optimized.h5", "-o", run / "x.h5"
        )
        assert result.exit_code == 2


class TestTrainSwitches:
    def test_what_is_off_is_not_in_the_recipe(self, composed: Path) -> None:
        with Artifact(composed / "captioner.h5") as made:
            assert not {"weigh", "retrieve", "retrieve_words"} & set(made.recipe.settings)
            assert "words" not in made

    def test_captions_count_by_their_cosines(self, run: Path) -> None:
        said = well("train", "-w", run, "--weigh", 3, "-o", run / "weighed.h5").stderr
        with Artifact(run / "projected.h5") as made:
            cosines = made.numbers("cosine")[made.image() >= 0]
        assert f"median {np.median(cosines):.2f}" in said
        assert f"{100 * (cosines >= 1 / 3).mean():.0f} % of the captions count in full" in said
        with Artifact(run / "weighed.h5") as one, Artifact(run / "captioner.h5") as other:
            assert one.recipe.settings["weigh"] == 3
            mine, plain = one.group("decoder"), other.group("decoder")
        assert any((mine[name] != plain[name]).any() for name in mine)

    @pytest.mark.parametrize("more", [[], ["--no-objects"], ["--no-projection"]])
    def test_photos_are_told_by_texts_near_them(
        self, run: Path, photos: list[Path], more: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # To an encoder with random weights no text is near to one of the same words.
        monkeypatch.setattr("syntic_cli.method.retrieval.LIFT", 0.9)
        well("train", "-w", run, "--retrieve", 5, "--retrieve-words", 2, *more, "--force")
        well("caption", *photos, "-w", run, "-q")
        with Artifact(run / "captions.h5") as made:
            assert not any(made.texts("error"))
        model = Captioner.load(run / "captioner.h5", settings=CaptionSettings())
        assert model._retriever is not None
        with Artifact(run / "captioner.h5") as made:
            support, captions = made.numbers("support"), made.texts("support_captions")
            words, features = made.texts("words"), made.numbers("word_features")
            objects = made.shape("vocabulary")[0]
        assert len(words) > 3
        assert len(model._names) == objects + len(words) + len(support)
        images = torch.from_numpy(support[:9]) + 0.1 * torch.randn(9, support.shape[1])
        images = torch.nn.functional.normalize(images, dim=1)
        tags, present = model._tags([NO_OBJECTS] * 9, images)
        for row in range(9):
            near = np.argsort(-(images[row].numpy() @ support.T))[:5]
            pieces = [{*captions[text].casefold().split()} for text in near]
            shared = [
                word
                for row, word in enumerate(words)
                if sum(word in piece for piece in pieces) >= 2
            ]
            wanted = [features[words.index(word)] for word in shared] + [support[n] for n in near]
            np.testing.assert_allclose(tags[row][present[row]].numpy(), np.stack(wanted), atol=1e-6)

    def test_a_caption_of_the_image_is_no_tag_of_it(self, composed: Path) -> None:
        """Of a corpus in which some texts stand twice, neither is seen, and others once."""
        support = np.eye(6, 8, dtype=np.float32)
        captions = ["a dog", "a cat", "a dog", "a cup", "a cat", "a car"]
        settings = TrainSettings(retrieve=3, retrieve_words=1)
        _, (tags, offsets) = _retrieve(
            (support, captions),
            support[[0, 0, 1]] + 0.1,
            np.array([4, 4, 9]),
            ["a dog", "a cup", "a cat"],
            settings,
            Run(device="cpu"),
            seed=0,
        )
        found = [sorted(captions[text] for text in row) for row in np.split(tags, offsets[1:-1])]
        assert found == [["a car", "a cat"]] * 2 + [["a car", "a cup", "a dog"]]


def interrupting(times: int) -> Callable[..., None]:
    """Stands for `StopRequest.check`: stops a stage the so manyth time it asks."""
    left = [times]

    def check(self: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Interrupted(15)

    return check


class TestResume:
    @pytest.mark.parametrize("stage", ["compose", "select"])
    def test_a_stopped_stage_goes_on_to_the_same_end(
        self, run: Path, corpus_file: Path, stage: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from syntic_cli.interrupts import StopRequest
        from syntic_cli.method import grouping
        from syntic_cli.stages import compose, select

        monkeypatch.setattr(compose, "TEXTS", {"cpu": 10})
        monkeypatch.setattr(select, "TEXTS", 10)
        monkeypatch.setattr(grouping, "TILE", 5)
        for module in (compose, select):
            monkeypatch.setattr(module, "SECONDS_A_CHECKPOINT", -1.0)
        more = [corpus_file, *COMPOSE, "--shard-size", 5] if stage == "compose" else []
        name = {"compose": "composed.h5", "select": "selected.h5"}[stage]
        well(stage, *more, "-w", run, "-o", run / "peace.h5", "--force")
        (run / name).unlink(missing_ok=True)
        stops = 0
        for times in range(1, 30):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(StopRequest, "check", interrupting(times))
                if run_in_process(stage, *more, "-w", run).exit_code == 0:
                    break
            stops += 1
        assert stops >= 2
        assert faults.contents(run / name) == faults.contents(run / "peace.h5")

    def test_what_was_gathered_is_not_gathered_again(
        self, run: Path, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A stop while scenes are written keeps the features, the groups and the shards."""
        words = ["compose", corpus_file, *COMPOSE, "-w", run, "-o", run / "x.h5"]
        words += ["--shard-size", 4, "--batch-size", 4]
        seen: list[int] = []
        write = Extractive.write

        def writes(self: Extractive, groups: Any) -> Any:
            if len(seen) == 2:
                raise SynticError("stopped")
            seen.append(len(groups))
            return write(self, groups)

        monkeypatch.setattr(Extractive, "write", writes)
        assert run_in_process(*words).exit_code == 2
        monkeypatch.undo()
        monkeypatch.setattr("syntic_cli.models.clip.load_clip", None)
        assert "8 of 12 groups are there" in well(*words).stderr
        assert faults.contents(run / "x.h5") == faults.contents(run / "composed.h5")

    def test_an_encoding_of_fewer_images_than_texts_goes_on(
        self, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commits = [0]
        commit = Draft.commit

        def commits_twice(self: Draft, *given: Any) -> None:
            commits[0] += 1
            if commits[0] > 2:
                raise SynticError("stopped")
            commit(self, *given)

        words = ["encode", "-w", run, "-o", run / "x.h5", "--shard-size", 7]
        monkeypatch.setattr(Draft, "commit", commits_twice)
        assert run_in_process(*words).exit_code == 2
        monkeypatch.undo()
        assert "14 of 48 pairs are there" in well(*words).stderr
        with Artifact(run / "x.h5") as found, Artifact(run / "features.h5") as wanted:
            for name in ("image_features", "text_features", "image", "valid"):
                np.testing.assert_allclose(
                    found.numbers(name), wanted.numbers(name), atol=1e-5, err_msg=name
                )
            assert found.texts("error") == wanted.texts("error")

    def test_an_image_that_failed_is_encoded_again(self, run: Path) -> None:
        with h5py.File(run / "synthetic.h5", "r+") as file:
            whole = file["images"][2]
            file["images"][2] = whole[:10]
        assert "1 of " in well("encode", "-w", run, "--force").stderr
        with h5py.File(run / "synthetic.h5", "r+") as file:
            file["images"][2] = whole
        well("encode", "-w", run, "--retry-failed")
        with Artifact(run / "features.h5") as made:
            assert made.numbers("valid").all()
            assert made.numbers("text_features").shape == (TEXTS, 16)


class TestSchemas:
    @pytest.fixture
    def old(self, tmp_path: Path) -> Path:
        """A workspace that version 0.1.0 has left: 8 texts, the preset `tiny`, schema 1."""
        folder = tmp_path / "old"
        with zipfile.ZipFile(Path(__file__).with_name("schema1.zip")) as archive:
            archive.extractall(folder)
        (folder / "workspace.json").write_text('{"preset": "tiny"}')
        return folder

    def test_artifacts_of_schema_1_are_read(self, old: Path) -> None:
        for name in ("synthetic", "features", "optimized", "projected"):
            with Artifact(old / f"{name}.h5") as artifact:
                assert artifact.schema == 1
                assert artifact.rows == artifact.text_rows == 8
                assert artifact.image().tolist() == list(range(8))
        with Artifact(old / "synthetic.h5") as artifact:
            assert artifact.column("prompts") == artifact.texts("captions")

    def test_every_stage_goes_on_from_them(self, old: Path) -> None:
        """As it would have from those of its own schema, but with the dual encoder of today."""
        images = {}
        for stage, name, column in (
            ("encode", "features.h5", "image_features"),
            ("optimize", "optimized.h5", "image_features"),
            ("project", "projected.h5", "projected"),
        ):
            new = old / f"new-{name}"
            well(stage, "-w", old, "-o", new)
            with Artifact(old / name) as before, Artifact(new) as after:
                assert (before.schema, after.schema) == (1, 2)
                if stage != "encode":
                    wanted = before.numbers(column)
                    np.testing.assert_allclose(after.numbers(column), wanted, atol=2e-4)
                assert image_of_texts(after).tolist() == list(range(8))
                images[stage] = after.numbers(column)
        # The names of objects would be features of another model than the images'.
        refused = run_in_process("train", "-w", old, "--epochs", 1)
        assert refused.exit_code == 2
        assert "where folder clip e71bf5916c3f439d is meant" in refused.stderr
        well("train", "-w", old, "--epochs", 1, "--no-objects")
        with Artifact(old / "captioner.h5") as made:
            assert len(made.texts("support_captions")) == 8

    def test_without_cosines_captions_cannot_be_weighed(self, old: Path) -> None:
        result = run_in_process("train", "-w", old, "--weigh", 4)
        assert result.exit_code == 2
        assert "run `syntic optimize --force` and `syntic project --force`" in result.stderr

    def test_finished_ones_are_up_to_date(self, old: Path) -> None:
        shutil.copy(old / "projected.h5", old / "before.h5")
        with Artifact(old / "projected.h5") as made:
            temperature = made.recipe.settings["temperature"]
        result = well("project", "-w", old, "--temperature", temperature)
        assert "is up to date" in result.stderr
        assert (old / "projected.h5").read_bytes() == (old / "before.h5").read_bytes()

    def test_an_image_that_is_not_there_is_refused(self, run: Path) -> None:
        with h5py.File(run / "features.h5", "r+") as file:
            file["image"][3] = 400
        with Artifact(run / "features.h5") as made, pytest.raises(DamagedError, match="not there"):
            made.image()
