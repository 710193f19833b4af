"""``optizoo verify``: the whole matrix optimizer x options x backend x dtype, on the machine of whoever runs it."""

import concurrent.futures
import importlib
import inspect
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from optizoo.backends import fused
from optizoo.tables import text_table
from optizoo.testing.equivalence import Run, assert_equivalent
from optizoo.testing.pairwise import Options
from optizoo.testing.specimens import specimens
from optizoo.testing.streams import Shapes, gradients, lr_factor, make_params
from optizoo.testing.twins import has_torch_twin, kernel_tier, oracle, program, torch_twin
from optizoo.testing.ulp import identical, ulp_distance
from optizoo.zoo import create, list_optimizers, optimizer_class

BACKENDS = ("loop", "foreach")
"""Backends that are held against torch bit for bit."""

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
STEPS = 100
FULL_STEPS = 1000
FUSED_STEPS, TIER_STEPS = 200, 100
"""Most steps of runs that are not held bit for bit: a fused kernel's, step by step, and those in a tier.

They take half of the others' steps, up to that. In 20 steps a tier rejects every mutant that it rejects at all.
"""

FUSED_ULP = {"cpu": 1.0, "cuda": 2.0}
"""How far a fused step may end from the loop's, in units in the last place."""

FLOAT16_EPS = 1e-4
"""In float16 the default ``eps`` rounds to zero, in torch as here, and small gradients end in 0/0."""

Case = tuple[str, Options]

PACKAGES = ("optizoo.zoo", "optizoo.testing.specimens")
"""Packages whose path a program may have extended, by pages of its own."""


def option_combinations(*, pairs: bool = False) -> list[Case]:
    """Return every combination of options that changes what is computed, as (optimizer, options) pairs.

    An optimizer without a specimen stands there with its defaults.

    Args:
        pairs: Only so many that of every optimizer every two option values stand together in one.
    """
    known = specimens()
    return [
        (name, options)
        for name in list_optimizers()
        for options in (known[name].combinations(pairs=pairs) if name in known else [{}])
    ]


@dataclass
class Result:
    """One cell of the matrix.

    Attributes:
        optimizer: Name in the zoo.
        options: What the constructor got, as text.
        backend: ``"loop"``, ``"foreach"`` or ``"fused"``.
        dtype: Type of the parameters, without ``torch.``.
        reference: What it was held against, and how.
        params_ulp_first: Largest distance of a parameter after the first step, in ulp.
        states_ulp_first: The same for the states.
        params_ulp_last: After the last step; of the fused backend, the largest distance that any one step made.
        states_ulp_last: The same for the states.
        steps: Number of steps.
        torch_nan: Elements in which torch goes on with NaN (centered RMSprop) and optizoo does not; not compared.
        finite: Share of the reference's parameters that are finite at the end; equal NaNs prove little.
        passed: Whether the cell keeps its promise.
        message: Why not.
    """

    optimizer: str
    options: str
    backend: str
    dtype: str
    reference: str
    params_ulp_first: float = math.nan
    states_ulp_first: float = math.nan
    params_ulp_last: float = math.nan
    states_ulp_last: float = math.nan
    steps: int = 0
    torch_nan: int = 0
    finite: float = 1.0
    passed: bool = True
    message: str = ""


