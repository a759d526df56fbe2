"""Success only after the object and its journal row survive a loss of power, at every moment of an acquisition.

The node runs under ``strace``. Its system calls are replayed on a model of a disk (`crash_states`), and after every
one that changes the disk, and after every answer, the model says what a loss of power may leave. A node that opens
what is left has to know everything that was answered with Success until then.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import cache
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pydicom
import pytest

from node import loopback
from node.config import Peer, Settings
from node.jobs import InlineWorker
from node.journal import Journal
from node.service import Node
from node.spool import Spool, digest

SOAK = os.environ.get("QSM_NODE_SOAK") == "1"
EVERY, SCATTERED, RESUMED = (1, 4, 40) if SOAK else (8, 1, 5)
"""At every moment it is looked at what is left if nothing is that was not made safe; at every so manyth at all
choices, so many of them random. So often a node goes on with what is left."""
SCANNER = '[peers.scanner]\nae_title = "SCANNER"\nhost = "127.0.0.1"\nport = 1\n'
PACS = '[peers.pacs]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {port}\n'
SERVE = "from node.cli import main\nif __name__ == '__main__': main()\n"
UNSYNCED = """
import os
fsync, of = os.fsync, lambda fd: os.readlink(f"/proc/self/fd/{fd}")
os.fsync = lambda fd: None if WHICH else fsync(fd)
"""
UNSAFE = """
from node.database import Database
first = Database.__init__
def opens(self, path):
    first(self, path)
    self._db.execute("PRAGMA synchronous = NORMAL")
