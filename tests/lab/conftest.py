"""What the tests of the lab share."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def default_signal_handlers() -> Iterator[None]:
    """Let signals act as in a shell's foreground: a background job has SIGINT ignored, and training respects that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
