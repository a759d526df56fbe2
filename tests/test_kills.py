"""Kills of the node and of its worker, at any moment: what was answered Success is reconstructed and delivered.

Four scanners push studies, each the next when it has the results of the last; what is not answered Success they send
again. A kill waits until the node is seen at a stage, and then for a random while. `make soak` kills 200 nodes and 50
workers.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from node.loops import MAX_ATTEMPTS
from node.service import READER_NICENESS

KILLS = int(os.environ.get("QSM_NODE_KILLS", "20"))
WORKER_KILLS = int(os.environ.get("QSM_NODE_WORKER_KILLS", "5"))
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""pynetdicom does not close what could not be connected to a node that was just killed."""
LONGEST_S = {
    "starting": 1.0, "receiving": 0.3, "entering": 0.3, "gathering": 0.3, "reconstructing": 2.5, "writing": 0.1,
    "delivering": 0.1, "idle": 0.5,
}  # fmt: skip
"""Stages of the node, and how long after it is seen there a kill comes at the latest."""

IMPATIENT = """
import node.loops
from node.cli import main

if __name__ == "__main__":
    node.loops.RETRY_AFTER_S = 0.2
    main()
"""
POISONED = """
import os, signal
import pydicom
import node.jobs, node.loops
from node.cli import main

def poisoned(spec, run=node.jobs.run_job):
    if pydicom.dcmread(spec.paths[0]).StudyInstanceUID == "{study}":
        os.kill(os.getpid(), signal.SIGKILL)
    return run(spec)

if __name__ == "__main__":
    node.loops.RETRY_AFTER_S = 0.2
    main()
else:  # in the worker
    node.jobs.run_job = poisoned
"""


# ------------------------------------------------------------------------------------------------- the node


@pytest.mark.timeout(300 + 30 * KILLS)
def test_whenever_the_node_is_killed_all_that_was_answered_success_is_delivered(
    tmp_path: Path, tiny_study: list[Path], killing: ModuleType
) -> None:
    """Next comes the stage that was hit least; idle, which takes long to become, half as often.

    What a job is allowed, two kills, is not exceeded.
    """
    chance, hit, start_s = random.Random(4711), Counter(dict.fromkeys(LONGEST_S, 0)), time.monotonic()
    with killing.Site(tmp_path, tiny_study) as site:
        site.begin()
        site.served.stop()
        for _ in range(KILLS):
            wanted = min(LONGEST_S, key=lambda stage: (hit[stage] * (1 + (stage == "idle")), chance.random()))
            site.served.launch()
            if wanted != "starting":
                site.served.listens()
            if wanted == "idle":
                site.may_begin.clear()
            while True:
                site.served.until(lambda wanted=wanted: wanted == "starting" or wanted in site.stages(), wanted)
                time.sleep(chance.uniform(0, LONGEST_S[wanted]))
                if not site.served.in_danger():
                    break
            sending = any(scanner.sending for scanner in site.scanners)
            site.served.kill()
            hit.update(site.served.stages() | ({"receiving"} if sending else set()) or {"idle"})
            site.may_begin.set()
        site.served.launch()
        site.finish()
        took = f"{KILLS} kills in {time.monotonic() - start_s:.0f} s"
        print(f"\n{took}, of a node that was {', '.join(f'{s} {n}' for s, n in hit.items())}; {site.figures()}")
        site.check()
    assert all(hit.values()), hit


def test_a_stop_is_heard_whichever_thread_the_signal_interrupts(tmp_path: Path, killing: ModuleType) -> None:
    """A thread that spawns the worker blocks and unblocks SIGTERM, and can take it before the main thread wakes."""
    with killing.Site(tmp_path, []) as site:
        site.served.launch()
        site.served.listens()
        node = site.served.process
        threads = {int(task.name) for task in Path(f"/proc/{node.pid}/task").iterdir()} - {node.pid}
        os.kill(min(threads), signal.SIGTERM)  # Linux: to the process, but this thread is asked first
        assert node.wait(30) == 0


