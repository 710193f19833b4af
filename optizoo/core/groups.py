"""Param groups: the options that an optimizer declares, checked wherever they come from."""

import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from optizoo.backends import fused_obstacle
from optizoo.core.checks import Check, OutOfRangeError, warn_of_range
from optizoo.core.declaration import declare
from optizoo.core.master import mastered
from optizoo.core.options import SHARED, TORCHS_KEYS, Common, check_of, check_options
from optizoo.core.overlap import overlap
from optizoo.core.rule import Rule, around, schema

_NEUTRAL = ("nonfinite", "across_processes", "master", "state_dtype")


class GroupedOptimizer(Optimizer):
    """A ``torch.optim.Optimizer`` that declares its options, states and counters, and checks its param groups."""

    rule: Rule
    """The rule, where one serves all options; else the class extends :meth:`select_rule`."""

    checks: ClassVar[Mapping[str, Check]] = {}
    """For every option beside ``lr`` and those of all optimizers, its check. A class whose constructor is its signature
    (:func:`~optizoo.core.declaration.constructor`) says those that the kind of the default does not tell."""

    namesake: ClassVar[type[Optimizer] | None] = None
    """The class of ``torch.optim`` that computes the same: its arguments and group keys are kept."""

    shared: ClassVar[Collection[str]] = Common.__annotations__
    """The options that the class shares with all others."""

    shared_defaults: ClassVar[Mapping[str, Any]] = {}
    """Defaults of shared options, where they are not those of the table."""

    group_options: ClassVar[Mapping[str, Any]] = {}
    """Options that only param groups have, with the values that stand for those left out."""

    fixed: ClassVar[Mapping[str, Any]] = {}
    """Options that stand in every group and in no constructor."""

    order: ClassVar[float] = float("inf")
    """Where lists name the class, among those of the other pages: they go by the complexity of the rules."""

    state_switches: ClassVar[Mapping[str, str]] = {}
    """For every optional state that starts as zeros, the option that switches it on."""

    initial_values: ClassVar[Mapping[str, str]] = {}
    """For every state or running number that starts at the value of an option, the option."""

    numbers: ClassVar[Mapping[str, float]] = {}
    """The running numbers of :attr:`rule`, which are kept beside ``step``, and where each starts if no option of
    :attr:`initial_values` says so; a class that chooses among rules says them itself."""

    remakes_states: ClassVar[bool] = True
    """Whether, of a parameter that stands twice, each first update makes the states that its rule makes, as torch does
    where it makes them in the update."""

    counts_steps: ClassVar[bool] = True
    """Whether the state holds ``step``, as it does in the torch namesake."""

    supports_sparse: ClassVar[bool] = False
    """Whether sparse gradients have a meaning."""

    supports_complex: ClassVar[bool] = True
    """Whether complex parameters have a meaning: real and imaginary parts as weights of their own."""

    least_dimensions: ClassVar[int] = 0
    """How many dimensions a parameter has at least."""

    neutral_extras: ClassVar[Mapping[str, Any]] = {}
    """Options that torch's namesake lacks, with the value at which both compute the same. At that value they stand in
    no group, so that groups and checkpoints have torch's keys."""

    _common_checks: ClassVar[Mapping[str, Check]] = {
        name: check_of(name, SHARED[name][1].default if name in SHARED else 0.0)
        for name in ("lr", *Common.__annotations__)
    }

    _members: set[int] | None = None
    """While the constructor adds groups: the identities of all parameters and tensor rates so far."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "rule" in vars(cls) and "numbers" not in vars(cls):
            cls.numbers = schema(cls.rule).numbers
        cls.state_switches = {**cls.state_switches, "param_rest": "master"}
        declare(cls)

    def __init__(self, params: Any, defaults: dict[str, Any]):
        self._start(params, defaults)

    def _start(self, params: Any, defaults: dict[str, Any]) -> None:
        """Begin with these params and options; what all optimizers share may be left out."""
        self.forget()
        missing = {name: SHARED[name][1].default for name in Common.__annotations__ if name not in defaults}
        defaults = self._checked({**defaults, **missing}, where=f"{type(self).__name__}, constructor")
        self._members = set()
        super().__init__(params, defaults)
        del self._members
        self._check_overlap((), f"{type(self).__name__}, constructor")

    def forget(self) -> None:
        """Drop what was found out in earlier steps; groups and state are others now."""

    @property
    def option_names(self) -> frozenset[str]:
        """The names of all options that a param group may have; other keys belong to others."""
        return frozenset({*self._common_checks, *self.checks})

    def select_rule(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """Return the rule that serves ``group``: :attr:`rule`, where not several share the work."""
        return self.rule

    def rule_for(self, group: Mapping[str, Any]) -> Rule:
        """Return the rule of :meth:`select_rule` with all that options put around it."""
        rule = self.wrapped_rule(group)
        return around(mastered, rule) if group["master"] else rule

    def wrapped_rule(self, group: Mapping[str, Any]) -> Rule:
        """Return the rule of :meth:`select_rule` with what options of the class put around it."""
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

    def _checked(
        self, options: Mapping[str, Any], *, where: str, known: Collection[str] = (), loading: bool = False
    ) -> dict[str, Any]:
        """Return the options of a group as they are kept.

        Args:
            options: The options.
            where: Where they stand, for messages.
            known: Keys that pass, whatever they are.
            loading: Whether a run has stepped with them: values out of range warn and are kept.
        """
        checks = {**self._common_checks, **self.checks}
        kept = check_options(options, checks, where=where, known=known, loading=loading)
        try:
            self.check_group(self.complete(kept))
        except OutOfRangeError as error:
            if not loading:
                raise OutOfRangeError(f"{error} ({where})") from None
            warn_of_range(error, where)
        except (ValueError, RuntimeError) as error:
            raise type(error)(f"{error} ({where})") from None
        extras = self.neutral_options()
        return {name: value for name, value in kept.items() if name not in extras or value != extras[name]}

    def _keys_of_others(self, saved: Mapping[str, Any]) -> set[str]:
        """Return the keys of a saved group that say nothing of its class: those of the program that saved it.

        Where only switches are missing, as in a checkpoint of an older version, those that are no option anywhere.
        """
        switches = {name for name, value in self.defaults.items() if isinstance(value, bool)}
        own = self.defaults.keys() - self.neutral_options().keys() - self._common_checks.keys()
        if own - switches - saved.keys():
            return TORCHS_KEYS
        kinds, options = [GroupedOptimizer], set[str]()
        for kind in kinds:
            kinds += kind.__subclasses__()
            options |= kind.checks.keys()
        return TORCHS_KEYS | saved.keys() - options

    @classmethod
    def neutral_options(cls) -> dict[str, Any]:
        """Return the neutral values of all options that stand in a group only where they are not neutral."""
        return {**{name: SHARED[name][1].default for name in _NEUTRAL}, **cls.neutral_extras}

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
            self._check_kinds(tensors, where)
            self._check_fused(group, tensors, where)
            self._check_master(group, tensors, where)
            if self._members is None:
                self._check_overlap(tensors, where)
            _warn_of_eps(group, tensors, where)
        self._append(group)

    @staticmethod
    def _check_master(group: Mapping[str, Any], tensors: Iterable[Any], where: str) -> None:
        others = {tensor.dtype for tensor in tensors if isinstance(tensor, Tensor)} - {torch.bfloat16}
        if group.get("master") and others:
            raise ValueError(
                f"master=True keeps the rest of bfloat16 parameters, and there are some of {others.pop()}; leave it "
                f"out for them, in a param group of their own ({where})"
            )

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

    def _check_kinds(self, params: Iterable[Any], where: str) -> None:
        """Raise where the rule has no meaning for a parameter: ValueError for its shape, RuntimeError for its type."""
        kind, least = type(self).__name__, self.least_dimensions
        for param in params:
            if isinstance(param, Tensor) and least and param.dim() < least:
                raise ValueError(
                    f"{kind} only supports parameters of at least {least} dimensions, but one has the shape "
                    f"{tuple(param.shape)}; give biases, norms and the like to another optimizer ({where})"
                )
            if isinstance(param, Tensor) and param.is_complex() and not self.supports_complex:
                raise RuntimeError(f"{kind} does not support complex parameters ({param.dtype}; {where})")

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
