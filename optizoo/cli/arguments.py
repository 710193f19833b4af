"""What several commands ask of their arguments, before anything is begun."""

import importlib
import importlib.util
import os
from collections.abc import Collection, Sequence
from contextlib import chdir, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from optizoo.cli.errors import UsageError
from optizoo.core.names import did_you_mean

if TYPE_CHECKING:
    import torch

LAB = ("jinja2", "matplotlib", "numpy", "PIL", "pydantic", "torchvision", "tqdm")


def require_lab() -> None:
    """Raise the ImportError that helps, where the extra is not installed."""
    missing = [name for name in LAB if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"the lab needs {', '.join(missing)} too: pip install 'optizoo[lab]'")


def require_sweep() -> None:
    """Raise the ImportError that helps, where the extra of storages is not installed."""
    missing = [name for name in ("optuna", "psycopg", "scipy") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"sweeps need {', '.join(missing)} too: pip install 'optizoo[lab,sweep]'")


def import_matplotlib() -> None:
    """Import matplotlib without the settings of others, which may name what is not here: a notebook's, a user's."""
    ours = {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        # A matplotlibrc of the current folder comes before all others.
        with chdir(Path(__file__).parent) if os.path.exists("matplotlibrc") else nullcontext():
            importlib.import_module("matplotlib")
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def dtypes(names: Sequence[str]) -> "list[torch.dtype]":
    """Return torch's types of these names."""
    import torch

    return [getattr(torch, name) for name in names]


def device(name: str) -> "torch.device":
    """Return the device of this name, or raise where it cannot hold a tensor."""
    import torch

    try:
        found = torch.device(name)
        torch.zeros(1, device=found).item()  # what has no memory, such as meta, fails here
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch built without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise UsageError(f"--device {name} cannot be used ({reason}): give cpu, or a device of this machine") from error
    return found


def training_device(name: str) -> "torch.device":
    """Return the device of the lab of this name: where there is no such device, or the lab knows none, it is told."""
    from optizoo.lab import options
    from optizoo.lab.train import resolve_device

    if must := options.device(name):
        raise UsageError(f"--device {name} cannot be used; it must be {must}")
    return resolve_device(name)


def chosen(flag: str, names: Sequence[str] | None, known: Collection[str]) -> list[str]:
    """Return the names, each once, or raise where one is unknown."""
    for name in names or ():
        if name not in known:
            raise UsageError(f"{flag} {name} is unknown: {did_you_mean(name, known)}")
    return [*dict.fromkeys(names or ())]


def check_file(file: Path | None) -> None:
    """Raise where a file cannot be written, before anything is measured for it."""
    if file is None:
        return
    target = file.resolve() if file.is_symlink() and not file.exists() else file  # what writing would make
    if not target.exists() and not target.parent.is_dir():
        raise UsageError(f"--json {file} cannot be written: make its folder {target.parent} first")
    if target.is_dir():
        raise UsageError(f"--json {file} cannot be written: it is a folder; give a file in it")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise UsageError(f"--json {file} cannot be written: check its permissions, or give another path")
