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

import functools
import inspect
import math
import operator
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor

from optizoo.core.checks import plain
from optizoo.core.rule import COMPARISONS, FULL, MATRIX, NUMBER, WORDS, check_results, driven, root, schema, times

TOTAL = "total"
"""Name of the output of a program that is cut where its rule waits for a sum over the model."""

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
        outputs: For the parameter and each state that the rule returns, its name and the number of its new value. Or
            ``TOTAL`` alone, and what is to be summed over the model.
        ranks: For every input that has not one number for every element, its rank.
    """

    inputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[tuple[str, int], ...]
    ranks: tuple[tuple[str, int], ...] = ()

    @cached_property
    def rank(self) -> tuple[int, ...]:
        """For every value its rank, a constant of :mod:`optizoo.core.rule`."""
        known = dict(self.ranks)
        ranks = [known.get(name, FULL) for name in self.inputs]
        for operation in self.operations:
            ranks.append(ranked(operation.word, [ranks[operand] for operand in operation.operands]))
        return tuple(ranks)

    @cached_property
    def elementwise(self) -> bool:
        """Whether every element goes its own way."""
        return all(rank == FULL for rank in self.rank)

    @cached_property
    def unkerneled(self) -> str | None:
        """What no kernel computes, or ``None``."""
        word = next((operation.word for operation in self.operations if not WORDS[operation.word].c), None)
        if word is not None:
            return f"{WORDS[word].call!r} of rows, columns or matrices" if word != "bfloat16" else repr(word)
        reduced = [operation for operation in self.operations if WORDS[operation.word].reduces]
        if any(self.rank[operation.operands[0]] != FULL for operation in reduced):
            return "a reduction of what is one number already"
        if any(name == "param" and self.rank[value] != FULL for name, value in self.outputs):
            return "a parameter that becomes one number everywhere"
        return f"states that are no tensors of its shape ({', '.join(dict(self.ranks))})" if self.ranks else None

    @cached_property
    def _hash(self) -> int:
        return hash((self.inputs, self.operations, self.outputs, self.ranks))

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
                arguments.append(f"{WORDS[operation.word].scalar}=${operation.scalar}")
            lines.append(f"%{number} = {operation.word}({', '.join(arguments)})")
        lines += [f"{output} <- {name(value)}" for output, value in self.outputs]
        return "\n".join(lines)


def ranked(word: str, operands: Sequence[int]) -> int:
    """Return the rank of what a word makes of operands of these ranks."""
    own = WORDS[word].rank
    if word == "type_as":
        return operands[0]
    if own is None:
        return functools.reduce(operator.or_, operands)
    return MATRIX if own not in (NUMBER, FULL) and MATRIX in operands else own


def trace(
    rule: Callable[..., Any],
    states: Mapping[str, bool],
    *,
    maximize: bool = False,
    totals: Sequence[float] = (),
    **options: Any,
) -> tuple[Program, tuple[Any, ...]]:
    """Return what ``rule`` does under these options.

    The rule runs once for every wiring. Its scalars are kept as formulas of the options, and what its branches depended
    on as conditions; while those hold, later calls only evaluate the formulas.

    Args:
        rule: A function of :mod:`optizoo.rules`, or any function of that form.
        states: For every state of the rule, in its order, whether it exists.
        maximize: The rule sees the negative gradient.
        totals: The sums over the model that are known; where the rule wants more, the program ends there.
        **options: The hyper-parameters that the rule names, and its running numbers. They decide the wiring; their
            values become scalars.

    Returns:
        The program and its scalars.

    Raises:
        TraceError: The rule used a word outside the vocabulary, or ``if`` on a tensor.
        TypeError: The rule did not return one result for the parameter and each state.
    """
    options = _plain(options, totals)
    wiring, program, scalars, _ = _traced(rule, states, maximize, options)
    return (program, scalars) if wiring is None else (wiring.program, wiring.scalars(*options.values()))


def running(
    rule: Callable[..., Any], states: Mapping[str, bool], *, totals: Sequence[float] = (), **options: Any
) -> dict[str, Any]:
    """Return the new values of the running numbers of ``rule``; the arguments are those of :func:`trace`."""
    names = schema(rule).numbers
    if not names:
        return {}
    maximize = options.pop("maximize", False)
    options = _plain(options, totals)
    wiring, _, _, numbers = _traced(rule, states, maximize, options)
    return dict(zip(names, numbers if wiring is None else wiring.numbers(*options.values()), strict=True))


def _plain(options: Mapping[str, Any], totals: Sequence[float]) -> dict[str, Any]:
    known = {f"{TOTAL} {index}": float(total) for index, total in enumerate(totals)}
    return {**{name: plain(value) for name, value in options.items()}, **known}


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
        numbers: Takes the values of the options, in order; returns the new values of the running numbers.
        running: The text of each of these.
    """

    program: Program
    holds: Callable[..., bool]
    scalars: Callable[..., tuple[Any, ...]]
    conditions: tuple[str, ...]
    formulas: tuple[str, ...]
    numbers: Callable[..., tuple[Any, ...]]
    running: tuple[str, ...]


