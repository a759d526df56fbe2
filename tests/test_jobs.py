"""Jobs: what a worker does, what becomes of one that dies, and that it never outlives the node."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from journals import DERIVED_AT, Clock, queue
from node.config import Settings
from node.errors import Refusal
from node.jobs import run_job
from node.journal import Journal
from node.loops import MAX_ATTEMPTS, RETRY_AFTER_S, Reconstructor
from node.overview import Summary, report, summaries
from node.peers import Peer
from node.records import Done, Failed, JobOutcome, JobSpec, Result
from node.report import Report
from node.spool import Spool
from node.workers import InlineWorker, NoWorker, SpawnedWorker

RESULT = Result("qsm", "1.2.840.10008.5.1.4.1.1.4", "2.25.1", "qsm-0001.dcm", "abc")


@pytest.fixture
def spec(tiny_study: list[Path], tmp_path: Path) -> JobSpec:
    return JobSpec(tuple(tiny_study), "default", DERIVED_AT, tmp_path / "results")


# ------------------------------------------------------------------------------------------ what a worker does


def test_a_job_writes_both_series_and_says_what_it_wrote(spec: JobSpec) -> None:
    outcome = run_job(spec)
    assert isinstance(outcome, Done)
    assert [r.series for r in outcome.results] == ["qsm"] * 16 + ["phase"] * 16
    for result in outcome.results:
        ds = pydicom.dcmread(spec.folder / result.path)
        assert ds.SOPInstanceUID == result.sop_instance_uid
        assert ds.SOPClassUID == result.sop_class_uid


def test_a_job_that_runs_again_writes_the_same_bytes(spec: JobSpec, tmp_path: Path) -> None:
    first, again = run_job(spec), run_job(replace(spec, folder=tmp_path / "again", paths=spec.paths[::-1]))
    assert first == again


def test_what_lacks_is_refused_in_words(spec: JobSpec) -> None:
    outcome = run_job(replace(spec, paths=spec.paths[:-1]))
    assert isinstance(outcome, Failed)
    assert not outcome.transient
    assert outcome.refusal.code == "incomplete"
    assert "15 of 16 phase slices" in outcome.refusal.sentence


def test_a_missing_file_is_worth_another_attempt(spec: JobSpec, tmp_path: Path) -> None:
    outcome = run_job(replace(spec, paths=(*spec.paths[1:], tmp_path / "missing.dcm")))
    assert isinstance(outcome, Failed)
    assert outcome.transient
    assert outcome.refusal.code == "disk"


def test_a_defect_of_ours_names_the_place_and_not_the_data(spec: JobSpec) -> None:
    outcome = run_job(replace(spec, recipe="Doe^Jane"))
    assert isinstance(outcome, Failed)
    assert not outcome.transient
    assert outcome.refusal.code == "internal-error"
    assert "JSONDecodeError at decoder.py" in outcome.refusal.sentence
    assert "Doe" not in outcome.refusal.sentence


# ---------------------------------------------------------------------------------------- the spawned process


def where(_: object = None) -> tuple[int, str, str, int]:
    return os.getpid(), os.environ["NUMBA_NUM_THREADS"], os.environ["NUMBA_CACHE_DIR"], os.umask(0o077)


def die(_: object = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def tell_own(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def hang(started: Path) -> None:
    started.touch()
    signal.pause()


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SpawnedWorker]:
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    worker = SpawnedWorker(3, tmp_path / "cache")
    yield worker
    worker.kill()


def test_the_worker_is_a_process_of_its_own_with_its_settings(worker: SpawnedWorker, tmp_path: Path) -> None:
    pid, threads, cache, umask = worker.submit(where).result(60)
    assert pid != os.getpid()
    assert (threads, cache, umask) == ("3", str(tmp_path / "cache"), 0o077)
    assert (tmp_path / "cache").is_dir()


def test_a_cache_folder_that_cannot_be_written_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/no-such-folder")
    worker = SpawnedWorker(1, tmp_path / "cache")
    try:
        assert worker.submit(where).result(60)[2] == str(tmp_path / "cache")
    finally:
        worker.kill()


def test_a_worker_that_dies_says_so(worker: SpawnedWorker) -> None:
    with pytest.raises(BrokenExecutor):
        worker.submit(die).result(60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_of_the_whole_process_group_is_the_nodes_to_hear(
    worker: SpawnedWorker, number: signal.Signals
) -> None:
    """Else the job loses its worker before the node knows that it stops: an attempt, of which it has few."""
    pid = worker.submit(where).result(60)[0]
    worker.submit(tell_own, number).result(60)
    assert worker.submit(where).result(60)[0] == pid


def test_a_running_job_can_be_cut_off(worker: SpawnedWorker, tmp_path: Path, eventually: Callable[..., None]) -> None:
    pid = worker.submit(where).result(60)[0]
    running = worker.submit(hang, tmp_path / "started")
    eventually((tmp_path / "started").exists, "the job runs")
    worker.kill()
    with pytest.raises(BrokenExecutor):
        running.result(60)
    assert not Path(f"/proc/{pid}").exists()


def test_a_job_that_lets_no_other_thread_of_its_process_run_can_be_cut_off(
    worker: SpawnedWorker, eventually: Callable[..., None]
) -> None:
    worker.submit(abs, 1).result()
    running = worker.submit(pow, 7, 30_000_000)  # minutes in C, with the interpreter's lock
    eventually(running.running, "it runs")
    killing = threading.Thread(target=worker.kill, daemon=True)
    killing.start()
    killing.join(20)
    assert not killing.is_alive()
    with pytest.raises(BrokenExecutor):
        running.result(0)


def test_a_worker_can_be_killed_from_many_threads_at_once(
    worker: SpawnedWorker, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    """The node's stop and the loop that sees its worker die do just that."""
    running = worker.submit(hang, tmp_path / "started")
    eventually((tmp_path / "started").exists, "the job runs")
    with ThreadPoolExecutor(8) as threads:
        kills = [threads.submit(worker.kill) for _ in range(8)]
    assert [kill.exception() for kill in kills] == [None] * 8
    assert isinstance(running.exception(60), BrokenExecutor)


