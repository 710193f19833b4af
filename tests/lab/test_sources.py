"""Sources and their cache: what is read, in which order, and what is refused."""

import gzip
import io
import logging
import lzma
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from optizoo.lab import cache, sources
from optizoo.lab.data import load
from optizoo.lab.sources import Content, DataError, Source, find

CLASSES = ("bird", "cat", "frog")
COUNTS = {"train": 4, "test": 2}


def encoded(seed: int, suffix: str = ".jpg", size: tuple[int, int] = (32, 32), mode: str = "RGB") -> bytes:
    """Return an image file of random smooth content."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size).convert(mode).save(file, "JPEG" if suffix == ".jpg" else "PNG")
    return file.getvalue()


def files() -> dict[str, bytes]:
    """Return a small image folder: file names to contents, JPEG and PNG mixed, in no sorted order."""
    names = [
        f"{part}/{name}/{index:04d}{'.png' if index % 2 else '.jpg'}"
        for part, count in COUNTS.items()
        for index in reversed(range(count))
        for name in ("frog", "bird", "cat")
    ]
    return {name: encoded(seed, Path(name).suffix) for seed, name in enumerate(names)}


def write_folder(root: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def write_archive(path: Path, contents: dict[str, bytes], mode: str = "w", top: str = "./") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in contents.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def same(one: Content, other: Content) -> bool:
    return (
        one.classes == other.classes
        and torch.equal(one.train.images, other.train.images)
        and torch.equal(one.train.labels, other.train.labels)
        and torch.equal(one.test.images, other.test.images)
        and torch.equal(one.test.labels, other.test.labels)
    )


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "images", files())


def test_a_folder_is_read_sorted_by_class_then_file_name(images: Path) -> None:
    """Images stand in the order of class, then file name, whatever order the disk lists them in."""
    content = Source("folder", images).decode()
    assert content.classes == CLASSES
    assert content.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert content.test.labels.tolist() == [0] * 2 + [1] * 2 + [2] * 2
    for split, part in ((content.train, "train"), (content.test, "test")):
        paths = sorted((images / part).glob("*/*"))
        expected = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        assert torch.equal(split.images.permute(0, 2, 3, 1), torch.from_numpy(np.stack(expected)))


@pytest.mark.parametrize(
    ("name", "mode", "top"),
    [
        pytest.param("a.tar", "w", "./", id="plain"),
        pytest.param("a.tar.xz", "w:xz", "", id="xz"),
        pytest.param("a.txz", "w:xz", "", id="txz"),
        pytest.param("a.tar.gz", "w:gz", "CIFAR-10-images-master/", id="gz, one folder down"),
        pytest.param("a.TGZ", "w:gz", "./images/", id="upper-case suffix"),
    ],
)
def test_an_archive_holds_what_its_folder_holds(images: Path, tmp_path: Path, name: str, mode: str, top: str) -> None:
    """A folder and an archive of it decode to the same tensors, in the same order, with the same digest."""
    archive = write_archive(tmp_path / name, files(), mode, top)
    folder, packed = Source("folder", images).decode(), find(archive).decode()
    assert same(folder, packed)
    assert folder.digest() == packed.digest()


@pytest.mark.parametrize(
    "name", ["Thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini", ".DS_Store", "Icon\r", "__MACOSX", "@eaDir"]
)
def test_what_desktops_leave_behind_is_left_out(images: Path, tmp_path: Path, name: str) -> None:
    """Thumbnails, settings of folders and their like are no images, wherever they lie, in folder and archive."""
    expected = Source("folder", images).decode()
    within = "/0.jpg" if name in ("__MACOSX", "@eaDir") else ""
    litter = {f"{place}{name}{within}": b"x" for place in ("", "train/", "test/cat/")}
    write_folder(images, litter)
    assert same(expected, find(images).decode())
    assert same(expected, find(write_archive(tmp_path / "a.tar", files() | litter)).decode())


def test_hidden_files_are_left_out(images: Path, tmp_path: Path) -> None:
    """Entries whose name starts with a dot, which desktops and archivers leave behind, are no part of the data."""
    hidden = {"train/.DS_Store": b"x", "train/cat/._0000.jpg": b"x", "train/.cache/0.jpg": b"x", "README.md": b"x"}
    expected = Source("folder", images).decode()
    write_folder(images, hidden)
    assert same(expected, Source("folder", images).decode())
    assert same(expected, Source("archive", write_archive(tmp_path / "a.tar", files() | hidden)).decode())


@pytest.mark.parametrize(
    "mode",
    [pytest.param("L", id="grey"), pytest.param("P", id="palette")],
)
def test_grey_and_palette_images_become_colour(images: Path, mode: str) -> None:
    """What Pillow converts to RGB without loss is read."""
    path = images / "train/bird/0001.png"
    path.write_bytes(encoded(5, ".png", mode=mode))
    image = Source("folder", images).decode().train.images[1]
    assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(np.array(Image.open(path).convert("RGB"))))


def test_digest_sees_every_byte(images: Path) -> None:
    """The digest changes with a pixel, a label and a class name."""
    content = Source("folder", images).decode()
    digests = {content.digest()}
    content.test.images[-1, -1, -1, -1] ^= 1
    digests.add(content.digest())
    content.train.labels[0] = 1
    digests.add(content.digest())
    digests.add(Content(("bird", "cat", "toad"), content.train, content.test).digest())
    assert len(digests) == 4


# What a path holds.


def write_torchvision(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Write torchvision's layout with two images a file, teach torchvision its md5 sums, return the train images."""
    folder = root / sources.TORCHVISION_FOLDER
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)

    def write(name: str, content: object) -> str:
        encoded = pickle.dumps(content)
        (folder / name).write_bytes(encoded)
        return md5(encoded).hexdigest()

    pixels = [random.integers(0, 256, (2, 3072), np.uint8) for _ in range(6)]
    names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    sums = [
        [name, write(name, {"data": data, "labels": [index, 9 - index]})]
        for index, (name, data) in enumerate(zip(names, pixels, strict=True))
    ]
    meta = write(CIFAR10.meta["filename"], {"label_names": [f"class {index}" for index in range(10)]})
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": meta})
    return np.concatenate(pixels[:5]).reshape(-1, 3, 32, 32)


