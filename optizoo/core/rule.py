"""What a rule is: a pure function whose signature declares its states and options, and the words that it may use."""

import ctypes
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optizoo.core.master import FUNCTIONS

Rule = Callable[..., Any]

GIVEN = ("step", "shape", "machine_eps")
"""What a rule gets by naming it: the number of this update from 1 on, the sizes of the parameter as a tuple, and the
distance from 1 to the next number of the parameter's type."""

NUMBER, ROWS, COLUMNS, FULL, MATRIX = 0, 1, 2, 3, 7
"""Ranks of values: one number of a tensor, one of every row, one of every column, one of every element; and a matrix of
another shape. Where a word has several operands, the rank of its result is the union of theirs, as torch broadcasts."""


class Word(NamedTuple):
    """One word of the rules.

    Attributes:
        call: The method of a tensor that it is; a loop calls nothing else. Lists have ``torch._foreach_`` of that name,
            where there is one.
        scalar: The name of its number, or ``None`` where it takes tensors only.
        c: Its expression in C: {0} {1} {2} are the operands, {s} the scalar. The fma stand where the vector code of
            torch has them, which makes every word but sqrt (whose rounding in torch depends on the machine) equal to
            torch's. Of a reduction, what is summed up (``amax``: compared). Empty where there is no kernel.
        triton: Its expression in Triton. The comparisons are false beside NaN, and chosen so that NaN goes on where
            torch lets it go on. Of a reduction, what is summed up; empty where there is no kernel.
        rank: Of the result, where it is not the union of the operands'.
        arguments: Further arguments of the call.
        second: The name of a second number, which stands behind the first.
        last: The name of the last operand, where the call has it by name.
    """

    call: str
    scalar: str | None
    c: str = ""
    triton: str = ""
    rank: int | None = None
    arguments: tuple[tuple[str, Any], ...] = ()
    second: str | None = None
    last: str | None = None

    @property
    def reduces(self) -> bool:
        """Whether it makes one number of a tensor."""
        return self.rank == NUMBER and self.call != "double"

    def apply(self, first: Any, *others: Any, numbers: Sequence[Any] = (), in_place: bool = False) -> Any:
        """Return what the word makes of tensors and its numbers, as a rule calls it; or write it into the first."""
        if self.call in FUNCTIONS:
            return FUNCTIONS[self.call](first, *others)
        method = getattr(first, f"{self.call}_" if in_place else self.call)
        if self.last is not None:
            named: dict[str, Any] = {self.last: others[-1]}
            return method(*others[:-1], **named)
        if self.scalar in ("alpha", "value", "beta"):
            names = (self.scalar, *([self.second] if self.second else []))
            return method(*others, **dict(zip(names, numbers, strict=True)))
        return method(*others, *numbers, **dict(self.arguments))


_ALONG_ROWS, _ALONG_COLUMNS = (("dim", -1), ("keepdim", True)), (("dim", -2), ("keepdim", True))
_NEAREST = "tl.where(tl.abs({s}) < 0.5, {s}, {s} - 1.0), tl.where(tl.abs({s}) < 0.5, {0}, {1})"

