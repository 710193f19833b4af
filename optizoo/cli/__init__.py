"""The command line: ``optizoo list | verify | train | compare | configs | bench | lab``.

Mistakes of the user end with one line on stderr and status 2; ``--debug`` shows where they came from. A command is
imported when it is run, so help and names come at once, and what needs the extra ``lab`` stands in no other's way.
"""

import argparse
import signal
import sys
from collections.abc import Sequence

from optizoo import streams
from optizoo.cli.errors import UsageError, is_users, told
from optizoo.cli.parser import command_line

__all__ = ["UsageError", "main"]


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
        if options.debug or not is_users(error):
            raise
        streams.tell(f"error: {told(error)}")
        return 2


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line()
    try:
        options, rest = parser.parse_known_args(arguments)
        if rest and not hasattr(options, "config"):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
    except SystemExit:  # the help was printed
        streams.flush()
        raise
    options.overrides = rest
    return options
