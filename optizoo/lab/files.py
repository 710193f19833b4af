"""Files that are whole or not there, and that leave alone what only leads to them: links, pipes and devices."""

import errno
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

__all__ = ["beside", "growing", "is_stream", "naming", "sync", "unfinished", "write", "write_json"]

FAILURES = {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Let errors of the system tell what was being written, where they name nothing or the temporary file of it."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and (temporary is None or str(error.filename) != str(temporary)):
            raise
        if error.filename2 is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync(descriptor: int) -> None:
    """Force to the disk what was written to a file or a folder, where its file system can."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in FAILURES:
            raise


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a temporary file beside ``path`` to write; then it takes the place of ``path``, or of what that links to.

    The temporary file is deleted if anything fails.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:50]}.{os.getpid()}")
    try:
        with naming(path, temporary):
            yield temporary
            with suppress(FileNotFoundError):
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_stream(path: Path) -> bool:
    """Return whether a path leads to a pipe, a device, or what this process has open: what takes one text, at its end.

    >>> is_stream(Path(os.devnull)), is_stream(Path("no such file"))
    (True, False)
    """
    try:
        status = os.stat(path)
    except OSError:
        return False
    in_system = os.path.abspath(path).startswith(("/dev/", "/proc/"))
    return not stat.S_ISREG(status.st_mode) or in_system or _descriptor(path) is not None


def _descriptor(path: Path) -> int | None:
    """Return the number of the standard stream that leads to the same file, if one does."""
    for descriptor in (1, 2):
        with suppress(OSError):  # the stream may be closed
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
    return None


def _stays(path: Path) -> bool:
    """Return whether a file must be written into, because replacing it would cut what leads to it, or cannot be done.

    It has several names, or another owner, or is in a folder that cannot be written to.
    """
    try:
        status = os.stat(path)
    except OSError:
        return False
    foreign = hasattr(os, "geteuid") and status.st_uid != os.geteuid()
    return status.st_nlink != 1 or foreign or not os.access(os.path.dirname(os.path.realpath(path)), os.W_OK)


def write(path: str | Path, content: str | bytes) -> None:
    """Write a file, whole or not at all; links lead to what is written, and pipes and devices take it.

    A file that holds this already is left alone: it may lie where nothing can be written.

    Raises:
        OSError: It cannot be written; the error names ``path``.
    """
    path = Path(path)
    data = content.encode(errors="replace") if isinstance(content, str) else content  # a path may be no text
    if (descriptor := _descriptor(path)) is not None:
        sys.stdout.flush()
        with naming(path), os.fdopen(os.dup(descriptor), "wb") as file:  # where the stream stands in its file
            file.write(data)
    elif is_stream(path):
        with naming(path), path.open("ab") as file:
            file.write(data)
    elif not (path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data):
        with nullcontext(path) if _stays(path) else beside(path) as target, naming(path), target.open("wb") as file:
            file.write(data)
            file.flush()
            sync(file.fileno())


@contextmanager
def growing(path: Path | None) -> Iterator[Callable[[object], None]]:
    """Give a function that writes a JSON file again and again; what is there is replaced when all went well.

    Until then the file grows where nothing was, or else beside it, as ``<name>.unfinished``. A pipe or device takes the
    last content, at the end. ``None`` takes nothing.
    """
    contents: list[object] = []
    place = None if path is None or is_stream(path) else unfinished(path)

    def take(content: object) -> None:
        contents[:] = [content]
        if place is not None:
            write_json(place, content)

    yield take
    if path is not None and contents and place != path:
        write_json(path, contents[0])
        if place is not None:
            place.unlink()


def unfinished(path: Path) -> Path:
    """Return where a file grows that is not whole yet: in its place, or beside what is there."""
    return path.with_name(f"{path.name}.unfinished") if path.exists() else path


def write_json(path: str | Path, content: object) -> None:
    """Write a JSON file as :func:`write` does."""
    write(path, json.dumps(content, indent=2) + "\n")
