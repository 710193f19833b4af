"""PyTorch's own optimizer tests, on optizoo's classes in place of theirs.

Inputs and bad inputs come from ``torch.testing._internal.common_optimizers``, which the wheel carries; what is asked of
each is what ``test/test_optim.py`` of PyTorch asks, held tighter where we promise more. What needs a GPU there is not
here.
"""

import copy
import inspect
import io
import warnings
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import optizoo
from optizoo.testing.twins import program
from tests.zoo import FAMILIES, feed

WORKS_WITH = "PyTorch's own optimizer tests"
HELD_TO = "bitwise; torch's tolerances between executions"

_global_flags = torch.backends.__allow_nonbracketed_mutation_flag
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_optimizers import (
            OptimizerErrorEnum,
            _get_optim_inputs_including_global_cliquey_kwargs,
            optim_db,
        )
except ImportError as error:  # the module is private, and needs expecttest
    pytest.skip(f"torch.testing._internal.common_optimizers is not to be had: {error}", allow_module_level=True)
finally:
    torch.backends.__allow_nonbracketed_mutation_flag = _global_flags  # which the import takes from all

SERVED = [info for info in optim_db if info.name in optizoo.zoo.classes()]
KINDS = [pytest.param(info, id=info.name) for info in SERVED]


def named(cases: dict[Any, list]) -> list[Any]:
    """Return the cases: without ``--slow`` all of one optimizer of each kind, and every third of each other."""
    return [
        pytest.param(
            info,
            case.kwargs,
            id=f"{info.name}-{case.desc}".replace(" ", "_"),
            marks=[] if info.name.lower() in FAMILIES or index % 3 == 0 else pytest.mark.slow,
        )
        for info, group in cases.items()
        for index, case in enumerate(group)
    ]


INPUTS = named({info: info.optim_inputs_func(device="cpu") for info in SERVED})
CLIQUEY = named(
    {
        info: _get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float32, info, skip=("differentiable",))
        for info in SERVED
    }
)
ERRORS = [
    pytest.param(info, error, id=f"{info.name}-{error.optimizer_error_input.desc}".replace(" ", "_"))
    for info in SERVED
    for error in info.optim_error_inputs_func(device="cpu", dtype=torch.float32)  # pyright: ignore[reportOptionalCall]
]
EXECUTIONS = {
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "differentiable": {"foreach": False, "differentiable": True},
    "capturable": {"foreach": False, "capturable": True},
}
# Where torch gives up and optizoo does not.
MORE_THAN_TORCH = ("as Tensor doesn't work with foreach", "both floats or both Tensors", "as a Tensor is not supported")


def ours(info: Any, params: Any, **kwargs: Any) -> Any:
    return getattr(optizoo, info.name)(params, **copy.deepcopy(kwargs))


def theirs(info: Any, params: Any, **kwargs: Any) -> Any:
    if "foreach" not in inspect.signature(info.optim_cls).parameters:  # torch has loops only
        kwargs.pop("foreach", None)
    return info.optim_cls(params, **copy.deepcopy(kwargs))


def parameters(info: Any, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Parameter]:
    """Return parameters of the shapes that torch's tests use, one of them without elements where torch can step it."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "Muon": ((2, 3), (6, 2), (1, 3), (4, 4)),  # torch takes matrices, and divides by the number of columns
        "Adafactor": ((2, 3), (2, 3, 2), (1, 3), (), (4,)),  # torch divides by the number of elements
    }.get(info.name, ((2, 3), (2, 3, 2), (1, 3), (), (3, 0), (4,)))
    return [Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def run(optimizer: Any, steps: range) -> None:
    for step in steps:
        feed([param for group in optimizer.param_groups for param in group["params"]], step)
        optimizer.step()


def states(optimizer: Any) -> list[dict[str, Any]]:
    return [optimizer.state.get(param, {}) for group in optimizer.param_groups for param in group["params"]]


def assert_equal_optimizers(one: Any, two: Any) -> None:
    """Assert that parameters and states are the same to the bit."""
    pairs = zip(one.param_groups, two.param_groups, strict=True)
    for param, expected in ((p, q) for g, h in pairs for p, q in zip(g["params"], h["params"], strict=True)):
        assert torch.equal(param, expected)
    for state, expected in zip(states(one), states(two), strict=True):
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(torch.as_tensor(state[name]), torch.as_tensor(value)), name


@pytest.mark.thin
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("info", "kwargs"), INPUTS)
def test_the_namesake(info, kwargs, dtype):
    """After each of twelve steps, one of them without gradients, parameters and states have torch's bits."""
    one = ours(info, parameters(info, dtype), foreach=False, **kwargs)
    two = theirs(info, parameters(info, dtype), foreach=False, **kwargs)
    for step in range(12):
        for optimizer in (one, two):
            if step == 3:
                optimizer.zero_grad()
                optimizer.step()
            else:
                run(optimizer, range(step, step + 1))
        assert_equal_optimizers(one, two)


