"""Images as files: read from ``train/<class>/`` and ``test/<class>/`` of a folder, or of an archive of one.

Links are followed in a folder, where they are the user's own, and refused in an archive, where they are a stranger's.
"""

import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from optizoo.lab.content import Content, DataError, Split, reading

__all__ = ["decoded_archive", "decoded_folder", "is_image_folder", "is_litter", "members", "walk"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
PARTS = ("train", "test")
# What desktops and archivers leave behind, beside what is hidden by a dot.
LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"}
# No 32 x 32 image is near this size; a member that claims more is not unpacked.
LARGEST_IMAGE_FILE = 1 << 20


def decoded_folder(root: Path) -> Content:
    """Read an image folder."""
    return _decode(_folder_files(root), root)


def decoded_archive(path: Path) -> Content:
    """Read an archive of an image folder; nothing is unpacked to disk."""
    return _decode(_archive_files(path), path)


@dataclass(frozen=True)
class _ImageFile:
    """One encoded image: ``parts`` is ``("train", "frog", "0001.jpg")``; ``where`` is what messages call it."""

    parts: tuple[str, str, str]
    where: str
    read: Callable[[], bytes]


def is_image_folder(path: Path) -> bool:
    """Return whether there are ``train/`` and ``test/``."""
    return all((path / part).is_dir() for part in PARTS)


def walk(root: Path) -> Iterator[tuple[tuple[str, ...], os.stat_result]]:
    """Yield path and status of all that stands in train/ and test/ and in their folders, but for what is left out."""
    for part in PARTS:
        for entry in _visible(root / part):
            yield (part, entry.name), entry.stat()
            if entry.is_dir():
                for file in _visible(entry):
                    yield (part, entry.name, file.name), file.stat()


def _visible(folder: Path | os.DirEntry) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not is_litter(entry.name)]


def is_litter(name: str) -> bool:
    """Return whether a name is hidden, or one of a file that no person made."""
    return name.startswith(".") or name.casefold() in LITTER


def _folder_files(root: Path) -> list[_ImageFile]:
    files = []
    with reading(root):
        found = [(parts, (root / Path(*parts))) for parts, _ in walk(root)]
        folders = {parts for parts, path in found if len(parts) == 2 and path.is_dir()}
    for parts, path in found:
        if parts not in folders:
            files.append(_ImageFile(_checked(parts, str(path)), str(path), path.read_bytes))
    return _in_order(files, folders, root)


def _archive_files(path: Path) -> list[_ImageFile]:
    """Read the encoded images of an archive into memory; nothing is unpacked to disk."""
    files: dict[tuple[str, ...], _ImageFile] = {}
    folders, tops = set(), set()
    for name, is_folder, content in members(path, LARGEST_IMAGE_FILE):
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        where = f"{name} in {path}"
        start = next((i for i, part in enumerate(parts[:2]) if part in PARTS), None)
        if start is None or any(map(is_litter, parts)):
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


def members(path: Path, largest: int) -> Iterator[tuple[str, bool, bytes]]:
    """Yield (name, is a folder, content) of every member, and refuse what an honest archive of images never holds."""
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                where = f"{member.name} in {path}"
                if member.name.startswith(("/", "\\")) or ".." in member.name.replace("\\", "/").split("/"):
                    raise DataError(f"{where} points outside the archive: do not use this archive")
                if not (member.isfile() or member.isdir()):
                    raise DataError(f"{where} is a link or a device, not a file: make the archive from plain files")
                if member.isfile() and member.size > largest:
                    raise DataError(f"{where} has {member.size} bytes, too many for a 32 x 32 image: remove it")
                stream = archive.extractfile(member)
                yield member.name, member.isdir(), stream.read() if stream else b""
            _check_end(archive)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, PermissionError):
            raise DataError(f"cannot read {path} ({error.strerror}): check its permissions") from error
        with reading(path), path.open("rb") as file:
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
    with reading(Path(file.where)):
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
