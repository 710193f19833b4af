"""Sweeps: what a config means, which points are tried, what is chosen, and what the report says."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="needs the extra sweep")

from optizoo import cli
from optizoo.lab import data
from optizoo.lab.config import ConfigError, digest, from_dict, to_dict
from optizoo.lab.records import RecordError, frame
from optizoo.lab.sweep import report, worker
from optizoo.lab.sweep.analysis import best_points, summarize
from optizoo.lab.sweep.config import SweepConfig, load_sweep
from optizoo.lab.sweep.spaces import Range, points, suggest
from optizoo.lab.sweep.storage import embedded
from tests.lab.test_sweep_storage import TABLE


def config(*optimizers: Mapping[str, Any], **changes: Any) -> SweepConfig:
    given = {"optimizers": [*optimizers]} if optimizers else {}
    return from_dict(SweepConfig, {**TABLE, **given, **changes})


# Configs and spaces ---------------------------------------------------------------------------------------------------


def test_ranges_stand_where_values_do():
    """Rates, options, parts of lists and options of schedules can be searched; the rest stays as it is."""
    adam = {"name": "adam", "lr": {"log_uniform": [1e-4, 1e-2]}, "betas": [0.9, {"uniform": [0.9, 0.999]}], "eps": 1e-6}
    sweep = config(adam, schedule={"name": "cosine", "warmup_steps": {"integers": [0, 3]}})
    (optimizer,) = sweep.optimizers
    for point in sweep.points(optimizer):
        run = sweep.run(optimizer, point, seed=7)
        assert sorted(point) == ["betas[1]", "lr", "schedule.warmup_steps"]
        assert 1e-4 <= run.optimizer.lr <= 1e-2
        assert run.optimizer.options == {"betas": (0.9, point["betas[1]"]), "eps": 1e-6}
        assert (run.schedule.name, run.schedule.warmup_steps) == ("cosine", point["schedule.warmup_steps"])
        assert (run.seed, run.order_seed) == (7, 7)  # all optimizers of a seed see the same batches


def test_config_reads_as_written():
    """What ``to_dict`` writes reads back, with the same digest; paths make no difference to it."""
    sweep = config()
    assert from_dict(SweepConfig, json.loads(json.dumps(to_dict(sweep)))) == sweep
    assert digest(replace(sweep, data=replace(sweep.data, root="/elsewhere"))) == digest(sweep)


MISTAKES = [
    pytest.param(
        {"lr": {"log_uniform": [0, 1]}}, "optimizers[0].lr = { log_uniform = [0, 1] }; must be above", id="log-0"
    ),
    pytest.param({"lr": {"uniform": [1, 0]}}, "must be two numbers, the smaller first", id="reversed"),
    pytest.param({"lr": {"uniform": [0.1, math.inf]}}, "must be two numbers", id="infinite"),
    pytest.param({"lr": {"integers": [0, 1.5]}}, "must be two integers", id="fraction"),
    pytest.param({"lr": {"choices": []}}, "must be a list of values", id="no-choice"),
    pytest.param({"lr": {"grid": [1, 1]}}, "must be a list of different values", id="twice"),
    pytest.param({"lr": {"loguniform": [1, 2]}}, "is no range: did you mean 'log_uniform'?", id="misspelled"),
    pytest.param({"momentum": {"uniform": [0, 2]}}, "momentum must be from 0 to 1", id="beyond-the-option"),
    pytest.param({"momentun": 0.9}, "did you mean 'momentum'?", id="option"),
    pytest.param({"name": "adm"}, "did you mean 'adam'?", id="optimizer"),
    pytest.param({"schedule": {"name": "cosin"}}, "key optimizers[0].schedule cannot be built", id="own-schedule"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_mistaken_spaces_are_told(options: dict[str, Any], message: str):
    """A space that is none, or that leaves what the optimizer takes, is told before anything is trained."""
    with pytest.raises(ConfigError) as caught:
        config({"name": "sgd", **options})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"schedule": {"name": "cosin"}}, "key schedule cannot be built", id="schedule"),
        pytest.param({"baseline": "adm"}, "key baseline = 'adm'; must be one of sgd, adam", id="baseline"),
        pytest.param({"trials": None}, "key trials is left out; give", id="no-budget"),
        pytest.param({"seeds": [0]}, "key seeds is unknown", id="key-of-compare"),
        pytest.param({"data": {"validation": 0}}, "key data.validation = 0; what is tuned", id="no-validation"),
        pytest.param({"tuning_seeds": [2**32 - 1]}, "leaves no room for new seeds", id="last-seed"),
        pytest.param({"sampler": "grid"}, "must be 'quasi' or 'tpe'", id="sampler"),
    ],
)
def test_mistaken_sweeps_are_told(changes: dict[str, Any], message: str):
    """So are mistakes in what all optimizers share."""
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    assert message in str(caught.value)


def test_grids_are_walked_and_have_equal_budgets():
    """Every cell of a grid is tried as often as every other; a budget that does not allow that is refused."""
    grid = {"name": "sgd", "lr": {"grid": [0.1, 0.2]}, "momentum": {"grid": [0.0, 0.9]}}
    sweep = config(grid, trials=None)
    assert sweep.budget == 4
    assert [tuple(point.values()) for point in sweep.points(sweep.optimizers[0])] == [
        (0.1, 0.0), (0.1, 0.9), (0.2, 0.0), (0.2, 0.9)
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="key trials = 6; must be a multiple of the 4 cells of the grid of 'sgd'"):
        config(grid, trials=6)


def test_points_fill_the_space_and_are_a_function_of_the_seed():
    """Of 16 points one lies in each sixteenth of a range, whoever asks; another seed gives others."""
    spaces = {"lr": Range("log_uniform", (1e-4, 1.0)), "wd": Range("uniform", (0.0, 1.0))}
    found = points(spaces, 16, seed=0, label="sgd")
    assert found == points(spaces, 16, seed=0, label="sgd")
    assert found != points(spaces, 16, seed=1, label="sgd") != points(spaces, 16, seed=0, label="adam")
    assert sorted(int(16 * point["wd"]) for point in found) == [*range(16)]
    assert sorted(int(16 * (math.log10(point["lr"]) + 4) / 4) for point in found) == [*range(16)]


def test_estimators_go_where_it_was_good():
    """The other sampler draws near the points that were good, and takes lists as choices."""
    spaces = {"lr": Range("log_uniform", (1e-4, 1.0)), "betas": Range("choices", ((0.9, 0.99), (0.9, 0.999)))}
    tried = [(point, -abs(math.log10(point["lr"]) + 2)) for point in points(spaces, 32, seed=0, label="adam")]
    drawn = [suggest(spaces, tried, seed=seed) for seed in range(8)]
    assert sum(1e-3 < point["lr"] < 1e-1 for point in drawn) >= 6
    assert all(point["betas"] in spaces["betas"].values for point in drawn)


# What is chosen -------------------------------------------------------------------------------------------------------


def trial(label: str, index: int, seed: int, validation: float | None, **changes: Any) -> dict[str, Any]:
    status = "diverged" if validation is None else "finished"
    result = {"status": status, "validation_accuracy": validation, "test_accuracy": changes.pop("test", validation)}
    row = {"phase": "tuning", "optimizer": label, "index": index, "seed": seed, "point": {"lr": 10.0**-index}}
    return {**row, "epochs": [], "result": result, **changes}


def test_the_best_mean_on_validation_is_chosen():
    """What counts is the mean over tuning seeds; a run that diverged is the worst, and of equals the first is taken."""
    sweep = config({"name": "sgd", "lr": {"log_uniform": [1e-4, 1.0]}}, tuning_seeds=[0, 1])
    values = [(0.9, None), (0.4, 0.6), (0.55, 0.45), (0.1, 0.2)]
    trials = [trial("sgd", index, seed, value) for index, pair in enumerate(values) for seed, value in enumerate(pair)]
    assert best_points(sweep, trials[::-1]) == {"sgd": (1, {"lr": 0.1})}


def test_summary_counts_to_the_target_and_flags_edges():
    """The target is the median end of the baseline's reruns; a best value at the end of its range is flagged."""
    sweep = config({"name": "sgd", "lr": {"log_uniform": [1e-3, 1.0]}}, reruns=3)
    trials = [trial("sgd", index, 0, value) for index, value in enumerate([0.5, 0.4, None, 0.2])]
    epochs = [{"epoch": n, "step": 4 * n, "validation_accuracy": 0.1 * n} for n in range(1, 6)]
    for seed, end in enumerate([0.3, 0.4, 0.5], start=1):
        about = {"phase": "rerun", "epochs": epochs[: round(10 * end)], "dataset": {"train": 200}, "step_seconds": 0.5}
        trials.append(trial("sgd", 0, seed, end, **about))
    found = summarize(sweep, trials)
    tuned = found.tuned["sgd"]
    assert (found.target, tuned.reached) == (0.4, 2)
    assert (tuned.steps, tuned.images, tuned.seconds) == (16, 800, 8)
    assert tuned.edges == {"lr": "upper"}
    assert [value for _, value in tuned.tried] == [0.5, 0.4, None, 0.2]
    assert tuned.best_of == pytest.approx([0.275, 2.5 / 6, 0.475, 0.5])
    assert "sgd: the best lr = 1 lies at the upper end of its range: widen it." in report.findings(found)


