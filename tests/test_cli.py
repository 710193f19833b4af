"""The command line: what it prints, what it writes, and how it fails."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import optizoo
from optizoo import cli
from optizoo.lab import benchmark as epochs
from optizoo.lab import compare as comparing
from optizoo.lab import step_benchmark as steps
from optizoo.lab import train as training
from optizoo.lab.config import load_compare, load_run
from optizoo.lab.data import Dataset, Split
from optizoo.lab.folder import locked
from optizoo.lab.records import Record
from optizoo.testing import verify as matrix

CONFIG = """
name = "tiny"
[data]
name = "synthetic"
[train]
epochs = 2
batch_size = 16
device = "cpu"
"""


def random_split(n: int) -> Split:
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))
    return Split(images, torch.arange(n) % 10)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config in an empty current folder; instead of the synthetic set, which takes a second, 40 images of noise."""
    dataset = Dataset(
        name="synthetic",
        source="noise",
        classes=tuple("abcdefghij"),
        train=random_split(40),
        validation=random_split(20),
        test=random_split(30),
        mean=(127.5, 127.5, 127.5),
        std=(73.9, 73.9, 73.9),
        digest="digest",
    )
    monkeypatch.setattr("optizoo.lab.data.load", lambda *_, **__: dataset)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dangling.json").symlink_to(tmp_path / "no" / "v.json")
    path = tmp_path / "tiny.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def only_folder() -> Path:
    (folder,) = Path("runs").iterdir()
    return folder


def test_list_names_every_optimizer(capsys: pytest.CaptureFixture[str]):
    """``optizoo list`` prints one line for each optimizer: its name and what it is."""
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == optizoo.list_optimizers()
    assert all(line.endswith(".") and ":" not in line and "`" not in line for line in lines)


