"""Configs: what a run or a comparison is, read from TOML and checked at once.

A TOML file has a table for each section (:mod:`optizoo.lab.sections`), and top-level keys for the rest:

.. code-block:: toml

    name = "adam-on-cifar10"
    seed = 0

    [optimizer]
    name = "adam"
    lr = 1e-3
    betas = [0.9, 0.99]      # whatever the optimizer's constructor takes

    [train]
    epochs = 10

What is left out has its default. Every mistake raises :class:`ConfigError`, which names file, key, value and remedy.
Any value can be overridden on the command line (``--train.epochs 3``, ``--optimizers.1.lr 0.1``).
"""

import hashlib
import json
import tomllib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import StrictBool, TypeAdapter, ValidationError

from optizoo.lab.sections import (
    WHOLE_RUN,
    ConfigError,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    Section,
    Seed,
    Seeds,
    TrainConfig,
    Word,
    section,
    told,
)

__all__ = [
    "WHOLE_RUN",
    "CompareConfig",
    "ConfigError",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrainConfig",
    "compare_from_dict",
    "differ",
    "digest",
    "from_dict",
    "load",
    "load_compare",
    "load_run",
    "run_from_dict",
    "to_dict",
]


@section
class Whole(Section):
    """A config that a command runs, whose name is the class's ``command``."""

    command: ClassVar[str]

    @classmethod
    def unknown(cls, name: str, known: Sequence[str]) -> str:
        """Return what is said of an unknown key, and which command knows it."""
        others = [kind.command for kind in Whole.__subclasses__() if name in [each.name for each in fields(kind)]]
        hint = f"; a config with this key is run with optizoo {' or '.join(others)}" if others else ""
        return super().unknown(name, known) + hint


@section
class RunConfig(Whole):
    """One run: all that decides its result, up to the machine.

    Attributes:
        name: Name of the run and, with the digest, of its folder.
        seed: Seed of initialisation, dropout, and the order of the batches where ``train.order_seed`` gives no other.
        data: The data.
        model: The model.
        optimizer: The optimizer.
        schedule: The schedule of its learning rate.
        train: How long and how.
    """

    command: ClassVar[str] = "train"
    name: Word = "run"
    seed: Seed = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def order_seed(self) -> int:
        """Seed of the order of the batches."""
        return self.seed if self.train.order_seed is None else self.train.order_seed


@section
class CompareConfig(Whole):
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

    command: ClassVar[str] = "compare"
    name: Word = "compare"
    seeds: Seeds = (0,)
    twins: StrictBool = True
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optimizers: tuple[OptimizerConfig, ...] = (OptimizerConfig(),)
    schedules: tuple[ScheduleConfig, ...] = (ScheduleConfig(),)

    def __post_init__(self) -> None:
        for name in ("optimizers", "schedules"):
            differ([each.label for each in getattr(self, name)], name)
        for index, optimizer in enumerate(self.optimizers):
            if optimizer.library != "optizoo":
                raise ConfigError(
                    f"= {optimizer.library!r}; remove it: twins = true runs both libraries",
                    key=f"optimizers[{index}].library",
                )


def differ(labels: Sequence[str], place: str) -> None:
    """Raise where there is no label, or two tables of a list have the same."""
    if not labels:
        raise ConfigError(f"is empty; add a table [[{place}]]", key=place)
    for index, label in enumerate(labels):
        if label in labels[:index]:
            raise ConfigError(f"= {label!r}, as another has it; give each its own", key=f"{place}[{index}].label")


# Reading ------------------------------------------------------------------------------------------------------------

_Config = TypeVar("_Config")
_adapter = lru_cache(TypeAdapter)


def load(kind: type[_Config], path: str | Path, overrides: Sequence[str] = ()) -> _Config:
    """Read a config of the kind from a TOML file, or from the JSON file of a run folder.

    Args:
        kind: The class of the config.
        path: The file.
        overrides: Arguments of the command line: ``["--train.epochs", "3", "--optimizer.betas", "0.9", "0.99"]``. They
            change the file's table before it is checked. Values are written as in TOML, where quotes may be left out;
            several make a list, and ``none`` stands for a value that is left out.

    Raises:
        ConfigError: The file cannot be read, a key is unknown, or a value is out of range.
    """
    path = Path(path)
    try:
        content = path.read_bytes()  # once: it may be a pipe
        text = content.decode("utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
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
        return from_dict(kind, table)
    except ConfigError as error:
        raise ConfigError(error.problem, key=error.key, file=where) from None


def from_dict(kind: type[_Config], table: Mapping[str, Any]) -> _Config:
    """Return the config of a kind that :func:`to_dict` made ``table`` from, or that a parsed TOML file means.

    Raises:
        ConfigError: A key is unknown, or a value is out of range.
    """
    if not isinstance(table, Mapping):
        raise ConfigError("is not a table; it must be keys and sections, such as [train]")
    try:
        return _adapter(kind).validate_python(table)
    except ValidationError as error:
        raise told(error) from None


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read the config of one run; see :func:`load`."""
    return load(RunConfig, path, overrides)


def load_compare(path: str | Path, overrides: Sequence[str] = ()) -> CompareConfig:
    """Read the config of a comparison; see :func:`load`, with overrides such as ``--optimizers.1.lr 0.1``."""
    return load(CompareConfig, path, overrides)


def run_from_dict(table: Mapping[str, Any]) -> RunConfig:
    """Return the run that ``table`` means; see :func:`from_dict`.

    >>> run_from_dict({"optimizer": {"name": "adam", "betas": [0.9, 0.99]}}).optimizer.options
    {'betas': (0.9, 0.99)}
    """
    return from_dict(RunConfig, table)


def compare_from_dict(table: Mapping[str, Any]) -> CompareConfig:
    """Return the comparison that ``table`` means; see :func:`from_dict`."""
    return from_dict(CompareConfig, table)


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
    return _adapter(type(config)).dump_python(config, mode="json")


# Keys that change where a run finds its data or how it is watched, not what it computes.
_NOT_IN_DIGEST = {"data": ("root", "cache", "download"), "train": ("threads", "checkpoint_every", "graph")}
# Keys that are younger than digests: where they are left out, a folder keeps the name that it had before them.
_YOUNG = {"train": {"order_seed": None, "scale_lr": False}}


def digest(config: Any) -> str:
    """Return ten hexadecimal digits that tell this config from others.

    Defaults written out or left out make no difference; neither do paths, threads and the
    times of checkpoints, and whether there is a CUDA graph.

    Args:
        config: A config, or the table that :func:`to_dict` makes of one.
    """
    table = json.loads(json.dumps(config if isinstance(config, Mapping) else to_dict(config)))
    for place in {*_NOT_IN_DIGEST, *_YOUNG} & {*table}:
        for name in _NOT_IN_DIGEST.get(place, ()):
            table[place].pop(name, None)
        for name, default in _YOUNG.get(place, {}).items():
            if table[place].get(name) == default:
                table[place].pop(name, None)
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:10]
