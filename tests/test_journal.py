"""The journal agrees with a dictionary model whatever happens, and forgets nothing when the process ends."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from journals import DERIVED_AT, Clock, lease
from node.database import JournalError
from node.errors import Refusal
from node.journal import Journal
from node.overview import asides, deliveries, summaries
from node.records import Attempt, Gathering, Job, Notice, Reason, Received, Result

WHY = Refusal("incomplete", "echo 4: 71 of 72 phase slices")
PAGE = Notice("QSMNODE", (Reason("series 5 (qsm)", WHY, "Send it again."),))


def received(uid: str, key: str = "a", sha256: str = "", sender: str = "PACS") -> Received:
    return Received("1.2.3", key, uid, sha256 or f"sha-{uid}", sender, f"header-{uid}")


def result(uid: str) -> Result:
    return Result("qsm", "1.2.840.10008.5.1.4.1.1.4", uid, f"results/{uid}.dcm", f"sha-{uid}")


@dataclass
class ModelJob:
    id: int
    state: str = "queued"
    attempts: int = 0
    not_before: float = 0.0
    sentence: str = ""


@dataclass
class ModelAcquisition:
    state: str = "receiving"
    sentence: str = ""
    instances: dict[str, str] = field(default_factory=dict)
    jobs: list[ModelJob] = field(default_factory=list)


@dataclass
class ModelDelivery:
    job: int
    state: Literal["pending", "delivered", "stored", "committed", "undeliverable", "forgotten"] = "pending"
    attempts: int = 0
    next_try_at: float = 0.0


class Agreement(RuleBasedStateMachine):
    """Random histories, with a crash (the file is opened again) between any two steps."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.acquisitions: dict[str, ModelAcquisition] = {}
        self.deliveries: dict[tuple[str, str], ModelDelivery] = {}
        self.conflicts = 0
        self.ignored = 0
        self.job_count = 0
        self.page: ModelJob | None = None
        self.page_owner = 0
        self.leased: dict[int, Job] = {}

    @initialize()
    def open(self) -> None:
        self.journal = Journal(self.folder / "journal.sqlite", self.clock)

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.folder)

    def model_jobs(self, state: str) -> list[ModelJob]:
        jobs = [job for a in self.acquisitions.values() for job in a.jobs]
        jobs += [self.page] if self.page else []
        return sorted((job for job in jobs if job.state == state), key=lambda job: job.id)

    def drop_page(self) -> None:
        if self.page and self.page.state in {"queued", "running", "failed"}:
            self.page = None

    def gathering(self, key: str, instances: int | None = None) -> Gathering:
        model = self.acquisitions[key]
        number = list(self.acquisitions).index(key) + 1
        return Gathering(number, len(model.instances) if instances is None else instances, frozenset({"PACS"}))

    @rule(key=st.sampled_from("ab"), number=st.integers(0, 4), other_content=st.booleans())
    def an_object_arrives(self, key: str, number: int, other_content: bool) -> None:
        uid = f"{key}.{number}"
        sha256 = f"sha-{uid}" + "-other" * other_content
        model = self.acquisitions.get(key)
        before = model.instances.get(uid) if model else None
        expected = "stored" if before is None else "duplicate" if before == sha256 else "conflict"

        assert self.journal.add(received(uid, key, sha256)) == [expected]

        if expected == "conflict":
            self.conflicts += 1
        if expected == "stored":
            model = self.acquisitions.setdefault(key, ModelAcquisition())
            model.instances[uid] = sha256
            model.state, model.sentence = "receiving", ""
            for job in model.jobs:
                if job.state in {"queued", "running"}:
                    job.state = "superseded"
            self.drop_page()

    @rule()
    def a_study_is_refused_and_gets_a_page(self) -> None:
        for key, model in self.acquisitions.items():
            if model.state == "receiving":
                assert self.journal.settle(self.gathering(key), "incomplete", WHY)
                model.state, model.sentence = "incomplete", WHY.sentence
        jobs = [job for a in self.acquisitions.values() for job in a.jobs]
        expected = (
            bool(self.acquisitions)
            and all(a.state != "receiving" for a in self.acquisitions.values())
            and not {job.state for job in jobs} & {"queued", "running", "done"}
            and not {job.id for job in jobs} & {delivery.job for delivery in self.deliveries.values()}
            and self.page is None
        )
        settled = self.journal.studies.settled(0.0)
        assert [study.study_uid for study in settled] == ["1.2.3"] * expected
        stopped = {s.acquisition_id for s in self.journal.studies.stopped("1.2.3")}
        wrong = {"incomplete"} if not expected else {"incomplete", "complete"}
        assert stopped >= {n for n, a in enumerate(self.acquisitions.values(), start=1) if a.state in wrong}
        for study in settled if stopped else []:
            assert self.journal.studies.notify(study, min(stopped), PAGE, DERIVED_AT) is not None
            assert self.journal.studies.notify(study, min(stopped), PAGE, DERIVED_AT) is None
            self.job_count += 1
            self.page, self.page_owner = ModelJob(self.job_count), min(stopped)

    @rule()
    def an_object_is_ignored(self) -> None:
        self.journal.count("ignored", "not an MR image", "PACS")
        self.ignored += 1

    @rule(key=st.sampled_from("ab"), late=st.booleans(), whole=st.booleans())
    def an_acquisition_is_judged(self, key: str, late: bool, whole: bool) -> None:
        model = self.acquisitions.get(key)
        if model is None:
            return
        gathering = self.gathering(key, len(model.instances) - late)
        expected = model.state == "receiving" and not late
        if whole:
            job = self.journal.complete(gathering, "default", DERIVED_AT)
            assert (job is not None) == expected
        else:
            assert self.journal.settle(gathering, "incomplete", WHY) == expected
        if expected and whole:
            self.job_count += 1
            model.state = "complete"
            model.jobs.append(ModelJob(self.job_count))
        elif expected:
            model.state, model.sentence = "incomplete", WHY.sentence

    @rule()
    def a_job_is_leased(self) -> None:
        ready = [job for job in self.model_jobs("queued") if job.not_before <= self.clock.now]
        job = self.journal.lease()
        assert (job.id if job else None) == (ready[0].id if ready else None)
        if job:
            ready[0].state = "running"
            ready[0].attempts += 1
            assert job.attempts == ready[0].attempts
            assert job.derived_at == DERIVED_AT
            assert job.notice == (PAGE if ready[0] is self.page else None)
            owner = list(self.acquisitions.values())[job.acquisition_id - 1]
            assert ready[0] is self.page or ready[0] in owner.jobs
            assert job.sha256s == tuple(sorted(owner.instances.values()))
            sent = {d.job for d in self.deliveries.values()}
            earlier = [j for j in owner.jobs if j.id < job.id and j.id in sent]
            assert job.supersedes == (DERIVED_AT if earlier and not job.notice else None)
            self.leased[job.id] = job

    @rule(how=st.sampled_from(("finish", "again", "failed", "release")), pick=st.integers(0, 9))
    def a_job_ends(self, how: str, pick: int) -> None:
        if not self.leased:
            return
        id_ = sorted(self.leased)[pick % len(self.leased)]
        job = self.leased.pop(id_)
        jobs = [j for a in self.acquisitions.values() for j in a.jobs] + [self.page or ModelJob(0)]
        model = next((j for j in jobs if j.id == id_), ModelJob(id_, "superseded"))
        running = model.state == "running"
        kind = "page" if job.notice else "map"
        results = [result(f"{kind}.{job.acquisition_id}.{len(job.sha256s)}.{n}") for n in range(2)]
        if how == "finish":
            assert self.journal.finish(job, results, ("pacs", "archive")) == running
        elif how == "release":
            assert self.journal.release(job) == running
        else:
            assert self.journal.fail(job, WHY, 5.0 if how == "again" else None) == running
        if not running:
            return
        model.sentence = ""
        if how == "finish":
            model.state = "done"
            for to in ("pacs", "archive"):
                for r in results:
                    delivery = self.deliveries.setdefault((r.sop_instance_uid, to), ModelDelivery(id_))
                    delivery.job, delivery.next_try_at = id_, self.clock.now
        elif how == "release":
            model.state = "queued"
            model.attempts -= 1
        else:
            model.state = "queued" if how == "again" else "failed"
            model.not_before = self.clock.now + (5.0 if how == "again" else 0.0)
            model.sentence = WHY.sentence

    @rule(how=st.sampled_from(("delivered", "stored", "again", "give up")))
    def a_delivery_is_tried(self, how: Literal["delivered", "stored", "again", "give up"]) -> None:
        due = self.journal.deliveries.due()
        if not due:
            return
        model = self.deliveries[due[0].sop_instance_uid, due[0].destination]
        model.attempts += 1
        if how in {"delivered", "stored"}:
            self.journal.deliveries.enter([Attempt(due[0], how)])
            model.state, model.next_try_at = how, self.clock.now
        else:
            model.state = "pending" if how == "again" else "undeliverable"
            self.journal.deliveries.enter([Attempt(due[0], model.state, "no association", 7.0)])
            model.next_try_at = self.clock.now + 7.0

    @rule(to=st.sampled_from(("pacs", "archive")), again_in_s=st.sampled_from((0.0, 5.0)))
    def commitment_is_asked_for(self, to: str, again_in_s: float) -> None:
        mine = {uid: d for (uid, destination), d in self.deliveries.items() if destination == to}
        on_their_way = {d.job for d in mine.values() if d.state == "pending" and d.next_try_at <= self.clock.now}
        expected = {
            uid
            for uid, d in mine.items()
            if d.state == "stored" and d.next_try_at <= self.clock.now and d.job not in on_their_way
        }
        asked = self.journal.deliveries.to_ask(to)
        assert {d.sop_instance_uid for d in asked} == expected
        self.journal.deliveries.asked(asked, "2.25.1", again_in_s)
        for uid in expected:
            mine[uid].next_try_at = self.clock.now + again_in_s

    @rule(to=st.sampled_from(("pacs", "archive")), good=st.booleans())
    def commitment_is_reported(self, to: str, good: bool) -> None:
        uids = [uid for uid, destination in self.deliveries if destination == to]
        stored = self.journal.deliveries.uncommitted(to, [*uids, "2.25.7"])
        waiting = [self.deliveries[uid, to] for uid in uids if self.deliveries[uid, to].state == "stored"]
        assert len(stored) == len(waiting)
        if good:
            self.journal.deliveries.committed(stored)
        else:
            self.journal.deliveries.enter([Attempt(d, "pending", "not committed", 7.0) for d in stored])
        for model in waiting:
            model.state = "committed" if good else "pending"
            model.next_try_at = self.clock.now + 7.0

    @rule(asked=st.sampled_from(((), ("pacs",), ("pacs", "archive"))))
    def commitment_is_no_longer_wanted(self, asked: tuple[str, ...]) -> None:
        waived = [d for (_, to), d in self.deliveries.items() if d.state == "stored" and to not in asked]
        assert self.journal.deliveries.waive(asked) == len(waived)
        for model in waived:
            model.state = "delivered"

    @rule(key=st.sampled_from("ab"), damaged=st.booleans())
    def an_administrator_tries_again(self, key: str, damaged: bool) -> None:
        """Where the newest result is damaged, and nothing came since, it is made once more."""
        model = self.acquisitions.get(key)
        if model is None:
            return
        if model.state == "cleaned":
            with pytest.raises(JournalError, match="send it again"):
                self.journal.orders.retry(list(self.acquisitions).index(key) + 1)
            return
        newest = model.jobs[-1] if model.jobs else None
        made = newest and newest.state == "done" and model.state == "complete" and damaged
        spoilt = [newest.id] if newest and made else []
        again = {"failed", "queued"} | ({"done"} if made else set())
        waiting = self.concerned(model, "pending", "undeliverable", "forgotten")
        number = list(self.acquisitions).index(key) + 1
        requeued = bool(newest and newest.state in again and model.state == "complete")
        happens = [
            "will be judged again after the quiet time" * (model.state in {"incomplete", "refused"}),
            "the reconstruction is queued again" * requeued,
            f"{len(waiting)} objects are sent again" * bool(waiting),
        ]
        if not any(happens):
            with pytest.raises(JournalError, match="nothing to try again"):
                self.journal.orders.retry(number)
            return
        assert self.journal.orders.retry(number, spoilt) == "; ".join(filter(None, happens))
        if model.state in {"incomplete", "refused"}:
            model.state, model.sentence = "receiving", ""
        if newest and requeued:
            newest.state, newest.attempts, newest.not_before = "queued", 0, 0.0
        self.drop_page()
        for delivery in waiting:
            delivery.state, delivery.next_try_at = "pending", 0.0

    @rule(key=st.sampled_from("ab"))
    def an_administrator_gives_up(self, key: str) -> None:
        model = self.acquisitions.get(key)
        if model is None:
            return
        number = list(self.acquisitions).index(key) + 1
        jobs = model.jobs + ([self.page] if self.page and self.page_owner == number else [])
        waiting = self.concerned(model, "pending", "undeliverable", "stored")
        if (
            model.state in {"receiving", "cleaned"}
            or {job.state for job in jobs} & {"queued", "running"}
            or not waiting
        ):
            with pytest.raises(JournalError, match=r"still being|deleted|nothing of it waits"):
                self.journal.orders.forget(number)
            return
        assert self.journal.orders.forget(number).startswith(f"{len(waiting)} objects")
        for delivery in waiting:
            delivery.state = "delivered" if delivery.state == "stored" else "forgotten"

    def concerned(self, model: ModelAcquisition, *states: str) -> list[ModelDelivery]:
        """Deliveries of an acquisition and of its study's page."""
        jobs = {job.id for job in model.jobs} | ({self.page.id} if self.page else set())
        return [d for d in self.deliveries.values() if d.job in jobs and d.state in states]

    @rule(key=st.sampled_from("ab"))
    def an_acquisition_is_cleaned(self, key: str) -> None:
        model = self.acquisitions.get(key)
        if model is None:
            return
        number = list(self.acquisitions).index(key) + 1
        jobs = model.jobs + ([self.page] if self.page and self.page_owner == number else [])
        mine = {uid: d for uid, d in self.deliveries.items() if d.job in {job.id for job in jobs}}
        expected = (
            model.state in {"complete", "incomplete", "refused"}
            and not {job.state for job in jobs} & {"queued", "running"}
            and {d.state for d in mine.values()} <= {"delivered", "committed", "forgotten"}
        )
        assert (number in {id_ for id_, _ in self.journal.keeping.expendable()}) == expected
        assert not self.journal.keeping.clean(number, len(model.instances) - 1)
        assert self.journal.keeping.clean(number, len(model.instances)) == expected
        if expected:
            model.state, model.sentence = "cleaned", ""
            model.instances.clear()
            self.deliveries = {uid: d for uid, d in self.deliveries.items() if uid not in mine}

    @rule(seconds=st.sampled_from((1.0, 10.0)))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def the_process_is_killed(self) -> None:
        self.journal.close()
        self.journal = Journal(self.folder / "journal.sqlite", self.clock)
        running = self.model_jobs("running")
        assert self.journal.recover() == len(running)
        for job in running:
            job.state = "queued"
        self.leased.clear()

    @invariant()
    def no_acquisition_has_two_live_jobs(self) -> None:
        for count in self.journal.query(
            "SELECT COUNT(*) FROM job WHERE state IN ('queued', 'running') GROUP BY acquisition_id"
        ):
            assert count == (1,)

    @invariant()
    def journal_and_model_agree(self) -> None:
        seen = {s.id: s for s in summaries(self.journal)}
        assert len(seen) == sum(model.state != "cleaned" for model in self.acquisitions.values())
        for number, model in enumerate(self.acquisitions.values(), start=1):
            if model.state == "cleaned":
                continue
            job = model.jobs[-1] if model.jobs else None
            mine = [d for d in self.deliveries.values() if job and d.job == job.id]
            states = {d.state for d in mine}
            expected = model.state
            if model.state == "complete" and job:
                expected = job.state
                if job.state == "done" and mine:
                    expected = (
                        "undeliverable"
                        if "undeliverable" in states
                        else "delivered" if states <= {"delivered", "stored", "committed"}
                        else "forgotten" if states <= {"delivered", "stored", "committed", "forgotten"}
                        else "delivering"
                    )  # fmt: skip
            assert seen[number].state == expected
            assert seen[number].notice == (self.page.state if self.page else "")
            assert seen[number].images == len(model.instances)
            assert seen[number].attempts == (job.attempts if job else 0)
            assert seen[number].deliveries == len(mine)
            assert seen[number].delivered == sum(d.state in {"delivered", "stored", "committed"} for d in mine)
        receiving = {n for n, a in enumerate(self.acquisitions.values(), start=1) if a.state == "receiving"}
        assert {g.id for g in self.journal.receiving()} == receiving
        due = {key for key, d in self.deliveries.items() if d.state == "pending" and d.next_try_at <= self.clock.now}
        assert {(d.sop_instance_uid, d.destination) for d in self.journal.deliveries.due()} == due
        counted = dict.fromkeys(("ignored", "conflict"), 0)
        for aside in asides(self.journal):
            counted[aside.kind] += aside.count
        assert counted == {"ignored": self.ignored, "conflict": self.conflicts}


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.fixture
def journal() -> Iterator[Journal]:
    journal = Journal(None, Clock())
    yield journal
    journal.close()