def test_a_reader_who_has_read_enough():
    """Where the output goes to a pipe whose reader is gone, the command ends without a word, as others do."""
    code = (
        "import sys; from optizoo import cli; sys.stdout.reconfigure(line_buffering=True); sys.exit(cli.main(['list']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (141, "")


def test_version_names_torch_too(capsys: pytest.CaptureFixture[str]):
    """``optizoo --version`` prints both versions that a report of a fault needs."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"optizoo {optizoo.__version__}, torch {torch.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--help"], id="help"),
        pytest.param(["--version"], id="version"),
        pytest.param(["train", "--help"], id="help-of-a-command"),
        pytest.param(["lab", "list"], id="lab-list"),
        pytest.param(["configs"], id="configs"),
        pytest.param(["configs", "--copy", "quickstart", "copied.toml"], id="copy"),
        pytest.param(["lab", "momentum"], id="mistyped-experiment"),
    ],
)
def test_what_needs_no_torch_does_not_wait_for_it(arguments: list[str], tmp_path: Path):
    """Help, versions and names come without importing torch, which takes most of two seconds."""
    code = (
        "import sys; from optizoo import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: assert not {'torch', 'numpy', 'matplotlib'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


# verify ---------------------------------------------------------------------------------------------------------------


def result(**changes: Any) -> matrix.Result:
    values = {"params_ulp_first": 0, "states_ulp_first": 0, "params_ulp_last": 0, "states_ulp_last": 0, "steps": 3}
    return matrix.Result("adam", "lr=0.1", "loop", "float64", "torch loop, bitwise", **{**values, **changes})


@pytest.mark.parametrize(
    ("results", "status", "verdict"),
    [
        pytest.param([result()], 0, "all 1 cells pass", id="pass"),
        pytest.param([result(), result(passed=False, message="2 ulp apart")], 1, "1 of 2 cells fail", id="fail"),
    ],
)
def test_verify_tells_in_its_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    results: list[matrix.Result],
    status: int,
    verdict: str,
):
    """The exit status is 1 if a cell fails; table, verdict and JSON file say which and on what."""
    asked = []

    def verify(*arguments: Any) -> list[matrix.Result]:
        asked.append(arguments)
        return results

    monkeypatch.setattr(matrix, "verify", verify)
    arguments = ["verify", "--dtype", "float64", "float16", "--steps", "3", "--jobs", "2"]
    assert cli.main([*arguments, "--json", str(tmp_path / "v.json")]) == status
    pairs = matrix.option_combinations(pairs=True)
    assert asked == [([torch.float64, torch.float16], torch.device("cpu"), 3, pairs, 2)]
    out = capsys.readouterr().out
    assert out.startswith(matrix.format_table(results))
    assert f"torch {torch.__version__} on cpu" in out
    assert verdict in out
    assert ("FAIL adam(lr=0.1), loop, float64: 2 ulp apart" in out) is (status == 1)
    written = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))
    assert written["passed"] is (status == 0)
    assert len(written["cells"]) == len(results)
    assert written["processes"] == 2


@pytest.mark.parametrize(
    ("flags", "pairs", "steps", "said"),
    [
        pytest.param([], True, 100, "every pair of option values (--full: every combination); 100 steps", id="default"),
        pytest.param(["--full"], False, 1000, "every combination of options; 1000 steps", id="full"),
        pytest.param(["--full", "--steps", "7"], False, 7, "every combination of options; 7 steps", id="full-short"),
    ],
)
def test_verify_says_what_it_tried(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    pairs: bool,
    steps: int,
    said: str,
):
    """By default every pair of option values in few steps, with ``--full`` all; the last line says so."""
    asked = []
    monkeypatch.setattr(matrix, "verify", lambda *arguments: [asked.append(arguments) or result()])
    assert cli.main(["verify", *flags]) == 0
    assert asked[0][2:4] == (steps, matrix.option_combinations(pairs=pairs))
    assert capsys.readouterr().out.splitlines()[-1].startswith(said)


@pytest.mark.parametrize(
    ("terminal", "tqdm", "shown"),
    [
        pytest.param(False, True, "", id="no-terminal"),
        pytest.param(True, True, "0/2", id="bar"),
        pytest.param(True, False, "2 of 2 cells", id="without-tqdm"),
    ],
)
def test_verify_shows_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminal: bool,
    tqdm: bool,
    shown: str,
):
    """On a terminal a bar counts the cells, on stderr; elsewhere nothing does. A plain line stands in for tqdm."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find(name) if tqdm or name != "tqdm" else None)
    monkeypatch.setattr(matrix, "verify", lambda *_: iter([result(), result()]))
    monkeypatch.setattr(matrix, "count_cells", lambda *_: 2)
    monkeypatch.setattr(cli.sys.stderr, "isatty", lambda: terminal, raising=False)
    assert cli.main(["verify"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("cell") > 0 if terminal else captured.err == ""
    assert shown in captured.err
    assert "cells pass" in captured.out
    assert "\r" not in captured.out


# train ----------------------------------------------------------------------------------------------------------------


def test_train_writes_a_run_folder(config: Path, capsys: pytest.CaptureFixture[str]):
    """``optizoo train`` leaves record, checkpoint and resolved config in a folder that is named after the config."""
    assert (
        cli.main(
            ["train", str(config), "--train.epochs", "1", "--optimizer.betas", "0.5", "0.9", "--optimizer.name", "adam"]
        )
        == 0
    )
    folder = only_folder()
    assert folder.name.startswith("tiny-")
    assert sorted(path.name for path in folder.iterdir()) == [
        ".optizoo",
        "checkpoint.pt",
        "config.json",
        "record.jsonl",
    ]
    resolved = load_run(folder / "config.json")
    assert resolved.train.epochs == 1
    assert resolved.optimizer.options == {"betas": (0.5, 0.9)}
    found = Record.read(folder / "record.jsonl").result
    assert found is not None
    out = capsys.readouterr().out
    assert "finished after 3 steps" in out
    assert f"test accuracy {found['test_accuracy']:.2%}" in out


def test_train_does_not_overwrite_unasked(config: Path, capsys: pytest.CaptureFixture[str]):
    """A folder that holds a run is gone on with or begun anew only if the caller says which."""
    assert cli.main(["train", str(config), "--out", "here"]) == 0
    assert cli.main(["train", str(config), "--out", "here"]) == 2
    assert "error: here holds a run: go on with it (--resume), start over (--fresh)" in capsys.readouterr().err
    first = Path("here/record.jsonl").read_bytes()
    assert cli.main(["train", str(config), "--out", "here", "--resume"]) == 0
    assert Path("here/record.jsonl").read_bytes() == first
    assert cli.main(["train", str(config), "--out", "here", "--fresh"]) == 0


def test_train_keeps_what_it_cannot_go_on_with(config: Path, capsys: pytest.CaptureFixture[str]):
    """Another config is refused before anything in the folder changes."""
    assert cli.main(["train", str(config), "--out", "here"]) == 0
    before = {path: path.read_bytes() for path in Path("here").iterdir()}
    assert cli.main(["train", str(config), "--out", "here", "--resume", "--train.batch_size", "7"]) == 2
    assert "holds a run with another config" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("here").iterdir()} == before


def test_train_goes_on_with_other_paths_and_threads(config: Path):
    """What the digest leaves out may differ when a run goes on; paths stand in no file."""
    root = ["--data.root", "/home/somebody/images"]
    assert cli.main(["train", str(config), "--out", "here", *root]) == 0
    assert cli.main(["train", str(config), "--out", "here", "--resume", "--train.threads", "1"]) == 0
    assert not [path for path in Path("here").iterdir() if b"somebody" in path.read_bytes()]


def test_two_processes_do_not_train_in_one_folder(config: Path, capsys: pytest.CaptureFixture[str]):
    """A folder in which another process works is refused."""
    Path("here").mkdir()
    with locked(Path("here")):
        assert cli.main(["train", str(config), "--out", "here"]) == 2
    assert "error: another process works in here" in capsys.readouterr().err


def test_interrupted_run_resumes(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """After Ctrl-C the status is 130 and the message says how to go on; ``--resume`` does."""

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", interrupt)
        assert cli.main(["train", str(config)]) == 130
    assert capsys.readouterr().err == "interrupted: --resume goes on from here\n"
    assert cli.main(["train", str(config), "--resume"]) == 0
    assert "no checkpoint" in capsys.readouterr().err


# compare --------------------------------------------------------------------------------------------------------------


def test_compare_passes_on_what_was_asked(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """``optizoo compare`` reads the config with its overrides, hands it on, and prints the table it gets."""
    asked = {}

    def compare(config: Any, out: Any, **options: Any) -> comparing.CompareResult:
        asked.update(config=config, out=out, **options)
        return comparing.CompareResult("the table", Path("folder"), [], [])

    monkeypatch.setattr(comparing, "compare", compare)
    assert cli.main(["compare", str(config), "--out", "there", "--fresh", "--no-progress", "--seeds", "3", "4"]) == 0
    expected = load_compare(config, ["--seeds", "3", "4"])
    assert asked == {"config": expected, "out": Path("there"), "progress": False, "fresh": True}
    assert capsys.readouterr().out == f"the table\nreport: {Path('folder/report.html')}\n"


# bench ----------------------------------------------------------------------------------------------------------------


def test_bench_step_passes_on_what_was_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """``optizoo bench step`` hands on its choices, each name once, and prints the summary of the record it gets."""
    asked = {}
    monkeypatch.setattr(steps, "step_benchmark", lambda **options: asked.update(options) or {"a": "record"})
    monkeypatch.setattr(steps, "format_summary", lambda record: f"summary of {record}")
    chosen = ["--optimizer", "adam", "sgd", "adam", "--workload", "32M", "linear", "--threads", "3", "--repeats", "11"]
    assert cli.main(["bench", "step", *chosen, "--dtype", "bfloat16", "--json", str(tmp_path / "s.json")]) == 0
    assert asked == {
        "optimizers": ["adam", "sgd"],
        "workloads": {"32M": steps.WORKLOADS["32M"], "linear": steps.WORKLOADS["linear"]},
        "repeats": 11,
        "threads": 3,
        "device": torch.device("cpu"),
        "dtype": torch.bfloat16,
        "file": tmp_path / "s.json",
        "progress": sys.stderr.isatty(),
    }
    assert capsys.readouterr().out == "summary of {'a': 'record'}\n"


def test_bench_step_measures_everything_by_default(monkeypatch: pytest.MonkeyPatch):
    """Without choices every optimizer and workload is measured, at least seven times, in float32."""
    asked = {}
    monkeypatch.setattr(steps, "step_benchmark", lambda **options: asked.update(options))
    monkeypatch.setattr(steps, "format_summary", str)
    assert cli.main(["bench", "step"]) == 0
    assert tuple(asked["optimizers"]) == steps.OPTIMIZERS
    assert asked["workloads"] == steps.WORKLOADS
    assert asked["repeats"] >= 7
    assert (asked["dtype"], asked["threads"], asked["file"]) == (torch.float32, None, None)


def test_interrupted_bench_step_says_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """After Ctrl-C the status is 130, and the message names the file that has the finished cells."""

    def interrupt(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "step_benchmark", interrupt)
    file = tmp_path / "s.json"
    assert cli.main(["bench", "step", "--json", str(file)]) == 130
    assert capsys.readouterr().err == f"interrupted: {file} has the cells that were finished\n"
    assert cli.main(["bench", "step"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.usefixtures("config")
def test_bench_epoch_passes_on_what_was_asked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """``optizoo bench epoch`` hands on its choices, prints the table and writes the record."""
    asked = {}

    def epoch_benchmark(dataset: Dataset, **options: Any) -> dict[str, Any]:
        asked.update(options)
        return {"rows": len(dataset.train)}

    monkeypatch.setattr(epochs, "epoch_benchmark", epoch_benchmark)
    monkeypatch.setattr(epochs, "format_epochs", lambda result: f"table of {result}")
    chosen = ["--model", "two_layer", "--batch-size", "64", "--repeats", "3"]
    assert cli.main(["bench", "epoch", *chosen, "--json", "e.json"]) == 0
    assert asked == {"models": ["two_layer"], "batch_size": 64, "repeats": 3, "device": "auto"}
    assert capsys.readouterr().out == "table of {'rows': 40}\n"
    assert json.loads(Path("e.json").read_text(encoding="utf-8")) == {"rows": 40}


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["train", "nowhere.toml"], "nowhere.toml: cannot be read", id="no-config"),
        pytest.param(["train", "tiny.toml", "--train.epochs", "-3"], "key train.epochs = -3; must be", id="value"),
        pytest.param(["train", "tiny.toml", "--train.epoch", "3"], "did you mean 'epochs'?", id="key"),
        pytest.param(
            ["train", "tiny.toml", "--optimizer.differentiable", "true"],
            "nothing here differentiates",
            id="differentiable",
        ),
        pytest.param(["train", "tiny.toml", "extra"], "'extra' stands before any --key", id="argument"),
        pytest.param(["train", "tiny.toml", "--train.device", "cuda:99"], "key train.device = 'cuda:99'", id="device"),
        pytest.param(["compare", "tiny.toml", "--optimiser.lr", "1"], "did you mean 'optimizers'?", id="compare-key"),
        pytest.param(
            ["compare", "tiny.toml", "--optimizer.lr", "1"],
            "with this key is run with optizoo train",
            id="run-as-compare",
        ),
        pytest.param(
            ["train", "tiny.toml", "--seeds", "1"], "with this key is run with optizoo compare", id="compare-as-run"
        ),
        pytest.param(["verify", "--device", "cuda:99"], "--device cuda:99 cannot be used", id="verify-device"),
        pytest.param(["verify", "--json", "no/v.json"], "make its folder no first", id="verify-json"),
        pytest.param(["verify", "--json", "."], "it is a folder; give a file in it", id="verify-json-folder"),
        pytest.param(["bench", "step", "--device", "cuda:99"], "--device cuda:99 cannot be used", id="bench-device"),
        pytest.param(["bench", "step", "--workload", "linea"], "did you mean 'linear'?", id="bench-workload"),
        pytest.param(
            ["bench", "step", "--workload", "sparse", "--optimizer", "adam"],
            "--workload sparse has sparse gradients, which adam cannot take",
            id="bench-sparse",
        ),
        pytest.param(["bench", "step", "--optimizer", "adamm"], "did you mean 'adam'?", id="bench-optimizer"),
        pytest.param(["bench", "epoch", "--model", "two-layer"], "did you mean 'two_layer'?", id="bench-model"),
        pytest.param(["bench", "step", "--json", "no/s.json"], "make its folder no first", id="bench-step-json"),
        pytest.param(["bench", "step", "--json", "."], "it is a folder", id="bench-step-json-folder"),
        pytest.param(["bench", "epoch", "--json", "no/e.json"], "make its folder no first", id="bench-epoch-json"),
        pytest.param(["verify", "--json", "dangling.json"], "no first", id="verify-json-of-a-dangling-link"),
        pytest.param(["verify", "--device", "meta"], "--device meta cannot be used", id="verify-on-no-memory"),
    ],
)
def test_mistakes_are_one_line(config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str):
    """A mistake of the user ends with one line on stderr and status 2, and leaves no folder behind."""
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="nothing"),
        pytest.param(["trian"], id="command"),
        pytest.param(["list", "--loud"], id="flag"),
        pytest.param(["verify", "--steps", "0"], id="steps"),
        pytest.param(["verify", "--jobs", "0"], id="jobs"),
        pytest.param(["verify", "--jobs", "1000000000000"], id="many-jobs"),
        pytest.param(["verify", "--steps", "9" * 5000], id="many-steps"),
        pytest.param(["verify", "--dtype", "int8"], id="dtype"),
        pytest.param(["train"], id="no-config"),
        pytest.param(["bench"], id="no-benchmark"),
        pytest.param(["bench", "step", "--repeats", "0"], id="repeats"),
        pytest.param(["bench", "step", "--workload"], id="no-workload"),
    ],
)
def test_misused_commands_print_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]):
    """What the command line itself cannot parse ends with its usage and status 2."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: optizoo")


def test_debug_shows_the_traceback(config: Path):
    """With ``--debug`` the error itself comes out."""
    with pytest.raises(ValueError, match="must be greater than or equal to 1"):
        cli.main(["train", "--debug", str(config), "--train.epochs", "-3"])


def test_faults_of_the_program_are_not_hidden(config: Path, monkeypatch: pytest.MonkeyPatch):
    """An error that is not the user's comes with its traceback."""

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("a fault")

    monkeypatch.setattr(training, "train", fail)
    with pytest.raises(ValueError, match="a fault"):
        cli.main(["train", str(config)])


def test_missing_lab_extra_is_told(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Without the extra, what needs it says what to install, and the other commands work."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("tqdm", "jinja2") else name)
    for arguments in (["train", str(config)], ["compare", str(config)], ["bench", "step"], ["bench", "epoch"]):
        assert cli.main(arguments) == 2
        assert capsys.readouterr().err == "error: the lab needs jinja2, tqdm too: pip install 'optizoo[lab]'\n"
    assert cli.main(["list"]) == 0


def test_importing_the_command_line_does_not_import_the_lab():
    """``optizoo list`` and ``optizoo verify`` work where only torch is installed."""
    code = "import sys, optizoo.cli; sys.exit(any(name.startswith('optizoo.lab') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