def test_torchvision_layout_is_read_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images, labels and class names are torchvision's, in torchvision's order."""
    expected = write_torchvision(tmp_path, monkeypatch)
    content = find(tmp_path).decode()
    assert torch.equal(content.train.images, torch.from_numpy(expected))
    assert content.train.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert content.classes[3] == "class 3"
    assert len(content.test) == 2


def test_changed_torchvision_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose md5 sum is not torchvision's raises, and the message tells the remedy."""
    write_torchvision(tmp_path, monkeypatch)
    with (tmp_path / sources.TORCHVISION_FOLDER / "data_batch_3").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"torchvision cannot read .*cifar-10-batches-py .*corrupted.*download=True"):
        find(tmp_path).decode()


def pack(root: Path, name: str = sources.original.TORCHVISION_ARCHIVE, top: str = "") -> Path:
    """Pack torchvision's folder below ``root`` as torchvision's archive has it, or below ``top``."""
    with tarfile.open(root / name, "w:gz") as archive:
        archive.add(root / sources.TORCHVISION_FOLDER, f"{top}{sources.TORCHVISION_FOLDER}")
    return root / name


@pytest.mark.parametrize(
    ("meant", "top"),
    [
        pytest.param("cifar-10-batches-py", "", id="the folder itself"),
        pytest.param("link", "", id="a link to it"),
        pytest.param("cifar-10-python.tar.gz", "", id="the archive itself"),
        pytest.param("cifar-10-python.tar.gz", "./", id="an archive that begins with a dot"),
        pytest.param("mine.tgz", "", id="the archive by another name"),
        pytest.param("..", "", id="a folder above"),
        pytest.param("packed", "", id="a folder with the archive"),
    ],
)
def test_torchvision_layout_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meant: str, top: str) -> None:
    """Whatever surely means torchvision's files is read, and nothing is written beside them."""
    root = tmp_path / "above" / "root"
    expected = write_torchvision(root, monkeypatch)
    if meant == "link":
        (root / "link").symlink_to(root / sources.TORCHVISION_FOLDER)
    elif meant == "packed":
        (root / "packed").mkdir()
        pack(root).rename(root / "packed" / sources.original.TORCHVISION_ARCHIVE)
    elif meant.endswith("gz"):
        pack(root, meant, top)
    before = sorted(root.rglob("*"))
    source = find(Path(os.path.normpath(root / meant)))
    assert source.kind == "torchvision"
    content, digest = cache.decoded(source, tmp_path / "cache")
    assert torch.equal(content.train.images, torch.from_numpy(expected))
    assert cache.decoded(source, tmp_path / "cache")[1] == digest
    assert sorted(root.rglob("*")) == before


