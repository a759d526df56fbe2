"""An object in the spool is there whole, under a name that the sender did not choose, or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.spool import NoSpace, Spool, digest


def test_what_is_kept_is_there_byte_for_byte(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    path = spool.keep(digest(b"data"), [b"head", b"data"])
    assert path.read_bytes() == b"headdata"
    assert path == spool.path(digest(b"data"))
    assert path.name == digest(b"data") + ".dcm"


def test_files_and_folder_are_private(tmp_path: Path) -> None:
    path = Spool(tmp_path / "spool").keep(digest(b"data"), [b"data"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_success_comes_after_file_and_folder_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that survives a power loss: write, fsync the file, rename, fsync the folder."""
    spool = Spool(tmp_path / "spool")
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        assert folder or os.fstat(descriptor).st_size == len(b"headdata")
        steps.append("fsync folder" if folder else "fsync file")
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    spool.keep(digest(b"data"), [b"head", b"data"])
    assert steps == ["fsync file", "rename", "fsync folder"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")

    def parts() -> Iterator[bytes]:
        yield b"head"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        spool.keep(digest(b"data"), parts())
    assert list(spool.folder.iterdir()) == []


def test_too_little_free_disk_is_said_with_numbers(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", min_free_bytes=10**18)
    with pytest.raises(NoSpace, match=r"GB free on the disk, 1000000000\.0 GB are kept free"):
        spool.keep(digest(b"data"), [b"data"])
    assert list(spool.folder.iterdir()) == []


def test_what_was_half_written_is_removed_and_whole_objects_stay(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    kept = spool.keep(digest(b"data"), [b"data"])
    (spool.folder / "tmpabc.part").write_bytes(b"da")
    assert Spool(tmp_path / "spool").clean() == 1
    assert list(spool.folder.iterdir()) == [kept]
