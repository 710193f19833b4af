"""The loop of a run: epoch after epoch until it ends, and what is written down of them."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from optizoo.lab import checkpoint as checkpoints
from optizoo.lab.checkpoint import Interruption
from optizoo.lab.config import RunConfig, digest, run_from_dict, to_dict
from optizoo.lab.data import Dataset
from optizoo.lab.records import Record, Recorder, RecordError, environment
from optizoo.lab.train.building import resolve_device, threads
from optizoo.lab.train.run import Run


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
        threads(config.train.threads),
        torch.random.fork_rng(devices=[device.index] if device.type == "cuda" else []),
        torch.cuda.device(device) if device.type == "cuda" else nullcontext(),
    ):
        run = Run(config, dataset.to(device), device)
        state = None
        if resume and checkpoint is not None and checkpoints.exists(checkpoint):
            state = checkpoints.load(checkpoint)
            run.load_state_dict(state, str(checkpoint))
        recorder = _open_record(record, config, dataset, device, state)
        _go(run, recorder, None if checkpoint is None else Path(checkpoint), interruption, show=progress)
        interruption.raise_if_requested()
    done = run.progress
    assert done.status is not None
    return Trained(run.model, run.optimizer, done.losses[: done.step].cpu(), recorder.record, done.status)


def _go(run: Run, recorder: Recorder, checkpoint: Path | None, interruption: Interruption, *, show: bool) -> None:
    """Run to the end, or until an interruption, and write down what happens."""
    config, progress = run.config, run.progress
    with tqdm(
        total=progress.total_steps,
        initial=progress.step,
        desc=f"{config.optimizer.label}, seed {config.seed}",
        unit=" steps",
        mininterval=0.3,
        disable=None if show else True,
        leave=False,
        dynamic_ncols=True,
    ) as bar:
        while progress.status is None:
            run.train_epoch(interruption, bar)
            if interruption.requested:
                if checkpoint is not None:
                    checkpoints.save(checkpoint, run.state_dict())
                interruption.raise_if_requested()
            event = run.end_epoch()
            recorder.epoch(**event)
            bar.set_postfix(epoch=progress.epoch, loss=f"{event['train_loss']:.4f}", refresh=False)
            due = progress.epoch % config.train.checkpoint_every == 0 or progress.status is not None
            if checkpoint is not None and due and progress.status != "diverged":
                checkpoints.save(checkpoint, run.state_dict())
    if recorder.record.result is None:
        recorder.result(**progress.result())


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
