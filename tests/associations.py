"""Associations over loopback: a peer that listens, a scanner that sends."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.association import Association

from node.association import on_open

# pynetdicom drops the socket of a refused connection without closing it; the interpreter does, and says so.
refused_connection = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)


def listen(ae: AE, *handlers: evt.EventHandlerType, port: int = 0) -> int:
    """Let the application entity take associations; at which port."""
    opened: evt.EventHandlerType = (evt.EVT_CONN_OPEN, on_open)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[opened, *handlers])
    assert server is not None
    return int(server.server_address[1])


@contextmanager
def association(
    port: int,
    classes: Sequence[str] = (MRImageStorage,),
    syntax: str | list[str] = ExplicitVRLittleEndian,
    calling: str = "SCANNER",
    called: str = "QSMNODE",
) -> Iterator[Association]:
    """What a scanner opens, established or not; it is released in the end."""
    ae = AE(calling)
    for uid in classes:
        ae.add_requested_context(uid, syntax)
    assoc = ae.associate("127.0.0.1", port, ae_title=called, evt_handlers=[(evt.EVT_CONN_OPEN, on_open)])
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def store(port: int, *datasets: Dataset, calling: str = "SCANNER") -> list[int]:
    """Status of each C-STORE, over one association."""
    classes = sorted({ds.SOPClassUID for ds in datasets})
    with association(port, classes, datasets[0].file_meta.TransferSyntaxUID, calling) as assoc:
        assert assoc.is_established
        return [assoc.send_c_store(ds).Status for ds in datasets]


def ends(connection: socket.socket, pieces: Iterable[bytes]) -> None:
    """Send, say no more, and read until the node closes; it must."""
    with connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            socket.socket.shutdown(connection, socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except TimeoutError:
            raise
        except OSError:  # closed already
            pass
