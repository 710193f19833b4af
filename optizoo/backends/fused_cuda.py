"""The fused backend on CUDA: the traced rule as one Triton kernel that updates all tensors of a bucket in one launch.

Where a rule reduces tensors, further kernels go before it on the same stream, two for each stage.

Triton is imported when it is needed. With ``TRITON_INTERPRET=1`` in the environment of the process its interpreter runs
the same kernels on tensors of the CPU: slow, and meant for tests.
"""

import hashlib
import importlib.util
import linecache
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optizoo.backends import build, emit_triton, emit_triton_stages, proof
from optizoo.backends.build import BuildError
from optizoo.backends.emit_c import fresh_outputs
from optizoo.backends.trace import Program

BLOCK = 1024
"""Elements that one program of a launch updates."""

PARTIALS = 1024
"""Partial sums of blocks that are added at once, where a rule reduces tensors."""

WARPS = 4
"""Warps of a program: each thread has eight elements, two loads of 16 bytes in float32."""

CAPABILITY = (8, 0)
"""The oldest compute capability that Triton supports."""


def launch(
    program: Program,
    scalars: Sequence[Any],
    inputs: Sequence[Sequence[Tensor]],
    outputs: Sequence[Sequence[Tensor]],
    rows: Sequence[int] | None = None,
    *,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    memory: dict[str, Any] | None = None,
    partials: int = PARTIALS,
) -> None:
    """Execute ``program`` over lists of tensors on the current stream, without waiting for the device.

    A launch can be captured in a CUDA graph; at a replay, the scalars that are tensors, ``grad_scale`` and
    ``found_inf`` are read anew. A graph needs the memory of its launches as long as it is replayed, and the same launch
    once before the capture, in which nothing can be compiled.

    Args:
        program: What to compute.
        scalars: Its scalars: numbers, or 0-dim tensors, which are read on the device; or a sequence of such rows.
        inputs: For every input of the program a list of tensors. Those of one list share their dtype, and the lists of
            the parameter and the states share one. Tensors at one place of the lists share shape and strides and fill
            their memory without gaps or overlap.
        outputs: For every output of the program the tensors to write: those of the input of its name, or new ones; for
            a number of the tensor, new float64 tensors of one element.
        rows: For every tensor of a list its row of the scalars; without it they are one row, which all have.
        grad_scale: One float32 by which gradients are divided as they are read.
        found_inf: One float32; where it is not zero nothing is written.
        memory: Kept by the caller between the launches of a bucket: what is already on the device. Needed in a capture.
        partials: Partial sums of blocks that are added at once, a power of two. A proof takes few, as if the tensors
            were long.

    Raises:
        RuntimeError: A launch in a CUDA graph has no ``memory``.
    """
    device = inputs[0][0].device
    homes, columns = _homes(program, inputs, outputs)
    if memory is None:
        if _capturing(device):
            raise RuntimeError("launch in a CUDA graph needs `memory`, which the replays read; pass a dict and keep it")
        memory = {}
    tables = _tables(columns, device, memory, rows)
    if not tables.programs and program.elementwise:
        return
    types: Kinds = IN_ROWS
    if rows is None:
        values = [_argument(scalar, device) for scalar in scalars]
        types = tuple(value.dtype if isinstance(value, Tensor) else None for value in values)
    else:
        real = torch.promote_types(inputs[0][0].dtype, torch.float32) if program.elementwise else torch.float64
        values = [_in_rows(scalars, real, device, memory)]
    options = {"unscale": grad_scale is not None, "found_inf": found_inf is not None}
    kernel = kernel_for(program, inputs[0][0].dtype, inputs[1][0].dtype, homes, types, **options)
    extras = [extra for extra in (grad_scale, found_inf) if extra is not None]
    kernel.run(device, tables, [*_room(program, tables, memory), *values, *extras], partials)


IN_ROWS = "in rows"
"""The kind of scalars that lie in memory, a row for every tensor."""

Kinds = tuple[torch.dtype | None, ...] | str
"""For every scalar its type if it is a tensor, and ``None`` if it is a number; or :data:`IN_ROWS`."""


