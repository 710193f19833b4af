"""Kernels are built once, prove themselves before they serve, and whatever fails is learnt once and costs no step."""

import ctypes
import errno
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import optizoo
from optizoo import rules
from optizoo.backends import build, emit_c, finite, fused, proof, reader
from optizoo.backends.trace import Operation, Program, trace
from tests.processes import Started
from tests.zoo import parameters, run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the compilers of these tests are shell scripts")
needs_compiler = pytest.mark.skipif(fused.unavailable() is not None, reason=f"no kernels here: {fused.unavailable()}")


class World:
    """A process that knows nothing of kernels yet, with a cache of its own and a compiler that is counted.

    Args:
        folder: An empty folder.
        monkeypatch: Puts everything back.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.cache = folder / "cache"
        self.kernels = self.cache / "kernels"
        self.script = folder / "compiler"
        self._log = folder / "calls"
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("OPTIZOO_CACHE", str(self.cache))
        self.compiler('exec cc "$@"')
        self.forget()

    def compiler(self, text: str) -> None:
        """Let the compiler be a shell script, in which ``$output`` is the library and ``$text`` the C text."""
        find = 'for each; do case "$each" in *.c) text="$each";; esac; output="$each"; done'
        self.script.write_text(f"#!/bin/sh\necho call >> {self._log}\n{find}\n{text}\n", encoding="utf-8")
        self.script.chmod(0o700)
        self._monkeypatch.setenv("CC", shlex.quote(str(self.script)))

    def calls(self) -> int:
        """Return how often the compiler has been called."""
        return len(self._log.read_text(encoding="utf-8").splitlines()) if self._log.exists() else 0

    def forget(self) -> None:
        """Go on as a new process would, with the cache and the compiler that are there."""
        self._monkeypatch.setattr(build, "_reasons", {})
        self._monkeypatch.setattr(build, "_given_up", {})
        self._monkeypatch.setattr(build, "_plain", set())
        self._monkeypatch.setattr(fused, "_kernels", {})
        finite._kernel.cache_clear()
        reader.reader.cache_clear()


@pytest.fixture
def world(tmp_path, monkeypatch):
    yield World(tmp_path, monkeypatch)
    finite._kernel.cache_clear()
    reader.reader.cache_clear()


def trained(steps: int = 6, **options: Any) -> tuple[list[Parameter], str]:
    """Return the parameters after a run that wants four kernels, the finder and the plan; and what explains it.

    Momentum has one kernel for the first step and another for the next, SGD one, Adam one.
    """
    params = [*parameters(seed=0), *parameters(seed=1), *parameters(seed=2)]
    optimizers = [
        optizoo.SGD(params[:2], lr=0.01, momentum=0.9, nonfinite="skip", **options),
        optizoo.SGD(params[2:4], lr=0.01, **options),
        optizoo.Adam(params[4:], lr=0.01, **options),
    ]
    for optimizer in optimizers:
        run(optimizer, range(steps))
    return params, "\n".join(optizoo.explain(optimizer) for optimizer in optimizers)


def explained(steps: int = 4) -> str:
    """Return what explains a run that wants one kernel of each sort: an update, the finder and the plan."""
    optimizer = optizoo.SGD(parameters(), lr=0.01, nonfinite="skip")
    run(optimizer, range(steps))
    return optizoo.explain(optimizer)


def assert_lists(said: str, reason: str) -> None:
    """Assert that every line says that lists serve, and why."""
    for line in said.splitlines():
        assert ": foreach for " in line
        assert "no fused kernel: " in line
        assert re.search(reason, line), line


def assert_same(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# What cannot be built ------------------------------------------------------------------------------------------------


# Name of a fault -> the compiler, what is said about it, and how often it is called.
FAULTY: dict[str, tuple[str, str, int]] = {
    "fails without a word": ("exit 1", r"exit status 1\)", 1),
    "fails with words": ("echo 'k.c:1: error: no room' >&2; exit 1", "no room", 1),
    "has no headers": ('exec cc -nostdinc "$@"', r"stdint\.h|math\.h", 1),
    "has no linker": ('exec cc -B/nonexistent -fuse-ld=nonexistent "$@"', "cannot build the kernel", 1),
    "is no compiler": ("cat > /dev/null; exit 0", r"exit status 0\)", 1),
    "writes an empty file": (': > "$output"', "no whole library", 1),
    "writes garbage": ('head -c 5000 /dev/urandom > "$output"', "no whole library", 1),
    "writes text": ('echo "not a library" > "$output"', "no whole library", 1),
    "writes half a library": ('cc "$@"; head -c 6000 "$output" > "$output.x"; mv "$output.x" "$output"', "no whole", 1),
    "loses the last bytes": ('cc "$@"; head -c -9 "$output" > "$output.x"; mv "$output.x" "$output"', "no whole", 1),
    "writes an object file": ('exec cc -c "$text" -o "$output"', "cannot be loaded", 1),
    "writes for another machine": (
        r"""cc "$@"; printf '\363' | dd of="$output" bs=1 seek=18 conv=notrunc 2> /dev/null""",
        "cannot be loaded",
        1,
    ),
    "makes a folder": ('mkdir "$output"', r"exit status 0\)", 1),
    "removes its folder": ('rm -rf "${output%/*}"; exit 1', "exit status 1", 1),
    "forgets the function": ('sed -i s/optizoo_/other_/ "$text"; exec cc "$@"', "no function optizoo_", 1),
    "prints junk": (r"printf '\377\376\000\033[31m error \201' >&2; exit 1", "error", 1),
    "prints a lot": ("head -c 3000000 /dev/urandom >&2; head -c 3000000 /dev/zero; exit 1", "cannot build", 1),
    "crashes": ("kill -SEGV $$", "exit status -11", 1),
    "is killed": ("kill -KILL $$", "exit status -9", 1),
    "hangs": ("sleep 1000", "has not come to an end in 3 s", 1),
    "hangs deaf": ("trap '' TERM INT; sleep 1000; sleep 1000", "has not come to an end in 3 s", 1),
    "does not know its machine": (
        'case "$*" in *march*) echo "error: unknown -march=native" >&2;; *) echo "error: nor this" >&2;; esac; exit 1',
        "nor this",
        2,
    ),
}


@pytest.fixture(scope="module")
def by_lists() -> list[Parameter]:
    """What comes out of :func:`trained` without kernels."""
    return trained(foreach=True)[0]


@needs_compiler
@pytest.mark.parametrize(("script", "reason", "calls"), FAULTY.values(), ids=list(FAULTY))
def test_a_compiler_that(world, monkeypatch, by_lists, script, reason, calls):
    """It is called once for all kernels of a process, lists go on with the same bits, and explain says why."""
    monkeypatch.setattr(build, "TIMEOUT", 3 if "sleep" in script else 60)
    world.compiler(script)
    params, said = trained()
    assert_lists(said, reason)
    assert_same(params, by_lists)
    assert world.calls() == calls
    for _ in range(2):
        with pytest.raises(RuntimeError, match=reason):
            optizoo.Adam([Parameter(torch.ones(3))], fused=True)
    assert world.calls() == calls
    monkeypatch.setattr(build, "TIMEOUT", 60)
    world.forget()
    world.compiler('exec cc "$@"')
    assert fused.unavailable() is None, "what has failed leaves nothing behind"


SUDDEN = ["fails with words", "writes half a library", "forgets the function", "is killed", "hangs"]


@needs_compiler
@pytest.mark.parametrize(("script", "reason", "calls"), [FAULTY[fault] for fault in SUDDEN], ids=SUDDEN)
def test_a_compiler_that_in_the_middle_of_a_run(world, monkeypatch, script, reason, calls):
    """Kernels that are there go on; a new wiring goes on with lists, or raises with nothing touched if fused=True."""
    params = parameters()
    optimizer = optizoo.Adam(params, lr=0.01)
    strict = optizoo.Adam([*parameters(seed=1)], lr=0.01, fused=True)
    strict.add_param_group({"params": parameters(seed=2), "lr": 0.1})
    run(optimizer, range(2))
    run(strict, range(2))
    built = world.calls()
    monkeypatch.setattr(build, "TIMEOUT", 3 if "sleep" in script else 60)
    world.compiler(script)
    run(optimizer, range(2, 4))
    assert "fused for 2 tensors" in optizoo.explain(optimizer)
    optimizer.param_groups[0]["weight_decay"] = 0.1
    strict.param_groups[1]["weight_decay"] = 0.1
    run(optimizer, range(4, 8))
    assert_lists(optizoo.explain(optimizer), reason)
    held = [param for group in strict.param_groups for param in group["params"]]
    before = [param.detach().clone() for param in held]
    steps = [float(strict.state[param]["step"]) for param in held]
    for _ in range(2):
        with pytest.raises(RuntimeError, match=reason):
            run(strict, range(2, 3))
    assert_same(held, before)
    assert [float(strict.state[param]["step"]) for param in held] == steps
    assert world.calls() == built + calls
    optimizer.param_groups[0]["weight_decay"] = 0.0
    run(optimizer, range(8, 12))
    assert "fused for 2 tensors" in optizoo.explain(optimizer)
    assert world.calls() == built + calls


# Name of a fault -> what CC is, given the folder, and what is said about it.
UNUSABLE: dict[str, tuple[Callable[[Path], str], str]] = {
    "no such program": (lambda folder: "no-such-compiler", "there is no compiler 'no-such-compiler'"),
    "a folder": (lambda folder: str(folder), "there is no compiler"),
    "an open quotation": (lambda folder: "gcc '-O2", "cannot be read"),
    "a trailing backslash": (lambda folder: "gcc \\", "cannot be read"),
    "an empty word": (lambda folder: "''", "there is no compiler ''"),
    "not executable": (lambda folder: made(folder / "plain", "#!/bin/sh\n", 0o600), "there is no compiler"),
    "no program": (lambda folder: made(folder / "plain", "\x01\x02", 0o700), "cannot be run"),
    "an interpreter that is gone": (lambda folder: made(folder / "plain", "#!/gone\n", 0o700), "cannot be run"),
    "a dangling link": (lambda folder: linked(folder / "link", folder / "gone"), "there is no compiler"),
}


def made(path: Path, text: str, mode: int) -> str:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return str(path)


def linked(path: Path, target: Path) -> str:
    path.symlink_to(target)
    return str(path)


@pytest.mark.parametrize(("value", "reason"), UNUSABLE.values(), ids=list(UNUSABLE))
def test_cc_is(world, monkeypatch, tmp_path, by_lists, value, reason):
    """What CC names and cannot be run is said, and lists go on."""
    monkeypatch.setenv("CC", value(tmp_path))
    params, said = trained()
    assert_lists(said, reason)
    assert_same(params, by_lists)


@needs_compiler
@pytest.mark.parametrize("value", ["", "  ", "\t"])
def test_cc_that_says_nothing(world, monkeypatch, value):
    """A CC without a word is none: the machine's own compiler is taken."""
    monkeypatch.setenv("CC", value)
    assert "foreach" not in trained()[1]


