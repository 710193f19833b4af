"""Param groups: the options that an optimizer declares, checked wherever they come from."""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from optizoo.backends import fused_obstacle
from optizoo.core.overlap import overlap
from optizoo.core.rule import Rule
from optizoo.core.validation import Check, check_options, choice, flag, number, optional_flag


class GroupedOptimizer(Optimizer):
    """A ``torch.optim.Optimizer`` that declares its options, states and counters, and checks its param groups."""

    checks: ClassVar[Mapping[str, Check]] = {}
    """For every option beside those of all optimizers, its check."""

    state_switches: ClassVar[Mapping[str, str]] = {}
    """For every optional state that starts as zeros, the option that switches it on."""

    initial_values: ClassVar[Mapping[str, str]] = {}
    """For every state that does not start at zero, the option at whose value it starts."""

    products: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    """Numbers kept beside ``step`` that a rule names: for each, the function ``(step, **options)`` of
    :mod:`optizoo.rules` whose values over all updates it is the product of."""

    counts_steps: ClassVar[bool] = True
    """Whether the state holds ``step``, as it does in the torch namesake."""

    supports_sparse: ClassVar[bool] = False
    """Whether sparse gradients have a meaning."""

    neutral_extras: ClassVar[Mapping[str, Any]] = {}
    """Options that torch's namesake lacks, with the value at which both compute the same. At that value they stand in
    no group, so that groups and checkpoints have torch's keys."""

    _common_checks: ClassVar[Mapping[str, Check]] = {
        "lr": number(),
        "maximize": flag,
        "foreach": optional_flag,
        "fused": optional_flag,
        "capturable": flag,
        "differentiable": flag,
        "nonfinite": choice("propagate", "skip", "raise"),
    }

    _members: set[int] | None = None
    """While the constructor adds groups: the identities of all parameters and tensor rates so far."""

    def __init__(self, params: Any, defaults: dict[str, Any]):
        self._device_memory: dict[tuple, dict] = {}  # tables of pointers on a GPU
        defaults = self._checked(defaults, where=f"{type(self).__name__}, constructor")
        self._members = set()
        super().__init__(params, defaults)
        del self._members
        self._check_overlap((), f"{type(self).__name__}, constructor")

    def select_rule(self, group: Mapping[str, Any]) -> Rule:
        """Return the rule that serves ``group``."""
        raise NotImplementedError

    def rule_for(self, group: Mapping[str, Any]) -> Rule:
        """Return the rule of :meth:`select_rule` with all that options of the class put around it."""
        return self.select_rule(group)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Check what only options together can tell; subclasses extend it.

        Raises:
            ValueError: Two options exclude each other.
            RuntimeError: ``fused=True`` cannot be honoured.
        """
        if group["fused"] and group["foreach"]:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together; set one of them")
        if group["fused"] and group["differentiable"]:
            raise RuntimeError("`fused` does not support `differentiable`; set one of them")
        if group["foreach"] and group["differentiable"]:
            raise ValueError("foreach=True does not support differentiable=True; set foreach=None")

    def _checked(self, options: Mapping[str, Any], *, where: str, known: Collection[str] = ()) -> dict[str, Any]:
        kept = check_options(options, {**self._common_checks, **self.checks}, where=where, known=known)
        try:
            self.check_group(self.complete(kept))
        except (ValueError, RuntimeError) as error:
            raise type(error)(f"{error} ({where})") from None
        extras = self.neutral_options()
        return {name: value for name, value in kept.items() if name not in extras or value != extras[name]}

    @classmethod
    def neutral_options(cls) -> dict[str, Any]:
        """Return the neutral values of all options that stand in a group only where they are not neutral."""
        return {"nonfinite": "propagate", **cls.neutral_extras}

    def complete(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return the group with the options that it leaves out because they are neutral."""
        return {**self.neutral_options(), **group}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with options of their own; what it does not say, the constructor said.

        The dict of the caller is read, never kept or changed.

        Args:
            param_group: ``{"params": tensors or (name, tensor) pairs, option: value, ...}``.

        Raises:
            TypeError: ``param_group`` or an option has the wrong type.
            ValueError: An option is out of range or unknown, a parameter stands in two groups, or two share memory.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        where = f"{type(self).__name__}, param group {len(self.param_groups)}"
        if "params" not in param_group:
            raise ValueError(f"param_group has no 'params', only {sorted(param_group)}; add them ({where})")
        group = self._checked({**self.defaults, **param_group}, where=where)
        # torch fills in the defaults: what is neutral in this group, but not there, must stand in it.
        extras = self.neutral_options()
        group |= {name: extras[name] for name in extras.keys() & self.defaults if name not in group}
        if isinstance(group["params"], Tensor):
            group["params"] = [group["params"]]
        if not isinstance(group["params"], set):  # torch refuses a set
            group["params"] = list(group["params"])
            tensors = [item[1] if isinstance(item, tuple) else item for item in group["params"]]
            self._check_fused(group, tensors, where)
            if self._members is None:
                self._check_overlap(tensors, where)
            _warn_of_eps(group, tensors, where)
        self._plan = None
        self._append(group)

    def _append(self, group: dict[str, Any]) -> None:
        """Let torch check a group and append it, without its search of all other groups for each new one."""
        groups, members = self.param_groups, self._members
        if members is None:
            members = {id(member) for other in groups for member in (*other["params"], other["lr"])}
        if isinstance(group["lr"], Tensor) and id(group["lr"]) in members:
            group["lr"] = group["lr"].clone()  # schedulers fill it in place, each group's with its own rate
        self.param_groups = groups[:1]  # torch holds the names of a group against those of another
        try:
            super().add_param_group(group)
        finally:
            self.param_groups = groups
        new = set(map(id, group["params"]))
        if not members.isdisjoint(new):
            raise ValueError("some parameters appear in more than one parameter group")
        members |= {*new, id(group["lr"])}
        groups.append(group)

    def _check_overlap(self, more: Iterable[Any], where: str) -> None:
        """Raise ValueError where parameters, those here or more, share elements in memory: both would move them."""
        known = (param for group in self.param_groups for param in group["params"])
        if pair := overlap((*known, *more)):
            shapes = " and ".join(str(tuple(tensor.shape)) for tensor in pair)
            raise ValueError(
                f"two parameters (of shapes {shapes}) share elements in memory, which would be updated twice; give "
                f"the tensor that both are views of instead ({where})"
            )

    def _check_fused(self, group: Mapping[str, Any], params: Iterable[Any], where: str) -> None:
        """Raise RuntimeError where ``fused=True`` is asked for and a parameter stands in its way."""
        group = self.complete(group)
        if group["fused"]:
            for param in params:
                if isinstance(param, Tensor) and (obstacle := fused_obstacle(group, param)) is not None:
                    raise RuntimeError(f"fused=True cannot be honoured: {obstacle}; use fused=None ({where})")


def _warn_of_eps(group: Mapping[str, Any], params: Iterable[Any], where: str) -> None:
    """Warn where the type of a parameter has no number as small as eps: it divides by 0 then."""
    eps = group.get("eps")
    if not isinstance(eps, float) or not eps:
        return
    dtypes = {param.dtype for param in params if isinstance(param, Tensor) and param.is_floating_point()}
    for dtype in dtypes:
        info = torch.finfo(dtype)
        if eps <= info.smallest_normal * info.eps / 2:  # half the smallest number above 0
            warnings.warn(
                f"eps = {eps:g} is 0 in {dtype}, where small gradients end in NaN; give at least "
                f"{info.smallest_normal:.1g} ({where})",
                UserWarning,
                stacklevel=4,
            )
