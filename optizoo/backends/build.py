"""C text -> a loaded library, built once with the machine's own compiler and kept in the user's cache."""

import ctypes
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from functools import cache
from hashlib import sha256
from pathlib import Path

# No flag lets the compiler change a result: sqrt without errno and arithmetic without traps give the same numbers.
FLAGS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
NATIVE = "-march=native"
COMPILERS = ("cc", "gcc", "clang")
TIMEOUT = 120


class BuildError(RuntimeError):
    """A kernel cannot be built or loaded here; the message says why and what helps."""


def cache_folder() -> Path:
    """Return ``$OPTIZOO_CACHE``, else ``$XDG_CACHE_HOME/optizoo``, else ``~/.cache/optizoo``."""
    if named := os.environ.get("OPTIZOO_CACHE"):
        return Path(named)
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "optizoo"
    return Path.home() / ".cache" / "optizoo"


def library(source: str, *, holds_gil: bool = False) -> ctypes.CDLL:
    """Return the library that is built from C text.

    A library that was built before is taken from the folder ``kernels`` of :func:`cache_folder`, if all its bytes are
    those that were written. Where that folder cannot be written to, it is built for this process alone.

    Args:
        source: The C text.
        holds_gil: Its functions are called with the GIL held and may use Python objects.

    Raises:
        BuildError: There is no compiler, it fails, or others may write to the cache.
    """
    compiler = _compiler(os.environ.get("CC"))
    content = None
    for flags in ((NATIVE, *FLAGS), FLAGS):  # some compilers do not know their machine
        key = sha256("\0".join([source, *compiler, _identity(compiler[0]), *flags, _cpu()]).encode()).hexdigest()
        path = _prepared(cache_folder() / "kernels") / f"{key[:32]}.so"
        loaded = _load(path, holds_gil) if path.exists() else None
        if loaded is not None:
            return loaded
        try:
            content = _compile(compiler, flags, source)
            break
        except BuildError:
            if NATIVE not in flags:
                raise
    assert content is not None
    try:
        loaded = _load(_write(path, content), holds_gil)
    except OSError:  # read-only or full: a folder of our own that ends with the process
        loaded = _load(_write(Path(_own_folder().name) / path.name, content), holds_gil)
    if loaded is None:
        raise BuildError(f"the library {path} that {compiler[0]} built cannot be loaded; set CC to another compiler")
    return loaded


def _compiler(wanted: str | None) -> list[str]:
    if wanted:
        command = shlex.split(wanted)
        found = shutil.which(command[0])
        if found is None:
            raise BuildError(f"there is no compiler {command[0]!r}, as CC={wanted!r} says; correct or unset CC")
        return [found, *command[1:]]
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    raise BuildError(f"there is no C compiler ({', '.join(COMPILERS)}); install gcc or clang, or set CC")


def _identity(path: str) -> str:
    """Return what changes when a compiler is replaced; asking for its version would take as long as a warm start."""
    real = Path(path).resolve()
    status = real.stat()
    return f"{real}:{status.st_size}:{status.st_mtime_ns}"


@cache
def _cpu() -> str:
    """Return what distinguishes this CPU from those that cannot run its code: a home folder may serve many machines."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part", "isa")
    return "\n".join(line for line in text.splitlines() if line.partition(":")[0].strip() in wanted)


def _prepared(folder: Path) -> Path:
    """Make the folder, for this user alone, and refuse one into which others could put code."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError:
        return folder  # writing will fail too, and that is handled
    if hasattr(os, "getuid") and (
        status.st_uid not in (os.getuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ):
        raise BuildError(
            f"others may write to the cache folder {folder}, and what lies there is run; "
            f"chmod 700 it, or set OPTIZOO_CACHE to a folder of your own"
        )
    return folder


def _compile(compiler: list[str], flags: tuple[str, ...], source: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="optizoo-") as scratch:
        text, target = Path(scratch) / "kernel.c", Path(scratch) / "kernel.so"
        text.write_text(source, encoding="utf-8")
        command = [*compiler, *flags, str(text), "-o", str(target)]
        if sys.platform == "darwin":  # Python's functions are found when the library is loaded
            command += ["-undefined", "dynamic_lookup"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BuildError(f"{compiler[0]} cannot be run ({error}); set CC to another compiler") from error
        if done.returncode or not target.exists():
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            said = lines[0].strip() if lines else f"exit status {done.returncode}"
            raise BuildError(f"{compiler[0]} cannot build the kernel ({said}); set CC to another compiler")
        return target.read_bytes()


def _write(path: Path, content: bytes) -> Path:
    """Write the library and, behind its end, the digest by which :func:`_load` knows it; all or nothing."""
    file, name = tempfile.mkstemp(prefix=path.stem, suffix=".part", dir=path.parent)
    try:
        with open(file, "wb") as stream:
            stream.write(content + sha256(content).digest())
        os.replace(name, path)  # two processes that build at once: either file is right
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def _load(path: Path, holds_gil: bool) -> ctypes.CDLL | None:
    """Return the library, or ``None`` if it is not what was written: a damaged one could end the process."""
    try:
        content = path.read_bytes()
        if sha256(content[:-32]).digest() != content[-32:]:
            return None
        return (ctypes.PyDLL if holds_gil else ctypes.CDLL)(str(path))
    except OSError:
        return None


@cache
def _own_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="optizoo-")
