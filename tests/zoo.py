"""The table of cases that the tests of the zoo share."""

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from optizoo.testing import has_torch_twin
from optizoo.testing.pairwise import pairwise
from optizoo.testing.streams import Shapes, fitted
from optizoo.testing.verify import option_combinations
from optizoo.zoo import optimizer_class


def case_id(name: str, options: dict[str, Any]) -> str:
    """Return the name of a case: the optimizer and its options."""
    return "-".join([name, *(f"{key}={value!r}".replace(" ", "") for key, value in options.items())])


_PAIRS = {case_id(name, options) for name, options in option_combinations(pairs=True)}

COMBINATIONS = [
    pytest.param(name, options, id=case, marks=[] if case in _PAIRS else pytest.mark.slow)
    for name, options in option_combinations()
    for case in [case_id(name, options)]
]
"""Every combination of options that changes what is computed; without ``--slow`` every pair of option values."""

WITH_TWIN = [case for case in COMBINATIONS if has_torch_twin(case.values[0], **case.values[1])]  # pyright: ignore
"""Those of them that torch has too."""


def in_types(cases: Sequence[Any], dtypes: Sequence[torch.dtype]) -> list[Any]:
    """Return every case in every type; without ``--slow`` so many that every two option values still meet.

    The type is one of the options there.
    """
    found = []
    for name, group in itertools.groupby(cases, lambda case: case.values[0]):
        rows = [(case, dtype) for case in group for dtype in dtypes]
        defaults = {key: each.default for key, each in inspect.signature(optimizer_class(name)).parameters.items()}
        tables = [{**case.values[1], "dtype": str(dtype)} for case, dtype in rows]
        few = pairwise([row for row, (case, _) in zip(tables, rows, strict=True) if not case.marks], defaults)
        for row, (case, dtype) in zip(tables, rows, strict=True):
            marks = [] if any(row is one for one in few) else pytest.mark.slow
            found.append(pytest.param(*case.values, dtype, id=f"{case.id}-{str(dtype)[6:]}", marks=marks))
    return found


FEW = [
    pytest.param(name, options, id=case_id(name, options))
    for name, options in [
        ("sgd", {"lr": 0.01}),
        ("sgd", {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
        ("momentum", {"lr": 0.01, "lr_in_velocity": True}),
        ("rmsprop", {"momentum": 0.9, "centered": True}),
        ("adam", {"amsgrad": True, "weight_decay": 0.05}),
        ("adam", {"weight_decay": 0.05, "weight_decay_mode": "independent", "l1": 0.1}),
        ("adamw", {}),
        ("signum", {"weight_decay": 0.05}),
        ("lion", {"weight_decay": 0.05}),
        ("rprop", {}),
        ("adagrad", {"lr_decay": 0.01, "initial_accumulator_value": 0.1}),
        ("adadelta", {}),
        ("adabelief", {}),
        ("yogi", {}),
        ("adamax", {}),
        ("qhadam", {}),
        ("nadam", {}),
        ("radam", {}),
        ("adopt", {}),
        ("adan", {"weight_decay": 0.05}),
        ("ademamix", {"alpha_warmup": 8, "beta3_warmup": 8}),
        ("lars", {"nesterov": True, "weight_decay": 0.05}),
        ("cautiousadamw", {}),
        ("stableadamw", {}),
        ("lamb", {}),
        ("asgd", {"t0": 3, "weight_decay": 0.05}),
        ("adafactor", {}),
        ("muon", {}),
        ("normuon", {}),
        ("schedulefreesgd", {"lr": 0.01}),
        ("schedulefreeadamw", {"warmup_steps": 8}),
        ("prodigy", {"d0": 1e-3}),
    ]
]
"""One case for each rule, for promises that do not depend on the options."""


FAMILIES = frozenset(
    ("sgd", "rmsprop", "adam", "nadam", "asgd", "lamb", "adafactor", "muon", "schedulefreeadamw", "prodigy")
)
"""One optimizer of each kind of rule: with one state, with a root, with two moments, with running numbers from the step
and of its own, with sums over a tensor, with rows and columns, with matrices, with a second point, with sums over the
model. Tests marked ``families`` try every case of these, and one of each other, without ``--slow``."""


FEW_STEPS = 20
"""In so many steps a tier rejects every mutant that it rejects at all (``tests/test_testing_kit.py``)."""


def parameters(dtype: torch.dtype = torch.float32, seed: int = 0, *, of: str = "sgd") -> list[Parameter]:
    """Return two small parameters, a matrix and, if the optimizer ``of`` takes it, a vector; a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for shape in shapes_for(of, [(4, 3), (3,)])
    ]


def shapes_for(name: str, shapes: Sequence[Sequence[int]]) -> Shapes:
    """Return shapes as an optimizer takes them: with ones in front where it takes matrices only."""
    return fitted(shapes, optimizer_class(name).least_dimensions)


def only(cases: list, holds: Callable[[Any], bool]) -> list:
    """Return the cases of the optimizers whose class is as ``holds`` says."""
    return [case for case in cases if holds(optimizer_class(case.values[0]))]


def torchs_loop(name: str) -> dict[str, bool]:
    """Return what makes an optimizer run as torch's loop and keeps torch's group keys: Muon of torch has loops only."""
    known = inspect.signature(optimizer_class(name).namesake or optimizer_class(name)).parameters
    return {"foreach": False} if "foreach" in known else {}


def feed(params: list[Parameter], step: int) -> None:
    """Give every parameter a gradient that depends on the number of the step alone."""
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        grad = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        param.grad = torch.empty_like(param).copy_(grad)


def run(optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Step through ``steps`` with the gradients of :func:`feed`."""
    for step in steps:
        feed([param for group in optimizer.param_groups for param in group["params"]], step)
        optimizer.step()


def assert_same_state(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer) -> None:
    """Assert that parameters, state names and state values are identical, in order of the parameters."""
    pairs = zip(
        (param for group in ours.param_groups for param in group["params"]),
        (param for group in theirs.param_groups for param in group["params"]),
        strict=True,
    )
    for param, expected in pairs:
        assert torch.equal(param, expected)
        state, expected_state = ours.state[param], theirs.state[expected]
        assert state.keys() == expected_state.keys()
        for name, value in expected_state.items():
            assert torch.equal(state[name], value), name
            assert state[name].dtype == value.dtype
