"""``torch.amp.GradScaler``: an overflow leaves no trace, in the first step and later, and moves no schedule."""

import pytest
import torch

import optizoo
from tests.contract.training import LIBRARIES, STEPS, ZOO, assert_equal_models, loss_of, network

WORKS_WITH = "torch.amp.GradScaler"
HELD_TO = "bitwise; fused kernel 1e-6"

OVERFLOWS = {"none": (), "the first step": (0,), "later": (4, 5), "first and later": (0, 1, 7)}


def train(library, name, options, overflows, **execution) -> tuple[torch.nn.Module, list[float], torch.optim.Optimizer]:
    """Train with a scaler whose gradients overflow in some steps; return model, rates and optimizer."""
    model = network()
    optimizer = library(name, model, **options, **execution)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    rates = []
    for step in range(STEPS):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, step) * (float("inf") if step in overflows else 1.0)).backward()
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() >= before:  # torch's recipe: a skipped step moves no schedule
            scheduler.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return model, rates, optimizer


@pytest.mark.thin
@pytest.mark.parametrize("overflows", OVERFLOWS.values(), ids=list(OVERFLOWS))
@pytest.mark.parametrize(("name", "options"), ZOO)
def test_the_loop_has_torchs_bits(name, options, overflows):
    """Scaled, unscaled and skipped, parameters and rates are those of torch's loop, bit for bit."""
    (ours, our_rates, _), (theirs, their_rates, _) = (
        train(library, name, options, overflows, foreach=False) for library in LIBRARIES
    )
    assert_equal_models(ours, theirs)
    assert our_rates == their_rates
    assert our_rates[-1] == pytest.approx(options["lr"] * 0.9 ** (STEPS - len(overflows)))


@pytest.mark.thin
@pytest.mark.parametrize("overflows", OVERFLOWS.values(), ids=list(OVERFLOWS))
@pytest.mark.parametrize(("name", "options"), ZOO)
def test_the_kernel_unscales_and_skips(name, options, overflows):
    """With ``fused=True`` the step itself divides by the scale, and an overflow touches no parameter and no state."""
    fused, _, optimizer = train(optizoo.create, name, options, overflows, fused=True)
    plain, _, _ = train(optizoo.create, name, options, overflows, foreach=False)
    assert getattr(optimizer, "_step_supports_amp_scaling")  # noqa: B009
    for param, expected in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-5, atol=1e-6)
    for state in optimizer.state.values():
        assert state.get("step", torch.tensor(0)) in (0, STEPS - len(overflows))


def test_only_fused_optimizers_claim_it():
    """Only where every kernel is fused for certain does the scaler leave the division to the step."""
    params = list(network().parameters())
    assert optizoo.Adam(params, fused=True)._step_supports_amp_scaling
    assert not optizoo.Adam(params)._step_supports_amp_scaling
    assert not optizoo.Adam(params, foreach=True)._step_supports_amp_scaling
    mixed = optizoo.Adam([{"params": params[:1], "fused": False}, {"params": params[1:]}], fused=True)
    assert not mixed._step_supports_amp_scaling
