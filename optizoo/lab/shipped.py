"""The configs that travel in the package: each has a name, says what it is, and can be copied to be edited."""

import errno
import os
import re
from pathlib import Path

from optizoo.core.names import did_you_mean
from optizoo.lab.files import is_stream, write

__all__ = ["ShippedError", "about", "copy", "find", "names"]

FOLDER = Path(__file__).with_name("configs")


class ShippedError(ValueError):
    """There is no such config, or it cannot be written out; the message names the remedy."""


def names() -> list[str]:
    """Return the names of the shipped configs.

    >>> "quickstart" in names()
    True
    """
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find(config: str | Path) -> Path:
    """Return the file that is meant: the one at this path, or else the shipped config of this name.

    Raises:
        ShippedError: There is neither.
    """
    path = Path(os.path.expanduser(config))
    if path.is_file() or (path.exists() and not path.is_dir()):
        return path
    name = str(config).removesuffix(".toml")
    if name in names():
        return FOLDER / f"{name}.toml"
    why = os.strerror(errno.EISDIR if path.is_dir() else errno.ENOENT)
    raise ShippedError(
        f"{config}: cannot be read ({why}): give the path of a config, or a name of optizoo configs; "
        f"{did_you_mean(path.stem, names())}"
    )


def about(name: str) -> tuple[str, str]:
    """Return the command that a shipped config is for, and its first sentence.

    >>> about("quickstart")
    ('compare', 'The five optimizers on generated images: under a minute on two cores, no download.')

    Raises:
        ShippedError: The name is unknown.
    """
    text = _file(name).read_text(encoding="utf-8")
    command = re.search(r"optizoo (\w+) ", text)
    return command[1] if command else "", re.split(r"(?<=\.)\s", text.removeprefix("# "), maxsplit=1)[0]


def copy(name: str, to: str | Path = ".") -> Path:
    """Write a shipped config to a path that is free, or into a folder, and return its path.

    Raises:
        ShippedError: The name is unknown, or something stands at the path, or its folder is missing.
    """
    text, to = _file(name).read_bytes(), Path(os.path.expanduser(to))
    to = to / f"{name}.toml" if to.is_dir() else to
    try:
        if is_stream(to):
            write(to, text)
        else:
            with to.open("xb") as file:
                file.write(text)
    except FileExistsError:
        raise ShippedError(f"{to} exists, and is left alone: give another path behind --copy {name}") from None
    except (FileNotFoundError, NotADirectoryError):
        raise ShippedError(f"{to} cannot be written: make its folder {to.parent} first") from None
    return to


def _file(name: str) -> Path:
    if name not in names():
        raise ShippedError(f"no config is called {name!r}: {did_you_mean(name, names())}")
    return FOLDER / f"{name}.toml"
