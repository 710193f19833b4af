"""Optimizers of matrices: kernels are matrices with a row for each output, and updates are orthogonal."""

from typing import Any

import pytest
import torch
from torch.nn import Parameter

import optizoo
from tests.zoo import run


@pytest.mark.parametrize("how", [{"foreach": False}, {"foreach": True}, {}], ids=["loop", "foreach", "default"])
@pytest.mark.parametrize("shape", [(8, 3, 5, 5), (16, 3, 3), (40, 2, 3)], ids=str)
@pytest.mark.parametrize("name", ["muon", "normuon"])
def test_a_kernel_is_a_matrix(name, shape, how):
    """A kernel of three or four dimensions moves, to the bit, as the matrix that it is when flattened."""
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    kernel, matrix = Parameter(start.clone()), Parameter(start.flatten(1).clone())
    ours, flat = (optizoo.create(name, [param], lr=0.02, **how) for param in (kernel, matrix))
    for step in range(5):
        kernel.grad = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        matrix.grad = kernel.grad.flatten(1)
        ours.step()
        flat.step()
    assert torch.equal(kernel.flatten(1), matrix)
    again = optizoo.create(name, [Parameter(kernel.detach().clone())])
    again.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)], ids=str)
def test_updates_are_nearly_orthogonal(shape):
    """All singular values of an update lie near the rate, whatever those of the gradient are."""
    weight = Parameter(torch.zeros(shape))
    optimizer = optizoo.Muon([weight], lr=1.0, weight_decay=0, adjust_lr_fn="original")
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 1, shape[1])
    optimizer.step()
    values = torch.linalg.svdvals(weight.detach()) / max(1, shape[0] / shape[1]) ** 0.5
    assert 0.5 < values.min() <= values.max() < 1.5


def test_muon_maximizes():
    """What torch's Muon does not have: the other way is that of the negated gradients, to the bit."""
    ends = []
    for sign in (1, -1):
        weight = Parameter(torch.ones(4, 3))
        optimizer = optizoo.Muon([weight], maximize=sign < 0)
        for step in range(4):
            weight.grad = sign * torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
            optimizer.step()
        ends.append(weight.detach())
    assert torch.equal(*ends)


def test_muon_with_a_rate_that_stays_on_the_device():
    """``capturable=True`` with a tensor lr walks the path of the number."""
    ends = []
    rates: list[dict[str, Any]] = [{"lr": 0.02}, {"lr": torch.tensor(0.02), "capturable": True}]
    for options in rates:
        params = [Parameter(torch.ones(4, 3)), Parameter(torch.ones(3, 4))]
        optimizer = optizoo.Muon(params, **options)
        run(optimizer, range(5))
        ends.append([param.detach() for param in params])
    for plain, captured in zip(*ends, strict=True):
        torch.testing.assert_close(captured, plain)
