"""A PostgreSQL of our own: in a private folder, on a free port, without durability, gone when the tests are done."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

BINARIES = [
    *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
    Path("/opt/homebrew/bin"),
    Path("/usr/bin"),
]


def binaries() -> Path | None:
    """Return the folder with the server, or ``None`` where there is none."""
    found = shutil.which("initdb")
    folders = [*BINARIES, *([Path(found).parent] if found else [])]
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


class Postgres:
    """A server; it refuses to run as root, so then it runs as somebody else."""

    def __init__(self) -> None:
        found = binaries()
        assert found is not None
        self._binaries, self._folder = found, Path(tempfile.mkdtemp(prefix="optizoo-postgres-"))
        self._user = None if os.geteuid() else next(user for user in ("postgres", "nobody") if _exists(user))
        if self._user is not None:
            os.chown(self._folder, pwd.getpwnam(self._user).pw_uid, -1)
        data = str(self._folder / "data")
        arguments = ["-D", data, "-U", "optizoo", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run([found / "initdb", *arguments], check=True, capture_output=True, **self._who())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen | None = None
        self.start()

    @property
    def url(self) -> str:
        """Where it is, as ``--storage`` takes it."""
        return f"postgresql://optizoo@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        flags = [f"--{name}={value}" for name, value in settings.items()]
        command = [self._binaries / "postgres", "-D", str(self._folder / "data"), "-p", str(self.port), *flags]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **self._who()
        )
        end = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise
                time.sleep(0.05)

    def kill(self) -> None:
        """End it at once, with all of its processes, as if the power went."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End it, and delete its folder."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _who(self) -> dict:
        return {} if self._user is None else {"user": self._user, "cwd": "/"}


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
