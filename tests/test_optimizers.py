"""What a user of torch.optim relies on, beside the numbers."""

import copy
import inspect
import multiprocessing
import pickle
import re

import pytest
import torch
from torch.nn import Parameter

import optizoo
from optizoo.backends import UPDATES, fused
from optizoo.testing import torch_twin
from optizoo.testing.twins import program
from optizoo.zoo import optimizer_class
from tests.zoo import FEW, assert_same_state, feed, parameters, run, shapes_for, torchs_loop

CLASSES = [optimizer_class(name) for name in optizoo.list_optimizers()]
TORCH = {
    optizoo.SGD: torch.optim.SGD,
    optizoo.Rprop: torch.optim.Rprop,
    optizoo.Adagrad: torch.optim.Adagrad,
    optizoo.Adadelta: torch.optim.Adadelta,
    optizoo.RMSprop: torch.optim.RMSprop,
    optizoo.Adam: torch.optim.Adam,
    optizoo.AdamW: torch.optim.AdamW,
    optizoo.Adamax: torch.optim.Adamax,
    optizoo.NAdam: torch.optim.NAdam,
    optizoo.RAdam: torch.optim.RAdam,
    optizoo.ASGD: torch.optim.ASGD,
    optizoo.Adafactor: torch.optim.Adafactor,
    optizoo.Muon: torch.optim.Muon,
}
OURS = ["nonfinite", "across_processes", "master", "state_dtype"]
DECAYS = ["weight_decay_mode", "l1", *OURS]
EXTRAS = {
    optizoo.SGD: ["capturable", *DECAYS],
    optizoo.Rprop: ["fused", *OURS],
    optizoo.Adagrad: ["capturable", *DECAYS],
    optizoo.Adadelta: ["fused", *DECAYS],
    optizoo.RMSprop: ["fused", "eps_inside_sqrt", "initial_accumulator", *DECAYS],
    optizoo.Adam: ["bias_correction", *DECAYS],
    optizoo.AdamW: ["bias_correction", *DECAYS],
    optizoo.Adamax: ["fused", *DECAYS],
    optizoo.NAdam: ["fused", *DECAYS],
    optizoo.RAdam: ["fused", *DECAYS],
    optizoo.ASGD: ["fused", *DECAYS],
    optizoo.Adafactor: ["differentiable", "fused", "capturable", *DECAYS],
    optizoo.Muon: ["maximize", "foreach", "differentiable", "fused", "capturable", *DECAYS],
}


@pytest.mark.parametrize("kind", TORCH, ids=lambda kind: kind.__name__)
def test_signature_is_torchs(kind):
    """The constructor takes torch's arguments in torch's order with torch's defaults; ours come after, by keyword."""
    ours = list(inspect.signature(kind).parameters.values())
    theirs = list(inspect.signature(TORCH[kind]).parameters.values())
    shared = [parameter for parameter in ours if parameter.name not in EXTRAS[kind]]
    assert [(p.name, p.kind, p.default) for p in shared] == [(p.name, p.kind, p.default) for p in theirs]
    extras = [parameter for parameter in ours if parameter.name in EXTRAS[kind]]
    assert [p.name for p in extras] == EXTRAS[kind]
    assert all(p.kind is p.KEYWORD_ONLY for p in extras)


@pytest.mark.parametrize("kind", TORCH, ids=lambda kind: kind.__name__)
def test_groups_and_state_are_torchs(kind):
    """``state_dict`` has torch's group keys, defaults and state names."""
    name = kind.__name__
    ours, theirs = (make(name, parameters(of=name), **torchs_loop(name)) for make in (optizoo.create, torch_twin))
    for optimizer in (ours, theirs):
        run(optimizer, range(1))
    assert ours.state_dict()["param_groups"] == theirs.state_dict()["param_groups"]
    assert_same_state(ours, theirs)


