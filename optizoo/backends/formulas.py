"""Formulas of scalars, from the Python text that a trace wrote down to the words that C evaluates.

The text is arithmetic of the options: ``(1 - (option1[0] ** option4))``. In C it is a list of words for a machine with
a stack, in double precision, as Python's own floats are; C gives up where a result is not finite, which covers all
that Python would raise or make complex.

>>> compiled("(1 - option0)", {"option0": "lr"})
[('CONSTANT', 1.0), ('LOAD', 'lr'), ('SUB', None)]
"""

import ast
import ctypes
import itertools
import math
import struct
from collections.abc import Mapping
from typing import Any

WORDS = (
    *("LOAD", "CONSTANT", "ADD", "SUB", "MUL", "DIV", "POW", "NEG", "ABS", "ROUND"),
    *("LT", "LE", "GT", "GE", "EQ", "NE", "REQUIRE", "STORE", "KEEP"),
)
"""The words, in the order of their numbers in ``step.c``."""

DEPTH = 32
"""Values that the stack of ``step.c`` has room for."""

_OPERATORS = {
    ast.Add: "ADD",
    ast.Sub: "SUB",
    ast.Mult: "MUL",
    ast.Div: "DIV",
    ast.Pow: "POW",
    ast.Lt: "LT",
    ast.LtE: "LE",
    ast.Gt: "GT",
    ast.GtE: "GE",
    ast.Eq: "EQ",
    ast.NotEq: "NE",
}

Code = list[tuple[str, Any]]


class InexpressibleError(ValueError):
    """A formula has no equal in C; Python evaluates it."""


class Number(ctypes.Structure):
    """A number that the tensors of one bucket keep, ``number_t`` of ``step.c``.

    Attributes:
        known: What each of its tensors holds.
        coming: What the next step makes of it.
        before: What it was before the last step.
        wide: Whether its tensors are float64, or else float32.
    """

    _fields_ = (
        ("known", ctypes.c_double),
        ("coming", ctypes.c_double),
        ("before", ctypes.c_double),
        ("wide", ctypes.c_int64),
    )


def compiled(text: str, operands: Mapping[str, Any], *, single: bool = True) -> Code:
    """Return the words of a formula.

    Args:
        text: The formula.
        operands: For ``option0``, and for ``option1[0]`` where the option is a tuple, a number where it never changes,
            else the name that ``LOAD`` gets.
        single: Whether :func:`optizoo.core.rule.times` rounds to float32.

    Raises:
        InexpressibleError: The formula has a part that C cannot evaluate to the same number.
    """
    code: Code = []
    _emit(ast.parse(text, mode="eval").body, operands, code, single)
    growth = {"LOAD": 1, "CONSTANT": 1, "NEG": 0, "ABS": 0, "ROUND": 0}
    depths = itertools.accumulate(growth.get(word, -1) for word, _ in code)
    if (deepest := max(depths)) > DEPTH:
        raise InexpressibleError(f"the formula {text} needs {deepest} values at once")
    return code


def condition(text: str, operands: Mapping[str, Any], *, single: bool = True) -> Code:
    """Return the words of a condition ``bool(formula) is True`` or ``is False``, which ends in ``REQUIRE``.

    Raises:
        InexpressibleError: As :func:`compiled`.
    """
    node = ast.parse(text, mode="eval").body
    match node:
        case ast.Compare(
            left=ast.Call(func=ast.Name(id="bool"), args=[formula]), ops=[ast.Is()], comparators=[ast.Constant(value)]
        ):
            return [*compiled(ast.unparse(formula), operands, single=single), ("REQUIRE", bool(value))]
    raise InexpressibleError(f"the condition {text} is of another form")


def instruction(word: str, operand: Any) -> tuple[int, int]:
    """Return a word and its operand as ``step.c`` takes them."""
    if word == "CONSTANT":
        return WORDS.index(word), struct.unpack("q", struct.pack("d", operand))[0]
    return WORDS.index(word), int(operand or 0)