def test_a_changed_archive_of_torchvision_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The md5 sums hold for what is packed, and the message names the archive."""
    write_torchvision(tmp_path, monkeypatch)
    (tmp_path / sources.TORCHVISION_FOLDER / "data_batch_3").write_bytes(b"x")
    with pytest.raises(DataError, match=r"torchvision cannot read .*/cifar-10-python.tar.gz \(.*corrupted.*delete it"):
        find(pack(tmp_path)).decode()


@pytest.mark.parametrize("root", ["", "cifar-10-batches-py"], ids=["around", "the folder itself"])
@pytest.mark.parametrize("damage", ["missing", "changed", "names", "empty", "gone", None])
def test_download_repairs_a_damaged_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str | None, root: str
) -> None:
    """What is missing or changed comes back, here from the archive, which torchvision takes before the network."""
    expected = write_torchvision(tmp_path, monkeypatch)
    archive = pack(tmp_path)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive.read_bytes()).hexdigest())
    folder = tmp_path / sources.TORCHVISION_FOLDER
    if damage in ("empty", "gone"):
        shutil.rmtree(folder)
    if damage == "empty":
        folder.mkdir()
    if damage == "missing":
        (folder / "data_batch_2").unlink()
    if damage in ("changed", "names"):
        (folder / ("data_batch_2" if damage == "changed" else "batches.meta")).write_bytes(b"x")
    data = load("cifar10", root=tmp_path / root, cache=tmp_path / "cache", validation=0, download=True)
    assert len(data.train) == len(expected)
    assert find(tmp_path).decode().digest() == data.digest


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        pytest.param(
            ["cifar-10-batches-py/", "train/", "test/", "a.tar"], ("torchvision", "."), id="torchvision first"
        ),
        pytest.param(["train/", "test/", "other/train/", "other/test/", "a.tar"], ("folder", "."), id="then a folder"),
        pytest.param(["train/", "deep/train/", "deep/test/", "a.tar"], ("folder", "deep"), id="then one folder down"),
        pytest.param(["train/", "notes.txt", "a.tar.xz"], ("archive", "a.tar.xz"), id="then an archive"),
        pytest.param(["a.tgz", "cifar-10-python.tar.gz"], ("archive", "a.tgz"), id="not torchvision's archive"),
        pytest.param(["b/cifar-10-batches-py/", "a.tar"], ("archive", "a.tar"), id="before what is further down"),
        pytest.param(["b/cifar-10-batches-py/", "c/"], ("torchvision", "b"), id="then torchvision's one folder down"),
        pytest.param(
            ["__MACOSX/train/", "__MACOSX/test/", "a/train/", "a/test/"], ("folder", "a"), id="not what archivers leave"
        ),
    ],
)
def test_order_of_preference(tmp_path: Path, present: list[str], expected: tuple[str, str]) -> None:
    """Of several things in a folder, the first of the documented order is taken."""
    for name in present:
        if name.endswith("/"):
            (tmp_path / name).mkdir(parents=True)
        else:
            (tmp_path / name).touch()
    source = find(tmp_path)
    assert (source.kind, source.path) == (expected[0], tmp_path / expected[1])


@pytest.mark.parametrize(
    ("present", "message"),
    [
        pytest.param([], r"no CIFAR-10 in .*: looked for .*set OPTIZOO_DATA.*download=True", id="nothing"),
        pytest.param(["train/"], "no CIFAR-10 in", id="train without test"),
        pytest.param(["a.zip"], "no CIFAR-10 in", id="another archive"),
        pytest.param(["a.tar", "b.tar.xz"], r"more than one image archive \(a.tar, b.tar.xz\)", id="two archives"),
        pytest.param(
            ["a/train/", "a/test/", "b/train/", "b/test/"], r"more than one image folder \(a, b\)", id="two folders"
        ),
        pytest.param(
            ["a/cifar-10-batches-py/", "b/cifar-10-batches-py/"],
            r"more than one folder with .* \(a, b\)",
            id="two homes",
        ),
        pytest.param(["cifar-10-python.tar.gz"], "not unpacked: pass download=True", id="only torchvision's archive"),
    ],
)
def test_nothing_or_too_much_is_an_error(tmp_path: Path, present: list[str], message: str) -> None:
    """Where there is nothing to read, or no telling which, the message says what was looked for and what to do."""
    for name in present:
        path = tmp_path / name
        path.mkdir(parents=True) if name.endswith("/") else path.touch()
    with pytest.raises(DataError, match=message) as caught:
        find(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    """A root that is missing, or another kind of file, is named."""
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        find(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"notes.txt is a file, but no .tar"):
        find(tmp_path / "notes.txt")


# What is refused.

DAMAGES = [
    pytest.param({"train/cat/0001.png": b""}, r"train/cat/0001.png.* \(the file is empty\)", id="empty image"),
    pytest.param({"train/cat/0001.png": b"<html>404</html>"}, r"train/cat/0001.png.*not a readable", id="no image"),
    pytest.param({"train/cat/0002.jpg": encoded(1)[:-60]}, r"train/cat/0002.jpg.*truncated", id="truncated JPEG"),
    pytest.param(
        {"test/cat/0001.png": encoded(1, ".png")[:-60]}, r"test/cat/0001.png.*not a readable", id="truncated PNG"
    ),
    pytest.param(
        {"train/cat/0000.jpg": encoded(1, size=(32, 31))}, r"train/cat/0000.jpg.* 32 x 31 pixels", id="wrong size"
    ),
    pytest.param(
        {"train/cat/0001.png": encoded(1, ".png", mode="RGBA")}, r"train/cat/0001.png.*'RGBA'", id="transparent"
    ),
    pytest.param({"train/dog/0000.jpg": encoded(1)}, r"test/dog in .* no image", id="class without test image"),
    pytest.param({"train/cat/notes.txt": b"x"}, r"train/cat/notes.txt.* is not train\|test/<class>/", id="other file"),
    pytest.param({"train/0000.jpg": encoded(1)}, r"train/0000.jpg.* is not train\|test/<class>/", id="without class"),
]


@pytest.mark.parametrize("packed", [pytest.param(False, id="folder"), pytest.param(True, id="archive")])
@pytest.mark.parametrize(("changes", "message"), DAMAGES)
def test_a_bad_file_is_named(tmp_path: Path, changes: dict[str, bytes], message: str, packed: bool) -> None:
    """A file that is corrupt, of a wrong size or out of place is an error that names it, in a folder and an archive."""
    contents = files() | changes
    source = (
        write_archive(tmp_path / "a.tar.gz", contents, "w:gz") if packed else write_folder(tmp_path / "a", contents)
    )
    with pytest.raises(DataError, match=message) as caught:
        find(source).decode()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["train/dog", "test/dog"])
def test_a_class_folder_without_images_is_an_error(images: Path, tmp_path: Path, name: str) -> None:
    """An empty class is an error, not a class less."""
    (images / name).mkdir()
    with pytest.raises(DataError, match=r"train/dog in .* holds no image"):
        Source("folder", images).decode()
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(images, ".")
    with pytest.raises(DataError, match=r"train/dog in .* holds no image"):
        find(archive).decode()


def test_a_folder_within_a_class_is_an_error(images: Path) -> None:
    """Images one level too deep are not passed over."""
    write_folder(images, {"train/cat/more/0000.jpg": encoded(1)})
    with pytest.raises(DataError, match=r"train/cat/more is not train\|test/<class>/"):
        Source("folder", images).decode()


def test_an_unreadable_file_is_an_error(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without read permission is named."""

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # permissions do not stop root, as whom tests may run
    with pytest.raises(DataError, match=r"cannot read .*test/bird/0000.jpg \(Permission denied\): check its perm"):
        Source("folder", images).decode()


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    info.linkname = "0000.jpg" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    return info


