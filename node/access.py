"""Who may open an association: a decision from what a caller says and shows. Knows no network.

Closed by default: whoever the configuration does not name is refused. A peer may be tied to addresses, to TLS and to
a certificate, since anybody can say an AE title. The caller hears no more than the standard's reason; the log and
`qsm-node jobs` tell the rest.

References: PS3.8 section 9.3.4 (A-ASSOCIATE-RJ: result, source, reason).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from node.config import HEALTH_AE_TITLE, Settings
from node.peers import Peer

MAXIMUM_ASSOCIATIONS = 64
MAXIMUM_OF_PEER = 16
"""So that one peer cannot take all of them."""

_CALLING = (1, 1, 3)
_CALLED = (1, 1, 7)
_BUSY = (2, 3, 2)
"""Permanent: calling, called AE title not recognised. Transient: local limit exceeded."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Line:
    """What a connection shows of its caller.

    Parameters
    ----------
    address, own_address
        The caller's end and the node's.
    names
        Of the caller's certificate, in small letters; None without TLS.
    """

    address: str
    own_address: str = ""
    names: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Denial:
    """What a caller is answered (result, source, reason) and what the administrator is told."""

    answer: tuple[int, int, int]
    reason: str


UNDECIDED = Denial((2, 2, 1), "the node could not decide")
"""Transient: no reason given."""


def denial(calling: str, called: str, line: Line, settings: Settings, open_now: Sequence[str]) -> Denial | None:
    """Why a caller is not heard, or None.

    Parameters
    ----------
    calling, called
        AE titles of the request.
    line
        Where the request came from.
    settings
        Who may.
    open_now
        Calling AE titles of the open associations.
    """
    if called not in settings.called_titles:
        return Denial(_CALLED, f"the called AE title is not {' or '.join(settings.called_titles)}")
    if calling == HEALTH_AE_TITLE and is_local(line.address, line.own_address):
        return None
    peer = settings.peers.get(settings.peer_named_by_title(calling) or "")
    if peer is None:
        return Denial(_CALLING, "the calling AE title is not among the configured peers")
    if why := _doubt(line, peer):
        return Denial(_CALLING, why)
    for count, limit, whose in (
        (open_now.count(peer.ae_title), MAXIMUM_OF_PEER, f" of {peer.ae_title}"),
        (len(open_now), MAXIMUM_ASSOCIATIONS, ""),
    ):
        if count >= limit:
            return Denial(_BUSY, f"{limit} associations{whose} are open")
    return None


def _doubt(line: Line, peer: Peer) -> str:
    """Why a caller may not be the peer whose AE title it says, or nothing."""
    if not peer.may_call_from(_address(line.address)):
        return f"{peer.ae_title} is not heard from this address"
    if peer.tls and line.names is None:
        return f"{peer.ae_title} is heard over TLS alone"
    if peer.certified_as and peer.certified_as.lower() not in (line.names or ()):
        return f"the certificate is not that of {peer.certified_as}"
    return ""


def is_local(remote: str, own: str) -> bool:
    """Whether a caller is on this machine: a loopback address, or the address that it called."""
    return remote == own or _address(remote).is_loopback


def _address(text: str) -> Address:
    """An address; IPv4 that came over an IPv6 socket as IPv4."""
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address
