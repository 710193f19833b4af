"""Populations: every run has the result that it has alone, whoever trains beside it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import optizoo
from optizoo.lab.config import ConfigError, RunConfig
from optizoo.lab.data import Dataset
from optizoo.lab.records import Record
from optizoo.lab.train import Trained, populations, train, train_population
from tests.lab.test_train import dataset as dataset
from tests.lab.test_train import run_config, signal_at, untimed

TWO = {"name": "two_layer", "hidden": 8}


def run(optimizer: dict[str, Any], **sections: Any) -> RunConfig:
    """Return a run that sees the batches of seed 5, three epochs of them."""
    return run_config(**{**sections, "optimizer": optimizer, "train": {"order_seed": 5, **sections.get("train", {})}})


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Return the norm of the difference of two tensors, relative to that of the second; 0 where both are not finite."""
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    assert torch.equal(ours.isnan(), theirs.isnan())
    ours, theirs = (each.double().nan_to_num(0, 0, 0) for each in (ours, theirs))
    return ((ours - theirs).norm() / theirs.norm().clamp(min=1e-30)).item()


def assert_alike(together: Trained, alone: Trained) -> None:
    """Assert that two runs ended alike, to what their products are rounded to."""
    tell = f"{alone.record.config['optimizer']}"
    assert together.status == alone.status, tell
    single = alone.losses.dtype is torch.float32
    assert distance(together.losses, alone.losses) <= (1e-5 if single else 1e-10), tell
    pairs = zip(together.model.named_parameters(), alone.model.named_parameters(), strict=True)
    for (name, ours), (other, theirs) in pairs:
        assert name == other
        assert distance(ours.detach(), theirs.detach()) <= (1e-5 if single else 1e-10), f"{tell}, {name}"
    assert type(together.optimizer) is type(alone.optimizer)
    assert together.optimizer.state_dict()["param_groups"] == alone.optimizer.state_dict()["param_groups"], tell
    for name, ours, theirs in zip(
        ("config", "dataset", "epochs", "result"), untimed(together.record), untimed(alone.record), strict=True
    ):
        assert_close_values(ours, theirs, f"{tell}, {name}")


def assert_close_values(ours: Any, theirs: Any, where: str) -> None:
    """Assert that two values of records are equal, numbers to rounding; digests of losses cannot be."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), where
        for name in theirs:
            if name != "loss_digest":
                assert_close_values(ours[name], theirs[name], f"{where}.{name}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for index, value in enumerate(theirs):
            assert_close_values(ours[index], value, f"{where}[{index}]")
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=2e-5, abs=1e-6), where
    else:
        assert ours == theirs, where


def assert_population(configs: Sequence[RunConfig], dataset: Dataset) -> list[Trained]:
    """Assert that a population's runs are those that its members are alone, and return them."""
    together = train_population(configs, dataset, progress=False)
    for trained, config in zip(together, configs, strict=True):
        assert_alike(trained, train(config, dataset, progress=False))
    return together


# What every run computes ----------------------------------------------------------------------------------------------

MIXED = [
    {"name": "sgd", "lr": 0.01},
    {"name": "sgd", "lr": 0.02, "weight_decay": 0.1},
    {"name": "momentum", "lr": 0.01, "nesterov": True},
    {"name": "adam", "lr": 1e-3},
    {"name": "adam", "lr": 3e-4, "betas": (0.8, 0.99), "amsgrad": True},
    {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1},
    {"name": "rmsprop", "lr": 1e-4, "centered": True},
    {"name": "adagrad", "lr": 0.01},
    {"name": "schedulefreesgd", "lr": 0.05},
    {"name": "schedulefreeadamw", "lr": 1e-3},
    {"name": "prodigy"},
    {"name": "prodigy", "lr": 0.5},
    {"name": "nadam", "lr": 1e-3},
    {"name": "nadam", "lr": 1e-3, "nonfinite": "skip"},
    {"name": "adam", "lr": 1e-3, "capturable": True},
    {"name": "momentum", "lr": 0.01, "l1": 0.01},
]


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param({}, id="linear"),
        pytest.param({"model": TWO}, id="two-layer"),
        pytest.param({"model": {**TWO, "dropout": 0.5}, "train": {"dtype": "float64"}}, id="dropout"),
        pytest.param({"train": {"full_batch": True, "epochs": 8}}, id="full-batch"),
        pytest.param({"train": {"max_steps": 6, "evaluate_every": 2, "batch_size": 7}}, id="max-steps"),
    ],
)
def test_runs_are_those_that_they_are_alone(dataset: Dataset, sections: dict[str, Any]):
    """Optimizers, rates, decays and seeds beside each other give losses, weights, states and records of each alone."""
    assert_population([run(each, seed=seed, **sections) for seed, each in enumerate(MIXED)], dataset)


