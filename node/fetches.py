"""The journal's rows of what was asked of a PACS for which acquisition, and what came of it.

::

    asking -> done       nothing lacks there, or what lacked was sent
           -> again      it did not answer, or could not send: asked again after a pause
           -> needless   the acquisition is not worth asking for

Every row ends: an acquisition is asked for `MOST_ATTEMPTS` times at most, whatever comes of it. Knows no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from node.database import Part

MOST_ATTEMPTS = 6
FIRST_PAUSE_S, PAUSE_GROWS = 60.0, 4.0
"""The last attempt comes after six hours."""
LONGEST_PAUSE_S = FIRST_PAUSE_S * PAUSE_GROWS ** (MOST_ATTEMPTS - 2)
FORGOTTEN_S = 86400.0
"""What was settled longer ago is not asked for: a PACS that is named later is not asked for all that was."""

Outcome = Literal["done", "again", "needless"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """An acquisition of which images lack, since a moment in seconds since the epoch."""

    acquisition_id: int
    study_uid: str
    code: str
    changed_at: float


class Fetches(Part):
    """What a PACS was asked for."""

    def due(self, peer: str) -> list[Wanted]:
        """What this peer is to be asked for now: what was judged incomplete since it was asked, and what waited."""
        rows = self._db.rows(
            """
            SELECT a.id, a.study_uid, a.code, a.changed_at FROM acquisition a
            LEFT JOIN fetch f ON f.acquisition_id = a.id AND f.peer = ?1
            WHERE a.changed_at > ?2 - ?3 AND a.state IN ('incomplete', 'refused')
              AND a.code IN ('incomplete', 'no-phase') AND COALESCE(f.attempts, 0) < ?4
              AND (f.peer IS NULL OR f.changed_at <> a.changed_at
                   OR (f.state IN ('asking', 'again') AND (f.next_try_at <= ?2 OR f.next_try_at > ?2 + ?5)))
            ORDER BY a.changed_at
            """,
            peer, self._clock(), FORGOTTEN_S, MOST_ATTEMPTS, LONGEST_PAUSE_S,
        )  # fmt: skip
        return [Wanted(*row) for row in rows]

    def known(self, study_uid: str) -> dict[str, set[str]]:
        """SOP instance UIDs of a study's images that the node has, by series."""
        found: dict[str, set[str]] = {}
        for series, uid in self._db.rows(
            "SELECT json_extract(header, '$.series_uid'), sop_instance_uid FROM instance "
            "JOIN acquisition a ON a.id = acquisition_id WHERE study_uid = ?",
            study_uid,
        ):
            found.setdefault(str(series), set()).add(str(uid))
        return found

    def begin(self, wanted: Wanted, peer: str) -> None:
        """This peer is being asked; should the node end meanwhile, or the peer fail, it is again after a pause."""
        key = (wanted.acquisition_id, peer)
        with self._db.transaction() as db:
            row = db.execute("SELECT attempts FROM fetch WHERE acquisition_id = ? AND peer = ?", key).fetchone()
            attempts = row[0] if row else 0
            again_at = self._clock() + FIRST_PAUSE_S * PAUSE_GROWS**attempts
            db.execute(
                "INSERT OR REPLACE INTO fetch (acquisition_id, peer, state, attempts, changed_at, next_try_at) "
                "VALUES (?, ?, 'asking', ?, ?, ?)",
                (*key, attempts + 1, wanted.changed_at, again_at),
            )

    def enter(self, wanted: Wanted, peer: str, outcome: Outcome, sentence: str) -> None:
        """What came of asking."""
        with self._db.transaction() as db:
            db.execute(
                "UPDATE fetch SET state = ?, sentence = ? WHERE acquisition_id = ? AND peer = ?",
                (outcome, sentence, wanted.acquisition_id, peer),
            )
