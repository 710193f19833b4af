"""``optizoo bench step --references``: what a step costs beside the packages that have optimizers of the same names.

Every execution that a package has is a side of its own, and so is every one of ``torch.optim`` where it has the
optimizer. They run in turn in one process, as in :mod:`optizoo.lab.step_benchmark`; each has its own states, since the
packages name them otherwise. Some packages write into gradients: all sides see the same, which stay far from overflow.
"""

import gc
import statistics
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optizoo import create, explain, list_optimizers
from optizoo.lab import step_benchmark as bench
from optizoo.lab.files import growing
from optizoo.lab.records import environment
from optizoo.tables import text_table
from optizoo.testing import torch_twin
from optizoo.testing.references import build, installed
from optizoo.testing.specimens import specimens
from optizoo.zoo import optimizer_class

WORKLOADS = ("two-layer", "ResNet-50", "32M")

REQUIRED: Mapping[str, float] = {
    **dict.fromkeys(("lion", "adan", "ademamix", "adopt", "schedulefreeadamw", "adabelief"), 2.5),
    **dict.fromkeys(("lamb", "stableadamw", "cautiousadamw", "prodigy"), 2.0),
    **dict.fromkeys(("adafactor", "muon"), 1.0),
}
"""The least ratio of the fastest execution of all references to optizoo's default, on a CPU with two threads."""

_EXECUTIONS: Mapping[str, Mapping[str, Any]] = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "": {}}


