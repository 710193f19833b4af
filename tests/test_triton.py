"""The Triton kernels: on the CPU in Triton's interpreter, and on CUDA where there is a device."""

import importlib.util
import inspect
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import optizoo
from optizoo import rules
from optizoo.backends import emit_triton, emit_triton_stages, foreach, fused, fused_cuda, loop, proof
from optizoo.backends.build import BuildError
from optizoo.backends.trace import TOTAL, Operation, Program, trace
from optizoo.core.master import FUNCTIONS
from optizoo.core.rule import COMPARISONS, FULL, NUMBER, WORDS
from optizoo.testing.twins import program as program_of
from optizoo.testing.ulp import identical
from optizoo.zoo import optimizer_class

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton; none is installed")

LENGTHS = (0, 1, 7, 1000, 1024, 5000)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DECAY: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.05}
ADAM = {**DECAY, "betas": (0.9, 0.999), "eps": 1e-4, "amsgrad": False, "bias_correction": True, "step": 3.0}
DECOUPLED = {**DECAY, "betas": (0.9, 0.999), "eps": 1e-4, "decoupled_weight_decay": True, "step": 3.0}
MOMENTUM = {**DECAY, "momentum": 0.9, "nesterov": True}
RMSPROP = {**DECAY, "alpha": 0.99, "eps": 1e-4, "momentum": 0.0, "centered": False, "eps_inside_sqrt": False}
MOMENTS = {**DECAY, "betas": (0.9, 0.999), "eps": 1e-4, "step": 3.0}
NET = {**ADAM, "weight_decay_mode": "independent", "max_lr": 0.1, "l1": 0.5}


def elastic_net() -> Callable[..., tuple]:
    """Return :func:`optizoo.rules.regularized` around Adam, as the optimizer runs it."""
    optimizer = optizoo.Adam([torch.zeros(1)], l1=0.5)
    return optimizer.rule_for(optimizer.complete(optimizer.param_groups[0]))


# Name of a case -> the rule, for every state whether it exists, and its options.
ASGD = {"lr": 0.01, "lambd": 1e-4, "alpha": 0.75, "t0": 1.0, "weight_decay": 0.05, "step": 3.0, "eta": 0.01, "mu": 0.5}
SCHEDULE_FREE = {
    "lr": 0.01,
    "weight_decay": 0.05,
    "warmup_steps": 5,
    "r": 0.0,
    "weight_lr_power": 2.0,
    "step": 3.0,
    "weight_sum": 0.01,
    "lr_max": 0.01,
}
RULES: dict[str, tuple[Callable[..., tuple], dict[str, bool], dict[str, Any]]] = {
    "sgd": (rules.sgd, {}, DECAY),
    "momentum": (rules.momentum, {"momentum_buffer": True}, {**MOMENTUM, "dampening": 0.5, "nesterov": False}),
    "momentum-first": (rules.momentum, {"momentum_buffer": False}, {**MOMENTUM, "dampening": 0.0}),
    "momentum-first-plain": (
        rules.momentum,
        {"momentum_buffer": False},
        {**MOMENTUM, "dampening": 0.0, "weight_decay": 0, "nesterov": False},
    ),
    "momentum-inside": (rules.momentum_lr_in_velocity, {"velocity": True}, MOMENTUM),
    "asgd": (rules.asgd, {"ax": True}, ASGD),
    "schedulefree-sgd": (rules.schedulefree_sgd, {"z": True, "average": False}, {**SCHEDULE_FREE, "momentum": 0.9}),
    "schedulefree-adamw": (
        rules.schedulefree_adamw,
        {"exp_avg_sq": True, "z": True, "average": False},
        {**SCHEDULE_FREE, "betas": (0.9, 0.999), "eps": 1e-8},
    ),
    "rmsprop": (rules.rmsprop, {"square_avg": True, "momentum_buffer": False, "grad_avg": False}, RMSPROP),
    "rmsprop-centered-momentum": (
        rules.rmsprop,
        {"square_avg": True, "momentum_buffer": True, "grad_avg": True},
        {**RMSPROP, "momentum": 0.9, "centered": True},
    ),
    "rmsprop-eps-inside": (
        rules.rmsprop,
        {"square_avg": True, "momentum_buffer": False, "grad_avg": False},
        {**RMSPROP, "eps_inside_sqrt": True},
    ),
    "adam": (rules.adam, {"exp_avg": True, "exp_avg_sq": True, "max_exp_avg_sq": False}, ADAM),
    "adam-amsgrad": (
        rules.adam,
        {"exp_avg": True, "exp_avg_sq": True, "max_exp_avg_sq": True},
        {**ADAM, "amsgrad": True},
    ),
    "adam-net": (elastic_net(), {"exp_avg": True, "exp_avg_sq": True, "max_exp_avg_sq": False}, NET),
    "adamw": (rules.adamw, {"exp_avg": True, "exp_avg_sq": True, "max_exp_avg_sq": False}, ADAM),
    "signum": (rules.signum, {"momentum_buffer": True}, {**DECAY, "momentum": 0.9}),
    "lion": (rules.lion, {"exp_avg": True}, {**DECAY, "betas": (0.9, 0.99)}),
    "rprop": (
        rules.rprop,
        {"prev": True, "step_size": True},
        {"etas": (0.5, 1.2), "step_sizes": (0.4, 0.9)},
    ),
    "adagrad": (rules.adagrad, {"sum": True}, {**DECAY, "lr_decay": 0.1, "eps": 1e-4, "step": 3.0}),
    "adadelta": (rules.adadelta, {"square_avg": True, "acc_delta": True}, {**DECAY, "rho": 0.9, "eps": 1e-4}),
    "adabelief": (rules.adabelief, {"exp_avg": True, "exp_avg_var": True}, MOMENTS),
    "yogi": (rules.yogi, {"exp_avg": True, "exp_avg_sq": True}, {**MOMENTS, "bias_correction": True}),
    "adamax": (
        rules.adamax,
        {"exp_avg": True, "exp_inf": True},
        {**DECAY, "betas": (0.9, 0.999), "eps": 1e-4, "step": 3.0},
    ),
    "qhadam": (rules.qhadam, {"exp_avg": True, "exp_avg_sq": True}, {**MOMENTS, "nus": (0.7, 0.9)}),
    "nadam": (
        rules.nadam,
        {"exp_avg": True, "exp_avg_sq": True},
        {**DECOUPLED, "momentum_decay": 0.004, "mu_product": 0.1},
    ),
    "radam-early": (rules.radam, {"exp_avg": True, "exp_avg_sq": True}, DECOUPLED),
    "radam": (rules.radam, {"exp_avg": True, "exp_avg_sq": True}, {**DECOUPLED, "step": 100.0}),
    "adopt-first": (
        rules.adopt,
        {"exp_avg": True, "exp_avg_sq": True},
        {**DECOUPLED, "clip_exponent": 0.25, "step": 1.0},
    ),
    "adopt": (rules.adopt, {"exp_avg": True, "exp_avg_sq": True}, {**DECOUPLED, "clip_exponent": 0.25}),
    "adan": (
        rules.adan,
        {"exp_avg": True, "exp_avg_diff": True, "exp_avg_sq": True, "previous_grad": True},
        {**MOMENTS, "betas": (0.98, 0.92, 0.99), "no_prox": False},
    ),
    "ademamix": (
        rules.ademamix,
        {"exp_avg_fast": True, "exp_avg_slow": True, "exp_avg_sq": True},
        {**MOMENTS, "betas": (0.9, 0.999, 0.9999), "alpha": 2.0, "alpha_warmup": 8.0, "beta3_warmup": 8.0},
    ),
}


