"""Trains the small DETR on YOLOv3-tiny's labels of photos and on true boxes of half coco128.

The backbone, EfficientNet-Lite0, stays frozen, so that the transformer trains on cached feature
maps. Flickr8k lacks most of COCO's 80 kinds of object, and the teacher misses many in COCO, so the
coco128 photos are cropped in many ways, and objects of theirs, or that the ImageNet classifier
implies, are pasted into other photos as pieces of map.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from data import COCO_NAMES, Photo, coco128, coco_boxes, squashed
from features import extract
from imagenet import ImpliedObjects
from pseudo_labels import load_labels
from torch import Tensor, nn
from towers import EFFICIENTNET, IMAGE_SIZE, efficientnet_lite0
from training import Budget, Checkpoint, set_rate, training_parser
from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, TimmBackboneConfig

GRID = 8
QUERIES = 20
SHARE_OF_CROPS = 0.25
TEACHER_SCORE = 0.2
CROPS = 16  # of each coco128 photo


def build_detector() -> DetrForObjectDetection:
    """A DETR of 1.4 million parameters on EfficientNet-Lite0's last feature map."""
    backbone = TimmBackboneConfig(
        backbone=EFFICIENTNET,
        out_indices=[4],
        # DETR's own freezing would drop the activations that timm keeps in its norms.
        freeze_batch_norm_2d=True,
    )
    config = DetrConfig(
        backbone_config=backbone,
        num_queries=QUERIES,
        d_model=128,
        encoder_layers=2,
        decoder_layers=3,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        auxiliary_loss=True,
        id2label=dict(enumerate(COCO_NAMES)),
        label2id={name: i for i, name in enumerate(COCO_NAMES)},
    )
    model = DetrForObjectDetection(config)
    network = model.model.backbone.model
    weights = efficientnet_lite0().state_dict()
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    model.model.freeze_backbone()
    return model


def image_processor() -> DetrImageProcessor:
    """Squashes photos to the square that the detector was trained on."""
    return DetrImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        do_pad=False,
        resample=PIL.Image.Resampling.BICUBIC,
    )


