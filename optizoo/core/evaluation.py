"""The second point: optimizers that are judged elsewhere than they step."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from optizoo.core.checkpoint import CheckpointedOptimizer
from optizoo.core.master import joined, top
from optizoo.core.rule import Rule, schema
from optizoo.core.state import on_host

MARK = "evaluated"
"""The option of every param group, and so of its checkpoint, that says which point the parameters are at."""

TRAINED = "trained"
"""The state that keeps the trained point of a parameter while it is at the evaluated one."""


class EvaluatedOptimizer(CheckpointedOptimizer):
    """A :class:`CheckpointedOptimizer` whose parameters may be moved to where the model is judged, and back."""

    evaluated: ClassVar[Callable[..., Any] | None] = None
    """``(param, *state, **options) -> param``, the point at which the model is judged; it names those states, running
    numbers and options of :attr:`rule` that it needs. ``None`` where the optimizer is judged where it steps."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        if cls.evaluated is not None and MARK not in cls.fixed:
            cls.fixed = {**cls.fixed, MARK: False}
        super().__init_subclass__(**keywords)

    def eval(self) -> None:
        """Move the parameters to the point at which the model is judged, if that is another than the trained one.

        The trained point is kept to the bit, in the state ``trained`` of every parameter: until :meth:`train` the
        optimizer takes the memory of one parameter more for each. What others write into the parameters meanwhile is
        lost then. A parameter that was never updated stays where it is. In eval mode the optimizer refuses to step.

        Checkpoints may be saved in either mode and go on exactly. The optimizer's tells by ``evaluated`` in its param
        groups which of the two points the model's was saved at; in eval mode it holds the other one.
        """
        if self.evaluated is None:
            return
        with torch.inference_mode(False), torch.no_grad():
            try:
                for group in self.param_groups:
                    completed = self.complete(group)
                    for param in group["params"]:
                        self._evaluate(param, completed)
            except BaseException:
                self.train()
                raise
        for group in self.param_groups:
            group[MARK] = True

    def train(self) -> None:
        """Move the parameters back to the trained point, to the bit; nothing where they are there already."""
        if self.evaluated is None:
            return
        with torch.inference_mode(False), torch.no_grad():
            for param, store in self.state.items():
                if isinstance(store, Mapping) and TRAINED in store:
                    param.copy_(store[TRAINED])
                    del self.state[param][TRAINED]
        for group in self.param_groups:
            group[MARK] = False

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Be in eval mode within ``with``; afterwards in the mode of before.

        Example:
            >>> import torch, optizoo
            >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
            >>> optimizer = optizoo.ScheduleFreeSGD([weight], lr=0.5)
            >>> for _ in range(2):
            ...     weight.grad = weight.detach().clone()
            ...     optimizer.step()
            >>> with optimizer.evaluating():
            ...     print(weight.data)
            tensor([0.3750])
            >>> weight.data
            tensor([0.3625])
        """
        before = self._is_evaluated()
        self.eval()
        try:
            yield
        finally:
            if not before:
                self.train()

    def _is_evaluated(self) -> bool:
        return any(group.get(MARK) for group in self.param_groups)

    def _require_training(self) -> None:
        """Raise ``RuntimeError`` where the parameters are not at the point that the rule updates."""
        if self._is_evaluated():
            kind = type(self).__name__
            raise RuntimeError(
                f"{kind} cannot step in eval mode, in which the parameters are at the evaluated point and not at the "
                "trained one; call optimizer.train() first, or evaluate within `with optimizer.evaluating():`"
            )

    def _evaluate(self, param: Tensor, group: Mapping[str, Any]) -> None:
        """Move a parameter to its second point; nothing where it is there, or was never updated."""
        found = self._second_point(self.state.get(param), self.select_rule(group))
        if found is None or TRAINED in self.state[param]:
            return
        function: Any = self.evaluated
        names = inspect.signature(function).parameters.values()
        options = {p.name: on_host(group[p.name]) for p in names if p.kind is p.KEYWORD_ONLY}
        rest = self.state[param].get("param_rest")
        point = function(*_alike([param if rest is None else joined(param, rest), *found]), **options)
        point = point if rest is None else top(point)
        self.state[param][TRAINED] = param.detach().clone(memory_format=torch.preserve_format)
        param.copy_(torch.view_as_complex(point) if param.is_complex() else point)

    def _second_point(self, store: Any, rule: Rule) -> list[Any] | None:
        """Return what the second point of a parameter is made of, beside it; ``None`` where no update was made."""
        if not isinstance(store, Mapping) or (self.counts_steps and not float(store.get("step", 0))):
            return None
        function: Any = self.evaluated
        numbers, found = schema(rule).numbers, []
        for parameter in [*inspect.signature(function).parameters.values()][1:]:
            if parameter.kind is parameter.KEYWORD_ONLY:
                continue
            value = store.get(parameter.name)
            if value is None and parameter.default is parameter.empty:
                return None
            found.append(on_host(value) if parameter.name in numbers else value)
        return found

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as every optimizer does; its parameters are at the trained point."""
        if self.evaluated is not None and isinstance(param_group, dict) and param_group.get(MARK):
            param_group = {**param_group, MARK: False}
        super().add_param_group(param_group)

    def _check_store(self, store: Mapping[str, Any], param: Tensor, own: Mapping[str, Any], label: str) -> None:
        super()._check_store(store, param, own, label)
        if self.evaluated is None:
            return
        owner, trained = type(self).__name__, store.get(TRAINED)
        if trained is None:
            if own.get(MARK) and self._second_point(store, self.select_rule(self.complete(own))) is not None:
                raise ValueError(
                    f"the checkpoint was saved in eval mode, but the state of {label} lacks {TRAINED!r}, the trained "
                    "point that it would go on from; save all states, not flattened, or save after optimizer.train() "
                    f"({owner})"
                )
        elif not own.get(MARK):
            raise ValueError(
                f"the state of {label} has {TRAINED!r}, which is there in eval mode alone, but {MARK!r} in its param "
                f"group is {own.get(MARK)!r}; load groups and states of one checkpoint ({owner})"
            )
        elif not isinstance(trained, Tensor) or trained.shape != param.shape:
            found = tuple(trained.shape) if isinstance(trained, Tensor) else repr(trained)
            raise ValueError(
                f"the state {TRAINED!r} of {label} is {found} in the checkpoint, the parameter has shape "
                f"{tuple(param.shape)}; load the checkpoint into the model that it was saved with ({owner})"
            )


def _alike(operands: Sequence[Any]) -> list[Any]:
    """Return a parameter and its states as real tensors of the widest type among them; numbers as they are."""
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    dtype = functools.reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
    alike = [each.to(dtype) if isinstance(each, Tensor) else each for each in operands]
    if not dtype.is_complex:
        return alike
    # Both parts of a complex number are weights of their own.
    return [torch.view_as_real(each.resolve_conj()) if isinstance(each, Tensor) else each for each in alike]
