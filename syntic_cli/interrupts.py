"""SIGINT, SIGTERM and SIGHUP: a stage ends once its work in hand is safe, a command tidily."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .errors import Interrupted

# A terminal that is closed; not known to Windows.
_HANGUP = getattr(signal, "SIGHUP", None)


class StopRequest:
    """Turns the signals into a flag, so that the work in hand is committed first."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Catch the signals within the block; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        with _handled((signal.SIGINT, signal.SIGTERM, *_hangup()), self._note):
            yield self

    def _note(self, number: int, _frame: object) -> None:
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number

    def check(self) -> None:
        """Raise where a signal has come.

        Raises:
            Interrupted: naming the signal.
        """
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)


@contextmanager
def tidy_end() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as SIGINT does, so that nothing temporary is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled((signal.SIGTERM, *_hangup()), _leave):
        yield


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _hangup() -> tuple[int, ...]:
    """SIGHUP, unless it is ignored, as under nohup."""
    return () if _HANGUP is None or signal.getsignal(_HANGUP) is signal.SIG_IGN else (_HANGUP,)


@contextmanager
def _handled(numbers: Sequence[int], handler: Callable[[int, object], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
