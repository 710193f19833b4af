"""Prove that one optimizer equals another, in tiers of strictness that see what a falling loss hides."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from optizoo.testing.streams import SHAPES, Shapes, gradients, lr_factor, make_params, set_gradients
from optizoo.testing.ulp import identical, ulp_distance

Factory = Callable[[list[Parameter]], Optimizer]

DEFAULT_TIERS = ("T2", "T3")

_DTYPES: dict[str, tuple[torch.dtype, ...]] = {
    "T1": (torch.float32, torch.float64),
    "T2": (torch.float64,),
    "T3": (torch.float32,),
    "T4": (torch.bfloat16, torch.float16),
}


def assert_equivalent(
    candidate: Factory,
    reference: Factory,
    *,
    tiers: Iterable[str] = DEFAULT_TIERS,
    dtype: torch.dtype | None = None,
    steps: int = 100,
    seed: int = 0,
    device: torch.device | str = "cpu",
    shapes: Shapes = SHAPES,
) -> None:
    """Raise if the two optimizers do not compute the same on gradients that make mistakes visible.

    Both run freely, on parameters of their own that start alike, under a learning rate that drops in the middle, with
    gradients that span fifteen decades, exact zeros, ``None`` gradients, a transposed, a 0-dim and a frozen parameter
    (:mod:`optizoo.testing.streams`). In every tier an optimizer that writes into a gradient fails.

    ==== ============================================================================================================
    T1   Bitwise: parameters and named states are identical after every step, in float32 and float64.
    T2   Displacement: in float64, every element has moved from its start by the same amount, to a relative 1e-9
         beyond the rounding of the parameter itself.
    T3   Precision: the error of float32 against the reference in float64 is at most twice the reference's own.
    T4   The same for bfloat16 and float16 against the reference in float32, from parameters that start at zero.
    ==== ============================================================================================================

    The default, T2 and T3, is the strictest that any correct implementation passes: the textbook formulas do, though
    they round in other places. Of the 256 mutants of :mod:`optizoo.testing.mutants` T2 rejects all, T3 all but four,
    and T4, in whose few digits a decay drowns, 209.

    Args:
        candidate: Takes a list of parameters, returns the optimizer to be judged.
        reference: Takes a list of parameters, returns the optimizer that is right.
        tiers: Any of ``"T1"`` to ``"T4"``.
        dtype: Run only this type, in every tier that has it.
        steps: Length of the runs.
        seed: Of parameters and gradients.
        device: Where the parameters live.
        shapes: Of the parameters, for optimizers that do not take every shape.

    Raises:
        AssertionError: They differ; the message says in which tier, options, type, step and element, gives both values
            and their distance in units in the last place.
        TypeError: A factory returns something else than an optimizer.
        ValueError: Nothing would be compared: a tier is unknown, no tier has ``dtype``, there is no step, a factory
            ignores a parameter that it is given, both return one optimizer, or the reference moves nothing.

    Example:
        >>> import torch, optizoo
        >>> assert_equivalent(optizoo.Adam, torch.optim.Adam)
        >>> assert_equivalent(lambda params: optizoo.Adam(params, foreach=False), torch.optim.Adam, tiers=["T1"])
        >>> assert_equivalent(lambda params: optizoo.Adam(params, eps=1e-7), torch.optim.Adam)
        Traceback (most recent call last):
            ...
        AssertionError: T2 (displacement): ...
    """
    tiers = tuple(tiers)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}; without a step nothing is compared")
    runs = [(tier, kind) for tier in tiers for kind in _dtypes(tier) if dtype is None or kind == dtype]
    if not runs:
        raise ValueError(f"no tier of {tiers} runs in {dtype}; leave out dtype, or choose a tier that has it")
    checks = {"T1": _bitwise, "T2": _displacement, "T3": _precision, "T4": _precision}
    for tier, kind in runs:
        checks[tier](_Setting(tier, kind, steps, seed, device, shapes), candidate, reference)


def _dtypes(tier: str) -> tuple[torch.dtype, ...]:
    if tier not in _DTYPES:
        raise ValueError(f"Unknown tier {tier!r}; known: {', '.join(_DTYPES)}")
    return _DTYPES[tier]


@dataclass(frozen=True)
class _Setting:
    tier: str
    dtype: torch.dtype
    steps: int
    seed: int
    device: torch.device | str
    shapes: Shapes


class Run:
    """An optimizer on its own parameters, driven step by step by given gradients.

    Args:
        factory: Takes the parameters, returns the optimizer.
        dtype: Of the parameters.
        seed: Of the parameters.
        device: Where they live.
        shapes: Of the parameters.
    """

    def __init__(
        self,
        factory: Factory,
        dtype: torch.dtype,
        seed: int = 0,
        device: torch.device | str = "cpu",
        shapes: Shapes = SHAPES,
    ):
        self.params = make_params(dtype, device, seed, shapes)
        self.start = [param.detach().clone() for param in self.params]
        self.optimizer = factory(list(self.params))
        groups = _groups(self.optimizer)
        held = {id(param) for group in groups for param in group["params"]}
        # One that is in no group may still be stepped, as where an optimizer keeps copies of a wider type.
        self._unheld = [
            index for index, param in enumerate(self.params) if param.requires_grad and id(param) not in held
        ]
        self._base_lrs = [group["lr"] for group in groups]
        for group in groups:
            if isinstance(group["lr"], Tensor):  # it will be filled, and the caller may have given it to other runs
                group["lr"] = group["lr"].clone()
        self.description = self.describe()
        self.moved = False  # whether any parameter has come to another number; such a run is worth comparing
        self._factor = 1.0

    def step(self, grads: Sequence[Tensor | None], factor: float = 1.0) -> None:
        """Set the gradients, rounded to the type of the parameters, and the rate to ``factor`` times its base; step.

        Raises:
            AssertionError: The optimizer wrote into a gradient.
            ValueError: It ignores a parameter.
        """
        set_gradients(self.params, list(grads))
        self.set_lr(factor)
        given = [None if param.grad is None else param.grad.clone() for param in self.params]
        self.optimizer.step()
        self._require_held(given)
        self.moved = self.moved or any(
            bool(((param != start) & param.isfinite()).any())
            for param, start in zip(self.params, self.start, strict=True)
        )
        for index, (param, grad) in enumerate(zip(self.params, given, strict=True)):
            if grad is not None and (param.grad is None or not identical(param.grad, grad)):
                raise AssertionError(f"{self.description} wrote into the gradient of params[{index}]")

    def _require_held(self, given: Sequence[Tensor | None]) -> None:
        for index in self._unheld:
            grad, param = given[index], self.params[index]
            if grad is not None and bool(grad.any()) and identical(param.detach(), self.start[index]):
                raise ValueError(
                    f"{self.description} ignores params[{index}], which its factory was given: it is in none of its "
                    f"param_groups, and does not move; build the optimizer from the list of parameters itself"
                )
        self._unheld = [index for index in self._unheld if given[index] is None]

    def set_lr(self, factor: float) -> None:
        """Set every group's rate to ``factor`` times its base; a tensor is filled in place, as schedulers do."""
        if factor == self._factor:
            return
        self._factor = factor
        for group, base_lr in zip(self.optimizer.param_groups, self._base_lrs, strict=True):
            if isinstance(base_lr, Tensor):
                group["lr"].copy_(base_lr * factor)
            else:
                group["lr"] = base_lr * factor

    def describe(self) -> str:
        """Name the optimizer and its options."""
        group = self.optimizer.param_groups[0]
        options = ", ".join(f"{name}={value}" for name, value in group.items() if name not in ("params", "param_names"))
        return f"{type(self.optimizer).__name__}({options})"


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    groups = getattr(optimizer, "param_groups", None)
    if not callable(getattr(optimizer, "step", None)) or not groups:
        raise TypeError(
            "a factory takes a list of parameters and returns an optimizer, with param_groups and step; "
            f"got {optimizer!r}"
        )
    if groups[0] is not optimizer.param_groups[0]:
        raise TypeError(f"{type(optimizer).__name__} gives copies of its param_groups, in which no lr can be moved")
    for index, group in enumerate(groups):
        if "lr" not in group:
            raise TypeError(f"param group {index} of {type(optimizer).__name__} has no lr, which the runs have to move")
    return groups


