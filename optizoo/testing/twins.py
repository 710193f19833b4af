"""For every optimizer of the zoo its twin in ``torch.optim``, and variants of it that run other rules."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch.optim import Optimizer

from optizoo.optimizer import Rule, RuleOptimizer
from optizoo.optimizers import optimizer_class
from optizoo.validation import did_you_mean

_TWINS: dict[str, type[Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def torch_twin(name: str, model_or_params: Any, **options: Any) -> Optimizer | None:
    """Make the ``torch.optim`` optimizer that ``optizoo.create(name, model_or_params, **options)`` must equal.

    Args:
        name: A name of :func:`optizoo.list_optimizers`.
        model_or_params: A module or what constructors take as ``params``.
        **options: The options of optizoo's constructor; ``foreach`` included, since torch's loop and lists may differ.

    Returns:
        The optimizer, or ``None`` where torch has none: ``lr_in_velocity=True``, ``bias_correction=False``.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in _TWINS:
        raise ValueError(f"Unknown optimizer {name!r}; {did_you_mean(name, _TWINS)}")
    ours = optimizer_class(name)
    options = dict(options)
    for extra, neutral in ours.neutral_extras.items():
        if options.pop(extra, neutral) != neutral:
            return None
    if name == "momentum":
        options.setdefault("momentum", 0.9)
    if isinstance(model_or_params, torch.nn.Module):
        model_or_params = model_or_params.named_parameters()
    return _TWINS[name](model_or_params, **options)


def with_rules(kind: type[RuleOptimizer], namespace: ModuleType | Mapping[str, Any]) -> Callable[..., RuleOptimizer]:
    """Return a subclass of ``kind`` that takes its rules, by name, from ``namespace`` instead of ``optizoo.rules``.

    ``with_rules(optizoo.Adam, optizoo.testing.textbook)`` is Adam in textbook form.
    """
    lookup = vars(namespace) if isinstance(namespace, ModuleType) else namespace

    class WithRules(kind):
        def select_rule(self, group: Mapping[str, Any]) -> Rule:
            return lookup[super().select_rule(group).__name__]

    WithRules.__name__ = WithRules.__qualname__ = kind.__name__
    return WithRules
