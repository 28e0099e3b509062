"""Draws COCO dev photos with their captions for a reader, who judges them without references.

Writes sheets of ten numbered photos, `sheet-1.png` ..., and `captions.tsv`: number, photo, caption.
"""

import argparse
import random
import textwrap
from pathlib import Path

from data import coco
from PIL import Image, ImageDraw, ImageFont, ImageOps

from syntic_cli import Captioner
from syntic_cli.presets import load_preset, resolve
from syntic_cli.settings import CaptionSettings

SIDE, TEXT, COLUMNS, ROWS = 320, 56, 5, 2  # pixels of a photo and of the words below, cells
LETTERS = 44  # a line


def draw_sheet(numbered: list[tuple[int, Path, str]]) -> Image.Image:
    """Photos in a grid, number and caption below each."""
    sheet = Image.new("RGB", (COLUMNS * SIDE, ROWS * (SIDE + TEXT)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for cell, (number, path, caption) in enumerate(numbered):
        x, y = cell % COLUMNS * SIDE, cell // COLUMNS * (SIDE + TEXT)
        with Image.open(path) as photo:
            shown = ImageOps.pad(photo.convert("RGB"), (SIDE - 6, SIDE - 6), color="white")
        sheet.paste(shown, (x + 3, y + 3))
        words = "\n".join(textwrap.wrap(f"{number}. {caption}", LETTERS))
        pen.text((x + 5, y + SIDE), words, "black", font)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with coco/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the sheets")
    parser.add_argument("--captioner", type=Path, help="captioner.h5, if not the shipped one")
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    paths = sorted(photo.path for photo in coco(args.data, "dev"))
    chosen = random.Random(args.seed).sample(paths, args.photos)
    settings = resolve(CaptionSettings, load_preset("tiny"))
    found = Captioner.load(args.captioner, settings=settings).caption(chosen)
    rows = [(n, path, c.caption) for n, (path, c) in enumerate(zip(chosen, found, strict=True), 1)]
    args.out.mkdir(parents=True, exist_ok=True)
    lines = [f"{number}\t{path.name}\t{caption}\n" for number, path, caption in rows]
    (args.out / "captions.tsv").write_text("".join(lines))
    for start in range(0, len(rows), COLUMNS * ROWS):
        sheet = draw_sheet(rows[start : start + COLUMNS * ROWS])
        sheet.save(args.out / f"sheet-{start // (COLUMNS * ROWS) + 1}.png")


if __name__ == "__main__":
    main()
