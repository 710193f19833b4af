"""What no machine can do is told in one line, before anything is begun."""

from pathlib import Path

import pytest
import torch

from optizoo import cli
from optizoo.cli.errors import is_users
from optizoo.cli.errors import told as in_a_line
from optizoo.lab import limits, models
from tests.faults.conftest import Told

HUGE = "1000000000000"
KEYS = [
    pytest.param(["--model.hidden", HUGE], "key model.hidden = 1000000000000; takes", id="units"),
    pytest.param(["--model.hidden", "100000000"], "key model.hidden = 100000000; takes", id="units-that-may-be"),
    pytest.param(["--train.epochs", HUGE], "key train.epochs = 1000000000000; takes", id="epochs"),
    pytest.param(["--train.threads", "100000"], "key train.threads = 100000; must be at most", id="threads"),
    pytest.param(["--schedule.warmup_steps", "12"], "key schedule.warmup_steps = 12; must be below", id="warm-up"),
    pytest.param(["--data.train_size", HUGE], "train_size = 1000000000000", id="images"),
    pytest.param(["--data.test_size", HUGE], "test_size take", id="test-images"),
    pytest.param(["--data.validation", HUGE], "validation", id="validation-images"),
]


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 8 GB, whatever the tests run on."""
    monkeypatch.setattr(limits, "memory", lambda device="cpu": 8 * 10**9)


@pytest.mark.parametrize(("overrides", "message"), KEYS)
def test_training(config: Path, told: Told, overrides: list[str], message: str):
    """Nothing is written, and the message names the key, its value and what it would take."""
    assert message in told("train", str(config), *overrides)
    assert not Path("runs").exists()


@pytest.mark.parametrize(("overrides", "message"), [KEYS[0], KEYS[2], KEYS[3]])
def test_comparing(config: Path, told: Told, overrides: list[str], message: str):
    """A comparison is refused before its first run, and leaves no folder."""
    text = config.read_text(encoding="utf-8").replace("[optimizer]", "[[optimizers]]")
    config.write_text(text, encoding="utf-8")
    assert message in told("compare", str(config), *overrides)
    assert not Path("runs").exists()


def test_batches_that_do_not_fit(config: Path, told: Told, monkeypatch: pytest.MonkeyPatch):
    """A batch is counted with what its forward pass keeps; one larger than the split is the split."""
    monkeypatch.setattr(limits, "memory", lambda device="cpu": 64 * 3000 * 4)
    for overrides in (["--train.batch_size", HUGE], ["--train.full_batch", "true"]):
        assert "key train.batch_size = 64; takes" in told("train", str(config), *overrides)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["bench", "step", "--threads", "100000"], id="bench-threads"),
        pytest.param(["verify", "--jobs", "100000"], id="verify-jobs"),
        pytest.param(["verify", "--steps", HUGE], id="verify-steps"),
        pytest.param(["bench", "epoch", "--batch-size", HUGE], id="bench-batch-size"),
        pytest.param(["bench", "step", "--repeats", HUGE], id="bench-repeats"),
    ],
)
def test_flags(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    """Numbers of flags have an upper bound, which the message tells."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert f"{arguments[-1]!r} is no integer from 1 to " in capsys.readouterr().err


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99", ""], ids=["no-device", "no-memory", "no-such", "empty"])
def test_devices_of_the_lab(told: Told, device: str):
    """A device that is no device, or is not there, is named."""
    assert f"{device}" in told("bench", "epoch", "--data", "synthetic", "--device", device)


def test_models_are_not_begun():
    """What needs more memory than there is is refused, not tried."""
    with pytest.raises(ValueError, match=r"hidden=10000000 takes 12\d.\d GB of memory, where this machine has 8.0 GB"):
        models.two_layer(10_000_000, seed=0)
    with pytest.raises(ValueError, match="make it smaller"):
        models.linear(inputs=10**12, seed=0)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(MemoryError(), id="python"),
        pytest.param(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 40 bytes"), id="torch"),
        pytest.param(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more"), id="cuda"),
    ],
)
def test_memory_that_runs_out_all_the_same_is_told(error: Exception):
    """Where it shows only when it is asked for, the error is one line too."""
    assert is_users(error)
    assert in_a_line(error).startswith("memory ran out")
    assert "\n" not in in_a_line(error)


def test_the_memory_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A container has what it may take, and no more than the machine."""
    monkeypatch.undo()
    whole = limits.memory()
    assert 2**28 < whole < 2**50
    for text, expected in (("max", None), ("1000000", 1000000), ("9" * 30, None)):
        (tmp_path / "memory.max").write_text(text, encoding="utf-8")
        monkeypatch.setattr(limits, "CGROUP", tmp_path / "memory.max")
        assert expected is None or limits.memory() == expected
        assert limits.memory() <= whole or text == "max"


def test_sweeping(config: Path, told: Told, monkeypatch: pytest.MonkeyPatch):
    """A sweep is refused before its first trial, and leaves no folder."""
    text = config.read_text(encoding="utf-8").replace("[optimizer]", "[[optimizers]]")
    config.write_text(text.replace("lr = 0.001", "lr = {log_uniform = [1e-3, 0.1]}"), encoding="utf-8")
    for overrides, message in (
        (["--model.hidden", HUGE], "key model.hidden = 1000000000000; takes"),
        (["--train.threads", "100000"], "key train.threads = 100000; must be at most"),
    ):
        assert message in told("sweep", str(config), "--trials", "2", *overrides)
    assert not Path("runs").exists()
