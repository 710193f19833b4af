"""The fused backend on the CPU: the numbers of the loop, never through a stale pointer."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

import optizoo
from optizoo.backends import fused, loop
from optizoo.backends.trace import Operation, Program
from optizoo.core.optimizer import RuleOptimizer
from optizoo.core.rule import WORDS
from optizoo.testing import Run, assert_equivalent, gradients, torch_twin, ulp_distance
from optizoo.testing.specimens import specimens
from optizoo.testing.streams import lr_factor
from optizoo.testing.twins import kernel_tier, program
from optizoo.testing.verify import option_combinations
from optizoo.zoo import optimizer_class
from tests.processes import Started
from tests.zoo import COMBINATIONS, FEW, assert_same_state, feed, parameters, run, shapes_for

pytestmark = pytest.mark.skipif(fused.unavailable() is not None, reason=f"no fused kernels: {fused.unavailable()}")

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def ids(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# The numbers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def exact_roots(monkeypatch):
    """Let torch's square roots be correctly rounded, as IEEE 754 asks; its vector library is off in one of six."""

    def root(tensor: Tensor) -> Tensor:
        result = torch.empty_like(tensor)
        with np.errstate(invalid="ignore"):  # a kernel is proven on negative numbers too
            return result.copy_(torch.as_tensor(np.sqrt(tensor.detach().numpy())))

    monkeypatch.setattr(Tensor, "sqrt", root)


EXECUTIONS = ({"foreach": None}, {"foreach": False})  # a kernel wherever there is one, and the loop


@pytest.mark.families
@pytest.mark.thin
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=ids)
@pytest.mark.parametrize(("name", "options"), COMBINATIONS)
def test_the_bits_of_the_loop_but_for_its_roots(exact_roots, name, options, dtype):
    """After every one of 60 steps parameters and states have the bits of the loop, if its square roots are right.

    What sums up a tensor does so in another order, and is held against the loop in the tier that its type has then.
    """
    if (tier := kernel_tier(name, dtype, **options)) != "T1":
        kinds = [lambda params, more=more: optizoo.create(name, params, **{**options, **more}) for more in EXECUTIONS]
        assert_equivalent(*kinds, tiers=[tier], steps=60, shapes=specimens()[name].shapes)
        return
    ours, theirs = parameters(dtype, of=name), parameters(dtype, of=name)
    kernel, reference = (
        optizoo.create(name, params, **{**options, **more})
        for params, more in zip((ours, theirs), EXECUTIONS, strict=True)
    )
    for step in range(60):
        run(kernel, range(step, step + 1))
        run(reference, range(step, step + 1))
        assert_same_state(kernel, reference)


TORCH_FUSED = [
    ("sgd", {"lr": 0.01, "weight_decay": 0.05}),
    ("sgd", {"lr": 0.01, "momentum": 0.9}),
    ("sgd", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    ("adagrad", {}),
    ("adam", {}),
    ("adam", {"amsgrad": True, "weight_decay": 0.05}),
    ("adamw", {}),
]


@pytest.mark.parametrize(("name", "options"), TORCH_FUSED, ids=str)
def test_as_near_to_the_truth_as_torchs_own_kernel(name, options):
    """Over 100 steps the error of float32 against float64 is that of torch's fused kernel, where it has one."""
    makers = {
        "ours": (torch.float32, lambda params: optizoo.create(name, params, fused=True, **options)),
        "torch": (torch.float32, lambda params: torch_twin(name, params, fused=True, **options)),
        "truth": (torch.float64, lambda params: torch_twin(name, params, foreach=False, **options)),
    }
    runs = {key: Run(make, dtype) for key, (dtype, make) in makers.items()}
    squares = {"ours": 0.0, "torch": 0.0}
    for step, grads in enumerate(gradients(100), start=1):
        rounded = [None if grad is None else grad.float() for grad in grads]
        for each in runs.values():
            each.step(rounded, lr_factor(step, 100))
        for key in squares:
            for param, true in zip(runs[key].params, runs["truth"].params, strict=True):
                error = (param.detach().double() - true.detach()) / (true.detach().abs() + 1e-3)
                squares[key] += error.square().sum().item()
    assert squares["ours"] <= 1.001 * squares["torch"]


def on_reference(operation: Operation, operands: list[Tensor], scalar: float) -> Tensor:
    """Return what torch computes for a word."""
    word = WORDS[operation.word]
    return word.apply(*operands, numbers=() if word.scalar is None else (scalar,))


PLAIN_WORDS = [  # numbers of tensors, matrices, choices and halves have tests of their own
    name for name, word in WORDS.items()
    if word.triton and word.rank is None and name not in ("where", "where_scalar", "add_times")
]  # fmt: skip
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 1e-30, 1e30, float("inf"), float("-inf"), float("nan")]


