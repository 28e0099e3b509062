"""Everything a person sees: progress, tables, notes and one-line errors; all but results go to
standard error."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from .errors import count as count  # noqa: PLC0414 - part of this module, too
from .errors import plural, shown

# Without emoji: names and texts may hold `:x:`, as in `cuda:x:`, and mean it.
out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

LOG_SECONDS = 30.0
LEAST_WIDTH = 40


def error(message: str) -> None:
    """One line on what went wrong."""
    _say(f"[bold red]error:[/] {escape(shown(message))}")


def note(message: str, *, quiet: bool = False) -> None:
    """One line that a person should know."""
    if not quiet:
        _say(f"[dim]·[/] {escape(shown(message))}")


def notes(messages: Iterable[str], *, quiet: bool = False) -> None:
    """Several notes."""
    for message in messages:
        note(message, quiet=quiet)


def warn(message: str) -> None:
    """One line on something that may be wrong; shown even with --quiet."""
    _say(f"[yellow]warning:[/] {escape(shown(message))}")


def _say(line: str) -> None:
    """A line on standard error, if it takes one: a full disk there is no reason to stop a stage."""
    try:
        err.print(line)
    except BrokenPipeError:
        raise
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO | None) -> None:
    """Let what is left in a stream's buffer, and what is written to it, go nowhere."""
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def failures(stage: str, errors: Sequence[str], unit: str) -> None:
    """Say how many rows, of one `unit` each, failed, with the first reason."""
    reasons = [error for error in errors if error]
    if reasons:
        warn(
            f"{stage}: {len(reasons)} of {count(len(errors), unit)} failed, the first because: "
            f"{reasons[0]}; in a workspace the same command with --retry-failed runs "
            f"{plural(len(reasons), 'it', 'them')} again"
        )


def escape_what_cannot_be_encoded() -> None:
    """Let standard output and error show what their encoding lacks as escapes, and not fail."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def widen() -> None:
    """Show everything where COLUMNS, or a terminal, leaves less room than a table needs: in no
    column at all rich shows nothing, and says nothing."""
    if os.environ.get("COLUMNS", "").isdigit() and int(os.environ["COLUMNS"]) < LEAST_WIDTH:
        os.environ["COLUMNS"] = str(LEAST_WIDTH)  # for what Typer shows
    for shown_by in (out, err):
        shown_by.width = max(shown_by.width, LEAST_WIDTH)


_parts: list[str] = []


@contextmanager
def part(number: int, total: int) -> Iterator[None]:
    """Say before the progress of what runs within that it is one part of several."""
    _parts.append(f"{number}/{total} ")
    try:
        yield
    finally:
        _parts.pop()


class _WithoutThreads(io.TextIOBase):
    def __init__(self, stream: TextIO, prefix: str) -> None:
        self._stream, self._prefix = stream, prefix

    def write(self, text: str) -> int:
        if threading.current_thread().name.startswith(self._prefix):
            return len(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()


@contextmanager
def stdout_without_threads(prefix: str) -> Iterator[None]:
    """Drop what threads whose name begins so print on standard output in the block."""
    with redirect_stdout(_WithoutThreads(sys.stdout, prefix)):
        yield


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit", "")
        return Text(f"{speed:,.1f} {unit}/s" if speed else f"… {unit}/s", style="cyan")


class Advance:
    """Counts items of a stage, on a progress bar or as a line now and then."""

    def __init__(self, title: str, total: int, done: int, unit: str, bar: Progress | None) -> None:
        self._stage = self._title = title
        self._total, self._unit, self._bar = total, unit, bar
        self._first, self._done = done, done
        self._began = self._printed = time.monotonic()
        self._task = bar.add_task(title, total=total, completed=done, unit=unit) if bar else None

    def retitle(self, more: str) -> None:
        """Say something more of the stage, such as `on 3 workers`."""
        before, self._title = self._title, f"{self._stage} {more}"
        if self._title != before and self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=self._title)

    def __call__(self, items: int) -> None:
        self._done += items
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, items)
        elif time.monotonic() - self._printed > LOG_SECONDS:
            self._printed = time.monotonic()
            rate = (self._done - self._first) / (self._printed - self._began)
            left = (self._total - self._done) / max(rate, 1e-9)
            note(
                f"{self._title} {self._done}/{self._total} {self._unit}, "
                f"{rate:,.1f} {self._unit}/s, {duration(left)} left"
            )


@contextmanager
def progress(
    title: str, total: int, *, done: int = 0, unit: str = "items", quiet: bool = False
) -> Iterator[Advance]:
    """Show how far a stage is: a bar on a terminal, a line every half minute in a log."""
    title = "".join(_parts) + title
    if quiet:
        yield Advance(title, total, done, unit, Progress(disable=True))
    elif not err.is_terminal:
        yield Advance(title, total, done, unit, None)
    else:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=err,
            transient=True,
        ) as bar:
            yield Advance(title, total, done, unit, bar)


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    faint: Sequence[str] = (),
) -> None:
    """A table on standard output, with some columns set to the right, and some faint."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        grid.add_column(
            name,
            justify="right" if name in right else "left",
            overflow="fold",
            style="dim" if name in faint else None,
            no_wrap=name in faint,
        )
    for row in rows:
        grid.add_row(*(escape(shown(cell)) for cell in row))
    out.print(grid, soft_wrap=False)


def tree(root: str, children: Sequence[object]) -> Tree:
    """A tree of lines; children are lines or trees."""
    grown = Tree(escape(shown(root)))
    for child in children:
        grown.add(child if isinstance(child, Tree) else escape(shown(str(child))))
    return grown


def show(renderable: object) -> None:
    """Print anything that rich can render on standard output."""
    out.print(renderable, soft_wrap=False)
