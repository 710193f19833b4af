"""The reference backend: the rule itself, on plain tensors, one parameter after the other.

It does not trace, so it is an independent reading of the rules that the other backends are held against.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optizoo.core.master import FUNCTIONS
from optizoo.core.rule import WORDS, check_results, driven, schema

Columns = Mapping[str, Sequence[Tensor] | None]


def update(
    rule: Callable[..., Any],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Columns,
    *,
    maximize: bool = False,
    differentiable: bool = False,
    tensor_scalars: bool = False,
    totals: Sequence[Any] = (),
    **options: Any,
) -> dict[str, list[Any]]:
    """Apply ``rule`` to every parameter and write the results into the parameters and the states that exist.

    Args:
        rule: A function of :mod:`optizoo.rules`, or any function of that form.
        params: The parameters, written in place.
        grads: Their gradients, never written.
        states: A column of tensors for every state of the rule, in its order; ``None`` where the state does not exist.
            Where types differ, the rule computes in the widest, and what is written is rounded to its own.
        maximize: Ascend: the rule sees the negative gradient.
        differentiable: Let autograd see the update: every state is returned as a new tensor, none is overwritten.
        tensor_scalars: Some of the options are 0-dim tensors that must stay tensors (see :class:`Operand`).
        totals: The sums over the model that the rule asks for; :func:`total` finds them.
        **options: The hyper-parameters that the rule names, and its running numbers.

    Returns:
        Columns of new tensors for the states that the rule made, or for all of them if ``differentiable``, and of the
        new running numbers. A state for which the rule returns ``None`` stays as it is.

    Raises:
        TypeError: The rule did not return one result for the parameter and each state; nothing was written.
    """
    made: dict[str, list[Any]] = {}
    numbers = schema(rule).numbers
    for index, (param, grad) in enumerate(zip(params, grads, strict=True)):
        state = [None if column is None else column[index] for column in states.values()]
        shape = param.shape
        param, operands, state = _operands(param, grad, state, maximize=maximize, differentiable=differentiable)
        results, waits = _called(rule, operands, totals, options, tensor_scalars=tensor_scalars)
        if waits:
            raise TypeError(f"rule {rule.__name__!r} sums over the model; its sums must be found first")
        check_results(rule, results, ("param", *states, *numbers))
        if tensor_scalars:
            results = tuple(map(_tensor, results))
        new_param, *new_state = _unshared(results[: 1 + len(states)], operands)
        param.copy_(new_param)
        for name, old, new in zip(states, state, new_state, strict=True):
            if new is None:
                continue
            if old is None or differentiable:
                made.setdefault(name, []).append(new if shape or not new.dim() else new.view(()))
            else:
                old.copy_(new)
        for name, number in zip(numbers, results[1 + len(states) :], strict=True):
            made.setdefault(name, []).append(number)
    return made


def total(
    rule: Callable[..., Any],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Columns,
    *,
    maximize: bool = False,
    differentiable: bool = False,
    tensor_scalars: bool = False,
    totals: Sequence[Any] = (),
    **options: Any,
) -> list[Any] | None:
    """Return for every parameter what the rule wants summed over the model next, or ``None`` if it wants nothing more.

    The arguments are those of :func:`update`.
    """
    wanted = []
    for index, (param, grad) in enumerate(zip(params, grads, strict=True)):
        state = [None if column is None else column[index] for column in states.values()]
        _, operands, _ = _operands(param, grad, state, maximize=maximize, differentiable=differentiable)
        result, waits = _called(rule, operands, totals, options, tensor_scalars=tensor_scalars)
        if not waits:
            return None
        wanted.append(_tensor(result))
    return wanted


def _operands(
    param: Tensor, grad: Tensor, state: list[Tensor | None], *, maximize: bool, differentiable: bool
) -> tuple[Tensor, list[Any], list[Tensor | None]]:
    """Return the parameter, what the rule sees of it, its gradient and its states, and the states."""
    if param.dim() == 0:  # beside a parameter with dimensions a 0-dim option does not raise its type
        param, grad = param.view(1), grad.view(1)
        state = [None if tensor is None else tensor.view(1) for tensor in state]
    # Autograd may save the parameter that the rule reads, which is overwritten.
    return param, _of_one_type([param.clone() if differentiable else param, -grad if maximize else grad, *state]), state


def _called(
    rule: Callable[..., Any],
    operands: Sequence[Any],
    totals: Sequence[Any],
    options: Mapping[str, Any],
    *,
    tensor_scalars: bool,
) -> tuple[Any, bool]:
    if not tensor_scalars:
        return driven(rule(*operands, **options), totals)
    wrapped = {name: _wrapped(value) for name, value in options.items()}
    arguments = [None if operand is None else Operand(operand) for operand in operands]
    return driven(rule(*arguments, **wrapped), [*map(_wrapped, totals)])


def _of_one_type(operands: Sequence[Any]) -> list[Any]:
    """Return parameter, gradient and states in the widest type among them, in which the rule then computes."""
    dtype = operands[0].dtype
    for operand in operands:
        if operand is not None and operand.dtype != dtype:  # a rest of 16 bits is one of float32
            own = operand.dtype if operand.dtype.is_floating_point or operand.is_complex() else torch.float32
            dtype = torch.promote_types(dtype, own)
    return [operand if operand is None or operand.dtype == dtype else operand.to(dtype) for operand in operands]


def _unshared(results: Iterable[Any], operands: Sequence[Any]) -> list[Any]:
    """Return the results of a rule; what it was given or has returned before, as a copy: no two states share memory."""
    seen = list(operands)  # compared one by one: torch.compile watches a tensor for ever whose `id` was asked for
    copies = []
    for result in results:
        known = any(result is tensor for tensor in seen)
        copies.append(result.clone() if result is not None and known else result)
        seen.append(result)
    return copies


class Operand:
    """A tensor, or a tensor option, whose words take tensors as scalars, without reading them on the host.

    ``Tensor.addcdiv(value=lr)`` and its like read a tensor ``lr`` as a number: that cuts the graph of autograd
    and bakes the number into a CUDA graph. Here the scalar stays a tensor, at the price of more passes and of the
    rounding of the plain operators. Options are wrapped too, because torch.compile does not find the operators of a
    class of ours when a tensor stands on the other side.
    """

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    def __add__(self, other):
        return Operand(self.tensor + _tensor(other))

    def __radd__(self, other):
        return Operand(_tensor(other) + self.tensor)

    def __sub__(self, other):
        return Operand(self.tensor - _tensor(other))

    def __rsub__(self, other):
        return Operand(_tensor(other) - self.tensor)

    def __mul__(self, other):
        return Operand(self.tensor * _tensor(other))

    def __rmul__(self, other):
        return Operand(_tensor(other) * self.tensor)

    def __truediv__(self, other):
        return Operand(self.tensor / _tensor(other))

    def __rtruediv__(self, other):
        return Operand(_tensor(other) / self.tensor)

    def __pow__(self, other):
        return Operand(self.tensor ** _tensor(other))

    def __rpow__(self, other):
        return Operand(_tensor(other) ** self.tensor)

    def __mod__(self, other):
        return Operand(self.tensor % _tensor(other))

    def __neg__(self):
        return Operand(-self.tensor)

    def __bool__(self):
        return bool(self.tensor)

    def __float__(self):
        return float(self.tensor)

    def __lt__(self, other):
        return self.tensor < _tensor(other)

    def __le__(self, other):
        return self.tensor <= _tensor(other)

    def __gt__(self, other):
        return self.tensor > _tensor(other)

    def __ge__(self, other):
        return self.tensor >= _tensor(other)

    def add(self, other, *, alpha=1):
        """Return self + alpha · other."""
        other = _tensor(other)
        if not isinstance(alpha, (Operand, Tensor)):
            return Operand(self.tensor.add(other, alpha=alpha))
        wide = torch.promote_types(self.tensor.dtype, other.dtype)
        return Operand(self.tensor + _tensor(alpha) * other.to(wide))

    def lerp(self, end, weight):
        """Return self + weight · (end - self)."""
        end = _tensor(end)
        if not isinstance(weight, (Operand, Tensor)):
            return Operand(self.tensor.lerp(end, weight))
        return Operand(self.tensor + _tensor(weight) * (end - self.tensor))

    def addcmul(self, tensor1, tensor2, *, value=1):
        """Return self + value · tensor1 · tensor2."""
        tensor1, tensor2 = _tensor(tensor1), _tensor(tensor2)
        if not isinstance(value, (Operand, Tensor)):
            return Operand(self.tensor.addcmul(tensor1, tensor2, value=value))
        return Operand(self.tensor + _tensor(value) * (tensor1 * tensor2))

    def addcdiv(self, tensor1, tensor2, *, value=1):
        """Return self + value · tensor1 / tensor2."""
        tensor1, tensor2 = _tensor(tensor1), _tensor(tensor2)
        if not isinstance(value, (Operand, Tensor)):
            return Operand(self.tensor.addcdiv(tensor1, tensor2, value=value))
        return Operand(self.tensor + _tensor(value) * (tensor1 / tensor2))

    def addmm(self, mat1, mat2, *, beta=1, alpha=1):
        """Return beta · self + alpha · mat1 @ mat2."""
        mat1, mat2 = _tensor(mat1), _tensor(mat2)
        if not isinstance(beta, (Operand, Tensor)) and not isinstance(alpha, (Operand, Tensor)):
            return Operand(self.tensor.addmm(mat1, mat2, beta=beta, alpha=alpha))
        return Operand(_tensor(beta) * self.tensor + _tensor(alpha) * (mat1 @ mat2))

    def __matmul__(self, other):
        return Operand(self.tensor @ _tensor(other))

    @property
    def T(self):  # noqa: N802
        """Return the matrix with its dimensions exchanged."""
        return Operand(self.tensor.T)


def _word(name: str) -> Callable[..., Operand]:
    def call(self, *arguments, **keywords):
        function = FUNCTIONS.get(name) or getattr(Tensor, name)
        return Operand(function(self.tensor, *map(_tensor, arguments), **keywords))

    call.__name__ = name
    call.__doc__ = f"Return what ``torch.Tensor.{name}`` makes of the tensors."
    return call


for _name in {word.call for word in WORDS.values()} - vars(Operand).keys():
    setattr(Operand, _name, _word(_name))


def _tensor(value):
    return value.tensor if isinstance(value, Operand) else value


def _wrapped(value):
    """Return an option with its tensors as operands."""
    if isinstance(value, tuple):
        return tuple(_wrapped(item) for item in value)
    return Operand(value) if isinstance(value, Tensor) else value
