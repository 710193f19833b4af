"""Processes that know nothing of this one, without the seconds in which a new one imports torch."""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def context() -> Any:
    """Return where to start processes: they are forks of one that has imported much and done nothing.

    Without forks they are new ones.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    with chdir(ROOT):  # from where it can import tests
        multiprocessing.forkserver.set_forkserver_preload(["tests.preloaded"])
        multiprocessing.forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")


class Started:
    """A process that runs Python code, as ``subprocess.Popen`` would; what it writes goes to files.

    Args:
        code: It finds ``arguments`` in ``sys.argv``.
        folder: For what it writes.
        arguments: Behind the name of the program.
        environment: Variables that are other than here.
    """

    def __init__(self, code: str, folder: Path, *arguments: str, **environment: str):
        self._number = len([*folder.glob("*.stdout")])
        self._files = [folder / f"{self._number}.{name}" for name in ("stdout", "stderr")]
        self._files[0].touch()
        variables = {**os.environ, **environment}
        self._process: Any = context().Process(target=_run, args=(code, arguments, variables, self._files, os.getcwd()))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """Its exit status, the negative number of the signal that ended it, or ``None`` while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return :attr:`returncode`."""
        return self.returncode

    def stdout(self) -> str:
        """Return what it has written so far."""
        return self._files[0].read_text(encoding="utf-8")

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it, if it runs."""
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end, and return what it wrote to stdout and stderr.

        Raises:
            subprocess.TimeoutExpired: It goes on.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("python", timeout or 0.0)
        output, errors = (path.read_text(encoding="utf-8") if path.exists() else "" for path in self._files)
        return output, errors


def _run(code: str, arguments: tuple[str, ...], variables: dict[str, str], files: list[Path], folder: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for descriptor, path in enumerate(files, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    sys.argv[1:] = arguments
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
