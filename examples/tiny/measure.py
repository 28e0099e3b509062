"""Measures the shipped tiny models, loaded as the package loads them."""

import argparse
import re
import textwrap
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from data import COCO_NAMES, Photo, coco, coco128, coco_boxes, flickr8k
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModelForObjectDetection

PROMPT = "a photo of a {}"
TEACHER_SCORE = 0.2
# Photos inside scikit-image that show one of the 80 objects.
SAMPLES = {
    "astronaut.png": "person",
    "camera.png": "person",
    "chelsea.png": "cat",
    "clock_motion.png": "clock",
    "coffee.png": "cup",
    "motorcycle_left.png": "motorcycle",
}


# What captions call some of the 80 objects.
ALSO_SAID = {
    "person": (
        "people",
        "man",
        "men",
        "woman",
        "women",
        "boy",
        "girl",
        "child",
        "children",
        "player",
    ),
    "bicycle": ("bike",),
    "motorcycle": ("motorbike",),
    "airplane": ("plane", "jet"),
    "couch": ("sofa",),
    "tv": ("television",),
    "cell phone": ("phone",),
    "dining table": ("table",),
    "potted plant": ("plant",),
    "sports ball": ("ball",),
    "refrigerator": ("fridge",),
    "oven": ("stove",),
}


class DualEncoder:
    """A small adapter around an open_clip folder."""

    def __init__(self, folder: Path, device: str) -> None:
        name = f"local-dir:{folder}"
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(name, device=device)
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)
        self.device = device

    @torch.no_grad()
    def images(self, images: list[Image.Image]) -> Tensor:
        """Unit features (n, d) of images."""
        pieces = []
        for start in range(0, len(images), 50):
            batch = torch.stack([self.preprocess(image) for image in images[start : start + 50]])
            pieces.append(F.normalize(self.model.encode_image(batch.to(self.device)), dim=-1))
        return torch.cat(pieces).cpu()

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Tensor:
        """Unit features (n, d) of texts."""
        pieces = [
            F.normalize(self.model.encode_text(self.tokenizer(texts[i : i + 250]).to(self.device)))
            for i in range(0, len(texts), 250)
        ]
        return torch.cat(pieces).cpu()


def read_images(paths: list[Path]) -> list[Image.Image]:
    """Photos in RGB."""
    return [Image.open(path).convert("RGB") for path in paths]


def recall(similarity: Tensor, right: Tensor, k: int) -> float:
    """Percentage of rows with a column marked in `right` (same shape) among the k nearest."""
    return 100 * right.gather(1, similarity.topk(k).indices).any(1).float().mean().item()


def true_names(photos: list[Photo]) -> Tensor:
    """Which of the 80 names each coco128 photo shows: bool (n, 80)."""
    names = torch.zeros(len(photos), len(COCO_NAMES), dtype=torch.bool)
    for row, photo in enumerate(photos):
        names[row, coco_boxes(photo)[:, 0].astype(int)] = True
    return names


def measure_dual_encoder(data: Path, folder: Path, device: str) -> None:
    """Retrieval on both sets of dev photos; zero-shot naming on the scoring half of coco128."""
    encoder = DualEncoder(folder, device)
    for title, photos in (("Flickr8k dev", flickr8k(data, "dev")), ("COCO dev", coco(data, "dev"))):
        print(title)
        measure_retrieval(encoder, photos)
    scoring = [photo for photo in coco128(data, "score") if len(coco_boxes(photo))]
    names, right = encoder.texts([PROMPT.format(n) for n in COCO_NAMES]), true_names(scoring)
    similarity = encoder.images(read_images([photo.path for photo in scoring])) @ names.T
    precision = average_precision(similarity, right)
    print(f"coco128, 80 names: first right {recall(similarity, right, 1):.1f}", end="  ")
    print(f"one of five right {recall(similarity, right, 5):.1f}  mean AP {precision:.1f}")
    measure_samples(encoder)


