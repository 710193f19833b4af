"""``import optizoo as optim``: every public name of ``torch.optim``, ours or torch's own."""

import inspect
import subprocess
import sys

import pytest
import torch

import optizoo

TORCHS_OWN = {"LBFGS", "Optimizer", "SparseAdam", "functional", "swa_utils", "swap_in_optimizer_params_and_state"}


@pytest.mark.parametrize("name", torch.optim.__all__)
def test_every_name_of_torch_is_there(name):
    """Ours serve where there is a rule of ours, or a schedule; all else is torch's own object."""
    ours, theirs = getattr(optizoo, name), getattr(torch.optim, name)
    if name in TORCHS_OWN:
        assert ours is theirs
    elif inspect.isclass(theirs):
        assert issubclass(ours, optizoo.RuleOptimizer)
    else:
        assert ours is optizoo.lr_scheduler
    assert name in dir(optizoo)


def test_a_star_brings_torchs_names_and_ours():
    """``from optizoo import *`` gives all of them."""
    names: dict = {}
    exec("from optizoo import *", names)
    assert {*torch.optim.__all__, "Lion", "Momentum", "create", "explain", "from_rule", "param_groups"} <= names.keys()


def test_a_name_that_nobody_has_is_refused():
    """An unknown attribute is an AttributeError that names it."""
    with pytest.raises(AttributeError, match="Adamm"):
        optizoo.Adamm  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("arguments", [["--version"], ["list"]])
def test_the_package_runs_as_a_module(arguments):
    """``python -m optizoo`` is the command."""
    done = subprocess.run([sys.executable, "-m", "optizoo", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert optizoo.__version__ in done.stdout or "adamw" in done.stdout
