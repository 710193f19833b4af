"""Deliberate mistakes: every one is the true text of a rule with one place changed.

A test kit that lets one of them pass does not test optimizers. ``build(params)`` makes the mistaken optimizer and
``reference(params)`` the true one from ``torch.optim``, both with the options under which the mistake shows. Those of
an optimizer stand in its specimen, in :mod:`optizoo.testing.specimens`; ``MUTANTS`` has them all.

    >>> from optizoo.testing import MUTANTS, assert_equivalent
    >>> mutant = next(m for m in MUTANTS if m.name == "adam-eps-inside-root")
    >>> try:
    ...     assert_equivalent(mutant.build, mutant.reference)
    ... except AssertionError:
    ...     print("seen")
    seen
"""

import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from optizoo.core.optimizer import RuleOptimizer
from optizoo.core.rule import Rule
from optizoo.testing.specimens import specimens
from optizoo.testing.streams import Shapes
from optizoo.testing.twins import oracle, with_rules
from optizoo.zoo import optimizer_class


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        name: Says what is wrong.
        optimizer: Name of the optimizer that makes the mistake.
        true: The text in the rule; empty where the mistake is one of the options.
        mistaken: What stands in its place.
        options: Options of the constructor.
        rule: The rule in which the text stands, or a function that the rule calls, if its name is not that of the
            optimizer.
        mistaken_options: Options that the mistaken optimizer has otherwise, for what stands in no rule.
    """

    name: str
    optimizer: str
    true: str
    mistaken: str
    options: Mapping[str, Any] = field(default_factory=dict)
    rule: str = ""
    mistaken_options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, params: Any) -> RuleOptimizer:
        """Make the optimizer with the mistake; it runs as a loop, for which nothing has to be built.

        Raises:
            ValueError: The optimizer does not run the rule, or the true text does not stand there once.
        """
        kind, options = optimizer_class(self.optimizer), {"foreach": False, **self.options, **self.mistaken_options}
        optimizer = kind(params, **options)
        if not self.true:
            return optimizer
        found = [optimizer.select_rule(optimizer.complete(optimizer.param_groups[0]))]
        found += [kind.regularized] if hasattr(kind, "regularized") else []  # pyright: ignore
        rules = {rule.__name__: rule for rule in found}
        name = self.rule or self.optimizer
        callers = [rule for rule in found if name == rule.__name__] or [rule for rule in found if name in _calls(rule)]
        if not callers:
            raise ValueError(f"{kind.__name__} with the options {options} runs {', '.join(rules)}, not {name!r}")
        mistaken = {rule.__name__: _mutated(rule, name, self.true, self.mistaken) for rule in callers}
        return with_rules(kind, {**rules, **mistaken})(params, **options)

    @property
    def shapes(self) -> Shapes:
        """The shapes of parameters on which the mistake shows."""
        return specimens()[self.optimizer].shapes

    def reference(self, params: Any) -> Optimizer:
        """Make the true optimizer; in textbook form where torch has none."""
        return oracle(self.optimizer, params, **self.options)


def _calls(rule: Rule) -> tuple[str, ...]:
    """Return the names that the text of a rule uses."""
    return rule.__code__.co_names if isinstance(rule, FunctionType) else ()


@cache
def _mutated(rule: Rule, name: str, true: str, mistaken: str) -> Rule:
    """Return ``rule`` with ``mistaken`` in place of ``true``, which must stand once in the text.

    The text is that of ``rule``, or of the function ``name`` that it calls.
    """
    function = rule if rule.__name__ == name else rule.__globals__[name]
    text = textwrap.dedent(inspect.getsource(function))
    if text.count(true) != 1:
        raise ValueError(f"the text {true!r} stands {text.count(true)} times in rule {name!r}; it must stand once")
    namespace = dict(function.__globals__)
    exec(compile(text.replace(true, mistaken), f"<mutated {name}>", "exec"), namespace)
    if function is rule:
        return namespace[name]
    caller = FunctionType(rule.__code__, {**rule.__globals__, name: namespace[name]}, rule.__name__, rule.__defaults__)
    caller.__kwdefaults__ = rule.__kwdefaults__
    return caller


DECAY = {"weight_decay": 0.1}
TINY_LR = {"lr": 1e-5}
MOMENTUM = {"lr": 0.01, "momentum": 0.9}
ZERO = {"weight_decay": 1.0, "weight_decay_mode": "independent"}  # every update begins at weights of exactly 0
_OUTSIDE = {"weight_decay": 0.01, "weight_decay_mode": "independent", "lr": 0.01}
_CAUTIOUS = {"weight_decay": 0.1, "weight_decay_mode": "cautious", "lr": 0.01}
_NET = {"lr": 0.01, "weight_decay": 0.1, "l1": 0.01}

_SHARED = (
    # The modes of the decay, and the proximal step
    Mutant("independent-decay-times-lr", "adamw", "-lr / max_lr * weight_decay", "-lr * weight_decay",
           _OUTSIDE, "regularized"),
    Mutant("independent-decay-without-schedule", "adamw", "-lr / max_lr * weight_decay", "-weight_decay",
           _OUTSIDE, "regularized"),
    Mutant("decoupled-decay-coupled", "sgd", 'weight_decay_mode == "coupled"', 'weight_decay_mode == "decoupled"',
           {**MOMENTUM, **DECAY, "weight_decay_mode": "decoupled"}, "regularized"),
    Mutant("decoupled-decay-without-lr", "rmsprop", "alpha=-lr * weight_decay", "alpha=-1e-3 * weight_decay",
           {**DECAY, **TINY_LR, "weight_decay_mode": "decoupled"}, "regularized"),
    Mutant("cautious-decay-everywhere", "adamw", ".clamp_max(0) + 1", ".clamp_max(0) * 0 + 1",
           _CAUTIOUS, "regularized"),
    Mutant("cautious-decay-the-other-way", "adamw", "(start - param).sign()", "(param - start).sign()",
           _CAUTIOUS, "regularized"),
    Mutant("cautious-decay-not-at-zero", "adamw", ".clamp_max(0) + 1", ".clamp_min(0)", _CAUTIOUS, "regularized"),
    Mutant("cautious-decay-by-the-gradient", "adamw", "(start - param).sign()", "grad.sign()",
           _CAUTIOUS, "regularized"),
    Mutant("cautious-decay-without-lr", "adamw", "start, value=-lr *", "start, value=-1e-3 *",
           _CAUTIOUS, "regularized"),
    Mutant("cautious-decay-of-the-moved", "adamw", "addcmul(agrees, start,", "addcmul(agrees, param,",
           _CAUTIOUS, "regularized"),
    Mutant("coupled-decay-twice", "sgd", "if weight_decay_mode is None else 0", "", _NET, "regularized"),
    Mutant("l1-without-lr", "sgd", "clamp_max(lr * l1)", "clamp_max(l1)", _NET, "regularized"),
    Mutant("l1-one-sided", "sgd", ".clamp_min(-lr * l1)", ".clamp_min(0)", _NET, "regularized"),
    Mutant("l1-subgradient", "sgd", "param - param.clamp_min(-lr * l1).clamp_max(lr * l1)",
           "param.add(param.sign(), alpha=-lr * l1)", _NET, "regularized"),
    Mutant("l1-before-the-update", "sgd", "param, *state = rule(param,",
           "param, *state = rule(param - param.clamp_min(-lr * l1).clamp_max(lr * l1),",
           {**MOMENTUM, "l1": 0.01}, "regularized"),
    Mutant("l1-in-the-gradient", "adam", "param, *state = rule(param, grad,",
           "param, *state = rule(param, grad.add(param.sign(), alpha=l1),", {"l1": 0.01}, "regularized"),
)  # fmt: skip

if TYPE_CHECKING:
    MUTANTS: tuple[Mutant, ...]
    """Every mutant, in the order of the zoo, and at the end those of what all optimizers share."""


def __getattr__(name: str) -> Any:
    if name == "MUTANTS":
        return (*(mutant for specimen in specimens().values() for mutant in specimen.mutants), *_SHARED)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
