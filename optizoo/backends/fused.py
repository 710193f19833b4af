"""The fused backend: the traced rule as one kernel that updates all tensors of a bucket.

On the CPU it is C, here; on a GPU it is Triton, in :mod:`optizoo.backends.fused_cuda`.
"""

import ctypes
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from optizoo.backends import build, emit_c, fused_cuda, proof
from optizoo.backends.build import BuildError
from optizoo.backends.loop import Columns
from optizoo.backends.trace import Operation, Program, TraceError, trace

TYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}

GRAIN = 1 << 13
"""Elements below which a thread of its own does not pay."""


class Kernel:
    """A program, built for a type of parameters and one of gradients, and proven.

    Args:
        program: What it computes.
        dtype: Type of parameters and states.
        grad_dtype: Type of the gradients.
        unscale: It takes one more scalar, by which gradients are divided.

    Raises:
        BuildError: It cannot be built here, or does not pass its proof.
    """

    def __init__(self, program: Program, dtype: torch.dtype, grad_dtype: torch.dtype, *, unscale: bool = False):
        self.program = program
        text = emit_c.source(program, TYPES[dtype], TYPES[grad_dtype], unscale=unscale)

        def objection(library: ctypes.CDLL, native: bool) -> str | None:
            self._take(library)
            exact = native and proof.rounds_as_torch()
            return proof.objection(program, dtype, grad_dtype, self._launches, unscale=unscale, exact=exact)

        self._take(build.library(text, build.Proof(proof.claim("cpu"), objection)))

    def _take(self, library: ctypes.CDLL) -> None:
        self.function = library.optizoo_update
        self.function.restype = None

    def _launches(self, columns: list[list[Tensor]], scalars: list[float]) -> Iterator[tuple[str, bool]]:
        """Launch in every way that there is, for a proof."""
        launch = Launch(self, columns)
        for index, scalar in enumerate(scalars):
            launch.scalars[index] = scalar
        for way, count in (("one share", 1), ("again", 1), ("two shares", 2), ("seven shares", 7)):
            self.function(*launch._arguments, ctypes.c_int64(count), in_turn())
            yield way, True


class Launch:
    """A kernel with the tensors that it updates.

    Args:
        kernel: The kernel.
        columns: For every input of its program and then for every new state, the tensors.
    """

    def __init__(self, kernel: Kernel, columns: Sequence[Sequence[Tensor]]):
        self.tensors = len(columns[0])
        lengths = [tensor.numel() for tensor in columns[0]]
        self.elements = sum(lengths)
        self._ends = (ctypes.c_int64 * self.tensors)(*itertools.accumulate(lengths))
        pointers = [tensor.data_ptr() for column in columns for tensor in column]
        self.pointers = (ctypes.c_void_p * len(pointers))(*pointers)
        count = sum(operation.scalar is not None for operation in kernel.program.operations) + 1
        self.scalars = (ctypes.c_double * count)()
        self._function = kernel.function
        self._arguments = ctypes.c_int64(self.tensors), self._ends, self.pointers, self.scalars

    def run(self, scalars: Sequence[Any]) -> None:
        """Update the tensors with these scalars, numbers or 0-dim tensors."""
        for index, scalar in enumerate(scalars):
            self.scalars[index] = scalar
        self._function(*self._arguments, *shares(self.elements))


def update(
    rule: Callable[..., tuple],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Columns,
    *,
    maximize: bool = False,
    grad_scale: float | Tensor | None = None,
    found_inf: Tensor | None = None,
    memory: dict[Any, Any] | None = None,
    **options: Any,
) -> dict[str, list[Tensor]]:
    """Apply ``rule`` to all parameters at once; arguments and result are those of :func:`optizoo.backends.loop.update`.

    All tensors must be real and on one device; those of one parameter share shape and strides, without holes;
    parameters and states have one type, gradients one, which may differ.

    Args:
        rule: As in the loop.
        params: As in the loop.
        grads: As in the loop.
        states: As in the loop.
        maximize: As in the loop.
        grad_scale: Divide the gradients by it on the way; on a GPU a tensor there.
        found_inf: On a GPU, a tensor there: nothing is written in place where it is not 0.
        memory: On a GPU, what the last call with these tensors has left for this one.
        **options: As in the loop.

    Raises:
        BuildError: The kernel cannot serve here; nothing was written. :func:`obstacle` knows it before.
    """
    program, scalars = trace(
        rule, {name: column is not None for name, column in states.items()}, maximize=maximize, **options
    )
    made = {name: [torch.empty_like(param) for param in params] for name in emit_c.fresh_outputs(program)}
    inputs = [params, grads, *(column for column in states.values() if column is not None)]
    if params[0].is_cuda:
        homes = {**dict(zip(program.inputs, inputs, strict=True)), **made}
        outputs = [homes[name] for name, _ in program.outputs]
        scaling = {"grad_scale": grad_scale, "found_inf": found_inf}
        fused_cuda.launch(program, scalars, inputs, outputs, **scaling, memory=memory)
    else:
        kernel = kernel_for(program, params[0].dtype, grads[0].dtype, unscale=grad_scale is not None)
        launch = Launch(kernel, [*inputs, *made.values()])
        launch.run(scalars if grad_scale is None else (*scalars, float(grad_scale)))
    torch.autograd.graph.increment_version(params)
    return made


