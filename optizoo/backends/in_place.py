"""The loop for gradients that are sparse and tensors of other types: the traced rule, word by word, in place.

A dense result of the size of an embedding would cost thousands of times what its sparse gradient does, and a tensor
subclass may know the words of ``torch.optim``'s own loop and no others. Those are written in place.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from optizoo.backends import loop
from optizoo.backends.foreach import settle
from optizoo.backends.trace import Program, TraceError, running, trace
from optizoo.core.rule import WORDS

_PLAIN = (Tensor, Parameter)
_APPLIED = "as the rule calls it"
_SCALINGS = ("neg", "mul_scalar", "div_scalar")


def update(
    rule: Callable[..., tuple],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: loop.Columns,
    *,
    maximize: bool = False,
    differentiable: bool = False,
    tensor_scalars: bool = False,
    **options: Any,
) -> dict[str, list[Tensor]]:
    """Apply ``rule`` to every parameter; arguments and result are those of :func:`optizoo.backends.loop.update`.

    All parameters are of one type, and all gradients of one type and layout.
    """
    existing = {name: column for name, column in states.items() if column is not None}
    plain = type(params[0]) in _PLAIN and type(grads[0]) in _PLAIN and grads[0].layout is torch.strided
    program, scalars = None, ()
    if not (differentiable or tensor_scalars or torch.compiler.is_compiling() or (plain and not _any_sparse(existing))):
        try:
            present = {name: column is not None for name, column in states.items()}
            program, scalars = trace(rule, present, maximize=maximize, **options)
        except TraceError:  # only the loop can follow
            pass
    valueless = params[0].is_meta or hasattr(params[0], "fake_mode")  # no number of a tensor can be read
    if program is None or (not program.elementwise and (plain or valueless or grads[0].is_sparse)):
        tensor_scalars = tensor_scalars or valueless
        further = {"maximize": maximize, "differentiable": differentiable, "tensor_scalars": tensor_scalars}
        return loop.update(rule, params, grads, states, **further, **options)
    scalars = [float(scalar) if isinstance(scalar, Tensor) else scalar for scalar in scalars]
    made = []
    for inputs in zip(params, grads, *existing.values(), strict=True):
        new = _written(program, scalars, inputs)
        if new is None:
            new = _by_loop(rule, inputs, states, program, maximize=maximize, **options)
        made.append(new)
    numbers = running(rule, {name: column is not None for name, column in states.items()}, **options)
    for new in made:
        new |= numbers
    # A state that one parameter has made, such as a sparse one that became dense, others may have had.
    return {
        name: [new[name] if name in new else existing[name][index] for index, new in enumerate(made)]
        for name in {name: None for new in made for name in new}
    }


class Launch:
    """A program with the parameters that it updates by sparse gradients, for a step that is repeated.

    Args:
        program: What to compute; its outputs must settle in its inputs.
        columns: For every input of the program, the tensors, all of one kind; gradients and states are not kept.

    Raises:
        ValueError: More is needed than to make the calls, or another device than the CPU.
    """

    def __init__(self, program: Program, columns: Sequence[Sequence[Tensor]]):
        self.params = columns[0]
        self._states = program.inputs[2:]
        first, *others = zip(*columns, strict=True)
        self._kinds = [*map(_kind, first)]
        if any([*map(_kind, inputs)] != self._kinds for inputs in others):
            raise ValueError("the tensors of a column are of several kinds")
        if not all(type(tensor) in _PLAIN and tensor.is_cpu for tensor in first):
            raise ValueError("a tensor is not plain, or not on the CPU")
        calls = _calls(program, *[(tensor.dtype, tensor.layout is not torch.strided) for tensor in first])
        if calls is None or not settle(program)[1]:
            raise ValueError("the outputs do not settle in the inputs")
        self._calls = calls
        self._scalars: list[Any] = []

    def put(self, scalars: Sequence[Any]) -> None:
        """Set the scalars, numbers or 0-dim tensors."""
        self._scalars = [float(scalar) if isinstance(scalar, Tensor) else scalar for scalar in scalars]

    def gather(self, state: Mapping[Tensor, Any]) -> list[list[Any]] | None:
        """Return the inputs of all parameters that have a gradient; ``None`` where one is of another kind now."""
        work = []
        for param in self.params:
            inputs: list[Any] = [param, param.grad]
            if inputs[1] is None:
                continue
            if self._states:
                store = state.get(param, {})
                inputs += [store.get(name) for name in self._states]
            if [*map(_kind, inputs)] != self._kinds:
                return None
            work.append(inputs)
        return work

    def run(self, work: Iterable[list[Any]]) -> None:
        """Update the parameters of these inputs."""
        for inputs in work:
            _execute(self._calls, self._scalars, inputs)


def _kind(tensor: Any) -> tuple[Any, ...] | None:
    """Return all of an input on which the calls hang."""
    return (type(tensor), tensor.dtype, tensor.layout, tensor.is_cpu) if isinstance(tensor, Tensor) else None


def _by_loop(
    rule: Callable[..., tuple], inputs: Sequence[Tensor], states: loop.Columns, program: Program, **options: Any
) -> dict[str, Tensor]:
    """Update one parameter by the loop: the elements that a sparse gradient has, if that is all that moves, or all."""
    param, grad, *existing = inputs
    named = dict(zip(program.inputs[2:], existing, strict=True))
    dense_states = all(tensor.layout is torch.strided for tensor in existing)
    if grad.is_sparse and grad.sparse_dim() and dense_states and len(existing) == len(states) and _rests(program):
        _update_rows(rule, param, grad, named, **options)
        return {}
    # Where all elements move, the gradient is as good as dense, and so is a state.
    made = {name: tensor.to_dense() for name, tensor in named.items() if tensor.layout is not torch.strided}
    named |= made
    columns = {name: [named[name]] if name in named else None for name in states}
    grad = grad if grad.layout is torch.strided else grad.to_dense()
    new = loop.update(rule, [param], [grad], columns, **options)
    return {**made, **{name: column[0] for name, column in new.items()}}


def _written(program: Program, scalars: Sequence[Any], inputs: Sequence[Tensor]) -> dict[str, Tensor] | None:
    """Execute a program, write its results into its inputs, and return the states that it made.

    Returns ``None``, with nothing written, where types differ or a word is asked for that sparse tensors do not know.
    """
    calls = _calls(program, *[(tensor.dtype, tensor.layout is not torch.strided) for tensor in inputs])
    if calls is None:
        return None
    values = _execute(calls, scalars, [*inputs])
    if settle(program)[1]:
        return {}
    homes = dict(zip(program.inputs, inputs, strict=True))
    made = {name: values[value] for name, value in program.outputs if values[value] is not homes.get(name)}
    taken = list(inputs)
    written = [homes[name] for name in made if name in homes]
    for name, result in made.items():
        # No new state shares memory, and none is read after it was written.
        if any(result is tensor for tensor in (written if name in homes else taken)):
            made[name] = result.clone()
        taken.append(result)
    for name in homes.keys() & made.keys():
        homes[name].copy_(made.pop(name))
    return made


def _execute(calls: Iterable[tuple[Any, ...]], scalars: Sequence[Any], values: list[Any]) -> list[Any]:
    """Make the calls on values, and append what each returns."""
    for function, operands, scalar, keyword in calls:
        arguments = [values[operand] for operand in operands]
        if keyword is _APPLIED:
            values.append(function(*arguments, numbers=() if scalar is None else scalars[scalar : scalar + 2]))
        elif scalar is None:
            values.append(function(*arguments))
        elif keyword is None:
            values.append(function(*arguments, scalars[scalar]))
        else:
            values.append(function(*arguments, **{keyword: scalars[scalar]}))
    return values


@lru_cache(maxsize=1024)
def _calls(program: Program, *kinds: tuple[torch.dtype, bool]) -> tuple[tuple[Any, ...], ...] | None:
    """Return for every operation its function, operands, scalar and the scalar's keyword.

    Returns ``None`` where the inputs, each with its type and whether it is sparse, allow no such words.
    """
    sparse = tuple(is_sparse for _, is_sparse in kinds)
    if len({dtype for dtype, _ in kinds}) > 1 or (any(sparse) and not _is_linear(program, sparse)):
        return None
    calls = []
    for operation, overwrite in zip(program.operations, settle(program)[0], strict=True):
        known = WORDS[operation.word]
        word, keyword = operation.word.removesuffix("_scalar"), known.scalar
        if known.arguments or known.last or known.second:
            calls.append((partial(known.apply, in_place=overwrite), operation.operands, operation.scalar, _APPLIED))
            continue
        function = getattr(Tensor, f"{word}_", _maximum_) if overwrite else getattr(Tensor, word)
        by_place = len(operation.operands) == 1 or keyword == "weight"
        calls.append((function, operation.operands, operation.scalar, None if by_place else keyword))
    return tuple(calls)


def _maximum_(tensor: Tensor, other: Tensor) -> Tensor:
    return torch.maximum(tensor, other, out=tensor)


def _update_rows(
    rule: Callable[..., tuple], param: Tensor, grad: Tensor, state: Mapping[str, Tensor], **options: Any
) -> None:
    """Run the rule on what the gradient touches of the parameter and of its states."""
    grad = grad.coalesce()
    indices, values = grad._indices(), grad._values()
    homes = [param, *state.values()]
    if len(indices) == 1:
        rows = [home.index_select(0, indices[0]) for home in homes]
    else:
        rows = [home[tuple(indices)] for home in homes]
    columns = {name: [row] for name, row in zip(state, rows[1:], strict=True)}
    loop.update(rule, rows[:1], [values], columns, **options)
    for home, row in zip(homes, rows, strict=True):
        if len(indices) == 1:
            home.index_copy_(0, indices[0], row)
        else:
            home.index_put_(tuple(indices), row)


def _is_linear(program: Program, sparse: tuple[bool, ...]) -> bool:
    """Return whether sparse inputs are only scaled, and added to each other and to dense ones: torch's sparse words."""
    kinds = list(sparse)
    for operation in program.operations:
        first, *others = (kinds[operand] for operand in operation.operands)
        adds = operation.word == "add" and (first <= others[0])  # nothing dense is added to what is sparse
        if not adds and (first or any(others)) and operation.word not in _SCALINGS:
            return False
        kinds.append(first)
    homes = dict(zip(program.inputs, sparse, strict=True))
    return all(homes.get(name, kinds[value]) == kinds[value] for name, value in program.outputs)


