"""The standard streams of a command: they may be closed, full, read no further, or of few characters."""

import codecs
import os
import sys
from contextlib import suppress

__all__ = ["flush", "named", "prepare", "silence", "tell"]

OUTPUT = "standard output"
# What stands for characters that a terminal does not have.
PLAIN = {"±": "+-", "–": "-", "—": "-", "×": "x", "…": "...", "µ": "u", "→": "->", "≤": "<=", "≥": ">="}


def prepare() -> None:
    """Make the streams such that writing fails for none of these but a full disk and a reader that is gone.

    A stream that is closed leads to nowhere; else the next file that is opened would get its number, and with it what
    others write there. Characters that an encoding lacks are written by ones that it has.
    """
    codecs.register_error("optizoo.plain", _plain)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115
        elif number and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="optizoo.plain")


def flush() -> None:
    """Write out what the standard output still holds; where that fails, nothing fails again at exit.

    Raises:
        BrokenPipeError: Whoever read the output has read enough.
        OSError: It cannot be written, such as on a full disk.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        silence(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise
        raise OSError(error.errno, error.strerror, OUTPUT) from error


def named(error: OSError) -> OSError:
    """Return an error that names no file with the name of the standard output, if that is what failed."""
    try:
        flush()  # fails again
    except OSError as again:
        return again
    if getattr(sys.stdout, "write_through", False):  # it keeps nothing that could fail again
        return OSError(error.errno, error.strerror, OUTPUT)
    return error


def tell(text: str) -> None:
    """Write a line to stderr, if that can be written to."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        silence(sys.stderr)


def silence(stream: object) -> None:
    """Lead a stream to nowhere."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # pyright: ignore[reportAttributeAccessIssue]
        os.close(nowhere)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(each, "?") for each in error.object[error.start : error.end]), error.end
