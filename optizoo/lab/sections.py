"""The sections of a config: frozen dataclasses whose fields pydantic checks, with this project's words for mistakes."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from optizoo import schedules
from optizoo.core.names import did_you_mean
from optizoo.lab import models
from optizoo.zoo import create as create_optimizer

__all__ = [
    "ConfigError",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "Section",
    "TrainConfig",
    "section",
    "told",
]


class ConfigError(ValueError):
    """A config cannot be used.

    Args:
        problem: What is wrong and what to do.
        key: Where: a dotted path such as ``train.epochs`` or ``optimizers[1].lr``.
        file: The file that it stands in.
    """

    def __init__(self, problem: str, *, key: str = "", file: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.key = key
        self.file = file

    def __str__(self) -> str:
        return (f"{self.file}: " if self.file else "") + (f"key {self.key} " if self.key else "") + self.problem

    def inside(self, place: str) -> "ConfigError":
        """Return the error as seen from one level further out, where the section stands at ``place``."""
        return ConfigError(self.problem, key=f"{place}.{self.key}" if self.key else place, file=self.file)


def told(error: ValidationError) -> ConfigError:
    """Return the first mistake that pydantic found as one line with key, value and remedy."""
    first = error.errors(include_url=False)[0]
    place, value, cause = first["loc"], first["input"], first.get("ctx", {}).get("error")
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)[1:]
    if isinstance(cause, ConfigError):
        return cause.inside(key) if key else cause
    must = str(cause) if cause else first["msg"].partition(" should be ")[2] or first["msg"]
    if first["type"] == "dataclass_type":
        must = f"a table, [{key.partition('[')[0]}]"
    elif first["type"] == "tuple_type":
        must = f"tables, each under its own [[{key}]]" if isinstance(value, Mapping) else "a list"
    return ConfigError(f"= {value!r}; must be {must}", key=key)


_Kind = TypeVar("_Kind", bound=type)


@dataclass_transform(frozen_default=True, field_specifiers=(Field, field))
def section(kind: _Kind) -> _Kind:
    """Make a class a frozen dataclass that is checked at construction, whose mistakes are :class:`ConfigError`."""
    made: Any = dataclass(frozen=True, config=ConfigDict(extra="forbid"))(kind)
    construct = made.__init__

    @wraps(construct)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        try:
            construct(self, *args, **kwargs)
        except ValidationError as error:
            raise told(error) from None

    made.__init__ = __init__
    return made


@section
class Section:
    """What all sections share: unknown keys are told, or are options where a section takes some."""

    @model_validator(mode="before")
    @classmethod
    def _know_keys(cls, data: Any) -> Any:
        given = data.kwargs if isinstance(data, ArgsKwargs) else data
        if not isinstance(given, Mapping):
            return data
        known = [each.name for each in fields(cls)]
        if "options" in known and not isinstance(data, ArgsKwargs):  # a table, where options stand beside the rest
            known.remove("options")
            others = {name: value for name, value in given.items() if name not in known}
            return {name: value for name, value in given.items() if name in known} | {"options": others}
        for name in given:
            if name not in known:
                raise ConfigError(cls.unknown(name, known), key=str(name))
        return data

    @model_serializer(mode="wrap")
    def _beside(self, inner: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        table = inner(self)
        return table | table.pop("options", {})

    @classmethod
    def unknown(cls, name: str, known: Sequence[str]) -> str:
        """Return what is said of a key that the section has not."""
        return f"is unknown; {did_you_mean(name, known)}"


# Types of values ----------------------------------------------------------------------------------------------------


def _check(holds: Callable[[Any], bool], must: str) -> BeforeValidator:
    """Return a validator that keeps what ``holds`` and says of all else what it must be."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(must)
        return value

    return BeforeValidator(check)


def _known(names: Sequence[str]) -> BeforeValidator:
    return _check(lambda value: isinstance(value, str) and value in names, f"one of {', '.join(names)}")


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) is not None


