"""What the site says holds: its code runs, its commands are known, its links lead somewhere, no optimizer is missing.

That it is built without a warning is for ``.ci/run``, since Sphinx need not be here.
"""

import ast
import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

import optizoo
from docs.extensions import drawings, records, zoo_pages
from optizoo import cli, schedules
from optizoo.tables import text_table
from optizoo.testing.specimens import specimens
from tests import documents

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
WITH_PYTHON = [page for page in PAGES if documents.blocks(page.read_text(encoding="utf-8"), "python")]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def missing(page: Path) -> list[str]:
    """Return the modules that a page imports and that are not installed."""
    trees = [ast.parse(block) for block in documents.blocks(page.read_text(encoding="utf-8"), "python")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return sorted(name for name in {name.partition(".")[0] for name in named} if importlib.util.find_spec(name) is None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of other packages, as they are imported
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if documents.blocks(page.read_text(encoding="utf-8"), "python")],
    ids=lambda p: p.stem,
)
def test_python_examples_run(page, tmp_path, monkeypatch):
    """The Python blocks of a page run, one after the other, in a folder of the reader's own."""
    if lacking := missing(page):
        pytest.skip(
            f"{page.name} shows {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not installed"
        )
    monkeypatch.chdir(tmp_path)
    if page.stem == "records":
        train_once()
    documents.run_python(page)


def train_once() -> None:
    """Leave the folders of a run and of a comparison, which the page on records reads."""
    sizes = ["--data.train_size", "64", "--data.validation", "16", "--data.test_size", "16", "--train.epochs", "1"]
    Path("small.toml").write_text('[data]\nname = "synthetic"\n[optimizer]\nname = "sgd"\nlr = 0.01\n')
    assert cli.main(["train", "small.toml", "--out", "runs/a-run", "--no-progress", *sizes]) == 0
    cells = Path("runs", "a-comparison", "cells")
    cells.mkdir(parents=True)
    shutil.copy("runs/a-run/record.jsonl", cells / "sgd.jsonl")


