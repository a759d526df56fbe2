"""The journal's rows of what is to be sent: what is due, and what became of each object.

::

    pending -> delivered
            -> undeliverable

Knows no network and decides nothing about trying again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from node.database import Database
from node.records import Attempt, Delivery

LONGEST_PAUSE_S = 900.0
"""A delivery that says it waits for longer was put off before the clock was set back: it is due."""


class Deliveries:
    """A part of the journal; any thread may call.

    Parameters
    ----------
    clock
        Seconds since the epoch.
    """

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock

    def waiting(self) -> list[str]:
        """The destinations that something is due for."""
        rows = self._db.rows(
            "SELECT DISTINCT destination FROM delivery WHERE state = 'pending' "
            "AND (next_try_at <= ?1 OR next_try_at > ?1 + ?2) ORDER BY destination",
            self._clock(), LONGEST_PAUSE_S,
        )  # fmt: skip
        return [str(destination) for (destination,) in rows]

    def due(self, destination: str | None = None) -> list[Delivery]:
        """What is to be sent now, to one destination or to all; oldest first."""
        rows = self._db.rows(
            "SELECT id, job_id, destination, series, sop_class_uid, sop_instance_uid, path, sha256, attempts, "
            "queued_at FROM delivery WHERE state = 'pending' AND (?3 IS NULL OR destination = ?3) "
            "AND (next_try_at <= ?1 OR next_try_at > ?1 + ?2) ORDER BY id",
            self._clock(), LONGEST_PAUSE_S, destination,
        )  # fmt: skip
        return [Delivery(*row) for row in rows]

    def enter(self, attempts: Iterable[Attempt]) -> None:
        """Enter how attempts ended, in one transaction."""
        now = self._clock()
        with self._db.transaction() as db:
            db.executemany(
                "UPDATE delivery SET state = ?, sentence = ?, attempts = attempts + 1, next_try_at = ? WHERE id = ?",
                [(a.state, a.sentence, now + a.retry_in_s, a.delivery.id) for a in attempts],
            )
