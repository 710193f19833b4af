"""``optizoo lab``."""

import argparse
import re
from pathlib import Path

from optizoo.cli import arguments
from optizoo.cli.errors import UsageError
from optizoo.cli.parser import path
from optizoo.core.names import did_you_mean


def lab(options: argparse.Namespace) -> int:
    """Run experiments, or make their book."""
    from optizoo.lab.experiments import EXPERIMENTS, title

    parser = argparse.ArgumentParser(prog=f"optizoo lab {options.what}", allow_abbrev=False)
    parser._negative_number_matcher = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)  # -1e3 and -inf are values too
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
    arguments.require_lab()
    arguments.import_matplotlib()
    from optizoo.lab import book

    if options.what == "book":
        parser.add_argument("folder", type=path, metavar="DIR", help="folder with the records of experiments")
        print(f"book: {book.write_book(_rest(parser, options).folder)}")
        return 0
    default = Path("runs") / f"lab-{'book' if options.what == 'all' else options.what}"
    parser.add_argument("--out", type=path, metavar="DIR", default=default, help=f"folder (default: {default})")
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
