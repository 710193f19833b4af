"""``optizoo list`` and ``optizoo verify``."""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from optizoo.cli import arguments
from optizoo.cli.errors import UsageError
from optizoo.cli.parser import DTYPES
from optizoo.zoo import list_optimizers, optimizer_class


def zoo(_: argparse.Namespace) -> int:
    """Name the optimizers."""
    width = max(map(len, list_optimizers()))
    for name in list_optimizers():
        doc = optimizer_class(name).__doc__ or ""
        first = doc.strip().partition("\n")[0].replace(":class:", "").replace("`", "")
        print(f"{name:{width}}  {first}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Hold every optimizer against torch.optim, or against other packages."""
    from optizoo.testing import verify as matrix

    if options.references:
        return _verify_references(options)
    device, dtypes = arguments.device(options.device), arguments.dtypes(options.dtype)
    arguments.check_file(options.json)
    steps = options.steps or (matrix.FULL_STEPS if options.full else matrix.STEPS)
    combinations = matrix.option_combinations(pairs=not options.full)
    jobs = options.jobs or (min(_cores(), 4) if device.type == "cpu" else 1)
    cells = matrix.verify(dtypes, device, steps, combinations, jobs)
    results = [*_watched(cells, matrix.count_cells(dtypes, device, combinations))]
    print(matrix.format_table(results, every_cell=options.verbose))
    failures = [result for result in results if not result.passed]
    for result in failures:
        print(f"FAIL {result.optimizer}({result.options}), {result.backend}, {result.dtype}: {result.message}")
    verdict = f"{len(failures)} of {len(results)} cells fail" if failures else f"all {len(results)} cells pass"
    threads = f"{jobs} x {matrix.threads_of(jobs)} threads" if jobs > 1 else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__} on {device}, {threads}: {verdict}")
    extent = (
        "every combination of options" if options.full else "every pair of option values (--full: every combination)"
    )
    print(f"{extent}; {steps} steps where bits are compared, up to half as many elsewhere")
    _write_cells(options.json, matrix.as_json(results, device, jobs))
    return 1 if failures else 0


def _verify_references(options: argparse.Namespace) -> int:
    from optizoo.testing import references

    if options.full or options.jobs or options.device != "cpu" or options.dtype != DTYPES:
        raise UsageError(
            "--references runs loops in float64 on the CPU: leave out --full, --jobs, --device and --dtype"
        )
    arguments.check_file(options.json)
    rows = [*_watched(references.compare(steps=options.steps or references.STEPS), references.count_rows())]
    missing = sorted({row.distribution for row in rows if not row.version})
    if not any(row.version for row in rows):
        raise ImportError(f"none of {', '.join(missing)} is installed: pip install 'optizoo[oracles]'")
    print(references.format_references(rows, every_row=options.verbose))
    failures = [row for row in rows if row.verdict == "FAIL"]
    for row in failures:
        print(f"FAIL {row.optimizer}({row.options}) beside {row.reference}: {row.message or 'they differ'}")
    for name in missing:
        print(f"{name} is not installed: pip install 'optizoo[oracles]'")
    verdict = f"{len(failures)} of {len(rows)} rows fail" if failures else f"all {len(rows)} rows pass"
    print(f"torch {torch.__version__}: {verdict}; {references.ASKED:g} of the way is asked for where no fault is named")
    _write_cells(options.json, references.as_json(rows))
    return 1 if failures else 0


def _write_cells(file: Path | None, record: dict[str, Any]) -> None:
    """Write a record of a verification to a JSON file, if one is wanted."""
    if file is None:
        return
    from optizoo.lab.files import write

    write(file, json.dumps(record).replace('{"optimizer"', '\n{"optimizer"') + "\n")  # a line a cell


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _watched(cells: Iterable[Any], total: int) -> Iterator[Any]:
    """Yield the cells, and show on a terminal how many there have been: with tqdm, where it is installed."""
    if not sys.stderr.isatty():
        yield from cells
    elif importlib.util.find_spec("tqdm") is not None:
        from tqdm import tqdm

        yield from tqdm(cells, total=total, unit="cell", leave=False, file=sys.stderr)
    else:
        for count, cell in enumerate(cells, start=1):
            print(f"\r{count} of {total} cells", end="" if count < total else "\n", file=sys.stderr, flush=True)
            yield cell
