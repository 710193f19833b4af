"""The equivalence kit sees every planted mistake and accepts every correct form."""

import re
from collections.abc import Callable

import pytest
import torch

import optizoo
from optizoo.backends import UPDATES
from optizoo.testing import MUTANTS, assert_equivalent, has_torch_twin, textbook, torch_twin, ulp_distance, with_rules
from optizoo.testing.mutants import Mutant
from optizoo.testing.specimens import specimens
from optizoo.testing.streams import gradients, make_params
from optizoo.testing.ulp import identical
from optizoo.testing.verify import Result, as_json, format_table, verify
from optizoo.zoo import optimizer_class
from tests.zoo import FAMILIES, FEW, FEW_STEPS

FEW_WITH_TWIN = [case for case in FEW if has_torch_twin(case.values[0], **case.values[1])]  # pyright: ignore


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_rejected(mutant, pytestconfig):
    """A deliberate mistake fails under the default tiers, whatever it is, and in few steps too."""
    steps = 100 if pytestconfig.getoption("--slow") else FEW_STEPS
    with pytest.raises(AssertionError, match=r"^T2"):
        assert_equivalent(mutant.build, mutant.reference, steps=steps, shapes=mutant.shapes)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fails_for_its_mistake_alone(mutant):
    """The same options with the true rule pass: the mistake is all that is wrong with a mutant."""
    assert_equivalent(
        lambda params: optizoo.create(mutant.optimizer, params, foreach=False, **mutant.options),
        mutant.reference,
        tiers=["T1" if has_torch_twin(mutant.optimizer, **mutant.options) else "T2"],
        steps=5,
        shapes=mutant.shapes,
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:eps = 1e-\\d+ is 0 in torch.float16")  # it does, and is meant here
@pytest.mark.parametrize(("tier", "missed"), [("T2", 0), ("T3", 4), ("T4", 47)])
def test_how_many_mutants_a_tier_sees(tier, missed, pytestconfig):
    """The docstring of ``assert_equivalent`` says how many mutants each tier lets pass; more steps see no more."""
    steps, passed = 100 if pytestconfig.getoption("--slow") else FEW_STEPS, []
    for mutant in MUTANTS:
        try:
            assert_equivalent(mutant.build, mutant.reference, tiers=[tier], steps=steps, shapes=mutant.shapes)
        except AssertionError:
            continue
        passed.append(mutant.name)
    assert len(passed) == missed, passed


def test_mutants_cover_the_zoo():
    """There are mutants of every optimizer, more than twenty in all, with different names and mistakes."""
    assert {mutant.optimizer for mutant in MUTANTS} == set(optizoo.list_optimizers())
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) > 20
    assert len({(m.optimizer, m.true, m.mistaken, str(m.options)) for m in MUTANTS}) == len(MUTANTS)


def test_a_mutant_whose_text_is_gone_says_so():
    """A mutant of a rule that was rewritten raises instead of becoming the true rule."""
    mutant = Mutant("stale", "sgd", "this text does not stand there", "x")
    with pytest.raises(ValueError, match="stands 0 times in rule 'sgd'"):
        mutant.build(make_params())


def test_a_mutant_of_a_rule_that_does_not_run_says_so():
    """A mutant whose options select another rule raises instead of becoming the true rule."""
    mutant = Mutant("elsewhere", "momentum", "param + velocity", "param", rule="momentum_lr_in_velocity")
    with pytest.raises(ValueError, match=r"Momentum with the options .* runs momentum, regularized, not 'momentum_lr"):
        mutant.build(make_params())


