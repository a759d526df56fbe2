"""What a connection receives, from its first byte to its last: C-STORE requests are taken from it as they come, all
other messages are for pynetdicom.

pynetdicom makes a dozen copies and passes three queues until a data set is whole, and looks for work a thousand times
a second. Here the bytes of a data set go from the socket to where the object is kept, PDU by PDU, and the answer goes
back on the same thread; no object is ever in memory. Only what can be DICOM is read, and no message for ever.

References: PS3.8 section 9.2 (state machine), 9.3.1 (structure of a PDU), 9.3.5 (P-DATA-TF).
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from node.dimse import (
    COMMAND,
    LAST,
    P_DATA_TF,
    Fragment,
    Malformed,
    Request,
    fragments,
    store_request,
    store_response,
)

_LARGEST_REQUEST, _LARGEST_MESSAGE = 1 << 18, 1 << 20
"""A request has at most 128 presentation contexts, 150 kB with all syntaxes; the node asks for PDUs of 128 kB."""
_HEADER = struct.Struct(">BxL")
_ESTABLISHED = "Sta6"
_CLOSED, _INVALID = "Evt17", "Evt19"
"""PS3.8 Table 9-10."""
_REST_S = 0.01
"""Between two looks of pynetdicom's for work."""
_PAUSE_MS = 100
"""So long the next request is waited for, until pynetdicom is asked whether it has something to say."""


class Sink(Protocol):
    """Where the data set of a C-STORE request goes. One thread calls, and ends with `answer` or `cut`."""

    def write(self, data: memoryview) -> None: ...

    def answer(self) -> tuple[int, str]:
        """Status and comment of the response, when the data set is whole."""

    def cut(self) -> None:
        """The rest will not come."""


Store = Callable[[Association, Request], Sink]


