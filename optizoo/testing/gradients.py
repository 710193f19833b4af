"""Check a gradient: what backward gives against what centred differences of the loss give."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from optizoo.tables import text_table

Loss = nn.Module | Callable[[Any, Any], Tensor]
Verdict = Literal["happy", "fine", "uneasy", "wrong", "kinks only", "too small"]

WRONG, UNEASY, HAPPY = 1e-2, 1e-4, 1e-7
ROUNDING = 10  # units of rounding by which a loss may be off; the lab's models on 128 images stay below 2


@dataclass(frozen=True)
class ParameterCheck:
    """The gradient of one parameter at the elements that were looked at.

    Attributes:
        name: Its name in the model.
        shape: Its shape.
        index: The elements (n,), counted as in ``param.flatten()``.
        analytic: Their derivatives by backward (n,).
        numerical: Their derivatives by centred differences (n,).
        kinks: How many are on a kink, which the difference crosses; those whose error the kink explains are not judged.
        too_small: How many are so small that rounding would hide an error of 1 %.
        error: The largest relative error ``|a - n| / max(|a|, |n|)`` of the elements that are judged; differences
            within rounding count as none, and where no other is met the error is 0.
        worst: The element that has it, as a place in ``param.flatten()``; ``None`` where the error is 0.
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
    verdict: Verdict


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
        return not any(param.verdict in ("wrong", "uneasy") for param in self.params)

    def assert_ok(self) -> None:
        """Raise unless :attr:`ok`.

        Raises:
            AssertionError: A gradient is wrong or uneasy; the message is the table, and the worst element of each.
        """
        if self.ok:
            return
        found = [
            f"{param.name}.flatten()[{param.worst}]: backward gives {_at(param, param.analytic):.9g}, "
            f"differences give {_at(param, param.numerical):.9g}"
            for param in self.params
            if param.verdict in ("wrong", "uneasy")
        ]
        raise AssertionError("\n".join(["the gradient does not agree with differences of the loss", str(self), *found]))

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
    kinks only    every element is on a kink
    too small     nothing but kinks and elements whose derivative is lost in the rounding of the loss
    ============  ====================================================================================================

    An element is on a kink if its slopes to the left and to the right disagree by more than the curvature says, or its
    differences at ``h`` and ``h/2`` do. A kink excuses an error that is no larger than the spread of these slopes; a
    larger one is judged as anywhere else.

    The model is copied, and the copy and the floating-point tensors of the batch are cast to ``dtype``: parameters,
    gradients, buffers, mode and dtype of yours stay as they are. The copy stays in the mode of the model (dropout is
    active while training). Every evaluation begins with the buffers and with the state of torch's random generators of
    the first, so that dropout drops the same units in all; the generators are left as they were found.

    Args:
        model: Any module. Parameters that do not require a gradient are not checked.
        loss: A module such as ``nn.CrossEntropyLoss()``, called as ``loss(model(batch[0]), *batch[1:])``; or a function
            ``loss(model, batch)``, which may use what it likes of the model, such as a penalty on its weights. Either
            returns a tensor with one number.
        batch: Tensors, or tuples, lists and dicts of them.
        elements: How many elements of each parameter are checked, drawn at random; ``None`` for all. Each takes two
            evaluations of the loss, and two more where a kink is suspected.
        step: The step size ``h``.
        seed: Of the drawing.
        dtype: In which both gradients are computed. In float32 rounding hides most mistakes.

    Raises:
        ValueError: Nothing requires a gradient, a parameter is complex, an argument is out of range, or the loss is
            not one finite number or differs between two evaluations at the same parameters.

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
    probe = _Probe(model, loss, batch, dtype)
    try:
        return _check(probe, elements, step, seed)
    finally:
        probe.reset_generators()


