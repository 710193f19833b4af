"""The foreach backend: the traced rule replayed over lists of tensors with ``torch._foreach_*``.

An operation writes in place wherever its first operand dies there, so Adam needs six passes in place and one
allocation. Gradients are never written.
"""

import ctypes
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from optizoo.backends.loop import Columns
from optizoo.backends.trace import TOTAL, Program, running, trace
from optizoo.core.rule import FULL, VIEWS, WORDS, Word

_IN_PLACE = (torch.float32, torch.float64)


def update(
    rule: Callable[..., Any],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Columns,
    *,
    maximize: bool = False,
    totals: Sequence[float] = (),
    **options: Any,
) -> dict[str, list[Any]]:
    """Apply ``rule`` to all parameters at once; arguments and result are those of :func:`optizoo.backends.loop.update`.

    All tensors must be dense and real and share one device and one dtype.
    """
    present = {name: column is not None for name, column in states.items()}
    program, scalars = trace(rule, present, maximize=maximize, totals=totals, **options)
    numbers = running(rule, present, maximize=maximize, totals=totals, **options)
    inputs = [params, grads, *(column for column in states.values() if column is not None)]
    in_place = params[0].dtype in _IN_PLACE
    results = replay(program, _on_host(scalars), inputs, in_place=in_place)
    made: dict[str, list[Any]] = {name: [number] * len(params) for name, number in numbers.items()}
    if not (in_place and _settled(program)):
        made |= _brought_home(program, inputs, results)
    return made


def _brought_home(
    program: Program, inputs: Sequence[Sequence[Tensor]], results: Iterable[Sequence[Tensor]]
) -> dict[str, list[Tensor]]:
    """Copy the results of a program into its inputs of their names, and return those that have no such input."""
    homes = dict(zip(program.inputs, inputs, strict=True))
    taken = [id(tensors) for tensors in inputs]
    made: dict[str, list[Tensor]] = {}
    for (name, _), result in zip(program.outputs, results, strict=True):
        home = homes.get(name)
        if result is home:
            continue
        # A rule may hand the gradient or another state back. No state may alias it, and the copies below overwrite it.
        made[name] = [tensor.clone() for tensor in result] if id(result) in taken else list(result)
        taken.append(id(result))
    for name in homes.keys() & made.keys():
        torch._foreach_copy_(list(homes[name]), made.pop(name))  # pyright: ignore[reportPrivateImportUsage]
    return made


def total(
    rule: Callable[..., Any],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Columns,
    **options: Any,
) -> list[Tensor] | None:
    """Return for every parameter what the rule wants summed over the model next, or ``None`` if it wants nothing more.

    The arguments are those of :func:`update`.
    """
    program, scalars = trace(rule, {name: column is not None for name, column in states.items()}, **options)
    if program.outputs[0][0] != TOTAL:
        return None
    inputs = [params, grads, *(column for column in states.values() if column is not None)]
    return [*replay(program, _on_host(scalars), inputs, in_place=False)[0]]


def _on_host(scalars: Sequence[Any]) -> list[Any]:
    """Return scalars as the foreach functions take them; a 0-dim tensor is the same number, read on the host."""
    return [float(scalar) if isinstance(scalar, Tensor) else scalar for scalar in scalars]


class Launch:
    """A program with the lists that it updates, for a step that is repeated.

    Args:
        program: What to compute; its outputs are among its inputs.
        columns: For every input of the program, the tensors.

    Raises:
        ValueError: The program makes states.
    """

    def __init__(self, program: Program, columns: Sequence[Sequence[Tensor]]):
        if not {name for name, _ in program.outputs} <= {*program.inputs}:
            raise ValueError("a state is made")
        self._program, in_place = program, columns[0][0].dtype in _IN_PLACE
        self._settled = in_place and _settled(program)
        self.tensors = len(columns[0])
        self.pointers = (ctypes.c_void_p * (self.tensors * len(columns)))()  # the watch writes them; nobody reads them
        self._calls = _calls(program, in_place)
        self.params, _, *self._states = columns
        self._scalars: list[Any] = []

    def put(self, scalars: Sequence[Any]) -> None:
        """Set the scalars, numbers or 0-dim tensors."""
        self._scalars = _on_host(scalars)

    def run(self, grads: Sequence[Tensor]) -> None:
        """Update the tensors with these gradients of ``params``."""
        inputs = [self.params, grads, *self._states]
        values = _execute(self._calls, self._scalars, [*inputs])
        if not self._settled:
            _brought_home(self._program, inputs, [values[value] for _, value in self._program.outputs])


