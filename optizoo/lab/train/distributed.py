"""One model over several processes, as ``torchrun`` starts them: each learns from its part of every batch.

N processes of batch size b make the run that one process makes of N * b: the gradient is the mean over all images of
the batch, also where the processes have not equally many of them, and every image is seen once. All processes keep the
same book; the first alone writes it down.
"""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from optizoo.lab.checkpoint import Interruption
from optizoo.lab.config import RunConfig
from optizoo.lab.data import Dataset

WARM_UP_EPOCHS = 5
"""Epochs in which a scaled rate climbs where the schedule has no warm-up (Goyal et al. 2017,
https://arxiv.org/abs/1706.02677), but at most a tenth of the run."""

LOST = re.compile(r"peer|gloo|nccl|socket|connection|store", re.IGNORECASE)
"""What torch says when it cannot reach another process."""


class ProcessError(RuntimeError):
    """The processes of a run cannot go on together; the message tells the remedy."""


@dataclass(frozen=True)
class Group:
    """The processes that train one model.

    Attributes:
        rank: The number of this one, from 0.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> "Group":
        """Return the processes that this one has joined; it alone if it has joined none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Let the first process do something before all others do it: then it is in the cache, or downloaded."""
        if self.rank and self.count > 1:
            dist.barrier()
        yield
        if not self.rank and self.count > 1:
            dist.barrier()

    def from_first(self, value: Any) -> Any:
        """Return what the first process has."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def check_same(self, config: RunConfig, dataset: Dataset) -> None:
        """Raise if the processes were not given the same run.

        Raises:
            ProcessError: Their configs or data differ.
        """
        if self.count == 1:
            return
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, (config, dataset.digest))
        if any(each != found[0] for each in found):
            raise ProcessError("the processes of this run have different configs or data: give all of them the same")

    def whole(self, config: RunConfig) -> RunConfig:
        """Return the run that all processes make together, as one of them sees it: its batches, and its device."""
        if self.count == 1:
            return config
        settings = replace(config.train, batch_size=config.train.batch_size * self.count)
        name = settings.device
        if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
            settings = replace(settings, device=f"cuda:{os.environ.get('LOCAL_RANK', self.rank)}")
        return replace(config, train=settings)

    def scaled(self, config: RunConfig, images: int) -> tuple[RunConfig, float]:
        """Return a run of :meth:`whole` with the warm-up of the linear scaling rule, and the factor of its rates."""
        if self.count == 1 or not config.train.scale_lr:
            return config, 1.0
        if not config.schedule.warmup_steps:
            climb = min(WARM_UP_EPOCHS * config.train.epoch_steps(images), config.train.total_steps(images) // 10)
            config = replace(config, schedule=replace(config.schedule, warmup_steps=climb))
        return config, float(self.count)


ALONE = Group()


class SharedInterruption(Interruption):
    """An interruption of all processes, whichever got the signal: all leave behind the same step."""

    def __init__(self, own: Interruption) -> None:
        super().__init__()
        self.own = own

    def agree(self, loss: Tensor) -> Tensor:
        """Return the sum of a loss over all processes, and see whether one of them is to be interrupted."""
        sums = torch.stack([loss.double(), loss.new_full((), float(self.own.requested), dtype=torch.float64)])
        dist.all_reduce(sums)
        self.requested = bool(sums[1])
        return sums[0].to(loss.dtype)

    def raise_if_requested(self) -> None:
        """Do what the signal asked for, here or in another process."""
        self.own.raise_if_requested()
        if self.requested:
            raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def joined() -> Iterator[Group]:
    """Join the processes that ``torchrun`` has started beside this one, if it has.

    What goes wrong is told by the process that finds it first; the others end with status 1, and say nothing.

    Raises:
        ProcessError: Another process has ended, or cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) < 2 or "RANK" not in os.environ:
        yield Group()
        return
    try:
        dist.init_process_group()
        yield Group.current()
    except BaseException as error:
        if not _is_first():
            raise SystemExit(1) from None
        if isinstance(error, RuntimeError) and not isinstance(error, ProcessError) and LOST.search(str(error)):
            raise ProcessError(
                "another process of this run has ended or cannot be reached, so all of it stops: the same command with "
                "--resume goes on from the last checkpoint"
            ) from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_first() -> bool:
    """Return whether this process is the first to tell of an error; it is if nobody can be asked."""
    try:
        return dist.distributed_c10d._get_default_store().add("optizoo.told", 1) == 1
    except (RuntimeError, ValueError):
        return True
