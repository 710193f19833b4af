"""A kernel proves itself before it serves: it is held against the loop, on every awkward kind of number.

The loop is read here word by word, by the functions of torch that a rule calls. On the CPU, where the words of the
kernels are those of torch's vector code, every bit must be the same, but for the payload of NaN and the sign of zero.
Elsewhere torch may round other intermediate results than a kernel does: there, what all roundings of either can make of
a result is followed through the program, and a kernel must end within that.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from optizoo.backends.build import BuildError
from optizoo.backends.emit_c import fresh_outputs
from optizoo.backends.trace import Operation, Program
from optizoo.core.rule import NUMBER, WORDS

VERSION = 3
"""To be raised with every change of what a kernel must pass: verdicts in a cache are those of one version."""

LENGTHS = (1, 3, 0, 63, 65, 1021)
"""Elements of the tensors that a kernel is tried on."""

LONG = (40_000, 33_000)
"""More, for sums in chunks."""

GUARD = 17.0
"""Stands around and between the tensors; nobody may write there."""

Launches = Callable[[list[list[Tensor]], list[float]], Iterator[tuple[str, bool]]]
"""Takes the tensors of every input of a program and of every new state, and the scalars; launches the kernel in one way
after the other, on the same numbers each time, and yields the name of the way and whether the kernel had to write."""


class Case(NamedTuple):
    """One try of a kernel.

    Attributes:
        seed: Makes the numbers.
        scalars: Repeated until there are enough.
        scale: By which gradients are divided, where the kernel does that.
        far: All weights of ``lerp`` are beyond the middle; else all are before it. A kernel has a form for each.
        aligned: The tensors begin at multiples of 16 elements.
        empty: There is a tensor without elements. Torch gives such a one no memory, and a kernel that writes too much
            would end the process: it must have been found out before.
    """

    seed: int
    scalars: tuple[float, ...]
    scale: float
    far: bool
    aligned: bool
    empty: bool = True


# Round ones, of which many sums are halfway between two numbers of 16 bits; and others.
CASES = (
    Case(0, (0.9, -0.01, 0.999, 1e-8, 0.1, -0.7, 1.3), 4.0, far=True, aligned=True, empty=False),
    Case(1, (0.1, 0.001, -0.003, 0.45, 1e-8, -0.2, 0.02), 3.0, far=False, aligned=False),
    Case(2, (0.5, -1.0, 1.0, 2.0, -0.5, 0.0, -0.0), 65536.0, far=True, aligned=False),
    Case(3, (-1e-3, 1e-5, 0.05, 1e-12, -0.3, 0.25, 0.49), 1.0, far=False, aligned=True),
)


def claim(device: str) -> str:
    """Return what the proof of a kernel says, and on what of this process it stands."""
    return f"as the loop, {VERSION}, torch {torch.__version__}, {device}"


def rounds_as_torch() -> bool:
    """Return whether a kernel for this very machine has the bits of torch on its CPU: both have vectors and fma."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX")


