"""Gradient accumulation and clipping: several backward passes for one step."""

import pytest
import torch

from tests.contract.training import LIBRARIES, STEPS, ZOO, assert_equal_models, loss_of, network

WORKS_WITH = "gradient accumulation and clipping"
HELD_TO = "bitwise"


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize(("name", "options"), ZOO)
def test_four_passes_for_a_step(name, options, set_to_none):
    """Gradients that pile up in place, are clipped and cleared either way give torch's parameters, bit for bit."""
    models = []
    for library in LIBRARIES:
        model = network()
        optimizer = library(name, model, foreach=False, **options)
        for step in range(STEPS):
            for part in range(4):
                (loss_of(model, 4 * step + part, size=4) / 4).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad(set_to_none=set_to_none)
        models.append(model)
    assert_equal_models(*models)


@pytest.mark.parametrize(("name", "options"), ZOO)
def test_the_default_backend_reads_gradients_anew(name, options):
    """The kernel follows gradients that move between the passes: it is within 1e-6 of torch."""
    models = []
    for library in LIBRARIES:
        model = network()
        optimizer = library(name, model, **options)
        for step in range(STEPS):
            for part in range(4):
                (loss_of(model, 4 * step + part, size=4) / 4).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=step % 2 == 0)
        models.append(model)
    for param, expected in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-5, atol=1e-6)