def test_no_compiler_at_all(world, monkeypatch, by_lists):
    """Without a compiler on the path the reason names the remedy."""
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "/nonexistent")
    params, said = trained()
    assert_lists(said, "there is no C compiler .* install gcc or clang, or set CC")
    assert_same(params, by_lists)


@needs_compiler
def test_a_compiler_that_is_removed_in_between(world):
    """What has been built serves, and what has not goes on with lists."""
    optimizer = optizoo.Adam(parameters(), lr=0.01)
    run(optimizer, range(2))
    world.script.unlink()
    run(optimizer, range(2, 5))
    assert "fused" in optizoo.explain(optimizer)
    optimizer.param_groups[0]["amsgrad"] = True
    run(optimizer, range(5, 8))
    assert_lists(optizoo.explain(optimizer), "there is no compiler")


@needs_compiler
def test_a_compiler_that_is_mended(world):
    """Another compiler, or the same file written anew, is asked again."""
    world.compiler("exit 1")
    assert_lists(trained()[1], "exit status 1")
    world.compiler('exec cc "$@"')
    fused._kernels.clear()
    build._reasons.clear()
    assert "foreach" not in trained()[1]


@needs_compiler
def test_a_compiler_that_does_not_know_its_machine(world):
    """It builds for any machine of the kind, and is asked for the other thing once."""
    world.compiler('case "$*" in *march=native*) echo "error: bad value for -march=" >&2; exit 1;; esac; exec cc "$@"')
    assert "foreach" not in trained()[1]
    assert world.calls() == len(list(world.kernels.glob("*.so"))) + 1
    world.forget()
    before = world.calls()
    assert "foreach" not in trained()[1]
    assert world.calls() == before


