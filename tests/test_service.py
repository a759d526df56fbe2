"""When an acquisition starts, and the node from start to stop."""

from __future__ import annotations

import gc
import json
import random
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from associations import refused_connection
from journals import arrive, lease, queue
from node import loopback, loops
from node.assemble import Verdict, judge
from node.config import Settings
from node.headers import Header, read_header
from node.inbox import Inbox
from node.journal import Journal
from node.loops import BREATH_S, PATIENCE, Gatherer, Loop
from node.overview import asides, summaries
from node.peers import Peer
from node.recipes import RecipeError
from node.records import Received
from node.service import CannotStart, Node, check
from node.site import Site
from node.workers import InlineWorker

QUIET_S = 60.0


@pytest.fixture(scope="module")
def headers(tiny_study: list[Path]) -> list[Header]:
    return [read_header(pydicom.dcmread(path, stop_before_pixels=True)) for path in tiny_study]


class Gathering:
    """A gatherer whose time passes when told."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.busy: set[str] = set()
        self.queued = 0
        self.journal = Journal(None)
        self.restart()

    def restart(self) -> None:
        self.gatherer = Gatherer(
            self.journal, Settings(quiet_s=QUIET_S), lambda: frozenset(self.busy), self._count,
            monotonic=lambda: self.now_s, now=lambda: datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        )  # fmt: skip

    def _count(self) -> None:
        self.queued += 1

    def arrive(self, *headers: Header, sender: str = "PACS") -> None:
        arrive(self.journal, headers, sender)

    def after(self, seconds: float) -> list[str]:
        """States after so many more seconds, with steps soon, half-way, shortly before and at the end."""
        start_s = self.now_s
        for passed in sorted({min(1.0, seconds), seconds / 2, max(seconds - 1.0, 0.0), seconds}):
            self.now_s = start_s + passed
            self.gatherer.step()
        return [summary.state for summary in summaries(self.journal)]


@pytest.fixture
def gathering() -> Iterator[Gathering]:
    gathering = Gathering()
    yield gathering
    gathering.journal.close()


def test_a_whole_acquisition_starts_once_after_the_quiet_time(gathering: Gathering, headers: list[Header]) -> None:
    gathering.arrive(*headers)
    assert gathering.after(QUIET_S) == ["receiving"]
    assert gathering.after(1) == ["queued"]
    assert gathering.after(10 * QUIET_S) == ["queued"]
    assert gathering.queued == 1
    job = lease(gathering.journal)
    assert job.derived_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert len(job.sha256s) == len(headers)


def test_every_image_starts_the_quiet_time_anew(gathering: Gathering, headers: list[Header]) -> None:
    for header in headers:
        gathering.arrive(header)
        assert gathering.after(QUIET_S / 2) == ["receiving"]
    assert gathering.after(QUIET_S) == ["queued"]


def test_an_image_that_comes_again_does_not(gathering: Gathering, headers: list[Header]) -> None:
    gathering.arrive(*headers)
    gathering.after(QUIET_S - 1)
    gathering.arrive(headers[0])
    assert gathering.after(2) == ["queued"]


def test_an_open_association_of_the_sender_is_waited_for(gathering: Gathering, headers: list[Header]) -> None:
    gathering.arrive(*headers)
    gathering.busy = {"PACS"}
    assert gathering.after(5 * QUIET_S) == ["receiving"]
    gathering.busy = {"OTHER"}
    assert gathering.after(1) == ["queued"]


@pytest.mark.parametrize("whole", [True, False])
def test_an_association_that_stays_open_is_not_waited_for_for_ever(
    gathering: Gathering, headers: list[Header], whole: bool
) -> None:
    """A router may keep one open all day, for the scans of many scanners."""
    gathering.busy = {"PACS"}
    gathering.arrive(*headers[: None if whole else -1])
    assert gathering.after(PATIENCE * QUIET_S) == ["receiving"]
    assert gathering.after(1) == ["queued" if whole else "incomplete"]


def test_announced_counts_start_when_the_sender_has_ended(gathering: Gathering, headers: list[Header]) -> None:
    announcing = [replace(h, announced_echoes=3, announced_slices=16) for h in headers]
    gathering.busy = {"PACS"}
    gathering.arrive(*announcing[:-1])
    assert gathering.after(BREATH_S + 1) == ["receiving"]
    gathering.arrive(announcing[-1])
    assert gathering.after(1) == ["receiving"]
    gathering.busy = frozenset()
    assert gathering.after(0) == ["queued"]


def test_announced_counts_start_after_a_breath_of_an_open_association(
    gathering: Gathering, headers: list[Header]
) -> None:
    """Within it come the real and imaginary images that some send after magnitude and phase."""
    gathering.busy = {"PACS"}
    gathering.arrive(*(replace(h, announced_echoes=3, announced_slices=16) for h in headers))
    assert gathering.after(BREATH_S - 1) == ["receiving"]
    assert gathering.after(2) == ["queued"]


def test_what_is_waited_for_holds_no_headers(gathering: Gathering, headers: list[Header]) -> None:
    """A thousand images are more than a megabyte, and there may be many acquisitions."""

    def held() -> int:
        gc.collect()
        return sum(type(found) is Header for found in gc.get_objects())  # isinstance asks what may be dead

    before = held()
    gathering.arrive(*headers)
    assert gathering.after(QUIET_S / 2) == ["receiving"]
    assert held() <= before


def test_nothing_is_judged_while_images_come(
    gathering: Gathering, headers: list[Header], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All headers of an acquisition would be looked through twice a second."""
    judged = []

    def counted(of: Iterable[Header], site: Site) -> Verdict:
        judged.append(of)
        return judge(of, site)

    monkeypatch.setattr(loops, "judge", counted)
    gathering.busy = {"PACS"}
    for header in headers:
        gathering.arrive(header)
        gathering.after(1)
    assert judged == []
    gathering.busy = set()
    assert gathering.after(QUIET_S) == ["queued"]
    assert len(judged) == 1


