"""What EfficientNet-Lite0's ImageNet classifier knows, as training examples for other models.

Were the features of all classes of equal covariance C, a linear classifier's weights would be
C⁻¹ (class mean − mean). So mean + C w is where the photos of a class lie, and a class name comes
with features although no photo of the class is at hand.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm.data
import torch
from data import COCO_NAMES
from timm.models.efficientnet import EfficientNet
from torch import Tensor
from torch.nn import functional as F
from towers import efficientnet_lite0, pooled

PROMPTS = ("{}", "a photo of a {}", "a {} in a room", "a person with a {}", "there is a {} outside")

# Numbers of the ImageNet classes that show one of COCO's objects.
COCO_CLASSES: dict[str, list[int]] = {
    "bicycle": [444, 671],
    "car": [436, 468, 511, 627, 656, 817],
    "motorcycle": [665, 670],
    "airplane": [404, 895],
    "bus": [654, 779, 874],
    "train": [466, 547, 565, 705, 820, 829],
    "truck": [555, 569, 675, 717, 864, 867],
    "boat": [472, 554, 625, 780, 814, 871, 914],
    "traffic light": [920],
    "stop sign": [919],
    "parking meter": [704],
    "bench": [703],
    "bird": [*range(7, 25), *range(80, 101), *range(127, 147)],
    "cat": [281, 282, 283, 284, 285],
    "dog": [*range(151, 269)],
    "horse": [339, 603],
    "sheep": [348, 349],
    "cow": [345, 346],
    "elephant": [385, 386],
    "bear": [294, 295, 296, 297],
    "zebra": [340],
    "backpack": [414],
    "umbrella": [879],
    "handbag": [636, 748],
    "tie": [451, 906],
    "skis": [795],
    "sports ball": [429, 430, 805, 852, 890],
    "tennis racket": [752],
    "bottle": [440, 720, 737, 898, 907],
    "wine glass": [441, 572, 966],
    "cup": [504, 967, 968],
    "spoon": [618, 910],
    "bowl": [659, 809],
    "banana": [954],
    "apple": [948],
    "orange": [950, 951],
    "broccoli": [937, 938],
    "hot dog": [934],
    "pizza": [963],
    "sandwich": [933],
    "cake": [927],
    "chair": [423, 559, 765],
    "couch": [831],
    "potted plant": [738],
    "bed": [564, 750],
    "dining table": [532],
    "toilet": [861],
    "tv": [664, 851],
    "laptop": [620, 681],
    "mouse": [673],
    "remote": [761],
    "keyboard": [508, 878],
    "cell phone": [487, 590],
    "microwave": [651],
    "oven": [827],
    "toaster": [859],
    "sink": [896],
    "refrigerator": [760],
    "book": [454, 624, 921],
    "clock": [409, 530, 892],
    "vase": [883],
    "teddy bear": [850],
    "hair drier": [589],
}


def imagenet_names() -> list[list[str]]:
    """The words for each of the 1,000 ImageNet classes, in the classifier's order."""
    info = timm.data.ImageNetInfo()
    return [info.index_to_description(i).split(", ") for i in range(1000)]


@torch.no_grad()
def photo_features(out: Path, group: str) -> Tensor:
    """Pooled features (n, 1280) from the cached maps of a group."""
    model, maps = efficientnet_lite0(), np.load(out / f"{group}.npy")
    pieces = [torch.from_numpy(maps[i : i + 250]).float() for i in range(0, len(maps), 250)]
    return torch.cat([pooled(model, piece) for piece in pieces])


@dataclass
class ImagenetPairs:
    """Image features that the ImageNet classifier implies for its class names."""

    centres: Tensor  # (1000, 1280)
    spread: Tensor  # features of real photos, centred: what varies within a class
    rows: list[np.ndarray]  # per class, its texts

    @classmethod
    def imply(cls, features: Tensor, first: int, strength: float = 1.0) -> "ImagenetPairs":
        """Centres from the classifier; texts are numbered from `first` on, class by class."""
        mean, weight = features.mean(0), efficientnet_lite0().classifier.weight
        shifts = weight @ torch.cov(features.T)
        typical = shifts.norm(dim=1, keepdim=True) / (features - mean).norm(dim=1).mean()
        ends = np.cumsum([len(names) * len(PROMPTS) for names in imagenet_names()])
        rows = np.split(first + np.arange(ends[-1]), ends[:-1])
        return cls(mean + strength * shifts / typical, features - mean, rows)

    def sample(self, count: int, random: np.random.RandomState) -> tuple[Tensor, np.ndarray]:
        """Image features and text rows of `count` different classes."""
        classes = random.permutation(len(self.centres))[:count]
        others = random.randint(len(self.spread), size=count)
        features = F.relu(self.centres[classes] + 0.7 * self.spread[others])
        texts = [self.rows[c][random.randint(len(self.rows[c]))] for c in classes]
        return features, np.array(texts)


class ImpliedObjects:
    """Feature-map cells of COCO's objects as the classifier implies them."""

    def __init__(self, maps: np.ndarray, strength: float = 1.2) -> None:
        model, rows = efficientnet_lite0(), np.arange(0, len(maps), max(1, len(maps) // 1000))
        self.maps = maps
        cells = torch.from_numpy(maps[rows]).float().movedim(1, -1).reshape(-1, maps.shape[1])
        self.mean = cells.mean(0)
        shifts = _cell_directions(model, cells[::16]) @ torch.cov(cells.T)
        typical = shifts.norm(dim=1, keepdim=True) / (cells - self.mean).norm(dim=1).mean()
        self.shifts = strength * shifts / typical
        self.names = [COCO_NAMES.index(name) for name in COCO_CLASSES]
        self.classes = list(COCO_CLASSES.values())

    def draw(self, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        """A map full of one object, and its box: (class, cx, cy, width, height)."""
        kind = random.randint(len(self.names))
        shift = self.shifts[self.classes[kind][random.randint(len(self.classes[kind]))]]
        real = torch.from_numpy(self.maps[random.randint(len(self.maps))]).float()
        centre = (self.mean + shift)[:, None, None]
        cells = centre + 0.7 * (real - self.mean[:, None, None])
        width, height = random.uniform(0.2, 0.9, size=2)
        box = np.array([[self.names[kind], 0.5, 0.5, width, height]], np.float32)
        return cells.numpy(), box


def _cell_directions(model: EfficientNet, cells: Tensor) -> Tensor:
    """Mean gradients (1000, C) of the class logits with respect to a cell."""
    norm = model.bn2
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    active = norm(model.conv_head(cells[:, :, None, None])).flatten(1)
    open_share = ((active > 0) & (active < 6)).float().mean(0)  # where ReLU6 lets a change pass
    return (model.classifier.weight * (open_share * scale)) @ model.conv_head.weight.flatten(1)
