"""A full disk: honest answers, nothing half there, nothing given up, and all goes on by itself with new space."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest
from pydicom.uid import MRImageStorage

from associations import store
from journals import DERIVED_AT, Clock, queue
from node import files, lanes, loopback, service
from node.cleaning import Cleaner
from node.config import Settings
from node.deliver import Item, Link, Sent
from node.errors import Refusal
from node.jobs import run_job
from node.journal import Journal
from node.loops import FULL_RETRY_S, MAX_ATTEMPTS, Reconstructor
from node.outbox import Outbox
from node.overview import Summary, summaries
from node.peers import Peer
from node.records import Attempt, Done, Failed, JobOutcome, JobSpec, Result
from node.spool import Spool
from node.workers import InlineWorker

FULL = OSError(errno.ENOSPC, "No space left on device")
JOURNAL_FULL = sqlite3.OperationalError("database or disk is full")
NO_SPACE = Failed(Refusal("disk-full", "no space left on the disk"), transient=True, no_space=True)
DONE = Done(tuple(Result("qsm", MRImageStorage, f"2.25.{n}", f"{n}.dcm", "x") for n in range(12)))


class Scripted(InlineWorker):
    """A worker that ends its jobs as it was told."""

    def __init__(self, *ends: JobOutcome) -> None:
        self.ends = list(ends)

    def submit(self, fn: object, /, *args: object, **kwargs: object) -> Future[JobOutcome]:
        if fn is not run_job:
            return super().submit(fn, *args, **kwargs)
        return super().submit(self.ends.pop, 0)


class Site:
    """A journal with an acquisition of three images whose job is queued."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock(1_700_000_000.0)
        peers = {"pacs": Peer(ae_title="PACS", host="127.0.0.1", port=104)}
        self.settings = Settings(data_dir=folder, peers=peers, keep_days=0.0)
        self.journal = Journal(folder / "journal.sqlite", self.clock)
        self.spool = Spool(folder / "spool")
        for uid in ("1", "2", "3"):
            self.spool.path(f"sha{uid}").write_bytes(b"pixels")
        queue(self.journal, "1", "2", "3")

    def reconstructor(self, *ends: JobOutcome) -> Reconstructor:
        return Reconstructor(self.journal, self.spool, self.settings, lambda: Scripted(*ends), lambda: None)

    @property
    def summary(self) -> Summary:
        return summaries(self.journal)[0]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.journal.close()


