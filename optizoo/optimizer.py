"""The optimizer that runs a rule: param groups, lazy named state, closures, checkpoints, the choice of a backend."""

import ctypes
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from optizoo.backends import UPDATES, choose, foreach, fused, fused_obstacle
from optizoo.backends.build import BuildError
from optizoo.backends.loop import Columns
from optizoo.backends.plan import Plan, Task
from optizoo.backends.trace import wire
from optizoo.validation import Check, check_options, flag, number, optional_flag

Rule = Callable[..., tuple]

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
    }

    _plan: Plan | None = None  # of the last step, if it can be repeated; never saved
    _last: Any = None  # what the last step did, to know one that comes again
    _refused: Any = None  # what cannot be planned

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
        extras = self.neutral_extras
        return {name: value for name, value in kept.items() if name not in extras or value != extras[name]}

    def complete(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return the group with the options that it leaves out because they are neutral."""
        return {**self.neutral_extras, **group}

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
        group |= {
            name: self.neutral_extras[name] for name in self.neutral_extras.keys() & self.defaults if name not in group
        }
        if isinstance(group["params"], Tensor):
            group["params"] = [group["params"]]
        if not isinstance(group["params"], set):  # torch warns of a set
            group["params"] = list(group["params"])
            tensors = [item[1] if isinstance(item, tuple) else item for item in group["params"]]
            if len({id(tensor) for tensor in tensors}) < len(tensors):
                raise ValueError(f"a tensor stands twice in 'params', it would step twice; remove one ({where})")
            self._check_fused(group, tensors, where)
        self._plan = None
        super().add_param_group(group)

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

        Args:
            closure: Evaluates the model again and returns the loss; called once, with gradients enabled.

        Returns:
            What the closure returned, or ``None``.

        Raises:
            RuntimeError: A gradient is sparse and the rule has no meaning for it. Nothing was updated.
        """
        # torch wraps the step of every class to run hooks and to tell the profiler, which costs 6 us; see `hooked`.
        if type(self).step is RuleOptimizer.step and self._is_observed():
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
        if torch.compiler.is_compiling():
            self._update_buckets()
        elif "found_inf" in self.__dict__ or "grad_scale" in self.__dict__:  # set by torch.amp.GradScaler
            self._scaled_update()
        elif self._plan is None or not self._plan.run(self.param_groups, self.state):
            self._plan = None
            self._plan_for(self._update_buckets())
        return loss

    _observed_step = Optimizer.profile_hook_step(_step)

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
            buckets = self._buckets()
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
            extras = self.neutral_extras
            options = tuple(name for name in {**self._common_checks, **self.checks} if name != "lr")
            defaults = tuple(map(extras.get, options))
            try:
                tasks = [bucket.task(options, defaults) for bucket in buckets]
                self._plan = Plan(self.param_groups, self.state, tasks)
            except (ValueError, BuildError):  # it goes on without a plan, and is not asked again
                self._refused = done
        self._last = done

    def _buckets(self) -> list[Bucket]:
        """Sort the parameters with gradients into buckets, and make the states that they lack."""
        work = []
        for group in self.param_groups:
            pairs = [(param, param.grad) for param in group["params"]]
            work.append((group, [pair for pair in pairs if pair[1] is not None]))
        if not self.supports_sparse and any(grad.is_sparse for _, pairs in work for _, grad in pairs):
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients; use SGD, or make them dense")
        return [bucket for group, pairs in work for bucket in self._group_buckets(group, pairs)]

    def _group_buckets(self, own: dict[str, Any], pairs: Iterable[tuple[Tensor, Tensor]]) -> Iterable[Bucket]:
        group = self.complete(own)
        rule = self.rule_for(group)
        switches = self.state_switches
        off = tuple(name for name, switch in switches.items() if not group[switch])
        on = tuple(name for name in switches if name not in off)
        states, zeros, made_by_rule = _states(rule, on, off)
        pairs = list(pairs)
        if self.counts_steps and not torch.compiler.is_compiling():
            self._share_counters(own, [param for param, _ in pairs if _on_device(group, param)])
        buckets: dict[tuple, Bucket] = {}
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
                if store.get(name) is None:
                    store[name] = self._initial(name, group, param)
            present = tuple(store.get(name) is not None for name in made_by_rule)
            existing = [store[name] for name in states if store.get(name) is not None]
            backend = choose(group, param, grad, existing).name
            key = (
                *(type(param), param.device, param.dtype, type(grad), grad.dtype, grad.layout, present, backend),
                *((id(counter),) if on_device else (step, *(new.item() for _, new in numbers.values()))),
            )
            bucket = buckets.get(key)
            if bucket is None:
                exists = {**states, **dict(zip(made_by_rule, present, strict=True))}
                options = self._rule_options(rule, group, step, backend)
                options |= {name: new if on_device else new.item() for name, (_, new) in numbers.items()}
                bucket = buckets[key] = Bucket(own, rule, options, backend, exists)
            bucket.params.append(param)
            bucket.grads.append(grad)
            bucket.stores.append(store)
            if counter is not None:
                bucket.counters.append(counter)
            bucket.products += numbers.values()
        return buckets.values()

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
            numbers[name] = store[name], store[name] * factor(step, **options)
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
            options["tensor_scalars"] = (
                group["capturable"] or group["differentiable"] or torch.compiler.is_compiling()
            ) and any(isinstance(value, Tensor) for value in _flat(options.values()))
        return options

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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this class or of its torch namesake; see :meth:`__setstate__` for what is kept.

        Raises:
            TypeError: An option in the checkpoint has the wrong type.
            ValueError: An option is out of range or unknown, or groups or parameters do not match in number.
        """
        super().load_state_dict(state_dict)
        # torch casts every state but `step` to the type of the parameter, which a number like `mu_product` is not in.
        keys = (key for group in state_dict["param_groups"] for key in group["params"])
        params = (param for group in self.param_groups for param in group["params"])
        for key, param in zip(keys, params, strict=False):
            for name in self.products.keys() & state_dict["state"].get(key, {}).keys():
                self.state[param][name].copy_(state_dict["state"][key][name])

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over groups and state; unpickling, ``deepcopy`` and ``load_state_dict`` all end here.

        Groups are checked before anything changes. Options that an older checkpoint or torch's does not have get the
        constructor's values, or the neutral ones where torch lacks them; ``foreach`` and ``fused`` stay as they are in
        this optimizer; tensors are never shared with the checkpoint.

        Raises:
            TypeError: An option in the checkpoint has the wrong type.
            ValueError: An option in the checkpoint is out of range or unknown.
        """
        loading = "param_groups" in self.__dict__
        defaults = self.defaults if loading else state["defaults"]
        groups = []
        for index, saved in enumerate(state["param_groups"]):
            # A group that comes with its optimizer may have keys of its owner, and so may one that is loaded again.
            present = self.param_groups[index] if loading else saved
            execution = {name: self.complete(present)[name] for name in EXECUTION_OPTIONS}
            where = f"{type(self).__name__}, loaded param group {index}"
            missing = {
                name: value for name, value in defaults.items() if name in saved or name not in self.neutral_extras
            }
            groups.append(self._checked({**missing, **saved, **execution}, where=where, known=present))
        if loading:
            for group in groups:
                for param in group["params"]:
                    store = state["state"].get(param)
                    if store is not None:
                        state["state"][param] = self._adopted(store, param, group)
                on_device = [param for param in group["params"] if param in state["state"] and _on_device(group, param)]
                _share_equal([state["state"][param] for param in on_device], ("step", *self.products))
        super().__setstate__({**state, "param_groups": groups})
        self._plan = self._last = self._refused = None
        self._device_memory = {}

    def _adopted(self, store: Mapping[str, Any], param: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of a loaded store; counters as float32 tensors where this group wants them."""
        adopted = {
            name: value.clone() if isinstance(value, Tensor) else deepcopy(value) for name, value in store.items()
        }
        device = param.device if _on_device(group, param) else "cpu"
        for name in {"step", *self.products} & adopted.keys():
            value = adopted[name]
            # torch has cast all but the step to the type of the parameter.
            dtype = value.dtype if name == "step" and isinstance(value, Tensor) else _step_dtype()
            adopted[name] = torch.as_tensor(value, dtype=dtype, device=device)
        return adopted


_STEP_CODE = Optimizer._optimizer_step_code  # a profiler puts its own in its place


def _step_dtype() -> torch.dtype:
    """Return the type of ``step``: as torch has it, float64 if that is the default type."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def _on_device(group: Mapping[str, Any], param: Tensor) -> bool:
    """Return whether the counters of a group live on the device of its parameters."""
    return bool(group.get("capturable") or torch.compiler.is_compiling() or (group.get("fused") and param.is_cuda))


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


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, tuple):
            yield from value
        else:
            yield value


def explain(optimizer: RuleOptimizer) -> str:
    """Say which backend serves which parameters of ``optimizer``, and why, in one line for each kind.

    Parameters without a gradient are judged as if they had a dense one.

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
            key = (
                *choose(optimizer.complete(group), param, grad, optimizer._columns(param)),
                param.device,
                str(param.dtype).removeprefix("torch."),
            )
            counts[key] = counts.get(key, 0) + 1
        for (backend, reason, device, dtype), count in counts.items():
            tensors = "1 tensor" if count == 1 else f"{count} tensors"
            kind = type(optimizer).__name__
            lines.append(f"{kind}, param group {index}: {backend} for {tensors} ({device}, {dtype}): {reason}")
    return "\n".join(lines)
