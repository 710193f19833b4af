"""float32 weights in bfloat16 parameters, and moments of another type: what they are held against is float32 itself."""

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optizoo
from optizoo.core.master import joined, rest, top
from optizoo.zoo import optimizer_class

SHAPES = ((3, 4), (7,), (70, 50), (9000,), ())
NAMES = [name for name in optizoo.list_optimizers() if name != "rprop"]  # which has no decay


def shapes(name: str) -> list[tuple[int, ...]]:
    """Return those of the shapes that an optimizer takes."""
    return [shape for shape in SHAPES if len(shape) >= optimizer_class(name).least_dimensions]


def nearest(weight: Tensor) -> Tensor:
    """Return float32 weights as bfloat16, to the nearest, a tie away from zero."""
    return ((weight.view(torch.int32) + 0x8000) & -0x10000).view(torch.float32).bfloat16()


def pair(name: str, **options) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Make an optimizer of float32 parameters, and one of the same weights in bfloat16 with their rest."""
    generator = torch.Generator().manual_seed(0)
    start = [nearest(torch.randn(shape, generator=generator)) for shape in shapes(name)]
    wide = optizoo.create(name, [Parameter(weights.float()) for weights in start], **options)
    return wide, optizoo.create(name, [Parameter(weights.clone()) for weights in start], master=True, **options)


def params(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def step(*optimizers: torch.optim.Optimizer, seed: int) -> None:
    """Step with the same gradients, which bfloat16 can hold."""
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randn(param.shape, generator=generator).bfloat16() for param in params(optimizers[0])]
    for optimizer in optimizers:
        for param, grad in zip(params(optimizer), grads, strict=True):
            param.grad = grad.to(param.dtype)
        optimizer.step()


def assert_same_path(wide: torch.optim.Optimizer, narrow: torch.optim.Optimizer) -> None:
    for expected, param in zip(params(wide), params(narrow), strict=True):
        assert torch.equal(param, nearest(expected.detach()))
        assert torch.equal(joined(param.detach(), narrow.state[param]["param_rest"]), expected)
        for state, value in wide.state[expected].items():
            assert torch.equal(narrow.state[param][state], value), state


@pytest.mark.thin
@pytest.mark.parametrize("foreach", [False, None], ids=["loop", "default"])
@pytest.mark.parametrize("name", NAMES)
def test_the_path_of_float32_to_the_bit(name, foreach):
    """Weights, moments and counters are those of the optimizer on float32 parameters; the model reads them rounded."""
    wide, narrow = pair(name, foreach=foreach, weight_decay=0.01)
    for seed in range(20):
        step(wide, narrow, seed=seed)
        assert_same_path(wide, narrow)


@pytest.mark.parametrize(
    "options", [{"fused": True}, {"maximize": True}, {"l1": 0.01}, {"weight_decay_mode": "cautious"}]
)
def test_with_options(options):
    """The options of the optimizer act on the float32 weight."""
    wide, narrow = pair("adamw", **options)
    for seed in range(10):
        step(wide, narrow, seed=seed)
    assert_same_path(wide, narrow)


def test_a_checkpoint_carries_the_rest():
    """A run that is saved and loaded goes on as if it had not been; the rest has two bytes an element."""
    wide, narrow = pair("adamw")
    for seed in range(3):
        step(wide, narrow, seed=seed)
    _, resumed = pair("adamw")
    for param, saved in zip(params(resumed), params(narrow), strict=True):
        param.data.copy_(saved)
    resumed.load_state_dict(narrow.state_dict())
    for seed in range(3, 6):
        step(wide, resumed, seed=seed)
    assert_same_path(wide, resumed)
    store = resumed.state[params(resumed)[2]]
    assert store["param_rest"].element_size() == 2


def test_a_checkpoint_without_a_rest_begins_one():
    """States of a bfloat16 run load; the weights go on from what the parameters hold."""
    plain = optizoo.AdamW([Parameter(torch.ones(4, dtype=torch.bfloat16))])
    params(plain)[0].grad = torch.ones(4, dtype=torch.bfloat16)
    plain.step()
    optimizer = optizoo.AdamW([Parameter(torch.ones(4, dtype=torch.bfloat16))], master=True)
    saved = plain.state_dict()
    optimizer.load_state_dict({**saved, "param_groups": [{**group, "master": True} for group in saved["param_groups"]]})
    params(optimizer)[0].grad = torch.ones(4, dtype=torch.bfloat16)
    optimizer.step()
    assert optimizer.state[params(optimizer)[0]]["param_rest"].dtype == torch.int16


def test_nothing_stalls():
    """Updates that bfloat16 rounds away move the rest."""
    plain = optizoo.SGD([Parameter(torch.ones(1000, dtype=torch.bfloat16))], lr=1e-4)
    kept = optizoo.SGD([Parameter(torch.ones(1000, dtype=torch.bfloat16))], lr=1e-4, master=True)
    for optimizer in (plain, kept):
        params(optimizer)[0].grad = torch.ones(1000, dtype=torch.bfloat16)
        optimizer.step()
    assert "1000 of 1000 elements" in optizoo.explain(plain, stalled=True)
    assert "0 of 1000 elements" in optizoo.explain(kept, stalled=True)


def test_every_number_of_32_bits():
    """A weight is its two halves again, whatever its bits; NaN stays NaN, and infinity itself."""
    bits = torch.arange(-(2**31), 2**31, 65_521, dtype=torch.int64).to(torch.int32)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3.4028234663852886e38, 1e-45])
    weights = torch.cat([bits.view(torch.float32), special])
    upper, lower = top(weights).bfloat16(), rest(weights).to(torch.int16)
    again = joined(upper, lower)
    known = ~weights.isnan()
    assert torch.equal(again[known].view(torch.int32), weights[known].view(torch.int32))
    assert again[~known].isnan().all()
    assert upper[~known].isnan().all()


def test_moments_of_another_type():
    """``state_dtype`` keeps moments in 16 bits: they are computed wide and rounded once."""
    param = Parameter(torch.ones(5000))
    optimizer = optizoo.Adam([param], state_dtype=torch.bfloat16)
    reference = Parameter(torch.ones(5000, dtype=torch.float32))
    exp_avg = torch.zeros(5000)
    torch.manual_seed(0)
    for _ in range(3):
        param.grad = torch.randn(5000)
        optimizer.step()
        exp_avg = exp_avg.lerp(param.grad, 0.1).bfloat16().float()
        assert optimizer.state[param]["exp_avg"].dtype == torch.bfloat16
        assert torch.equal(optimizer.state[param]["exp_avg"].float(), exp_avg)
    assert "fused" in optizoo.explain(optimizer)
    assert reference.dtype == param.dtype


@pytest.mark.parametrize("foreach", [False, True, None], ids=["loop", "lists", "default"])
def test_moments_that_the_rule_makes(foreach):
    """A momentum that begins as the gradient is kept in ``state_dtype`` from its first update on."""
    param = Parameter(torch.ones(50))
    optimizer = optizoo.SGD([param], lr=0.1, momentum=0.9, state_dtype=torch.bfloat16, foreach=foreach)
    for _ in range(2):
        param.grad = torch.full((50,), 0.1)
        optimizer.step()
        assert optimizer.state[param]["momentum_buffer"].dtype == torch.bfloat16


def test_parameters_of_another_type():
    """``master`` is for bfloat16 parameters; the error says what to do with others."""
    with pytest.raises(ValueError, match=r"master=True keeps the rest of bfloat16 parameters.*group of their own"):
        optizoo.AdamW([Parameter(torch.ones(3))], master=True)
    with pytest.raises(TypeError, match=r"state_dtype must be a floating torch\.dtype"):
        optizoo.AdamW([Parameter(torch.ones(3))], state_dtype="bfloat16")  # pyright: ignore[reportArgumentType]
