"""C text -> a loaded library, built once with the machine's own compiler, proven, and kept in the user's cache.

Whatever goes wrong is a fact that is learnt once in a process: a compiler that has failed is not asked again, and what
could not be had is not tried a second time. What a library was held against stays beside it in the cache, so a process
that finds both has to read them only.
"""

import ctypes
import os
import platform
import re
import shlex
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from optizoo.backends import process

# No flag lets the compiler change a result: sqrt without errno and arithmetic without traps give the same numbers.
FLAGS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
NATIVE = "-march=native"
COMPILERS = ("cc", "gcc", "clang")
TIMEOUT = 60
"""Seconds after which a compiler is given up; a kernel takes it less than one."""


class BuildError(RuntimeError):
    """A kernel cannot be built, loaded or trusted here; the message says why and what helps."""


class Proof(NamedTuple):
    """What a library must pass before it serves.

    Attributes:
        claim: What passing it says, and on what that stands; another claim is another proof.
        objection: Takes the library, and whether it is built for this very machine; returns what is wrong, or ``None``.
    """

    claim: str
    objection: Callable[[ctypes.CDLL, bool], str | None]


class Compiler(NamedTuple):
    """A compiler.

    Attributes:
        command: The program, with the arguments that ``CC`` has.
        identity: What changes when it is replaced.
    """

    command: tuple[str, ...]
    identity: str


_reasons: dict[tuple[str, str | None], str] = {}  # text and CC -> why there is no library of it
_given_up: dict[Compiler, str] = {}  # compilers that have failed, and how
_plain: set[Compiler] = set()  # compilers that do not know their machine
_lock = process.Lock()


def cache_folder() -> Path:
    """Return ``$OPTIZOO_CACHE``, else ``$XDG_CACHE_HOME/optizoo``, else ``~/.cache/optizoo``.

    Raises:
        RuntimeError: There is no home folder.
    """
    if named := os.environ.get("OPTIZOO_CACHE"):
        return Path(os.path.expanduser(named))
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(os.path.expanduser(named)) / "optizoo"
    return Path.home() / ".cache" / "optizoo"


def library(source: str, proof: Proof | None = None, *, holds_gil: bool = False) -> ctypes.CDLL:
    """Return the library that is built from C text.

    A library that was built before is taken from the folder ``kernels`` of :func:`cache_folder`, if all its bytes are
    those that were written. Where that folder cannot be used, it is built for this process alone.

    Args:
        source: The C text. Every function ``optizoo_...`` that it defines must be in the library.
        proof: What it must pass.
        holds_gil: Its functions are called with the GIL held and may use Python objects.

    Raises:
        BuildError: There is no compiler, it fails or has failed before, others may write to the cache, or the
            library does not pass its proof.
    """
    fact = sha256(source.encode()).hexdigest(), os.environ.get("CC")
    with _lock.now():
        reason = _reasons.get(fact)
        if reason is None:
            try:
                return _obtained(source, proof or Proof("", lambda *_: None), holds_gil)
            except BuildError as error:
                reason = str(error)
            except Exception as error:  # of any kind: a step must not fail for it, nor try again
                reason = f"the kernel cannot be built ({_said(error)})"
            _reasons[fact] = reason
    raise BuildError(reason)


def _obtained(source: str, proof: Proof, holds_gil: bool) -> ctypes.CDLL:
    compiler = _compiler(os.environ.get("CC"))
    folder = kernel_folder()

    def path(native: bool) -> Path | None:
        key = sha256("\0".join([source, *compiler.command, compiler.identity, *_flags(native), _cpu()]).encode())
        return folder and folder / f"{key.hexdigest()[:32]}.so"

    for native in (True, False):
        content = _stored(path(native))
        if content is not None:
            try:
                return _proven(content, path(native), source, proof, native, holds_gil)
            except OSError:  # of another system, or no code may be run from there and nowhere else
                _removed(path(native))
    if reason := _given_up.get(compiler):
        raise BuildError(reason)
    try:
        content, native = _built(compiler, source)
        stored = _written(path(native), content)
        try:
            return _proven(content, path(native) if stored else None, source, proof, native, holds_gil)
        except OSError as error:
            _removed(path(native))
            raise _LoadError(f"what {compiler.command[0]} builds cannot be loaded ({_said(error)})") from error
    except BuildError:  # of this library alone
        raise
    except _CompilerError as error:
        reason = f"{error}; {error.remedy}"
    except OSError as error:  # of our own files
        reason = f"the kernel cannot be built ({_said(error)}); set TMPDIR to a folder that can be written to"
    except Exception as error:
        reason = f"the kernel cannot be built ({_said(error)})"
    _given_up[compiler] = reason
    raise BuildError(reason)


# Verdicts ------------------------------------------------------------------------------------------------------------