WORDS: dict[str, Word] = {
    # From the nearer end lerp goes, so that weight 1 gives the end itself; b + (w - 1)(b - a) is a + w(b - a).
    "add": Word("add", "alpha", "FMA({1}, {s}, {0})", "tl.fma({1}, {s}, {0})"),
    "add_times": Word("add", None, "FMA({1}, {2}, {0})", "tl.fma({1}, {2}, {0})", last="alpha"),  # a tensor's number
    "add_scalar": Word("add", "other", "{0} + {s}", "{0} + {s}"),
    "sub": Word("sub", None, "{0} - {1}", "{0} - {1}"),
    "mul": Word("mul", None, "{0} * {1}", "{0} * {1}"),
    "mul_scalar": Word("mul", "other", "{0} * {s}", "{0} * {s}"),
    "div": Word("div", None, "{0} / {1}", "{divide}({0}, {1})"),
    "div_scalar": Word("div", "other", "{0} / {s}", "{divide}({0}, {s})"),
    "lerp": Word("lerp", "weight", "LERP({0}, {1}, {s})", f"tl.fma({{1}} - {{0}}, {_NEAREST})"),
    "addcmul": Word("addcmul", "value", "FMA({s} * {1}, {2}, {0})", "tl.fma({1} * {2}, {s}, {0})"),
    "addcdiv": Word("addcdiv", "value", "{0} + {s} * {1} / {2}", "tl.fma({divide}({1}, {2}), {s}, {0})"),
    "maximum": Word("maximum", None, "MAXIMUM({0}, {1})", "tl.where(({0} > {1}) | ({0} != {0}), {0}, {1})"),
    "clamp_min": Word("clamp_min", "minimum", "({0} < {s} ? {s} : {0})", "tl.where({0} < {s}, {s}, {0})"),
    "clamp_max": Word("clamp_max", "maximum", "({0} > {s} ? {s} : {0})", "tl.where({0} > {s}, {s}, {0})"),
    "neg": Word("neg", None, "-{0}", "-{0}"),
    "reciprocal": Word("reciprocal", None, "1 / {0}", "{divide}(tl.full((), 1.0, {real}), {0})"),
    "sqrt": Word("sqrt", None, "SQRT({0})", "{sqrt}({0})"),
    "abs": Word("abs", None, "ABS({0})", "tl.abs({0})"),
    "sign": Word("sign", None, "(real)(({0} > 0) - ({0} < 0))", "({0} > 0).to({real}) - ({0} < 0).to({real})"),
    # Of what they compare, 1 where it holds and 0 elsewhere, for `where` alone.
    "gt": Word("gt", "other", "(real)({0} > {s})", "({0} > {s}).to({real})"),
    "ge": Word("ge", "other", "(real)({0} >= {s})", "({0} >= {s}).to({real})"),
    "lt": Word("lt", "other", "(real)({0} < {s})", "({0} < {s}).to({real})"),
    "le": Word("le", "other", "(real)({0} <= {s})", "({0} <= {s}).to({real})"),
    "where": Word("where", None, "({1} != 0 ? {0} : {2})", "tl.where({1} != 0, {0}, {2})"),
    "where_scalar": Word("where", "other", "({1} != 0 ? {0} : {s})", "tl.where({1} != 0, {0}, {s})"),
    "rsqrt": Word("rsqrt", None, "1 / SQRT({0})", "{divide}(tl.full((), 1.0, {real}), {sqrt}({0}))"),
    # Halves of float32 numbers.
    "joined": Word("joined", None, "joined({0}, {1})"),
    "top": Word("top", None, "top({0})"),
    "rest": Word("rest", None, "rest({0})"),
    # One number of a whole tensor; in kernels summed up in double precision, in an order that hangs on sizes alone.
    "sum": Word("sum", None, "(double){0}", "{0}.to(tl.float64)", rank=NUMBER),
    "mean": Word("mean", None, "(double){0}", "{0}.to(tl.float64)", rank=NUMBER),
    "norm": Word("norm", None, "(double){0} * (double){0}", "{0}.to(tl.float64) * {0}.to(tl.float64)", rank=NUMBER),
    "amax": Word("amax", None, "(double){0}", "{0}.to(tl.float64)", rank=NUMBER),
    "double": Word("double", None, "{0}", "{0}", rank=NUMBER),
    # One number of every row, or of every column.
    "sum_of_rows": Word("sum", None, rank=ROWS, arguments=_ALONG_ROWS),
    "sum_of_columns": Word("sum", None, rank=COLUMNS, arguments=_ALONG_COLUMNS),
    "mean_of_rows": Word("mean", None, rank=ROWS, arguments=_ALONG_ROWS),
    "mean_of_columns": Word("mean", None, rank=COLUMNS, arguments=_ALONG_COLUMNS),
    "norm_of_rows": Word("norm", None, rank=ROWS, arguments=_ALONG_ROWS),
    "norm_of_columns": Word("norm", None, rank=COLUMNS, arguments=_ALONG_COLUMNS),
    # Matrices, which torch multiplies.
    "matmul": Word("matmul", None, rank=MATRIX),
    "addmm": Word("addmm", "beta", rank=MATRIX, second="alpha"),
    "transpose": Word("transpose", None, rank=MATRIX, arguments=(("dim0", -1), ("dim1", -2))),
    "flatten": Word("flatten", None, rank=MATRIX, arguments=(("start_dim", 1),)),
    "reshape_as": Word("reshape_as", None, rank=FULL),
    "bfloat16": Word("bfloat16", None),
    "type_as": Word("type_as", None),
}
"""Every word that rules know, with its text in each execution. Words that end in ``_scalar`` have a number where their
namesake has a second tensor."""

