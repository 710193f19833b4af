"""Folders that are ours: told by a mark, used by one process at a time, and replaced only by what is whole.

The mark is the file ``.optizoo``: ``{"kind": "run", "schema": 1}``. A folder with files and without a mark is somebody
else's, unless a version before the mark made it and that can be told from what it holds. In a folder of ours only files
that we name are ever written or deleted; what else lies there is left alone.

What would replace a finished record is made in the folder :data:`NEW` inside, and takes its place when it is whole.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from optizoo.lab.files import write_json

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps a second process out
    fcntl = None

__all__ = ["FolderError", "Kind", "check", "claim", "clear", "locked", "promote"]

MARK = ".optizoo"
SCHEMA = 1
NEW = ".new"
LOCK = ".optizoo.lock"  # where folders cannot be locked
HALF_WRITTEN = f".{MARK}."  # a mark that a killed process left
# What systems and file managers put into a folder that is empty to its owner.
UNNOTICED = {MARK, LOCK, ".DS_Store", "Thumbs.db", "desktop.ini", ".gitkeep", ".directory", "lost+found"}


class FolderError(RuntimeError):
    """A run folder cannot be used now; the message names it and the remedy."""


@dataclass(frozen=True)
class Kind:
    """What a folder of ours holds.

    Attributes:
        name: In one word; it stands in the mark.
        recognised: Whether a folder without a mark was made by a version before the mark, beyond doubt.
    """

    name: str
    recognised: Callable[[Path], bool]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of the folder: two of them would write into the same records.

    Where a file system cannot lock folders a file in it is locked; where it cannot lock at all, nothing is.

    Raises:
        FolderError: Another process is in it.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _lock(descriptor, folder):
            yield
            return
    finally:
        os.close(descriptor)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        _lock(descriptor, folder)
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> bool:
    """Lock an open file or folder, and return whether its file system can."""
    assert fcntl is not None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FolderError(f"another process works in {folder}: wait for it, or use another folder") from None
    except OSError:
        return False
    return True


def check(folder: Path, kind: Kind) -> bool:
    """Return whether the folder has our mark already.

    Raises:
        FolderError: It holds something else, of ours or of somebody's.
    """
    if not folder.is_dir():
        return False
    remedy = "give a new folder, or an empty one, with --out"
    if (folder / MARK).exists():
        try:
            mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
            found, schema = str(mark["kind"]), int(mark["schema"])
        except (OSError, ValueError, KeyError, TypeError):
            raise FolderError(f"{folder / MARK} is no mark of optizoo's: {remedy}") from None
        if found != kind.name:
            raise FolderError(f"{folder} holds files but no {kind.name}: it holds a {found}; {remedy}")
        if schema > SCHEMA:
            raise FolderError(f"{folder} was made by a newer version of optizoo: update it, or {remedy}")
        return True
    names = (path.name for path in folder.iterdir())
    others = sorted(name for name in names if name not in UNNOTICED and not name.startswith(HALF_WRITTEN))
    if others and not kind.recognised(folder):
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise FolderError(f"{folder} holds files but no {kind.name} ({shown}): {remedy}")
    return False


def claim(folder: Path, kind: Kind) -> None:
    """Mark a folder as ours: a new or empty one, or one that a version before the mark made.

    Raises:
        FolderError: It holds something else, of ours or of somebody's.
    """
    if not check(folder, kind):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / MARK, {"kind": kind.name, "schema": SCHEMA})


def clear(folder: Path, names: Sequence[str]) -> None:
    """Delete these files of a folder, and the folders that this leaves empty."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    for inner in sorted({folder / Path(name).parent for name in names} | {folder}, reverse=True):
        with suppress(OSError):  # somebody's files are left, or it is not there
            inner.rmdir()


def promote(folder: Path, names: Sequence[str], stale: Iterable[str] = ()) -> None:
    """Let what is whole in ``folder / NEW`` take the place of what is in ``folder``.

    If this is interrupted, doing it again completes it: names are moved in their order, and that of the last one
    therefore tells whether there is anything left.

    Args:
        folder: A folder of ours.
        names: The files to move, those that are there.
        stale: Files of what was before; those that are not among the new are deleted.
    """
    new = folder / NEW
    for name in {*stale} - {*names}:
        (folder / name).unlink(missing_ok=True)
    for name in names:
        if (new / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(new / name, folder / name)
    clear(new, names)
