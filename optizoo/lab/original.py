"""The original CIFAR-10 as torchvision lays it out: its folder, or the archive that the folder comes in."""

import lzma
import tarfile
import warnings
import zlib
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from optizoo.lab.content import Content, DataError, Split
from optizoo.lab.image_files import PARTS, members

__all__ = ["holds_batches", "home", "read_packed", "read_torchvision"]

TORCHVISION_FOLDER = "cifar-10-batches-py"
TORCHVISION_ARCHIVE = "cifar-10-python.tar.gz"
LARGEST_BATCH_FILE = 1 << 26
HOW_TO_GET = (
    f"set OPTIZOO_DATA, or root, to {TORCHVISION_FOLDER}/ or a folder that holds it, to an image folder "
    "(train/<class>/*.jpg|png and test/<class>/*.jpg|png), or to a .tar, .tar.gz or .tar.xz of one of them; "
    "or pass download=True and torchvision fetches CIFAR-10"
)


def home(root: Path) -> Path:
    """Return what torchvision calls ``root``: the folder around its own folder or archive, if ``root`` is one of these.

    >>> home(Path("/data/cifar-10-batches-py")) == home(Path("/data")) == Path("/data")
    True
    """
    real = root.resolve()
    return real.parent if real.name in (TORCHVISION_FOLDER, TORCHVISION_ARCHIVE) else root


def read_torchvision(root: Path, *, download: bool = False, where: Path | None = None) -> Content:
    """Read torchvision's layout below ``root``, checked by torchvision against its md5 sums.

    Args:
        root: The folder that holds ``cifar-10-batches-py/``.
        download: Let torchvision fetch what is not there or damaged, or unpack what it fetched before.
        where: What messages call it; by default the folder.

    Raises:
        DataError: torchvision cannot be imported, cannot download, or finds the files missing or changed.
    """
    try:
        from torchvision.datasets import CIFAR10
        from torchvision.datasets.utils import check_integrity
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        raise DataError(
            f"torchvision cannot be imported ({error}): install the torchvision build that belongs to this torch"
        ) from error

    class Whole(CIFAR10):
        """Looks at the names of the classes too, before it says that there is nothing to download."""

        def _check_integrity(self) -> bool:
            names = Path(self.root, self.base_folder, self.meta["filename"])
            return super()._check_integrity() and check_integrity(str(names), self.meta["md5"])

    try:
        with warnings.catch_warnings():
            # The pickles are from 2009, and newer releases of NumPy say so.
            warnings.simplefilter("ignore")
            parts = [Whole(str(root), train=part == "train", download=download) for part in PARTS]
    except Exception as error:  # the network, the disk, an md5 sum or a pickle: all of them torchvision's to tell
        raise DataError(
            f"torchvision cannot read {where or root / TORCHVISION_FOLDER} ({error}): "
            f"delete {'it' if where else 'the folder'} and pass download=True, or copy it again; or {HOW_TO_GET}"
        ) from error
    splits = [
        Split(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in parts
    ]
    return Content(tuple(parts[0].classes), *splits)


def holds_batches(path: Path) -> bool:
    """Return whether an archive is torchvision's; one that cannot be read is not."""
    try:
        with tarfile.open(path, "r:*") as archive:
            names = [member.name.removeprefix("./") for member in islice(archive, 2)]  # "." may come first
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError):
        return False
    return any(name.split("/")[0] == TORCHVISION_FOLDER for name in names)


def read_packed(path: Path) -> Content:
    """Read torchvision's archive: its files are unpacked beside nobody's, and checked and read by torchvision."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary, TORCHVISION_FOLDER)
        folder.mkdir()
        for name, is_folder, content in members(path, LARGEST_BATCH_FILE):
            parts = [part for part in name.split("/") if part not in ("", ".")]
            if not is_folder and parts[:-1] == [TORCHVISION_FOLDER]:
                folder.joinpath(parts[-1]).write_bytes(content)
        return read_torchvision(Path(temporary), where=path)
