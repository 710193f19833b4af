"""What torch lets pass in silence: parameters that overlap, shared rates, lost digits, gradients without a number."""

import copy
import math
import re
import warnings

import pytest
import torch
from torch.nn import Parameter
from torch.optim.optimizer import register_optimizer_step_pre_hook

import optizoo
from optizoo.backends import finite, fused
from tests.zoo import FEW, assert_same_state, feed, parameters, run

MODES = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "default": {},
    "capturable": {"capturable": True},
    "differentiable": {"differentiable": True},
}


# Learning rate 0 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES.values(), ids=list(MODES))
@pytest.mark.parametrize(("name", "options"), FEW)
def test_lr_zero_and_zero_gradients_move_nothing(name, options, mode):
    """At lr 0 a step with zero gradients leaves every bit of the parameters, in every mode, before and after others."""
    if name in ("rprop", "radam") and ("capturable" in mode or "differentiable" in mode):
        pytest.skip("Rprop's lr is only its first step, and both refuse some modes")
    params = parameters(of=name)
    if "differentiable" in mode:
        params = [param.detach().clone().requires_grad_(True).clone() for param in params]
    options = {**options, "lr": torch.tensor(0.1) if {"capturable", "differentiable"} & mode.keys() else 0.1}
    optimizer = optizoo.create(name, params, **options, **mode)
    for warmed in (False, True):
        lr = optimizer.param_groups[0]["lr"]
        optimizer.param_groups[0]["lr"] = lr * 0
        before = [param.detach().clone() for param in params]
        for param in params:
            param.grad = torch.zeros_like(param)
        goes_on = name in ("rprop", "asgd") or name.startswith("schedulefree") or "lr_in_velocity" in options
        if not (warmed and goes_on):  # what was begun at lr > 0, and the average follows
            optimizer.step()
        assert all(torch.equal(param, old) for param, old in zip(params, before, strict=True))
        optimizer.param_groups[0]["lr"] = lr
        if not warmed:
            for param in params:
                param.grad = torch.ones_like(param)
            optimizer.step()


def test_centered_rmsprop_for_5000_constant_gradients():
    """Centered RMSprop stays finite on constant gradients for 5000 steps (torch: NaN after 132)."""
    param = Parameter(torch.ones(64))
    param.grad = torch.linspace(0.1, 3.0, 64)
    optimizer = optizoo.RMSprop([param], alpha=0.9, centered=True)
    for _ in range(5000):
        optimizer.step()
        assert bool(param.isfinite().all())


# Groups --------------------------------------------------------------------------------------------------------------

BASE = torch.zeros(4, 6)
OVERLAPS = {
    "the same view twice": (BASE[0], BASE[0]),
    "rows and a column": (BASE[1:3], BASE[:, 2]),
    "a transpose": (BASE, BASE.t()),
    "another type": (BASE[0], BASE[0, :2].view(torch.int32)),
}
DISJOINT = {
    "rows": (BASE[0], BASE[1]),
    "columns": (BASE[:, 0], BASE[:, 1]),
    "even and odd columns": (BASE[:, ::2], BASE[:, 1::2]),
    "nothing": (BASE[0], BASE[:0]),
}


@pytest.mark.parametrize("views", OVERLAPS.values(), ids=list(OVERLAPS))
def test_overlapping_views_are_refused(views):
    """Two parameters with an element in common raise, in one group and in two (torch steps it twice)."""
    message = "share elements in memory, which would be updated twice"
    with pytest.raises(ValueError, match=message):
        optizoo.SGD(list(views))
    optimizer = optizoo.SGD([views[0]])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [views[1]]})
    assert len(optimizer.param_groups) == 1
    torch.optim.SGD(list(views))


@pytest.mark.parametrize("views", DISJOINT.values(), ids=list(DISJOINT))
def test_disjoint_views_are_welcome(views):
    """Views of one tensor that have no element in common are parameters like any others."""
    assert len(optizoo.SGD(list(views)).param_groups[0]["params"]) == 2


def test_a_tensor_lr_is_never_shared():
    """Each group has a tensor of its own, so that schedules do not overwrite each other (torch shares it)."""
    lr = torch.tensor(0.1)
    first, second = parameters()
    groups = [{"params": [first]}, {"params": [second]}]
    ours, theirs = optizoo.Adam(copy.copy(groups), lr=lr), torch.optim.Adam(copy.copy(groups), lr=lr)
    assert theirs.param_groups[0]["lr"] is theirs.param_groups[1]["lr"]
    assert ours.param_groups[0]["lr"] is lr
    assert ours.param_groups[1]["lr"] is not lr
    ours.param_groups[0]["lr"].fill_(0.5)
    assert ours.param_groups[1]["lr"] == pytest.approx(0.1)
    loaded = optizoo.Adam(copy.copy(groups), lr=0.3)
    loaded.load_state_dict(theirs.state_dict())
    assert loaded.param_groups[0]["lr"] is not loaded.param_groups[1]["lr"]


