"""Reports and pictures, made from records that are written here by hand."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from optizoo.lab import pictures, report
from optizoo.lab.config import (
    CompareConfig,
    ConfigError,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
    to_dict,
)
from optizoo.lab.pictures import Curve, Dots
from optizoo.lab.records import Recorder

ENVIRONMENT = {"torch": "2.13.0", "cpu": "an abacus", "threads": 1, "git": None, "date": "2020-02-29T12:00:00+00:00"}
DATASET = {"name": "cifar10", "source": "image folder", "digest": "ab" * 32, "train": 100, "validation": 10, "test": 10}


def config(*labels: str, **changes: Any) -> CompareConfig:
    return CompareConfig(
        name="handmade",
        seeds=changes.pop("seeds", (0, 1)),
        train=TrainConfig(epochs=3, batch_size=50),
        optimizers=changes.pop("optimizers", tuple(OptimizerConfig("adam", label=label) for label in labels)),
        **changes,
    )


def prepare(folder: Path, comparison: CompareConfig) -> None:
    (folder / "cells").mkdir()
    (folder / report.CONFIG).write_text(json.dumps(to_dict(comparison)))


def add_run(
    folder: Path,
    comparison: CompareConfig,
    label: str,
    seed: int,
    *,
    library: str = "optizoo",
    losses: Sequence[float] = (2.0, 1.5, 1.25),
    accuracy: float | None = 0.5,
    status: str | None = "finished",
    twin: tuple[float | None, bool] | None = None,
    environment: dict[str, Any] = ENVIRONMENT,
) -> None:
    """Write the record of one run: an epoch for each loss, then the result, if there is a status."""
    table = to_dict(comparison)
    optimizer = next(each for each in table["optimizers"] if each["label"] == label)
    run = {"seed": seed, "optimizer": {**optimizer, "library": library}, "schedule": table["schedules"][0]}
    recorder = Recorder(folder / "cells" / f"{label.encode().hex()}-{seed}-{library}.jsonl")
    recorder.start(run, environment, DATASET)
    for epoch, loss in enumerate(losses, start=1):
        recorder.epoch(epoch=epoch, step=2 * epoch, train_loss=loss, validation_accuracy=0.1 * epoch)
    if status:
        recorder.result(status=status, steps=6, final_loss=losses[-1], test_accuracy=accuracy, seconds=2.0)
    if twin:
        recorder.add({"event": "twin", "max_param_difference": twin[0], "losses_identical": twin[1]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A comparison: ``good`` with equal twins, ``other`` with one that is not, ``bad`` diverged for one seed."""
    comparison = config("bad", "good", "other")
    prepare(tmp_path, comparison)
    for label, accuracies, twins in (
        ("bad", (0.25, None), ((0.0, True), (None, True))),
        ("good", (0.5, 0.75), ((0.0, True), (0.0, True))),
        ("other", (0.5, 0.5), ((0.0, True), (0.001, False))),
    ):
        for seed, (accuracy, twin) in enumerate(zip(accuracies, twins, strict=True)):
            status = "diverged" if accuracy is None else "finished"
            losses = (2.0, 3.0, float("nan")) if accuracy is None else (2.0, 1.5, 1.25)
            values: dict[str, Any] = {"accuracy": accuracy, "status": status, "losses": losses}
            add_run(tmp_path, comparison, label, seed, twin=twin, **values)
            add_run(tmp_path, comparison, label, seed, library="torch", **values)
    return tmp_path


def test_rows(folder: Path) -> None:
    """Rows hold mean and sample standard deviation of the runs that finished, the best first."""
    rows = report.summarize(*report.read(folder))
    assert [row["optimizer"] for row in rows] == ["good", "other", "bad"]
    good, other, bad = rows
    assert (good["test_accuracy_mean"], good["test_accuracies"]) == (0.625, [0.5, 0.75])
    assert good["test_accuracy_std"] == pytest.approx(0.125 * 2**0.5, rel=1e-15)
    assert (good["final_loss_mean"], good["seconds_mean"]) == (1.25, 2.0)
    assert (bad["finished"], bad["diverged"], bad["test_accuracy_mean"], bad["test_accuracy_std"]) == (1, 1, 0.25, None)
    assert good["twin"] is not None
    assert other["twin"] is not None
    assert (good["twin"]["pairs"], good["twin"]["losses_identical"], good["twin"]["max_param_difference"]) == (2, 2, 0)
    assert (other["twin"]["losses_identical"], other["twin"]["max_param_difference"]) == (1, 0.001)


