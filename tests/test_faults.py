"""What must not happen when the node is killed, when images come in bursts, and when what comes is nonsense."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
import pynetdicom
import pytest
from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt

from associations import association
from dicom_sets import renewed
from node import loopback
from node.association import on_open
from node.config import Settings
from node.deliver import echo
from node.errors import Refusal
from node.jobs import run_job
from node.overview import summaries
from node.peers import Peer
from node.records import Failed, JobOutcome, JobSpec
from node.service import Node
from node.workers import InlineWorker

COMMAND = "from node.cli import main; main()"
KILLED_BEFORE_COMMIT = """
import os, signal, sys
from node.cli import main
from node.journal import Journal

if __name__ == "__main__":
    Journal.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    main()
"""


class Hesitant(loopback.Pacs):
    """A PACS that takes five objects and answers further ones when it is told to go on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.taken = 0
        self.go_on = threading.Event()

    def _store(self, event: evt.Event) -> int:
        self.taken += 1
        if self.taken > 5:
            self.go_on.wait(60)
        return super()._store(event)


class Served:
    """`qsm-node serve` in processes of its own, one after the other, over one data folder."""

    def __init__(self, folder: Path, pacs: loopback.Pacs) -> None:
        self.data = folder / "data"
        self.config = folder / "node.toml"
        self.config.write_text(
            f'port = 0\nquiet_s = 2\ndata_dir = "{self.data}"\ndeliver_to = ["pacs"]\n'
            '[peers.scanner]\nae_title = "SCANNER"\n'
            f'[peers.pacs]\nae_title = "{pacs.ae_title}"\nhost = "127.0.0.1"\nport = {pacs.port}\n'
        )
        self.pacs = pacs
        self.log = folder / "log.jsonl"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *program: str) -> None:
        """Start, and wait until it listens."""
        self.log.write_text("")
        arguments = [sys.executable, *(program or ("-c", COMMAND)), "serve", "--config", str(self.config)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(arguments, stderr=log)
        self.wait_for("node started", 60)
        self.port: int = self.events("node started")[0]["port"]

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Log lines of this name since the start."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if name in line["event"]]

    def wait_for(self, name: str, timeout_s: float = 90.0) -> None:
        """Until a line of this name is in the log."""
        deadline = time.monotonic() + timeout_s
        while not self.events(name):
            assert time.monotonic() < deadline, f"no {name!r} within {timeout_s} s: {self.log.read_text()}"
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(30) == 0, self.log.read_text()

    def jobs(self, *arguments: str) -> str:
        """What `qsm-node jobs` prints."""
        command = [sys.executable, "-c", COMMAND, "jobs", "--config", str(self.config), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def states(self) -> list[str]:
        """Of every acquisition."""
        return [a["state"] for a in json.loads(self.jobs("--json"))["acquisitions"]]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with loopback.Pacs(tmp_path / "pacs") as pacs:
        served = Served(tmp_path, pacs)
        yield served
        served.stop()


def delivered(served: Served, eventually: Callable[..., None]) -> dict[str, pydicom.Dataset]:
    """What the PACS holds, by instance UID, as soon as the node says that everything is delivered."""
    eventually(lambda: served.states() == ["delivered"], "everything is delivered", 90)
    stored = [pydicom.dcmread(path) for path in served.pacs.paths()]
    by_uid = {str(ds.SOPInstanceUID): ds for ds in stored}
    assert len(by_uid) == len(stored) == 32
    return by_uid


# ------------------------------------------------------------------------------------------------ kill -9


def test_killed_after_the_last_success_nothing_is_lost(
    served: Served, tiny_study: list[Path], eventually: Callable[..., None]
) -> None:
    served.start()
    loopback.send(tiny_study, served.port, "QSMNODE")
    served.kill()
    assert served.pacs.paths() == []
    served.start()
    assert {ds.SeriesDescription.split()[0] for ds in delivered(served, eventually).values()} == {"QSM", "HPF"}


@pytest.fixture
def hesitant(tmp_path: Path) -> Iterator[Served]:
    with Hesitant(tmp_path / "pacs") as pacs:
        served = Served(tmp_path, pacs)
        yield served
        served.stop()


def test_killed_while_delivering_everything_is_stored_once(
    hesitant: Served, tiny_study: list[Path], eventually: Callable[..., None]
) -> None:
    pacs = hesitant.pacs
    assert isinstance(pacs, Hesitant)
    hesitant.start()
    loopback.send(tiny_study, hesitant.port, "QSMNODE")
    eventually(lambda: pacs.taken > 5, "the delivery is in the middle", 90)
    hesitant.kill()
    assert len(pacs.paths()) <= 5
    pacs.go_on.set()
    hesitant.start()
    delivered(hesitant, eventually)
    assert pacs.taken > 32  # some came twice


def test_killed_between_writing_and_committing_the_second_run_writes_the_same_bytes(
    served: Served, tiny_study: list[Path], tmp_path: Path, eventually: Callable[..., None]
) -> None:
    def written() -> dict[str, tuple[str, str, int]]:
        return {
            path.name: (
                hashlib.sha256(path.read_bytes()).hexdigest(),
                str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID),
                path.stat().st_ino,
            )
            for path in (served.data / "results").rglob("*.dcm")
        }

    script = tmp_path / "killed.py"
    script.write_text(KILLED_BEFORE_COMMIT)
    served.start(str(script))
    loopback.send(tiny_study, served.port, "QSMNODE")
    assert served.process is not None
    assert served.process.wait(90) == -9
    first = written()
    assert len(first) == 32
    assert served.pacs.paths() == []

    served.start()
    stored = delivered(served, eventually)
    second = written()
    assert {name: value[:2] for name, value in second.items()} == {name: value[:2] for name, value in first.items()}
    assert all(second[name][2] != first[name][2] for name in first), "the second run wrote nothing"
    assert set(stored) == {uid for _, uid, _ in first.values()}


# ----------------------------------------------------------------------------------------- order of arrival


class Recording(InlineWorker):
    """Notes when a job starts, with how many images of which study; reconstructs nothing."""

    def __init__(self) -> None:
        self.started: list[tuple[float, str, int]] = []

    def submit(self, fn: object, /, *args: object, **kwargs: object) -> Future[JobOutcome]:
        if fn is not run_job:
            return super().submit(fn, *args, **kwargs)
        (spec,) = args
        assert isinstance(spec, JobSpec)
        study = str(pydicom.dcmread(spec.paths[0], stop_before_pixels=True).StudyInstanceUID)
        self.started.append((time.monotonic(), study, len(spec.paths)))
        return super().submit(Failed, Refusal("test", "not reconstructed here"), transient=False)


ORDERS: dict[str, Callable[[pydicom.Dataset], Any]] = {
    "slice-major": lambda ds: (ds.ImagePositionPatient[2], ds.EchoTime, ds.SeriesNumber),
    "echo-major": lambda ds: (ds.EchoTime, ds.SeriesNumber, ds.ImagePositionPatient[2]),
    "interleaved": lambda ds: hashlib.sha256(ds.SOPInstanceUID.encode()).digest(),
}


def test_whatever_the_order_one_job_starts_after_the_last_image(
    tmp_path: Path, tiny_study: list[Path], eventually: Callable[..., None]
) -> None:
    """Three scanners send at once, each in its own order, each with pauses of half the quiet time.

    One keeps its association open during the pauses, the others open a new one for every burst.
    """
    quiet_s, bursts = 2.0, 6
    images = [pydicom.dcmread(path) for path in tiny_study]
    studies = {name: sorted(renewed(images, name), key=order) for name, order in ORDERS.items()}
    ended: dict[str, float] = {}
    statuses: list[int] = []

    def associate(port: int, name: str) -> pynetdicom.association.Association:
        ae = AE(name.upper())
        ae.add_requested_context(MRImageStorage)
        return ae.associate("127.0.0.1", port, ae_title="QSMNODE", evt_handlers=[(evt.EVT_CONN_OPEN, on_open)])

    def scan(port: int, name: str) -> None:
        datasets, keeps_open = studies[name], name == "echo-major"
        size = len(datasets) // bursts
        assoc = associate(port, name)
        for start in range(0, len(datasets), size):
            if start:
                time.sleep(quiet_s / 2)  # this is the pause that is tested
                assoc = assoc if keeps_open else associate(port, name)
            statuses.extend(assoc.send_c_store(ds).Status for ds in datasets[start : start + size])
            ended[str(datasets[0].StudyInstanceUID)] = time.monotonic()
            if not keeps_open:
                assoc.release()
        if keeps_open:
            assoc.release()

    worker = Recording()
    peers = {name: Peer(ae_title=name.upper(), host="127.0.0.1", port=1) for name in ORDERS}
    with Node(Settings(port=0, data_dir=tmp_path / "data", quiet_s=quiet_s, peers=peers), lambda: worker) as node:
        scanners = [threading.Thread(target=scan, args=(node.port, name)) for name in ORDERS]
        for scanner in scanners:
            scanner.start()
        for scanner in scanners:
            scanner.join()
        assert statuses == [0x0000] * 3 * len(tiny_study)
        eventually(lambda: len(worker.started) >= 3, "three jobs start", 30)
        waited_from = time.monotonic()
        eventually(lambda: time.monotonic() > waited_from + 2 * quiet_s, "no further job")
        assert [s.state for s in summaries(node.journal)] == ["failed"] * 3
    assert len(worker.started) == 3
    for started_s, study, images in worker.started:
        assert images == len(tiny_study)
        assert started_s >= ended[study] + quiet_s - 0.1


# ------------------------------------------------------------------------------------------------ bad input


def test_bad_input_is_named_and_the_node_goes_on(
    served: Served,
    tiny_study: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served.start()
    loopback.send(tiny_study[:48], served.port, "QSMNODE")

    truncated = tmp_path / "truncated.dcm"
    truncated.write_bytes(tiny_study[50].read_bytes()[:-1000])
    monkeypatch.setattr(pynetdicom._config, "STORE_SEND_CHUNKED_DATASET", True)
    with association(served.port) as assoc:
        assert assoc.send_c_store(truncated).Status == 0x0000
    monkeypatch.undo()

    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection,
        suppress(ConnectionError),  # cut off while it sends, or with a reset
    ):
        connection.sendall(random.Random(4711).randbytes(5000))
        assert connection.recv(100)[:1] in {b"", b"\x07"}  # nothing, or an A-ABORT

    served.wait_for("acquisition refused")
    served.wait_for("rejected")
    (refused,) = served.events("acquisition refused")
    assert (refused["code"], refused["level"]) == ("no-phase", "warning")
    (rejected,) = served.events("rejected")
    assert (rejected["reason"], rejected["sender"]) == ("truncated: 1560 of 2560 bytes of pixels", "SCANNER")
    (nonsense,) = served.events("no DICOM peer")
    assert nonsense["sender"] == "127.0.0.1"

    shown = served.jobs()
    assert "refused: no phase, and no real and imaginary images: 48 magnitude images" in shown
    assert "1  rejected from SCANNER: truncated: 1560 of 2560 bytes of pixels" in shown
    assert "1  rejected from 127.0.0.1: what was received is not a DICOM message" in shown

    assert echo(Peer(ae_title="QSMNODE", host="127.0.0.1", port=served.port), "SCANNER") == ""
    loopback.send(tiny_study[48:], served.port, "QSMNODE")
    served.wait_for("acquisition complete")
