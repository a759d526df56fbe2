"""From the inbox into the journal: whatever is in an object and whenever the node ends, it is entered once."""

from __future__ import annotations

import errno
import io
import json
import sqlite3
import struct
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

from node.dimse import Request, file_head
from node.headers import Header, read_header
from node.inbox import Inbox
from node.indexing import Indexer
from node.journal import Journal
from node.overview import Aside, asides, summaries
from node.site import Site
from node.spool import Spool
from node.workers import InlineWorker, NoWorker

POISON = b"poison"


class Fragile(InlineWorker):
    """A process that ends when it reads a certain object."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if args and any(path.exists() and POISON in path.read_bytes() for path, _ in args[0]):
            future: Future[Any] = Future()
            future.set_exception(BrokenExecutor("the process died"))
            return future
        return super().submit(fn, *args, **kwargs)


class Desk:
    """Inbox, spool and journal of a node that may end and start again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start()

    def start(self) -> None:
        self.inbox, self.spool = Inbox(self.folder / "inbox"), Spool(self.folder / "spool")
        self.journal = Journal(self.folder / "journal.sqlite")
        self.indexer = Indexer(self.inbox, self.spool, self.journal, Site(), Fragile)
        self.indexer.recover()

    def receive(self, ds: pydicom.Dataset | Path, **changes: object) -> str:
        if isinstance(ds, Path):
            ds = pydicom.dcmread(ds)
        ds.update(changes)  # type: ignore[arg-type]
        arrival = self.inbox.begin(
            file_head(Request(1, 1, ds.SOPClassUID, ds.SOPInstanceUID, True), ds.file_meta.TransferSyntaxUID), "PACS"
        )
        content = io.BytesIO()
        ds.save_as(content, enforce_file_format=True)
        head = 144 + int.from_bytes(content.getvalue()[140:144], "little")
        arrival.write(content.getvalue()[head:])
        sealed = arrival.seal()
        self.indexer.put(sealed)
        return sealed.sha256

    def stored(self, ds: pydicom.Dataset) -> Path:
        """The file of what was stored under its instance UID."""
        holder = self.journal.holder(ds.SOPInstanceUID)
        assert holder
        return self.spool.path(holder[1])

    def images(self) -> int:
        return sum(summary.images for summary in summaries(self.journal))

    def asides(self) -> list[tuple[str, int]]:
        return [(aside.kind, aside.count) for aside in asides(self.journal)]

    def waiting(self) -> int:
        return sum(path.stat().st_size > 0 for path in self.inbox.folder.iterdir())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_what_waits_is_entered_and_its_sender_is_busy_until_then(desk: Desk, tiny_study: list[Path]) -> None:
    for path in tiny_study:
        desk.receive(path)
    assert desk.indexer.senders() == {"PACS"}
    desk.indexer.step()
    assert desk.indexer.senders() == frozenset()
    assert (desk.images(), desk.waiting()) == (len(tiny_study), 0)
    assert pydicom.dcmread(desk.stored(pydicom.dcmread(tiny_study[0]))) == pydicom.dcmread(tiny_study[0])


def test_what_a_node_received_before_it_ended_is_entered_by_the_next(desk: Desk, tiny_study: list[Path]) -> None:
    for path in tiny_study[:70]:
        desk.receive(path)
    desk.start()
    desk.indexer.step()
    assert (desk.images(), desk.waiting()) == (70, 0)


@pytest.mark.parametrize("again", [True, False], ids=["the same node", "the next one"])
@pytest.mark.parametrize("place", ["Spool.take", "Journal.add", "the end"])
def test_an_end_anywhere_enters_once(
    desk: Desk, tiny_study: list[Path], monkeypatch: pytest.MonkeyPatch, again: bool, place: str
) -> None:
    desk.receive(tiny_study[0])
    desk.receive(tiny_study[1])

    def ends(*_: object) -> None:
        raise OSError(28, "No space left on device")

    unlink = Path.unlink

    def not_from_the_inbox(path: Path, missing_ok: bool = False) -> None:
        if path.parent == desk.inbox.folder:
            ends()
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        if place == "the end":
            patch.setattr(Path, "unlink", not_from_the_inbox)
        else:
            patch.setattr(*{"Spool.take": (desk.spool, "take"), "Journal.add": (desk.journal, "add")}[place], ends)
        with pytest.raises(OSError, match="No space"):
            desk.indexer.step()
    if not again:
        desk.start()
    desk.indexer.step()
    assert (desk.images(), desk.waiting(), desk.asides()) == (2, 0, [])
    assert len(list(desk.spool.folder.iterdir())) == 2


