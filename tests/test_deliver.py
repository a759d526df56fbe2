"""Delivery: every object has its own answer, nothing is given up early, and peers that misbehave are named."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless, MRImageStorage, SegmentationStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from associations import listen, refused_connection
from journals import Clock, finish
from node.config import Settings
from node.deliver import Item, Link, Sent, StoreLink, Unreachable, echo, judged
from node.deliveries import LONGEST_PAUSE_S
from node.journal import Journal
from node.outbox import FIRST_PAUSE_S, HANDFUL, Outbox, pause_s
from node.overview import deliveries, summaries
from node.peers import Peer
from node.records import Result

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
        running.append(ae)
        return Peer(ae_title="PACS", host="127.0.0.1", port=listen(ae, (evt.EVT_C_STORE, handler)))

    yield start
    for ae in running:
        ae.shutdown()


def items(paths: Sequence[Path]) -> list[Item]:
    return [Item(MRImageStorage, pydicom.dcmread(path).SOPInstanceUID, path) for path in paths]


def send(peer: Peer, calling: str, objects: Sequence[Item]) -> list[Sent]:
    """Over one association."""
    link = StoreLink(peer, calling, [item.sop_class_uid for item in objects])
    try:
        return link.send(objects)
    finally:
        link.close()


def outcomes(sent: Sequence[Sent]) -> list[str]:
    return [answer.outcome for answer in sent]


def test_every_object_arrives_as_it_is(pacs: Callable[..., Peer], tiny_study: list[Path]) -> None:
    arrived: list[pydicom.Dataset] = []

    def keep(event: evt.Event) -> int:
        arrived.append(event.dataset)
        return 0x0000

    assert send(pacs(keep), "QSMNODE", items(tiny_study[:5])) == [Sent("stored")] * 5
    assert arrived == [pydicom.dcmread(path) for path in tiny_study[:5]]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (0x0000, "stored"), (0xB000, "stored"), (0xB006, "stored"), (0xB007, "stored"), (0x0111, "stored"),
        (0xA700, "later"), (0xA702, "later"), (0x0110, "later"), (0x0213, "later"), (0xFE00, "later"), (0x7, "later"),
        (0xA900, "refused"), (0xC000, "refused"), (0xCFFF, "refused"), (0x0122, "refused"), (0x0124, "refused"),
    ],
)  # fmt: skip
def test_what_a_status_means(status: int, outcome: str) -> None:
    answer = judged(status, "PACS")
    assert answer.outcome == outcome
    assert answer.note == "" if status == 0 else f"0x{status:04X}" in answer.note


def test_every_object_has_its_own_answer(pacs: Callable[..., Peer], tiny_study: list[Path]) -> None:
    left = iter([0x0000, 0xA700, 0xB000, 0x0111, 0xC123, 0xFFFF])
    sent = send(pacs(lambda _: next(left)), "QSMNODE", items(tiny_study[:6]))
    assert outcomes(sent) == ["stored", "later", "stored", "stored", "refused", "later"]


def test_a_peer_that_knows_implicit_vr_alone_gets_it(pacs: Callable[..., Peer], tiny_study: list[Path]) -> None:
    arrived: list[pydicom.Dataset] = []

    def keep(event: evt.Event) -> int:
        arrived.append(event.dataset)
        return 0x0000

    peer = pacs(keep, syntax=ImplicitVRLittleEndian)
    assert send(peer, "QSMNODE", items(tiny_study[:1])) == [Sent("stored")]
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
    assert outcomes(sent) == ["stored", "stored", "lost", "lost", "lost"]
    assert "ended the association" in sent[2].note


@refused_connection
def test_what_is_wrong_is_said_in_words(pacs: Callable[..., Peer], tiny_study: list[Path]) -> None:
    peer = pacs(lambda _: 0x0000)
    picky = pacs(lambda _: 0x0000, syntax=JPEG2000Lossless)
    one = items(tiny_study[:1])
    segmentation = [Item(SegmentationStorage, "1.2", one[0].path)]
    attempts: dict[str, tuple[Peer, str, list[Item]]] = {
        "nobody answers there": (Peer(ae_title="PACS", host="127.0.0.1", port=1), "QSMNODE", one),
        "pacs.invalid:104: ": (Peer(ae_title="PACS", host="pacs.invalid", port=104), "QSMNODE", one),
        "refuses the association: Calling AE title not recognised": (peer, "STRANGER", one),
        "Called AE title not recognised": (peer.model_copy(update={"ae_title": "OTHER"}), "QSMNODE", one),
        "does not accept Segmentation Storage": (peer, "QSMNODE", segmentation),
        "does not accept MR Image Storage uncompressed in little endian": (picky, "QSMNODE", one),
    }
    for expected, attempt in attempts.items():
        with pytest.raises(Unreachable, match=f"(?i){expected}"):
            send(*attempt)


def test_a_class_that_the_peer_lacks_does_not_hold_up_the_others(
    pacs: Callable[..., Peer], tiny_study: list[Path], tmp_path: Path
) -> None:
    other = pydicom.dcmread(tiny_study[1])
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    other.save_as(tmp_path / "other.dcm")
    both = [Item(SegmentationStorage, "1.2", tmp_path / "other.dcm"), *items(tiny_study[:1])]
    sent = send(pacs(lambda _: 0x0000), "QSMNODE", both)
    assert sent == [Sent("refused", "PACS does not accept Segmentation Storage"), Sent("stored")]


def test_what_cannot_be_read_does_not_hold_up_the_others(
    pacs: Callable[..., Peer], tiny_study: list[Path], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.dcm"
    damaged.touch()
    first, last = items(tiny_study[:2])
    gone = Item(MRImageStorage, "1.3", tmp_path / "gone.dcm")
    sent = send(pacs(lambda _: 0x0000), "QSMNODE", [first, Item(MRImageStorage, "1.2", damaged), gone, last])
    assert outcomes(sent) == ["stored", "refused", "refused", "stored"]
    assert "damaged.dcm in the data folder cannot be read" in sent[1].note
    assert "gone.dcm is no longer in the data folder" in sent[2].note


def test_a_link_that_is_cut_waits_for_no_answer(pacs: Callable[..., Peer], tiny_study: list[Path]) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def hang(_: evt.Event) -> int:
        asked.set()
        go_on.wait(60)
        return 0x0000

    link = StoreLink(pacs(hang), "QSMNODE", [MRImageStorage])
    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(link.send, items(tiny_study[:2]))
        assert asked.wait(30)
        link.cut()
        assert outcomes(sending.result(30)) == ["lost", "lost"]
    go_on.set()
    assert not link.alive


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


class Scripted:
    """A link whose peer does what the desk says."""

    at_once = 1

    def __init__(self, desk: Desk, name: str) -> None:
        self.desk, self.name, self.alive = desk, name, True

    def send(self, objects: Sequence[Item]) -> list[Sent]:
        (item,) = objects
        answer = self.desk.answer(self.name, item.sop_instance_uid)
        self.alive = self.alive and answer.outcome != "lost"
        return [answer]

    def close(self) -> None:
        self.desk.closed += 1

    def cut(self) -> None:
        self.desk.go_on.set()


class Desk:
    """A journal with one finished job of two series, and an outbox whose peers are scripted."""

    def __init__(self, tmp_path: Path, objects: int = 3) -> None:
        self.clock = Clock()
        self.journal = Journal(None, self.clock)
        self.away: set[str] = set()
        self.answers: Callable[[str, str], Sent] = lambda _name, _uid: Sent("stored")
        self.sent: list[tuple[str, str]] = []
        self.opened: list[str] = []
        self.first: dict[str, threading.Thread] = {}
        self.closed = 0
        self.go_on = threading.Event()
        self.lock = threading.Lock()
        peers = {name: Peer(ae_title=name.upper(), host="127.0.0.1", port=104) for name in ("pacs", "archive")}
        self.settings = Settings(data_dir=tmp_path, peers=peers)
        self.outbox = Outbox(self.journal, self.settings, self.open, clock=self.clock)
        self.uids = {f"{s}.{n}" for s in ("qsm", "phase") for n in range(objects)}
        results = [Result(uid.split(".")[0], MRImageStorage, uid, f"{uid}.dcm", "") for uid in sorted(self.uids)]
        finish(self.journal, results, ("pacs", "archive"))

    def open(self, name: str, classes: frozenset[str]) -> Link:
        assert classes == {MRImageStorage}
        with self.lock:
            self.opened.append(name)
            self.first.setdefault(name, threading.current_thread())
        if name in self.away:
            raise Unreachable("no association")
        return Scripted(self, name)

    def answer(self, name: str, uid: str) -> Sent:
        with self.lock:
            self.sent.append((name, uid))
        return self.answers(name, uid)

    def step(self) -> list[tuple[str, str]]:
        """What a step sends."""
        self.sent.clear()
        self.outbox.step()
        assert self.outbox.lanes.join(30)
        return sorted(self.sent)

    def until_delivered(self, hours: float) -> float:
        """Steps every half minute; the hours that it takes."""
        start = self.clock.now
        while self.state != "delivered":
            assert self.clock.now < start + 3600 * hours, deliveries(self.journal, 1)
            self.clock.now += 30
            self.outbox.step()
            assert self.outbox.lanes.join(30)
        return (self.clock.now - start) / 3600

    @property
    def state(self) -> str:
        return summaries(self.journal)[0].state


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.go_on.set()
    desk.outbox.end()
    assert desk.outbox.lanes.join(30)
    desk.journal.close()


def test_everything_goes_to_every_destination_once(desk: Desk) -> None:
    assert desk.step() == sorted((to, uid) for to in ("pacs", "archive") for uid in desk.uids)
    assert desk.step() == []
    assert desk.state == "delivered"
    assert desk.closed == len(desk.opened)


def test_what_is_sent_is_shared_among_several_associations(tmp_path: Path) -> None:
    """As many as the peer may have work at the same time: each waits for the others in its first object."""
    desk = Desk(tmp_path, objects=72)
    together = threading.Barrier(desk.settings.peers["pacs"].associations)
    first = threading.local()

    def answer(name: str, _uid: str) -> Sent:
        if name == "pacs" and not hasattr(first, "done"):
            first.done = True
            together.wait(30)
        return Sent("stored")

    desk.answers = answer
    assert len(desk.step()) == 2 * len(desk.uids)
    assert desk.state == "delivered"
    assert desk.opened.count("pacs") == together.parties
    desk.journal.close()


def test_a_peer_that_takes_one_association_alone_gets_everything_over_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, objects=72)
    opened: list[str] = []

    def limited(name: str, classes: frozenset[str]) -> Link:
        opened.append(name)
        if opened.count(name) > 1:
            raise Unreachable("local limit exceeded")
        return desk.open(name, classes)

    desk.outbox = Outbox(desk.journal, desk.settings, limited, clock=desk.clock)
    desk.step()
    assert desk.state == "delivered"
    desk.journal.close()


def test_a_peer_that_ends_all_associations_but_one_gets_everything_over_that(tmp_path: Path) -> None:
    """It accepts them first. What was lost waits for its time; what nobody has tried does not."""
    desk = Desk(tmp_path, objects=72)
    lost = threading.Event()

    def answer(name: str, _uid: str) -> Sent:
        if desk.first[name] is not threading.current_thread():
            lost.set()
            return Sent("lost", f"{name} ended the association")
        assert lost.wait(30)
        return Sent("stored")

    desk.answers = answer
    desk.away = {"archive"}
    desk.step()
    left = desk.journal.query("SELECT COUNT(*) FROM delivery WHERE destination = 'pacs' AND state = 'pending'")[0][0]
    assert 0 < left <= HANDFUL * (desk.settings.peers["pacs"].associations - 1)
    desk.journal.close()


def test_an_association_that_is_over_before_the_first_object_is_an_attempt(desk: Desk) -> None:
    class Over(Scripted):
        def send(self, objects: Sequence[Item]) -> list[Sent]:
            return [Sent("lost", "it ended the association")] * len(objects)

    def over(name: str, _classes: frozenset[str]) -> Link:
        link = Over(desk, name)
        link.alive = False
        return link

    desk.outbox = Outbox(desk.journal, desk.settings, over, clock=desk.clock)
    desk.step()
    assert desk.journal.deliveries.due() == []
    assert {group.sentence for group in deliveries(desk.journal, 1)} == {"it ended the association"}


def test_a_peer_that_hangs_holds_up_neither_others_nor_the_end(desk: Desk) -> None:
    asked = threading.Event()

    def answer(name: str, _uid: str) -> Sent:
        if name == "archive":
            asked.set()
            desk.go_on.wait(60)
            return Sent("lost", "cut")
        return Sent("stored")

    desk.answers = answer
    desk.outbox.step()
    assert asked.wait(30)
    deadline = time.monotonic() + 30
    while {d.destination for d in desk.journal.deliveries.due()} != {"archive"}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    desk.outbox.end()  # cuts the link
    assert desk.go_on.is_set()
    assert desk.outbox.lanes.join(0)
    left = desk.journal.deliveries.due("archive")
    assert [d.attempts for d in left] == [0] * len(desk.uids), "that the node stops is no attempt"


def test_only_what_failed_is_sent_again_and_not_before_its_time(desk: Desk) -> None:
    desk.answers = lambda _name, uid: Sent("later", "0xA700") if uid == "qsm.1" else Sent("stored")
    desk.step()
    assert desk.state == "delivering"
    desk.clock.now += FIRST_PAUSE_S / 2 - 0.1
    assert desk.step() == []
    desk.answers = lambda _name, _uid: Sent("stored")
    desk.clock.now += FIRST_PAUSE_S
    assert desk.step() == [("archive", "qsm.1"), ("pacs", "qsm.1")]
    assert desk.state == "delivered"


def test_what_a_peer_refuses_as_it_is_is_tried_seldom(desk: Desk) -> None:
    desk.answers = lambda _name, uid: Sent("refused", "0xC000") if uid == "qsm.1" else Sent("stored")
    desk.step()
    desk.clock.now += LONGEST_PAUSE_S - 1
    assert desk.step() == []
    desk.clock.now += 1
    assert desk.step() == [("archive", "qsm.1"), ("pacs", "qsm.1")]


def test_warnings_are_told_apart(desk: Desk) -> None:
    desk.answers = lambda _name, uid: Sent("stored", "0xB000" if uid == "qsm.1" else "")
    desk.step()
    told = {(g.series, g.objects, g.sentence) for g in deliveries(desk.journal, 1) if g.state == "delivered"}
    assert told == {("qsm", 2, ""), ("qsm", 1, "0xB000"), ("phase", 3, "")}


def test_waits_survive_the_clock(desk: Desk) -> None:
    desk.away = {"pacs", "archive"}
    desk.step()
    desk.clock.now -= 3600
    desk.away = set()
    assert len(desk.step()) == 2 * len(desk.uids)


def test_a_peer_that_is_away_for_two_days_gets_everything(desk: Desk) -> None:
    desk.away = {"archive"}
    end = desk.clock.now + 48 * 3600
    while desk.clock.now < end:
        desk.step()
        desk.clock.now += 300
    assert desk.state == "delivering"
    away = [g for g in deliveries(desk.journal, 1) if g.destination == "archive"]
    assert [g.sentence for g in away] == ["no association"] * 2
    assert 150 < away[0].attempts < 600
    assert desk.opened.count("archive") == away[0].attempts, "all wait for one association"
    desk.away.clear()
    desk.clock.now += LONGEST_PAUSE_S
    desk.step()
    assert desk.state == "delivered"


def test_a_peer_that_is_away_for_good_is_given_up_visibly_and_can_be_retried(desk: Desk) -> None:
    desk.away = {"archive"}
    for _ in range(80):
        desk.step()
        desk.clock.now += 3600
    assert desk.state == "undeliverable"
    assert summaries(desk.journal)[0].sentence == "no association"
    desk.away.clear()
    assert desk.journal.orders.retry(1) == "6 objects are sent again"
    desk.step()
    assert desk.state == "delivered"


def test_a_node_that_was_off_for_a_week_gives_up_nothing_at_once(desk: Desk) -> None:
    desk.clock.now += 7 * 86400
    desk.away = {"archive", "pacs"}
    desk.step()
    assert desk.state == "delivering"


# ------------------------------------------------------------------------------------- peers that misbehave


class Unruly:
    """A PACS that does what it should not, until it is told to recover; counts what it stored."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.stored: Counter[str] = Counter()
        self.asked = 0
        self._port = 0

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._ae.shutdown()

    def _listen(self) -> None:
        self._ae = AE("PACS")
        self._ae.add_supported_context(
            MRImageStorage, *([JPEG2000Lossless] if self.fault == "accepts only a transfer syntax" else [])
        )
        self._ae.require_calling_aet = ["SOMEBODY"] if self.fault == "rejects the association" else []
        handlers: list[evt.EventHandlerType] = [(evt.EVT_C_STORE, self._store)]
        if self.fault == "aborts at once":
            handlers.append((evt.EVT_ESTABLISHED, lambda event: event.assoc.abort()))
        self._port = listen(self._ae, *handlers, port=self._port)
        self.peer = Peer(ae_title="PACS", host="127.0.0.1", port=self._port)
        if self.fault == "is down":
            self._ae.shutdown()

    def recover(self) -> None:
        self._ae.shutdown()
        self.fault = ""
        self._listen()

    def _store(self, event: evt.Event) -> int:
        self.asked += 1
        if self.fault == "refuses":
            return 0xC000
        if self.fault == "is full":
            return 0xA700
        if self.fault == "fails every 7th" and self.asked % 7 == 0:
            return 0x0110
        if self.fault == "aborts mid-send" and self.asked % 5 == 0:
            event.assoc.abort()
            return 0x0000
        if self.fault == "answers slowly":
            time.sleep(0.02)
        self.stored[event.request.AffectedSOPInstanceUID] += 1
        return 0xB000 if self.fault == "warns" else 0x0000