Database.__init__ = opens
"""
FORGETFUL = {
    "its object is damaged": UNSYNCED.replace("WHICH", "'/spool/' in of(fd)"),
    "its object is missing": UNSYNCED.replace("WHICH", "of(fd).endswith('/spool')"),
    "answered, and not in the journal": UNSAFE,
}
"""How nodes begin that answer too early, and what is found."""


# --------------------------------------------------------------------------------------------------- recording


class Traced:
    """``qsm-node serve`` under strace, several times one after the other over one data folder."""

    def __init__(self, strace: str, calls: ModuleType, folder: Path, peers: str = "") -> None:
        self._strace, self._calls = strace, calls
        self.disk = folder / "disk"
        self.disk.mkdir(parents=True)
        self.data = self.disk / "data"
        self._config, self._log, self._output = folder / "node.toml", folder / "log.jsonl", folder / "calls.txt"
        self._script = folder / "serve.py"
        self._config.write_text(f'port = 0\nquiet_s = 1\ndata_dir = "{self.data}"\n{peers}')

    @contextlib.contextmanager
    def running(self, start: str = "") -> Iterator[int]:
        """A node, that begins with these statements, as long as the block lasts; its port."""
        self._script.write_text(f"{start}\n{SERVE}")
        self._log.write_text("")
        before = self._output.stat().st_size if self._output.exists() else 0
        program = [sys.executable, str(self._script), "serve", "--config", str(self._config)]
        with self._log.open("a") as log:
            process = subprocess.Popen(self._calls.traced(self._strace, self._output, program), stderr=log)
        try:
            yield self._port(process)
        finally:
            if process.poll() is None:
                with self._output.open() as output:
                    output.seek(before)
                    os.kill(int(output.readline().split()[0]), signal.SIGTERM)
            assert process.wait(30) == 0, self._log.read_text()

    def _port(self, process: subprocess.Popen[bytes]) -> int:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            for event in self.events("node started"):
                return int(event["port"])
            time.sleep(0.05)
        pytest.fail(f"the node does not start: {self._log.read_text()}")

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of this name since the node began."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if line["event"] == name]

    def recorded(self) -> list[Any]:
        """The calls so far."""
        return list(self._calls.calls(self._output, self.disk))


class Answers:
    """Instances that were answered with Success, read from what went out on sockets.

    PS3.8 section 9.3.5 (P-DATA-TF), PS3.7 sections 6.3.1 and 9.3.1.2 (C-STORE-RSP).
    """

    def __init__(self) -> None:
        self.instances: set[str] = set()
        self._streams: dict[str, bytes] = {}
        self._commands: dict[str, bytes] = {}

    def hear(self, connection: str, data: bytes) -> bool:
        """Whether with these bytes an instance has been answered."""
        before = len(self.instances)
        stream = self._streams.get(connection, b"") + data
        while len(stream) >= 6 and len(stream) >= (end := 6 + int.from_bytes(stream[2:6], "big")):
            if stream[0] == 0x04:
                self._hear_values(connection, stream[6:end])
            stream = stream[end:]
        self._streams[connection] = stream
        return len(self.instances) > before

    def _hear_values(self, connection: str, values: bytes) -> None:
        while values:
            end = 4 + int.from_bytes(values[:4], "big")
            control, fragment, values = values[5], values[6:end], values[end:]
            if not control & 1:
                continue
            command = self._commands.pop(connection, b"") + fragment
            if control & 2:
                self._hear_command(command)
            else:
                self._commands[connection] = command

    def _hear_command(self, command: bytes) -> None:
        elements = {}
        while command:
            end = 8 + int.from_bytes(command[4:8], "little")
            elements[int.from_bytes(command[2:4], "little")] = command[8:end]
            command = command[end:]
        if elements[0x0100] == b"\x01\x80" and elements[0x0900] == b"\0\0":
            self.instances.add(elements[0x1000].rstrip(b"\0 ").decode())


def moments(disk: Any, calls: Sequence[Any]) -> Iterator[tuple[str, frozenset[str]]]:
    """Replay the calls: after each that changed the disk and each answer, what it was and who was answered.

    An answer counts from the begin of the call that sends it, a change from the end.
    """
    answers, answered = Answers(), frozenset[str]()
    sends = {"sendto", "sendmsg", "write", "writev"}

    def socket_of(call: Any) -> str:
        path = call.descriptor(0).path if call.name in sends else ""
        return path if path.startswith("socket:") else ""

    for call in sorted(calls, key=lambda call: call.begun if socket_of(call) else call.ended):
        if connection := socket_of(call):
            if answers.hear(connection, call.data(1)[: call.result]):
                answered = frozenset(answers.instances)
                yield "answer", answered
        elif disk.apply(call):
            yield call.name, answered


# ---------------------------------------------------------------------------------------------------- checking


@contextlib.contextmanager
def opened(data: Path) -> Iterator[Journal]:
    """The journal of a node that starts over this data folder, as soon as it would listen."""
    node = Node(Settings(port=0, data_dir=data), InlineWorker)
    node._lock = node._take_data_dir()
    try:
        node._open()
        yield node.journal
    finally:
        node._close()


def problems(data: Path, answered: frozenset[str]) -> list[str]:
    """What a node that starts there has lost or damaged."""
    with opened(data) as journal:
        found = [row[0] for row in journal.query("PRAGMA integrity_check") if row[0] != "ok"]
        instances = dict(journal.query("SELECT sop_instance_uid, sha256 FROM instance"))
        results = journal.query("SELECT path, sha256 FROM delivery")
    found += [f"{uid}: answered, and not in the journal" for uid in sorted(answered - instances.keys())]
    spool = Spool(data / "spool")
    for uid, sha256 in instances.items():
        try:
            if _identity(spool.path(sha256).read_bytes()) != (uid, sha256):
                found.append(f"{uid}: its object is damaged")
        except FileNotFoundError:
            found.append(f"{uid}: its object is missing")
    for path, sha256 in results:
        try:
            if digest((data / path).read_bytes()) != sha256:
                found.append(f"{path}: damaged")
        except FileNotFoundError:
            found.append(f"{path}: missing")
    return found


@cache
def _identity(content: bytes) -> tuple[str, str]:
    """Instance UID and SHA-256 of the data set of a DICOM file."""
    try:
        ds = pydicom.dcmread(BytesIO(content))
        start = 144 + int.from_bytes(content[140:144], "little")
        return str(ds.SOPInstanceUID), digest(content[start:])
    except (pydicom.errors.InvalidDicomError, AttributeError):
        return "", ""


class Examination:
    """Opens what may be left at each moment, each different thing once."""

    def __init__(self, replica: Any) -> None:
        self._replica = replica
        self._seen: dict[int, int] = {}
        self.found: list[str] = []

    def __len__(self) -> int:
        return len(self._seen)

    def look(self, state: dict[str, bytes | None], answered: frozenset[str], where: str) -> None:
        """Open this state, unless it was when no fewer instances had been answered."""
        key = hash(frozenset(state.items()))
        if self._seen.get(key, -1) < len(answered):
            self._seen[key] = len(answered)
            self._replica.become(state)
            self.found += [f"{where}: {problem}" for problem in problems(self._replica.folder / "data", answered)]


# -------------------------------------------------------------------------------------------------------- tests


@pytest.fixture
def strace(peer: Callable[[str], str], system_calls: ModuleType, tmp_path: Path) -> str:
    """Path of strace, where it may trace."""
    program = peer("strace")
    command = system_calls.traced(program, tmp_path / "trial.txt", [sys.executable, "-S", "-c", ""])
    trial = subprocess.run(command, capture_output=True, text=True, check=False)
    if trial.returncode:
        reason = f"strace may not trace here: {trial.stderr.strip()}"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return program


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder where synchronising costs nothing, if there is one."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        yield Path(folder)


KEEPS = [
    "new('object'); write(); fsync(); fsync(here)",
    "new('part'); write(); fsync(); rename('part', 'object'); fsync(here)",
    "new('object', O_DSYNC); write(); fsync(here)",
    "new('object'); pwritev(file, [b'12', b'345'], 0, RWF_DSYNC); fsync(here)",
    "new('object'); write(b'12345678'); ftruncate(file, 5); sync()",
]
LOSES = [
    "new('object'); write()",
    "new('object'); write(); fsync()",
    "new('object'); write(); fsync(here)",
    "new('object'); fsync(); write(); fsync(here)",
    "new('part'); write(); rename('part', 'object'); fsync(here)",
    "new('part'); write(); fsync(); rename('part', 'object')",
    "new('part'); write(); fsync(); fsync(here); rename('part', 'object')",
    "new('object'); write(b'123'); fsync(); write(b'45'); fsync(here)",
    "new('object'); write(b'12345678'); fsync(); fsync(here); ftruncate(file, 5)",
    "new('object'); write(); fsync(); fsync(here); rename('object', 'o'); fsync(here); rename('o', 'object')",
    "new('a'); write(); fsync(); fsync(here); link('a', 'object', src_dir_fd=here, dst_dir_fd=here)",
]
"""What programs do before they answer for an object, the bytes 12345; the first ones keep it for certain."""

PROGRAM = r"""
import os, socket
from os import *

