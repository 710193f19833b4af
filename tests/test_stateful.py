"""Ours and torch's side by side through any sequence of what users do; after each, nothing may differ.

``OPTIZOO_FUZZ=10000 pytest tests/test_stateful.py`` runs that many random sequences; else a few fixed ones.
"""

import copy
import io
import os

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor
from torch.nn import Parameter

import optizoo
from optizoo.testing import torch_twin, ulp
from tests.zoo import WITH_TWIN

# torch says once in a process that it looks at the sparse states of a checkpoint.
pytestmark = pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")

SEQUENCES = int(os.environ.get("OPTIZOO_FUZZ", "0"))
SETTINGS = settings(
    max_examples=SEQUENCES or 40,
    stateful_step_count=20,
    derandomize=not SEQUENCES,
    deadline=None,
    database=None,
    suppress_health_check=[*HealthCheck],  # pyright: ignore[reportArgumentType]
)

SHAPES = [(3, 2), (4,), (), (2, 1, 2), (0,)]
seeds = st.integers(0, 2**16)
factors = st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.5])


def made(seed: int, dtype: torch.dtype) -> list[tuple[str, Parameter]]:
    """Return named parameters of one or more shapes; a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    count = 1 + seed % 3
    return [
        (f"p{seed}.{index}", Parameter(torch.randn(SHAPES[(seed + index) % 5], generator=generator).to(dtype)))
        for index in range(count)
    ]


# torch's Muon and Adafactor divide by zero where a parameter has no element, and Muon takes matrices only.
CASES = [case.values for case in WITH_TWIN if case.values[0] not in ("muon", "adafactor")]


class SideBySide(RuleBasedStateMachine):
    """Two optimizers on two copies of the same parameters."""

    exact = True

    @initialize(
        case=st.sampled_from(CASES),
        seed=seeds,
        dtype=st.sampled_from([torch.float32, torch.float64]),
        named=st.booleans(),
    )
    def begin(self, case, seed, dtype, named):
        """Make both, on their own copies of the parameters."""
        self.name, self.options = case
        self.named = named
        params = made(seed, dtype)
        self.ours = self.create(optizoo.create, self.given(copy.deepcopy(params)))
        self.theirs = self.create(torch_twin, self.given(params))
        self.added = 0
        self.stepped = False

    def create(self, library, params) -> torch.optim.Optimizer:
        execution = {"foreach": False} if self.exact or library is torch_twin else {}
        return library(self.name, params, **{**self.options, **execution})

    def given(self, params: list[tuple[str, Parameter]]) -> list:
        return params if self.named else [param for _, param in params]

    def both(self) -> list[torch.optim.Optimizer]:
        return [self.ours, self.theirs]

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        ours, theirs = ([param for group in each.param_groups for param in group["params"]] for each in self.both())
        return list(zip(ours, theirs, strict=True))

    @rule(seed=seeds, scale=st.sampled_from([1e-6, 1.0, 1e3]), missing=st.sets(st.integers(0, 5)))
    def step(self, seed, scale, missing):
        """Step with new gradients, some of them None, some exactly zero."""
        generator = torch.Generator().manual_seed(seed)
        for index, pair in enumerate(self.pairs()):
            grad = torch.randn(pair[0].shape, generator=generator, dtype=torch.float64) * scale
            grad[grad.abs() < 0.1 * scale] = 0
            for param in pair:
                param.grad = None if index in missing else grad.to(param.dtype)
        for optimizer in self.both():
            optimizer.step()
        self.stepped = bool(self.theirs.state)

    @rule(times=st.integers(1, 3))
    def repeat(self, times):
        """Step again with the gradients that are there."""
        for _ in range(times):
            for optimizer in self.both():
                optimizer.step()

    @precondition(lambda self: self.added < 3)
    @rule(seed=seeds, factor=factors)
    def add_group(self, seed, factor):
        """Add a group with a rate of its own."""
        self.added += 1
        factor = factor or float(not self.stepped)  # as in `schedule`
        params = [(f"{self.added}.{name}", param) for name, param in made(seed, self.pairs()[0][0].dtype)]
        for optimizer, own in zip(self.both(), (copy.deepcopy(params), params), strict=True):
            optimizer.add_param_group({"params": self.given(own), "lr": 0.01 * factor})

    @precondition(lambda self: self.stepped)  # a first step at lr 0 with gradients of 0 only makes states, in ours
    @rule(factor=factors)
    def schedule(self, factor):
        """Set every group's rate."""
        for optimizer in self.both():
            for group in optimizer.param_groups:
                group["lr"] = 0.02 * factor

    # torch casts NAdam's mu_product, and ASGD's eta and mu, to the type of the parameter, and goes on with other digits
    @precondition(lambda self: self.name not in ("nadam", "asgd") or self.pairs()[0][0].dtype == torch.float32)
    @rule(to_file=st.booleans())
    def exchange(self, to_file):
        """Each loads the other's checkpoint."""
        saved = [optimizer.state_dict() for optimizer in self.both()]
        if to_file:
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
        saved = copy.deepcopy(saved)
        self.theirs.load_state_dict(saved[0])
        for group in self.theirs.param_groups:
            group["foreach"] = False  # which torch takes from a checkpoint
        self.ours.load_state_dict(saved[1])

    @rule()
    def copied(self):
        """Go on with deep copies."""
        self.ours, self.theirs = copy.deepcopy(self.ours), copy.deepcopy(self.theirs)

    @rule()
    def memory_moves(self):
        """Parameters and states move to other memory, as under ``p.data = ...`` and offloading."""
        for optimizer in self.both():
            for group in optimizer.param_groups:
                for param in group["params"]:
                    param.data = param.data.clone()
                    for key, value in optimizer.state.get(param, {}).items():
                        if isinstance(value, Tensor) and key not in ("step", "mu_product"):
                            optimizer.state[param][key] = value.clone()

    @rule(dtype=st.sampled_from([torch.float32, torch.float64]))
    def change_type(self, dtype):
        """Parameters and their states get another type, as where a model and its checkpoint are converted."""
        for optimizer in self.both():
            for group in optimizer.param_groups:
                for param in group["params"]:
                    param.grad = None
                    param.data = param.data.to(dtype)
                    for key, value in optimizer.state.get(param, {}).items():
                        if isinstance(value, Tensor) and key not in ("step", "mu_product"):
                            optimizer.state[param][key] = value.to(dtype)

    @rule(foreach=st.sampled_from([False, True]))
    def switch_backend(self, foreach):
        """Ours goes on as a loop or over lists."""
        if self.exact:
            for group in self.ours.param_groups:
                group["foreach"] = foreach

    @rule()
    def clear_gradients(self):
        """All gradients go."""
        for optimizer in self.both():
            optimizer.zero_grad()

    @invariant()
    def nothing_differs(self):
        """Parameters, names of states, and their values are the same."""
        if not hasattr(self, "ours"):
            return
        for mine, other in self.pairs():
            self.same("a parameter", mine.detach(), other.detach())
            ours, theirs = self.ours.state.get(mine, {}), self.theirs.state.get(other, {})
            if self.name == "adagrad" and not (ours and theirs):
                continue  # ours has the states of a group when it is added, torch's after its first step
            assert ours.keys() == theirs.keys()
            for key in theirs:
                self.same(key, ours[key], theirs[key])

    def same(self, what: str, mine: Tensor, other: Tensor) -> None:
        assert mine.dtype == other.dtype, what
        if self.exact:
            assert ulp.identical(mine, other), what
        else:
            # In float64 too: the parameters may have been float32 before.
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5, equal_nan=True)


class SideBySideFused(SideBySide):
    """The same with the backend that is chosen by default, whose square roots are torch's to one unit."""

    exact = False


@pytest.mark.parametrize("machine", [SideBySide, SideBySideFused], ids=["loop and lists", "default"])
def test_any_sequence(machine):
    """Ours stays beside torch's through any sequence of steps, groups, rates, checkpoints, copies and moves."""
    run_state_machine_as_test(machine, settings=SETTINGS)
