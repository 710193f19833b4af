"""Files: whole or not there, written through what leads to them, on file systems that can little."""

import errno
import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from optizoo.lab import files
from optizoo.lab.checkpoint import load, save
from optizoo.lab.files import growing, is_stream, unfinished, write, write_json
from optizoo.lab.folder import FolderError, locked


def plain(folder: Path) -> tuple[Path, Path]:
    (folder / "real").write_text("old")
    return folder / "real", folder / "real"


def nothing(folder: Path) -> tuple[Path, Path]:
    return folder / "real", folder / "real"


def link(folder: Path) -> tuple[Path, Path]:
    (folder / "there").mkdir()
    (folder / "there" / "real").write_text("old")
    (folder / "link").symlink_to(Path("there", "real"))
    return folder / "link", folder / "there" / "real"


def link_to_a_link(folder: Path) -> tuple[Path, Path]:
    first, real = link(folder)
    (folder / "second").symlink_to(first)
    return folder / "second", real


def dangling_link(folder: Path) -> tuple[Path, Path]:
    (folder / "link").symlink_to("real")
    return folder / "link", folder / "real"


def hard_link(folder: Path) -> tuple[Path, Path]:
    plain(folder)
    os.link(folder / "real", folder / "other")
    return folder / "other", folder / "real"


def long_name(folder: Path) -> tuple[Path, Path]:
    return folder / ("é" * 120), folder / ("é" * 120)


@pytest.mark.parametrize("make", [plain, nothing, link, link_to_a_link, dangling_link, hard_link, long_name])
def test_write_leads_to_the_file(tmp_path: Path, make: Callable[[Path], tuple[Path, Path]]):
    """What is written stands in the file to which names and links lead; they stay what they were, and nothing else."""
    path, real = make(tmp_path)
    before = {each: (each.is_symlink(), each.stat(follow_symlinks=False).st_nlink) for each in tmp_path.rglob("*")}
    write(path, "new")
    assert path.read_text() == real.read_text() == "new"
    after = {each: (each.is_symlink(), each.stat(follow_symlinks=False).st_nlink) for each in tmp_path.rglob("*")}
    assert before.items() <= after.items()
    assert after.keys() - before.keys() <= {real}


def test_write_keeps_the_mode(tmp_path: Path):
    """A file that others may not read stays so."""
    path, _ = plain(tmp_path)
    path.chmod(0o600)
    write(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_write_into_a_pipe(tmp_path: Path):
    """A pipe stays a pipe, and its reader gets one text."""
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    assert is_stream(pipe)
    write_json(pipe, {"a": 1})
    reader.join()
    assert got == ['{\n  "a": 1\n}\n']
    assert pipe.is_fifo()


def test_write_into_the_standard_output(tmp_path: Path):
    """A path that leads to the standard output goes on where that stands, and what is there is kept."""
    file = tmp_path / "file"
    before = os.dup(1)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    try:
        os.dup2(descriptor, 1)
        os.write(1, b"first ")
        for path in (file, Path("/dev/stdout")):
            assert is_stream(path)
            write(path, "second ")
        os.write(1, b"third")
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(descriptor)
    assert file.read_text() == "first second second third"


def refuse(number: int, only: Callable[[int], bool] = lambda _: True) -> Callable[[int], None]:
    """Return what ``os.fsync`` is on a file system that fails with this error."""

    def fsync(descriptor: int) -> None:
        if only(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    return fsync


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS, errno.EPERM])
def test_file_systems_that_cannot_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int):
    """Where files or folders cannot be forced to the disk, they are written all the same."""
    monkeypatch.setattr(files.os, "fsync", refuse(number))
    write(tmp_path / "file", "new")
    save(tmp_path / "c.pt", {"step": 1})
    assert (tmp_path / "file").read_text() == "new"
    assert load(tmp_path / "c.pt") == {"step": 1}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_write_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int):
    """Where writing fails, the error names the file, which keeps what it held, and nothing is left beside it."""
    path, _ = plain(tmp_path)
    monkeypatch.setattr(files.os, "fsync", refuse(number))
    with pytest.raises(OSError, match=str(path)) as caught:
        write(path, "new")
    assert caught.value.errno == number
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.ENOTSUP, errno.EINVAL])
@pytest.mark.parametrize("files_too", [False, True], ids=["folders", "folders and files"])
def test_file_systems_that_cannot_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, files_too: bool):
    """Where a folder cannot be locked, a file in it is, and is gone afterwards; where neither can, work goes on."""
    fcntl = pytest.importorskip("fcntl")
    flock = fcntl.flock

    def refused(descriptor: int, operation: int) -> None:
        if files_too or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", refused)
    with locked(tmp_path):
        if not files_too:
            with pytest.raises(FolderError, match="another process"), locked(tmp_path):
                pass
    assert not [*tmp_path.iterdir()]


def grow_until_interrupted(path: Path) -> None:
    with growing(path) as take:
        take([1])
        take([1, 2])
        raise KeyboardInterrupt


def test_a_file_that_grows(tmp_path: Path):
    """A record that is written again and again stands in its place, if nothing was there before."""
    path = tmp_path / "file"
    with pytest.raises(KeyboardInterrupt):
        grow_until_interrupted(path)
    assert json.loads(path.read_text()) == [1, 2]
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("make", [plain, link, hard_link])
def test_a_file_that_grows_beside_another(tmp_path: Path, make: Callable[[Path], tuple[Path, Path]]):
    """Where there is one, it grows beside it, and replaces it when it is whole; an interruption keeps both."""
    path, real = make(tmp_path)
    before = {*tmp_path.rglob("*")}
    with pytest.raises(KeyboardInterrupt):
        grow_until_interrupted(path)
    assert real.read_text() == "old"
    assert json.loads(unfinished(path).read_text()) == [1, 2]
    with growing(path) as take:
        take([1])
        take([1, 2])
        assert real.read_text() == "old"
    assert json.loads(real.read_text()) == [1, 2]
    assert {*tmp_path.rglob("*")} == before


def test_a_pipe_takes_what_has_grown(tmp_path: Path):
    """A pipe takes the last text alone."""
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    with growing(pipe) as take:
        take([1])
        take([1, 2])
    reader.join()
    assert json.loads(got[0]) == [1, 2]


def test_nothing_takes_what_grows():
    """Without a file nothing is written."""
    with growing(None) as take:
        take([1])


def test_write_what_is_there_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file that holds this already is left alone, as on a disk that can only be read."""
    path, _ = plain(tmp_path)
    monkeypatch.setattr(files, "beside", None)
    before = path.stat()
    write(path, "old")
    assert path.stat() == before
