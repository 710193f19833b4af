"""Configs: what a file means, which mistakes are told, and what a digest stands for."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from optizoo import schedules
from optizoo.lab import config as configs
from optizoo.lab.config import (
    CompareConfig,
    ConfigError,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
    compare_from_dict,
    digest,
    load_compare,
    load_run,
    run_from_dict,
    to_dict,
)
from optizoo.lab.sweep.config import load_sweep

RUN = """
name = "a-run"
seed = 3

[data]
name = "synthetic"
train_size = 1000

[model]
name = "two_layer"
hidden = 32
dropout = 0.1

[optimizer]
name = "adam"
lr = 1
betas = [0.9, 0.99]
amsgrad = true

[schedule]
name = "step"
period = 100
warmup_steps = 10

[train]
epochs = 3
max_steps = 50
"""
COMPARE = """
name = "a-comparison"
seeds = [0, 1]
twins = false

[train]
epochs = 2

[[optimizers]]
name = "sgd"

[[optimizers]]
name = "sgd"
label = "sgd with momentum"
momentum = 0.9

[[schedules]]
name = "constant"

[[schedules]]
name = "cosine"
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "config.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_run_file_means_what_it_says(write):
    """Every value of a file arrives in its field, options arrive in ``options``, and the rest is default."""
    assert load_run(write(RUN)) == RunConfig(
        name="a-run",
        seed=3,
        data=DataConfig("synthetic", train_size=1000),
        model=ModelConfig("two_layer", hidden=32, dropout=0.1),
        optimizer=OptimizerConfig("adam", lr=1.0, options={"betas": (0.9, 0.99), "amsgrad": True}),
        schedule=ScheduleConfig("step", warmup_steps=10, options={"period": 100.0}),
        train=TrainConfig(epochs=3, max_steps=50),
    )


def test_compare_file_means_what_it_says(write):
    """Tables under [[optimizers]] and [[schedules]] become tuples in the order of the file."""
    assert load_compare(write(COMPARE)) == CompareConfig(
        name="a-comparison",
        seeds=(0, 1),
        twins=False,
        train=TrainConfig(epochs=2),
        optimizers=(
            OptimizerConfig("sgd"),
            OptimizerConfig("sgd", label="sgd with momentum", options={"momentum": 0.9}),
        ),
        schedules=(ScheduleConfig(), ScheduleConfig("cosine")),
    )


def test_empty_file_is_the_default(write):
    """An empty file is a valid config, with every default."""
    assert load_run(write("")) == RunConfig()
    assert load_compare(write("")) == CompareConfig()


@pytest.mark.parametrize("load", [load_run, load_compare])
def test_written_config_reads_back(write, load):
    """What ``to_dict`` writes as JSON reads back as the same config."""
    config = load(write(RUN if load is load_run else COMPARE))
    again = load(write(json.dumps(to_dict(config)), "config.json"))
    assert again == config
    assert digest(again) == digest(config)