def makes_states(program: Program) -> bool:
    """Return whether the program has outputs that are no inputs."""
    return bool(emit_c.fresh_outputs(program))


def launch(program: Program, columns: Sequence[Sequence[Tensor]]) -> Launch:
    """Return the launch of a program that makes no states over the columns of its inputs."""
    return Launch(kernel_for(program, columns[0][0].dtype, columns[1][0].dtype), columns)


_kernels: dict[tuple[Program, torch.dtype, torch.dtype, bool], Kernel | str] = {}  # or why there is none


def kernel_for(program: Program, dtype: torch.dtype, grad_dtype: torch.dtype, *, unscale: bool = False) -> Kernel:
    """Return the kernel of a program; built once in a process.

    Raises:
        BuildError: It cannot serve; that too is found out once.
    """
    key = program, dtype, grad_dtype, unscale
    known = _kernels.get(key)
    if known is None:
        try:
            known = Kernel(program, dtype, grad_dtype, unscale=unscale)
        except BuildError as error:
            known = str(error)
        _kernels[key] = known
    if isinstance(known, str):
        raise BuildError(known)
    return known


def obstacle(
    rule: Callable[..., tuple],
    states: Mapping[str, bool],
    param: Tensor,
    grad: Tensor,
    *,
    maximize: bool = False,
    grad_scale: bool = False,
    found_inf: bool = False,
    **options: Any,
) -> str | None:
    """Return why the kernel that :func:`update` would launch cannot serve, or ``None``; builds and proves it.

    Args:
        rule: As in the loop.
        states: For every state of the rule whether it exists.
        param: One of the parameters.
        grad: Its gradient.
        maximize: As in the loop.
        grad_scale: Whether gradients are divided on the way.
        found_inf: Whether the kernel looks for an overflow.
        **options: As in the loop.
    """
    try:
        program, scalars = trace(rule, states, maximize=maximize, **options)
        if param.is_cuda:
            fused_cuda.prove(program, scalars, param, grad, unscale=grad_scale, found_inf=found_inf)
        else:
            kernel_for(program, param.dtype, grad.dtype, unscale=grad_scale)
    except BuildError as error:
        return str(error)
    except TraceError:  # is told by the update
        return None
    return None


_PROBE = Program(("param", "grad"), (Operation("add", (0, 1), 0),), (("param", 2),))


def place(device: torch.device) -> str:
    """Return the name of what kernels are proven on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"


def unavailable(device: torch.device | str = "cpu") -> str | None:
    """Return why no kernel can be built for a device, or ``None`` if they can, as far as one can tell for another."""
    device = torch.device(device)
    if device.type == "cuda":
        return fused_cuda.unavailable(device)
    try:
        kernel_for(_PROBE, torch.float32, torch.float32)
    except BuildError as error:
        return str(error)
    return None


def shares(elements: int) -> tuple[ctypes.c_int64, Any]:
    """Return the last two arguments of a kernel of the CPU: its number of shares, and what starts the threads."""
    parallel = _parallel()
    return ctypes.c_int64(min(torch.get_num_threads(), -(-elements // GRAIN)) if parallel else 1), parallel


@cache
def _parallel() -> Any:
    """Return ``GOMP_parallel`` of the OpenMP runtime that torch has loaded, or ``None`` if that has no such function.

    Kernels link no runtime, so there is never a second one, whose threads would fight with torch's for the cores.
    """
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except (AttributeError, OSError, TypeError):
        return None


@cache
def in_turn() -> Any:
    """Return what starts the shares of a kernel one after the other in this thread: a proof must start no others."""
    work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    def parallel(function: Any, argument: Any, threads: int, _: int) -> None:
        for _ in range(threads):
            function(argument)

    return ctypes.CFUNCTYPE(None, work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(parallel)
