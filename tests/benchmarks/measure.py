"""Timing of candidates side by side, and the rows of the table that come of it."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Times = dict[str, list[float]]


@dataclass(frozen=True)
class Options:
    """How the benchmarks run.

    clock is `wall`, or `cpu` for the processor seconds of this process, which other processes on a
    shared machine disturb less; only with one thread are they what a quiet machine would take.
    """

    device: str = "cpu"
    threads: int = 1
    clock: str = "wall"
    repeats: int = 3


@dataclass(frozen=True)
class Row:
    """One comparison: rates of ours and of a peer or floor, and their ratio over the repeats."""

    benchmark: str
    what: str
    unit: str
    ours: float | None
    peer: str
    theirs: float | None
    ratio: float | None
    lowest: float | None = None
    highest: float | None = None
    target: str = ""
    met: str = ""
    clock: str = "wall"


def clock_of(options: Options) -> Callable[[], float]:
    """The clock that the options name; on a GPU it waits until all work is done."""
    if options.device == "cpu":
        return time.process_time if options.clock == "cpu" else time.perf_counter
    import torch

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    options: Options,
    *,
    repeats: int | None = None,
    wall: bool = False,
    warm: bool = True,
) -> Times:
    """Seconds of each candidate in turn, several times over.

    Args:
        candidates: what to time, by name.
        options: the clock, and the repeats where none are given.
        repeats: rounds.
        wall: take wall time whatever the options say, as for work in other processes or threads.
        warm: let each run once unmeasured.
    """
    clock = time.perf_counter if wall else clock_of(options)
    if warm:
        for run in candidates.values():
            run()
    times: Times = {name: [] for name in candidates}
    for _ in range(repeats or options.repeats):
        for name, run in candidates.items():
            began = clock()
            run()
            times[name].append(clock() - began)
    return times


def compare(
    benchmark: str,
    what: str,
    unit: str,
    times: Times,
    amounts: Mapping[str, float] | float,
    *,
    targets: Mapping[str, float] | None = None,
    clock: str = "wall",
) -> list[Row]:
    """A row for every candidate but `ours`: rates, and the ratio of each round.

    Args:
        benchmark, what, unit: for the table.
        times: from `interleave`, with `ours` among them.
        amounts: the work that a candidate does, in units, where it differs by candidate by name.
        targets: the least ratio wanted, by candidate.
        clock: which clock the times are of.
    """

    def rates(name: str) -> list[float]:
        amount = amounts if isinstance(amounts, (int, float)) else amounts[name]
        return [amount / max(seconds, 1e-9) for seconds in times[name]]

    ours, rows = rates("ours"), []
    for peer in times:
        if peer == "ours":
            continue
        theirs = rates(peer)
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        middle, target = statistics.median(ratios), (targets or {}).get(peer)
        rows.append(
            Row(
                benchmark,
                what,
                unit,
                statistics.median(ours),
                peer,
                statistics.median(theirs),
                middle,
                min(ratios),
                max(ratios),
                "" if target is None else f"≥ {target:g}",
                "" if target is None else ("yes" if middle >= target else "no"),
                clock,
            )
        )
    return rows


def limit(benchmark: str, what: str, unit: str, value: float, most: float, clock: str = "") -> Row:
    """A row for a figure that must not exceed a limit."""
    met = "yes" if value <= most else "no"
    return Row(
        benchmark, what, unit, value, "limit", most, value / most, None, None, "≤ 1", met, clock
    )


def machine(options: Options) -> str:
    """The machine in a line: processor or GPU, cores, torch."""
    import torch

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0].split(":")[1].strip() if models else name
    if options.device != "cpu":
        name = f"{torch.cuda.get_device_name()}, {name}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {os.cpu_count()} cores, {capability}, torch {torch.__version__}"
