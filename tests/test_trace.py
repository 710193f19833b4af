"""Programs: what a trace records, and how the foreach backend replays it."""

import math
from typing import Any

import pytest
import torch

from optizoo import rules
from optizoo.backends import foreach, loop
from optizoo.backends.trace import Program, TraceError, trace
from optizoo.core.rule import WORDS

ADAM: dict[str, Any] = {
    "lr": 0.001,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "amsgrad": False,
    "bias_correction": True,
    "step": 1.0,
}
ADAM_STATES = {"exp_avg": True, "exp_avg_sq": True, "max_exp_avg_sq": False}
RMSPROP: dict[str, Any] = {
    "lr": 0.01,
    "alpha": 0.99,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "momentum": 0.0,
    "centered": False,
    "eps_inside_sqrt": False,
}
RMSPROP_STATES = {"square_avg": True, "momentum_buffer": False, "grad_avg": False}
SGD: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.0}
MOMENTUM: dict[str, Any] = {**SGD, "momentum": 0.9, "dampening": 0.0, "nesterov": False}


def test_program_reads_like_the_rule():
    """A printed program is the rule, one operation a line, its numbers replaced by places."""
    program, scalars = trace(rules.momentum, {"momentum_buffer": True}, **{**MOMENTUM, "nesterov": True})
    assert str(program) == (
        "%3 = mul_scalar(momentum_buffer, other=$0)\n"
        "%4 = add(%3, grad, alpha=$1)\n"
        "%5 = add(grad, %4, alpha=$2)\n"
        "%6 = add(param, %5, alpha=$3)\n"
        "param <- %6\n"
        "momentum_buffer <- %4"
    )
    assert scalars == (0.9, 1.0, 0.9, -0.1)


def test_numbers_are_not_part_of_a_program():
    """Another learning rate or step gives the same program with other scalars."""
    program, scalars = trace(rules.adam, ADAM_STATES, **ADAM)
    later, later_scalars = trace(rules.adam, ADAM_STATES, **{**ADAM, "lr": 0.5, "step": 7.0})
    assert program == later
    assert hash(program) == hash(later)
    assert scalars != later_scalars


def test_another_wiring_is_another_program():
    """An option that changes what is computed changes the program."""
    plain, _ = trace(rules.adam, ADAM_STATES, **ADAM)
    decayed, _ = trace(rules.adam, ADAM_STATES, **{**ADAM, "weight_decay": 0.1})
    ascending, _ = trace(rules.adam, ADAM_STATES, maximize=True, **ADAM)
    assert len({plain, decayed, ascending}) == 3


@pytest.mark.parametrize(
    ("rule", "states", "options", "in_place", "allocated"),
    [
        pytest.param(rules.sgd, {}, SGD, 1, 0, id="sgd"),
        pytest.param(rules.momentum, {"momentum_buffer": True}, MOMENTUM, 3, 0, id="momentum"),
        pytest.param(rules.rmsprop, RMSPROP_STATES, RMSPROP, 4, 1, id="rmsprop"),
        pytest.param(rules.adam, ADAM_STATES, ADAM, 6, 1, id="adam"),
        pytest.param(rules.adamw, ADAM_STATES, {**ADAM, "weight_decay": 0.1}, 7, 1, id="adamw"),
    ],
)
def test_foreach_passes(rule, states, options, in_place, allocated):
    """The foreach backend makes as few passes and allocations as torch's hand-written lists, and no copies."""
    program, _ = trace(rule, states, **options)
    overwrites, settled = foreach.settle(program)
    assert (sum(overwrites), len(overwrites) - sum(overwrites)) == (in_place, allocated)
    assert settled


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        pytest.param(lambda param, grad, *, lr: (param.exp(),), "'exp' is not a word of the rules", id="unknown-word"),
        pytest.param(lambda param, grad, *, lr: (param**2,), r"'\*\*' of a tensor is not a word", id="power"),
        pytest.param(lambda param, grad, *, lr: (param if grad else grad,), "may not branch on a tensor", id="branch"),
        pytest.param(lambda param, grad, *, lr: (lr,), "must be computed from tensors", id="returns-number"),
        pytest.param(lambda param, grad, *, lr: (param.lerp(1.0, lr),), "'lerp' takes tensors", id="number-for-tensor"),
    ],
)
def test_a_rule_outside_the_vocabulary_is_named(rule, message):
    """What a trace cannot follow raises TraceError, which says what it was."""
    with pytest.raises(TraceError, match=message):
        trace(rule, {}, lr=0.1)


def counted(rule):
    """Return a rule that counts how often it runs, and the list that grows with every run."""
    runs = []

    def wrapper(param, grad, *, lr, step):
        runs.append(step)
        return rule(param, grad, lr=lr, step=step)

    return wrapper, runs


def traced(rule, steps: list[float]) -> list[tuple[str, tuple]]:
    return [
        (str(program).split("(")[0], scalars)
        for step in steps
        for program, scalars in [trace(rule, {}, lr=0.5, step=step)]
    ]


