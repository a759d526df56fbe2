"""Deleting what need not be kept: by age, and the oldest first where the disk share is used up.

Never what is being received, queued, undelivered, or uncommitted where commitment is asked for. An image is set
aside, its row deleted, then its file: an end in between leaves what `recover` and `step` tidy up. Knows no SQL.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

from node.config import Settings
from node.jobs import RESULTS, job_folder
from node.journal import Journal
from node.log import get_logger
from node.spool import Spool

TIDY_EVERY_S = 3600.0
DISK_SHARE = 0.5
REST_PER_FILE_S, LONGEST_REST_S = 1e-3, 600.0
"""Between two additions of all sizes: a file takes 10 us, so they take a hundredth of the time."""

log = get_logger("node.cleaning")


class Cleaner:
    """Cleans the data folder, in steps.

    Parameters
    ----------
    clock
        Seconds since the epoch, as the journal's and the file system's.
    disk
        Total and free bytes of the disk that holds a folder.
    """

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        disk: Callable[[Path], tuple[int, int]] = lambda folder: shutil.disk_usage(folder)[::2],
    ) -> None:
        self._journal = journal
        self._spool = spool
        self._settings = settings
        self._results = settings.data_dir / RESULTS
        self._clock = clock
        self._disk = disk
        self._tidied_at = float("-inf")
        self._measured_until = float("-inf")
        self._used = 0
        self._stuck = False

    def recover(self) -> None:
        """Finish, or undo, what was set aside when the node ended."""
        aside = self._spool.aside()
        unknown = set(self._journal.keeping.unknown_objects(aside))
        for sha256 in aside:
            self._spool.drop(sha256) if sha256 in unknown else self._spool.put_back(sha256)

    def step(self) -> None:
        """Delete what is too old, then the oldest until enough of the disk is free; now and then tidy up."""
        now = self._clock()
        expendable = self._journal.keeping.expendable()
        excess = self._excess(now)
        for acquisition, since in expendable:
            old = since < now - self._age_s
            if old or excess > 0:
                excess -= self._clean(acquisition, "age" if old else "space")
        if (excess > 0) != self._stuck:
            self._stuck = excess > 0
            if self._stuck:
                log.warning("too full, and nothing more may be deleted", excess_gb=round(excess / 1e9, 3))
        if not 0 <= now - self._tidied_at < TIDY_EVERY_S:
            self._tidied_at = now
            self._tidy(now)

    @property
    def _age_s(self) -> float:
        """A study that may still get a page is kept until it has."""
        return max(86400 * self._settings.keep_days, 60 * self._settings.notice_after_min + 600)

    def _excess(self, now: float) -> float:
        """Bytes to be freed: above the share, or so that images need not be refused soon."""
        total, free = self._disk(self._settings.data_dir)
        keep = DISK_SHARE * total if self._settings.keep_gb is None else 1e9 * self._settings.keep_gb
        used = self._measured(now) if total - free > keep else 0
        return max(used - keep, 2e9 * self._settings.min_free_gb - free)

    def _measured(self, now: float) -> int:
        """Bytes of all files: added up, or as they were a while ago that is short for their number."""
        if not now < self._measured_until <= now + LONGEST_REST_S:
            used = files = 0
            for size in chain.from_iterable(map(_sizes, (self._spool.folder, *self._result_folders()))):
                used, files = used + size, files + 1
            self._used = used
            self._measured_until = now + min(REST_PER_FILE_S * files, LONGEST_REST_S)
        return self._used

    def _clean(self, acquisition: int, why: Literal["age", "space"]) -> int:
        """Delete an acquisition's images and results; how many bytes that frees."""
        objects = self._journal.keeping.objects(acquisition)
        folders = [self._settings.data_dir / job_folder(job) for job in self._journal.keeping.jobs(acquisition)]
        for sha256 in objects:
            self._spool.set_aside(sha256)
        undelivered = self._journal.keeping.forgotten(acquisition)
        cleaned = False
        try:
            cleaned = self._journal.keeping.clean(acquisition, len(objects))
        finally:
            if not cleaned:  # one came meanwhile, or the journal's disk is full
                for sha256 in objects:
                    self._spool.put_back(sha256)
        if not cleaned:
            return 0
        freed = sum(self._spool.drop(sha256) for sha256 in objects) + sum(map(sum, map(_sizes, folders)))
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        self._used -= freed
        log.info(
            "cleaned",
            acquisition=acquisition, why=why, images=len(objects), gb=round(freed / 1e9, 3), undelivered=undelivered,
        )  # fmt: skip
        return freed

    def _tidy(self, now: float) -> None:
        """Files that no row names, if they are old: younger ones can be about to get theirs, or in conflict."""
        old = now - self._age_s - TIDY_EVERY_S  # the clock may have jumped an hour since
        for sha256 in self._journal.keeping.unknown_objects(self._spool.older(old)):
            self._spool.drop_older(sha256, old)
        jobs = {int(folder.name.removeprefix("job-")): folder for folder in self._result_folders()}
        for number in self._journal.keeping.unknown_jobs(jobs):
            shutil.rmtree(jobs[number], ignore_errors=True)
        self._journal.keeping.expire()

    def _result_folders(self) -> list[Path]:
        return list(self._results.glob("job-*")) if self._results.is_dir() else []


def _sizes(folder: Path) -> Iterator[int]:
    """Of the files in a folder; none if it is missing."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            yield from (entry.stat().st_size for entry in entries if entry.is_file())