@by_page
def test_commands_are_known(page):
    """Every command of a page is one that optizoo takes, with its flags; those of others are theirs."""
    for block in documents.blocks(page.read_text(encoding="utf-8"), "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
            if words[:1] == ["optizoo"]:
                documents.check_command(words[1:])


@by_page
def test_links_lead_somewhere(page):
    """Files exist, and pages of optimizers are those that are made."""
    for link in documents.links(page.read_text(encoding="utf-8")):
        if link.startswith("optimizers/"):
            assert link.removeprefix("optimizers/").removesuffix(".rst") in [
                "index",
                "options",
                *optizoo.list_optimizers(),
            ]
        else:
            assert (DOCS / link).exists(), link


def test_every_text_that_is_made_stands_on_a_page():
    """Names of texts are known, and none is made in vain."""
    shown = [name for page in PAGES for name in re.findall(r"^```\{generated\} (\S+)", page.read_text("utf-8"), re.M)]
    assert sorted(shown) == sorted(records.MADE)


@pytest.mark.parametrize("name", [name for name in records.MADE if name != "lecture"])
def test_texts_from_the_records(name):
    """Every text is there, and its tables have as many cells in each row."""
    text = records.MADE[name]()
    assert text.strip()
    for table in re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_sweeps_are_shown_as_soon_as_they_are_recorded(tmp_path, monkeypatch):
    """A leaderboard under benchmarks/sweeps stands on the page, with what it says of differences."""
    monkeypatch.setattr(records, "BENCHMARKS", tmp_path)
    assert records.sweeps().startswith("No sweep is recorded")
    (tmp_path / "sweeps" / "linear").mkdir(parents=True)
    board = text_table(
        [["optimizer", "behind the best (points)"], ["adam", "–"], ["sgd", "0.51 [-0.25, 1.27]"]], right=[1]
    )
    said = "adam and sgd cannot be told apart at the top.\nTarget: 40 %."
    (tmp_path / "sweeps" / "linear" / "leaderboard.txt").write_text(f"{board}\n\n{said}\n", encoding="utf-8")
    assert records.sweeps().splitlines() == [
        "**linear.** adam and sgd cannot be told apart at the top. Target: 40 %.",
        "",
        "| optimizer | behind the best (points) |",
        "| --- | --- |",
        "| adam | – |",
        "| sgd | 0.51 [-0.25, 1.27] |",
    ]


# Optimizers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    """All pages that are made, by name, without their pictures, which take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawings, "draw_path", lambda name: ("<svg></svg>", f"The path of {name}."))
        return zoo_pages.pages()


@pytest.mark.parametrize("name", optizoo.list_optimizers())
def test_every_optimizer_has_a_page(name, made):
    """A page has what it must have, and no reference of a docstring is left as it was."""
    for heading in ("Equation and what to know", "The rule", "Signature", "Path", "Proven"):
        assert f"\n{heading}\n---" in made[name]
    assert ".. math::" in made[name]
    assert "https://" in made[name].partition("Equation")[0]
    assert f'optizoo.create("{name}", model)' in made[name]
    assert not re.findall(r":(?:class|func|meth|mod|attr):", made[name])


def test_every_rule_is_shown_once(made):
    """The text of a rule stands on one page; others that have it link there."""
    text = "".join(made.values())
    for rule in optizoo.zoo.rules():
        assert len(re.findall(rf"^   def {rule}\(", text, re.MULTILINE)) == 1, rule


def test_numbers_of_a_page_are_those_of_the_records(made):
    """Adam's page has what the records of verify and of the step benchmark say, Lion's what other packages do."""
    cell = next(
        cell for cell in json.loads((ROOT / "benchmarks" / "step_cpu.json").read_text(encoding="utf-8"))["cells"]
        if (cell["optimizer"], cell["workload"]) == ("adam", "groups")
    )  # fmt: skip
    assert zoo_pages.microseconds(cell["sides"]["optizoo default"]["us"]) in made["adam"]
    assert f"     - {cell['ratio']:.2f}" in made["adam"]
    assert "torch loop, bitwise" in made["adam"]
    assert f"all {len(specimens()['adam'].mutants)} deliberate mistakes" in made["adam"]
    assert "``timm.optim.Lion``" in made["lion"]


def test_pages_follow_the_zoo(tmp_path, made, monkeypatch):
    """Pages are written where they changed, and those of optimizers that are gone are removed."""
    monkeypatch.setattr(zoo_pages, "pages", lambda: made)
    (tmp_path / "gone.rst").write_text("Gone")
    zoo_pages.write(tmp_path)
    assert sorted(file.stem for file in tmp_path.iterdir()) == sorted(made)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    zoo_pages.write(tmp_path)
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}


# Drawings ------------------------------------------------------------------------------------------------------------


def test_a_path_takes_the_best_rate():
    """The path of SGD begins at the start and ends lower; no other rate is lower on average."""
    rate, points = drawings.path("sgd")
    assert points[0] == drawings.START
    assert len(points) == drawings.STEPS + 1
    assert drawings.height(points[-1]) < drawings.height(points[0])
    means = {other: drawings.mean_height(drawings.walk("sgd", other)) for other in (0.02, 0.05, 0.1)}
    assert min(means, key=lambda other: means[other]) == rate
    drawing, said = drawings.draw_path("sgd")
    assert f"lr={rate:g}" in said
    assert drawing.count("<circle") == drawings.STEPS + 2


def test_every_schedule_has_a_curve():
    """The text under a curve is what was drawn, and no kind of schedule is missing."""
    for text, schedule in drawings.SCHEDULES.items():
        assert eval(text, {**vars(schedules)}) == schedule
    kinds = {type(schedule).__name__.lower() for schedule in drawings.SCHEDULES.values()} | {"warmup"}
    assert kinds == {name.replace("_", "") for name in schedules.list_schedules()} | {"warmup"}


def test_the_version_to_cite():
    """CITATION.cff has the version of the package."""
    assert f"\nversion: {optizoo.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