def test_the_worker_ends_when_its_parent_is_killed(tmp_path: Path, eventually: Callable[..., None]) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from node.workers import SpawnedWorker

        if __name__ == "__main__":
            worker = SpawnedWorker(1, Path(sys.argv[1]))
            print(worker.submit(os.getpid).result(60), flush=True)
            sys.stdin.read()
        """)
    )
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "cache")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the worker is gone", 20)


def test_the_nodes_own_process_never_imports_numba() -> None:
    code = "import sys, node.service, node.cli; print(sorted({'numba', 'recon', 'highdicom'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


# ----------------------------------------------------------------------------------------------- the job loop


HANGS = Done(())


class Scripted(InlineWorker):
    """A worker that ends its jobs as it was told."""

    def __init__(self, *ends: JobOutcome | BaseException) -> None:
        self.ends = list(ends)
        self.starts: list[BaseException] = []
        self.specs: list[JobSpec] = []
        self.killed = 0

    def submit(self, fn: object, /, *args: object, **kwargs: object) -> Future[JobOutcome]:
        if fn is not run_job and not self.starts:
            return super().submit(fn, *args, **kwargs)
        future: Future[JobOutcome] = Future()
        end: JobOutcome | BaseException
        if fn is run_job:
            (spec,) = args
            assert isinstance(spec, JobSpec)
            self.specs.append(spec)
            end = self.ends.pop(0)
        else:
            end = self.starts.pop(0)
        if isinstance(end, BaseException):
            future.set_exception(end)
        elif end is not HANGS:
            future.set_result(end)
        return future

    def kill(self) -> None:
        self.killed += 1


class Bench:
    """A journal with one queued job, and the loop that runs it."""

    def __init__(self, tmp_path: Path, *ends: JobOutcome | BaseException, reachable: bool = True) -> None:
        self.clock = Clock()
        self.journal = Journal(None, self.clock)
        peers = {"pacs": Peer(ae_title="PACS", host="127.0.0.1", port=104)} if reachable else {}
        settings = Settings(data_dir=tmp_path, peers=peers)
        self.worker = Scripted(*ends)
        self.made = 0
        self.loop = Reconstructor(self.journal, Spool(tmp_path / "spool"), settings, self.new, lambda: None)
        queue(self.journal, "1", "2")

    def new(self) -> Scripted:
        self.made += 1
        return self.worker

    @property
    def summary(self) -> Summary:
        (summary,) = summaries(self.journal)
        return summary


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(*ends: JobOutcome | BaseException, reachable: bool = True) -> Bench:
        benches.append(Bench(tmp_path, *ends, reachable=reachable))
        return benches[-1]

    yield make
    for made in benches:
        made.journal.close()


MakeBench = Callable[..., Bench]
TRANSIENT = Failed(Refusal("out-of-memory", "too much"), transient=True)
DONE = Done((RESULT,), Report("siemens", ("two echoes",)))
PERMANENT = Failed(Refusal("no-mask", "no brain was found"), transient=False)


def test_results_are_queued_for_the_sender_below_the_data_folder(bench: MakeBench, tmp_path: Path) -> None:
    b = bench(DONE)
    b.loop.step()
    (delivery,) = b.journal.deliveries.due()
    assert (delivery.destination, delivery.path) == ("pacs", "results/job-000001/qsm-0001.dcm")
    (spec,) = b.worker.specs
    assert spec.paths == (tmp_path / "spool" / "sha1.dcm", tmp_path / "spool" / "sha2.dcm")
    assert spec.derived_at == DERIVED_AT
    assert spec.folder == tmp_path / "results" / "job-000001"
    assert report(b.journal, 1) == DONE.report
    assert b.summary.state == "delivering"


def test_without_a_destination_the_result_stays_and_is_called_done(bench: MakeBench) -> None:
    b = bench(DONE, reachable=False)
    b.loop.step()
    assert b.summary.state == "done"


def test_a_permanent_failure_is_not_tried_again(bench: MakeBench) -> None:
    b = bench(PERMANENT)
    b.loop.step()
    assert (b.summary.state, b.summary.code, b.summary.sentence) == ("failed", "no-mask", "no brain was found")
    assert b.summary.attempts == 1


def test_a_transient_failure_waits_and_is_tried_three_times(bench: MakeBench) -> None:
    b = bench(*[TRANSIENT] * MAX_ATTEMPTS)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        b.loop.step()
        b.loop.step()
        assert b.summary.attempts == attempt
        b.clock.now += RETRY_AFTER_S * attempt
    b.loop.step()
    assert b.worker.ends == []
    assert (b.summary.state, b.summary.code, b.summary.attempts) == ("failed", "out-of-memory", MAX_ATTEMPTS)


def test_a_lost_worker_is_replaced_and_the_job_done_in_the_next_attempt(bench: MakeBench) -> None:
    b = bench(BrokenExecutor("killed"), DONE)
    b.loop.step()
    assert (b.summary.state, b.summary.code) == ("queued", "worker-lost")
    b.clock.now += RETRY_AFTER_S
    b.loop.step()
    assert (b.summary.state, b.summary.sentence, b.made, b.worker.killed) == ("delivering", "", 2, 1)


@pytest.mark.parametrize("end", [BrokenExecutor("killed"), ImportError("replaced just now"), TimeoutError()])
def test_no_job_is_to_blame_for_a_process_that_does_not_start(bench: MakeBench, end: Exception) -> None:
    b = bench(DONE)
    b.worker.starts = [end] * (MAX_ATTEMPTS + 1)
    for made in range(1, MAX_ATTEMPTS + 2):
        with pytest.raises(NoWorker):
            b.loop.step()
        assert (b.summary.state, b.summary.attempts, b.summary.sentence) == ("queued", 0, "")
        assert (b.made, b.worker.killed) == (made, made)
    b.loop.step()
    assert (b.summary.state, b.summary.attempts) == ("delivering", 1)


def test_no_job_is_to_blame_if_no_process_can_be_made(bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench(DONE)

    def fails() -> Scripted:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(b.loop._worker, "_new_worker", fails)
        for _ in range(MAX_ATTEMPTS + 1):
            with pytest.raises(NoWorker):
                b.loop.step()
            assert (b.summary.state, b.summary.attempts, b.summary.sentence) == ("queued", 0, "")
    b.loop.step()
    assert (b.summary.state, b.summary.attempts) == ("delivering", 1)


def test_a_job_that_always_kills_its_worker_ends_failed_and_the_next_one_runs(bench: MakeBench) -> None:
    b = bench(*[BrokenExecutor("killed")] * MAX_ATTEMPTS, DONE)
    for _ in range(MAX_ATTEMPTS):
        b.loop.step()
        b.clock.now += 100
    queue(b.journal, "3", key="other")
    b.loop.step()
    assert [s.state for s in summaries(b.journal)] == ["failed", "delivering"]


def test_a_job_without_end_is_ended_and_not_tried_again(bench: MakeBench) -> None:
    b = bench(HANGS)
    b.loop._worker._limit_s = 0.0
    b.loop.step()
    assert (b.summary.state, b.summary.code, b.worker.killed) == ("failed", "time-limit", 1)
    assert "within 2 hours" in b.summary.sentence


def test_a_job_that_takes_the_node_with_it_is_not_tried_for_ever(bench: MakeBench) -> None:
    b = bench()
    for _ in range(MAX_ATTEMPTS):
        assert b.journal.lease()
        assert b.journal.recover() == 1
    b.loop.step()
    assert (b.summary.state, b.summary.code) == ("failed", "node-crash")


def test_stopping_gives_the_job_back_without_counting_the_attempt(bench: MakeBench) -> None:
    b = bench()
    broken: Future[JobOutcome] = Future()

    class Cut(Scripted):
        def submit(self, fn: object, /, *args: object, **kwargs: object) -> Future[JobOutcome]:
            del fn, args, kwargs
            b.loop.end()
            return broken

        def kill(self) -> None:
            if not broken.done():
                broken.set_exception(BrokenExecutor("cut off"))

    b.worker = Cut()
    b.loop.step()
    assert (b.summary.state, b.summary.attempts) == ("queued", 0)
    b.loop.step()
    assert b.summary.state == "queued"


def test_a_bookkeeping_error_does_not_lose_the_job(bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench(DONE, DONE)

    def full(*_: object) -> bool:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(b.journal, "finish", full)
        with pytest.raises(OSError, match="No space"):
            b.loop.step()
    b.loop.step()
    assert b.summary.state == "delivering"


def test_a_killed_worker_really_runs_the_job_again(tmp_path: Path, tiny_study: list[Path]) -> None:
    """The real worker, killed once: the job is done in its second attempt."""
    killed: list[int] = []

    class KilledOnce(SpawnedWorker):
        def submit(self, fn: Callable[..., object], /, *args: object, **kwargs: object) -> Future[object]:
            if fn is run_job and not killed:
                killed.append(1)
                return super().submit(die)
            return super().submit(fn, *args, **kwargs)

    clock = Clock()
    journal = Journal(None, clock)
    spool = Spool(tmp_path / "spool")
    peers = {"pacs": Peer(ae_title="PACS", host="127.0.0.1", port=104)}
    loop = Reconstructor(
        journal,
        spool,
        Settings(data_dir=tmp_path, peers=peers),
        lambda: KilledOnce(1, tmp_path / "cache"),
        lambda: None,
    )
    try:
        for number, path in enumerate(tiny_study):
            shutil.copyfile(path, spool.path(f"sha{number}"))
        queue(journal, *map(str, range(len(tiny_study))))
        loop.step()
        clock.now += RETRY_AFTER_S
        loop.step()
        (summary,) = summaries(journal)
        assert (summary.state, summary.attempts, summary.deliveries) == ("delivering", 2, 32)
    finally:
        loop.end()
        journal.close()
