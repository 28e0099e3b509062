"""The one exception type that a user of syntic meets."""

from __future__ import annotations


class SynticError(Exception):
    """Something a user can act on.

    The message is one line that names the file (and line) and says what to do; the command line
    prints it after `error:` and exits with 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Interrupted(Exception):
    """A stage was asked to stop (SIGINT, SIGTERM); `kept`: it has committed the work in hand."""

    def __init__(self, signal_number: int, *, kept: bool = True) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number, self.kept = signal_number, kept


def shown(name: object) -> str:
    """A name as it can stand in one line: line breaks and other unprintable characters escaped."""
    text = str(name)
    return text if text.isprintable() else repr(text)