def _in_rows(rows: Sequence[Sequence[Any]], real: torch.dtype, device: torch.device, memory: dict[str, Any]) -> Tensor:
    """Return rows of scalars in the memory of a device, in a type."""
    capturing = _capturing(device)
    scalars = [_argument(scalar, device) for row in rows for scalar in row]
    if not capturing and not any(isinstance(scalar, Tensor) for scalar in scalars):
        host = _pinned((len(scalars),), real, device)
        return host.copy_(torch.tensor(scalars, dtype=torch.float64, device="cpu")).to(device, non_blocking=True)
    where: dict[str, Any] = {"dtype": real, "device": device}
    table = torch.stack(
        [
            scalar.to(real).reshape(()) if isinstance(scalar, Tensor) else torch.full((), scalar, **where)
            for scalar in scalars
        ]
    )
    if capturing:
        memory.setdefault("captured", []).append(table)
    return table


def _room(program: Program, tables: "Tables", memory: dict[str, Any]) -> list[Tensor]:
    """Return what the passes of a program with reductions take beside the tables, and hand on to each other."""
    if program.elementwise:
        return []
    numbers, reductions = emit_triton_stages.widths(program)
    sizes = [numbers * len(tables.lengths), reductions * tables.programs]
    room = torch.empty(sum(sizes), dtype=torch.float64, device=tables.device)
    if _capturing(tables.device):
        memory.setdefault("captured", []).append(room)
    return [tables.ends, *room.split(sizes)]


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def unavailable(device: torch.device) -> str | None:
    """Return why Triton's kernels cannot run on ``device``, or ``None`` if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install triton"
    if device.type == "cpu" and _interpreting():
        return None
    if device.type != "cuda":
        return f"Triton's kernels run on CUDA, not on {device.type}"
    return _unavailable_on(torch.cuda.current_device() if device.index is None else device.index)


@lru_cache
def _unavailable_on(index: int) -> str | None:
    capability = torch.cuda.get_device_capability(index)
    if torch.version.hip is None and capability < CAPABILITY:
        has, needs = (".".join(map(str, version)) for version in (capability, CAPABILITY))
        return f"{torch.cuda.get_device_name(index)} has compute capability {has}; Triton needs {needs}"
    from triton.runtime import driver

    try:
        driver.active.get_current_device()  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:  # it builds itself with the machine's C compiler, and fails as that fails
        return f"Triton's driver does not start ({_first_line(error)})"
    return None


def _interpreting() -> bool:
    from triton import knobs

    return bool(knobs.runtime.interpret)


def _argument(scalar: Any, device: torch.device) -> Any:
    """Return a scalar as the kernel takes it: a float, or a tensor on ``device``."""
    return scalar if isinstance(scalar, Tensor) and scalar.device == device else float(scalar)


def _homes(
    program: Program, inputs: Sequence[Sequence[Tensor]], outputs: Sequence[Sequence[Tensor]]
) -> tuple[tuple[int, ...], list[Sequence[Tensor]]]:
    """Return for every output the column that it is written to, and all columns: the inputs, then new tensors."""
    columns = list(inputs)
    homes = []
    for (name, _), tensors in zip(program.outputs, outputs, strict=True):
        home = program.inputs.index(name) if name in program.inputs else None
        if home is None or not (tensors is inputs[home] or all(map(operator.is_, tensors, inputs[home]))):
            home = len(columns)
            columns.append(tensors)
        homes.append(home)
    return tuple(homes), columns


# Kernels -------------------------------------------------------------------------------------------------------------


class Kernel:
    """The kernels of a text for Triton, compiled for each device when they first run there.

    Args:
        text: The module of :func:`optizoo.backends.emit_triton.source`, or of its namesake for reductions.
    """

    def __init__(self, text: str):
        name = f"optizoo_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        # Triton asks `inspect` for the source of a kernel. Registered here, the text needs no file: nothing to write,
        # to trust or to clean up. Triton keeps what it compiles in a cache of its own, whose key is the text.
        linecache.cache[f"<{name}>"] = (len(text), None, text.splitlines(keepends=True), f"<{name}>")
        namespace: dict[str, Any] = {"__name__": name}
        exec(compile(text, f"<{name}>", "exec"), namespace)
        self.functions = {key: value for key, value in namespace.items() if key.startswith("optizoo_")}
        """In the order in which they are launched."""
        self._compiled: dict[tuple[str, torch.device, bool, int], Any] = {}

    def run(self, device: torch.device, tables: "Tables", arguments: Sequence[Any], partials: int = PARTIALS) -> None:
        """Launch the kernels on the current stream of ``device``."""
        if device.type == "cuda" and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                return self.run(device, tables, arguments, partials)
        for name in self.functions:
            if name.startswith("optizoo_finish"):
                self._launch(name, len(tables.lengths), device, tables, arguments, partials)
            elif tables.programs:
                self._launch(name, tables.programs, device, tables, arguments, BLOCK)
        return None

    def _launch(
        self, name: str, programs: int, device: torch.device, tables: "Tables", arguments: Sequence[Any], block: int
    ) -> None:
        grid = (programs, 1, 1)
        arguments = [tables.table, tables.blocks, *arguments, tables.aligned, block]
        compiled = self._compiled.get((name, device, tables.aligned, block))
        if compiled is None:
            compiled = self.functions[name][grid](*arguments, num_warps=WARPS, enable_fp_fusion=False)
            if compiled is not None:  # the interpreter compiles nothing
                self._compiled[name, device, tables.aligned, block] = compiled
        else:  # the types of the arguments never change, so Triton need not look at them again
            compiled[grid](*arguments)


@lru_cache(maxsize=1024)
def kernel_for(
    program: Program,
    dtype: torch.dtype,
    grad_dtype: torch.dtype,
    homes: tuple[int, ...],
    scalar_types: Kinds,
    *,
    unscale: bool = False,
    found_inf: bool = False,
) -> Kernel:
    """Return the kernel of a program.

    Args:
        program: What it computes.
        dtype: Type of parameters and states.
        grad_dtype: Type of the gradients.
        homes: As in :func:`optizoo.backends.emit_triton.source`, like the other arguments.
        scalar_types: For every scalar its type if it is a tensor, and ``None`` if it is a number.
        unscale: It takes ``grad_scale``.
        found_inf: It takes ``found_inf``.
    """
    return Kernel(_text(program, dtype, grad_dtype, homes, scalar_types, unscale=unscale, found_inf=found_inf))


def _text(
    program: Program,
    dtype: torch.dtype,
    grad_dtype: torch.dtype,
    homes: tuple[int, ...],
    scalar_types: Kinds,
    *,
    unscale: bool,
    found_inf: bool,
) -> str:
    in_rows = isinstance(scalar_types, str)
    source = emit_triton.source if program.elementwise else emit_triton_stages.source
    return source(
        program,
        str(dtype).removeprefix("torch."),
        str(grad_dtype).removeprefix("torch."),
        homes=homes,
        on_device=() if in_rows else [index for index, kind in enumerate(scalar_types) if kind is not None],
        in_rows=in_rows,
        unscale=unscale,
        found_inf=found_inf,
    )


# The proof -----------------------------------------------------------------------------------------------------------

_verdicts: dict[tuple[Any, ...], str | None] = {}  # kernel and device -> why it may not serve there, or None


def prove(
    program: Program,
    scalars: Sequence[Any],
    param: Tensor,
    grad: Tensor,
    *,
    in_rows: bool = False,
    unscale: bool = False,
    found_inf: bool = False,
) -> None:
    """Let the kernel that :func:`launch` would take prove itself on its device, unless it has done so before.

    Args:
        program: What it computes.
        scalars: As for the launch; their values do not matter.
        param: One of the parameters.
        grad: Its gradient.
        in_rows: Every tensor has a row of scalars.
        unscale: It takes ``grad_scale``.
        found_inf: It takes ``found_inf``.

    Raises:
        BuildError: It cannot be built, or does not pass. That is found out once in a process.
    """
    device = param.device
    kinds: Kinds = IN_ROWS
    if not in_rows:
        arguments = [_argument(scalar, device) for scalar in scalars]
        kinds = tuple(each.dtype if isinstance(each, Tensor) else None for each in arguments)
    key = program, param.dtype, grad.dtype, kinds, unscale, found_inf, device
    if key not in _verdicts:
        if _capturing(device):
            raise BuildError("no kernel can be built while a CUDA graph is captured; make a step before")
        _verdicts[key] = _verdict(program, param.dtype, grad.dtype, kinds, device, unscale=unscale, found_inf=found_inf)
    if (reason := _verdicts[key]) is not None:
        raise BuildError(reason)


def _verdict(
    program: Program,
    dtype: torch.dtype,
    grad_dtype: torch.dtype,
    kinds: Kinds,
    device: torch.device,
    **options: bool,
) -> str | None:
    if (reason := unavailable(device)) is not None:
        return reason
    columns = [*program.inputs, *fresh_outputs(program)]
    homes = tuple(columns.index(name) for name, _ in program.outputs)

    def launches(columns: list[list[Tensor]], numbers: list[float]) -> Iterator[tuple[str, bool]]:
        return _launches(program, columns, homes, numbers, kinds, device, **options)

    def objection() -> str | None:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        return proof.objection(
            program,
            dtype,
            grad_dtype,
            launches,
            unscale=options["unscale"],
            device=device,
            lengths=(BLOCK, BLOCK + 1),
            kinds=() if isinstance(kinds, str) else kinds,
        )

    try:
        text = _text(program, dtype, grad_dtype, homes, kinds, **options)
        digest = hashlib.sha256("\0".join([text, str(kinds), proof.claim(_environment(device))]).encode()).hexdigest()
        folder = _folder()
        build.judge(
            folder and folder / f"{digest[:32]}.proof", digest, objection, remedy="update Triton and the driver"
        )
    except BuildError as error:
        return str(error)
    except Exception as error:  # of any kind: a step must not fail for it, nor try again
        return f"Triton cannot build or launch the kernel ({type(error).__name__}: {_first_line(error)})"
    return None


def _launches(
    program: Program,
    columns: list[list[Tensor]],
    homes: Sequence[int],
    numbers: list[float],
    kinds: Kinds,
    device: torch.device,
    *,
    unscale: bool,
    found_inf: bool,
) -> Iterator[tuple[str, bool]]:
    """Launch in every way that there is, for a proof."""
    rows = None
    if isinstance(kinds, str):
        own = numbers[: len(numbers) - unscale]
        scalars: list[Any] = [[math.nan] * len(own), own]
        rows = [1] * len(columns[0])  # the first row is nobody's
    else:
        scalars = [
            number if kind is None else torch.tensor(number, dtype=kind, device=device)
            for number, kind in zip(numbers, kinds, strict=False)  # behind them stands the scale
        ]
    scale = torch.tensor(numbers[-1], dtype=torch.float32, device=device) if unscale else None
    flag = torch.zeros((), dtype=torch.float32, device=device) if found_inf else None
    inputs, outputs = columns[: len(program.inputs)], [columns[home] for home in homes]
    memory: dict[str, Any] = {}

    def repeated(partials: int = PARTIALS) -> None:
        launch(
            program, scalars, inputs, outputs, rows, grad_scale=scale, found_inf=flag, memory=memory, partials=partials
        )

    for way in ("first launch", "second launch"):
        repeated()
        yield way, True
    if not program.elementwise:
        repeated(partials=16)
        yield "many partial sums", True
    if device.type == "cuda":
        graph = _captured(repeated, device)
        for way in ("captured", "replayed again"):
            graph.replay()
            yield way, True
    if flag is not None:
        flag.fill_(1)
        repeated()
        yield "after an overflow", False


def _captured(function: Callable[[], None], device: torch.device) -> torch.cuda.CUDAGraph:
    """Return a CUDA graph of what a function launches; nothing else in the process is disturbed."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            function()
        finally:
            graph.capture_end()
    torch.cuda.current_stream(device).wait_stream(stream)
    return graph


