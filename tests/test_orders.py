"""What an administrator orders: damaged results are made again as they were, what nobody waits for may be deleted."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pydicom
import pytest
from typer.testing import CliRunner

from node import cli, loopback, provenance
from node.cleaning import Cleaner
from node.config import Settings
from node.database import JournalError
from node.errors import NotReproduced, Refusal
from node.files import write_whole
from node.jobs import run_job
from node.journal import Journal
from node.loops import Reconstructor
from node.orders import spoilt
from node.overview import deliveries, summaries
from node.peers import Peer
from node.records import Attempt, Failed, JobSpec, Notice, Reason, Received, Result
from node.service import Node
from node.spool import Spool
from node.workers import InlineWorker

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WHY = Refusal("no-phase", "no phase: 48 magnitude images")
PAGE = Notice("QSMNODE", (Reason("series 5 (qsm)", WHY, "Store the phase too."),))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def derived_at(job: int) -> datetime:
    return AT + timedelta(hours=job)


def damage(path: Path) -> None:
    """One bit of its last byte."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


class Site:
    """Journal, spool and reconstructor; a peer that is told what to answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1_700_000_000.0
        peer = Peer(ae_title="PACS", host="127.0.0.1", port=1)
        self.settings = Settings(data_dir=folder, peers={"pacs": peer}, deliver_to=("pacs",))
        self.journal = Journal(folder / "journal.sqlite", lambda: self.now)
        self.spool = Spool(folder / "spool")
        self.reconstructor = Reconstructor(self.journal, self.spool, self.settings, InlineWorker, lambda: None)

    def receive(self, *names: str, key: str = "a") -> None:
        """Images that are only names."""
        for name in names:
            self.journal.add(Received("1.2.3", key, f"1.{name}", f"sha-{name}", "SCANNER", "{}"))

    def receive_files(self, study: list[Path]) -> None:
        sha256s = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in study}
        self.spool.take({sha256: path for path, sha256 in sha256s.items()})
        for path, sha256 in sha256s.items():
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            image = Received(ds.StudyInstanceUID, "a", ds.SOPInstanceUID, sha256, "SCANNER", "{}")
            self.journal.add(image)

    def start(self) -> None:
        number = 1 + len(self.journal.query("SELECT id FROM job"))
        assert self.journal.complete(self.journal.receiving()[-1], "default", derived_at(number))

    def finish(self, *uids: str) -> None:
        """A job ends with results that are only names."""
        self.start()
        job = self.journal.lease()
        assert job
        paths = [f"results/job-{job.id:06d}/{uid}.dcm" for uid in uids]
        results = [Result("qsm", "1.2", u, path, f"sha-{u}") for u, path in zip(uids, paths, strict=True)]
        assert self.journal.finish(job, results, ("pacs",))

    def answer(self, state: str, objects: int = 1000) -> None:
        due = self.journal.deliveries.due()[:objects]
        self.journal.deliveries.enter([Attempt(d, state, f"said {state}") for d in due])  # type: ignore[arg-type]

    def retry(self) -> str:
        return self.journal.orders.retry(1, spoilt(self.journal.orders.unsent(1), self.folder))

    @property
    def state(self) -> str:
        return summaries(self.journal, 1)[0].state

    def rows(self) -> list[object]:
        return self.journal.query("SELECT sop_instance_uid, destination, path, sha256 FROM delivery ORDER BY id")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.journal.close()


# ------------------------------------------------------------------------------------------------------ retry


def test_a_running_node_makes_a_damaged_result_again_and_stores_nothing_twice(
    tmp_path: Path, tiny_study: list[Path], eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    peers = {"scanner": Peer(ae_title="SCANNER"), "pacs": Peer(ae_title="PACS", host="127.0.0.1", port=1)}
    settings = Settings(data_dir=data, port=0, quiet_s=0.5, peers=peers, deliver_to=("pacs",))
    results = data / "results" / "job-000001"
    with Node(settings, InlineWorker) as node:
        loopback.send(tiny_study, node.port, "QSMNODE")
        eventually(lambda: [s.state for s in summaries(node.journal)] == ["delivering"], "it is reconstructed")
        rows = node.journal.query("SELECT sop_instance_uid, path, sha256 FROM delivery")
    written = contents(results)
    assert len(written) == len(rows) == 32
    damage(results / "qsm-0003.dcm")
    (results / "phase-0007.dcm").unlink()

    with loopback.Pacs(tmp_path / "pacs") as pacs:
        peers["pacs"] = Peer(ae_title="PACS", host="127.0.0.1", port=pacs.port)
        journal = Journal(data / "journal.sqlite")
        with journal._db.transaction() as db:
            db.execute("UPDATE delivery SET next_try_at = 0")
        journal.close()
        with Node(settings.model_copy(update={"peers": peers}), InlineWorker) as node:
            tried = "SELECT COUNT(*) FROM delivery WHERE state = 'delivered' OR sentence LIKE '%retry%'"
            eventually(lambda: node.journal.query(tried) == [(32,)], "what is whole is sent")
            assert len(pacs.paths()) == 30
            monkeypatch.setenv("QSM_NODE_DATA_DIR", str(data))
            shown = CliRunner().invoke(cli.app, ["jobs", "retry", "1"]).output
            assert shown == "the reconstruction is queued again; 2 objects are sent again\n"
            eventually(lambda: summaries(node.journal)[0].state == "delivered", "all is there")
            again = node.journal.query("SELECT sop_instance_uid, path, sha256 FROM delivery")
        stored = [pydicom.dcmread(path) for path in pacs.paths()]
    assert contents(results) == written
    assert again == rows
    assert {ds.SOPInstanceUID for ds in stored} == {uid for uid, _, _ in rows}
    assert len({ds.SeriesInstanceUID for ds in stored}) == 2


def test_a_result_that_would_come_out_otherwise_is_not_mixed_with_what_was_stored(
    site: Site, tiny_study: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version is part of the UIDs: the PACS would have half of two results."""
    site.receive_files(tiny_study)
    site.start()
    site.reconstructor.step()
    site.answer("delivered", 5)
    results, rows = site.folder / "results" / "job-000001", site.rows()
    written = contents(results)
    damage(results / "phase-0016.dcm")
    damaged = contents(results)
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "__version__", "99.0")
        assert "queued again" in site.retry()
        site.reconstructor.step()
    (summary,) = summaries(site.journal)
    assert (summary.state, summary.code) == ("failed", "not-reproduced")
    assert summary.sentence == "qsm-0001.dcm does not come out as it was: version or settings changed since"
    assert contents(results) == damaged, "what is whole can still be sent"
    assert site.rows() == rows
    assert site.journal.studies.settled(0.0) == [], "no page says that there is no QSM"

    assert "queued again" in site.retry()
    site.reconstructor.step()
    assert contents(results) == written
    assert site.rows() == rows
    assert site.state == "delivering"


