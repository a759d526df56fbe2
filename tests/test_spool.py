"""An object in the spool is there whole, under a name that the sender did not choose."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from node.spool import Spool


@pytest.fixture
def came(tmp_path: Path) -> Path:
    path = tmp_path / "came.dcm"
    path.write_bytes(b"data")
    return path


def test_what_is_taken_is_there_under_both_names(tmp_path: Path, came: Path) -> None:
    """Until the journal knows the object, the inbox holds it."""
    spool = Spool(tmp_path / "spool")
    spool.take({"abc": came})
    assert spool.path("abc").name == "abc.dcm"
    assert spool.path("abc").samefile(came)
    assert [path.name for path in spool.folder.iterdir()] == ["abc.dcm"]


def test_the_folder_is_private(tmp_path: Path) -> None:
    assert stat.S_IMODE(Spool(tmp_path / "spool").folder.stat().st_mode) == 0o700


def test_the_new_names_are_durable(tmp_path: Path, came: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "spool")
    synced: list[list[str]] = []

    def watched(descriptor: int) -> None:
        synced.append(os.listdir(descriptor))

    monkeypatch.setattr(os, "fsync", watched)
    spool.take({"abc": came, "def": came})
    assert [sorted(names) for names in synced] == [["abc.dcm", "def.dcm"]]


def test_what_has_the_name_is_replaced_and_counts_as_new(tmp_path: Path, came: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.path("abc").write_bytes(b"older")
    os.utime(spool.path("abc"), (1, 1))
    (spool.folder / "abc.part").write_bytes(b"of a node that was killed here")
    os.utime(came, (1, 1))
    spool.take({"abc": came})
    assert spool.path("abc").read_bytes() == b"data"
    assert spool.older(1e9) == []