def _runs(setting: _Setting, *factories: Factory, dtypes: Sequence[torch.dtype] = ()) -> list[Run]:
    """Return a run of each factory, all on different optimizers."""
    runs = [
        Run(factory, dtype, setting.seed, setting.device, setting.shapes)
        for factory, dtype in zip(factories, dtypes or [setting.dtype] * len(factories), strict=True)
    ]
    if len({id(run.optimizer) for run in runs}) < len(runs):
        raise ValueError("both factories return one and the same optimizer; each call has to build a new one")
    return runs


def _require_moved(reference: Run) -> None:
    """Raise where the run ended where it began: optimizers that do nothing are equal to each other."""
    if not reference.moved:
        raise ValueError(
            f"the reference {reference.description} has moved no parameter to another number, so nothing was compared; "
            f"give it a rate above 0, and as many steps as it needs to move"
        )


def _bitwise(setting: _Setting, candidate: Factory, reference: Factory) -> None:
    ours, theirs = _runs(setting, candidate, reference)
    for step, grads in enumerate(_rounded(setting, setting.dtype), start=1):
        factor = lr_factor(step, setting.steps)
        ours.step(grads, factor)
        theirs.step(grads, factor)
        for index, (param, expected) in enumerate(zip(ours.params, theirs.params, strict=True)):
            _require_identical(setting, ours, step, f"params[{index}]", param.detach(), expected.detach())
            state, expected_state = (
                getattr(run.optimizer, "state", {}).get(key, {}) for run, key in ((ours, param), (theirs, expected))
            )
            missing = expected_state.keys() - state.keys()
            if missing:
                raise AssertionError(
                    f"{_title(setting, ours)}, step {step}: params[{index}] lacks the state {sorted(missing)[0]!r}; "
                    f"it has {sorted(state)}"
                )
            for name, value in expected_state.items():
                if isinstance(value, (Tensor, int, float)):
                    _require_identical(setting, ours, step, f"params[{index}].{name}", state[name], value)
    _require_moved(theirs)


