"""The node's loops over the journal: what repeats a step, and the steps that gather and reconstruct.

A step does what can be done now and returns; what it decides is one transaction of the journal, so a step that is
cut off anywhere is simply done again. Knows no DICOM and no SQL.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Literal

from node.assemble import Verdict, judge
from node.config import Settings
from node.errors import Refusal
from node.headers import Header
from node.jobs import import_numerics, job_folder, run_job
from node.journal import Journal
from node.log import get_logger, places
from node.records import Done, Failed, Gathering, Job, JobOutcome, JobSpec, Result
from node.spool import Spool
from node.workers import KeptWorker, NoWorker, Worker, WorkerLost, WorkerSlow

MAX_ATTEMPTS = 3
RETRY_AFTER_S = 10.0
FULL_RETRY_S = 300.0
"""On a full disk: an attempt that ends so does not count, since all will until there is space."""
LONGEST_REST_S = 5.0
"""After steps that failed, one after the other: on a full disk a loop fails for as long as that lasts."""
JOB_LIMIT_S = 2 * 3600.0
BREATH_S = 5.0
"""An acquisition that is announced to be whole starts after this pause, or when its senders have ended: a scan may
send real and imaginary images after magnitude and phase."""
PATIENCE = 10
"""For so many quiet times an open association of its sender is waited for: a router may keep one open all day."""

log = get_logger("node.loops")


class Loop(threading.Thread):
    """Repeats a step: when woken, and every ``idle_s`` seconds. A step that raises is logged and repeated later."""

    def __init__(self, name: str, step: Callable[[], object], idle_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self._step = step
        self._idle_s = idle_s
        self._wake = threading.Event()
        self._ending = threading.Event()

    def wake(self) -> None:
        """Take the next step now."""
        self._wake.set()

    def end(self) -> None:
        """Take no further step."""
        self._ending.set()
        self._wake.set()

    @property
    def ending(self) -> bool:
        """Whether `end` was called."""
        return self._ending.is_set()

    def run(self) -> None:
        """Step and wait until `end`."""
        failed = 0
        while not self.ending:
            try:
                self._step()
                failed = 0
            except Exception:
                log.exception("a step failed and is repeated", loop=self.name)
                failed += 1
                self._ending.wait(min(failed * self._idle_s, LONGEST_REST_S))
            self._wake.wait(self._idle_s)
            self._wake.clear()


@dataclass(frozen=True, eq=False)
class _Look:
    """What an acquisition was when an image was last seen to have come."""

    gathering: Gathering
    since_s: float
    judged: Callable[[Gathering], Verdict]

    @cached_property
    def verdict(self) -> Verdict:
        """Found when it matters: while images come, it would be found again and again."""
        return self.judged(self.gathering)


class Gatherer:
    """Decides when an acquisition has all its images.

    Parameters
    ----------
    senders
        AE titles that have an association open.
    queued
        Called after a job was queued.
    monotonic, now
        Clocks: seconds that never jump, and the local time.
    """

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        senders: Callable[[], frozenset[str]],
        queued: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._senders = senders
        self._queued = queued
        self._monotonic = monotonic
        self._now = now
        self._looks: dict[int, _Look] = {}

    def step(self) -> None:
        """Judge what changed; start what is announced to be whole; settle what has been quiet for long enough."""
        busy = self._senders()
        gatherings = self._journal.receiving()
        self._looks = {g.id: self._look(g) for g in gatherings}
        for look in self._looks.values():
            silence_s = self._monotonic() - look.since_s
            sending = bool(look.gathering.senders & busy)
            quiet = silence_s >= self._settings.quiet_s * (PATIENCE if sending else 1)
            early = not sending or silence_s >= min(BREATH_S, self._settings.quiet_s)
            if not early:
                continue
            if look.verdict.state == "announced" or (quiet and look.verdict.state == "whole"):
                self._complete(look)
            elif quiet and look.verdict.refusal:
                self._settle(look, look.verdict.refusal)

    def _look(self, gathering: Gathering) -> _Look:
        before = self._looks.get(gathering.id)
        if before and before.gathering.instances == gathering.instances:
            return before
        return _Look(gathering, self._monotonic(), self._judged)

    def _judged(self, gathering: Gathering) -> Verdict:
        """Without the arrangement: it holds every header, for as long as the acquisition is waited for."""
        try:
            headers = (Header.from_json(line) for line in self._journal.headers(gathering.id))
            return replace(judge(headers, self._settings.site), arrangement=None)
        except Exception as error:
            log.exception("acquisition cannot be judged", acquisition=gathering.id)
            why = Refusal("internal-error", f"please report: {type(error).__name__} at {places(error)}")
            return Verdict("refused", why, 0, 0)

    def _complete(self, look: _Look) -> None:
        derived_at = self._now().replace(microsecond=0)
        job = self._journal.complete(look.gathering, self._settings.recipe, derived_at)
        if job is None:
            return
        log.info(
            "acquisition complete", acquisition=look.gathering.id, job=job, images=look.gathering.instances,
            echoes=look.verdict.echoes, slices=look.verdict.slices,
        )  # fmt: skip
        self._queued()

    def _settle(self, look: _Look, why: Refusal) -> None:
        state: Literal["incomplete", "refused"] = "incomplete" if look.verdict.state == "incomplete" else "refused"
        if self._journal.settle(look.gathering, state, why):
            log.warning(
                f"acquisition {state}", acquisition=look.gathering.id, images=look.gathering.instances,
                code=why.code, reason=why.sentence,
            )  # fmt: skip


class Reconstructor:
    """Runs queued jobs, one after the other.

    Parameters
    ----------
    new_worker
        Makes what runs them.
    done
        Called after deliveries were queued.
    """

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        settings: Settings,
        new_worker: Callable[[], Worker],
        done: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._spool = spool
        self._settings = settings
        self._worker = KeptWorker(new_worker, import_numerics, JOB_LIMIT_S)
        self._done = done
        self._ended: tuple[Job, JobOutcome | None, float] | None = None

    def step(self) -> None:
        """Run every job that may run now. What could not be entered, on a full disk, is first: nothing runs twice."""
        if self._ended:
            ended, self._ended = self._ended, None
            self._enter(*ended)
        self._journal.recover()  # of what runs here, nothing does: the node died
        while not self._worker.ended and (job := self._journal.lease()):
            if job.attempts > MAX_ATTEMPTS:
                why = Refusal("node-crash", f"the node ended without a word in {MAX_ATTEMPTS} attempts")
                self._fail(job, Failed(why, transient=False))
            else:
                self._run(job)

    def end(self) -> None:
        """Start no further job; one that runs is cut off and will start again with the node."""
        self._worker.end()

    def _run(self, job: Job) -> None:
        folder = job_folder(job.id)
        spec = JobSpec(
            paths=tuple(self._spool.path(sha256) for sha256 in job.sha256s),
            recipe=job.recipe,
            derived_at=job.derived_at,
            folder=self._settings.data_dir / folder,
            segmentation=self._settings.segmentation,
            parametric_map=self._settings.parametric_map,
            notice=job.notice,
            site=self._settings.site,
            supersedes=job.supersedes,
            written=job.written,
        )
        log.info("job started", job=job.id, acquisition=job.acquisition_id, attempt=job.attempts)
        start_s = time.monotonic()
        try:
            outcome = self._outcome(spec)
        except NoWorker:
            self._journal.release(job)
            raise
        self._enter(job, outcome, time.monotonic() - start_s)

    def _enter(self, job: Job, outcome: JobOutcome | None, took_s: float) -> None:
        try:
            self._conclude(job, outcome, took_s)
        except sqlite3.OperationalError:  # the disk is full, or fails
            self._ended = job, outcome, took_s
            raise

    def _conclude(self, job: Job, outcome: JobOutcome | None, took_s: float) -> None:
        if self._worker.ended and outcome is None:
            self._journal.release(job)
        elif outcome is None:
            why = Refusal("worker-lost", "the worker process died: out of memory, or killed")
            self._fail(job, Failed(why, transient=True))
        elif isinstance(outcome, Failed):
            self._fail(job, outcome)
        else:
            self._finish(job, outcome, took_s)

    def _outcome(self, spec: JobSpec) -> JobOutcome | None:
        """What the worker says; None if it is lost."""
        try:
            return self._worker.run(run_job, spec)
        except WorkerSlow:
            limit = f"the reconstruction did not end within {JOB_LIMIT_S / 3600:g} hours"
            return Failed(Refusal("time-limit", limit), transient=False)
        except WorkerLost:
            return None

    def _finish(self, job: Job, done: Done, took_s: float) -> None:
        report, folder = done.report, job_folder(job.id)
        results = [
            Result(r.series, r.sop_class_uid, r.sop_instance_uid, str(folder / r.path), r.sha256)
            for r in done.results
        ]
        destinations = self._settings.destinations(job.senders)
        if not self._journal.finish(job, results, destinations, report.to_json() if report else ""):
            log.info("result dropped: an image came late", job=job.id, acquisition=job.acquisition_id)
            return
        log.info(
            "job done", job=job.id, acquisition=job.acquisition_id, objects=len(results), seconds=round(took_s, 1),
            warnings=report.cautions if report else (),
        )  # fmt: skip
        if not destinations:
            log.warning("nowhere to send", job=job.id, senders=sorted(job.senders))
        self._done()

    def _fail(self, job: Job, failed: Failed) -> None:
        why = failed.refusal
        again = failed.no_space or (failed.transient and job.attempts < MAX_ATTEMPTS)
        pause_s = FULL_RETRY_S if failed.no_space else RETRY_AFTER_S * job.attempts
        self._journal.fail(job, why, pause_s if again else None, counts=not failed.no_space)
        say = log.warning if again else log.error
        say(
            "job will be tried again" if again else "job failed",
            job=job.id, acquisition=job.acquisition_id, attempt=job.attempts, code=why.code, reason=why.sentence,
        )  # fmt: skip
