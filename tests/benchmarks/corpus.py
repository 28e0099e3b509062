"""Real captions: COCO's, which come inside pycocoevalcap's SPICE jar."""

from __future__ import annotations

import json
import zipfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

MEMBER = "coco/annotations/captions_val2014.json"


@cache
def coco_captions(photos: int) -> list[list[str]]:
    """The five captions of each of the first photos of COCO val2014."""
    package = find_spec("pycocoevalcap")
    assert package is not None
    assert package.submodule_search_locations is not None
    jar = Path(next(iter(package.submodule_search_locations))) / "spice" / "spice-1.0.jar"
    with zipfile.ZipFile(jar) as archive:
        annotations = json.loads(archive.read(MEMBER))["annotations"]
    found: dict[int, list[str]] = {}
    for entry in annotations:
        found.setdefault(entry["image_id"], []).append(" ".join(entry["caption"].split()))
    return [found[photo][:5] for photo in sorted(found)[:photos]]
