"""The state of a parameter: named tensors, its counter, and the numbers kept beside ``step``."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optizoo.backends import loop
from optizoo.core.checks import plain
from optizoo.core.groups import GroupedOptimizer
from optizoo.core.rule import Rule, schema, sorted_states, step_dtype


class StatefulOptimizer(GroupedOptimizer):
    """A :class:`GroupedOptimizer` that makes the states of its parameters by name, where they are missing."""

    _numbers_of_model: dict[tuple[str, torch.device], Tensor]  # found once in a step

    def _sorted_states(
        self, rule: Rule, group: Mapping[str, Any]
    ) -> tuple[dict[str, bool], tuple[str, ...], tuple[str, ...]]:
        """Return :func:`optizoo.core.rule.sorted_states` of a rule under the options of a completed group."""
        switches = self.state_switches
        off = tuple(name for name, switch in switches.items() if not group[switch])
        return sorted_states(rule, tuple(name for name in switches if name not in off), off)

    def _check_sparse(self, work: Iterable[tuple[Mapping[str, Any], Sequence[tuple[Tensor, Tensor]]]]) -> None:
        """Raise RuntimeError where a gradient is sparse and has no meaning, as torch does."""
        for own, pairs in work:
            if not any(grad.is_sparse for _, grad in pairs):
                continue
            kind = type(self).__name__
            if not self.supports_sparse:
                raise RuntimeError(f"{kind} does not support sparse gradients; use SGD or Adagrad, or make them dense")
            if not own.get("weight_decay", True):  # the usual case, at the cost of a look
                continue
            group = self.complete(own)
            if group.get("weight_decay") and group.get("weight_decay_mode") == "coupled":
                raise RuntimeError(
                    f"weight_decay option is not compatible with sparse gradients: {group['weight_decay']!r} times the "
                    f"parameter would make them dense; set it to 0, or weight_decay_mode='decoupled' ({kind})"
                )

    def _running(
        self, store: dict[str, Any], group: Mapping[str, Any], param: Tensor, *, of_model: bool, first: bool = False
    ) -> dict[str, Tensor]:
        """Return the running numbers as they are; made here if they are missing, or prepared before the first step.

        They are kept as torch keeps them, and in double precision where torch has no such optimizer. Those of a rule
        that sums over the model are the model's (``of_model``): all parameters have the same tensors, also those that
        step for the first time, or have rested.
        """
        for name, start in self.numbers.items():
            if first and self.initial_values.get(name) == "lr":  # what was prepared at lr 0
                store.pop(name, None)
            device = param.device if counts_on_device(group, param) else torch.device("cpu")
            shared = self._number_of_model(name, device) if of_model else None
            if shared is not None:
                store[name] = shared
            elif not isinstance(store.get(name), Tensor):
                start = float(group[self.initial_values[name]]) if name in self.initial_values else start
                store[name] = counted(store.get(name, start), device, self._number_dtype())
        return {name: store[name] for name in self.numbers}

    def _number_of_model(self, name: str, device: torch.device) -> Tensor | None:
        """Return the tensor on a device that holds a running number for all parameters; ``None`` before it is made."""
        if (name, device) not in self._numbers_of_model:
            stores = (store for store in self.state.values() if isinstance(store, Mapping))
            held = (store[name] for store in stores if isinstance(store.get(name), Tensor))
            found = next((number for number in held if number.device == device), None)
            if found is None:
                return None
            self._numbers_of_model[name, device] = found
        return self._numbers_of_model[name, device]

    def _number_dtype(self) -> torch.dtype:
        return torch.float64 if self.namesake is None else step_dtype()

    @staticmethod
    def _given(rule: Rule, group: Mapping[str, Any], param: Tensor) -> dict[str, Any]:
        """Return what a rule gets by naming it, beside ``step``."""
        found: dict[str, Any] = {}
        if "shape" in schema(rule).given:
            found["shape"] = tuple(param.shape)
        if "machine_eps" in schema(rule).given:
            found["machine_eps"] = torch.finfo(torch.float32 if group["master"] else param.dtype).eps
        return found

    def _made_shapes(self, rule: Rule, group: Mapping[str, Any], param: Tensor) -> dict[str, torch.Size | None]:
        """Return the states that ``rule`` makes for ``param``, and their shapes: it runs on tensors without values.

        Of a rule that cannot do that, the states that it knows, each with ``None``.
        """
        states, zeros, made = self._sorted_states(rule, group)
        if not made:
            return {}
        shape = (*param.shape, 2) if param.is_complex() else param.shape
        empty = torch.empty(shape, dtype=param.dtype.to_real(), device="meta")
        columns = {name: [empty] if name in zeros else None for name in states}
        options = {name: on_host(value) for name, value in self._rule_options(rule, group, 1.0, "foreach").items()}
        options |= {**self._given(rule, group, param), **self.numbers, "tensor_scalars": True}
        totals: list[float] = []
        try:
            while loop.total(rule, [empty], [empty], columns, totals=totals, **options) is not None:
                totals.append(1.0)
            found = loop.update(rule, [empty], [empty], columns, totals=totals, **options)
        except Exception:  # of any kind: the rule may look at values
            return dict.fromkeys(made)
        shapes = {name: found[name][0].shape for name in made if name in found}
        return {name: shape[:-1] if param.is_complex() else shape for name, shape in shapes.items()}

    def _initial(self, name: str, group: Mapping[str, Any], param: Tensor) -> Tensor:
        """Return a state as it is before the first update."""
        if name == "param_rest":
            return torch.zeros_like(param, dtype=torch.int16, memory_format=torch.preserve_format)
        dtype = state_dtype(group)
        value = float(group[self.initial_values[name]]) if name in self.initial_values else 0.0
        if value == 0:  # not full_like, which a tensor subclass may not know
            return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
        start = complex(value, value) if param.is_complex() else value  # both parts are weights of their own
        return torch.full_like(param, start, dtype=dtype, memory_format=torch.preserve_format)

    def _drop_unmade(self) -> None:
        """Drop states that a rule makes at the first update where none was counted yet: they were only prepared."""
        for group in self.param_groups:
            completed = self.complete(group)
            made_by_rule = self._sorted_states(self.rule_for(completed), completed)[2]
            for param in group["params"] if made_by_rule and self.counts_steps else ():
                store: Any = self.state.get(param, {})
                step = store.get("step")
                if isinstance(step, Tensor) and not (step.is_meta or hasattr(step, "fake_mode") or step.item()):
                    for name in store.keys() & set(made_by_rule):
                        del store[name]

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
                step = counted(0, device)
            elif not isinstance(step, Tensor):
                step = counted(step, device)
            elif len(stores) == users[counter]:
                continue
            else:
                step = step.clone()
            numbers = {name: stores[0][name].clone() for name in self.numbers if name in stores[0]}
            for store in stores:
                store["step"] = step
                store |= numbers

    def _state_tensors(self) -> list[Tensor]:
        stores = [store for store in self.state.values() if isinstance(store, Mapping)]
        return [value for store in stores for value in store.values() if isinstance(value, Tensor)]

    def _columns(self, param: Tensor) -> list[Tensor]:
        """Return the states of a parameter that have its shape."""
        store = self.state.get(param, {})
        counters = ("step", *self.numbers)
        return [value for name, value in store.items() if isinstance(value, Tensor) and name not in counters]

    def _store(self, param: Tensor) -> dict[str, Any]:
        """Return the state of a parameter; made here if it is missing, in any kind of dict that ``state`` may be."""
        store = self.state.get(param)
        if store is None:
            store = self.state[param] = {}
        return store

    @staticmethod
    def _counter(store: dict[str, Any], param: Tensor, on_device: bool) -> Tensor:
        """Return ``step`` of the state, the number of updates made; made here if it is missing or a plain number."""
        step = store.get("step")
        if not isinstance(step, Tensor):
            step = store["step"] = counted(0 if step is None else step, param.device if on_device else "cpu")
        return step

    def share_memory(self) -> None:
        """Move the states that there are into shared memory, for processes that train together (Hogwild).

        Adagrad has its states from the start, other optimizers after their first step.
        """
        for group in self.param_groups:
            for param in group["params"]:
                for state in self._columns(param):
                    state.share_memory_()

    def _rule_options(
        self, rule: Rule, group: Mapping[str, Any], step: float | Tensor | None, backend: str
    ) -> dict[str, Any]:
        options = {name: scalar(group[name]) for name in schema(rule).options}
        if self.numbers and self.namesake is None and not (group["capturable"] or group["differentiable"]):
            # Beside running numbers in double precision, a rate in a tensor counts as the number that it holds.
            options = {name: on_host(value) for name, value in options.items()}
        options["maximize"] = group["maximize"]
        if schema(rule).names_step:
            options["step"] = step
        if backend == "loop":
            options["differentiable"] = group["differentiable"]
            # A number that a rule makes of a tensor is differentiated too.
            options["tensor_scalars"] = group["differentiable"] or (group["capturable"] and has_tensor(options))
        return options


def state_dtype(group: Mapping[str, Any]) -> torch.dtype | None:
    """Return the type of the moments of a completed group; ``None`` if it is that of each parameter."""
    return group["state_dtype"] or (torch.float32 if group["master"] else None)


def counted(number: Any, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """Return a counter that holds a number, as states of older versions do; its type is torch's, or ``dtype``."""
    try:
        # Of a literal, FakeTensorMode knows the value.
        return torch.tensor(float(number), dtype=dtype or step_dtype(), device=device)
    except (TypeError, ValueError):
        raise TypeError(f"a counter in the state is {number!r}; it must be a tensor of one element") from None


