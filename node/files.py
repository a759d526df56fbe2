"""Reading DICOM files, and writing files that are whole or absent. Knows nothing of what is in them."""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from node.errors import NotReproduced, Unreadable

_DEFER_BYTES = 1 << 14
"""Longer elements (pixels, private headers) stay on disk until they are used; every text of 10240 characters (VR LT,
PS3.5 section 6.2) is read, so that headers outlive their files."""


def read_dataset(path: Path) -> Dataset:
    """The dataset of a DICOM file; long elements, pixels among them, stay on disk until they are used.

    Raises
    ------
    Unreadable
        Not a DICOM file, or truncated before its pixels.
    """
    try:
        return dcmread(path, defer_size=_DEFER_BYTES)
    except InvalidDicomError as error:
        raise Unreadable(f"{path.name}: not a DICOM file") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # pydicom raises nearly anything on nonsense
        raise Unreadable(f"{path.name}: damaged DICOM file ({type(error).__name__})") from error


@contextmanager
def reading_many() -> Iterator[None]:
    """No search for cyclic garbage: it would go through all that is read so far again and again."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


def write_whole(path: Path, content: bytes, sha256: str = "") -> str:
    """Write a file that is, after a loss of power too, either whole or absent; its SHA-256.

    The content goes to a temporary name in the same folder, is synchronised and renamed.

    Raises
    ------
    NotReproduced
        The content has another digest than it was said to have; nothing is written.
    """
    digest = hashlib.sha256(content).hexdigest()
    if sha256 not in {"", digest}:
        raise NotReproduced(f"{path.name} does not come out as it was: version or settings changed since")
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return digest


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder and what lies above it, so that it survives a loss of power."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode, parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
