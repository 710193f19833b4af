"""Training: one model, one optimizer, one seed; resumable to the bit, lean enough to time optimizers with."""

import hashlib
import inspect
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from tqdm import tqdm

from optizoo import zoo
from optizoo.lab import checkpoint as checkpoints
from optizoo.lab import models
from optizoo.lab.checkpoint import CheckpointError, Interruption
from optizoo.lab.config import ConfigError, RunConfig, digest, run_from_dict, to_dict
from optizoo.lab.data import Batches, Dataset, Split, epoch_order
from optizoo.lab.graph import Graph, StaticStep
from optizoo.lab.records import Record, Recorder, RecordError, environment
from optizoo.testing import has_torch_twin, torch_twin

__all__ = ["Trained", "build_model", "build_optimizer", "evaluate", "penalty", "resolve_device", "train"]

EVALUATION_BATCH = 1000
LARGEST_LOSS_LIST = 1000
DROPOUT_STREAM = 1


@dataclass
class Trained:
    """What a run leaves behind.

    Attributes:
        model: The trained model, on its device.
        optimizer: The optimizer with its state.
        losses: The cross-entropy of every step's batch, before the step, without the penalty; on the CPU.
        record: The record, as :meth:`Record.read` finds it in the file.
        status: ``"finished"``, ``"max_steps"``, ``"tolerance"`` or ``"diverged"``.
    """

    model: nn.Module
    optimizer: Optimizer
    losses: Tensor
    record: Record
    status: str


