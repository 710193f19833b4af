"""What every experiment, its page, and the book promise. The numbers of each have their tests in ``experiments/``."""

import argparse
import base64
import dataclasses
import io
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

import optizoo
from optizoo import cli
from optizoo.lab import book, experiments, pictures, plots, running
from optizoo.lab.data import DataError
from optizoo.lab.experiments import EXPERIMENTS, ExperimentError
from optizoo.lab.page import Headline, line_table, silent
from optizoo.lab.plots import Bar, Line, Mark
from optizoo.lab.records import Record
from optizoo.lab.train import train
from tests.lab.experiments import tiny

TINY = {"steps": 6, "cut_after": 2}  # of momentum_forms, which stands here for all of them
VOID = {"meta", "img", "source", "br", "link", "hr", "input"}


class Elements(HTMLParser):
    """Reads a page into (tag, attributes), and holds that what is opened is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("once")
    book.run("momentum_forms", folder, progress=False, **TINY)
    return folder


@pytest.fixture
def ran(once: Path, tmp_path: Path) -> Path:
    """A folder in which momentum_forms was run."""
    return Path(shutil.copytree(once, tmp_path / "ran"))


@pytest.fixture
def no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIZOO_DATA", str(tmp_path / "nowhere"))


# Every experiment -----------------------------------------------------------------------------------------------------


def test_registry_and_folder_agree():
    """The registry names every module of the folder, each once, and nothing else."""
    modules = [module.name for module in pkgutil.iter_modules(experiments.__path__)]
    assert sorted(EXPERIMENTS) == sorted(modules)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_parts(name: str):
    """A module has title, idea, equations and the lecture's claim, options with help, and says if it needs data."""
    module = experiments.load(name)
    title, *paragraphs = re.split(r"\n\s*\n", experiments.docstring(name))
    assert re.fullmatch(r"[^\n]{10,100}", title)
    assert any(re.match(r"\w", paragraph) for paragraph in paragraphs[:-1]), "no idea"
    assert any(paragraph.startswith("    ") for paragraph in paragraphs), "no equation"
    assert paragraphs[-1].startswith("The lecture: ")
    assert isinstance(module.NEEDS_DATA, bool)
    assert dataclasses.is_dataclass(module.Options)
    assert module.Options.__dataclass_params__.frozen  # type: ignore[attr-defined]
    known = dataclasses.fields(module.Options)
    assert all(option.metadata["help"] for option in known)
    assert any(option.name == "data" for option in known) == module.NEEDS_DATA
    parser = argparse.ArgumentParser()
    assert book.add_flags(parser, name) == [option.name for option in known]
    assert module.Options(**vars(parser.parse_args([]))) == book.options(name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_page(name: str):
    """A page is a function of the rows: it leaves them alone, and has what a reader needs, in words that are filled."""
    rows = tiny(name)
    page, again = experiments.load(name).page(rows), experiments.load(name).page(rows)
    assert rows == tiny(name)
    assert (page.headline, page.seen) == (again.headline, again.seen)
    assert page.equations
    assert 1 <= len(page.seen) <= 3
    assert page.pictures
    assert len({picture.name for picture in page.pictures}) == len(page.pictures)
    for text in (*page.seen, page.headline.number, page.headline.what, page.headline.claim):
        assert text.strip()
        assert not re.search(r"\b(nan|None|inf)\b", text)
    for picture in page.pictures:
        assert re.fullmatch(r"\w+", picture.name)
        assert picture.title
        assert picture.caption
        assert len(picture.alt) > 40
        assert picture.alt != picture.caption
        assert picture.table.rows
        assert {len(row) for row in picture.table.rows} == {len(picture.table.columns)}
        figure = picture.draw(pictures.LIGHT)
        named = [axis for axis in figure.axes if axis.get_xlabel() or not axis.axison]
        assert named, f"{picture.name} has axes without names"


# Folders and pages ----------------------------------------------------------------------------------------------------


def test_a_run_leaves_records_pictures_and_a_page(ran: Path):
    """A run writes its record, PNG and SVG of each picture, and a page."""
    names = ["momentum_forms-distance", "momentum_forms-weights"]
    drawn = [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    expected = [".optizoo", *drawn, "momentum_forms.html", "momentum_forms.jsonl", "report.html"]
    assert sorted(path.name for path in ran.iterdir()) == expected
    record = Record.read(ran / "momentum_forms.jsonl")
    assert record.config["options"]["steps"] == 6
    assert record.result is not None
    assert len(record.others) == 6
    assert all(path.stat().st_size < 100_000 for path in ran.iterdir() if path.suffix in (".png", ".svg"))


def test_pages_are_made_again_from_records_alone(ran: Path, monkeypatch: pytest.MonkeyPatch):
    """From the same records the same pictures and page are made, byte for byte, and nothing is run."""
    first = {path.name: path.read_bytes() for path in ran.iterdir()}
    for path in ran.iterdir():
        if path.suffix in (".html", ".png", ".svg"):
            path.unlink()
    monkeypatch.setattr(experiments.load("momentum_forms"), "compute", None)
    book.write_report("momentum_forms", ran)
    assert first == {path.name: path.read_bytes() for path in ran.iterdir()}


@pytest.mark.usefixtures("unpainted")
def test_pages_say_what_the_records_say(ran: Path):
    """Doctored records turn the verdict on the page."""
    file = ran / "momentum_forms.jsonl"
    assert "did not hold" in book.write_report("momentum_forms", ran).read_text()
    events = [json.loads(line) for line in file.read_text().splitlines()]
    for event in events:
        if "weights" in event:
            event["weights"] = events[1]["weights"]
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert "did not hold" not in book.write_report("momentum_forms", ran).read_text()


def test_pictures_that_move(ran: Path, monkeypatch: pytest.MonkeyPatch):
    """The animation of a picture is a file, and the page holds it; the same frames give the same bytes."""
    module = experiments.load("momentum_forms")
    still = module.page
    path = [Line("sgd", (0, 1, 2, 1, 0), (0.0, 1.0, 0.5, 0.2, 0.4))]

    def frames(theme: pictures.Theme):
        map_ = plots.contours([0, 2], [0, 1], [[0, 1], [1, 2]], paths=path, xlabel="x", ylabel="y", unit="f")
        return plots.growing(map_, path, frames=3)

    def moving(rows: list[dict[str, Any]]) -> Any:
        page = still(rows)
        return dataclasses.replace(page, pictures=[dataclasses.replace(page.pictures[0], frames=frames)])

    monkeypatch.setattr(module, "page", moving)
    text = book.write_report("momentum_forms", ran).read_text(encoding="utf-8")
    animation = (ran / "momentum_forms-weights.gif").read_bytes()
    assert [image["src"] for image in Elements(text).of("img")][1] == pictures_url(animation)
    assert animation == pictures.gif(frames(pictures.LIGHT))
    with Image.open(io.BytesIO(animation)) as image:
        assert getattr(image, "n_frames") == 3  # noqa: B009 (unknown to the type of a still image)
        assert image.info["loop"] == 0


def pictures_url(animation: bytes) -> str:
    return "data:image/gif;base64," + base64.b64encode(animation).decode()


@pytest.mark.usefixtures("unpainted")
def test_pages_stand_alone(ran: Path):
    """A page is well-formed, needs no file, network or script; each picture has alt text, a dark twin and a table."""
    book.run("bias_correction", ran, progress=False, data="synthetic", images=200, batch_size=50, steps=4)
    for path in (ran / "report.html", book.write_book(ran)):
        text = path.read_text(encoding="utf-8")
        page = Elements(text)
        assert page.of("script") == page.of("link") == []
        assert not re.search(r"@import|url\(|https?:", text)
        for attribute in ("src", "srcset"):
            assert all(
                (attributes[attribute] or "").startswith("data:image/png;base64,")
                for _, attributes in page.found
                if attribute in attributes
            )
        ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
        assert len(set(ids)) == len(ids)
        assert {link["href"] for link in page.of("a")} <= {f"#{name}" for name in ids}
        figures = len(page.of("figure"))
        assert (
            figures == len(page.of("img")) == len(page.of("source")) == len(page.of("details")) == len(page.of("table"))
        )
        assert figures
        assert all(image["alt"] for image in page.of("img"))
        assert all(each["aria-label"] for _, each in page.found if each.get("role") == "img")
        assert any(each.get("name") == "viewport" for each in page.of("meta"))
    assert "not tested on synthetic images" in text


@pytest.mark.usefixtures("unpainted")
def test_text_is_shown_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What an experiment says is text, and never read as HTML."""
    module = experiments.load("momentum_forms")
    make = module.page
    monkeypatch.setattr(module, "page", lambda rows: dataclasses.replace(make(rows), seen=["<b>a & b</b>"]))
    assert "&lt;b&gt;a &amp; b" in book.run("momentum_forms", tmp_path, progress=False, **TINY).read_text()


@pytest.mark.parametrize(
    ("held", "words"), [(True, "held"), (False, "did not hold"), (None, "not tested at this size")]
)
def test_verdicts(held: bool | None, words: str):
    """A claim held, did not hold, or was not tested."""
    assert Headline("1", "a number", "a claim", held).verdict == words


@pytest.mark.usefixtures("unpainted")
def test_records_of_another_version(ran: Path):
    """Rows that lack what the page needs are an error that tells the remedy."""
    file = ran / "momentum_forms.jsonl"
    file.write_text(file.read_text().replace('"cut_after"', '"cut_behind"'))
    with pytest.raises(ExperimentError, match="lacks 'cut_after', as if of another version: run optizoo lab"):
        book.write_book(ran)


# The book -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unpainted")
def test_all_without_images(tmp_path: Path, no_images: None, monkeypatch: pytest.MonkeyPatch):
    """Without images, what needs none runs, and the book lists the rest with the reason and how to get them."""
    monkeypatch.setattr(book, "EXPERIMENTS", ("momentum_forms", "bias_correction"))
    text = book.run_all(tmp_path, progress=False).read_text()
    assert 'id="momentum_forms"' in text
    assert 'id="bias_correction"' not in text
    left_out = text[text.index("Left out") : text.index("</header>")]
    assert experiments.title("bias_correction").replace("'", "&#39;") in left_out
    assert re.search("does not exist, so there is no CIFAR-10 in it: .*OPTIZOO_DATA.*download", left_out, re.DOTALL)


@pytest.mark.usefixtures("unpainted")
def test_all_goes_on(tmp_path: Path, no_images: None, monkeypatch: pytest.MonkeyPatch):
    """What is finished is not run again unless it is asked for; what was interrupted, or had other options, is."""
    monkeypatch.setattr(book, "EXPERIMENTS", ("momentum_forms",))
    module, runs = experiments.load("momentum_forms"), []
    compute = module.compute
    monkeypatch.setattr(module, "compute", lambda *arguments: runs.append(1) or compute(*arguments))
    monkeypatch.setattr(book, "write_book", lambda _: None)
    file = tmp_path / "momentum_forms.jsonl"

    def again(**options: Any) -> int:
        runs.clear()
        book.run_all(tmp_path, progress=False, **options)
        return len(runs)

    book.run("momentum_forms", tmp_path, progress=False, **TINY)
    assert again() == 1  # the size was another
    assert again() == 0
    assert again(fresh=True) == 1
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert again() == 1


@pytest.mark.usefixtures("unpainted")
def test_the_book_lists_what_is_missing(ran: Path):
    """What was not run, or was interrupted, is left out of the book with the command that runs it."""
    with pytest.raises(ExperimentError, match="holds no finished experiment: run one with"):
        book.write_book(ran.parent)
    book.run("bias_correction", ran, progress=False, data="synthetic", images=200, batch_size=50, steps=4)
    file = ran / "momentum_forms.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    text = book.write_book(ran).read_text()
    assert f"It was interrupted: optizoo lab momentum_forms --out {ran} runs it again" in text
    with pytest.raises(ExperimentError, match="is not finished: run optizoo lab momentum_forms"):
        book.write_report("momentum_forms", ran)
    file.unlink()
    assert f"It was not run: optizoo lab momentum_forms --out {ran}" in book.write_book(ran).read_text()


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if experiments.load(name).NEEDS_DATA])
def test_data_that_are_missing(name: str, no_images: None, tmp_path: Path):
    """An experiment that needs images says so, and how to get them, and leaves no folder behind."""
    with pytest.raises(DataError, match=rf"{name} needs CIFAR-10: .*OPTIZOO_DATA"):
        book.run(name, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=rf"{name} needs CIFAR-10: .*OPTIZOO_DATA"):
        book.rows(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stps": 3}, "unknown option 'stps' of momentum_forms: did you mean 'steps'?"),
        ({"steps": 1}, "momentum_forms: steps = 1; it must be at least 2"),
        ({"lr": float("nan")}, "lr = nan; it must be at least 0"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str):
    """An option that is unknown or not allowed is an error that names it and the remedy, before anything is run."""
    with pytest.raises(ExperimentError, match=re.escape(message)):
        book.options("momentum_forms", **options)


def test_choices_and_lists_are_checked():
    """Each item of a list is checked, a list is not empty, and a choice is one of those given."""
    with pytest.raises(ExperimentError, match=r"lrs = -1.0; it must be at least 0"):
        book.options("bias_correction", lrs=(0.1, -1.0))
    with pytest.raises(ExperimentError, match="seeds is empty"):
        book.options("bias_correction", seeds=())
    with pytest.raises(ExperimentError, match="data = 'cifar' is unknown: did you mean 'cifar10'"):
        book.options("bias_correction", data="cifar")


# The command line -----------------------------------------------------------------------------------------------------


def test_lab_list(capsys: pytest.CaptureFixture[str]):
    """``optizoo lab list`` prints a line for each experiment: its name and its title."""
    assert cli.main(["lab", "list"]) == 0
    lines = [re.split("  +", line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [[name, experiments.title(name)] for name in EXPERIMENTS]


def test_lab_list_imports_no_experiment():
    """The list needs nothing of the extra ``lab`` and imports no experiment, so it is there at once."""
    code = (
        "import sys; from optizoo import cli; cli.main(['lab', 'list']); "
        "print([name for name in sys.modules if name.startswith(('matplotlib', 'jinja2', 'optizoo.lab.experiments.'))])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.endswith("\n[]\n")


@pytest.mark.usefixtures("unpainted")
def test_lab_runs_with_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Flags are the fields of the options; what the page says is printed."""
    arguments = ["momentum_forms", "--steps", "5", "--cut-after", "2", "--lr", "0.2", "--out", str(tmp_path)]
    assert cli.main(["lab", *arguments, "--no-progress"]) == 0
    options = Record.read(tmp_path / "momentum_forms.jsonl").config["options"]
    assert (options["steps"], options["cut_after"], options["lr"]) == (5, 2, 0.2)
    printed = capsys.readouterr().out
    assert "the lecture: Both forms give the same sequence of weights. Did not hold.\n" in printed
    assert printed.endswith(f"report: {tmp_path / 'report.html'}\n")
    assert cli.main(["lab", "book", str(tmp_path)]) == 0
    assert (tmp_path / "book.html").exists()


@pytest.mark.usefixtures("unpainted")
def test_lab_lists_of_values(tmp_path: Path):
    """A list is given as several values."""
    size = ["--data", "synthetic", "--images", "200", "--batch-size", "50", "--steps", "3", "--no-progress"]
    lists = ["--lrs", "0.1", "0.01", "--seeds", "4"]
    assert cli.main(["lab", "bias_correction", "--out", str(tmp_path), *size, *lists]) == 0
    options = Record.read(tmp_path / "bias_correction.jsonl").config["options"]
    assert (options["lrs"], options["seeds"]) == ([0.1, 0.01], [4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["momentum_form"], "unknown experiment 'momentum_form': did you mean 'momentum_forms'?"),
        (["lst"], "unknown experiment 'lst': did you mean 'list'?"),
        (
            ["momentum_forms", "--stps", "3"],
            "unknown option --stps of optizoo lab momentum_forms: did you mean '--steps'?",
        ),
        (["momentum_forms", "--steps", "1"], "momentum_forms: steps = 1; it must be at least 2"),
        (["all", "--frsh"], "unknown option --frsh of optizoo lab all: did you mean '--fresh'?"),
        (["book", "/nowhere"], "/nowhere holds no finished experiment"),
    ],
)
def test_lab_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    """Mistakes end with one line on stderr, which suggests what was meant, and status 2."""
    assert cli.main(["lab", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["momentum_forms", "--steps", "three"], ["momentum_forms", "5"], ["book"], []])
def test_lab_values_that_are_none(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    """A value of the wrong type, one too many and one too few are mistakes too."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(["lab", *arguments])
    assert "usage: optizoo lab" in capsys.readouterr().err


def test_lab_help_of_an_experiment(capsys: pytest.CaptureFixture[str]):
    """The help of an experiment shows its options with their defaults and choices."""
    with pytest.raises(SystemExit, match="0"):
        cli.main(["lab", "bias_correction", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--lrs VALUE [VALUE ...] learning rates (default: 0.0001 0.001)" in text
    assert "one of cifar10, synthetic (default: cifar10)" in text


# Pictures -------------------------------------------------------------------------------------------------------------


def test_an_optimizer_has_one_style_everywhere():
    """Each optimizer of the zoo has a colour and marker of its own, whatever it is drawn with."""
    fixed = pictures.OPTIMIZER_STYLES
    assert set(optizoo.list_optimizers()) <= set(fixed)
    assert len({(style.colour, style.marker) for style in fixed.values()}) == len(fixed)
    assert (
        pictures.styles(["mine", "adam", "yours"])["adam"] == pictures.styles(["adam", "sgd"])["adam"] == fixed["adam"]
    )


def test_others_differ_from_the_optimizers():
    """Labels that are no optimizer's get colours and markers that are free, beginning with colours not in use."""
    names = [*pictures.OPTIMIZER_STYLES, *(f"other {index}" for index in range(20))]
    styles = pictures.styles(names)
    assert list(styles) == names
    assert len({(style.colour, style.marker) for style in styles.values()}) == len(names)
    few = pictures.styles(["sgd", "adam", "a", "b", "c"])
    assert len({style.colour for style in few.values()}) == 5


def test_svg_is_the_same_every_time():
    """A figure gives the same SVG, without date or version, whatever was drawn before."""
    first, second = (pictures.svg(plots.lines([Line("sgd", (1, 2), (1, 2))], xlabel="x", ylabel="y")) for _ in "ab")
    assert first == second
    assert b"<dc:date>" not in first
    assert b"Matplotlib v" not in first


def test_lines():
    """Lines have their optimizer's style, gaps where there is no value, and bands over seeds."""
    drawn = [
        Line.over_seeds("adam", (1, 2, 3), [(1.0, 2.0, None), (3.0, 4.0, 5.0)]),
        Line("theory", (1, 2, 3), (1.0, None, 3.0), dashed=True),
    ]
    assert (list(drawn[0].y[:2]), list(drawn[0].low[:2]), list(drawn[0].high[:2])) == ([2, 3], [1, 2], [3, 4])
    axis = plots.lines(drawn, xlabel="step", ylabel="loss (nats)", marks=[Mark(2, "here", "x")]).axes[0]
    adam, theory, _ = axis.get_lines()
    assert adam.get_color() == pictures.OPTIMIZER_STYLES["adam"].colour
    assert torch.tensor(adam.get_ydata()).isnan().tolist() == [False, False, True]
    assert torch.tensor(theory.get_ydata()).isnan().tolist() == [False, True, False]
    assert (theory.is_dashed(), len(axis.collections)) == (True, 1)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("step", "loss (nats)")


@pytest.mark.parametrize(
    ("y", "numbers"),
    [
        pytest.param((1.0, 2.0), {"1", "1.2", "1.5", "2"}, id="an octave"),
        pytest.param((1.0, 20.0), {"1", "2", "3", "5", "10", "20"}, id="over a decade"),
        pytest.param((0.01, 10.0), {"0.01", "0.1", "1", "10"}, id="three decades"),
    ],
)
def test_logarithmic_axes_have_plain_numbers(y: tuple[float, float], numbers: set[str]):
    """A logarithmic axis has some numbers on it, however short it is, without powers where they can be left out."""
    figure = plots.lines([Line("sgd", (1, 2), y)], xlabel="x", ylabel="y", yscale="log")
    figure.draw_without_rendering()
    assert numbers <= {text.get_text() for text in figure.axes[0].get_yticklabels()}


def test_direct_labels_do_not_lie_on_each_other():
    """Labels at the ends of lines keep a distance, and keep the order of the ends."""
    drawn = [Line(name, (1, 2), (1.0, 1 + index / 1000)) for index, name in enumerate(["sgd", "adam", "lion"])]
    figure = plots.lines([*drawn, Line("rmsprop", (1, 2), (1, 2))], xlabel="x", ylabel="y", direct=True)
    heights = {text.get_text(): text.xy[1] for text in figure.axes[0].texts}  # type: ignore[attr-defined]
    assert heights["adam"] - heights["sgd"] > 0.04
    assert heights["lion"] - heights["adam"] > 0.04
    assert figure.legends == []


def test_the_numbers_of_lines():
    """The table has a column for each line and evenly chosen rows, the first and the last among them."""
    lines = [Line("sgd", range(100), [float(x) for x in range(100)]), Line("adam", [0, 99], [1.0, None], panel="p")]
    table = line_table(lines, "step", at_most=4)
    assert table.columns == ["step", "sgd", "adam, p"]
    assert table.rows == [[0, 0.0, 1.0], [33, 33.0, None], [66, 66.0, None], [99, 99.0, None]]


def test_bars_heatmap_images_and_contours():
    """The other plots draw what they are given, and name their axes."""
    axis = plots.bars([Bar("sgd", 0.25, 0.2, 0.3), Bar("adam", None)], xlabel="accuracy (%)", percent=True).axes[0]
    assert [to_hex(bar.get_facecolor()) for bar in axis.patches] == [pictures.OPTIMIZER_STYLES["sgd"].colour]
    assert [text.get_text() for text in axis.texts] == ["25 %"]
    cells = {"columns": ["0.1", "1"], "rows": ["a", "b"], "xlabel": "lr", "ylabel": "decay", "unit": "accuracy (%)"}
    axis, bar = plots.heatmap([[1, None], [3, 4]], best="max", **cells).axes
    assert [text.get_text() for text in axis.texts] == ["1", "–", "3", "4"]
    assert axis.patches[0].get_xy() == (0.5, 0.5)  # type: ignore[attr-defined]
    assert (axis.get_xlabel(), axis.get_ylabel(), bar.get_ylabel()) == ("lr", "decay", "accuracy (%)")
    figure = plots.images([[[0.0, 1.0]], [[0.5, 2.0]]], labels=["one", "two"], columns=3)
    assert [axis.get_title() for axis in figure.axes] == ["one", "two", ""]
    grid = [float(x) for x in range(5)]
    path = Line("sgd", [0.0, 2.0], [0.0, 2.0])
    heights = [[x * y for x in grid] for y in grid]
    figure = plots.contours(grid, grid, heights, paths=[path], log=True, xlabel="x", ylabel="y", unit="f")
    assert figure.axes[0].get_lines()[0].get_color() == pictures.OPTIMIZER_STYLES["sgd"].colour
    assert figure.axes[0].get_xlim() == (0, 4)


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda: plots.lines([], xlabel="x", ylabel="y"), id="lines"),
        pytest.param(lambda: plots.bars([], xlabel="x"), id="bars"),
        pytest.param(lambda: plots.heatmap([], columns=[], rows=[], xlabel="x", ylabel="y", unit="z"), id="heatmap"),
        pytest.param(lambda: plots.images([], labels=[]), id="images"),
        pytest.param(lambda: plots.contours([], [], [], xlabel="x", ylabel="y", unit="z"), id="contours"),
    ],
)
def test_nothing_to_draw(draw: Any):
    """A picture of nothing is an error."""
    with pytest.raises(ValueError, match="nothing to draw"):
        draw()