def test_a_mutant_leaves_what_its_rule_calls():
    """A mutant changes the text of its own rule alone: AdamW without decay still has Adam's moments."""
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "adamw-no-decay")
    assert_equivalent(
        mutant.build,
        lambda params: torch.optim.AdamW(params, lr=1e-5, weight_decay=0, foreach=False),
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(*case.values, id=case.id, marks=[] if case.values[0] in FAMILIES else pytest.mark.slow)
        for case in FEW_WITH_TWIN
    ],
)
def test_a_textbook_rewrite_is_accepted(name, options):
    """The papers' formulas, rounded in other places, pass the default tiers against torch, but not bitwise."""
    kind = with_rules(optimizer_class(name), textbook)

    def candidate(params):
        return kind(params, foreach=False, **options)

    def reference(params):
        return torch_twin(name, params, foreach=False, **options)

    shapes = specimens()[name].shapes
    assert_equivalent(candidate, reference, shapes=shapes)
    if name != "rprop":  # whose signs and products leave nothing to round elsewhere
        with pytest.raises(AssertionError, match=r"^T1 \(bitwise\)"):
            assert_equivalent(candidate, reference, tiers=["T1"], shapes=shapes)


@pytest.mark.filterwarnings("ignore:eps = 1e-\\d+ is 0 in torch.float16")  # it does, and is meant here
@pytest.mark.parametrize(("name", "options"), FEW_WITH_TWIN)
def test_the_zoo_passes_all_tiers(name, options, pytestconfig):
    """Every rule passes T1 to T4 against torch in every type that a tier has."""
    assert_equivalent(
        lambda params: optizoo.create(name, params, foreach=False, **options),
        lambda params: torch_twin(name, params, foreach=False, **options),
        tiers=["T1", "T2", "T3", "T4"],
        steps=50 if pytestconfig.getoption("--slow") else FEW_STEPS,
        shapes=specimens()[name].shapes,
    )


def test_the_message_says_where_and_how_far():
    """A failure names tier, options, type, step and element, gives both values and their distance in ulp."""
    with pytest.raises(AssertionError) as failure:
        assert_equivalent(lambda params: optizoo.SGD(params, lr=0.1), lambda params: torch.optim.SGD(params, lr=0.2))
    assert re.fullmatch(
        r"T2 \(displacement\): SGD\(lr=0\.1, momentum=0, .*\) in float64, step 1: params\[0\]\[0, \d+\] is -?\d\.\d+, "
        r"the reference has -?\d\.\d+, \d+ ulp apart; \d+ of 1000 elements differ",
        str(failure.value),
    )


def test_t1_asks_for_the_references_states():
    """In T1 a missing state is a difference: a checkpoint would lack it."""

    def forget_steps(optimizer, args, kwargs) -> None:
        for state in optimizer.state.values():
            del state["step"]

    def forgetful(params):
        optimizer = optizoo.RMSprop(params, foreach=False)
        optimizer.register_step_post_hook(forget_steps)
        return optimizer

    with pytest.raises(AssertionError, match="lacks the state 'step'"):
        assert_equivalent(forgetful, torch.optim.RMSprop, tiers=["T1"])


def test_t1_asks_for_type_and_shape_of_the_states():
    """In T1 a state of another type or shape is a difference, whatever its value."""

    def widen(optimizer, args, kwargs) -> None:
        for state in optimizer.state.values():
            state["step"] = state["step"].double().expand(3)

    def wide(params):
        optimizer = torch.optim.RMSprop(params)
        optimizer.register_step_post_hook(widen)
        return optimizer

    with pytest.raises(AssertionError, match=r"step is torch\.float64 of shape \(3,\), the reference has torch\.float"):
        assert_equivalent(wide, torch.optim.RMSprop, tiers=["T1"], steps=1)


def test_the_two_forms_of_momentum_are_told_apart():
    """They are equal while the learning rate is constant; in the kit it changes, and they part."""
    with pytest.raises(AssertionError, match=r"^T2 .* step 51"):
        assert_equivalent(
            lambda params: optizoo.Momentum(params, lr=0.01, lr_in_velocity=True),
            lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
        )


TIERS = ["T1", "T2", "T3", "T4"]


def copies(params):
    return torch.optim.SGD([torch.nn.Parameter(param.detach().clone()) for param in params], lr=0.1)


def own(params):
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)


class Wrapped:
    """No ``torch.optim.Optimizer``, but it holds one."""

    def __init__(self, params, build: Callable[..., torch.optim.Optimizer] = torch.optim.SGD) -> None:
        self.optimizer = build(params)
        self.param_groups = self.optimizer.param_groups
        self.state = self.optimizer.state

    def step(self) -> None:
        self.optimizer.step()


