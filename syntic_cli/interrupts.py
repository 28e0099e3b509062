"""SIGINT and SIGTERM: a request to stop, which a stage follows once its work in hand is safe."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import Interrupted


class StopRequest:
    """Turns SIGINT and SIGTERM into a flag, so that the work in hand is committed first."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Catch the signals within the block; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

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
