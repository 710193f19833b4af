"""Comparisons: the grid, the twins, going on after an interruption, and what is refused."""

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from optizoo.lab import compare as compare_module
from optizoo.lab import pictures
from optizoo.lab.compare import CompareError, CompareResult, cells, compare, largest_difference
from optizoo.lab.config import (
    CompareConfig,
    ConfigError,
    DataConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
    load_compare,
)
from optizoo.lab.data import DataError
from optizoo.lab.folder import FolderError

pytestmark = pytest.mark.usefixtures("unpainted")  # but for those of the whole one

SGD = OptimizerConfig("sgd", lr=0.01)
ADAM = OptimizerConfig("adam", lr=0.001)
NO_TWIN = OptimizerConfig("momentum", lr=0.001, label="velocity", options={"lr_in_velocity": True})
EXPLODING = OptimizerConfig("sgd", lr=10.0, label="exploding", options={"weight_decay": 1e10})


def tiny(**changes: Any) -> CompareConfig:
    config = CompareConfig(
        name="tiny",
        seeds=(0, 1),
        data=DataConfig("synthetic", validation=50, train_size=200, test_size=50),
        train=TrainConfig(epochs=2, batch_size=50, foreach=False, device="cpu"),
        optimizers=(SGD, ADAM, NO_TWIN),
    )
    return replace(config, **changes)