def test_an_object_that_ends_the_reading_process_is_put_away_alone(desk: Desk, tiny_study: list[Path]) -> None:
    for number, path in enumerate(tiny_study[:5]):
        desk.receive(path, **({"PatientComments": POISON.decode()} if number == 2 else {}))
    desk.indexer.step()
    assert (desk.images(), desk.waiting()) == (4, 0)
    (aside,) = asides(desk.journal)
    reason = "reading its header takes too long or too much memory, or ends the process"
    assert aside == Aside("rejected", reason, "PACS", 1, aside.last_at)
    assert len(list(desk.spool.folder.glob("*.dcm"))) == 5, "its sender was promised that it is kept"


@pytest.mark.parametrize("again", [1, 100], ids=["once", "always"])
def test_what_finds_no_memory_is_read_again_alone(
    desk: Desk, tiny_study: list[Path], monkeypatch: pytest.MonkeyPatch, again: int
) -> None:
    """A reconstruction may take it for a moment; what finds none twice holds up no other."""
    for path in tiny_study[:5]:
        desk.receive(path)
    large, attempts = pydicom.dcmread(tiny_study[2]).SOPInstanceUID, []

    def short_of_memory(ds: pydicom.Dataset, site: Site) -> Header:
        if ds.SOPInstanceUID == large and len(attempts) < again:
            attempts.append(ds)
            raise MemoryError
        return read_header(ds, site)

    with monkeypatch.context() as patch:
        patch.setattr("node.intake.read_header", short_of_memory)
        desk.indexer.step()
    rejected = again > 1
    assert (desk.images(), desk.waiting()) == (5 - rejected, 0)
    assert desk.asides() == [("rejected", 1)] * rejected
    assert len(list(desk.spool.folder.glob("*.dcm"))) == 5


def test_an_object_that_cannot_be_read_holds_up_no_other_and_is_entered_by_the_next_node(
    desk: Desk, tiny_study: list[Path], captured_log: io.StringIO
) -> None:
    for path in tiny_study[:70]:
        desk.receive(path)
    unread = sorted(desk.inbox.folder.iterdir())[3]
    unread.rename(desk.folder / "aside")
    unread.symlink_to("/proc/self/mem")  # the kernel answers EIO, as a broken disk does
    desk.indexer.step()
    assert (desk.images(), desk.asides(), desk.indexer.senders()) == (69, [], frozenset())
    told = [json.loads(line) for line in captured_log.getvalue().splitlines() if unread.name in line]
    assert [(line["level"], line["reason"]) for line in told] == [("error", "Input/output error")]
    (desk.folder / "aside").rename(unread)
    desk.start()
    desk.indexer.step()
    assert (desk.images(), desk.waiting()) == (70, 0)


