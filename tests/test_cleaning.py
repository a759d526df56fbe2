"""What is deleted, in which order; and that nothing is that somebody still waits for, wherever the process ends."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.uid import MRImageStorage

from journals import lease
from node.cleaning import Cleaner
from node.config import Settings
from node.database import JournalError
from node.errors import Refusal
from node.jobs import job_folder
from node.journal import Journal
from node.keeping import REMEMBERED_S
from node.overview import summaries
from node.peers import Peer
from node.records import Attempt, Received, Result
from node.spool import Spool

DAY_S = 86400.0
IMAGE = 1_000_000
START_S = 1_700_000_000.0


class Killed(BaseException):
    """The process ends here."""


class Node:
    """Journal, spool and results as a node has them; files are as old as the clock says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = START_S
        self.free = 5e11
        self.settings = Settings(
            data_dir=folder, keep_days=7.0, keep_gb=1.0,
            peers={"pacs": Peer(ae_title="PACS", host="127.0.0.1", port=1)},
        )  # fmt: skip
        self.open()

    def open(self) -> None:
        self.journal = Journal(self.folder / "journal.sqlite", lambda: self.now)
        self.spool = Spool(self.folder / "spool")
        self.cleaner = Cleaner(
            self.journal, self.spool, self.settings, lambda: self.now, lambda _: (10**12, int(self.free))
        )

    def keep(self, sha256: str, content: bytes) -> Path:
        """An object in the spool."""
        came = self.folder / "came"
        came.write_bytes(content)
        self.spool.take({sha256: came})
        came.unlink()
        return self.spool.path(sha256)

    def receive(self, key: str, images: int = 3, first: int = 0) -> int:
        """Images arrive; the acquisition."""
        for n in range(first, first + images):
            sha256 = f"{key}-{n}"
            path = self.keep(sha256, bytes(IMAGE))
            os.utime(path, (self.now, self.now))
            self.journal.add(Received(f"study-{key}", key, f"uid-{key}-{n}", sha256, "PACS", "{}"))
        return self.journal.receiving()[-1].id

    def reconstruct(self, key: str, images: int = 3) -> int:
        """An acquisition whose job is done; its number."""
        acquisition = self.receive(key, images)
        self.journal.complete(self.journal.receiving()[-1], "default", datetime.now(UTC))
        job = lease(self.journal)
        folder = self.folder / job_folder(job.id)
        folder.mkdir(parents=True)
        (folder / "qsm-0001.dcm").write_bytes(bytes(IMAGE))
        path = str(job_folder(job.id) / "qsm-0001.dcm")
        self.journal.finish(job, [Result("qsm", MRImageStorage, f"derived-{key}", path, "x")], ("pacs",))
        return acquisition

    def deliver(self, state: str = "delivered") -> None:
        self.journal.deliveries.enter([Attempt(d, state) for d in self.journal.deliveries.due()])  # type: ignore[arg-type]

    def files(self) -> list[str]:
        """What lies in spool and results, by name of its acquisition."""
        kept = [path.stem.rsplit("-", 1)[0] for path in (self.folder / "spool").iterdir()]
        return sorted(kept + [path.parent.name for path in (self.folder / "results").glob("*/*")])

    def states(self) -> list[str]:
        return [summary.state for summary in summaries(self.journal)]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.journal.close()


def test_what_is_delivered_goes_when_it_is_old_enough(node: Node) -> None:
    node.reconstruct("a")
    node.deliver()
    node.now += 6.9 * DAY_S
    node.reconstruct("b")
    node.deliver()
    node.cleaner.step()
    assert node.files() == ["a"] * 3 + ["b"] * 3 + ["job-000001", "job-000002"]
    node.now += 0.2 * DAY_S
    node.cleaner.step()
    assert node.files() == ["b"] * 3 + ["job-000002"]
    assert node.states() == ["delivered"]


def waits_for_images(node: Node) -> None:
    node.receive("a")


def waits_for_its_job(node: Node) -> None:
    node.receive("a")
    node.journal.complete(node.journal.receiving()[0], "default", datetime.now(UTC))


def runs(node: Node) -> None:
    waits_for_its_job(node)
    assert node.journal.lease()


def waits_for_delivery(node: Node) -> None:
    node.reconstruct("a")


def waits_for_commitment(node: Node) -> None:
    node.reconstruct("a")
    node.deliver("stored")


def is_undeliverable(node: Node) -> None:
    node.reconstruct("a")
    node.deliver("undeliverable")


@pytest.mark.parametrize(
    "state",
    [waits_for_images, waits_for_its_job, runs, waits_for_delivery, waits_for_commitment, is_undeliverable],
)
def test_what_somebody_waits_for_is_never_deleted(node: Node, state: Callable[[Node], None]) -> None:
    state(node)
    before = node.files()
    node.settings = node.settings.model_copy(update={"keep_gb": 1e-9})
    node.open()
    node.now += 400 * DAY_S
    node.free = 0
    node.cleaner.step()
    assert node.files() == before
    assert len(node.states()) == 1


def test_committed_refused_and_failed_ones_go(node: Node) -> None:
    node.reconstruct("a")
    node.deliver("stored")
    node.journal.deliveries.committed(node.journal.deliveries.uncommitted("pacs", ["derived-a"]))
    node.receive("b")
    node.journal.settle(node.journal.receiving()[0], "refused", Refusal("no-phase", "no phase"))
    node.receive("c")
    node.journal.complete(node.journal.receiving()[0], "default", datetime.now(UTC))
    job = lease(node.journal)
    node.journal.fail(job, Refusal("no-mask", "no brain"), None)
    node.now += 8 * DAY_S
    node.cleaner.step()
    assert node.files() == []
    assert node.states() == []
    with pytest.raises(JournalError, match="send it again"):
        node.journal.orders.retry(3)


