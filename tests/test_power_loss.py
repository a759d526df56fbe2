"""Success only after the object and its journal row survive a loss of power, at every moment of an acquisition.

The node runs under ``strace``. Its system calls are replayed on a model of a disk (`crash_states`), and after every
one that changes the disk, and after every answer, the model says what a loss of power may leave. A node that opens
what is left has to know everything that was answered with Success until then.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime
from functools import cache
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pydicom
import pytest

from node import loopback
from node.config import Settings
from node.journal import Journal
from node.peers import Peer
from node.service import Node
from node.spool import Spool
from node.workers import InlineWorker

SOAK = os.environ.get("QSM_NODE_SOAK") == "1"
EVERY, SCATTERED, RESUMED = (1, 4, (10, 30)) if SOAK else (8, 1, (2, 3))
"""At every so manyth moment all choices of `crash_states` are looked at, so many of them random; at the others, that
all is lost that was not made safe. So often before the last answer, and after it, a node goes on with what is left.
"""
SCANNER = '[peers.scanner]\nae_title = "SCANNER"\nhost = "127.0.0.1"\nport = 1\n'
PACS = '[peers.pacs]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {port}\n'
SERVE = "from node.cli import main\nif __name__ == '__main__': main()\n"
UNSYNCED = """
import os
{call}, of = os.{call}, lambda fd: os.readlink(f"/proc/self/fd/{{fd}}")
os.{call} = lambda fd: None if {which} else {call}(fd)
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
    "objects are not synchronised": UNSYNCED.format(call="fdatasync", which="True"),
    "names in the inbox are not": UNSYNCED.format(call="fsync", which="of(fd).endswith('/inbox')"),
    "names in the spool are not": UNSYNCED.format(call="fsync", which="of(fd).endswith('/spool')"),
    "the journal is not": UNSAFE,
}
"""How nodes begin that answer, or clear their inbox, too early."""


# --------------------------------------------------------------------------------------------------- recording


class Traced:
    """``qsm-node serve`` under strace, several times one after the other over one data folder."""

    def __init__(self, strace: Callable[[Path, Sequence[str]], list[str]], folder: Path, peers: str) -> None:
        self._strace = strace
        self.disk, self.trace = folder / "disk", folder / "trace.txt"
        self.disk.mkdir(parents=True)
        self.data = self.disk / "data"
        self._config, self._log, self._script = folder / "node.toml", folder / "log.jsonl", folder / "serve.py"
        self._config.write_text(f'port = 0\nquiet_s = 1\ndata_dir = "{self.data}"\n{peers}')

    @contextlib.contextmanager
    def running(self, start: str = "") -> Iterator[int]:
        """A node, that begins with these statements, as long as the block lasts; its port."""
        self._script.write_text(f"{start}\n{SERVE}")
        self._log.write_text("")
        before = self.trace.stat().st_size if self.trace.exists() else 0
        program = [sys.executable, str(self._script), "serve", "--config", str(self._config)]
        with self._log.open("a") as log:
            process = subprocess.Popen(self._strace(self.trace, program), stderr=log)
        try:
            yield self._port(process)
        finally:
            if process.poll() is None:
                with self.trace.open() as output:
                    output.seek(before)
                    os.kill(int(output.readline().split()[0]), signal.SIGTERM)
            assert process.wait(60) == 0, self._log.read_text()

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

    def receiving(self) -> bool:
        """Whether anything is in the inbox."""
        try:
            return any(path.stat().st_size for path in self.data.glob("inbox/*"))
        except FileNotFoundError:  # it was entered just now
            return True


# ---------------------------------------------------------------------------------------------------- checking