@pytest.mark.parametrize(("name", "options"), FEW)
def test_step_returns_the_loss_of_the_closure(name, options):
    """``step(closure)`` calls the closure once, with gradients enabled, and returns what it returned."""
    params = parameters(of=name)
    optimizer = optizoo.create(name, params, **options)
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = sum(param.square().sum() for param in params)
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
        assert calls == [True]
        optimizer.step(closure)  # the first update of ADOPT moves nothing
    assert loss.item() > sum(param.square().sum() for param in params)
    assert optimizer.step(lambda: None) is None
    assert optimizer.step() is None


@pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])
@pytest.mark.parametrize(("name", "options"), FEW)
def test_gradients_are_never_written(name, options, foreach):
    """A step leaves every gradient as it was: values, object and version."""
    params = parameters(of=name)
    optimizer = optizoo.create(name, params, foreach=foreach, maximize=True, **options)
    for step in range(3):
        feed(params, step)
        grads = [param.grad for param in params if param.grad is not None]
        assert len(grads) == len(params)
        before = [(grad.clone(), grad._version) for grad in grads]
        optimizer.step()
        for param, grad, (values, version) in zip(params, grads, before, strict=True):
            assert param.grad is grad
            assert torch.equal(grad, values)
            assert grad._version == version


@pytest.mark.parametrize(("name", "options"), FEW)
def test_state_is_lazy_and_named(name, options):
    """A parameter without a gradient has no state and does not move; its first gradient makes the state.

    Adagrad makes it at once, as in torch, and keeps it as it is.
    """
    params = parameters(of=name)
    optimizer = optizoo.create(name, params, **options)
    params[0].grad = torch.ones_like(params[0])
    before = params[1].detach().clone()
    optimizer.step()
    assert (params[1] in optimizer.state) is (name == "adagrad")
    assert not optimizer.state.get(params[1], {}).get("step")
    assert torch.equal(params[1], before)
    feed(params, 1)
    optimizer.step()
    names = {"adafactor": {"step", "variance"}}.get(name, optimizer.state[params[0]].keys())
    assert optimizer.state[params[1]].keys() == names


@pytest.mark.parametrize(("name", "options"), FEW)
def test_state_that_something_else_wrote_first_is_kept(name, options):
    """A foreign entry in the state of a parameter is kept, and ours are made beside it."""
    params = parameters(of=name)
    optimizer = optizoo.create(name, params, **options)
    optimizer.state[params[0]]["visits"] = 7
    alone = optizoo.create(name, others := parameters(of=name), **options)
    run(optimizer, range(3))
    run(alone, range(3))
    assert optimizer.state[params[0]].pop("visits") == 7
    assert torch.equal(params[0], others[0])


@pytest.mark.parametrize(("name", "options"), FEW)
def test_identity_and_version_of_parameters(name, options):
    """Parameters and states are updated in place, parameters where autograd sees it."""
    params = parameters(of=name)
    optimizer = optizoo.create(name, params, **options)
    run(optimizer, range(1))
    tensors = [params[0], *(value for value in optimizer.state[params[0]].values())]
    pointers, versions = [t.data_ptr() for t in tensors], [t._version for t in tensors]
    run(optimizer, range(1, 2))
    after = [params[0], *(value for value in optimizer.state[params[0]].values())]
    assert all(a is b for a, b in zip(tensors, after, strict=True))
    assert pointers == [t.data_ptr() for t in after]
    assert tensors[0]._version > versions[0]


def test_groups_have_options_of_their_own():
    """A group's options hold for its parameters only; what it leaves out, the constructor said."""
    slow, fast = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    optimizer = optizoo.SGD([{"params": [slow]}, {"params": fast, "lr": 0.5, "momentum": 0.9}], lr=0.1)
    for _ in range(2):
        slow.grad, fast.grad = torch.ones(2), torch.ones(2)
        optimizer.step()
    assert torch.allclose(slow, torch.tensor(0.8))
    assert torch.allclose(fast, torch.tensor(1 - 0.5 - 0.5 * 1.9))
    assert slow not in optimizer.state


