"""The planned step where all gradients are sparse: what C reads for a :class:`~optizoo.backends.plan.Plan`, in Python.

A sparse tensor has no address that C could read, and few parameters have such gradients.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optizoo.backends.in_place import Launch
from optizoo.backends.plan import Found, Task


class SparsePlan:
    """The launches of a step, and what they stand on; a parameter without a gradient is left alone, as ever.

    Args:
        groups: ``optimizer.param_groups``.
        options: The names of all options that the optimizer knows.
        tasks: What to launch, with a column of tensors for every input; every parameter with a gradient is in one.

    Raises:
        ValueError: Something cannot be repeated: a parameter stands twice, or a rule counts steps or asks for more than
            the words of sparse tensors.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        options: frozenset[str],
        tasks: Iterable[tuple[Task, Sequence[Sequence[Tensor]]]],
    ):
        self._groups = [(group, [*group["params"]]) for group in groups]
        params = [param for _, params in self._groups for param in params]
        self._tasks = []
        for task, columns in tasks:
            if task.counts or len(task.names) > len(task.values):
                raise ValueError("steps are counted, or the rule asks for more than options")
            found, launch = Found(task.group, options), Launch(task.wiring.program, columns)
            found.keep(task.values)
            launch.put(task.wiring.scalars(*task.values))
            if not found.still() or task.choice is None:
                raise ValueError("options may change unseen, or what they decide")
            self._tasks.append((task, _chooses(task.choice[1], len(task.choice[0])), found, launch))
        if len(set(map(id, params))) != len(params) or any(type(group) is not dict for group in groups):
            raise ValueError("a parameter stands twice, or a group is no plain dict")
        launched = {id(param) for *_, launch in self._tasks for param in launch.params}
        self._idle = [param for param in params if id(param) not in launched]

    def run(self, groups: Sequence[dict[str, Any]], state: Mapping[Tensor, Any], _: Any = None) -> bool:
        """Make the step and return ``True``; or ``False`` with nothing touched, if the plan does not hold any more.

        Arguments are those of :meth:`optizoo.backends.plan.Plan.run`; it asks nobody for options.
        """
        if torch.compiler.is_compiling() or len(groups) != len(self._groups):
            return False
        for group, (known, params) in zip(groups, self._groups, strict=True):
            if group is not known or len(group["params"]) != len(params):
                return False
            if not all(map(operator.is_, group["params"], params)):
                return False
        if any(param.grad is not None for param in self._idle):
            return False
        work = []
        for task, chooses, found, launch in self._tasks:
            if not found.still():
                # A decay is more than a number here: most are refused beside sparse gradients.
                if task.choice is None or not found.moved({*task.names} - {"weight_decay"}):
                    return False
                values = [task.group.get(name, value) for name, value in zip(task.names, task.values, strict=True)]
                if not chooses(*[task.group[name] for name in task.choice[0]]) or not task.wiring.holds(*values):
                    return False
                launch.put(task.wiring.scalars(*values))
                found.keep(values)
            inputs = launch.gather(state)
            if inputs is None:
                return False
            work.append(inputs)
        with torch.no_grad():
            for (*_, launch), inputs in zip(self._tasks, work, strict=True):
                launch.run(inputs)
        return True


def _chooses(conditions: Sequence[str], count: int) -> Callable[..., bool]:
    """Return what takes options and tells whether they decide on the same rule: whether the conditions hold."""
    return eval(f"lambda {', '.join(f'option{index}' for index in range(count))}: {' and '.join(conditions) or True}")
