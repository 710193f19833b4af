"""Configs: what a run or a comparison is, as frozen dataclasses that are read from TOML and checked at once.

A TOML file has a table for each section, and top-level keys for the rest:

.. code-block:: toml

    name = "adam-on-cifar10"
    seed = 0

    [optimizer]
    name = "adam"
    lr = 1e-3
    betas = [0.9, 0.99]      # whatever the optimizer's constructor takes

    [train]
    epochs = 10

What is left out has the default of the dataclass. Every mistake raises :class:`ConfigError`, which names file, key,
value and remedy. Any value can be overridden on the command line (``--train.epochs 3``, ``--optimizers.1.lr 0.1``).
"""

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from optizoo import schedules
from optizoo.core.names import did_you_mean
from optizoo.lab import models
from optizoo.zoo import create as create_optimizer

__all__ = [
    "CompareConfig",
    "ConfigError",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrainConfig",
    "compare_from_dict",
    "digest",
    "load_compare",
    "load_run",
    "run_from_dict",
    "to_dict",
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


# Checks: value -> the value to keep; a ValueError says what the value must be. --------------------------------------

Check = Callable[[Any], Any]

SEEDS = 2**32  # torch's generators see no further bits


def _integer(minimum: int, *, below: float = math.inf, optional: bool = False) -> Check:
    must = (
        f"an integer, at least {minimum}"
        + (f" and below {below}" if below < math.inf else "")
        + (", or left out" if optional else "")
    )

    def check(value: Any) -> int | None:
        if value is None and optional:
            return None
        if isinstance(value, bool) or not isinstance(value, Integral) or not minimum <= int(value) < below:
            raise ValueError(must)
        return int(value)

    return check


def _number(minimum: float = 0.0, *, below: float = math.inf, optional: bool = False) -> Check:
    must = f"a number, at least {minimum:g}" + (f" and below {below:g}" if below < math.inf else "")
    must += ", or left out" if optional else ""

    def check(value: Any) -> float | None:
        if value is None and optional:
            return None
        if isinstance(value, bool) or not isinstance(value, Real) or not minimum <= float(value) < below:
            raise ValueError(must)
        return float(value)

    return check


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _optional_flag(value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise ValueError("true or false, or left out")
    return value


def _choice(known: Collection[str]) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"one of {', '.join(known)}")
        return value

    return check


def _optional_text(value: Any) -> str | None:
    if value is not None and (not isinstance(value, (str, Path)) or not str(value)):
        raise ValueError("a path in quotes, or left out")
    return None if value is None else str(value)


def _word(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", value, re.ASCII):
        raise ValueError("a name that can stand in a file name: letters, digits, and . _ + -")
    return value


def _label(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or re.search(r"[/\\]", value) or len(value) > 60:
        raise ValueError("at most 60 printable characters, no slash")
    return value


def _device(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("'auto', 'cpu', 'cuda', or one such as 'cuda:1'")
    return value


def _seeds(value: Any) -> tuple[int, ...]:
    check = _integer(0, below=SEEDS)
    if not isinstance(value, (list, tuple)) or not value or len(set(map(repr, value))) < len(value):
        raise ValueError("a list of different integers, at least one")
    return tuple(check(seed) for seed in value)


def _options(value: Any) -> dict[str, Any]:
    """Return options as constructors take them. Numbers become floats: ``lr = 1`` and ``lr = 1.0`` are one config."""
    if not isinstance(value, Mapping):
        raise ValueError("a table of options")
    return {str(name): _plain(item) for name, item in value.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    return value


def _field(check: Check, default: Any) -> Any:
    """Return a dataclass field whose value passes ``check``."""
    return field(default=default, metadata={"check": check})


class _Checked:
    """What all sections share: at construction every field passes its check and keeps what the check returns."""

    def __post_init__(self) -> None:
        assert is_dataclass(self)
        for each in fields(self):
            if "check" not in each.metadata:
                continue
            value = getattr(self, each.name)
            try:
                object.__setattr__(self, each.name, each.metadata["check"](value))
            except ValueError as error:
                raise ConfigError(f"= {value!r}; must be {error}", key=each.name) from None


# Schedules that end, and end with the run unless told otherwise.
WHOLE_RUN = ("cosine", "linear", "polynomial")


# Sections -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataConfig(_Checked):
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

    name: str = _field(_choice(("cifar10", "synthetic")), "cifar10")
    root: str | None = _field(_optional_text, None)
    cache: str | None = _field(_optional_text, None)
    validation: int | None = _field(_integer(0, optional=True), None)
    seed: int = _field(_integer(0, below=SEEDS), 0)
    train_size: int | None = _field(_integer(1, optional=True), None)
    test_size: int | None = _field(_integer(1, optional=True), None)
    download: bool = _field(_flag, False)


@dataclass(frozen=True)
class ModelConfig(_Checked):
    """The model; see :mod:`optizoo.lab.models`.

    Attributes:
        name: ``"linear"`` or ``"two_layer"``.
        hidden: Width of the hidden layer of ``two_layer``.
        dropout: Probability that a hidden unit is dropped in training, in [0, 1); ``two_layer`` only.
        init: How the weights begin: ``"zeros"``, ``"normal"``, ``"kaiming"``, ``"xavier"`` or ``"torch"``.
        init_scale: Standard deviation of ``"normal"``, or a factor on the others; ``None`` takes the default.
    """

    name: str = _field(_choice(models.list_models()), "linear")
    hidden: int = _field(_integer(1), 512)
    dropout: float = _field(_number(below=1.0), 0.0)
    init: str = "torch"
    init_scale: float | None = _field(_number(optional=True), None)

    def __post_init__(self) -> None:
        super().__post_init__()
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


@dataclass(frozen=True)
class OptimizerConfig(_Checked):
    """The optimizer. In TOML its options stand beside ``name`` and ``lr`` in one table.

    Attributes:
        name: A name of :func:`optizoo.list_optimizers`.
        lr: The learning rate.
        label: What tables and pictures call it; the name by default.
        library: ``"optizoo"``, or ``"torch"`` for its twin in ``torch.optim``.
        options: Further arguments of the constructor, such as ``momentum``, ``betas``, ``weight_decay``.
    """

    name: str = "sgd"
    lr: float = _field(_number(), 0.01)
    label: str = _field(_label, "")
    library: Literal["optizoo", "torch"] = _field(_choice(("optizoo", "torch")), "optizoo")
    options: dict[str, Any] = field(default_factory=dict, metadata={"check": _options})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("foreach", "fused"):
            if name in self.options:
                raise ConfigError(f"= {self.options[name]!r}; it belongs to the run: set train.foreach", key=name)
        if self.options.get("differentiable"):
            raise ConfigError("= True; nothing here differentiates through a step: remove it", key="differentiable")
        try:
            create_optimizer(self.name, [torch.zeros(1, 1)], lr=self.lr, **self.options)
        except (AttributeError, ValueError, TypeError, RuntimeError) as error:
            raise ConfigError(f"cannot be built: {error}") from None
        object.__setattr__(self, "name", self.name.lower())
        object.__setattr__(self, "label", self.label or self._default_label())

    def _default_label(self) -> str:
        return self.name


@dataclass(frozen=True)
class ScheduleConfig(_Checked):
    """The schedule of the learning rate, stepped at every update. In TOML its options stand beside ``name``.

    Attributes:
        name: A name of :func:`optizoo.schedules.list_schedules`; for a warm-up set ``warmup_steps``.
        warmup_steps: Number of updates in which the rate climbs from 0, before the schedule begins; 0 for none.
        label: What tables and pictures call it; by default the name, behind ``warmup-`` if there is one.
        options: Arguments of the schedule, in steps where they are lengths. A ``total_steps`` that the schedule needs
            and that is not given is what the warm-up leaves of the run.
    """

    name: str = "constant"
    warmup_steps: int = _field(_integer(0), 0)
    label: str = _field(_label, "")
    options: dict[str, Any] = field(default_factory=dict, metadata={"check": _options})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "warmup":
            raise ConfigError(
                "= 'warmup'; name the schedule that follows the warm-up, and set warmup_steps beside it", key="name"
            )
        try:
            self.build(total_steps=self.warmup_steps + 1)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"cannot be built: {error}") from None
        object.__setattr__(self, "label", self.label or self._default_label())

    def _default_label(self) -> str:
        return f"warmup-{self.name}" if self.warmup_steps else self.name

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


@dataclass(frozen=True)
class TrainConfig(_Checked):
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
        evaluate_every: Number of epochs from one evaluation to the next; the last epoch is always evaluated.
        checkpoint_every: Number of epochs from one checkpoint to the next.
        threads: Number of CPU threads; ``None`` leaves torch's setting.
        graph: On CUDA, make the steps of an epoch as one CUDA graph, which is faster and computes the same.
    """

    epochs: int = _field(_integer(1), 10)
    batch_size: int = _field(_integer(1), 128)
    full_batch: bool = _field(_flag, False)
    max_steps: int | None = _field(_integer(1, optional=True), None)
    tolerance: float | None = _field(_number(optional=True), None)
    patience: int = _field(_integer(1), 1)
    l1: float = _field(_number(), 0.0)
    l2: float = _field(_number(), 0.0)
    dtype: Literal["float32", "float64"] = _field(_choice(("float32", "float64")), "float32")
    device: str = _field(_device, "auto")
    foreach: bool | None = _field(_optional_flag, None)
    evaluate_every: int = _field(_integer(1), 1)
    checkpoint_every: int = _field(_integer(1), 1)
    threads: int | None = _field(_integer(1, optional=True), None)
    graph: bool = _field(_flag, True)

    def total_steps(self, images: int) -> int:
        """Return the number of updates of a run on so many images that nothing stops early."""
        steps = self.epochs * (1 if self.full_batch else math.ceil(images / self.batch_size))
        return steps if self.max_steps is None else min(steps, self.max_steps)


@dataclass(frozen=True)
class RunConfig(_Checked):
    """One run: all that decides its result, up to the machine.

    Attributes:
        name: Name of the run and, with the digest, of its folder.
        seed: Seed of initialisation, order of the batches and dropout.
        data: The data.
        model: The model.
        optimizer: The optimizer.
        schedule: The schedule of its learning rate.
        train: How long and how.
    """

    name: str = _field(_word, "run")
    seed: int = _field(_integer(0, below=SEEDS), 0)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class CompareConfig(_Checked):
    """A comparison: a grid of optimizers, schedules and seeds on one model.

    Attributes:
        name: Name of the comparison and, with the digest, of its folder.
        seeds: One run of every cell for each.
        twins: Whether every run has its twin in ``torch.optim`` beside it.
        data: The data.
        model: The model.
        train: How long and how.
        optimizers: The optimizers, at least one; their labels differ.
        schedules: The schedules, at least one; their labels differ.
    """

    name: str = _field(_word, "compare")
    seeds: tuple[int, ...] = _field(_seeds, (0,))
    twins: bool = _field(_flag, True)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optimizers: tuple[OptimizerConfig, ...] = (OptimizerConfig(),)
    schedules: tuple[ScheduleConfig, ...] = (ScheduleConfig(),)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("optimizers", "schedules"):
            labels = [section.label for section in getattr(self, name)]
            if not labels:
                raise ConfigError(f"is empty; add a table [[{name}]]", key=name)
            for index, label in enumerate(labels):
                if label in labels[:index]:
                    raise ConfigError(
                        f"= {label!r}, as another has it; give each its own", key=f"{name}[{index}].label"
                    )
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for index, optimizer in enumerate(self.optimizers):
            if optimizer.library != "optizoo":
                raise ConfigError(
                    f"= {optimizer.library!r}; remove it: twins = true runs both libraries",
                    key=f"optimizers[{index}].library",
                )


# Reading ------------------------------------------------------------------------------------------------------------

_SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "train": TrainConfig,
}
_LISTS: dict[str, type] = {"optimizers": OptimizerConfig, "schedules": ScheduleConfig}
_Config = TypeVar("_Config", RunConfig, CompareConfig)


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read the config of one run from a TOML file, or from the JSON file of a run folder.

    Args:
        path: The file.
        overrides: Arguments of the command line: ``["--train.epochs", "3", "--optimizer.betas", "0.9", "0.99"]``. They
            change the file's table before it is checked. Values are written as in TOML, where quotes may be left out;
            several make a list, and ``none`` stands for a value that is left out.

    Raises:
        ConfigError: The file cannot be read, a key is unknown, or a value is out of range.
    """
    return _load(RunConfig, path, overrides)


def load_compare(path: str | Path, overrides: Sequence[str] = ()) -> CompareConfig:
    """Read the config of a comparison; else as :func:`load_run`, with overrides such as ``--optimizers.1.lr 0.1``."""
    return _load(CompareConfig, path, overrides)


def run_from_dict(table: Mapping[str, Any]) -> RunConfig:
    """Return the config that :func:`to_dict` made ``table`` from, or that a parsed TOML file means.

    Raises:
        ConfigError: A key is unknown, or a value is out of range.

    >>> run_from_dict({"optimizer": {"name": "adam", "betas": [0.9, 0.99]}}).optimizer.options
    {'betas': (0.9, 0.99)}
    """
    return _from_dict(RunConfig, table)


def compare_from_dict(table: Mapping[str, Any]) -> CompareConfig:
    """Return the comparison that ``table`` means; else as :func:`run_from_dict`."""
    return _from_dict(CompareConfig, table)


def _load(kind: type[_Config], path: str | Path, overrides: Sequence[str]) -> _Config:
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror or error}): give the path of a config", file=str(path)
        ) from None
    except ValueError as error:  # broken TOML, JSON or UTF-8
        raise ConfigError(f"is not valid {path.suffix[1:].upper()}: {error}", file=str(path)) from None
    where = f"{path} with the command line" if overrides else str(path)
    try:
        if overrides and isinstance(table, dict):
            _merge(table, overrides)
        return _from_dict(kind, table)
    except ConfigError as error:
        raise ConfigError(error.problem, key=error.key, file=where) from None


def _from_dict(kind: type[_Config], table: Mapping[str, Any]) -> _Config:
    if not isinstance(table, Mapping):
        raise ConfigError("is not a table; it must be keys and sections, such as [train]")
    known = [each.name for each in fields(kind)]
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in known:
            other, command = (CompareConfig, "compare") if kind is RunConfig else (RunConfig, "train")
            foreign = name in [each.name for each in fields(other)]
            hint = f"; a config with this key is run with optizoo {command}" if foreign else ""
            raise ConfigError(f"is unknown; {did_you_mean(name, known)}{hint}", key=name)
        if name in _LISTS:
            if not isinstance(value, (list, tuple)):
                raise ConfigError(f"= {value!r}; must be tables, each under its own [[{name}]]", key=name)
            sections = [_section(_LISTS[name], item, f"{name}[{index}]") for index, item in enumerate(value)]
            values[name] = tuple(sections)
        elif name in _SECTIONS:
            values[name] = _section(_SECTIONS[name], value, name)
        else:
            values[name] = value
    return kind(**values)


def _section(kind: type, table: Any, place: str) -> Any:
    if not isinstance(table, Mapping):
        raise ConfigError(f"= {table!r}; must be a table, [{place.partition('[')[0]}]", key=place)
    known = [each.name for each in fields(kind) if each.name != "options"]
    takes_options = len(known) < len(fields(kind))
    values = {name: value for name, value in table.items() if name in known}
    others = {name: value for name, value in table.items() if name not in known}
    if others and not takes_options:
        name = next(iter(others))
        raise ConfigError(f"is unknown; {did_you_mean(name, known)}", key=f"{place}.{name}")
    try:
        return kind(**values, options=others) if takes_options else kind(**values)
    except ConfigError as error:
        raise error.inside(place) from None


# Overrides ----------------------------------------------------------------------------------------------------------


def _merge(table: dict[str, Any], overrides: Sequence[str]) -> None:
    """Write overrides into the table of a file: ``--train.epochs 3``, ``--seeds 0 1``, ``--optimizers.1.lr=0.1``."""
    groups: list[list[str]] = []
    for text in overrides:
        if text.startswith("--"):
            flag, equals, value = text[2:].partition("=")
            groups.append([flag.replace("-", "_"), value] if equals else [flag.replace("-", "_")])
        elif groups:
            groups[-1].append(text)
        else:
            raise ConfigError(f"{text!r} stands before any --key; write --train.epochs 3")
    for key, *texts in groups:
        *path, name = key.split(".")
        place: Any = table
        for index, part in enumerate(path):
            if isinstance(place, list):
                if not part.isdecimal() or int(part) >= len(place):
                    raise ConfigError(
                        f"has no table {part!r}; there are {len(place)}, counted from 0", key=".".join(path[:index])
                    )
                place = place[int(part)]
            else:
                place = place.setdefault(part, {})
            if not isinstance(place, (dict, list)):
                raise ConfigError("is no table, so nothing in it can be set", key=".".join(path[: index + 1]))
        if isinstance(place, list):
            raise ConfigError("needs a number and a key, such as --optimizers.0.lr 0.1", key=key)
        values = [_parsed(text) for text in texts]
        place[name] = values[0] if len(values) == 1 and name != "seeds" else values or True  # one seed is a list too


def _parsed(text: str) -> Any:
    """Return a value as TOML reads it, ``None`` for ``none``, or else the text itself: quotes may be left out."""
    if text.lower() == "none":
        return None
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


# Writing ------------------------------------------------------------------------------------------------------------


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config, or a section of one, in the layout of its file, for JSON: all defaults, tuples as lists.

    >>> run_from_dict(to_dict(RunConfig())) == RunConfig()
    True
    >>> to_dict(OptimizerConfig("adam", lr=0.001, options={"betas": (0.9, 0.99)}))
    {'name': 'adam', 'lr': 0.001, 'label': 'adam', 'library': 'optizoo', 'betas': [0.9, 0.99]}
    """
    table: dict[str, Any] = {}
    for each in fields(config):
        value = getattr(config, each.name)
        if each.name == "options":
            table.update({name: _listed(item) for name, item in value.items()})
        else:
            table[each.name] = _listed(value)
    return table


def _listed(value: Any) -> Any:
    if is_dataclass(value):
        return to_dict(value)
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


# Keys that change where a run finds its data or how it is watched, not what it computes.
_NOT_IN_DIGEST = {"data": ("root", "cache", "download"), "train": ("threads", "checkpoint_every", "graph")}


def digest(config: RunConfig | CompareConfig) -> str:
    """Return ten hexadecimal digits that tell this config from others.

    Defaults written out or left out make no difference; neither do paths, threads and the
    times of checkpoints, and whether there is a CUDA graph.
    """
    table = to_dict(config)
    for section, names in _NOT_IN_DIGEST.items():
        for name in names:
            del table[section][name]
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:10]
