"""What every association has in common, and what pynetdicom 3.0 lacks: no delay, and no answer that goes astray.

Bind `on_open` to ``evt.EVT_CONN_OPEN``. Knows nothing of what is sent.
"""

from __future__ import annotations

import queue
import socket
import threading
from contextlib import suppress
from typing import Any, cast

from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

VERIFICATION = UID("1.2.840.10008.1.1")
MAXIMUM_PDU = 131072
"""DCMTK's largest, too."""


def on_open(event: evt.Event) -> None:
    """Prepare a connection that was just opened, before anything is negotiated.

    Nagle's algorithm is switched off: a message of two parts would wait 40 ms for the delayed ACK of the first.
    """
    connection = cast(AssociationSocket, event.assoc.dul.socket)
    cast(socket.socket, connection.socket).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    event.assoc._reactor_checkpoint = _Checkpoint(event.assoc)
    event.assoc.dimse.msg_queue = _Messages()


def cut(association: Association) -> None:
    """Close the connection under an association, from any thread: what waits for an answer gets none."""
    connection = cast(AssociationSocket, association.dul.socket)
    with suppress(OSError, AttributeError):  # closed already
        cast(socket.socket, connection.socket).shutdown(socket.SHUT_RDWR)


class _Messages(queue.Queue[tuple[Any, Any]]):
    """Messages received, and at last ``(None, None)``: the association is no more.

    That stays: an association that ends between two ``send_*`` tells its reactor, and the second would wait for its
    answer until the DIMSE timeout.
    """

    def get(self, block: bool = True, timeout: float | None = None) -> tuple[Any, Any]:
        """The next message."""
        message = super().get(block, timeout)
        if message == (None, None):
            self.put(message)
        return message


class _Checkpoint(threading.Event):
    """The gate at which an association's reactor pauses while ``send_*`` waits for its answer.

    ``send_*`` closes the gate and waits for the flag that says the reactor stands before it. pynetdicom's reactor
    lowers that flag only some time after it has passed the gate, so a second ``send_*`` right after the first can
    take the old flag for a pause, and the reactor then takes its answer ("Received unexpected C-STORE service
    message"), for which the sender waits until the DIMSE timeout. Here passing and lowering are one.
    """

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association
        self._passing = threading.Lock()
        super().set()

    def clear(self) -> None:
        """Close the gate; afterwards the flag is up only if the reactor stands before it."""
        with self._passing:
            super().clear()

    def wait(self, *_: Any) -> bool:
        """Pass the gate and lower the flag."""
        while True:
            super().wait()
            with self._passing:
                if self.is_set():
                    self._association._is_paused = False
                    return True
