"""The journal's studies: which of them are settled without QSM, and may get a page that says why.

Knows not when a page is due, nor what it says.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime

from pydantic import TypeAdapter

from node.database import Part
from node.errors import Refusal
from node.records import Notice, Settled, Stopped

SAME_STUDY = "(SELECT id FROM acquisition WHERE study_uid = (SELECT study_uid FROM acquisition WHERE id = ?1))"
"""The acquisitions of the study of acquisition ?1."""
_NOTICE = TypeAdapter(Notice)


class Studies(Part):
    """Which studies get a page that says why there is no QSM."""

    def settled(self, since: float) -> list[Settled]:
        """Studies of which an acquisition changed since then (seconds since the epoch) and that may get a page.

        Nothing of them is received, queued or running; nothing was reconstructed; they have no page.
        """
        return self._settled("changed_at >= ?", since)

    def _settled(self, which: str, parameter: float | str) -> list[Settled]:
        rows = self._db.rows(
            f"""
            WITH study AS (SELECT study_uid FROM acquisition WHERE {which}),
            part AS (
                SELECT study_uid, changed_at, state = 'receiving' AS forbids
                FROM acquisition WHERE study_uid IN study
                UNION ALL
                SELECT study_uid, job.changed_at, job.state IN ('queued', 'running', 'done')
                       OR (notice <> '' AND job.state <> 'superseded')
                       OR (notice = '' AND EXISTS (SELECT 1 FROM delivery WHERE job_id = job.id))
                FROM acquisition CROSS JOIN job ON acquisition_id = acquisition.id WHERE study_uid IN study)
            SELECT study_uid, MAX(changed_at) FROM part GROUP BY study_uid HAVING NOT MAX(forbids)
            """,
            parameter,
        )
        return [Settled(*row) for row in rows]

    def stopped(self, study_uid: str) -> list[Stopped]:
        """The acquisitions of a study that were refused or failed, oldest first."""
        rows = self._db.rows(
            """
            SELECT id, code, sentence FROM acquisition WHERE study_uid = ?1 AND state IN ('incomplete', 'refused')
            UNION ALL
            SELECT a.id, job.code, job.sentence FROM acquisition a JOIN job ON job.id =
                (SELECT MAX(id) FROM job WHERE acquisition_id = a.id AND notice = '')
            WHERE study_uid = ?1 AND a.state = 'complete' AND job.state = 'failed'
            ORDER BY 1
            """,
            study_uid,
        )
        return [Stopped(id_, Refusal(code, sentence)) for id_, code, sentence in rows]

    def notify(self, study: Settled, acquisition_id: int, notice: Notice, derived_at: datetime) -> int | None:
        """Queue the job that makes the study's page from an image of this acquisition. The job's number.

        None, and no change, if the study is no longer as it was settled.
        """
        with self._db.transaction() as db:
            if study not in self._settled("study_uid = ?", study.study_uid):
                return None
            if acquisition_id not in {stopped.acquisition_id for stopped in self.stopped(study.study_uid)}:
                return None  # cleaned meanwhile
            (job,) = db.execute(
                "INSERT INTO job (acquisition_id, state, recipe, derived_at, not_before, changed_at, notice) "
                "VALUES (?, 'queued', '', ?, 0, ?, ?) RETURNING id",
                (acquisition_id, derived_at.isoformat(), self._clock(), _NOTICE.dump_json(notice).decode()),
            ).fetchone()
        return int(job)


def drop_notice(db: sqlite3.Connection, acquisition_id: int, now: float) -> None:
    """The study goes on: a page that is not made yet would say what is no longer so. One made again was there."""
    db.execute(
        "UPDATE job SET state = 'superseded', changed_at = ?2 WHERE notice <> '' "
        f"AND state IN ('queued', 'running', 'failed') AND acquisition_id IN {SAME_STUDY} "
        "AND (state = 'failed' OR NOT EXISTS (SELECT 1 FROM delivery WHERE job_id = job.id))",
        (acquisition_id, now),
    )
