"""The scripts of examples/experiments, as a user would run them, at micro size."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from .conftest import CAPTIONS, run_in_process

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash"),
]

SCRIPTS = Path(__file__).resolve().parents[1] / "examples" / "experiments"
# What stands for `syntic`: it hands the command to this process, where torch is loaded already.
SHIM = """
import json, os, socket, sys
given = sys.stdin.read() if "-" in sys.argv else ""
with socket.create_connection(("127.0.0.1", {port})) as there:
    file = there.makefile("rw")
    print(json.dumps([sys.argv[1:], os.environ.get("SYNTIC_PRESET"), given]), file=file, flush=True)
    code, out, err = json.loads(file.readline())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


class Handler(socketserver.StreamRequestHandler):
    """Runs a command of the shim."""

    def handle(self) -> None:
        arguments, preset, given = json.loads(self.rfile.readline())
        stdin = io.TextIOWrapper(io.BytesIO(given.encode()))
        with patch.dict(os.environ, {"SYNTIC_PRESET": preset}), patch("sys.stdin", stdin):
            result = run_in_process(*arguments)
        answer = json.dumps([result.exit_code, result.stdout, result.stderr])
        self.wfile.write(f"{answer}\n".encode())


@contextmanager
def shim(folder: Path) -> Iterator[socketserver.TCPServer]:
    """A command `syntic` in a folder; the main thread of this process serves it."""
    folder.mkdir()
    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        client = folder / "client.py"
        client.write_text(SHIM.format(port=server.server_address[1]))
        for name, command in (("syntic", f'-S "{client}"'), ("python", "")):
            (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
            (folder / name).chmod(0o755)
        yield server


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small stand-in for Flickr8k and COCO: photos of one colour, captions of the tests."""
    from PIL import Image

    for name, suffix in (("flickr8k", "jpg"), ("coco", "webp")):
        folder = tmp_path / "data" / name
        (folder / "images").mkdir(parents=True)
        with (folder / "captions.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "split", "caption"])
            for number, text in enumerate(CAPTIONS):
                split = "dev" if number % 4 == 3 else "train"
                image = f"{number // 2:012}.{suffix}"
                rows.writerow([image, split, f"{text}, twice" if name == "coco" else text])
                colour = (5 * number, 255 - 5 * number, 99)
                Image.new("RGB", (48, 40), colour).save(folder / "images" / image)
    return tmp_path / "data"


def run(
    script: Path, environment: dict[str, str], server: socketserver.TCPServer
) -> tuple[str, str]:
    """What a script prints on standard output and standard error."""
    said: list[subprocess.CompletedProcess[str]] = []

    def start() -> None:
        command = ["bash", str(script)]
        said.append(
            subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        )

    running = threading.Thread(target=start, daemon=True)
    running.start()
    server.timeout = 0.05
    # Signals are heard by the main thread alone, so it is this one that runs the commands.
    while running.is_alive():
        server.handle_request()
    assert said[0].returncode == 0, said[0].stderr
    return said[0].stdout, said[0].stderr


def test_in_domain_and_again(data: Path, micro_preset: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ, "DATA": str(data), "RUN": str(tmp_path / "run"), "SEEDS": "0 1",
        "PRESET": str(micro_preset), "EPOCHS": "1", "PHOTOS": "5",
        "CORPORA": "flickr8k", "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }  # fmt: skip
    with shim(tmp_path / "bin") as server:
        first, _ = run(SCRIPTS / "in-domain.sh", environment, server)
        again, notes = run(SCRIPTS / "in-domain.sh", environment, server)
    assert first == again
    rows = [line.split(" | ")[0].strip("| ") for line in first.splitlines() if "|" in line]
    methods = ["captioner", "---|---|---|---|---|---", "CLIPRe", "CapDec", "CLOSE", "DeCap", "full"]
    assert rows == methods
    assert first.count(" ± ") == 4 * 4
    for stage in ("synthesize", "encode", "detect", "optimize", "project", "train", "caption"):
        assert f"{stage}: " in notes
        assert "is up to date" in notes
    assert " images/s" not in notes  # nothing was made twice