@pytest.mark.parametrize(
    ("dtype", "eps", "warns"),
    [
        (torch.float16, 1e-8, True),
        (torch.float16, 1e-7, False),
        (torch.bfloat16, 1e-8, False),
        (torch.float32, 0, False),
    ],
    ids=str,
)
def test_an_eps_that_is_zero_in_the_type(dtype, eps, warns):
    """An eps that the parameter's type cannot hold warns (torch divides by zero and says nothing)."""
    params = parameters(dtype)
    if warns:
        with pytest.warns(UserWarning, match=re.escape(f"eps = {eps:g} is 0 in {dtype}")):
            optizoo.Adam(params, eps=eps)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optizoo.Adam(params, eps=eps)


def test_weights_that_do_not_move_are_counted():
    """``explain(stalled=True)`` counts 16-bit elements whose update is rounded away, and changes nothing."""
    weight = Parameter(torch.tensor([1.0, 1.0, 1e-3, 1.0], dtype=torch.bfloat16))
    weight.grad = torch.tensor([1e-3, 1.0, 1e-3, 0.0], dtype=torch.bfloat16)
    optimizer = optizoo.SGD([weight], lr=0.1)
    before = weight.detach().clone()
    lines = optizoo.explain(optimizer, stalled=True).splitlines()
    assert lines[1].startswith("SGD, param group 0: 1 of 3 elements in 16 bits that have a gradient do not move")
    assert torch.equal(weight, before)
    assert len(optizoo.explain(optimizer).splitlines()) == 1
    wide = Parameter(torch.ones(2))
    wide.grad = torch.ones(2)
    assert len(optizoo.explain(optizoo.SGD([wide]), stalled=True).splitlines()) == 1


def test_a_flat_buffer_of_many_views_costs_no_mask():
    """Views that lie one behind the other, as of a flat buffer, are told apart by their ends alone."""
    flat = torch.zeros(1000, 1000)
    optimizer = optizoo.SGD([{"params": [row]} for row in flat])
    assert len(optimizer.param_groups) == 1000


def test_explain_makes_no_step_that_others_see():
    """``explain(stalled=True)`` runs no hooks, takes sparse gradients, and stops at no bad one."""
    calls = []
    hook = register_optimizer_step_pre_hook(lambda *_: calls.append(1))
    try:
        weight = Parameter(torch.ones(4, 2, dtype=torch.bfloat16))
        weight.grad = torch.sparse_coo_tensor(
            torch.tensor([[1]]), torch.tensor([[math.nan, 1e-9]]).bfloat16(), (4, 2), check_invariants=True
        )
        lines = optizoo.explain(optizoo.SGD([weight], lr=0.1, nonfinite="raise"), stalled=True).splitlines()
    finally:
        hook.remove()
    assert lines[1].startswith("SGD, param group 0: 1 of 2 elements")
    assert not calls


# Gradients that are not finite ---------------------------------------------------------------------------------------

BAD_VALUES = [math.nan, math.inf, -math.inf]


@pytest.mark.thin
@pytest.mark.parametrize("mode", [{}, {"foreach": False}, {"foreach": True}], ids=["default", "loop", "foreach"])
@pytest.mark.parametrize("value", BAD_VALUES, ids=str)
@pytest.mark.parametrize(("name", "options"), FEW)
def test_a_step_is_skipped_without_a_trace(name, options, value, mode):
    """With ``nonfinite="skip"`` a bad gradient leaves parameters and states as they are, at first and later."""
    ours = optizoo.create(name, parameters(of=name), nonfinite="skip", **options, **mode)
    twin = optizoo.create(name, parameters(of=name), **options, **mode)

    def bad_step():
        feed(ours.param_groups[0]["params"], 99)
        ours.param_groups[0]["params"][1].grad[..., 2] = value
        ours.step()

    for step in range(4):
        bad_step()
        run(ours, range(step, step + 1))
        run(twin, range(step, step + 1))
        assert_same_state(ours, twin)
    assert ours.nonfinite_steps == 4


@pytest.mark.parametrize(("name", "options"), FEW)
def test_a_step_is_refused_without_a_trace(name, options):
    """With ``nonfinite="raise"`` the error names the parameter, and nothing was updated."""
    ours = optizoo.create(name, zip("ab", parameters(of=name), strict=True), nonfinite="raise", **options)
    twin = optizoo.create(name, zip("ab", parameters(of=name), strict=True), **options)
    feed(ours.param_groups[0]["params"], 99)
    ours.param_groups[0]["params"][1].grad[..., 2] = math.nan
    with pytest.raises(FloatingPointError, match=r"the gradient of parameter 'b' of group 0 is not finite"):
        ours.step()
    assert ours.nonfinite_steps == 1
    run(ours, range(3))
    run(twin, range(3))
    assert_same_state(ours, twin)


