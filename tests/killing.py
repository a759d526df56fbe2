"""A site in which the node is killed: scanners that send again, as a PACS does, the node's process, an archive."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

import pydicom
from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.association import Association

import dicom_sets
from node import loopback
from node.association import on_open
from node.jobs import job_folder
from node.journal import Journal
from node.loops import MAX_ATTEMPTS
from node.overview import Summary, summaries

SCANNERS, IMAGES, RESULTS = 4, 96, 32
COMMAND = "from node.cli import main; main()"


class Archive(loopback.Pacs):
    """Notes of each object, as often as it comes, the digest of its bytes, and what it says it was made of."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.digests: defaultdict[str, list[str]] = defaultdict(list)
        self.sources: dict[str, set[str]] = {}
        self.studies: defaultdict[str, set[str]] = defaultdict(set)

    def _store(self, event: evt.Event) -> int:
        data, ds = event.encoded_dataset(include_meta=False), event.dataset
        uid = str(ds.SOPInstanceUID)
        with self._arrived:
            self.digests[uid].append(hashlib.sha256(data).hexdigest())
            self.sources[uid] = {str(item.ReferencedSOPInstanceUID) for item in ds.SourceImageSequence}
            self.studies[str(ds.StudyInstanceUID)].add(uid)
        return loopback.SUCCESS