RUN_MISTAKES = [
    pytest.param({"train": {"epochs": -3}}, "key train.epochs = -3; must be greater than or equal to 1", id="range"),
    pytest.param({"train": {"epochs": 2.5}}, "key train.epochs = 2.5; must be a valid integer", id="fraction"),
    pytest.param({"train": {"epochs": True}}, "key train.epochs = True; must be a valid integer", id="bool-for-number"),
    pytest.param({"train": {"l2": float("nan")}}, "key train.l2 = nan; must be a finite number", id="nan"),
    pytest.param({"train": {"l1": float("inf")}}, "key train.l1 = inf; must be a finite number", id="infinity"),
    pytest.param(
        {"train": {"full_batch": 1}}, "key train.full_batch = 1; must be a valid boolean", id="number-for-bool"
    ),
    pytest.param({"train": {"foreach": "no"}}, "key train.foreach = 'no'; must be a valid boolean", id="flag"),
    pytest.param({"train": {"dtype": "float8"}}, "'float8'; must be 'float32' or 'float64'", id="dtype"),
    pytest.param({"train": {"device": "gpu"}}, "key train.device = 'gpu'; must be 'auto', 'cpu'", id="device"),
    pytest.param({"train": {"device": "mps"}}, "key train.device = 'mps'; must be 'auto', 'cpu'", id="device-unknown"),
    pytest.param({"train": {"device": 3}}, "key train.device = 3; must be 'auto'", id="device-number"),
    pytest.param({"train": {"epoch": 3}}, "key train.epoch is unknown; did you mean 'epochs'?", id="typo"),
    pytest.param({"trian": {}}, "key trian is unknown; did you mean 'train'?", id="section-typo"),
    pytest.param({"train": 3}, "key train = 3; must be a table, [train]", id="no-table"),
    pytest.param({"name": "../evil"}, "key name = '../evil'; must be a name that can stand in a file", id="name"),
    pytest.param({"seed": -1}, "key seed = -1; must be greater than or equal to 0", id="seed"),
    pytest.param({"seed": 2**32}, "must be less than 4294967296", id="seed-beyond-32-bits"),
    pytest.param({"data": {"name": "mnist"}}, "key data.name = 'mnist'; must be 'cifar10' or 'synthetic'", id="data"),
    pytest.param({"data": {"root": ""}}, "key data.root = ''; must be a path", id="empty-path"),
    pytest.param({"model": {"name": "linaer"}}, "key model.name = 'linaer'; must be one of linear", id="model"),
    pytest.param({"model": {"dropout": 0.5}}, "key model.dropout = 0.5; the linear model has no", id="linear-dropout"),
    pytest.param({"model": {"init": "zero"}}, "key model cannot be built: unknown init 'zero'", id="init"),
    pytest.param({"optimizer": {"name": "adm"}}, "Unknown optimizer 'adm'; did you mean 'adam'?", id="optimizer"),
    pytest.param({"optimizer": {"name": 3}}, "key optimizer.name = 3; must be a valid string", id="optimizer-number"),
    pytest.param({"optimizer": {"lr": -1}}, "key optimizer.lr = -1; must be greater than or equal to 0", id="lr"),
    pytest.param({"optimizer": {"momentun": 0.9}}, "did you mean 'momentum'?", id="option-typo"),
    pytest.param({"optimizer": {"momentum": 2}}, "momentum must be from 0 to 1", id="option-range"),
    pytest.param({"optimizer": {"foreach": True}}, "key optimizer.foreach = True; it belongs", id="foreach-elsewhere"),
    pytest.param(
        {"optimizer": {"library": "jax"}}, "key optimizer.library = 'jax'; must be 'optizoo' or 'torch'", id="library"
    ),
    pytest.param({"optimizer": {"label": "a/b"}}, "key optimizer.label = 'a/b'; must be at most", id="label"),
    pytest.param({"schedule": {"name": "cosin"}}, "Unknown schedule 'cosin'; did you mean 'cosine'?", id="schedule"),
    pytest.param({"schedule": {"name": "step"}}, "key schedule cannot be built", id="missing-option"),
    pytest.param({"schedule": {"name": "warmup"}}, "set warmup_steps beside it", id="warmup-is-no-name"),
    pytest.param({"schedule": {"floor": 0.1}}, "Unknown option 'floor'", id="option-of-another-schedule"),
]


@pytest.mark.parametrize(("table", "message"), RUN_MISTAKES)
def test_mistakes_name_key_value_and_remedy(table: dict[str, Any], message: str):
    """Every mistake is told with its key, its value and what to do."""
    with pytest.raises(ConfigError) as caught:
        run_from_dict(table)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        pytest.param({"seeds": []}, "key seeds = []; must be a list of different integers", id="no-seed"),
        pytest.param({"seeds": [1, 1]}, "key seeds = [1, 1]; must be a list of different", id="seed-twice"),
        pytest.param({"seeds": [-1]}, "key seeds[0] = -1; must be greater than or equal to 0", id="negative-seed"),
        pytest.param({"seeds": 3}, "key seeds = 3; must be a list", id="seed-alone"),
        pytest.param({"optimizers": []}, "key optimizers is empty; add a table [[optimizers]]", id="no-optimizer"),
        pytest.param({"optimizers": {"name": "sgd"}}, "each under its own [[optimizers]]", id="one-bracket"),
        pytest.param({"optimizers": [{}, {"lr": "x"}]}, "key optimizers[1].lr = 'x'; must be a valid number", id="lr"),
        pytest.param({"optimizers": [{}, {}]}, "key optimizers[1].label = 'sgd', as another has it", id="label-twice"),
        pytest.param({"schedules": [{"name": "no"}]}, "key schedules[0] cannot be built", id="schedule"),
        pytest.param({"optimizer": {}}, "key optimizer is unknown; did you mean 'optimizers'?", id="singular"),
    ],
)
def test_mistakes_in_a_comparison_name_the_table(table: dict[str, Any], message: str):
    """In a comparison the message says which of the tables is meant, counted from 0."""
    with pytest.raises(ConfigError) as caught:
        compare_from_dict(table)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[train]\nepochs = -3", "bad.toml: key train.epochs = -3; must be", id="value"),
        pytest.param("epochs = ", "bad.toml: is not valid TOML: Invalid value (at", id="syntax"),
    ],
)
def test_mistakes_in_a_file_name_the_file(write, text: str, message: str):
    """A message about a file begins with its path."""
    with pytest.raises(ConfigError) as caught:
        load_run(write(text, "bad.toml"))
    assert message in str(caught.value)


