"""The ground that optimizers walk on: a metric of a model at a point, along a line, and on a plane of its weights.

Weights are flat vectors of shape (n,), in the order of :func:`torch.nn.utils.parameters_to_vector`. Every function
works on a copy of the model; a metric takes the copy and returns a number, such as its loss on some images. The
picture of a plane shows two of n directions: what is a valley on it may be a saddle beside it (Goodfellow, Vinyals and
Saxe 2015, https://arxiv.org/abs/1412.6544; Li et al. 2018, https://arxiv.org/abs/1712.09913).

>>> model = torch.nn.Linear(2, 1, bias=False)
>>> def metric(model):
...     return model.weight.square().sum()
>>> point(model, metric, torch.tensor([3.0, 4.0]))
25.0
>>> line(model, metric, torch.zeros(2), torch.tensor([1.0, 0.0]), [0.0, 0.5, 1.0])
[0.0, 0.25, 1.0]
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

__all__ = ["PCAPlane", "line", "pca_plane", "plane", "point"]

Metric = Callable[[nn.Module], Tensor | float]


def point(model: nn.Module, metric: Metric, params: Tensor | None = None) -> float:
    """Return the metric of a model, at its own weights or at ``params`` (n,).

    Raises:
        ValueError: ``params`` has not the shape (n,).
    """
    origin = parameters_to_vector(model.parameters()).detach() if params is None else params
    return line(model, metric, origin, torch.zeros_like(origin), [0.0])[0]


def line(
    model: nn.Module, metric: Metric, origin: Tensor, direction: Tensor, distances: Sequence[float]
) -> list[float]:
    """Return the metric at ``origin + t * direction`` for each ``t`` of ``distances``.

    From one solution to another, ``direction`` is their difference and ``t`` goes from 0 to 1.

    Args:
        model: The model; a copy gets the weights.
        metric: Takes the copy to a number. It is called without gradients.
        origin: Weights (n,).
        direction: A change of the weights (n,), of any length.
        distances: Multiples of it.

    Raises:
        ValueError: A vector has not the shape (n,).
    """
    return plane(model, metric, origin, (direction, torch.zeros_like(direction)), distances, [0.0])[0]


def plane(
    model: nn.Module,
    metric: Metric,
    origin: Tensor,
    directions: Sequence[Tensor] | Tensor,
    xs: Sequence[float],
    ys: Sequence[float],
) -> list[list[float]]:
    """Return the metric at ``origin + x * directions[0] + y * directions[1]``: a row for each y, a value for each x.

    Args:
        model: The model; a copy gets the weights.
        metric: Takes the copy to a number. It is called without gradients.
        origin: Weights (n,).
        directions: Two changes of the weights, (n,) each, such as those of :func:`pca_plane`.
        xs: Multiples of the first.
        ys: Multiples of the second.

    Raises:
        ValueError: A vector has not the shape (n,), or there are not two directions.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> plane(model, lambda model: model.weight.sum(), torch.zeros(2), torch.eye(2), [0.0, 1.0], [0.0, 10.0])
    [[0.0, 1.0], [10.0, 11.0]]
    """
    walker = copy.deepcopy(model)
    size = parameters_to_vector(walker.parameters()).numel()
    if len(directions) != 2:
        raise ValueError(f"directions must be two vectors, got {len(directions)}")
    for name, vector in (("origin", origin), ("directions[0]", directions[0]), ("directions[1]", directions[1])):
        if vector.shape != (size,):
            raise ValueError(f"{name} must have the shape ({size},) of the model's weights, got {tuple(vector.shape)}")

    def at(x: float, y: float) -> float:
        vector_to_parameters(origin + x * directions[0] + y * directions[1], walker.parameters())
        return float(metric(walker))

    with torch.no_grad():
        return [[at(x, y) for x in xs] for y in ys]


@dataclass(frozen=True, eq=False)
class PCAPlane:
    """The plane that is closest to a set of weights.

    Attributes:
        origin: The centre (n,), at the coordinates (0, 0).
        directions: Two orthonormal vectors (2, n).
        explained: The share of the squared distances from the centre that each direction holds, (2,).
        coordinates: Of each path, where the feet of its points on the plane are, (points, 2).
    """

    origin: Tensor
    directions: Tensor
    explained: Tensor
    coordinates: list[Tensor]


def pca_plane(paths: Sequence[Sequence[Tensor] | Tensor], *, centre: Tensor | None = None) -> PCAPlane:
    """Return the plane through ``centre`` with the least sum of squared distances to all points of all paths.

    Its directions are the first two right singular vectors of the points less the centre (Pearson 1901; for paths of
    optimizers: Lorch 2016, "Visualizing deep network training trajectories with PCA"). What the plane leaves out is
    ``1 - explained.sum()``.

    Args:
        paths: For each path its points: weights (n,), or a matrix (points, n).
        centre: A place that the plane must hold, such as a known optimum; by default the mean of all points.

    Raises:
        ValueError: There are fewer than two points, or they lie on one line with the centre.

    >>> found = pca_plane([torch.tensor([[0.0, 0, 0], [4, 0, 0]]), torch.tensor([[0.0, 0, 0], [0, 2, 0]])])
    >>> found.explained.sum().item()
    1.0
    """
    matrices = [path if isinstance(path, Tensor) else torch.stack(list(path)) for path in paths]
    points = torch.cat(matrices) if matrices else torch.empty(0, 0)
    if len(points) < 2:
        raise ValueError(f"paths must have two points at least, got {len(points)}")
    origin = points.mean(0) if centre is None else centre
    _, sizes, directions = torch.linalg.svd(points - origin, full_matrices=False)
    if len(sizes) < 2 or sizes[1] <= sizes[0] * torch.finfo(sizes.dtype).eps * len(points):
        raise ValueError("paths must not lie on one line with the centre: they span no plane")
    coordinates = [(matrix - origin) @ directions[:2].T for matrix in matrices]
    return PCAPlane(origin, directions[:2], (sizes.square() / sizes.square().sum())[:2], coordinates)
