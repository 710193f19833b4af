"""What the command line says where something went wrong: one line that names it and tells the remedy."""

import errno
import re

from optizoo import streams

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
# The lab's own errors; they exist only once the lab is imported.
LAB_ERRORS = {
    "CheckpointError",
    "CompareError",
    "ConfigError",
    "DataError",
    "ExperimentError",
    "FolderError",
    "ProcessError",
    "RecordError",
    "ShippedError",
    "StorageError",
}
NO_MEMORY = re.compile(r"can't allocate memory|out of memory|Cannot allocate memory", re.IGNORECASE)


class UsageError(ValueError):
    """The command line asks for something that cannot be done."""


def is_users(error: Exception) -> bool:
    """Return whether an error says by itself what to do, so that a traceback would only hide it."""
    if isinstance(error, (UsageError, ImportError, OSError)) or _lacks_memory(error):
        return True
    return any(
        kind.__module__.startswith("optizoo.lab.") and kind.__name__ in LAB_ERRORS for kind in type(error).__mro__
    )


def told(error: Exception) -> str:
    """Return what is wrong and what to do, in one line."""
    if isinstance(error, OSError) and error.filename is None:
        error = streams.named(error)
    message = str(error)
    if _lacks_memory(error):
        message = (
            f"memory ran out ({message.partition(chr(10))[0] or 'of Python'}): make the model or its batches smaller"
        )
    elif isinstance(error, OSError) and error.strerror:
        what = error.filename2 or error.filename or "a file"  # the second is where a file was to be moved
        message = f"{what}: {error.strerror}: {REMEDIES.get(error.errno or 0, 'check the path')}"
    return " ".join(message.split())


def _lacks_memory(error: Exception) -> bool:
    """Return whether memory ran out: torch says so by a RuntimeError."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error))))
