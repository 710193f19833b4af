"""The command line: ``optizoo list | verify | train | compare | bench | lab``.

Mistakes of the user end with one line on stderr and status 2; ``--debug`` shows where they came from. What needs the
extra ``lab`` is imported by its sub-command, so the others work without it.
"""

import argparse
import errno
import importlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import chdir, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from optizoo import __version__, streams
from optizoo.core.names import did_you_mean
from optizoo.zoo import list_optimizers, optimizer_class

OVERRIDES = """
Every value of the config can be set behind its file, by its dotted name:

  optizoo {command} {file} --train.epochs 3 --model.name two_layer {example}

Values are written as in TOML, where quotes may be left out; several make a list; none stands for "left out".
"""
VERIFY_EPILOG = """
By default every pair of option values is tried, in as few combinations as that takes and in 100 steps, with every
backend and type: a minute or so on two cores. --full tries every combination, in 1000 steps.

--references holds the loops against the same optimizers of other packages (pip install 'optizoo[oracles]').
"""
LAB_EPILOG = """
  optizoo lab list                                        name the experiments
  optizoo lab NAME [--option value ...] [--out DIR]       run one, and make its page
  optizoo lab all [--out DIR] [--fresh]                   run all that are not finished, and make the book
  optizoo lab book DIR                                    make the book again from the records in a folder
"""
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
REMEDIES = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room in your quota",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "give a folder that can be written to",
    errno.EEXIST: "it is no folder; give another path",
    errno.ENOTDIR: "it is no folder; give another path",
    errno.EISDIR: "it is a folder; give another path",
}
LAB = ("jinja2", "matplotlib", "numpy", "PIL", "torchvision", "tqdm")


class UsageError(ValueError):
    """The command line asks for something that cannot be done."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    It is 0, or 1 if a verification fails, 2 for what the user can mend (a mistake, data or files that cannot be used, a
    full disk, a run that diverged), 130 after SIGINT; SIGTERM leaves with 143 (``SystemExit``) where training saves
    a checkpoint first.

    >>> main(["list"])
    sgd       Stochastic gradient descent, with momentum and Nesterov's form of it; drop-in for torch.optim.SGD.
    momentum  Gradient descent with momentum, in either of its two forms.
    ...
    0
    """
    streams.prepare()
    options = argparse.Namespace(debug=False, how_to_go_on="")
    try:
        options = _parsed(arguments)
        status = options.run(options)
        streams.flush()
        return status
    except KeyboardInterrupt:
        streams.tell(f"interrupted{options.how_to_go_on}")
        return 128 + signal.SIGINT
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGTERM:
            streams.tell(f"interrupted{options.how_to_go_on}")
        raise
    except BrokenPipeError:  # whoever read the output has read enough, as `head` does
        streams.silence(sys.stdout)
        return 128 + signal.SIGPIPE
    except Exception as error:
        if options.debug or not _is_users(error):
            raise
        streams.tell(f"error: {_told(error)}")
        return 2


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    try:
        options, rest = parser.parse_known_args(arguments)
        if rest and not hasattr(options, "config"):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
    except SystemExit:  # the help was printed
        streams.flush()
        raise
    options.overrides = rest
    return options