one, other = socket.socketpair()
here = open(".", O_RDONLY)

def new(name, flags=0):
    global file
    file = open(name, O_CREAT | O_WRONLY | flags)

def write(data=b"12345"):
    os.write(file, data)

def fsync(what=None):
    os.fsync(what or file)

def rename(old, new):
    os.rename(old, new, src_dir_fd=here, dst_dir_fd=here)

command = b"".join(
    b"\0\0" + tag.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value
    for tag, value in ((0x0100, b"\x01\x80"), (0x0900, b"\0\0"), (0x1000, b"1.2\0"))
)
values = (len(command) + 2).to_bytes(4, "big") + b"\x01\x03" + command
{steps}
one.sendall(b"\x04\0" + len(values).to_bytes(4, "big") + values)
"""


@pytest.fixture
def left_by(
    strace: str, system_calls: ModuleType, crash_states: ModuleType, tmp_path: Path
) -> Callable[[str], list[bytes | None]]:
    """``left_by(steps)`` is what may be left of the object when `PROGRAM` has taken these steps and answered."""

    def left(steps: str) -> list[bytes | None]:
        folder, output = tmp_path / "disk", tmp_path / "calls.txt"
        folder.mkdir()
        program = [sys.executable, "-S", "-c", PROGRAM.format(steps=steps)]
        subprocess.run(system_calls.traced(strace, output, program), cwd=folder, check=True)
        disk = crash_states.Disk(folder)
        *_, last = moments(disk, list(system_calls.calls(output, folder)))
        assert last == ("answer", {"1.2"})
        assert disk.state(crash_states.applied) == crash_states.held(folder)
        return [disk.state(choose).get("object") for choose in choices(crash_states, 0, 200)]

    return left


@pytest.mark.parametrize("steps", KEEPS)
def test_the_model_knows_who_answers_in_time(left_by: Callable[[str], list[bytes | None]], steps: str) -> None:
    assert set(left_by(steps)) == {b"12345"}


@pytest.mark.parametrize("steps", LOSES)
def test_the_model_knows_who_answers_too_early(left_by: Callable[[str], list[bytes | None]], steps: str) -> None:
    assert set(left_by(steps)) > {b"12345"}


def test_a_write_is_torn_at_sectors_and_nowhere_else(left_by: Callable[[str], list[bytes | None]]) -> None:
    left = left_by("new('object'); write(bytes(2000)); fsync(); fsync(here); pwrite(file, b'1' * 1000, 400)")
    parts = [(b"\0" * n, b"1" * n) for n in (112, 512, 376)]
    assert set(left) == {b"\0" * 400 + b"".join(chosen) + b"\0" * 600 for chosen in itertools.product(*parts)}


def choices(crash_states: ModuleType, seed: int, scattered: int) -> list[Any]:
    """What may be left at a moment: nothing or all of what is not safe, names or bytes alone, and random parts."""
    fixed = [crash_states.dropped, crash_states.applied, crash_states.names_early, crash_states.names_late]
    return [*fixed, *(crash_states.scattered(seed + k) for k in range(scattered))]


@pytest.mark.parametrize("problem", FORGETFUL)
def test_a_node_that_answers_too_early_is_caught(
    strace: str,
    system_calls: ModuleType,
    crash_states: ModuleType,
    tmp_path: Path,
    in_memory: Path,
    tiny_study: list[Path],
    problem: str,
) -> None:
    traced = Traced(strace, system_calls, tmp_path, SCANNER)
    with traced.running(FORGETFUL[problem]) as port:
        loopback.send(tiny_study[:4], port, "QSMNODE")
    disk = crash_states.Disk(traced.disk)
    examination = Examination(crash_states.Replica(in_memory))
    for what, answered in moments(disk, traced.recorded()):
        if what == "answer":
            examination.look(disk.state(crash_states.dropped), answered, what)
    assert {found.split(": ")[-1] for found in examination.found} == {problem}


@pytest.mark.timeout(0 if SOAK else 300)
def test_a_loss_of_power_at_any_moment_loses_nothing(
    strace: str,
    system_calls: ModuleType,
    crash_states: ModuleType,
    tmp_path: Path,
    in_memory: Path,
    tiny_study: list[Path],
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One acquisition in two runs of the node, from an empty data folder to the last delivery and the end.

    At a few moments a node goes on with what is left, the scanner sends what was not answered, and the PACS gets the
    bytes that it got without a loss of power.
    """
    with loopback.Pacs(tmp_path / "pacs") as pacs:
        traced = Traced(
            strace, system_calls, tmp_path, f'deliver_to = ["pacs"]\n{SCANNER}{PACS.format(port=pacs.port)}'
        )
        with traced.running() as port:
            loopback.send(tiny_study[:48], port, "QSMNODE")
        with traced.running() as port:
            loopback.send(tiny_study[48:], port, "QSMNODE")
            eventually(lambda: sum(e["objects"] for e in traced.events("delivered")) == 32, "all is delivered", 120)
        whole = stored(pacs)
    assert len(whole) == 32

    calls, disk = traced.recorded(), crash_states.Disk(traced.disk)
    examination = Examination(crash_states.Replica(in_memory))
    lost: list[tuple[dict[str, bytes | None], frozenset[str]]] = []
    for number, (what, answered) in enumerate(moments(disk, calls)):
        thorough = number % EVERY == 0
        for k, choose in enumerate(
            choices(crash_states, number * SCATTERED, SCATTERED) if thorough else [crash_states.dropped]
        ):
            state = disk.state(choose)
            examination.look(state, answered, f"moment {number}, after {what}, choice {k}")
        if thorough:
            lost.append((state, answered))
    assert examination.found == []
    assert answered == {str(pydicom.dcmread(path).SOPInstanceUID) for path in tiny_study}
    assert disk.state(crash_states.applied) == crash_states.held(traced.disk), "the model is not what the disk is"
    print(f"{len(calls)} calls, {number + 1} moments, {len(examination)} states, {len(answered)} answered")

    with opened(traced.data) as journal:
        ((derived_at,),) = journal.query("SELECT derived_at FROM job")
    complete, at = Journal.complete, datetime.fromisoformat(derived_at)
    monkeypatch.setattr(Journal, "complete", lambda self, g, recipe, _: complete(self, g, recipe, at))
    for number in range(1, RESUMED + 1):
        state, answered = lost[len(lost) * number // (RESUMED + 1)]
        folder = tmp_path / f"resumed-{number}"
        folder.mkdir()
        crash_states.Replica(folder).become(state)
        rest = [path for path in tiny_study if pydicom.dcmread(path).SOPInstanceUID not in answered]
        before, after = resumed(folder, rest, eventually)
        assert after == {uid: whole[uid] for uid in whole.keys() - before}


def stored(pacs: loopback.Pacs) -> dict[str, bytes]:
    """What the PACS holds, by instance UID."""
    return {str(pydicom.dcmread(path).SOPInstanceUID): path.read_bytes() for path in pacs.paths()}


def resumed(folder: Path, rest: list[Path], eventually: Callable[..., None]) -> tuple[set[str], dict[str, bytes]]:
    """A node goes on over this data folder and is sent the rest: what was delivered before, and what is then."""

    def delivered(journal: Journal) -> set[str]:
        return {uid for (uid,) in journal.query("SELECT sop_instance_uid FROM delivery WHERE state = 'delivered'")}

    with opened(folder / "data") as journal:
        before = delivered(journal)
    with loopback.Pacs(folder / "pacs") as pacs:
        peers = {
            "scanner": Peer(ae_title="SCANNER"),
            "pacs": Peer(ae_title=pacs.ae_title, host="127.0.0.1", port=pacs.port),
        }
        settings = Settings(port=0, data_dir=folder / "data", quiet_s=0.2, deliver_to=("pacs",), peers=peers)
        with Node(settings, InlineWorker) as node:
            if rest:
                loopback.send(rest, node.port, "QSMNODE")
            eventually(lambda: len(delivered(node.journal)) == 32, "all is delivered", 120)
        return before, stored(pacs)
