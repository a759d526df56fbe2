"""An object in the inbox survives a loss of power from the moment it is sealed; what is not whole is no object."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from node.dimse import Request, file_head
from node.inbox import Inbox, NoSpace, Sealed

HEAD = file_head(Request(1, 1, MRImageStorage, "1.2.3", True), ExplicitVRLittleEndian)


def received(inbox: Inbox, *pieces: bytes, sender: str = "SCANNER") -> Sealed:
    arrival = inbox.begin(HEAD, sender)
    for piece in pieces:
        arrival.write(piece)
    return arrival.seal()


def test_an_object_is_a_private_dicom_file_that_says_what_it_is(tmp_path: Path) -> None:
    sealed = received(Inbox(tmp_path / "inbox"), b"\x08\x00\x60\x00CS\x02\x00", b"MR")
    assert pydicom.dcmread(sealed.path).Modality == "MR"
    assert pydicom.dcmread(sealed.path).file_meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert sealed.path.read_bytes()[sealed.start :] == b"\x08\x00\x60\x00CS\x02\x00MR"
    assert sealed.sha256 == hashlib.sha256(b"\x08\x00\x60\x00CS\x02\x00MR").hexdigest()
    assert stat.S_IMODE(sealed.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(sealed.path.parent.stat().st_mode) == 0o700


def test_after_the_end_what_was_sealed_is_found_in_order_and_the_rest_is_gone(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "inbox")
    whole = [received(inbox, bytes([n]) * 1000, sender=f"SCANNER{n:09}") for n in range(40)]
    inbox.begin(HEAD, "SCANNER").write(b"not all of it")
    assert Inbox(tmp_path / "inbox").recover() == (whole, 1)
    assert sorted(inbox.folder.iterdir()) == [sealed.path for sealed in whole]
    assert received(Inbox(tmp_path / "inbox"), b"further").path not in [sealed.path for sealed in whole]


def test_what_others_put_there_stays_and_stops_nothing(tmp_path: Path, captured_log: io.StringIO) -> None:
    """Its names may be a patient's: they are not told."""
    inbox = Inbox(tmp_path / "inbox")
    whole = received(inbox, b"data")
    foreign = [inbox.folder / name for name in ("Doe_Jane.dcm", "7.dcm", "x.tmp", "000000000٣.dcm", "more")]
    for path in foreign[:-1]:
        path.write_bytes(b"notes")
    foreign[-1].mkdir()
    again = Inbox(inbox.folder)
    assert again.recover() == ([whole], 0)
    assert received(again, b"further").path not in [whole.path, *foreign]
    assert all(path.exists() for path in foreign)
    (told,) = [json.loads(line) for line in captured_log.getvalue().splitlines()]
    assert (told["level"], told["files"]) == ("warning", 5)
    assert "Doe" not in captured_log.getvalue()


def test_what_cannot_be_read_waits_for_another_start(tmp_path: Path, captured_log: io.StringIO) -> None:
    inbox = Inbox(tmp_path / "inbox")
    whole = [received(inbox, bytes([n]) * 1000) for n in range(3)]
    whole[1].path.rename(tmp_path / "aside")
    whole[1].path.symlink_to("/proc/self/mem")  # the kernel answers EIO, as a broken disk does
    again = Inbox(inbox.folder)
    assert again.recover() == ([whole[0], whole[2]], 0)
    (told,) = [json.loads(line) for line in captured_log.getvalue().splitlines()]
    assert (told["level"], told["file"], told["reason"]) == ("error", whole[1].path.name, "Input/output error")
    assert received(again, b"further").path not in [sealed.path for sealed in whole]
    (tmp_path / "aside").rename(whole[1].path)
    assert Inbox(inbox.folder).recover()[0][:3] == whole


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 128 + len(HEAD) + 599), bit=st.integers(0, 7), cut=st.booleans())
def test_a_torn_write_is_no_object(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int, cut: bool) -> None:
    """Any byte of seal, head or data set that is not what was written, and any end too early."""
    inbox = Inbox(tmp_path_factory.mktemp("torn"))
    sealed = received(inbox, bytes(range(200)) * 3)
    content = bytearray(sealed.path.read_bytes())
    content[at] ^= 1 << bit
    sealed.path.write_bytes(content[:at] if cut else content)
    found, _ = inbox.recover()
    unused = 64 <= at < 128  # the rest of the preamble
    assert found == ([sealed] if unused and not cut else [])


def test_the_name_is_durable_before_the_slot_is_used_and_the_object_when_it_is_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def watched(name: str, call: Callable[..., int | None]) -> Callable[..., int | None]:
        def run(descriptor: int, *arguments: object) -> int | None:
            steps.append(f"{name} {'folder' if stat.S_ISDIR(os.fstat(descriptor).st_mode) else 'file'}")
            return call(descriptor, *arguments)

        return run

    inbox = Inbox(tmp_path / "inbox")
    for name in ("fsync", "fdatasync", "pwrite"):
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    received(inbox, b"data")
    assert steps == ["fsync folder", "pwrite file", "pwrite file", "pwrite file", "fdatasync file"]
    steps.clear()
    received(inbox, b"data")
    assert steps == ["pwrite file", "pwrite file", "pwrite file", "fdatasync file"], "one flush per object"


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_what_cannot_be_made_safe_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    inbox = Inbox(tmp_path / "inbox")
    arrival = inbox.begin(HEAD, "SCANNER")
    arrival.write(b"data")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            arrival.seal()
    assert all(path.stat().st_size == 0 for path in inbox.folder.iterdir())
    assert Inbox(tmp_path / "inbox").recover() == ([], 0)


def test_what_cannot_be_begun_leaves_neither_file_nor_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(tmp_path / "inbox")
    received(inbox, b"data")
    slots, descriptors = (len(list(Path(folder).iterdir())) for folder in (inbox.folder, "/proc/self/fd"))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        for _ in range(10):
            with pytest.raises(OSError, match="No space left"):
                inbox.begin(HEAD, "SCANNER")
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert len(list(inbox.folder.iterdir())) == slots - 10


def test_too_little_free_disk_is_said_with_numbers_before_and_while_an_object_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NoSpace, match=r"GB free on the disk, 1000000000\.0 GB are kept free"):
        Inbox(tmp_path / "full", min_free_bytes=10**18).begin(HEAD, "SCANNER")
    assert list((tmp_path / "full").iterdir()) == []

    inbox = Inbox(tmp_path / "inbox", min_free_bytes=1)
    arrival = inbox.begin(HEAD, "SCANNER")
    monkeypatch.setattr("node.inbox.shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    monkeypatch.setattr("node.inbox._LOOK_BYTES", 1000)
    arrival._look_at = 1000
    arrival.write(bytes(2000))
    with pytest.raises(NoSpace):
        arrival.write(bytes(1))
    arrival.drop()
