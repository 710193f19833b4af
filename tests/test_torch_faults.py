"""Faults and surprises of torch.optim, each shown in torch and mended, or kept for a reason, here."""

import pytest
import torch
from torch.nn import Parameter

import optizoo
from optizoo.testing import torch_twin
from tests.zoo import parameters


def drive(optimizer: torch.optim.Optimizer, param: Parameter, grads: list[torch.Tensor]) -> torch.Tensor:
    """Step through the gradients and return the parameter."""
    for grad in grads:
        param.grad = grad.clone()
        optimizer.step()
    return param.detach()


@pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])
def test_centered_rmsprop_under_constant_gradients(foreach):
    """Torch's centered RMSprop reaches the root of a negative number and goes on with NaN; ours stays finite."""
    ends = {}
    for library, make in (("optizoo", optizoo.create), ("torch", torch_twin)):
        param = Parameter(torch.ones(64))
        grad = torch.linspace(0.1, 3.0, 64)
        optimizer = make("rmsprop", [param], alpha=0.9, centered=True, foreach=foreach)
        ends[library] = drive(optimizer, param, [grad] * 200)
    assert ends["torch"].isnan().any()
    assert ends["optizoo"].isfinite().all()


def test_centered_rmsprop_follows_the_truth_while_float32_can():
    """Where torch falls into NaN later, our float32 path agrees with float64 as long as the variance has digits."""
    ends = []
    for dtype in (torch.float32, torch.float64):
        param = Parameter(torch.ones(8, dtype=dtype))
        optimizer = optizoo.RMSprop([param], alpha=0.9, centered=True)
        ends.append(drive(optimizer, param, [torch.linspace(0.1, 3.0, 8, dtype=dtype)] * 40).double())
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_lr_zero_with_a_zero_second_moment(name):
    """Differentiable Adam at lr 0 with zero gradients is NaN in torch (#126514); here nothing moves."""
    ends = {}
    for library, make in (("optizoo", optizoo.create), ("torch", torch_twin)):
        param = torch.ones(2, requires_grad=True).clone()
        optimizer = make(name, [param], lr=torch.tensor(0.0), differentiable=True)
        param.grad = torch.zeros(2)
        optimizer.step()
        ends[library] = param.detach()
    assert ends["torch"].isnan().all()
    assert torch.equal(ends["optizoo"], torch.ones(2))


def test_foreach_nesterov_and_the_gradients():
    """Torch's foreach SGD with Nesterov and no weight decay writes into the gradients; ours never does."""
    kept = {}
    for kind in (optizoo.SGD, torch.optim.SGD):
        param = Parameter(torch.ones(3))
        optimizer = kind([param], lr=0.1, momentum=0.9, nesterov=True, foreach=True)
        param.grad = torch.ones(3)
        optimizer.step()
        kept[kind] = torch.equal(param.grad, torch.ones(3))
    assert kept == {optizoo.SGD: True, torch.optim.SGD: False}


def test_foreach_momentum_in_bfloat16():
    """Torch's loop and foreach part in bfloat16, because ``_foreach_mul_`` rounds 0.9 to it; ours stay together."""
    ends = {}
    for kind in (optizoo.SGD, torch.optim.SGD):
        for foreach in (False, True):
            param = Parameter(torch.ones(100).bfloat16())
            grads = [torch.randn(100, generator=torch.Generator().manual_seed(step)).bfloat16() for step in range(20)]
            ends[kind, foreach] = drive(kind([param], lr=0.1, momentum=0.9, foreach=foreach), param, grads)
    assert not torch.equal(ends[torch.optim.SGD, False], ends[torch.optim.SGD, True])
    assert torch.equal(ends[optizoo.SGD, False], ends[optizoo.SGD, True])
    assert torch.equal(ends[optizoo.SGD, False], ends[torch.optim.SGD, False])


@pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])
def test_dampening_is_ignored_in_the_first_step(foreach):
    """Torch sets the first buffer to the whole gradient, whatever the dampening says; kept, for equality."""
    for kind in (optizoo.SGD, torch.optim.SGD):
        param = Parameter(torch.zeros(1))
        optimizer = kind([param], lr=1.0, momentum=0.9, dampening=0.5, foreach=foreach)
        assert drive(optimizer, param, [torch.ones(1)]).item() == -1.0
        assert drive(optimizer, param, [torch.ones(1)]).item() == pytest.approx(-1.0 - (0.9 + 0.5))


@pytest.mark.filterwarnings("ignore:eps = 1e-\\d+ is 0 in torch.float16")  # it does, and is meant here
def test_the_default_eps_in_float16():
    """1e-8 rounds to zero in float16: where the second moment does too, torch divides by zero, and so do we.

    The rule is elementwise arithmetic in the parameter's type, bit for bit torch's; an ``eps`` that the type can hold
    is the remedy for both.
    """
    for make in (optizoo.create, torch_twin):
        for eps, finite in ((1e-8, False), (1e-4, True)):
            param = Parameter(torch.ones(1).half())
            optimizer = make("adam", [param], eps=eps, foreach=False)
            assert bool(drive(optimizer, param, [torch.tensor([1e-5]).half()]).isfinite().all()) is finite


