"""Sending derived objects over an association by C-STORE, and what each answer means.

Knows no journal and decides nothing about trying again.

References: PS3.4 Annex B, Table B.2-1 (status codes); PS3.7 Annex C (what they mean).
"""

from __future__ import annotations

import hashlib
import io
import ssl
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, code_to_category

from node.association import MAXIMUM_PDU, VERIFICATION, cut, on_open
from node.errors import TransientError
from node.peers import Peer

Outcome = Literal["stored", "later", "refused", "lost"]
"""``stored``, with or without a warning; ``later``: the peer cannot now; ``refused``: this object, as it is, until
somebody changes something; ``lost``: no answer."""

_DUPLICATE = 0x0111
_WILL_NOT = {0x0117, 0x0118, 0x0119, 0x0122, 0x0124}
"""Invalid object, no such class, class-instance conflict, class not supported, not authorised."""
_WILL_NOT_BY_BYTE = {0xA8, 0xA9, *range(0xC0, 0xD0)}
"""Data set does not match its class; cannot understand."""
_AGAIN = "`qsm-node jobs retry` makes it again"


@dataclass(frozen=True, slots=True)
class Item:
    """An object to send; ``sha256`` of its file, where that is known."""

    sop_class_uid: str
    sop_instance_uid: str
    path: Path
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of an object, and what there is to say about it: empty after a plain Success."""

    outcome: Outcome
    note: str = ""


class Unreachable(TransientError):
    """There is no way to the peer now; the message says why."""


class Link(Protocol):
    """An open way to a peer."""

    at_once: int
    """How many objects `send` had best be given."""

    @property
    def alive(self) -> bool:
        """Whether another `send` makes sense."""

    def send(self, items: Sequence[Item]) -> list[Sent]:
        """Send objects; one answer for each, in order."""

    def close(self) -> None:
        """End it as the peer expects."""

    def cut(self) -> None:
        """End it at once, from any thread; what waits for an answer gets none."""


class StoreLink:
    """An association for C-STORE, open from the start: a `Link`.

    Parameters
    ----------
    peer
        Has host and port.
    calling
        Our AE title.
    classes
        SOP classes that are proposed: those of the objects to send.
    tls
        The node's credentials, for a peer that is sent to over TLS.

    Raises
    ------
    Unreachable
        Nobody answers, or the peer refuses the association or every class.
    """

    at_once = 1

    def __init__(self, peer: Peer, calling: str, classes: Iterable[str], tls: ssl.SSLContext | None = None) -> None:
        self._peer = peer
        self._assoc = associate(peer, calling, sorted(set(classes)), tls=tls)

    @property
    def alive(self) -> bool:
        """Whether the association is open."""
        return bool(self._assoc.is_established)

    def send(self, items: Sequence[Item]) -> list[Sent]:
        """C-STORE objects one after the other; an answer for each."""
        return [self._store(item) for item in items]

    def close(self) -> None:
        """Release the association."""
        if self._assoc.is_established:
            self._assoc.release()

    def cut(self) -> None:
        """Close the connection under the association."""
        cut(self._assoc)

    def _store(self, item: Item) -> Sent:
        title = self._peer.ae_title
        if not self._assoc.is_established:
            return Sent("lost", f"{title} ended the association")
        ds = read(item)
        if isinstance(ds, Sent):
            return ds
        try:
            status = self._assoc.send_c_store(ds).get("Status")
        except ValueError:
            return Sent("refused", self._unwanted(item.sop_class_uid))
        except RuntimeError:
            status = None
        if status is None:
            return Sent("lost", f"{title} ended the association or did not answer in time")
        return judged(status, title)

    def _unwanted(self, sop_class_uid: str) -> str:
        rejected = [c for c in self._assoc.rejected_contexts if c.abstract_syntax == sop_class_uid]
        return _not_accepted(self._peer, sop_class_uid, rejected[0].result if rejected else None)


def read(item: Item) -> Dataset | Sent:
    """The object, or the answer of one that cannot be read or was damaged: it must not hold up the others."""
    try:
        content = item.path.read_bytes()
        if item.sha256 not in {"", hashlib.sha256(content).hexdigest()}:
            return Sent("refused", f"{item.path.name} in the data folder is damaged, not what was written; {_AGAIN}")
        return pydicom.dcmread(io.BytesIO(content))
    except FileNotFoundError:
        return Sent("refused", f"{item.path.name} is no longer in the data folder; {_AGAIN}")
    except Exception as error:
        return Sent("refused", f"{item.path.name} in the data folder cannot be read ({type(error).__name__})")


def judged(status: int, who: str) -> Sent:
    """What the status of a C-STORE, or the reason that STOW-RS gives, means for the object."""
    if status == 0:
        return Sent("stored")
    meaning = STORAGE_SERVICE_CLASS_STATUS.get(status, ("", "unknown status"))[1]
    said = f"{who} answered 0x{status:04X} ({meaning})"
    if status == _DUPLICATE or code_to_category(status) == "Warning":
        return Sent("stored", said)
    return Sent("refused" if status in _WILL_NOT or status >> 8 in _WILL_NOT_BY_BYTE else "later", said)


def echo(peer: Peer, calling: str, timeout_s: float = 5.0) -> str:
    """C-ECHO; empty if the peer answers Success, else what is wrong."""
    try:
        assoc = associate(peer, calling, [VERIFICATION], timeout_s)
    except Unreachable as why:
        return str(why)
    try:
        status = assoc.send_c_echo().get("Status")
    except (RuntimeError, ValueError):
        status = None
    if assoc.is_established:
        assoc.release()
    return "" if status == 0 else f"{peer.ae_title} did not answer C-ECHO with Success"


def associate(
    peer: Peer,
    calling: str,
    classes: Iterable[str],
    timeout_s: float = 30.0,
    handlers: Sequence[evt.EventHandlerType] = (),
    tls: ssl.SSLContext | None = None,
) -> Association:
    """An association in which we are the user (SCU) of these SOP classes.

    Raises
    ------
    Unreachable
        There is none; the message says why.
    """
    ae = AE(calling)
    ae.maximum_pdu_size = MAXIMUM_PDU
    ae.connection_timeout = min(timeout_s, 15.0)
    ae.acse_timeout = timeout_s
    ae.dimse_timeout = 2 * timeout_s
    for uid in classes:
        ae.add_requested_context(uid, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    host = peer.host or ""
    connected = threading.Event()
    try:
        assoc = ae.associate(
            host, peer.port or 0, ae_title=peer.ae_title,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, on_open), (evt.EVT_CONN_OPEN, lambda _: connected.set()), *handlers,
            ],
            tls_args=(tls, peer.certified_as or host) if tls else None,
        )  # fmt: skip
    except OSError as error:
        raise Unreachable(f"{peer.ae_title} at {peer.host}:{peer.port}: {error.strerror or error}") from error
    if not assoc.is_established:
        raise Unreachable(_why_not(assoc, peer, connected.is_set()))
    return assoc


def _why_not(assoc: Association, peer: Peer, connected: bool) -> str:
    if assoc.is_rejected:
        answer = cast(A_ASSOCIATE, assoc.acceptor.primitive)
        return f"{peer.ae_title} at {peer.host}:{peer.port} refuses the association: {answer.reason_str}"
    if assoc.rejected_contexts:
        return "; ".join(_not_accepted(peer, str(c.abstract_syntax), c.result) for c in assoc.rejected_contexts)
    if connected:
        does = "accepts the association and ends it" if assoc.acceptor.primitive else "answers no association request"
        return f"{peer.ae_title} at {peer.host}:{peer.port} takes connections, but {does}"
    tls = ", or not over TLS with a certificate that is trusted (the log says more)" if peer.tls else ""
    return f"no association with {peer.ae_title} at {peer.host}:{peer.port}: nobody answers there{tls}"


def _not_accepted(peer: Peer, sop_class_uid: str, result: int | None) -> str:
    """PS3.8 Table 9-18: result 4 is "transfer syntaxes not supported"."""
    how = " uncompressed in little endian" if result == 4 else ""
    return f"{peer.ae_title} does not accept {UID(sop_class_uid).name}{how}"
