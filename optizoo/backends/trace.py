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

import inspect
import math
import operator
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor

from optizoo.core.checks import plain
from optizoo.core.rule import check_results

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
    "clamp_max": "maximum",
    "neg": None,
    "reciprocal": None,
    "sqrt": None,
    "abs": None,
    "sign": None,
}


LOOP_REMEDY = "; foreach=False runs it as it is"


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
    def _hash(self) -> int:
        return hash((self.inputs, self.operations, self.outputs))

    def __hash__(self) -> int:  # programs are looked up at every step
        return self._hash

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
    """Return what ``rule`` does under these options.

    The rule runs once for every wiring. Its scalars are kept as formulas of the options, and what its branches depended
    on as conditions; while those hold, later calls only evaluate the formulas.

    Args:
        rule: A function of :mod:`optizoo.rules`, or any function of that form.
        states: For every state of the rule, in its order, whether it exists.
        maximize: The rule sees the negative gradient.
        **options: The hyper-parameters that the rule names. They decide the wiring; their values become scalars.

    Returns:
        The program and its scalars.

    Raises:
        TraceError: The rule used a word outside the vocabulary, or ``if`` on a tensor.
        TypeError: The rule did not return one result for the parameter and each state.
    """
    options = {name: plain(value) for name, value in options.items()}
    wiring, program, scalars = _traced(rule, states, maximize, options)
    return (program, scalars) if wiring is None else (wiring.program, wiring.scalars(*options.values()))


def wire(
    rule: Callable[..., tuple], states: Mapping[str, bool], *, maximize: bool = False, **options: Any
) -> "Wiring | None":
    """Return what :func:`trace` would evaluate again at the next step, or ``None`` if it would have to trace again."""
    return _traced(rule, states, maximize, {name: plain(value) for name, value in options.items()})[0]


class Wiring(NamedTuple):
    """What a rule does under some options.

    Attributes:
        program: The operations.
        holds: Takes the values of the options, in order; returns whether under them the rule does the same.
        scalars: Takes the values of the options, in order; returns the scalars of the program.
        conditions: What ``holds`` asks beside the kinds of the options: Python texts of ``option0``, ``option1``, ...
        formulas: The text of every scalar.
    """

    program: Program
    holds: Callable[..., bool]
    scalars: Callable[..., tuple[Any, ...]]
    conditions: tuple[str, ...]
    formulas: tuple[str, ...]


def watched(function: Callable[..., Any], options: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]] | None:
    """Return what ``function(options)`` returns, and on which conditions of their numbers that hangs.

    Args:
        function: Takes the options; nothing else decides what it does.
        options: By name; in the conditions, which are those of a :class:`Wiring`, ``option0`` is the first.

    Returns:
        ``None`` where the numbers were used in a way that conditions cannot tell.
    """
    recorder = _Recorder([])
    result = function({name: _symbol(f"option{i}", value, recorder) for i, (name, value) in enumerate(options.items())})
    return (result, tuple(recorder.conditions)) if recorder.reproducible else None


# rule -> (states, maximize, names of the options) -> the wirings that were met
_wirings: WeakKeyDictionary[Callable[..., tuple], dict[tuple, list[Wiring]]] = WeakKeyDictionary()


def _traced(
    rule: Callable[..., tuple], states: Mapping[str, bool], maximize: bool, options: Mapping[str, Any]
) -> tuple[Wiring | None, Program, tuple[Any, ...]]:
    situation = (*states.items(), maximize, *options)
    known = _wirings.get(rule)
    if known is None:
        known = _wirings[rule] = {}
    wirings = known.setdefault(situation, [])
    for wiring in wirings:
        if wiring.holds(*options.values()):
            return wiring, wiring.program, ()
    recorder = _Recorder(["param", "grad", *(name for name, exists in states.items() if exists)])
    kinds: dict[str, Any] = {}
    conditions = [_kind(f"option{index}", value, kinds) for index, value in enumerate(options.values())]
    symbols = {name: _symbol(f"option{index}", value, recorder) for index, (name, value) in enumerate(options.items())}
    program = _run(rule, states, recorder, maximize, symbols)
    scalars = tuple(scalar.value if isinstance(scalar, Number) else scalar for scalar in recorder.scalars)
    if not recorder.reproducible or not all(isinstance(scalar, (Number, int, float)) for scalar in recorder.scalars):
        return None, program, scalars
    arguments = ", ".join(f"option{index}" for index in range(len(options)))
    formulas = tuple(map(_formula, recorder.scalars))
    branches = tuple(dict.fromkeys(recorder.conditions))
    wiring = Wiring(
        program,
        holds=eval(f"lambda {arguments}: {' and '.join([*conditions, *branches]) or True}", kinds),
        scalars=eval(f"lambda {arguments}: ({''.join(f'{formula}, ' for formula in formulas)})"),
        conditions=branches,
        formulas=formulas,
    )
    wirings.append(wiring)
    return wiring, program, scalars


