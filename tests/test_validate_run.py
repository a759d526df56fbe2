"""A validation run of three patients on coarse voxels: workers, network, records that are taken up, exit code."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from node import cli, roundtrip
from node.validate import patients, run
from node.validate.levels import LEVELS, STUDY_PROTOCOL, STUDY_SEED, TUNING_SEEDS, Level
from node.validate.panels import from_npz
from node.validate.patients import RECORD, Task, examine_patient
from node.validate.results import Results
from phantoms.protocol import SMALL_PROTOCOL
from phantoms.study.cohort import PAPER, Plan, burdens

COARSE = replace(STUDY_PROTOCOL, shape=(60, 72, 40), voxel_mm=(3.2, 3.2, 3.6), te_s=STUDY_PROTOCOL.te_s[::2])
FEW = Plan(patients=3, hemorrhages=3, calcifications=2, in_nuclei=0, mixed=0)
LEVEL = replace(LEVELS["quick"], seed=1, plan=FEW, heads=(5,), recipes=LEVELS["quick"].recipes[:1])


@pytest.fixture(scope="module", autouse=True)
def coarse() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roundtrip, "QUIET_S", 1.0)
        patch.setattr(run, "STUDY_PROTOCOL", COARSE)
        patch.setattr(run, "SOLVER_PROTOCOL", replace(SMALL_PROTOCOL, shape=(64, 64, 36), voxel_mm=(3.2, 3.2, 4.0)))
        yield


@pytest.fixture(scope="module")
def kernel_cache() -> Path:
    return Path(os.environ["NUMBA_CACHE_DIR"])


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("validation")


@pytest.fixture(scope="module")
def results(output: Path, kernel_cache: Path) -> Results:
    return run.validate(LEVEL, output, kernel_cache, Console(quiet=True), through_network=True)


def test_the_study_is_never_what_was_tuned_on() -> None:
    seeds = {level.seed for level in LEVELS.values()}
    assert not seeds & set(TUNING_SEEDS)
    assert not {head for level in LEVELS.values() for head in level.heads} & set(range(1, 8))
    assert LEVELS["full"].plan == PAPER
    assert LEVELS["full"].seed == STUDY_SEED
    assert np.all(np.array(STUDY_PROTOCOL.voxel_mm) <= (1.2, 1.2, 2.0))


def test_everybody_is_examined_and_every_head_scored(results: Results) -> None:
    assert [patient.number for patient in results.patients] == [1, 2, 3]
    assert sum(len(patient.findings) for patient in results.patients) == 5
    assert [(score.recipe, score.head_seed) for score in results.scores] == [("default", 5)]
    assert set(results.seconds) == {"over the network", "patients", "solvers"}


def test_the_network_changes_nothing_but_rounds(results: Results) -> None:
    """Derived series hold whole ppb and mrad."""
    for patient in results.patients:
        assert set(patient.through_network) == {"qsm", "phase"}
        assert 0.4 < max(patient.through_network.values()) <= 0.501
    assert [row.held for row in results.promises if row.id == "network"] == [True]


def test_report_and_numbers_are_written(results: Results, output: Path) -> None:
    page = (output / "index.html").read_text("utf-8")
    assert "<svg" in page or "data:image/png;base64," in page
    content = json.loads((output / "results.json").read_text("utf-8"))
    assert [p["number"] for p in content["patients"]] == [1, 2, 3]
    assert content["study_seed"] == 1
    assert content["versions"].keys() >= {"qsm-node", "Python", "numba"}
    assert len(results.broken) == sum(not row["held"] for row in content["promises"])


def test_panels_show_the_lesion_where_they_say(results: Results, output: Path) -> None:
    panels = [from_npz(path) for path in (output / "records").glob("patient-*.npz")]
    assert {panel.kind for panel in panels} == {"hemorrhage", "calcification"}
    for panel in panels:
        finding = results.patients[panel.number - 1].findings[panel.finding]
        assert panel.volume_cm3 == finding.true_volume_cm3
        for plane, images in panel.planes.items():
            column, row = (round(value) for value in panel.centre[plane])
            assert np.sign(images["truth"][row, column]) == (1 if panel.kind == "hemorrhage" else -1)


def test_a_run_that_was_cut_off_goes_on(results: Results, output: Path, kernel_cache: Path) -> None:
    """The record of the first patient is taken up as it is, that of the second is made again to the same."""
    records = sorted((output / "records").glob("patient-*.json"))
    assert len(records) == 3
    kept, lost, _ = (path.read_bytes() for path in records)
    records[1].unlink()
    age_ns = records[0].stat().st_mtime_ns
    again = run.validate(LEVEL, output, kernel_cache, Console(quiet=True), through_network=True)
    assert records[0].stat().st_mtime_ns == age_ns
    assert records[0].read_bytes() == kept
    assert RECORD.validate_json(lost).findings == again.patients[1].findings
    assert again.versions == results.versions
    assert again.study.diagnoses == results.study.diagnoses
    assert again.study.loads == results.study.loads


def test_records_of_another_software_or_scan_are_not_taken_up(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    burden = burdens(1, FEW)[0]
    task = Task(1, burden, COARSE, output, "software")
    assert replace(task, seed=2).record != task.record
    assert replace(task, protocol=replace(COARSE, te_s=COARSE.te_s[:2])).record != task.record
    assert replace(task, arrived=output / "arrived-01.npz").record != task.record
    assert replace(task, software="changed").record != task.record
    assert replace(task, software="changed").panels(0) != task.panels(0)
    before = patients.software()
    assert patients.software() == before
    monkeypatch.setattr(patients, "installed", lambda: {"numpy": "other"})
    assert patients.software() != before


def test_a_cut_in_writing_leaves_no_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A record appears whole or not at all."""
    task = Task(1, burdens(1, FEW)[0], COARSE, tmp_path, "software")
    monkeypatch.setattr(Path, "replace", _cut_off)
    with pytest.raises(KeyboardInterrupt):
        examine_patient(task)
    assert not list(tmp_path.glob("*.json"))


