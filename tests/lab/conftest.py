"""What the tests of the lab share."""

import signal
from collections.abc import Iterator

import pytest
from matplotlib.figure import Figure

from optizoo.lab import pictures


@pytest.fixture(autouse=True)
def default_signal_handlers() -> Iterator[None]:
    """Let signals act as in a shell's foreground: a background job has SIGINT ignored, and training respects that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all figures that become files become one and the same: painting is most of what a page costs.

    The figures are made as ever. For tests of what stands beside the pictures; others paint them.
    """
    png, svg = pictures.png(Figure(figsize=(0.1, 0.1))), pictures.svg(Figure(figsize=(0.1, 0.1)))
    monkeypatch.setattr(pictures, "png", lambda _: png)
    monkeypatch.setattr(pictures, "svg", lambda _: svg)