def measure_retrieval(encoder: DualEncoder, photos: list[Photo]) -> None:
    """How often a photo finds one of its captions among all, and a caption its photo."""
    owner = torch.tensor([i for i, photo in enumerate(photos) for _ in photo.captions])
    images = encoder.images(read_images([photo.path for photo in photos]))
    texts = encoder.texts([caption for photo in photos for caption in photo.captions])
    right = owner[None] == torch.arange(len(photos))[:, None]
    for name, similarity, matches in (
        ("photo to text", images @ texts.T, right),
        ("text to photo", texts @ images.T, right.T),
    ):
        print(name, *(f"R@{k} {recall(similarity, matches, k):.1f}" for k in (1, 5, 10)))


def measure_samples(encoder: DualEncoder) -> None:
    """The nearest of the 80 names for scikit-image's sample photos."""
    import skimage

    folder = Path(skimage.__path__[0]) / "data"
    names = encoder.texts([PROMPT.format(name) for name in COCO_NAMES])
    best = (encoder.images(read_images([folder / file for file in SAMPLES])) @ names.T).argmax(1)
    for (file, true), i in zip(SAMPLES.items(), best.tolist(), strict=True):
        print(f"{file}: {COCO_NAMES[i]}", "" if COCO_NAMES[i] == true else f"(wrong: {true})")


def said_names(photos: list[Photo]) -> Tensor:
    """Which of the 80 names the captions of each photo say: bool (n, 80)."""
    names = torch.zeros(len(photos), len(COCO_NAMES), dtype=torch.bool)
    for row, photo in enumerate(photos):
        said = " ".join(photo.captions).lower()
        for number, name in enumerate(COCO_NAMES):
            words = "|".join([name, *ALSO_SAID.get(name, ())])
            names[row, number] = re.search(rf"\b(?:{words})(?:e?s)?\b", said) is not None
    return names


def average_precision(scores: Tensor, right: Tensor) -> float:
    """Mean over rows of the average precision of their ranking, in percent."""
    hits = right.gather(1, scores.argsort(1, descending=True)).float()
    precision = hits.cumsum(1) / torch.arange(1, hits.shape[1] + 1)
    return 100 * ((precision * hits).sum(1) / hits.sum(1)).mean().item()


def f1(found: Tensor, right: Tensor) -> str:
    """Micro-averaged over (image, name) pairs."""
    hits = (found & right).sum().item()
    precision, reach = hits / max(1, found.sum().item()), hits / right.sum().item()
    value = 2 * precision * reach / max(1e-9, precision + reach)
    return f"F1 {100 * value:.1f} (precision {100 * precision:.1f}, recall {100 * reach:.1f})"


@torch.no_grad()
def detector_scores(folder: Path, images: list[Image.Image], device: str) -> Tensor:
    """The best score of each of the 80 names in each image (n, 80)."""
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForObjectDetection.from_pretrained(folder).eval().to(device)
    scores = torch.zeros(len(images), len(COCO_NAMES))
    for row, image in enumerate(images):
        outputs = model(**processor(image, return_tensors="pt").to(device))
        (found,) = processor.post_process_object_detection(outputs, threshold=0.01)
        scores[row].index_reduce_(0, found["labels"].cpu(), found["scores"].cpu(), "amax")
    return scores


def teacher_scores(file: Path) -> Tensor:
    """As `detector_scores`, from what pseudo_labels.py wrote."""
    from pseudo_labels import load_labels

    labels = load_labels(file)
    scores = torch.zeros(len(labels), len(COCO_NAMES))
    for row, found in enumerate(labels):
        np.maximum.at(scores[row].numpy(), found[:, 0].astype(int), found[:, 1])
    return scores


def measure_detector(data: Path, folder: Path, caches: Path, device: str) -> None:
    """Image-level names on the scoring half of coco128, student and teacher alike, and on COCO dev.

    The threshold is chosen on other photos: where it agrees best with the teacher on Flickr8k dev.
    """
    photos, others, captioned = coco128(data, "score"), flickr8k(data, "dev"), coco(data, "dev")
    right, said = true_names(photos), said_names(captioned)
    student, elsewhere, on_captioned = (
        detector_scores(folder, read_images([p.path for p in group]), device)
        for group in (photos, others, captioned)
    )
    teacher = teacher_scores(caches / "coco_score_teacher.npz")
    taught = teacher_scores(caches / "dev_teacher.npz") > TEACHER_SCORE
    for threshold in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5):
        print(f"threshold {threshold}")
        print("  dev, by the teacher's names", f1(elsewhere > threshold, taught))
        print("  COCO dev, by its captions' names", f1(on_captioned > threshold, said))
        print("  student", f1(student > threshold, right))
        print("  teacher", f1(teacher > threshold, right))
        print("  student, by the teacher's names", f1(student > threshold, teacher > TEACHER_SCORE))


