"""Where CIFAR-10 comes from: torchvision's own layout, an image folder, or an archive of an image folder.

:func:`find` decides which of these a path holds; :meth:`Source.decode` reads it into memory, once, as uint8. Whatever
is missing, broken or ambiguous raises :class:`DataError`: one line that names the file and tells the remedy. Links are
followed in a folder, where they are the user's own, and refused in an archive, where they are a stranger's.
"""

import hashlib
import json
import lzma
import os
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

Kind = Literal["torchvision", "folder", "archive"]

IMAGE_SHAPE = (3, 32, 32)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
ARCHIVE_SUFFIXES = (".tar", ".tar.xz", ".txz", ".tar.gz", ".tgz")
TORCHVISION_FOLDER = "cifar-10-batches-py"
TORCHVISION_ARCHIVE = "cifar-10-python.tar.gz"
PARTS = ("train", "test")
# No 32 x 32 image is near this size; a member that claims more is not unpacked.
LARGEST_IMAGE_FILE = 1 << 20
HOW_TO_GET = (
    f"set OPTIZOO_DATA, or root, to a folder with {TORCHVISION_FOLDER}/, to an image folder "
    "(train/<class>/*.jpg|png and test/<class>/*.jpg|png), or to a .tar, .tar.gz or .tar.xz of one; "
    "or pass download=True and torchvision fetches CIFAR-10"
)


class DataError(Exception):
    """Data are missing, broken or ambiguous; the message is one line: the file or key, and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels.

    Attributes:
        images: uint8, of shape (n, 3, 32, 32): red, green, blue; rows from the top; 0 to 255.
        labels: int64, of shape (n,): indices into the classes of the data set.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.shape[1:] != IMAGE_SHAPE:
            raise ValueError(
                f"images must be uint8 of shape (n, 3, 32, 32), got {self.images.dtype} of {tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must be int64 of shape ({len(self.images)},), one for each image, "
                f"got {self.labels.dtype} of {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        """Return the split on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def select(self, index: Tensor) -> "Split":
        """Return a copy of the images at ``index`` (int64), in that order."""
        return Split(self.images.index_select(0, index), self.labels.index_select(0, index))


@dataclass(frozen=True, eq=False)
class Content:
    """All that a source holds, as it stands there: sorted by class, then file name, or in torchvision's order."""

    classes: tuple[str, ...]
    train: Split
    test: Split

    def digest(self) -> str:
        """Return the sha256 of the class names, the labels and the pixels, wherever they were read from."""
        sha = hashlib.sha256(json.dumps([self.classes, len(self.train), len(self.test)]).encode())
        for split in (self.train, self.test):
            sha.update(split.labels.numpy().astype("<i8").data)
            sha.update(split.images.contiguous().numpy().data)
        return sha.hexdigest()


@dataclass(frozen=True)
class Source:
    """A place that holds CIFAR-10, or another set of 32 x 32 images in classes.

    Attributes:
        kind: How it is read.
        path: The folder that holds torchvision's, the image folder itself, or the archive.
    """

    kind: Kind
    path: Path

    @property
    def description(self) -> str:
        """What is read, in words, without the folders above it: it goes into records that others read."""
        return {
            "torchvision": f"torchvision's {TORCHVISION_FOLDER}",
            "folder": f"image folder {self.path.resolve().name}",
            "archive": f"image archive {self.path.name}",
        }[self.kind]

    def fingerprint(self) -> str:
        """Return a sha256 of the kind, the path, and name, size and modification time of every file."""
        with _reading(self.path):
            if self.kind == "archive":
                files = [("", self.path.stat())]
            elif self.kind == "folder":
                files = [("/".join(parts), status) for parts, status in _walk(self.path)]
            else:
                with os.scandir(self.path / TORCHVISION_FOLDER) as entries:
                    files = [(entry.name, entry.stat()) for entry in entries]
        stamps = sorted((name, status.st_size, status.st_mtime_ns) for name, status in files)
        return hashlib.sha256(json.dumps([self.kind, str(self.path.resolve()), stamps]).encode()).hexdigest()

    def decode(self) -> Content:
        """Read everything into memory.

        Raises:
            DataError: A file is missing, unreadable, corrupt, unexpected or of a wrong size, or a class has no image.
        """
        if self.kind == "torchvision":
            return read_torchvision(self.path)
        return _decode(_folder_files(self.path) if self.kind == "folder" else _archive_files(self.path), self.path)