def test_where_the_share_is_used_up_the_oldest_goes_first_and_no_more_than_needed(node: Node) -> None:
    for key in "abc":
        node.reconstruct(key)
        node.deliver()
        node.now += 60
    node.settings = node.settings.model_copy(update={"keep_gb": 8.5 * IMAGE / 1e9})
    node.open()
    node.cleaner.step()
    assert node.files() == ["b"] * 3 + ["c"] * 3 + ["job-000002", "job-000003"]


def test_sizes_are_added_up_without_a_list_of_them(node: Node) -> None:
    """A disk holds millions of files."""
    for size in range(1000, 4000):
        node.spool.path(str(size)).touch()
        os.truncate(node.spool.path(str(size)), size)
    tracemalloc.start()
    try:
        node.cleaner.step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000


def test_the_oldest_goes_before_images_must_be_refused(node: Node) -> None:
    node.reconstruct("a")
    node.reconstruct("b")
    node.deliver()
    node.free = 2e9 * node.settings.min_free_gb - 1
    node.cleaner.step()
    assert node.files() == ["b"] * 3 + ["job-000002"]


def test_a_late_image_of_a_cleaned_acquisition_opens_it_with_what_there_is(node: Node) -> None:
    acquisition = node.reconstruct("a")
    node.deliver()
    node.now += 8 * DAY_S
    node.cleaner.step()
    assert node.receive("a", images=1, first=3) == acquisition
    (gathering,) = node.journal.receiving()
    assert gathering.instances == 1
    assert node.journal.studies.settled(0.0) == [], "the study had its result: no page"


def test_the_whole_sent_again_is_reconstructed_and_delivered_again(node: Node) -> None:
    node.reconstruct("a")
    node.deliver()
    node.now += 8 * DAY_S
    node.cleaner.step()
    node.reconstruct("a")
    assert [d.sop_instance_uid for d in node.journal.deliveries.due()] == ["derived-a"]


def test_an_image_that_comes_in_the_middle_keeps_all(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.reconstruct("a")
    node.deliver()
    before = node.files()
    forget = node.journal.keeping.clean

    def late(acquisition: int, instances: int) -> bool:
        node.receive("a", images=1, first=3)
        return forget(acquisition, instances)

    monkeypatch.setattr(node.journal.keeping, "clean", late)
    node.now += 8 * DAY_S
    node.cleaner.step()
    assert node.files() == sorted(["a", *before])
    assert node.states() == ["receiving"]


CUTS = ["set aside one", "set aside all", "rows deleted", "one file deleted", "files deleted"]


@pytest.mark.parametrize("cut", CUTS)
def test_wherever_the_process_ends_nothing_is_half_there(
    node: Node, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.reconstruct("a")
    node.deliver()
    before = node.files()
    node.now += 8 * DAY_S

    def after(calls: int, function: Callable[..., object]) -> Callable[..., object]:
        left = iter(range(calls))

        def killed(*arguments: object, **_: object) -> object:
            if next(left, None) is None:
                raise Killed
            return function(*arguments)

        return killed

    with monkeypatch.context() as patch:
        if cut == "set aside one":
            patch.setattr(node.spool, "set_aside", after(1, node.spool.set_aside))
        elif cut == "set aside all":
            patch.setattr(node.journal.keeping, "clean", after(0, node.journal.keeping.clean))
        elif cut == "files deleted":
            patch.setattr("shutil.rmtree", after(0, lambda: None))
        else:
            patch.setattr(node.spool, "drop", after(int("one" in cut), node.spool.drop))
        with pytest.raises(Killed):
            node.cleaner.step()
    node.journal.close()
    node.open()
    node.cleaner.recover()
    undone = cut.startswith("set aside")
    assert [name for name in node.files() if name == "a"] == ["a"] * 3 * undone
    assert node.states() == ["delivered"] * undone
    if undone:
        assert node.files() == before
    node.cleaner.step()
    assert node.files() == []


def test_files_without_a_row_go_when_they_are_old_and_what_comes_again_stays(node: Node) -> None:
    """A second version under the same UID is kept so: it has no row."""
    path = node.keep("conflict-0", b"x")
    os.utime(path, (node.now, node.now))
    (node.folder / job_folder(77)).mkdir(parents=True)
    node.cleaner.step()
    assert node.files() == ["conflict"]
    assert not (node.folder / job_folder(77)).exists()
    node.now += 8 * DAY_S
    fresh = node.keep("conflict-1", b"x")
    os.utime(fresh, (node.now, node.now))
    node.cleaner.step()
    assert node.files() == ["conflict"]
    node.spool.drop_older("conflict-1", node.now)
    assert fresh.exists()


def test_the_journal_forgets_after_a_year(node: Node) -> None:
    node.reconstruct("a")
    node.deliver()
    node.now += 8 * DAY_S
    node.cleaner.step()
    assert node.journal.query("SELECT COUNT(*) FROM job") == [(1,)]
    node.now += REMEMBERED_S
    node.cleaner.step()
    for table in ("acquisition", "job", "instance", "delivery"):
        assert node.journal.query(f"SELECT COUNT(*) FROM {table}") == [(0,)]
