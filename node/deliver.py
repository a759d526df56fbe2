"""Sending derived objects: one association for a batch, one answer for each object.

Knows no journal and decides nothing about trying again except how long to wait.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pydicom
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, code_to_category

from node.association import MAXIMUM_PDU, VERIFICATION, on_open
from node.config import Peer

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 900.0
_DUPLICATE = 0x0111


@dataclass(frozen=True, slots=True)
class Item:
    """An object to send."""

    sop_class_uid: str
    sop_instance_uid: str
    path: Path


@dataclass(frozen=True, slots=True)
class Sent:
    """What a peer answered: taken or not, and what there is to say about it."""

    taken: bool
    note: str


def send(
    peer: Peer,
    calling: str,
    items: Sequence[Item],
    stop: Callable[[], bool] = lambda: False,
    tls: ssl.SSLContext | None = None,
) -> list[Sent]:
    """C-STORE objects over one association; one answer for each, in order.

    Parameters
    ----------
    peer
        Has host and port.
    calling
        Our AE title.
    stop
        Asked between objects: True ends the association early; the rest counts as not taken.
    tls
        The node's credentials, for a peer that is sent to over TLS.
    """
    assoc = _associate(peer, calling, sorted({item.sop_class_uid for item in items}), tls=tls)
    if not assoc.is_established:
        return [Sent(False, _why_not(assoc, peer))] * len(items)
    answers = []
    try:
        for item in items:
            if stop() or not assoc.is_established:
                answers.append(Sent(False, "stopped" if stop() else f"{peer.ae_title} ended the association"))
            else:
                answers.append(_store(assoc, peer, item))
    finally:
        if assoc.is_established:
            assoc.release()
    return answers


def echo(peer: Peer, calling: str, timeout_s: float = 5.0) -> str:
    """C-ECHO; empty if the peer answers Success, else what is wrong."""
    assoc = _associate(peer, calling, [VERIFICATION], timeout_s)
    if not assoc.is_established:
        return _why_not(assoc, peer)
    try:
        status = assoc.send_c_echo().get("Status")
    except (RuntimeError, ValueError):
        status = None
    if assoc.is_established:
        assoc.release()
    return "" if status == 0 else f"{peer.ae_title} did not answer C-ECHO with Success"


def pause_s(attempts: int, chance: Callable[[], float] = random.random) -> float:
    """How long to wait after so many failed attempts: doubling, at most a quarter of an hour, scattered."""
    longest = min(FIRST_PAUSE_S * 2.0 ** min(attempts, 20), LONGEST_PAUSE_S)
    return longest * (0.5 + chance() / 2)


def _associate(
    peer: Peer, calling: str, classes: Iterable[str], timeout_s: float = 30.0, tls: ssl.SSLContext | None = None
) -> Association:
    ae = AE(calling)
    ae.maximum_pdu_size = MAXIMUM_PDU
    ae.connection_timeout = min(timeout_s, 15.0)
    ae.acse_timeout = timeout_s
    ae.dimse_timeout = 2 * timeout_s
    for uid in classes:
        ae.add_requested_context(uid, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    handlers: list[evt.EventHandlerType] = [(evt.EVT_CONN_OPEN, on_open)]
    host = peer.host or ""
    tls_args = (tls, peer.certified_as or host) if tls else None
    return ae.associate(host, peer.port or 0, ae_title=peer.ae_title, evt_handlers=handlers, tls_args=tls_args)


def _why_not(assoc: Association, peer: Peer) -> str:
    if assoc.is_rejected:
        answer = cast(A_ASSOCIATE, assoc.acceptor.primitive)
        return f"{peer.ae_title} at {peer.host}:{peer.port} refuses the association: {answer.reason_str}"
    if assoc.rejected_contexts:
        names = ", ".join(UID(str(context.abstract_syntax)).name for context in assoc.rejected_contexts)
        return f"{peer.ae_title} does not accept {names}"
    tls = ", or not over TLS with a certificate that is trusted (the log says more)" if peer.tls else ""
    return f"no association with {peer.ae_title} at {peer.host}:{peer.port}: nobody answers there{tls}"


def _store(assoc: Association, peer: Peer, item: Item) -> Sent:
    try:
        ds = pydicom.dcmread(item.path)
    except FileNotFoundError:
        return Sent(False, f"{item.path.name} is no longer in the data folder")
    except Exception as error:  # a damaged file must not hold up the others
        return Sent(False, f"{item.path.name} in the data folder cannot be read ({type(error).__name__})")
    try:
        status = assoc.send_c_store(ds).get("Status")
    except ValueError:
        return Sent(False, f"{peer.ae_title} does not accept {UID(item.sop_class_uid).name}")
    except RuntimeError:
        status = None
    if status is None:
        return Sent(False, f"{peer.ae_title} ended the association or did not answer in time")
    if status == 0:
        return Sent(True, "")
    meaning = STORAGE_SERVICE_CLASS_STATUS.get(status, ("", "unknown status"))[1]
    said = f"{peer.ae_title} answered 0x{status:04X} ({meaning})"
    return Sent(status == _DUPLICATE or code_to_category(status) == "Warning", said)
