"""The validation run: work out to worker processes, records back, tables, promises, report.

What is done stays done: a run that was cut off takes up the records that the same code left in its output folder.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console

from node import loopback
from node.roundtrip import peers, read_series, wait
from node.steps import Steps
from node.validate.levels import SOLVER_PROTOCOL, STUDY_PROTOCOL, Level
from node.validate.panels import from_npz
from node.validate.patients import (
    ARRIVING,
    Task,
    examine_patient,
    installed,
    read_record,
    software,
    write_scan,
)
from node.validate.promises import Evidence, check
from node.validate.report import Report, render
from node.validate.results import Results, as_json
from node.validate.solvers import SolverTask, score_head
from node.workers import SpawnedWorker
from phantoms.study.cohort import burdens
from phantoms.study.reading import READERS
from phantoms.study.record import Image, PatientRecord
from phantoms.study.tables import tabulate
from recon.recipe import Recipe, as_dict

Made = TypeVar("Made")

SERIES: dict[Image, str] = {"qsm": "QSM", "phase": "phase"}
"""How the node's series are recognised by their description."""

TYPICAL_CM3 = 1.5
"""The figures show lesions of about this volume, in nuclei of a tenth of it."""


def validate(level: Level, output: Path, cache_dir: Path, console: Console, through_network: bool = False) -> Results:
    """Run a level and write ``index.html`` and ``results.json``.

    Parameters
    ----------
    output
        Made if absent. ``records`` in it keeps what is done.
    cache_dir
        Of compiled kernels.
    through_network
        Send every patient through a node first, and read what came back.
    """
    folder = output / "records"
    folder.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    now = software()
    tasks = [Task(level.seed, burden, STUDY_PROTOCOL, folder, now) for burden in burdens(level.seed, level.plan)]
    heads = [SolverTask(seed, SOLVER_PROTOCOL, level.recipes) for seed in level.heads]
    with SpawnedWorker(1, cache_dir, processes=_cores()) as pool, Steps(console, remaining=True) as steps:
        try:
            if through_network:
                futures = []
                with _timed(seconds, "over the network"), steps.step("Patients over the network", len(tasks)) as tell:
                    for task in tasks:
                        futures.append(pool.submit(examine_patient, _sent(task, pool)))
                        tell(len(futures))
            else:
                futures = [pool.submit(examine_patient, task) for task in tasks]
            with _timed(seconds, "patients"):
                tasks = sorted(_done(steps, "Patients read", futures), key=lambda task: task.burden.number)
            with _timed(seconds, "solvers"):
                scored = _done(steps, "Heads scored", [pool.submit(score_head, head) for head in heads])
        except BaseException:
            pool.kill()
            raise
    patients = [read_record(task.record) for task in tasks]
    scores = tuple(sorted(chain.from_iterable(scored), key=lambda score: score.head_seed))
    study = tabulate(patients)
    results = Results(
        versions=installed(),
        level=level.name,
        through_dicom=through_network,
        study_seed=level.seed,
        protocol=STUDY_PROTOCOL,
        readers=READERS,
        recipe=as_dict(Recipe()),
        finished=datetime.now().astimezone().replace(microsecond=0),
        cores=_cores(),
        seconds=seconds,
        promises=check(Evidence(study, patients, scores), level.name, through_network),
        study=study,
        scores=scores,
        patients=tuple(patients),
    )
    (output / "results.json").write_text(as_json(results), encoding="utf-8")
    shown = tuple(from_npz(path) for path in _shown(tasks, patients))
    (output / "index.html").write_text(render(Report(results, shown)), encoding="utf-8")
    return results


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    seconds[what] = time.monotonic() - begun


def _shown(tasks: Sequence[Task], patients: Sequence[PatientRecord]) -> list[Path]:
    """Slices of one lesion of each sort: the one whose volume is nearest to a typical one."""
    chosen: dict[tuple[str, bool], tuple[float, Path]] = {}
    for task, patient in zip(tasks, patients, strict=True):
        for index, finding in enumerate(patient.findings):
            path = task.panels(index)
            away = abs(math.log(finding.true_volume_cm3 / (TYPICAL_CM3 / 10 if finding.in_nucleus else TYPICAL_CM3)))
            sort = (finding.kind, finding.in_nucleus)
            if path.is_file() and away < chosen.get(sort, (math.inf, path))[0]:
                chosen[sort] = away, path
    return [path for _, path in chosen.values()]


def _done(steps: Steps, what: str, futures: Sequence[Future[Made]]) -> list[Made]:
    """What the workers made, in the order in which they were done."""
    made = []
    with steps.step(what, len(futures)) as advance:
        for future in as_completed(futures):
            made.append(future.result())
            advance(len(made))
    return made


def _sent(task: Task, pool: SpawnedWorker) -> Task:
    """The patient goes through a node: the task with what came back, unless it has its record already."""
    arrived = replace(task, arrived=task.folder / f"arrived-{task.burden.number:02d}.npz")
    if arrived.record.is_file():
        return arrived
    with tempfile.TemporaryDirectory(prefix="qsm-node-validate-") as name:
        place = Path(name)
        images, geometry = pool.submit(write_scan, task, place / "scan").result()
        with peers(place / "pacs", place / "node") as (node, pacs):
            loopback.send(images, node.port, node.settings.ae_title)
            wait(node, lambda summary: summary.state == "delivered")
            back = {image: read_series(pacs.paths(), SERIES[image], geometry).values for image in ARRIVING}
    assert arrived.arrived is not None
    np.savez(arrived.arrived, qsm=back["qsm"], phase=back["phase"])
    return arrived
