"""What is there grows: comparisons by seeds, optimizers, schedules and labels, and runs by epochs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from optizoo.lab import compare as comparing
from optizoo.lab import data, report
from optizoo.lab.checkpoint import load
from optizoo.lab.compare import CompareError, CompareResult, compare
from optizoo.lab.config import CompareConfig, RunConfig, ScheduleConfig, TrainConfig
from optizoo.lab.folder import FolderError
from optizoo.lab.records import Record
from optizoo.lab.run_folder import train_in
from tests.lab.test_compare import ADAM, NO_TWIN, SGD, tiny, without_times
from tests.lab.test_train import assert_same, signal_at

SMALL = tiny(
    optimizers=(SGD,), seeds=(0,), train=TrainConfig(epochs=1, batch_size=50, foreach=False, device="cpu", threads=1)
)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out of reports what costs most of their time."""
    monkeypatch.setattr(report, "_pictures", lambda *_: [])


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels and seeds of what a comparison trains."""
    runs, train = [], comparing.train

    def told(config: RunConfig, *arguments: Any, **options: Any) -> Any:
        section = config.optimizer
        runs.append(f"{section.label}, {config.schedule.label}, {config.seed}, {section.library}")
        return train(config, *arguments, **options)

    monkeypatch.setattr(comparing, "train", told)
    return runs


def run(config: CompareConfig, out: Path | None = None) -> CompareResult:
    return compare(config, out, progress=False)


GROWN = [
    pytest.param({"seeds": (0, 7)}, ["sgd, constant, 7"], id="a seed"),
    pytest.param({"seeds": (7, 0)}, ["sgd, constant, 7"], id="a seed, in front"),
    pytest.param({"optimizers": (ADAM, SGD)}, ["adam, constant, 0"], id="an optimizer"),
    pytest.param({"schedules": (ScheduleConfig(), ScheduleConfig("cosine"))}, ["sgd, cosine, 0"], id="a schedule"),
    pytest.param({"optimizers": (replace(SGD, label="descent"),)}, [], id="a label"),
    pytest.param({"schedules": (ScheduleConfig(label="flat"),)}, [], id="a label of a schedule"),
    pytest.param(
        {"optimizers": (replace(SGD, label="a"), replace(SGD, label="b"))}, ["b, constant, 0"], id="one run twice"
    ),
]


@pytest.mark.parametrize(
    ("changes", "expected", "by_default"),
    [
        pytest.param(*each.values, by_default, id=f"{each.id}, in the {'default' if by_default else 'same'} folder")
        for each in GROWN
        for by_default in (False, True)
        if not by_default or each.id in ("a seed", "a label")
    ],
)
def test_a_comparison_grows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained: list[str],
    changes: dict[str, Any],
    expected: list[str],
    by_default: bool,
):
    """What is finished is kept, and only what is new is run: in one folder, or from the default one to the next."""
    monkeypatch.chdir(tmp_path)
    out = None if by_default else Path("here")
    first = run(SMALL, out)
    before = [record.result for record in first.records]
    trained.clear()
    grown = run(replace(SMALL, **changes), out)
    assert trained == [f"{each}, {library}" for each in expected for library in ("optizoo", "torch")]
    results = [record.result for record in grown.records]
    assert all(result in results for result in before)
    assert len(results) == len(before) + len(trained)
    assert {(row["optimizer"], row["schedule"]) for row in grown.rows} == {
        (optimizer.label, schedule.label)
        for optimizer in changes.get("optimizers", SMALL.optimizers)
        for schedule in changes.get("schedules", SMALL.schedules)
    }
    assert all(row["twin"] is None or row["twin"]["pairs"] == row["finished"] for row in grown.rows)
    trained.clear()
    assert without_times(run(replace(SMALL, **changes), out).rows) == without_times(grown.rows)
    assert not trained
    if by_default:
        assert len(run(SMALL).records) == len(before)
        assert not trained


def test_a_comparison_grows_by_twins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Twins that come later make their runs again, in memory: an interruption costs no record."""
    alone = run(replace(SMALL, twins=False), tmp_path).records[0].result
    with monkeypatch.context() as patch:
        patch.setattr("optizoo.lab.train.building.build_optimizer", signal_at(2))
        with pytest.raises(KeyboardInterrupt):
            run(SMALL, tmp_path)
    assert Record.read(tmp_path / "cells" / "sgd-constant-seed0-optizoo.jsonl").result == alone
    (row,) = run(SMALL, tmp_path).rows
    assert row["twin"] is not None
    assert row["twin"]["pairs"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"seeds": (1,)}, id="another seed"),
        pytest.param({"optimizers": (replace(SGD, lr=0.5), ADAM)}, id="another rate"),
        pytest.param(
            {"train": TrainConfig(epochs=2, batch_size=50, foreach=False, device="cpu"), "seeds": (0, 1)}, id="epochs"
        ),
    ],
)
def test_a_comparison_does_not_shrink(tmp_path: Path, changes: dict[str, Any]):
    """Where a run would be lost, the folder is refused, and stays."""
    run(SMALL, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CompareError, match=r"another config.*--out.*--fresh"):
        run(replace(SMALL, **changes), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_is_taken_over_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]):
    """Runs on other data, or by another version of torch, are not taken over."""
    monkeypatch.chdir(tmp_path)
    folder = run(replace(SMALL, optimizers=(NO_TWIN,))).folder
    for file, old in ((folder / "environment.json", '"torch": "'), (next(folder.glob("cells/*")), '"digest": "')):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(old, f"{old}other"), encoding="utf-8")
        trained.clear()
        config = replace(SMALL, optimizers=(NO_TWIN,), seeds=(0, 5 + len(text)))
        run(config)
        assert len(trained) == 2
        file.write_text(text, encoding="utf-8")
        for other in Path("runs").glob(f"tiny-*/cells/*-seed{5 + len(text)}-*"):
            (other.parents[1] / ".optizoo").unlink()


