"""A rule of one's own becomes an optimizer that has all that the zoo has."""

import copy
import inspect
import math
import pickle
import re
from typing import Any

import numpy
import pytest
import torch
from torch.nn import Parameter

import optizoo
from optizoo.backends.trace import TraceError
from optizoo.testing import assert_equivalent
from tests.zoo import assert_same_state, parameters, run


def lion(param, grad, exp_avg, *, lr, betas, weight_decay):
    """Lion, in the words of its user."""
    beta1, beta2 = betas
    direction = exp_avg.lerp(grad, 1 - beta1).sign()
    if weight_decay:
        param = param * (1 - lr * weight_decay)
    return param.add(direction, alpha=-lr), exp_avg.lerp(grad, 1 - beta2)


Lion = optizoo.from_rule(lion, name="Lion", lr=1e-4, betas=(0.9, 0.99), weight_decay=0)


def heavy_ball(param, grad, momentum_buffer=None, *, lr, momentum=0.9):
    """A state that the rule makes, and a default in the signature."""
    momentum_buffer = grad if momentum_buffer is None else momentum_buffer * momentum + grad
    return param.add(momentum_buffer, alpha=-lr), momentum_buffer


HeavyBall = optizoo.from_rule(heavy_ball, name="HeavyBall", lr=0.1)


def annealed(param, grad, *, lr, nesterov, step):
    """A rule that names the step, and a truth value."""
    return (param.add(grad, alpha=-lr / step if nesterov else -lr),)


Annealed = optizoo.from_rule(annealed, name="Annealed", lr=0.1, nesterov=True)

BACKENDS = [{"foreach": False}, {"foreach": True}, {}]


@pytest.mark.parametrize("backend", BACKENDS, ids=["loop", "foreach", "default"])
@pytest.mark.parametrize("decay", [0, 0.1])
def test_lion_is_lion(backend, decay):
    """Lion as a user writes it has the bits of the zoo's, in every backend."""
    ours = Lion(parameters(), lr=0.01, weight_decay=decay, **backend)
    theirs = optizoo.Lion(parameters(), lr=0.01, weight_decay=decay, **backend)
    run(ours, range(30))
    run(theirs, range(30))
    assert_same_state(ours, theirs)
    assert optizoo.explain(ours) == optizoo.explain(theirs)


@pytest.mark.parametrize("backend", BACKENDS, ids=["loop", "foreach", "default"])
def test_a_state_that_the_rule_makes(backend):
    """A state with the default None is made at the first update, as torch's momentum buffer is."""
    ours = HeavyBall(parameters(), **backend)
    theirs = optizoo.SGD(parameters(), lr=0.1, momentum=0.9, **backend)
    run(ours, range(5))
    run(theirs, range(5))
    torch.testing.assert_close(ours.param_groups[0]["params"], theirs.param_groups[0]["params"])
    assert set(ours.state[ours.param_groups[0]["params"][0]]) == {"momentum_buffer"}


def test_a_rule_that_names_the_step():
    """The step is counted, from 1, and kept in the state."""
    weight = Parameter(torch.zeros(1))
    optimizer = Annealed([weight], lr=1.0)
    for _ in range(3):
        weight.grad = torch.ones(1)
        optimizer.step()
    assert weight.item() == pytest.approx(-(1 + 1 / 2 + 1 / 3))
    assert optimizer.state[weight]["step"].item() == 3


def test_the_class_looks_like_one_of_the_zoo():
    """Signature, documentation and name are those of a class that was written by hand."""
    assert str(inspect.signature(Lion)) == (
        "(params, lr=0.0001, betas=(0.9, 0.99), weight_decay=0, *, "
        "maximize=False, foreach=None, differentiable=False, fused=None, capturable=False, nonfinite='propagate', "
        "across_processes=False, master=False, state_dtype=None)"
    )
    assert inspect.getdoc(Lion) == "Lion, in the words of its user."
    assert repr(Lion(parameters())).startswith("Lion (")
    assert vars(Lion)["__module__"] == __name__


def test_copies_and_checkpoints():
    """Instances are pickled and copied, and a checkpoint goes on to the bit."""
    whole, first = Lion(parameters(), lr=0.01), Lion(parameters(), lr=0.01)
    run(whole, range(10))
    run(first, range(5))
    for copied in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        run(copied, range(5, 10))
        assert_same_state(copied, whole)
    second = Lion(first.param_groups[0]["params"], lr=0.5)
    second.load_state_dict(first.state_dict())
    run(second, range(5, 10))
    assert_same_state(second, whole)