@pytest.mark.parametrize(
    ("info", "message"),
    [
        pytest.param(member("../train/cat/9.jpg"), r"\.\./train/cat/9.jpg in .* points outside", id="parent"),
        pytest.param(member("train/../../9.jpg"), "points outside", id="parent in the middle"),
        pytest.param(member("train\\..\\9.jpg"), "points outside", id="parent with backslashes"),
        pytest.param(member("/train/cat/9.jpg"), "points outside", id="absolute"),
        pytest.param(
            member("train/cat/9.jpg", tarfile.SYMTYPE), r"train/cat/9.jpg in .* is a link", id="symbolic link"
        ),
        pytest.param(member("train/cat/9.jpg", tarfile.LNKTYPE), "is a link", id="hard link"),
        pytest.param(member("train/cat/9.jpg", tarfile.FIFOTYPE), "is a link or a device", id="pipe"),
        pytest.param(member("train/cat/9.jpg", size=1 << 21), r"9.jpg in .* 2097152 bytes, too many", id="too large"),
        pytest.param(member("train/cat/0000.jpg"), r"train/cat/0000.jpg in .* is there twice", id="twice"),
        pytest.param(member("b/train/cat/0009.jpg"), "more than one image folder", id="two image folders"),
    ],
)
def test_dishonest_members_are_refused(tmp_path: Path, info: tarfile.TarInfo, message: str) -> None:
    """A member that points outside, is no plain file, claims too much or comes twice stops the reading by name."""
    path = write_archive(tmp_path / "a.tar", files())
    with tarfile.open(path, "a") as archive:
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(DataError, match=message):
        find(path).decode()


