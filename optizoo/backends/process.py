"""The process that we run in: whether it is the child of a fork."""

import os
from threading import RLock

forks = 0
"""How many forks lie between this process and the one that imported optizoo. Locks and threads do not survive one."""


def _count() -> None:
    global forks
    forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count)


class Lock:
    """A lock that a child of ``fork`` never finds taken: a thread that does not exist there may have held it."""

    def __init__(self) -> None:
        self._held = forks, RLock()

    def now(self) -> RLock:
        """Return the lock of this process, to enter."""
        if self._held[0] != forks:
            self._held = forks, RLock()
        return self._held[1]