def leased(journal: Journal) -> Job:
    """An acquisition of two objects whose job is running."""
    for uid in ("1", "2"):
        journal.add(received(uid))
    (gathering,) = journal.receiving()
    assert journal.complete(gathering, "default", DERIVED_AT)
    return lease(journal)


def test_headers_come_back_in_order_of_arrival(journal: Journal) -> None:
    for uid in ("9", "1", "5"):
        journal.add(received(uid))
    (gathering,) = journal.receiving()
    assert journal.headers(gathering.id) == ["header-9", "header-1", "header-5"]


def test_senders_are_told_apart_even_with_commas_in_their_titles(journal: Journal) -> None:
    journal.add(received("1", sender="A,B"))
    journal.add(received("2", sender="C"))
    assert journal.receiving()[0].senders == {"A,B", "C"}
    assert summaries(journal)[0].senders == ("A,B", "C")


def test_conflicts_are_counted_in_one_line(journal: Journal) -> None:
    for uid in ("1.2", "1.3"):
        journal.add(received(uid))
        journal.add(received(uid, sha256=f"beef-{uid}"))
    (aside,) = asides(journal)
    assert (aside.kind, aside.count, aside.sender) == ("conflict", 2, "PACS")
    assert "other content" in aside.reason


def test_counts_wait_for_a_disk_that_is_full_and_do_not_hold_up_the_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    journal.count("ignored", "not an MR image", "PACS")
    journal._db._db.execute("PRAGMA query_only = ON")
    with pytest.raises(sqlite3.OperationalError):
        journal.tally()
    journal.count("ignored", "not an MR image", "PACS")
    journal._db._db.execute("PRAGMA query_only = OFF")
    assert [aside.count for aside in asides(journal)] == [2]
    journal.count("ignored", "not an MR image", "PACS")
    journal._db._db.execute("PRAGMA query_only = ON")
    journal.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        journal.receiving()


