"""The tiny preset that ships: its models load, the chain runs on them, and captions make sense."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from syntic_cli import Captioner
from syntic_cli.artifacts.reading import Artifact
from syntic_cli.metrics import score
from syntic_cli.presets import FOLDER, load_preset, resolve
from syntic_cli.settings import CaptionSettings

from . import micro
from .conftest import DATA, RunCli

MEGABYTES = 85


def test_is_small_enough_and_has_its_cards() -> None:
    files = [path for path in (FOLDER / "tiny").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MEGABYTES * 10**6
    for model in ("clip", "detector", "text_to_image"):
        card = (FOLDER / "tiny" / model / "README.md").read_text()
        for section in ("Figures", "Where it errs", "licences"):
            assert section in card


def test_the_chain_runs_on_the_shipped_models(run_cli: RunCli, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a dog runs in the snow\na cup of coffee\na red bus\n")
    here = ["-w", tmp_path / "run", "-q"]
    run_cli("synthesize", corpus, "--preset", "tiny", "--steps", 2, *here)
    for stage in ("encode", "optimize", "detect", "project"):
        result = run_cli(stage, *here)
        assert result.exit_code == 0, result.stderr
    with Artifact(tmp_path / "run" / "projected.h5") as artifact:
        assert artifact.shape("projected") == (3, 256)
    with Artifact(tmp_path / "run" / "objects.h5") as artifact:
        assert "teddy bear" in artifact.texts("vocabulary")


def test_captions_without_a_workspace(
    run_cli: RunCli, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_cli("caption", photos[0], "--format", "jsonl")
    assert result.exit_code == 0, result.stderr
    assert "ships with syntic" in result.stderr
    said = json.loads(result.stdout)
    assert len(said["caption"].split()) > 3
    (found,) = Captioner.load().caption([photos[0]])
    assert found.caption == said["caption"]
    assert found.log_probability == pytest.approx(said["log_probability"], abs=1e-3)
    assert list(tmp_path.iterdir()) == []


def test_the_dual_encoder_without_norms_answers_as_open_clip_does() -> None:
    import open_clip

    from syntic_cli.models.clip import load_clip
    from syntic_cli.settings import EncodeSettings

    clip = load_clip(EncodeSettings("preset:tiny/clip"), torch.device("cpu"), torch.float32)
    folder = f"local-dir:{FOLDER / 'tiny' / 'clip'}"
    model, _, _ = open_clip.create_model_and_transforms(folder)
    side = clip.image_size
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model.eval().encode_image(pixels, normalize=True)
    assert torch.allclose(clip.encode_images(pixels), wanted, atol=1e-5)
    kinds = {type(module).__name__ for module in clip.model.visual.modules()}
    assert not kinds & {"BatchNorm2d", "BatchNormAct2d", "Conv2dSame"}


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (7, 11)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 1), (4, 2), (1, 2), (5, 3)])
def test_convolutions_that_pad_by_themselves_answer_as_those_that_are_padded(
    size: tuple[int, int], kernel: int, stride: int
) -> None:
    from timm.layers import Conv2dSame

    from syntic_cli.models.clip import _pad_within

    torch.manual_seed(0)
    tower = torch.nn.Sequential(Conv2dSame(4, 4, kernel, stride, groups=2), torch.nn.ReLU())
    photos = torch.randn(3, 4, *size)
    with torch.no_grad():
        wanted = tower(photos)
        _pad_within(tower, photos[:1])
        found = tower(photos)
    assert type(tower[0]) is torch.nn.Conv2d
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, atol=1e-6)


def test_texts_are_read_as_far_as_they_go() -> None:
    """What open_clip makes of them with all its padding; a batch of short ones takes less time."""
    import open_clip

    from syntic_cli.models.clip import _used, load_clip
    from syntic_cli.settings import EncodeSettings

    clip = load_clip(EncodeSettings("preset:tiny/clip"), torch.device("cpu"), torch.float32)
    folder = f"local-dir:{FOLDER / 'tiny' / 'clip'}"
    model, _, _ = open_clip.create_model_and_transforms(folder)
    tokenizer = open_clip.get_tokenizer(folder)
    texts = ["a dog", "", "two children play with a ball", "word " * 30, "word " * 40]
    for some in (texts[:1], texts[:3], texts, texts[1:2], texts[3:]):
        with torch.no_grad():
            wanted = model.eval().encode_text(tokenizer(some), normalize=True)
        assert torch.allclose(clip.encode_texts(some), wanted, atol=1e-5)
    # A token before the text, and one that ends it, which is the padding, too.
    assert [_used(clip.tokenizer([text])) for text in texts] == [4, 2, 8, 32, 32]
    # Padded with what does not end it, as OpenAI's tokens are, one more.
    assert _used(torch.tensor([[5, 7, 9, 0, 0, 0], [5, 7, 7, 9, 0, 0]])) == 5


def test_so_does_an_encoder_of_openais_architecture(tmp_path: Path) -> None:
    """It holds the parts of its text tower itself."""
    import open_clip

    from syntic_cli.models.clip import load_clip
    from syntic_cli.settings import EncodeSettings

    folder = tmp_path / "clip"
    micro.build_clip(folder)
    clip = load_clip(EncodeSettings(str(folder)), torch.device("cpu"), torch.float32)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    lengths: list[int] = []
    model.transformer.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    clip.model.transformer.register_forward_pre_hook(
        lambda _, given: lengths.append(given[0].shape[1])
    )
    texts = ["a dog", "", "two children play with a ball"]
    with torch.no_grad():
        wanted = model.eval().encode_text(open_clip.tokenize(texts, 32), normalize=True)
    assert torch.allclose(clip.encode_texts(texts), wanted, atol=1e-5)
    assert lengths[0] == 32
    assert lengths[1] < 12


def test_a_tower_that_does_not_run_as_it_is_defined_is_left_as_it_is() -> None:
    from torch import nn

    from syntic_cli.models.clip import _folded

    class Tower(nn.Module):
        image_size = 8

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.conv(self.norm(pixels)).mean(dim=(2, 3))

    tower = Tower().eval()
    tower.norm.running_mean += torch.tensor([1.0, 2.0, 3.0])
    assert _folded(tower) is tower


def test_reranked_captions_fit_their_photos_better(photos: list[Path]) -> None:
    """By the cosines that open_clip itself finds."""
    import open_clip
    from PIL import Image

    folder = f"local-dir:{FOLDER / 'tiny' / 'clip'}"
    model, _, preprocess = open_clip.create_model_and_transforms(folder)
    tokenizer = open_clip.get_tokenizer(folder)
    model.eval()

    def cosines(weight: float) -> list[float]:
        settings = CaptionSettings(beam=4, rerank=weight)
        captions = [found.caption for found in Captioner.load(settings=settings).caption(photos)]
        with torch.no_grad():
            texts = model.encode_text(tokenizer(captions), normalize=True)
            pixels = torch.stack([preprocess(Image.open(photo)) for photo in photos])
            return (texts * model.encode_image(pixels, normalize=True)).sum(1).tolist()

    without, with_much = cosines(0.0), cosines(1000.0)
    assert all(b >= a - 1e-4 for a, b in zip(without, with_much, strict=True))
    assert sum(with_much) > sum(without) + 0.01


def test_a_photo_and_its_mirror_image_get_one_caption(photos: list[Path], tmp_path: Path) -> None:
    from PIL import Image, ImageOps

    mirrored = [tmp_path / f"{photo.stem}.png" for photo in photos]
    for photo, path in zip(photos, mirrored, strict=True):
        # Square, so that a crop does not fall a pixel to one side.
        image = Image.open(photo).convert("RGB").resize((256, 256))
        image.save(tmp_path / f"plain-{path.name}")
        ImageOps.mirror(image).save(path)
    captioner = Captioner.load(settings=CaptionSettings(mirror=True))
    found = captioner.caption([tmp_path / f"plain-{path.name}" for path in mirrored])
    assert [caption.caption for caption in captioner.caption(mirrored)] == [
        caption.caption for caption in found
    ]


@pytest.mark.parametrize(("name", "least"), [("flickr8k", 45), ("coco", 75)])
def test_captions_of_real_photos_are_about_them(name: str, least: float) -> None:
    """Far better than one sentence for all, which scores a CIDEr of 9 on Flickr8k's."""
    folder = DATA / name
    if not folder.exists():
        pytest.skip(f"{folder} is not here")
    references: dict[str, list[str]] = {}
    with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] == "dev":
                references.setdefault(row["image"], []).append(row["caption"])
    names = list(references)[:100]
    captioner = Captioner.load(settings=resolve(CaptionSettings, load_preset("tiny")))
    found = captioner.caption([folder / "images" / name for name in names], batch_size=8)
    assert not any(caption.error for caption in found)
    scores = score(
        [caption.caption for caption in found], [references[name] for name in names], ["CIDEr"]
    )
    assert scores.corpus["CIDEr"] > least


