"""Tracing: run a rule on recording operands and keep what it did as a straight-line program.

>>> from optizoo import rules
>>> program, scalars = trace(rules.sgd, {}, lr=0.1, weight_decay=0.01)
>>> print(program)
%2 = add(grad, param, alpha=$0)
%3 = add(param, %2, alpha=$1)
param <- %3
>>> scalars
(0.01, -0.1)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

# Word -> the name of its scalar; None where the word takes tensors only. Words that end in _scalar have a
# number where their namesake has a second tensor.
WORDS: dict[str, str | None] = {
    "add": "alpha",
    "add_scalar": "other",
    "sub": None,
    "mul": None,
    "mul_scalar": "other",
    "div": None,
    "div_scalar": "other",
    "lerp": "weight",
    "addcmul": "value",
    "addcdiv": "value",
    "maximum": None,
    "clamp_min": "minimum",
    "neg": None,
    "reciprocal": None,
    "sqrt": None,
    "abs": None,
    "sign": None,
}


class TraceError(TypeError):
    """A rule did something that only the loop backend can follow."""


class Operation(NamedTuple):
    """One word of a rule.

    Attributes:
        word: A key of :data:`WORDS`.
        operands: The numbers of the values that it reads; the first one gives the result its type.
        scalar: The index of its scalar among the program's scalars, or ``None``.
    """

    word: str
    operands: tuple[int, ...]
    scalar: int | None = None


@dataclass(frozen=True)
class Program:
    """A traced rule, without its numbers: two steps with another ``lr`` or ``step`` share one program.

    Values are numbered: first the inputs, then the result of every operation.

    Attributes:
        inputs: ``("param", "grad", *states that existed)``.
        operations: In the order of execution.
        outputs: For the parameter and each state that the rule returns, its name and the number of its new value.
    """

    inputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[tuple[str, int], ...]

    @cached_property
    def last_use(self) -> dict[int, int]:
        """For every value, the index of the operation that reads it last; outputs outlive all operations."""
        last = {}
        for index, operation in enumerate(self.operations):
            for operand in operation.operands:
                last[operand] = index
        for _, value in self.outputs:
            last[value] = len(self.operations)
        return last

    def __str__(self) -> str:
        def name(value: int) -> str:
            return self.inputs[value] if value < len(self.inputs) else f"%{value}"

        lines = []
        for number, operation in enumerate(self.operations, start=len(self.inputs)):
            arguments = [name(operand) for operand in operation.operands]
            if operation.scalar is not None:
                arguments.append(f"{WORDS[operation.word]}=${operation.scalar}")
            lines.append(f"%{number} = {operation.word}({', '.join(arguments)})")
        lines += [f"{output} <- {name(value)}" for output, value in self.outputs]
        return "\n".join(lines)


def trace(
    rule: Callable[..., tuple], states: Mapping[str, bool], *, maximize: bool = False, **options: Any
) -> tuple[Program, tuple[Any, ...]]:
    """Record what ``rule`` does under these options.

    Args:
        rule: A function of :mod:`optizoo.rules`, or any function of that form.
        states: For every state of the rule, in its order, whether it exists.
        maximize: The rule sees the negative gradient.
        **options: The hyper-parameters that the rule names. They decide the wiring; their values become scalars.

    Returns:
        The program and its scalars.

    Raises:
        TraceError: The rule used a word outside the vocabulary, or ``if`` on a tensor.
    """
    recorder = _Recorder(["param", "grad", *(name for name, exists in states.items() if exists)])
    param, grad, *existing = (Expr(recorder, number) for number in range(len(recorder.inputs)))
    remaining = iter(existing)
    state = [next(remaining) if exists else None for exists in states.values()]
    results = rule(param, -grad if maximize else grad, *state, **options)
    names = ("param", *states)
    if not isinstance(results, tuple) or len(results) != len(names):
        raise TraceError(
            f"rule {rule.__name__!r} must return the tuple ({', '.join(names)}{',' if len(names) == 1 else ''}); "
            f"got {results!r}"
        )
    outputs = []
    for name, result in zip(names, results, strict=True):
        if isinstance(result, Expr):
            outputs.append((name, result.number))
        elif result is not None:
            raise TraceError(
                f"rule {rule.__name__!r} returned {result!r} for {name!r}; it must be computed from tensors"
            )
    program = Program(tuple(recorder.inputs), tuple(recorder.operations), tuple(outputs))
    return program, tuple(recorder.scalars)


class _Recorder:
    def __init__(self, inputs: list[str]):
        self.inputs = inputs
        self.operations: list[Operation] = []
        self.scalars: list[Any] = []

    def record(self, word: str, *operands: "Expr", scalar: Any = None) -> "Expr":
        index = None
        if scalar is not None:
            index = len(self.scalars)
            self.scalars.append(scalar)
        try:
            numbers = tuple([operand.number for operand in operands])
        except AttributeError:
            raise TraceError(f"{word!r} takes tensors of the rule here; got {operands[-1]!r}") from None
        self.operations.append(Operation(word, numbers, index))
        return Expr(self, len(self.inputs) + len(self.operations) - 1)


class Expr:
    """Stands for a tensor while a rule is traced: knows the words of :mod:`optizoo.rules` and nothing else."""

    __slots__ = ("_recorder", "number")

    def __init__(self, recorder: _Recorder, number: int):
        self._recorder = recorder
        self.number = number

    def __add__(self, other):
        if isinstance(other, Expr):
            return self.add(other)
        return self._recorder.record("add_scalar", self, scalar=other)

    __radd__ = __add__

    def __sub__(self, other):
        if isinstance(other, Expr):
            return self._recorder.record("sub", self, other)
        return self + -other

    def __rsub__(self, other):
        return -self + other

    def __mul__(self, other):
        if isinstance(other, Expr):
            return self._recorder.record("mul", self, other)
        return self._recorder.record("mul_scalar", self, scalar=other)

    __rmul__ = __mul__

    def __truediv__(self, other):
        if isinstance(other, Expr):
            return self._recorder.record("div", self, other)
        return self._recorder.record("div_scalar", self, scalar=other)

    def __rtruediv__(self, other):
        return self._recorder.record("reciprocal", self) * other

    def __neg__(self):
        return self._recorder.record("neg", self)

    def add(self, other, *, alpha=1):
        """Record self + alpha · other."""
        return self._recorder.record("add", self, other, scalar=alpha)

    def lerp(self, end, weight):
        """Record self + weight · (end - self)."""
        return self._recorder.record("lerp", self, end, scalar=weight)

    def addcmul(self, tensor1, tensor2, *, value=1):
        """Record self + value · tensor1 · tensor2."""
        return self._recorder.record("addcmul", self, tensor1, tensor2, scalar=value)

    def addcdiv(self, tensor1, tensor2, *, value=1):
        """Record self + value · tensor1 / tensor2."""
        return self._recorder.record("addcdiv", self, tensor1, tensor2, scalar=value)

    def maximum(self, other):
        """Record the larger of the two."""
        return self._recorder.record("maximum", self, other)

    def clamp_min(self, minimum):
        """Record the values, none below ``minimum``."""
        return self._recorder.record("clamp_min", self, scalar=minimum)

    def sqrt(self):
        """Record the square root."""
        return self._recorder.record("sqrt", self)

    def abs(self):
        """Record the magnitude."""
        return self._recorder.record("abs", self)

    def sign(self):
        """Record -1, 0 or 1."""
        return self._recorder.record("sign", self)

    def __bool__(self):
        raise TraceError("a rule may not branch on a tensor; branch on hyper-parameters, or use maximum and clamp_min")

    def __getattr__(self, name):
        raise TraceError(f"{name!r} is not a word of the rules; they know {', '.join(WORDS)} and the operators + - * /")
