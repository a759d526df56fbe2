"""A full disk: honest answers, nothing half there, nothing given up, and all goes on by itself once there is space."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pydicom
import pytest
from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt

from node import derive, lanes, loopback
from node.association import on_open
from node.cleaning import Cleaner
from node.config import Peer, Settings
from node.deliver import Item, Link, Sent
from node.errors import Refusal
from node.jobs import InlineWorker, run_job
from node.journal import Journal
from node.loops import FULL_RETRY_S, MAX_ATTEMPTS, Reconstructor
from node.outbox import Outbox
from node.overview import Summary, summaries
from node.records import Attempt, Done, Failed, JobOutcome, JobSpec, Received, Result
from node.spool import Spool

DERIVED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FULL = OSError(errno.ENOSPC, "No space left on device")
JOURNAL_FULL = sqlite3.OperationalError("database or disk is full")
NO_SPACE = Failed(Refusal("disk-full", "no space left on the disk"), transient=True, no_space=True)
DONE = Done(tuple(Result("qsm", MRImageStorage, f"2.25.{n}", f"{n}.dcm", "x") for n in range(12)))


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Scripted(InlineWorker):
    """A worker that ends its jobs as it was told."""

    def __init__(self, *ends: JobOutcome) -> None:
        self.ends = list(ends)

    def submit(self, fn: object, /, *args: object, **kwargs: object) -> Future[JobOutcome]:
        del fn, args, kwargs
        future: Future[JobOutcome] = Future()
        future.set_result(self.ends.pop(0))
        return future


class Site:
    """A journal with an acquisition of three images whose job is queued."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        peers = {"pacs": Peer(ae_title="PACS", host="127.0.0.1", port=104)}
        self.settings = Settings(data_dir=folder, peers=peers, keep_days=0.0)
        self.journal = Journal(folder / "journal.sqlite", self.clock)
        self.spool = Spool(folder / "spool")
        for uid in ("1", "2", "3"):
            self.spool.keep(f"sha{uid}", [b"pixels"])
            self.journal.add(Received("1.2", "key", uid, f"sha{uid}", "PACS", "{}"))
        self.journal.complete(self.journal.receiving()[0], "default", DERIVED_AT)

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

    def full_after_ten(path: Path, content: bytes) -> str:
        written.append(1)
        if len(written) > 10:
            path.with_name(f"{path.name}.part").write_bytes(content[:100])
            raise FULL
        return write_whole(path, content)

    write_whole = derive.write_whole
    with monkeypatch.context() as patch:
        patch.setattr(derive, "write_whole", full_after_ten)
        outcome = run_job(spec)
    assert isinstance(outcome, Failed)
    assert (outcome.refusal.code, outcome.transient, outcome.no_space) == ("disk-full", True, True)
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
    forget = failing(1, JOURNAL_FULL, site.journal.keeping.forget)
    monkeypatch.setattr(site.journal.keeping, "forget", forget)
    with pytest.raises(sqlite3.OperationalError):
        cleaner.step()
    assert {path.name for path in site.spool.folder.iterdir()} == {"sha1.dcm", "sha2.dcm", "sha3.dcm"}
    cleaner.step()
    assert not list(site.spool.folder.iterdir())