@pytest.mark.thin
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize(("info", "kwargs"), INPUTS)
def test_executions_match_the_loop(info, kwargs, execution):
    """From equal numbers each of seven steps ends, in every execution, within torch's tolerances of the loop."""
    if execution == "capturable" and info.name == "RAdam":
        pytest.skip("RAdam's rule branches on the step, and refuses capturable=True")
    if execution == "fused" and program(info.name.lower(), **kwargs).unkerneled is not None:
        pytest.skip(f"{info.name} has no kernel, and fused=True says so")
    loop = ours(info, parameters(info, torch.float64), foreach=False, **kwargs)
    params: list[Any] = parameters(info, torch.float64)
    if execution == "differentiable":  # a leaf that asks for a gradient cannot be written under autograd
        params = [param.detach() for param in params]
    other = ours(info, params, **{**kwargs, **EXECUTIONS[execution]})
    for step in range(7):
        for optimizer in (loop, other):
            if step == 3:
                optimizer.zero_grad()
                optimizer.step()
            else:
                run(optimizer, range(step, step + 1))
        assert [state.keys() for state in states(loop)] == [state.keys() for state in states(other)]
        with torch.no_grad():
            for param, expected in zip(other.param_groups[0]["params"], loop.param_groups[0]["params"], strict=True):
                torch.testing.assert_close(param, expected.detach())
                param.copy_(expected)
            for state, expected in zip(states(other), states(loop), strict=True):
                for name, value in expected.items():
                    torch.testing.assert_close(state[name], value)
                    state[name] = value.clone()


@pytest.mark.parametrize(("info", "error"), ERRORS)
def test_errors(info, error):
    """What torch refuses is refused with an error of the same type that names the argument, or it works.

    Parameters that stand twice in a group are a warning, as in torch. Tensors for ``lr`` and ``betas`` mix freely with
    floats and with ``foreach=True``.
    """
    case = error.optimizer_error_input
    params = case.params if case.params is not None else parameters(info)
    early = "does not support complex parameters" in case.desc.replace("_", " ")  # what torch sees at the first step
    assert early or error.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR
    if case.desc == "only support 2D parameters":  # kernels are matrices with a row for each output
        with pytest.raises(error.error_type, match="only supports parameters of at least 2 dimensions"):
            ours(info, [torch.rand(3)])
        ours(info, params)
    elif any(part in case.desc.replace("\\", "") for part in MORE_THAN_TORCH):
        floats = {
            name: tuple(map(float, value)) if isinstance(value, tuple) else float(value)
            for name, value in case.kwargs.items()
        }
        one, two = ours(info, params, **case.kwargs), ours(info, parameters(info), **{**floats, "foreach": False})
        run(one, range(10))
        run(two, range(10))
        for param, expected in zip(one.param_groups[0]["params"], two.param_groups[0]["params"], strict=True):
            torch.testing.assert_close(param, expected, rtol=1e-5, atol=1e-6)
    elif issubclass(error.error_type, Warning):
        with pytest.warns(error.error_type, match=error.error_regex):
            ours(info, params, **case.kwargs)
    else:
        with pytest.raises(error.error_type) as raised:
            ours(info, params, **case.kwargs)
        wrong = [name for name in case.kwargs if name != "lr"] or list(case.kwargs) or ["param"]
        assert all(name.removesuffix("s") in str(raised.value) for name in wrong)