def _cut_off(path: Path, target: Path) -> Path:
    raise KeyboardInterrupt(f"{path} {target}")


def test_a_record_keeps_what_is_no_number(results: Results, tmp_path: Path) -> None:
    finding = results.patients[0].findings[0]
    odd = replace(finding, mean_ppb=finding.mean_ppb | {"qsm": math.nan, "tkd": -math.inf})
    path = tmp_path / "record.json"
    path.write_text(json.dumps(RECORD.dump_python(replace(results.patients[0], findings=(odd,)))))
    read = patients.read_record(path).findings[0].mean_ppb
    assert math.isnan(read["qsm"])
    assert read["tkd"] == -math.inf


def test_what_cannot_be_done_is_said_with_a_code_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = CliRunner().invoke(cli.app, ["validate", "-o", str(tmp_path / "file")])
    assert done.exit_code == cli.UNFINISHED
    assert "the validation could not be done" in done.output


@pytest.mark.parametrize(("held", "code"), [(True, 0), (False, 1)])
def test_a_broken_promise_is_the_exit_code_and_named(
    results: Results, output: Path, monkeypatch: pytest.MonkeyPatch, held: bool, code: int
) -> None:
    rows = tuple(replace(row, held=True) for row in results.promises[1:])
    rows = (replace(results.promises[0], held=held), *rows)
    monkeypatch.setattr(run, "validate", lambda *_: replace(results, promises=rows))
    asked: list[Level] = []
    monkeypatch.setattr("node.warm.is_warm", lambda _: asked.append(LEVEL) or True)
    done = CliRunner().invoke(cli.app, ["validate", "-o", str(output)])
    assert done.exit_code == code, done.output
    name = results.promises[0].id
    assert (f"Broken {name}" in done.output) == (not held)
    assert f"{len(rows) - (not held)} of {len(rows)} promises are held" in done.output
