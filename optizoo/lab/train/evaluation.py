"""Evaluation: loss and accuracy of a model over a split."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from optizoo.lab.data import Batches

BATCH = 1000
"""Images that are evaluated at once."""


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches) -> tuple[float, float] | tuple[None, None]:
    """Return mean cross-entropy and accuracy (a fraction) over a split; ``None`` for both if it is empty.

    Dropout is off meanwhile; the model's mode is restored.
    """
    count = len(batches.split)
    if not count:
        return None, None
    was_training = model.training
    model.eval()
    total, correct = 0.0, 0
    for images, labels in batches.sequential():
        logits = model(images)
        total = total + cross_entropy(logits, labels, reduction="sum").double()
        correct = correct + (logits.argmax(1) == labels).sum()
    model.train(was_training)
    return float(total) / count, int(correct) / count
