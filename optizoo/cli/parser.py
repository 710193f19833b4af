"""The commands and their flags. What a command does is imported when it is run."""

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

OVERRIDES = """
CONFIG is a TOML file, the config.json of a run folder, or the name of a config that is shipped: see optizoo configs.
Every value of the config can be set behind it, by its dotted name:

  optizoo {command} {file} --train.epochs 3 --model.name two_layer {example}

Values are written as in TOML, where quotes may be left out; several make a list; none stands for "left out".
"""
VERIFY_EPILOG = """
By default every pair of option values is tried, in as few combinations as that takes and in 100 steps, with every
backend and type: a minute or so on two cores. --full tries every combination, in 1000 steps.

--references holds the loops against the same optimizers of other packages (pip install 'optizoo[oracles]').
"""
CONFIGS_EPILOG = """
  optizoo configs                         name the configs that are shipped
  optizoo compare quickstart              run one by its name
  optizoo configs --copy quickstart       write it to quickstart.toml, to edit
"""
LAB_EPILOG = """
  optizoo lab list                                        name the experiments
  optizoo lab NAME [--option value ...] [--out DIR]       run one, and make its page
  optizoo lab all [--out DIR] [--fresh]                   run all that are not finished, and make the book
  optizoo lab book DIR                                    make the book again from the records in a folder
"""
DTYPES = ["float32", "float64", "bfloat16", "float16"]
MOST = 1_000_000  # of whatever is counted: beyond it nobody waits for the end


class _Version(argparse.Action):
    """Prints the versions, which are looked up for nothing else."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from optizoo import __version__

        print(f"optizoo {__version__}, torch {_torch_version()}")
        parser.exit()


def _torch_version() -> str:
    """Return what ``torch.__version__`` is: its file knows of the build, as the distribution does not."""
    import runpy
    from importlib.util import find_spec

    spec = find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    if file is None or not file.is_file():
        return "is missing"
    return runpy.run_path(str(file))["__version__"]


def _lazily(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    return lambda options: getattr(import_module(f"optizoo.cli.{module}"), function)(options)


def count(text: str) -> int:
    """Return a number of things, from 1 to :data:`MOST`."""
    if not text.isdecimal() or not 1 <= int(text[:20]) <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer from 1 to {MOST}")
    return int(text)


def path(text: str) -> Path:
    """Return a path; ``~`` is the home folder also where no shell has seen to that, as in ``--out=~/runs``."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def at_once(text: str) -> int:
    """Return a number of threads or processes, from 1 to what a machine can be asked for."""
    from optizoo.lab.limits import at_once

    if not text.isdecimal() or not 1 <= int(text[:20]) <= at_once():
        raise argparse.ArgumentTypeError(f"{text!r} is no integer from 1 to {at_once()}, for this machine")
    return int(text)


