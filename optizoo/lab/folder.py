"""Run folders: one process at a time, and files that are whole or not there."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optizoo.lab.checkpoint import naming

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps a second process out
    fcntl = None

__all__ = ["FolderError", "locked", "write_json"]


class FolderError(RuntimeError):
    """A run folder cannot be used now; the message names it and the remedy."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of the folder: two of them would write into the same records.

    Raises:
        FolderError: Another process is in it.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderError(f"another process works in {folder}: wait for it, or use another folder") from None
        yield
    finally:
        os.close(descriptor)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file, whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    try:
        with naming(path):
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
