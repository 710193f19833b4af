"""The second point: an optimizer that is judged elsewhere than it steps moves there and back to the bit."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.nn import Parameter

import optizoo
from optizoo import rules
from optizoo.combinators import averaged
from tests.zoo import assert_same_state, feed, parameters, run


def halves(param, exp_avg, *, share):
    """Return a point between a parameter and a state, for no reason."""
    return param.lerp(exp_avg, share)


def lion(param, grad, exp_avg, *, lr, betas, share):
    """Lion without decay."""
    direction = exp_avg.lerp(grad, 1 - betas[0]).sign()
    return param.add(direction, alpha=-lr if share else lr), exp_avg.lerp(grad, 1 - betas[1])


EMA = optizoo.from_rule(
    averaged(rules.adamw), "EMA",
    lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, amsgrad=False, bias_correction=True, average_decay=0.9,
)  # fmt: skip
Halves = optizoo.from_rule(lion, "Halves", evaluated=halves, lr=0.01, betas=(0.9, 0.99), share=0.25)

Make = Callable[..., Any]
MAKERS: dict[str, Make] = {
    "schedulefreesgd": lambda params, **options: optizoo.ScheduleFreeSGD(params, lr=0.1, **options),
    "schedulefreeadamw": lambda params, **options: optizoo.ScheduleFreeAdamW(params, lr=0.01, **options),
    "beta1-0": lambda params, **options: optizoo.ScheduleFreeAdamW(params, lr=0.01, betas=(0, 0.9), **options),
    "averaged": lambda params, **options: EMA(params, **options),
    "from_rule": lambda params, **options: Halves(params, **options),
}
BACKENDS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "default": {}}

each = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))


def bits(optimizer: Any) -> list[torch.Tensor]:
    return [param.detach().clone() for group in optimizer.param_groups for param in group["params"]]


def equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def trained_for(make: Make, steps: int = 5, **options: Any) -> Any:
    optimizer = make(parameters(), **options)
    run(optimizer, range(steps))
    return optimizer


def through_a_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def resumed(make: Make, optimizer: Any) -> Any:
    """Return what another process has that loads the model and the optimizer."""
    params = [Parameter(param) for param in bits(optimizer)]
    other = make(params)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    return other


# There and back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=list(BACKENDS))
@each
def test_there_and_back(make, backend):
    """``eval`` moves every parameter, the same way in every backend; ``train`` moves it back, and the run goes on."""
    optimizer, undisturbed = trained_for(make, **backend), trained_for(make, **backend)
    before = bits(optimizer)
    optimizer.eval()
    assert not any(torch.equal(one, other) for one, other in zip(bits(optimizer), before, strict=True))
    reference = trained_for(make, foreach=False)
    reference.eval()
    torch.testing.assert_close(bits(optimizer), bits(reference))
    optimizer.train()
    assert equal(bits(optimizer), before)
    run(optimizer, range(5, 10))
    run(undisturbed, range(5, 10))
    assert_same_state(optimizer, undisturbed)


@each
def test_both_may_be_called_twice(make):
    """A second ``eval`` or ``train`` does nothing, and ``train`` needs no ``eval`` before."""
    optimizer = trained_for(make)
    before = bits(optimizer)
    optimizer.train()
    optimizer.eval()
    there = bits(optimizer)
    optimizer.eval()
    assert equal(bits(optimizer), there)
    optimizer.train()
    optimizer.train()
    assert equal(bits(optimizer), before)


@each
def test_within_with(make):
    """``evaluating`` comes back, from errors too, and to eval mode where it was begun there."""
    optimizer = trained_for(make)
    before, there = bits(optimizer), []
    with pytest.raises(KeyError), optimizer.evaluating():  # noqa: PT012
        there = bits(optimizer)
        with optimizer.evaluating():
            assert equal(bits(optimizer), there)
        assert equal(bits(optimizer), there)
        raise KeyError
    assert equal(bits(optimizer), before)
    assert not equal(before, there)


@each
def test_memory(make):
    """The trained point is kept in eval mode alone, one tensor for each parameter."""
    optimizer = trained_for(make)
    names = [set(store) for store in optimizer.state.values()]
    optimizer.eval()
    assert [set(store) - found for store, found in zip(optimizer.state.values(), names, strict=True)] == [
        {"trained"}
    ] * 2
    optimizer.train()
    assert [set(store) for store in optimizer.state.values()] == names


@pytest.mark.parametrize("name", ["sgd", "adam", "prodigy"])
def test_without_a_second_point(name):
    """Other optimizers have both methods, which do nothing, and no mark."""
    optimizer = optizoo.create(name, parameters())
    run(optimizer, range(2))
    before, keys = bits(optimizer), set(optimizer.param_groups[0])
    optimizer.eval()
    with optimizer.evaluating():
        assert equal(bits(optimizer), before)
        run(optimizer, range(2, 3))
    optimizer.train()
    assert set(optimizer.param_groups[0]) == keys
    assert "evaluated" not in keys


@each
def test_a_step_in_eval_mode(make):
    """It raises and tells the remedy; nothing is called, moved or counted."""
    optimizer = trained_for(make)
    optimizer.eval()
    before, state = bits(optimizer), copy.deepcopy(optimizer.state_dict())
    feed(optimizer.param_groups[0]["params"], 5)
    called = []
    with pytest.raises(RuntimeError, match=r"cannot step in eval mode.*call optimizer.train\(\) first"):
        optimizer.step(lambda: called.append(True))
    assert not called
    assert equal(bits(optimizer), before)
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)
    optimizer.zero_grad()
    optimizer.train()
    run(optimizer, range(5, 7))
    undisturbed = trained_for(make, 7)
    assert_same_state(optimizer, undisturbed)


# Parameters of every kind ---------------------------------------------------------------------------------------------


@each
def test_what_was_never_updated_stays(make):
    """Before the first step nothing moves; afterwards what has no gradient, is frozen, or is new."""
    params = [*parameters(), Parameter(torch.ones(2)), Parameter(torch.ones(2), requires_grad=False)]
    optimizer = make(params)
    before = bits(optimizer)
    with optimizer.evaluating():
        assert equal(bits(optimizer), before)
    for step in range(3):
        feed(params[:2], step)
        optimizer.step()
    late = Parameter(torch.ones(3))
    with optimizer.evaluating():
        optimizer.add_param_group({"params": [late]})
        with pytest.raises(RuntimeError, match="eval mode"):
            optimizer.step()
        optimizer.eval()
        assert all(torch.equal(param, torch.ones_like(param)) for param in (*params[2:], late))
    optimizer.step()


@each
def test_a_group_of_an_optimizer_in_eval_mode(make):
    """Groups that are handed on to a new optimizer begin in train mode."""
    optimizer = trained_for(make)
    optimizer.eval()
    other = make([{**group} for group in optimizer.param_groups])
    other.step()
    assert not other.param_groups[0]["evaluated"]


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(torch.ones(3, dtype=torch.bfloat16), id="bfloat16"),
        pytest.param(torch.tensor(1.0), id="0-dim"),
        pytest.param(torch.ones(2, 3, dtype=torch.complex64) * 1j, id="complex"),
        pytest.param(torch.ones(4, 3).t(), id="transposed"),
        pytest.param(torch.ones(0), id="empty"),
    ],
)
@each
def test_any_tensor(make, start):
    """Other types and shapes go there and back as well."""
    param = Parameter(start.clone(memory_format=torch.preserve_format))
    optimizer = make([param])
    for _ in range(4):
        param.grad = param.detach().clone(memory_format=torch.preserve_format) * 0.5
        optimizer.step()
    before = bits(optimizer)
    optimizer.eval()
    assert param.isfinite().all()
    assert not equal(bits(optimizer), before) or not param.numel() or param.dtype is torch.bfloat16  # too near
    optimizer.train()
    assert equal(bits(optimizer), before)
    optimizer.step()


@each
def test_in_inference_mode(make):
    """An evaluation within ``inference_mode`` leaves no tensor behind that training could not use."""
    optimizer, undisturbed = trained_for(make), trained_for(make)
    with torch.inference_mode():
        optimizer.eval()
    optimizer.train()
    run(optimizer, range(5, 7))
    run(undisturbed, range(5, 7))
    assert_same_state(optimizer, undisturbed)


@each
def test_states_that_were_only_prepared(make):
    """A step at lr 0 with zero gradients, as torch's distributed checkpoints make it, is no update: nothing moves.

    A copy, or what loads the checkpoint, starts from the parameters that it has then.
    """
    for copied in (copy.deepcopy, lambda optimizer: resumed(make, optimizer)):
        optimizer = make(parameters())
        lr = optimizer.param_groups[0]["lr"]
        optimizer.param_groups[0]["lr"] = 0.0
        for param in optimizer.param_groups[0]["params"]:
            param.grad = torch.zeros_like(param)
        optimizer.step()
        before = bits(optimizer)
        with optimizer.evaluating():
            assert equal(bits(optimizer), before)
        other, fresh = copied(optimizer), make(parameters())
        other.param_groups[0]["lr"] = lr
        run(other, range(3))
        run(fresh, range(3))
        assert_same_state(other, fresh)


# Checkpoints and copies -----------------------------------------------------------------------------------------------


@each
def test_the_mark(make):
    """The checkpoint says which point the parameters were at."""
    optimizer = trained_for(make)
    assert optimizer.state_dict()["param_groups"][0]["evaluated"] is False
    optimizer.eval()
    assert optimizer.state_dict()["param_groups"][0]["evaluated"] is True
    optimizer.train()
    assert optimizer.state_dict()["param_groups"][0]["evaluated"] is False


COPIES = {
    "checkpoint": resumed,
    "deepcopy": lambda _, optimizer: copy.deepcopy(optimizer),
    "pickle": lambda _, optimizer: pickle.loads(pickle.dumps(optimizer)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
@each
def test_copies_in_either_mode(make, copied):
    """What was saved in eval mode goes on from the trained point; what was saved in training can be evaluated."""
    optimizer = trained_for(make)
    saved_trained = copied(make, optimizer)
    optimizer.eval()
    saved_evaluated = copied(make, optimizer)
    assert equal(bits(saved_evaluated), bits(optimizer))
    with pytest.raises(RuntimeError, match="eval mode"):
        saved_evaluated.step()
    saved_trained.eval()
    assert equal(bits(saved_trained), bits(optimizer))
    undisturbed = trained_for(make, 8)
    for other in (saved_evaluated, saved_trained, optimizer):
        other.train()
        run(other, range(5, 8))
        assert_same_state(other, undisturbed)


def test_a_checkpoint_of_the_other_mode():
    """A load brings the mode of the checkpoint, whatever the mode was here."""
    make = MAKERS["schedulefreesgd"]
    optimizer = trained_for(make)
    trained, point = copy.deepcopy(optimizer.state_dict()), bits(optimizer)
    optimizer.eval()
    evaluated, there = copy.deepcopy(optimizer.state_dict()), bits(optimizer)
    for state, weights in ((trained, point), (evaluated, there), (trained, point)):
        optimizer.load_state_dict(state)
        for param, weight in zip(optimizer.param_groups[0]["params"], weights, strict=True):
            param.data.copy_(weight)
        optimizer.train()
        assert equal(bits(optimizer), point)
        optimizer.eval()
        assert equal(bits(optimizer), there)


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@each
def test_distributed_checkpoints(make, flat):
    """``torch.distributed.checkpoint`` takes both modes along; a flat state in eval mode is refused, not cut short."""
    layout = StateDictOptions(flatten_optimizer_state_dict=flat)
    for mode in ("train", "eval"):
        optimizer = trained_for(make)
        getattr(optimizer, mode)()
        model = torch.nn.ParameterList(optimizer.param_groups[0]["params"])
        saved = get_optimizer_state_dict(model, optimizer, options=layout)
        optimizer.zero_grad()
        other = make(model)
        if flat and mode == "eval":
            with pytest.raises(ValueError, match="lacks 'trained'"):
                set_optimizer_state_dict(model, other, saved, options=layout)
            continue
        set_optimizer_state_dict(model, other, saved, options=layout)
        other.train()
        run(other, range(5, 8))
        assert_same_state(other, trained_for(make, 8))


def without_trained(state: dict) -> None:
    del state["state"][0]["trained"]


def without_mark(state: dict) -> None:
    state["param_groups"][0]["evaluated"] = False


def without_shape(state: dict) -> None:
    state["state"][0]["trained"] = torch.zeros(7)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            without_trained, "saved in eval mode, but the state of parameter 0 of group 0 lacks", id="trained"
        ),
        pytest.param(without_mark, "'evaluated' in its param group is False", id="mark"),
        pytest.param(without_shape, r"'trained' of parameter 0 of group 0 is \(7,\) in the checkpoint", id="shape"),
    ],
)
def test_damaged_checkpoints(damage, message):
    """A checkpoint in eval mode that could not go on exactly is refused, and changes nothing."""
    optimizer = trained_for(MAKERS["schedulefreeadamw"])
    optimizer.eval()
    state = copy.deepcopy(optimizer.state_dict())
    damage(state)
    other = trained_for(MAKERS["schedulefreeadamw"], 2)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(state)
    torch.testing.assert_close(other.state_dict(), before, rtol=0, atol=0)


# The points -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 1e-3, 0.5, 0.9, 1.0])
def test_schedule_free_is_judged_at_the_average(momentum):
    """At a constant rate x is the mean of all z so far, whatever β is; at β = 0 nothing is divided by it."""
    weight = Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = optizoo.ScheduleFreeSGD([weight], lr=0.1, momentum=momentum)
    walked = []
    for step in range(1, 8):
        weight.grad = torch.tensor([1.0 / step], dtype=torch.float64)
        optimizer.step()
        walked.append(optimizer.state[weight]["z"].item())
        with optimizer.evaluating():
            assert weight.item() == pytest.approx(sum(walked) / step, rel=1e-12)


def test_an_average_is_torchs():
    """An averaged rule has the bits of ``torch.optim.swa_utils.AveragedModel`` with the same decay."""
    model = torch.nn.Linear(3, 2)
    optimizer = EMA(model.parameters(), foreach=False)
    theirs = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for step in range(6):
        feed([*model.parameters()], step)
        optimizer.step()
        theirs.update_parameters(model)
    with optimizer.evaluating():
        assert equal(bits(optimizer), [param.detach() for param in theirs.module.parameters()])


def test_an_averaged_rule_steps_as_before():
    """The average changes nothing in the path of the parameters."""
    plain = optizoo.AdamW(parameters(), lr=0.01, weight_decay=0.1)
    optimizer = trained_for(MAKERS["averaged"])
    run(plain, range(5))
    assert equal(bits(optimizer), bits(plain))


# Rules of users -------------------------------------------------------------------------------------------------------


def failing(param, exp_avg, *, share):
    """Fail at the second parameter."""
    if param.dim() == 1:
        raise ZeroDivisionError
    return halves(param, exp_avg, share=share)


def test_where_it_fails_nothing_has_moved():
    """An error in the function of the second point leaves every parameter at the trained one, in train mode."""
    kind = optizoo.from_rule(lion, "Failing", evaluated=failing, lr=0.01, betas=(0.9, 0.99), share=0.25)
    optimizer = trained_for(kind)
    before = bits(optimizer)
    with pytest.raises(ZeroDivisionError):
        optimizer.eval()
    assert equal(bits(optimizer), before)
    run(optimizer, range(5, 6))


@pytest.mark.parametrize(
    ("evaluated", "message"),
    [
        pytest.param(lambda param, exp_avg_sq: param, "'exp_avg_sq', which is none of the states", id="state"),
        pytest.param(lambda param, *, beta: param, "'beta', which is none of the hyper-parameters", id="option"),
        pytest.param(lambda param, *state: param, r"'\*state', which is none of the states", id="star"),
        pytest.param("average", "evaluated must be a function", id="text"),
        pytest.param(lambda: 0, "evaluated must take the parameter first", id="nothing"),
    ],
)
def test_functions_that_do_not_fit(evaluated, message):
    """``from_rule`` refuses a second point that is made of what the rule does not have."""
    with pytest.raises(TypeError, match=message):
        optizoo.from_rule(lion, "Unfit", evaluated=evaluated, lr=0.01, betas=(0.9, 0.99), share=0.25)


# The reference --------------------------------------------------------------------------------------------------------


def test_faults_of_the_reference():
    """What schedulefree does and we do not: it writes gradients, comes back rounded, and divides by β = 0."""
    schedulefree = pytest.importorskip("schedulefree", reason="pip install 'optizoo[oracles]'")
    weight = Parameter(torch.linspace(-2, 2, 999))
    theirs = schedulefree.AdamWScheduleFree([weight], lr=0.3)
    theirs.train()
    for step in range(4):
        weight.grad = given = torch.linspace(-1, 1, 999) * (step + 1)
        before = given.clone()
        theirs.step()
        assert not torch.equal(given, before)
    before = weight.detach().clone()
    for _ in range(20):
        theirs.eval()
        theirs.train()
    assert not torch.equal(weight, before)
    theirs.param_groups[0]["betas"] = (0.0, 0.999)
    with pytest.raises(ZeroDivisionError):
        theirs.eval()
