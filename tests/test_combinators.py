"""Combinators: rules around rules, each equal to what a user would write by hand around the optimizer."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optizoo
from optizoo import rules
from optizoo.combinators import cautious, lookahead
from optizoo.testing import assert_equivalent
from tests.test_checkpoints import through_a_file
from tests.zoo import assert_same_state, parameters, run

ADAMW: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
SWITCHES: dict[str, Any] = {"amsgrad": False, "bias_correction": True}
EXECUTIONS: list[Any] = [
    pytest.param({"foreach": False}, ["T1"], id="loop"),
    pytest.param({"foreach": True}, ["T1"], id="foreach"),
    pytest.param({}, ["T2", "T3"], id="chosen"),
]

LookaheadAdamW = optizoo.from_rule(lookahead(rules.adamw), name="LookaheadAdamW", **ADAMW, **SWITCHES)
LookaheadNAdam = optizoo.from_rule(
    lookahead(rules.nadam), name="LookaheadNAdam", lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0,
    momentum_decay=4e-3, decoupled_weight_decay=False, sync_period=3,
)  # fmt: skip
CautiousSGD = optizoo.from_rule(
    cautious(rules.momentum), name="CautiousSGD", lr=0.01, momentum=0.9, dampening=0, nesterov=False, weight_decay=0
)
Both = optizoo.from_rule(lookahead(cautious(rules.lion)), name="Both", lr=1e-3, betas=(0.9, 0.99), weight_decay=0)
COMBINED: list[Any] = [LookaheadAdamW, LookaheadNAdam, CautiousSGD, Both]


class Returning(torch.optim.AdamW):
    """torch's AdamW, with slow weights as the paper has them: from the start, and for each tensor by its updates."""

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        params = [param for group in self.param_groups for param in group["params"] if param.grad is not None]
        for param in params:
            self.slow: dict[Tensor, Tensor] = vars(self).get("slow", {})
            self.slow.setdefault(param, param.detach().clone())
        super().step()
        for param in params:
            if self.state[param]["step"] % 6 == 0:
                param.copy_(self.slow[param].lerp_(param, 0.5))


class Careful(torch.optim.SGD):
    """torch's SGD, with its step masked afterwards."""

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        params = [param for group in self.param_groups for param in group["params"] if param.grad is not None]
        before = [param.detach().clone() for param in params]
        super().step()
        for param, start in zip(params, before, strict=True):
            update = start - param
            mask = ((update > 0) & (param.grad > 0) | (update < 0) & (param.grad < 0)).to(param.dtype)
            param.copy_(start - update * (mask / mask.mean().clamp_min(1e-3)))


@pytest.mark.parametrize(("options", "tiers"), EXECUTIONS)
def test_lookahead(options, tiers):
    """Around AdamW it is torch's AdamW that goes half of the way back in every sixth update, in every execution."""
    assert_equivalent(
        lambda params: LookaheadAdamW(params, **options),
        lambda params: Returning(params, **ADAMW, foreach=False),
        tiers=tiers,
        steps=25,
    )


@pytest.mark.parametrize(("options", "tiers"), EXECUTIONS)
def test_cautious(options, tiers):
    """Around momentum it is torch's SGD whose step is masked, and scaled to the share of the weights that move."""
    assert_equivalent(
        lambda params: CautiousSGD(params, **options),
        lambda params: Careful(params, lr=0.01, momentum=0.9, foreach=False),
        tiers=tiers,
        steps=25,
    )


def test_cautious_around_adamw():
    """Without decay it is CautiousAdamW; with it that one shrinks all weights, and this one masks the decay too.

    In float64, where hardly a step is rounded away: such a weight does not count among those that move.
    """
    kind = optizoo.from_rule(cautious(rules.adamw), name="Kind", **ADAMW, **SWITCHES)

    def ours(params, decay):
        return kind(params, weight_decay=decay, foreach=False)

    def page(params, decay):
        return optizoo.create("cautiousadamw", params, **{**ADAMW, "weight_decay": decay}, foreach=False)

    assert_equivalent(lambda params: ours(params, 0), lambda params: page(params, 0), tiers=["T2"], steps=25)
    with pytest.raises(AssertionError, match="T2"):
        assert_equivalent(lambda params: ours(params, 0.1), lambda params: page(params, 0.1), tiers=["T2"], steps=25)


def test_states_and_options_of_both():
    """A combined rule has the states and options of both, those of the combinator with its defaults."""
    weight = Parameter(torch.ones(2))
    optimizer = LookaheadAdamW([weight])
    assert (optimizer.param_groups[0]["sync_period"], optimizer.param_groups[0]["slow_step_size"]) == (6, 0.5)
    weight.grad = torch.ones(2)
    optimizer.step()
    assert sorted(optimizer.state[weight]) == ["exp_avg", "exp_avg_sq", "slow_param", "step"]
    assert torch.equal(optimizer.state[weight]["slow_param"], torch.ones(2))
    assert "AdamW" in (LookaheadAdamW.__doc__ or "")


@pytest.mark.parametrize("kind", COMBINED, ids=lambda kind: kind.__name__)
def test_resume(kind):
    """Broken between two returns and loaded from a file, a run goes on to the bit."""
    whole, first = kind(parameters()), kind(parameters())
    run(whole, range(10))
    run(first, range(4))
    second = kind([param.detach().clone().requires_grad_() for param in first.param_groups[0]["params"]])
    second.load_state_dict(through_a_file(first.state_dict()))
    run(second, range(4, 10))
    assert_same_state(second, whole)


@pytest.mark.parametrize("kind", COMBINED, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("options", [{"foreach": True}, {"capturable": True}, {"maximize": True}], ids=str)
def test_executions(kind, options):
    """Lists have the bits of the loop, and numbers that stay on the device, or ascent, change nothing else."""
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    run(kind(ours, **options), range(10))
    reference = kind(theirs, foreach=False)
    for step in range(10):
        feed_signed(theirs, step, -1 if "maximize" in options else 1)
        reference.step()
    # On a device, what hangs on NAdam's product of momenta is computed in its type, float32.
    rtol = 0 if "foreach" in options else 1e-8 if kind is LookaheadNAdam and "capturable" in options else 1e-12
    for param, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(param, expected, rtol=rtol, atol=0)


def feed_signed(params: list[Parameter], step: int, sign: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        param.grad = sign * torch.randn(param.shape, generator=generator, dtype=torch.float64).to(param.dtype)


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {}], ids=["loop", "lists", "default"])
def test_around_a_rule_that_sums_over_the_model(options):
    """The rule inside gets its sums; until the first pull the weights are its own."""

    def summing(param, grad, *, lr):
        total = yield (grad * grad).sum()
        return (param.add(grad, alpha=-lr / (1 + total)),)

    inner, outer = (
        optizoo.from_rule(rule, name="Summing", lr=0.1)([*map(Parameter, (torch.ones(3), torch.ones(2)))], **options)
        for rule in (summing, lookahead(summing))
    )
    for optimizer in (inner, outer):
        for step in range(3):
            feed_signed(optimizer.param_groups[0]["params"], step, 1)
            optimizer.step()
    for own, other in zip(inner.param_groups[0]["params"], outer.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=0)
