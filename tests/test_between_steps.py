"""What users exchange between two steps, and from where they step: a planned step sees it, or goes the long way."""

import copy
import ctypes
import math
import os
import signal
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optizoo
from optizoo import RuleOptimizer
from optizoo.core import planner

np = pytest.importorskip("numpy")

KINDS: dict[str, Callable[..., RuleOptimizer]] = {
    "sgd": optizoo.SGD,
    "momentum": lambda params, **options: optizoo.SGD(params, momentum=0.9, **options),
    "rmsprop": lambda params, **options: optizoo.RMSprop(params, momentum=0.9, centered=True, **options),
    "adamw": lambda params, **options: optizoo.AdamW(params, weight_decay=0.1, **options),
    "lion": lambda params, **options: optizoo.Lion(params, weight_decay=0.1, **options),
}


def feed(params: list[Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(100 + seed)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)


def made(
    kind: str, groups: int = 2, planned: bool = True, feed: Callable[..., None] = feed, **options: Any
) -> tuple[RuleOptimizer, list[Parameter]]:
    """Return an optimizer after four steps, of which the last two were repeated ones, and its parameters."""
    generator = torch.Generator().manual_seed(0)
    params = [Parameter(torch.randn(3, 4, generator=generator)) for _ in range(2 * groups)]
    optimizer = KINDS[kind](
        [{"params": params[index::groups], "lr": 0.01 * (index + 1)} for index in range(groups)], lr=0.01, **options
    )
    for step in range(4):
        feed(params, step)
        optimizer.step()
    assert not planned or optimizer._planner.plan is not None
    return optimizer, params


def numbers(optimizer: RuleOptimizer, params: list[Parameter]) -> list[Tensor]:
    stores = [optimizer.state.get(param, {}) for param in params]
    values = [value for store in stores for value in store.values() if isinstance(value, Tensor)]
    return [tensor.detach().clone() for tensor in (*params, *values)]


# Every exchange takes the optimizer and its parameters; it is made before every step that is compared.


def new_group(optimizer, params, turn):
    optimizer.param_groups[0] = dict(optimizer.param_groups[0], lr=0.1 * turn)


def new_groups(optimizer, params, turn):
    optimizer.param_groups = [dict(group, lr=0.1 * turn) for group in optimizer.param_groups]


def swapped_groups(optimizer, params, turn):
    optimizer.param_groups.reverse()


def ordered_group(optimizer, params, turn):
    optimizer.param_groups[0] = OrderedDict(optimizer.param_groups[0], lr=0.1 * turn)


def subclassed_group(optimizer, params, turn):
    class Scaled(dict):
        def __getitem__(self, name):
            return 0.5 * turn if name == "lr" else super().__getitem__(name)

    optimizer.param_groups[0] = Scaled(optimizer.param_groups[0])


def tuple_of_groups(optimizer, params, turn):
    optimizer.param_groups = tuple(optimizer.param_groups)


def tuple_of_params(optimizer, params, turn):
    optimizer.param_groups[0]["params"] = tuple(optimizer.param_groups[0]["params"])


def parameter_list(optimizer, params, turn):
    optimizer.param_groups[0]["params"] = torch.nn.ParameterList(optimizer.param_groups[0]["params"])


def dict_view_of_params(optimizer, params, turn):
    held = optimizer.param_groups[0]["params"]
    optimizer.param_groups[0]["params"] = dict(enumerate(held)).values()


def shorter_list(optimizer, params, turn):
    optimizer.param_groups[0]["params"] = [*optimizer.param_groups[0]["params"]][:1]


def reversed_list(optimizer, params, turn):
    held = [*optimizer.param_groups[0]["params"]]
    optimizer.param_groups[0]["params"] = held[::-1]


def params_change_groups(optimizer, params, turn):
    first, second = optimizer.param_groups
    first["params"], second["params"] = second["params"], first["params"]


def new_state(optimizer, params, turn):
    optimizer.state = defaultdict(dict, {key: dict(store) for key, store in optimizer.state.items()})


def ordered_state(optimizer, params, turn):
    optimizer.state = OrderedDict((key, optimizer.state[key]) for key in reversed(optimizer.state))
    for param in params:
        optimizer.state.setdefault(param, {})


def cleared_state(optimizer, params, turn):
    optimizer.state.clear()


def ordered_store(optimizer, params, turn):
    optimizer.state[params[0]] = OrderedDict(optimizer.state[params[0]])


def copied_states(optimizer, params, turn):
    for store in optimizer.state.values():
        for name, value in store.items():
            store[name] = value.clone()


def states_moved_by_data(optimizer, params, turn):
    for store in optimizer.state.values():
        for name, value in store.items():
            value.data = torch.full_like(value, 7.0) if name != "step" else torch.tensor(100.0 * turn)


def counter_written(optimizer, params, turn):
    for store in optimizer.state.values():
        if "step" in store:
            store["step"].fill_(50 * turn)


def counter_of_one(optimizer, params, turn):
    store = optimizer.state[params[0]]
    if "step" in store:
        store["step"].data = torch.tensor(30.0 * turn)


def counter_set(optimizer, params, turn):
    store = optimizer.state[params[0]]
    if "step" in store:
        store["step"].set_(torch.tensor(20.0 * turn))


def counter_replaced(optimizer, params, turn):
    store = optimizer.state[params[0]]
    if "step" in store:
        store["step"] = torch.tensor(10.0 * turn)


def own_keys(optimizer, params, turn):
    for store in optimizer.state.values():
        store["old"] = torch.ones(2) * turn
    optimizer.param_groups[0]["_mine"] = turn


def rate(optimizer, params, turn):
    for group in optimizer.param_groups:
        group["lr"] = 0.3 / turn


def rate_of_zero(optimizer, params, turn):
    optimizer.param_groups[1]["lr"] = 0.0


def whole_rate(optimizer, params, turn):
    optimizer.param_groups[1]["lr"] = turn


def numpy_rate(optimizer, params, turn):
    optimizer.param_groups[0]["lr"] = np.float64(0.1 * turn)


def single_rate(optimizer, params, turn):
    optimizer.param_groups[0]["lr"] = np.float32(0.1 * turn)


def half_rate(optimizer, params, turn):
    optimizer.param_groups[0]["lr"] = np.float16(0.1 * turn)


def tensor_rate(optimizer, params, turn):
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1 * turn)


