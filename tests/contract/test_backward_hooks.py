"""An optimizer in the backward pass: one for each parameter, stepped when its gradient is there."""

import pytest
import torch

from tests.contract.training import LIBRARIES, STEPS, ZOO, assert_equal_models, loss_of, network

WORKS_WITH = "register_post_accumulate_grad_hook (optimizer in backward)"
HELD_TO = "bitwise"


@pytest.mark.parametrize(("name", "options"), ZOO)
def test_one_optimizer_for_each_parameter(name, options):
    """Stepped inside the backward pass, parameters are those of torch's, and of one optimizer after it."""
    models = []
    for library in LIBRARIES:
        model = network()
        optimizers = {param: library(name, [param], foreach=False, **options) for param in model.parameters()}

        def hook(param: torch.Tensor, optimizers=optimizers) -> None:
            optimizers[param].step()
            optimizers[param].zero_grad()

        for param in model.parameters():
            param.register_post_accumulate_grad_hook(hook)
        for step in range(STEPS):
            loss_of(model, step).backward()
        assert all(param.grad is None for param in model.parameters())
        models.append(model)
    assert_equal_models(*models)
    after = network()
    optimizer = LIBRARIES[0](name, after, foreach=False, **options)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(after, step).backward()
        optimizer.step()
    assert_equal_models(models[0], after)


def test_construction_is_cheap_enough_for_thousands():
    """A thousand optimizers of one parameter each are made and stepped like one of a thousand."""
    params = [torch.nn.Parameter(torch.full((3,), float(index))) for index in range(1000)]
    twins = [torch.nn.Parameter(param.detach().clone()) for param in params]
    for each in (params, twins):
        for param in each:
            param.grad = torch.ones_like(param)
    for param in params:
        LIBRARIES[0]("adamw", [param], lr=0.1).step()
    LIBRARIES[0]("adamw", twins, lr=0.1).step()
    assert all(torch.equal(param, twin) for param, twin in zip(params, twins, strict=True))
