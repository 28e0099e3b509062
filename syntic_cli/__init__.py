"""syntic: turn a text corpus into an image captioner, with no real image in training."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import ConflictError, DamagedError, MissingError, StaleError, SynticError
from .schema import STAGES

if TYPE_CHECKING:
    from .captioner import Captioner

__version__ = "0.2.0"

__all__ = [
    "Captioner",
    "ConflictError",
    "DamagedError",
    "MissingError",
    "StaleError",
    "SynticError",
    "__version__",
    *STAGES,
]


def __getattr__(name: str) -> Any:
    """Import the stages on first use, so that `import syntic_cli` needs no torch."""
    if name == "Captioner":
        return import_module(".captioner", __name__).Captioner
    if name in STAGES:
        return getattr(import_module(f".stages.{name}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
