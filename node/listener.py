"""A port: what happens to a connection until its association request is there, whole, and what may be read of it.

pynetdicom shakes hands for TLS on the thread that accepts, reads for as long as a message says it is long, and
gives every connection two threads that look for bytes a thousand times a second. Here each connection has a thread
that blocks, and a time limit, until its request is there; the association begins then. Whoever connects is let in:
for room the oldest connection that has asked for nothing is closed. Knows no AE titles.

References: PS3.8 section 9.1.5 (ARTIM timer), section 9.3.1 (structure of a PDU).
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import StateMachine
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from node.log import get_logger
from node.stream import Store, Stream, hang_up
from node.tls import why_failed

_ASSOCIATION_REQUEST, _CLOSED = "Evt6", "Evt17"
"""PS3.8 Table 9-10."""

log = get_logger("node.listener")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a caller may take, and how many may be waited for.

    Parameters
    ----------
    handshake_s, request_s, message_s
        For the TLS handshake, until the association request is there, and from the first to the last byte of every
        later message.
    waiting, waiting_of_address
        Connections without an association: on this port, and of one address.
    """

    handshake_s: float = 5.0
    request_s: float = 30.0
    message_s: float = 60.0
    waiting: int = 128
    waiting_of_address: int = 32


DEFAULT_LIMITS = Limits()


@dataclass(slots=True)
class _Waiting:
    """A connection that has not become an association."""

    address: str
    association: Association | None = None
    closed_for: str = ""

    @property
    def over(self) -> bool:
        """Whether it became an association, or was refused one."""
        association = self.association
        return association is not None and (association.is_established or not association.is_alive())


class Listener(ThreadedAssociationServer):
    """Listens on one address from `listen` to the end of its `AE`.

    Parameters
    ----------
    ae, address, contexts, handlers
        As for ``AE.start_server``.
    tls
        Gives the context for the next connection; None: without TLS.
    store
        Takes C-STORE requests.
    alarm
        ``alarm(what, address=...)`` hears of callers that are no DICOM peers.
    limits
        On time and number.
    """

    request_queue_size = 128

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        contexts: list[Any],
        handlers: list[Any],
        store: Store,
        tls: Callable[[], ssl.SSLContext] | None,
        alarm: Callable[..., None],
        limits: Limits,
    ) -> None:
        self.limits = limits
        self.store = store
        self.alarm = alarm
        self._tls = tls
        self._waiting: dict[socket.socket, _Waiting] = {}
        self._counting = threading.Lock()
        super().__init__(
            ae, address, ae.ae_title, contexts, evt_handlers=handlers, request_handler=_BeginsWithItsRequest
        )

    def listen(self) -> int:
        """Accept from now on; the port."""
        threading.Thread(target=self.serve_forever, name="listener", daemon=True).start()
        self.ae._servers.append(self)
        return int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; the handshake is left to the connection's thread."""
        connection, address = cast(socket.socket, self.socket).accept()
        if self._tls:
            try:
                connection = self._tls().wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            except Exception as error:  # whatever it is, the port stays open
                if not isinstance(error, OSError):  # the caller has gone
                    log.exception("a connection was closed", address=address[0])
                connection.close()
                raise OSError("no connection") from error
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its thread, and make room for it."""
        with self._counting:
            self._make_room(client_address[0])
            self._waiting[request] = _Waiting(client_address[0])
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread of a connection, until its association is on its own."""
        waiting = self._waiting.get(request)
        try:
            if waiting and self._shakes_hands(request, waiting):
                self.finish_request(request, client_address)
        except Exception:
            log.exception("a connection failed", address=client_address[0])
        if waiting is None or waiting.association is None:
            self._forget(request)
        if waiting and waiting.closed_for:
            self.alarm(waiting.closed_for, address=waiting.address)

    def begin(self, connection: socket.socket, association: Association) -> None:
        """Start the association of a connection, unless it was closed for room."""
        with self._counting:
            waiting = self._waiting.get(connection)
            if waiting:
                association.start()
                waiting.association = association

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that found no thread."""
        log.exception("a connection was closed", address=client_address[0])
        self._forget(request)

    def shutdown_request(self, request: Any) -> None:
        """End a connection; pynetdicom calls this while the association's other thread may read, which closes it."""
        hang_up(request)

    def server_close(self) -> None:
        """Close the port and what waits at it."""
        with self._counting:
            for connection in [c for c, waiting in self._waiting.items() if not waiting.over]:
                hang_up(connection)
        super().server_close()

    def _shakes_hands(self, connection: socket.socket, waiting: _Waiting) -> bool:
        if not isinstance(connection, ssl.SSLSocket):
            return True
        connection.settimeout(self.limits.handshake_s)
        try:
            if not _says_something(connection):
                return False
            connection.do_handshake()
        except OSError as error:
            if not waiting.closed_for:
                self.alarm(f"TLS handshake failed: {why_failed(error)}", address=waiting.address)
            return False
        return True

    def _forget(self, connection: socket.socket) -> None:
        with self._counting:
            self._waiting.pop(connection, None)
        hang_up(connection)
        connection.close()

    def _make_room(self, address: str) -> None:
        for connection in [c for c, waiting in self._waiting.items() if waiting.over]:
            del self._waiting[connection]
        of_address = [c for c, waiting in self._waiting.items() if waiting.address == address]
        if len(of_address) >= self.limits.waiting_of_address:
            self._close(
                of_address[0], f"closed for room: {len(of_address)} connections of this address ask for nothing"
            )
        elif len(self._waiting) >= self.limits.waiting:
            self._close(
                next(iter(self._waiting)), f"closed for room: {len(self._waiting)} connections ask for nothing"
            )

    def _close(self, connection: socket.socket, why: str) -> None:
        waiting = self._waiting.pop(connection)
        waiting.closed_for = why
        hang_up(connection)


class _BeginsWithItsRequest(RequestHandler):
    """Reads the association request on the connection's own thread, and starts the association if it is one."""

    def handle(self) -> None:
        listener = cast(Listener, self.server)
        association = self._create_association()
        dul = association.dul
        dul.state_machine = _StateMachine(dul)
        alarm = partial(listener.alarm, address=association.requestor.address)
        stream = Stream(association, listener.limits.request_s, alarm, listener.store)
        evt.trigger(association, evt.EVT_CONN_OPEN, {"address": self.client_address})
        stream.read_one()
        if _asks(dul):
            stream.admit(listener.limits.message_s)
            listener.begin(self.request, association)
        elif dul.event_queue.queue[-1] != _CLOSED:
            alarm("what was received is not an association request")


def _asks(dul: DULServiceProvider) -> bool:
    """Whether an association request was read that pynetdicom will understand when it begins."""
    if dul.event_queue.queue[-1] != _ASSOCIATION_REQUEST:
        return False
    try:
        cast(A_ASSOCIATE_RQ, dul._recv_pdu.queue[0]).to_primitive()
    except Exception:  # nearly anything, on nonsense
        return False
    return True


class _StateMachine(StateMachine):
    """Ends the association on what pynetdicom takes for impossible, which would end its thread.

    A caller brings that about with nonsense, or when it hangs up just before it is answered.
    """

    def do_action(self, event: str) -> None:
        try:
            super().do_action(event)
        except Exception:  # pynetdicom has written it to the log
            self.dul.kill_dul()


def _says_something(connection: ssl.SSLSocket) -> bool:
    """Whether a first byte comes; monitors open a port and close it."""
    try:
        return bool(socket.socket.recv(connection, 1, socket.MSG_PEEK))
    except ConnectionError:
        return False
