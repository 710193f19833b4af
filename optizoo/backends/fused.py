"""The fused backend: the traced rule as one kernel that updates all tensors of a bucket.

On the CPU it is C, here; on a GPU it is Triton, in :mod:`optizoo.backends.fused_cuda`.
"""

import ctypes
import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optizoo.backends import build, emit_c, fused_cuda, process
from optizoo.backends.loop import Columns
from optizoo.backends.trace import Program, trace

TYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}

GRAIN = 1 << 13
"""Elements below which a thread of its own does not pay."""


class Kernel:
    """A program, built for a type of parameters and one of gradients.

    Args:
        program: What it computes.
        dtype: Type of parameters and states.
        grad_dtype: Type of the gradients.
        unscale: It takes one more scalar, by which gradients are divided.

    Raises:
        BuildError: It cannot be built here.
    """

    def __init__(self, program: Program, dtype: torch.dtype, grad_dtype: torch.dtype, *, unscale: bool = False):
        self.program = program
        self.width = emit_c.width(program, unscale=unscale)
        text = emit_c.source(program, TYPES[dtype], TYPES[grad_dtype], unscale=unscale)
        self.function = build.library(text).optizoo_update
        self.function.restype = None


class Launch:
    """A kernel with the tensors that it updates.

    Args:
        kernel: The kernel.
        columns: For every input of its program and then for every new state, the tensors.
        rows: For every tensor of a column the number of its row of scalars, from 0 on without a gap.
    """

    def __init__(self, kernel: Kernel, columns: Sequence[Sequence[Tensor]], rows: Sequence[int]):
        self.tensors = len(columns[0])
        self.kernel = kernel
        lengths = [tensor.numel() for tensor in columns[0]]
        self.elements = sum(lengths)
        self.ends = (ctypes.c_int64 * self.tensors)(*itertools.accumulate(lengths))
        pointers = [tensor.data_ptr() for column in columns for tensor in column]
        self.pointers = (ctypes.c_void_p * len(pointers))(*pointers)
        self.rows = (ctypes.c_int32 * self.tensors)(*rows)
        self.scalars = (ctypes.c_double * max(kernel.width * (max(rows) + 1), 1))()

    def put(self, row: int, scalars: Iterable[Any]) -> None:
        """Write the scalars of a row: numbers or 0-dim tensors."""
        for index, scalar in enumerate(scalars, start=row * self.kernel.width):
            self.scalars[index] = scalar

    def run(self) -> None:
        """Update the tensors."""
        arguments = ctypes.c_int64(self.tensors), self.ends, self.pointers, self.scalars, self.rows
        self.kernel.function(*arguments, *shares(self.elements))


class Call(NamedTuple):
    """What a bucket asks of a kernel. Calls of one :attr:`kind` go into one launch, each with a row of scalars.

    Attributes:
        program: What to compute.
        scalars: Its scalars.
        inputs: For every input of the program, the tensors.
        made: For every state that the program makes, the tensors that it goes to.
    """

    program: Program
    scalars: tuple[Any, ...]
    inputs: list[Sequence[Tensor]]
    made: dict[str, list[Tensor]]

    @property
    def kind(self) -> tuple[Any, ...]:
        """What calls of one launch have in common: the program, the types, and where the tensors are."""
        param, grad = self.inputs[0][0], self.inputs[1][0]
        return self.program, param.dtype, grad.dtype, param.device


def call(
    rule: Callable[..., tuple],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Columns,
    *,
    maximize: bool = False,
    **options: Any,
) -> Call:
    """Return what applies ``rule`` to all parameters; the arguments are those of :func:`optizoo.backends.loop.update`.

    All tensors must be real and on one device; those of one parameter share shape and strides, without holes;
    parameters and states have one type, gradients one, which may differ.
    """
    present = {name: column is not None for name, column in states.items()}
    program, scalars = trace(rule, present, maximize=maximize, **options)
    made = {name: [torch.empty_like(param) for param in params] for name in emit_c.fresh_outputs(program)}
    return Call(program, scalars, [params, grads, *(column for column in states.values() if column is not None)], made)