@torch.no_grad()
def objection(
    program: Program,
    dtype: torch.dtype,
    grad_dtype: torch.dtype,
    launches: Launches,
    *,
    state_dtype: torch.dtype | None = None,
    unscale: bool = False,
    exact: bool = False,
    device: torch.device | str = "cpu",
    lengths: Sequence[int] = (),
    kinds: Sequence[torch.dtype | None] = (),
) -> str | None:
    """Return where a kernel differs from the loop, or ``None``.

    Args:
        program: What it computes.
        dtype: Type of the parameters.
        grad_dtype: Type of the gradients.
        launches: Launches it.
        state_dtype: Type of the states, if it is another.
        unscale: It takes one more scalar, by which gradients are divided.
        exact: Every bit must be the same.
        device: Where it runs.
        lengths: Of more tensors.
        kinds: For every scalar its type if the kernel reads it from a tensor, and ``None`` if it is a number.
    """
    torch.set_flush_denormal(False)
    names = [*program.inputs, *fresh_outputs(program)]
    types = dict.fromkeys(names, state_dtype or dtype)
    types |= {"param": dtype, "grad": grad_dtype, **({"param_rest": torch.int16} if "param_rest" in names else {})}
    of_tensors = {name for name, value in program.outputs if program.rank[value] == NUMBER}
    types |= dict.fromkeys(of_tensors, torch.float64)
    for case in CASES:
        more = lengths if program.elementwise else (*lengths, *LONG)
        spans, inside = _spans([length for length in (*LENGTHS, *more) if length or case.empty], case.aligned)
        inside = inside.to(device)
        before = {name: torch.full((len(inside),), GUARD, dtype=kind, device=device) for name, kind in types.items()}
        for column, name in enumerate(program.inputs):
            numbers = _numbers(case.seed, column, len(inside), types[name]).to(device)
            if not program.elementwise:
                numbers = _ordinary(numbers, spans)
            before[name] = torch.where(inside, numbers, before[name])
        scalars = _scalars(program, case, kinds)
        exact &= program.elementwise
        loop = _Loop(program, scalars, before, case.scale if unscale else None, spans, exact=exact)
        memories = {name: memory.clone() for name, memory in before.items()}
        columns = [
            [memories[name][start : max(stop, start + 1) if name in of_tensors else stop] for start, stop in spans]
            for name in names
        ]
        for way, writes in launches(columns, [*scalars, case.scale] if unscale else scalars):
            for name, memory in memories.items():
                first = _firsts(spans, len(inside)).to(device) if name in of_tensors else inside
                wrong = first & loop.parts(name, memory) if writes else ~_same(memory, before[name])
                if name not in of_tensors:
                    wrong |= ~inside & ~_same(memory, before[name])
                if bool(wrong.any()):
                    kind = str(dtype).removeprefix("torch.")
                    return f"its kernel differs from the loop in {int(wrong.sum())} numbers of {name!r} ({way}, {kind})"
                memory.copy_(before[name])
    return None