def test_missing_file_is_told(tmp_path: Path):
    """A path that cannot be read is told with the system's reason."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read \(No such file"):
        load_run(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        pytest.param(["--train.epochs", "7"], "train.epochs", 7, id="integer"),
        pytest.param(["--train.epochs=7"], "train.epochs", 7, id="equals-sign"),
        pytest.param(["--train.max-steps", "none"], "train.max_steps", None, id="none-and-dash"),
        pytest.param(["--train.full_batch"], "train.full_batch", True, id="flag-alone"),
        pytest.param(["--train.full_batch", "false"], "train.full_batch", False, id="flag"),
        pytest.param(["--train.l2", "1e-3"], "train.l2", 1e-3, id="float"),
        pytest.param(["--data.name", "cifar10"], "data.name", "cifar10", id="text"),
        pytest.param(["--data.root", "/a b/c"], "data.root", "/a b/c", id="path"),
        pytest.param(["--name", "other"], "name", "other", id="top-level"),
        pytest.param(["--optimizer.betas", "0.5", "0.6"], "optimizer.options.betas", (0.5, 0.6), id="several"),
        pytest.param(["--optimizer.betas", "[0.5, 0.6]"], "optimizer.options.betas", (0.5, 0.6), id="toml-list"),
        pytest.param(["--optimizer.eps", "1e-6"], "optimizer.options.eps", 1e-6, id="option-not-in-the-file"),
        pytest.param(["--optimizer.name", "adamw"], "optimizer.label", "adamw", id="default-label-follows"),
        pytest.param(
            ["--schedule.name", "multistep", "--schedule.milestones", "3", "5"],
            "schedule.options.milestones",
            (3.0, 5.0),
            id="another-schedule",
        ),
    ],
)
def test_overrides_change_one_value(write, arguments: list[str], path: str, value: Any):
    """An argument of the command line sets its key, whether or not the file has it."""
    text = RUN.replace('name = "step"\nperiod = 100\n', 'name = "constant"\n')
    found: Any = load_run(write(text), arguments)
    for part in path.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_overrides_reach_into_lists(write):
    """A number in the path counts the tables of a list from 0."""
    config = load_compare(
        write(COMPARE), ["--seeds", "5", "6", "--optimizers.1.lr", "0.5", "--schedules.0.name", "linear"]
    )
    assert config.seeds == (5, 6)
    assert [optimizer.lr for optimizer in config.optimizers] == [0.01, 0.5]
    assert [schedule.name for schedule in config.schedules] == ["linear", "cosine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--train.epochs", "-3"], "with the command line: key train.epochs = -3", id="value"),
        pytest.param(["--train.epoch", "3"], "key train.epoch is unknown; did you mean 'epochs'?", id="typo"),
        pytest.param(["3"], "'3' stands before any --key", id="no-key"),
        pytest.param(["--optimizers.2.lr", "1"], "key optimizers has no table '2'; there are 2", id="index"),
        pytest.param(["--optimizers.lr", "1"], "key optimizers.lr needs a number and a key", id="no-index"),
        pytest.param(["--name.x", "1"], "key name is no table", id="no-section"),
    ],
)
def test_mistaken_overrides_are_told(write, arguments: list[str], message: str):
    """A mistake on the command line is told as one in the file is."""
    with pytest.raises(ConfigError) as caught:
        load_compare(write(COMPARE), arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param({"data": {"root": "/elsewhere"}}, True, id="root"),
        pytest.param({"data": {"cache": "/elsewhere"}}, True, id="cache"),
        pytest.param({"train": {"threads": 1}}, True, id="threads"),
        pytest.param({"train": {"epochs": 10}}, True, id="default-written-out"),
        pytest.param({"optimizer": {"lr": 0.01, "weight_decay": 0}}, False, id="option-written-out"),
        pytest.param({"train": {"epochs": 11}}, False, id="epochs"),
        pytest.param({"train": {"order_seed": 0}}, False, id="order"),
        pytest.param({"train": {"scale_lr": True}}, False, id="scaled"),
        pytest.param({"seed": 1}, False, id="seed"),
        pytest.param({"optimizer": {"lr": 0.02}}, False, id="lr"),
        pytest.param({"optimizer": {"library": "torch"}}, False, id="library"),
        pytest.param({"schedule": {"warmup_steps": 1}}, False, id="warmup"),
    ],
)
def test_digest_tells_runs_apart(change: dict[str, Any], same: bool):
    """The digest changes with what a run computes, and not with where it runs."""
    assert (digest(run_from_dict(change)) == digest(RunConfig())) is same


def test_digests_stay():
    """Folders are named after digests: keys that came later do not change them where they are left out."""
    assert (digest(RunConfig()), digest(CompareConfig())) == ("8d39d5afe7", "4f48864228")


def test_digest_does_not_see_how_a_number_is_written():
    """``weight_decay = 0`` and ``weight_decay = 0.0`` are one config."""
    integer, real = (run_from_dict({"optimizer": {"weight_decay": value}}) for value in (0, 0.0))
    assert digest(integer) == digest(real)


@pytest.mark.parametrize(
    ("section", "schedule"),
    [
        pytest.param(ScheduleConfig(), schedules.Constant(), id="constant"),
        pytest.param(ScheduleConfig("cosine"), schedules.Cosine(1000), id="run-length"),
        pytest.param(ScheduleConfig("cosine", options={"total_steps": 50}), schedules.Cosine(50), id="length-given"),
        pytest.param(
            ScheduleConfig("linear", warmup_steps=100, options={"floor": 0.1}),
            schedules.Warmup(100, then=schedules.Linear(900, floor=0.1)),
            id="warmup-takes-its-part",
        ),
        pytest.param(
            ScheduleConfig("multistep", options={"milestones": [3, 5]}), schedules.MultiStep((3, 5)), id="milestones"
        ),
    ],
)
def test_schedule_of_a_run(section: ScheduleConfig, schedule: schedules.Schedule):
    """A schedule that ends does so with the run, unless the config says otherwise."""
    assert section.build(total_steps=1000) == schedule


def test_every_schedule_that_needs_a_length_gets_the_runs():
    """The schedules whose ``total_steps`` has no default are those that get the run's number of steps."""
    needing = {
        kind.__name__.lower()
        for kind in vars(schedules).values()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
        for each in dataclasses.fields(kind)
        if each.name == "total_steps" and each.default is dataclasses.MISSING
    }
    assert set(configs.WHOLE_RUN) == needing


def test_warmup_must_be_shorter_than_the_run():
    """A warm-up that would never end is refused when the length of the run is known."""
    with pytest.raises(ConfigError, match="key warmup_steps = 100; must be below the run's 100 steps"):
        ScheduleConfig("cosine", warmup_steps=100).build(total_steps=100)


def test_one_seed_on_the_command_line_is_a_list(tmp_path: Path):
    """``--seeds 0`` means one seed, as ``--seeds 0 1`` means two."""
    path = tmp_path / "compare.toml"
    path.write_text('[data]\nname = "synthetic"\n', encoding="utf-8")
    assert configs.load_compare(path, ["--seeds", "0"]).seeds == (0,)
    assert configs.load_compare(path, ["--seeds", "0", "1"]).seeds == (0, 1)


def test_configs_are_frozen():
    """A config cannot change under a run."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "configs").glob("*.toml")), ids=lambda path: path.stem
)
def test_shipped_configs_are_valid(path: Path):
    """Every file in configs/ is a comparison, a run or a sweep."""
    text = path.read_text(encoding="utf-8")
    load = load_run if "[optimizer]" in text else load_sweep if "\ntrials = " in text else load_compare
    assert load(path).name
