"""What happened to which object, acquisition, job and delivery: the node's durable truth, one SQLite file.

Every change of state is one transaction, on disk when the method returns (WAL, ``synchronous=FULL``). An
acquisition goes

::

    receiving -> complete        + one job:  queued -> running -> done      + deliveries: pending -> delivered
              -> incomplete                                   -> failed                          -> undeliverable
              -> refused                                      -> superseded                      -> forgotten
              -> cleaned, after any of these: its images and deliveries are deleted
              <- a late instance opens it again, whatever became of it

A job makes QSM, or the page of a study that says why there is none (``notice``): at most one in a study. One that is
done is queued again where its result is damaged, see `node.orders`.
Knows no DICOM beyond UIDs, no network and no files but its own. ``Journal(None)`` lives in memory.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from node.database import Database
from node.deliveries import Deliveries
from node.errors import Refusal
from node.fetches import Fetches
from node.keeping import Keeping
from node.orders import Orders
from node.records import Gathering, Job, Notice, Received, Result
from node.studies import Studies, drop_notice

_NOTICE = TypeAdapter(Notice)
Aside = Literal["ignored", "rejected", "conflict"]


class Journal:
    """One connection behind one lock; any thread may call.

    Parameters
    ----------
    path
        The SQLite file, on a local disk; created with mode 0600. None: in memory.
    clock
        Seconds since the epoch.

    Attributes
    ----------
    deliveries
        What is to be sent, and what became of it.
    fetches
        What a PACS was asked for.
    keeping
        What need not be kept any longer.
    studies
        Which of them get a page that says why there is no QSM.
    orders
        What an administrator asks for.

    Raises
    ------
    JournalError
        The file was written by a later version.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._db = Database(path)
        self._tallying = threading.Lock()
        self._counted: dict[tuple[Aside, str, str], tuple[int, float]] = {}
        self.deliveries = Deliveries(self._db, clock)
        self.fetches = Fetches(self._db, clock)
        self.keeping = Keeping(self._db, clock)
        self.studies = Studies(self._db, clock)
        self.orders = Orders(self._db, clock)

    def close(self) -> None:
        """Close the file. Nothing else may be called afterwards."""
        with suppress(sqlite3.OperationalError):  # on a full disk, the last counts are lost
            self.tally()
        self._db.close()

    # --- receiving

    def holder(self, sop_instance_uid: str) -> tuple[int, str] | None:
        """The acquisition that has an object of this UID, and the SHA-256 of its data set."""
        sql = "SELECT acquisition_id, sha256 FROM instance WHERE sop_instance_uid = ?"
        rows = self._db.rows(sql, sop_instance_uid)
        return (int(rows[0][0]), str(rows[0][1])) if rows else None

    def add(self, *objects: Received) -> list[Literal["stored", "duplicate", "conflict"]]:
        """Enter received objects, in one transaction; their acquisitions are open (again) from now.

        A data set that came before changes nothing. A UID that came before with another one is a conflict:
        the first stays, the second is counted aside.
        """
        now = self._clock()
        with self._db.transaction() as db:
            outcomes = [self._add(db, obj, now) for obj in objects]
        for obj, outcome in zip(objects, outcomes, strict=True):
            if outcome == "conflict":
                reason = "an instance UID came again with other content or encoding: the first is used"
                self.count(outcome, reason, obj.sender)
        return outcomes

    def _add(self, db: sqlite3.Connection, obj: Received, now: float) -> Literal["stored", "duplicate", "conflict"]:
        if holder := self.holder(obj.sop_instance_uid):
            return "duplicate" if holder[1] == obj.sha256 else "conflict"
        (acquisition,) = db.execute(
            "INSERT INTO acquisition (key, study_uid, state, changed_at) VALUES (?, ?, 'receiving', ?) "
            "ON CONFLICT DO UPDATE SET state = 'receiving', code = '', sentence = '', "
            "changed_at = excluded.changed_at RETURNING id",
            (obj.key, obj.study_uid, now),
        ).fetchone()
        db.execute(
            "UPDATE job SET state = 'superseded', changed_at = ? "
            "WHERE acquisition_id = ? AND state IN ('queued', 'running')",
            (now, acquisition),
        )
        drop_notice(db, acquisition, now)
        db.execute(
            "INSERT INTO instance VALUES (?, ?, ?, ?, ?, ?)",
            (obj.sop_instance_uid, acquisition, obj.sha256, obj.sender, obj.header, now),
        )
        return "stored"

    def count(self, kind: Aside, reason: str, sender: str) -> None:
        """Count an object that is not taken: ignored (not for us) or rejected (unusable). On disk after `tally`."""
        self._count((kind, reason, sender), 1, self._clock())

    def _count(self, aside: tuple[Aside, str, str], more: int, at: float) -> None:
        with self._tallying:
            count, last_at = self._counted.get(aside, (0, 0.0))
            self._counted[aside] = (count + more, max(at, last_at))

    def tally(self) -> None:
        """Write what was counted: not at every count, since whoever knocks at a port can bring one about."""
        with self._tallying:
            counted, self._counted = self._counted, {}
        if not counted:
            return
        try:
            with self._db.transaction() as db:
                db.executemany(
                    "INSERT INTO aside VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
                    "SET count = count + excluded.count, last_at = excluded.last_at",
                    [(*aside, count, last_at) for aside, (count, last_at) in counted.items()],
                )
        except sqlite3.OperationalError:  # the disk is full, or fails
            for aside, (count, last_at) in counted.items():
                self._count(aside, count, last_at)
            raise

    # --- assembling

    def receiving(self) -> list[Gathering]:
        """The acquisitions that are neither complete nor given a reason why not."""
        rows = self._db.rows(
            "SELECT acquisition.id, COUNT(*), json_group_array(DISTINCT sender) "
            "FROM acquisition CROSS JOIN instance ON acquisition_id = acquisition.id "  # few are open
            "WHERE state = 'receiving' GROUP BY acquisition.id"
        )
        return [Gathering(id_, count, frozenset(json.loads(senders))) for id_, count, senders in rows]

    def headers(self, acquisition_id: int) -> list[str]:
        """The headers of an acquisition's instances, in order of arrival."""
        rows = self._db.rows(
            "SELECT header FROM instance WHERE acquisition_id = ? ORDER BY rowid",
            acquisition_id,
        )
        return [str(header) for (header,) in rows]

    def complete(self, gathering: Gathering, recipe: str, derived_at: datetime) -> int | None:
        """In one transaction: the acquisition is complete and its job is queued. The job's number.

        None, and no change, if an instance came since ``gathering`` was read. ``derived_at`` is the time of
        derivation of every run of this job.
        """
        now = self._clock()
        with self._db.transaction() as db:
            if not self._unchanged(db, gathering):
                return None
            db.execute("UPDATE acquisition SET state = 'complete', changed_at = ? WHERE id = ?", (now, gathering.id))
            (job,) = db.execute(
                "INSERT INTO job (acquisition_id, state, recipe, derived_at, not_before, changed_at) "
                "VALUES (?, 'queued', ?, ?, 0, ?) RETURNING id",
                (gathering.id, recipe, derived_at.isoformat(), now),
            ).fetchone()
        return int(job)

    def settle(self, gathering: Gathering, state: Literal["incomplete", "refused"], refusal: Refusal) -> bool:
        """The acquisition is not reconstructed, for this reason. False if an instance came meanwhile."""
        with self._db.transaction() as db:
            if not self._unchanged(db, gathering):
                return False
            db.execute(
                "UPDATE acquisition SET state = ?, code = ?, sentence = ?, changed_at = ? WHERE id = ?",
                (state, refusal.code, refusal.sentence, self._clock(), gathering.id),
            )
        return True

    @staticmethod
    def _unchanged(db: sqlite3.Connection, gathering: Gathering) -> bool:
        row = db.execute(
            "SELECT (SELECT COUNT(*) FROM instance WHERE acquisition_id = id) FROM acquisition "
            "WHERE id = ? AND state = 'receiving'",
            (gathering.id,),
        ).fetchone()
        return bool(row == (gathering.instances,))

    # --- jobs

    def lease(self) -> Job | None:
        """Take the next job that may run; from now it is running, and this attempt counts.

        One that was put off later than now is due: the clock was set back since.
        """
        now = self._clock()
        with self._db.transaction() as db:
            row = db.execute(
                "UPDATE job SET state = 'running', attempts = attempts + 1, not_before = 0, changed_at = ?1 "
                "WHERE id = (SELECT id FROM job WHERE state = 'queued' AND (not_before <= ?1 OR changed_at > ?1) "
                "ORDER BY id LIMIT 1) "
                "RETURNING id, acquisition_id, recipe, derived_at, attempts, notice",
                (now,),
            ).fetchone()
            if row is None:
                return None
            id_, acquisition, recipe, derived_at, attempts, notice = row
            instances = db.execute(
                "SELECT sha256, sender FROM instance WHERE acquisition_id = ? ORDER BY sha256", (acquisition,)
            ).fetchall()
            earlier = db.execute(
                "SELECT derived_at FROM job WHERE acquisition_id = ? AND id < ? AND notice = '' "
                "AND EXISTS (SELECT 1 FROM delivery WHERE job_id = job.id) ORDER BY id DESC LIMIT 1",
                (acquisition, id_),
            ).fetchone()
            written = db.execute("SELECT DISTINCT path, sha256 FROM delivery WHERE job_id = ?", (id_,)).fetchall()
        return Job(
            id_,
            acquisition,
            recipe,
            datetime.fromisoformat(derived_at),
            attempts,
            tuple(sha256 for sha256, _ in instances),
            frozenset(sender for _, sender in instances),
            _NOTICE.validate_json(notice) if notice else None,
            datetime.fromisoformat(earlier[0]) if earlier and not notice else None,
            tuple((Path(path).name, sha256) for path, sha256 in written),
        )

    def finish(self, job: Job, results: Iterable[Result], destinations: Iterable[str], report: str = "") -> bool:
        """In one transaction: the job is done and every result is queued for every destination.

        An object that was queued before keeps its file and its state, and is due. False, and no change, if the job
        is no longer running: a late instance superseded it. ``report`` is `node.report.Report.to_json`.
        """
        now = self._clock()
        rows = [
            (job.id, to, r.series, r.sop_class_uid, r.sop_instance_uid, r.path, r.sha256, now, now)
            for to in destinations
            for r in results
        ]
        with self._db.transaction() as db:
            if not self._leave_running(db, job, "done", "", ""):
                return False
            db.execute("UPDATE job SET report = ? WHERE id = ?", (report, job.id))
            db.executemany(
                "INSERT INTO delivery (job_id, destination, series, sop_class_uid, sop_instance_uid, path, sha256, "
                "state, queued_at, next_try_at) VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', ?, ?) "
                "ON CONFLICT DO UPDATE SET job_id = excluded.job_id, next_try_at = excluded.next_try_at",
                rows,
            )
        return True

    def fail(self, job: Job, refusal: Refusal, retry_in_s: float | None, counts: bool = True) -> bool:
        """The attempt failed: queue the job again after a pause, or (None) let it rest as failed.

        One that does not count was for lack of something that comes back.
        """
        state = "failed" if retry_in_s is None else "queued"
        with self._db.transaction() as db:
            if not self._leave_running(db, job, state, refusal.code, refusal.sentence):
                return False
            db.execute(
                "UPDATE job SET not_before = ?, attempts = attempts - ? WHERE id = ?",
                (self._clock() + (retry_in_s or 0), not counts, job.id),
            )
        return True

    def release(self, job: Job) -> bool:
        """Give a leased job back as if it had not been taken: the node stops."""
        with self._db.transaction() as db:
            if not self._leave_running(db, job, "queued", "", ""):
                return False
            db.execute("UPDATE job SET attempts = attempts - 1 WHERE id = ?", (job.id,))
        return True

    def _leave_running(self, db: sqlite3.Connection, job: Job, state: str, code: str, sentence: str) -> bool:
        changed = db.execute(
            "UPDATE job SET state = ?, code = ?, sentence = ?, changed_at = ? WHERE id = ? AND state = 'running'",
            (state, code, sentence, self._clock(), job.id),
        ).rowcount
        return changed == 1

    def recover(self) -> int:
        """Queue the jobs that were running when the node ended without a word; their number."""
        with self._db.transaction() as db:
            return db.execute("UPDATE job SET state = 'queued' WHERE state = 'running'").rowcount

    def query(self, sql: str, *parameters: Any) -> list[Any]:
        """Rows of a SELECT, for those who only look."""
        self.tally()
        return self._db.rows(sql, *parameters)
