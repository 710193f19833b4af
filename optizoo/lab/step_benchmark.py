"""The step benchmark: what ``optimizer.step()`` costs beside ``torch.optim``.

Every cell is an optimizer on a set of parameters. All its sides run in one process and in turn, there and back again,
so that a busy machine slows all alike and none is always first. They share parameters, gradients and state tensors, so
that no side has the luckier addresses; only the counters of the steps are their own. Gradients stay the same tensors
from step to step, as they do in training with ``zero_grad(set_to_none=False)``. All numbers lie far from overflow and
from denormals, and the learning rate is so small that they stay there.

Where options move, new ones are written into the param group before each step. That is timed with the step, on every
side alike: well under a microsecond, where a scheduler would cost more than the step.
"""

import gc
import itertools
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.benchmark import Timer

from optizoo import create, explain
from optizoo.lab.files import growing
from optizoo.lab.records import environment
from optizoo.tables import text_table
from optizoo.testing import has_torch_twin, torch_twin
from optizoo.zoo import optimizer_class

Shapes = Sequence[tuple[int, ...]]

# Sides that are compared stand side by side: torch's fused step is its fastest wherever it has one.
SIDES: Mapping[str, tuple[Callable[..., Optimizer], Mapping[str, Any]]] = {
    "torch loop": (torch_twin, {"foreach": False}),
    "torch foreach": (torch_twin, {"foreach": True}),
    "torch fused": (torch_twin, {"fused": True}),
    "optizoo default": (create, {}),
    "optizoo fused": (create, {"fused": True}),
    "optizoo foreach": (create, {"foreach": True}),
    "optizoo loop": (create, {"foreach": False}),
}
OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam", "adamw")

LR = 1e-6
REPEAT_SECONDS = 0.05
COPY_BYTES = 1 << 28


SPARSE = ("sgd", "momentum", "adagrad")
"""The optimizers that take sparse gradients."""


