"""Text files opened: unpacked and decoded piece by piece, and never more of them than is sound."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, cast

from ..errors import DamagedError, MissingError, SynticError, shown

# Bytes read, and looked at to tell the format.
PIECE, HEAD = 1 << 18, 1 << 13
# A .gz may unpack to so many times its size, or to so many bytes if that is more. Texts pack to a
# third or a tenth; what packs a thousandfold is meant to fill the memory.
MOST_TIMES_PACKED, LEAST_UNPACKED = 50, 1 << 25
# Characters in a line: of plain text, and of a format that marks where a text ends.
MOST_IN_A_TEXT, MOST_IN_A_LINE = 1_000_000, 1 << 24

# What files are whose first bytes say so.
_KNOWN = {
    b"\x89HDF": "HDF5, as artifacts are: name a text file",
    b"PK\3\4": "a ZIP archive or a spreadsheet: unpack it, or save it as .csv",
    b"PAR1": "Parquet: convert it to .csv or .jsonl",
    b"\xff\xd8\xff": "a photo (JPEG): name a text file",
    b"\x89PNG": "a photo (PNG): name a text file",
    b"\xfd7zXZ": "packed by xz: unpack it",
    b"BZh": "packed by bzip2: unpack it",
}

_BOM = "\ufeff"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class TextFile:
    """A text file, or standard input, that is read from its start as often as it is asked for.

    Its lines end at \\n, \\r\\n and \\r and nowhere else, unlike those of str.splitlines.

    Attributes:
        name: the file's name, as it can stand in a message; or `standard input`.
        suffix: in lower case, without `.gz`.
        head: the first characters; those that are not in the encoding are replaced.
        head_is_all: the file has no more.
        seems_utf8: it is another text in UTF-8 than in the encoding that was named.
    """

    def __init__(self, source: str | Path, encoding: str, what: str) -> None:
        """Open a file.

        Args:
            source: the file, or `-`; gzipped or not.
            encoding: of the text.
            what: the file holds, for messages: `corpus`, say.

        Raises:
            SynticError: there is no such file or encoding, or the file is not a text.
        """
        try:
            "".encode(encoding)
        except (LookupError, ValueError) as error:
            raise SynticError(f"--encoding {shown(encoding)}: no such text encoding") from error
        if str(source) == "":
            raise SynticError(f"an empty name was given; name the {what} file, or - for stdin")
        self.name = "standard input" if str(source) == "-" else shown(source)
        self.encoding = encoding
        name = Path(source)
        packed = name.suffix.lower() == ".gz"
        self.suffix = (Path(name.stem) if packed else name).suffix.lower()
        with ExitStack() as stack:
            self._bytes = stack.enter_context(_opened(source, self.name, encoding, what))
            self._most = sys.maxsize
            if packed or self._read(2) == b"\x1f\x8b":
                size = self._bytes.seek(0, os.SEEK_END)
                self._bytes.seek(0)
                self._most = max(LEAST_UNPACKED, MOST_TIMES_PACKED * size)
                unpacked = gzip.GzipFile(fileobj=self._bytes)
                self._bytes = stack.enter_context(cast(IO[bytes], unpacked))
            self.head, self.head_is_all = self._text_head()
            self._open = stack.pop_all()

    def __enter__(self) -> TextFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    def pieces(self) -> Iterator[str]:
        """Give the text from the start, in pieces of up to 256 KiB.

        Raises:
            SynticError: a byte is not in the encoding (named with its line and offset), or the
                file is damaged, or unpacks to far more than texts do.
        """
        decoder = io.IncrementalNewlineDecoder(
            codecs.getincrementaldecoder(self.encoding)(), translate=True
        )
        self._bytes.seek(0)
        read = lines = 0
        data = b"start"
        while data:
            data = self._read(PIECE)
            read += len(data)
            if read > self._most:
                raise DamagedError(
                    f"{self.name} unpacks to more than {self._most >> 20} MB, which is too much for"
                    " a packed text; unpack it yourself and name what comes out, if it is right"
                )
            before = decoder.getstate()
            try:
                piece = decoder.decode(data, final=not data)
            except UnicodeError as error:
                decoder.setstate(before)
                raise SynticError(self._undecodable(error, decoder, data, read, lines)) from error
            lines += piece.count("\n")
            if read == len(data):
                piece = piece.removeprefix(_BOM)
            if piece:
                yield piece

    def lines(self, most: int = MOST_IN_A_TEXT) -> Iterator[str]:
        """Give the lines from the start, without their ends.

        Raises:
            SynticError: as `pieces`, or a line has more than `most` characters.
        """
        rest = ""
        number = 0
        for piece in self.pieces():
            found = (rest + piece).split("\n")
            rest = found.pop()
            # What lies between two line breaks of one piece is never too long.
            if len(found[0] if found else rest) > most:
                raise SynticError(
                    f"{self.name}, line {number + 1}: has more than {most:,} characters; is it a"
                    " text? break it or delete it"
                )
            number += len(found)
            yield from found
        if rest:
            yield rest

    def _read(self, size: int) -> bytes:
        try:
            return self._bytes.read(size)
        except (OSError, EOFError, zlib.error) as error:  # the last two: a damaged .gz
            raise DamagedError(f"{self.name} cannot be read ({error}): copy it again") from error

    def _text_head(self) -> tuple[str, bool]:
        self._bytes.seek(0)
        head = self._read(HEAD)
        for known, what in _KNOWN.items():
            if head.startswith(known) and not head.isascii():
                raise DamagedError(f"{self.name} is {what}")
        decoder = codecs.getincrementaldecoder(self.encoding)(errors="replace")
        self.seems_utf8 = _seems_utf8(head, self.encoding)
        try:
            start = io.IncrementalNewlineDecoder(decoder, translate=True).decode(head)
        except UnicodeError:  # UTF-16 that lacks its mark
            start = ""
        if _is_binary(head, start):
            raise DamagedError(
                f"{self.name} looks like a binary file: name a text file, or say --encoding utf-16"
                " (or what it is) if it is one"
            )
        return start.removeprefix(_BOM), len(head) < HEAD

    def _undecodable(
        self,
        error: UnicodeError,
        decoder: io.IncrementalNewlineDecoder,
        data: bytes,
        read: int,
        lines: int,
    ) -> str:
        """Locate the first byte that is no text: `data` was read last, after so many lines."""
        if not isinstance(error, UnicodeDecodeError):
            return f"{self.name} is not {self.encoding} ({error}); say what it is by --encoding"
        # What the decoder was given ends where `data` does, but may begin with what was left over.
        left = len(error.object) - error.start
        before = decoder.decode(data[: max(0, len(data) - left)])
        self._bytes.seek(0)
        start = self._read(2)
        guess = "utf-8" if self.seems_utf8 else "cp1252"
        guess = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else guess
        return (
            f"{self.name}, line {lines + before.count(chr(10)) + 1}: the byte"
            f" 0x{error.object[error.start]:02x} at offset {read - left} is not {self.encoding};"
            f" say what the file is by --encoding ({guess}?)"
        )


def _opened(source: str | Path, name: str, encoding: str, what: str) -> IO[bytes]:
    """Open the bytes of a file; always seekable, to look at the start and to read again."""
    path = Path(source)
    try:
        if str(source) == "-":
            return io.BytesIO(_standard_input(encoding))
        if path.is_dir():
            raise SynticError(f"{name} is a folder: name the {what} file in it")
        stream = path.open("rb")
        if not stream.seekable():  # a pipe, as of `<(head -1000 corpus.txt)`
            with stream:
                return io.BytesIO(stream.read())
        return stream
    except FileNotFoundError as error:
        link = f" (a link to {shown(path.readlink())})" if path.is_symlink() else ""
        raise MissingError(f"{name}{link}: no such file; check the name") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL within the name
        reason = getattr(error, "strerror", None) or error
        raise SynticError(f"{name} cannot be read ({reason}): check its permissions") from error


def _standard_input(encoding: str) -> bytes:
    if sys.stdin is None:  # as after `<&-`
        raise SynticError("standard input is closed: name a file, or pipe one in")
    raw = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read().encode(encoding) if raw is None else raw.read()


def _seems_utf8(head: bytes, encoding: str) -> bool:
    """Whether bytes that another encoding is named for are UTF-8, and not by chance.

    Plain ASCII is another text only where characters have two bytes or four.
    """
    name = codecs.lookup(encoding).name
    if name.startswith("utf-8") or b"\0" in head:
        return False
    if head.isascii():
        return name.startswith(("utf-16", "utf-32")) and bool(head)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _is_binary(head: bytes, start: str) -> bool:
    """Judge by the first bytes, forgiving the odd NUL or control character in a text."""
    odd = len(_CONTROL.findall(start)) - sum(start.count(c) for c in "\t\n\r\v\f\x1b\x85")
    return (b"\0" in head and "\ufffd" in start) or (odd >= 8 and odd > 0.2 * len(start))
