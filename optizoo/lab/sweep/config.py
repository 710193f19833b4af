"""The config of a sweep: for each optimizer a search space, one budget for all, and what is trained.

.. code-block:: toml

    name = "a-sweep"
    trials = 20                 # points tried of each optimizer
    tuning_seeds = [0]          # every point is trained from each of these
    reruns = 10                 # the winners run again, from so many new seeds

    [train]
    epochs = 10

    [schedule]
    name = "cosine"
    warmup_steps = { choices = [0, 100] }

    [[optimizers]]
    name = "sgd"
    lr = { log_uniform = [1e-3, 1.0] }

    [[optimizers]]
    name = "adam"
    lr = { log_uniform = [1e-5, 1e-2] }
    schedule = { name = "constant" }          # instead of the one above
"""

from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from optizoo.lab.config import RunConfig, Whole, differ, from_dict, load
from optizoo.lab.sections import (
    ConfigError,
    Count,
    DataConfig,
    Label,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    Section,
    Seed,
    Seeds,
    TrainConfig,
    Word,
    section,
)
from optizoo.lab.sweep.spaces import Point, Range, grid_size, place, points, ranges

__all__ = ["OptimizerSpace", "ScheduleSpace", "SweepConfig", "load_sweep"]


@section
class ScheduleSpace(Section):
    """A schedule, whose options may be ranges (:mod:`optizoo.lab.sweep.spaces`).

    Attributes:
        name: As in :class:`~optizoo.lab.config.ScheduleConfig`.
        options: Its other keys.
    """

    name: str = "constant"
    options: dict[str, Any] = field(default_factory=dict)

    def at(self, point: Point) -> ScheduleConfig:
        """Return the schedule at a point, whose names begin with ``schedule.``."""
        table = place({"schedule": {"name": self.name, **self.options}}, point)
        try:
            return from_dict(ScheduleConfig, table["schedule"])
        except ConfigError as error:
            raise error.inside("schedule") from None


@section
class OptimizerSpace(Section):
    """An optimizer, whose rate and options may be ranges (:mod:`optizoo.lab.sweep.spaces`).

    Attributes:
        name: A name of :func:`optizoo.list_optimizers`.
        label: What tables and pictures call it; the name by default.
        schedule: Its schedule, where it has another than the rest.
        options: The rate and the other options.
    """

    name: str = "sgd"
    label: Label = ""
    schedule: ScheduleSpace | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.name.lower())

    def at(self, point: Point) -> OptimizerConfig:
        """Return the optimizer at a point."""
        return from_dict(OptimizerConfig, place({"name": self.name, "label": self.label, **self.options}, point))


@section
class SweepConfig(Whole):
    """A sweep: optimizers that are tuned at equal budgets, and then compared from new seeds.

    Attributes:
        name: Name of the sweep and, with the digest, of its folder.
        trials: Number of points that are tried of each optimizer; by default the cells of the grids.
        sampler: ``"quasi"`` (a scrambled Sobol sequence) or ``"tpe"`` (Optuna's).
        seed: Seed of the sampler.
        tuning_seeds: A point is trained from each of these seeds; what counts is the mean.
        reruns: Number of new seeds, behind the largest of ``tuning_seeds``, from which the winners run.
        baseline: Label of the optimizer whose reruns set the target of the times; the first by default.
        population: Number of trials that train side by side.
        data: The data; there must be validation images.
        model: The model.
        train: How long and how.
        schedule: The schedule of the optimizers that have none of their own.
        optimizers: The optimizers, at least one; their labels differ.
    """

    command: ClassVar[str] = "sweep"
    name: Word = "sweep"
    trials: Count | None = None
    sampler: Literal["quasi", "tpe"] = "quasi"
    seed: Seed = 0
    tuning_seeds: Seeds = (0,)
    reruns: Count = 10
    baseline: Label = ""
    population: Count = 32
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    schedule: ScheduleSpace = field(default_factory=ScheduleSpace)
    optimizers: tuple[OptimizerSpace, ...] = (OptimizerSpace(options={"lr": {"log_uniform": [1e-3, 1.0]}}),)

    def __post_init__(self) -> None:
        labels = [each.label for each in self.optimizers]
        differ(labels, "optimizers")
        if self.baseline and self.baseline not in labels:
            raise ConfigError(f"= {self.baseline!r}; must be one of {', '.join(labels)}", key="baseline")
        object.__setattr__(self, "baseline", self.baseline or labels[0])
        if self.data.validation == 0:
            raise ConfigError("= 0; what is tuned is chosen on validation images: leave some", key="data.validation")
        if max(self.tuning_seeds) + self.reruns >= 2**32:
            raise ConfigError(f"= {list(self.tuning_seeds)}; leaves no room for new seeds", key="tuning_seeds")
        sizes = {}
        for index, each in enumerate(self.optimizers):
            try:
                spaces = self.spaces(each)
                sizes[each.label] = grid_size(spaces)
                for end in (0.0, 1.0):  # what cannot be built shows before anything is trained
                    self.run(each, {name: space.at(end) for name, space in spaces.items()}, seed=0)
            except ConfigError as error:
                own = not error.key.startswith("schedule") or each.schedule is not None
                raise (error.inside(f"optimizers[{index}]") if own else error) from None
        if self.trials is None:
            if len({*sizes.values()}) > 1 or max(sizes.values()) == 1:
                raise ConfigError(
                    "is left out; give the number of points that are tried of each optimizer", key="trials"
                )
            object.__setattr__(self, "trials", max(sizes.values()))
        for label, size in sizes.items():
            if self.budget % size:
                raise ConfigError(
                    f"= {self.trials}; must be a multiple of the {size} cells of the grid of {label!r}", key="trials"
                )

    @property
    def budget(self) -> int:
        """Number of points that are tried of each optimizer."""
        assert self.trials is not None
        return self.trials

    @property
    def new_seeds(self) -> tuple[int, ...]:
        """The seeds of the reruns."""
        first = max(self.tuning_seeds) + 1
        return tuple(range(first, first + self.reruns))

    def optimizer(self, label: str) -> OptimizerSpace:
        """Return the optimizer of a label."""
        return next(each for each in self.optimizers if each.label == label)

    def spaces(self, optimizer: OptimizerSpace) -> dict[str, Range]:
        """Return the ranges of an optimizer and its schedule."""
        schedule = optimizer.schedule or self.schedule
        return ranges({**optimizer.options, "schedule": schedule.options})

    def points(self, optimizer: OptimizerSpace) -> list[Point]:
        """Return the points that are tried of an optimizer, where the sampler does not look at results."""
        return points(self.spaces(optimizer), self.budget, seed=self.seed, label=optimizer.label)

    def run(self, optimizer: OptimizerSpace, point: Point, *, seed: int) -> RunConfig:
        """Return the run of an optimizer at a point from a seed."""
        return RunConfig(
            name=self.name,
            seed=seed,
            data=replace(self.data, root=None, cache=None),
            model=self.model,
            optimizer=optimizer.at(point),
            schedule=(optimizer.schedule or self.schedule).at(point),
            train=self.train,
        )


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """Read the config of a sweep; see :func:`optizoo.lab.config.load`."""
    return load(SweepConfig, path, overrides)
