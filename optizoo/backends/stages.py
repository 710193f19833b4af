"""Programs, cut where a number of a whole tensor must be known before its elements can go on.

A stage reads every element once. Between two stages stand the numbers of each tensor: what was summed up, and what is
computed of it. Nothing else is kept: a later stage computes again what it needs of the elements.

>>> from optizoo.backends.trace import trace
>>> def normed(param, grad, *, lr):
...     return (param.add(grad / (grad.norm() + 1), alpha=-lr),)
>>> program, _ = trace(normed, {}, lr=0.1)
>>> [(stage.reductions, stage.numbers) for stage in stages(program)], statements(program, [4])
([((2,), (3,))], (4,))
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from optizoo.backends.trace import Program
from optizoo.core.rule import FULL, NUMBER, WORDS


class Stage(NamedTuple):
    """What is found out about a tensor in one pass over its elements.

    Attributes:
        reductions: The values that are numbers of the whole tensor.
        numbers: Those that are computed of numbers then, in order.
    """

    reductions: tuple[int, ...]
    numbers: tuple[int, ...]


@lru_cache(maxsize=1024)
def stages(program: Program) -> tuple[Stage, ...]:
    """Return the stages before the last one, which updates the elements."""
    count = len(program.inputs)
    depth = [0] * count  # of every value, the number of stages before it can be known
    for operation in program.operations:
        deepest = max(depth[operand] for operand in operation.operands)
        depth.append(deepest + WORDS[operation.word].reduces)
    found = []
    for stage in range(1, max(depth, default=0) + 1):
        known = [value for value in range(count, len(depth)) if depth[value] == stage and program.rank[value] == NUMBER]
        reductions = [value for value in known if WORDS[program.operations[value - count].word].reduces]
        numbers = [value for value in known if value not in reductions]
        found.append(Stage(tuple(reductions), tuple(numbers)))
    return tuple(found)


def statements(program: Program, wanted: Iterable[int]) -> tuple[int, ...]:
    """Return the values of elements that must be computed for those that are wanted, in order."""
    count = len(program.inputs)
    needed = {value for value in wanted if program.rank[value] == FULL}
    for value in reversed(range(count, count + len(program.operations))):
        if value in needed:
            operands = program.operations[value - count].operands
            needed |= {operand for operand in operands if program.rank[operand] == FULL}
    return tuple(sorted(value for value in needed if value >= count))
