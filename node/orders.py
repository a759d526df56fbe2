"""What an administrator asks of the journal, while the node runs or not: to try again, or to wait no longer.

Both are about one acquisition and the page of its study. `spoilt` reads results; all else knows no files.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterable
from pathlib import Path

from node.database import JournalError, Part
from node.studies import SAME_STUDY, drop_notice

_CONCERNED = f"(SELECT id FROM job WHERE acquisition_id = ?1 OR (notice <> '' AND acquisition_id IN {SAME_STUDY}))"
_NEWEST = "(SELECT MAX(id) FROM job WHERE acquisition_id = ?1 AND notice = '')"
_NO_IMAGE_SINCE = "EXISTS (SELECT 1 FROM acquisition WHERE id = ?1 AND state = 'complete')"


class Orders(Part):
    """What an administrator asks for."""

    def unsent(self, acquisition_id: int) -> list[tuple[int, str, str]]:
        """Job, path and SHA-256 of each file of an acquisition, or of its study's page, that a peer may yet need."""
        return self._db.rows(
            "SELECT DISTINCT job_id, path, sha256 FROM delivery "
            f"WHERE state NOT IN ('delivered', 'committed') AND job_id IN {_CONCERNED}",
            acquisition_id,
        )

    def retry(self, acquisition_id: int, again: Collection[int] = ()) -> str:
        """Set going again what stopped: a failed job, a judgement, and what was not delivered.

        A page of the study that was not delivered is sent again, one that was not made is considered again.

        Parameters
        ----------
        again
            Jobs that are done and whose results have to be made once more, see `spoilt`.

        Returns
        -------
        str
            What happens now, in words.

        Raises
        ------
        JournalError
            There is no such acquisition, or nothing that could be retried; or its images are deleted.
        """
        now, made_again = self._clock(), json.dumps(list(again))
        with self._db.transaction() as db:
            _demand(db, acquisition_id, "send it again")
            drop_notice(db, acquisition_id, now)
            db.execute("DELETE FROM fetch WHERE acquisition_id = ?", (acquisition_id,))
            judged = db.execute(
                "UPDATE acquisition SET state = 'receiving', code = '', sentence = '', changed_at = ? "
                "WHERE id = ? AND state IN ('incomplete', 'refused')",
                (now, acquisition_id),
            ).rowcount
            queued = db.execute(
                "UPDATE job SET state = 'queued', attempts = 0, not_before = 0, changed_at = ?2 WHERE "
                f"(id = {_NEWEST} AND {_NO_IMAGE_SINCE} AND (state IN ('failed', 'queued') OR "
                " (state = 'done' AND id IN (SELECT value FROM json_each(?3))))) "
                "OR (notice <> '' AND state IN ('done', 'queued') AND id IN (SELECT value FROM json_each(?3)))",
                (acquisition_id, now, made_again),
            ).rowcount
            sent = db.execute(
                "UPDATE delivery SET state = 'pending', queued_at = ?2, next_try_at = 0 "
                f"WHERE state IN ('undeliverable', 'pending', 'forgotten') AND job_id IN {_CONCERNED}",
                (acquisition_id, now),
            ).rowcount
            lost = db.execute(
                "SELECT 1 FROM job "
                "WHERE id IN (SELECT value FROM json_each(?)) AND state NOT IN ('queued', 'running')",
                (made_again,),
            ).fetchone()
            happens = (
                "will be judged again after the quiet time" if judged else "",
                "the reconstruction is queued again" if queued else "",
                f"{sent} objects are sent again" if sent else "",
                f"an earlier result is missing or damaged, and cannot be made again since further images came: "
                f"`qsm-node jobs forget {acquisition_id}` gives it up" if lost else "",
            )  # fmt: skip
            if not any(happens):
                raise JournalError(f"acquisition {acquisition_id} has nothing to try again")
        return "; ".join(filter(None, happens))

    def forget(self, acquisition_id: int) -> str:
        """Wait no longer for what was not delivered or not committed: it keeps the acquisition from being deleted.

        `retry` takes it back, as long as nothing is deleted.

        Returns
        -------
        str
            What happens now, in words.

        Raises
        ------
        JournalError
            There is no such acquisition, it is on its way, or nothing of it is waited for.
        """
        with self._db.transaction() as db:
            state = _demand(db, acquisition_id, "nothing is waited for")
            if state == "receiving":
                raise JournalError(f"acquisition {acquisition_id} is still being received: nothing is forgotten")
            if db.execute(
                "SELECT 1 FROM job WHERE acquisition_id = ? AND state IN ('queued', 'running')", (acquisition_id,)
            ).fetchone():
                raise JournalError(f"acquisition {acquisition_id} is still being reconstructed: nothing is forgotten")
            forgotten = db.execute(
                "UPDATE delivery SET state = CASE state WHEN 'stored' THEN 'delivered' ELSE 'forgotten' END "
                f"WHERE state IN ('pending', 'undeliverable', 'stored') AND job_id IN {_CONCERNED}",
                (acquisition_id,),
            ).rowcount
            if not forgotten:
                raise JournalError(f"acquisition {acquisition_id}: nothing of it waits to be delivered")
        return f"{forgotten} objects are no longer waited for: images and results will be deleted after their time"


def spoilt(files: Iterable[tuple[int, str, str]], folder: Path) -> set[int]:
    """The jobs of which a file, as `Orders.unsent` names them, is not in the data folder as it was written."""
    return {job for job, path, sha256 in files if not _is_whole(folder / path, sha256)}


def _is_whole(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def _demand(db: sqlite3.Connection, acquisition_id: int, then: str) -> str:
    """The state of an acquisition that is there, with its images."""
    row = db.execute("SELECT state FROM acquisition WHERE id = ?", (acquisition_id,)).fetchone()
    if row is None:
        raise JournalError(f"there is no acquisition {acquisition_id}")
    if row[0] == "cleaned":
        raise JournalError(f"acquisition {acquisition_id}: its images are deleted; {then}")
    return str(row[0])
