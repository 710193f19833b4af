"""The graph of a step: when it is captured and replayed. What a static step computes is tested beside training."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from optizoo.lab.train.graph import WARM_UP, Graph


class Device:
    """Stands in for CUDA: notes what a graph asks of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.capturing = False
        monkeypatch.setattr(torch.cuda, "Stream", lambda: self)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    def wait_stream(self, stream: Any) -> None:
        self.log.append("wait")

    def replay(self) -> None:
        self.log.append("replay")

    @contextmanager
    def graph(self, graph: Any, stream: Any) -> Iterator[None]:
        self.capturing = True
        yield
        self.capturing = False


def test_warm_up_then_one_capture_then_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first steps are made on a stream of their own, then one is captured, without gradients, and replayed."""
    device = Device(monkeypatch)
    param = torch.zeros(1)

    def step() -> None:
        if device.capturing:
            assert param.grad is None
        param.grad = torch.zeros(1)
        device.log.append("capture" if device.capturing else "step")

    graph = Graph(step, [param])
    for _ in range(WARM_UP + 3):
        graph()
    assert device.log == ["wait", "step", "wait"] * WARM_UP + ["capture", "replay", "replay", "replay"]
