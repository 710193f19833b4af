"""What a result depends on beside its config: versions, machine and commit."""

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import optizoo

__all__ = ["code", "environment"]


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what a result depends on beside its config: versions, machine, device, threads, commit and date.

    ``git`` is the commit of a checkout that the package runs from, with ``+`` behind it if tracked files differ from
    it; ``None`` where there is none.

    >>> sorted(environment())
    ['cpu', 'date', 'device', 'git', 'optizoo', 'platform', 'python', 'threads', 'torch']
    """
    device = torch.device(device)
    return {
        "optizoo": optizoo.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "git": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def code(environment: Mapping[str, Any]) -> str:
    """Return the version of optizoo in an environment, with the commit of its checkout where there is one.

    >>> code({"optizoo": "0.1.0", "git": "abc1234+"})
    '0.1.0 abc1234+'
    """
    return " ".join(filter(None, [environment.get("optizoo"), environment.get("git")]))


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    root = Path(optizoo.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "--short", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "--no-optional-locks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
