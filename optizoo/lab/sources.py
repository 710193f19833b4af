"""Where CIFAR-10 comes from: torchvision's own layout, an image folder, or an archive of one of them.

:func:`find` decides which of these a path holds; :meth:`Source.decode` reads it into memory, once, as uint8. Whatever
is missing, broken or ambiguous raises :class:`DataError`: one line that names the file and tells the remedy.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from optizoo.lab import image_files, original
from optizoo.lab.content import Content, DataError, Split, reading
from optizoo.lab.original import HOW_TO_GET, TORCHVISION_ARCHIVE, TORCHVISION_FOLDER, home, read_torchvision

__all__ = ["Content", "DataError", "Source", "Split", "find", "home", "read_torchvision"]

Kind = Literal["torchvision", "folder", "archive"]

ARCHIVE_SUFFIXES = (".tar", ".tar.xz", ".txz", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Source:
    """A place that holds CIFAR-10, or another set of 32 x 32 images in classes.

    Attributes:
        kind: How it is read.
        path: The folder that holds torchvision's, or its archive; the image folder itself, or an archive of one.
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
        with reading(self.path):
            if self.path.is_file():
                files = [("", self.path.stat())]
            elif self.kind == "folder":
                files = [("/".join(parts), status) for parts, status in image_files.walk(self.path)]
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
            return original.read_packed(self.path) if self.path.is_file() else read_torchvision(self.path)
        return (image_files.decoded_folder if self.kind == "folder" else image_files.decoded_archive)(self.path)


def find(root: Path) -> Source:
    """Return what ``root`` holds.

    A file must be an archive, of torchvision's layout or of an image folder. In a folder the first of these that is
    there is taken, and the others are not looked at:

    1. ``cifar-10-batches-py/``, torchvision's layout, which may also be the folder itself
    2. ``train/`` and ``test/``: an image folder
    3. exactly one folder that holds ``train/`` and ``test/``
    4. exactly one archive (``cifar-10-python.tar.gz``, which torchvision leaves behind, is none of them)
    5. exactly one folder that holds ``cifar-10-batches-py/``
    6. ``cifar-10-python.tar.gz``

    Raises:
        DataError: There is nothing of the kind, or more than one at the same rank.
    """
    with reading(root):
        if root.is_file():
            if root.name.lower().endswith(ARCHIVE_SUFFIXES):
                return Source("torchvision" if original.holds_batches(root) else "archive", root)
            raise DataError(f"{root} is a file, but no .tar, .tar.gz or .tar.xz: {HOW_TO_GET}")
        if not root.is_dir():
            raise DataError(f"{root} does not exist, so there is no CIFAR-10 in it: {HOW_TO_GET}")
        for path in (root, home(root)):
            if (path / TORCHVISION_FOLDER).is_dir():
                return Source("torchvision", path)
        if image_files.is_image_folder(root):
            return Source("folder", root)
        children = sorted(child for child in root.iterdir() if not image_files.is_litter(child.name))
        folders = [child for child in children if image_files.is_image_folder(child)]
        archives = [
            child
            for child in children
            if child.is_file() and child.name.lower().endswith(ARCHIVE_SUFFIXES) and child.name != TORCHVISION_ARCHIVE
        ]
        originals = [child for child in children if (child / TORCHVISION_FOLDER).is_dir()]
    candidates = (
        ("image folder", folders, lambda path: Source("folder", path)),
        ("image archive", archives, find),
        (f"folder with {TORCHVISION_FOLDER}", originals, find),
    )
    for what, found, source in candidates:
        if len(found) > 1:
            names = ", ".join(child.name for child in found)
            raise DataError(f"{root} holds more than one {what} ({names}): set OPTIZOO_DATA, or root, to one")
        if found:
            return source(found[0])
    if (root / TORCHVISION_ARCHIVE).is_file():
        if original.holds_batches(root / TORCHVISION_ARCHIVE):
            return Source("torchvision", root / TORCHVISION_ARCHIVE)
        raise DataError(
            f"{root} holds {TORCHVISION_ARCHIVE}, which is not unpacked: "
            "pass download=True and torchvision checks and unpacks it, without the network"
        )
    raise DataError(
        f"no CIFAR-10 in {root}: looked for {TORCHVISION_FOLDER}/, for train/ and test/ there or one folder down, "
        f"and for one archive ({', '.join(ARCHIVE_SUFFIXES)}); {HOW_TO_GET}"
    )