def verify(
    dtypes: Sequence[torch.dtype] = DTYPES,
    device: torch.device | str = "cpu",
    steps: int = STEPS,
    combinations: Sequence[Case] | None = None,
    jobs: int = 1,
) -> Iterator[Result]:
    """Hold every backend against ``torch.optim``, bit for bit after every step, and yield one result for each cell.

    Where torch has no such option, the textbook formulas are the reference: float64 in tier T2, float32 in tier T3.
    On the CPU the reference is torch's loop; on CUDA each backend is held against torch's own of the same name.

    Fused kernels are held against our loop: from equal numbers, every single step ends within :data:`FUSED_ULP` units
    of the largest number in it (a parameter or state before or after: where a sum ends near zero, all digits of a
    difference are those of the rounding before it), unless the rule sums up a tensor, which a kernel does in another
    order (:func:`~optizoo.testing.twins.kernel_tier`). On the CPU the loop has :class:`RightRoots` there. And they are
    held against torch in the tiers that other roundings pass: T2 in float64, T3 in float32, T4 in 16 bits (not with
    ``l1``, whose exact zeros T4 cannot measure). Where no kernel can be built there are no such cells.

    Args:
        dtypes: Types of the parameters.
        device: Where the parameters live.
        steps: Length of the runs.
        combinations: Pairs of optimizer name and options; by default those of :func:`option_combinations` that bring
            every two option values together. An optimizer without a specimen fails.
        jobs: Processes that share the work. Where none can be started, this one does all of it.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}; without a step nothing is compared")
    combinations = option_combinations(pairs=True) if combinations is None else combinations
    cases = [(name, options, dtype, device, steps) for dtype in dtypes for name, options in combinations]
    yield from _in_processes(cases, jobs) if jobs > 1 else _in_turn(cases)


def count_cells(dtypes: Sequence[torch.dtype], device: torch.device | str, combinations: Sequence[Case]) -> int:
    """Return how many results :func:`verify` has."""
    return sum(len(_backends(name, options, dtype, device)) for dtype in dtypes for name, options in combinations)


def _backends(name: str, options: Options, dtype: torch.dtype, device: torch.device | str) -> tuple[str, ...]:
    """Return which backends are held in a case; one of which nothing is known is a single cell."""
    if name not in specimens():
        return ("loop",)
    if dtype is torch.float16 and not specimens()[name].float16:
        return ()
    wide = dtype.itemsize > 2
    backends = BACKENDS if wide or has_torch_twin(name, **options) else ()
    # T4 measures in digits of what a weight has moved: of one that l1 keeps at exactly 0 there are none.
    in_tier = wide or not options.get("l1")
    has_kernel = fused.unavailable(device) is None and program(name, **options).unkerneled is None
    return (*backends, "fused") if in_tier and has_kernel else backends


def _in_turn(cases: Iterable[tuple]) -> Iterator[Result]:
    for case in cases:
        yield from _case(*case)


def _case(name: str, options: Options, dtype: torch.dtype, device: torch.device | str, steps: int) -> Iterator[Result]:
    """Yield the cells of one combination of options in one type."""
    backends = _backends(name, options, dtype, device)
    if name not in specimens():
        result = _result(name, options, "loop", dtype, "none")
        result.passed = False
        result.message = "nothing says what it should compute: write its specimen in optizoo/testing/specimens"
        yield result
        return
    if not backends:
        return
    eps = inspect.signature(optimizer_class(name)).parameters.get("eps")
    if dtype == torch.float16 and eps is not None and isinstance(eps.default, float):
        options = {"eps": FLOAT16_EPS, **options}
    stream = _gradient_lists(dtype, device, steps, specimens()[name].shapes)
    if has_torch_twin(name, **options):
        yield from _against_torch(name, options, dtype, device, stream)
    elif "loop" in backends:
        yield from _against_textbook(name, options, dtype, device, steps)
    if "fused" in backends:
        yield _fused(name, options, dtype, device, stream)


def _in_processes(cases: list[tuple], jobs: int) -> Iterator[Result]:
    """Share the cases among processes, and yield the results in the order of the cases."""
    done = 0
    context = multiprocessing.get_context("spawn")  # a child of fork may not use the threads of torch
    try:
        paths = {name: list(sys.modules[name].__path__) for name in PACKAGES if name in sys.modules}
        setting = (paths, threads_of(jobs))
        with concurrent.futures.ProcessPoolExecutor(jobs, context, _start_process, setting) as pool:
            try:
                for results in pool.map(_pickled_case, map(pickle.dumps, cases)):
                    yield from results
                    done += 1
            finally:
                pool.shutdown(cancel_futures=True)
    except (OSError, ImportError, BrokenProcessPool):  # no semaphores, no memory, a __main__ that cannot be imported
        yield from _in_turn(cases[done:])


def threads_of(jobs: int) -> int:
    """Return how many threads each of so many processes has: more than there are cores wait for each other."""
    return max(1, torch.get_num_threads() // jobs)


def _start_process(paths: dict[str, list[str]], threads: int) -> None:
    for name, path in paths.items():
        importlib.import_module(name).__path__[:] = path
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _pickled_case(case: bytes) -> list[Result]:
    return list(_case(*pickle.loads(case)))


@lru_cache(maxsize=1)  # nobody writes to them, and to make them takes as long as to use them
def _gradient_lists(
    dtype: torch.dtype, device: torch.device | str, steps: int, shapes: Shapes
) -> list[list[Tensor | None]]:
    params = make_params(dtype, device, shapes=shapes)
    return [
        [None if g is None else torch.empty_like(p).copy_(g) for p, g in zip(params, grads, strict=True)]
        for grads in gradients(steps, shapes=shapes)
    ]


def _result(name: str, options: Options, backend: str, dtype: torch.dtype, reference: str) -> Result:
    text = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return Result(name, text, backend, str(dtype).removeprefix("torch."), reference)


def _against_torch(
    name: str, options: Options, dtype: torch.dtype, device: torch.device | str, stream: list[list[Tensor | None]]
) -> Iterator[Result]:
    on_cuda = torch.device(device).type == "cuda"
    references: dict[bool, Run] = {}
    cells: list[tuple[Run, Run, Result]] = []
    for backend in BACKENDS:
        foreach = backend == "foreach"
        lists = foreach and on_cuda and not isinstance(options.get("lr"), Tensor)
        if lists not in references:
            references[lists] = Run(
                lambda params, lists=lists: torch_twin(name, params, foreach=lists, **options),
                dtype,
                device=device,
                shapes=specimens()[name].shapes,
            )
        ours = Run(
            lambda params, foreach=foreach: create(name, params, foreach=foreach, **options),
            dtype,
            device=device,
            shapes=specimens()[name].shapes,
        )
        result = _result(name, options, backend, dtype, "torch foreach, bitwise" if lists else "torch loop, bitwise")
        cells.append((ours, references[lists], result))

    excused = bool(options.get("centered"))
    running = list(cells)
    for step, grads in enumerate(stream, start=1):
        factor = lr_factor(step, len(stream))
        for run in references.values():
            # torch's foreach Nesterov writes into the gradients, so it gets its own.
            _step(run, [grad if grad is None else grad.clone() for grad in grads] if on_cuda else grads, factor)
        for cell in list(running):
            ours, theirs, result = cell
            result.steps = step
            try:
                _step(ours, grads, factor)
                _compare(ours, theirs, result, step, last=step == len(stream), excused=excused)
            except Exception as error:  # one broken cell must not cost the table
                running.remove(cell)
                result.passed, result.message = False, f"step {step}: {type(error).__name__}: {error}"
    yield from (result for _, _, result in cells)


def _step(run: Run, grads: Sequence[Tensor | None], factor: float) -> None:
    """Step with gradients that have the run's type and place already."""
    for param, grad in zip(run.params, grads, strict=True):
        param.grad = grad
    run.set_lr(factor)
    run.optimizer.step()


