"""Param groups of a model: what is decayed and what is not, and which parameters no optimizer holds."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def no_decay_by_default(name: str, param: Tensor, module: nn.Module) -> bool:
    """Return whether a parameter is a bias, or belongs to a normalisation: decay would only take away its scale."""
    return name.rpartition(".")[2] == "bias" or param.dim() <= 1 or isinstance(module, NORMS)


def param_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    no_decay: Iterable[str] | Callable[[str, Tensor, nn.Module], bool] = no_decay_by_default,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    verbose: bool = True,
) -> list[dict[str, Any]]:
    """Return the param groups of a model: one with weight decay, one without, and those that ``options`` makes.

    Parameters keep the order of ``model.named_parameters()`` in their group, and groups that of their first parameter;
    frozen ones (``requires_grad=False``) are left out; one that several modules share stands once, under its first
    name. Groups hold names, so that checkpoints are matched by them. ``DistributedDataParallel`` and compiled modules
    are looked through: the names are those of the module inside.

    Args:
        model: The model.
        weight_decay: The decay of those that have one.
        no_decay: Which parameters have none: patterns for names such as ``("*.bias", "embedding.*")``, or a function
            ``(name, param, module) -> bool``. The default: biases, vectors and scalars, and all of a normalisation.
        options: For name patterns, further options: ``{"head.*": {"lr": 1e-2}}``; where several match, later ones win.
            Parameters with equal options share a group.
        verbose: Print what was done, a line for each group.

    Raises:
        ValueError: A pattern matches no parameter, or no parameter is trainable.
        TypeError: ``model`` is no module.

    Example:
        >>> import torch, optizoo
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
        >>> groups = optizoo.param_groups(model, weight_decay=0.1, options={"2.*": {"lr": 0.01}})
        weight_decay=0.1: 1 tensor, 12 elements: 0.weight
        weight_decay=0.0: 3 tensors, 12 elements: 0.bias, 1.weight, 1.bias
        weight_decay=0.1, lr=0.01: 1 tensor, 8 elements: 2.weight
        weight_decay=0.0, lr=0.01: 1 tensor, 2 elements: 2.bias
        >>> optimizer = optizoo.AdamW(groups)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    exempt = _matcher("no_decay", no_decay) if not callable(no_decay) else no_decay
    extras = {pattern: _matcher("options", (pattern,)) for pattern in options or {}}
    groups: dict[tuple, dict[str, Any]] = {}
    for name, param, module in trainable(model):
        chosen: dict[str, Any] = {"weight_decay": 0.0 if exempt(name, param, module) else weight_decay}
        for pattern, matches in extras.items():
            if matches(name, param, module):
                chosen |= (options or {})[pattern]
        group = groups.setdefault(tuple(sorted(chosen.items(), key=lambda item: item[0])), {"params": [], **chosen})
        group["params"].append((name, param))
    if not groups:
        raise ValueError(f"{type(model).__name__} has no trainable parameter; set requires_grad=True for some")
    for matches in (exempt, *extras.values()):
        if isinstance(matches, _Patterns):
            matches.require_used()
    if verbose:
        print(*map(_described, groups.values()), sep="\n")
    return list(groups.values())


def check_bound(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Return the names of the trainable parameters that no group of the optimizer holds; it never trains them.

    That happens where a parameter is replaced after the optimizer was made (``model.fc = ...``, ``model.to`` under
    some settings), a layer is added, or one is unfrozen late.

    >>> import torch, optizoo
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    >>> optimizer = optizoo.SGD(model.parameters())
    >>> model[1] = torch.nn.Linear(2, 3)
    >>> check_bound(model, optimizer)
    ['1.weight', '1.bias']
    """
    held = {id(param) for group in optimizer.param_groups for param in group["params"]}
    return [name for name, param, _ in trainable(model) if id(param) not in held]


class _Patterns:
    """Matches names against shell patterns, and knows which of them never matched."""

    def __init__(self, argument: str, patterns: Iterable[str]):
        self.argument = argument
        self.unused = dict.fromkeys(patterns)
        self.patterns = tuple(self.unused)

    def __call__(self, name: str, _param: Tensor, _module: nn.Module) -> bool:
        matching = [pattern for pattern in self.patterns if fnmatchcase(name, pattern)]
        for pattern in matching:
            self.unused.pop(pattern, None)
        return bool(matching)

    def require_used(self) -> None:
        if self.unused:
            raise ValueError(
                f"{self.argument} has the pattern {next(iter(self.unused))!r}, which matches no trainable parameter; "
                "patterns are those of shells: '*.bias', 'layer1.*'"
            )


def _matcher(argument: str, patterns: Iterable[str]) -> _Patterns:
    return _Patterns(argument, (patterns,) if isinstance(patterns, str) else patterns)


def trainable(model: nn.Module) -> Iterable[tuple[str, Tensor, nn.Module]]:
    """Yield name, parameter and module of every trainable parameter once."""
    seen = set()
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    for prefix, module in model.named_modules():
        for own, param in module.named_parameters(recurse=False):
            if param.requires_grad and id(param) not in seen:
                seen.add(id(param))
                yield f"{prefix}.{own}".replace("_orig_mod.", "").removeprefix("."), param, module


def _described(group: Mapping[str, Any]) -> str:
    options = ", ".join(f"{name}={value!r}" for name, value in group.items() if name != "params")
    names = [name for name, _ in group["params"]]
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    tensors = "1 tensor" if len(names) == 1 else f"{len(names)} tensors"
    return f"{options}: {tensors}, {sum(param.numel() for _, param in group['params'])} elements: {shown}"