def without_times(rows: Any) -> Any:
    """Return rows with the times taken out, which no two runs share."""
    return json.loads(json.dumps(rows), object_hook=lambda row: {k: v for k, v in row.items() if k != "seconds_mean"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> CompareResult:
    return compare(tiny(), tmp_path_factory.mktemp("whole"), progress=False)


def row_of(result: CompareResult, optimizer: str) -> Any:
    return next(row for row in result.rows if row["optimizer"] == optimizer)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_twin_is_equal(whole: CompareResult, optimizer: str) -> None:
    """On the CPU the loop and torch.optim take the same path: all losses and all final parameters are equal."""
    twin = row_of(whole, optimizer)["twin"]
    assert (twin["pairs"], twin["losses_identical"], twin["max_param_difference"]) == (2, 2, 0.0)
    assert twin["test_accuracies"] == row_of(whole, optimizer)["test_accuracies"]


def test_no_twin(whole: CompareResult) -> None:
    """An optimizer that torch.optim does not have is run alone, and the table says so."""
    assert row_of(whole, "velocity")["twin"] is None
    assert row_of(whole, "velocity")["finished"] == 2
    assert "no twin" in whole.table


def test_twins_can_be_left_out(tmp_path: Path) -> None:
    """With ``twins = false`` every run is alone, and the table has no column for what is not there."""
    result = compare(tiny(twins=False, seeds=(0,)), tmp_path, progress=False)
    assert [row["twin"] for row in result.rows] == [None, None, None]
    assert "torch" not in result.table


def test_no_path_is_kept(tmp_path: Path) -> None:
    """Where the data lie is no part of what is written: the folder can be handed on, and goes on elsewhere."""
    config = tiny(optimizers=(NO_TWIN,), seeds=(0,))
    compare(replace(config, data=replace(config.data, cache="/home/somebody/cache")), tmp_path, progress=False)
    assert not [path for path in tmp_path.rglob("*.*") if b"somebody" in path.read_bytes()]
    assert len(compare(config, tmp_path, progress=False).records) == 1


def test_folder(whole: CompareResult) -> None:
    """The folder holds config, environment, one record a run, table, pictures and page, and no checkpoint."""
    assert {path.name for path in whole.folder.iterdir()} == {
        ".optizoo",
        "cells",
        "config.json",
        "environment.json",
        "report.html",
        "results.jsonl",
        "test_accuracy.png",
        "training_loss.png",
        "validation_accuracy.png",
    }
    expected = {f"{cell.stem}.jsonl" for cell in cells(tiny())}
    assert {path.name for path in (whole.folder / "cells").iterdir()} == expected
    assert len(expected) == len(whole.records) == 10


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``out`` the folder is named after the comparison and the digest of its config, below ``runs``."""
    monkeypatch.chdir(tmp_path)
    config = tiny(optimizers=(NO_TWIN,), seeds=(0,))
    assert compare(config, progress=False).folder == Path("runs") / f"tiny-{compare_module.digest(config)}"


class Interrupting:
    """Stands for ``train`` and is interrupted: in the middle of the epoch that call ``number`` would end first."""

    def __init__(self, number: int) -> None:
        self.number, self.calls = number, 0
        self.train = compare_module.train

    def __call__(self, config: Any, dataset: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls < self.number:
            return self.train(config, dataset, **options)
        options["record"].write_text('{"event": "start", "conf')
        raise KeyboardInterrupt


@pytest.mark.parametrize("number", [1, 2, 9], ids=lambda number: f"in run {number} of 10")
def test_goes_on(whole: CompareResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """An interrupted comparison goes on where it stopped and comes to the very results of one that was not."""
    with monkeypatch.context() as patch:
        patch.setattr(compare_module, "train", Interrupting(number))
        with pytest.raises(KeyboardInterrupt):
            compare(tiny(), tmp_path, progress=False)
    resumed = compare(tiny(), tmp_path, progress=False)
    assert without_times(resumed.rows) == without_times(whole.rows)
    digests = [[record.result["loss_digest"] for record in each.records if record.result] for each in (resumed, whole)]
    assert digests[0] == digests[1]
    assert not list(tmp_path.glob("cells/*.pt*"))


def test_finished_runs_are_read(whole: CompareResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison that is complete is not run again."""
    monkeypatch.setattr(compare_module, "train", Interrupting(1))
    assert compare(tiny(), whole.folder, progress=False).table == whole.table


def test_threads_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison goes on with the threads that it was begun with, and leaves torch's setting as it was."""
    config = tiny(optimizers=(SGD,), seeds=(0,))
    compare(config, tmp_path, progress=False)
    environment = json.loads((tmp_path / "environment.json").read_text())
    before = torch.get_num_threads()
    (tmp_path / "environment.json").write_text(json.dumps({**environment, "threads": before + 1}))
    for path in tmp_path.glob("cells/*"):
        path.unlink()
    records = compare(config, tmp_path, progress=False).records
    assert [record.environment["threads"] for record in records] == [before + 1] * 2
    assert torch.get_num_threads() == before


def test_diverged(tmp_path: Path) -> None:
    """A run that diverges is marked and comes last; the others are run and reported as ever."""
    result = compare(tiny(optimizers=(EXPLODING, SGD)), tmp_path, progress=False)
    assert [row["optimizer"] for row in result.rows] == ["sgd", "exploding"]
    exploded = result.rows[1]
    assert (exploded["finished"], exploded["diverged"], exploded["test_accuracy_mean"]) == (0, 2, None)
    assert "diverged" in result.table.splitlines()[-1]
    assert result.rows[0]["finished"] == 2


def test_other_config_is_refused(tmp_path: Path) -> None:
    """A folder belongs to one config; another is refused, unless it may delete what is there."""
    first, second = tiny(optimizers=(SGD,), seeds=(0,)), tiny(optimizers=(NO_TWIN,), seeds=(0,))
    compare(first, tmp_path, progress=False)
    with pytest.raises(CompareError, match=r"another config.*--out.*--fresh"):
        compare(second, tmp_path, progress=False)
    fresh = compare(second, tmp_path, progress=False, fresh=True)
    assert [row["optimizer"] for row in fresh.rows] == ["velocity"]
    assert [path.name for path in tmp_path.glob("cells/*")] == ["velocity-constant-seed0-optizoo.jsonl"]


@pytest.mark.parametrize("fresh", [False, True])
def test_foreign_folder_is_refused(tmp_path: Path, fresh: bool) -> None:
    """A folder with other files is left alone, even by ``fresh``."""
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "thesis.txt").write_text("years of work")
    with pytest.raises(CompareError, match="holds files but no comparison"):
        compare(tiny(), tmp_path, progress=False, fresh=fresh)
    assert (tmp_path / "cells" / "thesis.txt").exists()


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    """Two comparisons never write into one folder at a time."""
    fcntl = pytest.importorskip("fcntl")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(FolderError, match="another process"):
        compare(tiny(), tmp_path, progress=False)
    os.close(descriptor)
    assert not list(tmp_path.iterdir())


def test_other_data_are_refused(tmp_path: Path) -> None:
    """A comparison does not go on with other data than it was begun with."""
    config = tiny(optimizers=(SGD,), seeds=(0,))
    result = compare(config, tmp_path, progress=False)
    path = tmp_path / "cells" / "sgd-constant-seed0-torch.jsonl"
    path.write_text(path.read_text().replace(result.records[0].dataset["digest"], "0" * 64))
    with pytest.raises(CompareError, match="made with other data"):
        compare(config, tmp_path, progress=False)


@pytest.mark.parametrize(
    ("labels", "schedules"),
    [
        pytest.param(("Adam", "adam"), ("constant",), id="the same in lower case"),
        pytest.param(("adam", "adam-warmup"), ("warmup-constant", "constant"), id="the same when joined"),
    ],
)
def test_file_names_differ(labels: tuple[str, ...], schedules: tuple[str, ...]) -> None:
    """Labels that would give two runs one file name are refused before anything is run."""
    optimizers = tuple(OptimizerConfig("adam", label=label) for label in labels)
    with pytest.raises(CompareError, match="give one of them another label"):
        cells(tiny(optimizers=optimizers, schedules=tuple(ScheduleConfig(label=label) for label in schedules)))


def test_labels_of_any_script_have_files_of_their_own() -> None:
    """Labels that differ only in characters that no file name has are still told apart."""
    labels = ("a b", "a_b", "動量", "亞當")
    optimizers = tuple(OptimizerConfig("adam", label=label) for label in labels)
    stems = {cell.stem for cell in cells(tiny(optimizers=optimizers, seeds=(0,), twins=False))}
    assert len(stems) == len(labels)


def test_schedules_are_checked_before_the_first_run(tmp_path: Path) -> None:
    """A warm-up that is longer than the runs is refused at once, and the message says which it is."""
    schedules = (ScheduleConfig("cosine"), ScheduleConfig("constant", warmup_steps=500))
    with pytest.raises(ConfigError, match=r"schedules\[1\].* must be below the run's 8 steps"):
        compare(tiny(schedules=schedules), tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_twins_are_not_asked_for_by_library() -> None:
    """In a comparison ``library`` has no place: the twins are there already."""
    with pytest.raises(ConfigError, match=r"optimizers\[0\].library = 'torch'; remove it"):
        tiny(optimizers=(OptimizerConfig("sgd", library="torch"),))


@pytest.mark.parametrize("lr", [1e38, 1e300])
def test_a_rate_beyond_the_type_diverges(tmp_path: Path, lr: float) -> None:
    """A rate that float32 cannot hold is recorded as diverged, and the comparison goes on."""
    huge = OptimizerConfig("adam", lr=lr, label="huge")
    result = compare(tiny(optimizers=(huge, SGD), seeds=(0,)), tmp_path, progress=False)
    assert row_of(result, "huge")["diverged"] == 1
    assert row_of(result, "sgd")["finished"] == 1


def test_a_schedule_without_end_diverges(tmp_path: Path) -> None:
    """A schedule whose factor overflows is recorded as diverged, and its picture is drawn as far as it goes."""
    schedules = (ScheduleConfig("constant"), ScheduleConfig("exponential", options={"gamma": 1e200}))
    result = compare(tiny(optimizers=(SGD,), schedules=schedules, seeds=(0,)), tmp_path, progress=False)
    assert [row["diverged"] for row in result.rows] == [0, 1]
    assert (tmp_path / "schedules.png").exists()


def test_a_damaged_environment_is_told(tmp_path: Path) -> None:
    """A file of the folder that was cut is named, with the remedy."""
    config = tiny(optimizers=(SGD,), seeds=(0,))
    compare(config, tmp_path, progress=False)
    (tmp_path / "environment.json").write_text('{"threads": ', encoding="utf-8")
    with pytest.raises(CompareError, match=r"environment.json is damaged .* delete it, or start over with --fresh"):
        compare(config, tmp_path, progress=False)
    (tmp_path / "environment.json").unlink()
    compare(config, tmp_path, progress=False)


def test_starting_over_waits_until_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``fresh`` deletes nothing before the new comparison is whole: it is made in a folder inside."""
    config = tiny(optimizers=(SGD,), seeds=(0,))
    compare(config, tmp_path, progress=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(DataError):
        compare(replace(config, data=DataConfig("cifar10", root=str(tmp_path / "nowhere"))), tmp_path, fresh=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compare_module, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        compare(config, tmp_path, progress=False, fresh=True)
    now = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before.items() <= now.items()
    assert {path.parent for path in now.keys() - before.keys()} == {tmp_path / ".new"}


def test_grid() -> None:
    """The grid is schedules by optimizers by seeds; a run and its twin differ in the library alone."""
    config = tiny(schedules=(ScheduleConfig(), ScheduleConfig("cosine")))
    grid = cells(config)
    assert len(grid) == 2 * (2 + 2 + 1) * 2
    for run, twin in itertools.pairwise(grid):
        if twin.config.optimizer.library == "torch":
            assert replace(twin.config, optimizer=run.config.optimizer) == run.config
    assert all(cell.config.data == config.data and cell.config.train == config.train for cell in grid)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param([1.0, 2.0], [1.0, 2.0], 0.0, id="equal"),
        pytest.param([1.0, 2.0], [1.5, -2.0], 4.0, id="largest"),
        pytest.param([float("nan")], [float("nan")], 0.0, id="NaN in both"),
        pytest.param([float("inf")], [float("inf")], 0.0, id="same infinity"),
        pytest.param([float("inf")], [float("-inf")], None, id="opposite infinities"),
        pytest.param([float("nan")], [0.0], None, id="NaN in one"),
    ],
)
def test_largest_difference(first: list[float], second: list[float], expected: float | None) -> None:
    """The largest absolute difference counts elements that are broken alike as equal, and has no value otherwise."""
    assert largest_difference({"w": torch.tensor(first)}, {"w": torch.tensor(second)}) == expected


CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["quickstart", "cifar10_linear", "cifar10_two_layer", "cifar10_schedules"])
def test_configs_of_the_project(name: str) -> None:
    """Every comparison in ``configs/`` can be read, and its file says under which name it runs."""
    config = load_compare(CONFIGS / f"{name}.toml")
    assert config.name == name
    assert cells(config)
    styles = pictures.styles(optimizer.label for optimizer in config.optimizers)
    assert len({style.colour for style in styles.values()}) == len(config.optimizers)


@pytest.mark.usefixtures("unpainted")
def test_fast_backends_have_loops_beside_them(tmp_path: Path):
    """By default a comparison runs and times the backends that users get; loops beside them prove the bits."""
    config = tiny(seeds=(0,), optimizers=(ADAM, NO_TWIN), train=TrainConfig(epochs=1, batch_size=50, device="cpu"))
    result = compare(config, tmp_path, progress=False)
    adam, alone = (row_of(result, each)["twin"] for each in ("adam", "velocity"))
    assert (adam["proofs"], adam["proofs_identical"], alone) == (1, 1, None)
    assert "loops identical" in result.table
    (event,) = [record.twin for record in result.records if record.twin is not None]
    assert event["loops_steps"] == 4
