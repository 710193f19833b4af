"""Parameters that one call of a backend updates together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optizoo.backends import TOTALS, UPDATES, fused
from optizoo.backends.in_place import as_complex, as_real
from optizoo.backends.loop import Columns
from optizoo.core.processes import summed, together
from optizoo.core.rule import Rule, schema


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
    state_dtype: torch.dtype | None = None
    numbers: list[dict[str, Tensor]] = field(default_factory=list)  # the running numbers of every parameter
    totals: list[Any] = field(default_factory=list)  # the sums over the model that the rule has asked for

    def update(self) -> None:
        """Run the rule in the backend of the bucket, and :meth:`keep` what it made."""
        params, grads, columns = self._operands()
        made = UPDATES[self.backend](self.rule, params, grads, columns, **self._arguments())
        if self.params[0].is_complex():
            # Neither a conjugate view nor a sparse state shares its memory with what was updated.
            for param, updated in zip(self.params, params, strict=True):
                if param.is_conj():
                    param.copy_(as_complex(updated))
            made = {**{name: column for name, column in columns.items() if column and column[0].is_sparse}, **made}
            numbers = schema(self.rule).numbers
            made = {name: column if name in numbers else [*map(as_complex, column)] for name, column in made.items()}
        self.keep(made)

    def call(self) -> fused.Call:
        """Return what the bucket asks of a kernel."""
        return fused.call(self.rule, *self._operands(), state_dtype=self.state_dtype, **self._arguments())

    def _arguments(self) -> dict[str, Any]:
        return {**self.options, "totals": self.totals} if self.totals else self.options

    def _kept(self, name: str, state: Any) -> Any:
        """Return a new state in the type that the moments of the group have."""
        wide = self.state_dtype is not None and isinstance(state, Tensor) and state.layout is torch.strided
        return state.to(self.state_dtype) if wide and state.dim() and name != "param_rest" else state

    def keep(self, made: Mapping[str, Sequence[Tensor]], found_inf: Tensor | None = None) -> None:
        """Keep the states that an update has made, and count it: one that fails is not counted.

        Args:
            made: For every new state its column.
            found_inf: Where this is not 0, nothing was updated, and nothing is counted.
        """
        numbers = schema(self.rule).numbers
        for name, column in made.items():
            for store, tensor in zip(self.stores, column, strict=True):
                if name not in numbers:
                    store[name] = self._kept(name, tensor)
        for step in {id(step): step for step in self.counters}.values():  # on a device many share one
            step += 1 if found_inf is None else 1 - found_inf.to(step.device).reshape(())
        for name in numbers:
            for kept, new in zip(self.numbers, made[name], strict=True):
                if new is None:
                    continue
                old = kept[name]
                if found_inf is not None:
                    new = torch.where(found_inf.to(old.device).reshape(()) > 0, old, new)
                old.copy_(new) if isinstance(new, Tensor) else old.fill_(new)

    def wanted(self) -> Sequence[Tensor] | None:
        """Return what the rule wants summed over the model next, for every parameter; ``None`` if nothing more."""
        params, grads, columns = self._operands()
        return TOTALS[self.backend](self.rule, params, grads, columns, totals=self.totals, **self.options)

    def _operands(self) -> tuple[Sequence[Tensor], Sequence[Tensor], Columns]:
        """Return parameters, gradients and the columns of the states as a backend takes them."""
        columns: Columns = {
            name: [store[name] for store in self.stores] if exists else None for name, exists in self.states.items()
        }
        if not self.params[0].is_complex():
            return self.params, self.grads, columns
        # Every rule acts on real and imaginary parts apart, as torch does.
        columns = {name: column and as_real(column) for name, column in columns.items()}
        return as_real(self.params), as_real(self.grads), columns


def find_totals(buckets: Sequence[Bucket]) -> None:
    """Give every bucket the sums over the model that its rule asks for, one after the other."""
    summing = [bucket for bucket in buckets if schema(bucket.rule).sums]
    while summing:
        wanted = [bucket.wanted() for bucket in summing]
        summing = [bucket for bucket, parts in zip(summing, wanted, strict=True) if parts is not None]
        parts = [part for parts in wanted if parts is not None for part in parts]
        if not parts:
            return
        numbers = [_whole(part).double().reshape(()) for part in parts]
        total = torch.stack([number.to(numbers[0].device) for number in numbers]).sum()
        on_device = any(bucket.options.get("tensor_scalars") for bucket in summing)
        if together(bucket.group for bucket in summing):
            total = total.new_tensor(summed([total.item()], total.device)[0])
        for bucket in summing:
            bucket.totals.append(total if on_device else 1.0 if _has_no_value(total) else total.item())


def _has_no_value(number: Tensor) -> bool:
    """Return whether a step is made of shapes alone, on meta or fake tensors: any number serves."""
    return number.is_meta or hasattr(number, "fake_mode")


def _whole(part: Any) -> Tensor:
    """Return the sum over all processes of a number of a sharded tensor; other numbers are whole."""
    return part.full_tensor() if hasattr(part, "full_tensor") else part


def update_all(
    buckets: Iterable[Bucket],
    *,
    memory: dict[Any, dict[Any, Any]],
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Update all buckets, those that share a kernel in one launch.

    Args:
        buckets: No parameter stands in two of them.
        memory: On a GPU, what launches keep for those to come.
        grad_scale: As in :func:`optizoo.backends.fused.run`.
        found_inf: As there.

    Raises:
        RuntimeError: One of the two is given, and a bucket is not for a kernel, which alone takes them. Nothing was
            updated.
    """
    buckets = [*buckets]
    if (grad_scale is not None or found_inf is not None) and any(bucket.backend != "fused" for bucket in buckets):
        raise RuntimeError(
            "only fused kernels divide by grad_scale and look at found_inf, and some parameters have none; set "
            "fused=True in their group, or leave both to torch.amp.GradScaler"
        )
    find_totals(buckets)
    together: dict[Any, list[tuple[Bucket, fused.Call]]] = {}
    for bucket in buckets:
        if bucket.backend == "fused":
            call = bucket.call()
            together.setdefault(call.kind, []).append((bucket, call))
        else:
            bucket.update()
    for kind, pairs in together.items():
        own = memory.setdefault(kind, {}) if pairs[0][0].params[0].is_cuda else None
        fused.run([call for _, call in pairs], grad_scale=grad_scale, found_inf=found_inf, memory=own)
        for bucket, call in pairs:
            bucket.keep(call.results(), found_inf)