@pytest.mark.parametrize(("info", "kwargs"), INPUTS)
def test_goes_the_right_way(info, kwargs):
    """Over 20 steps, with each of the schedulers that torch tries too, the loss falls, or rises with ``maximize``."""
    for schedulers in ([], *info.scheduler_inputs):
        weight, bias = Parameter(torch.randn(10, 5, 2)[..., 0]), Parameter(torch.randn(10, 2)[..., 0])
        inputs = torch.randn(5)
        optimizer = ours(info, [weight] if info.name == "Muon" else [weight, bias], **kwargs)
        rates = [make(optimizer) for make in schedulers]

        def closure(optimizer=optimizer, weight=weight, bias=bias, inputs=inputs):
            optimizer.zero_grad()
            loss = (weight.mv(inputs) + bias).square().sum()
            loss.backward()
            return loss

        before = closure().item()
        for _ in range(20):
            loss = optimizer.step(closure)
            for rate in rates:
                rate.step(*([loss.detach()] if isinstance(rate, lr_scheduler.ReduceLROnPlateau) else []))
        after = closure().item()
        assert after > before if kwargs.get("maximize") else after < before


@pytest.mark.thin
@pytest.mark.parametrize("shape", [(), (1,)], ids=["0-dim", "1-dim"])
@pytest.mark.parametrize(("info", "kwargs"), INPUTS)
def test_tensor_lr(info, kwargs, shape):
    """An lr that is a tensor of one element gives the path of the float, and a scheduler fills it in place."""
    kwargs = {**kwargs, "lr": float(kwargs.get("lr", 1e-3))}
    lr = torch.full(shape, kwargs["lr"], dtype=torch.float64)
    one = ours(info, parameters(info), **{**kwargs, "lr": lr, "foreach": False})
    two = ours(info, parameters(info), foreach=False, **kwargs)
    kept = one.param_groups[0]["lr"]
    rates = [lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5) for optimizer in (one, two)]
    for step in range(10):
        for optimizer, rate in zip((one, two), rates, strict=True):
            run(optimizer, range(step, step + 1))
            rate.step()
    assert one.param_groups[0]["lr"] is kept
    for param, expected in zip(one.param_groups[0]["params"], two.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("info", "kwargs"), CLIQUEY)
def test_complex(info, kwargs):
    """A complex parameter moves as its real and imaginary parts would, or is refused as torch refuses it."""
    if not info.supports_complex:
        with pytest.raises(RuntimeError, match="does not support complex parameters"):
            ours(info, [Parameter(torch.randn(5, 5, dtype=torch.complex64))], **kwargs)
        return
    if kwargs.get("fused"):
        with pytest.raises(RuntimeError, match=r"no kernel for torch\.complex64"):
            ours(info, [Parameter(torch.randn(5, 5, dtype=torch.complex64))], **kwargs)
        return
    param = Parameter(torch.randn(5, 5, dtype=torch.complex64))
    parts = Parameter(torch.view_as_real(param.detach()).clone())
    one, two = ours(info, [param], **kwargs), ours(info, [parts], **kwargs)
    if info.name == "Rprop" or kwargs.get("initial_accumulator_value"):
        reference = theirs(info, [Parameter(param.detach().clone())], **{**kwargs, "foreach": False})
    else:
        reference = None
    for _ in range(10):
        param.grad = torch.randn_like(param)
        parts.grad = torch.view_as_real(param.grad).clone()
        one.step()
        two.step()
        torch.testing.assert_close(torch.view_as_real(param.detach()), parts.detach())
        if reference is not None:
            reference.param_groups[0]["params"][0].grad = param.grad.clone()
            reference.step()
            torch.testing.assert_close(param.detach(), reference.param_groups[0]["params"][0].detach())


@pytest.mark.parametrize(("info", "kwargs"), INPUTS)
def test_sparse(info, kwargs):
    """SGD and Adagrad take sparse gradients, uncoalesced, with torch's numbers; others refuse them, name the remedy."""
    one, two = (make(info, [Parameter(torch.ones(4, 3))], foreach=False, **kwargs) for make in (ours, theirs))

    def advance(optimizer: Any) -> None:
        (param,) = optimizer.param_groups[0]["params"]
        indices, values = torch.tensor([[0, 0, 2], [1, 1, 0]]), torch.tensor([1.0, 2.0, -1.0])
        param.grad = torch.sparse_coo_tensor(indices, values, size=(4, 3))
        optimizer.step()

    with torch.sparse.check_sparse_tensor_invariants():
        if info.name not in ("SGD", "Adagrad"):
            with pytest.raises(
                RuntimeError, match="does not support sparse gradients; use SGD or Adagrad, or make them"
            ):
                advance(one)
            return
        if kwargs.get("weight_decay"):  # sparse plus dense
            for optimizer in (one, two):
                with pytest.raises(RuntimeError, match="sparse"):
                    advance(optimizer)
            return
        for _ in range(10):
            advance(one)
            advance(two)
    torch.testing.assert_close(one.param_groups[0]["params"][0], two.param_groups[0]["params"][0])


