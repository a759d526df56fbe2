"""The journal's rows of what is to be sent: what is due, and what became of each object.

::

    pending -> delivered
            -> stored -> committed     where the peer is asked for commitment
                      -> pending       it did not commit: sent again
            -> undeliverable          after long; pending again if an administrator says so
            -> forgotten              nobody waits for it any more, see `node.orders`

Knows no network and decides nothing about trying again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from node.database import Part
from node.records import Attempt, Delivery

LONGEST_PAUSE_S = 900.0
LONGEST_WAIT_S = 6 * 3600.0
"""Between attempts to send, and between requests for commitment. What says that it waits for longer was put off
before the clock was set back: it is due."""
_NOT_YET = "not committed yet: "


class Deliveries(Part):
    """What is to be sent where, and what became of it."""

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
        return self._select(
            "state = 'pending' AND (?1 IS NULL OR destination = ?1) AND (next_try_at <= ?2 OR next_try_at > ?2 + ?3)",
            destination, self._clock(), LONGEST_PAUSE_S,
        )  # fmt: skip

    def elsewhere(self, destinations: Iterable[str]) -> list[tuple[str, int, list[int]]]:
        """What is to be sent to others than these: destination, number of objects, their acquisitions."""
        rows = self._db.rows(
            "SELECT destination, COUNT(*), json_group_array(DISTINCT acquisition_id) "
            "FROM delivery JOIN job ON job.id = job_id WHERE delivery.state IN ('pending', 'undeliverable') "
            "AND destination NOT IN (SELECT value FROM json_each(?)) GROUP BY destination ORDER BY destination",
            json.dumps(list(destinations)),
        )
        return [(to, objects, sorted(json.loads(acquisitions))) for to, objects, acquisitions in rows]

    def enter(self, attempts: Iterable[Attempt]) -> None:
        """Enter how attempts ended, in one transaction.

        What an administrator said meanwhile holds, unless the object arrived: that it is waited for no longer, or
        that it is tried anew.
        """
        now = self._clock()
        with self._db.transaction() as db:
            db.executemany(
                "UPDATE delivery SET state = CASE "
                "WHEN state NOT IN ('pending', 'stored') AND ?1 IN ('pending', 'undeliverable') THEN state "
                "WHEN queued_at <> ?5 AND ?1 = 'undeliverable' THEN 'pending' ELSE ?1 END, "
                "sentence = ?2, attempts = attempts + 1, next_try_at = ?3 WHERE id = ?4",
                [(a.state, a.sentence, now + a.retry_in_s, a.delivery.id, a.delivery.queued_at) for a in attempts],
            )

    # --- storage commitment

    def to_ask(self, destination: str) -> list[Delivery]:
        """What the destination is to be asked to commit now, of the jobs of which nothing is on its way to it."""
        return self._select(
            "state = 'stored' AND destination = ?1 AND (next_try_at <= ?2 OR next_try_at > ?2 + ?3) AND job_id NOT IN"
            " (SELECT job_id FROM delivery WHERE state = 'pending' AND destination = ?1 AND next_try_at <= ?2)",
            destination, self._clock(), LONGEST_WAIT_S,
        )  # fmt: skip

    def asked(
        self, deliveries: Iterable[Delivery], transaction_uid: str, again_in_s: float, problem: str = ""
    ) -> None:
        """The destination is asked for commitment, and will be again after a while without an answer.

        A problem with that is told where the peer has not warned of the object itself; the request counts once.
        """
        again_at = self._clock() + again_in_s
        told = f"{_NOT_YET}{problem}" if problem else ""
        with self._db.transaction() as db:
            db.executemany(
                "UPDATE delivery SET asked = asked + (transaction_uid <> ?1), transaction_uid = ?1, next_try_at = ?2,"
                f" sentence = CASE WHEN sentence = '' OR sentence LIKE '{_NOT_YET}%' THEN ?3 ELSE sentence END "
                "WHERE id = ?4 AND state = 'stored'",
                [(transaction_uid, again_at, told, d.id) for d in deliveries],
            )

    def uncommitted(self, destination: str, sop_instance_uids: Iterable[str]) -> list[Delivery]:
        """Those of these objects whose commitment is waited for."""
        return self._select(
            "state = 'stored' AND destination = ?1 AND sop_instance_uid IN (SELECT value FROM json_each(?2))",
            destination, json.dumps(list(sop_instance_uids)),
        )  # fmt: skip

    def committed(self, deliveries: Iterable[Delivery]) -> None:
        """The destination has taken responsibility for these."""
        with self._db.transaction() as db:
            db.executemany(
                "UPDATE delivery SET state = 'committed', sentence = CASE "
                f"WHEN sentence LIKE '{_NOT_YET}%' THEN '' ELSE sentence END WHERE id = ? AND state = 'stored'",
                [(d.id,) for d in deliveries],
            )

    def waive(self, still_asked: Iterable[str]) -> int:
        """Wait for no commitment of other destinations than these; how many objects are delivered by that."""
        with self._db.transaction() as db:
            return db.execute(
                "UPDATE delivery SET state = 'delivered' WHERE state = 'stored' "
                "AND destination NOT IN (SELECT value FROM json_each(?))",
                (json.dumps(list(still_asked)),),
            ).rowcount

    def _select(self, which: str, *parameters: str | float | None) -> list[Delivery]:
        rows = self._db.rows(
            "SELECT id, job_id, destination, series, sop_class_uid, sop_instance_uid, path, sha256, attempts, "
            f"queued_at, asked, transaction_uid FROM delivery WHERE {which} ORDER BY id",
            *parameters,
        )
        return [Delivery(*row) for row in rows]
