"""The decays and the proximal step: what each computes, exact zeros, and what they promise beside the matrix."""

import copy
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import Parameter

import optizoo
from optizoo.backends import fused
from optizoo.backends.trace import wire
from optizoo.lab.train import penalty
from optizoo.testing.twins import program
from optizoo.zoo import optimizer_class
from tests.test_checkpoints import through_a_file
from tests.zoo import assert_same_state, parameters, run

PULLING = ("coupled", "decoupled", "independent")  # in every step, and so towards another minimum
MODES = (*PULLING, "cautious")
DECOUPLED = (
    *("signum", "lion", "adamw", "adabelief", "yogi", "ademamix", "cautiousadamw", "adafactor", "muon", "normuon"),
)
OWN = ("lars", "stableadamw", "lamb")  # a decay that is none of the modes
DECAYING = [name for name in optizoo.list_optimizers() if "l1" in optimizer_class(name).checks]
BACKENDS: dict[str, dict[str, Any]] = {"loop": {"foreach": False}, "foreach": {"foreach": True}}
if fused.unavailable() is None:
    BACKENDS["fused"] = {"fused": True}
NET: dict[str, Any] = {"weight_decay": 0.05, "l1": 0.1}


def execution(name: str, backend: str) -> dict[str, Any]:
    """Return the options of a backend; where the rule has no kernel, those of what runs by default."""
    return {} if backend == "fused" and program(name).unkerneled is not None else BACKENDS[backend]


def step_once(optimizer: torch.optim.Optimizer, param: Parameter, grad: float) -> float:
    param.grad = torch.full_like(param, grad)
    optimizer.step()
    return param.item()


def weight(value: float = 1.0) -> Parameter:
    return Parameter(torch.tensor([value], dtype=torch.float64))


def soft(value: float, threshold: float) -> float:
    return math.copysign(max(abs(value) - threshold, 0.0), value)


# The modes -----------------------------------------------------------------------------------------------------------