def _told(error: Exception) -> str:
    """Return what is wrong and what to do, in one line."""
    if isinstance(error, OSError) and error.filename is None:
        error = streams.named(error)
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        what = error.filename2 or error.filename or "a file"  # the second is where a file was to be moved
        message = f"{what}: {error.strerror}: {REMEDIES.get(error.errno or 0, 'check the path')}"
    return " ".join(message.split())


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = argparse.ArgumentParser(prog="optizoo", description="An optimizer zoo for PyTorch.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"optizoo {__version__}, torch {torch.__version__}")
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
    zoo.set_defaults(run=_list)

    verify = command("verify", "hold every optimizer against torch.optim on this machine", VERIFY_EPILOG)
    verify.add_argument("--device", default="cpu", help="where the parameters live, such as cuda (default: cpu)")
    verify.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES), help="types of the parameters")
    verify.add_argument("--full", action="store_true", help="every combination of options, in 1000 steps (minutes)")
    verify.add_argument("--steps", type=_positive, help="length of the runs (default: 100, or 1000 with --full)")
    verify.add_argument("--jobs", type=_positive, help="processes that share the work (default: one a core, at most 4)")
    verify.add_argument("--json", type=_path, metavar="FILE", help="also write every cell to a JSON file")
    verify.add_argument("--verbose", action="store_true", help="a line for every combination of options")
    verify.add_argument(
        "--references",
        action="store_true",
        help="hold the loops against those of other packages instead, in float64 (default: 1000 steps)",
    )
    verify.set_defaults(run=_verify)

    epilog = OVERRIDES.format(command="train", file="RUN.toml", example="--optimizer.betas 0.9 0.99")
    train = command("train", "train one model as a config says", epilog)
    train.set_defaults(run=_train, how_to_go_on=": --resume goes on from here")

    epilog = OVERRIDES.format(command="compare", file="COMPARE.toml", example="--seeds 0 1 2 --optimizers.0.lr 0.1")
    compare = command("compare", "compare optimizers with each other and with their torch twins", epilog)
    compare.set_defaults(run=_compare, how_to_go_on=": the same command goes on from here")

    begin = train.add_mutually_exclusive_group()
    begin.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    begin.add_argument("--fresh", action="store_true", help="start over in a folder that holds a run")
    compare.add_argument("--fresh", action="store_true", help="start over in a folder that holds a comparison")
    for each in (train, compare):
        each.add_argument("config", type=_path, metavar="CONFIG", help="a TOML file, or config.json of a run folder")
        each.add_argument("--out", type=_path, metavar="DIR", help="run folder (default: runs/<name>-<digest>)")
        each.add_argument("--no-progress", action="store_true", help="no progress bars")

    bench = command("bench", "measure times beside torch.optim and hand-written loops")
    of = bench.add_subparsers(title="benchmarks", metavar="WHAT", required=True)
    step = command("step", "time one step of every optimizer, side by side with torch.optim", of=of)
    step.add_argument("--optimizer", nargs="+", metavar="NAME", help="optimizers (default: five that torch has)")
    step.add_argument("--workload", nargs="+", metavar="NAME", help="sets of parameters (default: all)")
    step.add_argument("--threads", type=_positive, help="threads of torch (default: as many as torch takes)")
    step.add_argument("--repeats", type=_positive, default=9, help="repeats of every side (default: 9)")
    step.add_argument("--device", default="cpu", help="where the parameters live, such as cuda (default: cpu)")
    step.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the parameters (default: float32)")
    step.add_argument(
        "--references", action="store_true", help="beside the packages of the zoo's references, on the CPU in float32"
    )
    step.set_defaults(run=_bench_step)

    epoch = command("epoch", "time an epoch of a CIFAR-10 model, side by side with hand-written loops", of=of)
    epoch.add_argument("--model", nargs="+", metavar="NAME", help="linear, two_layer (default: linear)")
    epoch.add_argument("--data", default="cifar10", help="data set; synthetic needs no images (default: cifar10)")
    epoch.add_argument("--batch-size", type=_positive, default=128, help="images in a batch (default: 128)")
    epoch.add_argument("--repeats", type=_positive, default=7, help="repeats of the fast sides (default: 7)")
    epoch.add_argument("--device", default="auto", help="where to train (default: cuda if there is one)")
    epoch.set_defaults(run=_bench_epoch)
    for each in (step, epoch):
        each.add_argument("--json", type=_path, metavar="FILE", help="also write the record to a JSON file")

    lab = command("lab", "run the experiments of the optimization lecture", LAB_EPILOG)
    lab.add_argument("what", metavar="NAME | list | all | book", help="an experiment, or one of the words below")
    lab.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its options; --help shows them")
    lab.set_defaults(run=_lab)
    return parser