# From end to end ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny sweep, made by the command."""
    folder = tmp_path_factory.mktemp("swept")
    file = folder / "tiny.toml"
    lines = [
        'name = "tiny"', "trials = 4", "reruns = 2", "population = 3",
        "[data]", 'name = "synthetic"', "validation = 50", "train_size = 200", "test_size = 50",
        "[train]", "epochs = 2", "batch_size = 50", 'device = "cpu"', "threads = 1",
        "[[optimizers]]", 'name = "sgd"', "lr = { log_uniform = [0.001, 0.1] }",
        "[[optimizers]]", 'name = "adam"', "lr = { log_uniform = [0.0001, 0.01] }",
    ]  # fmt: skip
    file.write_text("\n".join(lines), encoding="utf-8")
    assert cli.main(["sweep", str(file), "--out", str(folder / "out"), "--no-progress"]) == 0
    return folder / "out"


def test_sweep_trains_every_point_and_reruns_the_best(swept: Path):
    """Every optimizer has its budget; its best point alone runs again, from seeds that did not tune it."""
    table: Any = frame(swept)
    tuning, reruns = (table[table["phase"] == phase] for phase in ("tuning", "rerun"))
    assert tuning.groupby("optimizer")["index"].apply(list).to_dict() == {"adam": [0, 1, 2, 3], "sgd": [0, 1, 2, 3]}
    assert sorted(reruns["seed"]) == [1, 1, 2, 2]
    assert (reruns[reruns["seed"] == 1]["step_seconds"] > 0).all()
    for label, chosen in zip(reruns["optimizer"], reruns["index"], strict=True):
        values = tuning[tuning["optimizer"] == label].set_index("index")["result.validation_accuracy"]
        assert chosen == values.idxmax()  # the first of equals