def command_line() -> argparse.ArgumentParser:
    """Return the parser; the function that runs a command is its ``run``."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = argparse.ArgumentParser(prog="optizoo", description="An optimizer zoo for PyTorch.", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the versions of optizoo and torch")
    parser.set_defaults(how_to_go_on="")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, what: str, epilog: str = "", of: Any = commands) -> argparse.ArgumentParser:
        return of.add_parser(
            name,
            help=what,
            description=what[0].upper() + what[1:] + ".",
            epilog=epilog,
            parents=[common],
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    zoo = command("list", "name the optimizers, one a line")
    zoo.set_defaults(run=_lazily("verifying", "zoo"))

    verify = command("verify", "hold every optimizer against torch.optim on this machine", VERIFY_EPILOG)
    verify.add_argument("--device", default="cpu", help="where the parameters live, such as cuda (default: cpu)")
    verify.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES, help="types of the parameters")
    verify.add_argument("--full", action="store_true", help="every combination of options, in 1000 steps (minutes)")
    verify.add_argument("--steps", type=count, help="length of the runs (default: 100, or 1000 with --full)")
    verify.add_argument("--jobs", type=at_once, help="processes that share the work (default: one a core, at most 4)")
    verify.add_argument("--json", type=path, metavar="FILE", help="also write every cell to a JSON file")
    verify.add_argument("--verbose", action="store_true", help="a line for every combination of options")
    verify.add_argument(
        "--references",
        action="store_true",
        help="hold the loops against those of other packages instead, in float64 (default: 1000 steps)",
    )
    verify.set_defaults(run=_lazily("verifying", "verify"))

    epilog = OVERRIDES.format(command="train", file="RUN.toml", example="--optimizer.betas 0.9 0.99")
    train = command("train", "train one model as a config says", epilog)
    train.set_defaults(run=_lazily("training", "train"), how_to_go_on=": --resume goes on from here")

    epilog = OVERRIDES.format(command="compare", file="COMPARE.toml", example="--seeds 0 1 2 --optimizers.0.lr 0.1")
    compare = command("compare", "compare optimizers with each other and with their torch twins", epilog)
    compare.set_defaults(run=_lazily("training", "compare"), how_to_go_on=": the same command goes on from here")

    epilog = OVERRIDES.format(command="sweep", file="SWEEP.toml", example="--trials 40 --tuning_seeds 0 1")
    sweep = command("sweep", "tune optimizers at equal budgets, and compare the best of each from new seeds", epilog)
    sweep.set_defaults(run=_lazily("sweeping", "sweep"), how_to_go_on=": the same command goes on from here")

    for each in (compare, sweep):
        each.add_argument("--storage", metavar="URL", help="database that workers on many machines share")
        each.add_argument(
            "--heartbeat", type=count, metavar="S", help="a worker silent for 3 x so many seconds is dead (default: 10)"
        )

    begin = train.add_mutually_exclusive_group()
    begin.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    begin.add_argument("--fresh", action="store_true", help="start over in a folder that holds a run")
    compare.add_argument("--fresh", action="store_true", help="start over in a folder that holds a comparison")
    for each in (train, compare, sweep):
        each.add_argument(
            "config", metavar="CONFIG", help="a TOML file, a config.json, or the name of a shipped config"
        )
        each.add_argument("--out", type=path, metavar="DIR", help="run folder (default: runs/<name>-<digest>)")
        each.add_argument("--no-progress", action="store_true", help="no progress bars")

    configs = command("configs", "name the configs that are shipped, one a line", CONFIGS_EPILOG)
    configs.add_argument(
        "--copy", nargs="+", metavar=("NAME", "PATH"), help="write one out to edit (default: NAME.toml), over nothing"
    )
    configs.set_defaults(run=_lazily("configs", "configs"))

    bench = command("bench", "measure times beside torch.optim and hand-written loops")
    of = bench.add_subparsers(title="benchmarks", metavar="WHAT", required=True)
    step = command("step", "time one step of every optimizer, side by side with torch.optim", of=of)
    step.add_argument("--optimizer", nargs="+", metavar="NAME", help="optimizers (default: five that torch has)")
    step.add_argument("--workload", nargs="+", metavar="NAME", help="sets of parameters (default: all)")
    step.add_argument("--threads", type=at_once, help="threads of torch (default: as many as torch takes)")
    step.add_argument("--repeats", type=count, default=9, help="repeats of every side (default: 9)")
    step.add_argument("--device", default="cpu", help="where the parameters live, such as cuda (default: cpu)")
    step.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the parameters (default: float32)")
    step.add_argument(
        "--references", action="store_true", help="beside the packages of the zoo's references, on the CPU in float32"
    )
    step.set_defaults(run=_lazily("bench", "step"))

    epoch = command("epoch", "time an epoch of a CIFAR-10 model, side by side with hand-written loops", of=of)
    epoch.add_argument("--model", nargs="+", metavar="NAME", help="linear, two_layer (default: linear)")
    epoch.add_argument("--data", default="cifar10", help="data set; synthetic needs no images (default: cifar10)")
    epoch.add_argument("--batch-size", type=count, default=128, help="images in a batch (default: 128)")
    epoch.add_argument("--runs", type=count, help="time so many runs, as populations and one after the other, instead")
    epoch.add_argument("--repeats", type=count, default=7, help="repeats of the fast sides (default: 7)")
    epoch.add_argument("--device", default="auto", help="where to train (default: cuda if there is one)")
    epoch.set_defaults(run=_lazily("bench", "epoch"))
    for each in (step, epoch):
        each.add_argument("--json", type=path, metavar="FILE", help="also write the record to a JSON file")

    lab = command("lab", "run the experiments of the optimization lecture", LAB_EPILOG)
    lab.add_argument("what", metavar="NAME | list | all | book", help="an experiment, or one of the words below")
    lab.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its options; --help shows them")
    lab.set_defaults(run=_lazily("lab", "lab"))
    return parser