def lamb(param, grad, exp_avg, *, lr, eps):
    """A trust ratio: the update is as long as the parameter, as far as both have a length."""
    exp_avg = exp_avg.lerp(grad, 0.25)
    update = exp_avg / ((grad * grad).sqrt() + 1)
    size, length = param.norm(), update.norm()
    return param.add(update * (size / length).where(size * length > eps, 1.0), alpha=-lr), exp_avg


def centred(param, grad, mean=None, *, lr):
    """The mean is taken off; a state is made."""
    mean = grad - grad.mean()
    return param.add(mean, alpha=-lr), mean


def largest(param, grad, *, lr, eps):
    """The largest element moves by ``lr``."""
    return (param.add(grad / (grad.abs().amax() + eps), alpha=-lr),)


def chained(param, grad, *, lr, eps):
    """Every stage hangs on the one before it."""
    unit = grad / (grad.norm() + eps)
    spread = (unit - unit.mean()).abs()
    least = (0.5 * spread.sum().double()).clamp_min(eps).lerp(unit.amax(), 0.25)
    return (param.add(spread / (1 / least + spread.amax()).sqrt(), alpha=-lr),)


def summed(param, grad, *, lr):
    """One number of the tensor goes to the model."""
    total = yield (param * grad).sum()
    return (param.add(grad, alpha=-lr / (1 + abs(total))),)


# Rules that reduce tensors, as in RULES.
REDUCING: dict[str, tuple[Callable[..., Any], dict[str, bool], dict[str, Any]]] = {
    "lamb": (lamb, {"exp_avg": True}, {"lr": 0.01, "eps": 0.0}),
    "centred": (centred, {"mean": False}, {"lr": 0.01}),
    "largest": (largest, {}, {"lr": 0.01, "eps": 1e-3}),
    "chained": (chained, {}, {"lr": 0.01, "eps": 1e-3}),
    "summed": (summed, {}, {"lr": 0.01}),
}


# Where a check runs --------------------------------------------------------------------------------------------------


def _interpret() -> None:
    """Prepare a process for Triton's interpreter."""
    import numpy

    torch.set_num_threads(1)
    numpy.seterr(all="ignore")  # lanes behind the end of a tensor compute with zeros


