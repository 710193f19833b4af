"""Steps as Python makes them: one kernel at a time, and every loss is looked at before its update."""

from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from optizoo.lab.checkpoint import Interruption

if TYPE_CHECKING:
    from optizoo.lab.train.population import Population
    from optizoo.lab.train.run import Run


def make(run: "Run | Population", interruption: Interruption, bar: tqdm) -> None:
    """Make the updates that are left of this epoch, as long as losses are finite."""
    progress = run.progress
    losses: list[Tensor] = []
    for images, labels in islice(run.feed.epoch(progress.epoch, progress.made), progress.epoch_end - progress.step):
        if interruption.requested:
            break
        loss = run.checked_update(images, labels)
        if loss is None:
            break
        losses.append(loss)
        bar.update()
    if losses:
        progress.losses[progress.step - len(losses) : progress.step] = torch.stack(losses)


def stepped(optimizer: Optimizer) -> bool:
    """Make an update, or return that it has none: where the rate is beyond what the parameters' type can hold."""
    try:
        optimizer.step()
    except (RuntimeError, OverflowError) as error:
        if "overflow" not in str(error):
            raise
        return False
    return True
