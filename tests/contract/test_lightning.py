"""Lightning: ``Trainer.fit`` with ``configure_optimizers``, whose loop always steps with a closure."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import optizoo
from tests.contract.libraries import EXECUTIONS, STEPS, TRAINED, assert_equal, batch, build_model, full, loss_of, make

lightning = pytest.importorskip("pytorch_lightning", reason="needs Lightning; pip install -e '.[integrations]'")

WORKS_WITH = "Lightning"
HELD_TO = "bitwise; default backend 1e-6"

# What Lightning asks of torch, and what it advises for a loader of 24 batches.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
]


class Module(lightning.LightningModule):
    """A model with its optimizer and a schedule that moves at every step."""

    def __init__(
        self, library: str, case: str, execution: dict[str, Any], *, seed: int = 0, skips: tuple[int, ...] = ()
    ):
        super().__init__()
        self.model = build_model(seed)
        self.asked = library, case, execution
        self.skips = skips

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor | None:
        inputs, targets = batch
        return None if batch_idx in self.skips else (self.model(inputs) - targets).square().mean()

    def configure_optimizers(self) -> dict[str, Any]:
        library, case, execution = self.asked
        name, options = TRAINED[case]
        optimizer = make(library, name, self.parameters(), **options, **execution)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fit(
    module: Module,
    folder: Path,
    *,
    steps: int = STEPS,
    batches: int = 2 * STEPS,
    resume: Path | None = None,
    **settings: Any,
) -> Any:
    """Train for some updates, with epochs of so many batches; return the trainer."""
    inputs, targets = (torch.cat(column) for column in zip(*map(batch, range(batches)), strict=True))
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": False, **settings},
    )
    trainer.fit(module, DataLoader(TensorDataset(inputs, targets), batch_size=8), ckpt_path=resume)
    assert trainer.global_step == steps
    return trainer


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("case", TRAINED)
def test_trains_as_with_torch(case: str, execution: dict[str, Any], tmp_path: Path):
    """Accumulated and clipped, with a schedule: the parameters are those of torch's optimizer."""
    ends = []
    for library in ("optizoo", "torch"):
        module = Module(library, case, execution)
        fit(module, tmp_path, accumulate_grad_batches=2, gradient_clip_val=0.5)
        ends.append(full(module.parameters()))
    assert_equal(*ends, exact=bool(execution))
    start = full(build_model().parameters())
    assert not any(torch.equal(tensor, first) for tensor, first in zip(ends[0], start, strict=True))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
def test_a_step_without_loss(tmp_path: Path):
    """A training step that returns None makes the closure return None; the step then does what torch's does."""
    ends = []
    for library in ("optizoo", "torch"):
        module = Module(library, "adam", {"foreach": False}, skips=(0, 4, 5))
        trainer = fit(module, tmp_path)
        counts = [state["step"] for state in trainer.optimizers[0].state.values()]
        assert {int(count) for count in counts} == {STEPS - 3}
        ends.append(full(module.parameters()))
    assert_equal(*ends)


class ByStep(Module):
    """The same on batches that follow the number of the update.

    Lightning 2.6 repeats a batch when it resumes from the checkpoint of an epoch, whosever the optimizer is.
    """

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor | None:
        return loss_of(self.model, self.trainer.global_step)


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")  # the second training has its own folder
@pytest.mark.parametrize("case", TRAINED)
@pytest.mark.parametrize(("first", "second"), [("optizoo", "optizoo"), ("optizoo", "torch"), ("torch", "optizoo")])
def test_checkpoint_resumes(case: str, first: str, second: str, tmp_path: Path):
    """The checkpoint after an epoch, loaded into other weights, is resumed from to the bit, with either library."""
    straight = ByStep(first, case, {"foreach": False})
    resumed = ByStep(second, case, {"foreach": False}, seed=1)
    for name, module, kept in (("first", straight, None), ("second", resumed, tmp_path / "first" / "epoch=0.ckpt")):
        keeper = lightning.callbacks.ModelCheckpoint(tmp_path / name, filename="{epoch}", save_top_k=-1)
        fit(module, tmp_path, batches=STEPS // 2, resume=kept, enable_checkpointing=True, callbacks=[keeper])
    assert_equal(full(resumed.parameters()), full(straight.parameters()))


class Scheduled(Module):
    """The same with a schedule of optizoo, or the one of torch that takes any function."""

    def configure_optimizers(self) -> dict[str, Any]:
        made = super().configure_optimizers()
        schedule = optizoo.schedules.Warmup(4, then=optizoo.schedules.Cosine(STEPS))
        kind = optizoo.ScheduleLR if self.asked[0] == "optizoo" else torch.optim.lr_scheduler.LambdaLR
        made["lr_scheduler"]["scheduler"] = kind(made["optimizer"], schedule)
        return made


def test_schedule(tmp_path: Path):
    """Lightning drives ``ScheduleLR`` as its own, step by step, from a rate of 0."""
    ends = []
    for library in ("optizoo", "torch"):
        module = Scheduled(library, "adam", {"foreach": False})
        fit(module, tmp_path)
        ends.append(full(module.parameters()))
    assert_equal(*ends)


class Manual(Module):
    """The same, stepping by hand."""

    automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward((self.model(inputs) - targets).square().mean())
        optimizer.step()
        self.lr_schedulers().step()


def test_manual_steps(tmp_path: Path):
    """A module that steps its optimizer itself gets the same numbers as one whose trainer does."""
    manual, automatic = Manual("optizoo", "adamw", {}), Module("optizoo", "adamw", {})
    for module in (manual, automatic):
        fit(module, tmp_path)
    assert_equal(full(manual.parameters()), full(automatic.parameters()))