def generate(
    pipeline: DiffusionPipeline, prompts: list[str], args: argparse.Namespace
) -> list[Image.Image]:
    """One image a prompt; image i comes from seed i, whatever the batch."""
    images: list[Image.Image] = []
    for start in range(0, len(prompts), args.batch):
        part = prompts[start : start + args.batch]
        images += pipeline(
            part,
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(part))],
            num_inference_steps=args.steps,
            guidance_scale=args.guidance,
            height=64,
            width=64,
        ).images
    return images


def contact_sheet(images: list[Image.Image], prompts: list[str], target: Path) -> None:
    """The first images at twice their size, each above its prompt."""
    columns, side = 6, 128
    sheet = Image.new("RGB", (columns * (side + 24), 4 * (side + 52)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, prompt) in enumerate(zip(images[:24], prompts[:24], strict=True)):
        x, y = 12 + i % columns * (side + 24), 8 + i // columns * (side + 52)
        sheet.paste(image.resize((side, side), Image.Resampling.BICUBIC), (x, y))
        draw.text((x, y + side + 2), "\n".join(textwrap.wrap(prompt, 24)[:3]), "black")
    sheet.save(target, quality=88)


def show_recall(name: str, images: Tensor, texts: Tensor) -> None:
    """How often image i finds text i, and how near they are."""
    similarity = images @ texts.T
    right = torch.eye(len(texts), dtype=torch.bool)[: len(images)]
    print(name, *(f"R@{k} {recall(similarity, right, k):.1f}" for k in (1, 5, 10)), end="  ")
    print(f"cosine {similarity[right].mean():.3f}")


def measure_text_to_image(args: argparse.Namespace, device: str) -> None:
    """How often a generated image finds its own prompt among all, by the dual encoder."""
    pipeline = DiffusionPipeline.from_pretrained(args.text_to_image).to(device)
    pipeline.set_progress_bar_config(disable=True)
    encoder = DualEncoder(args.clip, device)
    group = {"flickr8k": flickr8k, "coco": coco}[args.prompts](args.data, "dev")
    prompts = [photo.captions[0] for photo in group]
    start = time.perf_counter()
    images = generate(pipeline, prompts[: args.count], args)
    seconds = (time.perf_counter() - start) / len(images)
    print(f"{len(images)} images of {args.steps} steps at guidance {args.guidance}", end=", ")
    print(f"{seconds:.2f} s each")
    texts = encoder.texts(prompts)
    show_recall("image to prompt", encoder.images(images), texts)
    photos = read_images([photo.path for photo in group[: len(images)]])
    show_recall("the real photos", encoder.images(photos), texts)
    small = [photo.resize((64, 64), Image.Resampling.BICUBIC) for photo in photos]
    show_recall("the real photos at 64x64", encoder.images(small), texts)
    if args.sheet:
        contact_sheet(images, prompts, args.sheet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["clip", "detector", "text-to-image"])
    parser.add_argument("--data", type=Path, required=True)
    preset = Path(__file__).resolve().parents[2] / "syntic_cli" / "presets" / "tiny"
    parser.add_argument("--clip", type=Path, default=preset / "clip")
    parser.add_argument("--detector", type=Path, default=preset / "detector")
    parser.add_argument("--text-to-image", type=Path, default=preset / "text_to_image")
    parser.add_argument("--caches", type=Path, help="for the detector: the teacher's labels")
    parser.add_argument("--count", type=int, default=1000, help="images to generate")
    parser.add_argument(
        "--prompts", choices=["flickr8k", "coco"], default="flickr8k", help="whose dev captions"
    )
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet here")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.what == "clip":
        measure_dual_encoder(args.data, args.clip, device)
    elif args.what == "detector":
        measure_detector(args.data, args.detector, args.caches, device)
    else:
        measure_text_to_image(args, device)


if __name__ == "__main__":
    main()