# Workloads -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """Parameters, and how a step finds them.

    Attributes:
        shapes: Of the parameters.
        groups: Param groups that they lie in, in equal parts; of several each has its own lr and weight decay.
        moving: Whether lr and momentum (or the first beta) are others at every step, as in one cycle of a schedule.
        batch: Rows of each parameter that have a gradient, which is sparse; 0 where gradients are dense. It is
            coalesced, because a momentum would grow with every step otherwise.
    """

    shapes: Shapes
    groups: int = 1
    moving: bool = False
    batch: int = 0

    def serves(self, optimizer: str) -> bool:
        """Return whether an optimizer takes the gradients."""
        return not self.batch or optimizer in SPARSE


def mlp(*widths: int) -> list[tuple[int, ...]]:
    """Return the parameter shapes of linear layers in a row.

    >>> mlp(3072, 512, 10)
    [(512, 3072), (512,), (10, 512), (10,)]
    """
    return [shape for inner, outer in itertools.pairwise(widths) for shape in ((outer, inner), (outer,))]


def resnet50() -> list[tuple[int, ...]]:
    """Return the parameter shapes of ``torchvision.models.resnet50``, in its order."""

    def convolution(inner: int, outer: int, kernel: int) -> list[tuple[int, ...]]:
        return [(outer, inner, kernel, kernel), (outer,), (outer,)]  # and its batch norm

    shapes = convolution(3, 64, 7)
    inner = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += convolution(inner, width, 1) + convolution(width, width, 3) + convolution(width, 4 * width, 1)
            if block == 0:
                shapes += convolution(inner, 4 * width, 1)
            inner = 4 * width
    return shapes + mlp(inner, 1000)


def gpt2_small() -> list[tuple[int, ...]]:
    """Return the parameter shapes of GPT-2 small, whose head is its embedding; weights as in its ``Conv1D``."""
    width, norm = 768, [(768,), (768,)]
    block = [*norm, (width, 3 * width), (3 * width,), (width, width), (width,)]
    block += [*norm, (width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [(50257, width), (1024, width), *block * 12, *norm]


WORKLOADS: Mapping[str, Workload] = {
    "linear": Workload(mlp(3072, 10)),
    "two-layer": Workload(mlp(3072, 512, 10)),
    "ResNet-50": Workload(resnet50()),
    "GPT-2-small": Workload(gpt2_small()),
    "32M": Workload([(1 << 25,)]),
    "1000x64": Workload([(64,)] * 1000),
    "groups": Workload([(256,)] * 4 * 64, groups=64),
    "one-cycle": Workload([(1000,)] * 60, moving=True),
    "sparse": Workload([(1_000_000, 64)], batch=128),
}


# What is required ----------------------------------------------------------------------------------------------------

REQUIRED: Mapping[str, Mapping[str, float | None]] = {
    optimizer: dict(zip(WORKLOADS, ratios, strict=True))
    for optimizer, ratios in {
        "sgd": (1.0, 1.0, 1.0, 1.0, 0.97, 3.0, 15.0, 3.0, 0.9),
        "momentum": (1.1, 1.1, 1.0, 1.0, 0.97, 8.0, 15.0, 3.0, 0.9),
        "rmsprop": (3.5, 3.5, 2.5, 3.0, 3.5, 20.0, 15.0, 3.0, None),
        "adam": (1.8, 1.1, 1.0, 1.0, 0.97, 12.0, 15.0, 3.0, None),
        "adamw": (1.8, 1.1, 1.0, 1.0, 0.97, 12.0, 15.0, 3.0, None),
    }.items()
}
"""The least ratio of torch's fastest to optizoo's default, on a CPU with two threads, in float32; ``None`` where the
optimizer does not take the gradients."""

REQUIRED_FOREACH = 1 / 1.05
REQUIRED_OF_COPY = 0.9
LARGE = ("GPT-2-small", "32M")
"""The workloads that must reach ``REQUIRED_OF_COPY``."""


def required(optimizer: str, workload: str, *, device: str, dtype: str, threads: int) -> float | None:
    """Return the least ratio of torch's fastest to optizoo's default, or ``None`` where nothing is required.

    >>> required("adam", "linear", device="cpu", dtype="float32", threads=2)
    1.8
    >>> required("adam", "linear", device="cuda", dtype="float32", threads=2)
    1.0
    """
    least = REQUIRED.get(optimizer, {}).get(workload)
    if dtype != "float32" or least is None:
        return None
    if device == "cuda":
        return 2.0 if optimizer == "rmsprop" else min(1.0, least) if WORKLOADS[workload].batch else 1.0
    return least if (device, threads) == ("cpu", 2) else None


# Measuring -----------------------------------------------------------------------------------------------------------


def step_benchmark(
    *,
    optimizers: Iterable[str] = OPTIMIZERS,
    workloads: Mapping[str, Workload] = WORKLOADS,
    repeats: int = 9,
    threads: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    copy_bytes: int = COPY_BYTES,
    file: Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Time a step of every optimizer on every workload and on every side of :data:`SIDES`.

    Args:
        optimizers: Names that have a twin in ``torch.optim``.
        workloads: What they are stepped on; one with sparse gradients only by those of :data:`SPARSE`.
        repeats: Of every side; each takes about 50 ms, or one step if that takes longer.
        threads: Of torch; ``None`` leaves them as they are.
        device: Where the parameters live.
        dtype: Their type.
        copy_bytes: Size of the tensor whose copying gives the bandwidth; far more than the caches hold.
        file: JSON file that takes the record after every cell, so that an interrupted run keeps what it measured: in
            ``<file>.unfinished``, where there is a file already. A pipe or device takes it at the end.
        progress: A line on stderr for every cell.

    Returns:
        ``{"environment", "device", "dtype", "repeats", "copy_gb_s", "cells"}``; a cell has

        * ``optimizer``, ``workload``, ``tensors``, ``parameters``;
        * ``bytes``: what a step must move, each parameter and state read and written and each gradient read, of
          all elements that have one;
        * ``explain``: which backend optizoo chose by default, and why;
        * ``sides``: for each its median and interquartile range in microseconds, every repeat, and the steps in one;
        * ``left_out``: for every side that cannot run here, why;
        * ``torch_fastest``: the side of torch with the least median;
        * ``ratio``: of that side to optizoo's default, and ``foreach_ratio``, of torch's foreach to optizoo's; both are
          the median of the ratios of repeats that ran in the same round, above 1 where optizoo is faster;
        * ``required``: the ratio that is required, or ``None``;
        * ``copy_gb_s``, ``gb_s`` and ``of_copy``: bandwidth of a copy out of the caches, that of optizoo's default, and
          the second to the first. A copy counts what it reads and writes, not that the processor may fetch a line
          before it overwrites it; a step reads all that it writes, so it may come out above a copy;
        * ``extra_bytes``: in the largest workload of dense gradients, the most memory that a step of optizoo's default
          held at a time beyond what it found, in bytes per parameter. Torch's allocators are asked.
    """
    before = torch.get_num_threads()
    device = torch.device(device)
    optimizers = tuple(optimizers)
    try:
        torch.set_num_threads(threads or before)
        record: dict[str, Any] = {
            "environment": environment(device),
            "device": device.type,
            "dtype": str(dtype).removeprefix("torch."),
            "repeats": repeats,
            "copy_gb_s": None,
            "cells": [],
        }
        cells = record["cells"]
        dense = [name for name, workload in workloads.items() if not workload.batch]
        largest = max(dense, key=lambda name: _elements(workloads[name].shapes), default=None)
        total = sum(workload.serves(optimizer) for workload in workloads.values() for optimizer in optimizers)
        with growing(file) as take:
            for name, workload in workloads.items():
                params = make_parameters(workload, device, dtype)
                for optimizer in filter(workload.serves, optimizers):
                    if progress:
                        print(f"cell {len(cells) + 1} of {total}: {optimizer}, {name}", file=sys.stderr)
                    cell: dict[str, Any] = {"optimizer": optimizer, "workload": name}
                    cell |= _cell(optimizer, workload, params, repeats, copy_bytes, memory=name == largest)
                    cell["required"] = required(
                        optimizer, name, device=device.type, dtype=record["dtype"], threads=torch.get_num_threads()
                    )
                    cells.append(cell)
                    record["copy_gb_s"] = statistics.median(cell["copy_gb_s"] for cell in cells)
                    take(record)
                    gc.collect()  # states are large, and an optimizer may stand in a cycle
                del params
    finally:
        torch.set_num_threads(before)
    return record