def launch(program: Program, columns: list[list[Tensor]], scalar: float) -> None:
    """Run the kernel of a program that makes no states."""
    fused.run([fused.Call(program, (scalar,), columns, {})])


@pytest.mark.parametrize("scalar", [0.1, 0.9, 0.5, 1.0, -0.7, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=ids)
@pytest.mark.parametrize("word", PLAIN_WORDS)
def test_every_word_has_the_bits_of_torch(word, dtype, scalar):
    """Each word of the vocabulary gives torch's bits, signed zeros, infinities and NaN included; sqrt to one ulp."""
    if word == "sqrt":
        values = torch.rand(4096, dtype=dtype) * 100
        inputs = [values, values, values]
    else:
        generator = torch.Generator().manual_seed(0)
        random = [torch.randn(4096, generator=generator, dtype=dtype) for _ in range(3)]
        grid = torch.cartesian_prod(*[torch.tensor(SPECIAL, dtype=dtype)] * 3).T
        inputs = [torch.cat([column, row]) for column, row in zip(random, grid, strict=True)]
    count = {"addcmul": 3, "addcdiv": 3}.get(word, 2 if word in ("add", "sub", "mul", "div", "lerp", "maximum") else 1)
    operation = Operation(word, tuple(range(count)), None if WORDS[word].scalar is None else 0)
    program = Program(("param", "grad", "state"), (operation,), (("param", 3), ("state", 2)))
    expected = on_reference(operation, inputs[:count], scalar)
    columns = [[tensor.clone()] for tensor in inputs]
    launch(program, columns, scalar)
    actual = columns[0][0]
    if word == "sqrt":
        assert int(ulp_distance(actual, expected).max()) <= 1
    else:
        same = (actual == expected) | (actual.isnan() & expected.isnan())
        assert bool(same.all()), [(float(i[~same][0])) for i in (*inputs, actual, expected)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=ids)
def test_conversion_of_16_bits_is_exact(dtype):
    """All 65 536 numbers are read as they are, and every float32 is rounded as torch rounds it."""
    everything = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    program = Program(("param", "grad"), (Operation("mul_scalar", (1,), 0),), (("param", 2),))
    read = torch.zeros(2**16)
    launch(program, [[read], [everything]], 1.0)
    assert torch.equal(read.nan_to_num(7.0), everything.float().nan_to_num(7.0))
    assert torch.equal(read.isnan(), everything.isnan())

    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (2**20,), generator=generator).to(torch.int32).view(torch.float32)
    middles = (everything.float() + everything.float().roll(1)) / 2
    given = torch.cat(
        [bits, middles, middles.nextafter(torch.tensor(torch.inf)), middles.nextafter(-torch.tensor(torch.inf))]
    )
    written = torch.zeros(len(given), dtype=dtype)
    launch(program, [[written], [given]], 1.0)
    expected = given.to(dtype)
    assert bool(((written == expected) | (written.isnan() & expected.isnan())).all())


