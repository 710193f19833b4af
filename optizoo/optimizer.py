"""The optimizer that runs a rule: param groups, lazy named state, closures, checkpoints, the choice of a backend."""

import ctypes
import inspect
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from optizoo import loading
from optizoo.backends import UPDATES, choose, foreach, fused, fused_obstacle
from optizoo.backends.build import BuildError
from optizoo.backends.finite import nonfinite
from optizoo.backends.loop import Columns
from optizoo.backends.plan import Plan, Task
from optizoo.backends.trace import wire
from optizoo.validation import (
    FOREIGN_GROUP_KEYS,
    Check,
    check_options,
    choice,
    did_you_mean,
    flag,
    number,
    optional_flag,
)

Rule = Callable[..., tuple]

# What belongs to an option: kept together where a checkpoint is loaded.
_KEPT_WITH = {
    "lr": ("initial_lr", "max_lr", "min_lr"),
    "weight_decay_mode": ("decoupled_weight_decay", "max_lr"),
    "decoupled_weight_decay": ("weight_decay_mode",),
}

# How a step is executed, not what it computes: a checkpoint does not change these.
EXECUTION_OPTIONS = ("foreach", "fused")


@dataclass(frozen=True)
class RuleSchema:
    """What the signature of a rule declares.

    Attributes:
        states: The states, in order, and whether each starts as zeros (or may be absent: default ``None``).
        options: The hyper-parameters that the rule names, without ``step``.
        names_step: Whether the rule names ``step``.
    """

    states: dict[str, bool]
    options: tuple[str, ...]
    names_step: bool


@lru_cache
def schema(rule: Rule) -> RuleSchema:
    """Read the schema of ``rule`` off its signature."""
    parameters = inspect.signature(rule).parameters.values()
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return RuleSchema(
        states={p.name: p.default is p.empty for p in positional[2:]},
        options=tuple(name for name in keywords if name != "step"),
        names_step="step" in keywords,
    )


@lru_cache
def _states(
    rule: Rule, on: tuple[str, ...], off: tuple[str, ...]
) -> tuple[dict[str, bool], tuple[str, ...], tuple[str, ...]]:
    """Sort the states of ``rule``, of which options switch some on and some off.

    Returns:
        For every state whether it starts as zeros, the names of those, and the names of those that the rule makes.
    """
    states = {name: (zeros or name in on) and name not in off for name, zeros in schema(rule).states.items()}
    zeros = tuple(name for name, starts_as_zeros in states.items() if starts_as_zeros)
    return states, zeros, tuple(name for name in states if name not in (*zeros, *off))


@dataclass
class Bucket:
    """Parameters that one call of a backend updates together: same rule, kind of tensor, states and step count."""

    group: dict[str, Any]
    rule: Rule
    options: dict[str, Any]
    backend: str
    states: dict[str, bool]
    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    stores: list[dict[str, Any]] = field(default_factory=list)
    counters: list[Tensor] = field(default_factory=list)
    products: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # the number as it was, and as it will be

    def update(self, **fused_options: Any) -> None:
        """Run the rule, keep the states that it made, and count the step: one that fails is not counted.

        Args:
            **fused_options: ``grad_scale``, ``found_inf`` and ``memory`` of the fused backend, which alone takes them.
        """
        columns: Columns = {
            name: [store[name] for store in self.stores] if exists else None for name, exists in self.states.items()
        }
        params, grads = self.params, self.grads
        is_complex = params[0].is_complex()
        if is_complex:  # every rule acts on real and imaginary parts apart, as torch does
            params, grads = _as_real(params), _as_real(grads)
            columns = {name: column and _as_real(column) for name, column in columns.items()}
        made = UPDATES[self.backend](self.rule, params, grads, columns, **self.options, **fused_options)
        for name, column in made.items():
            for store, tensor in zip(self.stores, column, strict=True):
                store[name] = torch.view_as_complex(tensor) if is_complex else tensor
        found_inf = fused_options.get("found_inf")
        for step in {id(step): step for step in self.counters}.values():  # on a device many share one
            step += 1 if found_inf is None else 1 - found_inf.to(step.device).reshape(())
        for old, new in self.products:
            old.copy_(new if found_inf is None else torch.where(found_inf.to(new.device).reshape(()) > 0, old, new))

    def task(self, options: tuple[str, ...], defaults: tuple[Any, ...]) -> Task:
        """Return what a plan needs to repeat this bucket.

        Args:
            options: Names of the options that decide what is done, without ``lr``.
            defaults: What they are where the group leaves them out.

        Raises:
            ValueError: It cannot be repeated.
        """
        named = dict(self.options)
        maximize = named.pop("maximize")
        wiring = wire(self.rule, self.states, maximize=maximize, **named)
        if wiring is None or fused.makes_states(wiring.program) or self.products:
            raise ValueError("the next step differs by more than lr and step")
        if named.get("weight_decay_mode") == "independent":
            raise ValueError("lr must be held against max_lr at every step")
        names = [name for name, exists in self.states.items() if exists]
        columns = [self.params, self.grads, *([store[name] for store in self.stores] for name in names)]
        places = list(named)
        return Task(
            group=self.group,
            names=options,
            defaults=defaults,
            values=tuple(map(self.group.get, options, defaults)),
            wiring=wiring,
            arguments=list(named.values()),
            lr_at=places.index("lr") if "lr" in places else -1,
            step_at=places.index("step") if "step" in places else -1,
            launch=(fused.launch if self.backend == "fused" else foreach.Launch)(wiring.program, columns),
            params=self.params,
            states=names,
            stores=self.stores,
            counter=ctypes.c_double(self.counters[0].item() if self.counters else 0.0),
        )


