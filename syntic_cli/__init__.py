"""syntic: turn a text corpus into an image captioner, with no real image in training."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import SynticError

if TYPE_CHECKING:
    from .stages.caption import caption as caption
    from .stages.captioner import Captioner
    from .stages.detect import detect as detect
    from .stages.encode import encode as encode
    from .stages.evaluate import evaluate as evaluate
    from .stages.optimize import optimize as optimize
    from .stages.project import project as project
    from .stages.synthesize import synthesize as synthesize
    from .stages.train import train as train

__version__ = "0.1.0"

STAGES = (
    "synthesize",
    "encode",
    "optimize",
    "detect",
    "project",
    "train",
    "caption",
    "evaluate",
)

__all__ = ["Captioner", "SynticError", "__version__", *STAGES]


def __getattr__(name: str) -> object:
    """Import the stages on first use, so that `import syntic_cli` needs no torch."""
    if name == "Captioner":
        return import_module(".stages.captioner", __name__).Captioner
    if name in STAGES:
        return getattr(import_module(f".stages.{name}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
