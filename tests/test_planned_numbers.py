"""Planned steps of rules that have running numbers, or ask for shape and type: all that users exchange is seen."""

import copy
import math
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optizoo
from optizoo import RuleOptimizer
from optizoo.backends import build, formulas, plan, reader
from optizoo.core import planner


def weighted(param, grad, exp_avg, weight_sum=0.0, lr_max=0.0, *, lr, momentum, step):
    """An average with the weights of Schedule-Free, whose sum and whose largest rate run beside the step."""
    lr_max = max(lr_max, lr)
    weight = step * lr_max**2
    weight_sum = weight_sum + weight
    exp_avg = exp_avg.lerp(grad, weight / weight_sum if weight_sum else 0.0)
    return param.add(exp_avg, alpha=-lr * momentum), exp_avg, weight_sum, lr_max


def rooted(param, grad, factor=1.0, *, lr, decay):
    """A number whose formula has no word in C."""
    factor = (factor * decay) % 3.0
    return param.add(grad, alpha=-lr * factor), factor


def shaped(param, grad, momentum_buffer, *, lr, momentum, shape, machine_eps, step):
    """A rate that hangs on the shape, and a norm kept above what the type can tell."""
    momentum_buffer = momentum_buffer * momentum + grad
    rate = lr * max(1, shape[0] / shape[1]) ** 0.5 / step
    return param.add(momentum_buffer / (momentum_buffer.norm() + machine_eps), alpha=-rate), momentum_buffer


def factored(param, grad, row_var=None, *, lr, momentum, shape):
    """A state with a number for each row, which lists make anew and copy."""
    means = (grad * grad).mean(dim=-1, keepdim=True) * (1 / shape[0])
    row_var = means if row_var is None else row_var.lerp(means, 1 - momentum)
    return param.add(grad * row_var.sqrt(), alpha=-lr), row_var


Weighted = optizoo.from_rule(weighted, name="Weighted", lr=0.1, momentum=0.9)
KINDS: dict[str, Callable[..., RuleOptimizer]] = {
    "nadam": lambda params, **options: optizoo.NAdam(params, weight_decay=0.1, **options),
    "nadam, cautious": lambda params, **options: optizoo.NAdam(
        params, weight_decay=0.1, weight_decay_mode="cautious", **options
    ),
    "asgd": lambda params, **options: optizoo.ASGD(params, t0=1, **options),
    "schedule-free": lambda params, **options: optizoo.ScheduleFreeAdamW(params, warmup_steps=2, **options),
    "adafactor": optizoo.Adafactor,
    "muon": optizoo.Muon,
    "weights": Weighted,
    "single weights": type(
        "Single", (cast(type[RuleOptimizer], Weighted),), {"_number_dtype": lambda self: torch.float32}
    ),
    "number without a word": optizoo.from_rule(rooted, name="Rooted", lr=0.1, decay=1.9),
    "shape and type": optizoo.from_rule(shaped, name="Shaped", lr=0.1, momentum=0.9),
    "rows": optizoo.from_rule(factored, name="Factored", lr=0.1, momentum=0.9),
}
KEPT: list[Tensor] = []
"""Memory that a planted mistake may write to."""

NUMBERS = ("mu_product", "eta", "mu", "weight_sum", "lr_max", "factor")