def watched(function: Callable[..., Any], options: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]] | None:
    """Return what ``function(options)`` returns, and on which conditions of their numbers that hangs.

    Args:
        function: Takes the options; nothing else decides what it does.
        options: By name; in the conditions, which are those of a :class:`Wiring`, ``option0`` is the first.

    Returns:
        ``None`` where the numbers were used in a way that conditions cannot tell.
    """
    recorder = _Recorder([], [])
    result = function({name: _symbol(f"option{i}", value, recorder) for i, (name, value) in enumerate(options.items())})
    return (result, tuple(recorder.conditions)) if recorder.reproducible else None


# rule -> (states, maximize, names of the options) -> the wirings that were met
_wirings: WeakKeyDictionary[Callable[..., tuple], dict[tuple, list[Wiring]]] = WeakKeyDictionary()


def _traced(
    rule: Callable[..., Any], states: Mapping[str, bool], maximize: bool, options: Mapping[str, Any]
) -> tuple[Wiring | None, Program, tuple[Any, ...], tuple[Any, ...]]:
    situation = (*states.items(), maximize, *options)
    known = _wirings.get(rule)
    if known is None:
        known = _wirings[rule] = {}
    wirings = known.setdefault(situation, [])
    for wiring in wirings:
        if wiring.holds(*options.values()):
            return wiring, wiring.program, (), ()
    kinds: dict[str, Any] = {}
    conditions = [_kind(f"option{index}", value, kinds) for index, value in enumerate(options.values())]
    recorder, program, numbers = _ranked_run(rule, states, maximize, options)
    scalars = tuple(map(_value, recorder.scalars))
    written = [*recorder.scalars, *numbers]
    if not recorder.reproducible or not all(isinstance(scalar, (Number, int, float)) for scalar in written):
        return None, program, scalars, tuple(map(_value, numbers))
    arguments = ", ".join(f"option{index}" for index in range(len(options)))
    formulas, new_numbers = tuple(map(_formula, recorder.scalars)), tuple(map(_formula, numbers))
    branches = tuple(dict.fromkeys(recorder.conditions))
    wiring = Wiring(
        program,
        holds=eval(f"lambda {arguments}: {' and '.join([*conditions, *branches]) or True}", kinds),
        scalars=_tuple_of(formulas, arguments),
        conditions=branches,
        formulas=formulas,
        numbers=_tuple_of(new_numbers, arguments),
        running=new_numbers,
    )
    wirings.append(wiring)
    return wiring, program, scalars, ()


def _tuple_of(formulas: Sequence[str], arguments: str) -> Callable[..., tuple[Any, ...]]:
    functions = {"times": times, "root": root}
    return eval(f"lambda {arguments}: ({''.join(f'{formula}, ' for formula in formulas)})", functions)


