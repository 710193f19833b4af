"""Program -> Triton: one kernel that updates many tensors in one launch.

The text is a Python module; nothing here imports Triton. The rounding is that of torch's CUDA kernels: an ``fma``
stands where torch's compiler fuses a product and a sum, division and root are correctly rounded, and nothing else may
be fused (compile with ``enable_fp_fusion=False``).

>>> from optizoo import rules
>>> from optizoo.backends.trace import trace
>>> program, _ = trace(rules.sgd, {}, lr=0.1, weight_decay=0)
>>> print(source(program, "float32", "float32", homes=(0,)))
'''
%2 = add(param, grad, alpha=$0)
param <- %2
'''
import triton
...
"""

from collections.abc import Collection, Mapping, Sequence

from optizoo.backends.trace import Operation, Program
from optizoo.core.rule import FULL, WORDS

# Type of a tensor -> Triton's type of an element, and the type in which it is computed. In 16 bits every operand is
# widened when it is read and the result rounded once, when it is written.
TYPES: dict[str, tuple[str, str]] = {
    "float32": ("tl.float32", "tl.float32"),
    "float64": ("tl.float64", "tl.float64"),
    "bfloat16": ("tl.bfloat16", "tl.float32"),
    "float16": ("tl.float16", "tl.float32"),
}

# Triton has correctly rounded functions of their own in float32, where the plain ones are approximations.
FUNCTIONS = {
    "tl.float32": {"real": "tl.float32", "divide": "tl.div_rn", "sqrt": "tl.sqrt_rn"},
    "tl.float64": {"real": "tl.float64", "divide": "tl.fdiv", "sqrt": "tl.sqrt"},
}

_MODULE = """\
'''
{program}
'''
import triton
import triton.language as tl


@triton.jit
def update({arguments}):
{body}


@triton.jit(do_not_specialize=[{unspecialized}])
def optizoo_update({parameters}):
    block = blocks + 2 * tl.program_id(0)
    row = table + {width} * tl.load(block).to(tl.int64)
{numbers}    start = tl.load(block + 1).to(tl.int64) * BLOCK
    count = tl.load(row) - start
{prologue}    if count >= BLOCK:
        update({full})
    else:
        update({partial})
"""


def source(
    program: Program,
    param: str,
    grad: str,
    *,
    homes: Sequence[int],
    on_device: Sequence[int] = (),
    in_rows: bool = False,
    unscale: bool = False,
    found_inf: bool = False,
) -> str:
    """Return the Triton text of a program.

    The kernel is ``optizoo_update(table, blocks, s0, s1, ..., [scale], [found_inf], ALIGNED, BLOCK)``:

    * ``table`` has a row of int64 for every tensor: its number of elements, then a pointer for every column, and last
      the number of its row of scalars;
    * ``blocks`` has a pair of int32 for every program of the launch: the tensor, and which block of it;
    * the scalars follow, each a float or a pointer to one: a kernel does not depend on their values; or one pointer to
      rows of them, of the type in which is computed;
    * ``scale`` and ``found_inf`` are pointers to one float;
    * ``ALIGNED`` promises that all pointers of the table are multiples of 16, which makes the accesses wide.

    Args:
        program: What to compute.
        param: Type of parameters and states, a key of :data:`TYPES`.
        grad: Type of the gradients.
        homes: For every output of the program the column that it is written to: the inputs are the first columns, and
            new tensors follow them.
        on_device: The scalars that the kernel reads from memory.
        in_rows: It reads all of them from rows, of which every tensor has one.
        unscale: The gradient is divided by the value at ``scale`` when it is read.
        found_inf: Nothing is written where the value at ``found_inf`` is not zero.
    """
    element, real = TYPES[param]
    elements = {column: TYPES[grad][0] if name == "grad" else element for column, name in enumerate(program.inputs)}
    columns = max([len(program.inputs) - 1, *homes]) + 1
    count = sum(operation.scalar is not None for operation in program.operations)
    scalars = [f"s{index}" for index in range(count)]
    values = ["row", "start", "count", *scalars, *(["scale"] if unscale else [])]
    body = _body(program, [elements.get(column, element) for column in range(columns)], real, homes, unscale)

    parameters, prologue = ["scalars"], [f"{name} = tl.load(numbers + {index})" for index, name in enumerate(scalars)]
    if not in_rows:
        parameters, prologue = given(scalars, real, on_device)
    parameters = ["table", "blocks", *parameters]
    if unscale:
        parameters.append("scale")
        prologue.append(f"scale = tl.load(scale).to({real})")
    if found_inf:
        parameters.append("found_inf")
        prologue.append("count = tl.where(tl.load(found_inf) != 0, 0, count)  # no element is left to update")
    call = ", ".join(values)
    return _MODULE.format(
        program=program,
        arguments=f"{call}, MASKED: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr",
        body="\n".join(f"    {line}" for line in body),
        # One compilation serves all addresses and numbers.
        unspecialized=", ".join(repr(name.partition(":")[0]) for name in parameters),
        parameters=", ".join([*parameters, "ALIGNED: tl.constexpr", "BLOCK: tl.constexpr"]),
        width=columns + 2,
        numbers=f"    numbers = scalars + {count} * tl.load(row + {columns + 1})\n" if in_rows else "",
        prologue="".join(f"    {line}\n" for line in prologue),
        full=f"{call}, MASKED=False, ALIGNED=ALIGNED, BLOCK=BLOCK",
        partial=f"{call}, MASKED=True, ALIGNED=ALIGNED, BLOCK=BLOCK",
    )