def resolve_device(name: str) -> torch.device:
    """Return the device that a config names; ``"auto"`` is CUDA where there is a device, else the CPU.

    Raises:
        ConfigError: A CUDA device is asked for, and there is none of that number.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index >= count:
        raise ConfigError(f"= {name!r}; must be a device that torch sees: {count} are CUDA", key="train.device")
    return torch.device("cuda", index)


def build_model(config: RunConfig, *, classes: int = 10) -> nn.Module:
    """Return the model at its initialisation, a function of the run's seed, on the run's device."""
    model = models.create(config.model.name, seed=config.seed, classes=classes, **config.model.options)
    return model.to(resolve_device(config.train.device), getattr(torch, config.train.dtype))


def build_optimizer(config: RunConfig, model: nn.Module, *, static: bool = False) -> Optimizer:
    """Return the optimizer for the model's parameters, from optizoo or its twin from ``torch.optim``.

    Args:
        config: The run.
        model: Its model.
        static: Where the optimizer has ``capturable``, set it, with the rate in a tensor beside the parameters; and
            take optizoo's fused kernel where nothing else is asked for and it can be had.

    Raises:
        ConfigError: ``torch.optim`` has no twin with these options.
    """
    section = config.optimizer
    options = {"lr": section.lr, **section.options, "foreach": config.train.foreach}
    if section.library == "torch" and not has_torch_twin(section.name, **options):
        raise ConfigError(
            f"= 'torch'; torch.optim has no {section.name} with {section.options}: set 'optizoo'",
            key="optimizer.library",
        )
    make = zoo.create if section.library == "optizoo" else torch_twin
    optimizer = make(section.name, model, **options)
    if not static or "capturable" not in inspect.signature(type(optimizer)).parameters:
        return optimizer
    param = next(model.parameters())
    options |= {"capturable": True, "lr": param.new_tensor(min(section.lr, torch.finfo(param.dtype).max))}
    if section.library == "optizoo" and options["foreach"] is None:
        with suppress(RuntimeError):  # no fused kernel here
            return zoo.create(section.name, model, **options, fused=True)
    return make(section.name, model, **options)


def penalty(model: nn.Module, *, l1: float = 0.0, l2: float = 0.0) -> Tensor:
    """Return ``l1 * sum |w| + l2 * sum w**2`` over the weights: parameters of two dimensions or more, so no biases.

    The gradient of the second term is ``2 * l2 * w``: ``l2`` is half of an optimizer's ``weight_decay``. With both
    strengths above 0 this is the elastic net (Zou & Hastie 2005, https://doi.org/10.1111/j.1467-9868.2005.00503.x).

    >>> model = torch.nn.Linear(2, 1)
    >>> _ = torch.nn.init.constant_(model.weight, -3.0)
    >>> penalty(model, l1=0.5, l2=0.25).item()  # 0.5 * (3 + 3) + 0.25 * (9 + 9)
    7.5
    """
    weights = [param for param in model.parameters() if param.dim() > 1]
    total = weights[0].new_zeros(())
    for weight in weights:
        if l1:
            total = total + l1 * weight.abs().sum()
        if l2:
            total = total + l2 * weight.square().sum()
    return total


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches) -> tuple[float, float] | tuple[None, None]:
    """Return mean cross-entropy and accuracy (a fraction) over a split; ``None`` for both if it is empty.

    Dropout is off meanwhile; the model's mode is restored.
    """
    count = len(batches.split)
    if not count:
        return None, None
    was_training = model.training
    model.eval()
    total, correct = 0.0, 0
    for images, labels in batches.sequential():
        logits = model(images)
        total = total + cross_entropy(logits, labels, reduction="sum").double()
        correct = correct + (logits.argmax(1) == labels).sum()
    model.train(was_training)
    return float(total) / count, int(correct) / count


def train(
    config: RunConfig,
    dataset: Dataset,
    *,
    record: str | Path | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Trained:
    """Train a model as the config says.

    Minimises softmax cross-entropy, averaged over the batch, plus :func:`penalty`. The schedule is stepped at every
    update. Everything random (initialisation, order of the batches, dropout) is a function of ``config.seed``, and the
    caller's random state is left alone.

    SIGINT and SIGTERM wait until the step is done, save a checkpoint, and then raise. An interrupted run that is
    resumed gives the same weights, states and losses to the bit, on the same machine with the same number of threads.
    A run stops with the status ``"diverged"``, without an exception and without a checkpoint, before the update whose
    loss (with the penalty) is not finite, and at the end of an epoch in which a weight left the finite numbers.

    On CUDA an epoch's full batches are steps of one CUDA graph, where the optimizer has ``capturable``: its step and
    rates then live on the device, and a loss that is not finite is found at the end of the epoch, which is made again
    up to that step. ``train.graph = false`` makes the same steps one kernel at a time.

    Args:
        config: The run.
        dataset: What to train on; ``config.data`` is not read.
        record: File for the record, JSON lines; ``None`` keeps it in memory.
        checkpoint: File for checkpoints; ``None`` writes none.
        resume: Go on from the checkpoint and behind the record, if there are any; else both are replaced.
        progress: Show a progress bar, if stderr is a terminal.

    Raises:
        ConfigError: The config asks for a device, twin or warm-up that cannot be had.
        CheckpointError: The checkpoint is unreadable or belongs to another config.
        RecordError: The record to go on with is corrupt or belongs to another config.
        KeyboardInterrupt: After SIGINT.
        SystemExit: After SIGTERM, with status 143.
    """
    device = resolve_device(config.train.device)
    with (
        Interruption() as interruption,
        _threads(config.train.threads),
        torch.random.fork_rng(devices=[device.index] if device.type == "cuda" else []),
        torch.cuda.device(device) if device.type == "cuda" else nullcontext(),
    ):
        run = _Run(config, dataset.to(device), device)
        state = None
        if resume and checkpoint is not None and checkpoints.exists(checkpoint):
            state = checkpoints.load(checkpoint)
            run.load_state_dict(state, str(checkpoint))
        recorder = _open_record(record, config, dataset, device, state)
        run.go(recorder, None if checkpoint is None else Path(checkpoint), interruption, show=progress)
        interruption.raise_if_requested()
    assert run.status is not None
    return Trained(run.model, run.optimizer, run.losses[: run.step].cpu(), recorder.record, run.status)


class _Run:
    """The state of a run and the steps that change it. A checkpoint holds all that :meth:`state_dict` returns."""

    def __init__(self, config: RunConfig, dataset: Dataset, device: torch.device) -> None:
        self.config = config
        self.digest = digest(config)
        self.data_digest = dataset.digest
        self.device = device
        settings = config.train
        dtype = getattr(torch, settings.dtype)
        self.generator = _generator(device)
        self.generator.manual_seed(int(np.random.SeedSequence([config.seed, DROPOUT_STREAM]).generate_state(1)[0]))

        def batches(split: Split, size: int) -> Batches:
            # A step is done with its batch when the next is made; only gradient descent keeps one.
            return Batches(split, dataset.mean, dataset.std, size, dtype, reuse=not settings.full_batch)

        self.batches = batches(dataset.train, len(dataset.train) if settings.full_batch else settings.batch_size)
        self.validation = batches(dataset.validation, EVALUATION_BATCH)
        self.test = batches(dataset.test, EVALUATION_BATCH)
        # Gradient descent sees the same batch at every step: it is normalised once.
        self.whole = next(self.batches.sequential()) if settings.full_batch else None

        self.total_steps = settings.total_steps(len(dataset.train))
        self.model = build_model(config, classes=len(dataset.classes)).train()
        self.params = list(self.model.parameters())
        self.optimizer = build_optimizer(config, self.model, static=_may_be_static(config, device))
        try:
            self.schedule = config.schedule.build(self.total_steps)
        except ConfigError as error:
            raise error.inside("schedule") from None
        self.base_lrs = [config.optimizer.lr for _ in self.optimizer.param_groups]
        # Rates that are tensors are filled, never replaced: the optimizer's graph reads them where they are.
        self.lrs = [group["lr"] for group in self.optimizer.param_groups if isinstance(group["lr"], Tensor)]
        self.static = StaticStep(self.batches, self.update, self.lrs) if self.lrs else None
        self.graph: Graph | None = None
        self.set_rates(0)

        self.losses = torch.empty(self.total_steps, dtype=dtype, device=device)
        self.step = 0  # updates made
        self.epoch = 0  # epochs ended
        self.seconds = 0.0
        self.best_objective = math.inf
        self.stalled = 0  # epochs in a row that improved it by less than the tolerance
        self.epochs: list[dict[str, Any]] = []
        self.status: str | None = None
        self.is_finite = True

    # The counters that a checkpoint holds beside model, optimizer, losses and random state.
    COUNTERS = ("step", "epoch", "seconds", "best_objective", "stalled", "epochs", "status")

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rest of the run depends on."""
        return {
            "digest": self.digest,
            "data_digest": self.data_digest,
            **{name: getattr(self, name) for name in self.COUNTERS},
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses[: self.step].cpu(),
            "random": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any], path: str) -> None:
        """Go back to where ``state`` was taken."""
        if "digest" not in state:
            raise CheckpointError(f"the checkpoint {path} holds no state of a run: delete it to begin the run again")
        if state["digest"] != self.digest:
            raise CheckpointError(
                f"the checkpoint {path} belongs to another config ({state['digest']}; this one is {self.digest}): "
                "restore that config, or give another folder"
            )
        if state["data_digest"] != self.data_digest:
            raise CheckpointError(f"the checkpoint {path} was made with other data: give it these, or another folder")
        for name in self.COUNTERS:
            setattr(self, name, state[name])
        self.model.load_state_dict(state["model"])
        self.load_optimizer(state["optimizer"])
        self.losses[: self.step] = state["losses"].to(self.device)
        self.generator.set_state(state["random"])

    def go(self, recorder: Recorder, checkpoint: Path | None, interruption: Interruption, *, show: bool) -> None:
        """Run to the end, or until an interruption, and write down what happens."""
        with tqdm(
            total=self.total_steps,
            initial=self.step,
            desc=f"{self.config.optimizer.label}, seed {self.config.seed}",
            unit=" steps",
            mininterval=0.3,
            disable=None if show else True,
            leave=False,
            dynamic_ncols=True,
        ) as bar:
            while self.status is None:
                self.train_epoch(interruption, bar)
                if interruption.requested:
                    if checkpoint is not None:
                        checkpoints.save(checkpoint, self.state_dict())
                    interruption.raise_if_requested()
                event = self.end_epoch()
                recorder.epoch(**event)
                bar.set_postfix(epoch=self.epoch, loss=f"{event['train_loss']:.4f}", refresh=False)
                due = self.epoch % self.config.train.checkpoint_every == 0 or self.status is not None
                if checkpoint is not None and due and self.status != "diverged":
                    checkpoints.save(checkpoint, self.state_dict())
        if recorder.record.result is None:
            recorder.result(**self.result())

    def load_optimizer(self, state: dict[str, Any]) -> None:
        """Load the state of an optimizer, which may have been saved on another kind of device."""
        for group, own in zip(state["param_groups"], self.optimizer.param_groups, strict=True):
            if "capturable" in group or "capturable" in own:  # decides where the counters go
                group["capturable"] = own.get("capturable", False)
        self.optimizer.load_state_dict(state)
        self.set_rates(self.step)

    def train_epoch(self, interruption: Interruption, bar: tqdm) -> None:
        """Make the updates that are left of this epoch; none from a loss that is not finite."""
        first = self.epoch * len(self.batches)
        end = min(first + len(self.batches), self.total_steps)
        start = time.perf_counter()
        if self.static is not None:
            self.static_steps(min(first + self.static.steps, end), interruption, bar)
        self.eager_steps(end, interruption, bar)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds += time.perf_counter() - start

    def eager_steps(self, end: int, interruption: Interruption, bar: tqdm) -> None:
        """Make updates until ``end`` of them are made, and look at every loss before its update."""
        losses: list[Tensor] = []
        for images, labels in islice(self.epoch_batches(), end - self.step):
            if interruption.requested or not self.is_finite:
                break
            loss = self.backward(images, labels)
            self.is_finite = math.isfinite(loss)
            if not self.is_finite:
                break
            try:
                self.optimizer.step()
            except (RuntimeError, OverflowError) as error:
                if "overflow" not in str(error):  # else a rate that the parameters' type cannot hold
                    raise
                self.is_finite = False
                break
            losses.append(loss)
            self.set_rates(self.step + len(losses))
            bar.update()
        if losses:
            self.losses[self.step : self.step + len(losses)] = torch.stack(losses)
        self.step += len(losses)

    def static_steps(self, end: int, interruption: Interruption, bar: tqdm) -> None:
        """Make updates until ``end`` of them are made, without waiting for the device.

        If it then tells of a loss that is not finite, the updates before that one are made again from where they began.
        """
        static = self.static
        assert static is not None
        at = self.step - self.epoch * len(self.batches)
        rates = [self.rates(self.step - at + index) for index in range(static.steps)]
        before = deepcopy((self.model.state_dict(), self.optimizer.state_dict(), self.generator.get_state()))
        static.begin(self.order(), rates, at)
        if self.graph is None and self.device.type == "cuda" and self.config.train.graph:
            self.graph = Graph(static, self.params)
        made = 0
        with warnings.catch_warnings():
            # torch's optimizers advise against capturable=True at any step outside of a graph.
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            while made < end - self.step and not interruption.requested:
                (self.graph or static)()
                made += 1
                bar.update()
            if self.step + made < self.total_steps:  # the device is still busy
                _order(len(self.batches.split), seed=self.config.seed, epoch=self.epoch + 1)
            finite = int(static.losses[at : at + made].isfinite().long().cumprod(0).sum())
            if finite < made:
                self.is_finite = False
                self.graph = None  # it would go on with the tensors that loading replaces
                self.model.load_state_dict(before[0])
                self.load_optimizer(before[1])
                self.generator.set_state(before[2])
                static.begin(self.order(), rates, at)
                for _ in range(finite):
                    static()
        self.losses[self.step : self.step + finite] = static.losses[at : at + finite]
        self.step += finite
        self.set_rates(self.step)

    def update(self, images: Tensor, labels: Tensor) -> Tensor:
        """Make the update of a batch and return its loss, as :meth:`backward` does."""
        loss = self.backward(images, labels)
        self.optimizer.step()
        return loss

    def backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Make the gradients of a batch and return its loss, or NaN where that with the penalty is not finite."""
        l1, l2 = self.config.train.l1, self.config.train.l2
        loss = cross_entropy(self.model(images), labels)
        objective = loss + penalty(self.model, l1=l1, l2=l2) if l1 or l2 else loss
        for param in self.params:
            param.grad = None
        objective.backward()
        return loss.detach() if objective is loss else loss.detach() + 0 * objective.detach()

    def rates(self, step: int) -> list[float]:
        """Return the rate of every group after ``step`` updates: a function of the step, so there is no state."""
        try:
            factor = self.schedule(step)
        except OverflowError:
            factor = math.inf
        return [base_lr * factor for base_lr in self.base_lrs]

    def set_rates(self, step: int) -> None:
        """Set the rates that the schedule has after ``step`` updates."""
        rates = self.rates(step)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for group, lr, rate in zip(self.optimizer.param_groups, self.lrs, rates, strict=False):
            group["lr"] = lr.copy_(torch.tensor(rate, dtype=torch.float64))  # infinite where its type ends

    def order(self) -> Tensor:
        """Return the order of the images in this epoch."""
        return _order(len(self.batches.split), seed=self.config.seed, epoch=self.epoch)

    def epoch_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches that are left of this epoch."""
        done = self.step - self.epoch * len(self.batches)
        if self.whole is not None:
            return iter([self.whole][done:])
        return self.batches.epoch(self.order(), done)

    @torch.no_grad()
    def end_epoch(self) -> dict[str, Any]:
        """Count the epoch, evaluate if it is time, decide whether the run ends here; return the epoch's event."""
        settings = self.config.train
        losses = self.losses[self.epoch * len(self.batches) : self.step]
        train_loss = losses.double().mean().item() if self.is_finite else math.nan
        penalized = penalty(self.model, l1=settings.l1, l2=settings.l2).item()
        finite = self.is_finite and all(bool(param.isfinite().all()) for param in self.params)
        self.epoch += 1
        self.status = self.decide(train_loss + penalized, finite=finite)
        event: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.step,
            "train_loss": train_loss,
            "penalty": penalized,
            "validation_loss": None,
            "validation_accuracy": None,
            "test_accuracy": None,
            "lr": self.rates(self.step),
            "seconds": self.seconds,
        }
        if finite and (self.epoch % settings.evaluate_every == 0 or self.status is not None):
            event["validation_loss"], event["validation_accuracy"] = evaluate(self.model, self.validation)
            event["test_accuracy"] = evaluate(self.model, self.test)[1]
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
        return "finished" if self.step == settings.epochs * len(self.batches) else "max_steps"

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


