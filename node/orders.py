"""What an administrator asks of the journal, while the node runs or not."""

from __future__ import annotations

from collections.abc import Callable

from node.database import Database, JournalError
from node.studies import SAME_STUDY, drop_notice


class Orders:
    """A part of the journal; any thread may call.

    Parameters
    ----------
    clock
        Seconds since the epoch.
    """

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock

    def retry(self, acquisition_id: int) -> str:
        """Set going again what stopped: a failed job, failed or waiting deliveries, or a judgement.

        A page of the study that was not delivered is sent again, one that was not made is considered again.

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
        newest = "(SELECT MAX(id) FROM job WHERE acquisition_id = ?1 AND notice = '')"
        page = f"SELECT id FROM job WHERE notice <> '' AND acquisition_id IN {SAME_STUDY}"
        send = (
            "UPDATE delivery SET state = 'pending', queued_at = ?2, next_try_at = 0 "
            "WHERE state IN ('undeliverable', 'pending') AND job_id IN"
        )
        with self._db.transaction() as db:
            if db.execute(
                "SELECT 1 FROM acquisition WHERE id = ? AND state = 'cleaned'", (acquisition_id,)
            ).fetchone():
                raise JournalError(f"acquisition {acquisition_id}: its images are deleted; send it again")
            drop_notice(db, acquisition_id, now)
            db.execute("DELETE FROM fetch WHERE acquisition_id = ?", (acquisition_id,))
            pages = db.execute(f"{send} ({page})", (acquisition_id, now)).rowcount
            if db.execute(
                "UPDATE acquisition SET state = 'receiving', code = '', sentence = '', changed_at = ? "
                "WHERE id = ? AND state IN ('incomplete', 'refused')",
                (now, acquisition_id),
            ).rowcount:
                return "will be judged again after the quiet time"
            if db.execute(
                f"UPDATE job SET state = 'queued', attempts = 0, not_before = 0, changed_at = ?2 "
                f"WHERE id = {newest} AND state IN ('failed', 'queued') "
                "AND EXISTS (SELECT 1 FROM acquisition WHERE id = ?1 AND state = 'complete')",  # no image came since
                (acquisition_id, now),
            ).rowcount:
                return "the reconstruction is queued again"
            results = "SELECT id FROM job WHERE acquisition_id = ?1 AND notice = ''"  # earlier ones, too
            sent = pages + db.execute(f"{send} ({results})", (acquisition_id, now)).rowcount
            if not sent:
                raise JournalError(f"acquisition {acquisition_id}: does not exist, or has nothing to try again")
        return f"{sent} objects are sent again"