def test_which_optimizers_decay():
    """All but Rprop, which has no decay in torch either, have every mode and the proximal step."""
    assert set(optizoo.list_optimizers()) - set(DECAYING) == {
        *("rprop", "schedulefreesgd", "schedulefreeadamw", "prodigy"),
    }


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        # θ = 2, g = 1, α = 0.5 of a largest 1, λ = 0.1, μ = 0.9, second update with b = 4 from the first.
        pytest.param("coupled", 2 - 0.5 * (0.9 * 4 + 1 + 0.1 * 2), id="coupled"),
        pytest.param("decoupled", 2 * (1 - 0.5 * 0.1) - 0.5 * (0.9 * 4 + 1), id="decoupled"),
        pytest.param("independent", 2 * (1 - 0.1 * 0.5 / 1) - 0.5 * (0.9 * 4 + 1), id="independent"),
        pytest.param("cautious", 2 * (1 - 0.5 * 0.1) - 0.5 * (0.9 * 4 + 1), id="cautious"),
        pytest.param("independent-l1", 2 * (1 - 0.1 * 0.5 / 1) - 0.5 * (0.9 * 4 + 1) + 0.5 * 0.2, id="l1"),
    ],
)
def test_one_update_by_hand(mode, expected):
    """Where each decay enters, and that the threshold comes last."""
    mode, _, l1 = mode.partition("-")
    param = weight(2.0)
    options = {"weight_decay": 0.1, "weight_decay_mode": mode, "l1": 0.2 if l1 else 0.0}
    optimizer = optizoo.SGD([param], lr=1.0, momentum=0.9, **options)
    optimizer.state[param]["momentum_buffer"] = torch.tensor([4.0], dtype=torch.float64)
    optimizer.param_groups[0]["lr"] = 0.5
    assert step_once(optimizer, param, 1.0) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("start", "grad", "decays"),
    [
        pytest.param(2.0, 1.0, True, id="shrinks-a-positive-weight"),
        pytest.param(-2.0, -1.0, True, id="shrinks-a-negative-weight"),
        pytest.param(2.0, -1.0, False, id="lengthens-a-positive-weight"),
        pytest.param(-2.0, 1.0, False, id="lengthens-a-negative-weight"),
        pytest.param(2.0, 8.0, True, id="goes-past-zero"),
        pytest.param(2.0, 0.0, True, id="no-update"),
        pytest.param(2.0, -1e-20, True, id="an-update-that-is-rounded-away"),
        pytest.param(1e-200, -1e-200, False, id="a-product-that-would-underflow"),
        pytest.param(0.0, -1.0, True, id="no-weight"),
    ],
)
def test_a_cautious_decay_does_not_work_against_the_update(start, grad, decays, backend):
    """It shrinks a weight as it was before, where the update shrinks it too, or there is none that its digits tell."""
    param = weight(start)
    options: dict[str, Any] = {"lr": 0.5, "weight_decay": 0.25, "weight_decay_mode": "cautious"}
    end = step_once(optizoo.SGD([param], **options, **BACKENDS[backend]), param, grad)
    assert end == start - 0.5 * grad - (0.125 * start if decays else 0.0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("maximize", [False, True])
def test_the_momentum_decides_on_a_cautious_decay(maximize, backend):
    """What counts is what the optimizer takes away, not the gradient, of which it may be the opposite."""
    param = weight(2.0)
    sign = -1.0 if maximize else 1.0
    options: dict[str, Any] = {"lr": 0.5, "weight_decay": 0.25, "weight_decay_mode": "cautious", "maximize": maximize}
    optimizer = optizoo.SGD([param], momentum=0.5, **options, **BACKENDS[backend])
    assert step_once(optimizer, param, sign * 1.0) == 2.0 - 0.5 - 0.25
    assert step_once(optimizer, param, sign * -0.25) == 1.25 - 0.125 * 1.25 - 0.125  # b = 0.5 - 0.25, against g
    assert step_once(optimizer, param, sign * -0.25) == 0.96875 + 0.0625  # b = 0.125 - 0.25


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cautious_decay_moves_no_minimum(backend):
    """SGD on a parabola ends within αλ of its minimum, where a decoupled decay ends at hc / (h + λ)."""
    h, c, lr, decay = 0.5, 3.0, 0.25, 0.4
    ends = {}
    for mode in ("decoupled", "cautious"):
        param = weight(-1.0)
        options: dict[str, Any] = {"lr": lr, "weight_decay": decay, "weight_decay_mode": mode}
        optimizer = optizoo.SGD([param], **options, **BACKENDS[backend])
        for _ in range(500):
            step_once(optimizer, param, h * (param.item() - c))
        ends[mode] = param.item()
    assert ends["decoupled"] == pytest.approx(h * c / (h + decay), rel=1e-9)
    assert ends["cautious"] == pytest.approx(c, rel=lr * decay)


def test_a_cautious_decay_is_decoupled_where_all_agrees():
    """Where every update agrees with its weight it is the decoupled one, to its rounding, and else none, to the bit."""
    ends = []
    for options in (
        {"weight_decay_mode": "cautious"},
        {"weight_decay_mode": "decoupled"},
        {"weight_decay": 0},
    ):
        agreeing, opposed = weight(3.0), weight(-3.0)
        optimizer = optizoo.create(
            "adam", [agreeing, opposed], **{"lr": 0.125, "weight_decay": 0.5, **options}, foreach=False
        )
        for _ in range(5):
            agreeing.grad, opposed.grad = torch.ones_like(agreeing), torch.ones_like(opposed)
            optimizer.step()
        ends.append((agreeing.item(), opposed.item()))
    cautious, decoupled, none = ends
    assert cautious[0] == pytest.approx(decoupled[0], rel=1e-15)
    assert cautious[1] == none[1]
    assert cautious[0] != none[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_cautious_decay_in_16_bits(dtype):
    """The loop knows the digits of the weight alone, so that an update below them counts as none; a kernel sees it."""
    ends = {}
    for backend, choice in BACKENDS.items():
        param = Parameter(torch.tensor([1.0], dtype=dtype))
        optimizer = optizoo.SGD([param], lr=0.5, weight_decay=0.25, weight_decay_mode="cautious", **choice)
        ends[backend] = step_once(optimizer, param, -1e-4)
    assert ends["loop"] == ends["foreach"] == 0.875
    assert ends.get("fused", 1.0) == 1.0


def test_coupled_lion():
    """Coupled, the decay of Lion takes part in the sign: a gradient that it outweighs does not decide."""
    param = weight(2.0)
    optimizer = optizoo.Lion([param], lr=0.5, betas=(0.5, 0.25), weight_decay=0.25, weight_decay_mode="coupled")
    assert step_once(optimizer, param, -0.25) == 1.5
    assert optimizer.state[param]["exp_avg"].item() == 0.75 * (-0.25 + 0.25 * 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", DECAYING)
def test_the_namesakes_mode_has_its_bits(name, backend):
    """The mode that torch's namesake has, by name, is the default to the bit, and leaves no key in the group."""
    own = "decoupled" if name in (*DECOUPLED, "adan") else "coupled"  # Adan's is a division, in its proximal form
    own = None if name in OWN else own
    default, named = (
        optizoo.create(name, parameters(of=name), weight_decay=0.1, **mode, **execution(name, backend))
        for mode in ({}, {"weight_decay_mode": own})
    )
    run(default, range(10))
    run(named, range(10))
    assert_same_state(named, default)
    assert named.state_dict()["param_groups"] == default.state_dict()["param_groups"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["adam", "nadam", "radam"])
def test_decoupled_is_torchs_switch(name, backend):
    """Where torch has ``decoupled_weight_decay``, the mode ``"decoupled"`` is kept as that, so that torch reads it."""
    switch, mode = (
        optizoo.create(name, parameters(), weight_decay=0.1, **option, **BACKENDS[backend])
        for option in ({"decoupled_weight_decay": True}, {"weight_decay_mode": "decoupled"})
    )
    run(switch, range(10))
    run(mode, range(10))
    assert_same_state(mode, switch)
    assert mode.state_dict()["param_groups"] == switch.state_dict()["param_groups"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name", [name for name in DECOUPLED if name != "adafactor"]
)  # its rate is of the weights before
def test_a_decay_around_a_rule_is_the_one_inside(name, backend):
    """With λ/α a decoupled decay inside a rule is the independent one with λ, to the rounding of 1 - λ."""
    ends = []
    for options in ({"weight_decay": 0.5}, {"weight_decay": 0.125, "weight_decay_mode": "independent"}):
        params = parameters(torch.float64, of=name)
        run(optizoo.create(name, params, lr=0.25, **options, **execution(name, backend)), range(10))
        ends.append(params)
    torch.testing.assert_close(*ends, rtol=1e-13, atol=1e-13)


def test_a_small_decay_keeps_its_digits():
    """An independent λ of 1e-6 shrinks a float32 weight by 1e-6; the factor 1 - λ is 1.3 % off, to one side."""
    start = torch.linspace(1.0, 2.0, 4001)
    param = Parameter(start.clone())
    optimizer = optizoo.SGD([param], lr=0.1, weight_decay=1e-6, weight_decay_mode="independent")
    param.grad = torch.zeros_like(param)
    steps = 100
    for _ in range(steps):
        optimizer.step()
    shares = 1 - (param.detach().double() / start.double()) ** (1 / steps)
    assert shares.mean().item() == pytest.approx(1e-6, rel=1e-2)


# The independent decay and the schedule ------------------------------------------------------------------------------


def decayed(optimizer: torch.optim.Optimizer, param: Parameter) -> float:
    """Return by which share a weight shrinks in one update without a gradient."""
    before = param.item()
    return 1 - step_once(optimizer, param, 0.0) / before


@pytest.mark.parametrize("lr", [1e-3, 1.0])
def test_independent_decay_does_not_depend_on_the_rate(lr):
    """Whatever the rate of the constructor, each update takes the share λ."""
    param = weight()
    assert decayed(optizoo.AdamW([param], lr=lr, weight_decay=0.25, weight_decay_mode="independent"), param) == 0.25


@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
def test_independent_decay_follows_the_schedule(tensor):
    """The decay falls with the rate, rests at rate 0, and knows the group's own rate."""
    param, other = weight(), weight()
    lr = torch.tensor(0.5) if tensor else 0.5
    groups = [{"params": [param]}, {"params": [other], "lr": 0.125}]
    optimizer = optizoo.SGD(groups, lr=lr, weight_decay=0.25, weight_decay_mode="independent", foreach=False)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: [1.0, 0.5, 0.0][step])
    for factor in (1.0, 0.5, 0.0):
        assert decayed(optimizer, param) == pytest.approx(0.25 * factor)
        assert decayed(optimizer, other) == pytest.approx(0.25 * factor)
        if factor:
            scheduler.step()


def test_one_cycle_writes_the_largest_rate():
    """Under ``OneCycleLR``, which starts far below it, the decay has its full strength at the peak."""
    param = weight()
    optimizer = optizoo.SGD([param], lr=0.5, weight_decay=0.25, weight_decay_mode="independent")
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2.0, total_steps=10, pct_start=0.5, cycle_momentum=False
    )
    shares = []
    for _ in range(10):
        shares.append(decayed(optimizer, param))
        scheduler.step() if len(shares) < 10 else None
    assert max(shares) == pytest.approx(0.25)
    assert shares[0] == pytest.approx(0.25 / 25)


def test_a_largest_rate_that_is_missing():
    """A mode that is set later needs ``max_lr`` beside it, and rate 0 cannot be the largest; the step says so."""
    param = weight()
    optimizer = optizoo.SGD([param], lr=0.5, weight_decay=0.25)
    optimizer.param_groups[0]["weight_decay_mode"] = "independent"
    with pytest.raises(ValueError, match=r"Invalid max_lr value: None; .*set it in the param group"):
        step_once(optimizer, param, 0.0)
    optimizer.param_groups[0]["max_lr"] = 1.0
    assert decayed(optimizer, param) == 0.125
    warm = optizoo.SGD([param], lr=0.0, weight_decay=0.25, weight_decay_mode="independent")
    with pytest.raises(ValueError, match=r"Invalid max_lr value: 0\.0"):
        step_once(warm, param, 0.0)


@pytest.mark.thin(times=2)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", DECAYING)
def test_rate_zero_moves_nothing(name, mode, backend):
    """At rate 0 with gradients of zero no decay and no threshold moves a weight (distributed checkpoints step so)."""
    if name == "adamw" and mode == "coupled":
        mode = "decoupled"
    params = parameters(of=name)
    optimizer = optizoo.create(name, params, weight_decay_mode=mode, **NET, **execution(name, backend))
    optimizer.param_groups[0]["lr"] = 0.0
    before = [param.detach().clone() for param in params]
    for _ in range(3):
        for param in params:
            param.grad = torch.zeros_like(param)
        optimizer.step()
    assert all(torch.equal(param, start) for param, start in zip(params, before, strict=True))


# The proximal step ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_soft_threshold_of_special_numbers(backend, dtype):
    """Zeros and small numbers become +0, NaN stays NaN, infinity stays, and the others come nearer by α l1."""
    start = [1.0, -1.0, 0.25, -0.25, 0.125, 0.0, -0.0, math.nan, math.inf, -math.inf]
    expected = [0.75, -0.75, 0.0, 0.0, 0.0, 0.0, 0.0, math.nan, math.inf, -math.inf]
    param = Parameter(torch.tensor(start, dtype=dtype))
    optimizer = optizoo.SGD([param], lr=0.5, l1=0.5, **BACKENDS[backend])
    param.grad = torch.zeros_like(param)
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.tensor(expected, dtype=dtype), rtol=0, atol=0, equal_nan=True)
    assert not param.detach()[2:7].signbit().any()


