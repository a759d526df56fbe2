"""The journal's laws hold wherever its process is killed and whichever way the clock jumps.

`test_journal.py` compares the journal with a model between whole operations. Here the process ends before any SQL
statement of any operation, and what the file holds then is what it held before the operation; and from one operation
to the next nothing happens that the laws forbid.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from node.database import JournalError
from node.deliveries import LONGEST_PAUSE_S
from node.errors import Refusal
from node.journal import Journal
from node.keeping import REMEMBERED_S
from node.records import Attempt, Gathering, Job, Notice, Reason, Received, Result

SOAK = bool(os.environ.get("QSM_NODE_SOAK"))
RAM = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Without the disk's pauses: what the system was given survives the end of a process."""
DERIVED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WHY = Refusal("incomplete", "echo 4: 71 of 72 phase slices")
PAGE = Notice("QSMNODE", (Reason("series 5 (qsm)", WHY, "Send it again."),))
PEERS = ("archive", "pacs")
ARRIVED = {"delivered", "stored", "committed"}
LIVE = {"queued", "running"}

Row = dict[str, Any]
Rows = dict[str, dict[Any, Row]]
"""Of every table, by the first column."""

ALLOWED = {
    "acquisition": {
        ("receiving", "complete"), ("receiving", "incomplete"), ("complete", "receiving"),
        ("incomplete", "receiving"), ("cleaned", "receiving"), ("complete", "cleaned"), ("incomplete", "cleaned"),
    },
    "job": {
        ("queued", "running"), ("queued", "superseded"), ("running", "queued"), ("running", "done"),
        ("running", "failed"), ("running", "superseded"), ("failed", "queued"), ("failed", "superseded"),
        ("done", "queued"),
    },
    "delivery": {
        ("pending", "delivered"), ("pending", "stored"), ("pending", "undeliverable"), ("undeliverable", "pending"),
        ("stored", "committed"), ("stored", "pending"), ("stored", "delivered"),
        ("pending", "forgotten"), ("undeliverable", "forgotten"), ("forgotten", "pending"),
    },
}  # fmt: skip
"""Everything else never happens. A delivery that was stored is pending again if the peer did not commit it."""
BY_RULE = {
    ("job", "failed", "queued"): {"retry"},
    ("job", "done", "queued"): {"retry"},
    ("delivery", "undeliverable", "pending"): {"retry"},
    ("delivery", "forgotten", "pending"): {"retry"},
    ("delivery", "pending", "forgotten"): {"forget"},
    ("delivery", "undeliverable", "forgotten"): {"forget"},
    ("delivery", "stored", "pending"): {"not committed"},
    ("delivery", "stored", "delivered"): {"waive", "forget"},
    ("acquisition", "complete", "cleaned"): {"clean"},
    ("acquisition", "incomplete", "cleaned"): {"clean"},
    ("acquisition", "complete", "receiving"): {"add"},
    ("acquisition", "cleaned", "receiving"): {"add"},
    ("acquisition", "incomplete", "receiving"): {"add", "retry"},
}
"""And these only if somebody does that."""

STAGES = (
    "receiving", "incomplete", "queued", "running", "again", "failed",
    "pending", "delivered", "stored", "undeliverable",
)  # fmt: skip
kills = st.one_of(*[st.just(0)] * 5, st.integers(1, 7))
"""Before which statement the process ends; 0: it does not."""


class Killed(BaseException):
    """The process ends here."""


class Dying:
    """An SQLite connection whose process ends before its n-th statement."""

    def __init__(self, db: sqlite3.Connection, statement: int, die: Callable[[], None]) -> None:
        self._db, self._left, self._die = db, statement, die

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        self._count()
        return self._db.execute(sql, *parameters)

    def executemany(self, sql: str, rows: Any) -> sqlite3.Cursor:
        self._count()
        return self._db.executemany(sql, rows)

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._die()
            raise Killed