def no_space(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def no_process(*_: Any, **__: Any) -> Any:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def no_memory(*_: Any, **__: Any) -> Any:
    raise MemoryError


# Name of a fault -> what is in the way, and what is said about it.
OBSTRUCTED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "no temporary folder": (lambda patch: patch.setattr(tempfile, "tempdir", "/none/there"), "No such file.*TMPDIR"),
    "a temporary folder that is a file": (lambda patch: patch.setattr(tempfile, "tempdir", "/dev/null"), "TMPDIR"),
    "a full temporary folder": (lambda patch: patch.setattr(Path, "write_text", no_space), "No space left"),
    "no room for processes": (lambda patch: patch.setattr(subprocess, "Popen", no_process), "temporarily unavailable"),
    "no memory": (lambda patch: patch.setattr(subprocess, "Popen", no_memory), "MemoryError"),
    "no threads": (lambda patch: patch.setattr(threading.Thread, "start", no_thread), "can't start new thread"),
    "no code may be loaded": (lambda patch: patch.setattr(ctypes, "CDLL", not_permitted), "not permitted"),
}


def no_thread(*_: Any) -> Any:
    raise RuntimeError("can't start new thread")


def not_permitted(path: str | None, *_: Any, **__: Any) -> Any:
    raise OSError(f"{path}: failed to map segment from shared object: Operation not permitted")


@needs_compiler
@pytest.mark.parametrize(("obstruct", "reason"), OBSTRUCTED.values(), ids=list(OBSTRUCTED))
def test_where_there_is(world, monkeypatch, by_lists, obstruct, reason):
    """The reason is told, the compiler called at most once, and lists go on."""
    fused.parallel()
    with monkeypatch.context() as patch:
        obstruct(patch)
        params, said = trained()
        assert_lists(said, reason)
        with pytest.raises(RuntimeError, match=reason):
            optizoo.Adam([Parameter(torch.ones(3))], fused=True)
    assert_same(params, by_lists)
    assert world.calls() <= 1