def counts_on_device(group: Mapping[str, Any], param: Tensor) -> bool:
    """Return whether the counters of a group live on the device of its parameters."""
    return bool(group.get("capturable") or (group.get("fused") and param.is_cuda))


def share_equal(stores: Iterable[dict[str, Any]], names: Collection[str]) -> None:
    """Let stores whose counters on one device are equal have the same tensors."""
    shared: dict[tuple, dict[str, Tensor]] = {}
    for store in stores:
        counters = {name: store[name] for name in names if name in store}
        key = tuple((name, value.device, value.item()) for name, value in counters.items())
        store |= shared.setdefault(key, counters)


def scalar(value: Any) -> Any:
    """Return an option as rules take it: a plain number, or a tensor that has no dimensions."""
    value = plain(value)
    if isinstance(value, tuple):
        return tuple(map(scalar, value))
    return value.reshape(()) if isinstance(value, Tensor) and value.dim() else value


def on_host(value: Any) -> Any:
    """Return an option or a running number with its tensors read as the numbers that they hold."""
    if isinstance(value, (tuple, list)):
        return tuple(map(on_host, value))
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def has_tensor(options: Mapping[str, Any]) -> bool:
    """Return whether an option is a tensor, or has one in it."""
    return any(isinstance(value, Tensor) for value in _flat(options.values()))


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, tuple):
            yield from value
        else:
            yield value
