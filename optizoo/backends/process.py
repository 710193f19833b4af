"""The process that we run in: whether it is the child of a fork."""

import os

forks = 0
"""How many forks lie between this process and the one that imported optizoo. Locks and threads do not survive one."""


def _count() -> None:
    global forks
    forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count)
