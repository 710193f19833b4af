"""The options of every experiment: what is declared is checked, at the edges of every one of them."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from optizoo import cli
from optizoo.lab import book, experiments, pictures
from optizoo.lab.experiments import EXPERIMENTS, ExperimentError
from optizoo.lab.options import SMALLEST, Checked, option

NUMBERS = [0, 1, 2, 3, -1, 7, 0.5, 1.5, 0.9999, 1e-6, 1e-12, 1e-320, -1e-300, 1e6, 1e20, 2**32, 10**400]
NUMBERS += [math.inf, -math.inf, math.nan]
WORDS = ["", " ", "adm", "Adam", "gpu", "cuda:-1", "cpu ", "nan", "☃"]
OTHERS = [None, "three", True, [], (), {}, object(), [[1]], "1"]
LISTS = [(0.1, 0.1), (1, 1.0), (3, 2, 1), tuple(range(1, 102)), (1, math.nan), ("sgd", "sgd"), ("sgd", 1)]
# Sizes at which an experiment takes a second, beside those of its own test.
SMALL: dict[str, dict[str, Any]] = {
    "adam_vs_adamw": {"epochs": 1, "seeds": (1, 2)},
    "bias_correction": {"images": 64, "batch_size": 32, "steps": 4, "early": 2},
    "conditioning": {"max_steps": 30, "path_steps": 5},
    "defaults": {"images": 128, "epochs": 1, "seeds": (1, 2)},
    "gradcheck": {"elements": 2, "repeats": 1},
    "gradient_descent": {"epochs": 1, "draws": 3, "max_steps": 20},
    "learning_rates": {
        "images": 64, "batch_size": 32, "steps": 10, "hidden": 2, "lrs": (1e-3, 0.1), "seeds": (0,)
    },
    "linear_scaling": {"images": 128, "epochs": 1, "seeds": (0,)},
    "lr_finder": {"images": 200, "batch_size": 50, "hidden": 2, "sweep": 20, "steps": 2},
    "random_search": {"images": 20, "tries": 5},
    "regularization": {"steps": 5},
    "saddles": {"steps": 20},
    "schedules": {"images": 64, "batch_size": 32, "steps": 10, "warmup_steps": 2, "hidden": 2, "seeds": (0,)},
    "second_order": {"images": 20, "first_steps": 2, "steps": 2},
    "trajectories": {"steps": 4},
    "trajectories_cifar10": {"steps": 3},
    "two_layer_features": {"steps": 20, "grid": 5, "points": 10, "images": 100, "epochs": 1},
}  # fmt: skip


def declared(name: str) -> Iterator[tuple[str, Any, bool]]:
    """Yield (option, value, whether it takes several) for each limit and choice that is declared."""
    kind = experiments.load(name).Options
    kinds = get_type_hints(kind)
    for each in fields(kind):
        limits = [each.metadata[key] for key in ("at_least", "at_most", "below")]
        for value in (*limits, SMALLEST, *each.metadata["choices"]):
            if not isinstance(value, str | None) or value in each.metadata["choices"]:
                yield each.name, value, get_origin(kinds[each.name]) is tuple


def edges(name: str) -> Iterator[tuple[str, Any]]:
    """Yield what is near, and what is far beyond."""
    for key, value, several in declared(name):
        beside = () if isinstance(value, str) else (value - 1, value + 1, 2 * value)
        for each in (value, *beside):
            yield key, (each,) if several else each
    kind = experiments.load(name).Options
    for key, hint in get_type_hints(kind).items():
        for value in (*NUMBERS, *WORDS):
            yield key, (value,) if get_origin(hint) is tuple else value
        for value in (*OTHERS, *LISTS):
            yield key, value


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_edge_of_every_option(name: str):
    """A value is taken, as its own type, or told in a line that names the option; nothing else happens."""
    told = 0
    for key, value in edges(name):
        message, chosen = _chosen(name, key, value)
        if message:
            told += 1
            assert re.fullmatch(rf"{name}: \w+ \S.*", message)
            continue
        kind = get_type_hints(experiments.load(name).Options)[key]
        item = get_args(kind)[0] if get_origin(kind) is tuple else kind
        items = chosen if get_origin(kind) is tuple else (chosen,)
        assert items
        assert all(type(each) is item for each in items)
        assert item is not float or all(map(math.isfinite, items))
    assert told


def _chosen(name: str, key: str, value: Any) -> tuple[str, Any]:
    try:
        return "", getattr(book.options(name, **{key: value}), key)
    except ExperimentError as error:
        return str(error), None


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_value_that_is_taken_makes_a_page(name: str):
    """What passes the checks runs, at a size of a second, and its page draws and says nothing that is no number."""
    size = import_module(f"tests.lab.experiments.test_{name}").TINY | SMALL.get(name, {})
    kinds = get_type_hints(experiments.load(name).Options)
    for key, limit, several in declared(name):
        value = (limit,) if several else limit
        if key == "data" or (kinds[key] is int and 50 < limit < 2**31):
            continue  # no image is there, or it takes long
        try:
            book.options(name, **size | {key: value})
        except ExperimentError:
            continue
        _read(name, **size | {key: value})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("momentum_forms", {"steps": 2, "cut_after": 1, "lr": 0, "cut": 0, "momentum": 0}, id="zeros"),
        pytest.param("momentum_forms", {"lr": 1e4, "start": -1e6}, id="nearly-overflow"),
        pytest.param("saddles", {"steps": 1, "noise": 1e6, "offsets": 0}, id="far-from-the-saddle"),
        pytest.param("conditioning", {"max_steps": 1, "conditions": 1, "path_steps": 1}, id="round-valley"),
        pytest.param("trajectories", {"steps": 1, "lr_from": 5, "lr_to": 6, "per_decade": 1}, id="all-diverge"),
    ],
)
def test_edges_make_pages(name: str, options: dict[str, Any]):
    """At the edges of what is taken there is a page without a number that is none."""
    _read(name, **options)


def _read(name: str, **options: Any) -> None:
    page = experiments.load(name).page(book.rows(name, **options))
    for text in (*page.seen, page.headline.number, page.headline.what):
        assert text.strip()
        assert not re.search(r"\b(nan|None|inf)\b", text), (options, text)
    for picture in page.pictures:
        picture.draw(pictures.LIGHT).clear()


@dataclass(frozen=True)
class Options(Checked):
    """Options of no experiment."""

    steps: int = option(10, "updates", at_least=1, at_most=100)
    late: int = option(5, "one of them", at_least=0, below="steps")
    low: float = option(0.1, "a rate", at_least=0, at_most="high", nonzero=True)
    high: float = option(1.0, "a rate", below=2.5)
    names: tuple[str, ...] = option(("sgd",), "optimizers", choices=("sgd", "adam"))
    pair: tuple[float, ...] = option((1.0,), "numbers", repeats=True)
    loud: bool = option(False, "whether")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"steps": 0}, "steps = 0; it must be at least 1", id="least"),
        pytest.param({"steps": 101}, "steps = 101; it must be at most 100", id="most"),
        pytest.param({"steps": 2.5}, "steps = 2.5; it must be an integer", id="integer"),
        pytest.param({"steps": math.inf}, "steps = inf; it must be an integer", id="infinite"),
        pytest.param({"steps": True}, "steps = True; it must be an integer", id="flag-for-a-number"),
        pytest.param({"late": 10}, "late = 10; it must be below the 10 steps", id="below-another"),
        pytest.param({"low": 2.0}, "low = 2.0; it must be at most the 1 high", id="at-most-another"),
        pytest.param({"low": 0}, "low = 0.0; it must not be 0", id="zero"),
        pytest.param({"high": 2.5}, "high = 2.5; it must be below 2.5", id="below"),
        pytest.param({"high": math.nan}, "high = nan; it must be at least -1000000", id="nan"),
        pytest.param({"high": 1e-30}, "high = 1e-30; it must be at least 1e-12, or 0", id="tiny"),
        pytest.param({"high": 10**400}, "high = inf; it must be at most 1000000", id="digits"),
        pytest.param({"names": ("sgd", "adm")}, "names = 'adm' is unknown: did you mean 'adam'", id="name"),
        pytest.param({"names": ("sgd", "sgd")}, "names has 'sgd' twice; its values must differ", id="twice"),
        pytest.param({"names": ()}, "names is empty; give at least one value", id="empty"),
        pytest.param({"pair": (1,) * 101}, "pair has 101 values; give at most 100", id="many"),
        pytest.param({"loud": 1}, "loud = 1; it must be true or false", id="number-for-a-flag"),
    ],
)
def test_what_is_told(values: dict[str, Any], message: str):
    """The message names the option, shows the value, and tells what it must be."""
    with pytest.raises(ExperimentError) as caught:
        Options(**values)
    assert str(caught.value).startswith(message)


def test_what_is_surely_meant_is_taken():
    """Whole numbers are integers, integers are numbers, a list or one value is a tuple."""
    meant = Options(steps=20.0, high=2, names=["adam", "sgd"], pair=3)  # type: ignore[arg-type]
    assert (meant.steps, meant.high, meant.names, meant.pair) == (20, 2.0, ("adam", "sgd"), (3.0,))
    assert [type(each) for each in (meant.steps, meant.high, *meant.pair)] == [int, float, float]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["regularization", "--side", "3"], "side = 3; it must be one of 1, 2, 4, 8, 16, 32", id="choice"),
        pytest.param(["bias_correction", "--lrs", "0.1", "0.1"], "lrs has 0.1 twice", id="twice"),
        pytest.param(["second_order", "--optimizers", "adm"], "did you mean 'adam'", id="optimizer"),
        pytest.param(["second_order", "--optimizers", "muon"], "'muon' is unknown", id="optimizer-of-matrices"),
        pytest.param(["conditioning", "--conditions", "1e20"], "it must be at most 1000000", id="huge"),
        pytest.param(["trajectories", "--lr-from", "2"], "lr_from = 2; it must be below the 1 lr_to", id="relation"),
        pytest.param(["knn", "--device", "gpu"], "device = 'gpu'; it must be auto, cpu, cuda", id="device"),
        pytest.param(["knn", "--device", ""], "device = ''; it must be auto", id="empty"),
        pytest.param(["momentum_forms", "--start", "inf"], "start = inf; it must be at most", id="infinite"),
        pytest.param(["momentum_forms", "--lr", "-1e3"], "lr = -1000.0; it must be at least 0", id="negative"),
        pytest.param(["momentum_forms", "--start", "-inf"], "start = -inf; it must be at least", id="minus-infinity"),
        pytest.param(["momentum_forms", "--lr", "1e6"], "the weight leaves all numbers", id="overflow"),
        pytest.param(["momentum_forms", "--steps", "1.5"], "steps = 1.5; it must be an integer", id="fraction"),
        pytest.param(["momentum_forms", "--steps", "1e12"], "steps = 1000000000000; it must be at most", id="steps"),
        pytest.param(["lr_finder", "--seed", "4294967296"], "it must be at most 4294967295", id="seed"),
        pytest.param(["bias_correction", "--images", "100"], "it must be at most the 100 images", id="batch"),
        pytest.param(["gradient_descent", "--images", "32"], "one must be below the 32 images", id="minibatch"),
        pytest.param(["bias_correction", "--images", "1" + "0" * 400], "it must be at most 50000", id="digits"),
    ],
)
def test_the_command_line_tells_it_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Any
):
    """A plain mistake ends with one line and status 2, before there is a folder."""
    out = tmp_path / "out"
    assert cli.main(["lab", *arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {arguments[0]}: ")
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.usefixtures("unpainted")
def test_integers_may_be_written_with_an_exponent(tmp_path: Any):
    """``--steps 2e1`` is 20."""
    arguments = ["momentum_forms", "--steps", "2e1", "--cut-after", "1e0", "--out", str(tmp_path), "--no-progress"]
    assert cli.main(["lab", *arguments]) == 0
    assert '"steps": 20,' in (tmp_path / "momentum_forms.jsonl").read_text(encoding="utf-8")