def test_table(folder: Path) -> None:
    """The table says at a glance what happened; a schedule that all share has no column."""
    header, rule, *rows = report.format_table(report.summarize(*report.read(folder))).splitlines()
    assert header.split("  ")[0] == "optimizer"
    assert "schedule" not in header
    assert [re.split(" {2,}", row) for row in rows] == [
        ["good", "62.50 ± 17.68 (2)", "a", "1.2500", "2.0", "62.50 ± 17.68 (2)", "2.0", "0", "yes"],
        ["other", "50.00 ± 0.00 (2)", "a", "1.2500", "2.0", "50.00 ± 0.00 (2)", "2.0", "1.0e-03", "1 of 2"],
        ["bad", "25.00 (1), 1 diverged", "–", "1.2500", "2.0", "25.00 (1), 1 diverged", "2.0", "not finite", "yes"],
    ]
    assert {len(line) for line in (header, *rows)} == {len(rule)}


def test_page_stands_alone(folder: Path) -> None:
    """The page needs no other file, no network and no script: all pictures are in it, light and dark."""
    page = report.write(folder).read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|srcset|href)="([^"]*)"', page)
    assert len(sources) == 2 * 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "<script" not in page
    assert "@import" not in page
    assert "5 of 6 runs have, at every step, bit for bit the loss of their torch.optim twin." in page
    assert "good and other cannot be told apart at the top" in page
    assert "Diverged at least once: bad." in page


def test_report_can_be_made_again(folder: Path) -> None:
    """From the same records the same report is made, byte for byte."""
    report.write(folder)
    first = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    report.write(folder)
    assert first == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    rows = [json.loads(line) for line in first["results.jsonl"].splitlines()]
    assert rows == report.summarize(*report.read(folder))
    assert all(len(content) < 150_000 for name, content in first.items() if name.endswith(".png"))


@pytest.mark.usefixtures("unpainted")
def test_unfinished(tmp_path: Path) -> None:
    """A report can be made on the way; it says how many runs are missing."""
    comparison = config("adam")
    prepare(tmp_path, comparison)
    assert "0 of 4 runs are finished" in report.write(tmp_path).read_text(encoding="utf-8")
    add_run(tmp_path, comparison, "adam", 0)
    add_run(tmp_path, comparison, "adam", 0, library="torch", status=None)
    assert "1 of 4 runs are finished" in report.write(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize("label", ["<b>bold", "$x_1$ & co", "_hidden", "x" * 60])
def test_labels_are_text(tmp_path: Path, label: str) -> None:
    """A label is shown as it is written, and never read as HTML or as mathematics."""
    comparison = config(label, seeds=(0,))
    prepare(tmp_path, comparison)
    add_run(tmp_path, comparison, label, 0)
    page = report.write(tmp_path).read_text(encoding="utf-8")
    assert "<b>" not in page
    assert label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in page


@pytest.mark.usefixtures("unpainted")
def test_schedules_have_a_picture(tmp_path: Path) -> None:
    """Where there are several schedules they are drawn, and the table names them."""
    comparison = config("adam", schedules=(ScheduleConfig(), ScheduleConfig("cosine", warmup_steps=2)))
    prepare(tmp_path, comparison)
    add_run(tmp_path, comparison, "adam", 0)
    report.write(tmp_path)
    assert (tmp_path / "schedules.png").exists()
    assert "warmup-cosine" in report.format_table(report.summarize(*report.read(tmp_path)))


@pytest.mark.usefixtures("unpainted")
def test_environments(tmp_path: Path) -> None:
    """Runs of one machine share one environment, whatever their date; those of another are told apart."""
    comparison = config("adam")
    prepare(tmp_path, comparison)
    add_run(tmp_path, comparison, "adam", 0)
    add_run(tmp_path, comparison, "adam", 0, library="torch", environment={**ENVIRONMENT, "date": "2020-03-01"})
    assert "environments;" not in report.write(tmp_path).read_text(encoding="utf-8")
    add_run(tmp_path, comparison, "adam", 1, environment={**ENVIRONMENT, "cpu": "a slide rule"})
    page = report.write(tmp_path).read_text(encoding="utf-8")
    assert "The runs were made in 2 environments" in page
    assert "an abacus" in page
    assert "a slide rule" in page


def test_no_comparison(tmp_path: Path) -> None:
    """A folder without a comparison is an error that names what is missing."""
    with pytest.raises(ConfigError, match=r"config\.json"):
        report.write(tmp_path)


STYLES = pictures.styles(["sgd", "adam"])


def lines_of(figure: Figure) -> list[Any]:
    return [line for axis in figure.axes for line in axis.get_lines()]


def test_one_colour_for_each_optimizer() -> None:
    """An optimizer has one colour in every panel, and its twin has the same, dashed and on top."""
    panels = [
        Curve(label, panel, (1, 2), ((2.0, 1.0), (2.5, 1.5)), twin=twin)
        for label in STYLES
        for panel in ("constant", "cosine")
        for twin in (False, True)
    ]
    figure = pictures.curves(panels, ylabel="loss", styles=STYLES)
    assert len(figure.axes) == 2
    assert {line.get_color() for line in lines_of(figure)} == {style.colour for style in STYLES.values()}
    solid, dashed = ([line for line in lines_of(figure) if line.is_dashed() is dashed] for dashed in (False, True))
    assert [line.get_color() for line in dashed] == ["#0072b2", "#d55e00"] * 2
    assert min(line.get_zorder() for line in dashed) > min(line.get_zorder() for line in solid)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 9])
