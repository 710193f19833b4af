"""Checkpoints that survive a crash at any moment, and signals that wait for the end of a step."""

import logging
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from io import BytesIO
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from optizoo.lab.files import naming, sync

__all__ = [
    "CheckpointError",
    "Interruption",
    "exists",
    "load",
    "previous",
    "remove",
    "save",
    "written_beside",
]

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message names the file and the remedy."""


def previous(path: str | Path) -> Path:
    """Return where :func:`save` keeps the checkpoint before the newest: ``<name>.previous``."""
    path = Path(path)
    return path.with_name(f"{path.name}.previous")


def exists(path: str | Path) -> bool:
    """Return whether there is something to :func:`load`."""
    return Path(path).exists() or previous(path).exists()


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that at every moment a whole one is on the disk.

    The state is written to a temporary file beside ``path`` and forced to the disk; then the checkpoint that was there
    becomes ``<name>.previous``, and the new one takes its place. If writing fails, the old ones stay untouched.

    Args:
        path: The file; its folder is made.
        state: Tensors, numbers, text, and lists and dicts of these: what loads with ``weights_only=True``.

    Raises:
        OSError: The file cannot be written, such as on a full disk.
    """
    path = Path(path)
    with written_beside(path, state) as temporary:
        if path.exists():
            os.replace(path, previous(path))
        os.replace(temporary, path)
    _sync_folder(path.parent)


@contextmanager
def written_beside(path: Path, state: dict[str, Any]) -> Iterator[Path]:
    """Write ``state`` to a temporary file beside ``path``, force it to the disk, and leave moving it to the caller.

    The file is deleted if writing or moving fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Straight into the file, torch's zip writer would turn a full disk into an error that does not say so.
        buffer = BytesIO()
        torch.save(state, buffer)
        with naming(path, temporary), temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            sync(file.fileno())
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: str | Path) -> dict[str, Any]:
    """Read the newest checkpoint that can be read, with ``weights_only=True``, onto the CPU.

    If the newest is missing or damaged, the one before it is taken, and a warning is logged. What a killed process left
    behind half written is deleted.

    Raises:
        CheckpointError: None of the two can be read.
    """
    path = Path(path)
    _remove_remains(path)
    try:
        return _read(path)
    except CheckpointError as error:
        if not previous(path).exists():
            raise
        state = _read(previous(path))
        log.warning("%s: going on from the checkpoint before it, %s", error, previous(path).name)
        return state


def remove(path: str | Path) -> None:
    """Delete the checkpoint and the one before it, if they are there."""
    path = Path(path)
    for each in (path, previous(path)):
        if each.exists():  # else even this would fail where nothing can be written
            each.unlink()
    _remove_remains(path)


def _remove_remains(path: Path) -> None:
    for remains in path.parent.glob(f".{escape(path.name)}.*"):
        if remains.suffix[1:].isdecimal():  # the number of a process
            remains.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged file can fail anywhere in torch.load
        reason = str(error).partition("\n")[0]
        if isinstance(error, pickle.UnpicklingError):  # torch would go on to explain how to load it all the same
            reason = "it is damaged, or holds more than tensors and plain values, which could run code"
        raise CheckpointError(
            f"the checkpoint {path} cannot be read ({reason}): delete it to begin the run again"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"the checkpoint {path} holds no state of a run: delete it to begin the run again")
    return state


def _sync_folder(folder: Path) -> None:
    """Force the names in the folder to the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with suppress(PermissionError):  # it may be written to, but not read
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)


class Interruption:
    """Turns SIGINT and SIGTERM into a request that the training loop honours between two steps.

    In the middle of a step the parameters are half updated, and a state that is saved there could not be resumed
    exactly. A second signal acts at once, as if this were not there. Outside the main thread, where Python delivers no
    signals, nothing is changed; neither are signals that are being ignored.
    """

    def __init__(self) -> None:
        self.requested = False
        self._number = signal.SIGINT
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if handler is not signal.SIG_IGN and handler is not None:
                    self._handlers[number] = handler
                    signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def raise_if_requested(self) -> None:
        """Do what the signal asked for.

        Raises:
            KeyboardInterrupt: After SIGINT.
            SystemExit: After SIGTERM, with status 143.
        """
        if not self.requested:
            return
        self._restore()
        if self._number == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    def _request(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            self._restore()
            signal.raise_signal(number)
        self.requested = True
        self._number = signal.Signals(number)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