def _open_record(
    path: str | Path | None, config: RunConfig, dataset: Dataset, device: torch.device, state: dict[str, Any] | None
) -> Recorder:
    """Return a recorder that stands where the run stands: at its start, or behind the epochs of the checkpoint."""
    recorder = Recorder(path, resume=state is not None)
    resolved = to_dict(config)
    if recorder.started and digest(run_from_dict(recorder.record.config)) != digest(config):
        raise RecordError(f"{path} is the record of another config; restore that config, or give another folder")
    if not recorder.started:
        sizes = {part: len(getattr(dataset, part)) for part in ("train", "validation", "test")}
        about = {"name": dataset.name, "source": dataset.source, "digest": dataset.digest, **sizes}
        recorder.start(resolved, environment(device), about)
        for event in state["epochs"] if state is not None else []:
            recorder.epoch(**event)
    if state is not None and state["status"] is None:
        recorder.resume(state["step"])
    return recorder


_order = lru_cache(maxsize=2)(epoch_order)  # for a large set it takes some milliseconds


def _may_be_static(config: RunConfig, device: torch.device) -> bool:
    """Return whether the steps of a run should leave nothing to the host: on CUDA, one graph can then repeat them."""
    return device.type == "cuda" and not config.train.full_batch


def _generator(device: torch.device) -> torch.Generator:
    """Return the global generator that dropout on ``device`` draws from."""
    if device.type != "cuda":
        return torch.default_generator
    torch.cuda.init()
    return torch.cuda.default_generators[device.index]


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)