def run(
    calls: Sequence[Call],
    *,
    grad_scale: float | Tensor | None = None,
    found_inf: Tensor | None = None,
    memory: dict[Any, Any] | None = None,
) -> None:
    """Make calls of one kind, no two of which have a tensor in common, in one launch.

    Args:
        calls: The calls.
        grad_scale: Divide the gradients by it on the way; on a GPU a tensor there.
        found_inf: On a GPU, a tensor there: nothing is written in place where it is not 0.
        memory: On a GPU, what the last launch of these tensors has left for this one.

    Raises:
        BuildError: The kernel cannot be built here.
    """
    program, made = calls[0].program, calls[0].made
    inputs = [list(itertools.chain(*columns)) for columns in zip(*(call.inputs for call in calls), strict=True)]
    fresh = {name: list(itertools.chain(*(call.made[name] for call in calls))) for name in made}
    rows = [index for index, call in enumerate(calls) for _ in call.inputs[0]]
    params, grads = inputs[0], inputs[1]
    if params[0].is_cuda:
        homes = {**dict(zip(program.inputs, inputs, strict=True)), **fresh}
        outputs = [homes[name] for name, _ in program.outputs]
        scaling = {"grad_scale": grad_scale, "found_inf": found_inf}
        fused_cuda.launch(program, calls[0].scalars, inputs, outputs, **scaling, memory=memory)
    else:
        kernel = kernel_for(program, params[0].dtype, grads[0].dtype, unscale=grad_scale is not None)
        scale = () if grad_scale is None else (float(grad_scale),)
        launch = Launch(kernel, [*inputs, *fresh.values()], rows)
        for row, call in enumerate(calls):
            launch.put(row, (*call.scalars, *scale))
        launch.run()
    torch.autograd.graph.increment_version(params)


def update(
    rule: Callable[..., tuple],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Columns,
    **options: Any,
) -> dict[str, list[Tensor]]:
    """Apply ``rule`` to all parameters at once; arguments and result are those of :func:`optizoo.backends.loop.update`.

    Raises:
        BuildError: The kernel cannot be built here.
    """
    made = call(rule, params, grads, states, **options)
    run([made])
    return made.made


def makes_states(program: Program) -> bool:
    """Return whether the program has outputs that are no inputs."""
    return bool(emit_c.fresh_outputs(program))


@lru_cache(maxsize=1024)
def kernel_for(program: Program, dtype: torch.dtype, grad_dtype: torch.dtype, *, unscale: bool = False) -> Kernel:
    """Return the kernel of a program; built once in a process."""
    return Kernel(program, dtype, grad_dtype, unscale=unscale)


def unavailable(device: torch.device | str = "cpu") -> str | None:
    """Return why no kernel can be built for a device, or ``None`` if they can."""
    device = torch.device(device)
    if device.type == "cuda":
        return fused_cuda.unavailable(device)
    try:
        _probe()
    except build.BuildError as error:
        return str(error)
    return None


@cache
def _probe() -> None:
    build.library("int optizoo_probe(void) { return 0; }\n")


def shares(elements: int) -> tuple[ctypes.c_int64, Any]:
    """Return the last two arguments of a kernel of the CPU: its number of shares, and what starts the threads."""
    return ctypes.c_int64(min(threads(), -(-elements // GRAIN))), parallel()


def threads() -> int:
    """Return how many threads may share a kernel: those of torch, but one after ``fork``.

    The threads of the runtime do not exist in a child, which would wait for them for ever.
    """
    return 1 if process.forks or parallel() is None else torch.get_num_threads()


@cache
def parallel() -> Any:
    """Return ``GOMP_parallel`` of the OpenMP runtime that torch has loaded, or ``None`` if that has no such function.

    Kernels link no runtime, so there is never a second one, whose threads would fight with torch's for the cores.
    """
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except (AttributeError, OSError, TypeError):
        return None
