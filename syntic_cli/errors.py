"""What can go wrong, as a Python user catches it and as the command line prints it.

SynticError            anything a user can act on
├── MissingError       a file, artifact or model is not there
├── StaleError         an artifact was made from something that has been made anew since
├── ConflictError      what is there was made otherwise, or another command holds it
└── DamagedError       a file cannot be read, or is not what it was taken for
"""

from __future__ import annotations


class SynticError(Exception):
    """Something a user can act on.

    The message is one line that names the file (and line) and says what to do; the command line
    prints it after `error:` and exits with 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class MissingError(SynticError):
    """A file, an artifact or a model is not there; the message says which command makes it."""


class StaleError(SynticError):
    """An artifact was made from one that has been made anew since."""


class ConflictError(SynticError):
    """What is there was made otherwise and is in the way, or another command holds the folder."""


class DamagedError(SynticError):
    """A file is damaged, unfinished, foreign, or of another stage than is needed."""


class Interrupted(Exception):
    """A stage was asked to stop (SIGINT, SIGTERM); `kept`: it has committed the work in hand."""

    def __init__(self, signal_number: int, *, kept: bool = True) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number, self.kept = signal_number, kept


def plural(number: int, one: str, many: str = "") -> str:
    """The word for so many things: photo or photos, or the form `many` where an s does not do."""
    return one if number == 1 else many or f"{one}s"


def count(number: int, one: str, many: str = "") -> str:
    """A number of things as a person says it: 1 photo, 2 photos."""
    return f"{number} {plural(number, one, many)}"


def shown(name: object) -> str:
    """A name as it can stand in one line: line breaks, bytes that are no UTF-8 and other characters
    that cannot be printed are escaped."""
    text = str(name)
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    # Python stands for a byte of a file name that is no UTF-8 by half a surrogate pair.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else repr(character)[1:-1]