def _as_real(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [torch.view_as_real(tensor.resolve_conj()) for tensor in tensors]


class RuleOptimizer(Optimizer):
    """A ``torch.optim.Optimizer`` whose update is a rule of :mod:`optizoo.rules`.

    A subclass says which rule serves a group (:meth:`select_rule`) and which checks its options pass (``checks``); its
    ``__init__`` is signature and defaults.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range or unknown, or a parameter stands twice in one group.
        RuntimeError: ``fused=True`` cannot be honoured.
    """

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

    nonfinite_steps: int = 0
    """Steps that were not made because a gradient was not finite (``nonfinite="skip"`` or ``"raise"``), since this
    object was made; checkpoints and copies do not hold it."""

    _plan: Plan | None = None  # of the last step, if it can be repeated; never saved
    _last: Any = None  # what the last step did, to know one that comes again
    _refused: Any = None  # what cannot be planned
    _started: bool = False  # whether a step was made
    _prepared: Sequence[tuple[Tensor, int]] = ()  # states that no step has touched, and their versions

    def __init__(self, params: Any, defaults: dict[str, Any]):
        self._device_memory: dict[tuple, dict] = {}  # tables of pointers on a GPU
        defaults = self._checked(defaults, where=f"{type(self).__name__}, constructor")
        super().__init__(params, defaults)

    def select_rule(self, group: Mapping[str, Any]) -> Rule:
        """Return the rule that serves ``group``."""
        raise NotImplementedError

    def rule_for(self, group: Mapping[str, Any]) -> Rule:
        """Return the rule of :meth:`select_rule` with all that options of the class put around it."""
        return self.select_rule(group)

    # Options ---------------------------------------------------------------------------------------------------------

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
            ValueError: An option is out of range or unknown, or a parameter stands twice.
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
        if not isinstance(group["params"], set):  # torch warns of a set
            group["params"] = list(group["params"])
            tensors = [item[1] if isinstance(item, tuple) else item for item in group["params"]]
            if len({id(tensor) for tensor in tensors}) < len(tensors):
                raise ValueError(f"a tensor stands twice in 'params', it would step twice; remove one ({where})")
            self._check_fused(group, tensors, where)
            self._check_overlap(tensors, where)
            _warn_of_eps(group, tensors, where)
        if any(group["lr"] is other["lr"] for other in self.param_groups) and isinstance(group["lr"], Tensor):
            group["lr"] = group["lr"].clone()  # schedulers fill it in place, each group's with its own rate
        self._plan = None
        super().add_param_group(group)

    def _check_overlap(self, params: Iterable[Any], where: str) -> None:
        """Raise ValueError where a new parameter shares elements in memory with another one: both would move them."""
        known = [param for group in self.param_groups for param in group["params"]]
        sharing: dict[int, list[Tensor]] = {}
        for param in {id(param): param for param in (*known, *params)}.values():
            if type(param) in (Tensor, torch.nn.Parameter) and param.layout is torch.strided and param.numel():
                storage = param.untyped_storage()
                if storage.data_ptr():  # tensors without memory (meta) have 0
                    sharing.setdefault(storage.data_ptr(), []).append(param)
        for tensors in sharing.values():
            if len(tensors) > 1 and (pair := _overlap(tensors)):
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

    # Step ------------------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient.

        A first step at lr 0 whose gradients are all exactly zero makes the states and counts nothing: what
        ``torch.distributed.checkpoint`` does to an optimizer before its first step leaves no trace.

        Args:
            closure: Evaluates the model again and returns the loss; called once, with gradients enabled.

        Returns:
            What the closure returned, or ``None``.

        Raises:
            RuntimeError: A gradient is sparse and the rule has no meaning for it. Nothing was updated.
            FloatingPointError: A gradient is not finite, and ``nonfinite="raise"``. Nothing was updated.
        """
        # torch wraps the step of every class to run hooks and to tell the profiler, which costs 6 us; see `hooked`.
        if torch.compiler.is_compiling():
            observed = bool(self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks)
        else:
            observed = type(self).step is RuleOptimizer.step and self._is_observed()
        if observed:
            return self._observed_step(closure)
        return self._step(closure)

    step.hooked = True  # pyright: ignore[reportFunctionMemberAccess]  # torch leaves such a step alone

    def _is_observed(self) -> bool:
        """Return whether a hook or a profiler must know of the step."""
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()  # pyright: ignore[reportPrivateImportUsage]
            or type(self)._optimizer_step_code is not _STEP_CODE
        )

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._started:
            if self._prepares():
                return loss
            self._started = True
        for group in self.param_groups:
            if "nonfinite" in group:
                if not self._finite():
                    return loss
                break
        if torch.compiler.is_compiling():
            if hasattr(self, "grad_scale") or hasattr(self, "found_inf"):
                raise RuntimeError("a compiled step does not unscale gradients, as fused=True promises; use fused=None")
            self._compiled_update()
        elif "found_inf" in self.__dict__ or "grad_scale" in self.__dict__:  # set by torch.amp.GradScaler
            self._scaled_update()
        elif self._plan is None or not self._plan.run(self.param_groups, self.state):
            self._plan = None
            self._plan_for(self._update_buckets())
        return loss

    _observed_step = Optimizer.profile_hook_step(_step)

    def _prepares(self) -> bool:
        """Make the states and return ``True``, where a first step at lr 0 has nothing but gradients of exact zeros.

        What earlier such steps have made, and nobody has written into since, is taken back: the first step that counts
        finds an optimizer without state.
        """
        if self._prepared:
            found = [value for store in self.state.values() for value in store.values() if isinstance(value, Tensor)]
            if len(found) == len(self._prepared) and all(
                value is tensor and value._version == version
                for value, (tensor, version) in zip(found, self._prepared, strict=True)
            ):
                self.state.clear()
            self._prepared = ()
        if self.state or torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
            return False
        groups = [group for group in self.param_groups if any(param.grad is not None for param in group["params"])]
        params = [param for group in groups for param in group["params"] if param.grad is not None]
        if not groups or (any(param.is_cuda for param in params) and torch.cuda.is_current_stream_capturing()):
            return False
        if any(group["lr"] != 0 for group in groups) or any(param.grad.layout is not torch.strided for param in params):
            return False
        if any(bool((param.grad != 0).any()) for param in params):
            return False
        for bucket in self._buckets():
            for name in self._sorted_states(bucket.rule, self.complete(bucket.group))[2]:
                for param, store in zip(bucket.params, bucket.stores, strict=True):
                    store[name] = torch.zeros_like(param, memory_format=torch.preserve_format)
        self._prepared = [
            (value, value._version)
            for store in self.state.values()
            for value in store.values()
            if isinstance(value, Tensor)
        ]
        return True

    def _finite(self) -> bool:
        """Return whether the step can be made: no gradient of a group with ``nonfinite`` is NaN or infinite.

        Raises:
            FloatingPointError: One is, in a group with ``nonfinite="raise"``.
        """
        if "found_inf" in self.__dict__:  # torch.amp.GradScaler has looked, and the update obeys
            return True
        watched = [group for group in self.param_groups if group.get("nonfinite", "propagate") != "propagate"]
        pairs = [(group, param) for group in watched for param in group["params"] if param.grad is not None]
        bad = [pairs[index] for index in nonfinite([param.grad for _, param in pairs])]
        if not bad:
            return True
        self.nonfinite_steps += 1
        if refused := [param for group, param in bad if group["nonfinite"] == "raise"]:
            label = loading.labels(self.param_groups)[refused[0]]
            more = f" and those of {len(bad) - 1} more" if len(bad) > 1 else ""
            raise FloatingPointError(
                f"the gradient of {label}{more} is not finite, and nothing was updated (nonfinite='raise'); lower the "
                "learning rate, clip gradients, or look for the operation with torch.autograd.set_detect_anomaly(True)"
            )
        return False

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether :meth:`step` takes the gradients still scaled: only where every kernel is fused for certain.

        ``torch.amp.GradScaler`` then leaves the division to the step, and sets ``grad_scale`` and ``found_inf``.
        """
        return bool(self.param_groups) and all(self.complete(group)["fused"] for group in self.param_groups)

    def _scaled_update(self) -> None:
        """Divide the gradients by ``grad_scale`` on the way; after an overflow move nothing and count nothing."""
        found_inf, grad_scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        scaling = {} if grad_scale is None else {"grad_scale": grad_scale}
        if found_inf is not None:
            if self._reads_found_inf():
                scaling["found_inf"] = found_inf
            elif found_inf.item():
                return
        self._update_buckets(**scaling)

    def _reads_found_inf(self) -> bool:
        """Return whether the kernels can read ``found_inf``: on a GPU, once all states have been made.

        A state that the rule makes at the first update must not come to be in a step that overflows.
        """
        params = [param for group in self.param_groups for param in group["params"] if param.grad is not None]
        return all(param.is_cuda and self.state.get(param) for param in params)

    def _update_buckets(self, **scaling: Any) -> list[Bucket]:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            buckets = self._buckets(**dict.fromkeys(scaling, True))
            for bucket in buckets:
                if bucket.backend == "fused" and bucket.params[0].is_cuda:
                    key = id(bucket.group), bucket.params[0].dtype, bucket.grads[0].dtype, *bucket.states.items()
                    bucket.update(**scaling, memory=self._device_memory.setdefault(key, {}))
                else:
                    bucket.update(**scaling)
        return buckets

    def _plan_for(self, buckets: list[Bucket]) -> None:
        """Keep a plan of a step that comes the second time: making one costs as much as many steps."""
        done = [(bucket.backend, bucket.states, [*map(id, bucket.params)]) for bucket in buckets]
        able = all(
            bucket.backend != "loop" and bucket.params[0].device.type == "cpu" and not bucket.params[0].is_complex()
            for bucket in buckets
        )
        if able and done == self._last and done != self._refused:
            extras = self.neutral_options()
            options = tuple(name for name in {**self._common_checks, **self.checks} if name != "lr")
            defaults = tuple(map(extras.get, options))
            try:
                tasks = [bucket.task(options, defaults) for bucket in buckets]
                self._plan = Plan(self.param_groups, self.state, tasks)
            except (ValueError, BuildError):  # it goes on without a plan, and is not asked again
                self._refused = done
        self._last = done

    def _buckets(self, **scaling: bool) -> list[Bucket]:
        """Sort the parameters with gradients into buckets, and make the states that they lack.

        Args:
            **scaling: Which of ``grad_scale`` and ``found_inf`` the kernels take.
        """
        work = []
        for group in self.param_groups:
            pairs = [(param, param.grad) for param in group["params"]]
            work.append((group, [pair for pair in pairs if pair[1] is not None]))
        if not self.supports_sparse and any(grad.is_sparse for _, pairs in work for _, grad in pairs):
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients; use SGD, or make them dense")
        return [bucket for group, pairs in work for bucket in self._group_buckets(group, pairs, scaling)]

    def _group_buckets(
        self, own: dict[str, Any], pairs: Iterable[tuple[Tensor, Tensor]], scaling: Mapping[str, bool]
    ) -> Iterable[Bucket]:
        group = self.complete(own)
        rule = self.rule_for(group)
        states, zeros, made_by_rule = self._sorted_states(rule, group)
        pairs = list(pairs)
        if self.counts_steps:
            self._share_counters(own, [param for param, _ in pairs if _on_device(group, param)])
        buckets: dict[tuple, Bucket] = {}
        obstacles: dict[tuple, str | None] = {}  # to the kernel of every kind of parameter
        for param, grad in pairs:
            on_device = _on_device(group, param)
            if param.is_cuda and not group["capturable"] and torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    "a step that a CUDA graph captures would repeat today's step and lr for ever; set capturable=True"
                )
            # Like torch's, a rule without state leaves no entry.
            store = self.state[param] if states or self.counts_steps else {}
            counter = self._counter(store, param, on_device) if self.counts_steps else None
            # The number of this update; on the device it stays there. In float32, 1 - β₂ᵗ would lose four digits.
            step = None if counter is None else counter.double() + 1 if on_device else counter.item() + 1
            numbers = self._products(store, group, step, counter)
            for name in zeros:
                # What starts at lr was prepared at lr 0.
                prepared = self.initial_values.get(name) == "lr" and not on_device and step == 1
                if store.get(name) is None or prepared:
                    store[name] = self._initial(name, group, param)
            present = tuple(store.get(name) is not None for name in made_by_rule)
            existing = [store[name] for name in states if store.get(name) is not None]
            exists = {**states, **dict(zip(made_by_rule, present, strict=True))}
            products = {
                name: new if on_device or new.requires_grad else new.item() for name, (_, new) in numbers.items()
            }
            kind = (
                *(type(param), param.device, param.dtype, type(grad), grad.dtype, grad.layout, present),
                *((id(counter),) if on_device else (step, *products.values())),
            )

            def kernel(
                kind: tuple = kind,
                param: Tensor = param,
                grad: Tensor = grad,
                exists: dict[str, bool] = exists,
                step: Any = step,
                products: dict[str, Any] = products,
            ) -> str | None:
                if kind not in obstacles:
                    options = self._rule_options(rule, group, step, "fused") | products
                    obstacles[kind] = fused.obstacle(rule, exists, param, grad, **options, **scaling)
                return obstacles[kind]

            backend = choose(group, param, grad, existing, kernel).name
            bucket = buckets.get((*kind, backend))
            if bucket is None:
                options = self._rule_options(rule, group, step, backend) | products
                bucket = buckets[*kind, backend] = Bucket(own, rule, options, backend, exists)
            bucket.params.append(param)
            bucket.grads.append(grad)
            bucket.stores.append(store)
            if counter is not None:
                bucket.counters.append(counter)
            bucket.products += numbers.values()
        return buckets.values()

    def _sorted_states(
        self, rule: Rule, group: Mapping[str, Any]
    ) -> tuple[dict[str, bool], tuple[str, ...], tuple[str, ...]]:
        """Return :func:`_states` of a rule under the options of a completed group."""
        switches = self.state_switches
        off = tuple(name for name, switch in switches.items() if not group[switch])
        return _states(rule, tuple(name for name in switches if name not in off), off)

    def _products(
        self, store: dict[str, Any], group: Mapping[str, Any], step: Any, counter: Tensor | None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the numbers of :attr:`products`, before this update and after it; made here if they are missing."""
        numbers = {}
        for name, factor in self.products.items():
            assert counter is not None
            if name not in store:
                store[name] = torch.ones_like(counter)
            options = {option: group[option] for option in schema(factor).options}
            # Autograd may save the number, which is written in place.
            before = store[name].clone() if group["differentiable"] else store[name]
            numbers[name] = store[name], before * factor(step, **options)
        return numbers

    def _initial(self, name: str, group: Mapping[str, Any], param: Tensor) -> Tensor:
        """Return a state as it is before the first update."""
        if name not in self.initial_values:
            return torch.zeros_like(param, memory_format=torch.preserve_format)
        value = float(group[self.initial_values[name]])
        start = complex(value, value) if param.is_complex() else value  # both parts are weights of their own
        return torch.full_like(param, start, memory_format=torch.preserve_format)

    def _share_counters(self, group: Mapping[str, Any], params: Sequence[Tensor]) -> None:
        """Let parameters whose counters are one tensor keep it only if all of them step, and new ones share theirs.

        On a device the counter cannot be read to see who steps together: those with the same tensor do.
        """
        if not params:
            return
        users: dict[int, int] = {}
        for param in group["params"]:
            counter = self.state.get(param, {}).get("step")
            users[id(counter)] = users.get(id(counter), 0) + 1
        stepping: dict[tuple, list[dict[str, Any]]] = {}
        for param in params:
            store = self.state[param]
            stepping.setdefault((param.device, id(store.get("step"))), []).append(store)
        for (device, counter), stores in stepping.items():
            step = stores[0].get("step")
            if step is None:
                step = torch.zeros((), dtype=_step_dtype(), device=device)
            elif len(stores) == users[counter]:
                continue
            else:
                step = step.clone()
            numbers = {name: stores[0][name].clone() for name in self.products if name in stores[0]}
            for store in stores:
                store["step"] = step
                store |= numbers

    def _kernel_obstacle(self, own: Mapping[str, Any], param: Tensor, grad: Tensor) -> str | None:
        """Return why the kernel of a parameter's next update cannot serve, or ``None``; no state is made."""
        group = self.complete(own)
        rule, store = self.rule_for(group), {**self.state.get(param, {})}
        states, _, made_by_rule = self._sorted_states(rule, group)
        exists = {**states, **{name: store.get(name) is not None for name in made_by_rule}}
        on_device = _on_device(group, param)
        counter = torch.as_tensor(store.get("step", 0.0), device=param.device if on_device else "cpu")
        step = counter.double() + 1 if on_device else counter.item() + 1
        numbers = self._products(store, group, step, counter)
        options = self._rule_options(rule, group, step, "fused")
        options |= {name: new if on_device else new.item() for name, (_, new) in numbers.items()}
        return fused.obstacle(rule, exists, param, grad, **options)

    def _columns(self, param: Tensor) -> list[Tensor]:
        """Return the states of a parameter that have its shape."""
        store = self.state.get(param, {})
        counters = ("step", *self.products)
        return [value for name, value in store.items() if isinstance(value, Tensor) and name not in counters]

    @staticmethod
    def _counter(store: dict[str, Any], param: Tensor, on_device: bool) -> Tensor:
        """Return ``step`` of the state, the number of updates made; made here if it is missing."""
        if "step" not in store:
            store["step"] = torch.zeros((), dtype=_step_dtype(), device=param.device if on_device else "cpu")
        return store["step"]

    def _rule_options(
        self, rule: Rule, group: Mapping[str, Any], step: float | Tensor | None, backend: str
    ) -> dict[str, Any]:
        options = {name: _scalar(group[name]) for name in schema(rule).options if name not in self.products}
        options["maximize"] = group["maximize"]
        if schema(rule).names_step:
            options["step"] = step
        if backend == "loop":
            options["differentiable"] = group["differentiable"]
            options["tensor_scalars"] = (group["capturable"] or group["differentiable"]) and _has_tensor(options)
        return options

    # torch.compile ---------------------------------------------------------------------------------------------------

    def _init_group(self, group: dict[str, Any], index: int, params: list[Tensor], grads: list[Tensor]) -> None:
        """Collect parameters and gradients, make the states that they lack, and write down what their rule takes.

        While torch.compile traces a step, it runs a method of this name for real, and takes what is in the lists then
        as inputs of its graph. What the rule takes cannot be found by tracing: that reads signatures.
        """
        completed = self.complete(group)
        rule = self.rule_for(completed)
        states, zeros, _ = self._sorted_states(rule, completed)
        declared = schema(rule)
        names = [name for name in declared.options if name not in self.products]
        # The others are read from the group, where torch.compile watches them.
        fixed = {name: completed[name] for name in (*names, "maximize") if group.get(name) is None}
        factors = {name: (factor, schema(factor).options) for name, factor in self.products.items()}
        self._wirings = {**self.__dict__.get("_wirings", {})}
        self._wirings[index] = rule, tuple(states), tuple(names), fixed, declared.names_step, factors
        for param in group["params"]:
            if param.grad is None:
                continue
            params.append(param)
            grads.append(param.grad)
            if not states and not self.counts_steps:
                continue
            store = self.state[param]
            counter = self._counter(store, param, on_device=True) if self.counts_steps else None
            for name in self.products:
                if name not in store:
                    assert counter is not None
                    store[name] = torch.ones_like(counter)
            for name in zeros:
                if store.get(name) is None:
                    store[name] = self._initial(name, completed, param)

    @torch.no_grad()
    def _compiled_update(self) -> None:
        """Make a step in a form that torch.compile can follow: the rule in its loop, counters as tensors."""
        work = []
        for index, group in enumerate(self.param_groups):
            params: list[Tensor] = []
            grads: list[Tensor] = []
            self._init_group(group, index, params, grads)
            work.append((group, params, grads))
        for index, (group, params, grads) in enumerate(work):
            rule, states, names, fixed, names_step, factors = self._wirings[index]
            options = {name: _scalar(fixed[name] if name in fixed else group[name]) for name in names}
            for param, grad in zip(params, grads, strict=True):
                store = self.state[param] if states or self.counts_steps else {}
                numbers, products = dict(options), []
                step = store["step"].double() + 1 if self.counts_steps else None  # in float32, 1 - β₂ᵗ loses digits
                for name, (factor, wanted) in factors.items():
                    new = store[name] * factor(step, **{option: group[option] for option in wanted})
                    products.append((store[name], new))
                    numbers[name] = new
                if names_step:
                    numbers["step"] = step
                numbers["tensor_scalars"] = _has_tensor(numbers)
                numbers["maximize"] = fixed["maximize"] if "maximize" in fixed else group["maximize"]
                present = {name: store.get(name) is not None for name in states}
                bucket = Bucket(group, rule, numbers, "loop", present)
                bucket.params.append(param)
                bucket.grads.append(grad)
                bucket.stores.append(store)
                if self.counts_steps:
                    bucket.counters.append(store["step"])
                bucket.products += products
                bucket.update()

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return a checkpoint in torch's form. Counters that parameters share on a device are separate in it."""
        saved = super().state_dict()
        seen = set()
        for key, store in saved.get("state", {}).items():  # hooks may have changed the layout
            counters = {name: store[name] for name in ("step", *self.products) if name in store}
            if isinstance(step := counters.get("step"), Tensor) and id(step) in seen:
                saved["state"][key] = {**store, **{name: value.clone() for name, value in counters.items()}}
            seen.add(id(step))
        return saved

    @torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
    def load_state_dict(self, state_dict: dict[str, Any], *, keep: Collection[str] = ()) -> None:
        """Load a checkpoint of this class or of its torch namesake; see :meth:`__setstate__` for what is kept.

        Where groups have names (``model.named_parameters()``) in the checkpoint and here, states find their parameters
        by name, in whatever order they were saved; else by position. States keep their type, and no tensor is shared
        with the checkpoint. All is checked first: where this raises, nothing has changed.

        Args:
            state_dict: The checkpoint.
            keep: Options that stay as they are here, such as ``("lr", "weight_decay")``. With ``"lr"`` stays what
                schedulers keep beside it: ``initial_lr``, ``max_lr``, ``min_lr``.

        Raises:
            TypeError: An option in the checkpoint has the wrong type.
            ValueError: The checkpoint is of another class or model; an option is out of range or unknown; or ``keep``
                names none. The message names the parameter or the option.
        """
        known = {*self._common_checks, *self.checks}
        for name in keep:
            if name not in known:
                raise ValueError(f"keep = {name!r} is no option of {type(self).__name__}; {did_you_mean(name, known)}")
        kept = {name for option in keep for name in (option, *_KEPT_WITH.get(option, ()))}
        state_dict = {**state_dict}
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        saved_groups = state_dict["param_groups"]
        owners = loading.matched(saved_groups, self.param_groups)
        needed = self.defaults.keys() - self.neutral_options().keys() - self._common_checks.keys()
        groups = []
        for index, (saved, group) in enumerate(zip(map(deepcopy, saved_groups), self.param_groups, strict=True)):
            where = f"{type(self).__name__}, loaded param group {index}"
            loading.check_same_class(saved, known | group.keys() | FOREIGN_GROUP_KEYS, needed, owner=where)
            own = {name: group[name] for name in {"params", "param_names", *kept} & group.keys()}
            groups.append({**{name: value for name, value in saved.items() if name not in kept}, **own})
        state: defaultdict[Any, Any] = defaultdict(dict)
        for key, store in state_dict["state"].items():
            if key in owners:
                state[owners[key]] = store  # copied where it is checked
            else:
                state[key] = deepcopy(store)
        self.__setstate__({"state": state, "param_groups": groups})
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over groups and state; unpickling, ``deepcopy`` and ``load_state_dict`` all end here.

        Groups are checked before anything changes. Options that an older checkpoint or torch's does not have get the
        constructor's values, or the neutral ones where torch lacks them; ``foreach`` and ``fused`` stay as they are in
        this optimizer; tensors are never shared with the checkpoint.

        Raises:
            TypeError: An option in the checkpoint has the wrong type.
            ValueError: An option in the checkpoint is out of range or unknown.
        """
        is_load = "param_groups" in self.__dict__
        defaults = self.defaults if is_load else state["defaults"]
        groups = []
        for index, saved in enumerate(state["param_groups"]):
            # A group that comes with its optimizer may have keys of its owner, and so may one that is loaded again.
            present = self.param_groups[index] if is_load else saved
            execution = {name: self.complete(present)[name] for name in EXECUTION_OPTIONS}
            where = f"{type(self).__name__}, loaded param group {index}"
            missing = {
                name: value for name, value in defaults.items() if name in saved or name not in self.neutral_options()
            }
            groups.append(self._checked({**missing, **saved, **execution}, where=where, known=present))
        if is_load:
            named = loading.labels(groups)
            for group in groups:
                for param in group["params"]:
                    store = state["state"].get(param)
                    if store is not None:
                        self._check_store(store, param, group, named[param])
                        state["state"][param] = self._adopted(store, param, group)
                on_device = [param for param in group["params"] if param in state["state"] and _on_device(group, param)]
                _share_equal([state["state"][param] for param in on_device], ("step", *self.products))
        super().__setstate__({**state, "param_groups": groups})
        self._plan = self._last = self._refused = None
        self._prepared = ()
        self._device_memory = {}

    def _check_store(self, store: Mapping[str, Any], param: Tensor, own: Mapping[str, Any], label: str) -> None:
        group = self.complete(own)
        rule = self.select_rule(group)
        states, zeros, _ = self._sorted_states(rule, group)
        # States that an option switches on may be new here; they start now.
        needed = [name for name in zeros if name not in self.state_switches]
        if needed and self.counts_steps:
            needed.append("step")
        loading.check_state(store, param, states, needed, label=label, owner=type(self).__name__)

    def _adopted(self, store: Mapping[str, Any], param: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of a loaded store on the device of ``param``; counters where this group wants them."""
        adopted = {
            name: value.to(param.device, copy=True) if isinstance(value, Tensor) else deepcopy(value)
            for name, value in store.items()
        }
        device = param.device if _on_device(group, param) else "cpu"
        for name in {"step", *self.products} & adopted.keys():
            value = store[name]
            # torch may have cast all but the step to the type of the parameter.
            dtype = value.dtype if name == "step" and isinstance(value, Tensor) else _step_dtype()
            adopted[name] = torch.tensor(float(value), dtype=dtype, device=device)
        return adopted


_STEP_CODE = Optimizer._optimizer_step_code  # a profiler puts its own in its place


def _step_dtype() -> torch.dtype:
    """Return the type of ``step``: as torch has it, float64 if that is the default type."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def _overlap(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Return two views of one storage that have a byte in common, or ``None``."""
    spans = sorted(((*_span(tensor), tensor) for tensor in tensors), key=lambda span: span[:2])
    for index, (first, last, tensor) in enumerate(spans):
        for begin, end, other in spans[index + 1 :]:
            if begin > last:
                break
            taken = torch.zeros(max(last, end) + 1 - first, dtype=torch.bool)
            _bytes(taken, tensor, first).fill_(True)
            if _bytes(taken, other, first).any():
                return tensor, other
    return None


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return the first and the last byte of a view in its storage."""
    size = tensor.element_size()
    first = size * int(tensor.storage_offset())
    elements = sum(int((length - 1) * stride) for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return first, first + size * elements + size - 1


def _bytes(taken: Tensor, tensor: Tensor, first: int) -> Tensor:
    """Return the view of ``taken``, which has a value for each byte from ``first`` on, that ``tensor`` is of memory."""
    size = tensor.element_size()
    strides = [size * stride for stride in tensor.stride()]
    return taken.as_strided((*tensor.shape, size), (*strides, 1), size * tensor.storage_offset() - first)


def _warn_of_eps(group: Mapping[str, Any], params: Iterable[Any], where: str) -> None:
    """Warn where the type of a parameter has no number as small as eps: it divides by 0 then."""
    eps = group.get("eps")
    if not isinstance(eps, float) or not eps:
        return
    dtypes = {param.dtype for param in params if isinstance(param, Tensor) and param.is_floating_point()}
    for dtype in dtypes:
        if torch.tensor(eps, dtype=dtype) == 0:
            warnings.warn(
                f"eps = {eps:g} is 0 in {dtype}, where small gradients end in NaN; give at least "
                f"{torch.finfo(dtype).smallest_normal:.1g} ({where})",
                UserWarning,
                stacklevel=4,
            )


def _on_device(group: Mapping[str, Any], param: Tensor) -> bool:
    """Return whether the counters of a group live on the device of its parameters."""
    return bool(group.get("capturable") or (group.get("fused") and param.is_cuda))


def _share_equal(stores: Iterable[dict[str, Any]], names: Collection[str]) -> None:
    """Let stores whose counters on one device are equal have the same tensors."""
    shared: dict[tuple, dict[str, Tensor]] = {}
    for store in stores:
        counters = {name: store[name] for name in names if name in store}
        key = tuple((name, value.device, value.item()) for name, value in counters.items())
        store |= shared.setdefault(key, counters)


def _scalar(value: Any) -> Any:
    """Return an option as rules take it: a tensor of one element has no dimensions."""
    if isinstance(value, tuple):
        return tuple(map(_scalar, value))
    return value.reshape(()) if isinstance(value, Tensor) and value.dim() else value


def _has_tensor(options: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in _flat(options.values()))


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, tuple):
            yield from value
        else:
            yield value


def explain(optimizer: RuleOptimizer, *, stalled: bool = False) -> str:
    """Say which backend serves which parameters of ``optimizer``, and why, in one line for each kind.

    Parameters without a gradient are judged as if they had a dense one.

    Args:
        optimizer: The optimizer.
        stalled: Also count the elements of 16-bit parameters that the next step would leave as they are though their
            gradient is not zero: an update of less than half a unit in the last place is rounded away. The step is
            made on a copy, with the gradients that are there now.

    >>> import torch, optizoo
    >>> print(explain(optizoo.Adam(torch.nn.Linear(2, 2).parameters(), foreach=False)))
    Adam, param group 0: loop for 2 tensors (cpu, float32): foreach=False asks for it
    """
    if not isinstance(optimizer, RuleOptimizer):
        raise TypeError(f"explain takes an optimizer of optizoo, not {type(optimizer).__name__}")
    lines = []
    for index, group in enumerate(optimizer.param_groups):
        counts: dict[tuple, int] = {}
        for param in group["params"]:
            grad = param.grad if param.grad is not None else param.detach()
            kernel = partial(optimizer._kernel_obstacle, group, param, grad)
            key = (
                *choose(optimizer.complete(group), param, grad, optimizer._columns(param), kernel),
                param.device,
                str(param.dtype).removeprefix("torch."),
            )
            counts[key] = counts.get(key, 0) + 1
        for (backend, reason, device, dtype), count in counts.items():
            tensors = "1 tensor" if count == 1 else f"{count} tensors"
            kind = type(optimizer).__name__
            lines.append(f"{kind}, param group {index}: {backend} for {tensors} ({device}, {dtype}): {reason}")
    return "\n".join([*lines, *(_stalled(optimizer) if stalled else ())])


def _stalled(optimizer: RuleOptimizer) -> list[str]:
    """Return a line for every param group with 16-bit parameters: how many of their elements do not move."""
    moved = deepcopy(optimizer)
    for group, copied in zip(optimizer.param_groups, moved.param_groups, strict=True):
        for param, new in zip(group["params"], copied["params"], strict=True):
            new.grad = param.grad
    moved._update_buckets()  # no hooks
    lines = []
    for index, (group, after) in enumerate(zip(optimizer.param_groups, moved.param_groups, strict=True)):
        still, pushed = 0, 0
        for param, new in zip(group["params"], after["params"], strict=True):
            if param.dtype in (torch.bfloat16, torch.float16) and param.grad is not None:
                push = param.grad.to_dense() != 0
                pushed += int(push.sum())
                still += int((push & (param == new)).sum())
        if pushed:
            lines.append(
                f"{type(optimizer).__name__}, param group {index}: {still} of {pushed} elements in 16 bits that have a "
                "gradient do not move"
                + ("; keep the parameters in float32 (torch.autocast), or raise lr" if still else "")
            )
    return lines
