"""Finished records are never lost: what is new is made beside them and replaces them when it is whole."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optizoo import cli
from optizoo.lab import book, compare_folder, experiments
from optizoo.lab import compare as comparing
from optizoo.lab.records import Record
from tests.faults.conftest import Told
from tests.faults.test_folders import comparison, contents  # noqa: F401  (a fixture)
from tests.lab.test_train import signal_at

FORMS = ["lab", "momentum_forms", "--cut-after", "2", "--out", "here", "--no-progress", "--steps"]


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


# Runs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def before(config: Path) -> dict[Path, bytes]:
    """The files of a finished run in ``here``."""
    assert cli.main(["train", str(config), "--out", "here"]) == 0
    return contents(Path("here"))


def kept(before: dict[Path, bytes]) -> bool:
    return before.items() <= contents(Path("here")).items()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--data.name", "cifar10", "--data.root", "nowhere"], id="data"),
        pytest.param(["--schedule.warmup_steps", "99"], id="schedule"),
        pytest.param(["--train.device", "cuda:99"], id="device"),
        pytest.param(["--optimizer.lr", "1e30", "--train.epochs", "50"], id="diverges"),
    ],
)
def test_a_run_begun_anew_that_fails(before: dict[Path, bytes], config: Path, told: Told, options: list[str]):
    """A run that is begun anew and fails, at once or later, costs nothing of the one that was there."""
    told("train", str(config), "--out", "here", "--fresh", *options)
    assert kept(before)


def test_a_run_begun_anew_that_is_interrupted(before: dict[Path, bytes], config: Path, monkeypatch: pytest.MonkeyPatch):
    """An interrupted new run goes on with ``--resume``, and takes the place of the old one when it has ended."""
    anew = ["train", str(config), "--out", "here", "--optimizer.lr", "0.01"]
    with monkeypatch.context() as patch:
        patch.setattr("optizoo.lab.train.building.build_optimizer", signal_at(6))
        assert cli.main([*anew, "--fresh"]) == 130
    assert kept(before)
    assert cli.main([*anew, "--resume"]) == 0
    assert contents(Path("here")).keys() == before.keys()
    record = Record.read("here/record.jsonl")
    assert record.config["optimizer"]["lr"] == 0.01
    assert record.resumes == [6]
    assert cli.main([*anew, "--resume"]) == 0


def test_a_replacement_that_is_interrupted(before: dict[Path, bytes], config: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed while the new run takes the place of the old one, the next command completes that."""
    anew = ["train", str(config), "--out", "here", "--optimizer.lr", "0.01"]
    moved, replace = [], os.replace

    def replaced(source: Path, target: Path) -> None:
        if (Path(source).parent.name, Path(target).parent.name) == (".new", "here"):
            if len(moved) == 2:
                raise KeyboardInterrupt
            moved.append(source)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replaced)
        assert cli.main([*anew, "--fresh"]) == 130
    assert Path("here/record.jsonl").read_bytes() == before[Path("here/record.jsonl")]
    assert cli.main([*anew, "--resume"]) == 0
    assert Record.read("here/record.jsonl").config["optimizer"]["lr"] == 0.01
    assert contents(Path("here")).keys() == before.keys()


def test_a_record_without_its_checkpoint(before: dict[Path, bytes], config: Path, told: Told):
    """Where the checkpoint of a finished run is gone, going on makes the run again beside its record."""
    for path in Path("here").glob("checkpoint*"):
        path.unlink()
    told("train", str(config), "--out", "here", "--resume", "--data.name", "cifar10", "--data.root", "nowhere")
    assert Path("here/record.jsonl").read_bytes() == before[Path("here/record.jsonl")]
    assert cli.main(["train", str(config), "--out", "here", "--resume"]) == 0
    assert contents(Path("here")).keys() == before.keys()