@pytest.mark.thin
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", DECAYING)
def test_exact_zeros_are_reached_and_stay(name, backend):
    """Weights that nothing holds become exactly 0, whatever the rule, and stay; those that something holds do not."""
    params = [Parameter(torch.linspace(-0.02, 0.02, 20)[None]), Parameter(torch.tensor([[3.0, -3.0]]))]
    optimizer = optizoo.create(name, params, lr=0.01, l1=0.05, **execution(name, backend))
    for step in range(100):
        params[0].grad = torch.zeros_like(params[0])
        params[1].grad = params[1].detach() - torch.tensor([[3.0, -3.0]])
        optimizer.step()
        assert step < 50 or params[0].count_nonzero() == 0
    assert params[1].count_nonzero() == 2


@pytest.mark.parametrize(
    ("momentum", "dampening", "strength"),
    [
        pytest.param(0.0, 0.0, 1.0, id="none"),
        pytest.param(0.5, 0.5, 1.0, id="dampened"),
        pytest.param(0.5, 0.0, 0.5, id="plain"),
    ],
)
def test_what_momentum_makes_of_l1(momentum, dampening, strength):
    """Momentum without dampening minimises f + (1-μ) l1 |θ|, as the documentation says; else it is f + l1 |θ|."""
    param = weight()
    optimizer = optizoo.SGD([param], lr=0.05, momentum=momentum, dampening=dampening, l1=0.4)
    for _ in range(2000):
        step_once(optimizer, param, param.item() - 2.0)  # f = (θ - 2)² / 2
    assert param.item() == pytest.approx(2.0 - strength * 0.4, rel=1e-9)