def _value(number: Any) -> Any:
    return number.value if isinstance(number, Number) else number


def _ranked_run(
    rule: Callable[..., Any], states: Mapping[str, bool], maximize: bool, options: Mapping[str, Any]
) -> "tuple[_Recorder, Program, Sequence[Any]]":
    """Run a rule with the ranks that its states have: those that it gives them when it makes them."""

    def run(states: Mapping[str, bool], ranks: Mapping[str, int]) -> "tuple[_Recorder, Program, Sequence[Any]]":
        recorder = _Recorder(["param", "grad", *ranks], [FULL, FULL, *ranks.values()])
        symbols = {name: _symbol(f"option{i}", value, recorder) for i, (name, value) in enumerate(options.items())}
        return recorder, *_run(rule, states, recorder, maximize, symbols)

    ranks = {name: FULL for name, exists in states.items() if exists}
    recorder, program, numbers = run(states, ranks)
    made = [name for name in ranks if not schema(rule).states[name]]
    if program.elementwise or not made:
        return recorder, program, numbers
    # The first update tells the ranks of what it makes; an average that began with them would only widen them.
    try:
        first, beginning, _ = run(
            {name: exists and name not in made for name, exists in states.items()},
            {name: rank for name, rank in ranks.items() if name not in made},
        )
    except TraceError:  # an option switches the state on, and the rule needs it
        return recorder, program, numbers
    ranks |= {name: first.ranks[value] for name, value in beginning.outputs if name in made}
    return run(states, ranks)


def _run(
    rule: Callable[..., Any],
    states: Mapping[str, bool],
    recorder: "_Recorder",
    maximize: bool,
    options: Mapping[str, Any],
) -> tuple[Program, Sequence[Any]]:
    param, grad, *existing = (Expr(recorder, number) for number in range(len(recorder.inputs)))
    remaining = iter(existing)
    state = [next(remaining) if exists else None for exists in states.values()]
    names = ("param", *states)
    known = {name: value for name, value in options.items() if name.startswith(f"{TOTAL} ")}
    options = {name: value for name, value in options.items() if name not in known}
    try:
        results, waits = driven(rule(param, -grad if maximize else grad, *state, **options), [*known.values()])
    except (AttributeError, TypeError) as error:
        raise TraceError(
            f"rule {rule.__name__!r} cannot be traced: {error}{_place(rule, error)}{LOOP_REMEDY}"
        ) from error
    if waits:
        if not isinstance(results, Expr) or recorder.ranks[results.number] != NUMBER:
            raise TraceError(f"rule {rule.__name__!r} can only yield one number of its tensor, such as x.sum()")
        return recorder.program([(TOTAL, results.number)], cut=True), ()
    numbers = schema(rule).numbers
    check_results(rule, results, (*names, *numbers))
    outputs = []
    for name, result in zip(names, results, strict=False):
        if isinstance(result, Expr):
            outputs.append((name, result.number))
        elif result is not None or name == "param":
            raise TraceError(
                f"rule {rule.__name__!r} returned {result!r} for {name!r}; it must be computed from tensors"
            )
    return recorder.program(outputs, cut=bool(known)), results[len(names) :]


