"""Objects on disk, as they were received: there whole after a power loss, or not there.

A file is named by the SHA-256 of the data set, never by anything that the sender wrote. Knows no DICOM.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from node.errors import TransientError
from node.files import make_folder, sync_folder


class NoSpace(TransientError):
    """The disk has less free space than the site wants to keep."""


class Spool:
    """A folder of received objects.

    Parameters
    ----------
    folder
        Created if it is missing. One process writes to it.
    min_free_bytes
        `keep` refuses when the disk has less than this.
    """

    def __init__(self, folder: Path, min_free_bytes: int = 0) -> None:
        self.folder = folder
        self._min_free_bytes = min_free_bytes
        make_folder(folder, 0o700)

    def path(self, sha256: str) -> Path:
        """Where the object with this data set is, or will be."""
        return self.folder / f"{sha256}.dcm"

    def keep(self, sha256: str, parts: Iterable[bytes]) -> Path:
        """Write an object so that it survives a power loss from the moment this returns.

        Parameters
        ----------
        sha256
            Of the data set, in hexadecimal: `digest`.
        parts
            The bytes of the file, in order.

        Raises
        ------
        NoSpace
            Too little free disk; nothing is written.
        OSError
            The write failed; nothing is left behind.
        """
        free = shutil.disk_usage(self.folder).free
        if free < self._min_free_bytes:
            raise NoSpace(f"{free / 1e9:.1f} GB free on the disk, {self._min_free_bytes / 1e9:.1f} GB are kept free")
        target = self.path(sha256)
        descriptor, name = tempfile.mkstemp(suffix=".part", dir=self.folder)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(self.folder)
        return target

    def set_aside(self, sha256: str) -> None:
        """Take an object out of the way, so that the same may be kept anew; it can be put back."""
        with suppress(FileNotFoundError):
            self.path(sha256).replace(self._aside(sha256))

    def put_back(self, sha256: str) -> None:
        """Undo `set_aside`; the same that was kept anew is replaced by it."""
        with suppress(FileNotFoundError):
            self._aside(sha256).replace(self.path(sha256))

    def drop(self, sha256: str) -> int:
        """Delete what was set aside; how many bytes it had."""
        path = self._aside(sha256)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return 0
        path.unlink()
        return size

    def drop_older(self, sha256: str, than: float) -> None:
        """Delete an object, unless it was written since this time: it came again."""
        self.set_aside(sha256)
        with suppress(FileNotFoundError):
            if self._aside(sha256).stat().st_mtime < than:
                self._aside(sha256).unlink()
        self.put_back(sha256)

    def aside(self) -> list[str]:
        """What was set aside and neither put back nor dropped: the process ended in between."""
        return [path.stem for path in self.folder.glob("*.gone")]

    def older(self, than: float) -> list[str]:
        """Objects that were written before this time, in seconds since the epoch."""
        with os.scandir(self.folder) as entries:
            return [e.name[:-4] for e in entries if e.name.endswith(".dcm") and e.stat().st_mtime < than]

    def _aside(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.gone"

    def clean(self) -> int:
        """Remove what was half written when the process ended; the number of files removed."""
        parts = list(self.folder.glob("*.part"))
        for part in parts:
            part.unlink()
        return len(parts)


def digest(data: bytes) -> str:
    """SHA-256 of a data set, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