def _plain(value: Any) -> Any:
    """Return an option as constructors take it. Numbers become floats: ``lr = 1`` and ``lr = 1.0`` are one config."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return value


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and not re.search(r"[/\\]", value) and len(value) <= 60


def _all_differ(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError("a list of different integers, at least one")
    return seeds


Count = Annotated[StrictInt, Field(ge=1)]
Size = Annotated[StrictInt, Field(ge=0)]
Amount = Annotated[StrictFloat, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**32)]  # torch's generators see no further bits
Seeds = Annotated[tuple[Seed, ...], AfterValidator(_all_differ)]
PathText = Annotated[
    str, _check(lambda value: bool(str(value)), "a path in quotes, or left out"), BeforeValidator(_text)
]
Word = Annotated[
    str, _check(_matches(r"[A-Za-z0-9][\w.+-]*"), "a name that can stand in a file name: letters, digits, and . _ + -")
]
Label = Annotated[str, _check(_is_label, "at most 60 printable characters, no slash")]
Device = Annotated[str, _check(_matches(r"auto|cpu|cuda(:\d+)?"), "'auto', 'cpu', 'cuda', or one such as 'cuda:1'")]
Options = Annotated[
    dict[str, Any], AfterValidator(lambda table: {name: _plain(value) for name, value in table.items()})
]

# Schedules that end, and end with the run unless told otherwise.
WHOLE_RUN = ("cosine", "linear", "polynomial")


# Sections -----------------------------------------------------------------------------------------------------------


@section
class DataConfig(Section):
    """The data set and how it is split; see :func:`optizoo.lab.data.load`.

    Attributes:
        name: ``"cifar10"`` or ``"synthetic"``.
        root: Where CIFAR-10 lies; ``None`` takes the environment's ``OPTIZOO_DATA``.
        cache: Folder for decoded images; ``None`` takes the user's own.
        validation: Number of training images set aside for validation; ``None`` takes the data set's default.
        seed: Seed of the split.
        train_size: Number of images to learn from; ``None`` takes the data set's default.
        test_size: Number of images to test on; ``None`` takes the data set's default.
        download: Let torchvision download what is missing.
    """

    name: Literal["cifar10", "synthetic"] = "cifar10"
    root: PathText | None = None
    cache: PathText | None = None
    validation: Size | None = None
    seed: Seed = 0
    train_size: Count | None = None
    test_size: Count | None = None
    download: StrictBool = False


@section
class ModelConfig(Section):
    """The model; see :mod:`optizoo.lab.models`.

    Attributes:
        name: ``"linear"`` or ``"two_layer"``.
        hidden: Width of the hidden layer of ``two_layer``.
        dropout: Probability that a hidden unit is dropped in training, in [0, 1); ``two_layer`` only.
        init: How the weights begin: ``"zeros"``, ``"normal"``, ``"kaiming"``, ``"xavier"`` or ``"torch"``.
        init_scale: Standard deviation of ``"normal"``, or a factor on the others; ``None`` takes the default.
    """

    name: Annotated[str, _known(models.list_models())] = "linear"
    hidden: Count = 512
    dropout: Annotated[Amount, Field(lt=1)] = 0.0
    init: str = "torch"
    init_scale: Amount | None = None

    def __post_init__(self) -> None:
        if self.name == "linear" and self.dropout:
            raise ConfigError(
                f"= {self.dropout!r}; the linear model has no dropout: remove it, or set name = 'two_layer'",
                key="dropout",
            )
        small = {"hidden": 1} if self.name == "two_layer" else {}  # whether a large one fits, a run asks
        try:
            models.create(self.name, seed=0, inputs=1, classes=1, **self.options | small)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"cannot be built: {error}") from None

    @property
    def options(self) -> dict[str, Any]:
        """What the model's constructor takes beside the seed."""
        options = {"init": self.init, "init_scale": self.init_scale}
        if self.name == "two_layer":
            options |= {"hidden": self.hidden, "dropout": self.dropout}
        return options


@section
class OptimizerConfig(Section):
    """The optimizer. In TOML its options stand beside ``name`` and ``lr`` in one table.

    Attributes:
        name: A name of :func:`optizoo.list_optimizers`.
        lr: The learning rate.
        label: What tables and pictures call it; the name by default.
        library: ``"optizoo"``, or ``"torch"`` for its twin in ``torch.optim``.
        options: Further arguments of the constructor, such as ``momentum``, ``betas``, ``weight_decay``.
    """

    name: str = "sgd"
    lr: Amount = 0.01
    label: Label = ""
    library: Literal["optizoo", "torch"] = "optizoo"
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("foreach", "fused"):
            if name in self.options:
                raise ConfigError(f"= {self.options[name]!r}; it belongs to the run: set train.foreach", key=name)
        if self.options.get("differentiable"):
            raise ConfigError("= True; nothing here differentiates through a step: remove it", key="differentiable")
        try:
            smallest = models.two_layer(hidden=1, classes=1, inputs=1, seed=0)  # of a model some take more options
            create_optimizer(self.name, smallest, lr=self.lr, **self.options)
        except (AttributeError, ValueError, TypeError, RuntimeError) as error:
            raise ConfigError(f"cannot be built: {error}") from None
        object.__setattr__(self, "name", self.name.lower())
        object.__setattr__(self, "label", self.label or self.name)


