"""Copies between the host and a CUDA device that nobody waits for before they are needed.

On other devices these are the plain copies, or none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pinned(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor in memory that a CUDA device copies from by itself; for other devices as it is.

    Takes the time of a copy, so it belongs in the thread that made the tensor.

    Args:
        tensor: on the host.
        device: where it will go.
        dtype: what it will become there; on CUDA it does so here, and less has to be copied.
    """
    return tensor.to(dtype or tensor.dtype).pin_memory() if device.type == "cuda" else tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; on CUDA the copy runs behind the work given to it before."""
    return pinned(tensor, device).to(device, non_blocking=device.type == "cuda")


def stack_on(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """N tensors of one shape as a batch on the device, (N, ...)."""
    return torch.stack([to_device(tensor, device) for tensor in tensors])


class HostCopy:
    """Tensors of one device on their way to the host, behind the work given to the device."""

    def __init__(self, *tensors: Tensor) -> None:
        on_cuda = tensors[0].is_cuda
        # Without an event to wait for, what other devices copy must be there at once.
        self._tensors = [tensor.to("cpu", non_blocking=on_cuda) for tensor in tensors]
        self._arrived: torch.cuda.Event | None = None
        if on_cuda:
            self._arrived = torch.cuda.Event(blocking=True)
            self._arrived.record(torch.cuda.current_stream(tensors[0].device))

    def wait(self) -> list[Tensor]:
        """The tensors on the host, once they have arrived; may be called from any thread."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensors
