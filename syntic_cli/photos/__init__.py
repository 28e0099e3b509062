"""Photos in: which files a command means, and each of them as upright RGB pixels."""

from .decoding import (
    TRUNCATED,
    Photo,
    check_model_input,
    decode_image,
    load_photo,
    preparing,
    read_photo,
)
from .files import IMAGE_SUFFIXES, PhotoList, find_photos, list_photos

__all__ = [
    "IMAGE_SUFFIXES",
    "TRUNCATED",
    "Photo",
    "PhotoList",
    "check_model_input",
    "decode_image",
    "find_photos",
    "list_photos",
    "load_photo",
    "preparing",
    "read_photo",
]
