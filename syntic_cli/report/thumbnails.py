"""Images small enough that hundreds of them fit into a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image, features

# Sides in pixels and qualities to try until an image has few enough bytes.
_STEPS = ((1.0, 72), (1.0, 50), (0.75, 45), (0.5, 40), (0.25, 30))


@dataclass(frozen=True)
class Thumbnail:
    """An image as a `data:` URI, with the pixels of the thumbnail."""

    uri: str
    width: int
    height: int


def thumbnail(image: Image.Image, side: int, most_bytes: int) -> Thumbnail:
    """Encode an image anew, at most `side` pixels a side and in at most about `most_bytes`.

    Args:
        image: RGB pixels; not enlarged where it is smaller.
        side: of the longer side, in pixels.
        most_bytes: what the encoded image may take; the last of the steps is taken as it is.
    """
    kind = "webp" if features.check("webp") else "jpeg"
    data, small = b"", image
    for scale, quality in _STEPS:
        small = image.copy()
        small.thumbnail((max(1, round(side * scale)),) * 2)
        file = io.BytesIO()
        small.save(file, kind, quality=quality)
        data = file.getvalue()
        if len(data) <= most_bytes:
            break
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Thumbnail(uri, *small.size)