@pytest.mark.thin
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=ids)
@pytest.mark.parametrize(("name", "options"), FEW)
def test_16_bits_compute_in_float32(name, options, dtype):
    """A step in 16 bits is the step in float32 from the same numbers, rounded once at its end."""
    if program(name, **options).unkerneled is not None:
        pytest.skip(f"{name} has no kernel")
    eps = (1e-4, 1e-3) if name == "adafactor" else 1e-4
    options = {**options, **({"eps": eps} if "eps" in optimizer_class(name).checks else {})}
    half = parameters(dtype, of=name)
    optimizer = optizoo.create(name, half, **options)
    for step in range(5):
        wide = [Parameter(param.detach().float()) for param in half]
        truth = optizoo.create(name, wide, foreach=False, **options)
        for param, twin in zip(half, wide, strict=True):
            truth.state[twin] = {
                key: value.clone() if key in ("step", *optimizer.numbers) else value.float()
                for key, value in optimizer.state[param].items()
            }
        feed(half, step)
        for param, twin in zip(half, wide, strict=True):
            assert param.grad is not None
            twin.grad = param.grad.float()
        optimizer.step()
        truth.step()
        for param, twin in zip(half, wide, strict=True):
            # The kernel's correctly rounded root may tip a tie: one ulp of the 16 bits, in few elements.
            assert int(ulp_distance(param.detach(), twin.detach().to(dtype)).max()) <= 1


@pytest.mark.parametrize("grad_dtype", DTYPES, ids=ids)
@pytest.mark.parametrize("dtype", DTYPES, ids=ids)
def test_gradient_of_another_type(dtype, grad_dtype):
    """The gradient is read in its own type and the update computed in the parameter's, or float32 for 16 bits."""
    param = Parameter(torch.linspace(-1, 1, 101).to(dtype), requires_grad=True)
    grad = torch.linspace(-2, 3, 101).to(grad_dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    start = param.detach().clone().to(wide)
    columns = [[param.detach()], [grad]]
    program = Program(("param", "grad"), (Operation("add", (0, 1), 0),), (("param", 2),))
    launch(program, columns, -0.25)
    assert torch.equal(param.detach(), start.add(grad.to(wide), alpha=-0.25).to(dtype))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_change_nothing(threads):
    """The bits do not depend on how many threads there are, though each takes an even share of all tensors together."""
    ends = []
    for count in (1, threads):
        generator = torch.Generator().manual_seed(0)
        params = [Parameter(torch.randn(n, generator=generator)) for n in (70_001, 3, 0, 64, 129, 30_000)]
        optimizer = optizoo.Adam(params, lr=0.01)
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            run(optimizer, range(4))
        finally:
            torch.set_num_threads(before)
        ends.append(params)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_odd_addresses():
    """Tensors may begin anywhere: views at any offset give the numbers of tensors of their own."""
    memory = torch.randn(1000)
    params = [Parameter(memory[offset : offset + 97]) for offset in range(1, 900, 101)]
    own = [Parameter(param.detach().clone()) for param in params]
    for tensors in (params, own):
        optimizer = optizoo.AdamW(tensors, lr=0.01)
        run(optimizer, range(4))
    assert all(torch.equal(a, b) for a, b in zip(params, own, strict=True))


@pytest.mark.parametrize("layout", ["transposed", "channels_last", "permuted"])
def test_shared_strides_are_fused(layout):
    """Parameter, gradient and state in one order without holes are updated where they lie."""
    views = {
        "transposed": lambda: torch.randn(5, 7).t(),
        "channels_last": lambda: torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "permuted": lambda: torch.randn(3, 4, 5).permute(1, 2, 0),
    }
    ours = Parameter(views[layout]())
    theirs = Parameter(ours.detach().clone(memory_format=torch.preserve_format))
    optimizers = optizoo.RMSprop([ours], momentum=0.9), optizoo.RMSprop([theirs], momentum=0.9, foreach=False)
    assert "fused for 1 tensor" in optizoo.explain(optimizers[0])
    for step in range(3):
        for optimizer in optimizers:
            run(optimizer, range(step, step + 1))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert ours.stride() == theirs.stride()


HOLES = {
    "gradient in another order": (torch.zeros(5, 7), torch.randn(7, 5).t()),
    "gradient that repeats an element": (torch.zeros(5, 7), torch.randn(5, 1).expand(5, 7)),
    "parameter with holes": (torch.zeros(5, 14)[:, ::2], torch.randn(5, 7)),
}


@pytest.mark.parametrize(("start", "grad"), HOLES.values(), ids=list(HOLES))
def test_other_strides_fall_back(start, grad):
    """What does not lie in one order goes to foreach, with a reason; ``fused=True`` raises it before anything moves."""
    param = Parameter(start.clone(memory_format=torch.preserve_format) if start.is_contiguous() else start)
    param.grad = grad
    optimizer = optizoo.SGD([param], lr=1.0)
    assert "do not share strides" in optizoo.explain(optimizer)
    optimizer.step()
    assert torch.equal(param.detach(), -grad)
    strict = optizoo.SGD([Parameter(torch.zeros(5, 7))], lr=1.0, fused=True)
    strict.param_groups[0]["params"][0].grad = torch.randn(7, 5).t()
    with pytest.raises(RuntimeError, match="do not share strides"):
        strict.step()
    assert not strict.param_groups[0]["params"][0].any()


quick = settings(max_examples=100, deadline=None, derandomize=True)
shapes = st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=4)