class LabelledMaps:
    """Feature maps (n, 320, 8, 8) with boxes per photo: rows (class, cx, cy, width, height)."""

    def __init__(self, plain: np.ndarray, mirrored: np.ndarray, boxes: list[np.ndarray]) -> None:
        self.views = (plain, mirrored)
        self.boxes = boxes

    def draw(self, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        """A view of a photo that has objects, and its boxes."""
        while not len(self.boxes[row := random.randint(len(self.boxes))]):
            pass
        boxes, view = self.boxes[row].copy(), random.randint(2)
        if view == 1:
            boxes[:, 1] = 1 - boxes[:, 1]
        return self.views[view][row].astype(np.float32), boxes


def crop(photo: Photo, random: np.random.RandomState) -> tuple[Tensor, np.ndarray]:
    """A random window of a photo, and the boxes that show at least a third there."""
    boxes = coco_boxes(photo)
    width, height = random.uniform(0.4, 1.0, size=2)
    left, top = random.uniform(0, 1 - width), random.uniform(0, 1 - height)
    with PIL.Image.open(photo.path) as image:
        w, h = image.size
        window = (left * w, top * h, (left + width) * w, (top + height) * h)
        pixels = squashed(image.convert("RGB").crop(tuple(map(round, window))), IMAGE_SIZE)
    corners = np.concatenate(
        [boxes[:, 1:3] - boxes[:, 3:] / 2, boxes[:, 1:3] + boxes[:, 3:] / 2], 1
    )
    corners = (corners - [left, top, left, top]) / [width, height, width, height]
    inside = corners.clip(0, 1)
    sides = inside[:, 2:] - inside[:, :2]
    kept = sides.prod(1) * width * height >= boxes[:, 3:].prod(1) / 3
    centres = (inside[:, 2:] + inside[:, :2]) / 2
    return pixels, np.concatenate([boxes[:, :1], centres, sides], 1)[kept].astype(np.float32)


def coco_crops(data: Path, out: Path, device: str) -> LabelledMaps:
    """Random windows of the coco128 photos that are trained on, with true boxes."""
    random = np.random.RandomState(0)
    crops = [crop(photo, random) for photo in coco128(data, "train") for _ in range(CROPS)]
    targets = [out / f"coco_crops{kind}.npy" for kind in ("", "_mirrored")]
    for mirrored, target in enumerate(targets):
        if not target.exists():
            maps = extract((pixels for pixels, _ in crops), bool(mirrored), device)
            np.save(target, maps, allow_pickle=False)
    plain, mirror = (np.load(target) for target in targets)
    return LabelledMaps(plain, mirror, [boxes for _, boxes in crops])


def taught_photos(out: Path, group: str) -> LabelledMaps:
    """The photos of a group, `train` (Flickr8k) or `coco`, with the teacher's labels."""
    taught = load_labels(out / f"{group}_teacher.npz")
    confident = [rows[rows[:, 1] >= TEACHER_SCORE][:, [0, 2, 3, 4, 5]] for rows in taught]
    plain, mirrored = (
        np.load(out / f"{group}{kind}.npy", mmap_mode="r") for kind in ("", "_mirrored")
    )
    return LabelledMaps(plain, mirrored, confident)


def paste(
    target: tuple[np.ndarray, np.ndarray],
    source: tuple[np.ndarray, np.ndarray],
    random: np.random.RandomState,
) -> tuple[np.ndarray, np.ndarray]:
    """Puts one object of `source` at a random place of `target`."""
    (maps, boxes), (others, found) = target, source
    name, x, y, w, h = found[random.randint(len(found))]
    left, top = int(GRID * max(0, x - w / 2)), int(GRID * max(0, y - h / 2))
    right = min(GRID, int(np.ceil(GRID * (x + w / 2))))
    bottom = min(GRID, int(np.ceil(GRID * (y + h / 2))))
    new_left = random.randint(GRID - (right - left) + 1)
    new_top = random.randint(GRID - (bottom - top) + 1)
    new_right, new_bottom = new_left + right - left, new_top + bottom - top
    maps = maps.copy()
    maps[:, new_top:new_bottom, new_left:new_right] = others[:, top:bottom, left:right]
    covered = (boxes[:, 1] * GRID > new_left) & (boxes[:, 1] * GRID < new_right)
    covered &= (boxes[:, 2] * GRID > new_top) & (boxes[:, 2] * GRID < new_bottom)
    moved = [[name, x + (new_left - left) / GRID, y + (new_top - top) / GRID, w, h]]
    return maps, np.concatenate([boxes[~covered], np.array(moved, np.float32)])


def draw_batch(
    taught: Sequence[LabelledMaps],
    crops: LabelledMaps,
    implied: ImpliedObjects,
    size: int,
    random: np.random.RandomState,
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Maps and labels as DETR's loss takes them."""
    examples = []
    for _ in range(size):
        photos = taught[random.randint(len(taught))]
        example = (crops if random.uniform() < SHARE_OF_CROPS else photos).draw(random)
        while random.uniform() < 0.5 and len(example[1]) < QUERIES:
            source = crops if random.uniform() < 0.5 else implied
            example = paste(example, source.draw(random), random)
        examples.append(example)
    labels = [
        {
            "class_labels": torch.from_numpy(boxes[:QUERIES, 0]).long(),
            "boxes": torch.from_numpy(boxes[:QUERIES, 1:]).float(),
        }
        for _, boxes in examples
    ]
    return torch.from_numpy(np.stack([maps for maps, _ in examples])), labels


def export(model: DetrForObjectDetection, folder: Path) -> None:
    """Writes the folder that the package ships: weights in float16, loaded as float32."""
    half = build_detector()
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2))
    image_processor().save_pretrained(folder)


def main() -> None:
    parser = training_parser(__doc__, minutes=20.0, batch=64, rate=6e-4)
    parser.add_argument("--folder", type=Path, required=True, help="where the model is written")
    parser.add_argument("--start", type=Path, help="a detector's folder to begin from")
    args = parser.parse_args()
    taught = [taught_photos(args.out, group) for group in ("train", "coco")]
    crops = coco_crops(args.data, args.out, args.device)
    implied = ImpliedObjects(taught[0].views[0])
    model = build_detector()
    if args.start:
        # Its file has transformers' older names of the parameters, which its loader knows.
        started = DetrForObjectDetection.from_pretrained(args.start, dtype=torch.float32)
        model.load_state_dict(started.state_dict())
    model = model.to(args.device).train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, weight_decay=1e-4)
    parts = {"model": model, "optimizer": optimizer}
    checkpoint = Checkpoint(args.out / "detector.ckpt", parts, args.device)
    random, budget = np.random.RandomState(checkpoint.step), Budget(args.minutes)
    for step in checkpoint.steps(budget):
        set_rate(optimizer, args.rate * budget.rate(step, 100, 0.3))
        maps, labels = draw_batch(taught, crops, implied, args.batch, random)
        labels = [{k: v.to(args.device) for k, v in row.items()} for row in labels]
        cells = model.model.input_projection(maps.to(args.device)).flatten(2).transpose(1, 2)
        loss = model(None, inputs_embeds=cells, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 0.5)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}  {budget.used:.0f} s  loss {loss.item():.3f}", flush=True)
    export(model, args.folder)


if __name__ == "__main__":
    main()
