"""For every optimizer of the zoo its twin in ``torch.optim``, and variants of it that run other rules."""

from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from optizoo.backends.trace import Program, trace
from optizoo.core.checkpoint import EXECUTION_OPTIONS
from optizoo.core.optimizer import RuleOptimizer
from optizoo.core.rule import Rule, schema
from optizoo.testing import textbook
from optizoo.testing.specimens import specimens
from optizoo.zoo import create, optimizer_class


def has_torch_twin(name: str, **options: Any) -> bool:
    """Return whether ``torch.optim`` has an optimizer that computes what optizoo's does with these options.

    It has none with ``lr_in_velocity=True`` or ``bias_correction=False``, for example.

    Raises:
        ValueError: The name is unknown.

    >>> has_torch_twin("adam", amsgrad=True), has_torch_twin("adam", bias_correction=False)
    (True, False)
    """
    extras = optimizer_class(name).neutral_options()
    specimen = specimens().get(name.lower())
    has_twin = specimen is not None and hasattr(torch.optim, specimen.twin)
    computing = {extra: neutral for extra, neutral in extras.items() if extra not in EXECUTION_OPTIONS}
    return has_twin and all(options.get(extra, neutral) == neutral for extra, neutral in computing.items())


def torch_twin(name: str, model_or_params: Any, **options: Any) -> Optimizer:
    """Make the ``torch.optim`` optimizer that ``optizoo.create(name, model_or_params, **options)`` must equal.

    Args:
        name: A name of :func:`optizoo.list_optimizers`.
        model_or_params: A module or what constructors take as ``params``.
        **options: The options of optizoo's constructor; ``foreach`` included, where torch has it: its loop and lists may
            differ.

    Raises:
        ValueError: The name is unknown, or torch has no such optimizer (:func:`has_torch_twin`).
    """
    if not has_torch_twin(name, **options):
        raise ValueError(f"torch.optim has no twin of {name} with the options {options}; ask has_torch_twin first")
    specimen, extras = specimens()[name.lower()], optimizer_class(name).neutral_options()
    options = {option: value for option, value in options.items() if option not in extras}
    if isinstance(model_or_params, torch.nn.Module):
        model_or_params = model_or_params.named_parameters()
    return getattr(torch.optim, specimen.twin)(model_or_params, **{**specimen.twin_options, **options})


def oracle(name: str, params: Any, **options: Any) -> Optimizer:
    """Make what ``optizoo.create(name, params, **options)`` must compute: its twin, or its textbook form.

    Either runs as a loop.

    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> type(oracle("adam", [weight])).__module__, type(oracle("lion", [weight])).__module__
    ('torch.optim.adam', 'optizoo.testing.twins')
    """
    if has_torch_twin(name, **options):
        return torch_twin(name, params, foreach=False, **options)
    return with_rules(optimizer_class(name), textbook)(params, foreach=False, **options)


def program(name: str, **options: Any) -> Program:
    """Return what an optimizer does to a matrix in its first update, as kernels and lists are made from it.

    >>> program("adam").elementwise, program("lamb").elementwise
    (True, False)
    """
    optimizer = create(name, [Parameter(torch.zeros(4, 3))], **options)
    (group,) = optimizer.param_groups
    rule, (states, _, _) = optimizer.chosen(group)
    declared = schema(rule)
    given = {"step": 1.0, "shape": (4, 3), "machine_eps": torch.finfo(torch.float32).eps}
    further = {**{key: given[key] for key in declared.given}, **declared.numbers}
    return trace(rule, states, **{**optimizer.arguments(group, rule, "foreach"), **further})[0]


def kernel_tier(name: str, dtype: torch.dtype, **options: Any) -> str:
    """Return the tier in which a kernel must equal the loop; see :func:`optizoo.testing.assert_equivalent`.

    Where every element goes its own way that is T1, bit for bit. A kernel sums up a tensor in another order than torch
    does, and then T2 is asked for in float64 and T3 in float32: what it computes, and twice the error of the loop.
    In 16 bits, where a kernel rounds once and the loop after every word, it is T4 for all.

    >>> kernel_tier("adam", torch.float32), kernel_tier("lamb", torch.float32), kernel_tier("lamb", torch.float64)
    ('T1', 'T3', 'T2')
    """
    if dtype.itemsize == 2:
        return "T4"
    if program(name, **options).elementwise:
        return "T1"
    return "T2" if dtype == torch.float64 else "T3"


def with_rules(kind: type[RuleOptimizer], namespace: ModuleType | Mapping[str, Any]) -> Callable[..., RuleOptimizer]:
    """Return a subclass of ``kind`` that takes its rules, by name, from ``namespace`` instead of its page.

    ``with_rules(optizoo.Adam, optizoo.testing.textbook)`` is Adam in textbook form.
    """

    @cache
    def rule(name: str) -> Rule:
        return getattr(namespace, name) if isinstance(namespace, ModuleType) else namespace[name]

    class WithRules(kind):
        def select_rule(self, group: Mapping[str, Any]) -> Rule:
            return rule(super().select_rule(group).__name__)

    if "regularized" in (vars(namespace) if isinstance(namespace, ModuleType) else namespace):
        WithRules.regularized = staticmethod(rule("regularized"))  # pyright: ignore[reportAttributeAccessIssue]
    WithRules.__name__ = WithRules.__qualname__ = kind.__name__
    return WithRules