def test_fewer_than_announced_never_start(gathering: Gathering, headers: list[Header]) -> None:
    gathering.arrive(*(replace(h, announced_echoes=4) for h in headers))
    assert gathering.after(10 * QUIET_S) == ["incomplete"]


def test_what_lacks_is_told_and_a_late_image_heals_it(gathering: Gathering, headers: list[Header]) -> None:
    gathering.arrive(*headers[:-1])
    assert gathering.after(QUIET_S + 1) == ["incomplete"]
    (summary,) = summaries(gathering.journal)
    assert summary.code == "incomplete"
    assert "echo 3: 15 of 16 phase slices" in summary.sentence
    gathering.arrive(headers[-1])
    assert gathering.after(1) == ["receiving"]
    assert gathering.after(QUIET_S) == ["queued"]
    assert summaries(gathering.journal)[0].sentence == ""


def test_magnitude_alone_is_refused_by_name(gathering: Gathering, headers: list[Header]) -> None:
    gathering.arrive(*headers[: len(headers) // 2])
    assert gathering.after(QUIET_S + 1) == ["refused"]
    assert summaries(gathering.journal)[0].code == "no-phase"


def test_a_late_image_of_a_queued_acquisition_starts_it_over(gathering: Gathering, headers: list[Header]) -> None:
    early = [h for h in headers if h.frames[0].te_s < 0.02]
    gathering.arrive(*early)
    gathering.after(QUIET_S + 1)
    late = [h for h in headers if h not in early]
    gathering.arrive(*late)
    assert gathering.after(QUIET_S + 1) == ["queued"]
    job = lease(gathering.journal)
    assert len(job.sha256s) == len(headers)
    assert gathering.journal.lease() is None


def test_after_a_restart_the_quiet_time_is_waited_for_again(gathering: Gathering, headers: list[Header]) -> None:
    gathering.arrive(*headers)
    gathering.after(QUIET_S - 1)
    gathering.restart()
    assert gathering.after(QUIET_S) == ["receiving"]
    assert gathering.after(1) == ["queued"]


def test_an_acquisition_that_cannot_be_judged_does_not_hold_up_the_others(
    gathering: Gathering, headers: list[Header]
) -> None:
    gathering.journal.add(Received("1.2", "odd", "1.2.3", "sha", "PACS", json.dumps({"not": "a header"})))
    gathering.arrive(*headers)
    assert gathering.after(QUIET_S + 1) == ["refused", "queued"]
    assert summaries(gathering.journal)[0].code == "internal-error"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), pauses=st.lists(st.floats(0.01, QUIET_S), max_size=8))