def test_an_object_that_the_settings_no_longer_ask_for_is_missed(tiny_study: list[Path], tmp_path: Path) -> None:
    spec = JobSpec(tuple(tiny_study), "default", AT, tmp_path, written=(("mask-0001.dcm", "0" * 64),))
    outcome = run_job(spec)
    assert isinstance(outcome, Failed)
    assert not outcome.transient
    assert outcome.refusal.code == "not-reproduced"
    assert outcome.refusal.sentence.startswith("mask-0001.dcm does not come out any more")


def test_a_file_that_is_not_what_it_was_leaves_the_old_one(tmp_path: Path) -> None:
    digest = write_whole(tmp_path / "a", b"first")
    with pytest.raises(NotReproduced, match="a does not come out as it was"):
        write_whole(tmp_path / "a", b"second", digest)
    assert contents(tmp_path) == {"a": b"first"}
    assert write_whole(tmp_path / "a", b"first", digest) == digest


def test_a_page_that_is_damaged_is_made_again(site: Site, tiny_study: list[Path]) -> None:
    site.receive_files(tiny_study[:1])
    site.journal.settle(site.journal.receiving()[0], "refused", WHY)
    (study,) = site.journal.studies.settled(0.0)
    assert site.journal.studies.notify(study, 1, PAGE, AT)
    site.reconstructor.step()
    page, rows = site.folder / "results" / "job-000001" / "notice-0001.dcm", site.rows()
    before = page.read_bytes()
    damage(page)
    for _ in range(2):
        assert "the reconstruction is queued again" in site.retry()
    site.reconstructor.step()
    assert page.read_bytes() == before
    assert site.rows() == rows


