"""The cache of decoded images: one file a source, verified whenever it is read, replaced atomically."""

import logging
import os
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from optizoo.backends.build import cache_folder
from optizoo.lab.checkpoint import written_beside
from optizoo.lab.sources import Content, Source, Split

log = logging.getLogger(__name__)

# Part of the fingerprint: raise it whenever decoding or the layout of the file changes.
FORMAT = 1


def folder(cache: str | Path | None = None) -> Path:
    """Return ``cache``, else ``$OPTIZOO_CACHE``, else ``$XDG_CACHE_HOME/optizoo``, else ``~/.cache/optizoo``."""
    return cache_folder() if cache is None else Path(os.path.expanduser(cache))


def decoded(source: Source, cache: str | Path | None = None) -> tuple[Content, str]:
    """Return the content of ``source`` and its sha256, from the cache where that holds it, else decoded.

    The cache file belongs to the source's path. It serves while kind, path, and the names, sizes and modification times
    of the source's files are unchanged, and if the sha256 of what it holds is the one that was written with it: every
    byte is checked at every load. Otherwise the source is decoded again and the file is replaced; a warning is logged
    where the file was damaged, or cannot be written (the data are then used without a cache).

    Raises:
        DataError: The source cannot be decoded.
    """
    fingerprint = f"{FORMAT}:{source.fingerprint()}"
    name = sha256(f"{source.kind}:{source.path.resolve()}".encode()).hexdigest()[:16]
    path = folder(cache) / f"cifar10-{name}.pt"
    if (found := _read(path, fingerprint)) is not None:
        return found
    content = source.decode()
    digest = content.digest()
    try:
        _write(path, fingerprint, content, digest)
    except OSError as error:
        log.warning("cannot write the cache file %s (%s): set OPTIZOO_CACHE to a folder with room", path, error)
    return content, digest


def _read(path: Path, fingerprint: str) -> tuple[Content, str] | None:
    if not path.exists():
        return None
    try:
        held: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        if held["fingerprint"] != fingerprint:
            log.info("the source of the cache file %s has changed: decoding it again", path)
            return None
        content = Content(
            tuple(held["classes"]),
            Split(held["train_images"], held["train_labels"]),
            Split(held["test_images"], held["test_labels"]),
        )
        if content.digest() != held["digest"]:
            raise ValueError("its sha256 is not the one that was written")
    except Exception as error:  # a damaged file can fail anywhere in torch.load, and means one thing: build it again
        reason = str(error).partition("\n")[0]
        if isinstance(error, pickle.UnpicklingError):  # torch would go on to explain how to load it all the same
            reason = "it holds more than tensors and plain values"
        log.warning("the cache file %s is damaged (%s): decoding the source again", path, reason)
        return None
    return content, held["digest"]


def _write(path: Path, fingerprint: str, content: Content, digest: str) -> None:
    """Write the cache file whole, or not at all."""
    held = {
        "fingerprint": fingerprint,
        "digest": digest,
        "classes": list(content.classes),
        "train_images": content.train.images,
        "train_labels": content.train.labels,
        "test_images": content.test.images,
        "test_labels": content.test.labels,
    }
    path = Path(os.path.realpath(path))  # a link stays one
    with written_beside(path, held) as temporary:
        os.replace(temporary, path)
