"""What is kept for all runs of a user, and can be made or fetched again at any time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache: SYNTIC_CACHE, or `syntic` in XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("SYNTIC_CACHE"):
        return Path(own)
    # Unlike Path's, this leaves `~` alone where nobody knows a home, as in some containers.
    shared = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(shared, "syntic")
