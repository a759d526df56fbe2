"""Objects on disk, as they were received: there whole after a power loss, or not there.

A file is named by the SHA-256 of the data set, never by anything that the sender wrote. Knows no DICOM.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from node.files import make_folder, sync_folder


class Spool:
    """A folder of received objects.

    Parameters
    ----------
    folder
        Created if it is missing. One process writes to it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder, 0o700)
        for part in folder.glob("*.part"):
            part.unlink()

    def path(self, sha256: str) -> Path:
        """Where the object with this data set is, or will be."""
        return self.folder / f"{sha256}.dcm"

    def take(self, objects: Mapping[str, Path]) -> None:
        """Give durable files a name here too, by the SHA-256 of their data sets; the name is durable then.

        They count as written now, and take the place of what has the same name.

        Raises
        ------
        OSError
            The disk failed.
        """
        for sha256, path in objects.items():
            os.utime(path)
            part = self.folder / f"{sha256}.part"
            part.unlink(missing_ok=True)
            part.hardlink_to(path)
            part.replace(self.path(sha256))
            part.unlink(missing_ok=True)  # renaming one name of a file to another name of it does nothing
        if objects:
            sync_folder(self.folder)

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