def test_who_comes_again_while_the_node_stops_does_not_hold_it_up(tmp_path: Path, killing: ModuleType) -> None:
    """As senders do: an association that is aborted is followed by another, which stays open."""
    opened = []

    def comes_again(scanner: Any) -> None:
        for _ in range(2):
            opened.append(assoc := scanner.associated(site.served.port))
            while assoc.is_established:
                time.sleep(0.01)

    with killing.Site(tmp_path, []) as site:
        site.served.launch()
        site.served.listens()
        visits = [threading.Thread(target=comes_again, args=[scanner], daemon=True) for scanner in site.scanners]
        for visit in visits:
            visit.start()
        site.served.until(lambda: sum(assoc.is_established for assoc in opened) == len(visits), "all are there")
        site.served.process.terminate()
        try:
            assert site.served.process.wait(20) == 0
        finally:
            site.served.kill()
            for visit in visits:
                visit.join()


# ----------------------------------------------------------------------------------------------- the worker


@pytest.mark.timeout(300 + 30 * WORKER_KILLS)
def test_whenever_the_worker_is_killed_its_job_is_tried_again_and_no_other(
    tmp_path: Path, tiny_study: list[Path], killing: ModuleType
) -> None:
    """Nor is anything lost when what reads headers is killed, once for each filling of the inbox."""
    chance, hit, start_s = random.Random(4711), Counter[str](), time.monotonic()
    with killing.Site(tmp_path, tiny_study, IMPATIENT) as site:
        served = site.served
        site.begin()
        while len(served.events("job will be tried again")) < WORKER_KILLS:
            served.until(lambda: {"reconstructing", "writing"} & site.stages(), "a job runs")
            time.sleep(chance.uniform(0, 3))
            stage = {"reconstructing", "writing"} & site.stages()
            workers = served.workers()
            if stage and len(workers) == 1 and not served.in_danger():
                os.kill(workers[0], signal.SIGKILL)
                hit.update(stage)
            if served.inbox() and (readers := served.workers(READER_NICENESS)):
                os.kill(readers[0], signal.SIGKILL)
                hit["reading headers"] += 1
                served.until(lambda: not served.inbox(), "all is entered")
        site.finish()
        took = f"{hit.total()} kills in {time.monotonic() - start_s:.0f} s"
        print(f"\n{took}, of a worker that was {', '.join(f'{s} {n}' for s, n in hit.items())}; {site.figures()}")
        site.check()
        again = served.events("job will be tried again")
        assert {event["code"] for event in again} == {"worker-lost"}
        assert hit["reading headers"], "what reads headers was never killed"
        attempts = Counter(event["job"] for event in again)
        assert attempts.total() >= WORKER_KILLS
        assert all(n == 1 + attempts[job] for job, n in served.rows("SELECT id, attempts FROM job"))


def test_a_job_that_always_kills_its_worker_fails_and_the_others_do_not(
    tmp_path: Path, tiny_study: list[Path], killing: ModuleType
) -> None:
    studies = [killing.renewed(tiny_study, name) for name in ("before", "poison", "after")]
    uids = [str(study[0].StudyInstanceUID) for study in studies]
    with killing.Site(tmp_path, tiny_study, POISONED.format(study=uids[1])) as site:
        served = site.served
        served.launch()
        served.listens()
        for study in studies:
            assert site.scanners[0].push(study) == []
        served.until(lambda: not served.unfinished(), "everything has gone through", 300)
        before, poison, after = (next(a for a in served.summaries() if a.study_uid == uid) for uid in uids)
        assert [(a.state, a.attempts) for a in (before, after)] == [("delivered", 1)] * 2
        assert (poison.state, poison.attempts, poison.code) == ("failed", MAX_ATTEMPTS, "worker-lost")
        assert poison.sentence == "the worker process died: out of memory, or killed"
        served.until(lambda: served.events("job failed"), "the log tells what the journal knows")
        (failed,) = served.events("job failed")
        assert (failed["code"], failed["attempt"]) == ("worker-lost", MAX_ATTEMPTS)
        assert site.archive.studies.keys() == {uids[0], uids[2]}