def tensor_rate_filled(optimizer, params, turn):
    lr = optimizer.param_groups[0]["lr"]
    if isinstance(lr, Tensor):
        lr.fill_(0.1 * turn)
    else:
        optimizer.param_groups[0]["lr"] = torch.tensor(0.1)


def decay(optimizer, params, turn):
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.1 * turn


def no_decay(optimizer, params, turn):
    optimizer.param_groups[0]["weight_decay"] = 0.0 if turn % 2 else 0.3


def momenta(optimizer, params, turn):
    for group in optimizer.param_groups:
        if "momentum" in group:
            group["momentum"] = 0.5 + 0.05 * turn
        if "betas" in group:
            group["betas"] = (0.5 + 0.05 * turn, 0.9)


def momentum_off(optimizer, params, turn):
    for group in optimizer.param_groups:
        if "momentum" in group:
            group["momentum"] = 0.0 if turn == 2 else 0.7


def list_betas(optimizer, params, turn):
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = [0.5, 0.9 - 0.1 * turn]


def list_betas_written(optimizer, params, turn):
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = [*group["betas"]] if isinstance(group["betas"], tuple) else group["betas"]
            group["betas"][0] = 0.15 * turn


def array_betas(optimizer, params, turn):
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = np.array([0.5, 0.9 - 0.1 * turn])


def other_reals(optimizer, params, turn):
    optimizer.param_groups[0]["lr"] = (Fraction(1, turn + 2), Decimal("0.25"), np.int64(1))[turn % 3]
    optimizer.param_groups[1]["weight_decay"] = np.array(0.125 * turn)


def turned(optimizer, params, turn):
    for group in optimizer.param_groups:
        group["maximize"] = not group["maximize"]


def proximal(optimizer, params, turn):
    optimizer.param_groups[0]["l1"] = 0.01 * turn


def mode(optimizer, params, turn):
    modes = ("coupled", "independent", "decoupled", "cautious")
    optimizer.param_groups[0].update(weight_decay_mode=modes[turn % 4], max_lr=1.0)


