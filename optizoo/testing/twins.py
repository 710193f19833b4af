"""For every optimizer of the zoo its twin in ``torch.optim``, and variants of it that run other rules."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch.optim import Optimizer

from optizoo import rules
from optizoo.core.optimizer import RuleOptimizer
from optizoo.core.rule import Rule
from optizoo.zoo import optimizer_class

_TWINS: dict[str, type[Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": torch.optim.SGD,
    "rprop": torch.optim.Rprop,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
}


def has_torch_twin(name: str, **options: Any) -> bool:
    """Return whether ``torch.optim`` has an optimizer that computes what optizoo's does with these options.

    It has none with ``lr_in_velocity=True`` or ``bias_correction=False``, for example.

    Raises:
        ValueError: The name is unknown.

    >>> has_torch_twin("adam", amsgrad=True), has_torch_twin("adam", bias_correction=False)
    (True, False)
    """
    extras = optimizer_class(name).neutral_options()
    return name in _TWINS and all(options.get(extra, neutral) == neutral for extra, neutral in extras.items())


def torch_twin(name: str, model_or_params: Any, **options: Any) -> Optimizer:
    """Make the ``torch.optim`` optimizer that ``optizoo.create(name, model_or_params, **options)`` must equal.

    Args:
        name: A name of :func:`optizoo.list_optimizers`.
        model_or_params: A module or what constructors take as ``params``.
        **options: The options of optizoo's constructor; ``foreach`` included, since torch's loop and lists may differ.

    Raises:
        ValueError: The name is unknown, or torch has no such optimizer (:func:`has_torch_twin`).
    """
    if not has_torch_twin(name, **options):
        raise ValueError(f"torch.optim has no twin of {name} with the options {options}; ask has_torch_twin first")
    if name == "momentum":
        options = {"momentum": 0.9, **options}
    extras = optimizer_class(name).neutral_options()
    options = {option: value for option, value in options.items() if option not in extras}
    if isinstance(model_or_params, torch.nn.Module):
        model_or_params = model_or_params.named_parameters()
    return _TWINS[name](model_or_params, **options)


def with_rules(kind: type[RuleOptimizer], namespace: ModuleType | Mapping[str, Any]) -> Callable[..., RuleOptimizer]:
    """Return a subclass of ``kind`` that takes its rules, by name, from ``namespace`` instead of ``optizoo.rules``.

    ``with_rules(optizoo.Adam, optizoo.testing.textbook)`` is Adam in textbook form.
    """
    lookup = vars(namespace) if isinstance(namespace, ModuleType) else namespace

    class WithRules(kind):
        regularized = staticmethod(lookup.get("regularized", rules.regularized))

        def select_rule(self, group: Mapping[str, Any]) -> Rule:
            return lookup[super().select_rule(group).__name__]

    WithRules.__name__ = WithRules.__qualname__ = kind.__name__
    return WithRules