def test_propagate_is_the_default_and_is_torchs():
    """By default a NaN goes through, as in torch, and the option stands in no group."""
    ours, theirs = optizoo.Adam(parameters()), torch.optim.Adam(parameters())
    assert "nonfinite" not in ours.param_groups[0]
    for optimizer in (ours, theirs):
        feed(optimizer.param_groups[0]["params"], 0)
        optimizer.param_groups[0]["params"][0].grad[0, 0] = math.nan
        optimizer.step()
    first, second = ours.param_groups[0]["params"][0], theirs.param_groups[0]["params"][0]
    assert torch.equal(first.isnan(), second.isnan())
    assert first.isnan().sum() == 1


def test_groups_that_watch_and_groups_that_do_not():
    """A group without the option is not looked at; a bad gradient in one that has it stops the step of all."""
    first, second = parameters()
    optimizer = optizoo.SGD([{"params": [first]}, {"params": [second], "nonfinite": "skip"}], lr=0.1)
    feed([first, second], 0)
    first.grad[0, 0] = math.nan  # pyright: ignore[reportOptionalSubscript]
    optimizer.step()
    assert first.isnan().sum() == 1
    second.grad[0] = math.inf  # pyright: ignore[reportOptionalSubscript]
    first.grad = torch.ones_like(first)
    before = first.detach().clone()
    optimizer.step()
    assert torch.equal(first[1:], before[1:])
    assert optimizer.nonfinite_steps == 1


def test_a_group_can_propagate_and_another_raise():
    """Each group's bad gradients have the consequence that the group asks for, also where the option is set later."""
    first, second, third = (Parameter(torch.ones(2)) for _ in range(3))
    groups = [{"params": [first], "nonfinite": "propagate"}, {"params": [second]}, {"params": [third]}]
    optimizer = optizoo.SGD(groups, lr=0.1, nonfinite="skip")
    optimizer.param_groups[2]["nonfinite"] = "raise"
    bad, good = torch.tensor([math.nan, 1.0]), torch.ones(2)
    first.grad, second.grad, third.grad = bad, good, good
    optimizer.step()
    assert first.isnan().sum() == 1
    second.grad = bad
    optimizer.step()
    assert optimizer.nonfinite_steps == 1
    third.grad = bad
    with pytest.raises(FloatingPointError, match="parameter 0 of group 2"):
        optimizer.step()


@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_a_scalers_overflow_is_the_scalers(nonfinite):
    """Where a GradScaler leaves the gradients to a fused step, it alone decides on an overflow."""
    weight = Parameter(torch.ones(2))
    optimizer = optizoo.Adam([weight], fused=True, nonfinite=nonfinite)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaler.scale((weight * 1e38).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(weight, torch.ones(2))
    assert optimizer.nonfinite_steps == 0
    assert scaler.get_scale() == 2.0**15


def test_the_option_travels_with_checkpoints():
    """Options of a checkpoint are its maths: ``nonfinite`` is saved where it is not neutral, and checked."""
    ours = optizoo.Adam(parameters(), nonfinite="skip")
    other = optizoo.Adam(parameters())
    other.load_state_dict(ours.state_dict())
    assert other.param_groups[0]["nonfinite"] == "skip"
    theirs = torch.optim.Adam(parameters())
    theirs.load_state_dict(ours.state_dict())
    run(theirs, range(1))
    with pytest.raises(ValueError, match="nonfinite"):
        optizoo.Adam(parameters(), nonfinite="ignore")


def test_sparse_gradients_are_looked_through():
    """The values of a sparse gradient are checked."""
    table = Parameter(torch.zeros(5, 2))
    optimizer = optizoo.SGD([table], lr=0.1, nonfinite="skip")
    table.grad = torch.sparse_coo_tensor(
        torch.tensor([[1]]), torch.tensor([[math.inf, 0.0]]), (5, 2), check_invariants=True
    )
    optimizer.step()
    assert torch.equal(table, torch.zeros(5, 2))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [*fused.TYPES], ids=str)
def test_one_bad_element_is_found_wherever_it_is(dtype, threads):
    """The kernel that looks for it sees every element, under any number of threads, and no finite one."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        largest = torch.finfo(dtype).max
        grads = [torch.full((size,), largest, dtype=dtype) for size in (3, 0, 40_001, 1)]
        assert finite.nonfinite(grads) == []
        for index, place in [(0, 0), (2, 0), (2, 20_000), (2, 40_000), (3, 0)]:
            for value in BAD_VALUES:
                grads[index][place] = value
                assert finite.nonfinite(grads) == [index]
            grads[index][place] = -largest
    finally:
        torch.set_num_threads(before)


def test_a_gradient_with_other_strides_is_read_as_it_is():
    """Only the elements of a strided view count, not those between."""
    base = torch.zeros(4, 4)
    base[:, 1] = math.nan
    assert finite.nonfinite([base[:, ::2], base.t(), base[:, 1]]) == [1, 2]
