"""The zoo: one page for each family of optimizers, with the rules and the classes, found by walking this package.

A new optimizer is a new page: a function that is its rule, and a class whose constructor is its signature.
"""

import inspect
import pkgutil
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from optizoo.core.names import did_you_mean

if TYPE_CHECKING:
    from optizoo.core.decay import RegularizedOptimizer as RegularizedOptimizer
    from optizoo.core.optimizer import RuleOptimizer


def pages() -> tuple[ModuleType, ...]:
    """Return the modules of the zoo, sorted by name."""
    return _pages(tuple(__path__))


@lru_cache
def _pages(folders: tuple[str, ...]) -> tuple[ModuleType, ...]:
    names = sorted(module.name for module in pkgutil.iter_modules(folders) if not module.name.startswith("_"))
    return tuple(import_module(f"{__name__}.{name}") for name in names)


def rules() -> dict[str, Any]:
    """Return the rules on all pages, and the functions that they share, by name."""
    return {
        name: value
        for page in pages()
        for name, value in vars(page).items()
        if inspect.isfunction(value) and value.__module__ == page.__name__ and not name.startswith("_")
    }


def classes() -> dict[str, "type[RuleOptimizer]"]:
    """Return the optimizers on all pages by the names of their classes, sorted by the complexity of their rules."""
    return _classes(pages())


@lru_cache
def _classes(found: tuple[ModuleType, ...]) -> dict[str, Any]:
    kinds: list[Any] = [
        kind
        for page in found
        for kind in vars(page).values()
        if inspect.isclass(kind) and kind.__module__ == page.__name__ and hasattr(kind, "select_rule")
    ]
    return {kind.__name__: kind for kind in sorted(kinds, key=lambda kind: kind.order)}


def list_optimizers() -> list[str]:
    """Return the names that :func:`create` knows, sorted by the complexity of their rules.

    >>> list_optimizers()  # doctest: +ELLIPSIS
    ['sgd', 'momentum', ..., 'adam', 'adamw', ..., 'nadam', 'radam', ...]
    """
    return [name.lower() for name in classes()]


def optimizer_class(name: str) -> "type[RuleOptimizer]":
    """Return the class behind a name of :func:`list_optimizers`, in any case.

    Raises:
        ValueError: The name is unknown.
    """
    known = {title.lower(): kind for title, kind in classes().items()}
    if name.lower() not in known:
        raise ValueError(f"Unknown optimizer {name!r}; {did_you_mean(name.lower(), known)}")
    return known[name.lower()]


def create(name: str, model_or_params: Any, **options: Any) -> "RuleOptimizer":
    """Make an optimizer by name, for configs and scripts.

    Args:
        name: A name of :func:`list_optimizers`, in any case.
        model_or_params: A module, whose named parameters are optimized, or what the constructor takes as ``params``.
            Of a module, ``"muon"`` and ``"normuon"`` get the hidden matrices and AdamW the rest, with ``adamw_lr``,
            ``adamw_betas`` and ``adamw_eps``, in one optimizer.
        **options: The keyword arguments of the constructor.

    Raises:
        ValueError: The name or an option is unknown, or an option is out of range.
        TypeError: An option has the wrong type.

    >>> import torch
    >>> create("adamw", torch.nn.Linear(2, 1), lr=0.1).param_groups[0]["param_names"]
    ['weight', 'bias']
    """
    kind: Any = optimizer_class(name)
    groups: Any = None
    if kind.least_dimensions and isinstance(model_or_params, torch.nn.Module):
        mixed = import_module(f"{__name__}._mixed")
        kind, groups = mixed.MIXED[kind], mixed.muon_groups
    of_groups = [option for option in inspect.signature(groups).parameters if option != "model"] if groups else []
    known = [*of_groups, *(option for option in inspect.signature(kind).parameters if option != "params")]
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"Unknown option {option!r} = {value!r} of {kind.__name__}; {did_you_mean(option, known)}")
    if groups is not None:
        model_or_params = groups(model_or_params, **{name: options.pop(name) for name in of_groups if name in options})
    elif isinstance(model_or_params, torch.nn.Module):
        model_or_params = model_or_params.named_parameters()
    return kind(model_or_params, **options)


def __getattr__(name: str) -> Any:
    if name == "RegularizedOptimizer":
        return import_module("optizoo.core.decay").RegularizedOptimizer
    if name.startswith("_") or name not in (known := classes()):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return known[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *classes()})