def _run(
    rule: Callable[..., tuple],
    states: Mapping[str, bool],
    recorder: "_Recorder",
    maximize: bool,
    options: Mapping[str, Any],
) -> Program:
    param, grad, *existing = (Expr(recorder, number) for number in range(len(recorder.inputs)))
    remaining = iter(existing)
    state = [next(remaining) if exists else None for exists in states.values()]
    names = ("param", *states)
    try:
        results = rule(param, -grad if maximize else grad, *state, **options)
    except (AttributeError, TypeError) as error:
        raise TraceError(
            f"rule {rule.__name__!r} cannot be traced: {error}{_place(rule, error)}{LOOP_REMEDY}"
        ) from error
    check_results(rule, results, names)
    outputs = []
    for name, result in zip(names, results, strict=True):
        if isinstance(result, Expr):
            outputs.append((name, result.number))
        elif result is not None or name == "param":
            raise TraceError(
                f"rule {rule.__name__!r} returned {result!r} for {name!r}; it must be computed from tensors"
            )
    return Program(tuple(recorder.inputs), tuple(recorder.operations), tuple(outputs))


def _place(rule: Callable[..., tuple], error: Exception) -> str:
    """Return file, line and text of the place in the rule from which an error came."""
    code = getattr(inspect.unwrap(rule), "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno}: {own[-1].line})" if own else ""


class _Recorder:
    def __init__(self, inputs: list[str]):
        self.inputs = inputs
        self.operations: list[Operation] = []
        self.scalars: list[Any] = []
        self.conditions: list[str] = []  # Python expressions of the options on which the branches of the rule depend
        self.reproducible = True  # whether conditions and formulas tell all that the options do

    def record(self, word: str, *operands: "Expr", scalar: Any = None) -> "Expr":
        for operand in operands:
            if not isinstance(operand, Expr):
                raise TraceError(f"{word!r} takes tensors of the rule here; got {operand!r}")
        index = None
        if WORDS[word] is not None:
            scalar = _constant(scalar)
            if not _is_number(scalar):
                got = "a tensor" if isinstance(scalar, (Expr, Tensor)) else repr(scalar)
                raise TraceError(f"{word.removesuffix('_scalar')!r} takes a number here; got {got}")
            index = len(self.scalars)
            self.scalars.append(scalar)
        self.operations.append(Operation(word, tuple(operand.number for operand in operands), index))
        return Expr(self, len(self.inputs) + len(self.operations) - 1)


def _constant(value: Any) -> Any:
    """Return a number of the rule's own, of whatever kind, as a plain one; what is traced as it is."""
    return value if isinstance(value, (Number, Expr)) else plain(value)


def _is_number(scalar: Any) -> bool:
    """Return whether a program may have ``scalar`` among its scalars."""
    if isinstance(scalar, Tensor):
        return scalar.dim() == 0 and not scalar.is_complex()
    return isinstance(scalar, (Number, int, float))


def _kind(formula: str, value: Any, kinds: dict[str, Any]) -> str:
    """Return the condition that an option is of the kind of ``value``: all that a rule can tell without a branch.

    Args:
        formula: The option.
        value: Its value now.
        kinds: Takes the types that the condition names.
    """
    if value is None or isinstance(value, bool):
        return f"{formula} is {value}"
    if isinstance(value, str):
        return f"{formula} == {value!r}"
    kinds[name := f"kind{len(kinds)}"] = type(value)
    condition = f"type({formula}) is {name}"
    if isinstance(value, tuple):
        items = [_kind(f"{formula}[{index}]", item, kinds) for index, item in enumerate(value)]
        condition = " and ".join([condition, f"len({formula}) == {len(value)}", *items])
    return condition


def _symbol(formula: str, value: Any, recorder: _Recorder) -> Any:
    """Return what a rule sees of an option: its numbers write down what is done with them."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float, Tensor)):
        return Number(value, formula, recorder)
    if isinstance(value, tuple):
        return tuple(_symbol(f"{formula}[{index}]", item, recorder) for index, item in enumerate(value))
    recorder.reproducible = False
    return value


class Number:
    """Stands for a hyper-parameter while a rule is traced: computes with its value and writes down the formula.

    A branch on a number becomes a condition of the wiring. Where the value leaves our sight (``math.sqrt(lr)``), the
    wiring is not kept and the rule is traced at every step.
    """

    __slots__ = ("_recorder", "formula", "value")
    __array_ufunc__ = None  # numpy's numbers leave the arithmetic to this class

    def __init__(self, value: Any, formula: str, recorder: _Recorder):
        self.value = value
        self.formula = formula
        self._recorder = recorder

    def __repr__(self) -> str:
        return repr(self.value)

    def _computed(self, value: Any, formula: str) -> "Number":
        return Number(value, formula, self._recorder)

    def _decided(self, outcome: Any, formula: str) -> bool:
        self._recorder.conditions.append(f"bool({formula}) is {bool(outcome)}")
        return bool(outcome)

    def __pos__(self):
        return self

    def __neg__(self):
        return self._computed(-self.value, f"(-{self.formula})")

    def __abs__(self):
        return self._computed(abs(self.value), f"abs({self.formula})")

    def __bool__(self):
        return self._decided(self.value, self.formula)

    def __float__(self):
        self._recorder.reproducible = False
        return float(self.value)

    def __int__(self):
        self._recorder.reproducible = False
        return int(self.value)

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def _formula(scalar: Any) -> str:
    """Return the Python text of a scalar: what was written down, or the literal of a plain number."""
    if isinstance(scalar, Number):
        return scalar.formula
    text = repr(int(scalar)) if isinstance(scalar, int) else repr(float(scalar))
    return f"({text})" if math.isfinite(scalar) else f"float({text!r})"


def _arithmetic(symbol: str, function: Callable[[Any, Any], Any]) -> tuple[Callable, Callable]:
    def forward(self, other):
        other = _constant(other)
        if isinstance(other, Number):
            return self._computed(function(self.value, other.value), f"({self.formula} {symbol} {other.formula})")
        if isinstance(other, (int, float)):
            return self._computed(function(self.value, other), f"({self.formula} {symbol} {_formula(other)})")
        return NotImplemented

    def reflected(self, other):
        other = _constant(other)
        if isinstance(other, (int, float)):
            return self._computed(function(other, self.value), f"({_formula(other)} {symbol} {self.formula})")
        return NotImplemented

    return forward, reflected


def _comparison(symbol: str, function: Callable[[Any, Any], Any]) -> Callable:
    def compare(self, other):
        other = _constant(other)
        if isinstance(other, Number):
            return self._decided(function(self.value, other.value), f"{self.formula} {symbol} {other.formula}")
        if isinstance(other, (int, float)):
            return self._decided(function(self.value, other), f"{self.formula} {symbol} {_formula(other)}")
        return NotImplemented

    return compare


for _name, _symbol_text in {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "truediv": "/",
    "floordiv": "//",
    "mod": "%",
    "pow": "**",
}.items():
    _forward, _reflected = _arithmetic(_symbol_text, getattr(operator, _name))
    setattr(Number, f"__{_name}__", _forward)
    setattr(Number, f"__r{_name}__", _reflected)
for _name, _symbol_text in {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items():
    setattr(Number, f"__{_name}__", _comparison(_symbol_text, getattr(operator, _name)))


class Expr:
    """Stands for a tensor while a rule is traced: knows the words of :mod:`optizoo.rules` and nothing else."""

    __slots__ = ("_recorder", "number")
    __array_ufunc__ = None  # numpy's numbers leave the arithmetic to this class

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

    def clamp_max(self, maximum):
        """Record the values, none above ``maximum``."""
        return self._recorder.record("clamp_max", self, scalar=maximum)

    def sqrt(self):
        """Record the square root."""
        return self._recorder.record("sqrt", self)

    def abs(self):
        """Record the magnitude."""
        return self._recorder.record("abs", self)

    def sign(self):
        """Record -1, 0 or 1."""
        return self._recorder.record("sign", self)

    def __pow__(self, exponent):
        raise TraceError("'**' of a tensor is not a word of the rules; write x * x or x.sqrt()")

    def __eq__(self, other):
        raise TraceError("a rule may not compare tensors; compare hyper-parameters, or use sign, maximum and clamp_min")

    __ne__ = __eq__
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __bool__(self):
        raise TraceError("a rule may not branch on a tensor; branch on hyper-parameters, or use maximum and clamp_min")

    def __getattr__(self, name):
        pure = f"; rules write nothing in place, {name[:-1]!r} returns the result" if name.rstrip("_") in WORDS else ""
        known = ", ".join(word for word in WORDS if not word.endswith("_scalar"))
        raise TraceError(f"{name!r} is not a word of the rules, which know {known} and the operators + - * /{pure}")
