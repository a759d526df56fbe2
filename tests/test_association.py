"""Sending associations: answers that do not go astray, messages that do not wait."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest
from pynetdicom import AE, evt
from pynetdicom.association import Association

from associations import listen
from node.association import _Checkpoint, _Messages, on_open

VERIFICATION = "1.2.840.10008.1.1"


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads that change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_nothing_passes_a_gate_that_is_closed() -> None:
    """A sender that has closed the gate and seen the flag is alone: the reactor is not between gate and queue."""
    reactor = SimpleNamespace(_is_paused=False, inside=False, ending=False)
    gate = _Checkpoint(cast(Association, reactor))

    def react() -> None:
        while not reactor.ending:
            reactor._is_paused = True
            gate.wait()
            reactor.inside = True
            time.sleep(1e-4)
            reactor.inside = False

    thread = threading.Thread(target=react)
    thread.start()
    met = 0
    try:
        for _ in range(2000):
            gate.clear()
            while not reactor._is_paused:
                time.sleep(1e-4)
            met += reactor.inside
            time.sleep(2e-4)
            met += reactor.inside
            gate.set()
    finally:
        reactor.ending = True
        gate.set()
        thread.join(timeout=10)
    assert not thread.is_alive()
    assert met == 0


def test_that_an_association_ended_is_told_to_everybody_who_asks() -> None:
    """Its reactor, and the ``send_*`` that waits for an answer."""
    messages = _Messages()
    messages.put((1, "answer"))
    messages.put((None, None))
    assert [messages.get(block=False) for _ in range(3)] == [(1, "answer"), (None, None), (None, None)]


def test_many_messages_in_a_row_are_all_answered_at_once() -> None:
    ae = AE("ECHO")
    ae.add_supported_context(VERIFICATION)
    port = listen(ae)
    sender = AE("SENDER")
    sender.dimse_timeout = 5
    sender.add_requested_context(VERIFICATION)
    handlers: list[evt.EventHandlerType] = [(evt.EVT_CONN_OPEN, on_open)]
    association = sender.associate("127.0.0.1", port, evt_handlers=handlers)
    try:
        assert association.is_established
        connection = association.dul.socket.socket
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert [association.send_c_echo().get("Status") for _ in range(300)] == [0] * 300
    finally:
        association.release()
        ae.shutdown()
    assert not association.is_alive()