def test_captions_are_shortened_where_that_is_better(photos: list[Path]) -> None:
    usual = resolve(CaptionSettings, load_preset("tiny"))

    def agreeing(shorten: float | None) -> tuple[list[str], np.ndarray]:
        settings = replace(usual, evidence=0.0, shorten=shorten)
        found, signals = Captioner.load(settings=settings).caption_with_signals(photos)
        return [row.caption for row in found], signals[:, 3]

    plain, before = agreeing(None)
    assert agreeing(10.0)[0] == plain
    found, after = agreeing(0.0)
    assert (after >= before - 1e-4).all()
    changed = [place for place, one in enumerate(found) if one != plain[place]]
    assert changed
    for place in changed:
        assert after[place] > before[place]
        assert found[place].endswith(".")


def test_what_is_kept_of_the_texts_is_what_the_decoder_makes_of_them() -> None:
    settings = resolve(CaptionSettings, load_preset("tiny"))
    wording = Captioner.load(settings=settings)._wording
    kept = wording._texts
    assert kept is not None
    assert kept.read_out is not None
    rows = torch.linspace(0, len(kept.support) - 1, 40).long()[None]

    def embed(features: torch.Tensor) -> torch.Tensor:
        return wording._decoder.embed_prefix(features.flatten(0, 1))

    with torch.no_grad():
        made = wording._read_out(replace(kept, read_out=None), rows, embed)
    same = (wording._read_out(kept, rows, embed) == made).all(dim=-1)
    # A rounding may turn two words that are likely alike.
    assert same.sum() >= 38
    other = Captioner.load(settings=replace(settings, repetition=0.5))._wording
    assert other._texts is not None
    assert other._texts.read_out is None
