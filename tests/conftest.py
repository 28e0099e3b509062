"""What the tests share: micro models, built once, and the command line run in this process."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

# No test may wait for a network that is not there.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from syntic_cli import cli, console
from tests import micro

# The models are so small that threads would only wait for each other.
torch.set_num_threads(1)

# Photos, captions and published results that are no part of the project.
DATA = Path(
    os.environ.get("SYNTIC_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)

CAPTIONS = [
    f"{who} {what} {where}"
    for who in ("A dog", "Two children", "A man in a red shirt", "The old woman")
    for what in ("runs", "plays with a ball", "looks at the camera", "jumps over a log")
    for where in ("in the snow .", "on the beach .", "near a lake")
]


@dataclass(frozen=True)
class Result:
    """What a command printed and how it ended."""

    exit_code: int
    stdout: str
    stderr: str


RunCli = Callable[..., Result]


def run_in_process(*arguments: object) -> Result:
    """Run `syntic ARGUMENTS` in this process, as `main` does for a shell."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    consoles = (console.out, console.err)
    before = [(shown.file, shown.width) for shown in consoles]
    console.out.file, console.err.file = out, err
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["syntic", *map(str, arguments)])
            cli.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    finally:
        for shown, (file, _) in zip(consoles, before, strict=True):
            shown.file = file
    return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture
def run_cli() -> RunCli:
    return run_in_process


# Of the same models torch and OpenVINO make the same but for rounding, and tests compare bits
# between processes, some of them forked. test_openvino.py lets it in.
os.environ.setdefault("SYNTIC_OPENVINO", "0")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is converted for OpenVINO is kept for this session alone."""
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("openvino") is not None:
            patch.setenv("SYNTIC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def micro_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset of random-weight micro models in the libraries' own formats."""
    return micro.build(tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 captions, one a line."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(CAPTIONS) + "\n")
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five photos of one colour each, of different sizes."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for index, colour in enumerate(("red", "green", "blue", "white", "black")):
        paths.append(folder / f"{index} {colour}.jpg")
        Image.new("RGB", (40 + 16 * index, 60), colour).save(paths[-1])
    return paths


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    micro_preset: Path,
    corpus_file: Path,
    photos: list[Path],
) -> Path:
    """A workspace in which the chain has run up to captions; tests must not change it."""
    workspace = tmp_path_factory.mktemp("finished") / "run"
    here = ["-w", workspace, "-q"]
    for command in (
        ["synthesize", corpus_file, "--preset", micro_preset, "--shard-size", 16],
        ["encode"],
        ["optimize"],
        ["detect"],
        ["project"],
        ["train"],
        ["caption", *photos],
    ):
        result = run_in_process(*command, *here)
        assert result.exit_code == 0, result.stderr
    return workspace