def peers(optimizer: str, params: Sequence[Tensor]) -> tuple[dict[str, Optimizer], dict[str, str]]:
    """Make every execution of every reference of an optimizer, and say of those that cannot be made why."""
    made: dict[str, Optimizer] = {}
    left_out: dict[str, str] = {}

    def attempt(side: str, make: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made[side] = make()
                _train(made[side])
                made[side].step()
        except Exception as error:  # a package that lacks an execution says so in its own way
            made.pop(side, None)
            left_out[side] = f"{type(error).__name__}: {error}".splitlines()[0]

    for how, options in _EXECUTIONS.items():
        if bench.is_torchs(optimizer, options):
            attempt(
                f"torch {how}".strip(), lambda options=options: torch_twin(optimizer, params, lr=bench.LR, **options)
            )
    for reference in specimens()[optimizer].references:
        if reference.fault or not installed(reference):
            continue
        for how, options in _EXECUTIONS.items():
            own = {key: value for key, value in reference.options.items() if key != "foreach"}
            other = replace(reference, options={**own, **options})
            side = f"{reference.distribution} {how}".strip()
            attempt(side, lambda other=other: build(optimizer, other, params, {"lr": bench.LR}))
    return made, left_out


def _train(optimizer: Any) -> None:
    if callable(train := getattr(optimizer, "train", None)):
        train()


def reference_benchmark(
    *,
    optimizers: Iterable[str] = (),
    workloads: Iterable[str] = WORKLOADS,
    repeats: int = 9,
    threads: int | None = None,
    copy_bytes: int = bench.COPY_BYTES,
    file: Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Time a step of optimizers beside all executions of their references, on the CPU in float32.

    Args:
        optimizers: Names; by default all that have a reference which is installed and has no fault.
        workloads: Names of :data:`optizoo.lab.step_benchmark.WORKLOADS`.
        repeats: Of every side.
        threads: Of torch; ``None`` leaves them as they are.
        copy_bytes: Size of the tensor whose copying gives the bandwidth.
        file: JSON file that takes the record after every cell, as in :func:`optizoo.lab.files.growing`.
        progress: A line on stderr for every cell.

    Returns:
        ``{"environment", "repeats", "cells"}``; a cell has ``optimizer``, ``workload``, ``parameters``, ``explain``,
        ``sides`` and ``left_out`` as in :func:`optizoo.lab.step_benchmark.step_benchmark`, ``fastest``, the side of the
        others with the least median, ``ratio`` of that to optizoo's default, ``required``, and ``of_copy``, the
        bandwidth at which optizoo moves what a step must, to that of a copy.
    """
    before = torch.get_num_threads()
    names = [*optimizers] or [name for name in list_optimizers() if name in REQUIRED]
    try:
        torch.set_num_threads(threads or before)
        record: dict[str, Any] = {"environment": environment(torch.device("cpu")), "repeats": repeats, "cells": []}
        with growing(file) as take:
            for workload in workloads:
                everything = bench.make_parameters(bench.WORKLOADS[workload], torch.device("cpu"), torch.float32)
                for name in names:
                    params = [param for param in everything if param.dim() >= optimizer_class(name).least_dimensions]
                    if not params:
                        continue
                    if progress:
                        print(f"{name}, {workload}", file=sys.stderr)
                    cell = _cell(name, params, repeats, copy_bytes)
                    if cell is not None:
                        record["cells"].append({"optimizer": name, "workload": workload, **cell})
                    take(record)
                    gc.collect()
    finally:
        torch.set_num_threads(before)
    return record


def _cell(optimizer: str, params: Sequence[Tensor], repeats: int, copy_bytes: int) -> dict[str, Any] | None:
    made, left_out = peers(optimizer, params)
    if not made:
        return None
    ours = create(optimizer, params, lr=bench.LR)
    made["optizoo default"] = ours
    _train(ours)
    ours.step()
    source = torch.ones(max(copy_bytes // 4, 1))
    timers = {side: bench.make_timer("step()", step=each.step) for side, each in made.items()}
    timers["copy"] = bench.make_timer("target.copy_(source)", target=torch.empty_like(source).zero_(), source=source)
    runs = {name: bench.count_runs(timer) for name, timer in timers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for repeat in range(repeats):
        for name in reversed(timers) if repeat % 2 else timers:
            seconds[name].append(timers[name].timeit(runs[name]).median)
    others = [side for side in made if side != "optizoo default"]
    fastest = min(others, key=lambda side: statistics.median(seconds[side]))
    kept = [ours.state[param].values() for param in params]
    states = sum(each.numel() * each.element_size() for stores in kept for each in stores if each.dim())
    moved = sum(3 * param.numel() * param.element_size() for param in params) + 2 * states
    return {
        "parameters": sum(param.numel() for param in params),
        "explain": explain(ours),
        "sides": {side: bench.summarized(seconds[side], runs[side]) for side in made},
        "left_out": left_out,
        "fastest": fastest,
        "ratio": bench.median_ratio(seconds[fastest], seconds["optizoo default"]),
        "required": REQUIRED.get(optimizer) if torch.get_num_threads() == 2 else None,
        "of_copy": moved / (8 * source.numel()) * bench.median_ratio(seconds["copy"], seconds["optizoo default"]),
    }


def format_references(record: Mapping[str, Any]) -> str:
    """Return a line for every cell: the fastest of the others, optizoo's default, their ratio, and what falls short."""
    rows = [["optimizer", "workload", "fastest other", "us", "optizoo us", "ratio", "required", "of copy"]]
    for cell in record["cells"]:
        sides, required = cell["sides"], cell["required"]
        short = required is not None and cell["ratio"] < required
        times = [f"{sides[side]['us']:,.0f}" for side in (cell["fastest"], "optizoo default")]
        rows.append(
            [cell["optimizer"], cell["workload"], cell["fastest"], *times, f"{cell['ratio']:.2f}",
             "-" if required is None else f"{required:g}{' !' if short else ''}", f"{cell['of_copy']:.0%}"]
        )  # fmt: skip
    found = record["environment"]
    ending = f"torch {found['torch']}, {found['threads']} threads, float32, medians of {record['repeats']} repeats"
    return f"{text_table(rows, right=[3, 4, 5, 6, 7])}\n{ending}"
