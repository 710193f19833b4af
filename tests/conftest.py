"""Options and markers that every test shares."""

import pytest
import torch


def pytest_configure() -> None:
    """Use one thread: the tensors are small, and threads that wait for each other are slow on a busy machine."""
    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--slow``, which also runs the tests that take more than ten seconds."""
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine or this call cannot run, and say why."""
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; none is visible"))
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes more than ten seconds; run pytest --slow"))
