"""What happened to which object, acquisition, job and delivery: the node's durable truth, one SQLite file.

Every change of state is one transaction, on disk when the method returns (WAL, ``synchronous=FULL``). An
acquisition goes

::

    receiving -> complete        + one job:  queued -> running -> done      + deliveries: pending -> delivered
              -> incomplete                                   -> failed                          -> undeliverable
              -> refused                                      -> superseded
              <- a late instance opens it again, whatever became of it

Knows no DICOM beyond UIDs, no network and no files but its own. ``Journal(None)`` lives in memory.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from node.errors import PermanentError, Refusal
from node.records import Delivery, Gathering, Job, Received, Result

SCHEMA_VERSION = 2

_SCHEMA = f"""
CREATE TABLE acquisition (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, study_uid TEXT NOT NULL, state TEXT NOT NULL,
    code TEXT NOT NULL DEFAULT '', sentence TEXT NOT NULL DEFAULT '', changed_at REAL NOT NULL) STRICT;
CREATE INDEX acquisition_open ON acquisition (id) WHERE state = 'receiving';
CREATE TABLE instance (
    sop_instance_uid TEXT PRIMARY KEY, acquisition_id INTEGER NOT NULL REFERENCES acquisition, sha256 TEXT NOT NULL,
    sender TEXT NOT NULL, header TEXT NOT NULL, received_at REAL NOT NULL) STRICT;
CREATE INDEX instance_of_acquisition ON instance (acquisition_id);
CREATE TABLE job (
    id INTEGER PRIMARY KEY, acquisition_id INTEGER NOT NULL REFERENCES acquisition, state TEXT NOT NULL,
    recipe TEXT NOT NULL, derived_at TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL,
    code TEXT NOT NULL DEFAULT '', sentence TEXT NOT NULL DEFAULT '', changed_at REAL NOT NULL,
    report TEXT NOT NULL DEFAULT '') STRICT;
CREATE INDEX job_of_acquisition ON job (acquisition_id);
CREATE TABLE delivery (
    id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL REFERENCES job, destination TEXT NOT NULL, series TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL, sop_instance_uid TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, queued_at REAL NOT NULL, next_try_at REAL NOT NULL,
    sentence TEXT NOT NULL DEFAULT '', UNIQUE (sop_instance_uid, destination)) STRICT;
CREATE INDEX delivery_of_job ON delivery (job_id);
CREATE INDEX delivery_due ON delivery (next_try_at) WHERE state = 'pending';
CREATE TABLE aside (
    kind TEXT NOT NULL, reason TEXT NOT NULL, sender TEXT NOT NULL, count INTEGER NOT NULL, last_at REAL NOT NULL,
    PRIMARY KEY (kind, reason, sender)) STRICT;