class Laws(RuleBasedStateMachine):
    """Random histories of a journal's file."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=RAM))
        self.files = 0
        self.now = 1_000_000.0
        self.leased: dict[int, Job] = {}
        self.answered: dict[str, str] = {}

    @initialize(stages=st.lists(st.sampled_from(STAGES), min_size=3, max_size=3))
    def open(self, stages: list[str]) -> None:
        """Three acquisitions that have come some way."""
        self.journal = Journal(self.folder / "0.sqlite", lambda: self.now)
        self.before = self.rows()
        for key, stage in zip("abc", stages, strict=True):
            self.an_image_comes(key, 0, False, 0)
            if stage != "receiving":
                self.an_acquisition_is_judged(stage != "incomplete", False, 0, 0)
            if stage not in {"receiving", "incomplete", "queued"}:
                self.a_job_is_leased(0)
            if stage in {"again", "failed"}:
                self.a_job_ends(stage, None, -1, 0)
            if stage in {"pending", "delivered", "stored", "undeliverable"}:
                self.a_job_ends("finish", None, -1, 0)
            if stage in {"delivered", "stored", "undeliverable"}:
                self.objects_are_sent(cast(Any, stage), 9, 0)

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.folder)

    # --- the process

    def do(self, rule: str, operation: Callable[[Journal], Any], kill: int = 0) -> Any:
        """What it returns; None if it is killed. Then nothing has changed; else nothing that is forbidden."""
        database = self.journal._db
        connection = database._db
        if kill:
            database._db = cast(sqlite3.Connection, Dying(connection, kill, self._copy))
        try:
            returned = operation(self.journal)
        except Killed:
            database._db = connection
            self._start_anew()
            return None
        finally:
            database._db = connection
        after = self.rows()
        self._check(rule, after)
        self.before = after
        return returned

    def _copy(self) -> None:
        """What the disk holds now, with the transaction that is open."""
        for end in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(
                    self.folder / f"{self.files}.sqlite{end}", self.folder / f"{self.files + 1}.sqlite{end}"
                )

    def _start_anew(self) -> None:
        """As a node does, from what `_copy` kept."""
        if self.journal._db._db.in_transaction:
            self.journal._db._db.execute("ROLLBACK")
        self.journal.close()
        self.files += 1
        self.journal = Journal(self.folder / f"{self.files}.sqlite", lambda: self.now)
        assert self.rows() == self.before
        assert self.journal.query("PRAGMA integrity_check") == [("ok",)]
        running = sum(job["state"] == "running" for job in self.before["job"].values())
        assert self.journal.recover() == running
        after = self.rows()
        assert not any(job["state"] == "running" for job in after["job"].values())
        self._check("recover", after)
        self.before = after
        self.leased.clear()

    def rows(self) -> Rows:
        found: Rows = {}
        for table in ("acquisition", "instance", "job", "delivery"):
            names = [name for (name,) in self.journal.query(f"SELECT name FROM pragma_table_info('{table}')")]
            rows = self.journal.query(f"SELECT * FROM {table}")
            found[table] = {row[0]: dict(zip(names, row, strict=True)) for row in rows}
        return found

    def any(self, table: str, *states: str) -> bool:
        """Whether there is a row in one of these states."""
        return any(row["state"] in states for row in self.before[table].values())

    # --- the laws

    def _check(self, rule: str, after: Rows) -> None:
        cleaned = {
            id_
            for id_, acquisition in after["acquisition"].items()
            if acquisition["state"] == "cleaned" and self.before["acquisition"][id_]["state"] != "cleaned"
        }
        for table, allowed in ALLOWED.items():
            for id_, old in self.before[table].items():
                new = after[table].get(id_)
                if new is None:
                    assert rule in {"clean", "expire"}, f"{table} {id_} is lost"
                    continue
                change = old["state"], new["state"]
                assert change[0] == change[1] or change in allowed, f"{rule}: {table} goes {change}"
                assert rule in BY_RULE.get((table, *change), {rule}), f"{rule}: {table} goes {change}"
        for uid, old in self.before["instance"].items():
            kept = after["instance"].get(uid)
            assert kept == old or (kept is None and old["acquisition_id"] in cleaned), f"{rule}: instance {uid}"
        for id_, new in after["delivery"].items():
            if id_ not in self.before["delivery"]:
                job = self.before["job"][new["job_id"]]
                assert (rule, job["state"], new["state"]) == ("finish", "running", "pending"), "delivered anew"
        for id_ in cleaned:
            self._check_cleaned(id_)
        for uid, sha256 in self.answered.items():
            assert uid not in after["instance"] or after["instance"][uid]["sha256"] == sha256

    def _check_cleaned(self, acquisition: int) -> None:
        jobs = {id_ for id_, job in self.before["job"].items() if job["acquisition_id"] == acquisition}
        assert not {self.before["job"][id_]["state"] for id_ in jobs} & LIVE
        waiting = {d["state"] for d in self.before["delivery"].values() if d["job_id"] in jobs}
        assert waiting <= {"delivered", "committed", "forgotten"}
        for uid in [u for u, i in self.before["instance"].items() if i["acquisition_id"] == acquisition]:
            del self.answered[uid]

    @invariant()
    def what_was_answered_is_there(self) -> None:
        assert set(self.answered) == set(self.before["instance"])

    @invariant()
    def acquisitions_fit_their_jobs(self) -> None:
        for id_, acquisition in self.before["acquisition"].items():
            mine = [j for j in self.before["job"].values() if j["acquisition_id"] == id_ and not j["notice"]]
            live = [job for job in mine if job["state"] in LIVE]
            assert len(live) <= (acquisition["state"] == "complete")
            if acquisition["state"] == "complete":
                assert mine[-1]["state"] != "superseded"
            assert bool(acquisition["code"]) == (acquisition["state"] == "incomplete")

    @invariant()
    def an_object_goes_to_a_peer_once(self) -> None:
        pairs = [(d["sop_instance_uid"], d["destination"]) for d in self.before["delivery"].values()]
        assert len(pairs) == len(set(pairs))

    # --- what happens

    @rule(key=st.sampled_from("abc"), number=st.integers(0, 3), other=st.booleans(), kill=kills)
    def an_image_comes(self, key: str, number: int, other: bool, kill: int) -> None:
        uid = f"{key}.{number}"
        sha256 = f"sha-{uid}-{other}"
        obj = Received(f"study-{key}", key, uid, sha256, "PACS", "header")
        expected = {None: "stored", sha256: "duplicate"}.get(self.answered.get(uid), "conflict")
        before = dict(self.answered)
        self.answered.setdefault(uid, sha256)
        outcome = self.do("add", lambda journal: journal.add(obj)[0], kill)
        if outcome is None:
            self.answered = before
        else:
            assert outcome == expected

    @precondition(lambda self: self.any("acquisition", "receiving"))
    @rule(whole=st.booleans(), late=st.sampled_from((False, False, False, True)), pick=st.integers(0, 2), kill=kills)
    def an_acquisition_is_judged(self, whole: bool, late: bool, pick: int, kill: int) -> None:
        found = self.journal.receiving()
        seen = found[pick % len(found)]
        gathering = Gathering(seen.id, seen.instances - late, seen.senders)
        if whole:
            job = self.do("complete", lambda j: j.complete(gathering, "default", DERIVED_AT), kill)
            assert job is None or not late
        else:
            assert not (self.do("settle", lambda j: j.settle(gathering, "incomplete", WHY), kill) and late)

    @precondition(lambda self: self.any("job", "queued"))
    @rule(kill=kills)
    def a_job_is_leased(self, kill: int) -> None:
        job = self.do("lease", lambda journal: journal.lease(), kill)
        if job:
            self.leased[job.id] = job

    @precondition(lambda self: self.leased or self.any("job", "queued"))
    @rule(
        how=st.sampled_from(("finish", "finish", "finish", "again", "failed", "release")),
        late=st.sampled_from((None, None, None, 0, 1, 2, 3)),
        pick=st.integers(0, 9),
        kill=kills,
    )
    def a_job_ends(self, how: str, late: int | None, pick: int, kill: int) -> None:
        """Whether it is still wanted, or a late image came."""
        if not self.leased:
            self.a_job_is_leased(0)
        if not self.leased:
            return
        job = self.leased.pop(sorted(self.leased)[pick % len(self.leased)])
        if late is not None:
            self.an_image_comes("abc"[job.acquisition_id % 3 - 1], late, False, 0)
        uids = [f"{'page' if job.notice else 'map'}.{job.acquisition_id}.{len(job.sha256s)}.{n}" for n in range(2)]
        results = [Result("qsm", "1.2.840.10008.5.1.4.1.1.4", uid, f"results/{uid}.dcm", "sha") for uid in uids]
        wanted = self.before["job"].get(job.id, {}).get("state") == "running"
        ends: dict[str, Callable[[Journal], bool]] = {
            "finish": lambda journal: journal.finish(job, results, PEERS),
            "again": lambda journal: journal.fail(job, WHY, 30.0),
            "failed": lambda journal: journal.fail(job, WHY, None),
            "release": lambda journal: journal.release(job),
        }
        assert self.do(how, ends[how], kill) in {None, wanted}

    @precondition(lambda self: self.any("acquisition", "incomplete"))
    @rule(kill=kills)
    def studies_get_pages(self, kill: int) -> None:
        for study in self.journal.studies.settled(0.0):
            for stopped in self.journal.studies.stopped(study.study_uid):
                number = stopped.acquisition_id
                self.do("notify", lambda j, s=study, n=number: j.studies.notify(s, n, PAGE, DERIVED_AT), kill)

    @precondition(lambda self: self.any("delivery", "pending"))
    @rule(how=st.sampled_from(("delivered", "stored", "pending", "undeliverable")), few=st.integers(1, 3), kill=kills)
    def objects_are_sent(
        self, how: Literal["delivered", "stored", "pending", "undeliverable"], few: int, kill: int
    ) -> None:
        due = self.journal.deliveries.due()[:few]
        arrived = {id_ for id_, row in self.before["delivery"].items() if row["state"] in ARRIVED}
        assert not arrived & {delivery.id for delivery in due}
        pause_s = LONGEST_PAUSE_S if how == "pending" else 0.0
        self.do("send", lambda j: j.deliveries.enter([Attempt(d, how, "why", pause_s) for d in due]), kill)

    @precondition(lambda self: self.any("delivery", "stored"))
    @rule(to=st.sampled_from(PEERS), good=st.booleans(), ask=st.booleans(), kill=kills)
    def a_peer_is_asked_and_reports(self, to: str, good: bool, ask: bool, kill: int) -> None:
        stored = self.journal.deliveries.to_ask(to)
        if ask:
            self.do("ask", lambda journal: journal.deliveries.asked(stored, "2.25.1", 600.0), kill)
        elif good:
            self.do("committed", lambda journal: journal.deliveries.committed(stored), kill)
        else:
            attempts = [Attempt(delivery, "pending", "not committed", 5.0) for delivery in stored]
            self.do("not committed", lambda journal: journal.deliveries.enter(attempts), kill)

    @precondition(lambda self: self.any("delivery", "stored"))
    @rule(kill=kills)
    def commitment_is_no_longer_wanted(self, kill: int) -> None:
        self.do("waive", lambda journal: journal.deliveries.waive(("pacs",)), kill)

    @precondition(
        lambda self: self.any("job", "failed", "queued", "done") or self.any("delivery", "pending", "undeliverable")
    )
    @rule(number=st.integers(1, 3), damaged=st.booleans(), kill=kills)
    def an_administrator_tries_again(self, number: int, damaged: bool, kill: int) -> None:
        spoilt = {job for job, _, _ in self.journal.orders.unsent(number)} if damaged else set()
        with suppress(JournalError):
            self.do("retry", lambda journal: journal.orders.retry(number, spoilt), kill)

    @precondition(lambda self: self.any("delivery", "pending", "undeliverable", "stored"))
    @rule(number=st.integers(1, 3), kill=kills)
    def an_administrator_gives_up(self, number: int, kill: int) -> None:
        with suppress(JournalError):
            self.do("forget", lambda journal: journal.orders.forget(number), kill)

    @precondition(lambda self: self.any("acquisition", "complete", "incomplete"))
    @rule(pick=st.integers(0, 2), unwanted=st.booleans(), kill=kills)
    def an_acquisition_is_cleaned(self, pick: int, unwanted: bool, kill: int) -> None:
        """Of what may be, or of anything: the journal forgets what it may alone."""
        numbers = [number for number, _ in self.journal.keeping.expendable()]
        if unwanted or not numbers:
            numbers = list(self.before["acquisition"])
        number = numbers[pick % len(numbers)]
        images = len(self.journal.keeping.objects(number))
        self.do("clean", lambda journal: journal.keeping.clean(number, images), kill)

    @precondition(lambda self: self.any("acquisition", "cleaned"))
    @rule(kill=kills)
    def a_year_later(self, kill: int) -> None:
        if all(row["state"] == "cleaned" for row in self.before["acquisition"].values()):
            self.now += REMEMBERED_S + 1
            self.do("expire", lambda journal: journal.keeping.expire(), kill)

    @rule(seconds=st.sampled_from((1.0, 60.0, 3600.0, -3600.0)))
    def the_clock_goes_or_jumps(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.any("job", "queued") or self.any("delivery", "pending"))
    @rule(jump=st.sampled_from((0.0, 3600.0, -3600.0)))
    def after_the_longest_pause_everything_is_due(self, jump: float) -> None:
        """However the clock jumped before."""
        self.now += jump
        pending = {id_ for id_, row in self.before["delivery"].items() if row["state"] == "pending"}
        queued = {id_ for id_, row in self.before["job"].items() if row["state"] == "queued"}
        due, ready = self._due()
        self.now += LONGEST_PAUSE_S
        later, then_ready = self._due()
        assert due | later == pending
        assert ready | then_ready == queued

    def _due(self) -> tuple[set[int], set[int]]:
        """Deliveries that are due, and the jobs that can be leased, all of them."""
        leased: set[int] = set()
        while job := self.do("lease", lambda journal: journal.lease()):
            self.leased[job.id] = job
            leased.add(job.id)
        return {delivery.id for delivery in self.journal.deliveries.due()}, leased

    @rule()
    def the_process_is_killed(self) -> None:
        self._copy()
        self._start_anew()


pytestmark = pytest.mark.timeout(3600 if SOAK else 300)
TestLaws = Laws.TestCase
TestLaws.settings = settings(
    max_examples=2000 if SOAK else 100, stateful_step_count=60 if SOAK else 25, deadline=None
)