class Served:
    """`qsm-node serve` in processes of its own, one after the other, over one data folder."""

    def __init__(self, folder: Path, archive: Archive, script: str = "") -> None:
        self.folder, self.data, self.archive = folder, folder / "data", archive
        peers = [f'[peers.scanner{k}]\nae_title = "SCANNER{k}"\n' for k in range(SCANNERS)]
        self.config = folder / "node.toml"
        self.config.write_text(
            f'port = 0\nquiet_s = 1\ndata_dir = "{self.data}"\ndeliver_to = ["pacs"]\n{"".join(peers)}'
            f'[peers.pacs]\nae_title = "{archive.ae_title}"\nhost = "127.0.0.1"\nport = {archive.port}\n'
        )
        self.program = ["-c", COMMAND]
        if script:
            (folder / "script.py").write_text(script)
            self.program = [str(folder / "script.py")]
        self.process: subprocess.Popen[bytes] | None = None
        self.port = self.lives = 0  # no port while it does not listen
        self.over = False

    def launch(self) -> None:
        self.lives += 1
        self.log = self.folder / f"log-{self.lives}.jsonl"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, "serve", "--config", str(self.config)], stderr=log
            )

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = 90.0) -> None:
        """Wait, while it runs."""
        assert self.process is not None
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}: {self.log.read_text()}"
            time.sleep(0.01)

    def listens(self) -> None:
        """Wait until it does."""
        self.until(lambda: self.events("node started"), "the node starts")
        self.port = self.events("node started")[0]["port"]

    def kill(self) -> None:
        """SIGKILL, to the node alone."""
        assert self.process is not None
        self.port = 0
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, if it runs."""
        self.port = 0
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(30) == 0, self.log.read_text()

    def workers(self, niceness: int = 0) -> list[int]:
        """Process ids of the workers: of what reconstructs, or of what stands back so far (at first not at all)."""
        assert self.process is not None
        expected = os.getpriority(os.PRIO_PROCESS, self.process.pid) + niceness
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                ours = int(fields[1]) == self.process.pid and b"spawn_main" in (folder / "cmdline").read_bytes()
                if ours and int(fields[16]) == min(expected, 19):
                    found.append(int(folder.name))
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of this name since it was launched."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if line["event"] == name]

    def rows(self, sql: str) -> list[Any]:
        """What the journal says, read without leaving a trace in it."""
        with closing(sqlite3.connect(f"file:{self.data / 'journal.sqlite'}?mode=ro", uri=True)) as db:
            return db.execute(sql).fetchall()

    def summaries(self) -> list[Summary]:
        with closing(Journal(self.data / "journal.sqlite")) as journal:
            return summaries(journal)

    def stages(self) -> set[str]:
        """Where on the way of its images the node is, or was when it was killed; of receiving its senders know."""
        if not self.events("node started"):
            return {"starting"}
        found = {"entering"} if self.inbox() else set()
        if self.rows(
            "SELECT 1 FROM instance JOIN acquisition ON acquisition_id = acquisition.id "
            f"WHERE state = 'receiving' GROUP BY acquisition_id HAVING COUNT(*) = {IMAGES}"
        ):
            found.add("gathering")
        for job, since in self.rows("SELECT id, changed_at FROM job WHERE state = 'running'"):
            written = (self.data / job_folder(job)).glob("*.dcm")
            found.add("writing" if any(path.stat().st_mtime >= since for path in written) else "reconstructing")
        if self.rows("SELECT 1 FROM delivery WHERE state = 'pending'"):
            found.add("delivering")
        return found

    def inbox(self) -> int:
        """How many objects are in files of their own and not yet in the journal; slots are empty files."""
        count = 0
        for path in (self.data / "inbox").glob("*.dcm"):
            with suppress(FileNotFoundError):
                count += path.stat().st_size > 0
        return count

    def unfinished(self) -> bool:
        """Whether there is anything left to do."""
        return bool(
            self.inbox()
            or self.rows(
                "SELECT id FROM acquisition WHERE state = 'receiving' UNION ALL SELECT id FROM job "
                "WHERE state IN ('queued', 'running') UNION ALL SELECT id FROM delivery WHERE state = 'pending'"
            )
        )

    def in_danger(self) -> bool:
        """Whether a kill now may be the last that a job is allowed."""
        return bool(
            self.rows(
                f"SELECT 1 FROM job WHERE (state = 'running' AND attempts >= {MAX_ATTEMPTS}) "
                f"OR (state = 'queued' AND attempts >= {MAX_ATTEMPTS - 1})"
            )
        )


class Scanner(threading.Thread):
    """Pushes one study after the other, what is not answered Success again until it is; then waits for results."""

    def __init__(self, title: str, served: Served, study: Sequence[Path], may_begin: threading.Event) -> None:
        super().__init__(name=title, daemon=True)
        self.served, self.study, self.may_begin = served, study, may_begin
        self.ending = threading.Event()
        self.busy = self.sending = False
        self.sent: set[str] = set()
        self.studies = self.cut = 0

    def run(self) -> None:
        while not self.ending.is_set():
            self.busy = self.may_begin.wait(0.05)
            if self.busy:
                self.studies += 1
                datasets = renewed(self.study, f"{self.name} {self.studies}")
                self.sent |= {str(ds.SOPInstanceUID) for ds in datasets}
                results = self.served.archive.studies[str(datasets[0].StudyInstanceUID)]
                while datasets and not self.served.over:
                    datasets = self.push(datasets)
                while len(results) < RESULTS and not self.ending.is_set():
                    time.sleep(0.02)

    def push(self, datasets: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
        """Send in one association, if there is one; what was not answered Success."""
        port, left = self.served.port, list(datasets)
        assoc = self.associated(port) if port else None
        if assoc is None or not assoc.is_established:
            time.sleep(0.02)
            return left
        self.sending = True
        with suppress(RuntimeError):  # the association is no more
            while left and assoc.send_c_store(left[0]).get("Status") == loopback.SUCCESS:
                del left[0]
        self.sending = False
        self.cut += bool(left)
        if assoc.is_established:
            assoc.release()
        return left

    def associated(self, port: int) -> Association:
        """An association, if the node takes one. pynetdicom would leave the connection open when it is lost."""

        def opened(event: evt.Event) -> None:
            on_open(event)
            connection = event.assoc.dul.socket.socket
            event.assoc.bind(evt.EVT_CONN_CLOSE, lambda _: connection.close())

        ae = AE(self.name)
        ae.add_requested_context(MRImageStorage)
        handlers: list[Any] = [(evt.EVT_CONN_OPEN, opened)]
        return ae.associate(loopback.LOOPBACK, port, ae_title="QSMNODE", evt_handlers=handlers)


def renewed(study: Sequence[Path], name: str) -> list[pydicom.Dataset]:
    """The study as another one, in an order of its own: all UIDs are new."""
    datasets = dicom_sets.renewed(map(pydicom.dcmread, study), name)
    random.Random(name).shuffle(datasets)
    return datasets


class Site:
    """Scanners, node and archive."""

    def __init__(self, folder: Path, study: Sequence[Path], script: str = "") -> None:
        self.archive = Archive(folder / "pacs")
        self.folder, self.study, self.script = folder, study, script
        self.may_begin = threading.Event()

    def __enter__(self) -> Self:
        self.archive.__enter__()
        self.served = Served(self.folder, self.archive, self.script)
        self.scanners = [Scanner(f"SCANNER{k}", self.served, self.study, self.may_begin) for k in range(SCANNERS)]
        for scanner in self.scanners:
            scanner.start()
        return self

    def __exit__(self, *_: object) -> None:
        for scanner in self.scanners:
            scanner.ending.set()
        self.served.over = True
        try:
            self.served.stop()
        finally:
            self.archive.__exit__(None, None, None)

    def begin(self) -> None:
        """From now on all scanners are busy. The first results come unharmed: by then all kernels are compiled."""
        self.served.launch()
        self.served.listens()
        self.may_begin.set()
        self.served.until(lambda: len(self.archive.digests) >= RESULTS, "the first results come", 300)

    def stages(self) -> set[str]:
        """As the node's, with what its senders know."""
        found = self.served.stages()
        if found != {"starting"} and any(scanner.sending for scanner in self.scanners):
            found.add("receiving")
        if not found and not any(scanner.busy for scanner in self.scanners):
            found.add("idle")
        return found

    def finish(self) -> None:
        """Let everything go through."""
        self.served.listens()
        for scanner in self.scanners:
            scanner.ending.set()
        for scanner in self.scanners:
            scanner.join(120)
            assert not scanner.is_alive()
        self.served.until(lambda: not self.served.unfinished(), "everything has gone through", 300)

    def check(self) -> None:
        """Hold what came out against what was sent."""
        served, archive = self.served, self.archive
        acquisitions = served.summaries()
        assert len(acquisitions) == sum(scanner.studies for scanner in self.scanners)
        assert {(a.state, a.images, a.sentence) for a in acquisitions} == {("delivered", IMAGES, "")}
        newest = "(SELECT MAX(id) FROM job WHERE state = 'done' GROUP BY acquisition_id)"
        last = [uid for (uid,) in served.rows(f"SELECT sop_instance_uid FROM delivery WHERE job_id IN {newest}")]
        assert set().union(*(archive.sources[uid] for uid in last)) == set().union(*(s.sent for s in self.scanners))

        deliveries = served.rows("SELECT sop_instance_uid, path, state FROM delivery")
        assert set(archive.digests) == {uid for uid, _, _ in deliveries}
        assert {uid for uid, digests in archive.digests.items() if len(set(digests)) > 1} == set()
        assert {state for _, _, state in deliveries} == {"delivered"}
        assert served.rows("SELECT state FROM job WHERE state NOT IN ('done', 'superseded')") == []
        assert served.rows("SELECT * FROM aside") == []

        assert served.inbox() == 0
        kept = {f"{sha256}.dcm" for (sha256,) in served.rows("SELECT sha256 FROM instance")}
        assert {path.name for path in (served.data / "spool").iterdir()} == kept
        written = {path for path in (served.data / "results").rglob("*") if path.is_file()}
        assert written == {served.data / path for _, path, _ in deliveries}

    def figures(self) -> str:
        """What was sent and what came, in words."""
        studies, cut = (sum(getattr(s, count) for s in self.scanners) for count in ("studies", "cut"))
        results = len(self.archive.digests)
        again = sum(map(len, self.archive.digests.values())) - results
        return f"{studies} studies of {IMAGES} images, {cut} associations cut; {results} results, {again} sent again"
