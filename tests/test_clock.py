"""The wall clock jumps an hour, forward or back: nothing starts early, nothing waits longer, nothing is deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import MRImageStorage

from journals import arrive, lease
from node.cleaning import Cleaner
from node.config import Settings
from node.deliver import Link, Unreachable
from node.errors import Refusal
from node.headers import read_header
from node.journal import Journal
from node.loops import RETRY_AFTER_S, Gatherer
from node.notices import Notifier
from node.outbox import FIRST_PAUSE_S, Outbox
from node.overview import summaries
from node.peers import Peer
from node.records import Attempt, Result
from node.spool import Spool

HOUR_S = 3600.0
JUMPS_S = (HOUR_S, -HOUR_S)
QUIET_S, NOTICE_S = 60.0, 1800.0
BROKEN = Refusal("worker-lost", "the worker process died")

both_ways = pytest.mark.parametrize("jump_s", JUMPS_S, ids=["forward", "back"])


class Site:
    """Journal, spool and loops with a clock that jumps and one that does not."""

    def __init__(self, folder: Path, study: list[Path]) -> None:
        self.folder = folder
        self.wall_s, self.true_s = 1_700_000_000.0, 0.0
        self.headers = [read_header(pydicom.dcmread(path, stop_before_pixels=True)) for path in study]
        self.settings = Settings(
            data_dir=folder, quiet_s=QUIET_S, notice_after_min=NOTICE_S / 60, keep_days=7.0, keep_gb=1.0,
            peers={"pacs": Peer(ae_title="PACS", host="127.0.0.1", port=104)},
        )  # fmt: skip
        self.queued = 0
        self.tried = 0
        self.journal = Journal(None, self.wall)
        self.spool = Spool(folder / "spool")
        self.gatherer = Gatherer(
            self.journal, self.settings, frozenset, self._count, monotonic=self.true, now=lambda: datetime.now(UTC)
        )
        self.notifier = Notifier(self.journal, self.settings, self._count, self.wall, self.true)
        self.outbox = Outbox(self.journal, self.settings, self._away, self.wall)
        self.cleaner = Cleaner(self.journal, self.spool, self.settings, self.wall, lambda _: (10**12, 5 * 10**11))

    def wall(self) -> float:
        return self.wall_s

    def true(self) -> float:
        return self.true_s

    def _count(self) -> None:
        self.queued += 1

    def _away(self, *_: object) -> Link:
        self.tried += 1
        raise Unreachable("nobody answers there")

    def step(self) -> None:
        self.gatherer.step()
        self.notifier.step()
        self.cleaner.step()
        self.outbox.step()
        assert self.outbox.lanes.join(30)

    def passes(self, seconds: float) -> None:
        """So much time, with a step at its end."""
        self.wall_s += seconds
        self.true_s += seconds
        self.step()

    def receive(self, images: int) -> None:
        for header in self.headers[:images]:
            path = self.spool.path(header.sop_instance_uid)
            path.write_bytes(b"pixels")
            os.utime(path, (self.wall_s, self.wall_s))
        arrive(self.journal, self.headers[:images])

    @property
    def state(self) -> str:
        return summaries(self.journal)[0].state

    def finish(self) -> None:
        """Receive a whole study and reconstruct it."""
        self.receive(len(self.headers))
        self.step()
        self.passes(QUIET_S + 1)
        self.journal.finish(lease(self.journal), [Result("qsm", MRImageStorage, "2.25.1", "1.dcm", "x")], ("pacs",))


@pytest.fixture
def site(tmp_path: Path, tiny_study: list[Path]) -> Iterator[Site]:
    site = Site(tmp_path, tiny_study)
    yield site
    site.outbox.end()
    site.journal.close()


@both_ways
def test_the_quiet_time_ends_neither_early_nor_late(site: Site, jump_s: float) -> None:
    site.receive(len(site.headers))
    site.step()
    site.wall_s += jump_s
    site.passes(QUIET_S - 1)
    assert site.state == "receiving"
    site.passes(2)
    assert site.state == "queued"
    assert site.journal.lease()


@both_ways
def test_a_job_is_tried_again_no_later_than_was_meant(site: Site, jump_s: float) -> None:
    site.receive(len(site.headers))
    site.step()
    site.passes(QUIET_S + 1)
    job = lease(site.journal)
    site.journal.fail(job, BROKEN, RETRY_AFTER_S)
    site.wall_s += jump_s
    site.passes(RETRY_AFTER_S)
    assert site.journal.lease()


@both_ways
def test_a_delivery_is_tried_again_no_later_than_was_meant(site: Site, jump_s: float) -> None:
    site.finish()
    site.step()
    assert site.tried == 1
    site.wall_s += jump_s
    site.passes(FIRST_PAUSE_S)
    assert site.tried == 2


@both_ways
def test_a_jump_gives_up_no_delivery(site: Site, jump_s: float) -> None:
    site.finish()
    for _ in range(100):
        site.passes(900.0)
    site.wall_s += jump_s
    site.passes(900.0)
    assert site.state == "delivering"


@both_ways
def test_the_page_of_a_study_comes_neither_early_nor_late(site: Site, jump_s: float) -> None:
    """Magnitude of several echoes alone: QSM was meant, phase lacks."""
    site.receive(len(site.headers) // 2)
    site.step()
    site.passes(QUIET_S + 1)
    assert site.state == "refused"
    site.wall_s += jump_s
    site.passes(NOTICE_S - 10)
    assert site.journal.lease() is None
    site.passes(11)
    job = lease(site.journal)
    assert job.notice is not None


@both_ways
def test_nothing_is_deleted_for_a_jump(site: Site, jump_s: float) -> None:
    site.finish()
    site.journal.deliveries.enter([Attempt(d, "delivered") for d in site.journal.deliveries.due()])
    site.wall_s += jump_s
    site.passes(0)
    site.passes(6.9 * 86400)
    assert len(list((site.folder / "spool").iterdir())) == len(site.headers)
    site.passes(0.2 * 86400)
    assert not list((site.folder / "spool").iterdir())


def test_an_image_on_its_way_into_the_journal_is_not_taken_for_a_stray_file(site: Site) -> None:
    """Written, then the clock jumps, then the cleaner tidies up, then the row is entered."""
    site.settings = site.settings.model_copy(update={"keep_days": 0.0, "notice_after_min": 0.0})
    cleaner = Cleaner(site.journal, site.spool, site.settings, site.wall, lambda _: (10**12, 5 * 10**11))
    path = site.spool.path("sha")
    path.write_bytes(b"pixels")
    os.utime(path, (site.wall_s, site.wall_s))
    site.wall_s += HOUR_S
    cleaner.step()
    assert path.exists()