def test_a_group_may_go_back_to_the_neutral_value():
    """A group with an option's neutral value keeps it where the constructor's value is another."""
    plain, almost = Parameter(torch.ones(1)), Parameter(torch.ones(1))
    groups = [{"params": [plain], "bias_correction": True}, {"params": [almost]}]
    optimizer = optizoo.Adam(groups, lr=0.1, bias_correction=False)
    plain.grad, almost.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    assert plain.item() == pytest.approx(0.9)
    assert almost.item() == pytest.approx(1 - 0.1 * 0.1 / 0.001**0.5)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_the_callers_groups_are_not_kept(kind):
    """Two optimizers built from one list of groups share nothing with it or each other (torch shares: #51794)."""
    groups = [{"params": parameters(of=kind.__name__), "lr": 0.25}]
    first, second = kind(groups), kind(groups)
    first.param_groups[0]["lr"] = 0.5
    assert second.param_groups[0]["lr"] == 0.25
    assert groups[0].keys() == {"params", "lr"}
    late = {"params": parameters(of=kind.__name__)}
    first.add_param_group(late)
    assert late.keys() == {"params"}
    assert len(second.param_groups) == 1


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_named_parameters(kind):
    """Named parameters keep their names in the group and in the checkpoint."""
    params = parameters(of=kind.__name__)
    optimizer = kind([*zip(("weight", "bias"), params, strict=True)])
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


@pytest.mark.parametrize(("name", "options"), FEW)
def test_hooks_and_zero_grad(name, options):
    """Step hooks run around ``step``; ``zero_grad`` drops or zeroes the gradients."""
    params = parameters(of=name)
    optimizer = optizoo.create(name, params, **options)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    run(optimizer, range(1))
    assert seen == ["before", "after"]
    optimizer.zero_grad(set_to_none=False)
    assert all(torch.equal(param.grad, torch.zeros_like(param)) for param in params if param.grad is not None)
    optimizer.zero_grad()
    assert all(param.grad is None for param in params)


def doubled(optimizer):
    """Send an optimizer through pickle and back."""
    return pickle.loads(pickle.dumps(optimizer))


@pytest.mark.parametrize("duplicate", [doubled, copy.deepcopy], ids=["pickle", "deepcopy"])
@pytest.mark.parametrize(("name", "options"), FEW)
def test_copies_go_on_alike(name, options, duplicate):
    """A pickled or deep-copied optimizer takes its parameters along and continues bit for bit."""
    optimizer = optizoo.create(name, parameters(of=name), **options)
    run(optimizer, range(5))
    other = duplicate(optimizer)
    assert other.param_groups[0]["params"][0] is not optimizer.param_groups[0]["params"][0]
    run(optimizer, range(5, 10))
    run(other, range(5, 10))
    assert_same_state(other, optimizer)


def step_in_child(optimizer, connection):
    run(optimizer, range(1))
    connection.send([param.detach().tolist() for param in optimizer.param_groups[0]["params"]])


@pytest.mark.slow
def test_spawned_process():
    """An optimizer crosses into a spawned process and steps there."""
    optimizer = optizoo.Adam(parameters())
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=step_in_child, args=(copy.deepcopy(optimizer), theirs))
    child.start()
    received = ours.recv()
    child.join()
    run(optimizer, range(1))
    assert received == [param.detach().tolist() for param in optimizer.param_groups[0]["params"]]


@pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])
@pytest.mark.parametrize("name", optizoo.list_optimizers())
def test_parameters_of_every_kind_in_one_group(name, foreach):
    """Types, shapes, strides, and parameters that joined later, mixed in one group, each move as if alone."""

    def mixed() -> list[Parameter]:
        generator = torch.Generator().manual_seed(5)
        tensors = [
            torch.randn(3, 4, generator=generator),
            torch.randn(3, 4, generator=generator).t(),
            torch.randn(2, generator=generator, dtype=torch.float64),
            torch.randn(2, generator=generator).bfloat16(),
            torch.randn((), generator=generator),
            torch.randn(0, 3, generator=generator),
            torch.randn(2, generator=generator, dtype=torch.complex64),
            torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last),
            torch.randn(8, generator=generator)[::2],
        ]
        kind = optimizer_class(name)
        return [
            Parameter(
                tensor if tensor.dim() >= kind.least_dimensions else tensor.reshape(shapes_for(name, [tensor.shape])[0])
            )
            for tensor in tensors
            if kind.supports_complex or not tensor.is_complex()
        ]

    def grads(params: list[Parameter], step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        for index, param in enumerate(params):
            grad = torch.randn(param.shape, generator=generator, dtype=param.dtype)
            param.grad = None if index % 3 == step % 3 else grad

    together, alone = mixed(), mixed()
    optimizer = optizoo.create(name, together, lr=0.01, foreach=foreach)
    singles = [optizoo.create(name, [param], lr=0.01, foreach=False) for param in alone]
    for step in range(6):
        grads(together, step)
        grads(alone, step)
        optimizer.step()
        for single in singles:
            single.step()
    for param, single in zip(together, alone, strict=True):
        assert torch.equal(param, single)
        assert param.stride() == single.stride()


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw"])
def test_tensor_lr_may_change_in_place(name):
    """A tensor lr is read at every step, so filling it in place changes the next step, as in torch."""
    ends = []
    for make in (optizoo.create, torch_twin):
        params, lr = parameters(), torch.tensor(0.1)
        optimizer = make(name, params, lr=lr, foreach=False)
        run(optimizer, range(2))
        lr.fill_(0.01)
        run(optimizer, range(2, 4))
        ends.append(params)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw"])
def test_tensor_options_of_one_element(name, shape, foreach):
    """A tensor lr, and tensor betas, may have any shape of one element, as in torch."""
    options = {"lr": torch.full(shape, 0.1)}
    if "adam" in name:
        options |= {"betas": (torch.full(shape, 0.8), torch.full(shape, 0.9))}
    ours, theirs = parameters(), parameters()
    run(optizoo.create(name, ours, foreach=foreach, **options), range(5))
    run(torch_twin(name, theirs, foreach=False, **options), range(5))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_step_that_fails_is_not_counted(monkeypatch):
    """If the update raises, no counter has moved, so the next step is the one that failed."""
    params = parameters()
    optimizer = optizoo.Adam(params, foreach=False)
    run(optimizer, range(2))

    def broken(*args, **kwargs):
        raise RuntimeError("out of order")

    with monkeypatch.context() as patch:
        patch.setitem(UPDATES, "loop", broken)
        with pytest.raises(RuntimeError, match="out of order"):
            run(optimizer, range(2, 3))
    assert [optimizer.state[param]["step"].item() for param in params] == [2.0, 2.0]
    run(optimizer, range(2, 3))
    expected = parameters()
    run(optizoo.Adam(expected), range(3))
    assert all(torch.equal(a, b) for a, b in zip(params, expected, strict=True))


def test_step_has_torchs_type():
    """``step`` is a float32 tensor, or float64 where that is the default type, as in torch."""
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            for kind in (optizoo.Adam, torch.optim.Adam):
                optimizer = kind(params := parameters())
                run(optimizer, range(1))
                assert optimizer.state[params[0]]["step"].dtype == dtype
        finally:
            torch.set_default_dtype(torch.float32)


def test_conjugate_gradients():
    """A gradient that is a conjugate view serves like its values."""
    ends = []
    for lazily in (False, True):
        param = Parameter(torch.ones(3, dtype=torch.complex64))
        grad = torch.tensor([1 + 2j, 3 - 1j, -2j], dtype=torch.complex64).conj()
        param.grad = grad if lazily else grad.resolve_conj()
        optizoo.SGD([param], lr=0.1).step()
        ends.append(param.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", ["sgd", "momentum", "rmsprop", "adam", "adamw"])
def test_capturable_keeps_step_and_lr_on_the_device(name):
    """``capturable=True`` gives the same path, with tensor arithmetic for what depends on step and lr."""
    ends = []
    for options in ({"lr": 0.01}, {"lr": torch.tensor(0.01, dtype=torch.float64), "capturable": True}):
        params = parameters(torch.float64)
        optimizer = optizoo.create(name, params, **options)
        run(optimizer, range(20))
        ends.append(params)
    for param, expected in zip(*ends, strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("capturable", [False, True], ids=["plain", "capturable"])
@pytest.mark.parametrize("name", optizoo.list_optimizers())
def test_lr_zero_moves_nothing(name, capturable):
    """At lr 0 with zero gradients every parameter keeps its bits: a warm-up may start from 0."""
    if name == "radam" and capturable:
        with pytest.raises(ValueError, match="RAdam does not support capturable=True"):
            optizoo.RAdam(parameters(of=name), capturable=True)
        return
    params = parameters(of=name)
    before = [param.detach().clone() for param in params]
    lr = torch.tensor(0.0) if capturable else 0.0
    optimizer = optizoo.create(name, params, lr=lr, capturable=capturable)
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert all(torch.equal(param, start) for param, start in zip(params, before, strict=True))


def hyper_loss(name: str, lr: torch.Tensor, *, steps: int = 3, **options) -> torch.Tensor:
    """Return a loss after some steps of an optimizer, as a function of its lr."""
    weight = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True).clone()
    optimizer = optizoo.create(name, [weight], lr=lr, differentiable=True, **options)
    for step in range(steps):
        weight.grad = torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64) * (step + 1) + 0.1 * weight
        optimizer.step()
    return (weight**2).sum()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("sgd", {}, id="sgd"),
        pytest.param("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, id="nesterov"),
        pytest.param("momentum", {"lr_in_velocity": True}, id="lr-in-velocity"),
        pytest.param("rmsprop", {"momentum": 0.9, "centered": True, "weight_decay": 0.1}, id="rmsprop"),
        pytest.param("adam", {"amsgrad": True, "weight_decay": 0.1}, id="adam"),
        pytest.param("adamw", {"weight_decay": 0.1}, id="adamw"),
    ],
)
def test_differentiable_gives_the_gradient_of_the_learning_rate(name, options):
    """Autograd through three steps gives the derivative with respect to lr that finite differences give."""
    lr = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda lr: hyper_loss(name, lr, **options), (lr,), atol=1e-6)


