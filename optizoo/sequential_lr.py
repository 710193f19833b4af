"""Schedulers that take turns."""

from bisect import bisect_right
from typing import Any
from warnings import catch_warnings, simplefilter

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from optizoo.rates import copied, held, initial_lr, multiple, number, numbers, put, stored
from optizoo.schedule_lr import ScheduleLR, checked_last_epoch, done_by_others, held_by_others, leaves

__all__ = ["SequentialLR"]


class SequentialLR(lr_scheduler.SequentialLR):
    """Follow several schedulers one after the other, each from its own step 0 at its milestone.

    Torch's class, its arguments and its checkpoints, with four things mended: ``last_epoch=N`` goes on behind step
    ``N`` (torch's starts the first scheduler again); a ``ChainedScheduler`` may stand in any place (torch's raises
    behind the first); what others have done to the rate stays done at a milestone, as in :class:`ScheduleLR`; and the
    optimizer may be loaded before or after it is built. The members may be of this module, of torch or of any other.

    Args:
        optimizer: The optimizer whose rates are set.
        schedulers: The schedulers, in the order of their turns.
        milestones: The steps at which the second and the later ones begin.
        last_epoch: The last step of an earlier run, to go on behind it. Members that have no closed form are stepped
            to their place.

    Raises:
        TypeError: A scheduler has no optimizer.
        ValueError: The numbers of schedulers and milestones do not fit, the schedulers have several optimizers, one is
            a ``ReduceLROnPlateau``, or ``last_epoch`` is below -1.

    >>> import torch
    >>> from optizoo.lr_scheduler import ExponentialLR, LinearLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> parts = [LinearLR(optimizer, 0.5, total_iters=2), ExponentialLR(optimizer, gamma=0.5)]
    >>> scheduler = SequentialLR(optimizer, parts, milestones=[2])
    >>> for _ in range(5):
    ...     print(round(scheduler.get_last_lr()[0], 4), end=" ")
    ...     optimizer.step()
    ...     scheduler.step()
    0.05 0.075 0.1 0.05 0.025
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int], last_epoch: int = -1
    ) -> None:
        last_epoch = checked_last_epoch(last_epoch)
        with catch_warnings():
            simplefilter("ignore")  # torch's steps a ChainedScheduler here, before any step of the optimizer
            super().__init__(optimizer, schedulers, milestones)
        self._start(bisect_right(milestones, 0), [1.0] * len(optimizer.param_groups))
        if last_epoch >= 0:
            self._go_to(last_epoch + 1)
        self._leave([1.0] * len(optimizer.param_groups))

    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step the scheduler whose turn it is, or begin with the next one."""
        factors, zeros = self._present_factors(), self._zeros()
        self.last_epoch += 1
        index = bisect_right(self._milestones, self.last_epoch)
        if index > 0 and self._milestones[index - 1] == self.last_epoch:
            self._start(index, factors)
            for group in zeros:
                put(group, 0.0)
        else:
            self._schedulers[index].step()
        self._leave(factors)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with those of the members."""
        rates = [number(group["lr"]) for group in self.optimizer.param_groups]
        return {**super().state_dict(), "_factors": self._present_factors(), "_left": rates, "_last_lr": rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state and set the rates as they were saved; the optimizer's may be loaded before or after this."""
        groups = self.optimizer.param_groups
        self._factors = [1.0] * len(groups)
        super().load_state_dict(state_dict)
        rates = numbers("_last_lr", state_dict.get("_last_lr"))
        if len(rates) == len(groups):
            for group, rate in zip(groups, rates, strict=True):
                put(group, rate)
        self._leave([float(factor) for factor in self._factors])

    def _present_factors(self) -> list[float]:
        """Return for each param group what others have done since the first step: to what the last step left."""
        groups = self.optimizer.param_groups
        if self._turn_is_ours():
            return [done_by_others(self._turn(), index) for index in range(len(groups))]
        factors = []
        for index, group in enumerate(groups):
            found = number(group["lr"])
            factor, left = (self._factors[index], self._left[index]) if index < len(self._left) else (1.0, found)
            factors.append(factor * (1.0 if found == stored(left, group["lr"]) else multiple(found, left)))
        return factors

    def _turn(self) -> list[Any]:
        """Return the schedulers whose turn it is."""
        return leaves(self._schedulers[bisect_right(self._milestones, self.last_epoch)])

    def _turn_is_ours(self) -> bool:
        return all(isinstance(member, ScheduleLR) for member in self._turn())

    def _zeros(self) -> list[dict[str, Any]]:
        """Return the param groups that others hold at a rate of 0."""
        groups = self.optimizer.param_groups
        if self._turn_is_ours():
            return [group for index, group in enumerate(groups) if held_by_others(self._turn(), index)]
        return [group for group, left in zip(groups, self._left, strict=False) if held(number(group["lr"]), left)]

    def _leave(self, factors: list[float]) -> None:
        groups = self.optimizer.param_groups
        self._factors, self._left = factors, [number(group["lr"]) for group in groups]
        self._last_lr = [copied(group["lr"]) for group in groups]

    def _start(self, index: int, factors: list[float]) -> None:
        """Begin with a member, at the base rates as others have changed them."""
        for group, factor in zip(self.optimizer.param_groups, factors, strict=True):
            base_lr = initial_lr(group)
            put(group, base_lr if factor == 1 else base_lr * factor)
        _start(self._schedulers[index])

    def _go_to(self, step: int) -> None:
        index = bisect_right(self._milestones, step)
        if index != bisect_right(self._milestones, 0):
            self._start(index, [1.0] * len(self.optimizer.param_groups))
        self.last_epoch = step
        _advance(self._schedulers[index], step - (self._milestones[index - 1] if index else 0))
        self._leave([1.0] * len(self.optimizer.param_groups))


def _start(scheduler: Any) -> None:
    """Put a scheduler, or all that it holds, to its step 0, over the rates that stand in the groups."""
    if isinstance(scheduler, lr_scheduler.SequentialLR):
        scheduler.last_epoch = 0
        _start(scheduler._schedulers[bisect_right(scheduler._milestones, 0)])
        if isinstance(scheduler, SequentialLR):
            scheduler._leave([1.0] * len(scheduler.optimizer.param_groups))
    elif hasattr(scheduler, "_schedulers"):
        for each in scheduler._schedulers:
            _start(each)
    else:
        scheduler.last_epoch = -1
        if isinstance(scheduler, ScheduleLR):
            scheduler._update_lr()
        else:
            scheduler._initial_step()


def _advance(scheduler: Any, steps: int) -> None:
    """Make the steps that a scheduler, or each that it holds, has behind it."""
    if isinstance(scheduler, lr_scheduler.ChainedScheduler):
        for each in scheduler._schedulers:
            _advance(each, steps)
    elif isinstance(scheduler, SequentialLR):
        scheduler._go_to(steps)
    elif isinstance(scheduler, ScheduleLR):
        scheduler._update_lr(steps)
    else:
        with catch_warnings():
            simplefilter("ignore")  # the optimizer's steps were made in the earlier run
            for _ in range(steps):
                scheduler.step()
