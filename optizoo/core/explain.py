"""What an optimizer will do and why, in words."""

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from optizoo.backends import choose, fused
from optizoo.core.optimizer import RuleOptimizer
from optizoo.core.state import counts_on_device, state_dtype


def explain(optimizer: RuleOptimizer, *, stalled: bool = False) -> str:
    """Say which backend serves which parameters of ``optimizer``, and why, in one line for each kind.

    Parameters without a gradient are judged as if they had a dense one.

    Args:
        optimizer: The optimizer.
        stalled: Also count the elements of 16-bit parameters that the next step would leave as they are though their
            gradient is not zero: an update of less than half a unit in the last place is rounded away. The step is
            made on a copy, with the gradients that are there now.

    >>> import torch, optizoo
    >>> print(explain(optizoo.Adam(torch.nn.Linear(2, 2).parameters(), foreach=False)))
    Adam, param group 0: loop for 2 tensors (cpu, float32): foreach=False asks for it
    """
    if not isinstance(optimizer, RuleOptimizer):
        raise TypeError(f"explain takes an optimizer of optizoo, not {type(optimizer).__name__}")
    lines = []
    for index, group in enumerate(optimizer.param_groups):
        counts: dict[tuple, int] = {}
        for param in group["params"]:
            grad = param.grad if param.grad is not None else param.detach()
            kernel = partial(_kernel_obstacle, optimizer, group, param, grad)
            key = (
                *choose(optimizer.complete(group), param, grad, optimizer._columns(param), kernel),
                param.device,
                str(param.dtype).removeprefix("torch."),
            )
            counts[key] = counts.get(key, 0) + 1
        for (backend, reason, device, dtype), count in counts.items():
            tensors = "1 tensor" if count == 1 else f"{count} tensors"
            kind = type(optimizer).__name__
            lines.append(f"{kind}, param group {index}: {backend} for {tensors} ({device}, {dtype}): {reason}")
    return "\n".join([*lines, *(_stalled(optimizer) if stalled else ())])


def _kernel_obstacle(optimizer: RuleOptimizer, own: Mapping[str, Any], param: Tensor, grad: Tensor) -> str | None:
    """Return why the kernel of a parameter's next update cannot serve, or ``None``; no state is made."""
    group = optimizer.complete(own)
    rule, store = optimizer.rule_for(group), {**optimizer.state.get(param, {})}
    states, _, made_by_rule = optimizer._sorted_states(rule, group)
    exists = {**states, **{name: store.get(name) is not None for name in made_by_rule}}
    on_device = counts_on_device(group, param)
    counter = torch.as_tensor(store.get("step", 0.0), device=param.device if on_device else "cpu")
    step = counter.double() + 1 if on_device else counter.item() + 1
    numbers = optimizer._running(store, group, param, of_model=False)
    options = optimizer._rule_options(rule, group, step, "fused") | optimizer._given(rule, group, param)
    options |= {name: number if on_device else number.item() for name, number in numbers.items()}
    return fused.obstacle(rule, exists, param, grad, state_dtype=state_dtype(group), **options)


def _stalled(optimizer: RuleOptimizer) -> list[str]:
    """Return a line for every param group with 16-bit parameters: how many of their elements do not move."""
    moved = deepcopy(optimizer)
    for group, copied in zip(optimizer.param_groups, moved.param_groups, strict=True):
        for param, new in zip(group["params"], copied["params"], strict=True):
            new.grad = param.grad
    moved._update_buckets()  # no hooks
    lines = []
    for index, (group, after) in enumerate(zip(optimizer.param_groups, moved.param_groups, strict=True)):
        still, pushed = 0, 0
        for param, new in zip(group["params"], after["params"], strict=True):
            if param.dtype in (torch.bfloat16, torch.float16) and param.grad is not None:
                push = param.grad.to_dense() != 0
                pushed += int(push.sum())
                same = param == new
                if "param_rest" in moved.state.get(new, {}):  # the weight has 16 bits more
                    before = optimizer.state.get(param, {}).get("param_rest", torch.zeros_like(param))
                    same &= moved.state[new]["param_rest"] == before
                still += int((push & same).sum())
        if pushed:
            lines.append(
                f"{type(optimizer).__name__}, param group {index}: {still} of {pushed} elements in 16 bits that have a "
                "gradient do not move"
                + ("; keep the parameters in float32 (torch.autocast), or raise lr" if still else "")
            )
    return lines
