"""Check a gradient: what backward gives against what centred differences of the loss give."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from optizoo.tables import text_table
from optizoo.testing.probe import (
    HAPPY,
    HIDDEN,
    UNEASY,
    WRONG,
    Loss,
    Probe,
    Resolved,
    errors_beside,
    gradients_around,
    resolve,
    unravelled,
)

Verdict = Literal["happy", "fine", "uneasy", "wrong", "undecided", "kinks only", "too small"]

_NOT_OK = ("wrong", "uneasy", "undecided")


@dataclass(frozen=True)
class ParameterCheck:
    """The gradient of one parameter at the elements that were looked at.

    Attributes:
        name: Its name in the model.
        shape: Its shape.
        index: The elements (n,), counted as in ``param.flatten()``.
        analytic: Their derivatives by backward (n,).
        numerical: Their derivatives by centred differences (n,).
        kinks: How many have a kink within the step; what a kink explains is no error.
        too_small: How many are so small that rounding would hide an error of 1 %.
        error: The largest relative error ``|a - n| / max(|a|, |n|)`` of the elements that are judged; differences
            within rounding count as none, and where no other is met the error is 0.
        worst: The element that has it, as a place in ``param.flatten()``; ``None`` where the error is 0.
        expected: What backward should give there, from the step or the method that decided; ``None`` likewise.
        verdict: What the error means; see :func:`check_gradients`.
    """

    name: str
    shape: tuple[int, ...]
    index: Tensor
    analytic: Tensor
    numerical: Tensor
    kinks: int
    too_small: int
    error: float
    worst: int | None
    expected: float | None
    verdict: Verdict

    def complaint(self) -> str:
        """Say in a line what is wrong."""
        if self.worst is None or self.expected is None:
            return f"{self.name}: kinks lie within every step, and too close to every point beside; move the parameters"
        given = self.analytic[self.index == self.worst].item()
        return (
            f"{self.name}.flatten()[{self.worst}]: backward gives {given:.9g}, differences give {self.expected:.9g}; "
            f"relative error {self.error:.1e}"
        )


@dataclass(frozen=True)
class GradientCheck:
    """What :func:`check_gradients` found; prints as a table.

    Attributes:
        params: One entry for each parameter that requires a gradient.
        loss: The loss at the parameters.
        step: The step size of the differences.
        evaluations: How often the loss was computed for the differences.
        numerical_seconds: What these evaluations took.
        analytic_seconds: What one loss with backward took, on the same copy.
    """

    params: tuple[ParameterCheck, ...]
    loss: float
    step: float
    evaluations: int
    numerical_seconds: float
    analytic_seconds: float

    @property
    def error(self) -> float:
        """The largest relative error of all parameters."""
        return max(param.error for param in self.params)

    @property
    def ok(self) -> bool:
        """Whether every parameter is happy or fine, or had nothing to judge but kinks and what is too small."""
        return not any(param.verdict in _NOT_OK for param in self.params)

    def assert_ok(self) -> None:
        """Raise unless :attr:`ok`.

        Raises:
            AssertionError: A gradient is wrong or uneasy, or cannot be judged; the message is the table, and the worst
                element of each.
        """
        if not self.ok:
            found = [param.complaint() for param in self.params if param.verdict in _NOT_OK]
            title = "the gradient does not agree with differences of the loss"
            if all(param.verdict == "undecided" for param in self.params if param.verdict in _NOT_OK):
                title = "the gradient can be neither confirmed nor refuted"
            raise AssertionError("\n".join([title, str(self), *found]))

    def __str__(self) -> str:
        """Return the table, and below it the time that both gradients took."""
        rows = [["parameter", "shape", "checked", "kinks", "too small", "error", "verdict"]]
        rows += [
            [
                param.name, "x".join(map(str, param.shape)) or "scalar", str(len(param.index)), str(param.kinks),
                str(param.too_small), f"{param.error:.1e}" if param.error else "rounding", param.verdict,
            ]
            for param in self.params
        ]  # fmt: skip
        times = (
            f"{self.evaluations} evaluations of the loss in {self.numerical_seconds:.3g} s; "
            f"backward: {self.analytic_seconds:.3g} s"
        )
        return f"{text_table(rows, right=range(2, 6))}\n{times}"


def check_gradients(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    *,
    elements: int | None = 100,
    step: float = 1e-5,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> GradientCheck:
    r"""Compare the gradient that backward gives with centred differences of the loss, for any model and loss.

    .. math:: n_i = \frac{f(\theta + h e_i) - f(\theta - h e_i)}{2h}, \qquad
              \mathrm{error}_i = \frac{|a_i - n_i|}{\max(|a_i|, |n_i|)}

    The verdicts are those of the CS231n notes (https://cs231n.github.io/neural-networks-3/#gradcheck):

    ============  ====================================================================================================
    wrong         error above 1e-2
    uneasy        error above 1e-4; or above 1e-7, and no kink was met
    fine          error above 1e-7, and kinks were met, as with ReLU and L1
    happy         error of at most 1e-7
    undecided     kinks lie so closely everywhere that nothing can be told; not ok
    kinks only    a kink was met at every element, and nothing contradicts
    too small     nothing but kinks and elements whose derivative is lost in the rounding of the loss
    ============  ====================================================================================================

    A kink is met where the slopes to the left and to the right disagree by more than the curvature says, or the
    differences at ``h`` and at smaller steps do. Then the step is made smaller, until

    - no kink is left within it: the element is judged as any other;
    - only the one on which the element itself is: backward is right from the one slope to the other, and nowhere else;
    - rounding hides the rest. Then backward is judged on both sides of the element, against differences there, and must
      give at the element what it gives infinitely close to it.

    Where many units are at a kink at once, as in a layer of zeros, backward takes a side for each by itself. It is
    right then if it is between what it gives infinitely close by; and in a model without an ``autograd.Function``,
    whose choices are torch's own.

    The model is copied, and the copy and the floating-point tensors of the batch are cast to ``dtype``: parameters,
    gradients, buffers, mode and dtype of yours stay as they are. What has no copy, such as a lock, is shared. The copy
    stays in the mode of the model (dropout is active while training). Every evaluation begins with the buffers and with
    the state of torch's random generators of the first, so that dropout drops the same units in all; the generators are
    left as they were found.

    Args:
        model: Any module. Parameters that do not require a gradient are not checked.
        loss: A module such as ``nn.CrossEntropyLoss()``, called as ``loss(model(batch[0]), *batch[1:])``; or a function
            ``loss(model, batch)``, which may use what it likes of the model, such as a penalty on its weights. Either
            returns a tensor with one number.
        batch: Tensors, or tuples, lists and dicts of them.
        elements: How many elements of each parameter are checked, drawn at random; ``None`` for all. Each takes two
            evaluations of the loss, and more where a kink is suspected.
        step: The step size ``h``; relative, for elements above 1.
        seed: Of the drawing.
        dtype: In which both gradients are computed. In float32 rounding hides most mistakes.

    Raises:
        ValueError: Nothing requires a gradient, a parameter is complex or has no shape yet, an argument is out of
            range, or the loss is not one finite number, differs between two evaluations at the same parameters, or
            takes a parameter from elsewhere than from its argument.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
        >>> found = check_gradients(model, nn.CrossEntropyLoss(), (torch.randn(5, 4), torch.tensor([0, 1, 1, 0, 1])))
        >>> print(found)
        parameter  shape  checked  kinks  too small     error  verdict
        ---------  -----  -------  -----  ---------  --------  -------
        0.weight   3x4         12      0          0  rounding  happy
        0.bias     3            3      0          0  rounding  happy
        2.weight   2x3          6      0          0  rounding  happy
        2.bias     2            2      0          0  rounding  happy
        46 evaluations of the loss in ... s; backward: ... s
        >>> found.assert_ok()
    """
    if elements is not None and elements < 1:
        raise ValueError(f"elements must be at least 1, or None for all, got {elements!r}")
    if not step > 0:
        raise ValueError(f"step must be above 0, got {step!r}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be of floating point, got {dtype}")
    probe = Probe(model, loss, batch, dtype)
    try:
        return _check(probe, elements, step, seed)
    finally:
        probe.reset_generators()


@dataclass(frozen=True)
class _Element:
    """One element: its two derivatives, and what they say."""

    analytic: float
    numerical: float
    nearest: float
    kink: bool
    too_small: bool
    undecided: bool
    error: float


def _check(probe: Probe, elements: int | None, step: float, seed: int) -> GradientCheck:
    loss, grads, analytic_seconds = probe.gradient()
    probe.evaluations, probe.seconds = 0, 0.0
    generator = torch.Generator().manual_seed(seed)
    judge = _Judge(probe, loss, step, seed)
    looked_at: list[tuple[str, Tensor, Tensor, list[_Element]]] = []
    for number, ((name, param), grad) in enumerate(zip(probe.params.items(), grads, strict=True)):
        index = torch.randperm(param.numel(), generator=generator)[:elements].sort().values
        values = grad.reshape(-1)[index.to(grad.device)].tolist()
        found = [judge.look(number, param, *at) for at in zip(index.tolist(), values, strict=True)]
        looked_at.append((name, param, index, found))
    kinks = any(element.kink for *_, found in looked_at for element in found)
    params = tuple(_summary(*each, kinks=kinks) for each in looked_at)
    return GradientCheck(params, loss, step, probe.evaluations, probe.seconds, analytic_seconds)


class _Judge:
    """Holds what backward gives at an element against all that can be known of the derivative there."""

    def __init__(self, probe: Probe, loss: float, step: float, seed: int) -> None:
        self.probe, self.loss, self.step, self.seed = probe, loss, step, seed

    @cached_property
    def around(self) -> list[list[Tensor]]:
        return gradients_around(self.probe, self.seed)

    def look(self, number: int, param: Tensor, place: int, analytic: float) -> _Element:
        index = unravelled(place, param.shape)
        step = self.step * max(1.0, abs(param.detach()[index].item()))
        found = self._judged(number, param, place, analytic, step)
        if found.error > HAPPY or found.undecided:
            # The loss may be rounded more coarsely than its size tells, as where small differences are normalised.
            usual, here = self.probe.noise, 4 * self.probe.noise_at(param, place, step)
            if here > usual:
                self.probe.noise = here
                again = self._judged(number, param, place, analytic, step)
                self.probe.noise = usual
                # If no more than that is known, it may as well be kinks that look like rounding.
                found = replace(again, undecided=True, too_small=False) if again.kink and again.too_small else again
        return found

    def _judged(self, number: int, param: Tensor, place: int, analytic: float, step: float) -> _Element:
        index = unravelled(place, param.shape)
        first = self.probe.slopes(param, place, step, self.loss)
        known = resolve(self.probe, param, place, analytic, step, self.loss, first=first)
        nearest, error = known.nearest(analytic), known.error(analytic)
        kink, small = known.kink, error == 0 and 0 < max(abs(analytic), abs(nearest)) < 100 * known.rounding
        undecided = False
        if math.isfinite(analytic) and (error > HAPPY or not known.known):
            size = max(abs(analytic), abs(known.left), abs(known.right))
            difference = abs(analytic - nearest) if known.known else 4 * WRONG * size
            beside = errors_beside(self.probe, number, param, place, step, difference)
            around = [analytic, *(gradients[number][index].item() for gradients in self.around)]
            lost = not beside and size < 400 * HIDDEN * first.rounding  # at the smaller steps that would tell
            if known.smooth and not kink and difference <= HIDDEN * (max(around) - min(around)):
                error, small = 0.0, True  # it is backward that is rounded so coarsely, as at a minimum
            elif max(beside, default=0.0) > HAPPY:
                error = max(error, *beside) if known.known else max(beside)
            elif (beside or lost or not known.known) and self._explained(analytic, known, around):
                kink, error, small, undecided = True, 0.0, lost, not beside and not lost
        return _Element(analytic, first.centred, nearest, kink, small, undecided, error)

    def _explained(self, analytic: float, known: Resolved, around: list[float]) -> bool:
        """Whether kinks explain that backward is outside of the derivatives to both sides, as it is right beside.

        There may be kinks so close that differences step over them: then backward gives the same all around. And where
        several units are at a kink at once, backward takes a side for each by itself, the differences a path on which
        they move together. Then what it gives is between what it gives around; or is torch's own choice, where no
        ``autograd.Function`` takes part. A single kink explains no more than the derivatives to both sides.
        """
        low, high = min(around[1:], default=math.inf), max(around[1:], default=-math.inf)
        allowed = 10 * HAPPY * max(abs(analytic), abs(low), abs(high))
        if low - allowed <= analytic <= high + allowed:
            return True
        distance = max(known.left - analytic, analytic - known.right)
        alone = max(known.left - low, high - known.right) < 0.1 * distance
        return self.probe.native and not alone


def _summary(name: str, param: Tensor, index: Tensor, found: list[_Element], *, kinks: bool) -> ParameterCheck:
    errors = [element.error for element in found]
    error = max(errors, default=0.0)
    if error > UNEASY:
        verdict = "wrong" if error > WRONG else "uneasy"
    elif error > HAPPY:
        verdict = "fine" if kinks else "uneasy"
    elif any(element.undecided for element in found):
        verdict = "undecided"
    elif found and all(element.kink for element in found):
        verdict = "kinks only"
    elif found and all(element.kink or element.too_small for element in found):
        verdict = "too small"
    else:
        verdict = "happy"
    worst = errors.index(error) if error else None
    return ParameterCheck(
        name,
        tuple(param.shape),
        index,
        torch.tensor([element.analytic for element in found], dtype=torch.float64),
        torch.tensor([element.numerical for element in found], dtype=torch.float64),
        kinks=sum(element.kink for element in found),
        too_small=sum(element.too_small for element in found),
        error=error,
        worst=None if worst is None else int(index[worst]),
        expected=None if worst is None else found[worst].nearest,
        verdict=verdict,
    )