def _path(text: str) -> Path:
    """Return a path; ``~`` is the home folder also where no shell has seen to that, as in ``--out=~/runs``."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive integer")
    return int(text)


def _is_users(error: Exception) -> bool:
    """Return whether an error says by itself what to do, so that a traceback would only hide it."""
    if isinstance(error, (UsageError, ImportError, OSError)):
        return True
    # The lab's own errors; they exist only once the lab is imported.
    names = {
        "CheckpointError",
        "CompareError",
        "ConfigError",
        "DataError",
        "ExperimentError",
        "FolderError",
        "RecordError",
    }
    return any(kind.__module__.startswith("optizoo.lab.") and kind.__name__ in names for kind in type(error).__mro__)


# list and verify ----------------------------------------------------------------------------------------------------


def _list(_: argparse.Namespace) -> int:
    width = max(map(len, list_optimizers()))
    for name in list_optimizers():
        doc = optimizer_class(name).__doc__ or ""
        first = doc.strip().partition("\n")[0].replace(":class:", "").replace("`", "")
        print(f"{name:{width}}  {first}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from optizoo.testing import verify as matrix

    if options.references:
        return _verify_references(options)
    device, dtypes = _device(options.device), [DTYPES[name] for name in options.dtype]
    _check_file(options.json)
    steps = options.steps or (matrix.FULL_STEPS if options.full else matrix.STEPS)
    combinations = matrix.option_combinations(pairs=not options.full)
    jobs = options.jobs or (min(_cores(), 4) if device.type == "cpu" else 1)
    cells = matrix.verify(dtypes, device, steps, combinations, jobs)
    results = [*_watched(cells, matrix.count_cells(dtypes, device, combinations))]
    print(matrix.format_table(results, every_cell=options.verbose))
    failures = [result for result in results if not result.passed]
    for result in failures:
        print(f"FAIL {result.optimizer}({result.options}), {result.backend}, {result.dtype}: {result.message}")
    verdict = f"{len(failures)} of {len(results)} cells fail" if failures else f"all {len(results)} cells pass"
    threads = f"{jobs} x {matrix.threads_of(jobs)} threads" if jobs > 1 else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__} on {device}, {threads}: {verdict}")
    extent = (
        "every combination of options" if options.full else "every pair of option values (--full: every combination)"
    )
    print(f"{extent}; {steps} steps where bits are compared, up to half as many elsewhere")
    _write_cells(options.json, matrix.as_json(results, device, jobs))
    return 1 if failures else 0


def _verify_references(options: argparse.Namespace) -> int:
    from optizoo.testing import references

    if options.full or options.jobs or options.device != "cpu" or options.dtype != list(DTYPES):
        raise UsageError(
            "--references runs loops in float64 on the CPU: leave out --full, --jobs, --device and --dtype"
        )
    _check_file(options.json)
    rows = [*_watched(references.compare(steps=options.steps or references.STEPS), references.count_rows())]
    missing = sorted({row.distribution for row in rows if not row.version})
    if not any(row.version for row in rows):
        raise ImportError(f"none of {', '.join(missing)} is installed: pip install 'optizoo[oracles]'")
    print(references.format_references(rows, every_row=options.verbose))
    failures = [row for row in rows if row.verdict == "FAIL"]
    for row in failures:
        print(f"FAIL {row.optimizer}({row.options}) beside {row.reference}: {row.message or 'they differ'}")
    for name in missing:
        print(f"{name} is not installed: pip install 'optizoo[oracles]'")
    verdict = f"{len(failures)} of {len(rows)} rows fail" if failures else f"all {len(rows)} rows pass"
    print(f"torch {torch.__version__}: {verdict}; {references.ASKED:g} of the way is asked for where no fault is named")
    _write_cells(options.json, references.as_json(rows))
    return 1 if failures else 0


def _write_cells(file: Path | None, record: dict[str, Any]) -> None:
    """Write a record of a verification to a JSON file, if one is wanted."""
    if file is None:
        return
    from optizoo.lab.files import write

    write(file, json.dumps(record).replace('{"optimizer"', '\n{"optimizer"') + "\n")  # a line a cell


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _watched(cells: Iterable[Any], total: int) -> Iterator[Any]:
    """Yield the cells, and show on a terminal how many there have been: with tqdm, where it is installed."""
    if not sys.stderr.isatty():
        yield from cells
    elif importlib.util.find_spec("tqdm") is not None:
        from tqdm import tqdm

        yield from tqdm(cells, total=total, unit="cell", leave=False, file=sys.stderr)
    else:
        for count, cell in enumerate(cells, start=1):
            print(f"\r{count} of {total} cells", end="" if count < total else "\n", file=sys.stderr, flush=True)
            yield cell


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise UsageError(f"--device {name} cannot be used ({reason}): give cpu, or a device of this machine") from error
    return device


# train and compare --------------------------------------------------------------------------------------------------


def _require_lab() -> None:
    """Raise the ImportError that helps, where the extra is not installed."""
    missing = [name for name in LAB if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"the lab needs {', '.join(missing)} too: pip install 'optizoo[lab]'")


def _import_matplotlib() -> None:
    """Import matplotlib without the settings of others, which may name what is not here: a notebook's, a user's."""
    ours = {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        # A matplotlibrc of the current folder comes before all others.
        with chdir(Path(__file__).parent) if os.path.exists("matplotlibrc") else nullcontext():
            importlib.import_module("matplotlib")
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _train(options: argparse.Namespace) -> int:
    _require_lab()
    from optizoo.lab import checkpoint, data
    from optizoo.lab.config import digest, load_run
    from optizoo.lab.run_folder import CHECKPOINT, RECORD, check_run, train_in
    from optizoo.lab.train import resolve_device

    config = load_run(options.config, options.overrides)
    folder = options.out or Path("runs") / f"{config.name}-{digest(config)}"
    check_run(folder, resume=options.resume, fresh=options.fresh)  # what is not ours shows before the data are read
    resolve_device(config.train.device)
    dataset = data.load(**asdict(config.data))
    # What is written can be handed on: it does not tell where the data lie.
    config = replace(config, data=replace(config.data, root=None, cache=None))
    trained, place = train_in(
        folder, config, dataset, resume=options.resume, fresh=options.fresh, progress=not options.no_progress
    )
    record, saved = place / RECORD, place / CHECKPOINT
    result = trained.record.result
    assert result is not None
    if trained.status == "diverged":
        kept = f"{saved} has the state before" if checkpoint.exists(saved) else "it had no checkpoint yet"
        raise UsageError(
            f"{record}: the run diverged after {result['steps']} steps, loss or weights are not finite: "
            f"lower optimizer.lr = {config.optimizer.lr:g}; {kept}"
        )
    print(f"{trained.status} after {result['steps']} steps, {result['seconds']:.1f} s of training")
    if result["final_loss"] is not None:
        print(f"mean loss of the last epoch {result['final_loss']:.4f}")
    for split in ("validation", "test"):
        if result[f"{split}_accuracy"] is not None:
            print(f"{split} accuracy {result[f'{split}_accuracy']:.2%}")
    print(f"record: {record}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    _require_lab()
    _import_matplotlib()
    from optizoo.lab.compare import compare
    from optizoo.lab.config import load_compare

    config = load_compare(options.config, options.overrides)
    if options.fresh:
        options.how_to_go_on = ": the same command without --fresh goes on from here"
    result = compare(config, options.out, progress=not options.no_progress, fresh=options.fresh)
    print(result.table)
    print(f"report: {result.folder / 'report.html'}")
    return 0


# bench ---------------------------------------------------------------------------------------------------------------


def _bench_step(options: argparse.Namespace) -> int:
    _require_lab()
    from optizoo.lab import step_benchmark as bench
    from optizoo.lab.files import is_stream
    from optizoo.testing import has_torch_twin

    if options.references:
        return _bench_references(options)
    optimizers = _chosen("--optimizer", options.optimizer, [*filter(has_torch_twin, list_optimizers())])
    workloads = _chosen("--workload", options.workload, bench.WORKLOADS)
    chosen = {name: bench.WORKLOADS[name] for name in workloads or bench.WORKLOADS}
    if not any(each.serves(name) for each in chosen.values() for name in optimizers or bench.OPTIMIZERS):
        raise UsageError(
            f"--workload {' '.join(chosen)} has sparse gradients, which {' and '.join(optimizers)} cannot take; "
            f"--optimizer may be {', '.join(bench.SPARSE)}"
        )
    device = _device(options.device)
    _check_file(options.json)
    if options.json is not None and not is_stream(options.json):
        options.how_to_go_on = f": {options.json} has the cells that were finished"
    record = bench.step_benchmark(
        optimizers=optimizers or bench.OPTIMIZERS,
        workloads=chosen,
        repeats=options.repeats,
        threads=options.threads,
        device=device,
        dtype=DTYPES[options.dtype],
        file=options.json,
        progress=sys.stderr.isatty(),
    )
    print(bench.format_summary(record))
    return 0


def _bench_references(options: argparse.Namespace) -> int:
    from optizoo.lab import reference_benchmark
    from optizoo.lab.step_benchmark import WORKLOADS

    if options.device != "cpu" or options.dtype != "float32":
        raise UsageError("--references times steps on the CPU in float32; leave out --device and --dtype")
    optimizers = _chosen("--optimizer", options.optimizer, list_optimizers())
    workloads = _chosen("--workload", options.workload, [name for name, each in WORKLOADS.items() if not each.batch])
    _check_file(options.json)
    record = reference_benchmark.reference_benchmark(
        optimizers=optimizers or (),
        workloads=workloads or reference_benchmark.WORKLOADS,
        repeats=options.repeats,
        threads=options.threads,
        file=options.json,
        progress=sys.stderr.isatty(),
    )
    if not record["cells"]:
        raise UsageError("nothing to compare with is installed; pip install 'optizoo[oracles]'")
    print(reference_benchmark.format_references(record))
    return 0


def _bench_epoch(options: argparse.Namespace) -> int:
    _require_lab()
    from optizoo.lab import data
    from optizoo.lab.benchmark import epoch_benchmark, format_epochs
    from optizoo.lab.files import write_json
    from optizoo.lab.models import list_models

    models = _chosen("--model", options.model, list_models()) or ["linear"]
    _check_file(options.json)
    dataset = data.load(options.data)
    result = epoch_benchmark(
        dataset, models=models, batch_size=options.batch_size, repeats=options.repeats, device=options.device
    )
    print(format_epochs(result))
    if options.json is not None:
        write_json(options.json, result)
    return 0


# lab -----------------------------------------------------------------------------------------------------------------


def _lab(options: argparse.Namespace) -> int:
    from optizoo.lab.experiments import EXPERIMENTS, title

    parser = argparse.ArgumentParser(prog=f"optizoo lab {options.what}", allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", default=options.debug, help="show the traceback of an error")
    words = ("list", "all", "book")
    if options.what == "list":
        _rest(parser, options)
        width = max(map(len, EXPERIMENTS))
        for name in EXPERIMENTS:
            print(f"{name:{width}}  {title(name)}")
        return 0
    if options.what not in (*words, *EXPERIMENTS):
        raise UsageError(f"unknown experiment {options.what!r}: {did_you_mean(options.what, [*EXPERIMENTS, *words])}")
    _require_lab()
    _import_matplotlib()
    from optizoo.lab import book

    if options.what == "book":
        parser.add_argument("folder", type=_path, metavar="DIR", help="folder with the records of experiments")
        print(f"book: {book.write_book(_rest(parser, options).folder)}")
        return 0
    default = Path("runs") / f"lab-{'book' if options.what == 'all' else options.what}"
    parser.add_argument("--out", type=_path, metavar="DIR", default=default, help=f"folder (default: {default})")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")
    if options.what == "all":
        parser.add_argument("--fresh", action="store_true", help="run also what is finished")
        options.how_to_go_on = ": the same command goes on from here"
        chosen = _rest(parser, options)
        print(f"book: {book.run_all(chosen.out, progress=not chosen.no_progress, fresh=chosen.fresh)}")
        return 0
    parser.description = title(options.what)
    known = book.add_flags(parser, options.what)
    chosen = _rest(parser, options)
    values = {name: getattr(chosen, name) for name in known}
    page = book.run(options.what, chosen.out, progress=not chosen.no_progress, **values)
    print(book.summary(options.what, chosen.out))
    print(f"report: {page}")
    return 0


def _rest(parser: argparse.ArgumentParser, options: argparse.Namespace) -> argparse.Namespace:
    """Parse what follows the word behind ``lab``, and suggest the name of a flag that was meant."""
    flags = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    chosen, unknown = parser.parse_known_args(options.rest)
    options.debug = chosen.debug
    if unknown and unknown[0].startswith("-"):
        flag = unknown[0].partition("=")[0]
        raise UsageError(f"unknown option {flag} of {parser.prog}: {did_you_mean(flag, flags)}")
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return chosen


def _chosen(flag: str, names: Sequence[str] | None, known: Collection[str]) -> list[str]:
    """Return the names, each once, or raise where one is unknown."""
    for name in names or ():
        if name not in known:
            raise UsageError(f"{flag} {name} is unknown: {did_you_mean(name, known)}")
    return [*dict.fromkeys(names or ())]


def _check_file(file: Path | None) -> None:
    """Raise where a file cannot be written, before anything is measured for it."""
    if file is None:
        return
    parent = file.parent if not file.is_symlink() else Path(os.path.realpath(file)).parent
    if not file.exists() and not parent.is_dir():
        raise UsageError(f"--json {file} cannot be written: make its folder {parent} first")
    if file.is_dir():
        raise UsageError(f"--json {file} cannot be written: it is a folder; give a file in it")
    if not os.access(file if file.exists() else parent, os.W_OK):
        raise UsageError(f"--json {file} cannot be written: check its permissions, or give another path")


if __name__ == "__main__":
    sys.exit(main())