def judge(path: Path | None, digest: str, objection: Callable[[], str | None], *, remedy: str) -> None:
    """Let something pass its proof, or know that it has.

    Args:
        path: Where the verdict is kept, if it can be.
        digest: What it is about; a file about anything else, or a damaged one, is none.
        objection: Returns what is wrong, or ``None``. It runs in a thread of its own: there is no mode of torch that
            the caller has entered, and a library may do to the thread's floating-point unit what it likes.
        remedy: What a user can do about a failure.

    Raises:
        BuildError: It has not passed. That is kept too.
    """
    verdict = _read_verdict(path, digest)
    if verdict is None:
        verdict = _in_own_thread(objection) or "proven"
        _written(path, f"{digest} {' '.join(verdict.split())}\n".encode(), sealed=False)
    if verdict != "proven":
        raise BuildError(f"{verdict}; {remedy}" + (f"; to have it tried again, remove {path}" if path else ""))


def _read_verdict(path: Path | None, digest: str) -> str | None:
    try:
        text = path.read_text(encoding="utf-8") if path else ""
    except (OSError, ValueError):
        return None
    about, _, verdict = text.partition(" ")
    return verdict.strip() if about == digest and verdict.endswith("\n") and verdict.strip() else None


def _in_own_thread(function: Callable[[], Any]) -> Any:
    results: list[Any] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, name="optizoo proof")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _proven(content: bytes, path: Path | None, source: str, proof: Proof, native: bool, holds_gil: bool) -> ctypes.CDLL:
    """Return a library that has passed its proof.

    Raises:
        OSError: It cannot be loaded.
        BuildError: It lacks a function, or has not passed.
    """
    loaded: list[ctypes.CDLL] = []

    def objection() -> str | None:
        flushed = _flushes()
        loaded.append(_load(content, path, source, holds_gil))
        if _flushes() != flushed:
            return "it makes its thread treat the smallest numbers as zeros"
        try:
            return proof.objection(loaded[0], native)
        except BuildError:
            raise
        except Exception as error:  # of this proof: other kernels have theirs
            raise BuildError(f"the kernel cannot be proven ({_said(error)})") from error

    digest = sha256(content + proof.claim.encode()).hexdigest()
    judge(path and path.with_suffix(".proof"), digest, objection, remedy="set CC to another compiler")
    return loaded[0] if loaded else _load(content, path, source, holds_gil)


def _flushes() -> bool:
    """Return whether this thread takes numbers below the normal ones for zeros."""
    smallest = float.fromhex("0x1p-1074")
    return smallest * 1.0 == 0.0


# The compiler --------------------------------------------------------------------------------------------------------


class _CompilerError(Exception):
    """A compiler does not do what it must; the message says how."""

    remedy = "set CC to another compiler"


class _LoadError(_CompilerError):
    """What a compiler has made cannot be loaded."""

    remedy = "set OPTIZOO_CACHE to a folder from which code may be run, or CC to another compiler"


def _compiler(wanted: str | None) -> Compiler:
    try:
        command = shlex.split(wanted or "")
    except ValueError as error:
        raise BuildError(f"CC={wanted!r} cannot be read ({error}); correct or unset CC") from None
    if command:
        found = shutil.which(command[0])
        if found is None:
            raise BuildError(f"there is no compiler {command[0]!r}, as CC={wanted!r} says; correct or unset CC")
        return Compiler((found, *command[1:]), _identity(found))
    for name in COMPILERS:
        if found := shutil.which(name):
            return Compiler((found,), _identity(found))
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


def _flags(native: bool) -> tuple[str, ...]:
    return (NATIVE, *FLAGS) if native else FLAGS


def _built(compiler: Compiler, source: str) -> tuple[bytes, bool]:
    """Return what a compiler makes of C text, and whether for this very machine; only some know theirs.

    Raises:
        _CompilerError: It fails.
        OSError: Its files cannot be written or read.
    """
    native = compiler not in _plain
    content, said = _compile(compiler, _flags(native), source)
    if content is None and native and re.search("march|native", said):
        _plain.add(compiler)
        native = False
        content, said = _compile(compiler, _flags(native), source)
    if content is None:
        raise _CompilerError(f"{compiler.command[0]} cannot build the kernel ({said})")
    if not _is_whole(content):
        raise _CompilerError(f"{compiler.command[0]} cannot build the kernel (it wrote no whole library)")
    return content, native