def _place(rule: Callable[..., tuple], error: Exception) -> str:
    """Return file, line and text of the place in the rule from which an error came."""
    code = getattr(inspect.unwrap(rule), "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno}: {own[-1].line})" if own else ""


class _Recorder:
    def __init__(self, inputs: list[str], ranks: list[int]):
        self.inputs = inputs
        self.ranks = ranks  # of all values
        self.operations: list[Operation] = []
        self.scalars: list[Any] = []
        self.masks: set[int] = set()  # the values that are comparisons
        self.conditions: list[str] = []  # Python expressions of the options on which the branches of the rule depend
        self.reproducible = True  # whether conditions and formulas tell all that the options do

    def record(self, word: str, *operands: "Expr", scalar: Any = None, second: Any = None) -> "Expr":
        for operand in operands:
            if not isinstance(operand, Expr):
                raise TraceError(f"{word!r} takes tensors of the rule here; got {operand!r}")
            if word.startswith("where") and operand is operands[1]:
                if operand.number not in self.masks:
                    raise TraceError("'where' takes a comparison, such as x > 0")
            elif operand.number in self.masks:
                raise TraceError(f"a comparison is for 'where' alone, not for {word.removesuffix('_scalar')!r}")
        index = None
        if WORDS[word].scalar is not None:
            scalar = _constant(scalar)
            if not _is_number(scalar):
                got = "a tensor" if isinstance(scalar, (Expr, Tensor)) else repr(scalar)
                raise TraceError(f"{word.removesuffix('_scalar')!r} takes a number here; got {got}")
            index = len(self.scalars)
            self.scalars += [scalar] if second is None else [scalar, _constant(second)]
        self.operations.append(Operation(word, tuple(operand.number for operand in operands), index))
        self.ranks.append(ranked(word, [self.ranks[operand.number] for operand in operands]))
        if word in COMPARISONS:
            self.masks.add(len(self.ranks) - 1)
        return Expr(self, len(self.ranks) - 1)

    def program(self, outputs: Sequence[tuple[str, int]], *, cut: bool) -> Program:
        """Return the program with these outputs; where it is cut, without what does not lead to them."""
        ranks = tuple((name, rank) for name, rank in zip(self.inputs, self.ranks, strict=False) if rank != FULL)
        if not cut:
            return Program(tuple(self.inputs), tuple(self.operations), tuple(outputs), ranks)
        count = len(self.inputs)
        needed = {value for _, value in outputs}
        for number, operation in reversed([*enumerate(self.operations, start=count)]):
            if number in needed:
                needed.update(operation.operands)
        places = {number: number for number in range(count)}
        operations: list[Operation] = []
        scalars: list[Any] = []
        for number, operation in enumerate(self.operations, start=count):
            if number in needed:
                places[number] = count + len(operations)
                scalar = None
                if operation.scalar is not None:
                    scalar = len(scalars)
                    scalars += self.scalars[operation.scalar :][: 1 + bool(WORDS[operation.word].second)]
                operations.append(Operation(operation.word, tuple(places[each] for each in operation.operands), scalar))
        self.scalars = scalars
        return Program(
            tuple(self.inputs), tuple(operations), tuple((name, places[value]) for name, value in outputs), ranks
        )


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

    def times(self, factor):
        """Return the product as :func:`optizoo.core.rule.times` makes it."""
        return self._computed(times(self.value, _value(factor)), f"times({self.formula}, {_written(factor)})")

    def root(self):
        """Return the square root as :func:`optizoo.core.rule.root` makes it."""
        return self._computed(root(self.value), f"root({self.formula})")

    def __index__(self):
        count = operator.index(self.value)
        self._recorder.conditions.append(f"{self.formula} == {count}")
        return count

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


def _written(value: Any) -> str:
    return _formula(_constant(value))


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
        if not isinstance(alpha, Expr):
            return self._recorder.record("add", self, other, scalar=alpha)
        if self._recorder.ranks[alpha.number] != NUMBER:
            raise TraceError("'add' takes a number here, or one of the tensor such as x.norm(); got a tensor")
        return self._recorder.record("add_times", self, other, alpha)

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

    def rsqrt(self):
        """Record the reciprocal of the square root."""
        return self._recorder.record("rsqrt", self)

    def joined(self, rest):
        """Record the float32 numbers of which the two are the halves."""
        return self._recorder.record("joined", self, rest)

    def top(self):
        """Record the values, rounded to bfloat16."""
        return self._recorder.record("top", self)

    def rest(self):
        """Record what is left of the values."""
        return self._recorder.record("rest", self)

    def where(self, mask, other):
        """Record the values where a comparison holds, and ``other`` elsewhere."""
        if isinstance(other, Expr):
            return self._recorder.record("where", self, mask, other)
        return self._recorder.record("where_scalar", self, mask, scalar=other)

    def sum(self, dim=None, *, keepdim=False):
        """Record the sum of all elements, or of those of each row (``dim=-1``) or column (``dim=-2``)."""
        return self._reduced("sum", dim, keepdim)

    def mean(self, dim=None, *, keepdim=False):
        """Record the mean of all elements, of each row or of each column."""
        return self._reduced("mean", dim, keepdim)

    def norm(self, *, dim=None, keepdim=False):
        """Record the Euclidean norm of all elements, of each row or of each column."""
        return self._reduced("norm", dim, keepdim)

    def amax(self):
        """Record the largest element."""
        return self._recorder.record("amax", self)

    def double(self):
        """Record a number in double precision."""
        if self._recorder.ranks[self.number] != NUMBER:
            raise TraceError("'double' is for a number of the tensor, such as x.norm().double()")
        return self._recorder.record("double", self)

    def _reduced(self, word, dim, keepdim):
        if dim is None:
            return self._recorder.record(word, self)
        if dim not in (-1, -2) or not keepdim:
            raise TraceError(f"{word!r} reduces all, or dim=-1 or dim=-2 with keepdim=True; got {dim=}, {keepdim=}")
        return self._recorder.record(f"{word}_of_{'rows' if dim == -1 else 'columns'}", self)

    def __matmul__(self, other):
        return self._recorder.record("matmul", self, other)

    @property
    def T(self):  # noqa: N802
        """Record the matrix with its last two dimensions exchanged."""
        return self._recorder.record("transpose", self)

    mT = T  # noqa: N815

    def addmm(self, mat1, mat2, *, beta=1, alpha=1):
        """Record beta · self + alpha · mat1 @ mat2."""
        return self._recorder.record("addmm", self, mat1, mat2, scalar=beta, second=alpha)

    def flatten(self, start_dim=0):
        """Record a matrix with the first dimension, and all others as one."""
        if start_dim != 1:
            raise TraceError(f"'flatten' makes a matrix of a kernel, with start_dim=1; got {start_dim=}")
        return self._recorder.record("flatten", self)

    def reshape_as(self, other):
        """Record the elements in the shape of ``other``."""
        return self._recorder.record("reshape_as", self, other)

    def bfloat16(self):
        """Record the values, rounded to bfloat16."""
        return self._recorder.record("bfloat16", self)

    def type_as(self, other):
        """Record the values in the type of ``other``."""
        return self._recorder.record("type_as", self, other)

    def __gt__(self, other):
        return self._recorder.record("gt", self, scalar=other)

    def __ge__(self, other):
        return self._recorder.record("ge", self, scalar=other)

    def __lt__(self, other):
        return self._recorder.record("lt", self, scalar=other)

    def __le__(self, other):
        return self._recorder.record("le", self, scalar=other)

    def __pow__(self, exponent):
        raise TraceError("'**' of a tensor is not a word of the rules; write x * x or x.sqrt()")

    def __eq__(self, other):
        raise TraceError("a rule may not ask whether tensors are equal; compare by > or <, for `where`")

    __ne__ = __eq__
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __bool__(self):
        raise TraceError(
            "a rule may not branch on a tensor; branch on hyper-parameters, or use where, maximum and clamp_min"
        )

    def __getattr__(self, name):
        pure = f"; rules write nothing in place, {name[:-1]!r} returns the result" if name.rstrip("_") in WORDS else ""
        known = ", ".join(word for word in WORDS if not word.endswith("_scalar"))
        raise TraceError(f"{name!r} is not a word of the rules, which know {known} and the operators + - * /{pure}")