@lru_cache(maxsize=1024)
def _rests(program: Program) -> bool:
    """Return whether nothing moves where the gradient is 0: read off the words of the rule."""
    zero, unknown = "0", "?"
    values = [zero if name == "grad" else name for name in program.inputs]
    for operation in program.operations:
        first, *others = (values[operand] for operand in operation.operands)
        if operation.word in ("add", "addcmul", "addcdiv") and zero in others[:1]:
            values.append(first)
        elif first == zero and operation.word in (*_SCALINGS, "mul", "div", "sqrt", "abs", "sign"):
            values.append(zero)
        else:
            values.append(unknown)
    return all(values[value] == name for name, value in program.outputs)


def _any_sparse(states: Mapping[str, Sequence[Tensor]]) -> bool:
    return any(tensor.layout is not torch.strided for column in states.values() for tensor in column)


def as_real(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return complex tensors as real ones, with a dimension more; dense ones share their memory."""
    return [
        _sparse(tensor, torch.view_as_real) if tensor.is_sparse else torch.view_as_real(tensor.resolve_conj())
        for tensor in tensors
    ]


def as_complex(tensor: Tensor) -> Tensor:
    """Return a tensor of :func:`as_real` as it was."""
    return _sparse(tensor, torch.view_as_complex) if tensor.is_sparse else torch.view_as_complex(tensor)


def _sparse(tensor: Tensor, view: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a sparse tensor with its values seen in another way."""
    values = view(tensor._values())
    shape = (*tensor.shape[: tensor.sparse_dim()], *values.shape[1:])
    seen = torch.sparse_coo_tensor(tensor._indices(), values, shape, check_invariants=False)
    return seen._coalesced_(tensor.is_coalesced())
