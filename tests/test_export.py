"""Exports, read back with the libraries that they are for."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from syntic_cli.artifacts.reading import Artifact
from syntic_cli.artifacts.recipe import Recipe
from syntic_cli.artifacts.writing import write_artifact

from . import handmade
from .conftest import RunCli

GOOD = [row for row in range(12) if row not in (handmade.FAILED, handmade.BLANKED)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return handmade.write_run(tmp_path_factory.mktemp("export") / "run", photos=7)


@pytest.fixture
def exported(run_cli: RunCli, run: Path, tmp_path: Path) -> Any:
    def export(name: str, to: str, *more: object) -> Path:
        target = tmp_path / "out"
        result = run_cli("export", run / name, target, "--to", to, *more)
        assert result.exit_code == 0, result.stderr
        return target

    return export


def files(folder: Path) -> dict[str, str]:
    """The sha256 of every file by its name."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def stored(run: Path) -> list[bytes]:
    with Artifact(run / "synthetic.h5") as artifact:
        return artifact.byte_strings("images")


class TestImagefolder:
    @pytest.mark.parametrize("shard_size", [4, 100])
    def test_datasets_reads_the_pairs(
        self, exported: Any, run: Path, tmp_path: Path, shard_size: int
    ) -> None:
        datasets = pytest.importorskip("datasets", reason="datasets is not installed")
        target = exported("synthetic.h5", "imagefolder", "--shard-size", shard_size)
        loaded = datasets.load_dataset(
            "imagefolder", data_dir=str(target), split="train", cache_dir=str(tmp_path / "cache")
        ).sort("seed")
        assert loaded["text"] == [handmade.TEXTS[row] for row in GOOD]
        assert loaded["seed"] == [100 + row for row in GOOD]
        for image, row in zip(loaded["image"], GOOD, strict=True):
            wanted = np.asarray(Image.open(io.BytesIO(stored(run)[row])))
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), wanted)

    def test_photos_keep_their_names(self, exported: Any, run: Path) -> None:
        target = exported("captions.h5", "imagefolder")
        lines = (target / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["file_name"] for row in rows] == [f"photo{i:03d}.jpg" for i in range(7)]
        for row in rows:
            photo = run.parent / "photos" / row["file_name"]
            assert (target / row["file_name"]).read_bytes() == photo.read_bytes()


class TestWebdataset:
    def test_webdataset_reads_the_pairs(self, exported: Any, run: Path) -> None:
        webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
        target = exported("synthetic.h5", "webdataset", "--shard-size", 5)
        tars = sorted(str(path) for path in target.glob("*.tar"))
        assert [Path(tar).name for tar in tars] == ["000000.tar", "000001.tar", "000002.tar"]
        samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
        assert [sample["txt"].decode() for sample in samples] == [
            handmade.TEXTS[row] for row in GOOD
        ]
        assert [sample["jpg"] for sample in samples] == [stored(run)[row] for row in GOOD]
        assert [json.loads(sample["json"])["seed"] for sample in samples] == [
            100 + row for row in GOOD
        ]

    def test_captions_come_with_their_objects(self, exported: Any, run: Path) -> None:
        webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
        target = exported("captions.h5", "webdataset")
        samples = list(
            webdataset.WebDataset([str(target / "000000.tar")], shardshuffle=False).decode("pil")
        )
        about = samples[3]["json"]
        assert about["file_name"] == "photo003.jpg"
        assert about["log_probability"] == -3
        assert about["objects"] == [{"label": "cup", "score": 0.9, "box": [0.0, 0.0, 0.5, 0.5]}]
        assert samples[3]["jpg"].size == (64, 64)


