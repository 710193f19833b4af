"""Averages of weights: EMA and SWA of ``torch.optim.swa_utils``, with its schedule."""

import pytest
import torch
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

from tests.contract.training import LIBRARIES, STEPS, ZOO, assert_equal_models, loss_of, network

WORKS_WITH = "torch.optim.swa_utils (EMA, SWA, SWALR)"
HELD_TO = "bitwise"


@pytest.mark.parametrize(("name", "options"), ZOO)
def test_ema(name, options):
    """An exponential average beside the run is torch's, bit for bit."""
    averages = []
    for library in LIBRARIES:
        model = network()
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        optimizer = library(name, model, foreach=False, **options)
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
            average.update_parameters(model)
        averages.append(average)
    assert_equal_models(*averages)
    first, start = next(averages[0].parameters()), next(network().parameters())
    assert not torch.equal(first, start)


@pytest.mark.parametrize(("name", "options"), ZOO)
def test_swa(name, options):
    """Stochastic weight averaging after six steps, with SWALR's rates, is torch's, bit for bit."""
    averages, rates = [], []
    for library in LIBRARIES:
        model = network()
        average = AveragedModel(model)
        optimizer = library(name, model, foreach=False, **options)
        scheduler = SWALR(optimizer, swa_lr=options["lr"] / 10, anneal_epochs=3)
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
            if step >= 6:
                average.update_parameters(model)
                scheduler.step()
        averages.append(average)
        rates.append(optimizer.param_groups[0]["lr"])
    assert_equal_models(*averages)
    assert rates[0] == rates[1] == pytest.approx(options["lr"] / 10)