class Masters(torch.optim.SGD):
    """Steps wide copies, and copies them back, as optimizers for 16 bits do."""

    def __init__(self, params) -> None:
        self.given = [param for param in params if param.requires_grad]
        super().__init__([torch.nn.Parameter(param.detach().double()) for param in self.given])

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        for param, master in zip(self.given, self.param_groups[0]["params"], strict=True):
            master.grad = None if param.grad is None else param.grad.double()
        super().step(closure)
        for param, master in zip(self.given, self.param_groups[0]["params"], strict=True):
            param.copy_(master)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("factory", "message"),
    [
        pytest.param(own, r"ignores params\[0\], which its factory was given", id="own parameters"),
        pytest.param(copies, r"ignores params\[0\]", id="copies"),
        pytest.param(lambda params: torch.optim.SGD(params[:1]), r"ignores params\[1\]", id="only the first"),
        pytest.param(lambda params: torch.optim.SGD(params[1:]), r"ignores params\[0\]", id="all but the first"),
        pytest.param(lambda params: Wrapped(params, own), r"ignores params\[0\]", id="a wrapper of others"),
        pytest.param(lambda params: torch.optim.SGD(params, lr=0.0), "nothing was compared", id="lr 0"),
        pytest.param(
            lambda params: torch.optim.SGD(params, lr=float("inf")), "nothing was compared", id="nothing but NaN"
        ),
    ],
)
def test_factories_that_compare_nothing_are_refused(tier, factory, message):
    """Where no parameter that was given moves, or one is left out, two optimizers are equal without a proof."""
    with pytest.raises(ValueError, match=message):
        assert_equivalent(factory, factory, tiers=[tier], steps=10)


@pytest.mark.parametrize("side", ["candidate", "reference"])
@pytest.mark.parametrize("factory", [own, copies], ids=["own parameters", "copies"])
def test_either_factory_has_to_take_the_params(side, factory):
    """It is an error of the factory, not a difference of the optimizers, and says so."""
    pair = (factory, torch.optim.SGD) if side == "candidate" else (torch.optim.SGD, factory)
    with pytest.raises(ValueError, match="ignores"):
        assert_equivalent(*pair)


def test_optimizers_that_step_nothing_are_refused():
    """A step that does nothing equals another."""

    class Idle(torch.optim.SGD):
        def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
            return None

    with pytest.raises(ValueError, match=r"the reference Idle\(lr=0\.001, .* has moved no parameter"):
        assert_equivalent(Idle, Idle)


@pytest.mark.parametrize("tier", TIERS)
def test_each_call_builds_an_optimizer(tier):
    """One optimizer cannot be held against itself, whether it knows one list of parameters or both."""
    known = []

    def first(params):
        known.append(torch.optim.SGD(params))
        return known[0]

    with pytest.raises(ValueError, match="one and the same optimizer"):
        assert_equivalent(first, first, tiers=[tier])
    with pytest.raises(ValueError, match=r"ignores params\[0\]"):
        assert_equivalent(first, torch.optim.SGD, tiers=[tier])
    known.clear()

    def both(params):
        if known:
            known[0].add_param_group({"params": params})
        else:
            known.append(torch.optim.SGD(params))
        return known[0]

    with pytest.raises(ValueError, match="one and the same optimizer"):
        assert_equivalent(both, both, tiers=[tier])


@pytest.mark.parametrize(
    ("value", "message"),
    [(None, "got None"), (torch.optim.SGD, "got <class"), ([], r"got \[\]"), (torch.nn.Linear(1, 1), "got Linear")],
    ids=["None", "a class", "a list", "a module"],
)
def test_a_factory_returns_an_optimizer(value, message):
    """What is none is named."""
    with pytest.raises(TypeError, match=f"returns an optimizer, with param_groups and step; {message}"):
        assert_equivalent(lambda params: value, torch.optim.SGD)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("tier", TIERS)
