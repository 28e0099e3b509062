"""Prints the texts of a corpus, one a line, for the experiments.

    python texts.py coco --data DATA > corpus.txt

`flickr8k` and `coco` are the captions of the training photos in DATA. `coco-all` is all of COCO's
616,767 captions, which come inside the package pycocoevalcap, without those of photos that score:
the dev photos of DATA/coco, its held-back ones, and every other photo of DATA/coco128. `everyday`
holds examples/corpus.txt and sentences that are composed by rule, of who does what where: texts
that were written for no photo.
"""

import argparse
import csv
import itertools
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

JAR = "spice/spice-1.0.jar"
ANNOTATIONS = ("captions_train2014.json", "captions_val2014.json")
EVERYDAY = 5000

# Who, what people and animals do, and where; their products are the composed sentences.
WHO = (
    "a man,a woman,a boy,a girl,an old man,an old woman,a student,a teacher,a farmer,a cook,"
    "a waiter,a nurse,a painter,a musician,a gardener,a mechanic,a fisherman,a cyclist,a runner,"
    "a tourist,a photographer"
)
ANIMALS = "a dog,a puppy,a cat,a black cat,a horse,a white horse,a cow,a bird,a parrot,a sheep"
PEOPLE_DO = (
    "reads a book,drinks a cup of tea,eats a sandwich,carries a heavy bag,talks on the phone,"
    "looks at a map,waits for a bus,rides a bicycle,plays the guitar,throws a ball,flies a kite,"
    "takes a picture,opens an umbrella,buys some flowers,washes a car,cuts a slice of bread,"
    "pours a glass of water,paints a wall,feeds the birds,walks with a stick,wears a red hat,"
    "holds a balloon,sits on a chair,laughs out loud,writes a letter"
)
ANIMALS_DO = (
    "sleeps,runs fast,jumps over a puddle,looks for food,rests in the shade,plays with a stick,"
    "drinks some water,stands still,watches the people,shakes off the rain,waits for its owner,"
    "walks slowly"
)
WHERE = (
    "in the park,on the beach,in the kitchen,at the market,near the river,in front of a house,"
    "on a busy street,in the garden,by the window,at the station,in the snow,under a tree,"
    "on the grass,beside a fence,in a small village,on a bridge,at the lake,in the living room,"
    "next to a parked car,in the forest,on a hill,in the rain,at night,outside a shop"
)


def of_photos(folder: Path) -> Iterator[tuple[int | None, str]]:
    """(COCO's number or None, caption) of the training photos of a data set."""
    with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] == "train":
                stem = Path(row["image"]).stem
                yield int(stem) if stem.isdigit() else None, row["caption"]


def of_package() -> Iterator[tuple[int, str]]:
    """(COCO's number, caption) of all of COCO's captions."""
    import pycocoevalcap

    with zipfile.ZipFile(Path(pycocoevalcap.__path__[0]) / JAR) as jar:
        for name in ANNOTATIONS:
            for row in json.loads(jar.read(f"coco/annotations/{name}"))["annotations"]:
                yield row["image_id"], row["caption"]


def scoring(data: Path) -> set[int]:
    """COCO's numbers of the photos that score."""
    with (data / "coco" / "captions.csv").open(newline="", encoding="utf-8") as file:
        dev = {row["image"] for row in csv.DictReader(file) if row["split"] == "dev"}
    others = sorted((data / "coco128" / "images").glob("*"))[1::2]
    held_back = data / "coco" / "held_back_ids.txt"
    numbers = held_back.read_text().split() if held_back.exists() else []
    return {int(Path(name).stem) for name in [*dev, *others, *numbers]}


def everyday(count: int) -> list[str]:
    """The package's everyday texts, and composed ones up to `count`."""
    written = (Path(__file__).resolve().parents[1] / "corpus.txt").read_text().splitlines()
    composed = [
        f"{' '.join(parts)}.".capitalize()
        for who, what in ((WHO, PEOPLE_DO), (ANIMALS, ANIMALS_DO))
        for parts in itertools.product(*(words.split(",") for words in (who, what, WHERE)))
    ]
    random.Random(0).shuffle(composed)
    return list(itertools.islice(itertools.chain(written, composed), count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", choices=["flickr8k", "coco", "coco-all", "everyday"])
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k/ and coco/")
    parser.add_argument("--texts", type=int, default=1_000_000, help="most texts")
    args = parser.parse_args()
    if args.corpus == "everyday":
        print("\n".join(everyday(min(args.texts, EVERYDAY))))
        return
    rows: Iterator[tuple[int | None, str]] = (
        of_package() if args.corpus == "coco-all" else of_photos(args.data / args.corpus)
    )
    left_out = scoring(args.data) if args.corpus != "flickr8k" else set()
    texts = [" ".join(text.split()) for number, text in rows if number not in left_out]
    # Each text has a number of its own, so that fewer texts are some of the more.
    order = random.Random(0)
    numbers = [order.random() for _ in texts]
    drawn = sorted(sorted(range(len(texts)), key=numbers.__getitem__)[: args.texts])
    print("\n".join(texts[row] for row in drawn))


if __name__ == "__main__":
    main()