def test_what_is_whole_or_delivered_is_not_made_again(site: Site) -> None:
    site.receive("1")
    site.finish("q1", "q2")
    results = site.folder / "results" / "job-000001"
    results.mkdir(parents=True)
    site.journal._db._db.execute("UPDATE delivery SET sha256 = ?", (hashlib.sha256(b"whole").hexdigest(),))
    for name in ("q1", "q2"):
        (results / f"{name}.dcm").write_bytes(b"whole")
    assert site.retry() == "2 objects are sent again"
    site.answer("delivered", 1)
    (results / "q1.dcm").unlink()
    assert site.retry() == "1 objects are sent again"
    assert site.state == "delivering"
    site.answer("delivered")
    (results / "q2.dcm").unlink()
    with pytest.raises(JournalError, match="acquisition 1 has nothing to try again"):
        site.retry()


def test_what_waits_for_commitment_is_made_again_since_it_may_have_to_be_sent_again(site: Site) -> None:
    site.receive("1")
    site.finish("q1")
    site.answer("stored")
    assert site.retry() == "the reconstruction is queued again"
    job = site.journal.lease()
    assert job
    assert job.written == (("q1.dcm", "sha-q1"),)
    assert site.journal.finish(job, [Result("qsm", "1.2", "q1", "other", "sha-q1")], ("pacs",))
    assert site.state == "delivered"
    assert site.journal.deliveries.due() == [], "it is there: nothing is stored twice"


def test_an_earlier_result_cannot_be_made_from_the_images_that_are_there_now(site: Site) -> None:
    site.receive("1", "2")
    site.finish("early")
    site.answer("undeliverable")
    site.receive("3")
    site.finish("late")
    site.answer("delivered")
    said = site.retry()
    assert "1 objects are sent again; an earlier result is missing or damaged, and cannot be made again" in said
    assert "`qsm-node jobs forget 1` gives it up" in said
    assert site.journal.lease() is None
    site.journal.orders.forget(1)
    assert [group.state for group in deliveries(site.journal, 1)] == ["forgotten", "delivered"]
    assert site.state == "delivered"
    assert len(site.journal.keeping.expendable()) == 1


def test_a_result_that_is_made_again_supersedes_what_it_superseded_the_first_time(site: Site) -> None:
    site.receive("1")
    site.finish("early")
    site.receive("2")
    site.finish("late")
    for _ in range(2):
        assert "queued again" in site.journal.orders.retry(1, {2})
        job = site.journal.lease()
        assert job
        assert (job.id, job.supersedes) == (2, derived_at(1))
        site.journal.fail(job, Refusal("not-reproduced", "of late"), None)
    site.receive("3")
    site.start()
    job = site.journal.lease()
    assert job
    assert (job.id, job.supersedes, job.written) == (3, derived_at(2), ())


def test_a_result_of_an_earlier_state_is_sent_again_while_its_acquisition_is_judged_again(site: Site) -> None:
    site.receive("1")
    site.finish("q1")
    site.answer("undeliverable")
    site.receive("2")
    site.journal.settle(site.journal.receiving()[0], "incomplete", WHY)
    assert site.journal.orders.retry(1) == "will be judged again after the quiet time; 1 objects are sent again"
    assert len(site.journal.deliveries.due()) == 1