curvatures = st.floats(0.1, 2.0)
centres = st.floats(-3.0, 3.0)
strengths = st.floats(0.0, 2.0)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(curvatures, centres), min_size=1, max_size=8),
    strengths,
    st.floats(0.0, 0.9),
    st.sampled_from(PULLING),
    st.sampled_from(sorted(BACKENDS)),
)
def test_elastic_net_of_a_parabola(parabolas, l1, decay, mode, backend):
    """SGD ends at the closed form, soft(hc, l1) / (h + λ) for f = h(θ - c)²/2, and exactly at 0 where that is 0.

    Every weight has a parabola of its own. An independent decay λ counts as λ/α_max.
    """
    lr = 0.25
    h, c = torch.tensor(parabolas, dtype=torch.float64).T
    param = Parameter(torch.ones_like(h))
    optimizer = optizoo.SGD(
        [param],
        lr=lr,
        weight_decay=decay * lr if mode == "independent" else decay,
        weight_decay_mode=mode,
        l1=l1,
        **BACKENDS[backend],
    )
    for _ in range(1500):  # the error falls by 1 - α(h + λ), at most 0.975, in each
        param.grad = h * (param.detach() - c)
        optimizer.step()
    for (curvature, centre), end in zip(parabolas, param.tolist(), strict=True):
        assert end == pytest.approx(soft(curvature * centre, l1) / (curvature + decay), rel=1e-9, abs=1e-12)
        # Within reach of the step: where hc is below l1 by more than rounding, the weight falls to zero and stays.
        if abs(curvature * centre) < l1 * (1 - 1e-9) - 1e-9:
            assert end == 0.0


