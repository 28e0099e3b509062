"""One training of a decoder: its steps, its held-out loss, and the checkpoint it resumes from."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from . import console
from .artifacts.checkpoint import Checkpoint
from .errors import SynticError
from .interrupts import StopRequest
from .method.decoder import Decoder
from .method.training import (
    Pairs,
    TokenLoss,
    epoch_batches,
    held_out_loss,
    learning_rate,
    make_optimizer,
    token_loss,
    training_step,
)
from .schema import TRAIN
from .settings import TrainSettings

SECONDS_A_CHECKPOINT = 60.0


class Fit:
    """A decoder's training; all of its state is in the checkpoint.

    curves holds (loss, held-out loss) of every epoch; best and best_epoch are the parameters with
    the lowest held-out loss, and their epoch.
    """

    def __init__(
        self,
        decoder: Decoder,
        pairs: Pairs,
        lengths: np.ndarray,
        image: np.ndarray,
        settings: TrainSettings,
        seed: int,
        checkpoint: Checkpoint,
        *,
        quiet: bool = False,
    ) -> None:
        self._decoder, self._pairs, self._settings = decoder, pairs, settings
        self._seed, self._checkpoint, self._quiet = seed, checkpoint, quiet
        self._optimizer = make_optimizer(decoder, settings.lr, settings.weight_decay)
        self._token_loss: TokenLoss = token_loss
        self._lengths = lengths
        self._training, self._held_out = _split(image, settings.validation, seed)
        self._batches_an_epoch = -(-len(self._training) // settings.batch_size)
        self.step = 0
        self.curves: list[tuple[float, float]] = []
        # The tokens' summed loss and their count; on the device, so that no step waits for it.
        self._epoch_loss = torch.zeros(2, device=pairs.prefixes.device)
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0
        self._resume()

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self._batches_an_epoch * self._settings.epochs

    def compile(self) -> None:
        """Compile the steps for batches of any shape, which takes about a minute at the first."""
        # A function, so that the parameters keep the names that checkpoints know them by.
        self._token_loss = torch.compile(token_loss, dynamic=True)

    def run_epochs(self, autocast: torch.dtype | None) -> None:
        """Take the steps that are left.

        Raises:
            Interrupted: after a signal, with a checkpoint written.
        """
        request = StopRequest()
        with (
            request.listening(),
            console.progress(
                TRAIN.name, self.steps, done=self.step, unit="steps", quiet=self._quiet
            ) as advance,
        ):
            while len(self.curves) < self._settings.epochs:
                self._run_epoch(autocast, advance, request)
                self._close_epoch()

    def _run_epoch(
        self, autocast: torch.dtype | None, advance: console.Advance, request: StopRequest
    ) -> None:
        epoch = len(self.curves)
        first = self.step - epoch * self._batches_an_epoch
        batches = epoch_batches(
            self._lengths[self._training], self._settings.batch_size, self._mixed_seed(epoch)
        )
        for batch in batches[first:]:
            # Dropout depends on the step alone, so a resumed run drops what the first one did.
            torch.manual_seed(self._mixed_seed(self.step + 1_000_003))
            loss, tokens = training_step(
                self._decoder,
                self._optimizer,
                self._pairs,
                torch.from_numpy(self._training[batch]),
                lr=learning_rate(self.step, self.steps, self._settings.warmup, self._settings.lr),
                label_smoothing=self._settings.label_smoothing,
                autocast=autocast,
                token_loss=self._token_loss,
                noise=self._settings.noise,
            )
            self._epoch_loss += torch.stack([loss * tokens, torch.full_like(loss, tokens)])
            self.step += 1
            advance(1)
            if request.signal_number is not None or self._checkpoint.due(SECONDS_A_CHECKPOINT):
                self._save()
            request.check()

    def _close_epoch(self) -> None:
        loss = float(self._epoch_loss[0] / self._epoch_loss[1])
        held_out = loss
        if len(self._held_out):
            held_out = held_out_loss(
                self._decoder, self._pairs, self._held_out, self._settings.batch_size
            )
        if not math.isfinite(held_out):
            raise SynticError(
                f"{TRAIN.name}: the loss is no longer finite; give a smaller --lr and --force"
            )
        self.curves.append((loss, held_out))
        self._epoch_loss.zero_()
        if held_out <= min(curve[1] for curve in self.curves):
            self.best_epoch = len(self.curves) - 1
            self.best = {
                name: value.detach().cpu().clone()
                for name, value in self._decoder.state_dict().items()
            }
        self._save()
        console.note(
            f"{TRAIN.name}: epoch {len(self.curves)}/{self._settings.epochs}, "
            f"loss {loss:.3f}, held out {held_out:.3f}",
            quiet=self._quiet,
        )

    def _mixed_seed(self, number: int) -> int:
        return (self._seed * 2_654_435_761 + number) % (1 << 63)

    def _save(self) -> None:
        state = {f"decoder.{n}": v.detach().cpu() for n, v in self._decoder.state_dict().items()}
        state.update({f"best.{name}": value for name, value in self.best.items()})
        for index, moments in self._optimizer.state_dict()["state"].items():
            state.update({f"adam.{index}.{n}": v.detach().cpu() for n, v in moments.items()})
        state["progress"] = torch.tensor([self.step, self.best_epoch])
        state["curves"] = torch.tensor(self.curves, dtype=torch.float64).reshape(-1, 2)
        state["epoch_loss"] = self._epoch_loss.cpu()
        self._checkpoint.save(state)

    def _resume(self) -> None:
        state = self._checkpoint.load()
        if state is None:
            return
        self._decoder.load_state_dict(_under(state, "decoder."))
        self.best = _under(state, "best.")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(state, "adam.").items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = value
        fresh = self._optimizer.state_dict()
        self._optimizer.load_state_dict({**fresh, "state": moments})
        self.step, self.best_epoch = state["progress"].tolist()
        self.curves = [(a, b) for a, b in state["curves"].tolist()]
        self._epoch_loss.copy_(state["epoch_loss"])
        console.note(f"{TRAIN.name}: going on from step {self.step}", quiet=self._quiet)


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}


def _split(image: np.ndarray, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts to train on and texts held out, at least one of each where any are held out.

    Images are held out with all of their texts: what is held out must not have been seen.

    Args:
        image: the image of each text, (N,).
        validation: the share held out.
        seed: decides which.
    """
    _, which = np.unique(image, return_inverse=True)
    images = int(which.max()) + 1
    held_out = min(images - 1, max(1, round(images * validation))) if validation else 0
    order = np.random.default_rng(seed).permutation(images)
    is_out = np.isin(which, order[:held_out])
    return np.flatnonzero(~is_out), np.flatnonzero(is_out)
