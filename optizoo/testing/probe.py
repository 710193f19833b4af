"""A loss as a function of one model's parameters: its gradient, its differences, and both at points nearby."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.parameter import is_lazy

from optizoo.testing.copying import copied

Loss = nn.Module | Callable[[Any, Any], Tensor]

WRONG, UNEASY, HAPPY = 1e-2, 1e-4, 1e-7
AROUND = 12  # points around a kink
HIDDEN = 12  # units of rounding below which a kink does not show in two differences
ROUNDING = 10  # units of rounding by which a loss may be off; the lab's models on 128 images stay below 2


@dataclass(frozen=True)
class Slopes:
    """The differences of one element at one step, and by how much rounding may have moved each."""

    step: float
    centred: float
    left: float
    right: float
    rounding: float

    @property
    def jump(self) -> float:
        """By how much the slope changes at the element."""
        return self.right - self.left

    def size(self, analytic: float) -> float:
        """What a relative error is relative to."""
        return max(abs(analytic), abs(self.centred))

    def smooth(self, analytic: float) -> bool:
        """Whether the derivative that backward gives, and no kink, is what these differences show."""
        size = self.size(analytic)
        agrees = abs(analytic - self.centred) <= self.rounding + HAPPY * size
        return agrees and abs(self.jump) <= 4 * self.rounding + 1e-3 * size


class Probe:
    """A copy of model, loss and batch: the loss as a function of the copy's parameters and of nothing else."""

    def __init__(self, model: nn.Module, loss: Loss, batch: Any, dtype: torch.dtype) -> None:
        for name, param in model.named_parameters():
            if is_lazy(param):
                raise ValueError(f"parameter {name!r} has no shape yet; call the model once before it is checked")
            if param.is_complex():
                raise ValueError(f"parameter {name!r} is complex; split it into real and imaginary part")
        self.loss: Loss = loss
        if isinstance(loss, nn.Module):
            self.model, self.loss = copied((model, loss))
            _cast_module(self.loss, dtype)
        else:
            self.model = copied(model)
        _cast_module(self.model, dtype)
        self.originals = {id(param): name for name, param in model.named_parameters() if param.requires_grad}
        self.batch = _cast(batch, dtype)
        self.params = {name: param for name, param in self.model.named_parameters() if param.requires_grad}
        if not self.params:
            raise ValueError("model has no parameter that requires a gradient; there is nothing to check")
        modules = [*self.model.modules(), *(self.loss.modules() if isinstance(self.loss, nn.Module) else ())]
        self.modules = list(dict.fromkeys(modules))
        self.buffers = [
            (module, name, buffer.clone())
            for module in self.modules
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        generators = {
            id(each): each for module in self.modules for each in vars(module).values() if isinstance(each, Generator)
        }
        self.generators = [(each, each.get_state()) for each in generators.values()]
        self.devices = sorted({param.device.index for param in self.model.parameters() if param.is_cuda})
        self.states = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in self.devices]
        self.evaluations, self.seconds, self.noise = 0, 0.0, 0.0

    def reset_generators(self) -> None:
        """Put torch's random generators, and those of the modules, back to where they were found."""
        torch.set_rng_state(self.states[0])
        for device, state in zip(self.devices, self.states[1], strict=True):
            torch.cuda.set_rng_state(state, device)
        for generator, state in self.generators:
            generator.set_state(state)

    def value(self) -> Tensor:
        """Return the loss, with its graph."""
        self.reset_generators()
        with torch.no_grad():
            for module, name, saved in self.buffers:
                buffer = module._buffers.get(name)
                if buffer is not None and not buffer.requires_grad and buffer.shape == saved.shape:
                    buffer.copy_(saved)
                else:
                    module._buffers[name] = saved.clone()
        with torch.enable_grad():  # the loss may be one that derives by itself, as a penalty on gradients does
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
        """Return loss, gradients and seconds; learn how far the loss is off by rounding, and what its graph is of."""
        start = time.perf_counter()
        value = self.value()
        if not value.requires_grad:
            raise ValueError("the loss does not depend on the parameters by any operation that torch can derive")
        nodes = _nodes(value)
        grads = self.backward(value)
        loss, seconds = value.item(), time.perf_counter() - start
        again = self.evaluate()
        epsilon = self.epsilon = torch.finfo(value.dtype).eps
        if not abs(loss - again) <= ROUNDING * epsilon * abs(loss):
            raise ValueError(
                f"the loss is {loss!r} and then {again!r} at the same parameters; it must be finite, and draw no "
                f"random numbers but from torch's generators"
            )
        leaves = [getattr(node, "variable", None) for node in nodes]
        outside = [self.originals[id(leaf)] for leaf in leaves if id(leaf) in self.originals]
        if outside:
            raise ValueError(
                f"the loss takes parameter {outside[0]!r} from elsewhere than from the model that it is given; let it "
                f"be a function of its arguments"
            )
        # A node of Python is an autograd.Function: its backward is somebody's own, and so is its jvp.
        self.native = not any(isinstance(node, torch.autograd.function.BackwardCFunction) for node in nodes)
        self.noise = ROUNDING * epsilon * abs(loss) + 2 * self._noise(loss)
        return loss, grads, seconds

    def backward(self, value: Tensor) -> list[Tensor]:
        """Return the derivatives of ``value``."""
        params = list(self.params.values())
        grads = torch.autograd.grad(value, params, allow_unused=True, materialize_grads=True)
        return [grad.detach() for grad in grads]

    def _noise(self, loss: float) -> float:
        """Return by how much the loss changes where every parameter moves to a neighbouring number."""
        generator, largest = torch.Generator().manual_seed(0), 0.0
        for _ in range(3):
            signs = [torch.randn(param.shape, generator=generator).sign() for param in self.params.values()]
            moves = [
                param.detach() * (sign * torch.finfo(param.dtype).eps).to(param)
                for param, sign in zip(self.params.values(), signs, strict=True)
            ]
            with self.displaced(moves):
                change = abs(self.evaluate() - loss)
            largest = max(largest, change) if math.isfinite(change) else largest
        return largest

    def noise_at(self, param: Tensor, place: int, step: float) -> float:
        """Return how far the loss is from smooth close to one element: the largest sixth difference of some points."""
        values, index = param.detach(), unravelled(place, param.shape)
        old, losses = values[index].item(), []
        try:
            for number in range(-6, 7):
                values[index] = old + number * step / 1000
                losses.append(self.evaluate())
        finally:
            values[index] = old
        sixth = [sum((-1) ** k * math.comb(6, k) * losses[start + k] for k in range(7)) for start in range(7)]
        return max(map(abs, sixth)) / math.sqrt(math.comb(12, 6))

    @contextmanager
    def displaced(self, moves: Sequence[Tensor | None]) -> Iterator[None]:
        """Move the parameters, and put them back."""
        moved = [
            (param.detach(), move) for param, move in zip(self.params.values(), moves, strict=True) if move is not None
        ]
        before = [values.clone() for values, _ in moved]
        try:
            for values, move in moved:
                values.add_(move)
            yield
        finally:
            for (values, _), old in zip(moved, before, strict=True):
                values.copy_(old)

    def evaluate(self) -> float:
        """Return the loss as a number; counted and timed."""
        start = time.perf_counter()
        value = self.value().item()
        self.evaluations, self.seconds = self.evaluations + 1, self.seconds + time.perf_counter() - start
        return value

    def slopes(self, param: Tensor, place: int, step: float, loss: float) -> Slopes:
        """Return the centred difference at one element, and the slopes to its left and to its right."""
        values, index = param.detach(), unravelled(place, param.shape)
        old = values[index].item()
        at, losses = [], []
        try:
            for moved in (old - step, old + step):
                values[index] = moved
                at.append(values[index].item())  # what the dtype holds
                losses.append(self.evaluate() if at[-1] != old else loss)
        finally:
            values[index] = old
        if not at[0] < old < at[1]:
            raise ValueError(f"step = {step:g} does not move a parameter of {old:g} in {param.dtype}; take a larger")
        centred = (losses[1] - losses[0]) / (at[1] - at[0])
        left, right = (loss - losses[0]) / (old - at[0]), (losses[1] - loss) / (at[1] - old)
        # Where the loss is next to 0 it is exact, and what is near is not.
        noise = max(self.noise, ROUNDING * self.epsilon * max(map(abs, losses)))
        return Slopes(step, centred, left, right, noise / step)