def test_what_is_not_there_is_told(site: Site) -> None:
    for order in (site.journal.orders.retry, site.journal.orders.forget):
        with pytest.raises(JournalError, match="there is no acquisition 7"):
            order(7)
    site.receive("1")
    site.finish("q1")
    site.answer("delivered")
    assert site.journal.keeping.clean(1, 1)
    with pytest.raises(JournalError, match="its images are deleted; send it again"):
        site.journal.orders.retry(1, {1})
    with pytest.raises(JournalError, match="its images are deleted; nothing is waited for"):
        site.journal.orders.forget(1)


# ----------------------------------------------------------------------------------------------------- forget


def test_what_is_on_its_way_or_waited_for_by_nobody_is_not_forgotten(site: Site) -> None:
    site.receive("1")
    with pytest.raises(JournalError, match="acquisition 1 is still being received"):
        site.journal.orders.forget(1)
    site.start()
    for _ in ("queued", "running"):
        with pytest.raises(JournalError, match="acquisition 1 is still being reconstructed"):
            site.journal.orders.forget(1)
        job = site.journal.lease()
    assert job is None
    site.journal.recover()
    job = site.journal.lease()
    assert job
    site.journal.finish(job, [Result("qsm", "1.2", "q1", "p", "s")], ("pacs",))
    site.answer("delivered")
    with pytest.raises(JournalError, match="acquisition 1: nothing of it waits to be delivered"):
        site.journal.orders.forget(1)
    assert site.state == "delivered"


def test_what_is_forgotten_is_shown_deleted_after_its_time_and_told(site: Site, captured_log: io.StringIO) -> None:
    site.receive("1")
    site.finish("q1", "q2", "q3", "q4")
    site.answer("delivered", 1)
    site.answer("stored", 1)
    site.answer("undeliverable", 1)
    cleaner = Cleaner(site.journal, site.spool, site.settings, lambda: site.now, lambda _: (10**12, 10**12))
    site.now += 30 * 86400
    cleaner.step()
    assert site.state == "undeliverable"

    assert site.journal.orders.forget(1).startswith("3 objects are no longer waited for")
    (summary,) = summaries(site.journal)
    assert (summary.state, summary.delivered, summary.deliveries) == ("forgotten", 2, 4)
    told = {(group.state, group.objects, group.sentence) for group in deliveries(site.journal, 1)}
    assert told == {
        ("delivered", 2, "said stored"), ("forgotten", 1, "said undeliverable"), ("forgotten", 1, ""),
    }  # fmt: skip
    assert site.journal.deliveries.waiting() == []
    assert site.journal.studies.settled(0.0) == []

    cleaner.step()
    assert summaries(site.journal) == []
    (line,) = [line for line in map(json.loads, captured_log.getvalue().splitlines()) if line["event"] == "cleaned"]
    assert (line["acquisition"], line["undelivered"]) == (1, 2)


def test_retry_takes_back_what_was_forgotten(site: Site) -> None:
    site.receive("1")
    site.finish("q1", "q2")
    site.answer("undeliverable")
    site.journal.orders.forget(1)
    assert site.journal.orders.retry(1) == "2 objects are sent again"
    assert site.journal.keeping.expendable() == []
    site.answer("delivered")
    assert site.state == "delivered"


def test_forgetting_holds_against_an_attempt_that_is_on_its_way(site: Site) -> None:
    """The answer of a peer comes minutes later: that nothing arrived must not bring the object back."""
    site.receive("1")
    site.finish("q1", "q2", "q3")
    sent = site.journal.deliveries.due()
    site.journal.orders.forget(1)
    ends = ("pending", "undeliverable", "delivered")
    site.journal.deliveries.enter([Attempt(d, end) for d, end in zip(sent, ends, strict=True)])  # type: ignore[arg-type]
    assert site.journal.query("SELECT state FROM delivery ORDER BY id") == [
        ("forgotten",), ("forgotten",), ("delivered",),
    ]  # fmt: skip


