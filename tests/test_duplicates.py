"""A tensor that stands several times in one group: as many updates, as torch's loop makes them, in every backend."""

import copy
import re
import warnings

import pytest
import torch
from torch.nn import Parameter

import optizoo
from optizoo.testing import has_torch_twin, torch_twin
from tests.zoo import FEW, assert_same_state, feed, parameters, torchs_loop

WARNING = "optimizer contains a parameter group with duplicate parameters"
TWINNED = [case for case in FEW if has_torch_twin(case.values[0], **case.values[1])]  # pyright: ignore
BACKENDS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "default": {}}


def both(name, options, order, **backend):
    """Return ours and torch's loop over their own tensors, in this order of places."""
    made = []
    for make, how in ((optizoo.create, backend), (torch_twin, torchs_loop(name))):
        tensors = [*parameters(of=name), *parameters(seed=1, of=name)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", WARNING)
            made.append(make(name, [tensors[place] for place in order], **options, **how))
    return made


def drive(ours, theirs, steps, *, exact):
    """Step both and compare parameters and states after each step."""
    for step in steps:
        for optimizer in (ours, theirs):
            distinct = {id(param): param for param in optimizer.param_groups[0]["params"]}
            feed([*distinct.values()], step)
            optimizer.step()
        if exact:
            assert_same_state(ours, theirs)
        else:
            pairs = zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True)
            for param, expected in pairs:
                torch.testing.assert_close(param, expected)
                for key, value in theirs.state[expected].items():
                    torch.testing.assert_close(ours.state[param][key], value)


@pytest.mark.thin
@pytest.mark.parametrize("order", [(0, 0), (0, 1, 0), (0, 0, 1, 1, 0)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "options"), TWINNED)
def test_in_the_constructor(name, options, backend, order):
    """A tensor that is given twice or more is updated as often, from the first step on, states that rules make too."""
    ours, theirs = both(name, options, order, **BACKENDS[backend])
    drive(ours, theirs, range(6), exact=backend != "default")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "options"), TWINNED)
def test_in_the_middle_of_a_run(name, options, backend):
    """A tensor that is put into the group again after some steps, and taken out after some more."""
    ours, theirs = both(name, options, (0, 1), **BACKENDS[backend])
    exact = backend != "default"
    drive(ours, theirs, range(4), exact=exact)
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["params"].append(optimizer.param_groups[0]["params"][0])
    drive(ours, theirs, range(4, 8), exact=exact)
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["params"].pop()
    drive(ours, theirs, range(8, 12), exact=exact)


def test_of_several_types_and_groups():
    """Duplicates in the second of two groups, of tensors of several types, move nothing else."""
    runs = []
    for make, how in ((optizoo.create, {}), (torch_twin, {"foreach": False})):
        other, single, double = (
            Parameter(torch.ones(3, dtype=dtype)) for dtype in (torch.float32,) * 2 + (torch.float64,)
        )
        groups = [{"params": [other]}, {"params": [single, double, single, double], "lr": 0.1}]
        with pytest.warns(UserWarning, match=WARNING):
            runs.append(([other, single, double], make("adam", groups, **how)))
    for step in range(5):
        for params, optimizer in runs:
            feed(params, step)
            optimizer.step()
    for ours, expected in zip(runs[0][0], runs[1][0], strict=True):
        torch.testing.assert_close(ours, expected)
    assert [runs[0][1].state[param]["step"] for param in runs[0][0]] == [5, 10, 10]


@pytest.mark.parametrize("mode", ["capturable", "differentiable"])
def test_where_the_counter_is_a_tensor(mode):
    """With counters that are read as tensors, each update still counts for itself; torch's loop has the same values."""
    ends = []
    for make, options in ((optizoo.create, {mode: True}), (torch_twin, {"foreach": False})):
        params = [param.detach().requires_grad_() for param in parameters()]
        if options.get("differentiable"):
            params = [param.clone() for param in params]
        with pytest.warns(UserWarning, match=WARNING):
            optimizer = make("adam", [params[0], params[1], params[0]], lr=0.1, **options)
        for step in range(4):
            for param in params:
                param.grad = torch.full(param.shape, step + 1.0)
            optimizer.step()
        ends.append([param.detach() for param in params])
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_checkpoints_and_copies():
    """A checkpoint with a duplicate is torch's, loads into both, and a copy goes on in the same way."""
    ours, theirs = both("adam", {}, (0, 1, 0))
    drive(ours, theirs, range(3), exact=False)
    assert ours.state_dict()["param_groups"][0]["params"] == theirs.state_dict()["param_groups"][0]["params"]
    for optimizer, other in ((ours, theirs), (theirs, ours)):
        optimizer.load_state_dict(copy.deepcopy(other.state_dict()))
    copied = copy.deepcopy(ours)
    first, _, again = copied.param_groups[0]["params"]
    assert first is again
    drive(copied, theirs, range(3, 6), exact=False)


def test_what_raises_still():
    """In two groups a tensor raises as in torch, at once and later; two views of one memory raise everywhere."""
    param = Parameter(torch.zeros(2))
    message = "some parameters appear in more than one parameter group"
    for kind in (optizoo.SGD, torch.optim.SGD):
        with pytest.raises(ValueError, match=message):
            kind([{"params": [param]}, {"params": [param]}])
        optimizer = kind([{"params": [param]}, {"params": [Parameter(torch.zeros(1))]}])
        for held in (param, optimizer.param_groups[1]["params"][0]):
            with pytest.raises(ValueError, match=message):
                optimizer.add_param_group({"params": [held]})
        assert len(optimizer.param_groups) == 2
    with pytest.raises(ValueError, match="share elements in memory"):
        optizoo.SGD([param, Parameter(param.data)])


def test_names():
    """A tensor under two names stands twice; the names stay."""
    param = Parameter(torch.zeros(2))
    with pytest.warns(UserWarning, match=re.escape(WARNING)):
        optimizer = optizoo.SGD([("a", param), ("b", param)], lr=1.0)
    param.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(param, torch.full((2,), -2.0))
    assert optimizer.param_groups[0]["param_names"] == ["a", "b"]