@dataclass(frozen=True)
class Resolved:
    """What differences at ever smaller steps tell of one element.

    Attributes:
        kink: Whether the first differences cross a kink.
        left: The smaller of the derivatives to both sides, at the smallest step that was needed.
        right: The larger one.
        rounding: By how much rounding may have moved them.
        known: Whether they are the derivatives: false where kinks lie too densely to tell.
        smooth: Whether they are one derivative, and the element is on no kink.
    """

    kink: bool
    left: float
    right: float
    rounding: float
    known: bool
    smooth: bool

    def nearest(self, analytic: float) -> float:
        """Return the number between the two derivatives that is nearest to what backward gives."""
        return min(max(analytic, self.left), self.right)

    def error(self, analytic: float) -> float:
        """Return the relative error of what backward gives: 0 between the two derivatives, and within rounding."""
        nearest = self.nearest(analytic)
        difference = abs(analytic - nearest)
        if difference <= self.rounding:
            return 0.0
        return difference / max(abs(analytic), abs(nearest)) if math.isfinite(difference) else math.inf


def resolve(
    probe: Probe,
    param: Tensor,
    place: int,
    analytic: float,
    step: float,
    loss: float,
    *,
    first: Slopes | None = None,
    rungs: int = 12,
) -> Resolved:
    """Make the step smaller until no kink lies within it but one at the element itself."""
    wide = first or probe.slopes(param, place, step, loss)
    if wide.smooth(analytic):
        return Resolved(False, wide.centred, wide.centred, wide.rounding, known=True, smooth=True)
    kink, former = False, []
    for ratio in (2, *[4] * (rungs - 1)):
        try:
            near = probe.slopes(param, place, wide.step / ratio, loss)
        except ValueError:  # too small to move the element
            break
        rounding, size = 4 * (wide.rounding + near.rounding), near.size(analytic)
        steady = abs(wide.centred - near.centred) <= rounding + HAPPY * size
        # Of a smooth loss, a smaller step makes the jump of the slopes smaller by as much.
        bent = abs(wide.jump - ratio * near.jump) > (1 + ratio) * rounding + 0.1 * abs(wide.jump)
        if steady and not bent:
            if 1e-3 * size < abs(near.jump) <= (1 + ratio) * rounding:
                low, high = sorted((near.left, near.right))  # rounding hides whether this is curvature or a kink
            else:
                low = high = near.centred
            return Resolved(kink, low, high, near.rounding, known=True, smooth=True)
        kink = True
        # The slopes without the part that shrinks with the step, which is curvature.
        limits = [
            (ratio * after - before) / (ratio - 1)
            for before, after in ((wide.left, near.left), (wide.right, near.right))
        ]
        still = rounding + 1e-3 * abs(near.jump)
        if abs(near.jump) > 2 * rounding and max(abs(wide.left - near.left), abs(wide.right - near.right)) <= still:
            low, high = sorted(limits)
            return Resolved(kink, low, high, rounding + HAPPY * (high - low), known=True, smooth=False)
        # Both sides may be curved, each in its own way: then what is left without curvature stays as it is.
        curved = max(abs(near.left - limits[0]), abs(near.right - limits[1]))
        allowed = 2 * rounding + 1e-3 * curved
        if former and max(abs(now - then) for now, then in zip(limits, former, strict=True)) <= allowed:
            low, high = sorted(limits)
            return Resolved(kink, low, high, allowed, known=True, smooth=high - low <= allowed)
        former = limits
        if near.rounding > WRONG * max(size, abs(near.left), abs(near.right)):
            break
        wide = near
    low, high = sorted((wide.left, wide.right))
    return Resolved(True, low, high, wide.rounding, known=False, smooth=False)


