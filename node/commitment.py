"""Storage commitment: the node asks a peer to take responsibility for what it was sent, and hears the answer.

The node is the user (SCU). A request is in the journal before it is sent; the report comes over the association of
the request, over one that the peer opens, or not at all: then the node asks again. The node itself promises nothing.

References: PS3.4 Annex J (Storage Commitment Push Model); PS3.7 sections 10.1.1 (N-EVENT-REPORT), 10.1.4 (N-ACTION).
"""

from __future__ import annotations

import itertools
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid
from pynetdicom import build_context, evt
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.presentation import PresentationContext

from node.config import Settings
from node.deliver import Unreachable, associate
from node.deliveries import LONGEST_WAIT_S
from node.journal import Journal
from node.lanes import Lanes
from node.log import get_logger
from node.outbox import pause_s
from node.peers import Peer
from node.records import Attempt, Delivery

PUSH_MODEL = UID("1.2.840.10008.1.20.1")
PUSH_MODEL_INSTANCE = UID("1.2.840.10008.1.20.1.1")
FIRST_WAIT_S = 600.0
"""So long a report may take before the node asks again, at first."""
SAME_ASSOCIATION_S = 10.0
"""So long the association of the request stays open for the report; then the peer has to open one."""

_SUCCESS, _INVALID_ARGUMENT, _PROCESSING_FAILURE = 0x0000, 0x0115, 0x0110
_FAILURES = {
    0x0110: "processing failure",
    0x0112: "no such object",
    0x0119: "class-instance conflict",
    0x0122: "class not supported",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}
"""PS3.3 C.14.1.1."""

_ANSWER_S = 5.0

log = get_logger("node.commitment")


class Committer:
    """Asks, from `step` to `end`, and hears reports.

    Parameters
    ----------
    tls
        What to connect to a peer with; None: without TLS.
    clock
        Seconds since the epoch, as the journal's.
    patience_s
        See `SAME_ASSOCIATION_S`.
    """

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        tls: Callable[[Peer], ssl.SSLContext | None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        patience_s: float = SAME_ASSOCIATION_S,
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._tls = tls
        self._clock = clock
        self._patience_s = patience_s
        self._reported = threading.Condition()
        self._open: set[str] = set()
        self.lanes = Lanes()

    def step(self) -> None:
        """Ask every peer that something is to be asked of."""
        for name in self._settings.asked:
            if self._journal.deliveries.to_ask(name):
                self.lanes.start(name, partial(self._ask_all, name))

    def end(self) -> None:
        """Ask no more; a report that is waited for will find the listener when the node runs again."""
        self.lanes.end()
        with self._reported:
            self._reported.notify_all()
        self.lanes.join(2.0)

    def hear(self, name: str, event: evt.Event) -> int:
        """An N-EVENT-REPORT of this peer; the status that answers it, when the journal has it."""
        try:
            return self._enter(name, event.event_information)
        except (AttributeError, ValueError, TypeError):
            return _INVALID_ARGUMENT
        except Exception:
            log.exception("a report on commitment cannot be entered", destination=name)
            return _PROCESSING_FAILURE

    def _enter(self, name: str, report: Dataset) -> int:
        transaction = str(report.TransactionUID)
        good = [str(item.ReferencedSOPInstanceUID) for item in report.get("ReferencedSOPSequence") or ()]
        bad = {str(i.ReferencedSOPInstanceUID): int(i.FailureReason) for i in report.get("FailedSOPSequence") or ()}
        committed = self._journal.deliveries.uncommitted(name, good)
        self._journal.deliveries.committed(committed)
        failed = [d for d in self._journal.deliveries.uncommitted(name, bad) if d.transaction_uid == transaction]
        self._journal.deliveries.enter([self._send_again(d, bad[d.sop_instance_uid]) for d in failed])
        log.info("commitment reported", destination=name, committed=len(committed), failed=len(failed))
        with self._reported:
            self._open.discard(transaction)
            self._reported.notify_all()
        return _SUCCESS

    def _send_again(self, delivery: Delivery, reason: int) -> Attempt:
        why = f"{delivery.destination} did not commit it: 0x{reason:04X} ({_FAILURES.get(reason, 'unknown reason')})"
        hours = self._settings.give_up_hours
        if self._clock() - delivery.queued_at > 3600 * hours and delivery.asked > 1:
            return Attempt(delivery, "undeliverable", why)
        return Attempt(delivery, "pending", why, pause_s(delivery.asked))

    def _ask_all(self, name: str) -> None:
        stored = self._journal.deliveries.to_ask(name)
        for _, group in itertools.groupby(stored, lambda delivery: delivery.job_id):
            if self.lanes.ending:
                return
            self._ask(name, list(group))

    def _ask(self, name: str, stored: Sequence[Delivery]) -> None:
        transaction = str(generate_uid(prefix=None))
        asked = max(delivery.asked for delivery in stored)
        wait_s = min(FIRST_WAIT_S * 2.0 ** min(asked, 10), LONGEST_WAIT_S)
        self._journal.deliveries.asked(stored, transaction, wait_s)
        with self._reported:
            self._open.add(transaction)
        try:
            problem = self._request(name, self._settings.peers[name], transaction, stored)
        except Unreachable as why:
            problem = str(why)
        if problem and not self.lanes.ending:
            self._journal.deliveries.asked(stored, transaction, pause_s(asked), problem)
            log.warning("commitment cannot be asked for", destination=name, objects=len(stored), reason=problem)
        with self._reported:
            self._open.discard(transaction)

    def _request(self, name: str, peer: Peer, transaction: str, stored: Sequence[Delivery]) -> str:
        """N-ACTION, and a while for the report. What went wrong; empty: nothing."""
        answered = threading.Event()
        answered.set()

        def hear(event: evt.Event) -> tuple[int, None]:
            answered.clear()
            return self.hear(name, event), None

        def sent(event: evt.Event) -> None:
            if isinstance(event.pdu, P_DATA_TF):
                answered.set()

        report: list[evt.EventHandlerType] = [(evt.EVT_N_EVENT_REPORT, hear), (evt.EVT_PDU_SENT, sent)]
        calling = self._settings.ae_title
        assoc = associate(peer, calling, [PUSH_MODEL], handlers=report, tls=self._tls(peer))
        try:
            request = _request_of(transaction, stored)
            status = assoc.send_n_action(request, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)[0].get("Status")
        except (RuntimeError, ValueError):
            status = None
        if status != _SUCCESS:
            answer = "nothing" if status is None else f"0x{status:04X}"
            problem = f"{peer.ae_title} answered {answer} to N-ACTION"
        else:
            problem = ""
            log.info("commitment asked for", destination=name, objects=len(stored))
            with self._reported:
                self._reported.wait_for(
                    lambda: transaction not in self._open or self.lanes.ending, self._patience_s
                )  # fmt: skip
        answered.wait(_ANSWER_S)  # another thread answers; a release that overtakes it ends pynetdicom's
        if assoc.is_established:
            assoc.release()
        return problem


def reports_context() -> PresentationContext:
    """What a peer may propose to report over an association of its own: it is the provider (SCP), we the user.

    Roles are negotiated by PS3.7 D.3.3.4; that the peer be the user, who asks, is not accepted.
    """
    context = build_context(PUSH_MODEL)
    context.scu_role, context.scp_role = False, True
    return context


def _request_of(transaction: str, stored: Sequence[Delivery]) -> Dataset:
    """PS3.4 Table J.3-1."""
    request = Dataset()
    request.TransactionUID = UID(transaction)
    request.ReferencedSOPSequence = []
    for delivery in stored:
        item = Dataset()
        item.ReferencedSOPClassUID = delivery.sop_class_uid
        item.ReferencedSOPInstanceUID = delivery.sop_instance_uid
        request.ReferencedSOPSequence.append(item)
    return request