def test_forgetting_holds_against_a_report_that_is_on_its_way(site: Site) -> None:
    """What was not committed would be sent again."""
    site.receive("1")
    site.finish("q1")
    site.answer("stored")
    reported = site.journal.deliveries.uncommitted("pacs", ["q1"])
    site.journal.orders.forget(1)
    site.journal.deliveries.enter([Attempt(d, "pending", "not committed") for d in reported])
    assert site.state == "delivered"
    assert len(site.journal.keeping.expendable()) == 1


def test_retrying_holds_against_a_last_attempt_that_is_on_its_way(site: Site) -> None:
    """The outbox gives up by the time at which it was queued before."""
    site.receive("1")
    site.finish("q1")
    sent = site.journal.deliveries.due()
    site.now += 86400
    assert site.journal.orders.retry(1) == "1 objects are sent again"
    site.journal.deliveries.enter([Attempt(d, "undeliverable", "nobody answers") for d in sent])
    assert len(site.journal.deliveries.due()) == 1
    site.journal.deliveries.enter([Attempt(d, "undeliverable") for d in site.journal.deliveries.due()])
    assert site.state == "undeliverable"


def test_the_page_of_a_study_is_forgotten_from_any_of_its_acquisitions(site: Site) -> None:
    for key in "ab":
        site.receive(f"{key}1", key=key)
        site.journal.settle(site.journal.receiving()[0], "refused", WHY)
    (study,) = site.journal.studies.settled(0.0)
    site.journal.studies.notify(study, 1, PAGE, AT)
    job = site.journal.lease()
    assert job
    site.journal.finish(job, [Result("notice", "1.2", "page", "p", "s")], ("pacs",))
    site.answer("undeliverable")
    assert [number for number, _ in site.journal.keeping.expendable()] == [2]
    site.journal.orders.forget(2)
    assert [number for number, _ in site.journal.keeping.expendable()] == [1, 2]


def test_a_destination_that_was_taken_out_is_told_at_the_start(site: Site, captured_log: io.StringIO) -> None:
    for number in range(25):
        site.receive(str(number), key=f"key{number}")
        site.finish(f"q{number}", f"p{number}")
    site.answer("undeliverable", 3)
    for peers, told in (
        (site.settings.peers, 0),
        ({"archive": Peer(ae_title="ARCHIVE", host="127.0.0.1", port=1)}, 1),
    ):
        settings = Settings(data_dir=site.folder, port=0, peers=peers)
        Node(settings, InlineWorker).start().stop()
        lines = [json.loads(line) for line in captured_log.getvalue().splitlines()]
        warned = [line for line in lines if "no longer in the configuration; " in line["event"]]
        assert len(warned) == told
    (line,) = warned
    assert "`qsm-node jobs forget ID`" in line["event"]
    assert (line["destination"], line["objects"], line["of"]) == ("pacs", 50, 25)
    assert line["acquisitions"] == list(range(1, 21))


def test_the_commands_say_what_happens_or_why_not(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSM_NODE_DATA_DIR", str(site.folder))

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli.app, ["jobs", *arguments])
        return result.exit_code, result.output

    site.receive("1")
    site.finish("q1")
    assert run("retry", "1") == (0, "the reconstruction is queued again; 1 objects are sent again\n")
    assert run("forget", "1")[0] == cli.FAILED
    job = site.journal.lease()
    assert job
    site.journal.finish(job, [Result("qsm", "1.2", "q1", "p", "s")], ("pacs",))
    code, shown = run("forget", "1")
    assert (code, shown.split(":")[0]) == (0, "1 objects are no longer waited for")
    assert "forgotten" in run("list")[1]
    assert "1 forgotten, 0 attempts" in run("show", "1")[1]
    assert run("forget", "1") == (1, "qsm-node: acquisition 1: nothing of it waits to be delivered\n")
    assert run("forget", "9") == (1, "qsm-node: there is no acquisition 9\n")