@pytest.fixture(scope="module")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    """A process that runs the kernels in Triton's interpreter."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_interpret) as pool:
        with pytest.MonkeyPatch.context() as patch:  # Triton looks when it is imported, for its own sums
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(os.getpid).result()
        yield pool


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def check(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run a function of this module, whose first argument is the device, in the interpreter and on CUDA."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs Triton; none is installed")
    if request.param == "cuda":
        return lambda function, *arguments, **options: function("cuda", *arguments, **options)
    pool: ProcessPoolExecutor = request.getfixturevalue("interpreter")
    return lambda function, *arguments, **options: pool.submit(function, "cpu", *arguments, **options).result()


Columns = dict[str, list[Tensor]]


def make_columns(
    names: tuple[str, ...], dtype: torch.dtype, device: str, *, grad_dtype: torch.dtype | None = None, odd: bool = False
) -> Columns:
    """Return tensors of every length for every name, states among them positive; ``odd`` puts them at odd addresses."""
    generator = torch.Generator().manual_seed(0)
    columns: Columns = {}
    for name in names:
        kind = grad_dtype if name == "grad" and grad_dtype else dtype
        columns[name] = []
        for length in LENGTHS:
            if name in ("param", "grad"):
                values = torch.randn(length, generator=generator, dtype=torch.float64)
            else:
                values = torch.rand(length, generator=generator, dtype=torch.float64) + 0.5
                values *= 0.1 if name == "grad_avg" else 1  # a variance far from zero: v - ḡ² keeps its digits
            memory = torch.empty(length + odd, dtype=kind, device=device)
            columns[name].append(memory[int(odd) :].copy_(values))
    return columns


def copied(columns: Columns, dtype: torch.dtype | None = None) -> Columns:
    return {
        name: [tensor.to(dtype or tensor.dtype, copy=True) for tensor in column] for name, column in columns.items()
    }


def fresh(program: Program, name: str, params: list[Tensor]) -> list[Tensor]:
    """Return memory for an output that is no input."""
    if program.rank[dict(program.outputs)[name]] == NUMBER:
        return [torch.full((), torch.nan, dtype=torch.float64, device=param.device) for param in params]
    return [torch.full_like(param, torch.nan) for param in params]


def launched(program: Program, scalars: Any, columns: Columns, **arguments: Any) -> Columns:
    """Launch in place, and return the columns with the new states beside them."""
    columns = dict(columns)
    for name, _ in program.outputs:
        columns.setdefault(name, fresh(program, name, columns["param"]))
    inputs = [columns[name] for name in program.inputs]
    fused_cuda.launch(program, scalars, inputs, [columns[name] for name, _ in program.outputs], **arguments)
    return columns


def looped(case: str, columns: Columns) -> Columns:
    """Return the columns after one update of the loop, which is computed in their own type."""
    rule, states, options = RULES[case]
    expected = copied(columns)
    existing: loop.Columns = {name: expected[name] if exists else None for name, exists in states.items()}
    return expected | loop.update(rule, expected["param"], expected["grad"], existing, **options)


def assert_close(actual: Columns, expected: Columns, before: Columns, ulps: int) -> None:
    """Assert that values differ by at most ``ulps``, in units of the last place of old and new value together.

    In a step towards zero a parameter keeps the rounding of the numbers that it came from.
    """
    assert actual.keys() == expected.keys()
    for name, column in expected.items():
        for index, (ours, theirs) in enumerate(zip(actual[name], column, strict=True)):
            # What the new value was computed from; a state that the rule made comes from these two.
            old = [before[key][index] for key in ([name] if name in before else ["param", "grad"])]
            size = sum((tensor.to(theirs.dtype).abs() for tensor in old), theirs.abs())
            spacing = torch.nextafter(size, torch.full_like(size, torch.inf)) - size
            error = (ours.double() - theirs.double()).abs() / spacing.double()
            assert not theirs.numel() or error.max() <= ulps, f"{name} {index}: {error.max():.1f} ulp"


# Rules ---------------------------------------------------------------------------------------------------------------


def rule_equals_loop(device: str, case: str, dtype: torch.dtype, grad_dtype: torch.dtype | None, odd: bool) -> None:
    rule, states, options = RULES[case]
    program, scalars = trace(rule, states, **options)
    columns = make_columns(program.inputs, dtype, device, grad_dtype=grad_dtype, odd=odd)
    real = torch.float64 if dtype is torch.float64 else torch.float32
    expected = {
        name: [tensor.to(dtype) for tensor in column]
        for name, column in looped(case, copied(columns, real)).items()
        if isinstance(column[0], Tensor)  # and no running number
    }
    before = copied(columns)
    actual = launched(program, scalars, columns)
    assert all(torch.equal(now, then) for now, then in zip(actual["grad"], before["grad"], strict=True))
    expected["grad"] = before["grad"]
    # On the CPU torch multiplies and divides in another order than its CUDA kernels and ours.
    assert_close(actual, expected, before, ulps=1 if dtype is not real else 3 if device == "cpu" else 2)


def test_every_rule_has_a_case():
    """The table of this module names every rule of the zoo in which each element goes its own way."""
    others = {optimizer_class(name).rule for name in optizoo.list_optimizers() if not program_of(name).elementwise}
    assert {inspect.unwrap(rule) for rule, _, _ in RULES.values()} == {
        rule
        for _, rule in inspect.getmembers(rules, inspect.isfunction)
        if [*inspect.signature(rule).parameters][:2] == ["param", "grad"] and rule not in others
    }


@pytest.mark.thin
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", RULES)
def test_rule_equals_loop(check, case, dtype):
    """A step is that of the loop within 2 ulp (CPU: 3); in 16 bits that of the loop in float32, rounded to 16 once."""
    check(rule_equals_loop, case, dtype, None, False)


@pytest.mark.parametrize(
    ("dtype", "grad_dtype"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float64),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float32),
    ],
    ids=str,
)
def test_gradients_of_another_type(check, dtype, grad_dtype):
    """Gradients may have a type of their own."""
    check(rule_equals_loop, "adam", dtype, grad_dtype, False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_at_odd_addresses(check, dtype):
    """Tensors need no alignment beyond that of their elements."""
    check(rule_equals_loop, "adamw", dtype, None, True)


# Reductions ----------------------------------------------------------------------------------------------------------


def reduced(case: str, columns: Columns) -> Columns:
    """Return the columns after one update of the loop in float64, or what its rule wants summed over the model."""
    rule, states, options = REDUCING[case]
    before = copied(columns, torch.float64)
    existing: loop.Columns = {name: before[name] if exists else None for name, exists in states.items()}
    if case == "summed":
        return {**before, TOTAL: loop.total(rule, before["param"], before["grad"], existing, **options) or []}
    return before | loop.update(rule, before["param"], before["grad"], existing, **options)


def reducing_rule_equals_loop(
    device: str, case: str, dtype: torch.dtype, grad_dtype: torch.dtype | None, odd: bool
) -> None:
    rule, states, options = REDUCING[case]
    program, scalars = trace(rule, states, **options)
    columns = make_columns(program.inputs, dtype, device, grad_dtype=grad_dtype, odd=odd)
    if case in ("largest", "chained"):  # what is the largest of nothing torch does not say
        columns = {name: [tensor for tensor in column if len(tensor)] for name, column in columns.items()}
    before, results = copied(columns), reduced(case, columns)
    expected = {name: [tensor.to(dtype) for tensor in column] for name, column in results.items()}
    expected["grad"] = before["grad"]
    actual = launched(program, scalars, columns)
    assert all(torch.equal(now, then) for now, then in zip(actual["grad"], before["grad"], strict=True))
    if case == "summed":
        for ours, theirs, param in zip(actual.pop(TOTAL), results[TOTAL], before["param"], strict=True):
            assert ours.dtype == torch.float64
            # Products are rounded to the type in which is computed, and only their sum is not.
            size = float(reduced_size(before, len(param)))
            rounding = torch.finfo(torch.float64 if dtype is torch.float64 else torch.float32).eps
            assert abs(float(ours) - float(theirs)) <= 4 * rounding * size
        del expected[TOTAL]
    assert_close(actual, expected, before, ulps=16 if dtype in (torch.float32, torch.float64) else 1)


def reduced_size(before: Columns, length: int) -> Tensor:
    index = [len(param) for param in before["param"]].index(length)
    return (before["param"][index].double() * before["grad"][index].double()).abs().sum()


@pytest.mark.thin
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", REDUCING)
def test_reducing_rule_equals_loop(check, case, dtype):
    """Numbers of whole tensors, empty ones and single elements too, are those of the loop in float64."""
    check(reducing_rule_equals_loop, case, dtype, None, False)


@pytest.mark.parametrize(("dtype", "grad_dtype"), [(torch.float32, torch.float64), (torch.bfloat16, torch.float32)])
def test_reductions_of_gradients_of_another_type(check, dtype, grad_dtype):
    """Gradients may have a type and any address of their own where a rule reduces them."""
    check(reducing_rule_equals_loop, "lamb", dtype, grad_dtype, True)


def far_numbers(device: str) -> None:
    for number in (1e-30, 1e30):
        program, scalars = trace(largest, {}, lr=0.5, eps=0.0)
        normed, numbers = trace(lambda param, grad: (grad / grad.norm(),), {})
        grads = [torch.full((1500,), number, device=device)]
        columns = {"param": [torch.ones(1500, device=device)], "grad": grads}
        assert torch.equal(launched(program, scalars, columns)["param"][0], torch.full((1500,), 0.5, device=device))
        torch.testing.assert_close(
            launched(normed, numbers, columns)["param"][0], torch.full_like(grads[0], 1500**-0.5)
        )
    for special in (torch.nan, torch.inf, -torch.inf):
        for place in (0, 1023, 1100, 1499):
            grads = [torch.arange(1500.0, device=device)]
            grads[0][place] = special
            program, _ = trace(lambda param, grad: (param * grad.amax(),), {})
            result = launched(program, (), {"param": [torch.ones(1500, device=device)], "grad": grads})["param"][0]
            assert identical(result, torch.ones_like(result) * grads[0].amax())


def test_reductions_of_far_numbers(check):
    """Squares do not leave the range of double precision, and NaN goes through a maximum, wherever it stands."""
    check(far_numbers)


def nothing_is_left_of_an_overflow(device: str, case: str) -> None:
    rule, states, options = REDUCING[case]
    program, scalars = trace(rule, states, **options)
    columns = make_columns(program.inputs, torch.float32, device)
    before = copied(columns)
    scale = torch.tensor(4.0, device=device)
    expected = launched(program, scalars, copied(columns))
    columns["grad"] = [grad * 4 for grad in columns["grad"]]
    columns |= {name: fresh(program, name, columns["param"]) for name, _ in program.outputs if name not in columns}
    made = copied(columns)
    launched(program, scalars, columns, grad_scale=scale, found_inf=torch.ones(1, device=device))
    for name in columns:
        assert all(map(identical, columns[name], made[name])), name
    launched(program, scalars, columns, grad_scale=scale, found_inf=torch.zeros(1, device=device))
    for name in expected:
        assert name == "grad" or all(map(identical, columns[name], expected[name])), name
    assert all(map(torch.equal, columns["param"], before["param"])) == (case == "summed")


@pytest.mark.parametrize("case", ["lamb", "centred", "summed"])
def test_scaled_gradients_are_reduced(check, case):
    """Reductions see gradients that are divided by the scale; where an infinite one was found, nothing is written."""
    check(nothing_is_left_of_an_overflow, case)


def many_partial_sums(device: str) -> None:
    program, scalars = trace(lamb, {"exp_avg": True}, lr=0.01, eps=0.0)
    columns = make_columns(program.inputs, torch.float64, device)
    expected = launched(program, scalars, copied(columns))
    actual = launched(program, scalars, columns, partials=2)
    for name in expected:
        for ours, theirs in zip(actual[name], expected[name], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_many_partial_sums(check):
    """A tensor may have more blocks than a finishing program reads at once."""
    check(many_partial_sums)


def test_numbers_are_made_where_the_parameter_is():
    """What a kernel makes of a tensor lies on the device of the tensor."""
    program, _ = trace(summed, {}, lr=0.1)
    made = fused._fresh(program, [torch.empty(3, dtype=torch.bfloat16, device="meta")], None)
    assert [(each.dtype, each.shape, each.device.type) for each in made[TOTAL]] == [(torch.float64, (), "meta")]


# Words ---------------------------------------------------------------------------------------------------------------


def correctly_rounded_root(values: Tensor) -> Tensor:
    """Return the root as IEEE 754 has it, which torch's on the CPU is not always."""
    import numpy

    with numpy.errstate(invalid="ignore"):
        return torch.from_numpy(numpy.sqrt(values.cpu().numpy())).to(values.device)


