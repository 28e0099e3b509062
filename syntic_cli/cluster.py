"""Workers on the nodes of a Ray cluster: started, watched and replaced. The only importer of Ray.

Ray Core's actors and streaming generators, with no restarts of its own: which rows a dead worker
had in hand, and that they are not to kill one worker after the other, only the driver knows.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__, console, errors
from .artifacts.reading import Values
from .errors import SynticError
from .passes import Work
from .plan import RANGES_A_WORKER, Share
from .probing import probe
from .settings import Run
from .worker import Refusal, Terms

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise SynticError("--engine ray: needs Ray; run pip install 'syntic-cli[ray]'") from error

LOCAL = "local"
# Seconds between looks at the nodes, and until somebody who waits for one is told so.
LOOK_SECONDS = 2.0
WAITING_SECONDS = 30.0
# Seconds that a result may take on its way, once it is there.
FETCH_SECONDS = 120.0
# So many workers in a row may die on a node before any of them is ready.
STARTS = 3


@contextmanager
def connected(run: Run) -> Iterator[None]:
    """Ray for a pass: the cluster at `run.ray_address`, else one of this machine that is started
    here and ends with the pass. Where this process is connected already, that is used and left.

    Raises:
        SynticError: where there is no such cluster, or Ray cannot be started.
    """
    with quiet():
        if ray.is_initialized():
            yield
            return
        handler = _sigterm_handler()
        try:
            _connect(run)
            yield
        finally:
            ray.shutdown()
            if handler is not None:
                signal.signal(signal.SIGTERM, handler)


def quiet() -> AbstractContextManager[None]:
    """Keep results clean of what Ray says of workers that have died, whatever it is told."""
    return console.stdout_without_threads("ray_")


def _connect(run: Run) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    address = _address(run.ray_address or LOCAL)
    options: dict[str, Any] = {}
    if address == LOCAL:
        # More workers than cores are somebody's wish; elsewhere the nodes say what they have.
        cores = max(run.workers or 0, os.cpu_count() or 1) if run.device == "cpu" else None
        options.update(include_dashboard=False, num_cpus=cores)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
    # Ray raises its own errors and those of its libraries, of any class.
    except Exception as error:
        raise SynticError(f"{_named(run)}: Ray cannot be used ({_first_line(error)})") from error


def _address(given: str) -> str:
    """Where the cluster's head listens, made sure of; Ray waits long for one that is dead.

    Raises:
        SynticError: where no head listens there.
    """
    if given == LOCAL:
        return given
    try:
        address = _found_here() if given == "auto" else given
        probe(address)
    except (OSError, ValueError) as error:
        raise SynticError(
            f"--ray-address {given}: no Ray cluster there ({_first_line(error)}); "
            "give the HOST:PORT that `ray start --head` has shown"
        ) from error
    return address


def _found_here() -> str:
    """The address of the cluster that this machine is part of."""
    from ray._private.services import canonicalize_bootstrap_address

    return canonicalize_bootstrap_address("auto") or ""


def _named(run: Run) -> str:
    return f"--ray-address {run.ray_address}" if run.ray_address else "--engine ray"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _sigterm_handler() -> Any:
    """What SIGTERM does before Ray takes it, to be put back; None where this thread may not."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.getsignal(signal.SIGTERM)


def _actor_class() -> Any:
    """The class of the actors.

    Made in a function, Ray sends it by value and not by its name: a worker with another syntic
    must be able to say so before it looks for anything of this one.
    """

    class Worker:
        def where(self) -> tuple[str, str]:
            """The names of the machine and the node."""
            import socket

            import ray

            return socket.gethostname(), ray.get_runtime_context().get_node_id()

        def start(self, version: str, folder: str, sent: list[Any], batch_size: int | None) -> Any:
            """Open the work; what is wrong comes back as plain texts, else what was agreed on."""
            try:
                import syntic_cli
            except ImportError as error:
                return "SynticError", f"syntic cannot be imported there ({error})"
            there = getattr(syntic_cli, "__version__", "?")
            if there != version:
                return "SynticError", f"has syntic {there}, but the driver has {version}"
            import ray

            from syntic_cli.worker import open_session

            work, run = ray.get(sent[0])
            session = open_session(work, run, folder, batch_size)
            self._session: Any = session
            return session.answer

        def columns(self, batches: list[tuple[int, int]], failed: str) -> Iterator[Any]:
            """The columns of each batch."""
            yield from self._session.columns(batches, failed)

    return ray.remote(Worker)