def errors_beside(probe: Probe, number: int, param: Tensor, place: int, step: float, difference: float) -> list[float]:
    """Return the relative errors of backward on both sides of an element, within the step or else near to it.

    Args:
        probe: The loss.
        number: The parameter's place among the parameters.
        param: The parameter.
        place: The element.
        step: How far differences of the element reached.
        difference: What is looked for; where rounding would hide it, nothing is told.
    """
    index, errors = unravelled(place, param.shape), []

    @contextmanager
    def at(distance: float) -> Iterator[tuple[float, float]]:
        move = torch.zeros_like(param)
        move[index] = distance
        with probe.displaced([move if each is param else None for each in probe.params.values()]):
            value = probe.value()
            grad = probe.backward(value)[number][index].item() if value.requires_grad else math.nan
            yield value.item(), grad

    for distance in [sign * step * part for part in (1 / 2, 1 / 64, 4, 32) for sign in (1, -1)]:
        if len(errors) == 2 or (errors and (errors[-1] or abs(distance) > step)):
            break
        with at(distance) as (loss, analytic):
            if not (math.isfinite(loss) and math.isfinite(analytic)):
                continue
            found = resolve(probe, param, place, analytic, abs(distance) / 2, loss, rungs=2)
        # A kink that rounding hides moves the differences by no more than this.
        hidden, away = HIDDEN * found.rounding, abs(analytic - found.nearest(analytic))
        if not found.smooth or max(hidden, found.right - found.left) > difference / 2:
            continue
        if away <= hidden:
            errors.append(0.0)
            continue
        # Backward changes where there are kinks after all, of which the differences show the mean.
        with at(0.5 * distance) as (_, nearer), at(distance) as (_, farther):  # the moves add up
            if max(abs(nearer - analytic), abs(farther - analytic)) <= 0.1 * away:
                errors.append(found.error(analytic))
    return errors