@needs_compiler
def test_threads_that_begin_together_build_once(world):
    """Two threads that want one kernel call the compiler once."""
    program, _ = trace(rules.sgd, {}, lr=0.1, weight_decay=0)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(fused.kernel_for(program, torch.float32, torch.float32)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert world.calls() == 1


@needs_compiler
def test_a_child_of_a_fork_builds(world):
    """A child that was made while a thread of its parent was building can build."""
    world.compiler('sleep 0.3; exec cc "$@"')
    program, _ = trace(rules.sgd, {}, lr=0.1, weight_decay=0)
    building = threading.Thread(target=lambda: fused.unavailable())
    building.start()
    while not world.calls():
        pass
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with os.fdopen(write, "w") as stream:
            stream.write(str(fused.kernel_for(program, torch.float32, torch.float32).program == program))
            stream.flush()
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        assert stream.read() == "True"
    os.waitpid(child, 0)
    building.join()


# The cache -----------------------------------------------------------------------------------------------------------


def in_a_file(cache: Path, patch: pytest.MonkeyPatch) -> None:
    made(cache, "in the way", 0o600)


def behind_a_dangling_link(cache: Path, patch: pytest.MonkeyPatch) -> None:
    linked(cache, cache.parent / "gone" / "deeper")


def below_a_file(cache: Path, patch: pytest.MonkeyPatch) -> None:
    made(cache.parent / "file", "in the way", 0o600)
    patch.setenv("OPTIZOO_CACHE", str(cache.parent / "file" / "cache"))


def in_proc(cache: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("OPTIZOO_CACHE", "/proc/1/optizoo")


def without_a_home(cache: Path, patch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("OPTIZOO_CACHE", "XDG_CACHE_HOME", "HOME"):
        patch.delenv(name, raising=False)
    patch.setattr(Path, "home", no_home)


def on_a_full_disk(cache: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "replace", no_space)


def on_a_read_only_disk(cache: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tempfile, "mkstemp", no_space)


def where_no_code_may_be_loaded(cache: Path, patch: pytest.MonkeyPatch) -> None:
    for name in ("CDLL", "PyDLL"):
        real = getattr(ctypes, name)

        def load(path: str | None, *arguments: Any, real: Any = real, **options: Any) -> Any:
            if path is not None and path.startswith(str(cache)):
                not_permitted(path)
            return real(path, *arguments, **options)

        patch.setattr(ctypes, name, load)


PLACES = [
    in_a_file, behind_a_dangling_link, below_a_file, in_proc, without_a_home, on_a_full_disk, on_a_read_only_disk,
    where_no_code_may_be_loaded,
]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_cache(world, monkeypatch, place):
    """Where the cache cannot be used, kernels are built for this process alone, each with one call; nothing is left."""
    with monkeypatch.context() as patch:
        place(world.cache, patch)
        assert "foreach" not in explained()
        assert world.calls() == 3
        assert "foreach" not in explained()
        assert world.calls() == 3
    left = list(world.kernels.iterdir()) if world.kernels.is_dir() else []
    assert not [path for path in left if path.suffix == ".part"]


@needs_compiler
def test_a_kernel_is_built_once(world):
    """The second process finds libraries and verdicts of the first, and nothing else is left in the folder."""
    explained()
    built = {path: path.stat().st_mtime_ns for path in world.kernels.iterdir()}
    assert {path.suffix for path in built} == {".so", ".proof"}
    assert len(built) == 2 * world.calls() == 6
    assert stat.S_IMODE(world.kernels.stat().st_mode) == 0o700
    world.forget()
    assert "foreach" not in explained()
    assert {path: path.stat().st_mtime_ns for path in world.kernels.iterdir()} == built
    assert world.calls() == 3


@needs_compiler
def test_a_warm_cache_is_read_and_nothing_else(world, monkeypatch):
    """What has been proven is not proven again, and no thread is started for it."""
    explained()
    world.forget()
    monkeypatch.setattr(proof, "objection", no_memory)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert "foreach" not in explained()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "flipped": lambda content: content[:50] + bytes([content[50] ^ 1]) + content[51:],
    "empty": lambda content: b"",
    "text": lambda content: b"no library",
    "binary": lambda content: b"\xff\xfe\x00" * 99,
    "longer": lambda content: content + b"x",
}


@needs_compiler
@pytest.mark.thin
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
@pytest.mark.parametrize("suffix", [".so", ".proof"])
def test_a_damaged_file_is_made_again(world, tmp_path, monkeypatch, suffix, damage):
    """A library that is not what was written is never loaded, and a verdict that is none is found anew."""
    explained()
    shutil.copytree(world.cache, tmp_path / "copy")  # what this process has loaded is not to be touched
    monkeypatch.setenv("OPTIZOO_CACHE", str(tmp_path / "copy"))
    whole = {path: path.read_bytes() for path in (tmp_path / "copy" / "kernels").glob(f"*{suffix}")}
    for path, content in whole.items():
        path.write_bytes(damage(content))
    world.forget()
    assert "foreach" not in explained()
    assert {path: path.read_bytes()[:200] for path in whole} == {path: text[:200] for path, text in whole.items()}
    assert world.calls() == (6 if suffix == ".so" else 3)


@needs_compiler
def test_a_verdict_is_about_one_library_and_one_claim(world, monkeypatch):
    """Beside another library, or for another torch or another version of the proof, a verdict says nothing."""
    proven = []
    original = proof.objection
    monkeypatch.setattr(proof, "objection", lambda *args, **options: proven.append(1) or original(*args, **options))
    explained()
    count = len(proven)
    assert count == 1
    first, second, *_ = sorted(world.kernels.glob("*.proof"))
    first.write_bytes(second.read_bytes())
    monkeypatch.setattr(proof, "VERSION", "another")
    world.forget()
    explained()
    assert len(proven) == 2 * count


@needs_compiler
def test_a_cache_that_others_may_write_to_is_refused(world):
    """Code that others could have put there is not run: the step falls back, and the reason names the remedy."""
    world.kernels.mkdir(parents=True)
    world.kernels.chmod(0o777)
    assert_lists(explained(), "others may write to the cache folder .* chmod 700")
    assert list(world.kernels.iterdir()) == []
    assert world.calls() == 0


PROBE = """
import torch, optizoo
params = [torch.nn.Parameter(torch.ones(3)) for _ in range(40)]
optimizer = optizoo.Adam(params, lr=0.5)
for step in range(6):
    for param in params:
        param.grad = torch.ones(3)
    optimizer.step()
print(optizoo.explain(optimizer))
print(params[-1].tolist())
"""


def started(cache: Path) -> Started:
    """Start a fresh process with a cache."""
    return Started(PROBE, cache.parent, OPTIZOO_CACHE=str(cache))


@needs_compiler
def test_two_processes_build_at_once(world):
    """Processes that begin together in an empty cache all get a right kernel."""
    running = [started(world.cache) for _ in range(2)]
    outputs = [process.communicate() for process in running]
    assert {output for output, _ in outputs} == {outputs[0][0]}
    assert "fused for 40 tensors" in outputs[0][0]
    assert all(not errors for _, errors in outputs)
    assert {path.suffix for path in world.kernels.iterdir()} == {".so", ".proof"}


@needs_compiler
@pytest.mark.parametrize(
    ("script", "calls"),
    [pytest.param("exit 1", 1, id="a compiler that fails"), pytest.param('exec cc -nostdinc "$@"', 1, id="no headers")],
)
def test_a_fresh_process_calls_a_compiler_that_fails_once(world, script, calls):
    """Six steps of forty tensors cost one call, write nothing to the terminal, and end with the right numbers."""
    world.compiler(script)
    output, errors = started(world.cache).communicate()
    assert "foreach for 40 tensors" in output
    assert not errors
    assert world.calls() == calls


# The proof -----------------------------------------------------------------------------------------------------------


def sed(*commands: str) -> str:
    return "".join(f'sed -i {shlex.quote(command)} "$text"; cmp -s "$text" "$text.was"; ' for command in commands)


ADAM = {"lr": 0.01, "weight_decay": 0.05, "betas": (0.9, 0.999), "eps": 1e-8, "bias_correction": True, "step": 3.0}
RADAM = {"lr": 0.01, "weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-8, "step": 100.0}
PROGRAMS: dict[str, Program] = {
    "sgd": trace(rules.sgd, {}, lr=0.1, weight_decay=0.1)[0],
    "amsgrad": trace(rules.adam, {"exp_avg": True, "exp_avg_sq": True, "max_exp_avg_sq": True}, amsgrad=True, **ADAM)[
        0
    ],
    "radam": trace(rules.radam, {"exp_avg": True, "exp_avg_sq": True}, decoupled_weight_decay=False, **RADAM)[0],
    "gradient in single": trace(rules.sgd, {}, lr=0.1, weight_decay=0.1)[0],
    "scaled": trace(rules.sgd, {}, lr=0.1, weight_decay=0.1)[0],
    "product": Program(
        ("param", "grad"),
        (Operation("mul", (0, 1)), Operation("sub", (0, 2)), Operation("add", (0, 1), 0), Operation("add", (3, 4), 1)),
        (("param", 5),),
    ),
    "quotient": Program(
        ("param", "grad", "exp_avg"), (Operation("addcdiv", (0, 1, 2), 0),), (("param", 3), ("exp_avg", 2))
    ),
    "first momentum": trace(
        rules.momentum, {"momentum_buffer": False}, lr=0.1, momentum=0.9, dampening=0, nesterov=True, weight_decay=0.1
    )[0],
}
SINGLE, DOUBLE, BFLOAT, HALF = torch.float32, torch.float64, torch.bfloat16, torch.float16

# Name of a fault -> what is exchanged in the text, or said to the compiler, and the program and type that it spoils.
MISTAKES: dict[str, tuple[str | tuple[str, str], str, torch.dtype]] = {
    "fast maths": ("-ffast-math", "amsgrad", SINGLE),
    "fast maths in double": ("-ffast-math", "amsgrad", DOUBLE),
    "fast maths in 16 bits": ("-ffast-math", "amsgrad", BFLOAT),
    "reciprocals": ("-mrecip -funsafe-math-optimizations -ffinite-math-only", "amsgrad", SINGLE),
    "only finite": ("-ffinite-math-only", "amsgrad", SINGLE),
    "the smallest numbers": ("-Wl,$(cc -print-file-name=crtfastmath.o)", "sgd", SINGLE),
    "products that are fused": ("-ffp-contract=fast", "product", SINGLE),
    "products that are not fused": (("__builtin_fmaf(a, b, c)", "((a) * (b) + (c))"), "sgd", SINGLE),
    "a root that is a unit off": (("__builtin_sqrtf(a)", "(__builtin_sqrtf(a) * 1.0000001f)"), "amsgrad", SINGLE),
    "a root by division": (("__builtin_sqrtf(a)", "((a) / __builtin_sqrtf(a))"), "amsgrad", SINGLE),
    "a root in single": (("__builtin_sqrt(a)", "__builtin_sqrtf(a)"), "amsgrad", DOUBLE),
    "a reciprocal that is a unit off": (("= 1 / v", "= 0.99999994f / v"), "radam", SINGLE),
    "the order of a quotient": (("s0 * v1 / v2", "s0 * (v1 / v2)"), "quotient", SINGLE),
    "the last element": (("j < to; j++", "j < to - 1; j++"), "sgd", SINGLE),
    "the first element": (("j = from; j", "j = from + 1; j"), "sgd", SINGLE),
    "one element too many": (("j < to; j++", "j <= to; j++"), "sgd", SINGLE),
    "one element in a thousand": (("p0[j] = v", "if (j % 1024 != 1020) p0[j] = v"), "sgd", SINGLE),
    "a sign": (("FMA(v1, s0, v0)", "FMA(-v1, s0, v0)"), "product", SINGLE),
    "the scalar of another": (("scalars[1]", "scalars[0]"), "sgd", SINGLE),
    "a scalar in single": (("s1 = (real)", "s1 = (real)(float)"), "sgd", DOUBLE),
    "double in single": (("typedef double real", "typedef float real"), "sgd", DOUBLE),
    "NaN in a maximum": ((" || (a) != (a) ?", " ?"), "amsgrad", SINGLE),
    "the far form of lerp": (("FMA((w) - 1, (b) - (a), b)", "FMA(w, (b) - (a), a)"), "amsgrad", SINGLE),
    "the near form of lerp": (("FMA(w, (b) - (a), a)", "FMA((w) - 1, (b) - (a), b)"), "amsgrad", SINGLE),
    "ties in bfloat16": (("0x7FFF + ((bits", "0x8000 + 0 * ((bits"), "sgd", BFLOAT),
    "ties in float16": (("0x0FFF + ((mag", "0x1000 + 0 * ((mag"), "sgd", HALF),
    "NaN in bfloat16": (("(bits & 0x7FFFFFFF) > 0x7F800000", "0"), "gradient in single", BFLOAT),
    "small numbers in float16": (("pick(magnitude < 0x38800000", "pick(magnitude < 0"), "sgd", HALF),
    "small numbers read in float16": (("magnitude * 0x1p-24f", "magnitude * 0x0p0f"), "sgd", HALF),
    "infinity in float16": (("0x477FF000, 0x7C00", "0x7F800000, 0x7C00"), "sgd", HALF),
    "a share": (("from = share * size,", "from = share * size + (share > 0),"), "sgd", SINGLE),
    "the last share": (("if (share >= job->shares)", "if (share + (share > 1) >= job->shares)"), "sgd", SINGLE),
    "all shares": (("parallel(work, &job, (unsigned)shares, 0)", "(void)parallel"), "sgd", SINGLE),
    "the last tensor": (("i < job->tensors &&", "i < job->tensors - (job->tensors > 1) &&"), "sgd", SINGLE),
    "the second launch": (("int64_t from = share", "static int n; int64_t from = (n++ == 5) + share"), "sgd", SINGLE),
    "a state": (("p3[j] = v", "(void)v"), "amsgrad", SINGLE),
    "a state for another": (("p3[j] = v", "p2[j] = v"), "amsgrad", SINGLE),
    "a new state": (("p2[j] = v", "(void)v"), "first momentum", SINGLE),
    "the gradient": (("p0[j] = v", "((real *)p1)[j] = p0[j] = v"), "sgd", SINGLE),
    "the scale": ((" / scale;", " * 1;"), "scaled", SINGLE),
}


def exchanged(text: str, change: str | tuple[str, str]) -> str:
    """Return the text with a mistake, which must have a place in it."""
    assert isinstance(change, str) or change[0] in text, "the text has no such place any more: plant the mistake anew"
    return text if isinstance(change, str) else text.replace(*change)


def miscompiler(change: str | tuple[str, str]) -> str:
    """Return a compiler that takes the flags, or makes the exchange in the text."""
    if isinstance(change, str):
        return f'exec cc "$@" {change}'
    old, new = re.sub(r"([][\\.*^$/])", r"\\\1", change[0]), re.sub(r"([\\&/])", r"\\\1", change[1])
    return f'sed -i {shlex.quote(f"s/{old}/{new}/")} "$text"; exec cc "$@"'


@needs_compiler
@pytest.mark.parametrize(("change", "name", "dtype"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_compiler_that_spoils(world, change, name, dtype):
    """A kernel that is not the loop is refused, by this process and by every later one, without another call."""
    if "crtfastmath" in change and not has_crtfastmath():
        pytest.skip("this compiler has no code that switches the smallest numbers off")
    program, grads = PROGRAMS[name], SINGLE if name == "gradient in single" else dtype
    exchanged(emit_c.source(program, fused.TYPES[dtype], fused.TYPES[grads], unscale=name == "scaled"), change)
    world.compiler(miscompiler(change))
    for _ in range(2):
        for _ in range(2):
            with pytest.raises(build.BuildError, match=r"differs from the loop|the smallest numbers as zeros"):
                fused.kernel_for(program, dtype, grads, unscale=name == "scaled")
        world.forget()
    assert world.calls() == 1
    assert len(list(world.kernels.glob("*.proof"))) == 1
    assert torch.tensor([1e-310], dtype=torch.float64).mul(1.0).item() > 0, "this thread is as it was"


def has_crtfastmath() -> bool:
    found = subprocess.run(["cc", "-print-file-name=crtfastmath.o"], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip()).is_absolute()


@needs_compiler
def test_a_step_with_a_compiler_that_spoils(world):
    """Lists go on with the kernels that fail, explain says why, and fused=True raises before anything is touched."""
    world.compiler(miscompiler(("0x7FFF + ((bits", "0x8000 + 0 * ((bits")))
    optimizers = {}
    for dtype in (torch.float32, torch.bfloat16):
        params, expected = parameters(dtype), parameters(dtype)
        optimizers[dtype] = optizoo.SGD(params, lr=0.5)
        run(optimizers[dtype], range(5))
        run(optizoo.SGD(expected, lr=0.5, foreach=True), range(5))
        if dtype == torch.bfloat16:
            assert_same(params, expected)
    assert "fused for 2 tensors" in optizoo.explain(optimizers[torch.float32])
    assert_lists(optizoo.explain(optimizers[torch.bfloat16]), "differs from the loop .* set CC to another compiler")
    params = [*parameters(), *parameters(torch.bfloat16)]
    before = [param.detach().clone() for param in params]
    strict = optizoo.SGD(params, lr=0.5, fused=True)
    with pytest.raises(RuntimeError, match="differs from the loop"):
        run(strict, range(1))
    assert_same(params, before)


# Name of a fault of the kernel that looks for gradients that are not finite -> what is exchanged.
BLIND: dict[str, tuple[str, str]] = {
    "the last element": ("j < to;", "j < to - 1;"),
    "all but the last element": ("found |=", "found ="),
    "infinity": ("(p[j] & 0x7F800000u) == 0x7F800000u", "(p[j] & 0x7FFFFFFFu) > 0x7F800000u"),
    "NaN": ("(p[j] & 0x7F800000u) == 0x7F800000u", "(p[j] & 0x7FFFFFFFu) == 0x7F800000u"),
    "minus infinity": ("(p[j] & 0x7F800000u) == 0x7F800000u", "(p[j] & 0xFF800000u) == 0x7F800000u"),
    "nothing": ("if (found)", "if (1)"),
    "large numbers": ("(p[j] & 0x7F800000u) == 0x7F800000u", "(p[j] & 0x7F000000u) == 0x7F000000u"),
    "the tensor": ("[i] = 1;", "[0] = 1;"),
}


@needs_compiler
@pytest.mark.parametrize("change", BLIND.values(), ids=list(BLIND))
def test_a_finder_that_misses(world, change):
    """Gradients are looked at by torch where the kernel that looks at them is wrong."""
    exchanged(emit_c.nonfinite_source("float32"), change)
    world.compiler(miscompiler(change))
    grads = [torch.ones(3), torch.ones(70), torch.ones(5)]
    for value in (torch.nan, torch.inf, -torch.inf):
        for index, grad in enumerate(grads):
            grad[-1] = value
            assert finite.nonfinite(grads) == [index]
            grad[-1] = 3e38
    assert finite.nonfinite(grads) == []
    assert finite._kernel(torch.float32) is None
    assert world.calls() == 1


@needs_compiler
def test_what_is_proven_says_so(world):
    """Explain names what the kernel was proven on."""
    optimizer = optizoo.Adam(parameters())
    assert optizoo.explain(optimizer).endswith("the fastest that can serve, proven on this CPU")


@needs_compiler
def test_where_torch_rounds_otherwise(world, monkeypatch):
    """Without torch's vector code the bits may differ: what no order of rounding explains is refused all the same."""
    monkeypatch.setattr(proof, "rounds_as_torch", lambda: False)
    for program in PROGRAMS.values():
        for dtype in fused.TYPES:
            fused.kernel_for(program, dtype, dtype)
    missed = []
    for fault, (change, name, dtype) in MISTAKES.items():
        if name in ("gradient in single", "scaled") or isinstance(change, str):
            continue
        world.compiler(miscompiler(change))
        world.forget()
        try:
            fused.kernel_for(PROGRAMS[name], dtype, dtype)
        except build.BuildError:
            continue
        missed.append(fault)
    # These are other orders of rounding.
    assert set(missed) <= {
        "products that are not fused", "a root that is a unit off", "a root by division", "the order of a quotient",
        "a reciprocal that is a unit off", "the far form of lerp", "the near form of lerp",
        "ties in bfloat16", "ties in float16",
    }  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("mode", ["inference", "default device", "flushing", "autocast", "deterministic", "threads"])
def test_a_proof_is_not_disturbed(world, mode):
    """A proof comes to the same end whatever modes its caller has entered, and leaves them as they are."""
    program = PROGRAMS["amsgrad"]
    try:
        if mode == "inference":
            with torch.inference_mode():
                fused.kernel_for(program, HALF, SINGLE)
        elif mode == "default device":
            with torch.device("meta"):
                fused.kernel_for(program, HALF, SINGLE)
        elif mode == "flushing":
            torch.set_flush_denormal(True)
            fused.kernel_for(program, SINGLE, SINGLE)
            assert torch.tensor([1e-40]).mul(1.0).item() == 0
        elif mode == "autocast":
            with torch.autocast("cpu"):
                fused.kernel_for(program, HALF, SINGLE)
        elif mode == "deterministic":
            torch.use_deterministic_algorithms(True)
            fused.kernel_for(program, HALF, SINGLE)
        else:
            state = torch.get_rng_state()
            before = threading.active_count()
            fused.kernel_for(program, HALF, SINGLE)
            assert threading.active_count() == before
            assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_flush_denormal(False)
        torch.use_deterministic_algorithms(False)


@needs_compiler
@pytest.mark.parametrize("error", [RuntimeWarning, RuntimeError, OSError, MemoryError, AssertionError, KeyError])
def test_a_proof_that_fails_itself(world, monkeypatch, error):
    """Whatever is raised in one proof costs its own kernel, and says nothing about the compiler."""

    def fails(*_: Any, **__: Any) -> None:
        raise error("as it may")

    with monkeypatch.context() as patch:
        patch.setattr(proof, "objection", fails)
        for _ in range(2):
            with pytest.raises(build.BuildError, match=r"cannot be proven .*as it may"):
                fused.kernel_for(PROGRAMS["amsgrad"], SINGLE, SINGLE)
    calls = world.calls()
    fused.kernel_for(PROGRAMS["amsgrad"], HALF, SINGLE)
    assert world.calls() == calls + 1
    world.forget()
    fused.kernel_for(PROGRAMS["amsgrad"], SINGLE, SINGLE)
    assert world.calls() == calls + 1


@needs_compiler
@pytest.mark.parametrize("types", [("float32", "float32"), ("bfloat16", "float16"), ("float64", "float32")])
@pytest.mark.parametrize("compiler", build.COMPILERS)
def test_compilers_do_not_warn(compiler, types, tmp_path):
    """The emitted text has no warning from any compiler that is here."""
    path = shutil.which(compiler)
    if path is None:
        pytest.skip(f"there is no {compiler}")
    words = [Operation(name, (0, 1), index) for index, name in enumerate(("add", "lerp"))]
    program = Program(("param", "grad"), tuple(words), (("param", 2), ("made", 3)))
    (tmp_path / "k.c").write_text(emit_c.source(program, *types, unscale=True), encoding="utf-8")
    flags = [*build.FLAGS, "-Wall", "-Wextra", "-Werror"]
    subprocess.run([path, *flags, str(tmp_path / "k.c"), "-o", str(tmp_path / "k.so")], check=True)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("flags", ["", "-mno-fma"], ids=["native", "without fma"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_right_compilers_pass(world, monkeypatch, compiler, flags):
    """What compilers make of a few programs passes its proof, in every type, and where torch rounds otherwise too."""
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    if flags:
        monkeypatch.setattr(proof, "rounds_as_torch", lambda: False)
    world.compiler(f'exec {compiler} "$@" {flags}')
    for name in ("amsgrad", "radam"):
        for dtype in fused.TYPES:
            for grads in {dtype, SINGLE}:
                fused.kernel_for(PROGRAMS[name], dtype, grads, unscale=grads != dtype)