# Comparisons ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unpainted")
def test_a_comparison_begun_anew_that_is_interrupted(
    comparison: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """An interrupted new comparison goes on without ``--fresh``, and replaces the old one when it is whole."""
    assert cli.main(["compare", str(comparison), "--out", "here"]) == 0
    before = contents(Path("here"))
    anew = ["compare", str(comparison), "--out", "here", "--optimizers.0.label", "new", "--seeds", "1", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(comparing, "train", interrupt)
        assert cli.main([*anew, "--fresh"]) == 130
    assert "the same command without --fresh goes on from here" in capsys.readouterr().err
    assert before.items() <= contents(Path("here")).items()
    with monkeypatch.context() as patch:
        patch.setattr(compare_folder, "promote", interrupt)
        assert cli.main(anew) == 130
    assert before.items() <= contents(Path("here")).items()
    assert cli.main(anew) == 0
    assert {path.name for path in Path("here").iterdir()} == {path.relative_to("here").parts[0] for path in before}
    names = {path.name for path in Path("here/cells").iterdir()}
    assert names == {f"new-constant-seed{seed}-{library}.jsonl" for seed in (1, 2) for library in ("optizoo", "torch")}


# Experiments ----------------------------------------------------------------------------------------------------------


def fail(*_: Any) -> Any:
    yield {"form": "outside"}
    raise RuntimeError("a fault")


def stop(*_: Any) -> Any:
    yield {"form": "outside"}
    raise KeyboardInterrupt


@pytest.mark.usefixtures("config", "unpainted")
@pytest.mark.parametrize(("compute", "error"), [(fail, RuntimeError), (stop, None)], ids=["fails", "interrupted"])
def test_an_experiment_that_fails(
    monkeypatch: pytest.MonkeyPatch, compute: Callable[..., Any], error: type[Exception] | None
):
    """An experiment that fails or is interrupted leaves the record that was there, and nothing else."""
    assert cli.main([*FORMS, "6"]) == 0
    before = contents(Path("here"))
    monkeypatch.setattr(experiments.load("momentum_forms"), "compute", compute)
    if error is None:
        assert cli.main([*FORMS, "6"]) == 130
    else:
        with pytest.raises(error, match="a fault"):
            cli.main([*FORMS, "6"])
    assert contents(Path("here")) == before


@pytest.mark.usefixtures("config", "unpainted")
def test_an_experiment_with_other_options():
    """A record of other options is kept under a name of its own; one of the same options is replaced."""
    assert cli.main([*FORMS, "6"]) == 0
    first = Path("here/momentum_forms.jsonl").read_bytes()
    for _ in range(2):
        assert cli.main([*FORMS, "7"]) == 0
        records = sorted(Path("here").glob("*.jsonl"))
        assert len(records) == 2
        assert records[0].read_bytes() == first
        assert Record.read("here/momentum_forms.jsonl").config["options"]["steps"] == 7


@pytest.mark.usefixtures("config", "unpainted")
def test_an_experiment_whose_record_is_damaged(told: Told, monkeypatch: pytest.MonkeyPatch):
    """A record that cannot be read is told before the experiment is run, and left alone."""
    assert cli.main([*FORMS, "6"]) == 0
    Path("here/momentum_forms.jsonl").write_text("mine\n", encoding="utf-8")
    before = contents(Path("here"))
    monkeypatch.setattr(experiments.load("momentum_forms"), "compute", fail)
    assert "here/momentum_forms.jsonl, line 1: is not JSON" in told(*FORMS, "6")
    assert contents(Path("here")) == before


@pytest.mark.usefixtures("config", "unpainted")
def test_two_experiments_in_one_folder():
    """Each experiment has its own page; ``report.html`` is that of the last."""
    assert cli.main([*FORMS, "6"]) == 0
    first = Path("here/momentum_forms.html").read_bytes()
    size = ["--data", "synthetic", "--images", "200", "--batch-size", "50", "--steps", "3", "--no-progress"]
    assert cli.main(["lab", "bias_correction", "--out", "here", *size]) == 0
    assert Path("here/momentum_forms.html").read_bytes() == first
    second = Path("here/bias_correction.html").read_bytes()
    assert Path("here/report.html").read_bytes() == second
    assert first != second


@pytest.mark.usefixtures("config", "unpainted")
def test_all_goes_on_after_an_interruption(monkeypatch: pytest.MonkeyPatch):
    """Interrupted while it begins an experiment, now or by an earlier version, ``lab all`` goes on."""
    monkeypatch.setattr(book, "EXPERIMENTS", ("momentum_forms",))
    with monkeypatch.context() as patch:
        patch.setattr(book.Recorder, "start", interrupt)
        assert cli.main(["lab", "all", "--out", "here", "--no-progress"]) == 130
    assert [path.name for path in Path("here").iterdir()] == [".optizoo"]
    Path("here/momentum_forms.jsonl").touch()
    monkeypatch.setattr(book, "options", lambda name: experiments.load(name).Options(steps=6, cut_after=2))
    assert cli.main(["lab", "all", "--out", "here", "--no-progress"]) == 0
    assert Path("here/book.html").exists()