@pytest.mark.parametrize("theme", [pictures.LIGHT, pictures.DARK], ids=["light", "dark"])
def test_plots_have_the_paper_of_the_theme(theme: pictures.Theme):
    """Each plot is drawn on the paper it is given."""
    figures: list[Figure] = [
        plots.lines([Line("sgd", (1, 2), (1, 2))], xlabel="x", ylabel="y", theme=theme),
        plots.bars([Bar("sgd", 1.0)], xlabel="x", theme=theme),
        plots.heatmap([[1.0]], columns=["a"], rows=["b"], xlabel="x", ylabel="y", unit="z", theme=theme),
        plots.images([[[0.5]]], labels=["a"], theme=theme),
        plots.contours((0, 1), (0, 1), [[0, 1], [1, 2]], xlabel="x", ylabel="y", unit="z", theme=theme),
    ]
    assert {to_hex(figure.get_facecolor()) for figure in figures} == {theme.paper}


# Runs -----------------------------------------------------------------------------------------------------------------


def test_images():
    """Splits are standardised pixels; smaller ones are means over square blocks of them."""
    train, validation, test = running.images("synthetic", 300, 50)
    assert (len(train), len(validation), len(test)) == (300, 1000, 50)
    pixels = train.x.view(-1, 3, 32 * 32)
    assert pixels.mean((0, 2)).abs().max() < 1e-4
    assert pixels.std((0, 2)).sub(1).abs().max() < 1e-4
    small = running.images("synthetic", 300, 50, side=8)[0]
    assert torch.allclose(small.x.view(-1, 3, 8, 8)[7, 1, 2, 3], train.x.view(-1, 3, 32, 32)[7, 1, 8:12, 12:16].mean())
    with pytest.raises(ValueError, match="side must divide 32, got 5"):
        running.images("synthetic", 300, 50, side=5)