def find(root: Path) -> Source:
    """Return what ``root`` holds.

    A file must be an archive. In a folder the first of these that is there is taken, and the others are not looked at:

    1. ``cifar-10-batches-py/``, torchvision's layout
    2. ``train/`` and ``test/``: an image folder
    3. exactly one folder that holds ``train/`` and ``test/``
    4. exactly one archive (``cifar-10-python.tar.gz``, which torchvision leaves behind, is none of them)

    Raises:
        DataError: There is nothing of the kind, or more than one at the same rank.
    """
    with _reading(root):
        if root.is_file():
            if root.name.lower().endswith(ARCHIVE_SUFFIXES):
                return Source("archive", root)
            raise DataError(f"{root} is a file, but no .tar, .tar.gz or .tar.xz: {HOW_TO_GET}")
        if not root.is_dir():
            raise DataError(f"{root} does not exist, so there is no CIFAR-10 in it: {HOW_TO_GET}")
        if (root / TORCHVISION_FOLDER).is_dir():
            return Source("torchvision", root)
        if _is_image_folder(root):
            return Source("folder", root)
        children = sorted(root.iterdir())
        folders = [child for child in children if _is_image_folder(child)]
        archives = [
            child
            for child in children
            if child.is_file() and child.name.lower().endswith(ARCHIVE_SUFFIXES) and child.name != TORCHVISION_ARCHIVE
        ]
    candidates: tuple[tuple[Kind, list[Path]], ...] = (("folder", folders), ("archive", archives))
    for kind, found in candidates:
        if len(found) > 1:
            names = ", ".join(child.name for child in found)
            raise DataError(f"{root} holds more than one image {kind} ({names}): set OPTIZOO_DATA, or root, to one")
        if found:
            return Source(kind, found[0])
    if (root / TORCHVISION_ARCHIVE).is_file():
        raise DataError(
            f"{root} holds {TORCHVISION_ARCHIVE}, which is not unpacked: "
            "pass download=True and torchvision checks and unpacks it, without the network"
        )
    raise DataError(
        f"no CIFAR-10 in {root}: looked for {TORCHVISION_FOLDER}/, for train/ and test/ there or one folder down, "
        f"and for one archive ({', '.join(ARCHIVE_SUFFIXES)}); {HOW_TO_GET}"
    )


def read_torchvision(root: Path, *, download: bool = False) -> Content:
    """Read torchvision's layout below ``root``, checked by torchvision against its md5 sums.

    Args:
        root: The folder that holds ``cifar-10-batches-py/``.
        download: Let torchvision fetch what is not there, or unpack what it fetched before.

    Raises:
        DataError: torchvision cannot be imported, cannot download, or finds the files missing or changed.
    """
    try:
        from torchvision.datasets import CIFAR10
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        raise DataError(
            f"torchvision cannot be imported ({error}): install the torchvision build that belongs to this torch"
        ) from error
    try:
        with warnings.catch_warnings():
            # The pickles are from 2009, and newer releases of NumPy say so.
            warnings.simplefilter("ignore")
            parts = [CIFAR10(str(root), train=part == "train", download=download) for part in PARTS]
    except Exception as error:  # the network, the disk, an md5 sum or a pickle: all of them torchvision's to tell
        raise DataError(
            f"torchvision cannot read {root / TORCHVISION_FOLDER} ({error}): "
            f"delete the folder and pass download=True, or copy it again; or {HOW_TO_GET}"
        ) from error
    splits = [
        Split(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in parts
    ]
    return Content(tuple(parts[0].classes), *splits)


@dataclass(frozen=True)
class _ImageFile:
    """One encoded image: ``parts`` is ``("train", "frog", "0001.jpg")``; ``where`` is what messages call it."""

    parts: tuple[str, str, str]
    where: str
    read: Callable[[], bytes]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename or path} ({error.strerror or error}): check its permissions, or copy it again"
        ) from error


def _is_image_folder(path: Path) -> bool:
    return all((path / part).is_dir() for part in PARTS)


def _walk(root: Path) -> Iterator[tuple[tuple[str, ...], os.stat_result]]:
    """Yield path and status of all that stands in train/ and test/ and in their folders, hidden entries left out."""
    for part in PARTS:
        for entry in _visible(root / part):
            yield (part, entry.name), entry.stat()
            if entry.is_dir():
                for file in _visible(entry):
                    yield (part, entry.name, file.name), file.stat()


def _visible(folder: Path | os.DirEntry) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _folder_files(root: Path) -> list[_ImageFile]:
    files = []
    with _reading(root):
        found = [(parts, (root / Path(*parts))) for parts, _ in _walk(root)]
        folders = {parts for parts, path in found if len(parts) == 2 and path.is_dir()}
    for parts, path in found:
        if parts not in folders:
            files.append(_ImageFile(_checked(parts, str(path)), str(path), path.read_bytes))
    return _in_order(files, folders, root)


def _archive_files(path: Path) -> list[_ImageFile]:
    """Read the encoded images of an archive into memory; nothing is unpacked to disk."""
    files: dict[tuple[str, ...], _ImageFile] = {}
    folders, tops = set(), set()
    for name, is_folder, content in _members(path):
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        where = f"{name} in {path}"
        start = next((i for i, part in enumerate(parts[:2]) if part in PARTS), None)
        if start is None or any(part.startswith(".") for part in parts):
            continue
        top, parts = parts[:start], parts[start:]
        if is_folder:
            folders |= {parts} if len(parts) == 2 else set()
            continue
        if parts in files:
            raise DataError(f"{where} is there twice: make the archive again")
        tops.add(top)
        files[parts] = _ImageFile(_checked(parts, where), where, lambda content=content: content)
    if len(tops) > 1:
        raise DataError(f"{path} holds more than one image folder ({len(tops)} pairs of train/ and test/): split it")
    return _in_order(files.values(), folders, path)


