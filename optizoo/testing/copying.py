"""Copy models and optimizers with everything that hangs on them, also what ``deepcopy`` refuses or forgets."""

from collections import deque
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

T = TypeVar("T")

_WHOLE = (type(None), bool, int, float, complex, str, bytes, type, FunctionType, BuiltinFunctionType, ModuleType)


def copied(value: T) -> T:
    """Return a deep copy of modules, optimizers and containers of them; what is one object stays one in the copy.

    Other than by ``deepcopy``

    - a tensor that was computed, such as the ``weight`` that old-style ``weight_norm`` leaves at a module, is copied as
      the numbers that it holds: a hook makes it anew in the next call;
    - what has no copy, such as a lock, an open file or a running iterator, is shared with the original;
    - an optimizer keeps the attributes that its own class, or its user, has given it. A method that was replaced on the
      instance (schedulers do that to ``step``) is the class's own again, as it would act on the original.

    >>> import torch
    >>> model = torch.nn.Linear(2, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> optimizer.history = [1, 2]
    >>> other, same = copied((optimizer, model))
    >>> other.history, other.param_groups[0]["params"][0] is same.weight
    ([1, 2], True)
    """
    memo: dict[int, Any] = {}
    optimizers: list[Optimizer] = []
    _prepare(value, memo, set(), optimizers)
    copy = deepcopy(value, memo)
    for optimizer in optimizers:
        own = vars(deepcopy(optimizer, memo))
        for name, attribute in vars(optimizer).items():
            if name not in own and not hasattr(type(optimizer), name):
                own[name] = deepcopy(attribute, memo)
    return copy


def _prepare(value: Any, memo: dict[int, Any], seen: set[int], optimizers: list[Optimizer]) -> None:
    """Enter into ``memo`` what shall stand for the parts of ``value`` that have no copy, and note its optimizers."""
    if isinstance(value, _WHOLE) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor) and not value.is_leaf:
        memo[id(value)] = value.detach().clone()
        return
    for part in _parts(value):
        _prepare(part, memo, seen, optimizers)
    if isinstance(value, Optimizer):
        optimizers.append(value)
    elif not isinstance(value, (Tensor, nn.Module, dict, list, tuple, set, frozenset, deque)):
        try:
            deepcopy(value, dict(memo))
        except Exception:  # whatever its class raises, it has no copy
            memo[id(value)] = value


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield from value
    elif isinstance(value, MethodType):
        yield value.__self__
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, Tensor) and value.is_leaf:
        yield value.grad
    yield from getattr(value, "__dict__", {}).values()
