"""The Hugging Face ``Trainer``, given an optimizer and its schedule, or the class of one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optizoo
from optizoo.testing import torch_twin
from tests.contract.libraries import EXECUTIONS, STEPS, TRAINED, assert_equal, batch, build_model, full, make

pytest.importorskip(
    "accelerate", reason="needs accelerate, which its Trainer stands on; pip install -e '.[integrations]'"
)
transformers = pytest.importorskip("transformers", reason="needs transformers; pip install -e '.[integrations]'")

WORKS_WITH = "Hugging Face Trainer"
HELD_TO = "bitwise; default backend 1e-6"


class Model(nn.Module):
    """A model in the form that the trainer takes: it returns its loss."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.layers = build_model(seed)

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        outputs = self.layers(inputs)
        return {"loss": (outputs - labels).square().mean(), "logits": outputs}


def make_trainer(model: Model, folder: Path, optimizer: torch.optim.Optimizer | None, **options: Any) -> Any:
    """Return a trainer for 12 updates of two batches each, clipped, that saves after the sixth."""
    inputs, targets = (torch.cat(column) for column in zip(*map(batch, range(2 * STEPS)), strict=True))
    scheduler = optimizer and torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(folder),
            max_steps=STEPS,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            max_grad_norm=0.5,
            save_steps=STEPS // 2,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            logging_strategy="no",
        ),
        train_dataset=[{"inputs": x, "labels": y} for x, y in zip(inputs, targets, strict=True)],
        **({"optimizers": (optimizer, scheduler)} if optimizer else {}),
        **options,
    )


def train(library: str, case: str, execution: dict[str, Any], folder: Path, *, seed: int = 0, **options: Any) -> Any:
    """Train; return the parameters."""
    model = Model(seed)
    name, wanted = TRAINED[case]
    optimizer = make(library, name, model.parameters(), **wanted, **execution)
    trainer = make_trainer(model, folder, optimizer)
    trainer.train(**options)
    assert trainer.state.global_step == STEPS
    assert trainer.optimizer.optimizer is optimizer
    return full(model.parameters())


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("case", TRAINED)
def test_trains_as_with_torch(case: str, execution: dict[str, Any], tmp_path: Path):
    """``optimizers=(optimizer, scheduler)``: the parameters are those of torch's optimizer."""
    ours, theirs = (train(library, case, execution, tmp_path / library) for library in ("optizoo", "torch"))
    assert_equal(ours, theirs, exact=bool(execution))
    start = full(build_model().parameters())
    assert not any(torch.equal(tensor, first) for tensor, first in zip(ours, start, strict=True))


@pytest.mark.parametrize("case", TRAINED)
def test_checkpoint_resumes(case: str, tmp_path: Path):
    """``resume_from_checkpoint`` after half of the steps, in other weights, goes on to the bit."""
    expected = train("optizoo", case, {}, tmp_path)
    kept = str(tmp_path / f"checkpoint-{STEPS // 2}")
    assert_equal(train("optizoo", case, {}, tmp_path, seed=1, resume_from_checkpoint=kept), expected)


def test_class_and_options(tmp_path: Path):
    """``optimizer_cls_and_kwargs``: the trainer sorts the decay into groups and makes the optimizer itself."""
    options = {"lr": 0.01, "weight_decay": 0.1, "foreach": False}
    ends = []
    for kind in (optizoo.AdamW, type(torch_twin("adamw", build_model()))):
        model = Model()
        trainer = make_trainer(model, tmp_path, None, optimizer_cls_and_kwargs=(kind, options))
        trainer.train()
        assert type(trainer.optimizer.optimizer) is kind
        assert len(trainer.optimizer.param_groups) == 2
        ends.append(full(model.parameters()))
    assert_equal(*ends)
