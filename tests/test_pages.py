"""A page of the zoo is all that an optimizer needs: names, help, checks, checkpoints, documentation follow from it."""

import copy
import importlib
import inspect
import pickle
import pydoc
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import optizoo
from optizoo import rules, zoo
from optizoo.core.options import NAMED, SHARED
from scripts import zoo_table
from tests.zoo import assert_same_state, parameters, run

PAGE = '''
"""Compass, the sign of a momentum."""

from typing import Any, Unpack

from torch import Tensor

from optizoo.core.decay import RegularizedOptimizer
from optizoo.core.declaration import constructor
from optizoo.core.options import Decaying


def compass(param, grad, exp_avg, *, lr, momentum, weight_decay, warm, bounds):
    """Compass: m ← μm + (1-μ)g; θ ← θ - α sign(m).

    Source: Bernstein et al. (2018), https://arxiv.org/abs/1802.04434.
    """
    if weight_decay:
        grad = grad.add(param, alpha=weight_decay)
    exp_avg = exp_avg.lerp(grad, 1 - momentum)
    return param.add((exp_avg if warm else exp_avg.sign()).clamp_max(bounds[1]), alpha=-lr), exp_avg


class Compass(RegularizedOptimizer):
    r"""Compass, which moves along the sign of a momentum; not in torch.

    Args:
        warm: Take the momentum itself.
        bounds: Smallest and largest step.
    """

    rule = staticmethod(compass)
    order = 1.25
    counts_steps = False

    @constructor
    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        momentum: float = 0.9,
        weight_decay: float = 0,
        *,
        warm: bool = False,
        bounds: tuple[float, float] = (0, 1),
        **common: Unpack[Decaying],
    ): ...
'''


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A zoo with a page more, in another folder; nothing else is told."""
    tmp_path.joinpath("compass.py").write_text(PAGE.lstrip(), encoding="utf-8")
    monkeypatch.setattr(zoo, "__path__", [*zoo.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield
    sys.modules.pop("optizoo.zoo.compass", None)
    zoo.__dict__.pop("compass", None)


@pytest.mark.usefixtures("page")
class TestANewPage:
    """A rule and a class in a file are an optimizer that has everything."""

    def test_names(self):
        """It is listed where it says, found by name, and exported; its rule is among the rules."""
        assert optizoo.list_optimizers()[:4] == ["sgd", "momentum", "compass", "signum"]
        kind: Any = optizoo.Compass  # pyright: ignore[reportAttributeAccessIssue]
        assert type(optizoo.create("compass", torch.nn.Linear(2, 1), warm=True)) is kind
        assert "Compass" in dir(optizoo)
        assert rules.compass is kind.rule  # pyright: ignore[reportAttributeAccessIssue]
        assert "compass" in dir(rules)

    def test_help(self):
        """Signature and help show every option, its own and the shared ones, each with its sentence."""
        kind: Any = zoo.optimizer_class("compass")
        names = ["params", "lr", "momentum", "weight_decay", *("maximize", "foreach", "differentiable", "fused")]
        names += [
            "capturable",
            "warm",
            "bounds",
            "weight_decay_mode",
            "l1",
            "nonfinite",
            "across_processes",
            "master",
            "state_dtype",
        ]
        assert [*inspect.signature(kind).parameters] == names
        text = pydoc.plain(pydoc.render_doc(kind))
        for name in names:
            assert f"    {name}: " in text
        assert "warm: Take the momentum itself." in text

    def test_checks(self):
        """Its options are checked by the kind of their defaults."""
        for options, message in (
            ({"warm": "yes"}, "warm must be True or False"),
            ({"bounds": 3}, "bounds must be a tuple of two numbers"),
            ({"momentum": 2}, "momentum must be from 0 to 1"),
        ):
            with pytest.raises((TypeError, ValueError), match=message):
                zoo.create("compass", parameters(), **options)
        with pytest.raises(TypeError, match=r"Unknown option 'momentun' = 0\.5 of Compass; did you mean 'momentum'"):
            zoo.optimizer_class("compass")(parameters(), momentun=0.5)  # pyright: ignore[reportCallIssue]

    def test_steps_and_checkpoints(self):
        """It steps alike in every backend, and goes on from a checkpoint, a copy and a pickle to the bit."""
        options = {"lr": 0.01, "weight_decay": 0.1, "l1": 0.01}
        loop, lists, kernel = (
            zoo.create("compass", parameters(), **options, **backend)
            for backend in ({"foreach": False}, {"foreach": True}, {})
        )
        for optimizer in (loop, lists, kernel):
            run(optimizer, range(5))
        assert_same_state(lists, loop)
        assert_same_state(kernel, loop)
        saved = zoo.create("compass", [param.detach().clone() for param in loop.param_groups[0]["params"]])
        saved.load_state_dict(loop.state_dict())
        for other in (saved, copy.deepcopy(loop), pickle.loads(pickle.dumps(loop))):
            twin = copy.deepcopy(loop)
            run(other, range(5, 10))
            run(twin, range(5, 10))
            assert_same_state(other, twin)

    def test_documentation(self):
        """README's table has its row."""
        paper = "[Bernstein et al. 2018](https://arxiv.org/abs/1802.04434)"
        row = f"| `Compass` | m ← μm + (1-μ)g; θ ← θ - α sign(m) | {paper} | `exp_avg` | its textbook form |"
        assert row in zoo_table.format_markdown()

    def test_the_zoo_forgets_it(self, monkeypatch: pytest.MonkeyPatch):
        """Where its folder is gone, so is the optimizer."""
        monkeypatch.undo()
        assert "compass" not in optizoo.list_optimizers()
        assert not hasattr(optizoo, "Compass")


