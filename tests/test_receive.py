"""Receiving, over real associations: what is answered, what is kept, what is counted, who is heard."""

from __future__ import annotations

import contextlib
import io
import os
import random
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pynetdicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedSRStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE

from associations import association, ends, store
from node.access import MAXIMUM_OF_PEER
from node.association import on_open
from node.config import HEALTH_AE_TITLE, Settings
from node.deliver import echo
from node.inbox import Inbox
from node.indexing import Indexer
from node.journal import Journal
from node.load import load
from node.overview import Aside, asides, summaries
from node.peers import Peer
from node.receive import Receiver
from node.spool import Spool
from node.workers import InlineWorker

SUCCESS = 0x0000
SIEMENS_NON_IMAGE = "1.3.12.2.1107.5.9.1"
RETIRED_ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6"


@dataclass
class Running:
    """A receiver that listens, and what it writes to."""

    receiver: Receiver
    spool: Spool
    journal: Journal
    port: int

    def stored(self, ds: Dataset) -> Path:
        """The file of what was stored under its instance UID."""
        holder = self.journal.holder(ds.SOPInstanceUID)
        assert holder is not None
        return self.spool.path(holder[1])

    def asides(self, kind: str) -> list[Aside]:
        return [aside for aside in asides(self.journal) if aside.kind == kind]

    def count(self, kind: str) -> int:
        return sum(aside.count for aside in self.asides(kind))

    def works(self) -> bool:
        return echo(Peer(ae_title="QSMNODE", host="127.0.0.1", port=self.port), "SCANNER") == ""


SCANNER = Peer(ae_title="SCANNER", host="127.0.0.1", port=104)

Start = Callable[..., Running]


def at_once(indexer: Indexer) -> Callable[[], None]:
    """Enters what has arrived before it is answered, so that a test finds it; a node does it afterwards."""
    one_by_one = threading.Lock()

    def arrived() -> None:
        with one_by_one:
            indexer.step()

    return arrived


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Running] = []

    def go(min_free_bytes: int = 0, peer: Peer = SCANNER, **settings_: Any) -> Running:
        settings = Settings(port=0, data_dir=tmp_path, peers={"scanner": peer}, **settings_)
        spool = Spool(tmp_path / "spool")
        inbox = Inbox(tmp_path / "inbox", min_free_bytes)
        journal = Journal(tmp_path / "journal.sqlite")
        indexer = Indexer(inbox, spool, journal, settings.site, InlineWorker)
        receiver = Receiver(settings, indexer, journal, at_once(indexer))
        running.append(Running(receiver, spool, journal, receiver.start()))
        return running[-1]

    yield go
    for node in running:
        node.receiver.stop()
        node.journal.close()