def test_a_panel_for_each_schedule(count: int) -> None:
    """Each schedule has its panel, in the given order, and no empty one is left over."""
    names = [f"schedule {index}" for index in reversed(range(count))]
    figure = pictures.curves([Curve("sgd", name, (1, 2), ((2.0, 1.0),)) for name in names], ylabel="x", styles=STYLES)
    assert [axis.get_title(loc="left") for axis in figure.axes] == (names if count > 1 else [""])


def test_colours_and_markers_are_told_apart() -> None:
    """More optimizers than colours still differ, by their markers."""
    styles = pictures.styles(f"optimizer {index}" for index in range(42))
    assert len(set(styles.values())) == 42


def test_divergence_does_not_flatten_the_others() -> None:
    """The scale follows the curves that reach the end; a curve ends where it is no longer finite."""
    good = Curve("adam", "constant", (1, 2, 3), ((2.0, 1.5, 1.2),))
    bad = Curve("sgd", "constant", (1, 2, 3), ((2.0, 1e30, float("inf")),))
    figure = pictures.curves([good, bad], ylabel="loss", styles=STYLES)
    assert figure.axes[0].get_ylim()[1] < 3
    drawn = {line.get_color(): len(line.get_xdata()) for line in lines_of(figure)}
    assert drawn == {STYLES["adam"].colour: 3, STYLES["sgd"].colour: 2}


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        pytest.param((2.0, 1.0, 0.5), "linear", id="a factor of four"),
        pytest.param((2.0, 0.1, 0.01), "log", id="a factor of two hundred"),
        pytest.param((2.0, 1.0, 0.0), "linear", id="down to zero"),
        pytest.param((1.0, 1.0, 1.0), "linear", id="constant"),
    ],
)
def test_scale(losses: tuple[float, ...], scale: str) -> None:
    """Losses are drawn on a logarithmic axis where they span decades."""
    figure = pictures.curves([Curve("sgd", "constant", (1, 2, 3), (losses,))], ylabel="loss", styles=STYLES)
    assert figure.axes[0].get_yscale() == scale


def test_axes_have_names() -> None:
    """Every picture says what its axes are, with the unit."""
    curve = Curve("sgd", "constant", (1, 2), ((0.1, 0.2),))
    figure = pictures.curves([curve], ylabel="accuracy (%)", styles=STYLES, percent=True)
    assert (figure.axes[0].get_xlabel(), figure.get_supylabel()) == ("epoch", "accuracy (%)")
    figure = pictures.accuracies([Dots("sgd", "sgd", (0.4, 0.5))], styles=STYLES)
    assert figure.axes[0].get_xlabel() == "test accuracy (%)"
    figure = pictures.schedules({"constant": [1.0, 1.0]})
    assert (figure.axes[0].get_xlabel(), figure.get_supylabel()) == ("step", "factor of the base lr")


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda: pictures.curves([], ylabel="loss", styles=STYLES), id="curves"),
        pytest.param(lambda: pictures.accuracies([], styles=STYLES), id="accuracies"),
        pytest.param(lambda: pictures.schedules({}), id="schedules"),
    ],
)
def test_nothing_to_draw(draw: Any) -> None:
    """A picture of nothing is an error, not an empty file."""
    with pytest.raises(ValueError, match="nothing to draw"):
        draw()


def test_themes_differ_in_paper_only() -> None:
    """A dark picture has the same colours for the optimizers on other paper."""
    curve = Curve("sgd", "constant", (1, 2), ((0.1, 0.2),))
    light, dark = (
        pictures.curves([curve], ylabel="x", styles=STYLES, theme=t) for t in (pictures.LIGHT, pictures.DARK)
    )
    assert light.get_facecolor() != dark.get_facecolor()
    assert [line.get_color() for line in lines_of(light)] == [line.get_color() for line in lines_of(dark)]
