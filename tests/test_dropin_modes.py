"""Where a step runs: on meta, with fake tensors, under default devices and types, under modes, through autograd."""

import copy

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import optizoo
from optizoo.testing import has_torch_twin, torch_twin
from optizoo.zoo import optimizer_class
from tests.zoo import FEW, assert_same_state, parameters, run

TWINNED = [case for case in FEW if has_torch_twin(case.values[0], **case.values[1])]  # pyright: ignore
HOW = {"default": {}, "loop": {"foreach": False}, "foreach": {"foreach": True}}


def trained(make, name, options):
    """Return a small model and its optimizer after some steps."""
    bias = optimizer_class(name).least_dimensions < 2
    model = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=bias), torch.nn.Linear(4, 2, bias=bias))
    optimizer = make(name, model.parameters(), **options)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).sum().backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.thin
@pytest.mark.parametrize("how", HOW.values(), ids=list(HOW))
@pytest.mark.parametrize(("name", "options"), FEW)
def test_on_meta(name, options, how):
    """A model on meta is built, stepped, saved and loaded: states on meta, counters on the CPU.

    Some of torch's have their counters on meta too, where most of its classes then cannot step.
    """
    with torch.device("meta"):
        _, ours = trained(optizoo.create, name, {**options, **how})
        saved = ours.state_dict()
        ours.load_state_dict(saved)
        copy.deepcopy(ours).step()
    assert all(
        store[key].is_meta for store in ours.state.values() for key in store if key not in ("step", *ours.numbers)
    )
    assert all(store["step"] == 4 for store in ours.state.values() if "step" in store)


@pytest.mark.thin
@pytest.mark.parametrize("how", HOW.values(), ids=list(HOW))
@pytest.mark.parametrize(("name", "options"), FEW)
def test_with_fake_tensors(name, options, how):
    """Under FakeTensorMode a model is built, stepped, saved and loaded; nothing has memory."""
    with FakeTensorMode():
        model, optimizer = trained(optizoo.create, name, {**options, **how})
        saved = optimizer.state_dict()
        optimizer.load_state_dict(saved)
        model(torch.randn(5, 3)).sum().backward()
        optimizer.step()
        assert all(hasattr(value, "fake_mode") for store in optimizer.state.values() for value in store.values())
        assert "param group 0" in optizoo.explain(optimizer)


@pytest.mark.parametrize("mode", ["meta", FakeTensorMode], ids=["meta", "fake"])
def test_a_first_step_at_lr_zero_where_nothing_has_a_value(mode):
    """Whether gradients are zero cannot be asked there, and is not."""
    with torch.device(mode) if mode == "meta" else mode():
        _, optimizer = trained(optizoo.create, "adam", {"lr": 0.0})
    assert len(optimizer.state) == 4


META = torch.device("meta")
ENTERED = {
    "context": lambda on: META.__enter__() if on else META.__exit__(None, None, None),
    "default": lambda on: torch.set_default_device(META if on else None),
}


@pytest.mark.thin
@pytest.mark.parametrize("entered", ENTERED.values(), ids=list(ENTERED))
@pytest.mark.parametrize("how", HOW.values(), ids=list(HOW))
@pytest.mark.parametrize(("name", "options"), TWINNED)
def test_under_another_default_device(name, options, how, entered):
    """A default device that is not the parameters' own changes nothing: all is made where it belongs."""
    plain = optizoo.create(name, parameters(of=name), **options, **how)
    run(plain, range(6))
    params = parameters(of=name)
    entered(True)
    try:
        other = optizoo.create(name, params, **options, **how)
        for step in range(6):
            for param, grad in zip(params, grads(step, params), strict=True):
                param.grad = grad
            other.step()
        other.load_state_dict(copy.deepcopy(other.state_dict()))
        optizoo.explain(other)
    finally:
        entered(False)
    assert_same_state(other, plain)


def grads(step, params):
    """Return the gradients of :func:`tests.zoo.feed`, under any default device."""
    generator = torch.Generator(device="cpu").manual_seed(1000 + step)
    how = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
    return [torch.randn(param.shape, **how).float() for param in params]


@pytest.mark.parametrize(("name", "options"), TWINNED)
def test_under_float64_as_default_type(name, options):
    """With float64 as default type, counters are float64 as torch's are, and float32 parameters stay float32."""
    torch.set_default_dtype(torch.float64)
    try:
        ours, theirs = (
            make(name, parameters(of=name), foreach=False, **options) for make in (optizoo.create, torch_twin)
        )
        for optimizer in (ours, theirs):
            run(optimizer, range(4))
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_state(ours, theirs)
    for optimizer in (ours, theirs):  # and on, with the usual type
        run(optimizer, range(4, 8))
    assert_same_state(ours, theirs)