def test_wrappers_are_optimizers(tier):
    """What has param_groups and steps the parameters is accepted, also where it steps copies of them."""
    assert_equivalent(Wrapped, torch.optim.SGD, tiers=[tier])  # type: ignore[arg-type]
    assert_equivalent(lambda params: torch.optim.SGD(filter(lambda p: p.requires_grad, params)), torch.optim.SGD)
    if tier == "T2":  # in the others, double precision shows
        assert_equivalent(Masters, torch.optim.SGD, tiers=[tier])


def test_groups_that_are_copies_are_refused():
    """A rate that is set in a copy moves nothing."""

    class Copied(Wrapped):
        @property
        def param_groups(self):
            return [dict(group) for group in self.optimizer.param_groups]

        @param_groups.setter
        def param_groups(self, groups) -> None: ...

    with pytest.raises(TypeError, match="Copied gives copies of its param_groups"):
        assert_equivalent(Copied, Copied)  # type: ignore[arg-type]


def becomes(first: float, second: float | None = None, state: float | None = None):
    """Return an SGD that writes numbers into the first elements of a parameter, and into a state, from step 3 on."""

    class Becomes(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
            super().step(closure)
            param = self.param_groups[0]["params"][0]
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps >= 3:
                param[0, 0] = first
                if second is not None:
                    param[0, 1] = second
            if state is not None:
                self.state[param]["running"] = torch.full((2,), state, dtype=param.dtype)
                self.state[param]["count"] = state

    return Becomes


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        pytest.param((INF,), (INF,), True, id="inf, inf"),
        pytest.param((-INF,), (-INF,), True, id="-inf, -inf"),
        pytest.param((NAN,), (NAN,), True, id="nan, nan"),
        pytest.param((INF, NAN), (INF, NAN), True, id="both, both"),
        pytest.param((INF,), (-INF,), False, id="inf, -inf"),
        pytest.param((INF,), (NAN,), False, id="inf, nan"),
        pytest.param((NAN,), (INF,), False, id="nan, inf"),
        pytest.param((1.0,), (INF,), False, id="1, inf"),
        pytest.param((INF,), (1.0,), False, id="inf, 1"),
        pytest.param((NAN,), (1.0,), False, id="nan, 1"),
        pytest.param((1.0,), (NAN,), False, id="1, nan"),
        pytest.param((INF, 1.0), (INF, 2.0), False, id="a difference beside inf"),
    ],
)
def test_infinities_and_nans_equal_themselves_alone(tier, one, other, equal):
    """In every tier the same infinity is the same number, and what stands beside it is still compared."""
    if equal:
        assert_equivalent(becomes(*one), becomes(*other), tiers=[tier], steps=20)
    else:
        with pytest.raises(AssertionError, match=rf"^{tier} .*step \d+: "):
            assert_equivalent(becomes(*one), becomes(*other), tiers=[tier], steps=20)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [(INF, INF, True), (NAN, NAN, True), (INF, -INF, False), (INF, NAN, False), (1.0, INF, False), (1.0, 1.0, True)],
)
def test_states_too(one, other, equal):
    """T1 compares states in the same way, in tensors and as plain numbers."""
    if equal:
        assert_equivalent(becomes(0.0, None, one), becomes(0.0, None, other), tiers=["T1"], steps=5)
    else:
        with pytest.raises(AssertionError, match=r"params\[0\]\.(running|count)\["):
            assert_equivalent(becomes(0.0, None, one), becomes(0.0, None, other), tiers=["T1"], steps=5)


