"""A port before anything is negotiated: time limits, room for others, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pynetdicom import AE, build_context, evt

from associations import listen
from node.association import VERIFICATION, on_open
from node.deliver import echo
from node.listener import DEFAULT_LIMITS, Limits, Listener
from node.peers import Peer

REQUEST = struct.pack(">BxL", 1, 200)
P_DATA = struct.pack(">BxL", 4, 1000)


class Port:
    """A listener of a node that hears everybody, and what it was alarmed about."""

    def __init__(self, limits: Limits) -> None:
        self.alarms: list[str] = []
        self._ae = AE("QSMNODE")
        self.listener = Listener(
            self._ae, ("127.0.0.1", 0), [build_context(VERIFICATION)], [(evt.EVT_CONN_OPEN, on_open)],
            lambda *_: pytest.fail("nothing is sent"), None,
            lambda what, address: self.alarms.append(f"{address}: {what}"), limits,
        )  # fmt: skip
        self.port = self.listener.listen()
        self.stop = self._ae.shutdown

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def hears(self) -> bool:
        return echo(Peer(ae_title="QSMNODE", host="127.0.0.1", port=self.port), "SCANNER") == ""


@pytest.fixture
def port() -> Iterator[Callable[..., Port]]:
    opened: list[Port] = []

    def go(limits: Limits = DEFAULT_LIMITS) -> Port:
        opened.append(Port(limits))
        return opened[-1]

    yield go
    for one in opened:
        one.stop()


@pytest.fixture
def request_pdu() -> bytes:
    """An association request as it goes over the wire."""
    sent: list[bytes] = []
    ae = AE("QSMNODE")
    ae.add_supported_context(VERIFICATION)
    port = listen(ae)
    handlers: list[Any] = [(evt.EVT_DATA_SENT, lambda event: sent.append(event.data))]
    client = AE("SCANNER")
    client.add_requested_context(VERIFICATION)
    client.associate("127.0.0.1", port, ae_title="QSMNODE", evt_handlers=handlers).release()
    ae.shutdown()
    return sent[0]


def dribble(connection: socket.socket) -> None:
    """Byte after byte, until the other side has had enough."""
    with contextlib.suppress(ConnectionError):
        while not select.select([connection], [], [], 0.02)[0]:
            connection.sendall(b"\0")


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed, without waiting for it."""
    if not select.select([connection], [], [], 0)[0]:
        return False
    with contextlib.suppress(ConnectionError):
        return connection.recv(1) == b""
    return True


@pytest.mark.parametrize("start", [b"", b"\1\0", REQUEST, REQUEST + b"\0" * 100], ids=["0", "2", "6", "106"])
def test_a_request_that_takes_too_long_is_not_waited_for(
    port: Callable[..., Port], start: bytes, eventually: Callable[..., None]
) -> None:
    node = port(Limits(request_s=1.0))
    with node.connect() as slow, node.connect() as silent:
        slow.sendall(start)
        silent.sendall(start)
        if len(start) > 2:
            dribble(slow)
        eventually(lambda: len(node.alarms) == 2, "both are told", 10)
        assert is_closed(silent)
    assert set(node.alarms) == {"127.0.0.1: no whole DICOM message within 1 s"}
    assert node.hears()


def test_a_message_that_takes_too_long_ends_its_association(
    port: Callable[..., Port], request_pdu: bytes, eventually: Callable[..., None]
) -> None:
    node = port(Limits(message_s=0.3))
    with node.connect() as slow:
        slow.sendall(request_pdu)
        assert slow.recv(1) == b"\2"  # accepted
        slow.recv(4096)
        slow.sendall(P_DATA)
        dribble(slow)
        eventually(lambda: node.alarms == ["127.0.0.1: no whole DICOM message within 0.3 s"], "it is told", 10)
    assert node.hears()


def test_an_association_may_be_silent_for_longer_than_a_message_may_take(
    port: Callable[..., Port], request_pdu: bytes, eventually: Callable[..., None]
) -> None:
    node = port(Limits(request_s=1.0, message_s=0.2))
    with node.connect() as silent, node.connect() as late:
        silent.sendall(request_pdu)
        assert silent.recv(1) == b"\2"
        silent.recv(4096)
        eventually(lambda: len(node.alarms) == 1, "the other connection is over", 10)
        assert not is_closed(silent)
        assert is_closed(late)


def test_the_oldest_of_an_address_makes_room(port: Callable[..., Port], eventually: Callable[..., None]) -> None:
    node = port(Limits(waiting_of_address=4))
    with contextlib.ExitStack() as opened:
        silent = [opened.enter_context(node.connect()) for _ in range(10)]
        eventually(lambda: all(map(is_closed, silent[:6])), "the first six are closed", 10)
        assert not any(map(is_closed, silent[6:]))
        assert node.hears()
        eventually(lambda: len(node.alarms) == 7, "each is told", 10)
        assert set(node.alarms) == {"127.0.0.1: closed for room: 4 connections of this address ask for nothing"}


def test_the_oldest_of_all_makes_room(port: Callable[..., Port], eventually: Callable[..., None]) -> None:
    node = port(Limits(waiting=4))
    with contextlib.ExitStack() as opened:
        silent = [opened.enter_context(node.connect()) for _ in range(6)]
        eventually(lambda: all(map(is_closed, silent[:2])), "the first two are closed", 10)
        assert not any(map(is_closed, silent[2:]))


def test_associations_need_no_room(port: Callable[..., Port], request_pdu: bytes) -> None:
    node = port(Limits(waiting_of_address=2))
    with contextlib.ExitStack() as opened:
        for _ in range(5):
            open_one = opened.enter_context(node.connect())
            open_one.sendall(request_pdu)
            assert open_one.recv(1) == b"\2"
        assert node.hears()
    assert node.alarms == []


def test_a_request_is_no_longer_than_any_can_be(port: Callable[..., Port]) -> None:
    node = port()
    with node.connect() as long:
        long.sendall(struct.pack(">BxL", 1, (1 << 18) + 1))
        assert long.recv(1) == b""
    assert node.alarms == ["127.0.0.1: what was received is not a DICOM message"]


def test_what_is_not_an_association_request_begins_nothing(port: Callable[..., Port], request_pdu: bytes) -> None:
    node = port()
    release = struct.pack(">BxLL", 5, 4, 0)
    accepts, garbled = b"\2" + request_pdu[1:], request_pdu[:70] + b"\xff" * (len(request_pdu) - 70)
    context = request_pdu.index(b"\x20\0\0", 74) + 4  # item type, its length, identifier: must be odd
    assert request_pdu[context] == 1
    even = request_pdu[:context] + b"\2" + request_pdu[context + 1 :]
    for nonsense in (release, accepts, garbled, even):
        node.alarms.clear()
        with node.connect() as connection:
            connection.sendall(nonsense)
            assert connection.recv(1) == b""
        assert node.alarms == ["127.0.0.1: what was received is not an association request"]


def test_stopping_waits_for_nobody_and_leaves_nothing(
    port: Callable[..., Port], request_pdu: bytes, eventually: Callable[..., None]
) -> None:
    before = set(threading.enumerate())
    node = port()
    with contextlib.ExitStack() as opened:
        connections = [opened.enter_context(node.connect()) for _ in range(10)]
        for connection in connections[:5]:
            connection.sendall(request_pdu[:50])
        connections[5].sendall(request_pdu)
        assert connections[5].recv(1) == b"\2"
        node.stop()
        node.stop = lambda: None  # type: ignore[method-assign]
        eventually(lambda: set(threading.enumerate()) <= before, "all threads have ended", 10)
