"""Parameters and gradients on which mistakes in an optimizer show."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import Parameter

Shapes = tuple[tuple[int, ...], ...]

SHAPES: Shapes = ((40, 25), (9, 11, 10), ())
"""1991 elements. The first parameter is stored transposed, the second has no gradient in two steps of five."""

SCALES = (-12.0, 3.0)
"""Decades that the sizes of the gradients span: below ``eps``, where its place shows, and far above."""

_BLOCK = 50


def fitted(shapes: Sequence[Sequence[int]], least_dimensions: int) -> Shapes:
    """Return shapes of at least so many dimensions: those that have fewer get ones in front.

    >>> fitted([(4, 3), (3,), ()], 2)
    ((4, 3), (1, 3), (1, 1))
    """
    return tuple((*[1] * (least_dimensions - len(shape)), *shape) for shape in shapes)


def make_params(
    dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu", seed: int = 0, shapes: Shapes = SHAPES
) -> list[Parameter]:
    """Return fresh parameters, and a frozen one at the end; a function of ``seed`` and ``shapes`` alone.

    The first is stored transposed if it is a matrix. In every type they are the float32 values, so that runs in
    different types start from the same point (16-bit types round them).
    """
    generator = torch.Generator().manual_seed(seed)
    params = []
    for index, shape in enumerate(shapes):
        values = torch.randn(shape, generator=generator, dtype=torch.float32).to(device, dtype)
        params.append(Parameter(values.t().contiguous().t() if index == 0 and len(shape) == 2 else values))
    frozen = fitted([(3,)], min(map(len, shapes)))[0]
    params.append(Parameter(torch.ones(frozen, dtype=dtype, device=device), requires_grad=False))
    return params


def gradients(steps: int, seed: int = 0, shapes: Shapes = SHAPES) -> Iterator[list[Tensor | None]]:
    """Yield for every step one float64 gradient (or ``None``) for each of :func:`make_params`.

    Every element keeps its scale over time, log-uniform over :data:`SCALES`; one in ten gradients is exactly zero, and
    one element in fifty always.
    """
    for step in range(steps):
        blocks = _blocks(-(-steps // _BLOCK), seed, shapes)[step // _BLOCK]
        grads: list[Tensor | None] = [block[step % _BLOCK].clone() for block in blocks]
        if step % 5 >= 3:
            grads[1:2] = [None] * len(grads[1:2])
        yield [*grads, None]


@lru_cache(maxsize=2)  # to draw them takes as long as to step
def _blocks(count: int, seed: int, shapes: Shapes) -> list[list[Tensor]]:
    """Return so many blocks of gradients; each has a tensor for each of the shapes, with the steps in front."""
    generator = torch.Generator().manual_seed(seed + 1)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    low, high = SCALES
    scales = [10 ** (low + (high - low) * uniform(*shape)) * (uniform(*shape) > 0.02) for shape in shapes]
    return [
        [
            torch.randn(_BLOCK, *shape, generator=generator, dtype=torch.float64)
            * scale
            * (uniform(_BLOCK, *shape) > 0.1)
            for shape, scale in zip(shapes, scales, strict=True)
        ]
        for _ in range(count)
    ]


def lr_factor(step: int, steps: int) -> float:
    """Return the factor of the learning rate in a run of ``steps``: 1, then 0 once in the middle, then 0.1.

    An optimizer that keeps an old rate, or mixes it into its state, shows only when the rate changes.
    """
    middle = steps // 2 + 1
    return 1.0 if step < middle else 0.0 if step == middle else 0.1


def set_gradients(params: list[Parameter], grads: list[Tensor | None]) -> None:
    """Give every parameter its gradient, in its own type, device and strides."""
    for param, grad in zip(params, grads, strict=True):
        param.grad = None if grad is None else torch.empty_like(param).copy_(grad)