@pytest.mark.thin
@pytest.mark.parametrize("name", optizoo.list_optimizers())
def test_every_optimizer_of_the_zoo_trains_with_others(dataset: Dataset, name: str):
    """Two runs of one optimizer, at other rates and seeds, and one of another, are those that they are alone."""
    rate = optizoo.create(name, [torch.zeros(1, 1)]).param_groups[0]["lr"]
    runs = [({"name": name, "lr": rate}, 0), ({"name": name, "lr": rate / 3}, 1), ({"name": "sgd", "lr": 0.02}, 2)]
    double = {"dtype": "float64"}  # Muon rounds to bfloat16, where a last bit of float32 can become many
    assert_population([run(each, model=TWO, seed=seed, train=double) for each, seed in runs], dataset)


def test_every_run_has_its_own_schedule_and_penalty(dataset: Dataset):
    """Schedules, penalties and initialisations differ from run to run."""
    adam = {"name": "adam", "lr": 1e-3}
    assert_population(
        [
            run(adam, schedule={"name": "cosine", "warmup_steps": 3}),
            run(adam, schedule={"name": "step", "period": 5}, train={"l1": 0.01}),
            run(adam, train={"l2": 0.1}, model={"init": "zeros"}),
            run(adam, train={"l1": 0.003, "l2": 0.1}, model={"init": "normal", "init_scale": 0.1}),
        ],
        dataset,
    )


# When runs stop -------------------------------------------------------------------------------------------------------


def test_run_that_diverges_harms_no_other(dataset: Dataset):
    """Runs whose loss, weights or rate leave the finite numbers are marked; the others are what they are alone."""
    configs = [
        run({"name": "sgd", "lr": lr}, train={"batch_size": 30, **({"l2": l2} if l2 else {})}, model=TWO, **more)
        for lr, l2, more in (
            (0.01, 0, {}),
            (1e20, 1e5, {}),  # the loss of the third step
            (0.02, 0, {"seed": 1}),
            (1e38, 1e5, {}),  # the weights of the first
            (1e39, 0, {}),  # the rate itself
            (0.01, 0, {"schedule": {"name": "exponential", "gamma": 1e15}}),  # the rate, later
        )
    ]
    statuses = [trained.status for trained in assert_population(configs, dataset)]
    assert statuses == ["finished", "diverged", "finished", "diverged", "diverged", "diverged"]


def test_all_runs_may_diverge(dataset: Dataset):
    """A population of which none is left ends."""
    configs = [run({"name": "sgd", "lr": lr}, train={"l2": 1e5}) for lr in (1e20, 1e25)]
    assert [trained.status for trained in assert_population(configs, dataset)] == ["diverged", "diverged"]


def test_every_run_has_its_own_tolerance(dataset: Dataset):
    """A run that no longer improves stops, with its test images looked at; the others go on."""
    adam = {"name": "adam", "lr": 1e-3}
    configs = [
        run(adam, train={"tolerance": tolerance, "patience": patience, "evaluate_every": 5, "epochs": 4})
        for tolerance, patience in ((None, 1), (1e9, 1), (1e9, 2), (0.0, 1))
    ]
    runs = assert_population(configs, dataset)
    assert [len(trained.record.epochs) for trained in runs] == [4, 2, 3, 4]
    assert all(math.isfinite((trained.record.result or {})["test_accuracy"]) for trained in runs)


# Around it ------------------------------------------------------------------------------------------------------------