def test_lasso_against_the_penalty_of_the_lab():
    """A lasso with a known solution: the proximal step gets it exactly; the penalty in the loss only comes near zero.

    f(w) = mean (y - xw)² / 2 with orthogonal inputs of mean square 1 has the minimum soft(w₀, l1), weight by weight.
    """
    inputs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    true = torch.tensor([[1.5, 0.0625]], dtype=torch.float64)
    targets, l1 = inputs @ true.T, 0.25
    paths: dict[str, list[list[float]]] = {"proximal": [], "penalty": []}
    for kind, path in paths.items():
        model = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
        torch.nn.init.ones_(model.weight)
        optimizer = optizoo.SGD(model.parameters(), lr=0.3, l1=l1 if kind == "proximal" else 0.0)
        for _ in range(300):
            optimizer.zero_grad()
            loss = (model(inputs) - targets).square().mean() / 2
            (loss + penalty(model, l1=l1) if kind == "penalty" else loss).backward()
            optimizer.step()
            path.append(model.weight.detach()[0].tolist())
    assert paths["proximal"][-1] == [pytest.approx(1.25, rel=1e-12), 0.0]
    assert paths["penalty"][-1][0] == pytest.approx(1.25, rel=1e-12)
    last = [second for _, second in paths["penalty"][-100:]]
    assert min(last) < -0.01 < 0.01 < max(last)  # it jumps from one side to the other for ever
    assert 0.0 not in last