class _Probe:
    """A copy of model, loss and batch: the loss as a function of the copy's parameters and of nothing else."""

    def __init__(self, model: nn.Module, loss: Loss, batch: Any, dtype: torch.dtype) -> None:
        for name, param in model.named_parameters():
            if param.is_complex():
                raise ValueError(f"parameter {name!r} is complex; split it into real and imaginary part")
        self.model, self.loss = deepcopy(model).to(dtype), loss
        if isinstance(loss, nn.Module):
            self.loss = deepcopy(loss).to(dtype)
        self.batch = _cast(batch, dtype)
        self.params = {name: param for name, param in self.model.named_parameters() if param.requires_grad}
        if not self.params:
            raise ValueError("model has no parameter that requires a gradient; there is nothing to check")
        self.buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        self.devices = sorted({param.device.index for param in self.model.parameters() if param.is_cuda})
        self.states = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in self.devices]
        self.evaluations, self.seconds = 0, 0.0

    def reset_generators(self) -> None:
        torch.set_rng_state(self.states[0])
        for device, state in zip(self.devices, self.states[1], strict=True):
            torch.cuda.set_rng_state(state, device)

    def value(self) -> Tensor:
        self.reset_generators()
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                if name in self.buffers:
                    buffer.copy_(self.buffers[name])
        if isinstance(self.loss, nn.Module):
            inputs, *targets = self.batch
            value = self.loss(self.model(inputs), *targets)
        else:
            value = self.loss(self.model, self.batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss must return a tensor with one number, got {shape}; take its mean or sum")
        return value.reshape(())

    def gradient(self) -> tuple[float, list[Tensor], float]:
        """Return loss, gradients and seconds."""
        start = time.perf_counter()
        with torch.enable_grad():
            value = self.value()
            if not value.requires_grad:
                raise ValueError("the loss does not depend on the parameters by any operation that torch can derive")
            grads = torch.autograd.grad(value, list(self.params.values()), allow_unused=True, materialize_grads=True)
        loss, seconds = value.item(), time.perf_counter() - start
        again = self.evaluate()
        if not abs(loss - again) <= ROUNDING * torch.finfo(value.dtype).eps * abs(loss):
            raise ValueError(
                f"the loss is {loss!r} and then {again!r} at the same parameters; it must be finite, and draw no "
                f"random numbers but from torch's generators"
            )
        return loss, [grad.detach() for grad in grads], seconds

    def evaluate(self) -> float:
        start = time.perf_counter()
        with torch.no_grad():
            value = self.value().item()
        self.evaluations, self.seconds = self.evaluations + 1, self.seconds + time.perf_counter() - start
        return value

    def slopes(self, param: Tensor, place: int, step: float, loss: float) -> tuple[float, float, float]:
        """Return the centred difference at one element, and the slopes to its left and to its right."""
        values, index = param.detach(), _unravelled(place, param.shape)
        old = values[index].item()
        at, losses = [], []
        for moved in (old - step, old + step):
            values[index] = moved
            at.append(values[index].item())  # what the dtype holds
            losses.append(self.evaluate())
        values[index] = old
        if not at[0] < old < at[1]:
            raise ValueError(f"step = {step:g} does not move a parameter of {old:g} in {param.dtype}; take a larger")
        centred = (losses[1] - losses[0]) / (at[1] - at[0])
        return centred, (loss - losses[0]) / (old - at[0]), (losses[1] - loss) / (at[1] - old)


@dataclass(frozen=True)
class _Element:
    """One element: its two derivatives, and what they say."""

    analytic: float
    numerical: float
    kink: bool
    excused: bool
    rounding: float

    @property
    def size(self) -> float:
        return max(abs(self.analytic), abs(self.numerical))

    @property
    def too_small(self) -> bool:
        return 0 < self.size < 100 * self.rounding

    @property
    def error(self) -> float:
        """The relative error, 0 where rounding or a kink explains it."""
        difference = abs(self.analytic - self.numerical)
        if self.excused or difference <= self.rounding:
            return 0.0
        return difference / self.size if math.isfinite(difference) else math.inf


def _check(probe: _Probe, elements: int | None, step: float, seed: int) -> GradientCheck:
    loss, grads, analytic_seconds = probe.gradient()
    probe.evaluations, probe.seconds = 0, 0.0
    generator = torch.Generator().manual_seed(seed)
    looked_at: list[tuple[str, Tensor, Tensor, list[_Element]]] = []
    for (name, param), grad in zip(probe.params.items(), grads, strict=True):
        index = torch.randperm(param.numel(), generator=generator)[:elements].sort().values
        values = grad.reshape(-1)[index.to(grad.device)].tolist()
        found = [_look(probe, param, *at, step, loss) for at in zip(index.tolist(), values, strict=True)]
        looked_at.append((name, param, index, found))
    kinks = any(element.kink for *_, found in looked_at for element in found)
    params = tuple(_summary(*each, kinks=kinks) for each in looked_at)
    return GradientCheck(params, loss, step, probe.evaluations, probe.seconds, analytic_seconds)


def _look(probe: _Probe, param: Tensor, place: int, analytic: float, step: float, loss: float) -> _Element:
    rounding = ROUNDING * torch.finfo(param.dtype).eps * abs(loss) / step
    numerical, left, right = probe.slopes(param, place, step, loss)
    size, jump = max(abs(analytic), abs(numerical)), right - left
    kink, spread = False, 0.0
    # A kink is suspected where the gradient seems wrong, or the slope changes by much within a step.
    if abs(analytic - numerical) > rounding + HAPPY * size or abs(jump) > 4 * rounding + 1e-3 * size:
        nearer, *slopes = probe.slopes(param, place, step / 2, loss)
        # Of a smooth loss, half the step halves the jump of the slopes and hardly moves the centred difference.
        bent = abs(jump - 2 * (slopes[1] - slopes[0])) > 12 * rounding + 0.1 * abs(jump)
        kink = bent or abs(numerical - nearer) > 4 * rounding + HAPPY * size
        spread = max(left, right, *slopes) - min(left, right, *slopes)
    return _Element(analytic, numerical, kink, kink and abs(analytic - numerical) <= spread, rounding)


def _summary(name: str, param: Tensor, index: Tensor, found: list[_Element], *, kinks: bool) -> ParameterCheck:
    errors = [element.error for element in found]
    error = max(errors, default=0.0)
    if error > UNEASY:
        verdict = "wrong" if error > WRONG else "uneasy"
    elif error > HAPPY:
        verdict = "fine" if kinks else "uneasy"
    elif found and all(element.kink for element in found):
        verdict = "kinks only"
    elif found and all(element.kink or element.too_small for element in found):
        verdict = "too small"
    else:
        verdict = "happy"
    return ParameterCheck(
        name,
        tuple(param.shape),
        index,
        torch.tensor([element.analytic for element in found], dtype=torch.float64),
        torch.tensor([element.numerical for element in found], dtype=torch.float64),
        kinks=sum(element.kink for element in found),
        too_small=sum(element.too_small for element in found),
        error=error,
        worst=int(index[errors.index(error)]) if error else None,
        verdict=verdict,
    )


def _at(param: ParameterCheck, values: Tensor) -> float:
    return values[param.index == param.worst].item()


def _cast(batch: Any, dtype: torch.dtype) -> Any:
    """Return the batch with copies of its tensors, those of floating point in ``dtype``."""
    if isinstance(batch, Tensor):
        return batch.detach().to(dtype if batch.is_floating_point() else batch.dtype, copy=True)
    if isinstance(batch, Mapping):
        return {key: _cast(value, dtype) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):  # a named tuple
        return type(batch)(*(_cast(value, dtype) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(_cast(value, dtype) for value in batch)
    return batch


def _unravelled(place: int, shape: Sequence[int]) -> tuple[int, ...]:
    index = []
    for size in reversed(shape):
        place, at = divmod(place, size)
        index.append(at)
    return tuple(reversed(index))