def test_records_are_written(dataset: Dataset, tmp_path: Path):
    """Every run has a record as of its own, which says how many trained together."""
    configs = [run({"name": "sgd", "lr": lr}) for lr in (0.01, 0.02)]
    paths = [tmp_path / "a.jsonl", None]
    runs = train_population(configs, dataset, records=paths, progress=False)
    assert Record.read(tmp_path / "a.jsonl") == runs[0].record
    assert [trained.record.environment["population"] for trained in runs] == [2, 2]


def test_interrupted_population_raises(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After SIGINT the step is finished, records have what was done, and the caller is told."""
    monkeypatch.setattr("optizoo.lab.train.building.build_optimizer", signal_at(1))
    configs = [run({"name": "prodigy"}), run({"name": "sgd", "lr": 0.02})]
    with pytest.raises(KeyboardInterrupt):
        train_population(configs, dataset, records=[tmp_path / "a.jsonl", None], progress=False)
    assert Record.read(tmp_path / "a.jsonl").result is None


def test_population_of_none_and_of_one(dataset: Dataset):
    """No runs give none; one alone is a population too."""
    assert train_population([], dataset) == []
    assert_population([run({"name": "adam"})], dataset)


SGD = run({"name": "sgd"})


@pytest.mark.parametrize(
    ("other", "together"),
    [
        pytest.param(run({"name": "adam"}, seed=3), True, id="optimizer-and-seed"),
        pytest.param(run({"name": "sgd"}, schedule={"name": "cosine"}), True, id="schedule"),
        pytest.param(run({"name": "sgd"}, model={"init": "zeros"}), True, id="init"),
        pytest.param(run({"name": "sgd"}, train={"l2": 1.0, "tolerance": 0.1}), True, id="penalty-and-tolerance"),
        pytest.param(run_config(optimizer={"name": "sgd"}, seed=5), True, id="order-of-its-own-seed"),
        pytest.param(run_config(optimizer={"name": "sgd"}), False, id="order"),
        pytest.param(run({"name": "sgd"}, train={"batch_size": 17}), False, id="batches"),
        pytest.param(run({"name": "sgd"}, train={"epochs": 4}), False, id="epochs"),
        pytest.param(run({"name": "sgd"}, model=TWO), False, id="model"),
        pytest.param(run({"name": "sgd"}, data={"name": "synthetic"}), False, id="data"),
        pytest.param(run({"name": "sgd", "library": "torch"}), False, id="torch"),
        pytest.param(run({"name": "sgd"}, train={"foreach": False}), False, id="bits-of-torch"),
        pytest.param(run({"name": "sgd", "nonfinite": "skip"}), True, id="skips-steps"),
        pytest.param(run({"name": "sgd", "nonfinite": "raise"}), False, id="raises"),
    ],
)
def test_who_trains_together(dataset: Dataset, other: RunConfig, together: bool):
    """Runs train together that see the same batches of the same data with one shape of model."""
    assert populations([SGD, other]) == ([[0, 1]] if together else [[0], [1]])
    if not together:
        with pytest.raises(ValueError, match=r"sort them with optizoo\.lab\.train\.populations"):
            train_population([SGD, other], dataset)


def test_large_populations_are_cut():
    """No population is larger than asked, nor takes more memory than helps."""
    assert [len(group) for group in populations([SGD] * 7, largest=3)] == [3, 3, 1]
    assert [len(group) for group in populations([SGD] * 70)] == [64, 6]
    wide, wider = (run({"name": "sgd"}, model={"name": "two_layer", "hidden": hidden}) for hidden in (2048, 100_000))
    assert [len(group) for group in populations([wide] * 5)] == [4, 1]
    assert [len(group) for group in populations([wider] * 2)] == [1, 1]


def test_what_cannot_be_had_is_told(dataset: Dataset):
    """A schedule that does not fit raises as for one run, with its key."""
    with pytest.raises(ConfigError, match=r"key schedule\.warmup_steps = 12; must be below"):
        train_population([SGD, replace(SGD, schedule=replace(SGD.schedule, warmup_steps=12))], dataset)
