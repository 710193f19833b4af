"""Rules that sum over the model: their running numbers are the model's. Prodigy is the example."""

import contextlib
import io
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optizoo
from tests.test_evaluated import through_a_file

NUMBERS = ("d", "d_max", "d_numerator", "updates")
BACKENDS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "default": {}}

backends = pytest.mark.parametrize("backend", BACKENDS.values(), ids=list(BACKENDS))


def weights() -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in ((4, 3), (3,), ())]


def gradients(params: list[Parameter], step: int, missing: tuple[int, ...] = ()) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(step)
    grads = [param.detach() + torch.randn(param.shape, generator=generator, dtype=torch.float64) for param in params]
    return [None if index in missing else grad for index, grad in enumerate(grads)]


def step(optimizer: Any, params: list[Parameter], number: int, missing: tuple[int, ...] = ()) -> None:
    for param, grad in zip(params, gradients(params, number, missing), strict=True):
        param.grad = grad
    optimizer.step()


def reference(params: Any, **options: Any) -> Any:
    prodigyopt = pytest.importorskip("prodigyopt", reason="pip install 'optizoo[oracles]'")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its decay
        return prodigyopt.Prodigy(params, **options)


MISSING = {
    "never": lambda _: (),
    "one joins late": lambda number: (1,) if number < 6 else (),
    "one rests": lambda number: (0,) if number in (4, 5, 8) else (),
    "by turns": lambda number: (number % 3,),
}


@pytest.mark.parametrize("missing", MISSING.values(), ids=list(MISSING))
@backends
def test_beside_the_reference(backend, missing):
    """Whoever has no gradient in a step, all have one d, and it is that of prodigyopt."""
    ours, theirs = weights(), weights()
    optimizer = optizoo.Prodigy(ours, d0=1e-3, use_bias_correction=True, **backend)
    other = reference(theirs, d0=1e-3, use_bias_correction=True)
    for number in range(12):
        step(optimizer, ours, number, missing(number))
        step(other, theirs, number, missing(number))
        (found,) = {store["d"].item() for store in optimizer.state.values()}
        assert found == pytest.approx(other.param_groups[0]["d"], rel=1e-12)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@backends
def test_groups_and_types(backend):
    """The sums go over all groups and types of parameters; a group at rate 0 rests, and takes no part."""
    params = weights()
    twins = weights()
    params[1] = Parameter(params[1].detach().float())
    twins[1] = Parameter(twins[1].detach().float().double())
    groups = [{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.1}]
    optimizer = optizoo.Prodigy(groups, d0=1e-3, **backend)
    theirs = [{"params": twins[:1]}, {"params": twins[1:], "weight_decay": 0.1}]
    twin = optizoo.Prodigy(theirs, d0=1e-3, foreach=False)
    for number in range(8):
        for each, group in ((optimizer, optimizer.param_groups[0]), (twin, twin.param_groups[0])):
            group["lr"] = 0.0 if number in (0, 5) else 1.0
            own = [param for some in each.param_groups for param in some["params"]]
            for param, grad in zip(own, gradients(twins, number), strict=True):
                assert grad is not None
                param.grad = grad.float().to(param.dtype)
        before = params[0].detach().clone()
        optimizer.step()
        twin.step()
        assert torch.equal(before, params[0]) == (number in (0, 5))
        assert len({store["d"].item() for store in optimizer.state.values()}) == 1
    for param, expected in zip(params, twins, strict=True):
        torch.testing.assert_close(param.double(), expected, rtol=1e-5, atol=1e-6)


def test_two_rates():
    """Groups may have rates of their own, which the reference refuses: each group's counts in its own sums."""
    params = weights()
    optimizer = optizoo.Prodigy([{"params": params[:1], "lr": 0.5}, {"params": params[1:]}], d0=1e-3)
    for number in range(5):
        step(optimizer, params, number)
    assert optimizer.state[params[0]]["d"].item() == optimizer.state[params[1]]["d"].item() > 1e-3
    other = reference([{"params": params[:1], "lr": 0.5}, {"params": params[1:]}])
    with pytest.raises(RuntimeError, match="different lr values"):
        step(other, params, 0)


def test_a_checkpoint_goes_on():
    """After a load all parameters have one d again, one that joins only then too; no number is shared."""
    params = weights()
    optimizer = optizoo.Prodigy(params, d0=1e-3)
    for number in range(5):
        step(optimizer, params, number, (2,))
    twins = [Parameter(param.detach().clone()) for param in params]
    other = optizoo.Prodigy(twins, d0=1e-3)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    for number in range(5, 9):
        step(optimizer, params, number)
        step(other, twins, number)
        for name in NUMBERS:
            first, *others = (store[name] for store in (*optimizer.state.values(), *other.state.values()))
            assert all(torch.equal(first, number) for number in others)
    for param, twin in zip(params, twins, strict=True):
        assert torch.equal(param, twin)
    assert optimizer.state[params[0]]["d"] is not other.state[twins[0]]["d"]


def test_a_state_that_is_cleared_begins_anew():
    """Who clears the state has a new estimate."""
    params = weights()
    optimizer = optizoo.Prodigy(params, d0=1e-3)
    for number in range(4):
        step(optimizer, params, number)
    optimizer.state.clear()
    twins = [Parameter(param.detach().clone()) for param in params]
    fresh = optizoo.Prodigy(twins, d0=1e-3)
    for number in range(4):
        step(optimizer, params, number)
        step(fresh, twins, number)
    assert all(torch.equal(param, twin) for param, twin in zip(params, twins, strict=True))


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=list(BACKENDS))
def test_the_gradient_times_d(backend):
    """At β₁ = 0 the step is along d times the gradient, as at every β₁; the reference takes the next d there."""
    ends = {}
    for beta1 in (0.0, 1e-13):
        params, twins = weights(), weights()
        optimizer = optizoo.Prodigy(params, d0=1e-3, betas=(beta1, 0.99), **backend)
        other = reference(twins, d0=1e-3, betas=(beta1, 0.99))
        for number in range(6):
            step(optimizer, params, number)
            step(other, twins, number)
        ends[beta1] = params[0].detach(), twins[0].detach()
    torch.testing.assert_close(ends[0.0][0], ends[1e-13][0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ends[1e-13][0], ends[1e-13][1], rtol=1e-9, atol=1e-12)
    assert (ends[0.0][1] - ends[1e-13][1]).abs().max() > 1e-3


def test_the_reference_writes_gradients():
    """The package prodigyopt adds a coupled decay to ``p.grad``; ours leaves every gradient as it is."""
    for make in (reference, optizoo.Prodigy):
        weight = Parameter(torch.ones(3))
        optimizer = make([weight], weight_decay=0.5, decouple=False)
        weight.grad = torch.ones(3)
        optimizer.step()
        assert torch.equal(weight.grad, torch.ones(3)) == (make is optizoo.Prodigy)
