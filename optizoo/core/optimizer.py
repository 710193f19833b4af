"""The optimizer that runs a rule: steps, closures, the choice of a backend, and steps that repeat."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from threading import RLock
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from optizoo.backends import choose, fused, process
from optizoo.backends.finite import nonfinite
from optizoo.core import loading
from optizoo.core.bucket import Bucket, update_all
from optizoo.core.compiled import CompiledOptimizer
from optizoo.core.duplicates import Work, forget_made, rounds
from optizoo.core.evaluation import EvaluatedOptimizer
from optizoo.core.planner import Planner
from optizoo.core.processes import summed, together
from optizoo.core.rule import Rule, schema
from optizoo.core.state import counts_on_device, state_dtype


class RuleOptimizer(EvaluatedOptimizer, CompiledOptimizer):
    """A ``torch.optim.Optimizer`` whose update is a rule of :mod:`optizoo.rules`.

    A subclass says which rule serves a group (:meth:`select_rule`) and which checks its options pass (``checks``); its
    ``__init__`` is signature and defaults.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range or unknown, a parameter stands in two groups, or two share memory.
        RuntimeError: ``fused=True`` cannot be honoured.
    """

    nonfinite_steps: int = 0
    """Steps that were not made because a gradient was not finite (``nonfinite="skip"`` or ``"raise"``), since this
    object was made; checkpoints and copies do not hold it."""

    _started: bool = False  # whether a step was made
    _prepared: Sequence[tuple[Tensor, int]] = ()  # states that no step has touched, and their versions

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient.

        A first step at lr 0 whose gradients are all exactly zero makes the states and counts nothing: what
        ``torch.distributed.checkpoint`` does to an optimizer before its first step leaves no trace.

        Args:
            closure: Evaluates the model again and returns the loss; called once, with gradients enabled.

        Returns:
            What the closure returned, or ``None``.

        Raises:
            RuntimeError: A gradient is sparse and the rule has no meaning for it, or the optimizer is in eval mode
                (:meth:`eval`). Nothing was updated.
            FloatingPointError: A gradient is not finite, and ``nonfinite="raise"``. Nothing was updated.
        """
        if self.evaluated is not None:
            self._require_training()
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
        if torch.compiler.is_compiling():
            self._update()
        else:
            with self._alone():
                self._update()
        return loss

    _observed_step = Optimizer.profile_hook_step(_step)

    def _alone(self) -> RLock:
        """Return what one thread at a time holds while it steps."""
        return (self.__dict__.get("_lock") or self.__dict__.setdefault("_lock", process.Lock())).now()

    def _update(self) -> None:
        scaled = "found_inf" in self.__dict__ or "grad_scale" in self.__dict__  # set by torch.amp.GradScaler
        planner = self._planner
        if planner.plan is not None and not (scaled or planner.guarded) and planner.run(self):
            return
        if not self._started:
            if self._prepares():
                return
            self._started = True
        guarded = any("nonfinite" in group for group in self.param_groups)
        if guarded and not self._finite():
            return
        if torch.compiler.is_compiling():
            if scaled:
                raise RuntimeError("a compiled step does not unscale gradients, as fused=True promises; use fused=None")
            self._compiled_update()
        elif scaled:
            self._scaled_update()
        elif not (guarded and planner.run(self)):
            planner.learn(self, self._update_buckets(), guarded=guarded)

    def _prepares(self) -> bool:
        """Make the states and return ``True``, where a first step at lr 0 has nothing but gradients of exact zeros.

        What earlier such steps have made, and nobody has written into since, is taken back: the first step that counts
        finds an optimizer without state.
        """
        if self._prepared:
            found = self._state_tensors()
            if len(found) == len(self._prepared) and all(
                value is tensor and value._version == version
                for value, (tensor, version) in zip(found, self._prepared, strict=True)
            ):
                self.state.clear()
            self._prepared = ()
        if not torch.compiler.is_compiling():
            self._drop_unmade()
        if self.state or torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
            return False
        pairs = [(group, param.grad) for group in self.param_groups for param in group["params"]]
        pairs = [(group, grad) for group, grad in pairs if grad is not None]
        if not pairs or (any(grad.is_cuda for _, grad in pairs) and torch.cuda.is_current_stream_capturing()):
            return False
        if any(group["lr"] != 0 or grad.layout is not torch.strided for group, grad in pairs):
            return False
        if any(grad.is_meta or hasattr(grad, "fake_mode") for _, grad in pairs):  # they have no values
            return False
        if any(bool((grad != 0).any()) for _, grad in pairs):
            return False
        for bucket in self._buckets(self._work()):
            group = self.complete(bucket.group)
            for param, store in zip(bucket.params, bucket.stores, strict=True):
                for name, shape in self._made_shapes(bucket.rule, group, param).items():
                    like = torch.zeros_like(param, memory_format=torch.preserve_format)
                    store[name] = like if shape in (None, param.shape) else param.new_zeros(shape)
        self._prepared = [(value, value._version) for value in self._state_tensors()]
        return True

    def _finite(self) -> bool:
        """Return whether the step can be made: no gradient of a group with ``nonfinite`` is NaN or infinite.

        Raises:
            FloatingPointError: One is, in a group with ``nonfinite="raise"``.
        """
        if "found_inf" in self.__dict__:  # torch.amp.GradScaler has looked, and the update obeys
            return True
        watched = [group for group in self.param_groups if group.get("nonfinite", "propagate") != "propagate"]
        found = [(group, param, param.grad) for group in watched for param in group["params"]]
        found = [(group, param, grad) for group, param, grad in found if grad is not None]
        bad = [found[index][:2] for index in nonfinite([grad for _, _, grad in found])]
        elsewhere = self._bad_elsewhere(bad)
        if not bad and not any(elsewhere):
            return True
        self.nonfinite_steps += 1
        if elsewhere[1] and not any(group["nonfinite"] == "raise" for group, _ in bad):
            raise FloatingPointError(
                "a gradient in another process is not finite, and nothing was updated (nonfinite='raise')"
            )
        if refused := [param for group, param in bad if group["nonfinite"] == "raise"]:
            label = loading.labels(self.param_groups)[refused[0]]
            more = f" and those of {len(bad) - 1} more" if len(bad) > 1 else ""
            raise FloatingPointError(
                f"the gradient of {label}{more} is not finite, and nothing was updated (nonfinite='raise'); lower the "
                "learning rate, clip gradients, or look for the operation with torch.autograd.set_detect_anomaly(True)"
            )
        return False

    def _bad_elsewhere(self, bad: Sequence[tuple[Mapping[str, Any], Tensor]]) -> Sequence[float]:
        """Return how many gradients of other processes are not finite, and of how many that is an error."""
        if not together(self.param_groups):
            return 0, 0
        own = len(bad), sum(group["nonfinite"] == "raise" for group, _ in bad)
        devices = (param.device for group in self.param_groups for param in group["params"])
        device = next(devices, torch.device("cpu"))  # a process may have no share
        return [total - number for total, number in zip(summed(own, device), own, strict=True)]

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether :meth:`step` takes the gradients still scaled: only where every kernel is fused for certain.

        ``torch.amp.GradScaler`` then leaves the division to the step, and sets ``grad_scale`` and ``found_inf``. Sums
        over the model are made before the kernels, of gradients as they are, which must not be scaled then.
        """
        groups = [self.complete(group) for group in self.param_groups]
        return bool(groups) and all(group["fused"] and not schema(self.rule_for(group)).sums for group in groups)

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
        done = []
        with torch.set_grad_enabled(self.complete(self.defaults)["differentiable"]):
            for work in rounds(self._work()):
                forget_made(done if self.remakes_states else (), work)
                buckets = self._buckets(work, **dict.fromkeys(scaling, True))
                update_all(buckets, memory=self._device_memory, **scaling)
                done += buckets
        return done

    def forget(self) -> None:
        """Drop what was found out in earlier steps; groups and state are others now."""
        self._planner = Planner()
        self._started = False
        self._prepared = ()
        self._numbers_of_model = {}
        self._device_memory = {}

    def chosen(self, group: Mapping[str, Any]) -> tuple[Rule, Any]:
        """Return the rule of a param group and its states, sorted; both hang on the options of the group alone."""
        completed = self.complete(group)
        rule = self.rule_for(completed)
        return rule, self._sorted_states(rule, completed)

    def arguments(self, group: dict[str, Any], rule: Rule, backend: str) -> dict[str, Any]:
        """Return what ``rule`` takes in a param group, and ``maximize``; ``step`` is not among it."""
        return {k: v for k, v in self._rule_options(rule, self.complete(group), None, backend).items() if k != "step"}

    def _work(self) -> list[Work]:
        """Return the parameters that have gradients, with them, for every group."""
        work = []
        for group in self.param_groups:
            pairs = [(param, param.grad) for param in group["params"]]
            work.append((group, [pair for pair in pairs if pair[1] is not None]))
        self._check_sparse(work)
        return work

    def _buckets(self, work: Iterable[Work], **scaling: bool) -> list[Bucket]:
        """Sort parameters into buckets, and make the states that they lack.

        Args:
            work: The parameters of every group, with their gradients.
            **scaling: Which of ``grad_scale`` and ``found_inf`` the kernels take.
        """
        self._numbers_of_model = {}
        return [bucket for group, pairs in work for bucket in self._group_buckets(group, pairs, scaling)]

    def _group_buckets(
        self, own: dict[str, Any], pairs: Iterable[tuple[Tensor, Tensor]], scaling: Mapping[str, bool]
    ) -> Iterable[Bucket]:
        group = self.complete(own)
        rule = self.rule_for(group)
        states, zeros, made_by_rule = self._sorted_states(rule, group)
        dtype = state_dtype(group)
        pairs = list(pairs)
        if self.counts_steps:
            self._share_counters(own, [param for param, _ in pairs if counts_on_device(group, param)])
        buckets: dict[tuple, Bucket] = {}
        counters: set[int] = set()
        obstacles: dict[tuple, str | None] = {}  # to the kernel of every kind of parameter

        def obstacle(
            kind: tuple, param: Tensor, grad: Tensor, exists: dict[str, bool], step: Any, further: dict[str, Any]
        ) -> str | None:
            if kind not in obstacles:
                options = self._rule_options(rule, group, step, "fused") | further
                obstacles[kind] = fused.obstacle(rule, exists, param, grad, state_dtype=dtype, **options, **scaling)
            return obstacles[kind]

        for param, grad in pairs:
            on_device = counts_on_device(group, param)
            if param.is_cuda and not group["capturable"] and torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    "a step that a CUDA graph captures would repeat today's step and lr for ever; set capturable=True"
                )
            # Like torch's, a rule without state leaves no entry.
            store = self._store(param) if states or self.counts_steps else {}
            counter = self._counter(store, param, on_device) if self.counts_steps else None
            # The number of this update; on the device it stays there. In float32, 1 - β₂ᵗ would lose four digits.
            step = None if counter is None else counter.double() + 1 if on_device else counter.item() + 1
            first = isinstance(step, float) and step == 1
            numbers = self._running(store, group, param, first=first, of_model=schema(rule).sums)
            for name in zeros:
                # What starts at lr was prepared at lr 0.
                prepared = self.initial_values.get(name) == "lr" and not on_device and step == 1
                if store.get(name) is None or prepared:
                    store[name] = self._initial(name, group, param)
            present = tuple(store.get(name) is not None for name in made_by_rule)
            existing = [store[name] for name in states if store.get(name) is not None]
            exists = {**states, **dict(zip(made_by_rule, present, strict=True))}
            further = self._given(rule, group, param)
            kind = tuple(further.values())
            for name, number in numbers.items():  # autograd may save one, which is written in place
                stays = on_device or number.requires_grad or number.dtype is not self._number_dtype()
                further[name] = number.clone() if stays else number.item()
            kind = (
                *(type(param), param.device, param.dtype, type(grad), grad.dtype, grad.layout, present, *kind),
                *((id(counter),) if on_device else (step, *map(further.get, numbers))),
            )
            backend = choose(
                group, param, grad, existing, partial(obstacle, kind, param, grad, exists, step, further)
            ).name
            bucket = buckets.get((*kind, backend))
            if bucket is None:
                options = self._rule_options(rule, group, step, backend) | further
                if any(number.requires_grad for number in numbers.values()):
                    options["tensor_scalars"] = True
                bucket = buckets[*kind, backend] = Bucket(own, rule, options, backend, exists, state_dtype=dtype)
            bucket.params.append(param)
            bucket.grads.append(grad)
            bucket.stores.append(store)
            if counter is not None and id(counter) not in counters:  # on a device, parameters of all buckets share one
                counters.add(id(counter))
                bucket.counters.append(counter)
            bucket.numbers.append(numbers)
        return buckets.values()


_STEP_CODE = Optimizer._optimizer_step_code  # a profiler puts its own in its place