class Remembering(InlineWorker):
    """Reads a header once: what is found depends on the bytes of the file alone."""

    _found: ClassVar[dict[bytes, Any]] = {}

    def submit(self, fn: Callable[..., Any], files: Any = (), site: Any = None) -> Future[Any]:  # type: ignore[override]
        contents = [path.read_bytes() for path, _ in files]
        for file, content in zip(files, contents, strict=True):
            if content not in self._found:
                (self._found[content],) = fn([file], site)
        future: Future[Any] = Future()
        future.set_result([self._found[content] for content in contents])
        return future


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Journal]:
    """The journal of a node that starts with these settings, when it has entered what waited; it does not listen."""
    node = Node(settings, InlineWorker)
    node._spawn_reader = Remembering
    node._lock = node._take_data_dir()
    try:
        node._open()
    except BaseException:
        os.close(node._lock)
        raise
    try:
        node._indexer.step()
        yield node.journal
    finally:
        node._close()


def problems(settings: Settings, answered: frozenset[str]) -> list[str]:
    """What a node that starts there has lost or damaged."""
    with opened(settings) as journal:
        found = [row[0] for row in journal.query("PRAGMA integrity_check") if row[0] != "ok"]
        instances = dict(journal.query("SELECT sop_instance_uid, sha256 FROM instance"))
        results = journal.query("SELECT path, sha256 FROM delivery")
    found += [f"{uid}: answered, and not in the journal" for uid in sorted(answered - instances.keys())]
    data = settings.data_dir
    spool = Spool(data / "spool")
    for uid, sha256 in instances.items():
        try:
            if _identity(spool.path(sha256).read_bytes()) != (uid, sha256):
                found.append(f"{uid}: its object is damaged")
        except FileNotFoundError:
            found.append(f"{uid}: its object is missing")
    for path, sha256 in results:
        try:
            if _sha256((data / path).read_bytes()) != sha256:
                found.append(f"{path}: damaged")
        except FileNotFoundError:
            found.append(f"{path}: missing")
    return found


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@cache
def _identity(content: bytes) -> tuple[str, str]:
    """Instance UID and SHA-256 of the data set of a DICOM file."""
    try:
        ds = pydicom.dcmread(BytesIO(content))
        start = 144 + int.from_bytes(content[140:144], "little")
        return str(ds.SOPInstanceUID), _sha256(content[start:])
    except (pydicom.errors.InvalidDicomError, AttributeError):
        return "", ""


class Examination:
    """Opens what may be left at each moment, each different thing once."""

    def __init__(self, replica: Any) -> None:
        self._replica = replica
        self._settings = Settings(port=0, data_dir=replica.folder / "data")
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
            try:
                found = problems(self._settings, answered)
            except Exception as error:
                found = [f"a node does not start: {error!r}"]
            self.found += [f"{where}: {problem}" for problem in found]


# -------------------------------------------------------------------------------------------------------- tests


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder where synchronising costs nothing, if there is one."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize("what", FORGETFUL)
def test_a_node_that_forgets_to_synchronise_is_caught(
    strace: Callable[[Path, Sequence[str]], list[str]],
    crash_states: ModuleType,
    tmp_path: Path,
    in_memory: Path,
    tiny_study: list[Path],
    eventually: Callable[..., None],
    what: str,
) -> None:
    traced = Traced(strace, tmp_path, SCANNER)
    with traced.running(FORGETFUL[what]) as port:
        loopback.send(tiny_study[:4], port, "QSMNODE")
        eventually(lambda: not traced.receiving(), "all is entered")
    replay = crash_states.Replay(traced.trace, traced.disk)
    examination = Examination(crash_states.Replica(in_memory))
    for _, answered in replay:
        for choose in crash_states.choices(0, 0):
            examination.look(replay.disk.state(choose), answered, what)
    assert examination.found


