"""The fused backend: the traced rule as one kernel that updates all tensors of a bucket.

On the CPU it is C, here; on a GPU it is Triton, in :mod:`optizoo.backends.fused_cuda`.
"""

import ctypes
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optizoo.backends import build, emit_c, fused_cuda, process, proof
from optizoo.backends.build import BuildError
from optizoo.backends.loop import Columns
from optizoo.backends.trace import TOTAL, Operation, Program, TraceError, running, trace
from optizoo.core.rule import FULL

TYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}

NUMBERS = torch.float64
"""Type of the numbers that a kernel makes of whole tensors."""

GRAIN = 1 << 13
"""Elements below which a thread of its own does not pay."""


class Kernel:
    """A program, built for a type of parameters and one of gradients, and proven.

    Args:
        program: What it computes.
        dtype: Type of the parameters.
        grad_dtype: Type of the gradients.
        state_dtype: Type of the states.
        unscale: It takes one more scalar, by which gradients are divided.

    Raises:
        BuildError: It cannot be built here, or does not pass its proof.
    """

    def __init__(
        self,
        program: Program,
        dtype: torch.dtype,
        grad_dtype: torch.dtype,
        state_dtype: torch.dtype,
        *,
        unscale: bool = False,
    ):
        self.program = program
        self.width = emit_c.width(program, unscale=unscale)
        state = None if state_dtype is dtype else TYPES[state_dtype]
        text = emit_c.source(program, TYPES[dtype], TYPES[grad_dtype], state, unscale=unscale)

        def objection(library: ctypes.CDLL, native: bool) -> str | None:
            self._take(library)
            exact = native and proof.rounds_as_torch()
            options = {"unscale": unscale, "exact": exact, "state_dtype": state_dtype}
            return proof.objection(program, dtype, grad_dtype, self._launches, **options)

        self._take(build.library(text, build.Proof(proof.claim("cpu"), objection)))

    def _take(self, library: ctypes.CDLL) -> None:
        self.function = library.optizoo_update
        self.function.restype = None

    def _launches(self, columns: list[list[Tensor]], scalars: list[float]) -> Iterator[tuple[str, bool]]:
        """Launch in every way that there is, for a proof."""
        launch = Launch(self, columns, [1] * len(columns[0]))
        launch.put(0, [math.nan] * self.width)  # a row that no tensor has
        launch.put(1, scalars)
        for way, count in (("one share", 1), ("again", 1), ("two shares", 2), ("seven shares", 7)):
            self.function(*launch.arguments, ctypes.c_int64(count), in_turn())
            yield way, True


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
        self.arguments = ctypes.c_int64(self.tensors), self.ends, self.pointers, self.scalars, self.rows

    def put(self, row: int, scalars: Iterable[Any]) -> None:
        """Write the scalars of a row: numbers or 0-dim tensors."""
        for index, scalar in enumerate(scalars, start=row * self.kernel.width):
            self.scalars[index] = scalar

    def run(self) -> None:
        """Update the tensors."""
        self.kernel.function(*self.arguments, *shares(self.elements))


class Call(NamedTuple):
    """What a bucket asks of a kernel. Calls of one :attr:`kind` go into one launch, each with a row of scalars.

    Attributes:
        program: What to compute.
        scalars: Its scalars.
        inputs: For every input of the program, the tensors.
        made: For every state that the program makes, the tensors that it goes to.
        numbers: The new values of the rule's running numbers.
    """

    program: Program
    scalars: tuple[Any, ...]
    inputs: Sequence[Sequence[Tensor]]
    made: dict[str, list[Tensor]]
    numbers: Mapping[str, Any] = MappingProxyType({})

    def results(self) -> dict[str, list[Any]]:
        """Return what a bucket keeps: columns of the states that were made, and of the running numbers."""
        return {**self.made, **{name: [number] * len(self.inputs[0]) for name, number in self.numbers.items()}}

    @property
    def kind(self) -> tuple[Any, ...]:
        """What calls of one launch have in common: the program, the types, and where the tensors are."""
        return *self.signature, self.inputs[0][0].device

    @property
    def signature(self) -> tuple[Program, torch.dtype, torch.dtype, torch.dtype]:
        """The program, and the types of parameters, gradients and states."""
        param, grad = self.inputs[0][0], self.inputs[1][0]
        moments = (column[0] for column in (*self.inputs[2:], *self.made.values()))
        return self.program, param.dtype, grad.dtype, moment_dtype(param, moments)


def moment_dtype(param: Tensor, states: Iterable[Tensor]) -> torch.dtype:
    """Return the type of the states of a parameter: that of the first that is no rest of 16 bits and no number."""
    moments = (state.dtype for state in states if state.dtype.is_floating_point and state.shape == param.shape)
    return next(moments, param.dtype)


def call(
    rule: Callable[..., Any],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Columns,
    *,
    state_dtype: torch.dtype | None = None,
    **options: Any,
) -> Call:
    """Return what applies ``rule`` to all parameters; the arguments are those of :func:`optizoo.backends.loop.update`.

    All tensors must be real and on one device; those of one parameter share shape and strides, without holes;
    parameters and states have one type, gradients one, which may differ.
    """
    present = {name: column is not None for name, column in states.items()}
    program, scalars = trace(rule, present, **options)
    waits = program.outputs[0][0] == TOTAL
    numbers = {} if waits else running(rule, present, **options)
    inputs = [params, grads, *(column for column in states.values() if column is not None)]
    return Call(program, scalars, inputs, _fresh(program, params, state_dtype), numbers)