def replay(
    program: Program, scalars: Sequence[Any], inputs: Sequence[Sequence[Tensor]], *, in_place: bool = True
) -> list[Sequence[Tensor]]:
    """Execute ``program`` over lists of tensors and return the list of every output.

    With ``in_place``, the lists of ``param`` and of the states may be overwritten, each only on the way to its own new
    value. In 16-bit types that is not for use: ``torch._foreach_mul_`` rounds its number to the type of the tensors
    when it writes in place.
    """
    values = _execute(_calls(program, in_place), scalars, [*inputs])
    return [values[value] for _, value in program.outputs]


def _execute(calls: Iterable[tuple[Any, ...]], scalars: Sequence[Any], values: list[Any]) -> list[Any]:
    """Make the calls on values, and append what each returns."""
    for function, operands, scalar, keyword, overwrite in calls:
        arguments = [values[operand] for operand in operands]
        if keyword is _BY_ONE:
            numbers = () if scalar is None else scalars[scalar : scalar + 2]
            result = [function(*each, numbers=numbers) for each in zip(*arguments, strict=True)]
        elif scalar is None:
            result = function(*arguments)
        elif keyword is None:
            result = function(*arguments, scalars[scalar])
        else:
            result = function(*arguments, **{keyword: scalars[scalar]})
        values.append(arguments[0] if overwrite else result)
    return values


def _in_lists(word: Word, *, in_place: bool) -> Callable[..., Any] | None:
    """Return torch's function for a word over lists, where there is one."""
    by_one = word.arguments or word.last
    return None if by_one else getattr(torch, f"_foreach_{word.call}{'_' if in_place else ''}", None)


_BY_ONE = "each tensor by itself"


def _one(word: Word, in_place: bool) -> Callable[..., Tensor]:
    count = 2 if word.second is not None else 1
    return lambda *operands, numbers: word.apply(*operands, numbers=numbers[:count], in_place=in_place)


def _settled(program: Program) -> bool:
    """Return whether, written in place, every output ends in the memory of the input of its name."""
    return settle(program)[1]


@lru_cache(maxsize=1024)
def _calls(program: Program, in_place: bool) -> tuple[tuple[Any, ...], ...]:
    """Return for every operation its function, operands, scalar, the scalar's keyword, and whether it overwrites."""
    calls = []
    for operation, may_overwrite in zip(program.operations, settle(program)[0], strict=True):
        overwrite = may_overwrite and in_place
        word = WORDS[operation.word]
        function = _in_lists(word, in_place=overwrite)
        if function is None:  # there is no such word for lists
            calls.append((_one(word, overwrite), operation.operands, operation.scalar, _BY_ONE, overwrite))
            continue
        keyword = "alpha" if operation.word == "add" else None  # the others take their number in place
        calls.append((function, operation.operands, operation.scalar, keyword, overwrite))
    return tuple(calls)


@lru_cache(maxsize=1024)
def settle(program: Program) -> tuple[tuple[bool, ...], bool]:
    """Return for every operation whether it may write into its first operand, and whether no output is left to copy.

    It may where the operand dies and its memory is the program's own, or that of the input whose new value is coming.
    """
    count = len(program.inputs)
    last_use = program.last_use
    home: dict[int, str] = {}  # value -> the input in whose memory it may live
    for name, value in program.outputs:
        while value >= count and value not in home:  # of two outputs of one value, the first lives in its memory
            home[value] = name
            first = program.operations[value - count].operands[0]
            if last_use[first] != value - count:
                break
            value = first

    memory: list[str | None] = list(program.inputs)  # value -> the input whose memory it has taken
    overwrites = []
    for index, operation in enumerate(program.operations):
        first = operation.operands[0]
        dies = last_use[first] == index
        overwrite = dies and (memory[first] is None or memory[first] == home.get(count + index))
        overwrite &= program.rank[first] == program.rank[count + index] == FULL
        word = WORDS[operation.word]
        overwrite &= word.last is not None or _in_lists(word, in_place=True) is not None
        memory.append(memory[first] if overwrite else "that of another value" if operation.word in VIEWS else None)
        overwrites.append(overwrite)
    return tuple(overwrites), all(memory[value] == name for name, value in program.outputs)