def _folder() -> Path | None:
    try:
        return build.kernel_folder()
    except BuildError:  # what others may write to holds no verdicts for us
        return None


def _environment(device: torch.device) -> str:
    """Return all on which it depends what a kernel computes."""
    import triton

    parts = [f"triton {triton.__version__}", f"{BLOCK} {WARPS}"]
    if device.type == "cuda":
        try:
            driver = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
        except OSError:
            driver = ""
        version = getattr(torch._C, "_cuda_getDriverVersion", lambda: 0)()
        parts += [torch.cuda.get_device_name(device), str(torch.cuda.get_device_capability(device))]
        parts += [f"cuda {torch.version.cuda}, hip {torch.version.hip}, driver {version} {driver}"]
    else:
        parts.append("interpreter")
    return ", ".join(parts)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


# Tables --------------------------------------------------------------------------------------------------------------


class Tables(NamedTuple):
    """What a launch reads to find its tensors. Never rewritten: a CUDA graph may read it at any replay.

    Attributes:
        device: Where they are.
        lengths: Number of elements of every tensor of a column.
        pointers: Addresses of all tensors, column by column.
        rows: For every tensor its row of scalars.
        table: For every tensor its number of elements, its address in each column, and its row of scalars.
        blocks: For every program of a launch the tensor, and which block of it.
        ends: For every tensor the number of blocks of the tensors up to it.
        programs: Number of programs.
        aligned: Whether all addresses are multiples of 16.
        hosts: Pinned memory from which the two were copied: a captured copy reads it at every replay.
    """

    device: torch.device
    lengths: list[int]
    pointers: list[int]
    rows: list[int]
    table: Tensor
    blocks: Tensor
    ends: Tensor
    programs: int
    aligned: bool
    hosts: list[Tensor]