def test_test_images_are_seen_once(swept: Path):
    """Who tunes has no test images; the winners see them at their end, and no earlier."""
    for line in (swept / "trials.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        seen = [epoch["test_accuracy"] for epoch in run["epochs"] if epoch["test_accuracy"] is not None]
        assert len(seen) == (run["phase"] == "rerun")
        assert (run["result"]["test_accuracy"] is None) is (run["phase"] == "tuning")


def test_a_finished_sweep_is_read(swept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The same command again trains nothing, and prints the same leaderboard."""
    monkeypatch.setattr(worker, "_train_all", lambda *_: pytest.fail("trains again"))
    assert cli.main(["sweep", str(swept.parent / "tiny.toml"), "--out", str(swept), "--no-progress"]) == 0
    assert capsys.readouterr().out.startswith((swept / "leaderboard.txt").read_text(encoding="utf-8"))


def test_report_says_what_there_is_to_know(swept: Path):
    """The page has the leaderboard, the verdict, three pictures, all trials, and needs no other file."""
    page = (swept / "report.html").read_text(encoding="utf-8")
    summary = report.read(swept)
    for text in (*report.findings(summary), "behind the best (points)", "What a budget buys", "All 12 runs"):
        assert text.replace("'", "&#39;") in page
    assert page.count("<figure>") == 3
    assert "<script" not in page


def test_folder_of_something_else_is_left_alone(swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A folder with somebody's files, and one with another sweep, are refused by name; nothing is written."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    file = str(swept.parent / "tiny.toml")
    for arguments, message in (
        ([file, "--out", str(tmp_path)], "holds files but no sweep"),
        ([file, "--out", str(swept), "--trials", "8"], "holds a sweep with another config"),
    ):
        assert cli.main(["sweep", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_sweep_by_estimators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the other sampler every optimizer has its budget too, and a worker goes on where one stopped."""
    sweep = config(sampler="tpe", reruns=1)
    images = data.load("synthetic", validation=50, train_size=200, test_size=50)
    train_all, calls = worker._train_all, iter(range(3))

    def interrupted(*arguments: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return train_all(*arguments)

    monkeypatch.setattr(worker, "_train_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.work(sweep, images, embedded(tmp_path), progress=False)
    monkeypatch.undo()
    trials = worker.work(sweep, images, embedded(tmp_path), progress=False)
    tuned = [(run["optimizer"], run["index"]) for run in trials if run["phase"] == "tuning"]
    assert sorted(tuned) == [(label, index) for label in ("adam", "sgd") for index in range(4)]
    assert len({json.dumps(run["point"]) for run in trials if run["phase"] == "tuning"}) == 8


def test_missing_trials_are_told(swept: Path, tmp_path: Path):
    """A folder whose trials were deleted says so."""
    (tmp_path / "config.json").write_bytes((swept / "config.json").read_bytes())
    with pytest.raises(RecordError, match=r"trials\.jsonl: cannot be read .*run the sweep again"):
        report.read(tmp_path)


@pytest.mark.parametrize("name", ["sweep_quickstart", "cifar10_linear_sweep", "cifar10_two_layer_sweep"])
def test_shipped_sweeps_are_valid(name: str):
    """Every shipped sweep is one, and fair: one budget, its points all can be built."""
    sweep = load_sweep(Path(__file__).parents[2] / "configs" / f"{name}.toml")
    for optimizer in sweep.optimizers:
        for point in sweep.points(optimizer):
            sweep.run(optimizer, point, seed=0)
