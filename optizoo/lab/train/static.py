"""Steps that leave nothing to the host: over tensors that stay where they are, so that one graph can repeat them.

A graph repeats the same kernels on the same addresses, so what differs from one step to the next (the rows of the
batch, the rates, the place of the loss) must lie on the device, in tensors that the step reads by a counter that it
advances itself. :class:`StaticStep` is that step, and runs on every device; :class:`StaticSteps` makes those of a run.
"""

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from optizoo.lab.checkpoint import Interruption
from optizoo.lab.data import Batches
from optizoo.lab.train.graph import Graph

if TYPE_CHECKING:
    from optizoo.lab.train.run import Run


class StaticStep:
    """One step on a full batch: gather, normalise, set the rates, update, note the loss, advance.

    Args:
        batches: The batches of an epoch; only full ones are static.
        update: Makes the update of a batch (images, labels) and returns its loss.
        lrs: For every param group its learning rate, a tensor without dimensions that stays in the group.
    """

    def __init__(self, batches: Batches, update: Callable[[Tensor, Tensor], Tensor], lrs: Sequence[Tensor]) -> None:
        self.batches = batches
        self.update = update
        self.lrs = lrs
        self.steps = len(batches.split) // batches.batch_size
        """Number of full batches in an epoch."""
        labels = batches.split.labels
        self.rows = labels.new_zeros((self.steps, batches.batch_size))
        self.labels = torch.zeros_like(self.rows)
        self.rates = torch.stack(list(lrs)).expand(self.steps, -1).clone()
        self.losses = self.rates.new_zeros(self.steps, dtype=batches.dtype)
        self.at = labels.new_zeros(1)

    def begin(self, order: Tensor, rates: Sequence[Sequence[float]], at: int) -> None:
        """Get ready for an epoch, from its batch ``at`` on.

        Args:
            order: A permutation of the split.
            rates: For every full batch the rate of every group.
            at: From 0.
        """
        self.rows.copy_(order[: self.rows.numel()].view_as(self.rows))
        self.labels.copy_(self.batches.split.labels[self.rows.flatten()].view_as(self.labels))
        self.rates.copy_(torch.tensor(rates, dtype=torch.float64).view_as(self.rates))
        self.at.fill_(at)

    def __call__(self) -> None:
        """Make the step that the counter stands at."""
        rates = self.rates.index_select(0, self.at).unbind(1)
        for lr, rate in zip(self.lrs, rates, strict=True):
            lr.copy_(rate[0])
        images = self.batches.gather(self.rows.index_select(0, self.at)[0])
        loss = self.update(images, self.labels.index_select(0, self.at)[0])
        self.losses.index_copy_(0, self.at, loss.reshape(1))
        self.at += 1


class StaticSteps:
    """The static steps of a run, which are its full batches.

    Args:
        run: Its optimizer has its rates in tensors.
    """

    def __init__(self, run: "Run") -> None:
        self.run = run
        self.step = StaticStep(run.feed.batches, self.update, run.lrs)
        self.graph: Graph | None = None

    def update(self, images: Tensor, labels: Tensor) -> Tensor:
        """Make the update of a batch and return its loss, as :meth:`Run.backward` does."""
        loss = self.run.backward(images, labels)
        self.run.optimizer.step()
        return loss

    def make(self, interruption: Interruption, bar: tqdm) -> None:
        """Make the updates that are left of this epoch's full batches, without waiting for the device.

        If it then tells of a loss that is not finite, the updates before that one are made again from where they began.
        """
        run, progress, step = self.run, self.run.progress, self.step
        at = progress.made
        end = min(progress.step - at + step.steps, progress.epoch_end)
        rates = [progress.rates(progress.step - at + index) for index in range(step.steps)]
        before = deepcopy((run.model.state_dict(), run.optimizer.state_dict(), run.generator.get_state()))
        step.begin(run.feed.order(progress.epoch), rates, at)
        if self.graph is None and run.device.type == "cuda" and run.config.train.graph:
            self.graph = Graph(step, run.params)
        made = 0
        with warnings.catch_warnings():
            # torch's optimizers advise against capturable=True at any step outside of a graph.
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            while made < end - progress.step and not interruption.requested:
                (self.graph or step)()
                made += 1
                bar.update()
            if progress.step + made < progress.total_steps:
                run.feed.order(progress.epoch + 1)  # the device is still busy
            finite = int(step.losses[at : at + made].isfinite().long().cumprod(0).sum())
            if finite < made:
                progress.is_finite = False
                self.graph = None  # it would go on with the tensors that loading replaces
                run.model.load_state_dict(before[0])
                run.load_optimizer(before[1])
                run.generator.set_state(before[2])
                step.begin(run.feed.order(progress.epoch), rates, at)
                for _ in range(finite):
                    step()
        progress.losses[progress.step : progress.step + finite] = step.losses[at : at + finite]
        progress.step += finite
        run.set_rates()