def _elements(shapes: Shapes) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)


def make_parameters(workload: Workload, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return parameters with gradients, of numbers whose squares even float16 holds, none of them near zero."""
    params = []
    for shape in workload.shapes:
        param = torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype).uniform_(0.5, 1.5))
        rows = (workload.batch, *shape[1:]) if workload.batch else shape
        grad = torch.empty(rows, device=device, dtype=dtype).uniform_(0.05, 0.15)
        if workload.batch:
            indices = torch.randperm(shape[0], device=device)[: workload.batch].sort().values[None]
            grad = torch.sparse_coo_tensor(indices, grad, shape, is_coalesced=True, check_invariants=False)
        param.grad = grad
        params.append(param)
    return params


def _cell(
    optimizer: str, workload: Workload, params: Sequence[Tensor], repeats: int, copy_bytes: int, *, memory: bool
) -> dict[str, Any]:
    made, left_out, shared = {}, {}, {}
    for side, (make, options) in SIDES.items():
        if make is torch_twin and not is_torchs(optimizer, options):
            left_out[side] = f"torch.optim has no {optimizer} with {_named(options)}"
            continue
        try:
            each = make(optimizer, _groups(params, workload.groups), lr=LR, **options)
            _set_apart(each.param_groups)
            made[side] = _started(each, params, shared)
        except RuntimeError as error:  # a kernel that cannot be had, or takes no sparse gradient; others are faults
            if "fused" not in options:
                raise
            left_out[side] = str(error)
    source = torch.ones(max(copy_bytes // 4, 1), device=params[0].device)
    timers = {}
    for side, each in made.items():
        moving = {"move": _one_cycle(each.param_groups[0])} if workload.moving else {}
        timers[side] = make_timer("move(); step()" if moving else "step()", step=each.step, **moving)
    timers["copy"] = make_timer("target.copy_(source)", target=torch.empty_like(source).zero_(), source=source)
    runs = {name: count_runs(timer) for name, timer in timers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for repeat in range(repeats):
        for name in reversed(timers) if repeat % 2 else timers:
            seconds[name].append(timers[name].timeit(runs[name]).median)

    default = made["optizoo default"]
    states = len(shared[params[0]])
    moved = sum(_values(param.grad).numel() * param.element_size() for param in params) * (3 + 2 * states)
    copied = 2 * source.numel() * source.element_size()
    fastest = min(
        (side for side in made if side.startswith("torch")), key=lambda side: statistics.median(seconds[side])
    )
    elements = sum(param.numel() for param in params)
    return {
        "tensors": len(params),
        "parameters": elements,
        "bytes": moved,
        "explain": explain(default),  # pyright: ignore[reportArgumentType]
        "sides": {side: summarized(seconds[side], runs[side]) for side in SIDES if side in made},
        "left_out": left_out,
        "torch_fastest": fastest,
        "ratio": median_ratio(seconds[fastest], seconds["optizoo default"]),
        "foreach_ratio": median_ratio(seconds["torch foreach"], seconds["optizoo foreach"]),
        "copy_gb_s": copied / statistics.median(seconds["copy"]) / 1e9,
        "gb_s": moved / statistics.median(seconds["optizoo default"]) / 1e9,
        "of_copy": moved / copied * median_ratio(seconds["copy"], seconds["optizoo default"]),
        "extra_bytes": peak_memory(default.step, params[0].device) / elements if memory else None,
    }


def is_torchs(optimizer: str, options: Mapping[str, Any]) -> bool:
    """Return whether torch has an optimizer, and the options that say how it is executed."""
    lacks = optimizer_class(optimizer).neutral_options().keys() & options.keys()
    return not lacks and has_torch_twin(optimizer, **options)


def _groups(params: Sequence[Tensor], number: int) -> list[dict[str, Any]]:
    size = len(params) // number
    return [{"params": params[start : start + size]} for start in range(0, len(params), size)]


def _set_apart(groups: Sequence[dict[str, Any]]) -> None:
    """Give each of several param groups an lr and, where the optimizer has one, a weight decay of its own."""
    for index, group in enumerate(groups if len(groups) > 1 else ()):
        group["lr"] = LR * (1 + index / len(groups))
        if "weight_decay" in group:
            group["weight_decay"] = 1e-4 * (1 + index)


def _one_cycle(group: dict[str, Any]) -> Callable[[], None]:
    """Return what writes the next lr of a cycle into a param group, and its momentum or first beta, if it has one."""
    moves: list[dict[str, Any]] = []
    for index in range(100):
        bend = math.sin(math.pi * index / 100)
        moves.append({"lr": LR * (0.04 + 0.96 * bend)})
        if group.get("momentum"):
            moves[-1]["momentum"] = 0.95 - 0.1 * bend
        elif "betas" in group:
            moves[-1]["betas"] = (0.95 - 0.1 * bend, *group["betas"][1:])
    cycle = itertools.cycle(moves)
    return lambda: group.update(next(cycle))


def _values(grad: Tensor | None) -> Tensor:
    assert grad is not None
    return grad._values() if grad.is_sparse else grad


def _named(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


def _started(optimizer: Optimizer, params: Sequence[Tensor], shared: dict[Tensor, dict[str, Tensor]]) -> Optimizer:
    """Make the first step, which makes the states, and put the tensors of ``shared`` in their place."""
    optimizer.step()
    for param in params:
        kept = shared.setdefault(param, {})
        store = optimizer.state.get(param, {})
        for name, value in store.items():
            if isinstance(value, Tensor) and value.dim() and value.shape == param.shape:
                store[name] = kept.setdefault(name, value)
    return optimizer


def make_timer(statement: str, **names: Any) -> Timer:
    """Return a timer of a statement, on as many threads as torch has."""
    return Timer(statement, globals=names, num_threads=torch.get_num_threads())


def count_runs(timer: Timer) -> int:
    """Return how many runs fill a repeat; what is built in the first ones is built behind this."""
    number = 1
    # The better of two: one that was interrupted would pass for a slow one.
    while (seconds := number * min(timer.timeit(number).median for _ in range(2))) < REPEAT_SECONDS / 10:
        number *= 10
    return max(1, round(number * REPEAT_SECONDS / seconds))


def summarized(seconds: Sequence[float], runs: int) -> dict[str, Any]:
    """Return the median of repeats in microseconds, their interquartile range, and all of them."""
    micro = [round(value * 1e6, 3) for value in seconds]
    low, _, high = statistics.quantiles(micro, n=4, method="inclusive") if len(micro) > 1 else micro * 3
    return {"us": round(statistics.median(micro), 3), "iqr_us": round(high - low, 3), "repeats_us": micro, "runs": runs}


def median_ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Return how many times as long theirs take as ours, repeats of one round beside each other."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def peak_memory(function: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """Return the most bytes of tensors that a call holds at a time, beyond those that were there before.

    >>> peak_memory(lambda: (torch.ones(1000) + 1).sum()) >= 8000
    True
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - start
    profile: Any = torch.autograd.profiler.profile(profile_memory=True)
    with profile:
        function()
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


# Showing -------------------------------------------------------------------------------------------------------------


def format_times(record: Mapping[str, Any]) -> str:
    """Return every cell of a record in one line: microseconds of each side, bandwidth and ratios."""
    makers = ("torch", "optizoo")
    sides = [f"{maker} {how}" for maker in makers for how in ("loop", "foreach", "fused", "default")]
    sides = [side for side in sides if side in SIDES]
    header = ["optimizer", "workload", *sides, "GB/s", "of copy", "torch's fastest", "ratio", "ratio foreach"]
    rows = [header]
    for cell in record["cells"]:
        times = [_micro(cell["sides"][side]["us"]) if side in cell["sides"] else "-" for side in sides]
        bandwidth = [f"{cell['gb_s']:.1f}", f"{cell['of_copy']:.0%}"]
        ratios = [cell["torch_fastest"].removeprefix("torch "), f"{cell['ratio']:.2f}", f"{cell['foreach_ratio']:.2f}"]
        rows.append([cell["optimizer"], cell["workload"], *times, *bandwidth, *ratios])
    return text_table(rows, right=[*range(2, 2 + len(sides) + 2), len(header) - 2, len(header) - 1])


def format_ratios(record: Mapping[str, Any]) -> str:
    """Return the ratios of a record, optimizer by workload, each with the one required and ``!`` if it falls short."""

    def show(cell: Mapping[str, Any]) -> str:
        if cell["required"] is None:
            return f"{cell['ratio']:.2f}"
        return f"{cell['ratio']:.2f} ({cell['required']:g})" + (" !" if cell["ratio"] < cell["required"] else "")

    return text_table(_crossed(record, show))


def format_markdown(record: Mapping[str, Any]) -> str:
    """Return the ratios of a record, optimizer by workload, with the time of optizoo's default, for README."""
    header, *rows = _crossed(
        record, lambda cell: f"{cell['ratio']:.2f} ({_micro(cell['sides']['optizoo default']['us'])} µs)"
    )
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shortfalls(record: Mapping[str, Any]) -> list[str]:
    """Return in a line each what falls short of the requirements; where nothing is required, nothing does."""
    lines = []
    for cell in record["cells"]:
        if cell["required"] is None:
            continue
        place = f"{cell['optimizer']}, {cell['workload']}"
        if cell["ratio"] < cell["required"]:
            lines.append(
                f"{place}: {cell['ratio']:.2f} times as fast as {cell['torch_fastest']}, not {cell['required']}"
            )
        if cell["foreach_ratio"] < REQUIRED_FOREACH:
            lines.append(
                f"{place}: foreach takes {1 / cell['foreach_ratio']:.2f} times as long as torch foreach, not 1.05"
            )
        if cell["workload"] in LARGE and cell["of_copy"] < REQUIRED_OF_COPY:
            lines.append(f"{place}: {cell['of_copy']:.0%} of the bandwidth of a copy, not {REQUIRED_OF_COPY:.0%}")
        if cell["extra_bytes"]:
            lines.append(f"{place}: {cell['extra_bytes']:.3g} bytes of extra memory per parameter, not 0")
    return lines


def format_summary(record: Mapping[str, Any]) -> str:
    """Return all that is to be printed of a record: both tables, what was left out, and what falls short."""
    lines = [format_times(record), "", "torch's fastest / optizoo default (required)", "", format_ratios(record), ""]
    left_out = dict.fromkeys(item for cell in record["cells"] for item in cell["left_out"].items())
    lines += [f"left out: {side}: {reason}" for side, reason in left_out]
    short = shortfalls(record)
    lines += [f"SHORT {line}" for line in short]
    extra = [cell for cell in record["cells"] if cell["extra_bytes"] is not None]
    lines += [
        f"extra memory of a default step, {cell['optimizer']}, {cell['workload']}: "
        f"{cell['extra_bytes']:.3g} bytes per parameter"
        for cell in extra
    ]
    found = record["environment"]
    held = sum(cell["required"] is not None for cell in record["cells"])
    verdict = f"{held} cells under requirements, shortfalls: {len(short)}" if held else "no requirements hold here"
    lines.append(
        f"torch {found['torch']} on {found['device']}, {found['threads']} threads, {record['dtype']}, "
        f"copy {record['copy_gb_s']:.1f} GB/s, medians of {record['repeats']} repeats: {verdict}"
    )
    return "\n".join(lines)


def _crossed(record: Mapping[str, Any], show: Callable[[Mapping[str, Any]], str]) -> list[list[str]]:
    cells = {(cell["optimizer"], cell["workload"]): cell for cell in record["cells"]}
    optimizers, workloads = ([*dict.fromkeys(names)] for names in zip(*cells, strict=True))
    rows = [["optimizer", *workloads]]
    for optimizer in optimizers:
        shown = [cells.get((optimizer, workload)) for workload in workloads]
        rows.append([optimizer, *("-" if cell is None else show(cell) for cell in shown)])
    return rows


def _micro(value: float) -> str:
    """Write microseconds as people read them.

    >>> _micro(9.876), _micro(14123.4)
    ('9.9', '14 123')
    """
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}".replace(",", " ")