def independent_schedule(optimizer, params, turn):
    for group in optimizer.param_groups:
        group.update(weight_decay=0.1, weight_decay_mode="independent", max_lr=1.0, lr=0.5 / turn)


def backend(optimizer, params, turn):
    optimizer.param_groups[0]["foreach"] = False


def skipping(optimizer, params, turn):
    optimizer.param_groups[0]["nonfinite"] = "skip"
    if turn == 2:
        params[0].grad = torch.full((3, 4), torch.nan)


def grads_gone(optimizer, params, turn):
    params[turn % 4].grad = None


def grads_written(optimizer, params, turn):
    params[0].grad.data = torch.ones(3, 4) * turn


def grads_turned(optimizer, params, turn):
    params[0].grad = torch.randn(4, 3, generator=torch.Generator().manual_seed(turn)).t()


def grads_negated(optimizer, params, turn):
    params[0].grad = torch._neg_view(params[0].grad)  # pyright: ignore[reportPrivateImportUsage]


def grads_without_memory(optimizer, params, turn):
    params[0].grad = torch._efficientzerotensor(params[0].shape)  # pyright: ignore[reportPrivateImportUsage]


def params_negated(optimizer, params, turn):
    params[0].data = torch._neg_view(params[0].data)  # pyright: ignore[reportPrivateImportUsage]


def states_negated(optimizer, params, turn):
    for state in optimizer.state[params[0]].values():
        if isinstance(state, torch.Tensor) and state.dim():
            state.data = torch._neg_view(state.data.neg())  # pyright: ignore[reportPrivateImportUsage]


def params_moved(optimizer, params, turn):
    for param in params:
        param.data = param.data.clone()


def params_swapped(optimizer, params, turn):
    torch.utils.swap_tensors(params[1], Parameter(torch.ones(3, 4) * turn))


def optimizer_copied_back(optimizer, params, turn):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def groups_added(optimizer, params, turn):
    optimizer.add_param_group({"params": [Parameter(torch.ones(2))], "lr": 0.5})


def frozen(optimizer, params, turn):
    params[0].requires_grad_(False)


EXCHANGES = [
    new_group, new_groups, swapped_groups, ordered_group, subclassed_group, tuple_of_groups, tuple_of_params,
    parameter_list, dict_view_of_params, shorter_list, reversed_list, params_change_groups, new_state, ordered_state,
    cleared_state, ordered_store, copied_states, states_moved_by_data, counter_written, counter_of_one, counter_set,
    counter_replaced, own_keys, rate, rate_of_zero, whole_rate, numpy_rate, single_rate, half_rate, tensor_rate,
    tensor_rate_filled, decay, no_decay, momenta, momentum_off, list_betas, list_betas_written, array_betas,
    other_reals, turned, proximal, mode, independent_schedule, backend, skipping, grads_gone, grads_written,
    grads_turned, grads_negated, grads_without_memory, params_negated, states_negated, params_moved, params_swapped,
    optimizer_copied_back, groups_added, frozen,
]  # fmt: skip