def test_a_late_instance_supersedes_a_running_job(journal: Journal) -> None:
    job = leased(journal)
    journal.add(received("3"))
    assert journal.finish(job, [result("d1")], ("pacs",)) is False
    assert journal.deliveries.due() == []
    assert summaries(journal)[0].state == "receiving"


def test_a_done_job_keeps_its_deliveries_when_an_instance_comes_late(journal: Journal) -> None:
    assert journal.finish(leased(journal), [result("d1")], ("pacs",))
    journal.add(received("3"))
    assert [d.sop_instance_uid for d in journal.deliveries.due()] == ["d1"]


def test_the_first_written_result_wins(journal: Journal) -> None:
    assert journal.finish(leased(journal), [result("d1")], ("pacs",))
    journal.deliveries.enter([Attempt(journal.deliveries.due()[0], "delivered")])
    journal.add(received("3"))
    job = leased(journal)
    assert journal.finish(job, [Result("qsm", "c", "d1", "results/other.dcm", "other")], ("pacs",))
    assert journal.deliveries.due() == []
    assert summaries(journal)[0].state == "delivered"


def test_a_job_that_ran_when_the_node_ended_is_due_at_once_wherever_the_clock_went() -> None:
    clock = Clock()
    journal = Journal(None, clock)
    journal.fail(leased(journal), WHY, 30.0)
    clock.now -= 900
    assert journal.lease()
    clock.now += 60
    assert journal.recover() == 1
    assert journal.lease()
    journal.close()