@pytest.mark.parametrize(("info", "kwargs"), CLIQUEY)
def test_nothing_to_do(info, kwargs):
    """Without gradients, and for parameters without elements, a step moves nothing."""
    params = parameters(info)
    optimizer = ours(info, params, **kwargs)
    before = [param.detach().clone() for param in params]
    optimizer.step()
    assert all(torch.equal(param, value) for param, value in zip(params, before, strict=True))
    empty = Parameter(torch.randn(3, 0))
    optimizer = ours(info, [empty], **kwargs)
    for _ in range(3):
        empty.grad = torch.rand_like(empty)
        optimizer.step()
    assert empty.shape == (3, 0)


@pytest.mark.parametrize(("info", "kwargs"), CLIQUEY)
def test_zero_gradients_move_nothing(info, kwargs):
    """Gradients of exact zeros, without weight decay, leave a fresh optimizer's parameters as they are."""
    params = parameters(info)
    optimizer = ours(info, params, **kwargs)
    for decay in {"weight_decay", "lambd"} & optimizer.param_groups[0].keys():
        optimizer.param_groups[0][decay] = 0
    before = [param.detach().clone() for param in params]
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert all(torch.equal(param, value) for param, value in zip(params, before, strict=True))


@pytest.mark.parametrize(("info", "kwargs"), CLIQUEY)
def test_state_dict_round_trip(info, kwargs):
    """Saved and loaded the safe way, training goes on to the bit, and what was loaded stays as it was."""
    one = ours(info, parameters(info), **kwargs)
    run(one, range(5))
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    before = copy.deepcopy(loaded)
    two = ours(info, copy.deepcopy(one.param_groups[0]["params"]), **kwargs)
    two.load_state_dict(loaded)
    run(one, range(5, 10))
    run(two, range(5, 10))
    assert_equal_optimizers(two, one)
    assert one.state_dict()["param_groups"] == two.state_dict()["param_groups"]
    for key, state in before["state"].items():
        assert all(torch.equal(loaded["state"][key][name], value) for name, value in state.items())


@pytest.mark.parametrize(("info", "kwargs"), INPUTS)
def test_older_state_dicts(info, kwargs):
    """A checkpoint of torch from before an option existed loads, and so does a step that is a plain number."""
    source = theirs(info, parameters(info), **kwargs)
    run(source, range(3))
    for flag in info.not_og_supported_flags:
        old = copy.deepcopy(source.state_dict())
        for group in old["param_groups"]:
            group.pop(flag, None)
        for state in old["state"].values():
            if "step" in state:
                state["step"] = state["step"].item()
        optimizer = ours(info, parameters(info), **kwargs)
        optimizer.load_state_dict(old)
        run(optimizer, range(3, 5))
        for state in states(optimizer):
            assert "step" not in state or state["step"] == 5


@pytest.mark.parametrize("named", ["saved", "loading", "both", "neither"])
@pytest.mark.parametrize("info", KINDS)
def test_named_and_unnamed_parameters(info, named):
    """Checkpoints with and without names load into optimizers with and without; who has names is as in torch."""

    def params(has_names: bool) -> list:
        values = parameters(info)
        return [(f"p{index}", value) for index, value in enumerate(values)] if has_names else values

    one = ours(info, params(named in ("saved", "both")), lr=0.01)
    two = ours(info, params(named in ("loading", "both")), lr=0.01)
    run(one, range(3))
    run(two, range(3))
    two.load_state_dict(one.state_dict())
    expected = theirs(info, params(named in ("loading", "both")), lr=0.01)
    expected.load_state_dict(one.state_dict())
    assert two.param_groups[0].get("param_names") == expected.param_groups[0].get("param_names")
    run(one, range(3, 6))
    run(two, range(3, 6))
    assert_equal_optimizers(two, one)


@pytest.mark.parametrize(("info", "kwargs"), CLIQUEY)
def test_deepcopy_copies_public_attributes(info, kwargs):
    """A copy of an optimizer has its public attributes, before and after a step."""
    params = parameters(info)
    optimizer = ours(info, params, **kwargs)
    for step in range(2):
        public = {name for name in vars(optimizer) if not name.startswith("_")}
        assert public == {name for name in vars(copy.deepcopy(optimizer)) if not name.startswith("_")}
        run(optimizer, range(step, step + 1))


