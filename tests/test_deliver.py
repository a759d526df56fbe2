"""Delivery: every object has its own answer, nothing is given up early, and peers that misbehave are named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import ImplicitVRLittleEndian, MRImageStorage, SegmentationStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from node.association import on_open
from node.config import Peer, Settings
from node.deliver import FIRST_PAUSE_S, LONGEST_PAUSE_S, Item, Sent, echo, pause_s, send
from node.journal import Journal
from node.loops import Outbox
from node.overview import deliveries, summaries
from node.records import Received, Result

# pynetdicom drops the socket of a refused connection without closing it; the interpreter does, and says so.
refused_connection = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)

Handler = Callable[[evt.Event], int]


@pytest.fixture
def pacs() -> Iterator[Callable[..., Peer]]:
    """``pacs(handler)`` is a storage SCP that answers what the handler returns."""
    running: list[AE] = []

    def start(handler: Handler, classes: Sequence[str] = (MRImageStorage,), syntax: str | None = None) -> Peer:
        ae = AE("PACS")
        ae.require_called_aet = True
        ae.require_calling_aet = ["QSMNODE"]
        ae.add_supported_context(Verification)
        for uid in classes:
            ae.add_supported_context(uid, *([syntax] if syntax else []))
        server = ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_CONN_OPEN, on_open), (evt.EVT_C_STORE, handler)]
        )
        assert server is not None
        running.append(ae)
        return Peer(ae_title="PACS", host="127.0.0.1", port=server.server_address[1])

    yield start
    for ae in running:
        ae.shutdown()


def items(paths: Sequence[Path]) -> list[Item]:
    return [Item(MRImageStorage, pydicom.dcmread(path).SOPInstanceUID, path) for path in paths]


def test_every_object_arrives_as_it_is(pacs: Callable[..., Peer], tiny_study: list[Path]) -> None:
    arrived: list[pydicom.Dataset] = []

    def keep(event: evt.Event) -> int:
        arrived.append(event.dataset)
        return 0x0000

    assert send(pacs(keep), "QSMNODE", items(tiny_study[:5])) == [Sent(True, "")] * 5
    assert arrived == [pydicom.dcmread(path) for path in tiny_study[:5]]


def test_every_object_has_its_own_answer(pacs: Callable[..., Peer], tiny_study: list[Path]) -> None:
    answers = [0x0000, 0xA700, 0xB000, 0x0111, 0xC123, 0xFFFF]
    left = iter(answers)
    sent = send(pacs(lambda _: next(left)), "QSMNODE", items(tiny_study[: len(answers)]))
    assert [answer.taken for answer in sent] == [True, False, True, True, False, False]
    assert sent[0].note == ""
    assert all(f"0x{status:04X}" in answer.note for status, answer in zip(answers[1:], sent[1:], strict=True))


def test_a_peer_that_knows_implicit_vr_alone_gets_it(pacs: Callable[..., Peer], tiny_study: list[Path]) -> None:
    arrived: list[pydicom.Dataset] = []

    def keep(event: evt.Event) -> int:
        arrived.append(event.dataset)
        return 0x0000

    peer = pacs(keep, syntax=ImplicitVRLittleEndian)
    assert send(peer, "QSMNODE", items(tiny_study[:1])) == [Sent(True, "")]
    assert arrived[0].PixelData == pydicom.dcmread(tiny_study[0]).PixelData


def test_a_peer_that_aborts_leaves_the_rest_for_later(pacs: Callable[..., Peer], tiny_study: list[Path]) -> None:
    count = 0

    def abort_at_third(event: evt.Event) -> int:
        nonlocal count
        count += 1
        if count == 3:
            event.assoc.abort()
        return 0x0000

    sent = send(pacs(abort_at_third), "QSMNODE", items(tiny_study[:5]))
    assert [answer.taken for answer in sent] == [True, True, False, False, False]
    assert "ended the association" in sent[2].note


@refused_connection
def test_what_is_wrong_is_said_in_words(pacs: Callable[..., Peer], tiny_study: list[Path], tmp_path: Path) -> None:
    peer = pacs(lambda _: 0x0000)
    one = items(tiny_study[:1])
    nobody = Peer(ae_title="PACS", host="127.0.0.1", port=1)
    notes = {
        "nobody answers there": send(nobody, "QSMNODE", one),
        "refuses the association: Calling AE title not recognised": send(peer, "STRANGER", one),
        "Called AE title not recognised": send(peer.model_copy(update={"ae_title": "OTHER"}), "QSMNODE", one),
        "does not accept Segmentation Storage": send(
            peer, "QSMNODE", [Item(SegmentationStorage, "1.2", one[0].path)]
        ),
        "gone.dcm is no longer in the data folder": send(
            peer, "QSMNODE", [Item(MRImageStorage, "1.2", tmp_path / "gone.dcm")]
        ),
    }
    for expected, (sent,) in notes.items():
        assert not sent.taken
        assert expected.lower() in sent.note.lower()


def test_a_class_that_the_peer_lacks_does_not_hold_up_the_others(
    pacs: Callable[..., Peer], tiny_study: list[Path]
) -> None:
    both = [*items(tiny_study[:1]), Item(SegmentationStorage, "1.2", tiny_study[1])]
    other = pydicom.dcmread(tiny_study[1])
    assert other.SOPClassUID == MRImageStorage
    sent = send(pacs(lambda _: 0x0000), "QSMNODE", both)
    assert sent[0].taken


def test_sending_stops_when_asked(pacs: Callable[..., Peer], tiny_study: list[Path]) -> None:
    arrived: list[int] = []

    def count(_: evt.Event) -> int:
        arrived.append(1)
        return 0x0000

    sent = send(pacs(count), "QSMNODE", items(tiny_study[:5]), stop=lambda: len(arrived) >= 2)
    assert [answer.taken for answer in sent] == [True, True, False, False, False]


def test_a_damaged_file_does_not_hold_up_the_others(
    pacs: Callable[..., Peer], tiny_study: list[Path], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.dcm"
    damaged.touch()
    first, last = items(tiny_study[:2])
    sent = send(pacs(lambda _: 0x0000), "QSMNODE", [first, Item(MRImageStorage, "1.2", damaged), last])
    assert [answer.taken for answer in sent] == [True, False, True]
    assert "damaged.dcm" in sent[1].note
    assert "cannot be read" in sent[1].note


@refused_connection
def test_echo(pacs: Callable[..., Peer]) -> None:
    peer = pacs(lambda _: 0x0000)
    assert echo(peer, "QSMNODE") == ""
    assert "refuses" in echo(peer, "STRANGER")
    assert "nobody answers" in echo(Peer(ae_title="PACS", host="127.0.0.1", port=1), "QSMNODE")


@given(attempts=st.integers(0, 10**6), chance=st.floats(0, 1))
def test_pauses_grow_scatter_and_stay_below_a_quarter_of_an_hour(attempts: int, chance: float) -> None:
    pause = pause_s(attempts, lambda: chance)
    longest = pause_s(attempts, lambda: 1.0)
    assert FIRST_PAUSE_S / 2 <= pause <= longest <= LONGEST_PAUSE_S
    assert longest <= pause_s(attempts + 1, lambda: 1.0)
    assert pause >= longest / 2


# ---------------------------------------------------------------------------------------------------- outbox


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A journal with one finished job of two series, and an outbox whose peer is scripted."""

    def __init__(self, tmp_path: Path) -> None:
        self.clock = Clock()
        self.journal = Journal(None, self.clock)
        self.broken: set[str] = set()
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        peers = {name: Peer(ae_title=name.upper(), host="127.0.0.1", port=104) for name in ("pacs", "archive")}
        settings = Settings(data_dir=tmp_path, peers=peers)
        self.outbox = Outbox(self.journal, settings, self.send, self.clock)
        self.journal.add(Received("1.2", "key", "1", "sha1", "PACS", "{}"))
        (gathering,) = self.journal.receiving()
        self.journal.complete(gathering, "default", datetime.now(UTC))
        job = self.journal.lease()
        assert job is not None
        results = [
            Result(s, MRImageStorage, f"{s}.{n}", f"{s}-{n}.dcm", "x") for s in ("qsm", "phase") for n in range(3)
        ]
        self.journal.finish(job, results, ("pacs", "archive"))

    def send(self, name: str, objects: Sequence[Item]) -> list[Sent]:
        self.calls.append((name, tuple(item.sop_instance_uid for item in objects)))
        return [
            Sent(False, "no association") if {name, item.sop_instance_uid} & self.broken else Sent(True, "")
            for item in objects
        ]

    @property
    def state(self) -> str:
        return summaries(self.journal)[0].state


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.journal.close()


