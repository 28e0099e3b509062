"""Kill `syntic` at random moments, go on, and compare the outcome with a run left in peace.

    python tests/faults.py --kills 100 --seed 0
    python tests/faults.py --kills 30 --engine ray

Every command runs in a process of its own, forked from this one once it has imported torch: what
would take seconds a process takes milliseconds, so that most of the time is work worth killing.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Threads would only wait for each other in models this small, and none may run when forking.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("SYNTIC_WORKSPACE", None)
os.environ.pop("SYNTIC_PRESET", None)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import h5py

from syntic_cli import console

TEXTS, PHOTOS = 120, 40
MOST_KILLS_A_ROUND = 24
PATIENCE = 120.0
# Moments to kill at, and how often each is drawn.
MOMENTS = {"in the work": 6, "in a write": 3, "anywhere": 1}

SCENES = ("--neighbours", "8", "--least", "2", "--most", "4", "--groups", "60")


@dataclass(frozen=True)
class Step:
    """A command of the chain, its artifact, and its share of the kills."""

    name: str
    arguments: tuple[str, ...]
    output: str
    weight: int


CHAIN = (
    Step("compose", ("corpus.txt", "--preset", "models/micro.toml", *SCENES), "composed.h5", 4),
    Step("synthesize", ("corpus.txt", "--preset", "models/micro.toml"), "synthetic.h5", 5),
    Step("encode", (), "features.h5", 4),
    Step("select", (), "selected.h5", 2),
    Step("optimize", (), "optimized.h5", 4),
    Step("detect", (), "objects.h5", 4),
    Step("project", (), "projected.h5", 2),
    Step("train", (), "captioner.h5", 4),
    Step("caption", ("photos",), "captions.h5", 4),
    Step(
        "evaluate", ("--references", "references.csv", "--metrics", "BLEU-4,CIDEr"), "scores.h5", 2
    ),
)
IN_SHARDS = ("compose", "synthesize", "encode", "detect", "caption")


@dataclass
class Tally:
    """What happened: kills by stage and by what they left behind, and what was found to differ."""

    kills: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    resumes: int = 0
    rounds: int = 0
    datasets: int = 0
    attributes: int = 0
    rows: int = 0
    differences: list[str] = field(default_factory=list)
    label: str = "on disk afterwards"


def warm() -> None:
    """Import all that the stages import, and let them save a checkpoint at every step."""
    import diffusers
    import open_clip
    import transformers

    from syntic_cli import fit
    from syntic_cli.method import grouping
    from syntic_cli.stages import caption, compose, evaluate, optimize, select  # noqa: F401

    # Their lazily imported halves, which every child would import again.
    for library, names in (
        (diffusers, ("DiffusionPipeline", "StableDiffusionPipeline", "DDIMScheduler")),
        (transformers, ("AutoImageProcessor", "CLIPTextModel", "DetrForObjectDetection")),
        (open_clip, ("create_model_and_transforms",)),
    ):
        for name in names:
            getattr(library, name)
    # Micro models are done in a second: by the clock no kill would ever find a checkpoint.
    for module in (fit, optimize, compose, select):
        module.SECONDS_A_CHECKPOINT = 0.0
    compose.TEXTS["cpu"] = select.TEXTS = grouping.TILE = 10


def start(work: Callable[[], object], log: Path) -> int:
    """Run something in a process of its own; returns its id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        console.out.file, console.err.file = sys.stdout, sys.stderr
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command(
    step: Step, workspace: Path, shard_size: int, more: Sequence[str] = ()
) -> Callable[[], None]:
    """`syntic STEP ...` as a call of the console script's function."""
    sizes = ["--shard-size", str(shard_size)] if step.name in IN_SHARDS else []

    def run() -> None:
        from syntic_cli import cli

        sys.argv = ["syntic", step.name, *step.arguments, "-w", str(workspace), *sizes, *more]
        cli.main()

    return run