@pytest.mark.parametrize(("info", "kwargs"), CLIQUEY)
def test_state_is_not_empty(info, kwargs):
    """After a step every parameter has a state, but with SGD, which keeps momentum alone."""
    optimizer = ours(info, parameters(info), **kwargs)
    run(optimizer, range(1))
    for state in states(optimizer):
        assert bool(state) == (info.name != "SGD" or bool(kwargs.get("momentum")))


@pytest.mark.parametrize("info", KINDS)
def test_can_be_printed(info):
    """The text of an optimizer has its name, its groups and their options."""
    text = repr(ours(info, [{"params": parameters(info)[:1], "lr": 0.5}, {"params": parameters(info)[1:]}], lr=0.01))
    assert text.startswith(f"{info.name} (")
    assert "Parameter Group 1" in text
    assert "lr: 0.5" in text


@pytest.mark.parametrize("info", KINDS)
def test_hooks(info):
    """Hooks of a step, of all steps, of saving and of loading run in torch's order, and not once they are removed."""
    calls: list[str] = []
    optimizer = ours(info, parameters(info), lr=0.01)

    def hook(name: str):
        return lambda *_: calls.append(name)

    handles = [
        register_optimizer_step_pre_hook(hook("all, before")),
        register_optimizer_step_post_hook(hook("all, after")),
        optimizer.register_step_pre_hook(hook("before")),
        optimizer.register_step_post_hook(hook("after")),
        optimizer.register_state_dict_pre_hook(hook("before saving")),
        optimizer.register_state_dict_post_hook(hook("after saving")),
        optimizer.register_load_state_dict_pre_hook(hook("before loading")),
        optimizer.register_load_state_dict_post_hook(hook("after loading")),
        optimizer.register_state_dict_pre_hook(hook("first before saving"), prepend=True),
    ]
    run(optimizer, range(1))
    optimizer.load_state_dict(optimizer.state_dict())
    # Global hooks come before those of the optimizer, and after them: torch's order is the same before and after.
    assert calls == [
        *("all, before", "before", "after", "all, after"),
        *("first before saving", "before saving", "after saving", "before loading", "after loading"),
    ]
    for handle in handles:
        handle.remove()
    run(optimizer, range(1, 2))
    optimizer.load_state_dict(optimizer.state_dict())
    assert len(calls) == 9


@pytest.mark.parametrize("info", KINDS)
def test_hooks_may_replace_what_is_loaded(info):
    """What hooks of saving and loading return is used, as with torch's optimizers."""
    optimizer = ours(info, parameters(info), lr=0.01)

    def doubled(_, state_dict: dict) -> dict:
        groups = [{**group, "lr": group["lr"] * 2} for group in state_dict["param_groups"]]
        return {**state_dict, "param_groups": groups}

    optimizer.register_load_state_dict_pre_hook(doubled)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.02


@pytest.mark.parametrize(("info", "kwargs"), INPUTS)
def test_default_dtype(info, kwargs):
    """With float64 as torch's default type, lists give the numbers of the loop, and the step is as torch's."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        one, two = (ours(info, parameters(info, torch.float32), foreach=foreach, **kwargs) for foreach in (True, False))
        three = theirs(info, parameters(info, torch.float32), foreach=False, **kwargs)
        for optimizer in (one, two, three):
            run(optimizer, range(7))
        for optimizer in (one, two):
            assert_equal_optimizers(optimizer, three)
            for state, expected in zip(states(optimizer), states(three), strict=True):
                assert {name: value.dtype for name, value in state.items()} == {
                    name: value.dtype for name, value in expected.items()
                }
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(("info", "kwargs"), INPUTS)
def test_fused_does_not_step_after_an_overflow(info, kwargs):
    """With ``found_inf`` set a fused step moves neither parameters nor states nor counters."""
    if program(info.name.lower(), **kwargs).unkerneled is not None:
        pytest.skip(f"{info.name} has no kernel, and fused=True says so")
    optimizer = ours(info, parameters(info), fused=True, **kwargs)
    run(optimizer, range(2))
    before = copy.deepcopy(optimizer)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(1.0)
    run(optimizer, range(2, 3))
    assert_equal_optimizers(optimizer, before)


@pytest.mark.parametrize("info", KINDS)
def test_fused_refuses_meta_parameters(info):
    """``fused=True`` with a parameter that has no memory raises when it is given."""
    with pytest.raises(RuntimeError, match="fused=True cannot be honoured"):
        ours(info, [Parameter(torch.empty(2, 3, device="meta"))], fused=True)