VIEWS = ("transpose", "flatten", "reshape_as", "bfloat16", "type_as", "double")
"""Words whose results may be what they are given, or share its memory."""

COMPARISONS = ("gt", "ge", "lt", "le")
"""Words whose results are masks."""


def times(number: Any, factor: Any) -> Any:
    """Return ``number * factor`` as torch computes what it keeps beside ``step``: in its type, which is float32."""
    if hasattr(number, "times"):  # it is traced
        return number.times(factor)
    if isinstance(number, float) and isinstance(factor, float) and step_dtype() is torch.float32:
        return ctypes.c_float(number * ctypes.c_float(factor).value).value
    return number * factor


def root(number: Any) -> Any:
    """Return the square root of a number that depends on no tensor; ``number**0.5`` may be rounded the other way."""
    return number.root() if hasattr(number, "root") else math.sqrt(number)


def at_least(number: Any, least: Any) -> Any:
    """Return the larger of two numbers, the first of which may be one of a tensor; beside NaN ``least``, as ``max``."""
    return number.where(number > least, least) if hasattr(number, "where") else max(least, number)


def at_most(number: Any, most: Any) -> Any:
    """Return the smaller of two numbers, the first of which may be one of a tensor; beside NaN ``most``, as ``min``."""
    return number.where(number < most, most) if hasattr(number, "where") else min(most, number)


def kept(number: Any) -> Any:
    """Return a number as torch keeps it beside ``step``."""
    return times(number, 1.0)


def larger(a: Any, b: Any) -> Any:
    """Return the larger of two numbers; of tensors without reading them, where Python's ``max`` would branch."""
    return _of_two(torch.maximum, a, b) if _on_device(a) or _on_device(b) else max(a, b)


def smaller(a: Any, b: Any) -> Any:
    """Return the smaller of two numbers; see :func:`larger`."""
    return _of_two(torch.minimum, a, b) if _on_device(a) or _on_device(b) else min(a, b)


def _on_device(number: Any) -> bool:
    return isinstance(number, Tensor) or hasattr(number, "tensor")


def _of_two(function: Callable[[Tensor, Tensor], Tensor], a: Any, b: Any) -> Any:
    tensors = [getattr(number, "tensor", number) for number in (a, b)]
    like = next(number for number in tensors if isinstance(number, Tensor))
    result = function(*(number if isinstance(number, Tensor) else torch.full_like(like, number) for number in tensors))
    wrapper = next((type(number) for number in (a, b) if hasattr(number, "tensor")), None)
    return result if wrapper is None else wrapper(result)


