"""The learning-rate range test: one short run in which the rate grows until the loss diverges."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, chain
from operator import sub
from statistics import fmean, median, stdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optizoo.testing.copying import copied

__all__ = ["RangeTest", "find_lr"]

FEW = 5  # steps from which nothing is read
AT_ONCE = 10  # a run that diverges within so many steps has shown nothing
STRAIGHT = 0.01  # of the fall: losses so near a line through the rates taken have shown no curvature, so no limit
ROUNDING = 100  # units in the last place that say nothing


@dataclass(frozen=True)
class RangeTest:
    """What :func:`find_lr` saw, and what it suggests.

    Attributes:
        lrs: The learning rate of each step.
        losses: The loss before each step.
        smoothed: Their exponential mean.
        diverged: Whether the sweep was stopped because the loss diverged, or was not finite.
        steepest: The rate at which the smoothed loss fell fastest, by decade; ``None`` where nothing can be read.
        tenth: A tenth of the rate at which the smoothed loss was lowest; ``None`` likewise.
        remark: Why there is no suggestion, or what to know about it; empty where all is as it should be.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    diverged: bool
    steepest: float | None
    tenth: float | None
    remark: str

    @property
    def suggestion(self) -> float | None:
        """The smaller of :attr:`steepest` and :attr:`tenth`: the rate to begin with."""
        return None if self.steepest is None or self.tenth is None else min(self.steepest, self.tenth)

    def __str__(self) -> str:
        """Return the suggestion in a sentence, or why there is none."""
        if self.suggestion is None:
            return f"no suggestion: {self.remark}"
        note = f"; {self.remark}" if self.remark else ""
        return f"lr = {self.suggestion:.2g} (steepest {self.steepest:.2g}, tenth of the minimum {self.tenth:.2g}){note}"


def find_lr(
    model: nn.Module,
    optimizer: Optimizer,
    loss: nn.Module | Callable[[Any, Any], Tensor],
    batches: Iterable[Any],
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.8,
    divergence: float = 4.0,
) -> RangeTest:
    r"""Sweep the learning rate from ``low`` to ``high`` in one run, and suggest one (Smith 2017).

    .. math:: \alpha_t = \mathrm{low} \cdot (\mathrm{high}/\mathrm{low})^{t/(T-1)}, \qquad
              s_t = \frac{(1-\beta) \sum_{i \le t} \beta^{t-i} f_i}{1 - \beta^{t+1}}

    Source: https://arxiv.org/abs/1506.01186, section 3.3; the exponential sweep and both suggestions are those of the
    libraries that made it known.

    The run is made on copies: model, optimizer (its state and rates included), a loss that is a module, and the states
    of torch's random generators are left as they were found. An iterator is advanced, of course; a ``DataLoader``
    begins anew. What has no copy, such as a lock or a file that the optimizer holds, is shared.

    There is no suggestion if the loss is not finite at the start, if it diverges at once, if its smoothed fall is not
    above the scatter of the losses, or if it falls so little that it shows no curvature. A constant added to the loss
    changes nothing, and neither does a factor that the optimizer undoes.

    Args:
        model: The model, where training would start.
        optimizer: Its optimizer. Its groups keep the ratios of their rates; the sweep is that of the largest.
        loss: A module such as ``nn.CrossEntropyLoss()``, called as ``loss(model(batch[0]), *batch[1:])``, or a function
            ``loss(model, batch)``.
        batches: Yields batches on the model's device; begun again when it ends before the sweep does.
        low: The rate of the first step.
        high: The rate of the last step, if the loss does not diverge before.
        steps: Number of steps.
        smoothing: Decay β of the exponential mean, 0 for none. A large one sees the minimum late.
        divergence: The sweep stops where the smoothed loss is above its lowest by more than ``divergence - 1`` times
            what it had fallen, and what losses commonly differ by, or where the loss is not finite.

    Raises:
        ValueError: An argument is out of range, a parameter of the optimizer is not one of the model, or ``batches``
            yields too few.

    Example:
        >>> import torch, optizoo
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> sgd = optizoo.SGD(model.parameters(), lr=0.1)
        >>> loss = lambda model, batch: 2 * model.weight.square().sum()  # its gradient is 4 w: L = 4
        >>> found = find_lr(model, sgd, loss, [None], low=1e-3, smoothing=0.0)
        >>> found.tenth  # the loss falls up to 2 / L = 0.5
        0.0...
        >>> model.weight.item(), sgd.param_groups[0]["lr"]
        (1.0, 0.1)
    """
    if not 0 < low < high < math.inf:
        raise ValueError(f"low must be above 0 and below high, got low = {low!r} and high = {high!r}")
    if steps < 2 * AT_ONCE:
        raise ValueError(f"steps must be at least {2 * AT_ONCE}, got {steps!r}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing!r}")
    if not divergence > 1:
        raise ValueError(f"divergence must be above 1, got {divergence!r}")
    known = set(model.parameters())
    if any(param not in known for group in optimizer.param_groups for param in group["params"]):
        raise ValueError("optimizer has parameters that are not the model's; build it from model.parameters()")
    devices = sorted({param.device.index for param in known if param.is_cuda})
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        # One copy, so that the optimizer's parameters are the model's, and the loss's what it shares with them.
        model, optimizer, criterion = copied((model, optimizer, loss if isinstance(loss, nn.Module) else None))
        sweep = [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]
        return _read(
            *_swept(model, optimizer, loss if criterion is None else criterion, batches, sweep, smoothing, divergence)
        )


