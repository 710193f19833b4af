"""When a step is planned, and what its plan stands on."""

import ctypes
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from optizoo.backends.formulas import Number
from optizoo.backends.plan import Plan, Task
from optizoo.backends.sparse import SparsePlan
from optizoo.backends.trace import watched, wire
from optizoo.core.bucket import Bucket
from optizoo.core.checks import plain
from optizoo.core.rule import Rule, schema

_ENOUGH = 16
"""Steps after which a plan has paid for itself."""

_LONGEST_REST = 1024
"""Steps that are not watched, at most, after plans that did not hold."""


class Planned(Protocol):
    """What a planner asks of an optimizer."""

    param_groups: list[dict[str, Any]]
    state: Any

    @property
    def option_names(self) -> frozenset[str]:
        """The names of all options."""
        ...

    def chosen(self, group: Any) -> tuple[Rule, Any]:
        """Return the rule of a param group and its states, which hang on the options of the group alone."""
        ...

    def arguments(self, group: dict[str, Any], rule: Rule, backend: str) -> dict[str, Any]:
        """Return what the rule takes, ``maximize`` included, without ``step``."""
        ...


class Planner:
    """The plan of an optimizer: made of a step that comes the second time, dropped when it does not hold any more.

    Making a plan costs as much as many steps. Where plans do not last, the planner rests, longer each time.
    """

    def __init__(self) -> None:
        self.plan: Plan | SparsePlan | None = None
        self.guarded = False  # whether the planned step looks at all gradients first
        self._last: Any = None  # what the last step did, to know one that comes again
        self._refused: Any = None  # what cannot be planned
        self._served = 0
        self._rest = 0
        self._resting = 0

    def run(self, optimizer: Planned) -> bool:
        """Make the step by the plan and return ``True``; ``False`` where there is none that holds."""
        if self.plan is None:
            return False

        def arguments(task: Task) -> Sequence[Any] | None:
            if optimizer.chosen(task.group) != task.choice_made:
                return None
            backend = "foreach" if task.in_lists else "fused"
            values = optimizer.arguments(task.group, task.choice_made[0], backend)
            values.pop("maximize")
            return [*values.values()]

        plan, self.plan = self.plan, None  # a step within this one goes the long way
        held = plan.run(optimizer.param_groups, optimizer.state, arguments)
        if held:
            self.plan = plan
            self._served += 1
        else:
            self._rest = 0 if self._served >= _ENOUGH else min(max(2 * self._rest, 1), _LONGEST_REST)
            self._resting = self._rest
        return held

    def learn(self, optimizer: Planned, buckets: Sequence[Bucket], *, guarded: bool) -> None:
        """Look at what a step did, and plan it if it was done before."""
        if self._resting:
            self._resting -= 1
            return
        sparse = all(map(_is_sparse, buckets))
        if not buckets or not (sparse or all(map(_is_able, buckets))):
            self._last = None
            return
        done = [(bucket.backend, bucket.states, [*map(id, bucket.params)]) for bucket in buckets]
        if done == self._last and done != self._refused:
            try:
                self.plan = _sparse_plan(optimizer, buckets) if sparse else _plan(optimizer, buckets)
                self._served, self.guarded = 0, guarded
            except Exception:  # of any kind: steps go on without a plan, which is not asked for again
                self._refused = done
        self._last = done


def _is_able(bucket: Bucket) -> bool:
    return bucket.backend != "loop" and _is_plain(bucket)


def _is_sparse(bucket: Bucket) -> bool:
    scalars_only = not (bucket.options.get("tensor_scalars") or bucket.options.get("differentiable"))
    return bucket.backend == "loop" and bucket.grads[0].is_sparse and scalars_only and _is_plain(bucket)


def _is_plain(bucket: Bucket) -> bool:
    param = bucket.params[0]
    return param.is_cpu and not param.is_complex() and _get_current_dispatch_mode() is None


def _plan(optimizer: Planned, buckets: Sequence[Bucket]) -> Plan:
    calls = [bucket.call() for bucket in buckets]
    if any(call.made for call in calls):
        raise ValueError("a state is made")
    tasks = [_task(optimizer, bucket) for bucket in buckets]
    return Plan(optimizer.param_groups, optimizer.state, optimizer.option_names, tasks, calls)


def _sparse_plan(optimizer: Planned, buckets: Sequence[Bucket]) -> SparsePlan:
    tasks = []
    for bucket in buckets:
        if not all(bucket.states.values()):
            raise ValueError("a state is made, or may come to be")
        columns = [[store[name] for store in bucket.stores] for name in bucket.states]
        tasks.append((_task(optimizer, bucket), [bucket.params, bucket.grads, *columns]))
    return SparsePlan(optimizer.param_groups, optimizer.option_names, tasks)


def _task(optimizer: Planned, bucket: Bucket) -> Task:
    """Return what a plan needs to repeat a bucket.

    Raises:
        ValueError: It cannot be repeated.
    """
    declared = schema(bucket.rule)
    if declared.sums:
        raise ValueError("the rule sums over the model")
    chosen = optimizer.chosen(bucket.group)
    in_lists = bucket.backend != "fused"
    values = optimizer.arguments(bucket.group, bucket.rule, "foreach" if in_lists else "fused")
    maximize = values.pop("maximize")
    given = {name: bucket.options[name] for name in (*declared.given, *declared.numbers)}
    steps = {name: value for name, value in given.items() if name == "step"}
    constants = {name: bucket.options[name] for name in ("shape", "machine_eps") if name in given}
    running = {name: bucket.options[name] for name in declared.numbers}
    if any(type(number) is not float for number in running.values()):
        raise ValueError("a running number stays a tensor")
    wiring = wire(bucket.rule, bucket.states, maximize=maximize, **values, **steps, **constants, **running)
    if wiring is None or chosen[0] is not bucket.rule:
        raise ValueError("the rule cannot be told from its options")
    options = {name: plain(value) for name, value in bucket.group.items() if name in optimizer.option_names}
    watching = watched(optimizer.chosen, options)
    return Task(
        group=bucket.group,
        names=(*values, *steps, *constants, *running),
        values=tuple(values.values()),
        constants=tuple(constants.values()),
        running=tuple(running),
        wiring=wiring,
        choice=None if watching is None else (tuple(options), watching[1]),
        choice_made=chosen,
        in_lists=in_lists,
        states=[name for name, exists in bucket.states.items() if exists],
        absent=frozenset(name for name, exists in bucket.states.items() if not exists),
        stores=bucket.stores,
        counts=bool(bucket.counters),
        numbers=_numbers(bucket),
    )


def _numbers(bucket: Bucket) -> ctypes.Array[Number]:
    """Return what the parameters of a bucket keep beside their states, as the first of them has it now."""
    first = [bucket.counters[0] if bucket.counters else None, *bucket.numbers[0].values()]
    numbers = [
        Number() if kept is None else Number(known=kept.item(), wide=kept.dtype is torch.float64) for kept in first
    ]
    return (Number * len(numbers))(*numbers)