def test_a_rule_runs_once_for_a_wiring():
    """Later steps evaluate formulas; their values are those of the rule itself, bit for bit."""
    rule, runs = counted(lambda param, grad, *, lr, step: (param.add(grad, alpha=-lr / (1 - 0.9**step) % 7),))
    scalars = [scalars for _, scalars in traced(rule, [1.0, 2.0, 3.0])]
    assert len(runs) == 1
    assert scalars == [(-0.5 / (1 - 0.9**step) % 7,) for step in (1.0, 2.0, 3.0)]


@pytest.mark.parametrize(
    ("branch", "words", "runs"),
    [
        pytest.param(lambda lr, step: step > 2, ["mul", "mul", "add", "add"], 2, id="comparison"),
        pytest.param(lambda lr, step: step == 2, ["mul", "add", "mul", "mul"], 2, id="equality"),
        pytest.param(lambda lr, step: step - 1, ["mul", "add", "add", "add"], 2, id="truth"),
        pytest.param(lambda lr, step: lr < step, ["add", "add", "add", "add"], 1, id="two-options"),
        pytest.param(lambda lr, step: max(lr, step) > 2, ["mul", "mul", "add", "add"], 2, id="max"),
        pytest.param(lambda lr, step: math.sqrt(step) > 1.5, ["mul", "mul", "add", "add"], 4, id="out-of-sight"),
        pytest.param(lambda lr, step: int(step) % 2, ["add", "mul", "add", "mul"], 4, id="integer"),
        pytest.param(lambda lr, step: step < math.inf, ["add", "add", "add", "add"], 1, id="infinity"),
    ],
)
def test_a_branch_on_a_number_is_followed_at_every_step(branch, words, runs):
    """Where the rule branches on an option or the step, each step gets the program of its own branch."""

    def branching(param, grad, *, lr, step):
        return (param.add(grad, alpha=-lr) if branch(lr, step) else param * lr,)

    rule, seen = counted(branching)
    programs = [text.split(" = ")[1] for text, _ in traced(rule, [1.0, 2.0, 3.0, 4.0])]
    assert [program.removesuffix("_scalar") for program in programs] == words
    assert len(seen) == runs


def kinds(param, grad, *, lr, clip):
    """Branch on what kind of thing an option is, not on a number."""
    if clip is None:
        return (param.add(grad, alpha=-lr),)
    if isinstance(clip, tuple):
        return (param.maximum(grad),)
    return (param.add(grad.sign(), alpha=-lr),)


def test_options_of_another_kind_are_another_wiring():
    """``None``, a number, a tuple and a flag in the place of an option never share a wiring."""
    words = []
    for clip in (1.0, None, (1.0, 2.0), 1.0, None, (1.0, 2.0)):
        program, _ = trace(kinds, {}, lr=0.1, clip=clip)
        words.append([operation.word for operation in program.operations])
    assert words == [["sign", "add"], ["add"], ["maximum"]] * 2


def test_literals_keep_their_sign():
    """A negative number at the base of a power is the base, sign and all."""
    results = [trace(alternating, {}, lr=0.1, step=step)[1] for step in (1.0, 2.0, 3.0)]
    assert results == [(-0.1,), (0.1,), (-0.1,)]


def alternating(param, grad, *, lr, step):
    return (param.add(grad, alpha=lr * (-1) ** step),)


def test_options_may_be_called_as_they_like():
    """An option that bears the name of a builtin does not get into the way of the formulas."""

    def rule(param, grad, *, float, bool, abs, len):  # noqa: A002
        return (param.add(grad, alpha=-float * abs) if bool else param * len[0],)

    for _ in range(2):
        assert trace(rule, {}, float=0.5, bool=1.0, abs=2.0, len=(3.0,))[1] == (-1.0,)
        assert trace(rule, {}, float=0.5, bool=0.0, abs=2.0, len=(3.0,))[1] == (3.0,)


def test_what_cannot_be_traced_says_what_to_do():
    """Arithmetic that numbers under trace do not know raises TraceError and names the way out."""

    def rule(param, grad, *, lr):
        return (param.add(grad, alpha=lr.as_integer_ratio()[0]),)

    with pytest.raises(TraceError, match=r"'rule' cannot be traced: .*; foreach=False runs it as it is"):
        trace(rule, {}, lr=0.1)


@pytest.mark.parametrize("update", [loop.update, foreach.update], ids=["loop", "foreach"])
@pytest.mark.parametrize("results", [1, 3])
def test_a_rule_that_returns_too_little_or_too_much(update, results):
    """A wrong number of results raises before anything is written."""

    def rule(param, grad, a, *, lr):
        return (param.add(grad, alpha=-lr), a, a)[:results]

    param, a = torch.ones(2), torch.ones(2)
    with pytest.raises(TypeError, match=rf"must return the tuple \(param, a\); got {results} results"):
        update(rule, [param], [torch.ones(2)], {"a": [a]}, lr=0.1)
    assert torch.equal(param, torch.ones(2))
    with pytest.raises(TypeError, match="must return the tuple"):
        update(lambda param, grad, *, lr: param, [param], [torch.ones(2)], {}, lr=0.1)