def _swept(
    model: nn.Module,
    optimizer: Optimizer,
    loss: nn.Module | Callable[[Any, Any], Tensor],
    batches: Iterable[Any],
    sweep: list[float],
    smoothing: float,
    divergence: float,
) -> tuple[list[float], list[float], list[float], bool, float]:
    """Return rates, losses, smoothed losses, whether the loss diverged (the last is why), and what is but rounding."""
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    ratios = [rate / max(rates) if max(rates) > 0 else 1.0 for rate in rates]
    losses, smoothed, mean, rounding = [], [], 0.0, 0.0
    for step, (lr, batch) in enumerate(zip(sweep, _endless(batches), strict=False)):
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * ratio)
            else:
                group["lr"] = lr * ratio
        optimizer.zero_grad()
        value = loss(model(batch[0]), *batch[1:]) if isinstance(loss, nn.Module) else loss(model, batch)
        losses.append(value.item())
        mean = smoothing * mean + (1 - smoothing) * losses[-1]
        smoothed.append(mean / (1 - smoothing ** (step + 1)))
        if not math.isfinite(losses[-1]):
            return sweep[: step + 1], losses, smoothed, True, rounding
        rounding = max(rounding, ROUNDING * torch.finfo(value.dtype).eps * abs(losses[-1]))
        if _rise(losses, smoothed, rounding) > divergence - 1:
            return sweep[: step + 1], losses, smoothed, True, rounding
        value.backward()
        optimizer.step()
    if len(losses) < len(sweep):
        raise ValueError(
            f"batches yielded {len(losses)} of the {len(sweep)} that the sweep needs; give more, or a list"
        )
    return sweep, losses, smoothed, False, rounding


def _rise(losses: list[float], smoothed: list[float], rounding: float) -> float:
    """Return how far the smoothed loss is above its lowest, in units of the curve's own: no constant moves it."""
    lowest = min(smoothed)
    common = 3 * median(map(abs, map(sub, losses[1:], losses))) if len(losses) > 1 else 0.0
    unit = max(smoothed[0] - lowest, common, rounding)
    return (smoothed[-1] - lowest) / unit if unit else 0.0


def _is_straight(lrs: list[float], losses: list[float], rounding: float) -> bool:
    """Return whether the loss fell in proportion to the rates taken: then they are far below all limits."""
    taken = [*accumulate(lrs[: len(losses) - 1], initial=0.0)]
    fall = losses[0] - losses[-1]
    return all(
        abs(losses[0] - loss - fall * rate / taken[-1]) <= STRAIGHT * fall + rounding
        for rate, loss in zip(taken, losses, strict=True)
    )


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        started = iter(batches)
        first = next(started, started)
        if first is started:  # empty, or an iterator that has ended
            return
        yield from chain([first], started)


def _read(lrs: list[float], losses: list[float], smoothed: list[float], diverged: bool, rounding: float) -> RangeTest:
    def result(steepest: float | None, tenth: float | None, remark: str = "") -> RangeTest:
        return RangeTest(tuple(lrs), tuple(losses), tuple(smoothed), diverged, steepest, tenth, remark)

    if not math.isfinite(losses[0]):
        return result(None, None, f"the loss is not finite at the start: {losses[0]}; check model, loss and batches")
    if diverged and len(losses) <= AT_ONCE:
        return result(
            None, None, f"the loss diverged at once, within {len(losses)} steps from lr = {lrs[0]:.2g}; begin lower"
        )
    finite = [index for index, value in enumerate(smoothed) if math.isfinite(value)]
    lowest = min(finite, key=lambda index: smoothed[index])
    # The first quarter has the smallest rates: what scatters there is the batches.
    quarter = [loss for loss in losses[: max(FEW, len(finite) // 4)] if math.isfinite(loss)]
    start, scatter = fmean(quarter), stdev(quarter)
    fall = start - smoothed[lowest]
    if lowest < FEW or not fall > max(scatter, rounding) or _is_straight(lrs, losses[: lowest + 1], rounding):
        remedy = "begin lower" if diverged else f"raise high above {lrs[-1]:.2g}"
        return result(
            None, None, f"the curve is flat: the loss fell by {fall:.2g}, its scatter is {scatter:.2g}; {remedy}"
        )
    # Slopes by decade over two steps, from where the mean holds a few losses.
    inner = range(min(FEW, lowest - 1), lowest)
    steepest = min(inner, key=lambda index: smoothed[index + 1] - smoothed[index - 1])
    remark = "" if diverged else f"the loss did not diverge up to lr = {lrs[-1]:.2g}; a larger high may suggest more"
    return result(lrs[steepest], lrs[lowest] / 10, remark)
