"""The storage SCP: an object is answered with Success when, and only when, it is safe in spool and journal.

Every storage class is accepted, because PACS and scanners route whole studies; what is not for us is answered
Success, not kept, and counted. Only the peers of the configuration are heard. Does not know what acquisitions are.

References: PS3.4 Annex B (storage service class, Table B.2-1 for the status codes), PS3.8 section 9.3.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import threading
from collections.abc import Callable
from typing import cast

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_context, evt, register_uid
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import AssociationSocket

from node.assemble import acquisition_key
from node.association import MAXIMUM_PDU, VERIFICATION, on_open
from node.codecs import IMAGE_TRANSFER_SYNTAXES
from node.commitment import Committer, reports_context
from node.config import HEALTH_AE_TITLE, Settings
from node.errors import Unreadable
from node.intake import IMAGE_CLASSES, NotForUs, examine
from node.journal import Journal
from node.log import get_logger
from node.records import Received
from node.spool import NoSpace, Spool, digest

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
PROCESSING_FAILURE = 0x0110
UNRECOGNISED_OPERATION = 0x0211
"""To who asks for commitment: a scanner that was promised it would delete its images."""
NOT_AUTHORISED = 0x0124

_LARGEST_MESSAGE = 1 << 20
"""No PDU is longer: an association request has at most 128 presentation contexts."""
_MAXIMUM_ASSOCIATIONS = 64
_LONGEST_SILENCE_S = 600.0
"""A sender that says nothing for so long, and for three quiet times, is taken for dead."""
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

log = get_logger("node.receive")


class Receiver:
    """Listens from `start` to `stop`. ``committer`` hears what peers report about storage commitment."""

    def __init__(
        self, settings: Settings, spool: Spool, journal: Journal, committer: Committer | None = None
    ) -> None:
        self._settings = settings
        self._committer = committer
        self._spool = spool
        self._journal = journal
        self._peers = frozenset(peer.ae_title for peer in settings.peers.values() if peer.ae_title)

    def start(self) -> int:
        """Listen; the port."""
        ae = AE(self._settings.ae_title)
        ae.maximum_pdu_size = MAXIMUM_PDU
        ae.maximum_associations = _MAXIMUM_ASSOCIATIONS
        ae.network_timeout = max(_LONGEST_SILENCE_S, 3 * self._settings.quiet_s)
        ae.require_called_aet = True
        ae.require_calling_aet = [*self._peers, HEALTH_AE_TITLE]
        self._ae = ae
        server = ae.start_server(
            (self._settings.host, self._settings.port),
            block=False,
            contexts=[build_context(VERIFICATION)],
            evt_handlers=[
                (evt.EVT_CONN_OPEN, self._on_connection),
                (evt.EVT_REQUESTED, self._on_request),
                (evt.EVT_REJECTED, self._on_rejection),
                (evt.EVT_C_STORE, self._on_store),
                (evt.EVT_N_EVENT_REPORT, self._on_report),
                (evt.EVT_N_ACTION, lambda _: (UNRECOGNISED_OPERATION, None)),
            ],
        )
        assert server is not None  # it is None for a blocking server alone
        self._server = server
        return int(server.server_address[1])

    def stop(self) -> None:
        """Listen no more; open associations are aborted, and a running C-STORE ends first."""
        established = [a for a in self._server.active_associations if a.is_established]
        self._ae.shutdown()
        for association in established:
            association.join(timeout=10.0)

    def senders(self) -> frozenset[str]:
        """Calling AE titles that have an association open now."""
        return frozenset(a.requestor.ae_title for a in self._server.active_associations if a.is_established)

    # --- who is heard

    def _on_connection(self, event: evt.Event) -> None:
        on_open(event)
        host = event.assoc.requestor.address

        def alarm(what: str) -> None:
            log.warning("bytes that are not DICOM", sender=host, reason=what)
            self._journal.count("rejected", what, host)

        guard(cast(AssociationSocket, event.assoc.dul.socket), alarm)

    def _on_request(self, event: evt.Event) -> None:
        """Decide what this caller may propose, before the negotiation."""
        assoc = event.assoc
        request = cast(A_ASSOCIATE, assoc.requestor.primitive)
        if request.calling_ae_title in self._peers:
            proposed = request.presentation_context_definition_list
            assoc.acceptor.supported_contexts = [build_context(VERIFICATION), *_storage_contexts(proposed)]
            if self._settings.peer_named_by_title(request.calling_ae_title) in self._settings.asked:
                assoc.acceptor.supported_contexts = [*assoc.acceptor.supported_contexts, reports_context()]
        elif request.calling_ae_title == HEALTH_AE_TITLE and not is_local(
            assoc.requestor.address, _own_address(assoc)
        ):
            assoc.acse.send_reject(0x01, 0x01, 0x03)  # permanent, by the user, calling AE title not recognised
            self._on_rejection(event)
            assoc.kill()

    def _on_rejection(self, event: evt.Event) -> None:
        requestor = event.assoc.requestor
        request = cast(A_ASSOCIATE, requestor.primitive)
        calling, called = request.calling_ae_title, request.called_ae_title
        if called != self._settings.ae_title:
            reason = f"association refused: the called AE title is not {self._settings.ae_title}"
        elif calling in self._peers:
            reason = f"association refused: more than {_MAXIMUM_ASSOCIATIONS} are open"
        else:
            reason = "association refused: the calling AE title is not among the configured peers"
        log.warning(reason, calling=calling, called=called, address=requestor.address)
        self._journal.count("rejected", reason, requestor.address)

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        peer = self._settings.peer_named_by_title(event.assoc.requestor.ae_title)
        if self._committer is None or peer is None:
            return NOT_AUTHORISED, None
        return self._committer.hear(peer, event), None

    # --- what is kept

    def _on_store(self, event: evt.Event) -> Dataset:
        sender = event.assoc.requestor.ae_title
        if sender == HEALTH_AE_TITLE:
            return _response(NOT_AUTHORISED)
        try:
            return self._answer(event, sender)
        except NoSpace as why:
            log.warning("refused: no space", reason=str(why), sender=sender)
            return _response(OUT_OF_RESOURCES, str(why))
        except Exception as error:
            log.exception("refused: cannot store", sender=sender)
            full = getattr(error, "errno", None) in _DISK_FULL or "disk is full" in str(error)
            return _response(OUT_OF_RESOURCES if full else PROCESSING_FAILURE, "cannot store, see the node's log")

    def _answer(self, event: evt.Event, sender: str) -> Dataset:
        request = cast(C_STORE, event.request)
        uid, sop_class = str(request.AffectedSOPInstanceUID), str(request.AffectedSOPClassUID)
        try:
            self._take(event, sop_class, uid, sender)
        except NotForUs as why:
            log.debug("ignored", reason=str(why), sender=sender, instance=uid)
            self._journal.count("ignored", str(why), sender)
        except Unreadable as why:
            log.warning("rejected", reason=str(why), sender=sender, instance=uid)
            self._journal.count("rejected", str(why), sender)
            return _response(CANNOT_UNDERSTAND, str(why))
        return _response(SUCCESS)

    def _take(self, event: evt.Event, sop_class: str, uid: str, sender: str) -> None:
        data = event.encoded_dataset(include_meta=False)
        sha256 = digest(data)
        if self._journal.seen(uid) == sha256:
            return
        head = b"\0" * 128 + b"DICM" + encode_file_meta(event.file_meta)
        header = examine(sop_class, uid, event.context.transfer_syntax, head, data, self._settings.site)
        self._spool.keep(sha256, (head, data))
        outcome = self._journal.add(
            Received(header.study_uid, acquisition_key(header), uid, sha256, sender, header.to_json())
        )
        if outcome == "conflict":
            log.warning(
                "same instance UID, other content or encoding: the first is used, the other kept",
                sender=sender, instance=uid, kept=f"{sha256}.dcm",
            )  # fmt: skip


def guard(connection: AssociationSocket, alarm: Callable[[str], None]) -> None:
    """Watch what is read from a connection: bytes that cannot be DICOM raise the alarm and end it.

    pynetdicom reads a PDU whole, however long it says it is: anyone could have it fill the memory. A PDU starts
    with its type (1 to 7), a reserved byte and its length as four bytes (PS3.8 section 9.3.1).
    """
    read = connection.recv
    header_next = True

    def recv(nr_bytes: int) -> bytearray:
        nonlocal header_next
        data = read(nr_bytes)
        if not header_next:
            header_next = True
            if len(data) < nr_bytes:
                alarm("the connection ended in the middle of a DICOM message")
        elif len(data) == nr_bytes:
            kind, length = struct.unpack(">BxL", data)
            header_next = False
            if not 1 <= kind <= 7 or length > _LARGEST_MESSAGE:
                alarm("what was received is not a DICOM message")
                raise ConnectionError("not DICOM")
        elif data:
            alarm("what was received is not a DICOM message")
        return data

    connection.recv = recv  # type: ignore[method-assign]


def _storage_contexts(proposed: list[PresentationContext]) -> list[PresentationContext]:
    """What is accepted of a proposal: every storage class, private ones too; images best in what can be decoded.

    A class may be proposed several times, in other transfer syntaxes each time: the first of ours that a proposal
    holds is taken.
    """
    syntaxes: dict[UID, list[UID]] = {}
    for context in proposed:
        of_class = syntaxes.setdefault(UID(str(context.abstract_syntax)), [])
        of_class += [syntax for syntax in context.transfer_syntax if syntax not in of_class]
    contexts = []
    for uid, of_class in syntaxes.items():
        if uid in IMAGE_CLASSES:
            usable = [syntax for syntax in IMAGE_TRANSFER_SYNTAXES if syntax in of_class]
            others = [syntax for syntax in of_class if syntax not in usable]
            contexts.append(build_context(uid, [*usable, *others]))
        elif _is_storage(uid):
            contexts.append(build_context(uid, [*of_class]))
    return contexts


_registering = threading.Lock()


def _is_storage(uid: UID) -> bool:
    """Whether objects of this class are stored: known classes, private ones and retired standard ones."""
    with _registering:
        service = uid_to_service_class(uid)
        if service is ServiceClass and (uid.is_private or uid.startswith("1.2.840.10008.5.1.4.1.1.")):
            register_uid(uid, f"Storage_{uid.replace('.', '_')}", StorageServiceClass)
            return True
    return issubclass(service, StorageServiceClass)


def is_local(remote: str, own: str) -> bool:
    """Whether a caller is on this machine: a loopback address, or the address that it called."""
    return remote == own or ipaddress.ip_address(remote).is_loopback


def _own_address(assoc: Association) -> str:
    connection = cast(AssociationSocket, assoc.dul.socket)
    return str(cast(socket.socket, connection.socket).getsockname()[0])


def _response(status: int, comment: str = "") -> Dataset:
    ds = Dataset()
    ds.Status = status
    if comment:
        ds.ErrorComment = comment[:64]
    return ds