def test_one_call_for_each_series_and_destination_and_none_twice(desk: Desk) -> None:
    desk.outbox.step()
    desk.outbox.step()
    qsm, phase = (tuple(f"{s}.{n}" for n in range(3)) for s in ("qsm", "phase"))
    assert sorted(desk.calls) == sorted((to, objects) for to in ("pacs", "archive") for objects in (qsm, phase))
    assert desk.state == "delivered"


def test_only_what_failed_is_sent_again_and_not_before_its_time(desk: Desk) -> None:
    desk.broken = {"qsm.1"}
    desk.outbox.step()
    assert desk.state == "delivering"
    desk.calls.clear()
    desk.clock.now += FIRST_PAUSE_S / 2 - 0.1
    desk.outbox.step()
    assert desk.calls == []
    desk.broken.clear()
    desk.clock.now += FIRST_PAUSE_S
    desk.outbox.step()
    assert sorted(desk.calls) == [("archive", ("qsm.1",)), ("pacs", ("qsm.1",))]
    assert desk.state == "delivered"


def test_a_peer_that_is_away_for_two_days_gets_everything(desk: Desk) -> None:
    desk.broken = {"archive"}
    end = desk.clock.now + 48 * 3600
    while desk.clock.now < end:
        desk.outbox.step()
        desk.clock.now += 300
    assert desk.state == "delivering"
    away = [g for g in deliveries(desk.journal, 1) if g.destination == "archive"]
    assert [g.sentence for g in away] == ["no association"] * 2
    assert 150 < away[0].attempts < 600
    desk.broken.clear()
    desk.clock.now += LONGEST_PAUSE_S
    desk.outbox.step()
    assert desk.state == "delivered"


def test_a_peer_that_is_away_for_good_is_given_up_visibly_and_can_be_retried(desk: Desk) -> None:
    desk.broken = {"archive"}
    for _ in range(80):
        desk.outbox.step()
        desk.clock.now += 3600
    assert desk.state == "undeliverable"
    assert summaries(desk.journal)[0].sentence == "no association"
    desk.broken.clear()
    assert desk.journal.retry(1) == "6 objects are sent again"
    desk.outbox.step()
    assert desk.state == "delivered"
