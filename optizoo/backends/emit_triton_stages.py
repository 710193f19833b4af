"""Program -> Triton, where numbers of whole tensors stand between passes over their elements.

For every stage there are two kernels: one reads all elements and leaves a partial sum of every block, the other adds
those of each tensor, and computes the numbers of the stage. Sums are in double precision, in trees of a fixed form, and
each has one place where it is written: there is nothing atomic, and no number depends on the order in which programs
run, nor on the other tensors of the launch. The last kernel updates the elements.

>>> from optizoo.backends.trace import trace
>>> def normed(param, grad, *, lr):
...     return (param.add(grad / (grad.norm() + 1), alpha=-lr),)
>>> program, _ = trace(normed, {}, lr=0.1)
>>> text = source(program, "float32", "float32", homes=(0,))
>>> [line for line in text.splitlines() if line.startswith("def optizoo")][0]
'def optizoo_reduce0(table, blocks, ends, numbers, partials, s0: tl.float32, s1: tl.float32, ALIGNED: tl.constexpr, \
BLOCK: tl.constexpr):'
>>> widths(program)
(2, 1)
"""

from collections.abc import Collection, Sequence

from optizoo.backends.emit_triton import FUNCTIONS, TYPES, expression, given, load, opening, store, written
from optizoo.backends.stages import stages, statements
from optizoo.backends.trace import Operation, Program
from optizoo.core.rule import WORDS

DOUBLE = "tl.float64"
"""Type of all numbers of tensors."""

_HEAD = """\
'''
{program}
'''
import triton
import triton.language as tl
"""

# A pass over the elements of a block, and its kernel: one program for each block.
_PASS = """

@triton.jit
def {name}({arguments}):
{body}


@triton.jit(do_not_specialize=[{unspecialized}])
def optizoo_{name}({parameters}):
    block = blocks + 2 * tl.program_id(0)
    tensor = tl.load(block).to(tl.int64)
    row = table + {width} * tensor
    numbers += {numbers} * tensor
    partials += {reductions} * tl.program_id(0).to(tl.int64)
    start = tl.load(block + 1).to(tl.int64) * BLOCK
    count = tl.load(row) - start
{prologue}    if count >= BLOCK:
        {name}({full})
    else:
        {name}({partial})
"""

# The numbers of a stage: one program for each tensor.
_FINISH = """

@triton.jit(do_not_specialize=[{unspecialized}])
def optizoo_finish{stage}({parameters}):
    tensor = tl.program_id(0).to(tl.int64)
    row = table + {width} * tensor
    numbers += {numbers} * tensor
    first = tl.load(ends + tensor - 1, mask=tensor > 0, other=0).to(tl.int64)
    last = tl.load(ends + tensor).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
{beginnings}
    for start in range(first, last, BLOCK):
        mask = start + offsets < last
        part = partials + {reductions} * (start + offsets)
{combinations}
    count = tl.load(row).to(tl.float64)
{prologue}{body}
"""

_NOTHING, _LEAST = "0.0", "float('-inf')"
_SUM = ("tl.sum({0})", "{0} + {1}", _NOTHING)
_LARGEST = (  # NaN goes on, which the maximum of a block does not promise
    "tl.max(tl.where({0} == {0}, {0}, float('-inf'))) + tl.sum(tl.where({0} == {0}, 0.0, {0}))",
    "tl.where(({0} > {1}) | ({0} != {0}), {0}, {1})",
    _LEAST,
)

# Reduction -> how a block becomes one number, how two blocks become one, what stands at the beginning, and what becomes
# of the sum of a tensor.
REDUCTIONS = {
    "sum": (*_SUM, "{0}"),
    "mean": (*_SUM, f"{FUNCTIONS[DOUBLE]['divide']}({{0}}, count)"),
    "norm": (*_SUM, f"{FUNCTIONS[DOUBLE]['sqrt']}({{0}})"),
    "amax": (*_LARGEST, "{0}"),
}


def widths(program: Program) -> tuple[int, int]:
    """Return how many numbers a tensor has between the passes of a program, and how many partial sums a block."""
    found = stages(program)
    return sum(map(len, (values for stage in found for values in stage))), max(len(each.reductions) for each in found)


