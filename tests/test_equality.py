"""The zoo equals torch.optim: every option, every dtype, bit for bit.

Without ``--slow``: every pair of option values and few steps. With it: a thousand for those, and every combination in a
hundred; ``optizoo verify --full`` takes a thousand for all of them.
"""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import optizoo
from optizoo.core.rule import kept
from optizoo.core.rule import schema as read_schema
from optizoo.testing import assert_equivalent, textbook, torch_twin, with_rules
from optizoo.testing.specimens import specimens
from optizoo.testing.twins import kernel_tier
from optizoo.testing.verify import DTYPES, FULL_STEPS, verify
from optizoo.zoo import optimizer_class
from tests.zoo import COMBINATIONS, FEW_STEPS, WITH_TWIN, case_id, in_types


@pytest.mark.families
@pytest.mark.parametrize(("name", "options", "dtype"), in_types(WITH_TWIN, DTYPES))
def test_bit_equal_to_torch(name, options, dtype, request):
    """After every step, parameters and states of loop and foreach are those of torch's loop, bit for bit.

    A fused kernel has the bits of the loop after every single step, if the loop's square roots are correctly rounded
    and the rule does not sum up a tensor.
    The gradients span 1e-12 to 1e3, with exact zeros, missing gradients and a frozen parameter. Where torch's centered
    RMSprop falls into NaN, ours must not; those elements have no reference.
    """
    if not request.config.getoption("--slow"):
        steps = 2 * FEW_STEPS  # tiers take half of them
    else:
        steps = FULL_STEPS if request.node.get_closest_marker("slow") is None else 100
    for result in verify([dtype], steps=steps, combinations=[(name, options)]):
        assert result.passed, f"{result.backend}: {result.message}"
        if result.backend == "fused":
            exact = kernel_tier(name, dtype, **options) == "T1"
            assert not exact or (result.params_ulp_last, result.states_ulp_last) == (0, 0)
        else:
            assert result.steps == steps
        assert result.torch_nan == 0 or options.get("centered")


@pytest.mark.families
@pytest.mark.parametrize(("name", "options"), COMBINATIONS)
def test_equal_to_the_textbook(name, options, pytestconfig):
    """Every option computes what the formulas of the papers give: the same displacement in float64 (tier T2)."""
    kind, options = optimizer_class(name), with_precise_lr(options)
    assert_equivalent(
        lambda params: optizoo.create(name, params, foreach=False, **options),
        lambda params: with_rules(kind, textbook)(params, foreach=False, **options),
        tiers=["T2"],
        steps=100 if pytestconfig.getoption("--slow") else FEW_STEPS,
        shapes=specimens()[name].shapes,
    )


def with_precise_lr(options: dict) -> dict:
    """Return the options with a tensor lr in float64: what depends on lr is computed in the type of lr."""
    lr = options.get("lr")
    return {**options, "lr": lr.double()} if isinstance(lr, torch.Tensor) else options


def alone(results: Any) -> tuple:
    """Return what a rule returns that sums over a model of one weight."""
    try:
        part = next(results)
        while True:
            part = results.send(part)
    except StopIteration as done:
        return done.value


def on_floats(name: str, options: dict, grads: list[float]) -> list[float]:
    """Return the path of one weight, starting at 1, by the textbook in Python floats."""
    optimizer = optizoo.create(name, [Parameter(torch.zeros(1))], **options)
    group = optimizer.complete(optimizer.param_groups[0])
    rule = with_rules(type(optimizer), textbook)([Parameter(torch.zeros(1))], **options).rule_for(group)
    schema = read_schema(rule)
    keywords = {key: float(group[key]) if key == "lr" else group[key] for key in schema.options if key in group}
    given = {"shape": (1,), "machine_eps": torch.finfo(torch.float64).eps}
    keywords |= {key: given[key] for key in schema.given if key in given}
    theta, path = 1.0, []
    starts = {name: float(group[option]) for name, option in optimizer.initial_values.items()}
    state = [
        starts.get(name, 0.0) if zeros or name in optimizer.state_switches else None
        for name, zeros in schema.states.items()
    ]
    keep = kept if optimizer.namesake else float  # as torch keeps its own
    state += [keep(starts.get(name, start)) for name, start in schema.numbers.items()]
    for step, grad in enumerate(grads, start=1):
        if schema.names_step:
            keywords["step"] = step
        results = rule(theta, -grad if group["maximize"] else grad, *state, **keywords)
        theta, *state = alone(results) if inspect.isgenerator(results) else results
        path.append(theta)
    return path