def _members(path: Path) -> Iterator[tuple[str, bool, bytes]]:
    """Yield (name, is a folder, content) of every member, and refuse what an honest archive of images never holds."""
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                where = f"{member.name} in {path}"
                if member.name.startswith(("/", "\\")) or ".." in member.name.replace("\\", "/").split("/"):
                    raise DataError(f"{where} points outside the archive: do not use this archive")
                if not (member.isfile() or member.isdir()):
                    raise DataError(f"{where} is a link or a device, not a file: make the archive from plain files")
                if member.isfile() and member.size > LARGEST_IMAGE_FILE:
                    raise DataError(f"{where} has {member.size} bytes, too many for a 32 x 32 image: remove it")
                stream = archive.extractfile(member)
                yield member.name, member.isdir(), stream.read() if stream else b""
            _check_end(archive)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, PermissionError):
            raise DataError(f"cannot read {path} ({error.strerror}): check its permissions") from error
        with _reading(path), path.open("rb") as file:
            is_page = file.read(512).lstrip().startswith(b"<")
        why = "is a web page, not an archive" if is_page else f"is truncated, or is no archive ({error})"
        raise DataError(f"{path} {why}: download or copy it again") from error


def _check_end(archive: tarfile.TarFile) -> None:
    """Raise ``ReadError`` unless the archive ends as it should.

    tarfile takes a damaged header, or a file that was cut between two members, for the end of the archive. The true end
    is a block of zeros; the checksum of a compressed stream comes after that, and is checked when it is read.
    """
    stream = archive.fileobj
    assert stream is not None
    stream.seek(archive.offset)  # type: ignore[attr-defined]  # TarFile.offset: where the next header would stand
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no end mark after {len(archive.getmembers())} members")
    while stream.read(1 << 20):
        pass


def _checked(parts: tuple[str, ...], where: str) -> tuple[str, str, str]:
    if len(parts) != 3 or not parts[2].lower().endswith(IMAGE_SUFFIXES):
        raise DataError(f"{where} is not train|test/<class>/<image>.jpg|png: remove it")
    return parts[0], parts[1], parts[2]


def _in_order(files: Iterable[_ImageFile], folders: set[tuple[str, ...]], where: Path) -> list[_ImageFile]:
    """Sort by class, then file name, and require an image of every class in both parts."""
    files = sorted(files, key=lambda file: file.parts)
    filled = {file.parts[:2] for file in files}
    if not filled:
        raise DataError(f"{where} holds no image: put them at train/<class>/*.jpg|png and test/<class>/*.jpg|png")
    for name in sorted({name for _, name in filled | folders}):
        for part in PARTS:
            if (part, name) not in filled:
                raise DataError(
                    f"{part}/{name} in {where} holds no image: add images of this class, or remove the class"
                )
    return files


def _decode(files: list[_ImageFile], root: Path) -> Content:
    classes = tuple(sorted({file.parts[1] for file in files}))
    label = {name: index for index, name in enumerate(classes)}
    pixels = np.empty((len(files), 32, 32, 3), np.uint8)
    for index, file in enumerate(tqdm(files, desc=f"decoding {root.name}", unit=" images", disable=None)):
        pixels[index] = _decode_image(file)
    labels = torch.tensor([label[file.parts[1]] for file in files])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    is_train = torch.tensor([file.parts[0] == "train" for file in files])
    train, test = (Split(images[mask].contiguous(), labels[mask]) for mask in (is_train, ~is_train))
    return Content(classes, train, test)


def _decode_image(file: _ImageFile) -> np.ndarray:
    """Decode one image with Pillow, whatever it is stored in; grey and palette images become red, green and blue."""
    with _reading(Path(file.where)):
        encoded = file.read()
    try:
        with Image.open(BytesIO(encoded), formats=("JPEG", "PNG")) as image:
            size, mode = image.size, image.mode
            # The size stands in the header: a wrong one is refused before its pixels are decoded.
            if size == (32, 32) and mode in ("RGB", "L", "P"):
                return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow's plug-ins raise OSError, SyntaxError, ValueError, struct.error, zlib.error ...
        why = str(error).partition(" <_io")[0] if encoded else "the file is empty"
        raise DataError(f"{file.where} is not a readable JPEG or PNG ({why}): copy it again, or remove it") from error
    if size != (32, 32):
        raise DataError(f"{file.where} is {size[0]} x {size[1]} pixels: only 32 x 32 is read, so resize or remove it")
    raise DataError(f"{file.where} has the pixel format {mode!r}: save it as 8-bit RGB or grey")
