"""The step in a form that torch.compile follows."""

from typing import Any

import torch
from torch import Tensor

from optizoo.core.bucket import Bucket, find_totals
from optizoo.core.checkpoint import CheckpointedOptimizer
from optizoo.core.rule import schema
from optizoo.core.state import has_tensor, scalar, state_dtype


class CompiledOptimizer(CheckpointedOptimizer):
    """A :class:`CheckpointedOptimizer` with a step for torch.compile."""

    def _init_group(self, group: dict[str, Any], index: int, params: list[Tensor], grads: list[Tensor]) -> None:
        """Collect parameters and gradients, make the states that they lack, and write down what their rule takes.

        While torch.compile traces a step, it runs a method of this name for real, and takes what is in the lists then
        as inputs of its graph. What the rule takes cannot be found by tracing: that reads signatures.
        """
        if index == 0:
            self._numbers_of_model = {}
        completed = self.complete(group)
        rule = self.rule_for(completed)
        states, zeros, _ = self._sorted_states(rule, completed)
        declared = schema(rule)
        names = declared.options
        # The others are read from the group, where torch.compile watches them.
        fixed = {name: completed[name] for name in (*names, "maximize") if group.get(name) is None}
        self._wirings = {**self.__dict__.get("_wirings", {})}
        self._wirings[index] = (
            *(rule, tuple(states), tuple(names), fixed, declared.names_step, state_dtype(completed)),
            declared.sums,
        )
        for param in group["params"]:
            if param.grad is None:
                continue
            params.append(param)
            grads.append(param.grad)
            if not states and not self.counts_steps:
                continue
            store = self._store(param)
            if self.counts_steps:
                self._counter(store, param, on_device=True)
            self._running(store, completed, param, of_model=declared.sums)
            for name in zeros:
                if store.get(name) is None:
                    store[name] = self._initial(name, completed, param)

    @torch.no_grad()
    def _compiled_update(self) -> None:
        """Make a step in a form that torch.compile can follow: the rule in its loop, counters as tensors."""
        work = []
        buckets: list[Bucket] = []
        for index, group in enumerate(self.param_groups):
            params: list[Tensor] = []
            grads: list[Tensor] = []
            self._init_group(group, index, params, grads)
            work.append((group, params, grads))
        for index, (group, params, grads) in enumerate(work):
            rule, states, names, fixed, names_step, dtype, _ = self._wirings[index]
            options = {name: scalar(fixed[name] if name in fixed else group[name]) for name in names}
            for param, grad in zip(params, grads, strict=True):
                store = self.state[param] if states or self.counts_steps else {}
                numbers = {**options, **self._given(rule, self.complete(group), param)}
                numbers |= {name: store[name].clone() for name in self.numbers}
                step = store["step"].double() + 1 if self.counts_steps else None  # in float32, 1 - β₂ᵗ loses digits
                if names_step:
                    numbers["step"] = step
                numbers["tensor_scalars"] = has_tensor(numbers)
                numbers["maximize"] = fixed["maximize"] if "maximize" in fixed else group["maximize"]
                present = {name: store.get(name) is not None for name in states}
                bucket = Bucket(group, rule, numbers, "loop", present, state_dtype=dtype)
                bucket.params.append(param)
                bucket.grads.append(grad)
                bucket.stores.append(store)
                if self.counts_steps:
                    bucket.counters.append(store["step"])
                bucket.numbers.append({name: store[name] for name in self.numbers})
                buckets.append(bucket)
        if any(sums for *_, sums in self._wirings.values()):
            find_totals(buckets)
        for bucket in buckets:
            bucket.update()