def test_minibatches_are_paired_and_cover_an_epoch():
    """A seed fixes the batches; an epoch has each image once, and its last batch what is left."""
    split = running.Images(torch.arange(10.0)[:, None], torch.arange(10))
    batches, again = (running.minibatches(split, 4, seed=3) for _ in "ab")
    first = [next(batches)[1].tolist() for _ in range(6)]
    assert first == [next(again)[1].tolist() for _ in range(6)]
    assert [len(batch) for batch in first] == [4, 4, 2] * 2
    assert all(sorted(chain(*epoch)) == list(range(10)) for epoch in (first[:3], first[3:]))
    assert first[3:] != first[:3]
    other = running.minibatches(split, 4, seed=4)
    assert first != [next(other)[1].tolist() for _ in range(6)]
    with pytest.raises(ValueError, match="batch_size must be from 1 to the 10 images, got 11"):
        next(running.minibatches(split, 11, seed=0))


def test_descend_yields_the_loss_before_each_update():
    """A loss is that of the parameters as they stand when it is yielded."""
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    seen = [
        (loss, weight.item())
        for loss in running.descend(optizoo.SGD([weight], lr=0.25), lambda: weight.square().sum(), 3)
    ]
    assert seen == [(4.0, 2.0), (1.0, 1.0), (0.25, 0.5)]
    assert weight.item() == 0.25


