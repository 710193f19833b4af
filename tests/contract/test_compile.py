"""``torch.compile`` of a step: as many graphs as torch's own optimizers need, and the numbers of the plain step."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import optizoo
from optizoo.testing import has_torch_twin, torch_twin
from tests.zoo import FEW, feed, parameters

WORKS_WITH = "torch.compile(optimizer.step)"
HELD_TO = "number of graphs; 1e-6"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*lru_cache"),
    pytest.mark.filterwarnings("ignore:.*Profiler"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
CASES = [*FEW, pytest.param("adam", {"betas": (0.8, 0.9), "maximize": True}, id="adam-maximize")]


def compiled(optimizer: torch.optim.Optimizer, steps: int, *, tensor_lr: bool = True) -> int:
    """Step with a schedule, compiled, and return the number of graphs."""
    torch._dynamo.reset()
    counter = CompileCounter()
    step = torch.compile(optimizer.step, backend=counter)
    (group,) = optimizer.param_groups
    base = float(group["lr"])
    for index in range(steps):
        feed(group["params"], index)
        factor = base / (1 + index)
        if tensor_lr:
            group["lr"].fill_(factor)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            group["lr"] = factor
        step()
    return counter.frame_count


@pytest.mark.thin(every=5)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_graphs_and_numbers(name, options):
    """At most two graphs for 50 scheduled steps, no more than torch's own takes, and the numbers of the plain step."""
    options = {"lr": 0.01, **options}
    lr = torch.tensor(options["lr"])
    ours = optizoo.create(name, parameters(of=name), **{**options, "lr": lr.clone()})
    graphs = compiled(ours, 50)
    assert graphs <= 2
    if has_torch_twin(name, **options) and name != "radam":  # whose rule branches on the step
        assert graphs <= compiled(torch_twin(name, parameters(of=name), **{**options, "lr": lr.clone()}), 50)
    plain = optizoo.create(name, parameters(of=name), foreach=False, **options)
    for index in range(50):
        feed(plain.param_groups[0]["params"], index)
        plain.param_groups[0]["lr"] = options["lr"] / (1 + index)
        plain.step()
    for param, expected in zip(ours.param_groups[0]["params"], plain.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(param.detach(), expected.detach(), rtol=1e-5, atol=1e-6)
        for key, value in plain.state.get(expected, {}).items():
            torch.testing.assert_close(ours.state[param][key], value, rtol=1e-5, atol=1e-6)


def test_a_float_lr_is_watched():
    """A rate that is a float is no constant of the graph: a new one is used at once, as with torch's optimizers."""
    ours, plain = optizoo.SGD(parameters(), lr=0.1), optizoo.SGD(parameters(), lr=0.1)
    compiled(ours, 6, tensor_lr=False)
    for index in range(6):
        feed(plain.param_groups[0]["params"], index)
        plain.param_groups[0]["lr"] = 0.1 / (1 + index)
        plain.step()
    for param, expected in zip(ours.param_groups[0]["params"], plain.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(param.detach(), expected.detach())


def test_hooks_run():
    """Hooks before and after a step run when it is compiled."""
    calls = []
    optimizer = optizoo.Adam(parameters(), lr=torch.tensor(0.1))
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    compiled(optimizer, 2)
    assert calls == ["before", "after"] * 2


def test_a_scaler_and_a_compiled_step():
    """A scaler leaves no scaled gradients to a compiled step: with ``fused=True`` it is refused, else it unscales."""
    for fused in (None, True):
        torch._dynamo.reset()
        params = parameters()
        optimizer = optizoo.SGD(params, lr=torch.tensor(0.1), fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        scaler.scale(params[0].sum()).backward()
        before = params[0].detach().clone()
        optimizer.step = torch.compile(optimizer.step, backend="eager")
        if fused:
            with pytest.raises(Exception, match="use fused=None"):
                scaler.step(optimizer)
            assert torch.equal(params[0], before)
        else:
            scaler.step(optimizer)
            torch.testing.assert_close(params[0].detach(), before - 0.1)


def test_a_parameter_without_gradient_rests():
    """A parameter whose gradient is None is left alone, and joins when it has one."""
    torch._dynamo.reset()
    first, second = parameters()
    optimizer = optizoo.Adam([first, second], lr=torch.tensor(0.1))
    step = torch.compile(optimizer.step, backend="eager")
    feed([first], 0)
    before = second.detach().clone()
    step()
    assert torch.equal(second, before)
    feed([first, second], 1)
    step()
    assert not torch.equal(second, before)
    assert [optimizer.state[param]["step"].item() for param in (first, second)] == [2, 1]


def test_plain_and_compiled_steps_alternate():
    """A step that is compiled goes on from the state of one that is not, and back."""
    torch._dynamo.reset()
    mixed, plain = (optizoo.AdamW(parameters(), lr=0.1) for _ in range(2))
    step = torch.compile(mixed.step, backend="eager")
    for index in range(6):
        feed(mixed.param_groups[0]["params"], index)
        feed(plain.param_groups[0]["params"], index)
        (step if index % 2 else mixed.step)()
        plain.step()
    for param, expected in zip(mixed.param_groups[0]["params"], plain.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(param.detach(), expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_inductor_computes_the_same():
    """The code that inductor makes computes what the loop does."""
    torch._dynamo.reset()
    ours, plain = optizoo.Adam(parameters(), lr=torch.tensor(0.1)), optizoo.Adam(parameters(), lr=0.1)
    step = torch.compile(ours.step)
    for index in range(5):
        for optimizer, make in ((ours, step), (plain, plain.step)):
            feed(optimizer.param_groups[0]["params"], index)
            make()
    for param, expected in zip(ours.param_groups[0]["params"], plain.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(param.detach(), expected.detach(), rtol=1e-5, atol=1e-6)