@st.composite
def walks(draw):
    sizes = draw(shapes)
    row = st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes))
    return sizes, draw(st.lists(row, min_size=1, max_size=6)), [draw(st.booleans()) for _ in sizes]


@quick
@given(walks(), st.sampled_from([torch.float32, torch.float64]), st.sampled_from(option_combinations()))
def test_fused_is_the_loop(walked, dtype, combination):
    """Whatever the shapes, strides, options and missing gradients, repeated or not, the kernel walks with the loop."""
    sizes, present, turned = walked
    name, options = combination
    ends = []
    for foreach in (None, False):
        generator = torch.Generator().manual_seed(0)
        params = []
        for size, turn in zip(sizes, turned, strict=True):
            values = torch.randn(shapes_for(name, [size])[0], generator=generator, dtype=dtype)
            params.append(Parameter(values.transpose(0, -1).clone().transpose(0, -1) if turn and size else values))
        optimizer = optizoo.create(name, params, **{**options, "foreach": foreach})
        for row in present:
            for param, there in zip(params, row, strict=True):
                grad = torch.randn(param.shape, generator=generator, dtype=dtype)
                param.grad = torch.empty_like(param).copy_(grad) if there else None
            optimizer.step()
        ends.append([*params, *(value for param in params for value in optimizer.state[param].values())])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    for actual, expected in zip(*ends, strict=True):
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("execution", [{"fused": False}, {"foreach": False}, {"foreach": True}], ids=str)
def test_scaled_gradients_are_for_kernels(execution):
    """A scale that is set where no kernel divides by it raises, and nothing moves: it would be ignored silently."""
    params = [Parameter(torch.ones(3)), Parameter(torch.ones(3))]
    optimizer = optizoo.SGD([{"params": params[:1]}, {"params": params[1:], **execution}], lr=0.5)
    for param in params:
        param.grad = torch.full((3,), 8.0)
    optimizer.grad_scale = torch.tensor(4.0)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(RuntimeError, match="only fused kernels divide by grad_scale"):
        optimizer.step()
    assert all(bool((param == 1).all()) for param in params)


# Repeated steps ------------------------------------------------------------------------------------------------------