@pytest.mark.timeout(0 if SOAK else 300)
def test_a_loss_of_power_at_any_moment_loses_nothing(
    strace: Callable[[Path, Sequence[str]], list[str]],
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
        traced = Traced(strace, tmp_path, f'deliver_to = ["pacs"]\n{SCANNER}{PACS.format(port=pacs.port)}')
        with traced.running() as port:
            loopback.send(tiny_study[:32], port, "QSMNODE")
            eventually(lambda: not traced.receiving(), "all is entered")
            loopback.send(tiny_study[32:48], port, "QSMNODE")
        with traced.running() as port:
            loopback.send(tiny_study[48:], port, "QSMNODE")
            eventually(lambda: sum(e["objects"] for e in traced.events("delivered")) == 32, "all is delivered", 120)
        whole = stored(pacs)
    assert len(whole) == 32

    replay = crash_states.Replay(traced.trace, traced.disk)
    examination = Examination(crash_states.Replica(in_memory))
    lost: dict[bool, list[tuple[dict[str, bytes | None], frozenset[str]]]] = {False: [], True: []}
    for number, (what, answered) in enumerate(replay):
        thorough = number % EVERY == 0
        some = crash_states.choices(number * SCATTERED, SCATTERED) if thorough else [crash_states.dropped]
        for k, choose in enumerate(some):
            state = replay.disk.state(choose)
            examination.look(state, answered, f"moment {number}, after {what}, choice {k}")
        if thorough:
            lost[len(answered) == len(tiny_study)].append((state, answered))
    assert examination.found == []
    assert answered == {str(pydicom.dcmread(path).SOPInstanceUID) for path in tiny_study}
    assert replay.disk.state(crash_states.applied) == crash_states.held(traced.disk), "the model is not the disk"
    print(f"{len(replay.calls)} calls, {number + 1} moments, {len(examination)} states, {len(answered)} answered")

    with opened(Settings(data_dir=traced.data)) as journal:
        ((derived_at,),) = journal.query("SELECT derived_at FROM job")
    complete, at = Journal.complete, datetime.fromisoformat(derived_at)
    monkeypatch.setattr(Journal, "complete", lambda self, g, recipe, _: complete(self, g, recipe, at))
    for number, (state, answered) in enumerate([*evenly(lost[False], RESUMED[0]), *evenly(lost[True], RESUMED[1])]):
        folder = tmp_path / f"resumed-{number}"
        folder.mkdir()
        crash_states.Replica(folder).become(state)
        rest = [path for path in tiny_study if pydicom.dcmread(path).SOPInstanceUID not in answered]
        before, after = resumed(folder, rest, eventually)
        assert after == {uid: whole[uid] for uid in whole.keys() - before}


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """So many of them, from all parts."""
    return [items[len(items) * (2 * k + 1) // (2 * count)] for k in range(count)]


def stored(pacs: loopback.Pacs) -> dict[str, bytes]:
    """What the PACS holds, by instance UID."""
    return {str(pydicom.dcmread(path).SOPInstanceUID): path.read_bytes() for path in pacs.paths()}


def resumed(folder: Path, rest: list[Path], eventually: Callable[..., None]) -> tuple[set[str], dict[str, bytes]]:
    """A node goes on over this data folder and is sent the rest: what was delivered before, and what is then."""

    def delivered(journal: Journal) -> set[str]:
        return {uid for (uid,) in journal.query("SELECT sop_instance_uid FROM delivery WHERE state = 'delivered'")}

    with loopback.Pacs(folder / "pacs") as pacs:
        peers = {
            "scanner": Peer(ae_title="SCANNER"),
            "pacs": Peer(ae_title=pacs.ae_title, host="127.0.0.1", port=pacs.port),
        }
        settings = Settings(port=0, data_dir=folder / "data", quiet_s=0.2, deliver_to=("pacs",), peers=peers)
        with opened(settings) as journal:
            before = delivered(journal)
        with Node(settings, InlineWorker) as node:
            if rest:
                loopback.send(rest, node.port, "QSMNODE")
            eventually(lambda: len(delivered(node.journal)) == 32, "all is delivered", 120)
        return before, stored(pacs)