def _fresh(program: Program, params: Sequence[Tensor], dtype: torch.dtype | None) -> dict[str, list[Tensor]]:
    """Return memory for the outputs of a program that are no inputs."""
    rank = {name: program.rank[value] for name, value in program.outputs}
    return {
        name: [
            torch.empty_like(param, dtype=dtype)
            if rank[name] == FULL
            else torch.empty((), dtype=NUMBERS, device=param.device)
            for param in params
        ]
        for name in emit_c.fresh_outputs(program)
    }


def total(
    rule: Callable[..., Any],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Columns,
    **options: Any,
) -> list[Tensor] | None:
    """Return for every parameter what the rule wants summed over the model next, or ``None`` if it wants nothing more.

    The arguments are those of :func:`update`.
    """
    wanted = call(rule, params, grads, states, **options)
    if wanted.program.outputs[0][0] != TOTAL:
        return None
    run([wanted])
    return wanted.made[TOTAL]


def joined(calls: Sequence[Call]) -> tuple[list[list[Tensor]], list[int]]:
    """Return the inputs of calls of one kind as columns of one launch, and for every tensor the row of its call."""
    columns = [[*itertools.chain(*parts)] for parts in zip(*(call.inputs for call in calls), strict=True)]
    return columns, [row for row, call in enumerate(calls) for _ in call.inputs[0]]


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
    if len(calls) > 1 and calls[0].inputs[0][0].is_cuda and not _shares_launch(calls[0], grad_scale, found_inf):
        for index, call in enumerate(calls):
            own = None if memory is None else memory.setdefault(index, {})
            run([call], grad_scale=grad_scale, found_inf=found_inf, memory=own)
        return
    program, made = calls[0].program, calls[0].made
    inputs, rows = joined(calls)
    fresh = {name: list(itertools.chain(*(call.made[name] for call in calls))) for name in made}
    params = inputs[0]
    if params[0].is_cuda:
        homes = {**dict(zip(program.inputs, inputs, strict=True)), **fresh}
        outputs = [homes[name] for name, _ in program.outputs]
        scaling = {"grad_scale": grad_scale, "found_inf": found_inf}
        scalars = [call.scalars for call in calls]
        if len(calls) == 1:
            fused_cuda.launch(program, scalars[0], inputs, outputs, **scaling, memory=memory)
        else:
            fused_cuda.launch(program, scalars, inputs, outputs, rows, **scaling, memory=memory)
    else:
        kernel = kernel_for(*calls[0].signature, unscale=grad_scale is not None)
        scale = () if grad_scale is None else (float(grad_scale),)
        launch = Launch(kernel, [*inputs, *fresh.values()], rows)
        for row, call in enumerate(calls):
            launch.put(row, (*call.scalars, *scale))
        launch.run()
    torch.autograd.graph.increment_version(params)


def _shares_launch(call: Call, grad_scale: Any, found_inf: Any) -> bool:
    """Return whether the kernel that reads rows of scalars serves on a GPU; it is another than that of a single row."""
    param, grad = call.inputs[0][0], call.inputs[1][0]
    options = {"unscale": grad_scale is not None, "found_inf": found_inf is not None}
    try:
        fused_cuda.prove(call.program, call.scalars, param, grad, in_rows=True, **options)
    except BuildError:
        return False
    return True


def update(
    rule: Callable[..., tuple],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Columns,
    **options: Any,
) -> dict[str, list[Tensor]]:
    """Apply ``rule`` to all parameters at once; arguments and result are those of :func:`optizoo.backends.loop.update`.

    Raises:
        BuildError: The kernel cannot serve here; nothing was written. :func:`obstacle` knows it before.
    """
    made = call(rule, params, grads, states, **options)
    run([made])
    return made.results()


_kernels: dict[tuple, Kernel | str] = {}  # or why there is none


def kernel_for(
    program: Program,
    dtype: torch.dtype,
    grad_dtype: torch.dtype,
    state_dtype: torch.dtype | None = None,
    *,
    unscale: bool = False,
) -> Kernel:
    """Return the kernel of a program; built once in a process.

    Raises:
        BuildError: It cannot serve; that too is found out once.
    """
    key = program, dtype, grad_dtype, state_dtype or dtype, unscale
    known = _kernels.get(key)
    if known is None:
        try:
            known = Kernel(*key[:4], unscale=unscale)
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
    state_dtype: torch.dtype | None = None,
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
        state_dtype: Type of the states, if it is another than the parameter's.
        maximize: As in the loop.
        grad_scale: Whether gradients are divided on the way.
        found_inf: Whether the kernel looks for an overflow.
        **options: As in the loop.
    """
    totals: list[float] = []
    try:
        while True:
            program, scalars = trace(rule, states, maximize=maximize, totals=totals, **options)
            if program.unkerneled is not None:
                return f"there is no kernel for {program.unkerneled}"
            if param.is_cuda and state_dtype not in (None, param.dtype):
                return "there is no kernel for states of another type than the parameters on CUDA"
            if param.is_cuda:
                fused_cuda.prove(program, scalars, param, grad, unscale=grad_scale, found_inf=found_inf)
            else:
                kernel_for(program, param.dtype, grad.dtype, state_dtype, unscale=grad_scale)
            if program.outputs[0][0] != TOTAL:
                return None
            totals.append(1.0)  # any number: it is a scalar of the next program
    except BuildError as error:
        return str(error)
    except TraceError:  # is told by the update
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


@cache
def in_turn() -> Any:
    """Return what starts the shares of a kernel one after the other in this thread: a proof must start no others."""
    work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    def parallel(function: Any, argument: Any, threads: int, _: int) -> None:
        for _ in range(threads):
            function(argument)

    return ctypes.CFUNCTYPE(None, work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(parallel)
