"""Stages on Ray: real raylets on this machine, and workers, nodes and drivers that really die."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from syntic_cli import console
from syntic_cli.artifacts.reading import Artifact
from syntic_cli.errors import MissingError, SynticError
from syntic_cli.settings import Run

from . import faults, ray_work
from .conftest import RunCli
from .processes import children, family, names, title
from .ray_work import NODE, Waiting, batches

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).resolve().parents[1]
# Seconds within which Ray must be gone, and an address found dead.
GONE = DEAD = 10.0


def test_without_ray_one_line_says_how_to_get_it(finished: Path) -> None:
    said = python("sys.modules['ray'] = None", "encode", "--engine", "ray", "--force", cwd=finished)
    assert said.returncode == 2
    wanted = "error: --engine ray: needs Ray; run pip install 'syntic-cli[ray]'"
    assert said.stderr.splitlines()[-1] == wanted
    assert "Traceback" not in said.stderr


def test_help_needs_neither_ray_nor_torch() -> None:
    said = python("sys.modules['ray'] = sys.modules['torch'] = None", "encode", "--help")
    assert said.returncode == 0
    for option in ("--engine", "--ray-address", "--workers", "--gpus-per-worker", "RAY_ADDRESS"):
        assert option in said.stdout
    said = python("sys.modules['ray'] = None", "train", "--help")
    assert "--engine" not in said.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--device", "cuda:1"], "--device cuda:1: on Ray"),
        (["--ray-address", "ray://head:10001"], "--ray-address ray://head:10001: Ray's client"),
        (["--engine", "dask"], "--engine dask: must be local or ray"),
        (["--gpus-per-worker", "1.5"], "--gpus-per-worker 1.5: must be"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    tmp_path: Path, run_cli: RunCli, options: list[str], says: str
) -> None:
    result = run_cli("encode", "-w", tmp_path, "--preset", "tiny", "--engine", "ray", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: " + says)
    assert len(result.stderr.splitlines()) == 1


def test_an_address_alone_does_not_switch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: RunCli
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://nobody:1")
    result = run_cli("encode", "-w", tmp_path)
    assert "run `syntic synthesize` first" in result.stderr


def python(first: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`syntic ARGUMENTS` in a process of its own, after a statement."""
    program = f"import sys; {first}\nfrom syntic_cli.cli import main\n"
    program += f"sys.argv = {['syntic', *arguments]!r}; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", program, "-w", str(cwd)],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "SYNTIC_WORKSPACE": str(cwd)},
    )


class Cluster:
    """A head without cores and nodes with one core each, on this machine."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes: list[Any] = []

    def add(self, **environment: str) -> Any:
        """A node whose workers have these variables."""
        self.nodes.append(self._cluster.add_node(num_cpus=1, env_vars=environment))
        return self.nodes[-1]

    def remove(self, node: Any) -> None:
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def run(self, **options: Any) -> Run:
        """How a pass runs here."""
        address = str(self._cluster.address)
        return Run(device="cpu", engine="ray", ray_address=address, shard_size=16, **options)

    @property
    def options(self) -> list[str]:
        return ["--engine", "ray", "--ray-address", str(self._cluster.address), "--device", "cpu"]

    def workers(self, doing: str = "") -> list[int]:
        """Ids of the processes of workers that are doing something."""
        raylets = {found.process.pid for n in self.nodes for found in n.all_processes["raylet"]}
        return [pid for pid, title in children(raylets) if title.startswith(f"ray::Worker{doing}")]

    def shutdown(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def ray_environment() -> Iterator[None]:
    """Ray there is, and its raylets take orders from nobody but these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", os.urandom(16).hex())
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        pytest.importorskip("ray", reason="Ray is not installed: pip install 'syntic-cli[ray]'")
        yield


@pytest.fixture(scope="module")
def cluster(ray_environment: None) -> Iterator[Cluster]:
    """Two nodes; a test that adds some removes them."""
    made = Cluster()
    try:
        made.add()
        made.add()
        yield made
    finally:
        made.shutdown()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a person has been told."""
    stream = io.StringIO()
    monkeypatch.setattr(console.err, "file", stream)
    return stream


@contextmanager
def meanwhile(act: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do something in a thread while the block runs; the event says that it has ended."""
    ended = threading.Event()
    thread = threading.Thread(target=act, args=(ended,))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def until(holds: Callable[[], Any], ended: threading.Event | None = None) -> Any:
    """Wait for something to hold; what it was, or None where the pass ended before."""
    last = time.monotonic() + 240
    while time.monotonic() < last:
        if (found := holds()) or (ended and ended.is_set()):
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen")


@contextmanager
def opened_at_last(gate: Path) -> Iterator[None]:
    """Let the rows go on when the block has ended, be it in failure."""
    try:
        yield
    finally:
        gate.touch()