def failing(times: int, error: Exception, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, after so many calls that raise."""
    left = iter(range(times))

    def call(*arguments: Any, **keywords: Any) -> Any:
        if next(left, None) is not None:
            raise error
        return function(*arguments, **keywords)

    return call


# --------------------------------------------------------------------------------------------- reconstructing


def test_a_worker_that_finds_no_space_says_so_and_writes_the_same_later(
    tiny_study: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = JobSpec(tuple(tiny_study), "default", DERIVED_AT, tmp_path / "results")
    written: list[int] = []

    def full_after_ten(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 10:
            raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full_after_ten)
        outcome = run_job(spec)
    assert isinstance(outcome, Failed)
    assert (outcome.refusal.code, outcome.transient, outcome.no_space) == ("disk-full", True, True)
    assert re.match(r"no space left on the disk, at .*write_whole", outcome.refusal.sentence)
    assert not list(spec.folder.glob("*.part"))
    done = run_job(spec)
    assert isinstance(done, Done)
    assert {path.name for path in spec.folder.iterdir()} == {result.path for result in done.results}


def test_a_job_without_space_is_tried_until_there_is(site: Site) -> None:
    loop = site.reconstructor(*[NO_SPACE] * 50, DONE)
    for _ in range(50):
        loop.step()
        told = (site.summary.state, site.summary.attempts, site.summary.code, site.summary.sentence)
        assert told == ("queued", 0, "disk-full", "no space left on the disk")
        site.clock.now += FULL_RETRY_S - 1
        loop.step()
        site.clock.now += 1
    loop.step()
    assert (site.summary.state, site.summary.attempts, site.summary.sentence) == ("delivering", 1, "")


def test_attempts_that_failed_otherwise_count_beside_those_without_space(site: Site) -> None:
    broken = Failed(Refusal("out-of-memory", "too much"), transient=True)
    loop = site.reconstructor(broken, NO_SPACE, broken, NO_SPACE, broken)
    for _ in range(5):
        loop.step()
        site.clock.now += FULL_RETRY_S
    assert (site.summary.state, site.summary.code, site.summary.attempts) == ("failed", "out-of-memory", MAX_ATTEMPTS)


@pytest.mark.parametrize("end", ["finish", "fail"])
def test_an_end_that_cannot_be_entered_is_kept_and_nothing_runs_twice(
    end: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than a job may be tried, while the other writes of the loop succeed."""
    loop = site.reconstructor(DONE if end == "finish" else Failed(Refusal("no-mask", "no brain"), transient=False))
    monkeypatch.setattr(site.journal, end, failing(3 * MAX_ATTEMPTS, JOURNAL_FULL, getattr(site.journal, end)))
    for _ in range(3 * MAX_ATTEMPTS):
        with pytest.raises(sqlite3.OperationalError):
            loop.step()
    assert site.summary.state == "running"
    loop.step()
    assert (site.summary.state, site.summary.attempts) == ("delivering" if end == "finish" else "failed", 1)


# ---------------------------------------------------------------------------------------- delivering, cleaning


class Counting:
    """A link to a peer that stores everything."""

    at_once = 1
    alive = True

    def __init__(self, stored: Counter[str]) -> None:
        self._stored = stored

    def send(self, items: Sequence[Item]) -> list[Sent]:
        self._stored.update(item.sop_instance_uid for item in items)
        return [Sent("stored")] * len(items)

    def close(self) -> None:
        """Nothing is open."""

    cut = close


def test_what_was_sent_is_entered_before_more_is_sent(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer does not get the same object every few seconds for as long as the disk is full."""
    stored: Counter[str] = Counter()

    def connect(*_: object) -> Link:
        return Counting(stored)

    site.reconstructor(DONE).step()
    outbox = Outbox(site.journal, site.settings, connect, site.clock)
    monkeypatch.setattr(lanes, "REST_S", 0.001)
    monkeypatch.setattr(site.journal.deliveries, "enter", failing(40, JOURNAL_FULL, site.journal.deliveries.enter))
    outbox.step()
    assert outbox.lanes.join(30)
    assert set(stored.values()) == {1}
    assert site.summary.state == "delivered"
    outbox.end()


def test_a_node_that_stops_on_a_full_disk_waits_for_no_entry(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.reconstructor(DONE).step()
    outbox = Outbox(site.journal, site.settings, lambda *_: Counting(Counter()), site.clock)
    tried: list[int] = []

    def full(*_: object) -> None:
        tried.append(1)
        raise JOURNAL_FULL

    monkeypatch.setattr(site.journal.deliveries, "enter", full)
    outbox.step()
    outbox.end()
    assert outbox.lanes.join(0)


def test_cleaning_that_the_journal_cannot_enter_leaves_the_images(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that comes late opens the acquisition, whose files must be where they were."""
    site.reconstructor(DONE).step()
    site.journal.deliveries.enter([Attempt(d, "delivered") for d in site.journal.deliveries.due()])
    site.clock.now += 86400
    cleaner = Cleaner(site.journal, site.spool, site.settings, site.clock, lambda _: (10**12, 10**12))
    forget = failing(1, JOURNAL_FULL, site.journal.keeping.clean)
    monkeypatch.setattr(site.journal.keeping, "clean", forget)
    with pytest.raises(sqlite3.OperationalError):
        cleaner.step()
    assert {path.name for path in site.spool.folder.iterdir()} == {"sha1.dcm", "sha2.dcm", "sha3.dcm"}
    cleaner.step()
    assert not list(site.spool.folder.iterdir())


# ----------------------------------------------------------------------------------------------------- starting


@pytest.mark.parametrize("error", [FULL, JOURNAL_FULL, sqlite3.OperationalError("disk I/O error")])
def test_a_node_that_finds_no_space_at_its_start_says_so_and_lets_go(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite calls it an I/O error where not even its index of the write-ahead log has room."""
    monkeypatch.setattr("node.service.shutil.disk_usage", lambda _: SimpleNamespace(free=3e6))
    settings = Settings(port=0, data_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(service, "Journal", failing(1, error, Journal))
        with pytest.raises(service.CannotStart, match=re.escape(f"{tmp_path}: {error}; 0.00 GB are free")):
            service.Node(settings).start()
    service.Node(settings).start().stop()


# --------------------------------------------------------------------------------------- a real disk of 16 MB

SERVE = """
import node.loops
from node.cli import main

if __name__ == "__main__":
    node.loops.FULL_RETRY_S = 1.0
    main()
"""
MOUNT = 'mount -t tmpfs -o size=16m tmpfs "$0" && exec "$@"'


class Small:
    """`qsm-node serve` whose data folder is a file system of its own, of 16 MB, which no other process sees."""

    def __init__(self, folder: Path, unshare: str, pacs: loopback.Pacs, min_free_gb: float) -> None:
        self.folder, self.pacs = folder, pacs
        data, config, script = folder / "data", folder / "node.toml", folder / "serve.py"
        data.mkdir()
        script.write_text(SERVE)
        config.write_text(
            f'port = 0\nquiet_s = 1\nmin_free_gb = {min_free_gb}\nkeep_gb = 1\ndata_dir = "{data}"\n'
            f'deliver_to = ["pacs"]\n[peers.scanner]\nae_title = "SCANNER"\n'
            f'[peers.pacs]\nae_title = "{pacs.ae_title}"\nhost = "127.0.0.1"\nport = {pacs.port}\n'
        )
        self.log = folder / "log.jsonl"
        command = [unshare, "--mount", "--map-root-user", "sh", "-c", MOUNT, str(data)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, sys.executable, str(script), "serve", "--config", str(config)], stderr=log
            )
        self.data = Path(f"/proc/{self.process.pid}/root{data}")

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of this name."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if name in line["event"]]

    def fill(self, leave: int = 0) -> None:
        """Leave so many bytes."""
        with (self.data / "ballast").open("wb") as ballast:
            free = os.statvfs(self.data)
            with suppress(OSError):
                ballast.write(bytes(max(free.f_bavail * free.f_frsize - leave, 0)))

    def free(self) -> None:
        """Undo `fill`."""
        (self.data / "ballast").unlink()

    def send(self, datasets: Sequence[pydicom.Dataset]) -> list[int]:
        """The answers."""
        return store(self.events("node started")[0]["port"], *datasets)

    def stop(self) -> None:
        """End it; then its journal is whole, and no object is half there."""
        folder = os.open(self.data, os.O_RDONLY | os.O_DIRECTORY)  # outlives the name space
        try:
            self.process.terminate()
            assert self.process.wait(30) == 0, self.log.read_text()
            data = Path(f"/proc/self/fd/{folder}")
            assert not [path.name for path in data.rglob("*.part")]
            for name in ("journal.sqlite", "journal.sqlite-wal"):
                if (data / name).exists():
                    shutil.copyfile(data / name, self.folder / name)
        finally:
            os.close(folder)
        db = sqlite3.connect(self.folder / "journal.sqlite")
        try:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("SELECT DISTINCT state FROM delivery").fetchall() == [("delivered",)]
        finally:
            db.close()


@pytest.fixture
def small(
    tmp_path: Path, peer: Callable[[str], str], eventually: Callable[..., None]
) -> Iterator[Callable[[float], Small]]:
    """``small(min_free_gb)`` starts one, or skips (CI=true: fails) where the machine allows no private mount."""
    unshare, running = peer("unshare"), []
    allowed = subprocess.run(
        [unshare, "--mount", "--map-root-user", "sh", "-c", MOUNT, str(tmp_path), "true"], check=False
    )
    if allowed.returncode:
        reason = "no private mount: user name spaces are switched off"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    with loopback.Pacs(tmp_path / "pacs") as pacs:

        def start(min_free_gb: float) -> Small:
            running.append(Small(tmp_path, unshare, pacs, min_free_gb))
            eventually(lambda: running[0].events("node started"), "it listens")
            return running[0]

        yield start
        for served in running:
            if served.process.poll() is None:
                served.process.kill()
                served.process.wait()


def test_below_the_mark_images_are_refused_and_what_was_taken_is_finished_on_a_full_disk(
    small: Callable[[float], Small], tiny_study: list[Path], eventually: Callable[..., None]
) -> None:
    """The mark keeps space for results and journal: bound by it too, a node full of work would never end it."""
    node, study = small(0.001), [pydicom.dcmread(path) for path in tiny_study]
    node.fill(leave=500_000)
    assert set(node.send(study[:5])) == {0xA700}
    assert not list((node.data / "spool").iterdir())
    node.free()
    assert set(node.send(study)) == {0x0000}
    node.fill()
    eventually(lambda: node.events("a step failed"), "nothing can be entered")
    node.free()
    eventually(lambda: node.events("job started"), "the journal takes it now")
    node.fill()
    eventually(lambda: "reconstruct" in [e["loop"] for e in node.events("a step failed")], "that cannot be entered")
    node.free()
    eventually(lambda: node.events("job will be tried again"), "now it is")
    assert node.events("job will be tried again")[0]["code"] == "disk-full"
    eventually(lambda: len(node.pacs.paths()) == 32, "all is delivered")
    eventually(lambda: node.events("delivered"), "and entered")
    node.stop()


def test_a_disk_that_fills_while_images_come_refuses_them_and_takes_them_later(
    small: Callable[[float], Small], tiny_study: list[Path], eventually: Callable[..., None]
) -> None:
    node, study = small(0.0), [pydicom.dcmread(path) for path in tiny_study]
    node.fill(leave=400_000)
    answers = node.send(study)
    assert set(answers) == {0x0000, 0xA700}
    refused = [ds for ds, status in zip(study, answers, strict=True) if status]
    assert set(node.send(refused[:5])) == {0xA700}
    node.free()
    assert set(node.send(refused)) == {0x0000}
    eventually(lambda: len(node.pacs.paths()) == 32, "all is delivered")
    eventually(lambda: node.events("delivered"), "and entered")
    node.stop()
