"""Which runs may train together."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from optizoo.lab.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from optizoo.lab.train import building

LARGEST, HIDDEN = 64, 8192
"""Runs in a population at most, and hidden units of all of them: those have weights of 100 MB, and more in states."""


def shared(config: RunConfig) -> tuple[DataConfig, ModelConfig, TrainConfig]:
    """Return what runs must have in common to train together: their sections without what each may have of its own."""
    train = replace(
        config.train,
        order_seed=config.order_seed,
        l1=0.0,
        l2=0.0,
        tolerance=None,
        patience=1,
        checkpoint_every=1,
        graph=True,
    )
    return config.data, replace(config.model, init="torch", init_scale=None), train


def may_join(config: RunConfig) -> bool:
    """Return whether a run may train with others at all.

    Not one that promises the bits of ``torch.optim``, whose products would be rounded otherwise, nor one that raises
    where a gradient is not finite, which would end all; and on CUDA none with dropout, which would be drawn otherwise.
    """
    on_cuda = building.resolve_device(config.train.device).type == "cuda"
    return (
        config.optimizer.library == "optizoo"
        and config.train.foreach is not False
        and config.optimizer.options.get("nonfinite") != "raise"
        and not (on_cuda and config.model.dropout)
    )


def populations(configs: Sequence[RunConfig], *, largest: int | None = None) -> list[list[int]]:
    """Sort runs into populations: those that one call of :func:`~optizoo.lab.train.train_population` takes together.

    Args:
        configs: Any runs.
        largest: Runs in a population at most; by default 64 of a small model, and fewer of a large one, which would
            only take more memory together.

    Returns:
        The indices of the runs of each population, sorted by the first. Who cannot join others is alone.

    >>> from optizoo.lab.config import OptimizerConfig
    >>> runs = [RunConfig(optimizer=OptimizerConfig(lr=lr)) for lr in (0.1, 0.2, 0.4)]
    >>> exact = replace(runs[0], train=replace(runs[0].train, foreach=False))
    >>> populations([runs[0], exact, *runs[1:]])
    [[0, 2, 3], [1]]
    """
    found: list[tuple[Any, list[int]]] = []
    for index, config in enumerate(configs):
        common = shared(config)
        hidden = config.model.hidden if config.model.name == "two_layer" else 1
        limit = largest or max(1, min(LARGEST, HIDDEN // hidden))
        together = [group for key, group in found if key == common and len(group) < limit]
        if together and may_join(config) and may_join(configs[together[0][0]]):
            together[0].append(index)
        else:
            found.append((common, [index]))
    return [group for _, group in found]
