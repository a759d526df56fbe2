"""The journal's rows that need not be kept any longer: whose acquisition is at rest and delivered, or forgotten.

An acquisition that is cleaned leaves a row, and its jobs, for a year: they say that the study had its result. Knows
no files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from node.database import Part

REMEMBERED_S = 365 * 86400.0

_EXPENDABLE = """
    state IN ('complete', 'incomplete', 'refused')
    AND NOT EXISTS (SELECT 1 FROM job WHERE acquisition_id = a.id AND job.state IN ('queued', 'running'))
    AND NOT EXISTS (SELECT 1 FROM job JOIN delivery ON job_id = job.id
                    WHERE acquisition_id = a.id AND delivery.state NOT IN ('delivered', 'committed', 'forgotten'))
"""


class Keeping(Part):
    """What need not be kept any longer."""

    def expendable(self) -> list[tuple[int, float]]:
        """Acquisitions in which nothing is received, queued, undelivered or uncommitted; the oldest first.

        With the time since when nothing has happened to them but delivery.
        """
        rows = self._db.rows(
            "SELECT id, MAX(changed_at, COALESCE((SELECT MAX(changed_at) FROM job WHERE acquisition_id = a.id), 0)) "
            f"AS since FROM acquisition a WHERE {_EXPENDABLE} ORDER BY since, id"
        )
        return [(int(id_), float(since)) for id_, since in rows]

    def objects(self, acquisition_id: int) -> list[str]:
        """SHA-256 of an acquisition's images."""
        rows = self._db.rows("SELECT sha256 FROM instance WHERE acquisition_id = ?", acquisition_id)
        return [str(sha256) for (sha256,) in rows]

    def jobs(self, acquisition_id: int) -> list[int]:
        """Numbers of all its jobs."""
        rows = self._db.rows("SELECT id FROM job WHERE acquisition_id = ?", acquisition_id)
        return [int(id_) for (id_,) in rows]

    def forgotten(self, acquisition_id: int) -> int:
        """How many of its objects were not delivered and need not be."""
        rows = self._db.rows(
            "SELECT COUNT(*) FROM job JOIN delivery ON job_id = job.id "
            "WHERE acquisition_id = ? AND delivery.state = 'forgotten'",
            acquisition_id,
        )
        return int(rows[0][0])

    def clean(self, acquisition_id: int, instances: int) -> bool:
        """Delete images and deliveries; the acquisition is cleaned.

        False, and no change, if it is no longer expendable or has not so many instances: one came meanwhile.
        """
        with self._db.transaction() as db:
            if not db.execute(
                f"UPDATE acquisition AS a SET state = 'cleaned', code = '', sentence = '' "
                f"WHERE id = ? AND {_EXPENDABLE} "
                "AND (SELECT COUNT(*) FROM instance WHERE acquisition_id = a.id) = ?",
                (acquisition_id, instances),
            ).rowcount:
                return False
            mine = "IN (SELECT id FROM job WHERE acquisition_id = ?)"
            db.execute(f"DELETE FROM delivery WHERE job_id {mine}", (acquisition_id,))
            db.execute("DELETE FROM instance WHERE acquisition_id = ?", (acquisition_id,))
        return True

    def unknown_objects(self, sha256s: Iterable[str]) -> list[str]:
        """Those of these images that no row names."""
        rows = self._db.rows(
            "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT sha256 FROM instance)",
            json.dumps(list(sha256s)),
        )
        return [str(sha256) for (sha256,) in rows]

    def unknown_jobs(self, numbers: Iterable[int]) -> list[int]:
        """Those of these jobs that there are not, or whose acquisition is cleaned."""
        rows = self._db.rows(
            "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT job.id FROM job "
            "JOIN acquisition a ON a.id = acquisition_id WHERE a.state <> 'cleaned')",
            json.dumps(list(numbers)),
        )
        return [int(number) for (number,) in rows]

    def expire(self) -> int:
        """Delete the rows of what is cleaned and a year old, and counts as old; how many acquisitions."""
        before = self._clock() - REMEMBERED_S
        old = "(SELECT id FROM acquisition WHERE state = 'cleaned' AND changed_at < ?1)"
        with self._db.transaction() as db:
            db.execute("DELETE FROM aside WHERE last_at < ?", (before,))
            db.execute(f"DELETE FROM job WHERE acquisition_id IN {old}", (before,))
            return db.execute(f"DELETE FROM acquisition WHERE id IN {old}", (before,)).rowcount