def cut_between_members(content: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return content[: archive.getmembers()[-1].offset]


def damage_header(content: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        offset = archive.getmembers()[7].offset
    return content[:offset] + b"\xff" * 512 + content[offset + 512 :]


def flip_in_checksum(content: bytes) -> bytes:
    return content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        pytest.param("a.tar", lambda c: c[: len(c) // 2], "is truncated", id="cut within a member"),
        pytest.param(
            "a.tar", cut_between_members, "is truncated.*no end mark after 17 members", id="cut between members"
        ),
        pytest.param("a.tar", damage_header, "no end mark after 7 members", id="damaged header"),
        pytest.param("a.tar", lambda c: b"", "is truncated, or is no archive", id="empty file"),
        pytest.param("a.tar.xz", lambda c: lzma.compress(c)[:-2000], "is truncated", id="cut xz"),
        pytest.param("a.tar.gz", lambda c: gzip.compress(c)[:-2000], "is truncated", id="cut gz"),
        pytest.param("a.tar.gz", lambda c: flip_in_checksum(gzip.compress(c)), "CRC", id="wrong checksum"),
        pytest.param(
            "a.tar.xz", lambda c: b"\n<!DOCTYPE html><p>Sign in", "is a web page, not an archive", id="web page"
        ),
    ],
)
def test_a_damaged_archive_is_an_error(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes], message: str
) -> None:
    """However an archive is damaged, it is refused by name, and never read in part."""
    whole = write_archive(tmp_path / "whole.tar", files()).read_bytes()
    (tmp_path / name).write_bytes(damage(whole))
    with pytest.raises(DataError, match=message) as caught:
        find(tmp_path / name).decode()
    assert name in str(caught.value)
    assert "copy it again" in str(caught.value)


# The cache.


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by one entry whenever a source is decoded."""
    calls: list[str] = []
    decode = Source.decode

    def counted(source: Source) -> Content:
        calls.append(source.kind)
        return decode(source)

    monkeypatch.setattr(Source, "decode", counted)
    return calls


def test_a_source_is_decoded_once(images: Path, tmp_path: Path, decodings: list[str]) -> None:
    """The second load comes from the cache, with the same content and digest, and leaves no other file behind."""
    first, digest = cache.decoded(find(images), tmp_path / "cache")
    second, again = cache.decoded(find(images), tmp_path / "cache")
    assert same(first, second)
    assert digest == again == first.digest()
    assert decodings == ["folder"]
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda root: (root / "train/cat/0000.jpg").write_bytes(encoded(99)), id="content"),
        pytest.param(lambda root: os.utime(root / "test/cat/0000.jpg", ns=(1, 1)), id="modification time"),
        pytest.param(lambda root: (root / "train/cat/0009.jpg").write_bytes(encoded(99)), id="another file"),
        pytest.param(lambda root: (root / "train/cat/0000.jpg").unlink(), id="a file less"),
        pytest.param(lambda root: (root / "train/cat/0000.jpg").rename(root / "train/cat/9.jpg"), id="file name"),
    ],
)
def test_a_changed_source_is_decoded_again(
    images: Path, tmp_path: Path, decodings: list[str], change: Callable[[Path], object]
) -> None:
    """The cache does not outlive a change of the files it was made from; the old file is replaced."""
    cache.decoded(find(images), tmp_path / "cache")
    change(images)
    content, digest = cache.decoded(find(images), tmp_path / "cache")
    assert decodings == ["folder", "folder"]
    assert digest == content.digest()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_two_sources_share_a_cache(images: Path, tmp_path: Path, decodings: list[str]) -> None:
    """Every path has a cache file of its own."""
    archive = write_archive(tmp_path / "a.tar", files())
    for _ in range(2):
        cache.decoded(find(images), tmp_path / "cache")
        cache.decoded(find(archive), tmp_path / "cache")
    assert decodings == ["folder", "archive"]


def flip_last_pixel(content: bytes) -> bytes:
    held = torch.load(io.BytesIO(content), weights_only=True)
    held["test_images"][-1, -1, -1, -1] ^= 1
    file = io.BytesIO()
    torch.save(held, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[: len(content) // 2], id="truncated"),
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: b"<html>" * 1000, id="another file"),
        pytest.param(flip_last_pixel, id="one bit of one pixel"),
    ],
)
def test_a_damaged_cache_is_rebuilt_with_a_warning(
    images: Path,
    tmp_path: Path,
    decodings: list[str],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes],
) -> None:
    """A damaged cache file is noticed, told of, and replaced by a good one."""
    expected, _ = cache.decoded(find(images), tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        content, _ = cache.decoded(find(images), tmp_path / "cache")
        assert same(content, expected)
    assert decodings == ["folder", "folder"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{path} is damaged" in record.getMessage()


def test_a_failed_write_leaves_the_old_cache_file(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk costs a warning; the data are used, the older file stays whole, and no rest is left."""
    cache.decoded(find(images), tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    before = path.read_bytes()
    (images / "train/cat/0000.jpg").write_bytes(encoded(99))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    content, _ = cache.decoded(find(images), tmp_path / "cache")
    assert same(content, Source("folder", images).decode())
    assert path.read_bytes() == before
    assert list((tmp_path / "cache").iterdir()) == [path]
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize(
    ("argument", "variables", "expected"),
    [
        pytest.param("given", {"OPTIZOO_CACHE": "named", "XDG_CACHE_HOME": "xdg"}, "given", id="argument"),
        pytest.param(None, {"OPTIZOO_CACHE": "named", "XDG_CACHE_HOME": "xdg"}, "named", id="OPTIZOO_CACHE"),
        pytest.param(None, {"XDG_CACHE_HOME": "xdg"}, "xdg/optizoo", id="XDG_CACHE_HOME"),
        pytest.param(None, {"HOME": "/home/me"}, "/home/me/.cache/optizoo", id="home"),
    ],
)
def test_where_the_cache_lies(
    monkeypatch: pytest.MonkeyPatch, argument: str | None, variables: dict[str, str], expected: str
) -> None:
    """The argument comes before the variables, optizoo's own before the desktop's, and all before the home folder."""
    for name in ("OPTIZOO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache.folder(argument) == Path(expected)
