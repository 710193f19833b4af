"""Where the lab runs: settings of matplotlib, the home folder in paths, and what editors write in front of a config."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.figure import Figure

from optizoo import cli
from optizoo.backends.build import cache_folder
from optizoo.lab import cache, pictures, plots
from optizoo.lab.config import load_run
from optizoo.lab.pictures import Curve
from optizoo.lab.plots import Bar, Line
from optizoo.lab.running import missing_data
from optizoo.lab.templates import equation
from tests.faults.conftest import config  # noqa: F401  (a fixture)
from tests.processes import Started

# matplotlib ---------------------------------------------------------------------------------------------------------

ODD: dict[Any, Any] = {
    "text.usetex": True,
    "font.family": "Nonesuch",
    "axes.formatter.use_locale": True,
    "axes.unicode_minus": False,
    "axes.grid": False,
    "axes.xmargin": 0.4,
    "path.sketch": (1.0, 100.0, 2.0),
    "savefig.bbox": "tight",
    "savefig.dpi": 7,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "figure.constrained_layout.use": False,
    "lines.linestyle": ":",
    "xtick.direction": "in",
}


def curves() -> Figure:
    return pictures.curves([Curve("adam", "", (1, 2), ((-0.5, 0.25),))], styles=pictures.styles(["adam"]), ylabel="y")


def lines() -> Figure:
    return plots.lines([Line("sgd", (1, 2), (-0.5, 0.25))], xlabel="step", ylabel="loss (nats)")


def bars() -> Figure:
    return plots.bars([Bar("sgd", 0.5), Bar("adam", -0.25)], xlabel="loss")


@pytest.mark.parametrize("draw", [curves, lines, bars])
@pytest.mark.parametrize("painted", [pictures.svg, pictures.png])
def test_pictures_look_the_same_for_everybody(draw: Callable[[], Figure], painted: Callable[[Figure], bytes]):
    """Whatever a matplotlibrc sets, a picture has the same bytes, and the settings are left as they were."""
    expected = painted(draw())
    with matplotlib.rc_context(ODD):
        assert painted(draw()) == expected
        assert matplotlib.rcParams["text.usetex"]


def test_equations_look_the_same_for_everybody():
    """Equations are outlines of matplotlib's own letters, whatever a matplotlibrc sets."""
    expected = equation(r"\theta_t")
    with matplotlib.rc_context({**ODD, "mathtext.fontset": "stix", "mathtext.default": "bf"}):
        assert equation(r"\theta_t") == expected


IMPORT = """
import os, sys
from optizoo.cli import arguments
for name in [name for name in sys.modules if name.partition(".")[0] in ("matplotlib", "mpl_toolkits")]:
    del sys.modules[name]
os.environ.pop("MATPLOTLIBRC", None)
arguments.import_matplotlib()
import matplotlib
print(os.environ["MPLBACKEND"], os.environ.get("MATPLOTLIBRC"), os.getcwd())
"""


def test_matplotlib_is_imported_without_the_settings_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A notebook's backend that is not here and a damaged matplotlibrc do not stop the command line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: \xff\xfe\n")
    process = Started(IMPORT, tmp_path, MPLBACKEND="module://nowhere.backend_inline")
    assert process.communicate(timeout=120)[1] == ""
    assert process.stdout().split() == ["module://nowhere.backend_inline", "None", str(tmp_path)]


# Paths ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_home_in_options(config: Path, home: Path):  # noqa: F811
    """``~`` is the home folder also where no shell has seen to that, in options and in the config."""
    assert cli.main(["train", str(config), "--out=~/runs/a", "--data.cache", "~/cache"]) == 0
    assert (home / "runs" / "a" / "record.jsonl").exists()
    home.joinpath("small.toml").write_bytes(config.read_bytes())
    assert cli.main(["train", "~/small.toml", "--out=~/runs/b"]) == 0
    assert not Path("~").exists()


def test_home_in_variables(home: Path, monkeypatch: pytest.MonkeyPatch):
    """So it is in the environment's paths of images and cache, and in those that a caller gives."""
    monkeypatch.setenv("OPTIZOO_DATA", "~/images")
    assert f"{home / 'images'} does not exist" in str(missing_data())
    monkeypatch.setenv("OPTIZOO_DATA", "~nobody-of-this-name/images")
    assert "~nobody-of-this-name/images does not exist" in str(missing_data())
    monkeypatch.setenv("OPTIZOO_CACHE", "~/cache")
    assert cache_folder() == home / "cache"
    assert cache.folder() == home / "cache"
    assert cache.folder("~/other") == home / "other"
    monkeypatch.delenv("OPTIZOO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/xdg")
    assert cache_folder() == home / "xdg" / "optizoo"


def test_home_of_nobody(config: Path, capsys: pytest.CaptureFixture[str]):  # noqa: F811
    """A home that cannot be found is a mistake of the command line."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", str(config), "--out=~nobody-of-this-name/runs"])
    assert caught.value.code == 2
    assert "'~nobody-of-this-name/runs'" in capsys.readouterr().err


# Configs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(lambda text: text.encode("utf-8-sig"), id="UTF-8 with a mark"),
        pytest.param(lambda text: text.encode("utf-16"), id="UTF-16"),
        pytest.param(lambda text: b"\xfe\xff" + text.encode("utf-16-be"), id="UTF-16, big-endian"),
        pytest.param(lambda text: text.replace("\n", "\r\n").encode(), id="CRLF"),
        pytest.param(lambda text: text.replace("\n", "\r\n").encode("utf-16"), id="UTF-16 with CRLF"),
        pytest.param(lambda text: text.replace("\n", "\r").encode(), id="CR"),
    ],
)
def test_configs_as_editors_write_them(config: Path, written: Callable[[str], Any]):  # noqa: F811
    """A byte order mark and the line ends of other systems mean nothing."""
    expected = load_run(config)
    config.write_bytes(written(config.read_text(encoding="utf-8")))
    assert load_run(config) == expected


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_configs_of_run_folders_as_editors_write_them(config: Path, encoding: str):  # noqa: F811
    """So it is in JSON."""
    assert cli.main(["train", str(config), "--out", "here"]) == 0
    file = Path("here/config.json")
    file.write_text(file.read_text(encoding="utf-8"), encoding=encoding)
    assert cli.main(["train", str(config), "--out", "here", "--resume"]) == 0
