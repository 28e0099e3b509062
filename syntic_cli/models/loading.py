"""Where a model comes from, what it runs on, and how to say that it could not be loaded."""

from __future__ import annotations

import logging
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch

from ..errors import MissingError, SynticError, count

Result = TypeVar("Result")

# Share of a GPU's free memory that a batch may take; the rest is for what allocators waste.
FILLED = 0.85
# Items computed to learn how much memory one of them takes.
PROBED = 4

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def find_device(name: str) -> torch.device:
    """The device that `--device` names; `auto` takes CUDA, else MPS, else the CPU.

    Raises:
        SynticError: where there is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SynticError(f"--device {name}: give auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SynticError(
            f"--device {name}: this machine has "
            f"{count(torch.cuda.device_count(), 'CUDA device')}; give --device cpu or auto"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SynticError(f"--device {name}: MPS is not available here; give --device cpu or auto")
    if device.type not in ("cpu", "cuda", "mps"):
        raise SynticError(f"--device {name}: give auto, cpu, cuda, cuda:N or mps")
    return device


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that `--dtype` names; `auto` is bfloat16 on a GPU that has it, else float32.

    Raises:
        SynticError: where there is no such dtype.
    """
    if name == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise SynticError(f"--dtype {name}: give auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _has_bfloat16(device: torch.device) -> bool:
    """Whether a GPU computes in bfloat16, which torch emulates on older ones."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


@contextmanager
def loading(kind: str, name: str) -> Iterator[None]:
    """Turn whatever a model library raises while it loads into one line that names the model.

    Raises:
        MissingError: where the model cannot be loaded.
    """
    with quiet_libraries():
        try:
            yield
        except SynticError:
            raise
        # The libraries raise dozens of types, their hub client's among them.
        except Exception as error:
            raise MissingError(
                f"{kind} {name}: cannot be loaded ({_reason(error)}); check the name, or, without "
                "a network, that its files are in the local cache or give a local folder"
            ) from error


def _reason(error: BaseException) -> str:
    """The first line of what went wrong; where a file is not at hand, that, and not the hub
    client's advice to programmers."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return "not in the local cache, and the hub is out of reach"
        cause = cause.__cause__ or cause.__context__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the model libraries' own bars and warnings out of syntic's output; afterwards their
    loggers are as the caller had them."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    root = logging.getLogger()
    before = (
        root.level,
        [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries],
    )
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    root.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before[0])
        for library, (verbosity, bar) in zip(libraries, before[1], strict=True):
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()


def worth_compiling(chosen: bool | None, device: torch.device, passes: int, enough: int) -> bool:
    """Whether to compile a model: as was chosen, else on CUDA from `enough` passes on, where the
    machine has what that takes."""
    if chosen is not None:
        return chosen
    return device.type == "cuda" and passes >= enough and can_compile()


def can_compile() -> bool:
    """Whether Triton, a C compiler and Python's headers are there, as compiling for CUDA needs."""
    compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    return (
        find_spec("triton") is not None
        and any(map(shutil.which, compilers))
        and (Path(sysconfig.get_path("include")) / "Python.h").exists()
    )


def batch_that_fits(free: int, an_item: float, most: int) -> int:
    """How many items to compute at a time, at least 1.

    Args:
        free: bytes of free memory, with the model loaded.
        an_item: bytes that an item takes while it is computed.
        most: items from which on larger batches are of no use.

    Returns:
        A power of two, so that it hardly depends on what else is in the memory at the moment.
    """
    fitting = min(most, int(FILLED * free / max(an_item, 1)))
    return 1 << max(0, fitting.bit_length() - 1)


def fill_device(compute: Callable[[int], object], device: torch.device, most: int) -> int:
    """How many items at a time fill a CUDA device, from the memory that a few of them take.

    Args:
        compute: computes a number of items; what it returns is dropped.
        device: a CUDA device, with the model loaded.
        most: items from which on larger batches are of no use.
    """
    items = max(1, min(PROBED, most))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    loaded = torch.cuda.memory_reserved(device)
    try:
        compute(items)
    except torch.OutOfMemoryError:
        # `FittingBatch` halves it further where it must.
        return max(1, items // 2)
    taken = torch.cuda.max_memory_reserved(device) - loaded
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return batch_that_fits(free, taken / items, most)


class FittingBatch:
    """Runs batches on a device, halving them for good where its memory does not suffice."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._limit: int | None = None

    def run(self, compute: Callable[[int, int], Result], size: int) -> list[Result]:
        """Results of compute(start, stop) over 0 to size, in as few parts as fit.

        Raises:
            SynticError: where not even a single item fits.
        """
        results: list[Result] = []
        start = 0
        while start < size:
            stop = min(size, start + (self._limit or size))
            try:
                results.append(compute(start, stop))
            except torch.OutOfMemoryError as error:
                if stop - start == 1:
                    raise SynticError(
                        "out of memory with a single item; give a smaller model, a smaller "
                        "--size, --dtype bfloat16 or another --device"
                    ) from error
                if self._limit is None:
                    self._warn("out of device memory: going on with smaller batches")
                self._limit = (stop - start) // 2
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            start = stop
        return results
