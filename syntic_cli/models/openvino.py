"""Frozen models run by OpenVINO on a processor, in float32: the extra `cpu`.

What torch is asked to trace and OpenVINO to compile takes seconds, so the outcome is kept in the
user's cache.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..cache import cache_folder
from ..errors import SynticError

NAME = "OpenVINO"
# Set to 0, it leaves all models to torch.
SWITCH = "SYNTIC_OPENVINO"
# What OpenVINO and torch may differ by in float32 before it counts as another answer.
TOLERANCE = 1e-3
# Images a pass: their activations stay in the cache, and two cores are busy.
IMAGES = 2
# A kept model is a file of about its weights' size: larger ones are converted anew, and of the
# others so many are kept.
LARGEST_KEPT = 1 << 28
KEPT = 12

Run = Callable[[Tensor], tuple[Tensor, ...]]


def is_used(chosen: bool, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether OpenVINO runs the models: where it is chosen, installed, and can.

    Its threads do not outlive a fork: in a process forked from one that has used it, torch does.
    """
    chosen = chosen and os.environ.get(SWITCH) != "0"
    fitting = device.type == "cpu" and dtype == torch.float32
    return chosen and fitting and find_spec("openvino") is not None and not _is_forked()


def converted(module: nn.Module, example: Tensor, shape: tuple[int, ...]) -> Run | None:
    """A frozen module as OpenVINO runs it.

    Args:
        module: from a batch to a tensor, or to several, a row for each of its own.
        example: a batch of one.
        shape: of the batches that OpenVINO is given: where the first number is not -1, larger ones
            are cut and the last is filled up; other sizes of -1 are open.

    Returns:
        From a batch of any size to the module's answers; None where OpenVINO cannot run it, or
        answers otherwise than torch.
    """
    with torch.inference_mode():
        try:
            compiled = _compiled(module, example, shape)
            run = functools.partial(_run_in_parts, compiled, shape[0])
            same = all(
                torch.allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)
                for found, wanted in zip(run(example), _as_tuple(module(example)), strict=True)
            )
        # What one operator of a model's lacks ends in any exception at all.
        except Exception:
            return None
    return run if same else None


def _run_in_parts(compiled: Any, rows: int, batch: Tensor) -> tuple[Tensor, ...]:
    if rows < 0:
        return _run(compiled, batch)
    filled = torch.cat([batch, batch[-1:].expand(-len(batch) % rows, *batch.shape[1:])])
    parts = [_run(compiled, part) for part in filled.split(rows)]
    return tuple(torch.cat(answers)[: len(batch)] for answers in zip(*parts, strict=True))


def _run(compiled: Any, batch: Tensor) -> tuple[Tensor, ...]:
    if _is_forked():
        raise SynticError(
            f"{NAME} cannot go on in a forked process: load the models there, or give --no-openvino"
        )
    found = compiled([batch.contiguous().numpy()], share_inputs=True)
    return tuple(torch.from_numpy(found[number]) for number in range(len(found)))


def _as_tuple(answer: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (answer,) if isinstance(answer, Tensor) else answer


def _compiled(module: nn.Module, example: Tensor, shape: tuple[int, ...]) -> Any:
    """The compiled model, from the cache where it is there."""
    openvino, core, _ = _openvino()
    options = {
        # Left to itself it computes in bfloat16 where the processor can.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    kept = cache_folder() / "openvino" / f"{_key(module, example, shape)}.blob"
    if (blob := _read(kept)) is not None:
        # Of another processor, or unreadable in a way that its checksum is right all the same.
        with suppress(RuntimeError):
            return core.import_model(io.BytesIO(blob), "CPU", options)
    model = openvino.convert_model(
        module, example_input=example, input=openvino.PartialShape(list(shape))
    )
    compiled = core.compile_model(model, "CPU", options)
    if sum(one.nbytes for one in _state(module).values()) <= LARGEST_KEPT:
        blob = compiled.export_model()
        _keep(kept, blob.getvalue() if isinstance(blob, io.BytesIO) else bytes(blob))
    return compiled


@functools.cache
def _openvino() -> tuple[Any, Any, int]:
    """The package, its core, and the process that has begun it."""
    with _no_telemetry():
        import openvino
    return openvino, openvino.Core(), os.getpid()


def _is_forked() -> bool:
    return bool(_openvino.cache_info().currsize) and _openvino()[2] != os.getpid()


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Let OpenVINO find no `openvino_telemetry`, with which it would report each import and each
    conversion over the network."""
    name = "openvino_telemetry"
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


def _state(module: nn.Module) -> dict[str, Tensor]:
    return dict([*module.named_parameters(), *module.named_buffers()])


def _key(module: nn.Module, example: Tensor, shape: tuple[int, ...]) -> str:
    """What a converted model depends on: weights, layers, shapes, and the libraries' versions."""
    libraries = {"openvino", "torch", *(type(m).__module__ for m in module.modules())}
    roots = sorted({name.partition(".")[0] for name in libraries})
    versions = [(name, str(getattr(sys.modules[name], "__version__", ""))) for name in roots]
    described = (versions, repr(module), tuple(example.shape), str(example.dtype), shape)
    digest = hashlib.sha256(repr(described).encode())
    for name, values in _state(module).items():
        digest.update(name.encode())
        digest.update(values.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> bytes | None:
    """What `_keep` wrote, if it is there and whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, blob = content[:32], content[32:]
    return blob if hashlib.sha256(blob).digest() == digest else None


def _keep(path: Path, blob: bytes) -> None:
    """Keep a compiled model in the cache, and the newest of the others; a cache that cannot be
    written is none."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(blob).digest() + blob)
        temporary.replace(path)
        there = sorted(path.parent.glob("*.blob"), key=lambda one: one.stat().st_mtime_ns)
        for old in there[:-KEPT]:
            old.unlink()