def _require_identical(
    setting: _Setting, run: Run, step: int, where: str, actual: Any, expected: Tensor | float
) -> None:
    if not isinstance(expected, Tensor):  # a number in a state; it may be kept in a tensor, too
        expected = torch.tensor(expected, dtype=torch.float64)
        actual = torch.as_tensor(actual, dtype=torch.float64, device=expected.device)
    actual = torch.as_tensor(actual, device=expected.device)
    if actual.dtype != expected.dtype or actual.shape != expected.shape:
        raise AssertionError(
            f"{_title(setting, run)}, step {step}: {where} is {actual.dtype} of shape {tuple(actual.shape)}, "
            f"the reference has {expected.dtype} of shape {tuple(expected.shape)}"
        )
    if not identical(actual, expected):
        _fail(setting, run, step, where, actual, expected, ~_same(actual, expected))


def _same(actual: Tensor, expected: Tensor) -> Tensor:
    """Return where both are the same number, the same infinity, or no number."""
    return (actual == expected) | (actual.isnan() & expected.isnan())


def _displacement(setting: _Setting, candidate: Factory, reference: Factory) -> None:
    ours, theirs = _runs(setting, candidate, reference)
    epsilon = torch.finfo(setting.dtype).eps
    largest = [start.abs() for start in theirs.start]
    for step, grads in enumerate(_rounded(setting, setting.dtype), start=1):
        factor = lr_factor(step, setting.steps)
        ours.step(grads, factor)
        theirs.step(grads, factor)
        for index, (param, expected) in enumerate(zip(ours.params, theirs.params, strict=True)):
            actual, right = param.detach(), expected.detach()
            finite = right.isfinite()
            largest[index] = torch.where(finite, torch.maximum(largest[index], right.abs()), largest[index])
            moved = (right - theirs.start[index]).abs()
            # Each of the two rounds its parameter to half a unit in every step, wherever it computes.
            allowed = 1e-9 * moved + step * epsilon * largest[index]
            wrong = ~_same(actual, right) & ~(finite & ((actual - right).abs() <= allowed))
            if wrong.any():
                _fail(setting, ours, step, f"params[{index}]", actual, right, wrong)
    _require_moved(theirs)


