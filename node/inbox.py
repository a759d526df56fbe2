"""Objects between the network and the journal: each in a file of its own that is durable and says if it is whole.

An object goes into a slot: an empty file whose name is durable before it is used, so that one flush makes the object
survive a loss of power. The preamble of the file (PS3.10 section 7.1 leaves it to the application) holds the seal:
the SHA-256 of the data set, and what gives a torn write away. Until the journal knows the object, this file is its
row: what is in it is entered, at the next start if need be. What cannot be read stays for another start, and what
others put into the folder is left alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from node.errors import TransientError
from node.files import make_folder, sync_folder
from node.log import get_logger

_NAME = re.compile(r"[0-9]{10,}\.dcm")
_SEAL = struct.Struct(">8s16s32sLL")
"""Magic, calling AE title, SHA-256 of the data set; length of what is between preamble and data set,
and CRC-32 of it and the title."""
_MAGIC = b"QSMNODE1"
_PREAMBLE = 128
_SLOTS = 32
_LOOK_BYTES = 1 << 26
"""How much of an object is written until the free space is looked at again."""

log = get_logger("node.inbox")


class NoSpace(TransientError):
    """The disk has less free space than the site wants to keep."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """An object that is safe: its file, the calling AE title, the SHA-256 of its data set and where that begins."""

    path: Path
    sender: str
    sha256: str
    start: int


class Arrival:
    """An object that is being received, in a slot; one thread writes it.

    Raises
    ------
    NoSpace
        Here and in `write`: too little free disk.
    OSError
        Here, in `write` and in `seal`: the disk failed.
    """

    def __init__(self, path: Path, head: bytes, sender: str, look: Callable[[], None]) -> None:
        self._path, self._head, self._sender, self._look = path, head, sender, look
        self._hash = hashlib.sha256()
        self._at, self._look_at = _PREAMBLE, _LOOK_BYTES
        self._file = os.open(path, os.O_WRONLY)
        try:
            self._put(head)
        except BaseException:
            self.drop()
            raise

    def write(self, data: bytes | memoryview) -> None:
        """Append a piece of the data set."""
        if self._at >= self._look_at:
            self._look()
            self._look_at = self._at + _LOOK_BYTES
        self._hash.update(data)
        self._put(data)

    def _put(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, self._at)
            self._at += written
            view = view[written:]

    def seal(self) -> Sealed:
        """Make the object survive a loss of power from the moment this returns; if it cannot, forget it."""
        try:
            seal = _seal(self._head, self._sender, self._hash.digest())
            os.pwrite(self._file, seal, 0)
            os.fdatasync(self._file)
        except BaseException:
            self.drop()
            raise
        os.close(self._file)
        return Sealed(self._path, self._sender, self._hash.hexdigest(), _PREAMBLE + len(self._head))

    def drop(self) -> None:
        """Forget what came."""
        os.close(self._file)
        self._path.unlink(missing_ok=True)


class Inbox:
    """A folder of slots. One process writes to it; any thread may call.

    Parameters
    ----------
    folder
        Created if it is missing.
    min_free_bytes
        Nothing is taken when the disk has less than this.
    """

    def __init__(self, folder: Path, min_free_bytes: int = 0) -> None:
        self.folder = folder
        self._min_free_bytes = min_free_bytes
        make_folder(folder, 0o700)
        self._slots: deque[Path] = deque()
        self._making = threading.Lock()
        taken = (int(path.stem) for path in folder.iterdir() if _NAME.fullmatch(path.name))
        self._number = 1 + max(taken, default=0)

    def begin(self, head: bytes, sender: str) -> Arrival:
        """A place for an object; ``head`` stands between the preamble and the data set.

        Raises
        ------
        NoSpace
            Too little free disk.
        OSError
            The disk failed.
        """
        self._look()
        with self._making:
            if not self._slots:
                self._make_slots()
            path = self._slots.popleft()
        return Arrival(path, head, sender, self._look)

    def _look(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < self._min_free_bytes:
            raise NoSpace(f"{free / 1e9:.1f} GB free on the disk, {self._min_free_bytes / 1e9:.1f} GB are kept free")

    def _make_slots(self) -> None:
        made = [self.folder / f"{self._number + n:010d}.dcm" for n in range(_SLOTS)]
        self._number += _SLOTS
        for path in made:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        sync_folder(self.folder)
        self._slots.extend(made)

    def recover(self) -> tuple[list[Sealed], int]:
        """What was received whole before the process ended, oldest first; what was not is deleted and counted."""
        with os.scandir(self.folder) as entries:
            found = [(Path(entry), _NAME.fullmatch(entry.name) and entry.is_file()) for entry in entries]
        slots = sorted(path for path, ours in found if ours)
        if len(slots) < len(found):
            log.warning("in the inbox lies what is not the node's: it is left alone", files=len(found) - len(slots))
        whole, torn = [], 0
        for path in slots:
            try:
                sealed = _read_seal(path)
            except OSError as why:
                _tell_unread(path, why)
                continue
            if sealed:
                whole.append(sealed)
            else:
                torn += path.stat().st_size > 0
                path.unlink()
        return whole, torn


def is_readable(sealed: Sealed) -> bool:
    """Whether an object can be read now; if not, the log says why."""
    try:
        _read_seal(sealed.path)
    except OSError as why:
        _tell_unread(sealed.path, why)
        return False
    return True


def _tell_unread(path: Path, why: OSError) -> None:
    log.error(
        "cannot be read: it stays in the inbox, and the next start tries again", file=path.name, reason=why.strerror
    )


def _seal(head: bytes, sender: str, sha256: bytes) -> bytes:
    title = sender.encode("ascii", "replace").ljust(16)
    return _SEAL.pack(_MAGIC, title, sha256, len(head), zlib.crc32(title + head))


def _read_seal(path: Path) -> Sealed | None:
    """The object in a file; None if it was not sealed or not all of it is on disk."""
    with path.open("rb") as file:
        preamble = file.read(_PREAMBLE)
        if len(preamble) < _PREAMBLE or not preamble.startswith(_MAGIC):
            return None
        _, sender, sha256, length, crc = _SEAL.unpack_from(preamble)
        head = file.read(length)
        if zlib.crc32(sender + head) != crc or hashlib.file_digest(file, "sha256").digest() != sha256:
            return None
    return Sealed(path, sender.decode("ascii").rstrip(), sha256.hex(), _PREAMBLE + length)