def same_as_local(path: Path, rows: int, work: Waiting) -> bool:
    """Whether an artifact is what this process makes of the same work, bit for bit."""
    local = path.with_name("local-" + path.name)
    ray_work.make(local, rows, work, Run(shard_size=16))
    return faults.contents(path) == faults.contents(local)


@pytest.mark.parametrize(
    ("stage", "output"),
    [
        ("synthesize", "synthetic.h5"),
        ("encode", "features.h5"),
        ("detect", "objects.h5"),
        ("caption", "captions.h5"),
    ],
)
def test_a_stage_whose_worker_is_killed_equals_a_local_run_bit_for_bit(
    cluster: Cluster,
    tmp_path: Path,
    finished: Path,
    corpus_file: Path,
    photos: list[Path],
    run_cli: RunCli,
    stage: str,
    output: str,
) -> None:
    workspace = tmp_path / "run"
    shutil.copytree(finished, workspace, ignore=shutil.ignore_patterns(output, ".*"))
    killed = []

    def kill_one(ended: threading.Event) -> None:
        if victims := until(lambda: cluster.workers(".columns"), ended):
            os.kill(victims[0], signal.SIGKILL)
            killed.append(victims[0])

    inputs = {"synthesize": [corpus_file], "caption": [*photos, "--format", "json"]}
    shards = ["--shard-size", 16] if stage == "synthesize" else []
    with meanwhile(kill_one):
        command = [stage, *inputs.get(stage, []), *shards, "-w", workspace]
        result = run_cli(*command, *cluster.options)
    assert result.exit_code == 0, result.stderr
    assert faults.contents(workspace / output) == faults.contents(finished / output)
    if stage == "caption":
        assert [row["path"] for row in json.loads(result.stdout)] == [str(p) for p in photos]
    # Five photos may be captioned before somebody sees it.
    assert killed or stage == "caption"