def test_groups_of_deliveries_tell_state_and_reason(journal: Journal) -> None:
    journal.finish(leased(journal), [result("d1"), result("d2")], ("pacs",))
    first, second = journal.deliveries.due()
    out_of_resources = Attempt(second, "pending", "0xA700: out of resources", 60.0)
    journal.deliveries.enter([Attempt(first, "delivered"), out_of_resources])
    told = [(g.state, g.objects, g.sentence) for g in deliveries(journal, 1)]
    assert told == [("delivered", 1, ""), ("pending", 1, "0xA700: out of resources")]


def test_a_failed_transaction_changes_nothing(journal: Journal) -> None:
    job = leased(journal)
    broken = Result("qsm", "c", None, "p", "s")  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        journal.finish(job, [result("d1"), broken], ("pacs",))
    assert summaries(journal)[0].state == "running"
    assert journal.finish(job, [result("d1")], ("pacs",))


def test_the_file_is_private_and_durable(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert journal.query("PRAGMA journal_mode") == [("wal",)]
    assert journal.query("PRAGMA synchronous") == [(2,)]
    journal.close()


def test_what_an_earlier_result_could_not_be_delivered_is_shown_and_sent_again() -> None:
    """It keeps its acquisition from being deleted, so it must not be out of sight and out of reach."""
    journal = Journal(None)
    for uid, state in (("1", "undeliverable"), ("2", "delivered")):
        journal.add(received(uid))
        (gathering,) = journal.receiving()
        journal.complete(gathering, "default", DERIVED_AT)
        journal.finish(lease(journal), [result(f"qsm-{uid}")], ("pacs",))
        journal.deliveries.enter([Attempt(journal.deliveries.due()[0], state, f"said of {uid}")])  # type: ignore[arg-type]
    assert journal.keeping.expendable() == []
    (summary,) = summaries(journal)
    assert (summary.state, summary.sentence) == ("undeliverable", "said of 1")
    assert [(group.state, group.sentence) for group in deliveries(journal, 1)] == [
        ("undeliverable", "said of 1"), ("delivered", "said of 2"),
    ]  # fmt: skip
    assert journal.orders.retry(1) == "1 objects are sent again"
    journal.deliveries.enter([Attempt(journal.deliveries.due()[0], "delivered")])
    assert summaries(journal)[0].state == "delivered"
    assert len(deliveries(journal, 1)) == 1
    assert len(journal.keeping.expendable()) == 1


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(JournalError, match="version 99"):
        Journal(path)
