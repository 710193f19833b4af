"""``optizoo configs``."""

import argparse
from pathlib import Path

from optizoo.cli.errors import UsageError
from optizoo.lab import shipped
from optizoo.lab.files import is_stream


def configs(options: argparse.Namespace) -> int:
    """Name the shipped configs, or write one out."""
    if options.copy is None:
        width = max(map(len, shipped.names()))
        for name in shipped.names():
            command, what = shipped.about(name)
            print(f"{name:{width}}  {command:7}  {what}")
        return 0
    name, *more = options.copy[0].removesuffix(".toml"), *options.copy[1:]
    if len(more) > 1:
        raise UsageError(f"--copy {' '.join(options.copy)}: give a name, and at most one path")
    file = shipped.copy(name, Path(more[0] if more else "."))
    if not is_stream(file):  # what goes through a pipe is the config alone
        print(f"{file}: edit it, then optizoo {shipped.about(name)[0]} {file}")
    return 0
