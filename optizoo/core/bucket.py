"""Parameters that one call of a backend updates together."""

import ctypes
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optizoo.backends import UPDATES, foreach, fused
from optizoo.backends.in_place import as_complex, as_real
from optizoo.backends.loop import Columns
from optizoo.backends.plan import Task
from optizoo.backends.trace import wire
from optizoo.core.rule import Rule


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
            params, grads = as_real(params), as_real(grads)
            columns = {name: column and as_real(column) for name, column in columns.items()}
        made = UPDATES[self.backend](self.rule, params, grads, columns, **self.options, **fused_options)
        if is_complex:  # neither a conjugate view nor a sparse state shares its memory with what was updated
            for param, updated in zip(self.params, params, strict=True):
                if param.is_conj():
                    param.copy_(as_complex(updated))
            made = {**{name: column for name, column in columns.items() if column and column[0].is_sparse}, **made}
        for name, column in made.items():
            for store, tensor in zip(self.stores, column, strict=True):
                store[name] = as_complex(tensor) if is_complex else tensor
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