def source(
    program: Program,
    param: str,
    grad: str,
    *,
    homes: Sequence[int],
    on_device: Collection[int] = (),
    in_rows: bool = False,
    unscale: bool = False,
    found_inf: bool = False,
) -> str:
    """Return the Triton text of a program with reductions; the arguments are those of the text of one without.

    The kernels are to be launched in the order in which they stand: ``optizoo_reduce0``, ``optizoo_finish0``, ...,
    ``optizoo_update``. Their arguments are those of :func:`optizoo.backends.emit_triton.source`, and behind ``blocks``:

    * ``ends`` has for every tensor the number of blocks of the tensors up to it, in int32;
    * ``numbers`` and ``partials`` are room for float64, as many for every tensor and for every block of the launch as
      :func:`widths` says.

    Rows of scalars are float64. A finishing kernel, of which each program is a tensor, reads ``BLOCK`` partial sums at
    a time. An output that is a number of a tensor is one float64 in its column.
    """
    return _Text(program, param, grad, homes, on_device, in_rows, unscale, found_inf).text()


class _Text:
    """The text of a program; the arguments are those of :func:`source`."""

    def __init__(
        self,
        program: Program,
        param: str,
        grad: str,
        homes: Sequence[int],
        on_device: Collection[int],
        in_rows: bool,
        unscale: bool,
        found_inf: bool,
    ):
        self._program, self._homes, self._on_device = program, homes, on_device
        self._in_rows, self._unscale, self._found_inf = in_rows, unscale, found_inf
        element, self._real = TYPES[param]
        self._elements = [element] * (max([len(program.inputs) - 1, *homes]) + 1)
        self._elements[program.inputs.index("grad")] = TYPES[grad][0]
        count = sum(operation.scalar is not None for operation in program.operations)
        self._scalars = [f"s{index}" for index in range(count)]
        self._places = {
            value: place
            for place, value in enumerate(value for stage in stages(program) for each in stage for value in each)
        }

    def text(self) -> str:
        """Return the module."""
        parts = [_HEAD.format(program=self._program)]
        for number, stage in enumerate(stages(self._program)):
            parts += [self._reduce(number, stage.reductions), self._finish(number, stage.reductions, stage.numbers)]
        outputs = written(self._program, self._homes)
        if outputs:
            lines = [store(*each, self._elements) for each in outputs]
            parts.append(self._pass("update", [value for _, value, _ in outputs], lines, [each[2] for each in outputs]))
        return "".join(parts)

    def _operation(self, value: int) -> Operation:
        return self._program.operations[value - len(self._program.inputs)]

    def _reduce(self, stage: int, reductions: Sequence[int]) -> str:
        lines = []
        for place, value in enumerate(reductions):
            word, (operand,) = self._operation(value).word, self._operation(value).operands
            block, _, beginning, _ = REDUCTIONS[word]
            lines += [
                f"part = {WORDS[word].triton.format(f'v{operand}')}",
                "if MASKED:",
                f"    part = tl.where(mask, part, {beginning})",
                f"tl.store(partials + {place}, {block.format('part')})",
            ]
        return self._pass(f"reduce{stage}", [self._operation(value).operands[0] for value in reductions], lines)

    def _pass(self, name: str, wanted: Sequence[int], ending: Sequence[str], columns: Sequence[int] = ()) -> str:
        """Return a pass over the elements that computes the wanted values of a block, and may write to columns."""
        program = self._program
        needed = statements(program, wanted)
        read = {*wanted, *(operand for value in needed for operand in self._operation(value).operands)}
        inputs = [column for column in range(len(program.inputs)) if column in read]
        body = opening({column: self._elements[column] for column in sorted({*inputs, *columns})})
        for column in inputs:
            body += load(column, program.inputs[column], self._real, unscale=self._unscale)
        for value in sorted(read & self._places.keys()):
            body.append(f"v{value} = tl.load(numbers + {self._places[value]}).to({self._real})")
        body += [f"v{value} = {expression(self._operation(value), self._real)}" for value in needed]
        parameters, prologue = self._taken(self._real)
        if self._unscale:
            prologue.append(f"scale = tl.load(scale).to({self._real})")
        if self._found_inf and columns:
            prologue.append("count = tl.where(tl.load(found_inf) != 0, 0, count)  # no element is left to update")
        values = ["row", "numbers", "partials", "start", "count", *self._scalars, *(["scale"] if self._unscale else [])]
        call = ", ".join(values)
        return _PASS.format(
            name=name,
            arguments=f"{call}, MASKED: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr",
            body=_indented([*body, *ending]),
            full=f"{call}, MASKED=False, ALIGNED=ALIGNED, BLOCK=BLOCK",
            partial=f"{call}, MASKED=True, ALIGNED=ALIGNED, BLOCK=BLOCK",
            prologue="".join(f"    {line}\n" for line in prologue),
            **self._signature(parameters),
        )

    def _finish(self, stage: int, reductions: Sequence[int], numbers: Sequence[int]) -> str:
        beginnings, combinations, body = [], [], []
        for place, value in enumerate(reductions):
            block, combined, beginning, ending = REDUCTIONS[self._operation(value).word]
            beginnings.append(f"sum{place} = tl.full((BLOCK,), {beginning}, {DOUBLE})")
            loaded = f"tl.load(part + {place}, mask=mask, other={beginning})"
            combinations += [f"more = {loaded}", f"sum{place} = {combined.format(f'sum{place}', 'more')}"]
            body += [f"v{value} = {block.format(f'sum{place}')}", f"v{value} = {ending.format(f'v{value}')}"]
        own = {*reductions, *numbers}
        read = {operand for value in numbers for operand in self._operation(value).operands}
        body += [f"v{value} = tl.load(numbers + {self._places[value]})" for value in sorted(read - own)]
        body += [f"v{value} = {expression(self._operation(value), DOUBLE)}" for value in numbers]
        body += [f"tl.store(numbers + {self._places[value]}, v{value})" for value in sorted(own)]
        puts = [
            f"tl.store(tl.load(row + {column + 1}).to(tl.pointer_type({DOUBLE})), v{value})  # {name}"
            for (name, value), column in zip(self._program.outputs, self._homes, strict=True)
            if value in own
        ]
        if puts and self._found_inf:
            puts = ["if tl.load(found_inf) == 0:", *(f"    {line}" for line in puts)]
        parameters, prologue = self._taken(DOUBLE)
        return _FINISH.format(
            stage=stage,
            beginnings=_indented(beginnings),
            combinations=_indented(combinations, 2),
            prologue="".join(f"    {line}\n" for line in prologue),
            body=_indented([*body, *puts]),
            **self._signature(parameters),
        )

    def _taken(self, real: str) -> tuple[list[str], list[str]]:
        """Return the last parameters of a kernel, and the lines that make numbers of the type ``real`` of them."""
        if self._in_rows:
            row = f"own = scalars + {len(self._scalars)} * tl.load(row + {len(self._elements) + 1})"
            parameters = ["scalars"]
            lines = [f"{name} = tl.load(own + {index}).to({real})" for index, name in enumerate(self._scalars)]
            lines.insert(0, row)
        else:
            parameters, lines = given(self._scalars, real, self._on_device)
        extras = [*(["scale"] if self._unscale else []), *(["found_inf"] if self._found_inf else [])]
        return [*parameters, *extras], lines

    def _signature(self, parameters: Sequence[str]) -> dict[str, str]:
        """Return what all kernels have in common."""
        numbers, reductions = widths(self._program)
        parameters = ["table", "blocks", "ends", "numbers", "partials", *parameters]
        return {
            # One compilation serves all addresses and numbers.
            "unspecialized": ", ".join(repr(name.partition(":")[0]) for name in parameters),
            "parameters": ", ".join([*parameters, "ALIGNED: tl.constexpr", "BLOCK: tl.constexpr"]),
            "width": str(len(self._elements) + 2),
            "numbers": str(numbers),
            "reductions": str(reductions),
        }


def _indented(lines: Sequence[str], depth: int = 1) -> str:
    return "\n".join("    " * depth + line for line in lines)