def given(scalars: Sequence[str], real: str, on_device: Collection[int]) -> tuple[list[str], list[str]]:
    """Return the parameters of scalars that are no rows, and the lines that make them numbers of the type ``real``."""
    parameters, lines = [], []
    for index, name in enumerate(scalars):
        # The annotation fixes the type of a number, which Triton would else pass as float32 at most.
        parameters.append(name if index in on_device else f"{name}: {real}")
        value = f"tl.load({name}).to({real})" if index in on_device else f"tl.full((), {name}, {real})"
        lines.append(f"{name} = {value}")
    return parameters, lines


def _body(program: Program, elements: Sequence[str], real: str, homes: Sequence[int], unscale: bool) -> list[str]:
    """Return the lines that update one block."""
    lines = opening(dict(enumerate(elements)))
    for column, name in enumerate(program.inputs):
        lines += load(column, name, real, unscale=unscale)
    for number, operation in enumerate(program.operations, start=len(program.inputs)):
        lines.append(f"v{number} = {expression(operation, real)}")
    return lines + [store(*each, elements) for each in written(program, homes)]


def opening(elements: Mapping[int, str]) -> list[str]:
    """Return the lines that find a block in the columns, given the type of an element of each."""
    lines = ["offsets = tl.arange(0, BLOCK)", "mask = (offsets < count) if MASKED else None"]
    for column, element in elements.items():
        lines.append(f"p{column} = tl.load(row + {column + 1}).to(tl.pointer_type({element}))")
    lines.append("if ALIGNED:")
    return lines + [f"    p{column} = tl.multiple_of(p{column}, 16)" for column in elements]


def load(column: int, name: str, real: str, *, unscale: bool) -> list[str]:
    """Return the lines that read a block of an input of a program."""
    lines = [f"v{column} = tl.load(p{column} + start + offsets, mask=mask).to({real})  # {name}"]
    if name == "grad" and unscale:
        lines.append(f"v{column} = {FUNCTIONS[real]['divide']}(v{column}, scale)")
    return lines


def written(program: Program, homes: Sequence[int]) -> list[tuple[str, int, int]]:
    """Return for every output whose elements are written its name, its value and its column."""
    return [
        (name, value, column)
        for (name, value), column in zip(program.outputs, homes, strict=True)
        # Values and columns share numbers for the inputs only.
        if program.rank[value] == FULL and (value != column or column >= len(program.inputs))
    ]


def store(name: str, value: int, column: int, elements: Sequence[str]) -> str:
    """Return the line that writes a block of an output."""
    return f"tl.store(p{column} + start + offsets, v{value}.to({elements[column]}), mask=mask)  # {name}"


def expression(operation: Operation, real: str) -> str:
    """Return the expression of a word, computed in the type ``real``."""
    operands = [f"v{operand}" for operand in operation.operands]
    return WORDS[operation.word].triton.format(*operands, s=f"s{operation.scalar}", **FUNCTIONS[real])
