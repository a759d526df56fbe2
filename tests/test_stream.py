"""What comes over a connection, in the ways in which the standard allows it to come, and in some that it does not."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from io import BytesIO

import pytest
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ
from pynetdicom.dimse_primitives import C_ECHO, C_STORE

from node.association import VERIFICATION, on_open
from node.dimse import COMMAND, LAST, Request
from node.listener import DEFAULT_LIMITS, Listener

DATA = bytes(range(256)) * 40


class Kept:
    """A sink that remembers."""

    def __init__(self, request: Request) -> None:
        self.request, self.data, self.end = request, bytearray(), ""

    def write(self, data: memoryview) -> None:
        self.data += data

    def answer(self) -> tuple[int, str]:
        self.end = "answered"
        return 0x0000, ""

    def cut(self) -> None:
        self.end = "cut"


class Port:
    """A listener that stores in memory, and a connection to it whose association is accepted."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []
        self._ae = AE("QSMNODE")
        contexts = [build_context(VERIFICATION), build_context(MRImageStorage, ExplicitVRLittleEndian)]
        self.listener = Listener(
            self._ae, ("127.0.0.1", 0), contexts, [(evt.EVT_CONN_OPEN, on_open)], self._store, None,
            lambda *_, **__: None, DEFAULT_LIMITS,
        )  # fmt: skip
        self.connection = socket.create_connection(("127.0.0.1", self.listener.listen()), timeout=20)
        self.connection.sendall(requested())
        assert self.answer()[0] == 2

    def _store(self, _: Association, request: Request) -> Kept:
        self.kept.append(Kept(request))
        return self.kept[-1]

    def answer(self) -> bytes:
        """The next PDU."""
        header = self.connection.recv(6, socket.MSG_WAITALL)
        return header + self.connection.recv(int.from_bytes(header[2:], "big"), socket.MSG_WAITALL)

    def close(self) -> None:
        self.connection.close()
        self._ae.shutdown()


def requested() -> bytes:
    """An association request as pynetdicom sends it."""
    sent: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = AE("SCANNER")
        client.add_requested_context(VERIFICATION)
        client.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
        client.acse_timeout = 0.2
        client.associate(
            "127.0.0.1", server.getsockname()[1], ae_title="QSMNODE",
            evt_handlers=[(evt.EVT_DATA_SENT, lambda event: sent.append(event.data))],
        )  # fmt: skip
    return sent[0]


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port()
    yield port
    port.close()


def values(uid: str = "1.2.3", data: bytes = DATA, size: int = 4096) -> list[bytes]:
    """Presentation data values of a C-STORE request."""
    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = 7, 0
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = MRImageStorage, uid
    primitive.DataSet = BytesIO(data)
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    return values_of(message, 3, size)


def values_of(message: C_STORE_RQ | C_ECHO_RQ, context: int, size: int = 4096) -> list[bytes]:
    parts = [value for part in message.encode_msg(context, size) for value in part.presentation_data_value_list]
    return [struct.pack(">LB", len(data) + 1, context) + data for context, data in parts]


def pdu(*of: bytes) -> bytes:
    """A P-DATA-TF PDU of these presentation data values."""
    return struct.pack(">BxL", 4, sum(map(len, of))) + b"".join(of)


def echo(size: int = 4096) -> list[bytes]:
    primitive = C_ECHO()
    primitive.MessageID, primitive.AffectedSOPClassUID = 9, VERIFICATION
    message = C_ECHO_RQ()
    message.primitive_to_message(primitive)
    return values_of(message, 1, size)


LAST_AND_EMPTY = struct.pack(">LBB", 2, 3, LAST)


def not_last(value: bytes) -> bytes:
    return value[:5] + bytes([value[5] & COMMAND]) + value[6:]


WAYS: dict[str, Callable[[], list[bytes]]] = {
    "a PDU for each piece": lambda: [pdu(value) for value in values()],
    "all in one PDU": lambda: [pdu(*values())],
    "tiny pieces": lambda: [pdu(value) for value in values(size=40)],
    "an empty last piece": lambda: [*map(pdu, [*values()[:-1], not_last(values()[-1])]), pdu(LAST_AND_EMPTY)],
}


