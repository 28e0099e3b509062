"""What is kept for all runs of a user, and can be made or fetched again at any time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache: SYNTIC_CACHE, or `syntic` in XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("SYNTIC_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(own) if own else Path(shared, "syntic")