def test_a_schedule_sets_its_rate():
    """Schedules know it as any optimizer."""
    optimizer = Lion(parameters(), lr=0.5)
    scheduler = optizoo.ScheduleLR(optimizer, optizoo.schedules.Warmup(2))
    assert optimizer.param_groups[0]["lr"] == 0
    run(optimizer, range(1))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_the_kit_proves_or_rejects_it():
    """``assert_equivalent`` accepts a right rule and rejects a wrong one."""

    def right(param, grad, *, lr, weight_decay):
        return (param - lr * (grad + weight_decay * param),)

    def wrong(param, grad, *, lr, weight_decay):
        return (param - lr * grad - weight_decay * param,)

    options: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}
    assert_equivalent(optizoo.from_rule(right, "Right", **options), lambda params: torch.optim.SGD(params, **options))
    with pytest.raises(AssertionError, match="T2"):
        assert_equivalent(optizoo.from_rule(wrong, "Wrong", **options), lambda p: torch.optim.SGD(p, **options))


BAD_OPTIONS = [
    ({"learning_rate": 0.1}, TypeError, "Unknown option 'learning_rate' = 0.1 of Lion; did you mean 'lr'?"),
    ({"lr": -1}, ValueError, "Invalid lr value: -1"),
    ({"betas": (0.9,)}, TypeError, "betas must be a tuple of 2 numbers"),
    ({"betas": (0.9, math.nan)}, ValueError, "Invalid betas[1] value: nan"),
    ({"weight_decay": "much"}, TypeError, "Invalid weight_decay value: 'much'"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS, ids=lambda value: str(value)[:30])
def test_bad_options_are_refused(options, error, message):
    """Options are checked by the kind of their default, in the constructor and in groups."""
    with pytest.raises(error, match=re.escape(message)):
        Lion(parameters(), **options)
    if "learning_rate" not in options:
        with pytest.raises(error, match=re.escape(message)):
            Lion([{"params": parameters(), **options}])


def no_lr(param, grad, *, rate=1.0):
    return (param - rate * grad,)


def one_argument(param):
    return (param,)


def starred(param, grad, *states, lr):
    return (param, *states)


def takes_foreach(param, grad, *, lr, foreach):
    return (param,)


def two_results(param, grad, *, lr):
    return param, grad


BAD_RULES = [
    (3, "Three", {}, TypeError, "rule must be a function"),
    (lion, "not a name", {"lr": 1.0}, ValueError, "name = 'not a name' cannot name a class"),
    (lion, "Lion", {"lr": 1.0}, ValueError, "the hyper-parameters betas, weight_decay of rule 'lion' have no default"),
    (lion, "Lion", {"beta": 0.9}, ValueError, "no hyper-parameter 'beta' = 0.9; did you mean 'betas'?"),
    (no_lr, "NoLr", {}, ValueError, "does not name lr"),
    (one_argument, "One", {}, TypeError, "must have the form (param, grad, *state names, keyword-only options)"),
    (starred, "Starred", {"lr": 1.0}, TypeError, "must have the form"),
    (takes_foreach, "Foreach", {"lr": 1.0}, ValueError, "names 'foreach', which every optimizer has already"),
    (two_results, "Two", {"lr": 1.0}, TypeError, "must return the tuple (param,); got 2 results"),
]


@pytest.mark.parametrize(("rule", "name", "defaults", "error", "message"), BAD_RULES, ids=lambda value: str(value)[:20])
def test_bad_definitions_are_refused(rule, name, defaults, error, message):
    """A definition that cannot be an optimizer is refused at once, with the remedy."""
    with pytest.raises(error, match=re.escape(message)):
        optizoo.from_rule(rule, name, **defaults)


OUTSIDE = {
    "a method": (lambda param, grad, *, lr: (param - lr * grad.exp(),), "'exp' is not a word"),
    "a function of torch": (lambda param, grad, *, lr: (param - lr * torch.exp(grad),), "exp()"),
    "a function of math": (lambda param, grad, *, lr: (param - lr * math.sqrt(grad),), "math.sqrt(grad)"),
    "a power": (lambda param, grad, *, lr: (param - lr * grad**2,), "'**' of a tensor"),
    "another norm": (lambda param, grad, *, lr: (param - lr * grad / grad.norm(1),), "norm()"),
    "a comparison": (lambda param, grad, *, lr: (param - lr * (grad > 0),), "a comparison is for 'where' alone"),
    "a choice by values": (lambda param, grad, *, lr: (param.where(grad, 0),), "'where' takes a comparison"),
    "a branch": (lambda param, grad, *, lr: (param - lr * grad if grad else param,), "may not branch on a tensor"),
    "an element": (lambda param, grad, *, lr: (param - lr * grad[0],), "not subscriptable"),
    "a length": (lambda param, grad, *, lr: (param - lr * grad / len(grad),), "len()"),
    "in place": (lambda param, grad, *, lr: (param.add_(grad, alpha=-lr),), "'add' returns the result"),
    "a choice": (lambda param, grad, *, lr: (torch.where(grad, param, grad),), "where()"),
    "equality": (lambda param, grad, *, lr: (param - lr * (grad == 0),), "may not ask whether tensors are equal"),
    "inequality": (lambda param, grad, *, lr: (param - lr * (grad != 0),), "may not ask whether tensors are equal"),
    "membership": (
        lambda param, grad, *, lr: (param if grad in (0, 1) else grad,),
        "may not ask whether tensors are equal",
    ),
    "a tensor as weight": (lambda param, grad, *, lr: (param.lerp(grad, grad),), "'lerp' takes a number here"),
    "a tensor as alpha": (lambda param, grad, *, lr: (param.add(grad, alpha=grad),), "'add' takes a number here"),
    "a tensor as bound": (lambda param, grad, *, lr: (param.clamp_min(grad),), "'clamp_min' takes a number here"),
    "nothing as alpha": (lambda param, grad, *, lr: (param.add(grad, alpha=None),), "'add' takes a number here"),
    "nothing": (lambda param, grad, *, lr: (param * None,), "'mul' takes a number here; got None"),
    "a text": (lambda param, grad, *, lr: (param + "lr",), "'add' takes a number here; got 'lr'"),
    "a complex number": (lambda param, grad, *, lr: (param * 1j,), "'mul' takes a number here; got 1j"),
    "a foreign tensor": (lambda param, grad, *, lr: (param - torch.ones(3) * grad,), "'mul' takes a number here"),
}


@pytest.mark.parametrize(("rule", "message"), OUTSIDE.values(), ids=list(OUTSIDE))
def test_a_rule_that_leaves_the_vocabulary(rule, message):
    """The error comes at definition and names the operation, file, line and text."""
    with pytest.raises(TraceError, match=re.escape(message)) as caught:
        optizoo.from_rule(rule, "Outside", lr=0.1)
    line = rule.__code__.co_firstlineno
    assert f"(test_custom.py, line {line}: " in str(caught.value)
    assert "foreach=False" not in str(caught.value)


def outside_later(param, grad, m=None, *, lr):
    """Leaves the vocabulary where its state is there, below the line where it begins."""
    if m is None:
        return param.add(grad, alpha=-lr), grad
    m = m + grad
    direction = m.exp()
    return param.add(direction, alpha=-lr), m


def test_both_ways_of_an_optional_state_are_traced():
    """A rule is refused for what it does from the second update on, too; the line is that of the operation."""
    with pytest.raises(TraceError, match=r"'exp' is not a word .*: direction = m\.exp\(\)\)"):
        optizoo.from_rule(outside_later, "Outside", lr=0.1)


def test_no_new_parameter():
    """Where ``None`` stands for the new parameter, the definition is refused: nothing would ever move."""
    with pytest.raises(TraceError, match="returned None for 'param'; it must be computed from tensors"):
        optizoo.from_rule(lambda param, grad, m, *, lr: (None, m + lr * grad), "Still", lr=0.1)


@pytest.mark.parametrize(
    "number",
    [2, 2.0, torch.tensor(2.0), numpy.float32(2), numpy.int64(2)],
    ids=["int", "float", "0-dim tensor", "float32", "int64"],
)
@pytest.mark.parametrize("backend", BACKENDS, ids=["loop", "foreach", "default"])
def test_constants_of_a_rule(number, backend):
    """Numbers of the rule's own, tensors without dimensions among them, mean the same in every backend."""
    weight = Parameter(torch.ones(3))
    weight.grad = torch.tensor([1.0, 2.0, 3.0])
    twice = optizoo.from_rule(lambda param, grad, *, lr: (param - lr * grad * number,), "Twice", lr=0.5)
    twice([weight], **backend).step()
    assert weight.tolist() == [0.0, -1.0, -2.0]