def planned(
    kind: Callable[..., RuleOptimizer] = optizoo.Adam, count: int = 3, **options: Any
) -> tuple[RuleOptimizer, list[Parameter]]:
    """Return an optimizer that has begun to repeat its step, and its parameters."""
    generator = torch.Generator().manual_seed(0)
    params = [Parameter(torch.randn(4, 4, generator=generator)) for _ in range(count)]
    optimizer = kind(params, lr=0.01, **options)
    run(optimizer, range(4))
    assert optimizer._planner.plan is not None
    return optimizer, params


def replace_data(optimizer, params):
    params[0].data = params[0].data.clone() + 1


def turn_data(optimizer, params):
    params[0].data = params[0].data.t()


def shrink_data(optimizer, params):
    params[0].data = params[0].data[:2]
    for store in [optimizer.state[params[0]]]:
        for key in ("exp_avg", "exp_avg_sq"):
            store[key] = store[key][:2].clone()


def load(optimizer, params):
    saved = optimizer.state_dict()
    saved["state"][1]["exp_avg"] = saved["state"][1]["exp_avg"] * 2
    optimizer.load_state_dict(saved)


def to_double(optimizer, params):
    for param in params:
        param.data = param.data.double()
        for key in ("exp_avg", "exp_avg_sq"):
            optimizer.state[param][key] = optimizer.state[param][key].double()


def replace_state(optimizer, params):
    optimizer.state[params[1]]["exp_avg"] = torch.ones_like(params[1])


def replace_state_data(optimizer, params):
    optimizer.state[params[1]]["exp_avg"].data = torch.ones_like(params[1])


def replace_store(optimizer, params):
    optimizer.state[params[1]] = dict(optimizer.state[params[1]], exp_avg=torch.ones_like(params[1]))


def drop_store(optimizer, params):
    del optimizer.state[params[1]]


def set_step(optimizer, params):
    optimizer.state[params[1]]["step"].fill_(100)


def swap(optimizer, params):
    torch.utils.swap_tensors(params[1], Parameter(torch.ones(4, 4)))


def add_group(optimizer, params):
    params.append(Parameter(torch.ones(2)))
    optimizer.add_param_group({"params": [params[-1]], "lr": 0.5})


def append_param(optimizer, params):
    params.append(Parameter(torch.ones(2)))
    optimizer.param_groups[0]["params"].append(params[-1])


def exchange_param(optimizer, params):
    params[1] = Parameter(torch.ones(4, 4))
    optimizer.param_groups[0]["params"][1] = params[1]


def remove_param(optimizer, params):
    del optimizer.param_groups[0]["params"][2]


def change_lr(optimizer, params):
    optimizer.param_groups[0]["lr"] = 0.5


def tensor_lr(optimizer, params):
    optimizer.param_groups[0]["lr"] = torch.tensor(0.5)


def change_betas(optimizer, params):
    optimizer.param_groups[0]["betas"] = (0.5, 0.6)


def add_decay(optimizer, params):
    optimizer.param_groups[0]["weight_decay"] = 0.1


def turn_round(optimizer, params):
    optimizer.param_groups[0]["maximize"] = True


def no_correction(optimizer, params):
    optimizer.param_groups[0]["bias_correction"] = False


def draw_to_zero(optimizer, params):
    optimizer.param_groups[0]["l1"] = 0.5


def other_mode(optimizer, params):
    optimizer.param_groups[0].update(weight_decay=0.1, weight_decay_mode="independent", max_lr=0.5)


def to_loop(optimizer, params):
    optimizer.param_groups[0]["foreach"] = False


def clear_groups(optimizer, params):
    optimizer.param_groups.pop()


CHANGES = [
    replace_data, turn_data, shrink_data, load, to_double, replace_state, replace_state_data, replace_store,
    drop_store, set_step, swap, add_group, append_param, exchange_param, remove_param, change_lr, tensor_lr,
    change_betas, add_decay, turn_round, no_correction, draw_to_zero, other_mode, to_loop, clear_groups,
]  # fmt: skip