@pytest.mark.parametrize("kind", ["number", "integers", "booleans"])
def test_t1_compares_states_of_any_kind(kind):
    """A count that is a Python number, and tensors of integers, differ as others do."""

    def counting(start: int):
        class Counting(torch.optim.SGD):
            def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
                super().step(closure)
                values = {"number": start, "integers": torch.tensor([7, start]), "booleans": torch.tensor(start > 1)}
                self.state[self.param_groups[0]["params"][0]]["kept"] = values[kind]

        return Counting

    assert_equivalent(counting(1), counting(1), tiers=["T1"], steps=2)
    with pytest.raises(AssertionError, match=r"^T1 .*params\[0\]\.kept\[1?\] is (2|2\.0|True), the reference has"):
        assert_equivalent(counting(2), counting(1), tiers=["T1"], steps=2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_ulp_distance_of_infinities(dtype):
    """The same infinity is no distance away, the largest number one, the other infinity all numbers between."""
    inf, largest = torch.tensor([INF], dtype=dtype), torch.tensor([torch.finfo(dtype).max], dtype=dtype)
    assert ulp_distance(inf, inf).item() == ulp_distance(-inf, -inf).item() == 0
    assert ulp_distance(inf, largest).item() == ulp_distance(-inf, -largest).item() == 1
    assert ulp_distance(inf, -inf).item() > 2 ** (8 * dtype.itemsize - 2)
    assert identical(inf, inf)
    assert not identical(inf, -inf)


@pytest.mark.parametrize("tier", ["T1", "T2", "T3", "T4"])
def test_an_optimizer_that_keeps_its_first_lr_is_rejected(tier):
    """An optimizer that reads its learning rate only once fails in every tier."""

    class Stale(torch.optim.SGD):
        def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
            for group in self.param_groups:
                group["lr"] = self.defaults["lr"]
            return super().step(closure)

    with pytest.raises(AssertionError, match=rf"^{tier} "):
        assert_equivalent(Stale, torch.optim.SGD, tiers=[tier])


def test_the_callers_lr_tensor_is_left_alone():
    """A proof moves learning rates of its own: a tensor lr that the caller gave has its value afterwards."""
    lr = torch.tensor(0.01)
    assert_equivalent(lambda params: optizoo.SGD(params, lr=lr), lambda params: torch.optim.SGD(params, lr=lr))
    results = list(verify([torch.float32, torch.float64], steps=4, combinations=[("sgd", {"lr": lr})]))
    assert lr.item() == torch.tensor(0.01).item()
    assert {result.options for result in results} == {"lr=tensor(0.0100)"}


def test_an_optimizer_that_writes_into_gradients_is_rejected():
    """The right parameters do not excuse changed gradients: torch's own foreach Nesterov fails."""
    with pytest.raises(AssertionError, match=r"SGD\(.*\) wrote into the gradient of params\[0\]"):
        assert_equivalent(
            lambda params: torch.optim.SGD(params, momentum=0.9, nesterov=True, foreach=True),
            lambda params: torch.optim.SGD(params, momentum=0.9, nesterov=True, foreach=False),
        )


def test_a_run_without_steps_is_no_proof():
    """Zero steps are an error, here and in ``verify``."""
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        assert_equivalent(optizoo.SGD, torch.optim.SGD, steps=0)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        list(verify(steps=0))
    assert as_json([], "cpu")["passed"] is False


def test_t3_sees_lost_precision():
    """An optimizer that computes in bfloat16 passes for float32 in no tier."""

    class Coarse(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
            for param in self.param_groups[0]["params"]:
                if param.grad is not None:
                    param -= (param.grad * self.defaults["lr"]).bfloat16()

    with pytest.raises(AssertionError, match=r"^T3 \(precision\).*its error against torch.float64 is"):
        assert_equivalent(Coarse, torch.optim.SGD, tiers=["T3"])


def test_unknown_tiers_and_types():
    """A tier that does not exist, or a type that no tier has, is an error and not a pass."""
    with pytest.raises(ValueError, match="Unknown tier 'T9'; known: T1, T2, T3, T4"):
        assert_equivalent(optizoo.SGD, torch.optim.SGD, tiers=["T9"])
    with pytest.raises(ValueError, match=r"no tier of .* runs in torch\.float16"):
        assert_equivalent(optizoo.SGD, torch.optim.SGD, dtype=torch.float16)


def test_gradients_span_what_they_promise():
    """The stream has fifteen decades, exact zeros, missing gradients, a frozen parameter, and depends on the seed."""
    stream = list(gradients(100))
    values = torch.stack([grads[0] for grads in stream if grads[0] is not None])
    sizes = values.abs().amax(dim=0)
    assert sizes[sizes > 0].min() < 1e-10
    assert sizes.max() > 1e2
    assert (values == 0).double().mean() > 0.1
    assert (sizes == 0).any()
    assert sum(grads[1] is None for grads in stream) == 40
    assert all(grads[-1] is None for grads in stream)
    first, again, other = (next(gradients(1, seed)) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])  # pyright: ignore[reportArgumentType]
    assert not torch.equal(first[0], other[0])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_ulp_distance_counts_numbers(dtype):
    """Neighbours are one ulp apart, across zero and powers of two; zeros are one number; NaN is near NaN only."""
    tiny = torch.finfo(dtype).smallest_normal
    start = torch.tensor([1.0, -1.0, 2.0, 0.0, -0.0, tiny], dtype=dtype)
    above = torch.nextafter(start.double(), torch.full_like(start, torch.inf).double()).to(dtype)
    if dtype in (torch.float32, torch.float64):
        above = torch.nextafter(start, torch.full_like(start, torch.inf))
        assert ulp_distance(above, start).tolist() == [1] * 6
    assert ulp_distance(start, start).tolist() == [0] * 6
    zero = torch.zeros(1, dtype=dtype)
    assert ulp_distance(zero, -zero).item() == 0
    nan = torch.full((1,), torch.nan, dtype=dtype)
    assert ulp_distance(nan, nan).item() == 0
    assert ulp_distance(nan, zero).item() == torch.iinfo(torch.int64).max
    ends = torch.tensor([2.0, torch.finfo(dtype).max], dtype=dtype)
    assert (ulp_distance(ends, -ends) > 1000).all()
    assert identical(nan, nan)
    assert not identical(nan, zero)


def test_ulp_distance_of_different_types():
    """Two types have no common ulp."""
    with pytest.raises(TypeError, match="one floating-point dtype"):
        ulp_distance(torch.zeros(1), torch.zeros(1, dtype=torch.float64))


def test_verify_reports_a_failure(monkeypatch):
    """A mistaken rule shows in the table as FAIL with its distance, and in the JSON as not passed."""
    mistaken = next(mutant for mutant in MUTANTS if mutant.name == "adam-eps-1e-7").build(make_params())
    rule = mistaken.select_rule(mistaken.defaults)
    monkeypatch.setattr(optizoo.Adam, "select_rule", lambda self, group: rule)
    results = list(verify([torch.float32], steps=3, combinations=[("adam", {})]))
    assert {result.backend for result in results} >= {"loop", "foreach"}
    assert not any(result.passed for result in results)
    assert all("step 1: params" in result.message for result in results if result.backend != "fused")
    assert "FAIL (1)" in format_table(results)
    assert as_json(results, "cpu")["passed"] is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_verify_compares_numbers(dtype, pytestconfig):
    """In every type nearly all that verify compares is finite: equal NaNs would prove nothing.

    Without ``--slow`` only of one optimizer of each kind.
    """
    whole = pytestconfig.getoption("--slow")
    combinations = [(name, {}) for name in optizoo.list_optimizers() if whole or name in FAMILIES]
    steps = 100 if whole else 2 * FEW_STEPS
    results = list(verify([dtype], steps=steps, combinations=combinations))
    assert min(result.finite for result in results) > 0.99


def test_a_broken_cell_does_not_cost_the_table(monkeypatch):
    """A backend that raises fails its own cells, with the error as the message; the others are still compared."""

    def broken(*args, **kwargs):
        raise RuntimeError("out of order")

    monkeypatch.setitem(UPDATES, "foreach", broken)
    loop, foreach, *others = verify([torch.float32], steps=3, combinations=[("adam", {})])
    assert all(result.passed for result in (loop, *others))
    assert not foreach.passed
    assert foreach.message == "step 1: RuntimeError: out of order"
    assert (loop.steps, foreach.steps) == (3, 1)


def test_verify_table():
    """The table has a line for each optimizer, backend and type, and one for each cell on request."""
    cells = [Result("sgd", f"lr={lr}", "loop", "float32", "torch loop, bitwise", 0, 0, 0, 0, 10) for lr in (1, 2)]
    assert len(format_table(cells).splitlines()) == 3
    assert len(format_table(cells, every_cell=True).splitlines()) == 4
    assert "lr=2" in format_table(cells, every_cell=True)