GOES_ON_BY_ITSELF = {"fails every 7th", "aborts mid-send", "answers slowly", "warns"}
FAULTS = [
    "is down", "refuses", "is full", "rejects the association", "accepts only a transfer syntax", "aborts at once",
    *sorted(GOES_ON_BY_ITSELF),
]  # fmt: skip


@refused_connection
@pytest.mark.parametrize("fault", FAULTS)
def test_everything_is_delivered_after_the_peer_recovers_and_stored_once(
    fault: str, desk: Desk, tmp_path: Path, tiny_study: list[Path]
) -> None:
    for uid, path in zip(sorted(desk.uids), tiny_study, strict=False):
        ds = pydicom.dcmread(path)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.{sorted(desk.uids).index(uid) + 1}"
        ds.save_as(tmp_path / f"{uid}.dcm")
    with Unruly(fault) as pacs:
        desk.outbox = Outbox(
            desk.journal, desk.settings,
            lambda _, classes: StoreLink(pacs.peer, "QSMNODE", classes), clock=desk.clock,
        )  # fmt: skip
        if fault not in GOES_ON_BY_ITSELF:
            for _ in range(3):
                desk.step()
                desk.clock.now += LONGEST_PAUSE_S
            assert not pacs.stored
            assert desk.state == "delivering"
            pacs.recover()
        assert desk.until_delivered(hours=3) < 3
        assert set(pacs.stored) == {f"2.25.{n + 1}" for n in range(len(desk.uids))}
        assert set(pacs.stored.values()) == {2}, "once for each of the two destinations"
        if fault == "warns":
            assert {g.sentence[:21] for g in deliveries(desk.journal, 1)} == {"PACS answered 0xB000 "}
