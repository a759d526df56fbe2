"""A PACS that does what it should not: on every association what its script says, over a real port."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import chain, repeat
from pathlib import Path
from typing import Literal, Self, cast

from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association

from node.association import on_open
from node.peers import Peer

Way = Literal[
    "good",
    "resets the connection",
    "closes the connection",
    "talks another protocol",
    "answers no request",
    "aborts every request",
    "does not know us",
    "has no room for associations",
    "takes other classes alone",
    "takes other syntaxes alone",
    "lacks a class",
    "aborts at once",
    "aborts in the middle",
    "stores and aborts",
    "stores and closes",
    "stores and is silent",
    "stores and talks nonsense",
    "aborts at one object",
    "is full",
    "cannot process",
    "refuses every object",
    "fails every 7th",
    "answers slowly",
    "warns",
]

_REJECTIONS: dict[Way, tuple[int, int, int]] = {
    "does not know us": (1, 1, 3),
    "has no room for associations": (2, 3, 2),
}
_FAILURES: dict[Way, int] = {"is full": 0xA700, "cannot process": 0x0110, "refuses every object": 0xC000}
_NONSENSE = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
_MIDDLE = 3


class BadPeer:
    """A storage SCP on a loopback port, which plays scripts.

    Attributes
    ----------
    received
        Every object that came whole: instance UID and SHA-256 of its data set.
    stored
        How often each instance was stored.
    associations
        How many connections came.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._go_on = threading.Event()
        self.port = 0
        self.play("good")

    def play(self, *script: Way, poison: str = "") -> None:
        """Forget everything, and do this on each association; the last way ever after.

        ``poison`` is the instance at which it aborts, and the SOP class that it lacks, where a way says so.
        """
        self._script: Iterator[Way] = chain(script, repeat(script[-1]))
        self._poison = poison
        self._ways: dict[Association, Way] = {}
        self._sent: Counter[Association] = Counter()
        self._asked = 0
        self._go_on.clear()
        self.received: list[tuple[str, str]] = []
        self.stored: Counter[str] = Counter()
        self.associations = 0

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()

    @property
    def peer(self) -> Peer:
        """As the configuration names it."""
        return Peer(ae_title="PACS", host="127.0.0.1", port=self.port)

    def listen(self) -> None:
        """Take connections, always on the same port."""
        ae = AE("PACS")
        ae.add_supported_context("1.2.840.10008.1.1")
        ae.maximum_associations = 1000
        server = ae.start_server(
            ("127.0.0.1", self.port), block=False,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, self._open), (evt.EVT_REQUESTED, self._request),
                (evt.EVT_ESTABLISHED, self._established), (evt.EVT_C_STORE, self._store),
            ],
        )  # fmt: skip
        assert server is not None
        self._ae = ae
        self.port = server.server_address[1]

    def hang_up(self) -> None:
        """End all associations and refuse connections."""
        self._go_on.set()
        self._ae.shutdown()

    def recover(self) -> None:
        """From the next association on be good."""
        self._script = repeat("good")
        self._go_on.set()

    def _open(self, event: evt.Event) -> None:
        on_open(event)
        with self._lock:
            self.associations += 1
            way = self._ways[event.assoc] = next(self._script)
        if way == "resets the connection":
            _socket(event.assoc).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            _socket(event.assoc).close()
        elif way == "closes the connection":
            _socket(event.assoc).shutdown(socket.SHUT_RDWR)
        elif way == "talks another protocol":
            _socket(event.assoc).sendall(_NONSENSE)
        elif way == "answers no request":
            self._go_on.wait(60)

    def _request(self, event: evt.Event) -> None:
        way, assoc = self._ways[event.assoc], event.assoc
        proposed = {str(c.abstract_syntax) for c in assoc.requestor.requested_contexts}
        if way in _REJECTIONS:
            assoc.acse.send_reject(*_REJECTIONS[way])
            assoc.kill()
        elif way == "aborts every request":
            assoc.abort()
        if way == "lacks a class":
            proposed -= {self._poison}
        if way == "takes other classes alone":
            proposed = {DigitalXRayImageStorageForPresentation}
        syntax = JPEG2000Lossless if way == "takes other syntaxes alone" else ExplicitVRLittleEndian
        assoc.acceptor.supported_contexts = [build_context(uid, syntax) for uid in sorted(proposed)]

    def _established(self, event: evt.Event) -> None:
        if self._ways[event.assoc] == "aborts at once":
            event.assoc.abort()

    def _store(self, event: evt.Event) -> int:
        way, assoc = self._ways[event.assoc], event.assoc
        uid = str(event.request.AffectedSOPInstanceUID)
        with self._lock:
            self._sent[assoc] += 1
            self._asked += 1
            middle, seventh = self._sent[assoc] == _MIDDLE, self._asked % 7 == 0
            self.received.append((uid, sha256(event.encoded_dataset(include_meta=False)).hexdigest()))
        if (way == "aborts in the middle" and middle) or (way == "aborts at one object" and uid == self._poison):
            assoc.abort()
            return 0x0110
        if way == "fails every 7th" and seventh:
            return 0x0110
        if way in _FAILURES:
            return _FAILURES[way]
        with self._lock:
            self.stored[uid] += 1
        if way == "answers slowly":
            self._go_on.wait(0.02)
        if way == "stores and aborts" and middle:
            assoc.abort()
        elif way == "stores and closes" and middle:
            _socket(assoc).shutdown(socket.SHUT_RDWR)
        elif way == "stores and talks nonsense" and middle:
            _socket(assoc).sendall(_NONSENSE)
        elif way == "stores and is silent" and middle:
            self._go_on.wait(60)
        return 0xB000 if way == "warns" else 0x0000


def _socket(assoc: Association) -> socket.socket:
    return cast(socket.socket, assoc.dul.socket.socket)  # type: ignore[union-attr]


def digests(paths: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of the data set in each file: what follows the file meta information (PS3.10 section 7.1)."""
    found = {}
    for path in paths:
        content = path.read_bytes()
        start = 144 + int.from_bytes(content[140:144], "little")
        found[path] = sha256(content[start:]).hexdigest()
    return found