@pytest.mark.thin(times=3)
@pytest.mark.parametrize("foreach", [None, True], ids=["fused", "foreach"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.__name__)
def test_a_planned_step_sees_every_exchange(exchange, kind, foreach):
    """Whatever a user exchanges, once or before every step, planned steps have the bits of steps that begin afresh."""
    for times in (1, 6):
        ends = []
        for forgetful in (False, True):
            optimizer, params = made(kind, foreach=foreach)
            for turn in range(1, 7):
                feed(params, 10 + turn)
                if turn <= times:
                    exchange(optimizer, params, turn)
                if forgetful:
                    optimizer.forget()
                optimizer.step()
            ends.append(numbers(optimizer, params))
        assert len(ends[0]) == len(ends[1])
        for actual, expected in zip(*ends, strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def rows(params: list[Parameter], seed: int) -> None:
    """Give the parameters sparse gradients; now and then there is one without."""
    generator = torch.Generator().manual_seed(200 + seed)
    for index, param in enumerate(params):
        values = torch.randn((2, *param.shape[1:]), generator=generator, dtype=param.dtype)
        found = torch.tensor([[seed % 3, index % 2]])
        param.grad = torch.sparse_coo_tensor(found, values, param.shape, check_invariants=True)
        if seed % 7 == 6 and index == 1:
            param.grad = None


def rows_of_another_type(optimizer, params, turn):
    params[0].grad = params[0].grad.double()


def rows_became_dense(optimizer, params, turn):
    params[turn % 4].grad = torch.ones_like(params[turn % 4])


def rows_in_another_layout(optimizer, params, turn):
    params[0].grad = params[0].grad.to_dense().to_sparse_csr()


def rows_that_are_elements(optimizer, params, turn):
    params[0].grad = params[0].grad.to_dense().to_sparse()


def rows_of_another_shape(optimizer, params, turn):
    params[0].grad = None
    params[0].data = torch.ones(5, 2)
    params[0].grad = torch.ones(5, 2).to_sparse(1)


def params_of_another_type(optimizer, params, turn):
    for param in params:
        param.grad = None
        param.data = param.data.double()
    rows(params, turn)


def momenta_became_dense(optimizer, params, turn):
    for store in optimizer.state.values():
        if "momentum_buffer" in store:
            store["momentum_buffer"] = store["momentum_buffer"].to_dense()


def momenta_gone(optimizer, params, turn):
    optimizer.state.get(params[0], {}).pop("momentum_buffer", None)


def kernels(optimizer, params, turn):
    optimizer.param_groups[0]["fused"] = True


def flag_of_a_float(optimizer, params, turn):
    optimizer.param_groups[0]["nesterov"] = 1.0 if turn > 2 else 0.0


def not_a_number(optimizer, params, turn):
    optimizer.param_groups[0]["lr"] = math.nan


def duplicated(optimizer, params, turn):
    optimizer.param_groups[0]["params"].append(params[0])


def another_parameter(optimizer, params, turn):
    own = optimizer.param_groups[0]["params"]
    own[-1] = Parameter(torch.full((3, 4), 0.5))
    rows(own, turn)


def a_group_less(optimizer, params, turn):
    del optimizer.param_groups[1:]


ROWS = [
    rows_of_another_type, rows_became_dense, rows_in_another_layout, rows_that_are_elements, rows_of_another_shape,
    params_of_another_type, momenta_became_dense, momenta_gone, kernels, flag_of_a_float, not_a_number, duplicated,
    another_parameter, a_group_less,
]  # fmt: skip


@pytest.mark.thin
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("kind", ["sgd", "momentum"])
@pytest.mark.parametrize("exchange", [*EXCHANGES, *ROWS], ids=lambda exchange: exchange.__name__)
def test_a_planned_step_of_sparse_gradients_sees_every_exchange(exchange, kind):
    """What holds for dense gradients holds for sparse ones; what the long way refuses, a planned step refuses too."""
    for times in (1, 6):
        ends = []
        for forgetful in (False, True):
            optimizer, params = made(kind, feed=rows)
            outcomes: list[Any] = []
            for turn in range(1, 7):
                rows(params, 10 + turn)
                try:
                    if turn <= times:
                        exchange(optimizer, params, turn)
                    if forgetful:
                        optimizer.forget()
                    optimizer.step()
                except Exception as error:
                    outcomes.append((type(error), str(error)))
                outcomes += numbers(optimizer, params)
            ends.append(outcomes)
        assert len(ends[0]) == len(ends[1])
        for actual, expected in zip(*ends, strict=True):
            if isinstance(expected, Tensor):
                torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
            else:
                assert actual == expected


MOVING = {
    "rates": rate,
    "numpy rates": numpy_rate,
    "single rates": single_rate,
    "decay": decay,
    "momentum and betas": momenta,
    "independent decay": independent_schedule,
    "keys of others": lambda optimizer, params, turn: optimizer.param_groups[0].update(initial_lr=turn),
    "stores of others": own_keys,
}


@pytest.mark.parametrize("moving", MOVING)
@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_survives_what_moves_at_every_step(kind, moving):
    """Schedules of any option, and keys of others in groups and stores, stay on the planned path."""
    optimizer, params = made(kind)
    for turn in range(1, 4):
        feed(params, turn)
        MOVING[moving](optimizer, params, turn)
        optimizer.step()
    for turn in range(4, 7):
        plan = optimizer._planner.plan
        assert plan is not None
        feed(params, turn)
        MOVING[moving](optimizer, params, turn)
        optimizer.step()
        assert optimizer._planner.plan is plan


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
@pytest.mark.parametrize("kind", ["sgd", "momentum"])
def test_a_parameter_without_gradients_gets_one(kind, dense):
    """A parameter that had no gradient in all planned steps is updated as soon as it has one."""
    generator = torch.Generator().manual_seed(0)
    first, second = (Parameter(torch.randn(3, 4, generator=generator)) for _ in range(2))
    optimizer = KINDS[kind]([first, second], lr=0.5)
    for step in range(5):
        rows([first], step)
        optimizer.step()
    assert optimizer._planner.plan is not None
    rows([first, second], 5)
    assert second.grad is not None
    before, grad = second.detach().clone(), second.grad.to_dense()
    if dense:
        second.grad = grad
    optimizer.step()
    assert torch.equal(second, before - 0.5 * grad)


def test_a_decay_is_refused_where_no_branch_of_the_rule_tells():
    """A coupled decay beside sparse gradients is refused also where the rule takes it for a number like others."""

    def scaled(param, grad, *, lr, weight_decay):
        return (param.add(grad, alpha=-lr * (1 + weight_decay)),)

    class Scaled(optizoo.SGD):
        def select_rule(self, group):
            return scaled

    param = Parameter(torch.ones(3, 4))
    optimizer = Scaled([param], lr=0.5, weight_decay=0.0)
    for step in range(5):
        rows([param], step)
        optimizer.step()
    assert optimizer._planner.plan is not None
    before = param.detach().clone()
    optimizer.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(RuntimeError, match="sparse gradients"):
        optimizer.step()
    assert torch.equal(param, before)


@pytest.mark.parametrize("moving", ["rates", "keys of others", "stores of others"])
@pytest.mark.parametrize("kind", ["sgd", "momentum"])
def test_a_plan_of_sparse_gradients_survives_what_moves(kind, moving):
    """A schedule of the rate, keys of others and a missing gradient keep sparse gradients on the planned path."""
    optimizer, params = made(kind, feed=rows)
    plan = optimizer._planner.plan
    for turn in range(3, 8):
        rows(params, turn)
        optimizer.param_groups[0].update(initial_lr=0.5)
        MOVING[moving](optimizer, params, turn)
        if turn > 4:
            assert optimizer._planner.plan is plan
        optimizer.step()
        plan = optimizer._planner.plan
    assert plan is not None


def test_groups_share_a_launch():
    """Groups with rates, decays and step counts of their own are rows of one launch."""
    params = [Parameter(torch.ones(5)) for _ in range(6)]
    groups = [{"params": [param], "lr": 0.1 * n, "weight_decay": 0.01 * n} for n, param in enumerate(params, start=1)]
    optimizer = optizoo.AdamW(groups)
    for step in range(5):
        for number, param in enumerate(params):
            param.grad = None if step < 2 and number % 2 else torch.ones(5)
        optimizer.step()
    assert isinstance(optimizer._planner.plan, planner.Plan)
    assert len(optimizer._planner.plan._launches) == 1


def test_a_plan_that_never_lasts_is_not_made_for_ever(monkeypatch):
    """Where something else changes before every step, the planner rests, longer each time."""
    optimizer, params = made("adamw")
    plans = []

    class Counted(planner.Plan):
        def __init__(self, *arguments):
            plans.append(1)
            super().__init__(*arguments)

    monkeypatch.setattr(planner, "Plan", Counted)
    for step in range(200):
        feed(params, step)
        copied_states(optimizer, params, 1)
        optimizer.step()
    assert len(plans) < 20


WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
PARALLEL = ctypes.CFUNCTYPE(None, WORK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
"""What starts the threads of a kernel."""

# Threads and processes -----------------------------------------------------------------------------------------------


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["momentum", "adamw"])
def test_gradients_may_be_dropped_while_a_step_runs(kind, two_threads):
    """What another thread does to gradients while a kernel runs does not reach it: they are held until it is done.

    Who starts the threads of the kernel drops the gradients first. A race for ``param.grad`` itself would be torch's.
    """
    ends = []
    for dropped in (False, True):
        params = [Parameter(torch.zeros(1 << 16)) for _ in range(4)]
        optimizer = KINDS[kind](params, lr=0.01)
        memory = []

        def start(function, argument, threads, _, optimizer=optimizer, memory=memory, dropped=dropped):
            if dropped:
                optimizer.zero_grad()
                memory.extend(torch.full((1 << 16,), torch.nan) for _ in range(8))  # takes what was freed
            for _ in range(threads):
                function(argument)

        for step in range(6):
            for param in params:
                param.grad = torch.ones(1 << 16) * (step + 1)
            plan = optimizer._planner.plan
            if isinstance(plan, planner.Plan):
                plan._parallel = PARALLEL(start)
            optimizer.step()
        assert bool(memory) == dropped
        ends.append(numbers(optimizer, params))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [8, 1 << 16])
def test_threads_in_one_optimizer_step_one_after_the_other(kind, size, two_threads):
    """Four threads that step 25 times each make the hundred steps that one would make, to the bit."""
    ends = []
    for threads in (1, 4):
        params = [Parameter(torch.full((size,), 0.5)) for _ in range(3)]
        optimizer = KINDS[kind](params, lr=1e-3)
        for param in params:
            param.grad = torch.full((size,), 0.25)

        def steps(optimizer=optimizer, count=100 // threads):
            for _ in range(count):
                optimizer.step()

        workers = [threading.Thread(target=steps) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        ends.append(numbers(optimizer, params))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_step_within_a_step_goes_the_long_way():
    """A number option whose reading makes a step of its own does not make two plans collide."""
    optimizer, params = made("sgd")
    inner = []

    def again(*_):
        if not inner:
            inner.append(1)
            optimizer.step()

    optimizer.register_step_post_hook(again)
    before = [param.detach().clone() for param in params]
    optimizer.step()
    for param, start, index in zip(params, before, (0, 1, 0, 1), strict=True):
        lr = 0.01 * (index + 1)
        assert param.grad is not None
        torch.testing.assert_close(param.detach(), start.add(param.grad, alpha=-lr).add(param.grad, alpha=-lr))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("kind", ["momentum", "adamw"])
@pytest.mark.parametrize("held", [False, True], ids=["free", "while another thread steps"])
def test_a_forked_child_steps(kind, held, two_threads):
    """A child of fork, whose parent trained with two threads, steps on: on one share, and no lock stops it."""
    params = [Parameter(torch.zeros(1 << 17)) for _ in range(2)]
    optimizer = KINDS[kind](params, lr=0.01)
    for param in params:
        param.grad = torch.ones(1 << 17)
    for _ in range(4):
        optimizer.step()
    lock = optimizer._alone()
    if held:
        lock.acquire()
    waiting = threading.Thread(target=optimizer.step) if held else None
    if waiting is not None:
        waiting.start()
    before = params[0][0].item()
    child = os.fork()
    if child == 0:  # nothing of pytest may run here
        status = 1
        try:
            for _ in range(3):
                optimizer.step()
            # Of one element: torch's own functions hang here where they would use threads.
            status = 0 if math.isfinite(params[0][0].item()) and params[0][0] != before else 2
        finally:
            os._exit(status)
    if held:
        lock.release()
    if waiting is not None:
        waiting.join()
    deadline = time.monotonic() + 60
    done, status = 0, 0
    while not done and time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if not done:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert done, "the child hangs"
    assert status == 0


def test_another_number_of_threads_changes_nothing(two_threads):
    """Steps under one, two and four threads have the same bits."""
    ends = []
    for counts in ((1,), (2,), (4,), (1, 4, 2)):
        params = [Parameter(torch.linspace(-1, 1, 50_000)) for _ in range(3)]
        optimizer = optizoo.AdamW(params, lr=0.01)
        for step in range(6):
            torch.set_num_threads(counts[step % len(counts)])
            for param in params:
                param.grad = param.detach() * (step + 1)
            optimizer.step()
        ends.append(numbers(optimizer, params))
    for other in ends[1:]:
        assert all(torch.equal(a, b) for a, b in zip(ends[0], other, strict=True))
