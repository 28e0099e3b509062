"""Captions again: of photos that changed, by models that moved, beside those of other photos."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from syntic_cli import Captioner
from syntic_cli.artifacts.reading import Artifact
from syntic_cli.artifacts.recipe import Recipe
from syntic_cli.artifacts.shards import Draft
from syntic_cli.artifacts.writing import write_artifact
from syntic_cli.errors import ConflictError
from syntic_cli.schema import STAGES
from syntic_cli.settings import CaptionSettings

from . import micro
from .conftest import RunCli

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Iterator[Path]:
    """A workspace of one's own with a captioner."""
    workspace = tmp_path / "run"
    workspace.mkdir()
    for name in ("captioner.h5", "workspace.json"):
        shutil.copy(finished / name, workspace)
    yield workspace
    shutil.rmtree(workspace)


@pytest.fixture
def folder(tmp_path: Path, photos: list[Path]) -> Path:
    """Three photos, the second of which cannot be read yet."""
    place = tmp_path / "photos"
    place.mkdir()
    for name, photo in zip("ac", photos, strict=False):
        shutil.copy(photo, place / f"{name}.jpg")
    (place / "b.jpg").write_bytes(b"not yet a photo")
    return place


def rows(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def refused(result: Any) -> str:
    assert result.exit_code == 2, result.stderr
    assert "Traceback" not in result.stderr
    return str(result.stderr.splitlines()[-1])


class TestPhotosThatChanged:
    @pytest.mark.parametrize("named", [False, True], ids=["workspace", "output"])
    @pytest.mark.parametrize("retry", [[], ["--retry-failed"]], ids=["again", "retry"])
    def test_a_mended_photo_alone_is_captioned(
        self, run: Path, folder: Path, photos: list[Path], run_cli: RunCli, named: bool,
        retry: list[str],
    ) -> None:  # fmt: skip
        output = ["-o", run / "mine.h5"] if named else []
        command = ("caption", folder, "-w", run, "-f", "jsonl", *output)
        before = rows(run_cli(*command))
        assert [bool(row["error"]) for row in before] == [False, True, False]
        shutil.copy(photos[2], folder / "b.jpg")
        again = run_cli(*command, *retry)
        assert "2 of 3 photos are there, going on" in again.stderr
        after = rows(again)
        assert [before[0], before[2]] == [after[0], after[2]]
        assert not after[1]["error"]
        assert len(list(run.glob("*.h5"))) == 2
        assert not list(run.glob("*parts"))

    def test_a_photo_more_is_captioned_alone(
        self, run: Path, folder: Path, photos: list[Path], run_cli: RunCli
    ) -> None:
        shutil.copy(photos[2], folder / "b.jpg")
        command = ("caption", folder, "-w", run, "-f", "jsonl")
        before = rows(run_cli(*command))
        # Between the others, so that rows move.
        shutil.copy(photos[3], folder / "aa.jpg")
        again = run_cli(*command)
        assert "3 of 4 photos are there, going on" in again.stderr
        after = rows(again)
        assert [after[0], after[2], after[3]] == before
        with Artifact(run / "captions.h5") as artifact:
            counts = np.diff(artifact.numbers("offsets"))
        assert counts.tolist() == [len(row["objects"]) for row in after]
        alone = rows(run_cli(*command, "--force"))
        for one, other in zip(after, alone, strict=True):
            assert one["caption"] == other["caption"]
            assert one["log_probability"] == pytest.approx(other["log_probability"], abs=1e-4)

    def test_a_failure_stays_until_it_is_retried(
        self, run: Path, folder: Path, photos: list[Path], run_cli: RunCli
    ) -> None:
        command = ("caption", folder, "-w", run, "-f", "jsonl")
        rows(run_cli(*command))
        shutil.copy(photos[3], folder / "d.jpg")
        assert "3 of 4 photos are there" in run_cli(*command).stderr
        assert "3 of 4 photos are there" in run_cli(*command, "--retry-failed").stderr

    def test_what_would_be_lost_is_kept(
        self, run: Path, photos: list[Path], run_cli: RunCli
    ) -> None:
        for number in range(4):
            assert run_cli("caption", photos[number], "-w", run, "--keep", 2).exit_code == 0
        kept = sorted(run.glob("captions-*.h5"))
        assert len(kept) == 2
        with Artifact(run / "captions.h5") as artifact:
            assert artifact.texts("path") == [str(photos[3])]
        shown = json.loads(run_cli("inspect", run, "-f", "json").stdout)
        assert [e["state"] for e in shown if e["file"] == kept[0].name] == ["kept, of other input"]
        assert run_cli("caption", photos[0], "-w", run, "--keep", 0).exit_code == 0
        assert sorted(run.glob("captions-*.h5")) == kept

    def test_a_named_file_is_not_lost(self, run: Path, photos: list[Path], run_cli: RunCli) -> None:
        output = ("-w", run, "-o", run / "mine.h5")
        assert run_cli("caption", *photos[:2], *output).exit_code == 0
        message = refused(run_cli("caption", photos[0], *output))
        assert "photos: 2 photos (" in message
        assert "--output FILE to keep both" in message

    def test_nothing_is_set_aside_for_a_command_that_fails(
        self, run: Path, run_cli: RunCli
    ) -> None:
        results, references = run / "one.json", run / "r.csv"
        results.write_text('[{"image_id": "a.jpg", "caption": "a dog"}]')
        references.write_text("image,caption\na.jpg,a dog runs\n")
        command = ("evaluate", results, "-w", run, "--metrics", "BLEU-1", "--references")
        assert run_cli(*command, references).exit_code == 0
        before = (run / "scores.h5").read_bytes()
        wrong = run / "wrong.csv"
        wrong.write_text("image,caption\nelsewhere.jpg,a cat\n")
        assert "describes none of" in refused(run_cli(*command, wrong))
        assert (run / "scores.h5").read_bytes() == before
        assert not list(run.glob("scores-*.h5"))


class TestOnePhotoOfMany:
    def test_a_strip_fails_alone(
        self, run: Path, photos: list[Path], run_cli: RunCli, tmp_path: Path
    ) -> None:
        strips = []
        for width, height in ((3000, 1), (20000, 7)):
            strips.append(tmp_path / f"{width}.png")
            Image.new("RGB", (width, height)).save(strips[-1])
        result = run_cli("caption", photos[0], *strips, photos[1], "-w", run, "-f", "jsonl")
        found = rows(result)
        assert [bool(row["error"]) for row in found] == [False, True, True, False]
        assert "3000 x 1" in found[1]["error"]
        assert "20000 x 7" in found[2]["error"]

    def test_a_processor_that_fails_on_it(
        self, run: Path, photos: list[Path], run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from syntic_cli.models.detector import Detector

        preprocess = Detector.preprocess

        def odd(self: Detector, image: Image.Image) -> Any:
            if image.width == 56:
                raise ZeroDivisionError("a side of nothing")
            return preprocess(self, image)

        monkeypatch.setattr(Detector, "preprocess", odd)
        found = rows(run_cli("caption", *photos[:3], "-w", run, "-f", "jsonl"))
        assert [bool(row["error"]) for row in found] == [False, True, False]
        assert "(a side of nothing)" in found[1]["error"]

    def test_a_model_that_fails_on_it(
        self, run: Path, photos: list[Path], run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = rows(run_cli("caption", *photos[:3], "-w", run, "-f", "jsonl"))
        describe = Captioner._describe_batch

        def odd(self: Captioner, batch: Any) -> Any:
            # The green photo, as its pixels tell.
            if any(photo.pixels[1].mean() > photo.pixels[0].mean() for photo in batch[:2]):
                raise RuntimeError("shape '[0]' is invalid")
            return describe(self, batch)

        monkeypatch.setattr(Captioner, "_describe_batch", odd)
        found = rows(run_cli("caption", *photos[:3], "-w", run, "-f", "jsonl", "--force"))
        assert "shape '[0]' is invalid" in found[1]["error"]
        for row in (0, 2):
            assert found[row]["caption"] == whole[row]["caption"]

    def test_a_photo_that_lacks_its_end(
        self, run: Path, photos: list[Path], run_cli: RunCli, tmp_path: Path
    ) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
        cut = tmp_path / "cut.jpg"
        Image.fromarray(noise).save(cut)
        cut.write_bytes(cut.read_bytes()[:-2000])
        result = run_cli("caption", photos[0], cut, "-w", run, "-f", "jsonl")
        found = rows(result)
        assert [row["note"] for row in found] == ["", "truncated"]
        assert found[1]["caption"]
        assert "1 photo whose file lacks its end" in result.stderr


class TestModels:
    def test_the_same_weights_in_a_folder_of_another_name(
        self, run: Path, photos: list[Path], run_cli: RunCli, micro_preset: Path, tmp_path: Path
    ) -> None:
        moved = shutil.copytree(micro_preset.parent / "clip", tmp_path / "elsewhere")
        here = ("-w", run, "-f", "jsonl", "--force")
        plain = rows(run_cli("caption", photos[0], *here))
        assert rows(run_cli("caption", photos[0], *here, "--clip", moved)) == plain

    @pytest.mark.parametrize("width", [16, 24])
    def test_another_dual_encoder(
        self, run: Path, photos: list[Path], run_cli: RunCli, tmp_path: Path, width: int
    ) -> None:
        import torch

        torch.manual_seed(7)
        micro.build_clip(tmp_path / "other", embed_dim=width)
        command = ("caption", photos[0], "-w", run, "--force", "--clip", tmp_path / "other")
        message = refused(run_cli(*command))
        assert "was trained with folder clip" in message
        assert "give --clip with the right one" in message

    @pytest.mark.parametrize("width", [16, 24])
    def test_another_dual_encoder_where_the_first_has_but_a_name(
        self, run: Path, photos: list[Path], tmp_path: Path, width: int
    ) -> None:
        """As of a hub's model, of whose content the captioner knows what it makes of names."""
        import torch

        from .fuzz import rewrite

        with Artifact(run / "captioner.h5") as artifact:
            models = {**artifact.recipe.models}
        folder = models["clip"]["model"]
        models["clip"] = {**models["clip"], "model": "org/name", "identity": "org/name"}
        rewrite(run / "captioner.h5", models=json.dumps(models))
        torch.manual_seed(7)
        micro.build_clip(tmp_path / "other", embed_dim=width)
        with pytest.raises(ConflictError, match="gives texts other features"):
            Captioner.load(run / "captioner.h5", clip=str(tmp_path / "other"))
        Captioner.load(run / "captioner.h5", clip=folder)

    def test_a_captioner_without_objects_can_show_some(
        self, finished: Path, photos: list[Path], run_cli: RunCli, micro_preset: Path,
        tmp_path: Path,
    ) -> None:  # fmt: skip
        captioner = tmp_path / "plain.h5"
        made = run_cli("train", "--no-objects", "-w", finished, "-o", captioner)
        assert made.exit_code == 0, made.stderr
        out = tmp_path / "c.h5"
        command = ("caption", photos[0], "-w", finished, "--captioner", captioner, "-f", "jsonl")
        plain = rows(run_cli(*command, "-o", out))
        assert plain[0]["objects"] == []
        shown = rows(run_cli(*command, "-o", out, "--objects", "--force"))
        assert {found["label"] for found in shown[0]["objects"]} <= {"cat", "dog", "cup", "tree"}
        assert shown[0]["objects"]
        assert shown[0]["caption"] == plain[0]["caption"]
        detector = micro_preset.parent / "detector"
        assert rows(run_cli(*command, "-o", out, "--detector", detector, "--force"))[0]["objects"]

    def test_a_captioner_beside_the_artifacts_of_another_run(
        self, finished: Path, photos: list[Path], run_cli: RunCli, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        other.mkdir()
        shutil.copy(finished / "workspace.json", other)
        shutil.copy(finished / "optimized.h5", other)
        projected = run_cli("project", "--temperature", 0.5, "-w", other)
        assert projected.exit_code == 0, projected.stderr
        moved = shutil.copy(finished / "captioner.h5", other / "moved.h5")
        result = run_cli("caption", photos[0], "--captioner", moved, "-w", other)
        assert result.exit_code == 0, result.stderr

    def test_loading_leaves_the_callers_loggers_alone(self, finished: Path) -> None:
        import transformers.utils.logging as library

        root = logging.getLogger()
        before = root.level, library.get_verbosity()
        root.setLevel(logging.INFO)
        try:
            Captioner.load(finished / "captioner.h5")
            assert root.level == logging.INFO
            assert library.get_verbosity() == before[1]
        finally:
            root.setLevel(before[0])


class TestConsensus:
    def test_takes_the_caption_that_agrees_best(self, finished: Path, photos: list[Path]) -> None:
        from syntic_cli.method.consensus import learn_consensus
        from syntic_cli.tokenizer import encode_captions, from_bytes

        with Artifact(finished / "captioner.h5") as artifact:
            support = artifact.numbers("support")
            tokenizer = from_bytes(artifact.numbers("tokenizer"))
            texts = artifact.texts("support_captions")
            temperature = artifact.attribute("projection_temperature", float)
        consensus = learn_consensus(*encode_captions(tokenizer, texts, 100)[:2])
        usual = CaptionSettings(beam=3, max_length=12)
        asking = Captioner.load(
            finished / "captioner.h5",
            settings=replace(usual, consensus=20, evidence=0.5),
            openvino=False,
        )
        plain = Captioner.load(finished / "captioner.h5", settings=usual, openvino=False)
        chosen, signals = asking.caption_with_signals(photos)
        assert asking.signals[3] == "agreement"
        assert plain.signals == asking.signals[:3]
        different = 0
        for photo, one, other, found in zip(
            photos, chosen, plain.caption(photos), signals, strict=True
        ):
            pixels = asking._clip.preprocess(Image.open(photo).convert("RGB"))[None]
            cosines = (asking._clip.encode_images(pixels).numpy() @ support.T)[0]
            near = np.argsort(-cosines)[:20]
            shares = np.exp((cosines[near] - cosines[near[0]]) / temperature)
            tokens = np.full((1, 2, 30), tokenizer.token_to_id("<|endoftext|>"))
            for place, caption in enumerate((one, other)):
                ids = tokenizer.encode(caption.caption).ids
                tokens[0, place, : len(ids)] = ids
            sayings = consensus.ask(
                torch.from_numpy(near)[None],
                torch.from_numpy(shares / shares.sum()).float()[None],
            )
            agreement, evidence = consensus.judge(
                torch.from_numpy(tokens), tokens[0, 0, -1], sayings
            )
            assert found[3] == pytest.approx(agreement[0, 0].item(), abs=1e-3)
            ranks = (agreement + 0.5 * evidence)[0].tolist()
            assert ranks[0] >= ranks[1] - 1e-4
            different += one.caption != other.caption
        assert different

    def test_a_decoder_that_sees_texts_alone_reads_each_once(
        self,
        finished: Path,
        photos: list[Path],
        run_cli: RunCli,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from syntic_cli.method import search

        captioner = tmp_path / "plain.h5"
        made = run_cli("train", "--no-objects", "-w", finished, "-o", captioner)
        assert made.exit_code == 0, made.stderr
        read = []

        def counting(decoder: Any, prefix: torch.Tensor, **options: Any) -> Any:
            read.append(len(prefix))
            return greedy(decoder, prefix, **options)

        greedy = search.greedy
        monkeypatch.setattr(search, "greedy", counting)
        settings = CaptionSettings(beam=2, max_length=12, consensus=5)
        asking = Captioner.load(captioner, settings=settings)
        first = asking.caption(photos)
        with Artifact(captioner) as artifact:
            texts = len(artifact.numbers("support"))
        assert 0 < sum(read) <= min(texts, 5 * len(photos))
        assert asking.caption(photos) == first
        assert sum(read) <= min(texts, 5 * len(photos))
        again = sum(read)
        asking.caption(photos)
        assert sum(read) == again

    def test_asks_the_texts_of_another_support_set(
        self, run: Path, finished: Path, photos: list[Path], run_cli: RunCli
    ) -> None:
        """The captioner's own set once more, whose n-grams are then counted anew."""
        command = ("caption", *photos, "-w", run, "--consensus", 20, "-f", "jsonl", "--force")
        stored = rows(run_cli(*command))
        given = rows(run_cli(*command, "--support", finished / "features.h5"))
        assert [row["caption"] for row in given] == [row["caption"] for row in stored]

    def test_a_captioner_of_before_counts_its_texts(
        self, run: Path, photos: list[Path], run_cli: RunCli
    ) -> None:
        command = ("caption", *photos, "-w", run, "--consensus", 20, "-f", "jsonl", "--force")
        stored = rows(run_cli(*command))
        with h5py.File(run / "captioner.h5", "r+") as file:
            del file["consensus"]
        assert rows(run_cli(*command)) == stored
        with Artifact(run / "captioner.h5") as artifact:
            columns = {n: artifact.column(n) for n in STAGES["train"].columns if n in artifact}
            columns["support_captions"] = [""] * len(columns["support_captions"])
            groups = {name: artifact.group(name) for name in ("decoder", "repetition")}
            kept = ("decoder_config", "projection_temperature", "projection")
            attributes = {name: artifact.attributes[name] for name in kept}
            recipe = artifact.recipe
        (run / "captioner.h5").unlink()
        write_artifact(run / "captioner.h5", recipe, columns, groups=groups, attributes=attributes)
        message = refused(run_cli(*command))
        assert "keeps no texts of a support set" in message
        assert "give --support features.h5, or --consensus 0" in message

    def test_a_photo_whose_feature_is_not_finite_fails_alone(
        self, finished: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = CaptionSettings(consensus=20, evidence=0.5, shorten=0.0)
        asking = Captioner.load(finished / "captioner.h5", settings=settings, openvino=False)
        usual = asking.caption(photos)
        features = asking._features

        def broken(pixels: torch.Tensor) -> torch.Tensor:
            found = features(pixels)
            return torch.where(pixels.float().amin(dim=(1, 2, 3))[:, None] > 0.9, torch.nan, found)

        monkeypatch.setattr(asking, "_features", broken)
        found = asking.caption(photos)
        assert ["not finite" in row.error for row in found] == [False, False, False, True, False]
        assert [*found[:3], found[4]] == [*usual[:3], usual[4]]

    def test_needs_a_support_set(
        self, finished: Path, photos: list[Path], run_cli: RunCli, tmp_path: Path
    ) -> None:
        bare = tmp_path / "bare.h5"
        made = run_cli("train", "--no-projection", "-w", finished, "-o", bare)
        assert made.exit_code == 0, made.stderr
        command = ("caption", photos[0], "--captioner", bare, "-w", finished)
        output = ("-o", tmp_path / "c.h5")
        message = refused(run_cli(*command, *output, "--consensus", 20))
        assert "keeps no support set" in message
        assert run_cli(*command, *output).exit_code == 0


class TestPrecision:
    def test_rows_of_one_dtype_stay_so(
        self, finished: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As where a GPU has begun in bfloat16 and a CPU, whose own choice is float32, goes on."""
        from .test_integrity import interrupt_before_finish

        workspace = tmp_path / "run"
        shutil.copytree(finished, workspace)
        interrupt_before_finish("encode", run_cli, workspace, "--shard-size", 16)
        parts = workspace / "features.h5.forced.parts"
        content = json.loads((parts / "recipe.json").read_text())
        assert content["precision"]["dtype"] == "float32"
        content["precision"] = {"device": "cuda", "dtype": "bfloat16"}
        (parts / "recipe.json").write_text(json.dumps(content))
        (parts / "0000000016-0000000032.h5").unlink()
        result = run_cli("encode", "-w", workspace, "--force", "--shard-size", 16)
        assert result.exit_code == 0, result.stderr
        with Artifact(workspace / "features.h5") as one, Artifact(finished / "features.h5") as two:
            assert one.attributes["dtype"] == "bfloat16"
            wanted, found = (f.numbers("image_features") for f in (two, one))
        # Rows 16 to 32 were computed in bfloat16: near, but not the same.
        off = np.abs(found - wanted).max(axis=1)
        assert off[:16].max() < 1e-6
        assert 1e-5 < off[16:32].max() < 0.1

    def test_two_dtypes_are_refused(self, tmp_path: Path) -> None:
        import torch

        draft = Draft(tmp_path / "features.h5", Recipe("encode", {}))
        draft.computed_in(torch.device("cpu"), torch.bfloat16)
        with pytest.raises(ConflictError, match="computed in bfloat16 on cpu, and would go on in"):
            draft.computed_in(torch.device("cpu"), torch.float32)


def test_a_special_token_in_a_text_is_a_text(
    run_cli: RunCli, finished: Path, micro_preset: Path, tmp_path: Path
) -> None:
    from syntic_cli.models.clip import load_clip
    from syntic_cli.presets import load_preset, resolve
    from syntic_cli.settings import EncodeSettings
    from syntic_cli.tokenizer import clip_tokenizer, encode_captions, make_tokenizer

    texts = ["a dog <|endoftext|> in the snow", "a dog"]
    for name in ("clip", "bpe:400"):
        tokenizer = make_tokenizer(name, texts * 20)
        tokens, offsets, cut = encode_captions(tokenizer, texts, 40)
        assert tokenizer.token_to_id("<|endoftext|>") not in tokens
        assert "snow" in tokenizer.decode(tokens[: offsets[1]].tolist())
        assert cut == 0
    assert encode_captions(clip_tokenizer(), texts, 3)[2] == 1

    import torch

    tiny = resolve(EncodeSettings, load_preset("tiny"))
    clip = load_clip(tiny, torch.device("cpu"), torch.float32)
    cut_there, whole = clip.encode_texts(["a dog", texts[0]])
    assert float(cut_there @ whole) < 0.99
    # 30 words with a token before and one behind are as many as it takes.
    assert clip.count_cut(["a dog", "word " * 30, "word " * 31, "word " * 40]) == 2


def test_texts_that_are_cut_are_counted(
    run_cli: RunCli, micro_preset: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a dog\n" + "a very long walk " * 12 + "\na cat\n")
    here = ("-w", tmp_path / "run")
    made = run_cli("synthesize", corpus, "--preset", micro_preset, *here)
    assert "synthesize: 1 text cut at 32 tokens" in made.stderr
    assert "encode: 1 text cut at 32 tokens" in run_cli("encode", *here).stderr


def test_force_keeps_the_captions_of_other_photos(
    run_cli: RunCli, finished: Path, photos: list[Path], tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    before = (run / "captions.h5").read_bytes()
    assert run_cli("caption", photos[0], "-w", run, "--force").exit_code == 0
    (kept,) = run.glob("captions-*.h5")
    assert kept.read_bytes() == before
    assert run_cli("caption", photos[0], "-w", run, "--force").exit_code == 0
    assert list(run.glob("captions-*.h5")) == [kept]
    (run / "captions.h5").write_bytes(b"damaged")
    assert run_cli("caption", photos[0], "-w", run, "--force").exit_code == 0


def test_what_is_no_longer_finite_is_no_artifact(
    run_cli: RunCli, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o.h5"
    assert "no longer finite" in refused(
        run_cli("optimize", "-w", finished, "-o", out, "--lr", 1e300)
    )
    assert not out.exists()


def test_a_stage_that_fails_leaves_an_empty_folder_empty(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no such artifact" in refused(run_cli("encode"))
    assert not list(tmp_path.iterdir())


def test_quiet_is_quiet(run_cli: RunCli, finished: Path, tmp_path: Path) -> None:
    """What goes on from a checkpoint, and what leaves pairs out, once spoke all the same."""
    import h5py

    from .test_integrity import interrupt_before_finish

    workspace = tmp_path / "run"
    shutil.copytree(finished, workspace)
    with h5py.File(workspace / "synthetic.h5", "r+") as file:
        file["flagged"][3] = True
    for stage in ("encode", "optimize", "project", "train"):
        interrupt_before_finish(stage, run_cli, workspace)
        result = run_cli(stage, "-w", workspace, "--force", "--quiet")
        assert (result.exit_code, result.stderr) == (0, "")
