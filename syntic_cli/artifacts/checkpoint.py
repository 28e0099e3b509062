"""Checkpoints of the stages that work on everything at once: tensors in safetensors, no pickle."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DamagedError
from .writing import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

CRC_BYTES = 4


class Checkpoint:
    """The newest state of a stage, committed atomically in the folder of its shards.

    The file is safetensors with a CRC-32 of it behind: a flipped bit would else be trained on.
    """

    def __init__(self, folder: Path, begin: Callable[[], None]) -> None:
        self._path = folder / "checkpoint"
        self._begin = begin
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

        self._begin()
        data = save({name: tensor.contiguous() for name, tensor in state.items()})
        with atomic_path(self._path) as temporary:
            temporary.write_bytes(data + zlib.crc32(data).to_bytes(CRC_BYTES, "little"))
        self._saved = time.monotonic()

    def load(self) -> dict[str, Tensor] | None:
        """The state to go on from, or None.

        Raises:
            DamagedError: where the checkpoint is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        if not self._path.exists():
            return None
        try:
            content = self._path.read_bytes()
            data, crc = content[:-CRC_BYTES], content[-CRC_BYTES:]
            if zlib.crc32(data).to_bytes(CRC_BYTES, "little") != crc:
                raise ValueError("its checksum does not match")
            return load(data)
        except (OSError, ValueError, SafetensorError) as error:
            raise DamagedError(
                f"{self._path}: damaged ({error}); delete it, or give --force to start again"
            ) from error