def store_bytes(node: Running, path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Send a file's data set byte by byte, whatever it holds; the response."""
    monkeypatch.setattr(pynetdicom._config, "STORE_SEND_CHUNKED_DATASET", True)
    with association(node.port, [MRImageStorage]) as assoc:
        return assoc.send_c_store(path)


def other(sop_class: str, uid: str = "1.2.3.4") -> Dataset:
    """An object that is no MR image."""
    ds = Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID = sop_class, uid, "1.2.3"
    ds.PatientName = "Doe^Jane"
    return ds


def rewritten(path: Path, to: Path, **changes: object) -> Path:
    """A copy of a DICOM file with other values."""
    ds = pydicom.dcmread(path)
    ds.update(changes)  # type: ignore[arg-type]
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(to, enforce_file_format=True)
    return to


def test_an_image_is_kept_as_it_came(start: Start, tiny_study: list[Path]) -> None:
    node = start()
    ds = pydicom.dcmread(tiny_study[0])
    assert store(node.port, ds) == [SUCCESS]
    kept = node.stored(ds)
    assert pydicom.dcmread(kept) == ds
    assert kept.stat().st_mode & 0o777 == 0o600
    assert [s.images for s in summaries(node.journal)] == [1]


def test_a_whole_study_is_one_acquisition(start: Start, tiny_study: list[Path]) -> None:
    node = start()
    datasets = [pydicom.dcmread(path) for path in tiny_study]
    assert set(store(node.port, *datasets)) == {SUCCESS}
    (summary,) = summaries(node.journal)
    assert (summary.images, summary.senders, summary.state) == (len(tiny_study), ("SCANNER",), "receiving")


def test_what_is_not_safe_is_not_answered_with_success(
    start: Start, tiny_study: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start()
    ds = pydicom.dcmread(tiny_study[0])

    def status_when(error: Exception, call: str) -> int:
        def fails(*_: object) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fails)
            (status,) = store(node.port, ds)
        return status

    for call in ("pwrite", "fdatasync"):
        assert status_when(OSError(28, "No space left on device"), call) == 0xA700
        assert status_when(OSError(30, "Read-only file system"), call) == 0x0110
        assert status_when(ZeroDivisionError("a defect"), call) == 0x0110
    assert node.journal.holder(ds.SOPInstanceUID) is None
    assert store(node.port, ds) == [SUCCESS]


def test_a_full_disk_refuses_before_it_is_full(start: Start, tiny_study: list[Path]) -> None:
    node = start(min_free_bytes=10**18)
    assert store(node.port, pydicom.dcmread(tiny_study[0])) == [0xA700]
    assert list(node.spool.folder.iterdir()) == []


def test_what_is_not_for_us_is_answered_success_and_counted(start: Start) -> None:
    node = start()
    classes = [CTImageStorage, SecondaryCaptureImageStorage, EnhancedSRStorage, SIEMENS_NON_IMAGE, RETIRED_ULTRASOUND]
    objects = [other(sop_class, f"1.2.{n}.{copy}") for n, sop_class in enumerate(classes) for copy in range(2)]
    assert set(store(node.port, *objects)) == {SUCCESS}
    counted = {aside.reason: (aside.count, aside.sender) for aside in node.asides("ignored")}
    assert counted == {f"{pydicom.uid.UID(uid).name} is not an MR image": (2, "SCANNER") for uid in classes}
    assert list(node.spool.folder.iterdir()) == []
    assert summaries(node.journal) == []


def test_by_option_what_is_not_for_us_is_answered_with_a_failure(start: Start, tiny_study: list[Path]) -> None:
    node = start(ignored="refuse")
    assert store(node.port, other(CTImageStorage)) == [0x0122]
    assert node.count("ignored") == 1
    own = pydicom.dcmread(tiny_study[0])
    own.ManufacturerModelName = "qsm-node"
    assert store(node.port, own) == [SUCCESS]  # a failure would have it sent for ever
    assert store(node.port, pydicom.dcmread(tiny_study[1])) == [SUCCESS]


def test_by_option_what_is_not_for_us_is_not_negotiated(start: Start) -> None:
    node = start(ignored="reject-context")
    with association(node.port, [MRImageStorage, CTImageStorage, SIEMENS_NON_IMAGE]) as assoc:
        assert [context.abstract_syntax for context in assoc.accepted_contexts] == [MRImageStorage]
    with association(node.port, [MRImageStorage], JPEGBaseline8Bit) as assoc:
        assert assoc.accepted_contexts == []


def test_what_this_product_derived_is_recognised(start: Start, tiny_study: list[Path]) -> None:
    node = start()
    ds = pydicom.dcmread(tiny_study[0])
    ds.ManufacturerModelName = "qsm-node"
    assert store(node.port, ds) == [SUCCESS]
    assert [aside.reason for aside in node.asides("ignored")] == ["derived by this product, sent back"]
    assert summaries(node.journal) == []


def test_an_image_that_comes_again_changes_nothing(start: Start, tiny_study: list[Path]) -> None:
    node = start()
    ds = pydicom.dcmread(tiny_study[0])
    assert store(node.port, ds, ds) == [SUCCESS, SUCCESS]
    assert len(list(node.spool.folder.iterdir())) == 1
    assert asides(node.journal) == []


def test_other_content_under_the_same_uid_is_kept_apart_and_reported(
    start: Start, tiny_study: list[Path], tmp_path: Path
) -> None:
    node = start()
    first = pydicom.dcmread(tiny_study[0])
    second = pydicom.dcmread(rewritten(tiny_study[0], tmp_path / "second.dcm", PixelData=b"\1\2" * (32 * 40)))
    assert store(node.port, first, second) == [SUCCESS, SUCCESS]
    assert pydicom.dcmread(node.stored(first)).PixelData == first.PixelData
    assert [aside.count for aside in node.asides("conflict")] == [1]
    (apart,) = set(node.spool.folder.glob("*.dcm")) - {node.stored(first)}
    assert pydicom.dcmread(apart).PixelData == second.PixelData


def test_a_truncated_file_is_rejected_and_the_next_is_taken(
    start: Start, tiny_study: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start()
    content = tiny_study[0].read_bytes()
    cut = tmp_path / "cut.dcm"
    for missing in (1, 500, 2600, 3600):
        cut.write_bytes(content[:-missing])
        assert store_bytes(node, cut, monkeypatch).Status == SUCCESS
    assert node.count("rejected") == 4
    assert summaries(node.journal) == []
    assert len(list(node.spool.folder.glob("*.dcm"))) == 4, "they were promised to be kept"
    assert store_bytes(node, tiny_study[0], monkeypatch).Status == SUCCESS


def test_a_truncated_image_says_how_much_is_there(
    start: Start, tiny_study: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start()
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(tiny_study[0].read_bytes()[:-560])
    store_bytes(node, cut, monkeypatch)
    assert [aside.reason for aside in node.asides("rejected")] == ["truncated: 2000 of 2560 bytes of pixels"]


def test_a_data_set_of_random_bytes_is_rejected(
    start: Start, tiny_study: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start()
    content = tiny_study[0].read_bytes()
    head = (
        content.index(b"\x08\x00\x05\x00") if b"\x08\x00\x05\x00" in content else content.index(b"\x08\x00\x08\x00")
    )
    for seed in range(8):
        nonsense = tmp_path / f"{seed}.dcm"
        nonsense.write_bytes(content[:head] + random.Random(seed).randbytes(3000))
        assert store_bytes(node, nonsense, monkeypatch).Status == SUCCESS
    assert node.count("rejected") == 8
    assert node.works()


def test_an_object_other_than_announced_is_rejected(start: Start, tiny_study: list[Path]) -> None:
    node = start()
    ds = pydicom.dcmread(tiny_study[0])
    with association(node.port, [MRImageStorage]) as assoc:
        ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        request = pynetdicom.dimse_primitives.C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = MRImageStorage, "1.2.3"
        request.DataSet = io.BytesIO(pynetdicom.dsutils.encode(ds, False, True) or b"")
        assoc._reactor_checkpoint.clear()
        assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
        _, response = assoc.dimse.get_msg(block=True)
        assoc._reactor_checkpoint.set()
    assert response is not None
    assert response.Status == SUCCESS  # type: ignore[union-attr]
    (aside,) = node.asides("rejected")
    assert aside.reason == "the data set is not the object that the C-STORE request announced, or is cut off"


def test_lossless_compression_is_read(start: Start, tiny_study: list[Path]) -> None:
    node = start()
    ds = pydicom.dcmread(tiny_study[0])
    pixels = ds.pixel_array
    ds.compress(RLELossless, generate_instance_uid=False)
    assert store(node.port, ds) == [SUCCESS]
    assert (pydicom.dcmread(node.stored(ds)).pixel_array == pixels).all()


@pytest.mark.parametrize(
    "syntax", [JPEGBaseline8Bit, JPEGLSNearLossless, JPEG2000], ids=["jpeg", "jpeg-ls-near-lossless", "jpeg-2000"]
)
def test_a_lossy_image_is_answered_success_and_not_kept(start: Start, tiny_study: list[Path], syntax: UID) -> None:
    """A refused context would block the PACS's queue."""
    node = start()
    ds = pydicom.dcmread(tiny_study[0])
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([b"\xff\xd8 not looked at \xff\xd9"])
    assert store(node.port, ds) == [SUCCESS]
    (aside,) = node.asides("ignored")
    assert aside.reason == f"MR image in {syntax.name}: lossy, or not to be decoded here; send it uncompressed"
    assert list(node.spool.folder.iterdir()) == []


def test_a_damaged_codestream_is_left_to_the_worker_a_cut_one_rejected(start: Start, tiny_study: list[Path]) -> None:
    """Decoders may crash, so none runs here."""
    node = start()
    ds = pydicom.dcmread(tiny_study[0])
    ds.compress(RLELossless, generate_instance_uid=False)
    (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
    ds.PixelData = encapsulate([frame[:64] + bytes(len(frame) - 64)])
    assert store(node.port, ds) == [SUCCESS]
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.PixelData = encapsulate([frame[:40]])
    assert store(node.port, ds) == [SUCCESS]
    assert [aside.reason for aside in node.asides("rejected")] == [
        "frame 1 of 1 is not a whole 32 x 40 image in its syntax"
    ]


def test_images_are_negotiated_in_what_can_be_decoded(start: Start) -> None:
    node = start()
    with association(node.port, [MRImageStorage], [JPEGBaseline8Bit, ExplicitVRLittleEndian]) as assoc:
        (context,) = assoc.accepted_contexts
        assert context.transfer_syntax == [ExplicitVRLittleEndian]


@pytest.mark.parametrize("together", [True, False])
def test_images_are_negotiated_uncompressed_first_however_they_are_proposed(start: Start, together: bool) -> None:
    """In one context, or in a context for each transfer syntax: then all are accepted, lossy ones too."""
    node = start()
    proposed = [JPEG2000, JPEG2000Lossless, RLELossless, ExplicitVRBigEndian, ExplicitVRLittleEndian]
    ae = AE("SCANNER")
    for syntaxes in [proposed] if together else [[syntax] for syntax in proposed]:
        ae.add_requested_context(MRImageStorage, syntaxes)
    handlers = [(pynetdicom.evt.EVT_CONN_OPEN, on_open)]
    assoc = ae.associate("127.0.0.1", node.port, ae_title="QSMNODE", evt_handlers=handlers)
    accepted = [context.transfer_syntax[0] for context in assoc.accepted_contexts]
    assoc.release()
    assert accepted == ([ExplicitVRLittleEndian] if together else proposed)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("option", "syntax"),
    [("-xt", JPEGLSLossless), ("-xr", RLELossless), ("-xd", DeflatedExplicitVRLittleEndian)],
    ids=["jpeg-ls", "rle", "deflated"],
)
def test_storescu_sends_compressed_images(
    start: Start,
    peer: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
    dicom_sets: ModuleType,
    option: str,
    syntax: UID,
) -> None:
    """Signed ones, as GE stores them; they load to what the uncompressed ones hold."""
    node, folder = start(), tmp_path_factory.mktemp("sent")
    images = dicom_sets.ge(dicom_sets.scan(), "RI")
    straight = load(dicom_sets.write(images, folder / "plain")).acquisition
    for ds in images:
        if syntax.is_encapsulated:
            ds.compress(syntax, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = syntax
    paths = dicom_sets.write(images, folder / "compressed")
    command = [peer("storescu"), option, "-aet", "SCANNER", "-aec", "QSMNODE", "127.0.0.1", str(node.port)]
    subprocess.run([*command, *paths], check=True, capture_output=True, timeout=60)
    kept = sorted(node.spool.folder.iterdir())
    assert {pydicom.dcmread(path).file_meta.TransferSyntaxUID for path in kept} == {syntax}
    got = load(kept).acquisition
    np.testing.assert_array_equal(got.phase, straight.phase)
    np.testing.assert_array_equal(got.magnitude, straight.magnitude)


def test_a_silent_association_outlives_the_quiet_time(start: Start) -> None:
    """Ended at 60 s, as the library has it, a scanner's pause would pass for the end of its study."""
    node = start()
    with association(node.port, [MRImageStorage]):
        (served,) = node.receiver._open()
        assert served.network_timeout is not None
        assert served.network_timeout >= 3 * Settings().quiet_s


def test_strangers_are_refused_and_counted(start: Start) -> None:
    node = start()
    for calling, called in (("STRANGER", "QSMNODE"), ("SCANNER", "OTHER")):
        with association(node.port, [MRImageStorage], calling=calling, called=called) as assoc:
            assert assoc.is_rejected
    stranger, misled = node.asides("rejected")
    assert "configured peers" in stranger.reason
    assert "not QSMNODE" in misled.reason
    assert node.works()


def test_who_cannot_be_decided_about_is_not_heard(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    node = start()
    with monkeypatch.context() as patch:
        patch.setattr("node.receive.denial", lambda *_: 1 / 0)
        with association(node.port, [MRImageStorage]) as assoc:
            assert assoc.is_rejected
    assert node.works()


def test_an_address_can_be_asked_for_too(start: Start) -> None:
    node = start(peer=SCANNER.model_copy(update={"addresses": (ip_network("192.0.2.0/24"),)}))
    with association(node.port, [MRImageStorage]) as assoc:
        assert assoc.is_rejected
    assert [aside.reason for aside in node.asides("rejected")] == [
        "association refused: SCANNER is not heard from this address"
    ]


def test_a_peer_gets_so_many_associations_and_no_more(start: Start, eventually: Callable[..., None]) -> None:
    node = start()
    with contextlib.ExitStack() as opened:
        taken = [opened.enter_context(association(node.port, [MRImageStorage])) for _ in range(MAXIMUM_OF_PEER)]
        assert all(assoc.is_established for assoc in taken)
        with association(node.port, [MRImageStorage]) as assoc:
            assert assoc.is_rejected
            assert assoc.acceptor.primitive is not None
            assert assoc.acceptor.primitive.result == 2  # transient: the peer tries again
        taken[0].release()
        eventually(node.works, "another is heard again", 10)


def test_ipv6(start: Start) -> None:
    node = start(host="::1", peer=SCANNER.model_copy(update={"addresses": (ip_network("::1"),)}))
    assert echo(Peer(ae_title="QSMNODE", host="::1", port=node.port), "SCANNER") == ""


def test_the_health_check_may_echo_and_nothing_else(start: Start) -> None:
    node = start()
    assert echo(Peer(ae_title="QSMNODE", host="127.0.0.1", port=node.port), HEALTH_AE_TITLE) == ""
    with association(node.port, [MRImageStorage], calling=HEALTH_AE_TITLE) as assoc:
        assert assoc.accepted_contexts == []
    assert node.receiver.senders() == set()


REQUEST = struct.pack(">BxL", 1, 200)


def test_bytes_that_are_not_dicom_are_counted_and_the_node_goes_on(
    start: Start, eventually: Callable[..., None]
) -> None:
    node = start()
    nonsense = [
        b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
        *(bytes([first]) + random.Random(first).randbytes(999) for first in (0, 1, 4, 7, 8, 255)),
        struct.pack(">BxL", 1, 0xFFFFFFFF) + b"x" * 100,
        REQUEST + b"half a request",
        b"\1\0",
    ]
    for number, sent in enumerate(nonsense, start=1):
        ends(socket.create_connection(("127.0.0.1", node.port), timeout=10), [sent])
        eventually(lambda n=number: node.count("rejected") == n, f"{sent[:20]!r} is counted", 30)
    assert {aside.sender for aside in node.asides("rejected")} == {"127.0.0.1"}
    assert all("DICOM message" in aside.reason for aside in node.asides("rejected"))
    assert node.works()


def test_a_connection_without_a_byte_is_nothing(start: Start) -> None:
    node = start()
    socket.create_connection(("127.0.0.1", node.port), timeout=10).close()
    assert node.works()
    assert asides(node.journal) == []


def test_who_has_an_association_open(start: Start, eventually: Callable[..., None]) -> None:
    node = start()
    assert node.receiver.senders() == set()
    with association(node.port, [MRImageStorage]) as assoc:
        eventually(lambda: node.receiver.senders() == {"SCANNER"}, "the sender is seen")
        (served,) = node.receiver._open()
        assert served.dul.socket is not None
        assert served.dul.socket.socket is not None
        assert served.dul.socket.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assoc.abort()
    eventually(lambda: node.receiver.senders() == set(), "the sender is gone")


def test_a_sender_that_ends_while_it_is_asked_about_is_busy(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two looks its last object comes, and waits, and its association ends."""
    receiver = start().receiver
    looks: list[str] = []

    def look(name: str, before: Any, after: Any) -> Callable[[], Any]:
        def looked() -> Any:
            looks.append(name)
            return before if len(looks) == 1 else after

        return looked

    sending = SimpleNamespace(requestor=SimpleNamespace(ae_title="SCANNER"))
    monkeypatch.setattr(receiver, "_open", look("open", [sending], []))
    monkeypatch.setattr(receiver._indexer, "senders", look("waiting", frozenset(), frozenset({"SCANNER"})))
    assert receiver.senders() == {"SCANNER"}
    assert len(looks) == 2


def test_no_patient_data_in_log_journal_or_file_names(
    start: Start, tiny_study: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captured_log: io.StringIO
) -> None:
    node = start()
    secret = {"PatientName": "Geheim^Name", "PatientID": "ID-4711-X", "PatientBirthDate": "19550611"}
    whole = rewritten(tiny_study[0], tmp_path / "whole.dcm", **secret)
    changed = rewritten(whole, tmp_path / "changed.dcm", PixelData=b"\1\2" * (32 * 40))
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(whole.read_bytes()[:-900])
    for path in (whole, changed, broken):
        store_bytes(node, path, monkeypatch)
    monkeypatch.undo()
    store(node.port, other(CTImageStorage))
    with monkeypatch.context() as patch:
        patch.setattr(node.journal, "add", lambda _: 1 / 0)
        store(node.port, pydicom.dcmread(rewritten(tiny_study[1], tmp_path / "next.dcm", **secret)))
    node.journal.query("PRAGMA wal_checkpoint(TRUNCATE)")
    written = captured_log.getvalue().encode() + (tmp_path / "journal.sqlite").read_bytes()
    written += "".join(str(path.name) for path in node.spool.folder.iterdir()).encode()
    assert b"rejected" in written
    for value in (b"Geheim", b"4711", b"19550611", b"Doe"):
        assert value not in written
