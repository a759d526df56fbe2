"""The node's SQLite file: its tables, their versions, and transactions that are on disk when they end.

WAL and ``synchronous=FULL``: what was committed survives a loss of power. Knows no meaning: `node.journal` does.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from node.errors import PermanentError

SCHEMA_VERSION = 7

_SCHEMA = """
CREATE TABLE acquisition (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, study_uid TEXT NOT NULL, state TEXT NOT NULL,
    code TEXT NOT NULL DEFAULT '', sentence TEXT NOT NULL DEFAULT '', changed_at REAL NOT NULL) STRICT;
CREATE INDEX acquisition_open ON acquisition (id) WHERE state = 'receiving';
CREATE INDEX acquisition_of_study ON acquisition (study_uid);
CREATE INDEX acquisition_changed ON acquisition (changed_at);
CREATE TABLE instance (
    sop_instance_uid TEXT PRIMARY KEY, acquisition_id INTEGER NOT NULL REFERENCES acquisition, sha256 TEXT NOT NULL,
    sender TEXT NOT NULL, header TEXT NOT NULL, received_at REAL NOT NULL) STRICT;
CREATE INDEX instance_of_acquisition ON instance (acquisition_id);
CREATE TABLE job (
    id INTEGER PRIMARY KEY, acquisition_id INTEGER NOT NULL REFERENCES acquisition, state TEXT NOT NULL,
    recipe TEXT NOT NULL, derived_at TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL,
    code TEXT NOT NULL DEFAULT '', sentence TEXT NOT NULL DEFAULT '', changed_at REAL NOT NULL,
    report TEXT NOT NULL DEFAULT '', notice TEXT NOT NULL DEFAULT '') STRICT;
CREATE INDEX job_of_acquisition ON job (acquisition_id);
CREATE TABLE delivery (
    id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL REFERENCES job, destination TEXT NOT NULL, series TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL, sop_instance_uid TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, queued_at REAL NOT NULL, next_try_at REAL NOT NULL,
    sentence TEXT NOT NULL DEFAULT '', transaction_uid TEXT NOT NULL DEFAULT '', asked INTEGER NOT NULL DEFAULT 0,
    UNIQUE (sop_instance_uid, destination)) STRICT;
CREATE INDEX delivery_of_job ON delivery (job_id);
CREATE INDEX delivery_due ON delivery (next_try_at) WHERE state = 'pending';
CREATE INDEX delivery_stored ON delivery (next_try_at) WHERE state = 'stored';
CREATE TABLE aside (
    kind TEXT NOT NULL, reason TEXT NOT NULL, sender TEXT NOT NULL, count INTEGER NOT NULL, last_at REAL NOT NULL,
    PRIMARY KEY (kind, reason, sender)) STRICT;
CREATE TABLE fetch (
    acquisition_id INTEGER NOT NULL REFERENCES acquisition ON DELETE CASCADE, peer TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, changed_at REAL NOT NULL, next_try_at REAL NOT NULL, sentence TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (acquisition_id, peer)) STRICT
"""
_UPGRADES = (
    "ALTER TABLE job ADD COLUMN report TEXT NOT NULL DEFAULT ''",
    """
    ALTER TABLE job ADD COLUMN notice TEXT NOT NULL DEFAULT '';
    CREATE INDEX acquisition_of_study ON acquisition (study_uid);
    CREATE INDEX acquisition_changed ON acquisition (changed_at)
    """,
    """
    ALTER TABLE delivery ADD COLUMN transaction_uid TEXT NOT NULL DEFAULT '';
    ALTER TABLE delivery ADD COLUMN asked INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX delivery_stored ON delivery (next_try_at) WHERE state = 'stored'
    """,
    "ALTER TABLE instance ADD COLUMN content TEXT NOT NULL DEFAULT ''",
    """
    UPDATE instance SET header = json_remove(header, '$.protocol', '$.scan', '$.frame_of_reference_uid');
    CREATE TABLE fetch (
        acquisition_id INTEGER NOT NULL REFERENCES acquisition ON DELETE CASCADE, peer TEXT NOT NULL,
        state TEXT NOT NULL, attempts INTEGER NOT NULL, changed_at REAL NOT NULL, next_try_at REAL NOT NULL,
        sentence TEXT NOT NULL DEFAULT '', PRIMARY KEY (acquisition_id, peer)) STRICT
    """,
    "ALTER TABLE instance DROP COLUMN content",
)
"""From each version to the next, beginning with 1."""


class JournalError(PermanentError):
    """The journal file is of a later version, or what was asked for is not in it."""


class Database:
    """One connection behind one lock; any thread may call.

    Parameters
    ----------
    path
        The SQLite file, on a local disk; created with mode 0600. None: in memory.

    Raises
    ------
    JournalError
        The file was written by a later version, or is no journal.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.RLock()
        if path is not None:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, timeout=30.0)
        try:
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._open_schema()
        except BaseException as error:
            self._db.close()
            if type(error) is sqlite3.DatabaseError:  # not one of its children: a full disk is none of them
                raise JournalError(f"{path}: {error}") from error
            raise

    def _open_schema(self) -> None:
        with self.transaction() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise JournalError(f"the journal has version {version}, this program reads version {SCHEMA_VERSION}")
            if version == SCHEMA_VERSION:  # on a full disk it can be read, but not written
                return
            lacking = _UPGRADES[version - 1 :] if version else (_SCHEMA,)
            for statement in ";".join((*lacking, f"PRAGMA user_version = {SCHEMA_VERSION}")).split(";"):
                db.execute(statement)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; on disk at the end."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk can have ended it already
                    self._db.execute("ROLLBACK")
                raise

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """What a SELECT finds."""
        with self._lock:
            return self._db.execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Close the file. Nothing else may be called afterwards."""
        with self._lock:
            self._db.close()


class Part:
    """A part of the journal; any thread may call.

    Parameters
    ----------
    clock
        Seconds since the epoch.
    """

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock
