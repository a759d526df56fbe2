"""The storage SCP: an object is answered with Success when, and only when, it is safe.

Every storage class is accepted, because PACS and scanners route whole studies; what is not for us is answered
Success (unless the site wants otherwise), not kept, and counted. `access` says who is heard, `stream` reads from
the network, `inbox` keeps, `indexing` looks at what is in it. Does not know what acquisitions are.

References: PS3.4 Annex B (storage service class, Table B.2-1 for the status codes), PS3.8 section 9.3.
"""

from __future__ import annotations

import errno
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast
from weakref import WeakKeyDictionary

from pydicom.uid import UID
from pynetdicom import AE, build_context, evt, register_uid
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import AssociationSocket

from node.access import UNDECIDED, Denial, Line, denial
from node.association import MAXIMUM_PDU, VERIFICATION, on_open
from node.codecs import IMAGE_TRANSFER_SYNTAXES
from node.commitment import Committer, reports_context
from node.config import HEALTH_AE_TITLE, Settings
from node.dimse import Request, file_head
from node.errors import is_full
from node.inbox import Arrival, NoSpace, Sealed
from node.indexing import Indexer
from node.intake import IMAGE_CLASSES, not_for_us
from node.journal import Journal
from node.listener import DEFAULT_LIMITS, Limits, Listener
from node.log import get_logger
from node.tls import Credentials, names

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
PROCESSING_FAILURE = 0x0110
CLASS_NOT_SUPPORTED = 0x0122
UNRECOGNISED_OPERATION = 0x0211
"""To who asks for commitment: a scanner that was promised it would delete its images."""
NOT_AUTHORISED = 0x0124

_LONGEST_SILENCE_S = 600.0
"""A sender that says nothing for so long, and for three quiet times, is taken for dead."""
_CLOSING_S = 10.0

Answer = tuple[int, str]
"""Status and comment of a response."""

log = get_logger("node.receive")


class Receiver:
    """Listens from `start` to `stop`.

    Parameters
    ----------
    arrived
        Called when the indexer has something to do.
    committer
        Hears what peers report about storage commitment.

    Attributes
    ----------
    port, tls_port
        Where it listens, after `start`; `tls_port` is None without TLS.
    """

    port: int
    tls_port: int | None = None

    def __init__(
        self,
        settings: Settings,
        indexer: Indexer,
        journal: Journal,
        arrived: Callable[[], None] = lambda: None,
        committer: Committer | None = None,
        credentials: Credentials | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._settings = settings
        self._indexer = indexer
        self._arrived = arrived
        self._journal = journal
        self._committer = committer
        self._credentials = credentials
        self._limits = limits
        self._peers = frozenset(peer.ae_title for peer in settings.peers.values() if peer.ae_title)
        self._lines: WeakKeyDictionary[Association, Line] = WeakKeyDictionary()
        self._associations: list[Association] = []
        self._admitting = threading.Lock()

    def start(self) -> int:
        """Listen; the port without TLS."""
        settings = self._settings
        self._ae = AE(settings.ae_title)
        self._ae.maximum_pdu_size = MAXIMUM_PDU
        self._ae.maximum_associations = sys.maxsize  # `denial` counts
        self._ae.network_timeout = max(_LONGEST_SILENCE_S, 3 * settings.quiet_s)
        self._ae.require_calling_aet = [*self._peers, HEALTH_AE_TITLE]
        plain = self._listener(settings.host, settings.port)
        try:
            if self._credentials and settings.tls and settings.tls.port is not None:
                host = settings.tls.host or settings.host
                self.tls_port = self._listener(host, settings.tls.port, self._credentials.server).listen()
        except OSError:
            plain.server_close()
            raise
        self.port = plain.listen()
        return self.port

    def _listener(self, host: str, port: int, tls: Callable[[], ssl.SSLContext] | None = None) -> Listener:
        handlers = [
            (evt.EVT_CONN_OPEN, self._on_connection),
            (evt.EVT_REQUESTED, self._on_request),
            (evt.EVT_N_EVENT_REPORT, self._on_report),
            (evt.EVT_N_ACTION, lambda _: (UNRECOGNISED_OPERATION, None)),
        ]
        contexts = [build_context(VERIFICATION)]
        try:
            return Listener(
                self._ae, (host, port), contexts, handlers, self._store, tls, self._on_nonsense, self._limits
            )
        except OSError as error:
            raise OSError(error.errno, f"{host}:{port}: {error.strerror or error}") from error

    def stop(self) -> None:
        """Listen no more; open associations are aborted, and an object that is not whole by then is forgotten."""
        closing = threading.Thread(target=self._close, name="closing", daemon=True)
        closing.start()
        closing.join(_CLOSING_S)  # who hangs in the middle of a message is waited for
        if closing.is_alive():
            log.warning("associations did not end", open=len(self._associations))
        for association in self._associations:
            association.join(timeout=10.0)

    def _close(self) -> None:
        for listener in self._ae._servers[:]:
            listener.shutdown()  # first: who is aborted comes again at once
        self._ae.shutdown()

    def senders(self) -> frozenset[str]:
        """Calling AE titles that have an association open now, or whose objects are still to be entered."""
        sending = {a.requestor.ae_title for a in self._open()}  # first: who ends now has put all that was sent
        return self._indexer.senders() | sending

    def _open(self) -> list[Association]:
        return [a for a in self._associations if a.is_established]

    # --- who is heard

    def _on_nonsense(self, what: str, address: str) -> None:
        log.warning("no DICOM peer", sender=address, reason=what)
        self._journal.count("rejected", what, address)

    def _on_connection(self, event: evt.Event) -> None:
        on_open(event)
        self._lines[event.assoc] = _line(event.assoc)

    def _on_request(self, event: evt.Event) -> None:
        """Decide whether this caller is heard and what it may propose, before the negotiation."""
        assoc, request = event.assoc, cast(A_ASSOCIATE, event.assoc.requestor.primitive)
        try:
            refused = self._admit(assoc, request)
        except Exception:  # pynetdicom would accept
            log.exception("cannot decide about a caller", address=assoc.requestor.address)
            refused = UNDECIDED
        if refused:
            reason = f"association refused: {refused.reason}"
            calling, called, address = request.calling_ae_title, request.called_ae_title, assoc.requestor.address
            log.warning(reason, calling=calling, called=called, address=address)
            self._journal.count("rejected", reason, address)
            assoc.acse.send_reject(*refused.answer)
            assoc.kill()

    def _admit(self, assoc: Association, request: A_ASSOCIATE) -> Denial | None:
        calling, called = request.calling_ae_title, request.called_ae_title
        with self._admitting:
            self._associations = [a for a in self._associations if a.is_alive() and not a._kill]
            open_now = [cast(A_ASSOCIATE, a.requestor.primitive).calling_ae_title for a in self._associations]
            refused = denial(calling, called, self._lines[assoc], self._settings, open_now)
            if refused or calling == HEALTH_AE_TITLE:
                return refused
            self._associations.append(assoc)
        strict = self._settings.ignored == "reject-context"
        accepted = _storage_contexts(request.presentation_context_definition_list, strict)
        if self._settings.peer_named_by_title(calling) in self._settings.asked:
            accepted.append(reports_context())
        assoc.acceptor.supported_contexts = [build_context(VERIFICATION), *accepted]
        return None

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        peer = self._settings.peer_named_by_title(event.assoc.requestor.ae_title)
        if self._committer is None or peer is None:
            return NOT_AUTHORISED, None
        return self._committer.hear(peer, event), None

    # --- what is kept

    def _store(self, association: Association, request: Request) -> _Taking:
        return _Taking(self, association, request)

    def _begin(self, association: Association, request: Request) -> Arrival | Answer:
        """A place for the object, or why it is not kept."""
        sender = association.requestor.ae_title
        if sender == HEALTH_AE_TITLE:
            return NOT_AUTHORISED, ""
        syntax = UID(association._accepted_cx[request.context_id].transfer_syntax[0])
        why = not_for_us(request.sop_class_uid, syntax)
        if why:
            log.debug("ignored", reason=why, sender=sender, instance=request.sop_instance_uid)
            self._journal.count("ignored", why, sender)
            return (CLASS_NOT_SUPPORTED, why) if self._settings.ignored == "refuse" else (SUCCESS, "")
        return self._indexer.inbox.begin(file_head(request, syntax), sender)

    def _received(self, sealed: Sealed) -> None:
        self._indexer.put(sealed)
        self._arrived()


class _Taking:
    """One C-STORE request, from its command to its answer."""

    def __init__(self, receiver: Receiver, association: Association, request: Request) -> None:
        self._receiver = receiver
        self._sender = association.requestor.ae_title
        self._arrival: Arrival | None = None
        self._answer: Answer = (SUCCESS, "")
        with self._answering():
            begun = receiver._begin(association, request)
            if isinstance(begun, Arrival):
                self._arrival = begun
            else:
                self._answer = begun

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """What goes wrong is the answer; the rest of the data set is read and dropped."""
        try:
            yield
        except NoSpace as why:
            log.warning("refused: no space", reason=str(why), sender=self._sender)
            self._give_up((OUT_OF_RESOURCES, str(why)))
        except Exception as error:
            log.exception("refused: cannot store", sender=self._sender)
            full = is_full(error) or getattr(error, "errno", None) == errno.EFBIG
            self._give_up((OUT_OF_RESOURCES if full else PROCESSING_FAILURE, "cannot store, see the node's log"))

    def _give_up(self, answer: Answer) -> None:
        self._answer = answer
        self.cut()

    def write(self, data: memoryview) -> None:
        """Keep a piece of the data set."""
        if self._arrival:
            with self._answering():
                self._arrival.write(data)

    def answer(self) -> Answer:
        """Status and comment; Success when the object is safe."""
        arrival, self._arrival = self._arrival, None
        if arrival:
            with self._answering():
                self._receiver._received(arrival.seal())
        return self._answer

    def cut(self) -> None:
        """Forget what came."""
        arrival, self._arrival = self._arrival, None
        if arrival:
            arrival.drop()


def _line(assoc: Association) -> Line:
    connection = cast(socket.socket, cast(AssociationSocket, assoc.dul.socket).socket)
    shown = names(connection.getpeercert()) if isinstance(connection, ssl.SSLSocket) else None
    return Line(assoc.requestor.address, str(connection.getsockname()[0]), shown)


def _storage_contexts(proposed: list[PresentationContext], strict: bool = False) -> list[PresentationContext]:
    """What is accepted of a proposal: every storage class, private ones too; images best in what can be decoded.

    A class may be proposed several times, in other transfer syntaxes each time: the first of ours that a proposal
    holds is taken. Strict: only images, and only in what can be decoded.
    """
    syntaxes: dict[UID, list[UID]] = {}
    for context in proposed:
        of_class = syntaxes.setdefault(UID(str(context.abstract_syntax)), [])
        of_class += [syntax for syntax in context.transfer_syntax if syntax not in of_class]
    contexts = []
    for uid, of_class in syntaxes.items():
        if uid in IMAGE_CLASSES:
            usable = [syntax for syntax in IMAGE_TRANSFER_SYNTAXES if syntax in of_class]
            others = [syntax for syntax in of_class if syntax not in usable and not strict]
            if usable or others:
                contexts.append(build_context(uid, [*usable, *others]))
        elif not strict and _is_storage(uid):
            contexts.append(build_context(uid, [*of_class]))
    return contexts


_registering = threading.Lock()


def _is_storage(uid: UID) -> bool:
    """Whether objects of this class are stored: known classes, private ones and retired standard ones."""
    with _registering:
        service = uid_to_service_class(uid)
        if (
            service is ServiceClass
            and uid.is_valid
            and (uid.is_private or uid.startswith("1.2.840.10008.5.1.4.1.1."))
        ):
            register_uid(uid, f"Storage_{uid.replace('.', '_')}", StorageServiceClass)
            return True
    return issubclass(service, StorageServiceClass)