@pytest.mark.parametrize("foreach", [None, True], ids=["fused", "foreach"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_repeated_step_sees_every_change(change, foreach):
    """Whatever changes between two steps, the step that repeats does what one that begins afresh would do."""
    ends = []
    for repeats in (True, False):
        optimizer, params = planned(foreach=foreach)
        change(optimizer, params)
        if not repeats:
            optimizer.forget()
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            for param in params:
                param.grad = torch.empty_like(param).copy_(torch.randn(param.shape, generator=generator))
            optimizer.step()
            if not repeats:
                optimizer.forget()
        ends.append([*params, *(value for param in params for value in optimizer.state[param].values())])
    assert len(ends[0]) == len(ends[1])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("foreach", [None, True], ids=["fused", "foreach"])
def test_new_gradients_are_read_where_they_lie(foreach):
    """A gradient that is allocated again, turned, expanded, of another type, sparse or gone is seen at once."""
    optimizer, params = planned(optizoo.SGD, foreach=foreach)
    expected = [param.detach().clone() for param in params]
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(4, 4, generator=generator) for _ in range(8)]
    kinds = [
        lambda grad: grad.clone(),
        lambda grad: grad.t().contiguous().t(),
        lambda grad: grad[:1].expand(4, 4),
        lambda grad: grad[0, 0].expand(4, 4),
        lambda grad: grad.to_sparse(),
        lambda grad: None,
        lambda grad: torch.complex(grad, grad).conj().imag,
        lambda grad: grad,
    ]
    for grad, kind in zip(grads, kinds, strict=True):
        for index, param in enumerate(params):
            param.grad = kind(grad) if index == 1 else grad.clone()
        given = [None if param.grad is None else param.grad.to_dense().clone() for param in params]
        optimizer.step()
        for param, value, used in zip(params, expected, given, strict=True):
            if used is not None:
                value.add_(used, alpha=-0.01)
            assert torch.equal(param.detach(), value)


def test_a_gradient_is_never_written():
    """Gradients have their bits after a repeated step."""
    optimizer, params = planned(optizoo.SGD, momentum=0.9, nesterov=True)
    feed(params, 9)
    grads = [param.grad for param in params]
    before = copy.deepcopy(grads)
    optimizer.step()
    assert all(param.grad is grad for param, grad in zip(params, grads, strict=True))
    torch.testing.assert_close(grads, before, rtol=0, atol=0)


def test_autograd_sees_a_repeated_step():
    """A graph that saved a parameter before the step refuses to go backward after it, as with torch."""
    optimizer, params = planned()
    loss = (params[0] * params[1]).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_removed_parameter_is_let_go():
    """A parameter that leaves the optimizer is freed after the next step."""
    optimizer, params = planned()
    gone = weakref.ref(params[2])
    optimizer.state.pop(params[2])
    del optimizer.param_groups[0]["params"][2], params[2]
    optimizer.step()
    gc.collect()
    assert gone() is None


def test_hooks_and_profiler_see_the_step():
    """Hooks run once around every step, a repeated one too, and the profiler names it as it names torch's."""
    optimizer, _ = planned()
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.step()
    assert calls == ["pre", "post"]
    with torch.profiler.profile(acc_events=True) as profiler:
        optimizer.step()
    assert calls == ["pre", "post"] * 2
    assert "Optimizer.step#Adam.step" in {event.key for event in profiler.key_averages()}


def test_a_step_that_is_overridden_runs_hooks_once():
    """A subclass with a step of its own, which calls ours, has its hooks run once."""

    class Counted(optizoo.SGD):
        def step(self, closure=None):
            return super().step(closure)

    param = Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    optimizer = Counted([param], lr=0.1)
    optizoo.SGD([Parameter(torch.ones(2))])
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.step()
    assert calls == ["pre"]


@pytest.mark.parametrize(("foreach", "lr"), [(None, 10**400), (True, 10**400), (True, 1e300)])
def test_a_failed_step_counts_nothing(foreach, lr):
    """A rate that overflows, in Python or in the type of the tensors, raises, and the step is not counted."""
    optimizer, params = planned(foreach=foreach)
    before = [param.detach().clone() for param in params]
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises((OverflowError, RuntimeError), match=r"overflow|too large"):
        optimizer.step()
    assert all(torch.equal(param, value) for param, value in zip(params, before, strict=True))
    assert {float(optimizer.state[param]["step"]) for param in params} == {4.0}


@pytest.mark.parametrize("overflow_at", [0, 2], ids=["first step", "later"])
@pytest.mark.parametrize(("name", "options"), FEW)
def test_grad_scaler(name, options, overflow_at):
    """With ``fused=True`` a GradScaler leaves scale and overflow to the step: as unscaled by hand, none at overflow."""
    if program(name, **options).unkerneled is not None:
        pytest.skip(f"{name} has no kernel")
    ends = []
    for fused_step in (True, False):
        params = parameters(of=name)
        optimizer = optizoo.create(name, params, **{**options, "fused": fused_step or None})
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        assert optimizer._step_supports_amp_scaling is (fused_step and name != "prodigy")  # whose sums come first
        for step in range(5):
            scaler.scale(torch.ones(()))  # makes the scale
            feed(params, step)
            for param in params:
                assert param.grad is not None
                param.grad *= scaler.get_scale()
                if step == overflow_at:
                    param.grad[0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
        ends.append([*params, *(value for param in params for value in optimizer.state[param].values())])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


# The process ---------------------------------------------------------------------------------------------------------


def test_one_openmp_runtime(tmp_path):
    """After a step over many elements on two threads, the OpenMP runtimes in the process are those torch brought."""
    code = """
import torch, optizoo
def runtimes():
    lines = open("/proc/self/maps").read().split("\\n")
    return {line.split()[-1] for line in lines if any(name in line for name in ("libgomp", "libomp", "libiomp"))}
torch.set_num_threads(2)
torch.randn(1 << 20).exp().sum()
before = runtimes()
param = torch.nn.Parameter(torch.randn(1 << 20))
param.grad = torch.randn(1 << 20)
optimizer = optizoo.Adam([param])
optimizer.step()
assert "fused" in optizoo.explain(optimizer)
assert runtimes() == before, (before, runtimes())
print(len(before))
"""
    output, errors = Started(code, tmp_path).communicate()
    assert (output.strip(), errors) == ("1", "")


def test_a_step_needs_no_memory():
    """After the first step, a fused step allocates nothing: 0 bytes for each parameter."""
    param = Parameter(torch.randn(1 << 16))
    optimizer = optizoo.Adam([param])
    for step in range(4):
        feed([param], step)
        if step:
            with torch.profiler.profile(profile_memory=True, acc_events=True) as profiler:
                optimizer.step()
            assert sum(max(event.self_device_memory_usage, 0) for event in profiler.key_averages()) == 0
            assert sum(max(event.self_cpu_memory_usage, 0) for event in profiler.key_averages()) < 64
        else:
            optimizer.step()


def test_loop_is_what_the_kernel_is_held_against():
    """The reference does not go through the kernel: it has no notion of programs."""
    assert "trace" not in vars(loop)


def test_without_plans_every_step_is_the_long_way(monkeypatch):
    """Where tensors cannot be watched (another torch), steps stay right, and a plan is tried once, not every time."""
    tried = []

    def refuse(*_):
        tried.append(1)
        raise ValueError("torch has no DLPack exchange API")

    monkeypatch.setattr("optizoo.core.planner.Plan", refuse)
    ends = []
    for _ in range(2):
        params = parameters()
        optimizer = optizoo.Adam(params, lr=0.01)
        run(optimizer, range(6))
        ends.append(params)
        monkeypatch.undo()
    assert len(tried) == 1
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