def _tables(
    columns: Sequence[Sequence[Tensor]], device: torch.device, memory: dict[str, Any], rows: Sequence[int] | None
) -> Tables:
    """Return the tables of ``columns``; nothing is copied to the device while tensors stay where they are."""
    capturing = _capturing(device)
    own_rows = [0] * len(columns[0]) if rows is None else [*rows]
    lengths = [tensor.numel() for tensor in columns[0]]
    pointers = [tensor.data_ptr() for column in columns for tensor in column]
    tables: Tables | None = memory.get("tables")
    known = tables is not None and tables.device == device and tables.lengths == lengths and tables.rows == own_rows
    if tables is None or not known or tables.pointers != pointers:
        tables = _made(lengths, pointers, own_rows, device, tables, memory)
        if not capturing:  # captured copies are made at the replay: a launch outside must not rely on them
            memory["tables"] = tables
    if capturing:
        memory.setdefault("captured", []).append(tables)
    elif device.type == "cuda" and "spare" not in memory:
        memory["spare"] = _pinned(tables.table.shape, tables.table.dtype, device)
    return tables


def _made(
    lengths: list[int],
    pointers: list[int],
    own_rows: list[int],
    device: torch.device,
    known: Tables | None,
    memory: dict[str, Any],
) -> Tables:
    """Return new tables, of which the blocks are those of the ``known`` ones while no length has changed."""
    rows = torch.tensor([*lengths, *pointers, *own_rows], dtype=torch.int64, device="cpu").view(-1, len(lengths)).t()
    aligned = not bool((rows[:, 1:-1] & 15).any())
    # Memory cannot be pinned in a capture, so some was set aside before it.
    host = memory.pop("spare", None)
    if host is None or host.shape != rows.shape:
        host = _pinned(rows.shape, rows.dtype, device)
    table = host.copy_(rows).to(device, non_blocking=True)
    if known is not None and known.lengths == lengths and known.device == device:
        hosts = [host, *known.hosts[1:]]
        return known._replace(pointers=pointers, rows=own_rows, table=table, aligned=aligned, hosts=hosts)
    blocks, ends = _blocks(rows[:, 0])
    host_blocks = _pinned((blocks.numel() + len(ends),), torch.int32, device)
    torch.cat([blocks.flatten(), ends], out=host_blocks)
    moved, moved_ends = host_blocks.to(device, non_blocking=True).split([blocks.numel(), len(ends)])
    hosts = [host, host_blocks]
    return Tables(device, lengths, pointers, own_rows, table, moved, moved_ends, len(blocks), aligned, hosts)


def _blocks(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tensor and the number of every block, in order: ``(blocks, 2)``, and where those of a tensor end.

    Both are int32.
    """
    counts = (lengths + BLOCK - 1) // BLOCK
    ends = counts.cumsum(0)
    tensors = torch.repeat_interleave(torch.arange(len(counts), device="cpu"), counts)
    first = torch.repeat_interleave(ends - counts, counts)
    blocks = torch.stack([tensors, torch.arange(len(tensors), device="cpu") - first], dim=1)
    return blocks.to(torch.int32), ends.to(torch.int32)


def _pinned(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return memory of the host, from which copies to ``device`` run asynchronously."""
    return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=device.type == "cuda")