# Word -> how many tensors it takes, and what it means of p, q, r and the number s.
MEANINGS: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "add": (2, lambda p, q, s: p + s * q),
    "add_times": (3, lambda p, q, r, s: p + q * r),
    "add_scalar": (1, lambda p, s: p + s),
    "sub": (2, lambda p, q, s: p - q),
    "mul": (2, lambda p, q, s: p * q),
    "mul_scalar": (1, lambda p, s: p * s),
    "div": (2, lambda p, q, s: p / q),
    "div_scalar": (1, lambda p, s: p / s),
    "lerp": (2, lambda p, q, s: torch.lerp(p, q, s)),
    "addcmul": (3, lambda p, q, r, s: p + s * q * r),
    "addcdiv": (3, lambda p, q, r, s: p + s * (q / r)),
    "maximum": (2, lambda p, q, s: torch.maximum(p, q)),
    "clamp_min": (1, lambda p, s: p.clamp_min(s)),
    "clamp_max": (1, lambda p, s: p.clamp_max(s)),
    "neg": (1, lambda p, s: -p),
    "reciprocal": (1, lambda p, s: 1 / p),
    "sqrt": (1, lambda p, s: correctly_rounded_root(p)),
    "abs": (1, lambda p, s: p.abs()),
    "sign": (1, lambda p, s: p.sign()),
    "gt": (1, lambda p, s: (p > s).to(p)),
    "ge": (1, lambda p, s: (p >= s).to(p)),
    "lt": (1, lambda p, s: (p < s).to(p)),
    "le": (1, lambda p, s: (p <= s).to(p)),
    "where": (3, lambda p, q, r, s: torch.where(q != 0, p, r)),
    "where_scalar": (2, lambda p, q, s: torch.where(q != 0, p, s)),
    "rsqrt": (1, lambda p, s: 1 / correctly_rounded_root(p)),
}
SPECIAL = (torch.nan, torch.inf, -torch.inf, 0.0, -0.0, -2.5, 3.0, 1e-40)

# For the words that round more than once, the sum of the magnitudes that they add.
SIZES: dict[str, Callable[..., Tensor]] = {
    "add": lambda p, q, s: p.abs() + (s * q).abs(),
    "add_times": lambda p, q, r, s: p.abs() + (q * r).abs(),
    "lerp": lambda p, q, s: p.abs() + q.abs() + (s * (q - p)).abs(),
    "addcmul": lambda p, q, r, s: p.abs() + (s * q * r).abs(),
    "addcdiv": lambda p, q, r, s: p.abs() + (s * q / r).abs(),
    "rsqrt": lambda p, s: p.rsqrt(),
}


def word_means(device: str, word: str, dtype: torch.dtype, scalar: float) -> None:
    count, meaning = MEANINGS[word]
    inputs = ("param", "grad", "a")
    index = None if WORDS[word].scalar is None else 0
    program = Program(inputs, (Operation(word, tuple(range(count)), index),), (("result", 3),))
    columns = make_columns(inputs, dtype, device)
    for number, name in enumerate(inputs):  # positive, so that sums lose no digits; then every special by every other
        special = torch.tensor(SPECIAL, dtype=dtype, device=device)
        pairs = special.repeat(len(special)) if number == 0 else special.repeat_interleave(len(special))
        columns[name] = [*(tensor.abs() for tensor in columns[name]), pairs]
    actual = launched(program, [scalar] if index == 0 else [], columns)["result"]
    exact = float(torch.tensor(scalar, dtype=dtype))
    for number, result in enumerate(actual):
        operands = [columns[name][number].double() for name in inputs[:count]]
        expected = meaning(*operands, s=exact).to(dtype)
        if word in SIZES:
            finite = expected.isfinite()
            assert identical(result[~finite], expected[~finite])
            error = (result.double() - expected.double()).abs()
            allowed = 2 * torch.finfo(dtype).eps * SIZES[word](*operands, s=exact)
            assert bool((error <= allowed)[finite].all())
        else:
            assert identical(result, expected)


@pytest.mark.thin
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("word", "scalar"),
    [(word, scalar) for word in MEANINGS for scalar in ((0.1, 0.7, -3.0, 1.0) if WORDS[word].scalar else (0.0,))],
)
def test_word_means_what_torch_means(check, word, dtype, scalar):
    """A word rounds its exact value once, the composed ones within 2 ulp, and treats NaN as torch does."""
    check(word_means, word, dtype, scalar)


ANYWHERE = [word for word in MEANINGS if word not in (*COMPARISONS, "where", "where_scalar", "add_times")]
"""Words that take all numbers; comparisons are for ``where`` alone, and ``add_times`` wants a number of a tensor."""


def random_program(seed: int) -> tuple[Program, list[float]]:
    """Return a program of random words, operands and outputs."""
    generator = torch.Generator().manual_seed(seed)

    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    inputs = ("param", "grad", "a", "b")
    operations: list[Operation] = []
    scalars: list[float] = []
    for number in range(len(inputs), len(inputs) + 12):
        word = ANYWHERE[draw(len(ANYWHERE))]
        index = None
        if WORDS[word].scalar is not None:
            index = len(scalars)
            scalars.append(draw(33) / 16 - 1)
        operations.append(Operation(word, tuple(draw(number) for _ in range(MEANINGS[word][0])), index))
    last = len(inputs) + len(operations)
    outputs = tuple((name, last - 1 - draw(last)) for name in ("param", "a", "b", "new"))
    return Program(inputs, tuple(operations), outputs), scalars