def _compare(ours: Run, theirs: Run, result: Result, step: int, *, last: bool, excused: bool) -> None:
    pairs = list(_tensor_pairs(ours, theirs))
    if step > 1 and not last and all(identical(actual, expected) for _, actual, expected in pairs):
        return
    worst = {"params": 0, "states": 0}
    nans = 0
    for kind, actual, expected in pairs:
        distance = ulp_distance(actual, expected)
        if excused:
            faults = expected.isnan() & ~actual.isnan()
            nans += int(faults.sum()) if kind == "params" else 0
            distance = torch.where(faults, 0, distance)
        if distance.numel():
            worst[kind] = max(worst[kind], int(distance.max()))
    if step == 1:
        result.params_ulp_first, result.states_ulp_first = worst["params"], worst["states"]
    if last:
        result.params_ulp_last, result.states_ulp_last, result.torch_nan = worst["params"], worst["states"], nans
        result.finite = (
            torch.cat([param.detach().flatten() for param in theirs.params]).isfinite().double().mean().item()
        )
    if any(worst.values()) and result.passed:
        result.passed = False
        result.message = f"step {step}: params {worst['params']} ulp, states {worst['states']} ulp apart"


def _tensor_pairs(ours: Run, theirs: Run) -> Iterator[tuple[str, Tensor, Tensor]]:
    for param, expected in zip(ours.params, theirs.params, strict=True):
        yield "params", param.detach(), expected.detach()
        state = ours.optimizer.state.get(param, {})
        for name, value in theirs.optimizer.state.get(expected, {}).items():
            if state[name].shape != value.shape:
                raise ValueError(f"state {name!r} has the shape {tuple(state[name].shape)}, not {tuple(value.shape)}")
            yield "states", state[name].to(value.device), value


