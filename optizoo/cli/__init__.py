"""The command line: ``optizoo list | verify | train | compare | configs | bench | lab``.

Mistakes of the user end with one line on stderr and status 2; ``--debug`` shows where they came from. A command is
imported when it is run, so help and names come at once, and what needs the extra ``lab`` stands in no other's way.
"""

import os
import signal
import sys
from collections.abc import Sequence

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
    parser = command_line()
    options, rest = parser.parse_known_args(arguments)
    if rest and not hasattr(options, "config"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.overrides = rest
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print(f"interrupted{options.how_to_go_on}", file=sys.stderr)
        return 128 + signal.SIGINT
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGTERM:
            print(f"interrupted{options.how_to_go_on}", file=sys.stderr)
        raise
    except BrokenPipeError:  # whoever read the output has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing fails again at exit
        return 128 + signal.SIGPIPE
    except Exception as error:
        if options.debug or not is_users(error):
            raise
        print(f"error: {told(error)}", file=sys.stderr)
        return 2
