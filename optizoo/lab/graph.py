"""A training step over tensors that stay where they are, and its capture in one CUDA graph.

A graph repeats the same kernels on the same addresses, so what differs from one step to the next (the rows of the
batch, the rates, the place of the loss) must lie on the device, in tensors that the step reads by a counter that it
advances itself. :class:`StaticStep` is that step, and runs on every device; :class:`Graph` captures it, as
https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture tells.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from optizoo.lab.data import Batches

__all__ = ["Graph", "StaticStep"]

WARM_UP = 3
"""Steps before a capture. They make what cannot be made in it (states, workspaces, compiled kernels), and count."""


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


class Graph:
    """Makes a step again and again: the first times as it stands, then as one CUDA graph.

    No step is made for the warm-up or the capture alone, so the result is that of the step itself. Random numbers are
    drawn from the device's global generator as the step itself would: torch registers it with every graph.

    Args:
        step: Must read and write tensors that stay where they are, and leave nothing to the host.
        params: What gets gradients. They are dropped before the capture, so that the graph owns those that it makes.
    """

    def __init__(self, step: Callable[[], None], params: Sequence[Tensor]) -> None:
        self.step = step
        self.params = params
        self.stream = torch.cuda.Stream()
        self.warm = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Make one step.

        Raises:
            RuntimeError: The step does what cannot be captured, such as waiting for the device.
        """
        if self.graph is None and self.warm < WARM_UP:
            self.warm += 1
            current = torch.cuda.current_stream()
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):
                self.step()
            current.wait_stream(self.stream)
            return
        if self.graph is None:
            for param in self.params:
                param.grad = None
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=self.stream):
                    self.step()
            except RuntimeError as error:
                raise RuntimeError(
                    f"a CUDA graph cannot capture the step ({error}): set train.graph = false, which computes the same"
                ) from error
            self.graph = graph
        self.graph.replay()