def test_a_disk_that_does_not_answer_in_time_makes_no_object_useless(
    desk: Desk, tiny_study: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ETIMEDOUT, of a network disk, is the error class by which a slow process shows too."""
    for path in tiny_study[:3]:
        desk.receive(path)

    def unanswered(_: Path) -> bytes:
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", unanswered)
        patch.setattr(desk.indexer._reader, "_new_worker", InlineWorker)
        with pytest.raises(TimeoutError):
            desk.indexer.step()
    assert (desk.images(), desk.waiting(), desk.asides()) == (0, 3, [])
    desk.indexer.step()
    assert (desk.images(), desk.waiting(), desk.asides()) == (3, 0, [])


def test_an_image_that_comes_again_in_other_bytes_changes_nothing(
    desk: Desk, tiny_study: list[Path], captured_log: io.StringIO
) -> None:
    """An archive corrects patients, adds elements of its own and may change the encoding of numbers."""
    desk.receive(tiny_study[0])
    desk.indexer.step()
    before = desk.stored(pydicom.dcmread(tiny_study[0]))
    desk.receive(tiny_study[0], PatientName="Corrected^Name", InstitutionName="Elsewhere", StudyDescription="merged")
    desk.receive(tiny_study[0], ImagingFrequency=f"{pydicom.dcmread(tiny_study[0]).ImagingFrequency:.6f}")
    desk.receive(tiny_study[0])
    desk.indexer.step()
    assert (desk.images(), desk.waiting(), desk.asides()) == (1, 0, [])
    assert desk.stored(pydicom.dcmread(tiny_study[0])) == before
    assert len(list(desk.spool.folder.glob("*.dcm"))) == 1
    said = [json.loads(line) for line in captured_log.getvalue().splitlines() if "came again" in line]
    assert sum(line["images"] for line in said) == 3
    assert all("qsm-node jobs retry 1" in line["event"] for line in said)


CHANGES: dict[str, Callable[[pydicom.Dataset], dict[str, object]]] = {
    "pixels": lambda ds: {"PixelData": bytes(len(ds.PixelData))},
    "echo time": lambda ds: {"EchoTime": ds.EchoTime + 1},
    "position": lambda _: {"ImagePositionPatient": [0, 0, 77]},
    "scale": lambda ds: {"RescaleSlope": ds.RescaleSlope * 2},
    "signed": lambda ds: {"PixelRepresentation": 1 - ds.PixelRepresentation},
    "frequency": lambda ds: {"ImagingFrequency": ds.ImagingFrequency / 2},
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_that_comes_again_with_anything_that_matters_is_kept_apart(
    desk: Desk, tiny_study: list[Path], change: str
) -> None:
    phase = tiny_study[-1]
    ds = pydicom.dcmread(phase)
    desk.receive(phase)
    desk.receive(phase, **CHANGES[change](ds))
    desk.indexer.step()
    assert (desk.images(), desk.asides()) == (1, [("conflict", 1)])
    assert len(list(desk.spool.folder.glob("*.dcm"))) == 2
    assert pydicom.dcmread(desk.stored(ds)) == ds, "the first is used"


@pytest.mark.parametrize("damage", ["gone", "nonsense", "deadly"])
def test_an_image_that_comes_again_equals_nothing_that_cannot_be_read(
    desk: Desk, tiny_study: list[Path], damage: str
) -> None:
    first = pydicom.dcmread(tiny_study[0])
    desk.receive(first)
    desk.indexer.step()
    if damage == "gone":
        desk.stored(first).unlink()
    else:
        desk.stored(first).write_bytes(POISON if damage == "deadly" else b"nonsense")
    sha256 = desk.receive(tiny_study[0], PatientName="Corrected^Name")
    desk.receive(tiny_study[1])
    desk.indexer.step()
    assert (desk.images(), desk.waiting(), desk.asides()) == (2, 0, [("conflict", 1)])
    assert pydicom.dcmread(desk.spool.path(sha256)).PixelData == first.PixelData


def test_what_is_not_an_image_under_an_image_class_is_put_away(desk: Desk, tiny_study: list[Path]) -> None:
    arrival = desk.inbox.begin(
        file_head(Request(1, 1, CTImageStorage, "1.2.3", True), ExplicitVRLittleEndian), "PACS"
    )
    arrival.write(b"nothing that could be read")
    desk.indexer.put(arrival.seal())
    desk.receive(tiny_study[0])
    desk.indexer.step()
    assert (desk.images(), desk.asides()) == (1, [("rejected", 1)])


def test_an_object_whose_pixels_are_none_holds_up_no_other(desk: Desk, tiny_study: list[Path]) -> None:
    """No rows, no pixels: as many bytes as the header says."""
    desk.receive(tiny_study[0], Rows=0, PixelData=b"")
    desk.receive(tiny_study[1])
    desk.indexer.step()
    assert (desk.images(), desk.waiting(), desk.asides()) == (1, 0, [("rejected", 1)])


def test_a_disk_that_fails_between_two_files_forgets_no_object(
    desk: Desk, tiny_study: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first file of a batch is deleted, the second is not: what comes after the batch still waits.

    The first is of no use: nothing looks for it again where it was.
    """
    monkeypatch.setattr("node.indexing.BATCH", 2)
    desk.receive(tiny_study[3], Rows=0, PixelData=b"")
    for path in tiny_study[:3]:
        desk.receive(path)
    unlink, unlinked = Path.unlink, []

    def fails_at_the_second(path: Path, missing_ok: bool = False) -> None:
        if path.parent == desk.inbox.folder:
            unlinked.append(path)
            if len(unlinked) == 2:
                raise OSError(5, "Input/output error")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", fails_at_the_second)
    with pytest.raises(OSError, match="Input/output"):
        desk.indexer.step()
    desk.indexer.step()
    assert (desk.images(), desk.waiting(), desk.asides()) == (3, 0, [("rejected", 1)])


def test_what_is_not_taken_counts_once_however_often_its_batch_is_tried(
    desk: Desk, tiny_study: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rejected object, and one in conflict, in a batch that cannot be entered for a while."""
    desk.receive(tiny_study[0])
    desk.receive(tiny_study[0], EchoTime=99.0)
    desk.receive(tiny_study[1], Rows=0, PixelData=b"")
    execute = desk.journal._db._db.execute
    with monkeypatch.context() as patch:
        patch.setattr(desk.journal._db, "_db", NoCommit(desk.journal._db._db))
        for _ in range(3):
            with pytest.raises(sqlite3.OperationalError, match="full"):
                desk.indexer.step()
    assert execute("SELECT COUNT(*) FROM instance").fetchone() == (0,)
    desk.indexer.step()
    assert (desk.images(), desk.asides()) == (1, [("conflict", 1), ("rejected", 1)])


class NoCommit:
    """A connection whose disk is full at the end of every transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            raise sqlite3.OperationalError("database or disk is full")
        return self._connection.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def test_no_object_is_to_blame_for_a_process_that_does_not_start(
    desk: Desk, tiny_study: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No memory, no cache folder on a full disk, a program that is being replaced: what came waits."""
    desk.receive(tiny_study[0])
    with monkeypatch.context() as patch:
        patch.setattr(desk.indexer._reader, "_new_worker", Stillborn)
        for _ in range(2):
            with pytest.raises(NoWorker):
                desk.indexer.step()
    assert (desk.images(), desk.waiting(), desk.asides()) == (0, 1, [])
    desk.indexer.step()
    assert (desk.images(), desk.waiting(), desk.asides()) == (1, 0, [])


class Stillborn(InlineWorker):
    """A process that ends before it does anything."""

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(BrokenExecutor("the process died"))
        return future


def test_an_object_whose_reading_the_node_cuts_off_waits(
    desk: Desk, tiny_study: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service manager may end the reading process, and then the node while the object is read again."""
    desk.receive(tiny_study[0])
    attempts = []

    class Ended(InlineWorker):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            if not args:
                return super().submit(fn, *args, **kwargs)
            attempts.append(self)
            if len(attempts) == 2:
                desk.indexer.end()
            return Stillborn().submit()

    monkeypatch.setattr(desk.indexer._reader, "_new_worker", Ended)
    desk.indexer.step()
    assert (len(attempts), desk.images(), desk.waiting(), desk.asides()) == (2, 0, 1, [])


@pytest.mark.parametrize("together", [True, False], ids=["together", "later"])
def test_an_image_is_not_replaced_by_its_data_set_in_a_false_syntax(
    desk: Desk, tiny_study: list[Path], together: bool
) -> None:
    desk.receive(tiny_study[0])
    if not together:
        desk.indexer.step()
    ds = pydicom.dcmread(tiny_study[0])
    sha256 = desk.receive(ds)
    content = tiny_study[0].read_bytes()
    head = file_head(Request(1, 1, ds.SOPClassUID, ds.SOPInstanceUID, True), RLELossless)
    arrival = desk.inbox.begin(head, "PACS")
    arrival.write(content[144 + int.from_bytes(content[140:144], "little") :])
    sealed = arrival.seal()
    assert sealed.sha256 == sha256
    desk.indexer.put(sealed)
    desk.indexer.step()
    assert (desk.images(), desk.waiting(), desk.asides()) == (1, 0, [("rejected", 1)])
    assert pydicom.dcmread(desk.spool.path(sha256)).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_a_data_set_does_not_say_what_was_announced(desk: Desk, tiny_study: list[Path]) -> None:
    """File meta information at its beginning, where the standard allows none, is no announcement."""
    ds = pydicom.dcmread(tiny_study[0])
    content = tiny_study[0].read_bytes()
    uid = ds.SOPInstanceUID.encode()
    itself = struct.pack("<HH2sH", 2, 3, b"UI", len(uid) + len(uid) % 2) + uid + bytes(len(uid) % 2)
    arrival = desk.inbox.begin(
        file_head(Request(1, 1, ds.SOPClassUID, "1.2.3", True), ExplicitVRLittleEndian), "PACS"
    )
    arrival.write(itself + content[144 + int.from_bytes(content[140:144], "little") :])
    desk.indexer.put(arrival.seal())
    desk.indexer.step()
    assert (desk.images(), desk.asides()) == (0, [("rejected", 1)])
