"""Losses that are not finite: a run stops before their update, a comparison goes on, and processes stop together.

Weights that leave the finite numbers although every loss is finite are tested beside training
(``tests/lab/test_train.py::test_divergence_is_recorded_not_raised``), rates beyond the type beside ``compare``.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import optizoo
from optizoo import cli
from optizoo.lab import checkpoint as checkpoints
from optizoo.lab import data
from optizoo.lab.config import load_run
from optizoo.lab.records import Record
from optizoo.lab.train import Trained, build_model, building, objective, train
from tests.faults.conftest import CONFIG, Told
from tests.lab.test_train import assert_same
from tests.processes import context


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    """A function that makes the loss of the ``step``-th update, counted from 1, a given value."""

    def at(step: int, value: float) -> None:
        calls = [0]

        def poisoned(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
            loss = cross_entropy(logits, labels, **options)
            if not options:  # evaluation sums
                calls[0] += 1
                if calls[0] == step:
                    loss = loss * value
            return loss

        monkeypatch.setattr(objective, "cross_entropy", poisoned)

    return at


def run(config: Path, **settings: Any) -> Callable[..., Trained]:
    found = load_run(config)
    found = replace(found, train=replace(found.train, **settings))
    dataset = data.load("synthetic", train_size=60, validation=16, test_size=16)  # the fourth batch has 12 images
    return lambda **files: train(found, dataset, **files, progress=False)


@pytest.mark.thin
@pytest.mark.parametrize("static", [False, True], ids=["ordinary", "static"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [1, 3, 4, 5, 12])
def test_run_stops_before_the_update(
    config: Path,
    poison: Callable[[int, float], None],
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    value: float,
    static: bool,
):
    """A run ends, as diverged, with the weights and states before the loss that is not finite; checkpoints stay good.

    Static steps, whose losses are looked at when the epoch is over, are made again up to there.
    """
    monkeypatch.setattr(building, "may_be_static", lambda config, device: static)
    expected = run(config, max_steps=step - 1)() if step > 1 else None
    poison(step, value)
    stopped = run(config)(record="r.jsonl", checkpoint="c.pt")

    assert stopped.status == "diverged"
    assert len(stopped.losses) == step - 1
    if expected is None:
        assert_same(stopped.model.state_dict(), build_model(load_run(config)).state_dict())
        assert not stopped.optimizer.state
    else:
        assert_same(stopped.model.state_dict(), expected.model.state_dict())
        assert_same(stopped.optimizer.state_dict(), expected.optimizer.state_dict())
        assert_same(stopped.losses, expected.losses)
    result = Record.read("r.jsonl").result
    assert result is not None
    assert (result["status"], result["steps"], result["test_accuracy"]) == ("diverged", step - 1, None)
    epochs = (step - 1) // 4
    assert checkpoints.exists("c.pt") is (epochs > 0)
    if epochs:
        assert checkpoints.load("c.pt")["step"] == 4 * epochs


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_static_run_stops_before_the_update_that_blows_it_up(
    config: Path, monkeypatch: pytest.MonkeyPatch, device: str
):
    """A rate that grows without end blows a run up behind its first epoch; it ends with the last good weights."""
    monkeypatch.setattr(building, "may_be_static", lambda config, device: True)
    growing = CONFIG.replace("[train]", '[schedule]\nname = "exponential"\ngamma = 100\n[train]')
    config.write_text(growing.replace('"cpu"', f'"{device}"'), encoding="utf-8")
    stopped = run(config, epochs=12)()
    assert stopped.status == "diverged"
    steps = len(stopped.losses)
    assert steps > 4
    assert bool(stopped.losses.isfinite().all())
    expected = run(config, epochs=12, max_steps=steps, graph=False)()
    assert_same(stopped.losses, expected.losses)
    assert_same(stopped.model.state_dict(), expected.model.state_dict())


def test_penalty_that_is_not_finite(config: Path):
    """The penalty is part of the loss: where it overflows, no update is made."""
    stopped = run(config, l2=3e38)()
    assert (stopped.status, len(stopped.losses)) == ("diverged", 0)
    assert_same(stopped.model.state_dict(), build_model(load_run(config)).state_dict())


def test_train_tells_of_divergence(config: Path, told: Told):
    """On the command line a diverged run is an error: it names the record, the rate, and the last good checkpoint."""
    config.write_text(CONFIG.replace("lr = 0.001", "lr = 1e3").replace("epochs = 3", "epochs = 300"), encoding="utf-8")
    error = told("train", str(config), "--out", "here", "--optimizer.lr", "1e30")
    assert "here/record.jsonl: the run diverged after" in error
    assert "lower optimizer.lr = 1e+30" in error
    result = Record.read("here/record.jsonl").result
    assert result is not None
    assert result["status"] == "diverged"


def test_compare_goes_on(config: Path, capsys: pytest.CaptureFixture[str]):
    """A comparison records "diverged", runs all the others, and ends well."""
    other = '[[optimizers]]\nname = "sgd"\nlr = 1e30\nlabel = "wild"\n[[optimizers]]\n'
    config.write_text(CONFIG.replace("[optimizer]\n", other), encoding="utf-8")
    assert cli.main(["compare", str(config), "--out", "here"]) == 0
    statuses = {}
    for path in sorted(Path("here/cells").glob("*.jsonl")):
        result = Record.read(path).result
        assert result is not None
        statuses[path.name.partition("-")[0], path.stem.rpartition("-")[2]] = result["status"]
    assert statuses == {
        (label, library): status
        for label, status in (("wild", "diverged"), ("adam", "finished"))
        for library in ("optizoo", "torch")
    }
    assert "diverged" in capsys.readouterr().out


# Two processes --------------------------------------------------------------------------------------------------------


def train_in_a_group(rank: int, folder: Path) -> None:
    """Make five updates of a shared model; in the third the data of one process are NaN."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(8, 4))
    optimizer = optizoo.AdamW(model.parameters(), lr=0.01)
    for step in range(5):
        images = torch.full((4, 8), float("nan")) if (rank, step) == (1, 2) else torch.randn(4, 8) + rank
        loss = cross_entropy(model(images), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        # Gradients are means over all processes, so all see what is not finite in one of them. The loss is each one's
        # own: who stops for it alone leaves the others waiting.
        if not all(bool(param.grad.isfinite().all()) for param in model.parameters() if param.grad is not None):
            state = {"step": step, "loss": loss.item(), "model": model.module.state_dict()}
            torch.save({**state, "optimizer": optimizer.state_dict()}, folder / f"{rank}.pt")
            distributed.destroy_process_group()
            raise SystemExit(3)
        optimizer.step()


def test_processes_stop_together(tmp_path: Path):
    """With two processes under DDP and a NaN in one, both stop before the same update, alike; none hangs."""
    processes = [context().Process(target=train_in_a_group, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    hanging = [process for process in processes if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging
    assert [process.exitcode for process in processes] == [3, 3]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["step"] == second["step"] == 2
    assert torch.tensor(first["loss"]).isfinite()
    assert not torch.tensor(second["loss"]).isfinite()
    assert_same(first["model"], second["model"])
    assert_same(first["optimizer"], second["optimizer"])
    assert all(bool(tensor.isfinite().all()) for tensor in first["model"].values())