def _steps(steps: int, most: int) -> int:
    return min((steps + 1) // 2, most)


def _against_textbook(
    name: str, options: Options, dtype: torch.dtype, device: torch.device | str, steps: int
) -> Iterator[Result]:
    tier = {torch.float64: "T2", torch.float32: "T3"}[dtype]
    for backend in BACKENDS:
        result = _result(name, options, backend, dtype, f"textbook, tier {tier}")
        result.steps = _steps(steps, TIER_STEPS)
        try:
            assert_equivalent(
                lambda params, backend=backend: create(name, params, foreach=backend == "foreach", **options),
                lambda params: oracle(name, params, **options),
                tiers=[tier],
                steps=result.steps,
                device=device,
                shapes=specimens()[name].shapes,
            )
        except Exception as error:  # one broken cell must not cost the table
            result.passed, result.message = False, str(error)
        yield result


def _fused(
    name: str, options: Options, dtype: torch.dtype, device: torch.device | str, stream: list[list[Tensor | None]]
) -> Result:
    single_steps = kernel_tier(name, dtype, **options) == "T1"
    tier = {torch.float64: "T2", torch.float32: "T3"}.get(dtype, "T4")
    reference = f"our loop, step by step, {tier}" if single_steps else f"tier {tier}"
    result = _result(name, options, "fused", dtype, reference)
    try:
        if single_steps:
            _single_steps(name, options, dtype, device, stream[: _steps(len(stream), FUSED_STEPS)], result)
        assert_equivalent(
            lambda params: create(name, params, fused=True, **options),
            lambda params: oracle(name, params, **options),
            tiers=[tier],
            dtype=dtype,
            steps=_steps(len(stream), TIER_STEPS),
            device=device,
            shapes=specimens()[name].shapes,
        )
    except Exception as error:  # one broken cell must not cost the table
        result.passed, result.message = False, f"{type(error).__name__}: {error}"
    result.steps = _steps(len(stream), FUSED_STEPS if single_steps else TIER_STEPS)
    return result


def _single_steps(
    name: str,
    options: Options,
    dtype: torch.dtype,
    device: torch.device | str,
    stream: list[list[Tensor | None]],
    result: Result,
) -> None:
    """Hold every step by itself: afterwards the kernel goes on from the loop's numbers."""
    ours = Run(
        lambda params: create(name, params, fused=True, **options),
        dtype,
        device=device,
        shapes=specimens()[name].shapes,
    )
    loop = Run(
        lambda params: create(name, params, foreach=False, **options),
        dtype,
        device=device,
        shapes=specimens()[name].shapes,
    )
    worst = {"params": 0.0, "states": 0.0}
    before: dict[tuple[int, str], Tensor] = {(index, "params"): p.detach() for index, p in enumerate(loop.start)}
    roots = RightRoots() if torch.device(device).type == "cpu" else nullcontext()
    for step, grads in enumerate(stream, start=1):
        factor = lr_factor(step, len(stream))
        _step(ours, grads, factor)
        with roots:
            _step(loop, grads, factor)
        for key, (kind, actual, expected) in _keyed_pairs(ours, loop):
            if not torch.equal(actual, expected):
                worst[kind] = max(worst[kind], _units(actual, expected, before.get(key, expected)))
                actual.copy_(expected)
            before[key] = expected.clone()
        if step == 1:
            result.params_ulp_first, result.states_ulp_first = worst["params"], worst["states"]
        result.params_ulp_last, result.states_ulp_last = worst["params"], worst["states"]
        if max(worst.values()) > FUSED_ULP[torch.device(device).type]:
            raise AssertionError(f"step {step}: params {worst['params']:g} ulp, states {worst['states']:g} ulp apart")
    result.finite = torch.cat([param.detach().flatten() for param in loop.params]).isfinite().double().mean().item()


def _units(actual: Tensor, expected: Tensor, before: Tensor) -> float:
    """Return the largest distance, in units in the last place of the larger of the numbers expected and before."""
    units = (actual - expected).abs().double() / _spacing(torch.maximum(expected.abs(), before.abs())).double()
    same = actual.isnan() & expected.isnan() | (actual == expected)
    return float(torch.where(same, 0.0, units).max())


class RightRoots(TorchFunctionMode):
    """Within it torch's square roots are correctly rounded, as IEEE 754 asks.

    Those of its CPU code may not be: with some vector libraries one in six is off by a unit in the last place. That is
    all in which the loop and the kernels differ, whose roots are right.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace ``Tensor.sqrt``; let everything else pass."""
        if func is Tensor.sqrt:
            return args[0].to(torch.float64, copy=True).apply_(math.sqrt).to(args[0].dtype)
        return func(*args, **(kwargs or {}))


def _keyed_pairs(ours: Run, theirs: Run) -> Iterator[tuple[tuple[int, str], tuple[str, Tensor, Tensor]]]:
    """Number the pairs of every parameter, so that a tensor has its key though states come to be later."""
    index, state = -1, 0
    for kind, actual, expected in _tensor_pairs(ours, theirs):
        index, state = (index + 1, 0) if kind == "params" else (index, state + 1)
        yield (index, kind if kind == "params" else f"state {state}"), (kind, actual, expected)


def _spacing(values: Tensor) -> Tensor:
    """Return the distance from each number to the next larger one."""
    values = values.clamp(torch.finfo(values.dtype).smallest_normal, torch.finfo(values.dtype).max)
    exponent = torch.frexp(values).exponent
    return torch.ldexp(torch.full_like(values, torch.finfo(values.dtype).eps), exponent - 1)


def format_table(results: Sequence[Result], *, every_cell: bool = False) -> str:
    """Return the results as a table: a line for each optimizer, backend, dtype and reference, the worst cell in it.

    Distances are those of parameters and states, after the first step and after the last, in units in the last place.

    Args:
        results: Of :func:`verify`.
        every_cell: A line for every cell, with its options.
    """
    header = [
        "optimizer",
        "backend",
        "dtype",
        "reference",
        "options",
        "after 1 step",
        "after all",
        "steps",
        "finite",
        "result",
    ]
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        key = (result.optimizer, result.backend, result.dtype, result.reference)
        groups.setdefault((*key, result.options) if every_cell else key, []).append(result)
    rows = [header]
    for key, cells in groups.items():
        failed = sum(not cell.passed for cell in cells)
        rows.append(
            [
                *key[:4],
                cells[0].options if every_cell else str(len(cells)),
                _ulp_text(cells, "first"),
                _ulp_text(cells, "last"),
                str(max(cell.steps for cell in cells)),
                f"{min(cell.finite for cell in cells):.0%}",
                f"FAIL ({failed})" if failed else "pass",
            ]
        )
    return text_table(rows)


def _ulp_text(cells: Sequence[Result], when: str) -> str:
    params = max(getattr(cell, f"params_ulp_{when}") for cell in cells)
    states = max(getattr(cell, f"states_ulp_{when}") for cell in cells)
    return "within tier" if math.isnan(params) else f"{params:g}, {states:g} ulp"


def as_json(results: Sequence[Result], device: torch.device | str, jobs: int = 1) -> dict[str, Any]:
    """Return the results with what they depend on, for a JSON file; a cell leaves out what says nothing.

    That is distances that were not measured, no message, and no NaN of torch's.
    """
    empty = {"message": "", "torch_nan": 0}
    cells = [
        {
            key: value
            for key, value in asdict(result).items()
            if not (isinstance(value, float) and math.isnan(value)) and not (key in empty and value == empty[key])
        }
        for result in results
    ]
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu",
        "threads": threads_of(jobs),
        "processes": jobs,
        "passed": bool(results) and all(result.passed for result in results),
        "cells": cells,
    }
