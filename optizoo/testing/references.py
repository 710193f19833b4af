"""``optizoo verify --references``: the zoo beside the packages that have optimizers of the same names."""

import importlib
import inspect
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from optizoo.tables import text_table
from optizoo.testing.pairwise import Options, pairwise, product
from optizoo.testing.specimen import Reference
from optizoo.testing.specimens import specimens
from optizoo.testing.streams import gradients, lr_factor, make_params, set_gradients
from optizoo.zoo import create, optimizer_class

STEPS = 1000
ASKED = 1e-12
"""The largest relative distance of two implementations that compute the same."""

VERDICTS = ("agrees", "named fault", "fault is gone", "FAIL", "not installed")


@dataclass
class Comparison:
    """An optimizer beside one implementation of another package.

    Attributes:
        optimizer: Name in the zoo.
        reference: Module and class of the other.
        distribution: Its package.
        version: The version that was found; empty where it is not installed.
        options: What both were given, as text.
        steps: Number of steps.
        distance: Norm of the difference between the parameters of the two, relative to the way that the other's have
            gone.
        verdict: One of :data:`VERDICTS`.
        message: The named fault, or what went wrong.
    """

    optimizer: str
    reference: str
    distribution: str
    version: str = ""
    options: str = ""
    steps: int = 0
    distance: float = math.nan
    verdict: str = "not installed"
    message: str = ""


def compare(names: Sequence[str] | None = None, steps: int = STEPS) -> Iterator[Comparison]:
    """Hold optimizers against every reference of their specimens, and yield rows that have every pair of option values.

    Both run freely from equal parameters, of two, three and no dimensions, with gradients that span fifteen decades
    (:mod:`optizoo.testing.streams`), under a rate that rests once and then drops. Every parameter has a gradient in
    every step, since many packages count the steps of a group, not of a parameter. Of a package that is not installed
    there is a single row.

    Args:
        names: Names of optimizers; all by default.
        steps: Length of the runs.
    """
    for name, reference in known(names):
        yield from compare_with(name, reference, steps)


def known(names: Sequence[str] | None = None) -> list[tuple[str, Reference]]:
    """Return the references of these optimizers, or of all, each with the name of its optimizer."""
    chosen = specimens() if names is None else names
    return [(name, reference) for name in chosen for reference in specimens()[name].references]


def count_rows(names: Sequence[str] | None = None) -> int:
    """Return how many rows :func:`compare` has."""
    return sum(len(_combinations(reference)) if installed(reference) else 1 for _, reference in known(names))


def _combinations(reference: Reference) -> list[Options]:
    return pairwise([row for table in reference.tables for row in product(table)])


def compare_with(name: str, reference: Reference, steps: int = STEPS) -> Iterator[Comparison]:
    """Hold an optimizer against one reference; see :func:`compare`."""
    version = installed(reference)
    if not version:
        yield Comparison(name, reference.path, reference.distribution)
        return
    for options in _combinations(reference):
        text = ", ".join(f"{key}={value!r}" for key, value in options.items())
        row = Comparison(name, reference.path, reference.distribution, version, text, steps, message=reference.fault)
        try:
            row.distance = distance(name, reference, options, steps)
            same, other = ("fault is gone", "named fault") if reference.fault else ("agrees", "FAIL")
            row.verdict = same if row.distance <= ASKED else other
        except Exception as error:  # one broken package must not cost the table
            row.verdict, row.message = "FAIL", f"{type(error).__name__}: {error}"
        yield row


def installed(reference: Reference) -> str:
    """Return the version of the package of a reference, or an empty text where it is not installed."""
    try:
        return metadata.version(reference.distribution)
    except metadata.PackageNotFoundError:
        return ""


def build(name: str, reference: Reference, params: Any, options: Options) -> Optimizer:
    """Make the optimizer of the other package that has these options of ours."""
    module, _, title = reference.path.rpartition(".")
    lr = inspect.signature(optimizer_class(name)).parameters["lr"].default
    theirs: Options = {}
    for option, value in {"lr": lr, **options}.items():
        named = reference.names.get(option, option)
        theirs |= {named: value} if isinstance(named, str) else named(value)
    return getattr(importlib.import_module(module), title)(params, **{**reference.options, **theirs})


def distance(name: str, reference: Reference, options: Options, steps: int = STEPS) -> float:
    """Return how far an optimizer and a reference end from each other; see :class:`Comparison`."""
    ours = _displacements(lambda params: create(name, params, **{"foreach": False, **options}), steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an older torch, for example
        theirs = _displacements(lambda params: build(name, reference, params, options), steps)
    way = torch.cat(theirs).norm()
    if not way:
        raise ValueError(f"{reference.path} leaves every parameter where it was, so nothing was compared")
    return ((torch.cat(ours) - torch.cat(theirs)).norm() / way).item()


def _displacements(factory: Any, steps: int) -> list[Tensor]:
    """Return how far every parameter has come, judged where the optimizer says that it is to be."""
    params = [param for param in make_params(torch.float64) if param.requires_grad]
    start = [param.detach().clone() for param in params]
    optimizer = factory(params)
    _switch(optimizer, "train")
    rates = [group["lr"] for group in optimizer.param_groups]
    for step, grads in enumerate(gradients(steps), start=1):
        set_gradients(params, _all_there(params, grads))  # anew, as some packages write into them
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * lr_factor(step, steps)
        optimizer.step()
    _switch(optimizer, "eval")
    return [(param.detach() - old).flatten() for param, old in zip(params, start, strict=True)]


def _all_there(params: Sequence[Parameter], grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    pairs = zip(params, grads, strict=False)  # those of frozen parameters stand at the end
    return [torch.zeros_like(param) if grad is None else grad for param, grad in pairs]


def _switch(optimizer: Any, mode: str) -> None:
    """Call ``train()`` or ``eval()`` of optimizers that are judged elsewhere than they step."""
    if callable(switch := getattr(optimizer, mode, None)):
        switch()


def format_references(rows: Sequence[Comparison], *, every_row: bool = False) -> str:
    """Return the comparisons as a table: a line for each optimizer and reference, the largest distance in it.

    Args:
        rows: Of :func:`compare`.
        every_row: A line for every combination of options.
    """
    groups: dict[tuple, list[Comparison]] = {}
    for row in rows:
        key = (row.optimizer, row.reference, row.version, row.message if row.verdict == "named fault" else "")
        groups.setdefault((*key, row.options) if every_row else key, []).append(row)
    table = [["optimizer", "reference", "version", "options", "distance", "verdict"]]
    for (name, path, version, fault, *_), cells in groups.items():
        worst = max(cells, key=lambda row: VERDICTS.index(row.verdict))
        options = cells[0].options if every_row else str(len(cells))
        largest = max(row.distance for row in cells)
        measured = f"{largest:.1e}" if version else ""
        table.append([name, path, version, options, measured, f"{worst.verdict}: {fault}" if fault else worst.verdict])
    return text_table(table)


def as_json(rows: Sequence[Comparison]) -> dict[str, Any]:
    """Return the comparisons with what they depend on, for a JSON file; a distance that is no number is ``None``."""
    cells = [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(row).items()}
        for row in rows
    ]
    return {"torch": torch.__version__, "asked": ASKED, "passed": passed(rows), "references": cells}


def passed(rows: Sequence[Comparison]) -> bool:
    """Return whether something was compared, and all that has no named fault agrees."""
    return any(row.version for row in rows) and all(row.verdict != "FAIL" for row in rows)