def test_differentiable_carries_gradients_through_the_first_momentum_buffer():
    """The first buffer is the gradient and stays in the graph (torch detaches it and loses part of the derivative)."""
    derivative = []
    for kind in (optizoo.SGD, torch.optim.SGD):
        grad = torch.tensor([2.0], requires_grad=True)
        weight = torch.zeros(1, requires_grad=True).clone()
        optimizer = kind([weight], lr=0.1, momentum=0.9, differentiable=True)
        weight.grad = grad * 1
        optimizer.step()
        derivative.append(
            torch.autograd.grad(weight.sum(), grad, allow_unused=True)[0] if weight.requires_grad else None
        )
    assert derivative[0] is not None
    assert derivative[0].item() == pytest.approx(-0.1)
    assert derivative[1] is None


@pytest.mark.parametrize("name", optizoo.list_optimizers())
def test_explain_says_which_backend_and_why(name):
    """``explain`` names backend, tensors and reason for every kind of parameter."""
    double = Parameter(torch.zeros(shapes_for(name, [(2,)])[0], dtype=torch.float64))
    optimizer = optizoo.create(name, [*parameters(of=name), double])
    has_kernel = fused.unavailable() is None and program(name).unkerneled is None
    backend = "fused" if has_kernel else "(?:fused|foreach)"
    for count, dtype in ((2, "float32"), (1, "float64")):
        told = re.findall(rf"{backend} for (\d) tensors? \(cpu, {dtype}\)", optizoo.explain(optimizer))
        assert sum(map(int, told)) == count
    lists = optizoo.create(name, parameters(of=name), fused=False)
    assert optizoo.explain(lists).endswith("foreach for 2 tensors (cpu, float32): fused=False asks for it")
    asked = optizoo.create(name, parameters(of=name), foreach=False)
    assert optizoo.explain(asked).endswith("loop for 2 tensors (cpu, float32): foreach=False asks for it")
    if name != "radam":
        capturable = optizoo.create(name, parameters(of=name), capturable=True)
        assert "capturable=True" in optizoo.explain(capturable)
    with pytest.raises(TypeError, match="takes an optimizer of optizoo"):
        optizoo.explain(torch.optim.SGD(parameters(of=name)))  # pyright: ignore[reportArgumentType]