@dataclass(eq=False)
class Worker:
    """An actor with what it has in hand; each share has its stream of results."""

    actor: Any
    where: Any
    start: Any
    host: str = ""
    node: str = ""
    ready: bool = False
    streams: list[tuple[Any, Share]] = field(default_factory=list)

    @property
    def shares(self) -> list[Share]:
        return [share for _, share in self.streams]


@dataclass(frozen=True)
class Returned:
    """The next batch of a share, computed."""

    share: Share
    columns: Mapping[str, Values]


@dataclass(frozen=True)
class Died:
    """A worker is gone; what it had in hand."""

    shares: Collection[Share]


class Pool:
    """The workers of a pass; use it as a context manager, which lets them go."""

    def __init__(self, work: Work, run: Run) -> None:
        self.workers: list[Worker] = []
        self.terms: Terms | None = None
        self.most = 0
        self._title, self._run = work.title, run
        self._class = _actor_class()
        self._work = work
        self._sent: Any = None
        self._gpus: bool | None = None
        self._left_out: dict[str, tuple[str, Refusal]] = {}
        self._crashes: Counter[str] = Counter()
        self._look_at = 0.0
        self._waiting_since = time.monotonic()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in list(self.workers):
            self._dismiss(worker)

    @property
    def ready(self) -> list[Worker]:
        """Workers that have opened the work."""
        return [worker for worker in self.workers if worker.ready]

    @property
    def busy(self) -> int:
        """How many shares the workers have in hand."""
        return sum(len(worker.streams) for worker in self.workers)

    def keep(self, useful: int) -> None:
        """Look at the nodes now and then, and start as many workers as there should be.

        Args:
            useful: from how many on more would have nothing to do.

        Raises:
            SynticError: where no node is left that could have a worker.
        """
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if self._gpus is None and not self._choose_device(nodes):
            return
        slots = sum(self._slots(n) for n in nodes if n["NodeID"] not in self._left_out)
        if not slots and not any(worker.node for worker in self.workers):
            self._none_left()
        wanted = min(self._run.workers or max(1, slots), useful)
        while len(self.workers) < wanted:
            self._start()
        self._say_what_is_waited_for(now)

    def _choose_device(self, nodes: list[Any]) -> bool:
        """GPUs where the cluster has any, unless the run says otherwise; False where no node has
        anything to compute on yet."""
        run, resources = self._run, [node["Resources"] for node in nodes]
        self._gpus = run.device == "cuda"
        if run.device == "auto":
            self._gpus = any(found.get("GPU") for found in resources)
            if not self._gpus and not any(found.get("CPU") for found in resources):
                self._gpus = None
                return False
            run = replace(run, device="cuda" if self._gpus else "cpu")
        self._sent = ray.put((self._work, replace(run, engine=LOCAL, ray_address=None)))
        return True

    def _slots(self, node: Any) -> int:
        resources = node["Resources"]
        cores = int(resources.get("CPU", 0))
        if not self._gpus:
            return cores
        return min(cores, int(resources.get("GPU", 0) / self._run.gpus_per_worker + 1e-6))

    def _none_left(self) -> None:
        if self._left_out:
            (host, refusal), *more = list(self._left_out.values())[::-1]
            others = f"; {console.count(len(more), 'other node')} failed, too" if more else ""
            raise _as_error(host, refusal, others)
        if (self._run.ray_address or LOCAL) == LOCAL:
            raise SynticError(
                "--engine ray: Ray knows of fewer GPUs here than --gpus-per-worker "
                f"{self._run.gpus_per_worker:g}; give --device cpu, or a smaller share"
            )

    def _say_what_is_waited_for(self, now: float) -> None:
        if any(worker.node for worker in self.workers):
            self._waiting_since = now
        elif now - self._waiting_since > WAITING_SECONDS:
            self._waiting_since = now
            what = "GPU and a core" if self._gpus else "core"
            console.note(f"{self._title}: waiting for a free {what}", quiet=self._run.quiet)

    def _start(self) -> None:
        options: dict[str, Any] = {}
        if self._left_out:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(self._left_out)})"}
        actor = self._class.options(
            num_cpus=1,
            num_gpus=_whole(self._run.gpus_per_worker) if self._gpus else 0,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=RANGES_A_WORKER,
            scheduling_strategy="SPREAD",
            **options,
        ).remote()
        batch_size = self.terms.batch_size if self.terms else None
        started = actor.start.remote(__version__, str(Path.cwd()), [self._sent], batch_size)
        self.workers.append(Worker(actor, actor.where.remote(), started))

    def give(self, worker: Worker, share: Share) -> None:
        """Let a worker compute a share."""
        method = worker.actor.columns.options(num_returns="streaming")
        worker.streams.append((method.remote(list(share.batches), share.failed), share))

    def events(self, seconds: float) -> Iterator[Returned | Died]:
        """What has happened; waits so long for something to happen.

        Raises:
            SynticError: where a worker says that the pass cannot go on.
        """
        waited_for = {}
        for worker in self.workers:
            streams = [stream for stream, _ in worker.streams]
            for waitable in streams if worker.ready else [worker.where or worker.start]:
                waited_for[waitable] = worker
        if not waited_for:
            time.sleep(seconds)
            return
        found, _ = ray.wait(list(waited_for), num_returns=1, timeout=seconds)
        if found:
            found, _ = ray.wait(list(waited_for), num_returns=len(waited_for), timeout=0)
        for waitable in found:
            worker = waited_for[waitable]
            if worker not in self.workers:
                continue
            try:
                yield from self._fetch(worker, waitable)
            except RayTaskError as error:
                if worker.ready or not worker.node:
                    raise
                self._leave_out(worker, Refusal("SynticError", _first_line(error.cause)))
            except RayError:
                yield self._bury(worker)

    def _fetch(self, worker: Worker, waitable: Any) -> Iterator[Returned]:
        if waitable is worker.where:
            worker.where = None
            worker.host, worker.node = ray.get(waitable)
        elif waitable is worker.start:
            worker.start = None
            self._started(worker, ray.get(waitable))
        else:
            (share,) = [share for stream, share in worker.streams if stream is waitable]
            columns = ray.get(next(waitable), timeout=FETCH_SECONDS)
            if isinstance(columns, Refusal):
                raise _as_error(worker.host, columns)
            if len(share.batches) == 1:
                worker.streams.remove((waitable, share))
            yield Returned(share, columns)

    def _started(self, worker: Worker, answer: Any) -> None:
        if isinstance(answer, Terms):
            self.terms = self.terms or answer
            different = _difference(self.terms, answer)
            if not different:
                worker.ready = True
                self._crashes[worker.node] = self._crashes[""] = 0
                self.most = max(self.most, len(self.ready))
                return
            answer = ("SynticError", different)
        self._leave_out(worker, answer if isinstance(answer, Refusal) else Refusal(*answer))

    def _leave_out(self, worker: Worker, refusal: Refusal) -> None:
        if worker.node not in self._left_out:
            self._left_out[worker.node] = worker.host, refusal
            console.warn(f"{self._title}: {worker.host} is left out: {refusal.reason}")
        self._dismiss(worker)

    def _bury(self, worker: Worker) -> Died:
        """A worker has died: say so, and have another one started."""
        if worker.ready:
            console.warn(
                f"{self._title}: lost a worker on {worker.host} (killed, out of memory, or its "
                "node left); its rows go to another"
            )
        else:
            self._crashed(worker)
        self._dismiss(worker)
        return Died(worker.shares)

    def _crashed(self, worker: Worker) -> None:
        self._crashes[worker.node] += 1
        reason = f"{STARTS} workers in a row died there while they started"
        if self._crashes[worker.node] < STARTS:
            host = f" on {worker.host}" if worker.host else ""
            console.warn(f"{self._title}: a worker{host} died while it started; trying again")
        elif worker.node:
            self._leave_out(worker, Refusal("SynticError", reason))
        else:
            raise SynticError(f"--engine ray: {STARTS} workers in a row died while they started")

    def _dismiss(self, worker: Worker) -> None:
        if worker in self.workers:
            self.workers.remove(worker)
        self._look_at = 0.0
        with suppress(RayError):
            ray.kill(worker.actor)


def _whole(gpus: float) -> float:
    return int(gpus) if gpus >= 1 else gpus


def _difference(agreed: Terms, offered: Terms) -> str:
    """What keeps a worker from the others; empty where nothing does."""
    mine, theirs = (f"{terms.dtype} on {terms.device}" for terms in (offered, agreed))
    if mine != theirs:
        return f"computes in {mine}, the others in {theirs}"
    same = agreed.columns.keys() == offered.columns.keys() and all(
        np.array_equal(values, offered.columns[name]) for name, values in agreed.columns.items()
    )
    return "" if same else "its model is another one than the others'"


def _as_error(host: str, refusal: Refusal, more: str = "") -> SynticError:
    """A worker's error as the driver raises it: one line with the host."""
    return getattr(errors, refusal.kind, SynticError)(f"{host}: {refusal.reason}{more}")
