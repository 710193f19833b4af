"""How far a run has come: its counters, losses and rates, its epochs, and when it stops."""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from optizoo.lab.config import ConfigError, RunConfig

LARGEST_LOSS_LIST = 1000


class Progress:
    """The book that is kept of a run, whatever makes its steps.

    Args:
        config: The run.
        images: Number of images that it learns from.
        losses: Takes the loss of every step, ``config.train.total_steps(images)`` of them.
        base_lrs: For every param group the rate that the schedule multiplies.

    Raises:
        ConfigError: The schedule does not fit the length of the run.
    """

    # What a checkpoint holds beside the losses.
    COUNTERS = ("step", "epoch", "seconds", "best_objective", "stalled", "epochs", "status")

    def __init__(self, config: RunConfig, images: int, losses: Tensor, base_lrs: Sequence[float]) -> None:
        self.config = config
        self.total_steps = config.train.total_steps(images)
        self.epoch_steps = config.train.epoch_steps(images)
        try:
            self.schedule = config.schedule.build(self.total_steps)
        except ConfigError as error:
            raise error.inside("schedule") from None
        self.base_lrs = base_lrs
        self.losses = losses
        self.step = 0  # updates made
        self.epoch = 0  # epochs ended
        self.seconds = 0.0
        self.best_objective = math.inf
        self.stalled = 0  # epochs in a row that improved it by less than the tolerance
        self.epochs: list[dict[str, Any]] = []
        self.status: str | None = None
        self.is_finite = True

    @property
    def made(self) -> int:
        """Updates that were made in this epoch."""
        return self.step - self.epoch * self.epoch_steps

    @property
    def epoch_end(self) -> int:
        """The number of updates after which the epoch ends, or the run in the middle of it."""
        return min((self.epoch + 1) * self.epoch_steps, self.total_steps)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {name: getattr(self, name) for name in self.COUNTERS} | {"losses": self.losses[: self.step].cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where ``state`` was taken."""
        for name in self.COUNTERS:
            setattr(self, name, state[name])
        self.losses[: self.step] = state["losses"].to(self.losses.device)

    def rates(self, step: int) -> list[float]:
        """Return the rate of every group after ``step`` updates: a function of the step, so there is no state."""
        try:
            factor = self.schedule(step)
        except OverflowError:
            factor = math.inf
        return [base_lr * factor for base_lr in self.base_lrs]

    def end_epoch(
        self, *, penalty: float, finite: bool, evaluate: Callable[[bool], dict[str, float | None]]
    ) -> dict[str, Any]:
        """Count the epoch, evaluate if it is time, decide whether the run ends here; return the epoch's event.

        Args:
            penalty: The penalty on the weights that there are now.
            finite: Whether these are finite.
            evaluate: Called if it is time, and all is finite, with whether the run ends; returns what the event has
                of it.
        """
        settings = self.config.train
        losses = self.losses[self.epoch * self.epoch_steps : self.step]
        train_loss = losses.double().mean().item() if self.is_finite else math.nan
        finite = self.is_finite and finite
        self.epoch += 1
        self.status = self.decide(train_loss + penalty, finite=finite)
        event: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.step,
            "train_loss": train_loss,
            "penalty": penalty,
            "validation_loss": None,
            "validation_accuracy": None,
            "test_accuracy": None,
            "lr": self.rates(self.step),
            "seconds": self.seconds,
        }
        if finite and (self.epoch % settings.evaluate_every == 0 or self.status is not None):
            event |= evaluate(self.status is not None)
        self.epochs.append(event)
        return event

    def decide(self, objective: float, *, finite: bool) -> str | None:
        """Return the status with which the run ends after an epoch of this mean objective, or ``None``."""
        settings = self.config.train
        if not finite:
            return "diverged"
        if settings.tolerance is not None:
            self.stalled = self.stalled + 1 if self.best_objective - objective < settings.tolerance else 0
            self.best_objective = min(self.best_objective, objective)
            if self.stalled >= settings.patience:
                return "tolerance"
        if self.step < self.total_steps:
            return None
        return "finished" if self.step == settings.epochs * self.epoch_steps else "max_steps"

    def result(self) -> dict[str, Any]:
        """Return the event of the end."""
        losses = self.losses[: self.step].cpu()
        every = max(1, math.ceil(self.step / LARGEST_LOSS_LIST))
        accuracies = [epoch["validation_accuracy"] for epoch in self.epochs]
        last = self.epochs[-1]
        return {
            "status": self.status,
            "steps": self.step,
            "final_loss": last["train_loss"],
            "test_accuracy": last["test_accuracy"],
            "validation_accuracy": last["validation_accuracy"],
            "best_validation_accuracy": max((each for each in accuracies if each is not None), default=None),
            "seconds": self.seconds,
            "loss_digest": hashlib.sha256(losses.numpy().tobytes()).hexdigest(),
            "steps_losses_every": every,
            "losses": losses[::every].tolist(),
        }
