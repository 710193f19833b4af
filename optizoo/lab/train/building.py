"""What a config names, built: its device, model, optimizer and random generator."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optizoo import zoo
from optizoo.lab import models
from optizoo.lab.config import ConfigError, RunConfig
from optizoo.testing import has_torch_twin, torch_twin

DROPOUT_STREAM = 1


def resolve_device(name: str) -> torch.device:
    """Return the device that a config names; ``"auto"`` is CUDA where there is a device, else the CPU.

    Raises:
        ConfigError: A CUDA device is asked for, and there is none of that number.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index >= count:
        raise ConfigError(f"= {name!r}; must be a device that torch sees: {count} are CUDA", key="train.device")
    return torch.device("cuda", index)


def build_model(config: RunConfig, *, classes: int = 10, inputs: int = 3072) -> nn.Module:
    """Return the model at its initialisation, a function of the run's seed, on the run's device."""
    model = models.create(config.model.name, seed=config.seed, classes=classes, inputs=inputs, **config.model.options)
    return model.to(resolve_device(config.train.device), getattr(torch, config.train.dtype))


def build_optimizer(config: RunConfig, model: nn.Module, *, static: bool = False) -> Optimizer:
    """Return the optimizer for the model's parameters, from optizoo or its twin from ``torch.optim``.

    Args:
        config: The run.
        model: Its model.
        static: Where the optimizer has ``capturable``, set it, with the rate in a tensor beside the parameters; and
            take optizoo's fused kernel where nothing else is asked for and it can be had.

    Raises:
        ConfigError: ``torch.optim`` has no twin with these options.
    """
    section = config.optimizer
    options = {"lr": section.lr, **section.options, "foreach": config.train.foreach}
    if section.library == "torch" and not has_torch_twin(section.name, **options):
        raise ConfigError(
            f"= 'torch'; torch.optim has no {section.name} with {section.options}: set 'optizoo'",
            key="optimizer.library",
        )
    make = zoo.create if section.library == "optizoo" else torch_twin
    optimizer = make(section.name, model, **options)
    if not static or "capturable" not in inspect.signature(type(optimizer)).parameters:
        return optimizer
    param = next(model.parameters())

    def on_device(lr: float | Tensor) -> Tensor:
        return param.new_tensor(min(float(lr), torch.finfo(param.dtype).max))

    options |= {"capturable": True, "lr": on_device(section.lr)}
    optimizer = None
    if section.library == "optizoo" and options["foreach"] is None:
        with suppress(RuntimeError):  # no fused kernel here
            optimizer = zoo.create(section.name, model, **options, fused=True)
    optimizer = optimizer or make(section.name, model, **options)
    for group in optimizer.param_groups:  # some have a rate of their own
        group["lr"] = on_device(group["lr"])
    return optimizer


def may_be_static(config: RunConfig, device: torch.device) -> bool:
    """Return whether the steps of a run should leave nothing to the host: on CUDA, one graph can then repeat them."""
    return device.type == "cuda" and not config.train.full_batch


def seeded_generator(config: RunConfig, device: torch.device) -> torch.Generator:
    """Return the global generator that dropout on ``device`` draws from, where the run begins."""
    if device.type == "cuda":
        torch.cuda.init()
    generator = torch.cuda.default_generators[device.index] if device.type == "cuda" else torch.default_generator
    return generator.manual_seed(dropout_seed(config))


def dropout_seed(config: RunConfig) -> int:
    """Return the seed of what dropout draws."""
    return int(np.random.SeedSequence([config.seed, DROPOUT_STREAM]).generate_state(1)[0])


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Use so many CPU threads meanwhile; ``None`` leaves torch's setting."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)
