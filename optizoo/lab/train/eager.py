"""Steps as Python makes them: one kernel at a time, and every loss is looked at before its update."""

import math
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from optizoo.lab.checkpoint import Interruption

if TYPE_CHECKING:
    from optizoo.lab.train.run import Run


def make(run: "Run", interruption: Interruption, bar: tqdm) -> None:
    """Make the updates that are left of this epoch; none from a loss that is not finite."""
    progress = run.progress
    losses: list[Tensor] = []
    for images, labels in islice(run.epoch_batches(), progress.epoch_end - progress.step):
        if interruption.requested or not progress.is_finite:
            break
        loss = run.backward(images, labels)
        progress.is_finite = math.isfinite(loss)
        if not progress.is_finite:
            break
        try:
            run.optimizer.step()
        except (RuntimeError, OverflowError) as error:
            if "overflow" not in str(error):  # else a rate that the parameters' type cannot hold
                raise
            progress.is_finite = False
            break
        losses.append(loss)
        run.set_rates(progress.step + len(losses))
        bar.update()
    if losses:
        progress.losses[progress.step : progress.step + len(losses)] = torch.stack(losses)
    progress.step += len(losses)
