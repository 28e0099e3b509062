"""What the trainings share: a time budget, a checkpoint, a running average, their options."""

import argparse
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

SECONDS_A_CHECKPOINT = 240


class Budget:
    """Processor minutes, so that a busy machine does not shorten the training."""

    def __init__(self, minutes: float) -> None:
        self.seconds, self.start = 60 * minutes, time.process_time()

    @property
    def used(self) -> float:
        """Seconds so far."""
        return time.process_time() - self.start

    @property
    def left(self) -> float:
        """The share still left: 1 at first, 0 or less at the end."""
        return 1 - self.used / self.seconds

    def rate(self, step: int, warm_up: int, decay: float) -> float:
        """Factor on the learning rate: rises for some steps, falls over the last share."""
        return max(0.0, min(1.0, (step + 1) / warm_up, self.left / decay))


class Stateful(Protocol):
    """A module or an optimiser."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Any) -> Any: ...


class Checkpoint:
    """The step of a training and the state of its parts, read from a file that is there."""

    def __init__(self, path: Path, parts: Mapping[str, Stateful], device: str) -> None:
        self.path, self.parts, self.step = path, parts, 0
        if path.exists():
            state = torch.load(path, map_location=device, weights_only=True)
            self.step = state["step"]
            for name, part in parts.items():
                part.load_state_dict(state[name])

    def steps(self, budget: Budget) -> Iterator[int]:
        """The numbers of the steps to take; saves every few minutes and at the end."""
        saved = time.time()
        while budget.left > 0:
            yield self.step
            self.step += 1
            if time.time() - saved > SECONDS_A_CHECKPOINT or budget.left <= 0:
                self._save()
                saved = time.time()

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        unfinished = self.path.with_suffix(".part")
        torch.save(state | {"step": self.step}, unfinished)
        unfinished.rename(self.path)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, longest: float) -> None:
    """Moves the running average of the weights; its memory grows to `longest` with the steps."""
    decay = min(longest, (1 + step) / (10 + step))
    for ours, new in zip(average.parameters(), model.parameters(), strict=True):
        ours.lerp_(new, 1 - decay)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def training_parser(
    description: str | None, *, minutes: float, batch: int, rate: float
) -> argparse.ArgumentParser:
    """The options that every training takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k/, coco128/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the caches")
    parser.add_argument("--minutes", type=float, default=minutes, help="of the processor")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--rate", type=float, default=rate, help="highest learning rate")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser
