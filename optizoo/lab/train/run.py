"""The state of a run: what its steps read and change, and what a checkpoint holds of it."""

import math
import time
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from optizoo.lab.checkpoint import CheckpointError, Interruption
from optizoo.lab.config import RunConfig, digest
from optizoo.lab.data import Dataset
from optizoo.lab.train import building, eager, evaluation, objective, static
from optizoo.lab.train.distributed import ALONE, Group, SharedInterruption
from optizoo.lab.train.feed import Feed
from optizoo.lab.train.progress import Progress


class Run:
    """The state of a run and the steps that change it. A checkpoint holds all that :meth:`state_dict` returns."""

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        device: torch.device,
        group: Group = ALONE,
        interruption: SharedInterruption | None = None,
    ) -> None:
        self.digest = digest(config)
        self.group = group
        self.interruption = interruption
        config, factor = group.scaled(group.whole(config), len(dataset.train))
        self.config = config
        self.data_digest = dataset.digest
        self.device = device
        self.feed = Feed(config, dataset, group)
        self.generator = building.seeded_generator(config, device)
        self.model = building.build_model(config, classes=len(dataset.classes), inputs=self.feed.inputs).train()
        self.params = list(self.model.parameters())
        self.optimizer = building.build_optimizer(config, self.model)
        base_lrs = [own["lr"] * factor for own in self.optimizer.param_groups]
        self.scorer = self.model if group.count == 1 else DistributedDataParallel(self.model)
        if building.may_be_static(config, device) and group.count == 1:
            self.optimizer = building.build_optimizer(config, self.model, static=True)
        steps = config.train.total_steps(self.feed.images)
        losses = torch.empty(steps, dtype=self.params[0].dtype, device=device)
        self.progress = Progress(config, self.feed.images, losses, base_lrs)
        # Rates that are tensors are filled, never replaced: the optimizer's graph reads them where they are.
        self.lrs = [group["lr"] for group in self.optimizer.param_groups if isinstance(group["lr"], Tensor)]
        self.static = static.StaticSteps(self) if self.lrs else None
        self.set_rates()

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rest of the run depends on."""
        return {
            "digest": self.digest,
            "data_digest": self.data_digest,
            "processes": self.group.count,
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
        if (count := state.get("processes", 1)) != self.group.count:
            raise CheckpointError(
                f"the checkpoint {path} was made by {count} {'process' if count == 1 else 'processes'}, and now there "
                f"{'is' if self.group.count == 1 else 'are'} {self.group.count}: start as many, or give another folder"
            )
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
        self.set_rates()

    def train_epoch(self, interruption: Interruption, bar: tqdm) -> None:
        """Make the updates that are left of this epoch; none from a loss that is not finite."""
        start = time.perf_counter()
        if self.static is not None:
            self.static.make(interruption, bar)
        if self.progress.is_finite:
            eager.make(self, interruption, bar)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.progress.seconds += time.perf_counter() - start

    def checked_update(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """Make the update of a batch and return its loss; ``None``, and no update, if that is not finite."""
        loss = self.backward(images, labels)
        self.progress.is_finite = math.isfinite(loss) and eager.stepped(self.optimizer)
        if not self.progress.is_finite:
            return None
        self.progress.step += 1
        self.set_rates()
        return loss

    def backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Make the gradients of a batch and return its loss, or NaN where that with the penalty is not finite."""
        l1, l2 = self.config.train.l1, self.config.train.l2
        penalized = partial(objective.penalty, self.model, l1=l1, l2=l2) if l1 or l2 else None
        if self.interruption is None:
            return objective.backward(self.model, self.params, images, labels, penalized)
        parts = self.feed.size(self.progress.made), self.group.count
        return self.interruption.agree(objective.backward(self.scorer, self.params, images, labels, penalized, parts))

    def set_rates(self) -> None:
        """Set the rates that the schedule has after the updates that were made."""
        rates = self.progress.rates(self.progress.step)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for group, lr, rate in zip(self.optimizer.param_groups, self.lrs, rates, strict=False):
            group["lr"] = lr.copy_(torch.tensor(rate, dtype=torch.float64))  # infinite where its type ends

    @property
    def books(self) -> list[Progress]:
        """The one book that is kept."""
        return [self.progress]

    @torch.no_grad()
    def end_epoch(self) -> dict[int, dict[str, Any]]:
        """End the epoch, and return its event, as that of the first book."""
        settings = self.config.train
        penalty = objective.penalty(self.model, l1=settings.l1, l2=settings.l2).item()
        finite = all(bool(param.isfinite().all()) for param in self.params)
        return {0: self.progress.end_epoch(penalty=penalty, finite=finite, evaluate=self.evaluate)}

    def evaluate(self, ended: bool) -> dict[str, float | None]:
        """Return what an epoch's event has of an evaluation, at the point where the optimizer wants to be judged."""
        with getattr(self.optimizer, "evaluating", nullcontext)():
            if self.group.rank:  # one is enough
                return {}
            loss, accuracy = evaluation.evaluate(self.model, self.feed.validation)
            test = evaluation.evaluate(self.model, self.feed.test)[1] if ended else None
        return {"validation_loss": loss, "validation_accuracy": accuracy, "test_accuracy": test}
