"""Hugging Face Accelerate: ``prepare``, accumulation, clipping, a schedule, and ``save_state`` in the middle."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import optizoo
from tests.contract.libraries import EXECUTIONS, STEPS, TRAINED, assert_equal, batch, build_model, full, make

accelerate = pytest.importorskip("accelerate", reason="needs accelerate; pip install -e '.[integrations]'")

WORKS_WITH = "Accelerate"
HELD_TO = "bitwise; default backend 1e-6"


@pytest.fixture(autouse=True)
def one_accelerator_each() -> Iterator[None]:
    """Forget the settings that all accelerators of a process share."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


class Training:
    """A training as Accelerate's guide writes it: an update every two batches, clipped, with a rate that falls."""

    def __init__(self, library: str, case: str, execution: dict[str, Any], *, seed: int = 0, **settings: Any):
        name, options = TRAINED[case]
        inputs, targets = (torch.cat(column) for column in zip(*map(batch, range(2 * STEPS)), strict=True))
        model = build_model(seed)
        optimizer = make(library, name, model.parameters(), **options, **execution)
        self.plain = optimizer
        self.accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2, **settings)
        self.model, self.optimizer, self.loader, self.scheduler = self.accelerator.prepare(
            model,
            optimizer,
            DataLoader(TensorDataset(inputs, targets), batch_size=8),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
        )

    def run(self, updates: range) -> list[Tensor]:
        """Make these updates of the epoch; return the parameters."""
        for index, (inputs, targets) in enumerate(self.loader):
            if index // 2 not in updates:
                continue
            with self.accelerator.accumulate(self.model):
                loss = (self.model(inputs) - targets).square().mean()
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), 0.5)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
        return full(self.model.parameters())


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("case", TRAINED)
def test_trains_as_with_torch(case: str, execution: dict[str, Any]):
    """Two batches an update, clipped, with a schedule: the parameters are those of torch's optimizer."""
    start = full(build_model().parameters())
    ours, theirs = (Training(library, case, execution).run(range(STEPS)) for library in ("optizoo", "torch"))
    assert_equal(ours, theirs, exact=bool(execution))
    assert not any(torch.equal(tensor, first) for tensor, first in zip(ours, start, strict=True))


def test_trains_in_bfloat16():
    """With autocast to bfloat16 as well."""
    ours, theirs = (
        Training(library, "adamw", {"foreach": False}, mixed_precision="bf16").run(range(STEPS))
        for library in ("optizoo", "torch")
    )
    assert_equal(ours, theirs)


@pytest.mark.parametrize("name", optizoo.list_optimizers())
def test_optimizer_is_left_as_it_is(name: str):
    """Wrapping loads the state dict of a fresh optimizer into it, which changes nothing, and adds no state."""
    model = build_model()
    optimizer = optizoo.create(name, model, lr=0.01)
    before, said = deepcopy(optimizer.state_dict()), optizoo.explain(optimizer)
    wrapped = accelerate.Accelerator(cpu=True).prepare(optimizer)
    assert wrapped.optimizer is optimizer
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["state"].keys() == before["state"].keys()  # Adagrad's is there from the start, as torch's
    torch.testing.assert_close(after["state"], before["state"], rtol=0, atol=0)
    assert optizoo.explain(optimizer) == said
    groups = optimizer.param_groups
    held = [param for group in groups for param in group["params"]]
    assert {*map(id, held)} == {*map(id, model.parameters())}


def test_a_skipped_step_is_told():
    """A step that a scaler skips touches nothing and is known to Accelerate, which then holds the schedule."""
    training = Training("optizoo", "adam", {})
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    wrapped = accelerate.optimizer.AcceleratedOptimizer(training.plain, scaler=scaler)
    schedule = accelerate.scheduler.AcceleratedScheduler(training.scheduler.scheduler, wrapped)
    scaler.scale(training.model(torch.ones(1, 3)).sum() * torch.inf).backward()
    before = full(training.model.parameters())
    wrapped.step()
    schedule.step()
    assert wrapped.step_was_skipped
    assert_equal(full(training.model.parameters()), before)
    assert not training.plain.state
    assert schedule.get_last_lr() == [TRAINED["adam"][1]["lr"]]


@pytest.mark.parametrize("steps", [0, 5])
@pytest.mark.parametrize("case", TRAINED)
def test_saved_state_resumes(case: str, steps: int, tmp_path: Path):
    """``save_state`` and ``load_state`` into other weights, before the first step too, go on to the bit."""
    first = Training("optizoo", case, {})
    first.run(range(steps))
    first.accelerator.save_state(str(tmp_path))
    expected = first.run(range(steps, STEPS))
    second = Training("optizoo", case, {}, seed=1)
    second.accelerator.load_state(str(tmp_path))
    assert_equal(second.run(range(steps, STEPS)), expected)
    assert second.scheduler.get_last_lr() == first.scheduler.get_last_lr()


@pytest.mark.parametrize("case", TRAINED)
@pytest.mark.parametrize(("first", "second"), [("optizoo", "torch"), ("torch", "optizoo")])
def test_saved_state_changes_hands(case: str, first: str, second: str, tmp_path: Path):
    """What ``save_state`` wrote with one library ``load_state`` reads with the other, without the loss of a bit."""
    stayed = Training(first, case, {"foreach": False})
    stayed.run(range(5))
    stayed.accelerator.save_state(str(tmp_path))
    moved = Training(second, case, {"foreach": False}, seed=1)
    moved.accelerator.load_state(str(tmp_path))
    assert_equal(moved.run(range(5, STEPS)), stayed.run(range(5, STEPS)))
