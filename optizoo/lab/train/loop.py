"""The loop of a run: epoch after epoch until it ends, and what is written down of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from optizoo.lab import checkpoint as checkpoints
from optizoo.lab.checkpoint import Interruption
from optizoo.lab.config import RunConfig, digest, run_from_dict, to_dict
from optizoo.lab.data import Dataset
from optizoo.lab.environment import environment
from optizoo.lab.records import Record, Recorder, RecordError
from optizoo.lab.train.building import resolve_device, threads
from optizoo.lab.train.distributed import Group, SharedInterruption
from optizoo.lab.train.progress import Progress
from optizoo.lab.train.run import Run

if TYPE_CHECKING:
    from optizoo.lab.train.population import Population


@dataclass
class Trained:
    """What a run leaves behind.

    Attributes:
        model: The trained model, on its device, where it was stepped last; ``with optimizer.evaluating():`` moves it to
            where it was judged.
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

    Processes that have joined (:func:`~optizoo.lab.train.distributed.joined`) train one model: batches hold
    ``batch_size`` images of each, losses and gradients are means over all of them, and the first process alone writes
    and evaluates. A checkpoint is gone on from by as many processes.

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
        ProcessError: Processes that train one model were given different runs.
        RecordError: The record to go on with is corrupt or belongs to another config.
        KeyboardInterrupt: After SIGINT.
        SystemExit: After SIGTERM, with status 143.
    """
    group = Group.current()
    group.check_same(config, dataset)
    if group.rank:
        record, checkpoint, progress = None, None, False
    with training(group.whole(config)) as (device, interruption):
        shared = None if group.count == 1 else SharedInterruption(interruption)
        run, interruption = Run(config, dataset.to(device), device, group, shared), shared or interruption
        state = None
        if resume and checkpoint is not None and checkpoints.exists(checkpoint):
            state = checkpoints.load(checkpoint)
        state = group.from_first(state)
        if state is not None:
            run.load_state_dict(state, str(checkpoint))
        processes = {"processes": group.count} if group.count > 1 else {}
        recorder = open_record(record, config, dataset, state, lambda: environment(device) | processes)
        title = f"{config.optimizer.label}, seed {config.seed}"
        save = None if checkpoint is None else partial(_save, run, checkpoint)
        go(run, [recorder], interruption, title, save=save, show=progress)
        interruption.raise_if_requested()
    return trained(run.model, run.optimizer, run.progress, recorder.record)


def trained(model: nn.Module, optimizer: Optimizer, progress: Progress, record: Record) -> Trained:
    """Return what a run leaves behind that has ended."""
    assert progress.status is not None
    return Trained(model, optimizer, progress.losses[: progress.step].cpu(), record, progress.status)


@contextmanager
def training(config: RunConfig) -> Iterator[tuple[torch.device, Interruption]]:
    """Make ready for steps, and leave the caller's threads, device, random state and signal handlers as they were."""
    device = resolve_device(config.train.device)
    with (
        Interruption() as interruption,
        threads(config.train.threads),
        torch.random.fork_rng(devices=[device.index] if device.type == "cuda" else []),
        torch.cuda.device(device) if device.type == "cuda" else nullcontext(),
    ):
        yield device, interruption


def go(
    run: "Run | Population",
    recorders: Sequence[Recorder],
    interruption: Interruption,
    title: str,
    *,
    save: Callable[[], None] | None = None,
    show: bool = True,
) -> None:
    """Run to the end, or until an interruption, and write down what happens.

    Args:
        run: What trains.
        recorders: One for each of its books.
        interruption: What may end it early.
        title: What the progress bar says.
        save: Saves a checkpoint of a single run, where it has any.
        show: Whether there is one, on a terminal.
    """
    settings, progress = run.config.train, run.progress
    with tqdm(
        total=progress.total_steps,
        initial=progress.step,
        desc=title,
        unit=" steps",
        mininterval=0.3,
        disable=None if show else True,
        leave=False,
        dynamic_ncols=True,
    ) as bar:
        while any(book.status is None for book in run.books):
            run.train_epoch(interruption, bar)
            if interruption.requested:
                if save is not None:
                    save()
                interruption.raise_if_requested()
            events = run.end_epoch()
            for index, event in events.items():
                recorders[index].epoch(**event)
            loss = min(event["train_loss"] for event in events.values())
            bar.set_postfix(epoch=progress.epoch, loss=f"{loss:.4f}", refresh=False)
            status = run.books[0].status
            due = progress.epoch % settings.checkpoint_every == 0 or status is not None
            if save is not None and due and status != "diverged":
                save()
            _write_results(run.books, recorders)
    _write_results(run.books, recorders)


def _save(run: Run, checkpoint: str | Path) -> None:
    checkpoints.save(checkpoint, run.state_dict())


def _write_results(books: Sequence[Progress], recorders: Sequence[Recorder]) -> None:
    """Write the result of every run that has ended, where it is not written yet."""
    for book, recorder in zip(books, recorders, strict=True):
        if book.status is not None and recorder.record.result is None:
            recorder.result(**book.result())


def open_record(
    path: str | Path | None,
    config: RunConfig,
    dataset: Dataset,
    state: dict[str, Any] | None,
    surroundings: Callable[[], dict[str, Any]],
) -> Recorder:
    """Return a recorder that stands where the run stands: at its start, or behind the epochs of the checkpoint.

    Args:
        path: The file of the record.
        config: The run.
        dataset: What it trains on.
        state: The checkpoint that it goes on from.
        surroundings: Returns the environment, where it has to be written.
    """
    recorder = Recorder(path, resume=state is not None)
    resolved = to_dict(config)
    if recorder.started and digest(run_from_dict(recorder.record.config)) != digest(config):
        raise RecordError(f"{path} is the record of another config; restore that config, or give another folder")
    if not recorder.started:
        sizes = {part: len(getattr(dataset, part)) for part in ("train", "validation", "test")}
        data = {"name": dataset.name, "source": dataset.source, "digest": dataset.digest, **sizes}
        recorder.start(resolved, surroundings(), data)
        for event in state["epochs"] if state is not None else []:
            recorder.epoch(**event)
    if state is not None and state["status"] is None:
        recorder.resume(state["step"])
    return recorder