PRAGMA user_version = {SCHEMA_VERSION};
"""


class JournalError(PermanentError):
    """The journal file is of another version, or what was asked for is not in it."""


class Journal:
    """One connection behind one lock; any thread may call.

    Parameters
    ----------
    path
        The SQLite file, on a local disk; created with mode 0600. None: in memory.
    clock
        Seconds since the epoch.

    Raises
    ------
    JournalError
        The file was written by another version.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        if path is not None:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, timeout=30.0)
        try:
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._open_schema()
        except BaseException:
            self._db.close()
            raise

    def _open_schema(self) -> None:
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
            elif version != SCHEMA_VERSION:
                raise JournalError(f"the journal has version {version}, this program reads version {SCHEMA_VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk can have ended it already
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file. Nothing else may be called afterwards."""
        with self._lock:
            self._db.close()

    # --- receiving

    def seen(self, sop_instance_uid: str) -> str | None:
        """SHA-256 of the data set that was stored under this UID."""
        with self._lock:
            row = self._db.execute(
                "SELECT sha256 FROM instance WHERE sop_instance_uid = ?", (sop_instance_uid,)
            ).fetchone()
        return None if row is None else str(row[0])

    def add(self, obj: Received) -> Literal["stored", "duplicate", "conflict"]:
        """Enter a received object; its acquisition is open (again) from now.

        An object that came before changes nothing. A UID that came before with other content is a conflict:
        the first stays, the second is counted aside.
        """
        now = self._clock()
        with self._transaction() as db:
            before = self.seen(obj.sop_instance_uid)
            if before == obj.sha256:
                return "duplicate"
            if before is not None:
                reason = "an instance UID came again with other content or encoding: the first is used"
                self._count(db, "conflict", reason, obj.sender, now)
                return "conflict"
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
            db.execute(
                "INSERT INTO instance VALUES (?, ?, ?, ?, ?, ?)",
                (obj.sop_instance_uid, acquisition, obj.sha256, obj.sender, obj.header, now),
            )
        return "stored"

    def count(self, kind: Literal["ignored", "rejected"], reason: str, sender: str) -> None:
        """Count an object that is not taken: ignored (not for us) or rejected (unusable)."""
        with self._transaction() as db:
            self._count(db, kind, reason, sender, self._clock())

    @staticmethod
    def _count(db: sqlite3.Connection, kind: str, reason: str, sender: str, now: float) -> None:
        db.execute(
            "INSERT INTO aside VALUES (?, ?, ?, 1, ?) "
            "ON CONFLICT DO UPDATE SET count = count + 1, last_at = excluded.last_at",
            (kind, reason, sender, now),
        )

    # --- assembling

    def receiving(self) -> list[Gathering]:
        """The acquisitions that are neither complete nor given a reason why not."""
        with self._lock:
            rows = self._db.execute(
                "SELECT acquisition.id, COUNT(*), json_group_array(DISTINCT sender) "
                "FROM acquisition CROSS JOIN instance ON acquisition_id = acquisition.id "  # few are open
                "WHERE state = 'receiving' GROUP BY acquisition.id"
            ).fetchall()
        return [Gathering(id_, count, frozenset(json.loads(senders))) for id_, count, senders in rows]

    def headers(self, acquisition_id: int) -> list[str]:
        """The headers of an acquisition's instances, in order of arrival."""
        with self._lock:
            rows = self._db.execute(
                "SELECT header FROM instance WHERE acquisition_id = ? ORDER BY rowid", (acquisition_id,)
            ).fetchall()
        return [str(header) for (header,) in rows]

    def complete(self, gathering: Gathering, recipe: str, derived_at: datetime) -> int | None:
        """In one transaction: the acquisition is complete and its job is queued. The job's number.

        None, and no change, if an instance came since ``gathering`` was read. ``derived_at`` is the time of
        derivation of every run of this job.
        """
        now = self._clock()
        with self._transaction() as db:
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
        with self._transaction() as db:
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
        """Take the next job that may run; from now it is running, and this attempt counts."""
        now = self._clock()
        with self._transaction() as db:
            row = db.execute(
                "UPDATE job SET state = 'running', attempts = attempts + 1, changed_at = ?1 WHERE id = "
                "(SELECT id FROM job WHERE state = 'queued' AND not_before <= ?1 ORDER BY id LIMIT 1) "
                "RETURNING id, acquisition_id, recipe, derived_at, attempts",
                (now,),
            ).fetchone()
            if row is None:
                return None
            id_, acquisition, recipe, derived_at, attempts = row
            instances = db.execute(
                "SELECT sha256, sender FROM instance WHERE acquisition_id = ? ORDER BY sha256", (acquisition,)
            ).fetchall()
        return Job(
            id_,
            acquisition,
            recipe,
            datetime.fromisoformat(derived_at),
            attempts,
            tuple(sha256 for sha256, _ in instances),
            frozenset(sender for _, sender in instances),
        )

    def finish(self, job: Job, results: Iterable[Result], destinations: Iterable[str], report: str = "") -> bool:
        """In one transaction: the job is done and every result is queued for every destination.

        An object that was queued before keeps its file and its state. False, and no change, if the job is no longer
        running: a late instance superseded it. ``report`` is `node.report.Report.to_json`.
        """
        now = self._clock()
        rows = [
            (job.id, to, r.series, r.sop_class_uid, r.sop_instance_uid, r.path, r.sha256, now, now)
            for to in destinations
            for r in results
        ]
        with self._transaction() as db:
            if not self._leave_running(db, job, "done", "", ""):
                return False
            db.execute("UPDATE job SET report = ? WHERE id = ?", (report, job.id))
            db.executemany(
                "INSERT INTO delivery (job_id, destination, series, sop_class_uid, sop_instance_uid, path, sha256, "
                "state, queued_at, next_try_at) VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', ?, ?) "
                "ON CONFLICT DO UPDATE SET job_id = excluded.job_id",
                rows,
            )
        return True

    def fail(self, job: Job, refusal: Refusal, retry_in_s: float | None) -> bool:
        """The attempt failed: queue the job again after a pause, or (None) let it rest as failed."""
        state = "failed" if retry_in_s is None else "queued"
        with self._transaction() as db:
            if not self._leave_running(db, job, state, refusal.code, refusal.sentence):
                return False
            db.execute("UPDATE job SET not_before = ? WHERE id = ?", (self._clock() + (retry_in_s or 0), job.id))
        return True

    def release(self, job: Job) -> bool:
        """Give a leased job back as if it had not been taken: the node stops."""
        with self._transaction() as db:
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
        with self._transaction() as db:
            return db.execute("UPDATE job SET state = 'queued' WHERE state = 'running'").rowcount

    # --- deliveries

    def due(self) -> list[Delivery]:
        """What is to be sent now, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, job_id, destination, series, sop_class_uid, sop_instance_uid, path, sha256, attempts, "
                "queued_at FROM delivery WHERE state = 'pending' AND next_try_at <= ? ORDER BY id",
                (self._clock(),),
            ).fetchall()
        return [Delivery(*row) for row in rows]

    def delivered(self, delivery: Delivery, note: str = "") -> None:
        """The peer answered Success, or a warning that ``note`` tells."""
        self._end_attempt(delivery, "delivered", note, 0.0)

    def postpone(self, delivery: Delivery, why: str, retry_in_s: float | None) -> None:
        """The attempt failed: try again after a pause, or (None) give up, visibly."""
        state = "undeliverable" if retry_in_s is None else "pending"
        self._end_attempt(delivery, state, why, retry_in_s or 0.0)

    def _end_attempt(self, delivery: Delivery, state: str, sentence: str, pause_s: float) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE delivery SET state = ?, sentence = ?, attempts = attempts + 1, next_try_at = ? WHERE id = ?",
                (state, sentence, self._clock() + pause_s, delivery.id),
            )

    # --- what an administrator asks

    def retry(self, acquisition_id: int) -> str:
        """Set going again what stopped: a failed job, failed or waiting deliveries, or a judgement.

        Returns
        -------
        str
            What happens now, in words.

        Raises
        ------
        JournalError
            There is no such acquisition, or nothing that could be retried.
        """
        now = self._clock()
        newest = "(SELECT MAX(id) FROM job WHERE acquisition_id = ?)"
        with self._transaction() as db:
            if db.execute(
                "UPDATE acquisition SET state = 'receiving', code = '', sentence = '', changed_at = ? "
                "WHERE id = ? AND state IN ('incomplete', 'refused')",
                (now, acquisition_id),
            ).rowcount:
                return "will be judged again after the quiet time"
            if db.execute(
                f"UPDATE job SET state = 'queued', attempts = 0, not_before = 0, changed_at = ? "
                f"WHERE id = {newest} AND (state = 'failed' OR state = 'queued')",
                (now, acquisition_id),
            ).rowcount:
                return "the reconstruction is queued again"
            sent = db.execute(
                f"UPDATE delivery SET state = 'pending', queued_at = ?, next_try_at = 0 "
                f"WHERE job_id = {newest} AND state IN ('undeliverable', 'pending')",
                (now, acquisition_id),
            ).rowcount
        if not sent:
            raise JournalError(f"acquisition {acquisition_id}: does not exist, or has nothing to try again")
        return f"{sent} objects are sent again"

    def query(self, sql: str, *parameters: Any) -> list[Any]:
        """Rows of a SELECT, for those who only look."""
        with self._lock:
            return self._db.execute(sql, parameters).fetchall()
