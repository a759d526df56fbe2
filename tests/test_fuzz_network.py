"""Nonsense at both ports of a node that serves: it goes on for others, and keeps neither threads nor memory of it.

An attempt is a function of its number: `QSM_NODE_FUZZ_PDUS=100000 pytest tests/test_fuzz_network.py` sends the
nightly set.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt

from associations import ends
from node.association import VERIFICATION, on_open

COUNT = int(os.environ.get("QSM_NODE_FUZZ_PDUS", "2000"))
BATCH = 250
GROWTH_BYTES = 50 << 20
COMMAND = "from node.cli import main; main()"
LENGTHS = (0, 1, 3, 4, 5, 7, 67, 255, 65535, 1 << 18, (1 << 20) + 1, 1 << 31, 0xFFFFFFFF)


@dataclass
class Served:
    """A node in a process of its own, and how to speak to it."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int
    tls_port: int
    tls: ssl.SSLContext
    study: list[Path]
    sent: list[bytes] = field(default_factory=list)
    """The PDUs of a good association: request, C-ECHO, parts of a C-STORE, release."""

    def connect(self, secure: bool) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.tls_port if secure else self.port), timeout=30)
        return self.tls.wrap_socket(connection, server_hostname="localhost") if secure else connection

    def works(self, image: int = 0) -> None:
        """C-ECHO and C-STORE at both ports are answered Success."""
        for port, tls in ((self.port, None), (self.tls_port, (self.tls, "localhost"))):
            ae = AE("SCANNER")
            ae.add_requested_context(VERIFICATION)
            ae.add_requested_context(MRImageStorage, pydicom.uid.ExplicitVRLittleEndian)
            handlers: list[Any] = [(evt.EVT_CONN_OPEN, on_open)]
            handlers += (
                [(evt.EVT_DATA_SENT, lambda event: self.sent.append(event.data))] if len(self.sent) < 4 else []
            )
            assoc = ae.associate("127.0.0.1", port, ae_title="QSMNODE", tls_args=tls, evt_handlers=handlers)
            assert assoc.is_established
            assert assoc.send_c_echo().Status == 0
            assert assoc.send_c_store(pydicom.dcmread(self.study[image % len(self.study)])).Status == 0
            assoc.release()

    def resident_bytes(self) -> int:
        return 1024 * self._status("VmRSS")

    def threads(self) -> int:
        return self._status("Threads")

    def _status(self, name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found, "the node has ended"
        return int(found[1])


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, new_authority: Callable[..., Any], tiny_study: list[Path]
) -> Iterator[Served]:
    folder, authority = tmp_path_factory.mktemp("node"), new_authority()
    pair, scanner = authority.issue("node"), authority.issue("scanner")
    (folder / "node.toml").write_text(
        f'port = 0\nquiet_s = 3600\ndata_dir = "{folder}/data"\n'
        f'[tls]\nport = 0\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n'
        f'authorities = "{authority.certificate}"\n'
        '[peers.scanner]\nae_title = "SCANNER"\nhost = "127.0.0.1"\nport = 104\n'
    )
    tls = ssl.create_default_context(cafile=str(authority.certificate))
    tls.load_cert_chain(scanner.certificate, scanner.key)
    log = folder / "log.jsonl"
    with log.open("wb") as lines:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "serve", "--config", str(folder / "node.toml")], stderr=lines
        )
    try:
        while '"node started"' not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        started = next(json.loads(line) for line in log.read_text().splitlines() if '"node started"' in line)
        yield Served(process, log, started["port"], started["tls_port"], tls, tiny_study)
    finally:
        process.terminate()
        assert process.wait(60) == 0
    written = log.read_text()
    assert "thread has ended" not in written
    assert all(line.startswith("{") for line in written.splitlines())  # no traceback


def attempt(sent: list[bytes], rng: random.Random) -> list[bytes]:
    """PDUs, or what pretends to be some."""
    request, rest = sent[0], sent[1:]
    kind = rng.choice(("random", "request", "request", "length", "order", "later", "later", "items"))
    if kind == "random":
        return [rng.randbytes(rng.choice((1, 5, 6, 7, 100, 2000)))]
    if kind == "request":
        return [mutated(request, rng)]
    if kind == "length":
        return [struct.pack(">BBL", rng.randrange(9), 0, rng.choice(LENGTHS)) + request[6 : rng.randrange(6, 300)]]
    if kind == "items":  # lengths of items in a request or message that is well formed outside
        pdu = bytearray(rng.choice(sent))
        at = rng.randrange(6, len(pdu) - 2)
        pdu[at : at + 2] = struct.pack(">H", rng.choice(LENGTHS) & 0xFFFF)
        return [bytes(pdu)] if pdu[0] == 1 else [request, bytes(pdu)]
    if kind == "order":
        controls = [bytes([kind, 0, 0, 0, 0, 4, 0, 0, 0, 0]) for kind in (3, 5, 6, 7)]
        accepted = b"\2" + request[1:]
        return rng.choices([*sent, *controls, accepted], k=rng.randrange(1, 6))
    return [request, *rest[: rng.randrange(len(rest))], mutated(rng.choice(rest), rng)]


def mutated(pdu: bytes, rng: random.Random) -> bytes:
    """Bits flipped, cut off or spliced; the length that is announced fits in half of the cases."""
    change = rng.choice(("flip", "flip", "cut", "splice"))
    body = bytearray(pdu[6:])
    at = rng.randrange(len(body))
    if change == "cut":
        del body[at:]
    elif change == "splice":
        body[at:at] = rng.randbytes(rng.randrange(1, 40))
    else:
        for _ in range(rng.choice((1, 1, 4, 30))):
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    length = len(body) if rng.random() < 0.5 else len(pdu) - 6
    return pdu[:2] + struct.pack(">L", length) + bytes(body)


def test_silent_and_half_open_connections_hold_up_nobody(node: Served, eventually: Callable[..., None]) -> None:
    node.works()
    threads, memory = node.threads(), node.resident_bytes()
    with contextlib.ExitStack() as opened:
        for number in range(500):
            secure, begins = number % 2 == 0, number % 3 == 0
            connection = socket.create_connection(("127.0.0.1", node.tls_port if secure else node.port), timeout=30)
            opened.enter_context(connection)
            if begins:
                connection.sendall(b"\x16\x03\x01\x02" if secure else node.sent[0][: 6 + number % 100])
            if number % 100 == 50:
                node.works(number)
        node.works()
        assert node.threads() - threads < 80  # 32 wait at each port
    eventually(lambda: node.threads() <= threads, f"{threads} threads as before, not {node.threads()}", 60)
    assert node.resident_bytes() - memory < GROWTH_BYTES
    node.works()


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_pdus_that_are_nonsense(node: Served, secure: bool, eventually: Callable[..., None]) -> None:
    node.works()
    node.works(1)
    threads, memory, told = node.threads(), node.resident_bytes(), 0
    number = sent = 0
    while sent < COUNT // 2:
        rng = random.Random(number)
        pdus = attempt(node.sent, rng)
        try:
            ends(node.connect(secure), pdus)
        except TimeoutError as error:
            raise AssertionError(f"attempt {number} is neither answered nor ended") from error
        number, sent = number + 1, sent + len(pdus)
        if sent // BATCH > told:
            told = sent // BATCH
            node.works(number)
    node.works()
    eventually(lambda: node.threads() <= threads, f"{threads} threads as before, not {node.threads()}", 60)
    assert node.resident_bytes() - memory < GROWTH_BYTES