def test_in_any_order_with_any_pauses_exactly_one_job_starts_after_the_last_image(
    headers: list[Header], seed: int, pauses: list[float]
) -> None:
    g, order = Gathering(), random.Random(seed)
    left = order.sample(headers, len(headers))
    for pause in pauses:
        burst = order.randint(1, max(1, len(left) // 4))
        g.arrive(*left[:burst])
        left = left[burst:]
        assert g.after(pause) == ["receiving"]
    g.arrive(*left)
    assert g.after(QUIET_S + 2) == ["queued"]
    assert g.queued == 1
    g.journal.close()


def test_a_step_that_raises_is_repeated(eventually: Callable[..., None]) -> None:
    steps: list[int] = []

    def step() -> None:
        steps.append(1)
        raise RuntimeError("once more")

    loop = Loop("test", step, idle_s=0.01)
    loop.start()
    eventually(lambda: len(steps) > 2, "three steps", 10)
    loop.end()
    loop.join(10)
    assert not loop.is_alive()


# ---------------------------------------------------------------------------------------------------- the node


def settings_for(folder: Path, pacs: loopback.Pacs | None = None, **more: object) -> Settings:
    port = pacs.port if pacs else 104
    peers = {
        "scanner": Peer(ae_title="SCANNER"),
        "pacs": Peer(ae_title="PACS", host="127.0.0.1", port=port),
    }
    values: dict[str, object] = {
        "port": 0,
        "data_dir": folder,
        "quiet_s": 1.0,
        "peers": peers,
        "deliver_to": ("pacs",),
    }
    return Settings(**(values | more))


def test_the_whole_way_and_back_again(
    tmp_path: Path, tiny_study: list[Path], eventually: Callable[..., None]
) -> None:
    own = tmp_path / "own.toml"
    own.write_text("[inversion]\niterations = 50\n")
    with (
        loopback.Pacs(tmp_path / "pacs") as pacs,
        Node(settings_for(tmp_path / "data", pacs, recipe=str(own)), InlineWorker) as node,
    ):
        own.unlink()  # a running node keeps what it started with

        def state() -> str:
            return next((summary.state for summary in summaries(node.journal)), "")

        assert node.healthy()
        loopback.send(tiny_study, node.port, "QSMNODE")
        eventually(lambda: state() == "delivered", "the results are delivered")
        derived = [pydicom.dcmread(path) for path in pacs.paths()]
        assert len(derived) == 32
        (parameters,) = {ds.ContributingEquipmentSequence[0].ContributionDescription for ds in derived}
        assert parameters.startswith("recipe own; ")
        assert {ds.StudyInstanceUID for ds in derived} == {pydicom.dcmread(tiny_study[0]).StudyInstanceUID}

        loopback.send(tiny_study[:10], node.port, "QSMNODE")
        loopback.send(pacs.paths(), node.port, "QSMNODE")
        eventually(
            lambda: [(aside.kind, aside.count) for aside in asides(node.journal)] == [("ignored", 32)],
            "all is entered",
        )
        assert [(s.state, s.images) for s in summaries(node.journal)] == [("delivered", len(tiny_study))]
        assert len(pacs.paths()) == 32


@refused_connection
def test_nothing_is_left_after_stop(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with Node(settings_for(tmp_path)) as node:
        port = node.port
    left = [thread for thread in set(threading.enumerate()) - before if thread.is_alive() and not thread.daemon]
    assert left == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert "nobody answers" in check(settings_for(tmp_path), port)


def test_a_recipe_that_cannot_be_used_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[inversion]\niterations = 5\n")
    for _ in range(2):
        with pytest.raises(RecipeError, match=r"own\.toml: NonlinearTv: merit_at and reweight_at lie beyond 5"):
            Node(settings_for(tmp_path, recipe=str(tmp_path / "own.toml")), InlineWorker).start()


def test_one_data_folder_has_one_node(tmp_path: Path) -> None:
    with Node(settings_for(tmp_path)), pytest.raises(CannotStart, match="belongs to a node that is running"):
        Node(settings_for(tmp_path)).start()
    Node(settings_for(tmp_path)).start().stop()


def test_a_port_that_is_taken_is_named_and_the_folder_let_go(tmp_path: Path) -> None:
    with Node(settings_for(tmp_path / "first")) as first:
        taken = settings_for(tmp_path / "second", port=first.port)
        with pytest.raises(CannotStart, match=rf"127\.0\.0\.1:{first.port}: Address already in use"):
            Node(taken).start()
    Node(settings_for(tmp_path / "second")).start().stop()


def test_a_data_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CannotStart, match="file"):
        Node(settings_for(tmp_path / "file")).start()


def test_a_spool_on_another_file_system_is_told_at_the_start(tmp_path: Path) -> None:
    """An object could not get its second name there, and would wait for ever."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system")
    with tempfile.TemporaryDirectory(dir=other) as spool:
        (tmp_path / "spool").symlink_to(spool)
        with pytest.raises(CannotStart, match="inbox and spool are on different file systems"):
            Node(settings_for(tmp_path)).start()
    (tmp_path / "spool").unlink()
    Node(settings_for(tmp_path)).start().stop()


def test_start_cleans_up_what_was_half_done(tmp_path: Path, eventually: Callable[..., None]) -> None:
    with Node(settings_for(tmp_path)):
        pass
    half = Inbox(tmp_path / "inbox").begin(b"", "PACS")
    half.write(b"half")
    journal = Journal(tmp_path / "journal.sqlite")
    queue(journal, "1")
    lease(journal)
    journal.close()
    with Node(settings_for(tmp_path), InlineWorker) as node:
        assert list((tmp_path / "inbox").iterdir()) == []
        # The job that was running runs again: its file is missing, which is worth another attempt.
        eventually(lambda: summaries(node.journal)[0].attempts == 2, "the job is taken up again")


def test_the_data_folder_is_private(tmp_path: Path) -> None:
    with Node(settings_for(tmp_path / "data")):
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "data" / "journal.sqlite").stat().st_mode & 0o777 == 0o600
