"""What training minimises: the mean cross-entropy of a batch, and a penalty on the weights."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def penalty(model: nn.Module, *, l1: float = 0.0, l2: float = 0.0) -> Tensor:
    """Return ``l1 * sum |w| + l2 * sum w**2`` over the weights: parameters of two dimensions or more, so no biases.

    The gradient of the second term is ``2 * l2 * w``: ``l2`` is half of an optimizer's ``weight_decay``. With both
    strengths above 0 this is the elastic net (Zou & Hastie 2005, https://doi.org/10.1111/j.1467-9868.2005.00503.x).

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> _ = torch.nn.init.constant_(model.weight, -3.0)
    >>> penalty(model, l1=0.5, l2=0.25).item()  # 0.5 * (3 + 3) + 0.25 * (9 + 9)
    7.5
    """
    weights = [param for param in model.parameters() if param.dim() > 1]
    total = weights[0].new_zeros(())
    for weight in weights:
        if l1:
            total = total + l1 * weight.abs().sum()
        if l2:
            total = total + l2 * weight.square().sum()
    return total


def backward(
    model: nn.Module,
    params: Sequence[Tensor],
    images: Tensor,
    labels: Tensor,
    penalized: Callable[[], Tensor] | None = None,
    parts: tuple[int, int] | None = None,
) -> Tensor:
    """Make the gradients of a batch and return its loss, or NaN where that with the penalty is not finite.

    Args:
        model: What gives scores.
        params: What gets gradients, in place of those of before.
        images: The batch.
        labels: Its labels.
        penalized: Returns the penalty, if there is one.
        parts: Where processes share the batch, and average their gradients: the number of its images in all of them,
            and the number of processes. The loss is then what this process adds to that of the batch.
    """
    if parts is None:
        loss = objective = cross_entropy(model(images), labels)
    else:
        loss = cross_entropy(model(images), labels, reduction="sum") / parts[0]
        objective = loss * parts[1]
    if penalized is not None:
        objective = objective + penalized()
    for param in params:
        param.grad = None
    objective.backward()
    return loss.detach() if objective is loss else loss.detach() + 0 * objective.detach()
