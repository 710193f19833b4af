"""The state of a run: what its steps read and change, and what a checkpoint holds of it."""

import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from optizoo.lab.checkpoint import CheckpointError, Interruption
from optizoo.lab.config import RunConfig, digest
from optizoo.lab.data import Batches, Dataset, Split, epoch_order
from optizoo.lab.train import building, eager, evaluation, objective, static
from optizoo.lab.train.progress import Progress

_order = lru_cache(maxsize=2)(epoch_order)  # for a large set it takes some milliseconds


class Run:
    """The state of a run and the steps that change it. A checkpoint holds all that :meth:`state_dict` returns."""

    def __init__(self, config: RunConfig, dataset: Dataset, device: torch.device) -> None:
        self.config = config
        self.digest = digest(config)
        self.data_digest = dataset.digest
        self.device = device
        settings = config.train
        dtype = getattr(torch, settings.dtype)
        self.generator = building.seeded_generator(config, device)

        def batches(split: Split, size: int) -> Batches:
            # A step is done with its batch when the next is made; only gradient descent keeps one.
            return Batches(split, dataset.mean, dataset.std, size, dtype, reuse=not settings.full_batch)

        images = len(dataset.train)
        self.batches = batches(dataset.train, images if settings.full_batch else settings.batch_size)
        self.validation = batches(dataset.validation, evaluation.BATCH)
        self.test = batches(dataset.test, evaluation.BATCH)
        # Gradient descent sees the same batch at every step: it is normalised once.
        self.whole = next(self.batches.sequential()) if settings.full_batch else None

        self.model = building.build_model(config, classes=len(dataset.classes)).train()
        self.params = list(self.model.parameters())
        self.optimizer = building.build_optimizer(config, self.model, static=building.may_be_static(config, device))
        losses = torch.empty(settings.total_steps(images), dtype=dtype, device=device)
        self.progress = Progress(config, images, losses, len(self.optimizer.param_groups))
        # Rates that are tensors are filled, never replaced: the optimizer's graph reads them where they are.
        self.lrs = [group["lr"] for group in self.optimizer.param_groups if isinstance(group["lr"], Tensor)]
        self.static = static.StaticSteps(self) if self.lrs else None
        self.set_rates(0)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rest of the run depends on."""
        return {
            "digest": self.digest,
            "data_digest": self.data_digest,
            **self.progress.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
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
        self.progress.load_state_dict(state)
        self.model.load_state_dict(state["model"])
        self.load_optimizer(state["optimizer"])
        self.generator.set_state(state["random"])

    def load_optimizer(self, state: dict[str, Any]) -> None:
        """Load the state of an optimizer, which may have been saved on another kind of device."""
        for group, own in zip(state["param_groups"], self.optimizer.param_groups, strict=True):
            if "capturable" in group or "capturable" in own:  # decides where the counters go
                group["capturable"] = own.get("capturable", False)
        self.optimizer.load_state_dict(state)
        self.set_rates(self.progress.step)

    def train_epoch(self, interruption: Interruption, bar: tqdm) -> None:
        """Make the updates that are left of this epoch; none from a loss that is not finite."""
        start = time.perf_counter()
        if self.static is not None:
            self.static.make(interruption, bar)
        eager.make(self, interruption, bar)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.progress.seconds += time.perf_counter() - start

    def backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Make the gradients of a batch and return its loss, or NaN where that with the penalty is not finite."""
        settings = self.config.train
        return objective.backward(self.model, self.params, images, labels, l1=settings.l1, l2=settings.l2)

    def set_rates(self, step: int) -> None:
        """Set the rates that the schedule has after ``step`` updates."""
        rates = self.progress.rates(step)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for group, lr, rate in zip(self.optimizer.param_groups, self.lrs, rates, strict=False):
            group["lr"] = lr.copy_(torch.tensor(rate, dtype=torch.float64))  # infinite where its type ends

    def order(self, *, ahead: int = 0) -> Tensor:
        """Return the order of the images in this epoch, or in one that is ``ahead`` of it."""
        return _order(len(self.batches.split), seed=self.config.order_seed, epoch=self.progress.epoch + ahead)

    def epoch_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches that are left of this epoch."""
        done = self.progress.made
        if self.whole is not None:
            return iter([self.whole][done:])
        return self.batches.epoch(self.order(), done)

    @torch.no_grad()
    def end_epoch(self) -> dict[str, Any]:
        """End the epoch: see :meth:`~optizoo.lab.train.progress.Progress.end_epoch`."""
        settings = self.config.train
        penalty = objective.penalty(self.model, l1=settings.l1, l2=settings.l2).item()
        finite = all(bool(param.isfinite().all()) for param in self.params)
        return self.progress.end_epoch(penalty=penalty, finite=finite, evaluate=self.evaluate)

    def evaluate(self) -> dict[str, float | None]:
        """Return what an epoch's event has of an evaluation."""
        loss, accuracy = evaluation.evaluate(self.model, self.validation)
        test = evaluation.evaluate(self.model, self.test)[1]
        return {"validation_loss": loss, "validation_accuracy": accuracy, "test_accuracy": test}