def step_dtype() -> torch.dtype:
    """Return the type of ``step``: as torch has it, float64 if that is the default type."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


@dataclass(frozen=True)
class RuleSchema:
    """What the signature of a rule declares.

    Attributes:
        states: The states, in order, and whether each starts as zeros (or may be absent: default ``None``).
        numbers: The running numbers, one for all tensors that step together, and where each starts: states whose
            default is a number. They stand behind the others, and the rule returns their new values.
        options: The hyper-parameters that the rule names, without those of :data:`GIVEN`.
        given: Which of :data:`GIVEN` it names.
        sums: Whether it sums over the model: it is a generator, which yields numbers of its tensor and gets their sums.
    """

    states: dict[str, bool]
    numbers: dict[str, float]
    options: tuple[str, ...]
    given: tuple[str, ...]
    sums: bool

    @property
    def names_step(self) -> bool:
        """Whether the rule names ``step``."""
        return "step" in self.given


@lru_cache
def schema(rule: Rule) -> RuleSchema:
    """Read the schema of ``rule`` off its signature."""
    parameters = inspect.signature(rule).parameters.values()
    state = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][2:]
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    numbers = {p.name: float(p.default) for p in state if p.default not in (p.empty, None)}
    if [p.name for p in state][len(state) - len(numbers) :] != [*numbers]:
        raise TypeError(f"rule {rule.__name__!r} must name its running numbers behind its other states")
    return RuleSchema(
        states={p.name: p.default is p.empty for p in state if p.name not in numbers},
        numbers=numbers,
        options=tuple(name for name in keywords if name not in GIVEN),
        given=tuple(name for name in keywords if name in GIVEN),
        sums=inspect.isgeneratorfunction(inspect.unwrap(rule)),
    )


def driven(results: Any, totals: Sequence[Any]) -> tuple[Any, bool]:
    """Return what a rule returns, once it knows the sums over the model that it asks for.

    Args:
        results: What the call of the rule has returned; a generator where it sums.
        totals: The sums that are known.

    Returns:
        The results and ``False``; or, where they are not enough, what is to be summed next, and ``True``.
    """
    if not inspect.isgenerator(results):
        return results, False
    try:
        wanted = next(results)
        for total in totals:
            wanted = results.send(total)
    except StopIteration as done:
        return done.value, False
    results.close()
    return wanted, True


@lru_cache
def sorted_states(
    rule: Rule, on: tuple[str, ...], off: tuple[str, ...]
) -> tuple[dict[str, bool], tuple[str, ...], tuple[str, ...]]:
    """Sort the states of ``rule``, of which options switch some on and some off.

    Returns:
        For every state whether it starts as zeros, the names of those, and the names of those that the rule makes.
    """
    states = {name: (zeros or name in on) and name not in off for name, zeros in schema(rule).states.items()}
    zeros = tuple(name for name, starts_as_zeros in states.items() if starts_as_zeros)
    return states, zeros, tuple(name for name in states if name not in (*zeros, *off))


@lru_cache
def around(outer: Rule, rule: Rule) -> Rule:
    """Return the rule ``outer(rule, ...)``, with the states and the options of both.

    Args:
        outer: ``(rule, param, grad, *own, *state, **options) -> (param, *own, *state)``, where ``own`` are states that
            it has itself: they stand in its signature, and the others as ``*state``. All of them start as zeros, or
            all have the default ``None``.
        rule: The rule that it calls, as any other function, also where it sums over the model.
    """
    own = [p for p in inspect.signature(outer).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD][3:]
    added = [p for p in inspect.signature(outer).parameters.values() if p.kind is p.KEYWORD_ONLY]
    inner = inspect.signature(rule).parameters
    count, states = len(own), len(schema(rule).states)
    leads = bool(own) and own[0].default is own[0].empty  # states that start as zeros stand before the others
    own_end = states + count

    def called(rule: Rule, param: Any, grad: Any, *state: Any, **options: Any) -> tuple:
        if leads:
            return outer(rule, param, grad, *state, **options)
        new, *results = outer(rule, param, grad, *state[states:own_end], *state[:states], *state[own_end:], **options)
        return new, *results[count : count + states], *results[:count], *results[count + states :]

    @wraps(rule)
    def update(*args: Any, **options: Any) -> Any:
        return _summing(called, rule, args, options) if schema(rule).sums else called(rule, *args, **options)

    numbers = [p for name, p in inner.items() if name in schema(rule).numbers]
    leading = [p for name, p in inner.items() if p.kind is p.POSITIONAL_OR_KEYWORD and name not in schema(rule).numbers]
    options = {p.name: p for p in (*inner.values(), *added) if p.kind is p.KEYWORD_ONLY}
    states_in_order = [*leading[:2], *own, *leading[2:]] if leads else [*leading, *own]
    signature = inspect.Signature([*states_in_order, *numbers, *options.values()])
    vars(update)["__signature__"] = signature
    return update


class _WaitsError(Exception):
    """A rule inside another wants a sum that is not known yet."""


def _summing(outer: Rule, rule: Rule, args: Sequence[Any], options: Mapping[str, Any]) -> Iterator[Any]:
    """Run a rule around one that sums: from the beginning, whenever one more sum is known, as both are pure."""
    totals: list[Any] = []

    @wraps(rule)
    def known(*inner_args: Any, **inner_options: Any) -> Any:
        results, waits = driven(rule(*inner_args, **inner_options), totals)
        if waits:
            raise _WaitsError(results)
        return results

    while True:
        try:
            return outer(known, *args, **options)
        except _WaitsError as error:
            (wanted,) = error.args
        totals.append((yield wanted))


def check_results(rule: Callable[..., Any], results: Any, names: Sequence[str]) -> None:
    """Raise ``TypeError`` unless a rule returned a tuple with one result for each of ``names``."""
    if not isinstance(results, tuple) or len(results) != len(names):
        expected = f"({', '.join(names)}{',' if len(names) == 1 else ''})"
        got = f"{len(results)} results" if isinstance(results, tuple) else repr(results)
        raise TypeError(f"rule {rule.__name__!r} must return the tuple {expected}; got {got}")