def test_create_by_name():
    """``create`` takes a model or parameters and any case; what it does not know it corrects."""
    model = torch.nn.Linear(2, 1)
    assert type(optizoo.create("AdamW", model, lr=0.5)) is optizoo.AdamW
    assert type(optizoo.create("momentum", model.parameters())) is optizoo.Momentum
    with pytest.raises(ValueError, match="Unknown optimizer 'admw'; did you mean 'adamw'"):
        optizoo.create("admw", model)
    with pytest.raises(ValueError, match=r"Unknown option 'learning_rate' = 0\.1 of Adam; did you mean 'lr'"):
        optizoo.create("adam", model, learning_rate=0.1)
    assert [*optizoo.zoo.classes().values()] == CLASSES


def test_subclass_that_overrides_step_with_hooks_still_counts_once():
    """A scheduler that wraps ``step`` and torch's hooks leave the count of steps alone."""
    params = parameters()
    optimizer = optizoo.Adam(params)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    run(optimizer, range(3))
    assert optimizer.state[params[0]]["step"].item() == 3.0


@pytest.mark.parametrize("name", ["adam", "nadam", "adagrad"])
def test_counters_on_a_device_are_shared(name):
    """Where counters stay on the device, parameters that step together share them, and part when one stays behind.

    A checkpoint has separate ones, as torch adds to each; equal ones are shared again when it is loaded.
    """
    params = [Parameter(torch.ones(2)) for _ in range(3)]
    optimizer = optizoo.create(name, params, capturable=True)

    def step(present: list[bool]) -> None:
        for param, there in zip(params, present, strict=True):
            param.grad = torch.ones(2) if there else None
        optimizer.step()

    def counts(state: dict) -> tuple[list[float], int]:
        counters = [store["step"] for store in state.values()]
        return [counter.item() for counter in counters], len({id(counter) for counter in counters})

    step([True, True, True])
    assert counts(optimizer.state) == ([1, 1, 1], 3 if name == "adagrad" else 1)
    step([True, False, True])
    assert counts(optimizer.state)[0] == [2, 1, 2]
    step([True, True, True])
    assert counts(optimizer.state)[0] == [3, 2, 3]
    assert counts(optimizer.state_dict()["state"]) == ([3, 2, 3], 3)
    optimizer.load_state_dict(optimizer.state_dict())
    assert counts(optimizer.state) == ([3, 2, 3], 2)
    step([True, True, True])
    assert counts(optimizer.state) == ([4, 3, 4], 2)

    plain = [Parameter(torch.ones(2)) for _ in range(3)]
    twin = optizoo.create(name, plain)
    for present in ([True] * 3, [True, False, True], [True] * 3, [True] * 3):
        for param, there in zip(plain, present, strict=True):
            param.grad = torch.ones(2) if there else None
        twin.step()
    torch.testing.assert_close(params, plain)


@pytest.mark.parametrize("name", ["adam", "asgd", "adafactor"])
def test_a_counter_on_the_device_counts_every_step_once(name):
    """Parameters of several types and shapes share a counter there, and each step is one for all of them."""
    params = [*parameters(), *parameters(torch.float64)]
    optimizer = optizoo.create(name, params, capturable=True)
    run(optimizer, range(3))
    assert [optimizer.state[param]["step"].item() for param in params] == [3.0] * 4