def test_a_tensor_option_stays_a_tensor():
    """Formulas of a tensor lr are evaluated on the tensor that there is now, in its own type."""
    rule, runs = counted(lambda param, grad, *, lr, step: (param.add(grad, alpha=-lr / step),))
    for value in (0.1, 0.3):
        _, (scalar,) = trace(rule, {}, lr=torch.tensor(value), step=3.0)
        assert torch.equal(scalar, -torch.tensor(value) / 3.0)
    assert len(runs) == 1


def every_word(param, grad, a, b, *, lr):
    """Use every word and operator once; ``a`` and ``b`` trade places, to tempt an in-place replay into a mistake."""
    x = (a - b) * (1 - a) / (2 / (b.abs() + 1.5)) - 0.5
    x = x.lerp(grad, 0.3).addcmul(a, b, value=0.7).addcdiv(grad, b.abs() + 1, value=lr)
    x = -x.maximum(b).clamp_min(-0.25).clamp_max(0.5) + grad.sign() * b.abs().sqrt() / 3
    y = a.where(b > 0, x).where(a >= 0.1, 0.3).where(x < 0.5, b).where(grad <= 1, -1.5) * (x * x + 0.1).rsqrt()
    return param.add((x + y) * a, alpha=-lr) + 0.125 * param, b, a


def columns(seed: int, dtype: torch.dtype) -> dict[str, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    names = ("param", "grad", "a", "b")
    return {name: [torch.randn(n, generator=generator).to(dtype) for n in (5, 1, 0)] for name in names}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_foreach_equals_loop_for_every_word(dtype):
    """A rule that uses the whole vocabulary gives the same bits in both backends."""
    program, _ = trace(every_word, {"a": True, "b": True}, lr=0.1)
    words = {
        name for name, word in WORDS.items() if word.triton and word.rank is None and name != "add_times"
    }  # those of elements
    assert {operation.word for operation in program.operations} == words
    ours, reference = columns(0, dtype), columns(0, dtype)
    for update, tensors in ((foreach.update, ours), (loop.update, reference)):
        states = {name: tensors[name] for name in ("a", "b")}
        assert update(every_word, tensors["param"], tensors["grad"], states, lr=0.1) == {}
    for name, column in reference.items():
        for actual, expected in zip(ours[name], column, strict=True):
            assert torch.equal(actual, expected), name


@pytest.mark.parametrize("update", [loop.update, foreach.update], ids=["loop", "foreach"])
def test_a_made_state_does_not_alias_the_gradient(update):
    """The first momentum buffer has the gradient's values and memory of its own; the gradient is not written."""
    param, grad = torch.ones(3), torch.full((3,), 0.5)
    made = update(rules.momentum, [param], [grad], {"momentum_buffer": None}, **MOMENTUM)
    (buffer,) = made["momentum_buffer"]
    assert torch.equal(buffer, grad)
    assert buffer.data_ptr() != grad.data_ptr()
    assert torch.equal(grad, torch.full((3,), 0.5))


@pytest.mark.parametrize("update", [loop.update, foreach.update], ids=["loop", "foreach"])
def test_two_states_made_of_one_value_are_two_tensors(update):
    """A rule that returns one value as two new states gives two tensors."""

    def rule(param, grad, a=None, b=None, *, lr):
        total = grad * 2
        return param.add(total, alpha=-lr), total, total

    states: loop.Columns = {"a": None, "b": None}
    made = update(rule, [torch.ones(3)], [torch.ones(3)], states, lr=0.1)
    assert made["a"][0].data_ptr() != made["b"][0].data_ptr()


def test_program_is_plain_data():
    """Programs with the same contents are equal, wherever they come from."""
    program, _ = trace(rules.sgd, {}, **SGD)
    assert program == Program(program.inputs, program.operations, program.outputs)


# Rule -> why it has no kernel.
UNKERNELED = {
    "the norm of a norm": (
        lambda param, grad: (param - grad.norm().norm() * grad,),
        "a reduction of what is one number",
    ),
    "the sum of a sum": (lambda param, grad: (param - (grad.sum() * 2).sum() * grad,), "a reduction of what is one"),
    "a parameter of one number": (lambda param, grad: (param.norm(),), "a parameter that becomes one number"),
    "the norms of rows": (lambda param, grad: (param - grad.norm(dim=-1, keepdim=True),), "'norm' of rows"),
}


@pytest.mark.parametrize(("rule", "reason"), UNKERNELED.values(), ids=list(UNKERNELED))
def test_what_no_kernel_computes_is_known_before(rule, reason):
    """A program that lists can run and kernels cannot says why."""
    assert reason in (trace(rule, {})[0].unkerneled or "")