def random_program_equals_foreach(device: str, seed: int) -> None:
    program, scalars = random_program(seed)
    columns = make_columns(program.inputs, torch.float64, device)
    reference = copied(columns)
    results = foreach.replay(program, scalars, [reference[name] for name in program.inputs], in_place=False)
    actual = launched(program, scalars, columns)
    for (name, _), expected in zip(program.outputs, results, strict=True):
        for ours, theirs in zip(actual[name], expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("seed", range(24))
def test_any_program_is_computed(check, seed):
    """Programs of random words, whose outputs trade places, give in float64 what the foreach backend gives."""
    check(random_program_equals_foreach, seed)


# Scalars on the device, scaled gradients -----------------------------------------------------------------------------


def numbers_on_the_device(device: str, dtype: torch.dtype, scalar_type: torch.dtype) -> None:
    rule, states, options = RULES["adam"]
    program, scalars = trace(rule, states, **options)
    kept = [float(torch.tensor(scalar, dtype=scalar_type)) for scalar in scalars]
    columns = make_columns(program.inputs, dtype, device)
    expected = launched(program, kept, copied(columns))
    # Some on the device, some not: with lr and step there, 1 - β₁ is still a number.
    mixed = [
        torch.tensor(scalar, dtype=scalar_type, device=device) if index % 2 else scalar
        for index, scalar in enumerate(kept)
    ]
    actual = launched(program, mixed, columns)
    for name, column in expected.items():
        assert all(map(torch.equal, actual[name], column)), name


@pytest.mark.parametrize("scalar_type", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_numbers_on_the_device(check, dtype, scalar_type):
    """Scalars that are tensors give the same bits as the numbers in them."""
    check(numbers_on_the_device, dtype, scalar_type)


def a_new_number_needs_no_new_kernel(device: str) -> None:
    program, _ = trace(rules.sgd, {}, lr=0.1, weight_decay=0.0)
    columns = make_columns(program.inputs, torch.float64, device)
    expected = copied(columns)
    for number in (0.1, 1.0, 1, 0, 1e-300):
        launched(program, [number], columns)
        before = copied(expected)
        for param, grad in zip(expected["param"], expected["grad"], strict=True):
            param.add_(grad, alpha=number)
        assert_close(columns, expected, before, ulps=1)
        columns["param"] = copied(expected)["param"]
    kernel = fused_cuda.kernel_for(program, torch.float64, torch.float64, (0,), (None,), unscale=False, found_inf=False)
    assert len(kernel._compiled) == (device == "cuda")


def test_a_new_number_needs_no_new_kernel(check):
    """One kernel serves all values of a scalar, also whole ones, in full float64 precision."""
    check(a_new_number_needs_no_new_kernel)


def scaled_gradients(device: str, dtype: torch.dtype) -> None:
    rule, states, options = RULES["adam-amsgrad"]
    program, scalars = trace(rule, states, **options)
    columns = make_columns(program.inputs, dtype, device)
    before = copied(columns)
    expected = launched(program, scalars, copied(columns))
    columns["grad"] = [grad * 4 for grad in columns["grad"]]
    gradients = copied(columns)["grad"]
    scale = torch.tensor(4.0, device=device)

    launched(program, scalars, columns, grad_scale=scale, found_inf=torch.ones(1, device=device))
    for name in ("param", *states):
        assert all(map(torch.equal, columns[name], before[name])), name

    launched(program, scalars, columns, grad_scale=scale, found_inf=torch.zeros(1, device=device))
    for name in ("param", *states):
        assert all(map(torch.equal, columns[name], expected[name])), name
    assert all(map(torch.equal, columns["grad"], gradients))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_scaled_gradients(check, dtype):
    """Gradients are divided by the scale but never written; where an infinite one was found, nothing is written."""
    check(scaled_gradients, dtype)


# Tables --------------------------------------------------------------------------------------------------------------


def tables_are_kept(device: str) -> None:
    rule, states, options = RULES["momentum"]
    program, scalars = trace(rule, states, **options)
    columns = make_columns(program.inputs, torch.float32, device)
    reference = copied(columns)
    memory: dict[str, Any] = {}

    def step() -> fused_cuda.Tables:
        launched(program, scalars, columns, memory=memory)
        launched(program, scalars, reference)
        for name in reference:
            assert all(map(torch.equal, columns[name], reference[name])), name
        return memory["tables"]

    first = step()
    assert first.aligned
    assert step() is first
    columns["grad"][3] = columns["grad"][3].clone()  # a new gradient
    moved = step()
    assert moved is not first
    assert moved.blocks is first.blocks
    assert step() is moved
    for name in columns:  # the same addresses, fewer elements
        columns[name][5], reference[name][5] = columns[name][5][:10], reference[name][5][:10]
    shorter = step()
    assert shorter.aligned
    assert shorter.programs == first.programs - 4
    columns["param"].append(torch.ones(3, device=device))  # another parameter
    reference["param"].append(torch.ones(3, device=device))
    for name in ("grad", *states):
        columns[name].append(torch.ones(3, device=device))
        reference[name].append(torch.ones(3, device=device))
    assert step().programs == shorter.programs + 1
    columns["grad"][1] = reference["grad"][1] = torch.ones(2, device=device)[1:]  # no multiple of 16
    assert not step().aligned


def test_tables_are_kept(check):
    """Pointers are copied to the device when a tensor moved, changed its length or joined, and not otherwise."""
    check(tables_are_kept)


def nothing_to_do(device: str) -> None:
    program, scalars = trace(rules.sgd, {}, **DECAY)
    columns = {name: [torch.empty(0, device=device), torch.empty(3, 0, device=device)] for name in program.inputs}
    launched(program, scalars, columns)


def test_nothing_to_do(check):
    """Tensors without elements need no launch."""
    check(nothing_to_do)


def test_blocks_cover_every_element():
    """Every tensor is cut into blocks, the last of which may be partial; empty ones have none."""
    lengths = [0, 1, fused_cuda.BLOCK, fused_cuda.BLOCK + 1, 0]
    blocks, ends = fused_cuda._blocks(torch.tensor(lengths))
    assert blocks.tolist() == [[1, 0], [2, 0], [3, 0], [3, 1]]
    assert ends.tolist() == [0, 1, 2, 4, 4]
    assert blocks.dtype is ends.dtype is torch.int32


# The proof -----------------------------------------------------------------------------------------------------------


def few_blocks(patch: pytest.MonkeyPatch, program: Program, device: str) -> None:
    """Shorten proofs of reductions in the interpreter, which takes a hundredth of a second for each block."""
    if not program.elementwise and device == "cpu":
        patch.setattr(proof, "LONG", (5 * fused_cuda.BLOCK,))
        patch.setattr(proof, "CASES", proof.CASES[:2])


def tried(
    device: str, case: str, dtype: torch.dtype, grad_dtype: torch.dtype, folder: str, change: tuple[str, str] | None,
    *, on_device: bool = False, scaled: bool = False,
) -> tuple[str | None, str | None, int]:  # fmt: skip
    """Prove a kernel, whose text may have a mistake, as two processes would, one after the other.

    Returns:
        Why it may not serve, and again for the second process, and how many of the two launched it.
    """
    rule, states, options = {**RULES, **REDUCING}[case]
    program, scalars = trace(rule, states, **options)
    if on_device:
        scalars = [torch.tensor(scalar, device=device) for scalar in scalars]
    param, grad = torch.ones(3, dtype=dtype, device=device), torch.ones(3, dtype=grad_dtype, device=device)
    tries = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTIZOO_CACHE", folder)
        few_blocks(patch, program, device)
        emitter = emit_triton if program.elementwise else emit_triton_stages
        original, launches = emitter.source, fused_cuda._launches

        def source(*arguments: Any, **named: Any) -> str:
            text = original(*arguments, **named)
            if change is None:
                return text
            assert change[0] in text, "the text has no such place any more: plant the mistake anew"
            return text.replace(*change)

        def launched(*arguments: Any, **named: Any) -> Any:
            tries.append(1)
            return launches(*arguments, **named)

        patch.setattr(emitter, "source", source)
        patch.setattr(fused_cuda, "_launches", launched)
        said, counts = [], []
        reason = None
        for _ in range(2):
            patch.setattr(fused_cuda, "_verdicts", {})
            fused_cuda.kernel_for.cache_clear()
            tries.clear()
            for _ in range(2):
                try:
                    fused_cuda.prove(program, scalars, param, grad, unscale=scaled, found_inf=scaled)
                    reason = None
                except BuildError as error:
                    reason = str(error)
            said.append(reason)
            counts.append(bool(tries))
        fused_cuda.kernel_for.cache_clear()
    return said[0], said[1], sum(counts)


PROVEN: list[Any] = [
    ("adam-amsgrad", torch.float32, torch.float32, {}),
    pytest.param(*("adam", torch.float64, torch.float64, {"on_device": True}), marks=pytest.mark.slow),
    ("adam", torch.float16, torch.float32, {"scaled": True}),
    pytest.param(*("rmsprop-centered-momentum", torch.float32, torch.float16, {}), marks=pytest.mark.slow),
    pytest.param(*("rprop", torch.float32, torch.float32, {}), marks=pytest.mark.slow),
    ("momentum-first", torch.float32, torch.float64, {"on_device": True, "scaled": True}),
    pytest.param(*("adam-net", torch.float64, torch.float16, {}), marks=pytest.mark.slow),
    pytest.param(*("largest", torch.float32, torch.float32, {}), marks=pytest.mark.slow),
    ("chained", torch.float64, torch.float64, {"on_device": True}),
    ("summed", torch.float16, torch.float32, {"scaled": True}),
]


@pytest.mark.parametrize(("case", "dtype", "grad_dtype", "options"), PROVEN, ids=str)
def test_a_right_kernel_is_proven_once(check, tmp_path, case, dtype, grad_dtype, options):
    """A right kernel passes, and the next process finds the verdict in the cache."""
    assert check(tried, case, dtype, grad_dtype, str(tmp_path), None, **options) == (None, None, 1)
    assert [path.suffix for path in (tmp_path / "kernels").iterdir()] == [".proof"]


MISTAKES: dict[str, tuple[tuple[str, str], str, torch.dtype]] = {
    "a sign": (("tl.fma(v0", "tl.fma(-v0"), "sgd", torch.float32),
    "the scalar of another": (("v2, s1", "v2, s0"), "sgd", torch.float32),
    "an approximate quotient": (("tl.div_rn(v3, v7)", "1.00001 * tl.div_rn(v3, v7)"), "rmsprop", torch.float32),
    "an approximate root": (("tl.sqrt_rn(v5)", "0.99999 * tl.sqrt_rn(v5)"), "rmsprop", torch.float32),
    "half the digits": (("v3.to(tl.float64)", "v3.to(tl.float32).to(tl.float64)"), "sgd", torch.float64),
    "a block that is not full": (("if count >= BLOCK", "if count >= BLOCK - 3"), "sgd", torch.float32),
    "the end of a tensor": (("offsets < count", "offsets < count - 1"), "sgd", torch.float32),
    "behind the end": (("offsets < count", "offsets < count + 1"), "sgd", torch.float32),
    "NaN in a maximum": ((" | (v4 != v4)", ""), "adam-amsgrad", torch.float32),
    "a state": (("tl.store(p2", "tl.store(p3"), "adam-amsgrad", torch.float32),
    "the gradient": (("tl.store(p0", "tl.store(p1"), "sgd", torch.float32),
    "the far form of lerp": (("s1, s1 - 1.0", "s1, s1"), "adam-amsgrad", torch.float32),
    "a sum behind the end": (
        ("part = tl.where(mask, part, 0.0)", "part = tl.where(mask, part, 1.0)"),
        "lamb",
        torch.float32,
    ),
    "no partial sums of its own": (("partials += 2 *", "partials += 0 *"), "lamb", torch.float32),
    "the sum of another": (("partials + 1, tl.sum", "partials + 0, tl.sum"), "lamb", torch.float32),
    "the first block": (("range(first, last", "range(first + 1, last"), "lamb", torch.float32),
    "the last block": (("offsets < last", "offsets < last - 1"), "lamb", torch.float32),
    "the blocks of another tensor": (("ends + tensor - 1,", "ends + tensor - 2,"), "lamb", torch.float32),
    "blocks behind the first turn": (("sum0 = sum0 + more", "sum0 = more"), "lamb", torch.float32),
    "no root": (("tl.sqrt(v", "tl.abs(v"), "lamb", torch.float32),
    "the numbers of another tensor": (("numbers += 6 *", "numbers += 0 *"), "lamb", torch.float32),
    "the count": (("tl.fdiv(v2, count)", "tl.fdiv(v2, count - 1)"), "centred", torch.float32),
    "the largest of squares": (
        ("v2.to(tl.float64)", "v2.to(tl.float64) * v2.to(tl.float64)"),
        "largest",
        torch.float32,
    ),
    "NaN beside the largest": (("tl.where(part == part, 0.0, part)", "0 * part"), "largest", torch.float32),
    "half the digits of a sum": (("tl.sum(part)", "tl.sum(part.to(tl.float32))"), "summed", torch.float64),
    "a number of the tensor": (("tl.float64)), v3)", "tl.float64)), v3 + 1)"), "summed", torch.float32),
}


@pytest.mark.parametrize(("change", "case", "dtype"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_wrong_kernel_is_refused_once(check, tmp_path, change, case, dtype):
    """A wrong kernel is refused, also by the next process, which does not launch it again."""
    first, second, launched = check(tried, case, dtype, dtype, str(tmp_path), change)
    assert "differs from the loop" in first
    assert second == first
    assert launched == 1


def test_a_kernel_that_cannot_be_compiled_is_learnt_once(check, tmp_path):
    """What Triton raises is a reason of this process; the next one tries again."""
    first, second, _ = check(tried, "sgd", torch.float32, torch.float32, str(tmp_path), ("tl.fma(", "tl.no_such("))
    assert "Triton cannot build or launch the kernel" in first
    assert second == first
    assert not list(tmp_path.rglob("*.proof"))


@needs_triton
def test_the_interpreter_is_found_out(interpreter, tmp_path):
    """Triton's interpreter cuts bfloat16 off where a GPU rounds: the proof sees it."""
    first, _, _ = interpreter.submit(tried, "cpu", "sgd", torch.bfloat16, torch.bfloat16, str(tmp_path), None).result()
    assert "differs from the loop" in first


# Without a device ----------------------------------------------------------------------------------------------------


def test_every_word_of_the_kernels_has_both_expressions():
    """What the kernels of the CPU compute, those of the GPU compute too, and the meaning of each word is tested."""
    halves = {*FUNCTIONS}  # on a GPU what lies in two halves runs over lists
    in_c = {name for name, word in WORDS.items() if word.c}
    assert {name for name, word in WORDS.items() if word.triton} == in_c - halves
    elementwise = {name for name, word in WORDS.items() if word.triton and word.rank in (None, FULL)}
    assert elementwise == MEANINGS.keys()
    assert {
        name for name, word in WORDS.items() if word.reduces and word.triton
    } == emit_triton_stages.REDUCTIONS.keys()


@pytest.mark.parametrize("case", ["lamb", "summed"])
def test_a_proof_computes_on_the_device_of_the_kernel(monkeypatch, case):
    """A proof for CUDA mixes no tensors of two devices; here they have no numbers."""
    rule, states, options = REDUCING[case]
    program, _ = trace(rule, states, **options)
    monkeypatch.setattr(proof, "_numbers", lambda seed, column, count, dtype: torch.empty(count, dtype=dtype))
    monkeypatch.setattr(Tensor, "__bool__", lambda tensor: False)

    def launches(columns: list[list[Tensor]], scalars: list[float]) -> Iterator[tuple[str, bool]]:
        assert {tensor.device.type for column in columns for tensor in column} == {"cuda"}
        yield "a launch", True
        yield "after an overflow", False

    with FakeTensorMode(allow_non_fake_inputs=True):
        assert proof.objection(program, torch.float32, torch.float32, launches, device="cuda") is None


def test_unavailable_says_why():
    """Without the interpreter the kernels do not run on the CPU, nor on a device that is not CUDA."""
    reason = "not on|not installed"
    assert re.search(reason, fused_cuda.unavailable(torch.device("cpu")) or "")
    assert re.search(reason, fused_cuda.unavailable(torch.device("meta")) or "")


def test_unavailable_without_triton(monkeypatch):
    """Where Triton is missing, the reason names the remedy."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert fused_cuda.unavailable(torch.device("cuda", 0)) == "Triton is not installed: pip install triton"


@needs_triton
@pytest.mark.thin
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("aligned", [True, False])
def test_machine_code(monkeypatch, tmp_path, dtype, aligned):
    """For an H100, accesses are 16 bytes wide where addresses allow it, and division and root correctly rounded."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    rule, states, options = RULES["adam-amsgrad"]
    program, scalars = trace(rule, states, **options)
    text = emit_triton.source(program, dtype, dtype, homes=(0, 2, 3, 4), on_device=[0], unscale=True, found_inf=True)
    kernel = fused_cuda.Kernel(text)
    types = {f"s{index}": "fp64" if dtype == "float64" else "fp32" for index in range(1, len(scalars))}
    parameters = kernel.functions["optizoo_update"].params
    assert {each.annotation_type for each in parameters if each.name in ("s1", "s2")} == {types["s1"]}
    code = compiled(kernel, "optizoo_update", {**types, "s0": "*fp32"}, aligned=aligned)
    assert aligned == bool(re.search(r"ld\.global\S*\.v[24]\.", code))
    assert aligned == bool(re.search(r"st\.global\S*\.v[24]\.", code))
    bits = 64 if dtype == "float64" else 32
    assert set(re.findall(r"\b((?:div|sqrt)\.\S+)", code)) == {f"div.rn.f{bits}", f"sqrt.rn.f{bits}"}


def compiled(kernel: fused_cuda.Kernel, name: str, scalars: dict[str, str], *, aligned: bool) -> str:
    """Return the code of a kernel for an H100, given the types of its scalars."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {"table": "*i64", "blocks": "*i32", "ends": "*i32", "numbers": "*fp64", "partials": "*fp64"}
    types |= {"scalars": "*fp64", "scale": "*fp32", "found_inf": "*fp32", "ALIGNED": "constexpr", "BLOCK": "constexpr"}
    function = kernel.functions[name]
    signature = {each: (types | scalars)[each] for each in function.arg_names}
    source = ASTSource(function, signature, constexprs={"ALIGNED": aligned, "BLOCK": fused_cuda.BLOCK})
    options = {"num_warps": fused_cuda.WARPS, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


@needs_triton
@pytest.mark.parametrize(
    ("dtype", "in_rows"),
    [
        ("float32", True),
        ("bfloat16", False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("float32", False), ("float64", True), ("float64", False), ("float16", True)]
        ),
    ],
)
def test_machine_code_of_reductions(monkeypatch, tmp_path, dtype, in_rows):
    """For an H100, what reduces tensors compiles, is as wide as what updates them, and has nothing atomic."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    rule, states, options = REDUCING["chained"]
    program, scalars = trace(rule, states, **options)
    given: dict[str, Any] = {"in_rows": True} if in_rows else {"on_device": [0]}
    text = emit_triton_stages.source(program, dtype, dtype, homes=(0,), unscale=True, found_inf=True, **given)
    kernel = fused_cuda.Kernel(text)
    stages = [f"optizoo_{name}{stage}" for stage in range(3) for name in ("reduce", "finish")]
    assert [*kernel.functions] == [*stages, "optizoo_update"]
    for name in kernel.functions:
        real = "fp64" if dtype == "float64" or "finish" in name else "fp32"
        types = {f"s{index}": real for index in range(1, len(scalars))}
        code = compiled(kernel, name, {**types, "s0": "*fp32"}, aligned=True)
        assert not re.search(r"\b(atom|red)\.", code)
        assert bool(re.search(r"ld\.global\S*\.v[24]\.", code)) == ("finish" not in name)
        bits = real.removeprefix("fp")
        assert set(re.findall(r"\b((?:div|sqrt)\.\S+)", code)) <= {f"div.rn.f{bits}", f"sqrt.rn.f{bits}"}


# CUDA only -----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@needs_triton
def test_cuda_graph_reads_lr_on_the_device():
    """A captured step follows a schedule that fills lr.

    Its gradients may be made in the capture, and other launches come between its replays.
    """
    lr = torch.tensor(0.5, device="cuda")
    params = [torch.ones(3000, device="cuda"), torch.ones(5, device="cuda")]
    static = [torch.full_like(param, 2.0) for param in params]
    memory: dict[str, Any] = {}

    def step(grads: list[Tensor]) -> None:
        program, scalars = trace(rules.sgd, {}, lr=lr, weight_decay=0)
        fused_cuda.launch(program, scalars, [params, grads], [params], memory=memory)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(static)
    torch.cuda.current_stream().wait_stream(stream)
    assert all(bool((param == 0).all()) for param in params)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step([grad * 2 for grad in static])
        step(static)
    expected = 0.0
    for value in (0.5, 0.25, 1.0):
        lr.fill_(value)
        graph.replay()
        expected -= value * 6
        assert all(bool((param == expected).all()) for param in params)
        step([grad.clone() for grad in static])
        expected -= value * 2
        assert all(bool((param == expected).all()) for param in params)


@pytest.mark.gpu
@needs_triton
def test_capture_needs_memory():
    """A captured launch without memory raises: its tables would be freed before a replay."""
    params, grads = [torch.ones(3, device="cuda")], [torch.ones(3, device="cuda")]
    program, scalars = trace(rules.sgd, {}, **DECAY)
    with (
        pytest.raises(RuntimeError, match="pass a dict and keep it"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        fused_cuda.launch(program, scalars, [params, grads], [params])


@pytest.mark.gpu
@needs_triton
def test_launch_does_not_wait_for_the_device():
    """Neither a launch nor a new table synchronises."""
    rule, states, options = RULES["adam"]
    program, scalars = trace(rule, states, **options)
    columns = make_columns(program.inputs, torch.float32, "cuda")
    memory: dict[str, Any] = {}
    launched(program, scalars, columns, memory=memory)
    torch.cuda.set_sync_debug_mode("error")
    try:
        columns["grad"] = [grad.clone() for grad in columns["grad"]]
        launched(program, [torch.zeros((), device="cuda"), *scalars[1:]], columns, memory=memory)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fused_none_takes_what_is_proven(dtype):
    """On CUDA the kernel that is proven on the device serves without being asked for, and explain says so."""
    params = [torch.nn.Parameter(torch.ones(length, dtype=dtype, device="cuda")) for length in (3, 3000)]
    expected = [torch.nn.Parameter(param.detach().clone()) for param in params]
    ours = optizoo.Adam(params, lr=0.01, eps=1e-4)
    theirs = optizoo.Adam(expected, lr=0.01, eps=1e-4, foreach=False)
    for _ in range(4):
        for param, other in zip(params, expected, strict=True):
            param.grad = torch.full_like(param, 0.5)
            other.grad = param.grad.clone()
        ours.step()
        theirs.step()
    name = torch.cuda.get_device_name()
    assert optizoo.explain(ours).endswith(
        f"fused for 2 tensors (cuda:0, {str(dtype)[6:]}): the fastest that can serve, proven on {name}"
    )
    for param, other in zip(params, expected, strict=True):
        torch.testing.assert_close(param, other)


@pytest.mark.gpu
@needs_triton
def test_cuda_graph_of_reductions():
    """A captured step reduces the tensors of every replay, with a rate on the device, and has rows of its own."""
    lr = torch.tensor(0.5, device="cuda")
    columns = make_columns(("param", "grad", "exp_avg"), torch.float32, "cuda")
    expected, memory = copied(columns), {}
    program, _ = trace(lamb, {"exp_avg": True}, lr=0.5, eps=0.0)
    rows = [index % 2 for index in range(len(LENGTHS))]

    def step(columns: Columns, memory: dict[str, Any] | None) -> None:
        scalars = [trace(lamb, {"exp_avg": True}, lr=rate, eps=0.0)[1] for rate in (lr, 0.25)]
        launched(program, scalars, columns, rows=rows, memory=memory)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(columns, memory)
    torch.cuda.current_stream().wait_stream(stream)
    step(expected, None)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(columns, memory)
    for rate in (0.5, 0.125, 2.0):
        lr.fill_(rate)
        for column in (columns, expected):
            for grad in column["grad"]:
                grad.mul_(-rate)
        graph.replay()
        step(expected, None)
        step(columns, memory)  # another launch between two replays
        step(expected, None)
        for name in expected:
            assert all(map(torch.equal, columns[name], expected[name])), name


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("case", REDUCING)
def test_a_reducing_rule_takes_the_kernel(case):
    """On CUDA a rule of a user that reduces tensors, or sums over the model, is fused, and does as the loop does."""
    rule, _, options = REDUCING[case]
    made = optizoo.from_rule(rule, name="Made", **options)
    generator = torch.Generator("cuda").manual_seed(0)
    params = [
        torch.nn.Parameter(torch.randn(shape, device="cuda", generator=generator)) for shape in ((3, 5), (70_000,))
    ]
    expected = [torch.nn.Parameter(param.detach().clone()) for param in params]
    ours, theirs = made(params), made(expected, foreach=False)
    for _ in range(4):
        for param, other in zip(params, expected, strict=True):
            param.grad = torch.randn(param.shape, device="cuda", generator=generator)
            other.grad = param.grad.clone()
        ours.step()
        theirs.step()
    assert "fused for 2 tensors" in optizoo.explain(ours)
    for param, other in zip(params, expected, strict=True):
        torch.testing.assert_close(param, other)


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("case", [*RULES, *REDUCING])
def test_every_rule_is_proven_on_the_device(case, tmp_path, monkeypatch):
    """On this device the kernels of all rules pass, in every type, with and without what a GradScaler sets."""
    monkeypatch.setenv("OPTIZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(fused_cuda, "_verdicts", {})
    rule, states, options = {**RULES, **REDUCING}[case]
    program, scalars = trace(rule, states, **options)
    on_device = [torch.tensor(scalar, device="cuda") for scalar in scalars]
    for dtype in DTYPES:
        for grad_dtype in {dtype, torch.float32}:
            param = torch.ones(3, dtype=dtype, device="cuda")
            grad = torch.ones(3, dtype=grad_dtype, device="cuda")
            fused_cuda.prove(program, scalars, param, grad)
            fused_cuda.prove(program, on_device, param, grad, unscale=True, found_inf=True)
            if case in REDUCING:
                fused_cuda.prove(program, scalars, param, grad, in_rows=True, found_inf=True)


@pytest.mark.gpu
@needs_triton
def test_a_capture_needs_a_proof_before_it(monkeypatch):
    """Nothing is built or proven in a capture: lists or the loop serve there, and a later step takes the kernel."""
    monkeypatch.setattr(fused_cuda, "_verdicts", {})
    param = torch.ones(3, device="cuda")
    options = {"lr": torch.tensor(0.5, device="cuda"), "weight_decay": 0.0}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream):
        assert "make a step before" in (fused.obstacle(rules.sgd, {}, param, param, **options) or "")
    assert fused.obstacle(rules.sgd, {}, param, param, **options) is None
    with torch.cuda.stream(stream), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream):
        assert fused.obstacle(rules.sgd, {}, param, param, **options) is None


@pytest.mark.gpu
@needs_triton
def test_a_proof_leaves_the_device_alone():
    """The current device, its stream and its random numbers are those from before the proof."""
    program, scalars = trace(rules.lion, {"exp_avg": True}, lr=0.5, betas=(0.5, 0.25), weight_decay=0.125)
    param = torch.ones(3, device="cuda")
    state, stream = torch.cuda.get_rng_state(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        fused_cuda.prove(program, scalars, param, param)
        assert torch.cuda.current_stream() == stream
    assert torch.equal(torch.cuda.get_rng_state(), state)


def rows_of_scalars(device: str) -> None:
    """Update seven tensors with three rows, of which some are tensors; hold them against launches of one row each."""
    kinds = (("adamw", torch.float32), ("sgd", torch.float64), ("rmsprop", torch.float16), ("lamb", torch.float32))
    for case, dtype in kinds:
        rule, states, options = {**RULES, **REDUCING}[case]
        traced = [trace(rule, states, **{**options, "lr": lr}) for lr in (0.01, 0.25, 0.5)]
        program, rows = traced[0][0], [0, 2, 1, 0, 2, 2, 1]
        generator = torch.Generator().manual_seed(0)
        columns = {
            name: [torch.rand(n, generator=generator).to(device, dtype) for n in (1, 5, 1024, 0, 1030, 7, 64)]
            for name in program.inputs
        }
        alone, together, on_device = (copied(columns) for _ in range(3))
        for place, row in enumerate(rows):
            own = {name: [column[place]] for name, column in alone.items()}
            launched(program, traced[row][1], own)
        launched(program, [scalars for _, scalars in traced], together, rows=rows)
        mixed = [[torch.tensor(scalar, device=device) for scalar in traced[0][1]], traced[1][1], traced[2][1]]
        launched(program, mixed, on_device, rows=rows)
        for name in columns:
            assert all(torch.equal(a, b) for a, b in zip(alone[name], together[name], strict=True))
            if dtype == torch.float32:  # a tensor is a float32 here
                assert all(torch.equal(a, b) for a, b in zip(alone[name], on_device[name], strict=True))
        with pytest.MonkeyPatch.context() as patch:
            few_blocks(patch, program, device)
            fused_cuda.prove(program, traced[0][1], columns["param"][0], columns["grad"][0], in_rows=True)


@needs_triton
def test_every_tensor_has_its_row_of_scalars(check):
    """Tensors of several groups share a launch, each with the scalars of its own; that kernel proves itself too."""
    check(rows_of_scalars)


@pytest.mark.gpu
@needs_triton
def test_more_than_two_to_the_31_elements():
    """Offsets are 64 bits wide."""
    length = 2**31 + 1025
    if torch.cuda.mem_get_info()[0] < 3 * 2 * length:
        pytest.skip("needs 13 GB of free device memory")
    param = torch.zeros(length, dtype=torch.bfloat16, device="cuda")
    grad = torch.ones(length, dtype=torch.bfloat16, device="cuda")
    program, scalars = trace(rules.sgd, {}, lr=0.5, weight_decay=0)
    fused_cuda.launch(program, scalars, [[param], [grad]], [[param]])
    for part in (param[:1025], param[2**31 - 1025 : 2**31 + 1], param[-1025:]):
        assert bool((part == -0.5).all())
    assert float(param.min()) == float(param.max()) == -0.5
