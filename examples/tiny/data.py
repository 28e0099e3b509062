"""Reads the photos, captions and boxes that the tiny models are built from."""

import csv
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

COCO_JAR = "spice/spice-1.0.jar"
COCO_CAPTIONS = ("captions_train2014.json", "captions_val2014.json")


@dataclass(frozen=True)
class Photo:
    """A photo with its captions; coco128 photos also have boxes."""

    path: Path
    captions: tuple[str, ...]


def _read_photos(folder: Path, split: str | None = None) -> list[Photo]:
    captions: dict[str, list[str]] = {}
    with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if split is None or row["split"] == split:
                captions.setdefault(row["image"], []).append(" ".join(row["caption"].split()))
    return [Photo(folder / "images" / name, tuple(texts)) for name, texts in captions.items()]


def flickr8k(data: Path, split: str) -> list[Photo]:
    """The photos of a split (`train` or `dev`), in the order of captions.csv."""
    return _read_photos(data / "flickr8k", split)


def coco128(data: Path, half: str) -> list[Photo]:
    """A half of coco128 by sorted file name: `train` is the 1st, 3rd, ...; `score` the others."""
    photos = sorted(_read_photos(data / "coco128"), key=lambda photo: photo.path.name)
    return photos[0 if half == "train" else 1 :: 2]


def coco(data: Path, split: str) -> list[Photo]:
    """The photos of COCO's selection (`train` or `dev`), in the order of captions.csv."""
    return _read_photos(data / "coco", split)


def scoring_ids(data: Path) -> set[int]:
    """COCO's numbers of the photos that score: none of their captions is trained on."""
    held_back = (data / "coco" / "held_back_ids.txt").read_text().split()
    photos = coco(data, "dev") + coco128(data, "score")
    return {int(number) for number in held_back} | {int(photo.path.stem) for photo in photos}


def half_b(data: Path) -> set[int]:
    """The rows of Flickr8k's training photos whose captions serve as texts in the ablation."""
    order = np.random.RandomState(0).permutation(len(flickr8k(data, "train")))
    return set(order[len(order) // 2 :].tolist())


def coco_boxes(photo: Photo) -> np.ndarray:
    """Boxes (n, 5) of a coco128 photo: class 0-79, then centre x, y, width, height in 0..1."""
    label = photo.path.parent.parent / "labels" / f"{photo.path.stem}.txt"
    if not label.exists():  # a photo without an object has no label file
        return np.zeros((0, 5), np.float32)
    return np.loadtxt(label, dtype=np.float32, ndmin=2)


def coco_captions() -> list[tuple[int, str]]:
    """(photo id, caption) of the 616,767 COCO captions inside pycocoevalcap's SPICE archive."""
    import pycocoevalcap

    rows: list[tuple[int, str]] = []
    with zipfile.ZipFile(Path(pycocoevalcap.__path__[0]) / COCO_JAR) as jar:
        for name in COCO_CAPTIONS:
            annotations = json.loads(jar.read(f"coco/annotations/{name}"))["annotations"]
            rows += [(row["image_id"], " ".join(row["caption"].split())) for row in annotations]
    return rows


def load_pixels(path: Path, size: int) -> torch.Tensor:
    """A photo squashed to a square of `size` pixels: uint8 (3, size, size)."""
    with Image.open(path) as image:
        return squashed(image, size)


def squashed(image: Image.Image, size: int) -> torch.Tensor:
    """An image squashed to a square of `size` pixels: uint8 (3, size, size)."""
    square = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)


_NAMES = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant "
    "stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe "
    "backpack umbrella handbag tie suitcase frisbee skis snowboard sports_ball kite "
    "baseball_bat baseball_glove skateboard surfboard tennis_racket bottle wine_glass cup "
    "fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut "
    "cake chair couch potted_plant bed dining_table toilet tv laptop mouse remote keyboard "
    "cell_phone microwave oven toaster sink refrigerator book clock vase scissors teddy_bear "
    "hair_drier toothbrush"
)
COCO_NAMES = [name.replace("_", " ") for name in _NAMES.split()]