class Stream:
    """Reads a connection instead of pynetdicom.

    Parameters
    ----------
    association
        Newly made, with its socket.
    limit_s
        From the first to the last byte of a message; `admit` sets another after the association request.
    alarm
        Hears of what is no DICOM, after which the connection counts as closed.
    store
        Takes C-STORE requests.
    """

    def __init__(self, association: Association, limit_s: float, alarm: Callable[[str], None], store: Store) -> None:
        self.alarm = alarm
        self._association, self._dul, self._store = association, association.dul, store
        connection = cast(AssociationSocket, association.dul.socket)
        self._connection, self._socket = connection, cast(socket.socket, connection.socket)
        self._buffer = bytearray(1 << 10)
        self._command = bytearray()
        self._held: list[bytes] = []
        self._request: Request | None = None
        self._sink: Sink | None = None
        self._run_dul = self._dul.run
        self._limit(limit_s, _LARGEST_REQUEST)
        connection._shutdown_socket = self.close  # type: ignore[method-assign]
        self._dul._read_pdu_data = self.read  # type: ignore[method-assign]
        self._dul.run = self._run  # type: ignore[method-assign]

    def admit(self, limit_s: float) -> None:
        """The association request came: other limits hold."""
        self._limit(limit_s, _LARGEST_MESSAGE)
        self._dul._run_loop_delay = _REST_S

    def _limit(self, limit_s: float, largest: int) -> None:
        self._limit_s, self._largest = limit_s, largest
        self._socket.settimeout(limit_s)

    def close(self) -> None:
        """Close the connection, even if the other side has; pynetdicom would leave its descriptor open then."""
        hang_up(self._socket)
        self._socket.close()

    def _run(self) -> None:
        """The thread that reads."""
        try:
            self._run_dul()
        finally:
            self.close()
            if self._sink:
                self._sink.cut()

    def read(self) -> None:
        """Take C-STORE requests while they come, then hand pynetdicom what it must know; until then it rests."""
        may_look = self._association._reactor_checkpoint
        may_look.clear()
        try:
            self.read_one()
            while self._dul.event_queue.empty() and self._more():
                self.read_one()
        finally:
            may_look.set()

    def read_one(self) -> None:
        """Read a PDU: a part of a C-STORE request, or one for pynetdicom."""
        pdu = self._pdu()
        if pdu is None:
            self._dul.event_queue.put(_CLOSED)
        elif pdu[0] == P_DATA_TF and self._dul.state_machine.current_state == _ESTABLISHED:
            self._take(pdu)
        else:
            self._hand_on(bytes(pdu))

    def _more(self) -> bool:
        """Whether the other side goes on at once, and nobody here has something to say."""
        dul = self._dul
        dul._idle_timer.restart()
        if not (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            waiting = select.poll()
            waiting.register(self._socket, select.POLLIN)
            if not waiting.poll(_PAUSE_MS):
                return False
        return dul.to_provider_queue.empty() and not dul._kill_thread

    # --- messages

    def _take(self, pdu: memoryview) -> None:
        try:
            pieces = fragments(pdu[_HEADER.size :])
            if any(piece.control & COMMAND for piece in pieces):
                self._hold(bytes(pdu))  # it may be for pynetdicom
            for piece in pieces:
                if piece.control & COMMAND:
                    if not self._take_command(piece):
                        return
                elif self._sink and self._request:
                    self._take_data(self._sink, self._request, piece)
                else:
                    self._hand_on(bytes(pdu))
                    return
        except Malformed:
            self._dul.event_queue.put(_INVALID)

    def _hold(self, pdu: bytes) -> None:
        self._held.append(pdu)
        if sum(map(len, self._held)) > _LARGEST_MESSAGE:
            raise Malformed("a command set without end")

    def _take_command(self, piece: Fragment) -> bool:
        """Whether it is, or may be, the command of a C-STORE request; if not, pynetdicom has the message."""
        if self._sink:
            raise Malformed("a command in the middle of a data set")
        self._command += piece.data
        if not piece.control & LAST:
            return True
        request = store_request(piece.context_id, bytes(self._command))
        held, self._held = self._held, []
        self._command.clear()
        if request is None:
            for pdu in held:
                self._hand_on(pdu)
            return False
        if request.context_id not in self._association._accepted_cx or not request.has_data_set:
            raise Malformed("a C-STORE request in a context that was not accepted, or without a data set")
        self._request, self._sink = request, self._store(self._association, request)
        return True

    def _take_data(self, sink: Sink, request: Request, piece: Fragment) -> None:
        if piece.context_id != request.context_id:
            raise Malformed("a data set in another context than its command")
        sink.write(piece.data)
        if piece.control & LAST:
            self._sink = self._request = None
            self._connection.send(store_response(request, *sink.answer()))

    def _hand_on(self, pdu: bytes) -> None:
        """As pynetdicom itself does with what it has read."""
        dul = self._dul
        try:
            decoded, event = dul._decode_pdu(bytearray(pdu))
        except Exception:  # nearly anything, on nonsense
            dul.event_queue.put(_INVALID)
            return
        dul.event_queue.put(event)
        dul._recv_pdu.put(decoded)

    # --- bytes

    def _pdu(self) -> memoryview | None:
        """The next PDU, valid until the next call; None at the end, and after what cannot be one."""
        deadline = time.monotonic() + self._limit_s
        try:
            got = self._fill(0, _HEADER.size, deadline)
            if got == 0:
                return None
            kind, length = _HEADER.unpack_from(self._buffer)
            if got < _HEADER.size or not 1 <= kind <= 7 or length > self._largest:
                self.alarm("what was received is not a DICOM message")
                return None
            end = _HEADER.size + length
            if end > len(self._buffer):
                self._buffer = self._buffer[: _HEADER.size] + bytes(length)
            if self._fill(_HEADER.size, end, deadline) < end:
                self.alarm("the connection ended in the middle of a DICOM message")
                return None
        except TimeoutError:
            self.alarm(f"no whole DICOM message within {self._limit_s:g} s")
            return None
        except OSError:
            return None
        return memoryview(self._buffer)[:end]

    def _fill(self, start: int, end: int, deadline: float) -> int:
        """Read into the buffer; up to where."""
        view = memoryview(self._buffer)
        while start < end:
            count = self._socket.recv_into(view[start:end])
            if count == 0:
                break
            start += count
            if start < end and time.monotonic() > deadline:
                raise TimeoutError
        return start


def hang_up(connection: socket.socket) -> None:
    """End a connection that another thread reads from: the other thread is told, the descriptor stays its own."""
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