def test_train_curve():
    """Training by the lab, in memory; with a seed, optimizers begin at the same weights on the same batches."""
    source = running.dataset("synthetic", 300, 50)
    runs = [
        running.train_curve(source, "linear", name, 1e-3, seed=5, epochs=2, batch_size=100) for name in ("sgd", "adam")
    ]
    assert [run.status for run in runs] == ["finished"] * 2
    assert [len(run.losses) for run in runs] == [6, 6]
    assert runs[0].losses[0] == runs[1].losses[0]
    assert runs[0].losses[1] != runs[1].losses[1]
    assert runs[0].record.result is not None
    assert 0 <= runs[0].record.result["test_accuracy"] <= 1


def test_train_all_gives_what_each_run_is_alone():
    """Runs that share batches train as populations, on smaller images too; what is made of each is in their order."""
    source = running.shrunk("synthetic", 300, 50, side=8)
    rates = [1e-3, 3e-3, 1e-2]
    configs = [
        running.curve("linear", "adam", lr, seed=seed, epochs=2, batch_size=100)
        for lr, seed in zip(rates, (0, 1, 0), strict=True)
    ]
    sizes = []

    def track(items: Any, what: str) -> Any:
        sizes.append((what, [len(item) for item in items]))
        return items

    ends = running.train_all(
        configs, source, lambda index, run: (rates[index], run.losses, running.accuracies(run)), track, "runs"
    )
    assert sizes == [("runs", [2, 1])]
    for config, (lr, losses, found) in zip(configs, ends, strict=True):
        alone = train(config, source, progress=False)
        assert alone.record.config["optimizer"]["lr"] == lr
        torch.testing.assert_close(losses, alone.losses, rtol=1e-5, atol=0)
        assert found == running.accuracies(alone)


def test_silent_passes_on():
    """Without progress bars, items are passed on as they are."""
    assert list(silent([1, 2], "numbers")) == [1, 2]