def _ordinary(numbers: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Return numbers of which every second tensor has none that decides its sums alone."""
    numbers = numbers.clone()
    for start, stop in spans[::2]:
        part = numbers[start:stop].double()
        size = part.abs()
        numbers[start:stop] = torch.where((size > 1e-3) & (size < 1e3), part, 0.5).to(numbers.dtype)
    return numbers


def _firsts(spans: Sequence[tuple[int, int]], count: int) -> Tensor:
    """Return where a number of a tensor is: at its first element."""
    first = torch.zeros(count, dtype=torch.bool, device="cpu")
    for start, stop in spans:
        first[start] = stop > start
    return first


def _same(actual: Tensor, expected: Tensor) -> Tensor:
    return (actual == expected) | (actual.isnan() & expected.isnan())


def _scalars(program: Program, case: Case, kinds: Sequence[torch.dtype | None]) -> list[float]:
    """Return the scalars of a case, as they are on the device; no two are alike, lest one be taken for another."""
    scalars: list[float] = []
    for operation in program.operations:
        if operation.scalar is None:
            continue
        turn, place = divmod(len(scalars), len(case.scalars))
        scalar = case.scalars[place] * (1 - turn / 64)
        if operation.word == "lerp" and case.far:
            scalar = 0.5 + abs(scalar) / 2
        kind = kinds[len(scalars)] if kinds else None
        scalars.append(scalar if kind is None else float(torch.tensor(scalar, dtype=kind)))
    return scalars


def _spans(lengths: Sequence[int], aligned: bool) -> tuple[list[tuple[int, int]], Tensor]:
    """Return where the tensors begin and end in a memory, and for each of its elements whether it is part of one."""
    spans, end = [], 0 if aligned else 1
    for length in lengths:
        spans.append((end, end + length))
        end += length + 3
        if aligned:
            end += -end % 16
    inside = torch.zeros(end, dtype=torch.bool, device="cpu")
    for start, stop in spans:
        inside[start:stop] = True
    return spans, inside


@lru_cache(maxsize=64)
def _numbers(seed: int, column: int, count: int, dtype: torch.dtype) -> Tensor:
    """Return numbers of both signs in fifteen decades, some near 1, and every special one; a function of the arguments.

    Most of what states hold is positive, as squares are.
    """
    generator = torch.Generator("cpu").manual_seed(1000 * seed + column)
    if dtype is torch.int16:
        return torch.randint(-(2**15), 2**15, (count,), generator=generator, dtype=dtype, device="cpu")
    draw = torch.rand((5, count), generator=generator, dtype=torch.float64, device="cpu")
    limits = torch.finfo(dtype)
    decades = 10 ** (15 * draw[0] - 7.5 if dtype is not torch.float16 else 11 * draw[0] - 7)
    values = torch.where(draw[1] < 0.5, decades, 2 * draw[0])
    values[draw[2] < (0.5 if column < 2 else 0.2)] *= -1
    values = values.to(dtype)
    tiny = limits.smallest_normal
    special = [0.0, -0.0, 1.0, -1.0, tiny, -tiny, tiny / 3, tiny / 64, limits.max, -limits.max]
    special += [limits.max**0.5, torch.inf, -torch.inf, torch.nan, 3.0]
    # The last one is a NaN of which every bit is set: rounding must not carry it over to zero.
    full = torch.full((dtype.itemsize,), -1, dtype=torch.int8, device="cpu").view(dtype)
    choice = torch.cat([torch.tensor(special, dtype=torch.float64, device="cpu").to(dtype), full])
    chosen = choice[(len(choice) * draw[3]).long()]
    return torch.where(draw[4] < 0.2, chosen, values)


# The loop ------------------------------------------------------------------------------------------------------------


class _Loop:
    """What a program makes of numbers, as torch computes it.

    Args:
        program: The program.
        scalars: Its scalars.
        before: For every input and every new state, its numbers as they were.
        scale: By which gradients are divided, or ``None``.
        spans: Where the tensors begin and end.
        exact: Whether every bit must be the same.
    """

    def __init__(
        self,
        program: Program,
        scalars: Sequence[float],
        before: dict[str, Tensor],
        scale: float | None,
        spans: Sequence[tuple[int, int]],
        *,
        exact: bool,
    ):
        self._before = before
        self._outputs = dict(program.outputs)
        real = torch.float64 if before["param"].dtype is torch.float64 else torch.float32
        self._values = [before[name].to(real) for name in program.inputs]
        if scale is not None:
            self._values[1] = self._values[1] / torch.full_like(self._values[1], scale)
        for number, operation in enumerate(program.operations, start=len(program.inputs)):
            operands = [self._values[each] for each in operation.operands]
            if WORDS[operation.word].reduces:
                self._values.append(_reduced(operation.word, operands[0], spans))
            else:  # numbers of tensors are in double precision
                kind = torch.float64 if program.rank[number] == NUMBER else real
                operands = [each if each.dtype is torch.bool else each.to(kind) for each in operands]
                self._values.append(_word(operation, operands, scalars))
        self._bounds = None if exact else _bounds(program, scalars, self._values, spans)

    def parts(self, name: str, actual: Tensor) -> Tensor:
        """Return, element by element, where a kernel has left another number than the loop."""
        if name not in self._outputs:
            return ~_same(actual, self._before[name])
        number = self._outputs[name]
        value = self._values[number]
        same = _same(actual, value.to(actual.dtype))
        return ~same if self._bounds is None else ~(same | _within(actual, value, *self._bounds[number]))


def _reduced(word: str, values: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Return a number of every tensor in the place of each of its elements."""
    found = torch.zeros_like(values, dtype=torch.float64)
    for start, stop in spans:
        if stop > start:
            found[start:stop] = WORDS[word].apply(values[start:stop].double())
    return found


def _word(operation: Operation, operands: Sequence[Tensor], scalars: Sequence[float]) -> Tensor:
    first, *others = operands
    if operation.word == "sqrt":
        return _root(first)
    if operation.word == "add_times":  # whose number of a tensor stands here once for each of its elements
        return first.addcmul(*others)
    numbers = () if operation.scalar is None else (scalars[operation.scalar],)
    return WORDS[operation.word].apply(first, *others, numbers=numbers)


def _root(values: Tensor) -> Tensor:
    """Return the correctly rounded square root, which torch's is on CUDA; on the CPU it may be one unit off."""
    if values.is_cuda:
        return torch.sqrt(values)
    if values.dtype is torch.float32:  # twice the digits and a few more: rounding again changes nothing
        return torch.sqrt(values.double()).float()
    return torch.where(values < 0, torch.nan, values.clamp_min(0).apply_(math.sqrt))


# Where torch rounds otherwise ----------------------------------------------------------------------------------------


def _bounds(
    program: Program, scalars: Sequence[float], values: Sequence[Tensor], spans: Sequence[tuple[int, int]]
) -> list[tuple[Tensor, Tensor]]:
    """Return for every value how far from it another order of rounding may end, and whether that can be told."""
    exact = torch.zeros_like(values[0], dtype=torch.float64)
    bounds = [(exact, exact == 0)] * len(program.inputs)
    eps, largest = torch.finfo(values[0].dtype).eps, torch.finfo(values[0].dtype).max
    smallest = torch.finfo(values[0].dtype).smallest_normal * eps
    for operation, value in zip(program.operations, values[len(program.inputs) :], strict=True):
        scalar = 1.0 if operation.scalar is None else abs(scalars[operation.scalar])
        finite = torch.stack([values[operand].isfinite() for operand in operation.operands]).all(0)
        if WORDS[operation.word].reduces:
            bounds.append(_moved_number(operation.word, values[operation.operands[0]], bounds[operation.operands[0]],
                                        spans, eps))  # fmt: skip
            continue
        # What is not finite goes through all words alike; only what the others do is looked at.
        operands = [values[operand].double().nan_to_num(0, 0, 0) for operand in operation.operands]
        value = value.double()
        moved, size = _moved(operation.word, operands, [bounds[each][0] for each in operation.operands], scalar, value)
        # Both, torch and the kernel, round up to three times, each by half a unit; and below the normal numbers.
        scale = (1 + scalar) * (1 + sum(operand.abs() for operand in operands[1:]))
        bound = moved + 3 * eps * size + (size > 0) * 3 * smallest * scale
        # An intermediate result may overflow in one order and not in another.
        open_ended = (size > largest) | ~moved.isfinite() | (finite & (moved > 0) & ~value.isfinite())
        told = torch.stack([bounds[each][1] for each in operation.operands]).all(0) & ~open_ended
        bounds.append((torch.where(value.isfinite(), bound, 0.0), told))
    return bounds


def _moved_number(
    word: str, values: Tensor, bound: tuple[Tensor, Tensor], spans: Sequence[tuple[int, int]], eps: float
) -> tuple[Tensor, Tensor]:
    """Return the bound of a number of a tensor: however its parts are summed up, and in whatever order."""
    far, told = torch.zeros_like(values, dtype=torch.float64), torch.ones_like(values, dtype=torch.bool)
    errors, known = bound
    for start, stop in spans:
        if stop == start:
            continue
        part, error = values[start:stop].double(), errors[start:stop]
        if word == "norm":
            moved, size = error.norm(), part.norm()
        else:
            moved, size = (error.max(), part.abs().max()) if word == "amax" else (error.sum(), part.abs().sum())
        share = 1 / (stop - start) if word == "mean" else 1.0
        far[start:stop] = (moved + 64 * eps * size.nan_to_num(0, 0, 0)) * share
        told[start:stop] = bool(known[start:stop].all()) and bool(moved.isfinite())
    return far, told


def _moved(
    word: str, operands: Sequence[Tensor], errors: Sequence[Tensor], s: float, value: Tensor
) -> tuple[Tensor, Tensor]:
    """Return how far a word carries the errors of its operands, and the size of what it rounds.

    Args:
        word: The word.
        operands: Its operands.
        errors: For each of them, how far another may be from it.
        s: The magnitude of its scalar.
        value: Its result.
    """
    (a, *others), (da, *rest) = operands, errors
    b, db = (others[0], rest[0]) if others else (a, da)
    c, dc = (others[1], rest[1]) if len(others) > 1 else (b, db)
    none = torch.zeros_like(da)
    result = torch.where(value.isfinite(), value.double().abs(), 0.0)
    match word:
        case "add":
            return da + s * db, a.abs() + s * b.abs()
        case "add_scalar":
            return da, a.abs() + s
        case "sub":
            return da + db, a.abs() + b.abs()
        case "mul":
            return _moved_product(a, da, b, db), result
        case "mul_scalar":
            return s * da, result
        case "div":
            return _moved_quotient(a, da, b, db), result
        case "div_scalar":
            return _moved_quotient(a, da, torch.full_like(a, s), none), result
        case "lerp":
            return (1 + s) * (da + db), (1 + s) * (a.abs() + b.abs())
        case "add_times":
            return da + _moved_product(b, db, c, dc), a.abs() + (b * c).abs()
        case "addcmul":
            return da + s * _moved_product(b, db, c, dc), a.abs() + max(s, 1.0) * (b * c).abs()
        case "addcdiv":
            return da + s * _moved_quotient(b, db, c, dc), a.abs() + max(s, 1.0) * torch.where(c == 0, c, b / c).abs()
        case "maximum":
            return torch.maximum(da, db), none
        case "clamp_min" | "clamp_max" | "neg" | "abs":
            return da, none
        case "reciprocal":
            return _moved_quotient(torch.ones_like(a), none, a, da), result
        case "sqrt":
            return torch.minimum(torch.where(da > 0, da / result, 0.0), da.sqrt()), result
        case "rsqrt":
            root = a.sqrt()
            moved = torch.minimum(torch.where(da > 0, da / root, 0.0), da.sqrt())
            return _moved_quotient(torch.ones_like(a), none, root, moved), result
        case "gt" | "ge" | "lt" | "le":  # where the sides may change, nothing can be told
            return torch.where(
                (da > 0) & ((a - s).abs() <= da) | (da > 0) & ((a + s).abs() <= da), torch.inf, 0.0
            ), none
        case "joined" | "top" | "rest":  # of bits: where these are not sure, nothing can be told
            return torch.where((da > 0) | (db > 0), torch.inf, 0.0), none
        case "where":
            return torch.maximum(da, dc), none
        case "where_scalar":
            return da, none
        case "double":
            return da, none
        case "sign":
            return torch.where((da > 0) & (a.abs() <= da), 2.0, 0.0), none
    raise BuildError(f"there is no proof of {word!r} where torch rounds otherwise")


def _moved_product(a: Tensor, da: Tensor, b: Tensor, db: Tensor) -> Tensor:
    return torch.where((da > 0) | (db > 0), a.abs() * db + b.abs() * da + da * db, 0.0)


def _moved_quotient(above: Tensor, d_above: Tensor, below: Tensor, d_below: Tensor) -> Tensor:
    room = below.abs() - d_below
    moved = torch.where(room > 0, (d_above + (above / below).abs() * d_below) / room, torch.inf)
    return torch.where((d_above > 0) | (d_below > 0), moved, 0.0)


def _within(actual: Tensor, value: Tensor, bound: Tensor, told: Tensor) -> Tensor:
    """Return where a result lies between the roundings of the ends of its bound, or where nothing can be told."""
    low, high = ((value.double() + side * bound).to(actual.dtype) for side in (-1, 1))
    return (value.isfinite() & (low <= actual) & (actual <= high)) | ~told | ~bound.isfinite()


__all__ = ["LENGTHS", "VERSION", "Launches", "claim", "objection", "rounds_as_torch"]
