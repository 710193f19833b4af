"""The capture of a step in one CUDA graph.

See https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture; what a step must be for it, and such
steps, are in :mod:`optizoo.lab.train.static`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UP = 3
"""Steps before a capture. They make what cannot be made in it (states, workspaces, compiled kernels), and count."""


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