# Runs -----------------------------------------------------------------------------------------------------------------


def run_config(epochs: int, **changes: Any) -> RunConfig:
    settings = TrainConfig(epochs=epochs, batch_size=50, device="cpu", threads=1)
    return replace(RunConfig(data=SMALL.data, optimizer=ADAM, train=settings), **changes)


DATA = data.load("synthetic", validation=50, train_size=180, test_size=50)


def train_to(epochs: int, folder: Path, *, resume: bool = True, **changes: Any) -> Any:
    return train_in(folder, run_config(epochs, **changes), DATA, resume=resume, progress=False)[0]


@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param(ScheduleConfig(), id="constant"),
        pytest.param(ScheduleConfig("exponential", warmup_steps=2, options={"gamma": 0.9}), id="exponential"),
        pytest.param(ScheduleConfig("cosine", options={"total_steps": 99}), id="cosine over a length of its own"),
    ],
)
def test_a_run_grows(tmp_path: Path, schedule: ScheduleConfig):
    """A finished run that is trained longer is, to the bit, the run that was to be so long from the start."""
    train_to(2, tmp_path / "grown", resume=False, schedule=schedule)
    grown = train_to(5, tmp_path / "grown", schedule=schedule)
    whole = train_to(5, tmp_path / "whole", resume=False, schedule=schedule)
    assert_same(grown.losses, whole.losses)
    assert_same(grown.model.state_dict(), whole.model.state_dict())
    record, other = (Record.read(tmp_path / each / "record.jsonl") for each in ("grown", "whole"))
    assert record.config == other.config
    assert [epoch["train_loss"] for epoch in record.epochs] == [epoch["train_loss"] for epoch in other.epochs]
    assert record.result is not None
    assert record.result["steps"] == 20
    assert json.loads((tmp_path / "grown" / "config.json").read_text()) == record.config
    assert_same(train_to(5, tmp_path / "grown", schedule=schedule).losses, whole.losses)


def test_a_run_that_grows_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An interruption on the longer way costs nothing: the same command goes on, and the shorter run is kept."""
    train_to(2, tmp_path, resume=False)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("optizoo.lab.train.building.build_optimizer", signal_at(3))
        with pytest.raises(KeyboardInterrupt):
            train_to(4, tmp_path)
    assert load(tmp_path / ".new" / "checkpoint.pt")["step"] == 8 + 3
    assert {path: path.read_bytes() for path in before} == before
    assert train_to(2, tmp_path).status == "finished"
    assert train_to(4, tmp_path).record.resumes == [8, 11]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in before}


@pytest.mark.parametrize(
    ("epochs", "changes", "message"),
    [
        pytest.param(4, {"schedule": ScheduleConfig("cosine")}, "schedule 'cosine' spans them all", id="cosine"),
        pytest.param(1, {}, "another config", id="shorter"),
        pytest.param(4, {"seed": 1}, "another config", id="another seed"),
    ],
)
def test_a_run_that_cannot_grow(tmp_path: Path, epochs: int, changes: dict[str, Any], message: str):
    """A schedule that spans the run, fewer epochs and any other change are refused, and nothing changes."""
    train_to(2, tmp_path, resume=False, schedule=changes.get("schedule", ScheduleConfig()))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FolderError, match=message):
        train_to(epochs, tmp_path, **changes)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
