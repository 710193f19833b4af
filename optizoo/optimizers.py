"""Where pickles of version 0.1 look for the classes: what the zoo has, under its older name."""

from typing import Any

from optizoo import zoo


def __getattr__(name: str) -> Any:
    return getattr(zoo, name)