def feed(params: list[Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(100 + seed)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator, dtype=param.dtype)


def made(kind: str, *, planned: bool = True, **options: Any) -> tuple[RuleOptimizer, list[Parameter]]:
    """Return an optimizer of two groups after eight steps, of which the last may be planned, and its parameters."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (4, 2), (3, 4), (4, 2), (3, 4))
    params = [Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = KINDS[kind]([{"params": params[:3]}, {"params": params[3:], "lr": 0.05}], lr=0.01, **options)
    for step in range(8):
        feed(params, step)
        if not planned:
            optimizer.forget()
        optimizer.step()
    assert not planned or optimizer._planner.plan is not None
    return optimizer, params


def held(optimizer: RuleOptimizer, params: list[Parameter]) -> list[Any]:
    """Return all numbers of an optimizer and its parameters, as they are now."""
    stores = [optimizer.state.get(param, {}) for param in params]
    values = [store[name] for store in stores for name in sorted(store)]
    return [value.detach().clone() if isinstance(value, Tensor) else value for value in (*params, *values)]


def running(optimizer: RuleOptimizer) -> Iterator[tuple[dict[str, Any], str]]:
    """Return every store with the name of every running number in it."""
    for store in optimizer.state.values():
        yield from ((store, name) for name in NUMBERS if isinstance(store.get(name), Tensor))


# Every exchange takes the optimizer, its parameters and the number of the turn, from 1 on.


def written(optimizer, params, turn):
    for store, name in running(optimizer):
        store[name].fill_(0.25 + 0.03 * turn)


def one_written(optimizer, params, turn):
    for store, name in [*running(optimizer)][-1:]:
        store[name].fill_(0.25 + 0.03 * turn)


def written_in_the_middle(optimizer, params, turn):
    for store, name in [*running(optimizer)][1:2]:
        store[name].mul_(1 + 2**-20)


def moved(optimizer, params, turn):
    for store, name in running(optimizer):
        KEPT.append(store[name].detach())
        store[name].data = store[name].data.clone()


def moved_to_another_value(optimizer, params, turn):
    for store, name in running(optimizer):
        store[name].data = torch.full_like(store[name], 0.125 * turn)


def set_to_others(optimizer, params, turn):
    for store, name in [*running(optimizer)][:1]:
        store[name].set_(torch.full_like(store[name], 0.2))


def memory_of_another(optimizer, params, turn):
    for name in NUMBERS:
        own = [store for store, each in running(optimizer) if each == name]
        for store in own[1:]:
            store[name].data = own[0][name].data


def counters_with_one_memory(optimizer, params, turn):
    stores = [store for store in optimizer.state.values() if "step" in store]
    for store in stores[1:]:
        store["step"].data = stores[0]["step"].data


def replaced(optimizer, params, turn):
    for store, name in running(optimizer):
        store[name] = store[name].clone()


def replaced_by_another_value(optimizer, params, turn):
    for store, name in running(optimizer):
        store[name] = torch.full_like(store[name], 0.3 / turn)


def shared(optimizer, params, turn):
    for name in NUMBERS:
        own = [store for store, each in running(optimizer) if each == name]
        for store in own[1:]:
            store[name] = own[0][name]


def exchanged(optimizer, params, turn):
    for name in NUMBERS:
        own = [store for store, each in running(optimizer) if each == name]
        for first, second in zip(own, own[::-1], strict=True):
            first[name], second[name] = second[name], first[name]


def of_another_type(optimizer, params, turn):
    for store, name in running(optimizer):
        other = torch.float32 if store[name].dtype is torch.float64 else torch.float64
        store[name] = store[name].to(other)


def type_of_its_data(optimizer, params, turn):
    for store, name in [*running(optimizer)][:1]:
        store[name].data = store[name].data.to(torch.float16)


def plain_numbers(optimizer, params, turn):
    for store, name in running(optimizer):
        store[name] = 0.5 / turn


def gone(optimizer, params, turn):
    for store, name in [*running(optimizer)]:
        del store[name]


def one_gone(optimizer, params, turn):
    for store, name in [*running(optimizer)][1:2]:
        del store[name]


def of_one_element(optimizer, params, turn):
    for store, name in running(optimizer):
        store[name] = store[name].reshape(1)


def wanted_by_autograd(optimizer, params, turn):
    for store, name in [*running(optimizer)][:1]:
        store[name].requires_grad_()


def zero(optimizer, params, turn):
    for store, name in running(optimizer):
        store[name].fill_(0.0 if turn % 2 else -0.0)


def not_finite(optimizer, params, turn):
    for store, name in [*running(optimizer)][:2]:
        store[name].fill_((math.nan, math.inf, -math.inf)[turn % 3])


def too_large(optimizer, params, turn):
    for store, name in running(optimizer):
        store[name].fill_(3.4028234e38)


def default_type(optimizer, params, turn):
    torch.set_default_dtype(torch.float64 if turn % 2 else torch.float32)


def counters_written(optimizer, params, turn):
    for store in optimizer.state.values():
        store.get("step", torch.zeros(())).fill_(50 * turn)


def counters_of_another_type(optimizer, params, turn):
    for store in optimizer.state.values():
        if "step" in store:
            store["step"] = store["step"].double() if turn % 2 else store["step"].float()


def stores_copied(optimizer, params, turn):
    for param in params:
        optimizer.state[param] = copy.deepcopy(optimizer.state[param])


def loaded_back(optimizer, params, turn):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def rates(optimizer, params, turn):
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * (1.5 if turn < 4 else 0.5)


def rate_of_zero(optimizer, params, turn):
    optimizer.param_groups[turn % 2]["lr"] = 0.0


def rate_in_a_tensor(optimizer, params, turn):
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1 * turn)


def rate_that_is_whole(optimizer, params, turn):
    optimizer.param_groups[0]["lr"] = turn


def enormous_rate(optimizer, params, turn):
    optimizer.param_groups[0]["lr"] = 1e18 * 10**turn


def momenta(optimizer, params, turn):
    for index, group in enumerate(optimizer.param_groups):
        if "betas" in group:
            group.update(betas=(0.8 + 0.01 * turn + 0.01 * index, 0.99))
        elif "momentum" in group or "decay" in group:
            group["momentum" if "momentum" in group else "decay"] = 0.4 + 0.05 * turn
        if "momentum_decay" in group:
            group["momentum_decay"] = 0.01 * turn


def whole_momenta(optimizer, params, turn):
    for group in optimizer.param_groups:
        group.update({"betas": (0, 0.5)} if "betas" in group else {"momentum": 0} if "momentum" in group else {})


def grads_gone(optimizer, params, turn):
    params[turn % 5].grad = None


def params_of_another_shape(optimizer, params, turn):
    for param in params[:2]:
        param.grad = None
        param.data = param.data.t().contiguous()
        for name, value in optimizer.state[param].items():
            if value.dim():
                turned = torch.zeros(len(param), 1) if name == "row_var" else value.t().contiguous()
                optimizer.state[param][name] = turned
    feed(params, turn)


def params_of_another_type(optimizer, params, turn):
    for param in params:
        param.grad = None
        param.data = param.data.double()
        for name, value in optimizer.state[param].items():
            if value.dim():
                optimizer.state[param][name] = value.double()
    feed(params, turn)


def other_execution(optimizer, params, turn):
    optimizer.param_groups[0]["foreach"] = (False, True, None)[turn % 3]


EXCHANGES = [
    written, one_written, written_in_the_middle, moved, moved_to_another_value, set_to_others, memory_of_another,
    counters_with_one_memory, replaced, replaced_by_another_value, shared, exchanged, of_another_type,
    type_of_its_data, plain_numbers, gone, one_gone, of_one_element, wanted_by_autograd, zero, not_finite, too_large,
    default_type, counters_written, counters_of_another_type, stores_copied, loaded_back, rates, rate_of_zero,
    rate_in_a_tensor, rate_that_is_whole, enormous_rate, momenta, whole_momenta, grads_gone, params_of_another_shape,
    params_of_another_type, other_execution,
]  # fmt: skip


@pytest.fixture(autouse=True)
def _same_default_type() -> Iterator[None]:
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def differs(kind: str, exchange: Callable[..., None], **options: Any) -> str | None:
    """Return what differs between steps that are planned and steps that begin afresh, or ``None``."""
    for times in (1, 6):
        ends = []
        for forgetful in (False, True):
            torch.set_default_dtype(torch.float32)
            optimizer, params = made(kind, planned=not forgetful, **options)
            outcomes: list[Any] = []
            for turn in range(1, 7):
                feed(params, 10 + turn)
                try:
                    if turn <= times:
                        exchange(optimizer, params, turn)
                    if forgetful:
                        optimizer.forget()
                    optimizer.step()
                except Exception as error:
                    outcomes.append((type(error), str(error)))
                outcomes += held(optimizer, params)
            ends.append(outcomes)
        if len(ends[0]) != len(ends[1]):
            return "the number of outcomes"
        for actual, expected in zip(*ends, strict=True):
            if not isinstance(expected, Tensor) or not isinstance(actual, Tensor):
                if actual != expected:
                    return f"{actual}, not {expected}"
            elif actual.dtype is not expected.dtype or not torch.equal(actual.nan_to_num(7), expected.nan_to_num(7)):
                return f"{actual}, not {expected}"
    return None


@pytest.mark.thin(times=4)
@pytest.mark.parametrize("foreach", [None, True], ids=["fused", "foreach"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.__name__)
def test_a_planned_step_sees_every_exchange(exchange, kind, foreach):
    """Whatever a user exchanges, once or before every step, planned steps have the bits of steps that begin afresh."""
    assert differs(kind, exchange, foreach=foreach) is None


MOVING: dict[str, Callable[..., Any]] = {
    "nothing": lambda optimizer, params, turn: None,
    "falling rates": lambda optimizer, params, turn: [group.update(lr=1e-3 / turn) for group in optimizer.param_groups],
    "momenta": momenta,
}


@pytest.mark.parametrize("foreach", [None, True], ids=["fused", "foreach"])
@pytest.mark.parametrize("moving", MOVING)
@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_survives_what_moves_at_every_step(kind, moving, foreach):
    """Running numbers, a shape in the rule and schedules of any option stay on the planned path."""
    optimizer, params = made(kind, foreach=foreach)
    for turn in range(1, 5):  # the largest rate may be another option from here on: one plan more
        feed(params, turn)
        MOVING[moving](optimizer, params, turn)
        optimizer.step()
    before = optimizer._planner.plan
    assert before is not None
    for turn in range(5, 10):
        feed(params, 10 + turn)
        MOVING[moving](optimizer, params, turn)
        optimizer.step()
        assert optimizer._planner.plan is before


def test_c_evaluates_running_numbers():
    """The numbers of NAdam, ASGD and Schedule-Free are evaluated in C, not in Python."""
    for kind in ("nadam", "nadam, cautious", "asgd", "schedule-free", "weights"):
        optimizer, _ = made(kind)
        assert isinstance(optimizer._planner.plan, planner.Plan)
        assert not optimizer._planner.plan._by_python


def test_groups_with_numbers_of_their_own_share_a_launch():
    """Groups and parameters that have stepped another number of times are rows of one launch, each with its numbers."""
    ends = []
    for forgetful in (False, True):
        params = [Parameter(torch.ones(5)) for _ in range(6)]
        groups = [{"params": [param], "momentum_decay": 0.01 * n} for n, param in enumerate(params, start=1)]
        optimizer = optizoo.NAdam(groups)
        for step in range(7):
            for number, param in enumerate(params):
                param.grad = None if step < 2 and number % 2 else torch.ones(5)
            if forgetful:
                optimizer.forget()
            optimizer.step()
        ends.append(held(optimizer, params))
        if not forgetful:
            assert isinstance(optimizer._planner.plan, planner.Plan)
            assert len(optimizer._planner.plan._launches) == 1
    assert all(torch.equal(actual, expected) for actual, expected in zip(*ends, strict=True))


def test_what_the_type_of_a_number_cannot_hold_is_refused_with_nothing_touched():
    """A planned step whose number would overflow changes nothing; the long way then says what torch says."""
    optimizer, params = made("single weights")
    feed(params, 4)
    optimizer.step()
    optimizer.param_groups[1]["lr"] = 1e20
    feed(params, 5)
    assert optimizer._planner.plan is not None
    before = held(optimizer, params)
    assert not optimizer._planner.run(optimizer)
    assert all(torch.equal(actual, expected) for actual, expected in zip(held(optimizer, params), before, strict=True))
    with pytest.raises(RuntimeError, match="overflow"):
        optimizer.step()


def test_a_step_over_lists_that_fails_takes_its_numbers_back(monkeypatch):
    """Where torch refuses in the middle of a planned step, the numbers of what was not updated are as before."""
    optimizer, params = made("weights", foreach=True)
    planned: Any = optimizer._planner.plan
    before = [optimizer.state[param]["weight_sum"].item() for param in params]
    monkeypatch.setattr(planned._launches[1][0], "run", lambda grads: 1 / 0)
    feed(params, 4)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    steps = [optimizer.state[param]["step"].item() for param in params]
    sums = [optimizer.state[param]["weight_sum"].item() for param in params]
    assert steps == [9, 9, 9, 8, 8]
    assert [now == then for now, then in zip(sums, before, strict=True)] == [False] * 3 + [True] * 2


MISTAKES = {
    "value not compared": ("memcmp(&value, &cell->number->known, sizeof value) != 0", "0"),
    "memory not compared": (" || data != cell->data", ""),
    "autograd not asked": ("return flag == watch->off;", "return 1;"),
    "one step late": ("        numbers[i] = row->number[i].known;", "        numbers[i] = row->number[i].before;"),
    "overflow not seen": ("fabs(number->coming) <= (number->wide ? DBL_MAX : FLT_MAX)", "1"),
    "the numbers of the first row": ("numbers[i] = row->number[i].known;", "numbers[i] = row->number[0].known;"),
}
SEEN_BY: dict[str, Callable[..., Any]] = {
    "value not compared": one_written,
    "memory not compared": moved,
    "autograd not asked": wanted_by_autograd,
    "overflow not seen": enormous_rate,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_seen(mistake, monkeypatch):
    """Each deliberate mistake in what C does with numbers makes a planned step differ from one that begins afresh."""
    text = files("optizoo.backends").joinpath("step.c").read_text(encoding="utf-8")
    true, mistaken = MISTAKES[mistake]
    assert text.count(true) == 1
    library = build.library(text.replace(true, mistaken), build.Proof(f"{mistake}", lambda *_: None), holds_gil=True)
    found = reader._through_torch(library) or reader.Reader(library, reader._exchange(), 0, 0)
    monkeypatch.setattr(plan, "reader", lambda: found)
    exchange = SEEN_BY.get(mistake, MOVING["nothing"])
    assert any(differs(kind, exchange) is not None for kind in ("nadam", "single weights", "weights"))


@pytest.mark.parametrize(
    ("true", "mistaken"),
    [("*top = (float)*top", "*top = *top"), (".coming = *top--;", ".coming = -*top--;")],
    ids=["not rounded", "kept with another sign"],
)
def test_words_that_are_mistaken_fail_their_proof(true, mistaken):
    """A C text that rounds or keeps numbers otherwise than Python does not serve."""
    text = files("optizoo.backends").joinpath("step.c").read_text(encoding="utf-8")
    assert text.count(true) == 1
    library = build.library(text.replace(true, mistaken), build.Proof(mistaken, lambda *_: None), holds_gil=True)
    assert formulas.objection(library) is not None
