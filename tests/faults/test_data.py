"""Data that are missing, broken, of a wrong kind, or hostile.

Which damage is found where is tested beside the sources (``tests/lab/test_sources.py``); here is what the user sees of
every kind, and that nothing of a hostile file is executed or written.
"""

import gzip
import io
import os
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from optizoo.lab import cache, sources
from optizoo.lab.sources import find
from tests.faults.conftest import Told
from tests.lab.test_sources import encoded, files, flip_in_checksum, member, write_archive, write_folder


def folder(root: Path, changes: dict[str, bytes] | None = None) -> Path:
    return write_folder(root / "images", files() | (changes or {}))


def archive(root: Path, damage: Callable[[bytes], bytes]) -> Path:
    path = root / "images.tar.gz"
    path.write_bytes(damage(gzip.compress(write_archive(root / "whole.tar", files()).read_bytes())))
    return path


def with_member(root: Path, info: tarfile.TarInfo) -> Path:
    path = write_archive(root / "images.tar", files())
    with tarfile.open(path, "a") as tar:
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def flipped_png(root: Path) -> Path:
    content = encoded(1, ".png")
    return folder(root, {"train/cat/0001.png": flip(content, content.index(b"IDAT") + 10)})


def unreadable(root: Path) -> Path:
    """Permissions do not stop root, so a link that leads in a circle stands in the place of an image."""
    path = folder(root)
    image = path / "train/cat/0000.jpg"
    image.unlink()
    image.symlink_to(image.name)
    return path


def no_folder(root: Path) -> Path:
    path = folder(root)
    (path / "train/cat/0000.jpg").unlink()
    (path / "train/cat/0000.jpg").mkdir()
    return path


def empty_class(root: Path) -> Path:
    path = folder(root)
    (path / "train/dog").mkdir()
    return path


FAULTS = [
    pytest.param(lambda root: root / "nowhere", r"nowhere does not exist.*set OPTIZOO_DATA", id="missing"),
    pytest.param(lambda root: folder(root) / "train", r"no CIFAR-10 in .*set OPTIZOO_DATA", id="nothing in it"),
    pytest.param(
        lambda root: archive(root, lambda c: c[: len(c) // 2]), r"tar.gz is truncated.*copy it again", id="truncated"
    ),
    pytest.param(lambda root: archive(root, lambda c: b""), r"tar.gz is truncated.*copy it again", id="empty"),
    pytest.param(lambda root: archive(root, flip_in_checksum), r"tar.gz .*CRC.*copy it again", id="flipped checksum"),
    pytest.param(
        lambda root: archive(root, lambda c: flip(c, len(c) // 2)), r"tar.gz .*copy it again", id="flipped archive"
    ),
    pytest.param(flipped_png, r"train/cat/0001.png is not a readable .*copy it again", id="flipped image"),
    pytest.param(
        lambda root: archive(root, lambda c: b"<!DOCTYPE html><p>Sign in"),
        r"tar.gz is a web page, not an archive: download",
        id="HTML instead of tar",
    ),
    pytest.param(
        lambda root: folder(root, {"train/cat/0001.png": b"<html>404</html>"}),
        r"train/cat/0001.png is not a readable JPEG or PNG .*copy it again",
        id="HTML instead of image",
    ),
    pytest.param(unreadable, r"cannot read .*train/cat/0000.jpg \(.*\): check its permissions", id="unreadable"),
    pytest.param(no_folder, r"train/cat/0000.jpg \(Is a directory\): .*copy it again", id="folder for an image"),
    pytest.param(empty_class, r"train/dog in .* holds no image: add images", id="class without images"),
    pytest.param(
        lambda root: folder(root, {"train/dog/0000.jpg": encoded(1)}),
        r"test/dog in .* holds no image: add images",
        id="class without test images",
    ),
    pytest.param(
        lambda root: folder(root, {"train/cat/0000.jpg": encoded(1, size=(32, 31))}),
        r"train/cat/0000.jpg is 32 x 31 pixels.*resize or remove",
        id="wrong size",
    ),
    pytest.param(
        lambda root: with_member(root, member("../../stolen.jpg", size=9)),
        r"\.\./\.\./stolen.jpg in .* points outside the archive: do not use",
        id="tar with ..",
    ),
    pytest.param(
        lambda root: with_member(root, member(f"{root}/stolen.jpg", size=9)),
        r"stolen.jpg in .* points outside the archive: do not use",
        id="tar with an absolute path",
    ),
    pytest.param(
        lambda root: with_member(root, member("train/cat/9.jpg", tarfile.SYMTYPE)),
        r"train/cat/9.jpg in .* is a link .*: make the archive from plain files",
        id="tar with a symbolic link",
    ),
    pytest.param(
        lambda root: with_member(root, member("train/cat/9.jpg", tarfile.LNKTYPE)),
        r"train/cat/9.jpg in .* is a link .*: make the archive from plain files",
        id="tar with a hard link",
    ),
]


@pytest.mark.parametrize(("make", "message"), FAULTS)
def test_data_that_cannot_be_used(config: Path, told: Told, make: Callable[[Path], Path], message: str):
    """Whatever is wrong with the data is told in one line that names file and remedy; nothing is unpacked or kept."""
    root = make(Path.cwd())
    before = {path for path in Path.cwd().parent.rglob("*") if "cache" not in path.parts}
    arguments = ["--data.name", "cifar10", "--data.root", str(root), "--data.cache", "cache"]
    error = told("train", str(config), "--data.train_size", "4", "--data.test_size", "2", *arguments)
    assert re.search(message, error)
    assert {path for path in Path.cwd().parent.rglob("*") if "cache" not in path.parts} == before
    assert not list(Path("cache").glob("*"))


# Payloads -------------------------------------------------------------------------------------------------------------


class Payload:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def test_cache_file_with_a_payload(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A cache file that would run code is not loaded: the source is decoded again, and a warning tells why."""
    mark = tmp_path / "executed"
    source = find(folder(tmp_path))
    expected, _ = cache.decoded(source, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    for write in (
        lambda: torch.save({"fingerprint": Payload(mark)}, path),
        lambda: torch.save({"fingerprint": Payload(mark)}, path, _use_new_zipfile_serialization=False),
        lambda: path.write_bytes(pickle.dumps(Payload(mark))),
    ):
        write()
        caplog.clear()
        content, _ = cache.decoded(source, tmp_path / "cache")
        assert torch.equal(content.train.images, expected.train.images)
        assert "is damaged" in caplog.text
        assert not mark.exists()


def test_torchvision_batch_with_a_payload(config: Path, told: Told):
    """A batch of torchvision's that is not the original is refused by its md5 sum, before it is unpickled."""
    mark = Path.cwd() / "executed"
    layout = Path("data", sources.TORCHVISION_FOLDER)
    layout.mkdir(parents=True)
    for name in ("batches.meta", "test_batch", *(f"data_batch_{index}" for index in range(1, 6))):
        (layout / name).write_bytes(pickle.dumps(Payload(mark)))
    error = told("train", str(config), "--data.name", "cifar10", "--data.root", "data", "--data.cache", "cache")
    assert f"torchvision cannot read {layout} (Dataset not found or corrupted" in error
    assert not mark.exists()
