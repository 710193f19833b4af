"""Points, lines and planes of a metric over weights."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from optizoo.lab import models
from optizoo.lab.landscape import line, pca_plane, plane, point

MODEL = models.two_layer(3, classes=2, inputs=2, seed=0)
WEIGHTS = parameters_to_vector(MODEL.parameters()).detach()
RANDOM = torch.randn(6, len(WEIGHTS), generator=torch.Generator().manual_seed(0))


def norm(model: nn.Module) -> Tensor:
    return parameters_to_vector(model.parameters()).square().sum()


def test_a_point_is_the_metric_of_a_copy():
    """The metric sees the weights it is asked about, and the model keeps its own, with their gradients' way."""
    assert point(MODEL, norm) == norm(MODEL).item()
    assert point(MODEL, norm, WEIGHTS + 1) == (WEIGHTS + 1).square().sum().item()
    assert torch.equal(parameters_to_vector(MODEL.parameters()), WEIGHTS)
    assert all(param.requires_grad for param in MODEL.parameters())


def test_the_metric_is_called_without_gradients():
    """No graph is built over the grid."""
    assert point(MODEL, lambda model: float(torch.is_grad_enabled())) == 0.0


def test_a_line_and_a_plane_are_points():
    """A line and a plane hold what the points have: rows follow y, columns x."""
    xs, ys = [-1.0, 0.0, 2.0], [0.0, 3.0]
    values = plane(MODEL, norm, WEIGHTS, RANDOM[:2], xs, ys)
    assert values == [[point(MODEL, norm, WEIGHTS + x * RANDOM[0] + y * RANDOM[1]) for x in xs] for y in ys]
    assert line(MODEL, norm, WEIGHTS, RANDOM[0], xs) == values[0]


def test_the_pca_plane_is_the_closest():
    """Directions are orthonormal, shares are those of the covariance, and no coordinate axes leave less out."""
    found = pca_plane([RANDOM[:2], list(RANDOM[2:])])
    assert [tuple(each.shape) for each in found.coordinates] == [(2, 2), (4, 2)]
    torch.testing.assert_close(found.directions @ found.directions.T, torch.eye(2))
    torch.testing.assert_close(found.origin, RANDOM.mean(0))
    shares = torch.linalg.eigvalsh(torch.cov(RANDOM.T)).flip(0)
    torch.testing.assert_close(found.explained, (shares / shares.sum())[:2])
    feet = torch.cat(found.coordinates) @ found.directions + found.origin
    left = (RANDOM - feet).square().sum() / (RANDOM - found.origin).square().sum()
    torch.testing.assert_close(left, 1 - found.explained.sum())
    best_axes = (RANDOM - found.origin).square().sum(0).topk(2).values.sum() / (RANDOM - found.origin).square().sum()
    assert found.explained.sum() > best_axes


def test_points_of_a_plane_are_found_again():
    """Weights that lie on a plane through the centre have no distance from it, and the metric there is their own."""
    corners = torch.stack([WEIGHTS + 2 * RANDOM[0], WEIGHTS + RANDOM[1], WEIGHTS - RANDOM[0] + RANDOM[1]])
    found = pca_plane([corners], centre=WEIGHTS)
    assert torch.equal(found.origin, WEIGHTS)
    assert found.explained.sum().item() == pytest.approx(1, abs=1e-6)
    for (x, y), corner in zip(found.coordinates[0].tolist(), corners, strict=True):
        value = plane(MODEL, norm, found.origin, found.directions, [x], [y])[0][0]
        assert value == pytest.approx(corner.square().sum().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: point(MODEL, norm, torch.zeros(3)), r"origin must have the shape \(17,\)"),
        (lambda: line(MODEL, norm, WEIGHTS, torch.zeros(3), [0.0]), r"directions\[0\] must have the shape"),
        (lambda: plane(MODEL, norm, WEIGHTS, RANDOM[:3], [0.0], [0.0]), "must be two vectors, got 3"),
        (lambda: pca_plane([]), "two points at least, got 0"),
        (lambda: pca_plane([torch.tensor([[0.0, 0], [1, 1], [2, 2]])]), "they span no plane"),
    ],
    ids=["point", "line", "three directions", "nothing", "on a line"],
)
def test_what_spans_no_plane_is_refused(call, message: str):
    """Shapes that do not fit, and points on one line, are refused by name."""
    with pytest.raises(ValueError, match=message):
        call()