@pytest.mark.parametrize("way", WAYS)
def test_an_object_comes_however_it_is_cut(port: Port, way: str) -> None:
    port.connection.sendall(b"".join(WAYS[way]()))
    assert port.answer()[0] == 4
    (kept,) = port.kept
    assert (bytes(kept.data), kept.end) == (DATA, "answered")
    assert kept.request == Request(3, 7, MRImageStorage, "1.2.3", has_data_set=True)


@pytest.mark.parametrize("size", [4096, 20], ids=["whole", "in pieces"])
def test_other_messages_are_answered_in_between(port: Port, size: int) -> None:
    for number in range(3):
        port.connection.sendall(b"".join(pdu(value) for value in values(f"1.2.{number}")))
        port.answer()
        port.connection.sendall(b"".join(pdu(value) for value in echo(size)))
        assert b"\x30\x80" in port.answer(), "a C-ECHO response"
    assert [kept.request.sop_instance_uid for kept in port.kept] == ["1.2.0", "1.2.1", "1.2.2"]


def test_pynetdicom_rests_while_objects_come(port: Port, eventually: Callable[..., None]) -> None:
    """It would look for work a thousand times a second, and hold up the thread that reads."""
    (association,) = port.listener.active_associations
    may_look = association._reactor_checkpoint
    eventually(may_look.is_set, "it looks")
    pieces = [pdu(value) for value in values()]
    port.connection.sendall(b"".join(pieces[:2]))
    eventually(lambda: port.kept and not may_look.is_set(), "it rests")
    port.connection.sendall(b"".join(pieces[2:]))
    assert port.answer()[0] == 4
    eventually(may_look.is_set, "it looks again")


def test_an_association_may_be_released_after_an_object(port: Port) -> None:
    port.connection.sendall(b"".join(map(pdu, values())))
    port.answer()
    port.connection.sendall(struct.pack(">BxL4x", 5, 4))
    assert port.answer()[0] == 6


@pytest.mark.parametrize("end", ["close", "abort", "command", "context"])
def test_what_ends_in_the_middle_is_cut(port: Port, end: str, eventually: Callable[..., None]) -> None:
    """Closed, aborted, another command in the middle, or a piece in another context: nothing is answered."""
    whole = values()
    further = {
        "close": b"",
        "abort": struct.pack(">BxL4x", 7, 4),
        "command": pdu(whole[0]),
        "context": pdu(whole[2][:4] + b"\1" + whole[2][5:]),
    }
    port.connection.sendall(b"".join(map(pdu, whole[:2])) + further[end])
    if end == "close":
        port.connection.shutdown(socket.SHUT_RDWR)
    eventually(lambda: port.kept and port.kept[0].end == "cut", "it is cut", 20)
    assert len(port.kept) == 1


def test_a_connection_is_closed_by_the_thread_that_reads_it(
    port: Port, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    """Its descriptor, closed by another, may be another connection's by the time this one reads on."""
    writing, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        writing.set()
        go_on.wait(20)

    monkeypatch.setattr(Kept, "write", slow)
    port.connection.sendall(b"".join(map(pdu, values()[:2])))
    assert writing.wait(20)
    (association,) = port.listener.active_associations
    connection = association.dul.socket.socket
    ending = threading.Thread(target=association.abort)
    ending.start()
    association.join(20)
    assert connection.fileno() != -1
    go_on.set()
    ending.join(20)
    eventually(lambda: connection.fileno() == -1, "it is closed", 20)
    assert port.kept[0].end == "cut"


@pytest.mark.parametrize("way", ["context", "no data set", "lengths", "endless"])
def test_what_the_standard_forbids_is_aborted(port: Port, way: str) -> None:
    command = values()[0]
    sent = {
        "context": pdu(command[:4] + b"\5" + command[5:]),
        "no data set": pdu(command.replace(b"\0\0\0\x08\x02\0\0\0\1\0", b"\0\0\0\x08\x02\0\0\0\1\1")),
        "endless": pdu(*[struct.pack(">LBB", 2, 3, COMMAND)] * 20_000) * 10,
        "lengths": pdu(command[:4])[:6] + command[:4],
    }
    assert sent["no data set"] != pdu(command)
    port.connection.sendall(sent[way])
    assert port.answer()[0] == 7
    assert port.kept == []