def objection(library: ctypes.CDLL) -> str | None:
    """Return what ``step.c`` evaluates otherwise than Python does, or ``None``."""
    values = (0.0, -0.0, 1.0, -2.5, 0.1, 0.999, 1e-8, 3e-310, 1e308, -7.0, 1234567.0)
    operands = {"option0": "1", "option1": "2"}
    for text in _EXAMPLES:
        code = compiled(text, operands)
        evaluated = _Row([*code, ("STORE", 0), *code, ("KEEP", 0)])
        in_python = compile(text, "<formula>", "eval")
        required = _Row(condition(f"bool({text}) is True", operands))
        for first, second in itertools.product(values, repeat=2):
            try:
                expected = float(eval(in_python, {"option0": first, "option1": second, "times": _single_times}))
            except (ArithmeticError, TypeError):  # Python raises, or leaves the real numbers
                expected = math.nan
            numbers = (ctypes.c_double * 3)(0.0, first, second)
            known = bool(library.optizoo_evaluate(evaluated.words, numbers))
            found = struct.pack("2d", evaluated.scalar.value, evaluated.made.coming)
            same = found == struct.pack("2d", expected, expected)
            if known != math.isfinite(expected) or (known and not same):
                return f"it takes {text} of {first!r} and {second!r} for {evaluated.scalar.value!r}, not {expected!r}"
            if known and bool(library.optizoo_evaluate(required.words, numbers)) != bool(expected):
                return f"it takes {text} of {first!r} and {second!r} for {not bool(expected)}"
    return None


_EXAMPLES = (
    *(f"(option0 {symbol} option1)" for symbol in ("+", "-", "*", "/", "**", "<", "<=", ">", ">=", "==", "!=")),
    *("(-option1)", "abs(option1)", "(1 - (option1 ** option0))", "((1 - (0.9 ** option0)) ** 0.5)"),
    "((-option1) / (1 - (0.9 ** option0)))",
    *("times(option0, option1)", "times(times(option1, 0.1), (option0 * 0.3))"),
    "((((option0 - 4) * (option0 - 2)) * option1) / ((option1 - 4) * (option1 - 2)))",
)


class _Row:
    """A row of ``step.c`` with what it points to."""

    def __init__(self, code: Code):
        words = [*itertools.chain(*(instruction(word, operand) for word, operand in code))]
        self.code = (ctypes.c_int64 * len(words))(*words)
        self.scalar, self.made = ctypes.c_double(), Number(wide=1)
        scalar, at, made = map(ctypes.addressof, (self.scalar, self.code, self.made))
        self.words = (ctypes.c_int64 * 6)(0, scalar, len(code), at, 1, made)


def _single_times(number: float, factor: float) -> float:
    """Return what :func:`optizoo.core.rule.times` does where it rounds to float32."""
    return ctypes.c_float(number * ctypes.c_float(factor).value).value


def _emit(node: ast.AST, operands: Mapping[str, Any], code: Code, single: bool) -> bool:
    """Append the words of a node; return whether Python computes it in whole numbers, which have no bound there."""
    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            code.append(("CONSTANT", _exact(value)))
            return isinstance(value, int)
        case ast.Name() | ast.Subscript():
            operand = operands.get(ast.unparse(node))
            if isinstance(operand, (int, float)):
                code.append(("CONSTANT", _exact(operand)))
                return isinstance(operand, int)
            if operand is None:
                raise InexpressibleError(f"{ast.unparse(node)} is no number")
            code.append(("LOAD", operand))
            return False
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            whole = _emit(inner, operands, code, single)
            code.append(("NEG", None))
            return whole
        case ast.Call(func=ast.Name(id="abs"), args=[inner]):
            whole = _emit(inner, operands, code, single)
            code.append(("ABS", None))
            return whole
        case ast.Call(func=ast.Name(id="times"), args=[left, right]):
            whole = _emit(left, operands, code, single), _emit(right, operands, code, single)
            if any(whole):  # nothing is rounded beside a whole number
                raise InexpressibleError(f"{ast.unparse(node)} is not a product of floats")
            code += [("ROUND", None), ("MUL", None), ("ROUND", None)] if single else [("MUL", None)]
            return False
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            pass
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in _OPERATORS:
            pass
        case _:
            raise InexpressibleError(f"{ast.unparse(node)} has no word")
    whole = _emit(left, operands, code, single) & _emit(right, operands, code, single)
    if whole and isinstance(operator, (ast.Pow, ast.Mult)):
        raise InexpressibleError(f"{ast.unparse(node)} may leave the whole numbers that a float can hold")
    code.append((_OPERATORS[type(operator)], None))
    return whole and not isinstance(operator, ast.Div)


def _exact(value: float) -> float:
    if isinstance(value, int) and abs(value) > 2**53:
        raise InexpressibleError(f"{value!r} is no number that a float holds")
    return float(value)