@section
class ScheduleConfig(Section):
    """The schedule of the learning rate, stepped at every update. In TOML its options stand beside ``name``.

    Attributes:
        name: A name of :func:`optizoo.schedules.list_schedules`; for a warm-up set ``warmup_steps``.
        warmup_steps: Number of updates in which the rate climbs from 0, before the schedule begins; 0 for none.
        label: What tables and pictures call it; by default the name, behind ``warmup-`` if there is one.
        options: Arguments of the schedule, in steps where they are lengths. A ``total_steps`` that the schedule needs
            and that is not given is what the warm-up leaves of the run.
    """

    name: str = "constant"
    warmup_steps: Size = 0
    label: Label = ""
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name == "warmup":
            raise ConfigError(
                "= 'warmup'; name the schedule that follows the warm-up, and set warmup_steps beside it", key="name"
            )
        try:
            self.build(total_steps=self.warmup_steps + 1)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"cannot be built: {error}") from None
        label = f"warmup-{self.name}" if self.warmup_steps else self.name
        object.__setattr__(self, "label", self.label or label)

    def build(self, total_steps: int) -> schedules.Schedule:
        """Return the schedule of a run of ``total_steps`` updates.

        Raises:
            ConfigError: The warm-up is as long as the run.

        >>> ScheduleConfig("cosine", warmup_steps=100).build(1000)
        Warmup(steps=100, then=Cosine(total_steps=900, floor=0.0), start=0.0)
        """
        if self.warmup_steps >= total_steps:
            raise ConfigError(f"= {self.warmup_steps}; must be below the run's {total_steps} steps", key="warmup_steps")
        options = dict(self.options)
        if self.name in WHOLE_RUN:
            options.setdefault("total_steps", total_steps - self.warmup_steps)
        schedule = schedules.create(self.name, **options)
        return schedules.Warmup(self.warmup_steps, then=schedule) if self.warmup_steps else schedule


@section
class TrainConfig(Section):
    """How long and how a model is trained.

    Attributes:
        epochs: Largest number of passes over the training images.
        batch_size: Number of images that one update sees; the last batch of an epoch has what is left.
        full_batch: Take all images for every update (gradient descent), whatever ``batch_size`` says.
        max_steps: Stop after this many updates, if that comes before the last epoch ends.
        tolerance: Stop when an epoch's mean loss falls by less than this ``patience`` times in a row.
        patience: See ``tolerance``.
        l1: Strength of the L1 penalty ``l1 * sum |w|`` over weights, not biases.
        l2: Strength of the L2 penalty ``l2 * sum w**2`` over weights, not biases; with ``l1``, elastic net.
        dtype: ``"float32"`` or ``"float64"``, for model and pixels.
        device: ``"auto"`` is CUDA where there is a device, else the CPU.
        foreach: The optimizer's ``foreach``; ``False`` is the loop, on the CPU bit-equal to torch's.
        order_seed: Seed of the order of the batches; ``None`` takes the run's. Runs that share it see the same batches.
        evaluate_every: Number of epochs from one evaluation to the next; the last epoch is always evaluated.
        scale_lr: Of N processes that train one model, multiply the rates by N, and let them climb to that in a warm-up,
            where the schedule has none, of five epochs, at most a tenth of the run.
        checkpoint_every: Number of epochs from one checkpoint to the next.
        threads: Number of CPU threads; ``None`` leaves torch's setting.
        graph: On CUDA, make the steps of an epoch as one CUDA graph, which is faster and computes the same.
    """

    epochs: Count = 10
    batch_size: Count = 128
    full_batch: StrictBool = False
    max_steps: Count | None = None
    tolerance: Amount | None = None
    patience: Count = 1
    l1: Amount = 0.0
    l2: Amount = 0.0
    dtype: Literal["float32", "float64"] = "float32"
    device: Device = "auto"
    foreach: StrictBool | None = None
    order_seed: Seed | None = None
    evaluate_every: Count = 1
    scale_lr: StrictBool = False
    checkpoint_every: Count = 1
    threads: Count | None = None
    graph: StrictBool = True

    def epoch_steps(self, images: int) -> int:
        """Return the number of updates of an epoch of so many images."""
        return 1 if self.full_batch else math.ceil(images / self.batch_size)

    def total_steps(self, images: int) -> int:
        """Return the number of updates of a run on so many images that nothing stops early."""
        steps = self.epochs * self.epoch_steps(images)
        return steps if self.max_steps is None else min(steps, self.max_steps)