class Quiet(TorchDispatchMode):
    """Lets every operation pass."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Call the operation."""
        return func(*args, **(kwargs or {}))


MODES = {
    "flops": lambda: FlopCounterMode(display=False),
    "dispatch mode": Quiet,
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "anomaly": torch.autograd.detect_anomaly,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "options"), FEW)
def test_under_a_mode(name, options, mode):
    """A mode around some steps, planned ones among them, changes no value."""
    plain, other = (optizoo.create(name, parameters(of=name), **options) for _ in range(2))
    run(plain, range(9))
    run(other, range(4))
    with MODES[mode]():
        run(other, range(4, 8))
    run(other, range(8, 9))
    for param, expected in zip(other.param_groups[0]["params"], plain.param_groups[0]["params"], strict=True):
        assert torch.equal(param, expected)


# Through autograd ----------------------------------------------------------------------------------------------------

STATES = {
    "SGD": ({"momentum_buffer"}, {"momentum": 0.9}),
    "Adam": ({"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}, {"amsgrad": True}),
    "AdamW": ({"exp_avg", "exp_avg_sq"}, {}),
    "RMSprop": ({"square_avg", "momentum_buffer"}, {"momentum": 0.9}),
    "Rprop": ({"prev", "step_size"}, {}),
    "Adagrad": ({"sum"}, {}),
    "Adadelta": ({"square_avg", "acc_delta"}, {}),
    "Adamax": ({"exp_avg", "exp_inf"}, {}),
    "NAdam": ({"exp_avg", "exp_avg_sq", "mu_product"}, {}),
    "RAdam": ({"exp_avg", "exp_avg_sq"}, {}),
}
TENSORS = {
    "numbers": {},
    "lr": {"lr": 0.1},
    "weight_decay": {"weight_decay": 0.2},
    "lr and weight_decay": {"lr": 0.1, "weight_decay": 0.2},
    "betas": {"lr": 0.1, "betas": (0.8, 0.9)},
}


def stepped(kind, leaves, states, tensors, options):
    """Return parameter and states after a differentiable step, as functions of the leaves."""
    param, grad, *rest = (leaf.clone() for leaf in leaves)
    given, numbers = dict(zip(states, rest, strict=False)), iter(rest[len(states) :])
    named = {
        name: tuple(next(numbers) for _ in value) if isinstance(value, tuple) else next(numbers)
        for name, value in tensors.items()
    }
    param.grad = grad
    optimizer = kind([param], differentiable=True, **options, **named)
    step = {} if kind.__name__ == "SGD" else {"step": torch.tensor(10.0, dtype=torch.float64)}
    optimizer.state[param].update(step, **given)
    optimizer.step()
    return (param, *(optimizer.state[param][name] for name in states))


def gradients(kind, inputs, *situation):
    """Return the results of a step, and the gradients of a sum of them with respect to all inputs."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    results = stepped(kind, leaves, *situation)
    total = torch.stack([(place + 1) * result.sum() for place, result in enumerate(results)]).sum()
    return results, torch.autograd.grad(total, leaves, allow_unused=True)


@pytest.mark.parametrize("tensors", TENSORS.values(), ids=list(TENSORS))
@pytest.mark.parametrize("name", STATES)
def test_differentiable_steps(name, tensors):
    """Gradients go through a step to parameter, gradient, every state and every option that is a tensor, as in torch.

    Where torch cannot do it, numerical differences decide.
    """
    states, options = sorted(STATES[name][0]), STATES[name][1]
    known = optizoo.create(name.lower(), parameters()).defaults
    if not set(tensors) <= known.keys() or (name == "Rprop" and tensors):
        pytest.skip(f"{name} has no such options, or makes only its first steps of lr")
    torch.manual_seed(0)
    flat = [value for option in tensors.values() for value in (option if isinstance(option, tuple) else (option,))]
    inputs = [torch.rand(5, dtype=torch.float64) + 0.1 for _ in range(2)]
    inputs += [torch.rand(() if state == "mu_product" else 5, dtype=torch.float64) / 2 + 0.1 for state in states]
    inputs += [torch.tensor(value, dtype=torch.float64) for value in flat]
    kind, situation = getattr(optizoo, name), (states, tensors, options)
    results, ours = gradients(kind, inputs, *situation)
    try:
        expected, theirs = gradients(getattr(torch.optim, name), inputs, *situation)
    except (TypeError, RuntimeError):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        assert torch.autograd.gradcheck(lambda *leaves: stepped(kind, leaves, *situation), leaves)
        return
    for value, other in zip((*results, *ours), (*expected, *theirs), strict=True):
        if value is None or other is None:
            assert all(found is None or not found.any() for found in (value, other))
        else:
            torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-12)
