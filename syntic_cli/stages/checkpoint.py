"""Checkpoints of the stages that work on everything at once: tensors in safetensors, no pickle."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SynticError
from ..writing import atomic_path

if TYPE_CHECKING:
    from torch import Tensor


class Checkpoint:
    """The newest state of a stage, committed atomically in the folder of its shards."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "checkpoint.safetensors"
        self._saved = time.monotonic()

    def due(self, seconds: float) -> bool:
        """Whether the last checkpoint is older than that."""
        return time.monotonic() - self._saved > seconds

    def save(self, state: Mapping[str, Tensor]) -> None:
        """Commit a state.

        Raises:
            SynticError: where the disk is full; the checkpoint before it is safe.
        """
        from safetensors.torch import save

        with atomic_path(self._path) as temporary:
            temporary.write_bytes(save({name: t.contiguous() for name, t in state.items()}))
        self._saved = time.monotonic()

    def load(self) -> dict[str, Tensor] | None:
        """The state to go on from, or None.

        Raises:
            SynticError: where the checkpoint is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        if not self._path.exists():
            return None
        try:
            return load(self._path.read_bytes())
        except (OSError, SafetensorError) as error:
            raise SynticError(
                f"{self._path}: damaged ({error}); delete it, or give --force to start again"
            ) from error