# Executions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_execution_gives_the_same(mode):
    """Loop, lists and kernel have the same bits; with tensors for the rate, and compiled, the same numbers."""
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay_mode": mode, **NET}
    ends = {}
    for backend, choice in BACKENDS.items():
        optimizer = optizoo.SGD(parameters(), **options, **choice)
        run(optimizer, range(20))
        ends[backend] = optimizer
    for optimizer in ends.values():
        assert_same_state(optimizer, ends["loop"])
    lr = {"lr": torch.tensor(0.05)}
    variants = [lr, {**lr, "foreach": False}, {**lr, "capturable": True}, {**lr, "differentiable": True}]
    for variant in variants:
        params = [param.detach().clone().requires_grad_() for param in parameters()]
        if variant.get("differentiable"):
            params = [param.clone() for param in params]
        optimizer = optizoo.SGD(params, **{**options, **variant})
        run(optimizer, range(20))
        for param, expected in zip(params, ends["loop"].param_groups[0]["params"], strict=True):
            torch.testing.assert_close(param.detach(), expected.detach(), rtol=1e-5, atol=1e-6)
            assert torch.equal(param == 0, expected == 0)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("mode", ["independent", "cautious"])
def test_a_compiled_step(mode):
    """``torch.compile`` follows the composed rule, with a decay that is not the rule's own."""
    ends = []
    for compiles in (False, True):
        optimizer = optizoo.SGD(parameters(), lr=torch.tensor(0.05), weight_decay_mode=mode, **NET)
        step = torch.compile(optimizer.step, backend="eager") if compiles else optimizer.step
        for number in range(3):
            for param in optimizer.param_groups[0]["params"]:
                param.grad = torch.full_like(param, 0.1 * number)
            step()
        ends.append(optimizer.param_groups[0]["params"])
    for param, expected in zip(*ends, strict=True):
        torch.testing.assert_close(param.detach(), expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_the_derivative_goes_through_decay_and_threshold(mode):
    """With ``differentiable=True`` the derivative with respect to the rate is that of the formula."""
    lr = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    param = torch.ones(1, dtype=torch.float64).requires_grad_().clone()
    options = {"weight_decay": 0.25, "weight_decay_mode": mode, "l1": 0.125}
    optimizer = optizoo.SGD([param], lr=lr, differentiable=True, **options)
    param.grad = torch.full_like(param, 0.5)
    optimizer.step()
    # θ' = θ - α (g + λθ + l1), or with λ/α_max for λ
    rate = 0.25 / 0.5 if mode == "independent" else 0.25
    assert torch.autograd.grad(param.sum(), lr)[0].item() == pytest.approx(-(0.5 + rate + 0.125), rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_a_composed_rule_is_wired_once(mode):
    """A later step evaluates the formulas of the first, and another mode is another wiring."""
    optimizer = optizoo.SGD(parameters(), weight_decay_mode=mode, **NET)
    group = optimizer.complete(optimizer.param_groups[0])
    rule = optimizer.rule_for(group)
    assert rule is optizoo.SGD(parameters(), weight_decay_mode=mode, **NET).rule_for(group)
    options = {"lr": 0.1, "weight_decay": 0.05, "weight_decay_mode": mode, "max_lr": 0.5, "l1": 0.1}
    first, later = (wire(rule, {}, **{**options, "lr": lr}) for lr in (0.1, 0.2))
    assert first is not None
    assert later is first
    other = wire(rule, {}, **{**options, "weight_decay_mode": MODES[MODES.index(mode) - 1]})
    assert other is not None
    assert other is not first
    assert not first.holds(*{**options, "weight_decay_mode": "none of them"}.values())


# Checkpoints ---------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.01, "momentum": 0.9, "weight_decay_mode": "decoupled", **NET},
    "rmsprop": {"eps_inside_sqrt": True, "initial_accumulator": 1.0, "l1": 0.1},
    "adamw": {"weight_decay": 0.05, "weight_decay_mode": "independent"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_checkpoints_carry_the_options(name):
    """The options come back with a checkpoint, into an optimizer without them too; one without them takes them away."""
    plain, full = optizoo.create(name, parameters()), optizoo.create(name, parameters(), **OPTIONS[name])
    run(full, range(3))
    saved = through_a_file(full.state_dict())
    assert OPTIONS[name].items() <= saved["param_groups"][0].items()
    other = optizoo.create(name, [param.detach().clone() for param in full.param_groups[0]["params"]])
    other.load_state_dict(saved)
    run(full, range(3, 6))
    run(other, range(3, 6))
    assert_same_state(other, full)
    full.load_state_dict(plain.state_dict())
    assert full.state_dict()["param_groups"] == plain.state_dict()["param_groups"]
    copied = copy.deepcopy(other)
    run(copied, range(6, 9))
    run(other, range(6, 9))
    assert_same_state(copied, other)


@pytest.mark.parametrize("name", OPTIONS)
def test_torch_loads_checkpoints_with_options(name):
    """``torch.optim`` loads such a checkpoint and steps on, by its own rule; ours has torch's keys without them."""
    kind = {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop, "adamw": torch.optim.AdamW}[name]
    ours = optizoo.create(name, parameters(), **OPTIONS[name])
    run(ours, range(3))
    theirs = kind(parameters())
    theirs.load_state_dict(through_a_file(ours.state_dict()))
    run(theirs, range(3, 6))
    back = optizoo.create(name, parameters())
    back.load_state_dict(through_a_file(theirs.state_dict()))
    assert OPTIONS[name].items() <= back.param_groups[0].items()
    theirs = kind(parameters())
    run(theirs, range(3))
    ours.load_state_dict(theirs.state_dict())
    assert ours.state_dict()["param_groups"][0].keys() == theirs.state_dict()["param_groups"][0].keys()


# RMSprop -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_rmsprop_of_other_frameworks(backend):
    """RMSprop as TensorFlow 1 writes it: ms from 1, mg for the centered form, ε inside, at a constant rate."""
    lr, rho, eps, momentum = 0.01, 0.9, 1e-3, 0.9
    param = weight(1.0)
    options = {"alpha": rho, "eps": eps, "momentum": momentum, "eps_inside_sqrt": True, "initial_accumulator": 1}
    optimizer = optizoo.RMSprop([param], lr=lr, centered=True, **options, **BACKENDS[backend])
    var, ms, mg, mom = 1.0, 1.0, 0.0, 0.0
    for step in range(1, 50):
        grad = math.sin(step)
        ms = rho * ms + (1 - rho) * grad * grad
        mg = rho * mg + (1 - rho) * grad
        mom = momentum * mom + lr * grad / math.sqrt(ms - mg * mg + eps)
        var -= mom
        assert step_once(optimizer, param, grad) == pytest.approx(var, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_the_accumulator_starts_at_its_value(dtype):
    """``square_avg`` starts at ``initial_accumulator`` in every type; both parts of a complex number do."""
    param = Parameter(torch.zeros(3, dtype=dtype))
    optimizer = optizoo.RMSprop([param], initial_accumulator=1.0, alpha=0.5, weight_decay=0)
    param.grad = torch.zeros_like(param)
    optimizer.step()
    expected = torch.full_like(param, complex(0.5, 0.5) if dtype.is_complex else 0.5)
    assert torch.equal(optimizer.state[param]["square_avg"], expected)


@pytest.mark.parametrize(
    "rate", [Decimal("0.25"), Fraction(1, 4), np.float32(0.25)], ids=lambda rate: type(rate).__name__
)
def test_an_independent_decay_at_a_rate_of_any_kind(rate):
    """The share that decays is the same for every kind of number that a schedule may write."""
    param = weight()
    optimizer = optizoo.SGD([param], lr=1.0, weight_decay=0.5, weight_decay_mode="independent")
    optimizer.param_groups[0]["lr"] = rate
    assert decayed(optimizer, param) == 0.125


def test_a_rate_that_outgrows_an_independent_decay():
    """A schedule that takes lr so far above ``max_lr`` that more than a weight would decay is refused, not followed."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = optizoo.SGD([weight], lr=1e-3, weight_decay=1e-2, weight_decay_mode="independent")
    weight.grad = torch.zeros(1)
    for _ in range(4):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 1.0
    before = weight.detach().clone()
    with pytest.raises(ValueError, match="set max_lr in the param group to the schedule's largest lr"):
        optimizer.step()
    assert torch.equal(weight, before)
    optimizer.param_groups[0]["max_lr"] = 1.0
    optimizer.step()


def test_the_mode_of_a_group_is_its_own():
    """A group's mode stands beside another mode of the constructor."""
    first, second = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    groups = [{"params": [first], "weight_decay_mode": "coupled"}, {"params": [second]}]
    optimizer = optizoo.Adam(groups, weight_decay_mode="decoupled", weight_decay=0.1)
    assert [group["decoupled_weight_decay"] for group in optimizer.param_groups] == [False, True]