def test_bfloat16_decay_can_stall():
    """Weights of 1 in bfloat16 do not feel a decay factor of 0.999, in torch and here: half an ulp is 0.002."""
    for make in (optizoo.create, torch_twin):
        param = Parameter(torch.ones(1).bfloat16())
        optimizer = make("adamw", [param], lr=0.01, weight_decay=0.1, foreach=False)
        assert drive(optimizer, param, [torch.zeros(1).bfloat16()] * 10).item() == 1.0


def test_the_two_forms_of_momentum_part_when_lr_changes():
    """The lecture calls both forms of momentum equal; with lr cut from 0.1 to 0.01 they reach -0.119 and -0.2."""
    ends = {}
    for lr_in_velocity in (False, True):
        param = Parameter(torch.zeros(1))
        optimizer = optizoo.Momentum([param], lr=0.1, momentum=0.9, lr_in_velocity=lr_in_velocity)
        drive(optimizer, param, [torch.ones(1)])
        optimizer.param_groups[0]["lr"] = 0.01
        ends[lr_in_velocity] = drive(optimizer, param, [torch.ones(1)]).item()
    assert ends[False] == pytest.approx(-0.119)
    assert ends[True] == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("sgd", {"lr": float("nan")}, id="nan-lr"),
        pytest.param("sgd", {"lr": True}, id="bool-lr"),
        pytest.param("sgd", {"momentum": 1.5}, id="momentum"),
        pytest.param("rmsprop", {"alpha": 1.5}, id="alpha"),
        pytest.param("adam", {"lr": float("inf")}, id="inf-lr"),
    ],
)
def test_options_that_torch_swallows(name, options):
    """Torch accepts these silently; here they raise."""
    torch_twin(name, parameters(), **options)
    with pytest.raises((TypeError, ValueError), match="Invalid"):
        optizoo.create(name, parameters(), **options)


def test_state_of_another_class():
    """SGD's state loads into torch's Adam and dies at the next step; here the missing moments are made by name."""
    checkpoint = torch.optim.SGD(momentum_params := parameters(), momentum=0.9)
    for param in momentum_params:
        param.grad = torch.ones_like(param)
    checkpoint.step()
    saved = checkpoint.state_dict()
    adam = torch.optim.Adam(parameters())
    saved["param_groups"][0] = {**adam.state_dict()["param_groups"][0]}
    for kind, dies in ((torch.optim.Adam, True), (optizoo.Adam, False)):
        params = parameters()
        optimizer = kind(params)
        optimizer.state.update({param: dict(saved["state"][index]) for index, param in enumerate(params)})
        for param in params:
            param.grad = torch.ones_like(param)
        if dies:
            with pytest.raises(KeyError):
                optimizer.step()
        else:
            optimizer.step()
            assert {"step", "exp_avg", "exp_avg_sq"} <= optimizer.state[params[0]].keys()


@pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])
def test_adafactors_eps_is_that_of_each_type(foreach):
    """``eps=(None, ...)`` is the precision of each parameter's type; torch takes the first one's for all of a group."""
    ends = []
    for module in (optizoo, torch.optim):
        for wide_alone in (True, False):
            wide, narrow = Parameter(torch.ones(4)), Parameter(torch.ones(4, dtype=torch.bfloat16))
            optimizer = module.Adafactor([wide] if wide_alone else [narrow, wide], foreach=foreach)
            wide.grad, narrow.grad = torch.tensor([1e-3, 1e-4, 1e-5, 1e-6]), torch.ones(4, dtype=torch.bfloat16)
            optimizer.step()
            ends.append(wide.detach())
    ours_alone, ours_beside, theirs_alone, theirs_beside = ends
    assert torch.equal(ours_alone, ours_beside)
    if not foreach:  # torch's lists begin with another type, and round elsewhere
        assert torch.equal(ours_alone, theirs_alone)
        assert not torch.equal(theirs_alone, theirs_beside)


@pytest.mark.parametrize(("kind", "shape"), [("Adafactor", (3, 0)), ("Muon", (3, 0))])
def test_parameters_without_elements(kind, shape):
    """A parameter without elements steps; torch divides by the number of them."""
    for module in (optizoo, torch.optim):
        param = Parameter(torch.zeros(shape))
        optimizer = getattr(module, kind)([param])
        param.grad = torch.zeros(shape)
        if module is optizoo:
            optimizer.step()
        else:
            with pytest.raises(ZeroDivisionError):
                optimizer.step()


def test_muon_checks_groups_that_come_later():
    """A vector in a group that is added is refused at once; torch takes it, and every later step fails."""
    theirs = torch.optim.Muon([Parameter(torch.zeros(2, 3))])
    vector = Parameter(torch.zeros(3))
    theirs.add_param_group({"params": [vector]})
    vector.grad = torch.ones(3)
    with pytest.raises(ValueError, match="must be a 2D matrix"):
        theirs.step()
    ours = optizoo.Muon([Parameter(torch.zeros(2, 3))])
    with pytest.raises(ValueError, match=r"at least 2 dimensions, but one has the shape \(3,\)"):
        ours.add_param_group({"params": [vector]})
    assert len(ours.param_groups) == 1
