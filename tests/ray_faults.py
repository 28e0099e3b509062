"""The fault test on Ray: kill workers, nodes and drivers while a stage runs, then compare.

Nodes are started by `ray start`, as anybody starts them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from .faults import CHAIN, IN_SHARDS, Experiment, Stage, Step, command, finish, start
from .processes import family, title

# Who is killed, and how often each is drawn.
VICTIMS = {"one worker": 3, "every worker": 3, "a node": 2, "the driver": 2}
NODES = 2
# Of micro models the work itself takes about so many seconds.
WORK_SECONDS = 0.5
PATIENCE = 180.0


class Nodes:
    """A head without cores, and nodes with a core each, on this machine."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("", 0))
            self._port = free.getsockname()[1]
        self._nodes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Nodes:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=os.urandom(16).hex())
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._head = self._start("--head", f"--port={self._port}", "--num-cpus=0")
        self.options = ["--engine", "ray", "--ray-address", f"127.0.0.1:{self._port}"]
        wait_for(self._listens)
        for _ in range(NODES):
            self.add()
        return self

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        ray = Path(sys.executable).with_name("ray")
        return subprocess.Popen(
            [ray, "start", "--block", "--object-store-memory=100000000", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _listens(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self._port)) == 0

    def add(self) -> None:
        self._nodes.append(self._start(f"--address=127.0.0.1:{self._port}", "--num-cpus=1"))

    def processes(self, kind: str) -> list[int]:
        """Processes of the nodes whose title begins so."""
        found = [pid for node in self._nodes for pid in family(node.pid)]
        return sorted(pid for pid in found if Path(title(pid).partition(" ")[0]).name == kind)

    def kill_node(self, raylet: int) -> None:
        """Kill a node's raylet, which takes all of the node with it, and start another node."""
        (node,) = [node for node in self._nodes if raylet in family(node.pid)]
        os.kill(raylet, signal.SIGKILL)
        node.wait(PATIENCE)
        self._nodes.remove(node)
        self.add()

    def __exit__(self, *_: object) -> None:
        for process in (*self._nodes, self._head):
            process.terminate()
        for process in (*self._nodes, self._head):
            process.wait(PATIENCE)


def wait_for(holds: Callable[[], object]) -> None:
    """Wait for something to hold."""
    until = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > until:
            raise SystemExit(f"nothing happened for {PATIENCE:.0f} s")
        time.sleep(0.05)


class RayExperiment(Experiment):
    """The stages that run on Ray, run there; what is between them, here."""

    def run_with_kills(self, kills: int) -> None:
        self.tally.label = "victims           "
        self.tally.rounds += 1
        workspace = self.folder / f"round{self.tally.rounds}"
        on_ray = [step for step in CHAIN if step.name in IN_SHARDS]
        plan = Counter(self.random.choices(on_ray, k=kills))
        with Nodes() as nodes:
            for step in CHAIN:
                if step in on_ray:
                    self._run_on_ray(step, workspace, plan[step], nodes)
                else:
                    self._call(command(step, workspace, self.shard_size))
        self.compare(workspace)
        shutil.rmtree(workspace)

    def _run_on_ray(self, step: Step, workspace: Path, kills: int, nodes: Nodes) -> None:
        """Run a step to its end, through that many deaths where it takes so long; a driver that
        is killed is followed by another."""
        stage = Stage(step, workspace)
        work = command(step, workspace, self.shard_size, [*nodes.options, "--device", "cpu"])
        child = start(work, self.log)
        code: int | None = None
        while code is None:
            workers = self._at_work(child, nodes)
            if not workers or kills <= 0:
                code = finish(child)
                continue
            victim = self.random.choices([*VICTIMS], [*VICTIMS.values()])[0]
            kept, deaths = stage.committed(), 1
            if victim == "a node":
                nodes.kill_node(self.random.choice(nodes.processes("raylet")))
            elif victim == "the driver":
                os.kill(child, signal.SIGKILL)
                finish(child)
                self._check_after_kill(stage, kept)
                self.tally.resumes += 1
                child = start(work, self.log)
            else:
                deaths = len(workers) if victim == "every worker" else 1
                for worker in self.random.sample(workers, deaths):
                    os.kill(worker, signal.SIGKILL)
            self.tally.kills[step.name] += deaths
            self.tally.left[victim] += deaths
            kills -= deaths
        if code:
            self.tally.differences.append(f"{step.name}: exit code {code}")

    def _at_work(self, child: int, nodes: Nodes) -> list[int]:
        """Workers that compute, a moment after the first of them began; none after the end."""

        def ended() -> bool:
            return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

        wait_for(lambda: nodes.processes("ray::Worker.columns") or ended())
        time.sleep(self.random.uniform(0, WORK_SECONDS))
        return [] if ended() else nodes.processes("ray::Worker.columns")