def ended(child: int) -> int | None:
    """The child's exit code (negative: the signal that killed it), None while it runs."""
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def finish(child: int) -> int:
    """Wait for a child to end."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def names_in(folder: Path) -> set[str]:
    """Names in a folder, none where it is not there (any more)."""
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()


class Stage:
    """One step of the chain in one workspace, as seen on the disk."""

    def __init__(self, step: Step, workspace: Path) -> None:
        self.step, self.path = step, workspace / step.output
        self.parts = self.path.with_name(self.path.name + ".parts")

    def began(self) -> tuple[int, int] | None:
        """Tells one beginning of the work from another: the stage writes its recipe anew."""
        if self.step.name == "evaluate":  # which has nothing to resume and so no such file
            return (0, 0)
        try:
            found = (self.parts / "recipe.json").stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def committed(self) -> set[str]:
        return {n for n in names_in(self.parts) if n[0] != "." and n != "recipe.json"}

    def writing(self) -> set[str]:
        """Temporary files of writes under way."""
        names = names_in(self.parts) | names_in(self.path.parent)
        return {n for n in names if n[0] == "." and n.endswith(".tmp") and "workspace" not in n}

    def state(self) -> str:
        """What a kill has left."""
        if self.writing():
            return "a half-written file"
        if self.path.exists():
            return "a finished artifact"
        return "committed work" if self.committed() else "nothing yet"


@contextmanager
def polling(child: int) -> Iterator[Callable[[], bool]]:
    """Yields a function that waits a millisecond and says whether the child still runs."""
    until = time.monotonic() + PATIENCE

    def alive() -> bool:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            raise SystemExit(f"process {child} did not end within {PATIENCE:.0f} s")
        time.sleep(0.001)
        # WNOWAIT leaves the exit status to be collected by `finish`.
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    yield alive


def wait_for_moment(
    child: int, stage: Stage, moment: str, seconds: float, writes: int, before: Any
) -> None:
    """Wait until the drawn moment has come or the child has ended."""
    with polling(child) as alive:
        if moment != "anywhere":
            while alive() and stage.began() in (None, before):
                pass
        if moment == "in a write":
            seen: set[str] = set()
            while alive() and len(seen) < writes:
                seen |= stage.writing()
            return
        until = time.monotonic() + seconds
        while alive() and time.monotonic() < until:
            pass


@dataclass(frozen=True)
class Seconds:
    """How long a step took undisturbed: before its work began, and in all."""

    loading: float
    total: float


class Experiment:
    """The folder of a fault test: its inputs, the undisturbed run, and the disturbed ones."""

    def __init__(self, folder: Path, seed: int, shard_size: int) -> None:
        self.folder, self.shard_size = folder, shard_size
        self.random = random.Random(seed)
        self.log = folder / "log.txt"
        self.tally = Tally()
        self.seconds: dict[str, Seconds] = {}

    def prepare(self) -> None:
        """Write the inputs: texts, photos, references and micro models."""
        self._call(lambda: write_inputs(self.folder))

    def _call(self, work: Callable[[], object]) -> None:
        if code := finish(start(work, self.log)):
            raise SystemExit(f"exit code {code}: see {self.log}\n{self.log.read_text()[-2000:]}")

    def run_in_peace(self) -> None:
        """The run that all others must equal; measures each step."""
        for step in CHAIN:
            stage, began = Stage(step, self.folder / "peace"), time.monotonic()
            child = start(command(step, self.folder / "peace", self.shard_size), self.log)
            loading = 0.0
            with polling(child) as alive:
                while alive():
                    if not loading and stage.began():
                        loading = time.monotonic() - began
            if code := finish(child):
                raise SystemExit(f"{step.name}: exit code {code}\n{self.log.read_text()[-2000:]}")
            self.seconds[step.name] = Seconds(loading, time.monotonic() - began)

    def run_with_kills(self, kills: int) -> None:
        """The chain in a fresh workspace, with about so many kills; then compare."""
        self.tally.rounds += 1
        workspace = self.folder / f"round{self.tally.rounds}"
        plan = Counter(self.random.choices(CHAIN, [step.weight for step in CHAIN], k=kills))
        for step in CHAIN:
            left, done = plan[step], False
            while left and not done:
                done = not self.kill_once(step, workspace, left)
                left -= not done
            self._call(command(step, workspace, self.shard_size))
        self.compare(workspace)
        shutil.rmtree(workspace)

    def kill_once(self, step: Step, workspace: Path, left: int) -> bool:
        """Start the step and kill it at a random moment; False where it ended before that."""
        stage, took = Stage(step, workspace), self.seconds[step.name]
        moment = self.random.choices([*MOMENTS], [*MOMENTS.values()])[0]
        # Of the kills that are left each comes, on average, after its share of the work.
        work = self.random.uniform(0, 2 * (took.total - took.loading) / (left + 1))
        seconds = self.random.uniform(0, took.total) if moment == "anywhere" else work
        writes = self.random.randint(1, 4)
        before, kept = stage.began(), stage.committed()
        if step.name == "evaluate":
            before = None
        child = start(command(step, workspace, self.shard_size), self.log)
        wait_for_moment(child, stage, moment, seconds, writes, before)
        code = ended(child)
        if code is None:
            os.kill(child, signal.SIGKILL)
            code = finish(child)
        if code != -signal.SIGKILL:
            if code:
                self.tally.differences.append(f"{step.name}: exit code {code} after a kill")
            return False
        self.tally.kills[step.name] += 1
        self.tally.left[stage.state()] += 1
        self.tally.resumes += 1  # the next start, by another turn or by the last one of the round
        self._check_after_kill(stage, kept)
        return True

    def _check_after_kill(self, stage: Stage, kept: set[str]) -> None:
        """A reader sees a whole artifact or none, and committed work stays."""
        if stage.path.exists():
            with h5py.File(stage.path, "r") as file:
                if not file.attrs.get("complete"):
                    self.tally.differences.append(f"{stage.path}: half an artifact")
        elif lost := kept - stage.committed():
            self.tally.differences.append(f"{stage.path}: {sorted(lost)} lost")

    def compare(self, workspace: Path) -> None:
        """Every dataset and attribute of every artifact, bit for bit; only `created` may differ."""
        tally = self.tally
        for name in sorted(names_in(workspace)):
            if name.endswith((".parts", ".tmp")):
                tally.differences.append(f"{workspace / name}: left behind")
        for step in CHAIN:
            mine, other = (contents(f / step.output) for f in (workspace, self.folder / "peace"))
            for name in mine.keys() | other.keys():
                tally.attributes += "@" in name
                tally.datasets += "@" not in name
                tally.rows += mine[name][2] if name in mine else 0
                if mine.get(name) != other.get(name):
                    tally.differences.append(f"{workspace.name}/{step.output}: {name}")


def contents(path: Path) -> dict[str, tuple[str, tuple[int, ...], int, Any]]:
    """Type, shape, rows and bytes of every dataset and attribute of an artifact."""
    found: dict[str, tuple[str, tuple[int, ...], int, Any]] = {}

    def add(name: str, node: Any) -> None:
        for key, value in node.attrs.items():
            if key not in ("created", "header_crc32"):  # the latter is over the former, too
                found[f"{name}@{key}"] = (type(value).__name__, (), 0, repr(value))
        if isinstance(node, h5py.Dataset):
            values = node[()]
            rows = len(values) if node.shape else 1
            raw = values.tobytes() if node.dtype.kind != "O" else [bytes(v) for v in values]
            found[name] = (str(node.dtype), node.shape, rows, raw)

    with h5py.File(path, "r") as file:
        add("", file)
        file.visititems(add)
    return found


def write_inputs(folder: Path) -> None:
    """Everything the chain reads, the same for every run."""
    import numpy as np
    from PIL import Image

    from tests import micro

    micro.build(folder / "models")
    texts = [
        f"a {c} {n} number {i}"
        for i in range(5)
        for n in ("dog", "car", "cup")
        for c in ("red", "small", "wet", "new", "old", "blue", "big", "odd")
    ]
    (folder / "corpus.txt").write_text("\n".join(texts[:TEXTS]) + "\n")
    (folder / "photos").mkdir()
    noise = np.random.default_rng(0)
    lines = ["image,caption"]
    for number in range(PHOTOS):
        pixels = noise.integers(0, 255, (48, 40 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number:03}.jpg")
        lines += [f"{number:03}.jpg,{text}" for text in texts[number : number + 2]]
    (folder / "references.csv").write_text("\n".join(lines) + "\n")


def report(tally: Tally, seconds: float) -> None:
    """Print what was done and found."""
    kills = sum(tally.kills.values())
    shown = ", ".join(f"{step.name} {tally.kills[step.name]}" for step in CHAIN)
    left = ", ".join(f"{state} {count}" for state, count in tally.left.most_common())
    print(f"kills                {kills} ({shown})")
    print(f"  {tally.label} {left}")
    print(f"resumes              {tally.resumes}")
    print(
        f"items compared       {tally.rows} rows of {tally.datasets} datasets, "
        f"{tally.attributes} attributes, in {tally.rounds} chains"
    )
    print(f"differences          {len(tally.differences)}")
    for difference in tally.differences[:20]:
        print(f"  {difference}")
    print(f"seconds              {seconds:.0f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-size", type=int, default=8)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--folder", type=Path, help="work here and keep it")
    options = parser.parse_args()
    began = time.monotonic()
    # Bits are compared, of processes that are forked.
    os.environ["SYNTIC_OPENVINO"] = "0"
    warm()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="syntic-faults-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    kind = Experiment
    if options.engine == "ray":
        from tests.ray_faults import RayExperiment as kind
    experiment = kind(folder, options.seed, options.shard_size)
    experiment.prepare()
    experiment.run_in_peace()
    while (left := options.kills - sum(experiment.tally.kills.values())) > 0:
        experiment.run_with_kills(min(left, MOST_KILLS_A_ROUND))
    report(experiment.tally, time.monotonic() - began)
    if options.folder is None and not experiment.tally.differences:
        shutil.rmtree(folder)
    return int(bool(experiment.tally.differences))


if __name__ == "__main__":
    raise SystemExit(main())