class TestWorkers:
    def test_a_killed_worker_is_replaced(
        self,
        cluster: Cluster,
        tmp_path: Path,
        said: io.StringIO,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        log, path, work = tmp_path / "log", tmp_path / "made.h5", Waiting(0.01)

        def kill_one(ended: threading.Event) -> None:
            until(lambda: len(batches(log)) > 5)
            os.kill(batches(log)[-1][0], signal.SIGKILL)

        with meanwhile(kill_one):
            ray_work.make(path, 600, Waiting(0.01, log=log), cluster.run())
        assert capfd.readouterr().out == ""
        warnings = [line for line in said.getvalue().splitlines() if line.startswith("warning:")]
        assert len(warnings) == 1
        assert f"lost a worker on {socket.gethostname()}" in warnings[0]
        assert len({pid for pid, _, _ in batches(log)}) == 3
        # What a death costs is the batches in hand: those of two ranges.
        assert len(batches(log)) - 150 <= 2
        assert same_as_local(path, 600, work)

    def test_a_row_that_kills_becomes_its_error(self, cluster: Cluster, tmp_path: Path) -> None:
        path, poison = tmp_path / "made.h5", 13
        ray_work.make(path, 40, Waiting(poison=(poison,)), cluster.run())
        with Artifact(path) as made:
            errors, images = made.texts("error"), made.byte_strings("images")
        assert [row for row, error in enumerate(errors) if error] == [poison]
        assert "died, 3 times" in errors[poison]
        assert [row for row, image in enumerate(images) if not image] == [poison]

    def test_nodes_leave_and_join(
        self, cluster: Cluster, tmp_path: Path, said: io.StringIO
    ) -> None:
        log, path, gate = tmp_path / "log", tmp_path / "made.h5", tmp_path / "gate"

        def workers() -> int:
            return len({pid for pid, _, _ in batches(log)})

        # Ray starts nodes in the main thread only.
        with ThreadPoolExecutor(1) as thread:
            work = Waiting(log=log, gate=gate)
            made = thread.submit(ray_work.make, path, 400, work, cluster.run())
            with opened_at_last(gate):
                until(lambda: workers() == 2)
                cluster.remove(cluster.nodes[0])
                cluster.add()
                until(lambda: workers() == 3)
            made.result()
        assert "lost a worker" in said.getvalue()
        assert workers() == 3
        assert same_as_local(path, 400, Waiting())

    def test_odd_nodes_are_left_out(
        self, cluster: Cluster, tmp_path: Path, said: io.StringIO
    ) -> None:
        package = tmp_path / "syntic_cli"
        package.mkdir()
        (package / "__init__.py").write_text("__version__ = '0.0.9'\n")
        # Found before the driver's folder, which Ray puts first on the path of its workers.
        (tmp_path / "sitecustomize.py").write_text("import syntic_cli\n")
        # The first to be ready decides what all compute in: let it be an ordinary one.
        odd = ["lacks the model", "computes in float16", "dies"]
        log, path, gate = tmp_path / "log", tmp_path / "made.h5", tmp_path / "gate"

        with ThreadPoolExecutor(1) as thread:
            work = Waiting(log=log, gate=gate)
            made = thread.submit(ray_work.make, path, 400, work, cluster.run())
            with opened_at_last(gate):
                until(lambda: batches(log))
                nodes = [cluster.add(**{NODE: what}) for what in odd]
                nodes.append(cluster.add(PYTHONPATH=str(tmp_path)))
                until(lambda: said.getvalue().count("is left out") == len(nodes))
            made.result()
            for node in nodes:
                cluster.remove(node)
        told = said.getvalue()
        for reason in (
            "model some/model: cannot be loaded",
            "computes in float16 on cpu, the others in float32 on cpu",
            "has syntic 0.0.9, but the driver has ",
            "3 workers in a row died there while they started",
        ):
            assert told.count(f"{socket.gethostname()} is left out: {reason}") == 1, told
        assert "Traceback" not in told
        assert same_as_local(path, 400, Waiting())

    @pytest.mark.parametrize("alone", ["lacks the model", "dies"])
    def test_it_is_an_error_where_none_is_left(
        self, ray_environment: None, tmp_path: Path, alone: str
    ) -> None:
        lonely = Cluster()
        try:
            lonely.add(**{NODE: alone})
            kind = MissingError if alone == "lacks the model" else SynticError
            with pytest.raises(kind, match=socket.gethostname()) as raised:
                ray_work.make(tmp_path / "made.h5", 8, Waiting(), lonely.run())
        finally:
            lonely.shutdown()
        assert "\n" not in str(raised.value)
        assert not list(tmp_path.glob("*.h5"))


class TestDrivers:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_a_stopped_driver_keeps_its_rows_and_ray_is_gone(
        self, ray_environment: None, tmp_path: Path, number: signal.Signals
    ) -> None:
        path, log, rows = tmp_path / "made.h5", tmp_path / "log", 800
        command = [str(path), str(rows), "0.01", str(log)]
        driver = self.start(command)
        until(lambda: len(batches(log)) >= 80 or driver.poll() is not None)
        # A worker is called by what it does, and does nothing while it waits for rows.
        at_work = {"raylet", "ray::Worker.columns"}
        until(lambda: at_work <= names(family(driver.pid)) or driver.poll() is not None)
        ray_processes = family(driver.pid) - {driver.pid}
        if number == signal.SIGKILL:
            # Ray's agents, which hold nothing, look for their dead head for a minute.
            ray_processes = {pid for pid in ray_processes if "Agent" not in title(pid)}
        os.kill(driver.pid, number)
        began = time.monotonic()
        code = driver.wait(GONE)
        until(lambda: not any(map(title, ray_processes)))
        assert time.monotonic() - began < GONE
        assert code == (-number if number == signal.SIGKILL else 128 + number)
        computed = sum(stop - start for _, start, stop in batches(log))
        kept = sum(
            int(stop) - int(start)
            for start, _, stop in (
                found.stem.partition("-") for found in tmp_path.glob("made.h5.parts/0*.h5")
            )
        )
        # Of two workers, two ranges of 16 rows each.
        assert computed - kept <= 2 * 2 * 16
        assert kept > 0
        ray_work.make(path, rows, Waiting(log=log), Run(shard_size=16))
        assert sum(stop - start for _, start, stop in batches(log)) == rows + computed - kept
        assert same_as_local(path, rows, Waiting())

    def start(self, arguments: list[str]) -> subprocess.Popen[str]:
        program = "from tests.ray_work import main; main()"
        return subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=ROOT, text=True)

    def test_a_full_disk_is_one_line(self, cluster: Cluster, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
        tried = subprocess.run(mount, capture_output=True, text=True, check=False)
        if tried.returncode:
            pytest.skip(f"no file system can be mounted here: {tried.stderr.strip()}")
        work = Waiting(image_bytes=2000)
        try:
            with pytest.raises(SynticError, match="free some space and run the same command"):
                ray_work.make(disk / "made.h5", 400, work, cluster.run())
            assert list((disk / "made.h5.parts").glob("0*.h5"))
            until(lambda: not cluster.workers())
            bigger = ["mount", "-o", "remount,size=64m", str(disk)]
            subprocess.run(bigger, check=True, capture_output=True)
            ray_work.make(disk / "made.h5", 400, work, cluster.run())
            assert same_as_local(disk / "made.h5", 400, work)
        finally:
            subprocess.run(["umount", str(disk)], check=False)

    @pytest.mark.parametrize("what", ["nobody", "another server", "no address"])
    def test_a_dead_address_is_one_line(
        self, ray_environment: None, tmp_path: Path, what: str
    ) -> None:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            if what == "another server":
                listening.listen()
            address = f"127.0.0.1:{listening.getsockname()[1]}"
            run = Run(engine="ray", ray_address="head" if what == "no address" else address)
            began = time.monotonic()
            with pytest.raises(SynticError, match=r"--ray-address .*: no Ray cluster there"):
                ray_work.make(tmp_path / "made.h5", 8, Waiting(), run)
        assert time.monotonic() - began < DEAD