CLASSES: list[Any] = list(zoo.classes().values())


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_option_is_described_once(kind: Any):
    """Each argument has one sentence, and no page repeats what the tables say."""
    lines = kind.__doc__.splitlines()
    for name in inspect.signature(kind).parameters:
        assert [line.startswith(f"    {name}: ") for line in lines].count(True) == 1, name
    source = inspect.getsource(kind)
    for name, known in {**NAMED, **{name: option for name, (_, option) in SHARED.items()}}.items():
        assert f"{name}: {known.meaning}" not in source


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_option_is_written_once(kind: Any):
    """A constructor is its signature: an option stands there, and nowhere else in the class but where it decides."""
    own = [name for name in inspect.signature(kind).parameters if name not in SHARED and name != "params"]
    source = inspect.getsource(kind.__init__)
    for name in own:
        assert source.count(f" {name}:") == 1, name
    assert "super().__init__" not in inspect.getsource(kind)


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind.namesake is not None], ids=lambda k: k.__name__)
def test_positional_order_is_torchs(kind: Any):
    """What torch's namesake takes by position is taken by the same position; SGD is Momentum's."""
    by_position = {
        each: [
            parameter.name
            for parameter in inspect.signature(each).parameters.values()
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        for each in (kind, kind.namesake)
    }
    assert by_position[kind] == by_position[kind.namesake]


def test_names_for_editors_are_those_of_the_pages():
    """What editors are told of the shop window and of the rules is what there is."""
    for module, found in ((optizoo, zoo.classes()), (rules, zoo.rules())):
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        for name in found:
            assert f"import {name} as {name}\n" in source
    exported: dict[str, Any] = {}
    exec("from optizoo import *", exported)
    assert {"Adam", "create", "explain", "rules", "schedules", "ScheduleLR"} <= exported.keys()
    assert all(getattr(optizoo, name) is exported[name] for name in optizoo.__all__)  # pyright: ignore


def test_pickles_of_version_0_1():
    """A whole optimizer that was pickled where its class stood before is read."""
    optimizer = optizoo.Adam(parameters(), lr=0.5)
    run(optimizer, range(2))
    old = pickle.dumps(optimizer, protocol=0).replace(b"optizoo.zoo.adam\n", b"optizoo.optimizers\n")
    assert b"optizoo.optimizers" in old
    assert_same_state(pickle.loads(old), optimizer)


class Named(optizoo.Adam):
    """A user's class with a constructor of its own."""

    def __init__(self, params: Any, lr: float = 0.5, extra: str = ""):
        super().__init__(params, lr=lr, betas=(0.5, 0.75))
        self.extra = extra


class Positional(optizoo.SGD):
    """One that hands its arguments on by position."""

    def __init__(self, params: Any, *args: Any, **keywords: Any):
        super().__init__(params, *args, **keywords)


class Silent(optizoo.RMSprop):
    """One without a constructor."""


class ByDict(optizoo.RuleOptimizer):
    """One that gives its defaults as torch's do, and leaves out what all optimizers share."""

    rule = staticmethod(rules.sgd)
    counts_steps = False
    checks = {"weight_decay": NAMED["weight_decay"].check}  # noqa: RUF012

    def __init__(self, params: Any, rate: float):
        super().__init__(params, {"lr": rate, "weight_decay": 0.0})


@pytest.mark.parametrize(
    ("make", "signature"),
    [
        pytest.param(lambda params: Named(params, extra="mine"), "lr: float = 0.5, extra: str = ''", id="own"),
        pytest.param(lambda params: Positional(params, 0.5, 0.9), "*args: Any, **keywords: Any", id="positional"),
        pytest.param(lambda params: Silent(params, 0.5, momentum=0.9), "alpha: float = 0.99", id="none"),
        pytest.param(lambda params: ByDict(params, 0.5), "rate: float", id="dict"),
    ],
)
def test_classes_of_users(make, signature):
    """Subclasses keep their constructors, step, and are copied."""
    optimizer = make(parameters())
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert signature.partition(":")[0] in str(inspect.signature(type(optimizer)))
    run(optimizer, range(3))
    other = copy.deepcopy(optimizer)
    run(optimizer, range(3, 5))
    run(other, range(3, 5))
    assert_same_state(other, optimizer)
    assert getattr(optimizer, "extra", "mine") == "mine"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda: optizoo.Adam(), "Adam: missing a required argument: 'params'", id="nothing"),  # pyright: ignore
        pytest.param(lambda: optizoo.SGD(parameters(), *range(9)), "SGD: too many positional arguments", id="many"),  # pyright: ignore
        pytest.param(
            lambda: optizoo.Adam(parameters(), weigth_decay=0.1),  # pyright: ignore
            "Unknown option 'weigth_decay' = 0.1 of Adam; did you mean 'weight_decay'",
            id="slip",
        ),
        pytest.param(
            lambda: optizoo.SGD(parameters(), 0.1, lr=0.2),  # pyright: ignore
            "SGD: multiple values for argument 'lr'",
            id="twice",
        ),
    ],
)
def test_calls_that_cannot_be(call, message):
    """A call that does not fit the signature is a TypeError that names class and argument."""
    with pytest.raises(TypeError, match=message):
        call()


def test_defaults_make_another():
    """``cls(groups, **defaults)``, as ZeRO and FSDP make their optimizers, gives the same options."""
    for kind in CLASSES:
        first = kind(parameters(of=kind.__name__))
        taken = {name: value for name, value in first.defaults.items() if name not in kind.fixed}
        assert kind([{"params": parameters(of=kind.__name__)}], **taken).defaults == first.defaults
