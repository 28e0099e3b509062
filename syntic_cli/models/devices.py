"""What a machine has to compute on, found out without importing torch where it has little."""

from __future__ import annotations

import ctypes.util
import os


def has_cuda() -> bool:
    """Whether there is a CUDA device that torch can use."""
    if os.name != "nt" and not ctypes.util.find_library("cuda"):
        return False
    import torch

    return torch.cuda.is_available()