def _precision(setting: _Setting, candidate: Factory, reference: Factory) -> None:
    wide = torch.float64 if setting.dtype == torch.float32 else torch.float32
    ours, theirs, truth = _runs(setting, candidate, reference, reference, dtypes=(setting.dtype, setting.dtype, wide))
    with torch.no_grad():
        for run in (ours, theirs, truth):
            for index, start in enumerate(ours.start):
                # From zero, every digit of a 16-bit parameter tells how far it has moved.
                run.params[index].copy_(torch.zeros_like(start) if setting.tier == "T4" else start)
                run.start[index] = run.params[index].detach().clone()
    epsilon = torch.finfo(setting.dtype).eps
    largest = _joined(truth.params).abs().clamp_min(torch.finfo(setting.dtype).smallest_normal)
    squares, own_squares = torch.zeros_like(largest), torch.zeros_like(largest)
    for step, grads in enumerate(_rounded(setting, setting.dtype), start=1):
        for run in (ours, theirs, truth):
            run.step(grads, lr_factor(step, setting.steps))
        true = _joined(truth.params)
        largest = torch.where(true.isfinite(), torch.maximum(largest, true.abs()), largest)
        actual, own = _joined(ours.params), _joined(theirs.params)
        # Where the reference itself leaves the range of the type there is nothing to compare.
        comparable = own.isfinite() & true.isfinite()
        # But where it does so in the wide type as well, that is what it computes.
        alike = ~true.isfinite() & _same(own, true.to(own.dtype))
        wrong = (comparable & ~actual.isfinite()) | (alike & ~_same(actual, own))
        if wrong.any():
            _fail(setting, ours, step, "all params joined", actual, true.to(setting.dtype), wrong)
        error, own_error = (
            torch.where(comparable, (values.to(wide) - true) / (epsilon * largest), 0) for values in (actual, own)
        )
        squares, own_squares = squares + error**2, own_squares + own_error**2
        # Root mean square over all elements and steps so far, in units of the type's precision. Half a unit is allowed
        # in any case: another order of operations may round where the reference happens not to.
        found, allowed = (float((total.mean() / step).sqrt()) for total in (squares, own_squares))
        if found > max(2 * allowed, 0.5):
            worst = error.abs() == error.abs().max()
            more = f"; its error against {wide} is {found:.3g} units, the reference's own is {allowed:.3g}"
            _fail(setting, ours, step, "all params joined", actual, true.to(setting.dtype), worst, more)
    _require_moved(theirs)


def _joined(params: Sequence[Tensor]) -> Tensor:
    return torch.cat([param.detach().reshape(-1) for param in params])


def _rounded(setting: _Setting, dtype: torch.dtype) -> Iterable[list[Tensor | None]]:
    """Yield the gradients as ``dtype`` holds them, so that runs in wider types see the same numbers."""
    for grads in gradients(setting.steps, setting.seed, setting.shapes):
        yield [None if grad is None else grad.to(dtype).to(setting.device) for grad in grads]


_TITLES = {"T1": "bitwise", "T2": "displacement", "T3": "precision", "T4": "low precision"}


def _title(setting: _Setting, run: Run) -> str:
    dtype = str(setting.dtype).removeprefix("torch.")
    return f"{setting.tier} ({_TITLES[setting.tier]}): {run.description} in {dtype}"


def _fail(
    setting: _Setting, run: Run, step: int, where: str, actual: Tensor, expected: Tensor, wrong: Tensor, more: str = ""
) -> None:
    index = tuple(wrong.nonzero()[0].tolist())
    got, right = actual[index], expected[index]
    apart = f"{ulp_distance(got.to(right.dtype), right).item()} ulp apart; " if right.is_floating_point() else ""
    raise AssertionError(
        f"{_title(setting, run)}, step {step}: {where}[{', '.join(map(str, index))}] is {got.item()!r}, "
        f"the reference has {right.item()!r}, {apart}"
        f"{int(wrong.sum())} of {wrong.numel()} elements differ{more}"
    )
