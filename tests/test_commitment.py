"""Storage commitment: asked for, heard over any association, asked again; and never promised."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom import AE, build_role, evt
from pynetdicom.pdu import P_DATA_TF

from associations import listen
from journals import Clock, finish
from node.association import on_open
from node.commitment import FIRST_WAIT_S, PUSH_MODEL, PUSH_MODEL_INSTANCE, Committer
from node.config import Settings
from node.deliveries import LONGEST_PAUSE_S, LONGEST_WAIT_S
from node.inbox import Inbox
from node.indexing import Indexer
from node.journal import Journal
from node.outbox import FIRST_PAUSE_S
from node.overview import deliveries, summaries
from node.peers import Peer
from node.receive import Receiver
from node.records import Attempt, Result
from node.spool import Spool
from node.workers import InlineWorker

Way = Literal["same association", "new association", "new association without roles", "nothing", "refuses"]


@dataclass
class Archive:
    """A commitment provider that reports the way it is told; what it does not have fails."""

    way: Way
    lacks: set[str] = field(default_factory=set)
    node_port: int = 0
    requests: list[Dataset] = field(default_factory=list)
    answers: list[int | None] = field(default_factory=list)
    reporting: list[threading.Thread] = field(default_factory=list)
    due: bool = False

    def __enter__(self) -> Archive:
        self._ae = AE("ARCHIVE")
        self._ae.add_supported_context(PUSH_MODEL)
        self.port = listen(self._ae, (evt.EVT_N_ACTION, self._on_action), (evt.EVT_PDU_SENT, self._on_sent))
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self.reporting:
            thread.join(30)
        self._ae.shutdown()

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        if self.way == "refuses":
            return 0x0213, None
        self.requests.append(event.action_information)
        self.due = self.way != "nothing"
        return 0x0000, None

    def _on_sent(self, event: evt.Event) -> None:
        """The report goes after the response: pynetdicom mixes the parts of two messages."""
        if self.due and isinstance(event.pdu, P_DATA_TF):
            self.due = False
            self.reporting.append(threading.Thread(target=self._report, args=(event.assoc,)))
            self.reporting[-1].start()

    def _report(self, assoc: evt.Association) -> None:
        report = report_on(self.requests[-1], self.lacks)
        kind = 2 if report.get("FailedSOPSequence") else 1
        if self.way != "same association":
            assoc = self.associate()
        status, _ = assoc.send_n_event_report(report, kind, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        self.answers.append(status.get("Status"))
        if self.way != "same association":
            assoc.release()

    def associate(self, scu: bool = False, title: str = "ARCHIVE") -> evt.Association:
        ae = AE(title)
        ae.add_requested_context(PUSH_MODEL)
        roles = [] if "without" in self.way else [build_role(PUSH_MODEL, scu_role=scu, scp_role=not scu)]
        return ae.associate(
            "127.0.0.1", self.node_port, ae_title="QSMNODE", ext_neg=roles,
            evt_handlers=[(evt.EVT_CONN_OPEN, on_open)],
        )  # fmt: skip


def report_on(request: Dataset, lacks: set[str]) -> Dataset:
    """PS3.4 Table J.3-2."""
    report = Dataset()
    report.TransactionUID = request.TransactionUID
    report.ReferencedSOPSequence, failed = [], []
    for item in request.ReferencedSOPSequence:
        if item.ReferencedSOPInstanceUID in lacks:
            item.FailureReason = 0x0112
            failed.append(item)
        else:
            report.ReferencedSOPSequence.append(item)
    if failed:
        report.FailedSOPSequence = failed
    return report


class Desk:
    """A journal with three objects that are stored at the archive, and a node's listener."""

    def __init__(self, folder: Path, archive: Archive) -> None:
        self.folder, self.archive, self.clock = folder, archive, Clock()
        peer = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=archive.port, commitment=True)
        other = Peer(ae_title="OTHER", host="127.0.0.1", port=archive.port)
        self.settings = Settings(port=0, data_dir=folder, peers={"archive": peer, "other": other})
        self.open()
        results = [Result("qsm", MRImageStorage, f"2.25.{n}", f"{n}.dcm", "x") for n in range(3)]
        finish(self.journal, results, ("archive",))
        self.store()

    def open(self) -> None:
        self.journal = Journal(self.folder / "journal.sqlite", self.clock)
        self.committer = Committer(self.journal, self.settings, clock=self.clock, patience_s=5.0)
        inbox, spool = Inbox(self.folder / "inbox"), Spool(self.folder / "spool")
        indexer = Indexer(inbox, spool, self.journal, self.settings.site, InlineWorker)
        self.receiver = Receiver(self.settings, indexer, self.journal, committer=self.committer)
        self.archive.node_port = self.receiver.start()

    def close(self) -> None:
        self.receiver.stop()
        self.committer.end()
        self.journal.close()

    def store(self) -> None:
        """What is due is sent."""
        self.journal.deliveries.enter([Attempt(d, "stored") for d in self.journal.deliveries.due()])

    def ask(self) -> None:
        self.committer.step()
        assert self.committer.lanes.join(30)

    def states(self) -> dict[str, int]:
        return {group.state: group.objects for group in deliveries(self.journal, 1)}


@pytest.fixture
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    with Archive(request.param) as archive:
        desk = Desk(tmp_path, archive)
        yield desk
        desk.close()


def with_archive(*ways: Way) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("desk", ways, indirect=True)


@with_archive("same association", "new association", "new association without roles")
def test_what_is_stored_is_asked_for_once_and_committed(desk: Desk, eventually: Callable[..., None]) -> None:
    assert desk.states() == {"stored": 3}
    assert summaries(desk.journal)[0].state == "delivered"
    desk.ask()
    eventually(lambda: desk.archive.answers == [0x0000], "the report is answered")
    assert desk.states() == {"committed": 3}
    (request,) = desk.archive.requests
    asked = {(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in request.ReferencedSOPSequence}
    assert asked == {(MRImageStorage, f"2.25.{n}") for n in range(3)}
    desk.clock.now += LONGEST_WAIT_S
    desk.ask()
    assert len(desk.archive.requests) == 1


@with_archive("new association")
def test_what_is_not_committed_is_sent_again_and_asked_for_again(desk: Desk, eventually: Callable[..., None]) -> None:
    desk.archive.lacks = {"2.25.1"}
    desk.ask()
    eventually(lambda: desk.archive.answers == [0x0000], "the report is answered")
    assert desk.states() == {"committed": 2, "pending": 1}
    assert "archive did not commit it: 0x0112 (no such object)" in summaries(desk.journal)[0].sentence
    assert desk.journal.deliveries.due() == []
    desk.clock.now += 2 * FIRST_PAUSE_S
    assert [d.sop_instance_uid for d in desk.journal.deliveries.due()] == ["2.25.1"]
    desk.store()
    desk.archive.lacks = set()
    desk.ask()
    eventually(lambda: desk.archive.answers == [0x0000] * 2, "the second report is answered")
    assert desk.states() == {"committed": 3}


@with_archive("nothing")
def test_a_peer_that_does_not_report_is_asked_again_later_by_another_node_too(desk: Desk) -> None:
    desk.committer = Committer(desk.journal, desk.settings, clock=desk.clock, patience_s=0.0)
    desk.ask()
    desk.clock.now += FIRST_WAIT_S - 1
    desk.ask()
    assert len(desk.archive.requests) == 1
    desk.close()
    desk.open()
    desk.archive.way = "same association"
    desk.clock.now += 1
    desk.ask()
    assert desk.states() == {"committed": 3}
    first, second = (request.TransactionUID for request in desk.archive.requests)
    assert first != second


@with_archive("nothing")
def test_waits_for_a_report_grow_and_end_never(desk: Desk) -> None:
    desk.committer = Committer(desk.journal, desk.settings, clock=desk.clock, patience_s=0.0)
    for _ in range(5 * 24 * 6):
        desk.ask()
        desk.clock.now += 600
    assert 15 < len(desk.archive.requests) < 30
    assert desk.states() == {"stored": 3}


@with_archive("nothing")
def test_a_late_report_counts_where_it_commits(desk: Desk) -> None:
    desk.committer = Committer(desk.journal, desk.settings, clock=desk.clock, patience_s=0.0)
    desk.receiver._committer = desk.committer
    desk.ask()
    desk.clock.now += FIRST_WAIT_S
    desk.ask()
    early = report_on(desk.archive.requests[0], {"2.25.1"})
    assoc = desk.archive.associate()
    assert assoc.send_n_event_report(early, 2, PUSH_MODEL, PUSH_MODEL_INSTANCE)[0].Status == 0x0000
    assoc.release()
    assert desk.states() == {"committed": 2, "stored": 1}


@with_archive("refuses")
def test_a_warning_stays_whatever_becomes_of_commitment(desk: Desk) -> None:
    first, *_ = desk.journal.deliveries.uncommitted("archive", ["2.25.0"])
    desk.journal.deliveries.enter([Attempt(first, "stored", "0xB000")])
    desk.ask()
    desk.archive.way = "same association"
    desk.clock.now += 4 * FIRST_PAUSE_S
    desk.ask()
    told = {(g.state, g.objects, g.sentence) for g in deliveries(desk.journal, 1)}
    assert told == {("committed", 1, "0xB000"), ("committed", 2, "")}


@with_archive("refuses")
def test_a_peer_that_refuses_is_named_and_asked_again(desk: Desk) -> None:
    desk.ask()
    (group,) = deliveries(desk.journal, 1)
    assert group.state == "stored"
    assert group.sentence == "not committed yet: ARCHIVE answered 0x0213 to N-ACTION"
    desk.archive.way = "same association"
    desk.clock.now += 4 * FIRST_PAUSE_S
    desk.ask()
    assert desk.states() == {"committed": 3}


@with_archive("refuses")
def test_a_request_that_fails_counts_once(desk: Desk) -> None:
    for requests in (1, 2, 3):
        desk.ask()
        (delivery,) = desk.journal.deliveries.uncommitted("archive", ["2.25.0"])
        assert delivery.asked == requests
        desk.clock.now += LONGEST_PAUSE_S


@with_archive("nothing")
def test_the_node_promises_nothing(desk: Desk) -> None:
    """Neither to the peer that it asks itself, in whichever role, nor to others."""
    request = Dataset()
    request.TransactionUID, request.ReferencedSOPSequence = "2.25.1", []
    without_role = desk.archive.associate(scu=True)
    assert not without_role.accepted_contexts or not without_role.accepted_contexts[0].as_scu
    without_role.abort()
    desk.archive.way = "new association without roles"
    assoc = desk.archive.associate()
    assert assoc.send_n_action(request, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)[0].Status == 0x0211
    assoc.release()
    assert not desk.archive.associate(title="OTHER").is_established


@with_archive("nothing")
def test_a_report_that_is_none_is_refused(desk: Desk) -> None:
    assoc = desk.archive.associate()
    nameless = Dataset()
    nameless.ReferencedSOPSequence = []
    assert assoc.send_n_event_report(nameless, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)[0].Status == 0x0115
    foreign = Dataset()
    foreign.TransactionUID = "2.25.9"
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MRImageStorage, "2.25.99"
    foreign.ReferencedSOPSequence = [item]
    assert assoc.send_n_event_report(foreign, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)[0].Status == 0x0000
    assoc.release()
    assert desk.states() == {"stored": 3}