def _compile(compiler: Compiler, flags: tuple[str, ...], source: str) -> tuple[bytes | None, str]:
    """Return the library that one call of the compiler makes, or ``None``; and what it said."""
    with tempfile.TemporaryDirectory(prefix="optizoo-", ignore_cleanup_errors=True) as scratch:
        text, target = Path(scratch) / "kernel.c", Path(scratch) / "kernel.so"
        text.write_text(source, encoding="utf-8")
        command = [*compiler.command, *flags, str(text), "-o", str(target)]
        if sys.platform == "darwin":  # Python's functions are found when the library is loaded
            command += ["-undefined", "dynamic_lookup"]
        status, errors = _call(command)
        if status == 0 and target.is_file():
            return target.read_bytes(), ""
    lines = errors.decode("utf-8", errors="replace").replace(f"{scratch}{os.sep}", "").splitlines()
    telling = [line for line in lines if "error" in line] or lines
    said = telling[0].strip() if telling else f"exit status {status}"
    return None, "".join(letter for letter in said if letter.isprintable())[:300]


def _call(command: list[str]) -> tuple[int, bytes]:
    """Return the exit status of a command and what it said; one that hangs is ended, with all that it has started."""
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    try:
        process = subprocess.Popen(command, **quiet, start_new_session=True)
    except (OSError, ValueError) as error:
        raise _CompilerError(f"{command[0]} cannot be run ({_said(error)})") from error
    with process:
        try:
            errors: Any = process.communicate(timeout=TIMEOUT)[1]
        except BaseException as error:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise _CompilerError(f"{command[0]} has not come to an end in {TIMEOUT} s") from None
            raise
    return process.returncode, errors


# Files ---------------------------------------------------------------------------------------------------------------


def kernel_folder() -> Path | None:
    """Return the folder of the kernels, or ``None`` if there can be none; made for this user alone.

    Raises:
        BuildError: Others could put code into it.
    """
    try:
        folder = cache_folder() / "kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError, ValueError):  # there is no home, or a file in its place, or it may not be written
        return None
    if hasattr(os, "getuid") and (
        status.st_uid not in (os.getuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ):
        raise BuildError(
            f"others may write to the cache folder {folder}, and what lies there is run; "
            f"chmod 700 it, or set OPTIZOO_CACHE to a folder of your own"
        )
    return folder


def _written(path: Path | None, content: bytes, *, sealed: bool = True) -> bool:
    """Write a file, all or nothing, and return whether that was possible.

    A library is ``sealed``: behind its end stands the digest by which :func:`_stored` knows it.
    """
    if path is None:
        return False
    try:
        file, name = tempfile.mkstemp(prefix=path.stem, suffix=".part", dir=path.parent)
        try:
            with open(file, "wb") as stream:
                stream.write(content + sha256(content).digest() if sealed else content)
            os.replace(name, path)  # two processes that build at once: either file is right
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError:  # read-only, or full
        return False
    return True


def _stored(path: Path | None) -> bytes | None:
    """Return a library as it was written, or ``None``: a damaged one could end the process."""
    try:
        content = path.read_bytes() if path else b""
    except OSError:
        return None
    return content[:-32] if content and sha256(content[:-32]).digest() == content[-32:] else None


def _removed(path: Path | None) -> None:
    try:
        if path:
            path.unlink(missing_ok=True)
    except OSError:
        return


def _load(content: bytes, path: Path | None, source: str, holds_gil: bool) -> ctypes.CDLL:
    """Load a library from where it is stored, or from a folder that lives only until that is done.

    Raises:
        OSError: That is not possible.
    """
    kind = ctypes.PyDLL if holds_gil else ctypes.CDLL
    try:
        if path is None:
            raise OSError("the cache cannot be used")
        loaded = kind(str(path))
    except OSError:  # the cache is on a file system from which no code is run
        with tempfile.TemporaryDirectory(prefix="optizoo-", ignore_cleanup_errors=True) as scratch:
            copy = Path(scratch) / "kernel.so"
            copy.write_bytes(content)
            loaded = kind(str(copy))
    for name in re.findall(r"^\w+ (optizoo_\w+)\(", source, re.MULTILINE):
        if not hasattr(loaded, name):
            raise OSError(f"it has no function {name}")
    return loaded


def _is_whole(content: bytes) -> bool:
    """Return whether a library reaches to its end: to load one that was cut off could end the process."""
    if content[:4] != b"\x7fELF":
        return sys.platform != "linux" and bool(content)
    if len(content) < 64 or content[4] != 2:
        return len(content) >= 64
    order = ">" if content[5] == 2 else "<"
    segments, sections = struct.unpack_from(f"{order}2Q", content, 32)
    segment_size, segment_count, section_size, section_count = struct.unpack_from(f"{order}4H", content, 54)
    if max(segments + segment_size * segment_count, sections + section_size * section_count) > len(content):
        return False
    for start in range(segments, segments + segment_size * segment_count, segment_size or 56):
        offset, size = struct.unpack_from(f"{order}8xQ16xQ", content, start)
        if offset + size > len(content):
            return False
    return True


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