def those(cases: list, holds: Callable[[str], bool]) -> list:
    """Return the cases of the optimizers of which something holds."""
    return [case for case in cases if holds(case.values[0])]


@pytest.mark.parametrize(("name", "options"), those(COMBINATIONS, lambda name: specimens()[name].floats))
def test_equal_to_python_floats(name, options):
    """A weight walks the path that the papers' formulas give in plain Python floats, without torch's help."""
    generator = torch.Generator().manual_seed(3)
    grads = torch.randn(60, generator=generator, dtype=torch.float64).tolist()
    options = with_precise_lr(options)
    weight = Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = optizoo.create(name, [weight], foreach=False, **options)
    path = []
    for grad in grads:
        weight.grad = torch.tensor([grad], dtype=torch.float64)
        optimizer.step()
        path.append(weight.item())
    assert path == pytest.approx(on_floats(name, options, grads), rel=1e-12, abs=1e-13)


@pytest.mark.thin
@pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])
@pytest.mark.parametrize(("name", "options"), those(WITH_TWIN, lambda name: optimizer_class(name).supports_complex))
def test_complex_parameters(name, options, foreach):
    """A complex parameter moves, bit for bit, as its real and imaginary parts would, and as in torch to rounding.

    torch's loop multiplies the decay as complex numbers and so rounds elsewhere than its own foreach.
    """
    makers = {
        "complex": lambda params: optizoo.create(name, params, foreach=foreach, **options),
        "real": lambda params: optizoo.create(name, params, foreach=False, **options),
        "torch": lambda params: torch_twin(name, params, foreach=False, **options),
    }
    ends = {}
    for kind, make in makers.items():
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(4, 3, generator=generator, dtype=torch.complex64)
        param = Parameter(torch.view_as_real(start).clone() if kind == "real" else start)
        optimizer = make([param])
        for _ in range(20):
            grad = torch.randn(4, 3, generator=generator, dtype=torch.complex64)
            param.grad = torch.view_as_real(grad) if kind == "real" else grad
            optimizer.step()
        ends[kind] = {"param": param.detach(), **optimizer.state[param]}
    for key, value in ends["torch"].items():
        actual, real = ends["complex"][key], ends["real"][key]
        assert actual.dtype == value.dtype
        assert torch.equal(torch.view_as_real(actual) if actual.is_complex() else actual, real), key
        torch.testing.assert_close(actual, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 20])
@pytest.mark.parametrize(
    "options",
    [{}, {"maximize": True}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.5}],
    ids=lambda options: case_id("sgd", options),
)
def test_sparse_gradients_in_sgd(options, steps):
    """SGD takes sparse gradients as torch's does, with and without momentum."""
    ends = []
    for kind in (optizoo.SGD, torch.optim.SGD):
        embedding = torch.nn.Embedding(6, 2, sparse=True)
        torch.nn.init.constant_(embedding.weight, 1.0)
        optimizer = kind(embedding.parameters(), lr=0.1, **options)
        for step in range(steps):
            optimizer.zero_grad()
            (embedding(torch.tensor([1, 4, step % 6])) ** 2).sum().backward()
            optimizer.step()
        ends.append(embedding.weight.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", ["rmsprop", "adam", "adamw"])
def test_sparse_gradients_elsewhere(name):
    """Other rules have no meaning for sparse gradients and say so before anything moves, with torch's type of error."""
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    dense = Parameter(torch.ones(2))
    optimizer = optizoo.create(name, [dense, embedding.weight])
    embedding(torch.tensor([1])).sum().backward()
    dense.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step()
    assert torch.equal(dense, torch.ones(2))
    assert not optimizer.state[dense]