class TestParquet:
    def test_pyarrow_reads_the_features(self, exported: Any, run: Path) -> None:
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
        target = exported("optimized.h5", "parquet", "--shard-size", 5)
        table = parquet.read_table(target)
        assert len(list(target.glob("train-*-of-00003.parquet"))) == 3
        assert table["row"].to_pylist() == GOOD
        assert table["text"].to_pylist() == [handmade.TEXTS[row] for row in GOOD]
        with Artifact(run / "optimized.h5") as artifact:
            for name in ("image_features", "text_features"):
                np.testing.assert_array_equal(
                    np.array(table[name].to_pylist(), np.float32), artifact.numbers(name)[GOOD]
                )

    def test_datasets_sees_images(self, exported: Any, run: Path, tmp_path: Path) -> None:
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        datasets = pytest.importorskip("datasets", reason="datasets is not installed")
        target = exported("synthetic.h5", "parquet")
        loaded = datasets.load_dataset(
            str(target), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert isinstance(loaded.features["image"], datasets.Image)
        assert loaded["text"] == [handmade.TEXTS[row] for row in GOOD]
        assert loaded[0]["image"].size == (48, 48)
        assert loaded["seed"] == [100 + row for row in GOOD]

    def test_captions_come_with_their_objects(self, exported: Any) -> None:
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
        table = parquet.read_table(exported("captions.h5", "parquet"))
        (found,) = table["objects"].to_pylist()[2]
        assert found["label"] == "cup"
        assert found["box"] == [0.0, 0.0, 0.5, 0.5]
        assert table["log_probability"].to_pylist() == [-float(row) for row in range(7)]

    def test_without_pyarrow_a_line_says_what_to_install(
        self, run_cli: RunCli, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [name for name in sys.modules if name.startswith("pyarrow")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        result = run_cli("export", run / "synthetic.h5", tmp_path / "out", "--to", "parquet")
        assert result.exit_code == 2
        assert "pip install 'syntic-cli[export]'" in result.stderr


class TestCoco:
    def test_pycocotools_reads_the_captions(self, exported: Any) -> None:
        coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
        target = exported("synthetic.h5", "coco")
        loaded = coco.COCO(str(target))
        assert sorted(loaded.getImgIds()) == GOOD
        for row in GOOD:
            (annotation,) = loaded.loadAnns(loaded.getAnnIds(imgIds=[row]))
            assert annotation["caption"] == handmade.TEXTS[row]
        assert loaded.loadImgs([7])[0]["file_name"] == "000000007.jpg"

    def test_results_are_scored_as_the_artifact_is(
        self, run_cli: RunCli, exported: Any, run: Path, tmp_path: Path
    ) -> None:
        target = exported("captions.h5", "coco")
        rows = json.loads(target.read_text(encoding="utf-8"))
        assert rows[2]["image_id"] == "photo002.jpg"
        results = target.rename(tmp_path / "results.json")
        scores = []
        for captions in (run / "captions.h5", results):
            found = run_cli(
                "evaluate", captions, "--references", run.parent / "references.csv", "-q",
                "--metrics", "CIDEr,ROUGE-L", "--format", "json", "-w", tmp_path,
                "-o", tmp_path / f"{captions.stem}-scores.h5",
            )  # fmt: skip
            assert found.exit_code == 0, found.stderr
            scores.append(json.loads(found.stdout)["metrics"])
        assert scores[0] == scores[1]

    def test_numbers_of_coco_are_its_ids(self, run_cli: RunCli, tmp_path: Path) -> None:
        names = ["COCO_val2014_000000000042.jpg", "000000000139.jpg"]
        handmade.write_captions(tmp_path / "c.h5", [tmp_path / name for name in names], ["a", "b"])
        target = tmp_path / "results.json"
        assert run_cli("export", tmp_path / "c.h5", target, "--to", "coco", "-q").exit_code == 0
        assert [row["image_id"] for row in json.loads(target.read_text())] == [42, 139]
        assert run_cli("export", tmp_path / "c.h5", target, "--to", "coco", "-q").exit_code == 2


class TestSidecar:
    def test_texts_lie_in_a_tree_like_the_photos(self, run_cli: RunCli, tmp_path: Path) -> None:
        photos = [tmp_path / "p" / name for name in ("a.jpg", "x/b.jpg", "x/y/c.jpg")]
        handmade.write_captions(tmp_path / "c.h5", photos, ["A .", "B .", ""], ["", "", "broken"])
        out = tmp_path / "out"
        result = run_cli("export", tmp_path / "c.h5", out, "--to", "sidecar")
        assert result.exit_code == 0
        assert "1 row left out: 1 failed" in result.stderr
        found = {p.relative_to(out).as_posix(): p.read_text() for p in out.rglob("*.txt")}
        assert found == {"a.txt": "A .\n", "x/b.txt": "B .\n"}
        (out / "a.txt").write_text("mine")
        run_cli("export", tmp_path / "c.h5", out, "--to", "sidecar", "-q")
        assert (out / "a.txt").read_text() == "mine"
        run_cli("export", tmp_path / "c.h5", out, "--to", "sidecar", "-q", "--force")
        assert (out / "a.txt").read_text() == "A .\n"

    def test_synthetic_images_have_theirs_beside(self, exported: Any, run: Path) -> None:
        target = exported("synthetic.h5", "sidecar")
        assert (target / "000000004.txt").read_text() == handmade.TEXTS[4] + "\n"
        assert (target / "000000004.jpg").read_bytes() == stored(run)[4]
        assert len(list(target.iterdir())) == 2 * len(GOOD)


class TestWhatCanGoWrong:
    def test_rows_that_are_left_out_are_counted(
        self, run_cli: RunCli, run: Path, tmp_path: Path
    ) -> None:
        arguments = ["export", run / "synthetic.h5", tmp_path / "out", "--to", "webdataset"]
        for _ in range(2):
            result = run_cli(*arguments, "--shard-size", 5)
            assert "2 rows left out: 1 failed, 1 blanked" in result.stderr
            assert "10 rows in" in result.stderr
        assert "up to date" in result.stderr

    def test_a_photo_that_has_gone_is_left_out(self, run_cli: RunCli, tmp_path: Path) -> None:
        run = handmade.write_run(tmp_path / "run", photos=4)
        (tmp_path / "photos" / "photo001.jpg").unlink()
        result = run_cli("export", run / "captions.h5", tmp_path / "out", "--to", "imagefolder")
        assert result.exit_code == 0
        assert "1 photo not there any more" in result.stderr
        assert len((tmp_path / "out" / "metadata.jsonl").read_text().splitlines()) == 3

    @pytest.mark.parametrize("to", ["imagefolder", "webdataset", "coco", "sidecar"])
    def test_features_have_no_images(
        self, run_cli: RunCli, run: Path, tmp_path: Path, to: str
    ) -> None:
        result = run_cli("export", run / "features.h5", tmp_path / "out", "--to", to)
        assert result.exit_code == 2
        assert "synthesize, caption" in result.stderr
        assert not (tmp_path / "out").exists()

    def test_a_folder_of_other_things_is_left_alone(
        self, run_cli: RunCli, run: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
        result = run_cli("export", run / "synthetic.h5", tmp_path / "out", "--to", "webdataset")
        assert result.exit_code == 2
        assert "not empty" in result.stderr
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]

    def test_another_export_is_not_mixed_in(
        self, run_cli: RunCli, exported: Any, run: Path
    ) -> None:
        target = exported("synthetic.h5", "webdataset", "--shard-size", 5)
        before = files(target)
        for more in (["--to", "parquet"], ["--to", "webdataset", "--shard-size", 4]):
            result = run_cli("export", run / "synthetic.h5", target, *more)
            assert result.exit_code == 2
            assert "another export" in result.stderr
        assert files(target) == before

    @pytest.mark.parametrize("to", ["webdataset", "coco", "sidecar"])
    def test_where_it_cannot_be_written_a_line_says_so(
        self, run_cli: RunCli, run: Path, tmp_path: Path, to: str
    ) -> None:
        (tmp_path / "file").write_text("")
        target = tmp_path / "file" / "out"
        result = run_cli("export", run / "synthetic.h5", target, "--to", to, "-q")
        assert result.exit_code == 2
        assert "cannot be written" in result.stderr or "no folder" in result.stderr
        assert "Traceback" not in result.stderr


def write_many(path: Path, rows: int, image: bytes) -> Path:
    write_artifact(
        path,
        Recipe("synthesize", {"rows": rows}),
        {
            "captions": [f"Text number {row} ." for row in range(rows)],
            "prompts": [f"Text number {row} ." for row in range(rows)],
            "image": np.arange(rows),
            "images": [image[: len(image) - row % 7] for row in range(rows)],
            "seeds": np.arange(rows, dtype=np.uint64),
            "flagged": np.zeros(rows, bool),
            "error": [""] * rows,
        },
    )
    return path


def command(*arguments: object) -> list[str]:
    code = "from syntic_cli.cli import main; main()"
    return [sys.executable, "-c", code, "export", *map(str, arguments)]


class TestMany:
    @pytest.mark.parametrize("to", ["webdataset", "parquet", "imagefolder"])
    def test_a_run_that_is_killed_goes_on_and_ends_alike(self, tmp_path: Path, to: str) -> None:
        if to == "parquet":
            pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        artifact = write_many(tmp_path / "synthetic.h5", 3000, handmade.jpeg(0))
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        more = ["--to", to, "--shard-size", "30", "-q"]
        subprocess.run(command(artifact, whole, *more), check=True)
        running = subprocess.Popen(command(artifact, killed, *more), stderr=subprocess.DEVNULL)
        ends = time.monotonic() + 60
        while time.monotonic() < ends and running.poll() is None:
            manifest = killed / ".syntic-export.json"
            if manifest.exists() and '"3"' in manifest.read_text():
                break
            time.sleep(0.002)
        running.send_signal(signal.SIGKILL)
        running.wait()
        done = json.loads((killed / ".syntic-export.json").read_text())
        assert 0 < len(done["done"]) < 100
        subprocess.run(command(artifact, killed, *more), check=True)
        assert files(killed) == files(whole)

    def test_a_signal_ends_it_after_the_shard_in_hand(self, tmp_path: Path) -> None:
        artifact = write_many(tmp_path / "synthetic.h5", 3000, handmade.jpeg(0))
        out = tmp_path / "out"
        more = ["--to", "webdataset", "--shard-size", "30", "-q"]
        running = subprocess.Popen(command(artifact, out, *more), stderr=subprocess.PIPE, text=True)
        ends = time.monotonic() + 60
        while not list(out.glob("*.tar")) and time.monotonic() < ends:
            time.sleep(0.002)
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=60)
        assert running.returncode == 128 + signal.SIGTERM
        assert "run the same command again" in said
        assert not list(out.glob(".*.tmp"))

    @pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")  # noqa: PTH110
    def test_memory_does_not_grow_with_the_rows(self, tmp_path: Path) -> None:
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        image = handmade.jpeg(0) + bytes(4000)
        peaks = {}
        for rows in (4_000, 24_000):
            artifact = write_many(tmp_path / f"{rows}.h5", rows, image)
            code = (
                "import sys; from pathlib import Path; from syntic_cli.stages.export import export;"
                "export(Path(sys.argv[1]), 'parquet', Path(sys.argv[2]), quiet=True);"
                "assert 'torch' not in sys.modules;"
                "[peak] = [l for l in open('/proc/self/status') if l.startswith('VmHWM')];"
                "print(peak.split()[1])"
            )
            out = tmp_path / f"out{rows}"
            done = subprocess.run(
                [sys.executable, "-c", code, artifact, out],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            peaks[rows] = int(done.stdout) / 1024
        # 20,000 more images are 100 MB.
        assert peaks[24_000] - peaks[4_000] < 30