def gradients_around(probe: Probe, seed: int) -> list[list[Tensor]]:
    """Return what backward gives infinitely close to the point: every kink on which the point is, is left.

    Numbers move by a few units of their last place, zeros by next to nothing. So what is exactly at a kink comes to
    one side of it or the other, and what is anywhere beside one stays where it is. The first points go down or up with
    everything, and then with later parameters by far more than with earlier ones: where whole layers are at 0, these
    leave all of their units on one side. The others are random.
    """
    generator = torch.Generator().manual_seed(seed)
    around = []
    for point in range(AROUND):
        moves = []
        for number, param in enumerate(probe.params.values()):
            info = torch.finfo(param.dtype)
            size = 0.5 + torch.rand(param.shape, generator=generator, dtype=torch.float64)
            change = (-1) ** (point + 1) * size
            if point >= 4:
                change = size * torch.randn(param.shape, generator=generator, dtype=torch.float64)
            late = (number + 1) / len(probe.params) if point in (2, 3) or point % 2 else 1.0
            small = info.tiny ** (0.8 - 0.45 * late)
            values = param.detach()
            moves.append((4 * info.eps * values.abs() + small) * change.to(param))
        with probe.displaced(moves):
            value = probe.value()
            if value.requires_grad:
                around.append(probe.backward(value))
    return around


def _nodes(value: Tensor) -> list[Any]:
    """Return all nodes of the graph that ends in ``value``."""
    found, waiting = {}, [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = None
            waiting += [before for before, _ in node.next_functions]
    return list(found)


def _kind(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    if tensor.is_complex():
        return dtype.to_complex()
    return dtype if tensor.is_floating_point() else tensor.dtype


def _cast_module(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast parameters, buffers, and the tensors that are plain attributes."""
    module._apply(lambda tensor: tensor.to(_kind(tensor, dtype)))
    for each in module.modules():
        for name, value in vars(each).items():
            if isinstance(value, Tensor):
                vars(each)[name] = value.detach().to(_kind(value, dtype))


def _cast(batch: Any, dtype: torch.dtype) -> Any:
    """Return the batch with copies of its tensors, those of floating point in ``dtype``."""
    if isinstance(batch, Tensor):
        return batch.detach().to(_kind(batch, dtype), copy=True)
    if isinstance(batch, Mapping):
        return {key: _cast(value, dtype) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):  # a named tuple
        return type(batch)(*(_cast(value, dtype) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(_cast(value, dtype) for value in batch)
    return batch


def unravelled(place: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the index of an element from its place in the flattened tensor."""
    index = []
    for size in reversed(shape):
        place, at = divmod(place, size)
        index.append(at)
    return tuple(reversed(index))
