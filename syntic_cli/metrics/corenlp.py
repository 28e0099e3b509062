"""Stanford CoreNLP 3.6.0, which SPICE needs: found, or fetched into the user's cache.

It is under the GNU General Public License and comes with no package of Python: whoever wants SPICE
downloads it from Maven Central, where its authors publish it.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock

from .. import __version__, console
from ..cache import cache_folder
from ..errors import SynticError
from .java import jar

VERSION = "3.6.0"
BASE_URL = f"https://repo1.maven.org/maven2/edu/stanford/nlp/stanford-corenlp/{VERSION}"
JARS = (f"stanford-corenlp-{VERSION}.jar", f"stanford-corenlp-{VERSION}-models.jar")
# Seconds without a byte before a server counts as hung.
PATIENCE = 60.0
_BLOCK = 1 << 18


def find() -> list[Path] | None:
    """The jars: beside SPICE's own where someone has put them there, else in the user's cache.

    Returns:
        Their paths, or None where one is missing.
    """
    for folder in (jar("spice", "spice-1.0.jar").parent / "lib", _folder()):
        paths = [folder / name for name in JARS]
        if all(path.is_file() for path in paths):
            return paths
    return None


def fetch(base_url: str = BASE_URL, *, patience: float = PATIENCE, quiet: bool = False) -> None:
    """Download to the user's cache what is not there: some hundred megabytes.

    A jar gets its name only when it is whole: it has the size that the server announces and the
    SHA-1 that the server publishes beside it, and is an archive. What an interrupted download has
    left is gone on with.

    Args:
        base_url: the folder of the jars and of their `.sha1` files.
        patience: seconds without a byte before the server is given up.
        quiet: show no progress.

    Raises:
        SynticError: the server does not answer, what it gives is not whole, or the cache cannot be
            written.
    """
    if find() is not None:
        return
    folder = _folder()
    with _explained(f"{folder}: cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    with FileLock(folder / ".lock"):
        for name in JARS:
            if not (folder / name).is_file():
                _fetch(f"{base_url}/{name}", folder / name, patience, quiet)


def _folder() -> Path:
    return cache_folder() / f"corenlp-{VERSION}"


def _fetch(url: str, target: Path, patience: float, quiet: bool) -> None:
    part = target.with_name(f"{target.name}.part")
    with _explained(f"{url}: cannot be downloaded"):
        expected = _published_sha1(f"{url}.sha1", patience)
        _download(url, part, patience, quiet)
        found = _sha1(part)
        if found == expected and zipfile.is_zipfile(part):
            part.replace(target)
            return
        part.unlink()
    wrong = "no archive" if found == expected else f"SHA-1 {found} where {expected} is published"
    raise SynticError(f"{url}: what came is damaged ({wrong}) and was deleted; fetch it again")


def _published_sha1(url: str, patience: float) -> str:
    with _open(url, patience) as answer:
        text = answer.read(1000).decode("ascii", "replace")
    found = re.match(r"\s*([0-9a-fA-F]{40})\b", text)
    if found is None:
        raise SynticError(f"{url}: is no SHA-1 but {text[:40]!r}; is a proxy in the way?")
    return found[1].lower()


def _download(url: str, part: Path, patience: float, quiet: bool) -> None:
    """Append to `part` what it lacks, or begin anew where the server cannot go on within a file."""
    done = part.stat().st_size if part.exists() else 0
    try:
        answer = _open(url, patience, done)
    except HTTPError as error:
        if done and error.code == 416:  # nothing is left to send
            return
        raise
    with answer:
        goes_on = answer.status == 206
        done = done if goes_on else 0
        size = done + int(answer.headers.get("Content-Length") or 0)
        with (
            part.open("ab" if goes_on else "wb") as file,
            console.progress(
                part.stem, size // 1000, done=done // 1000, unit="kB", quiet=quiet
            ) as advance,
        ):
            while block := answer.read(_BLOCK):
                file.write(block)
                advance((done + len(block)) // 1000 - done // 1000)
                done += len(block)
    if size > done:
        raise SynticError(
            f"{url}: the connection ended after {done:,} of {size:,} bytes; fetch it again, which"
            " goes on from there"
        )


def _open(url: str, patience: float, start: int = 0) -> Any:
    headers = {"User-Agent": f"syntic/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    return urlopen(Request(url, headers=headers), timeout=patience)


def _sha1(path: Path) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        code = f"{error.code} " if isinstance(error, HTTPError) else ""
        raise SynticError(
            f"{what} ({code}{reason}); see to that and fetch it again, which goes on where it"
            " stopped"
        ) from error
