"""The report on a reconstruction: kept, shown, and written into derived objects; a contradicted sign is withheld."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from rich.console import Console

from journals import lease, queue
from node import work
from node.derive import DeriveOptions, write_derived
from node.errors import Refused
from node.fitness import Scan, fitness
from node.jobs import run_job
from node.journal import Journal
from node.load import load
from node.overview import report
from node.provenance import SHORT_TEXT
from node.records import Done, Failed, JobSpec
from node.report import Finding, Report, withhold_contradiction
from node.site import Site
from node.tables import WIDTH, print_report
from node.vendors.stated import Stated
from phantoms.anatomy import head
from phantoms.protocol import Protocol
from phantoms.scanner import write_dicom
from phantoms.simulate import simulate

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EVIDENCE = "deep nuclei are diamagnetic (-85 ppb) and the field below the sinuses is reversed (r = -0.71)"
POOR = fitness((0.0023, 0.0046), 127.7, (1.5, 1.5, 5.0), Scan("2D", 20.0, 10.0, 1008.0, 3.0, 2.0))
REPORT = Report(
    "ge; real and imaginary; stored phase falls with the field; slice sign alternation removed",
    (
        "zero-filled from 128x128 to 256x256",
        "mask: the automatic mask touches the image's end: bottom, top: check it",
    ),
    POOR,
)
DOUBTED = replace(REPORT, sign="contradiction", sign_evidence=EVIDENCE)
MARK = f"Sign check: contradiction: {EVIDENCE}."

texts = st.text(max_size=40)
findings = st.builds(Finding, texts, texts, texts, st.none() | st.booleans(), texts)


@settings(max_examples=50, deadline=None)
@given(st.builds(Report, texts, st.tuples(texts, texts), st.tuples(findings, findings), texts, texts))
def test_a_report_goes_through_json_unchanged(made):
    line = made.to_json()
    assert "\n" not in line
    assert Report.from_json(line) == made


def test_the_gravest_caution_comes_first():
    assert DOUBTED.cautions == (MARK, *REPORT.limits, *REPORT.warnings)
    assert REPORT.cautions == (*REPORT.limits, *REPORT.warnings)
    assert len(REPORT.limits) == 5


@pytest.mark.parametrize("verdict", ["agreement", "no evidence"])
def test_only_a_contradiction_is_withheld(verdict):
    withhold_contradiction(replace(DOUBTED, sign=verdict))
    assert replace(DOUBTED, sign=verdict).contradiction == ""
    with pytest.raises(Refused) as refused:
        withhold_contradiction(DOUBTED)
    assert refused.value.refusal.code == "sign-contradiction"
    assert EVIDENCE in refused.value.refusal.sentence
    assert not refused.value.transient


# ------------------------------------------------------------------------------------------------ derived objects


@pytest.fixture(scope="module")
def reconstruction(tiny_study):
    """A source, what was reconstructed from it, and the report."""
    source = load(tiny_study)
    result = work.reconstruct(source.acquisition)
    return source, result, work.report_of(source, result)


def written(reconstruction, report, folder):
    """One derived object of each series, with all options."""
    source, result, _ = reconstruction
    items = write_derived(source, result, report, folder, AT, DeriveOptions(True, True))
    return {item.series: dcmread(item.path) for item in items}


def test_every_reconstruction_has_a_report(reconstruction):
    source, result, made = reconstruction
    assert made.convention == source.convention
    assert made.warnings == (*source.warnings, *(f"{t.stage}: {w}" for t in result.traces for w in t.warnings))
    stated = Scan("3D", 50.0, 20.0, None, 10.0)
    assert made.fitness == fitness(source.acquisition.te_s, source.acquisition.f0_mhz, (6.0, 6.0, 10.0), stated)


def test_limits_of_quality_reach_every_derived_object(reconstruction, tmp_path):
    objects = written(reconstruction, REPORT, tmp_path)
    assert set(objects) == {"qsm", "phase", "mask", "pmap"}
    for ds in objects.values():
        limits = f"Limited quality: {'; '.join(REPORT.limits)}."
        assert limits in ds.DerivationDescription
        assert ds.DerivationDescription.index(limits) < ds.DerivationDescription.index("qsm-node")
        assert f"Warnings: {'; '.join(REPORT.cautions)}." in ds.ImageComments
        assert "SIGN?" not in ds.SeriesDescription


def test_a_contradiction_marks_every_derived_object_first_of_all(reconstruction, tmp_path):
    plain = written(reconstruction, REPORT, tmp_path / "plain")
    for series, ds in written(reconstruction, DOUBTED, tmp_path / "doubted").items():
        assert ds.SeriesDescription == f"SIGN? {plain[series].SeriesDescription}"
        assert ds.DerivationDescription.startswith(f"{MARK} ")
        assert ds.ImageComments.startswith(f"{MARK} ")
        assert len(ds.DerivationDescription) <= SHORT_TEXT
        assert ds.SOPInstanceUID == plain[series].SOPInstanceUID


def test_what_is_not_limited_is_not_called_so(reconstruction, tmp_path):
    source, _, _ = reconstruction
    fit = Report(source.convention, (), fitness((0.004, 0.02, 0.036), 127.7, (1.0, 1.0, 1.0), Scan("3D")))
    for ds in written(reconstruction, fit, tmp_path).values():
        assert "Limited" not in ds.DerivationDescription
        assert "Warnings" not in ds.ImageComments


# ------------------------------------------------------------------------------------------------ jobs and journal


def test_a_wrong_statement_of_the_site_is_found_out(tmp_path):
    """A site that states the sign wrongly would swap every hemorrhage and calcification."""
    protocol = Protocol((64, 64, 44), (3.2, 3.2, 3.2), te_s=(0.005, 0.012, 0.019), tr_s=0.04, flip_deg=15.0)
    paths = write_dicom(simulate(head(105), protocol, 105), tmp_path / "in")
    wrong = Stated("SIEMENS", -1, 8192.0)
    right = JobSpec(tuple(paths), "default", AT, tmp_path / "right", site=Site((replace(wrong, phase_sign=1),)))
    withheld = replace(right, folder=tmp_path / "withheld", site=Site((wrong,)))
    marked = replace(right, folder=tmp_path / "marked", site=Site((wrong,), withhold_contradictions=False))

    outcome = run_job(withheld)
    assert isinstance(outcome, Failed)
    assert (outcome.refusal.code, outcome.transient) == ("sign-contradiction", False)
    assert "of the predicted one over" in outcome.refusal.sentence
    assert not withheld.folder.exists()

    first = {}
    for spec, sign, name in ((right, "agreement", "QSM [ppb]"), (marked, "contradiction", "SIGN? QSM [ppb]")):
        outcome = run_job(spec)
        assert isinstance(outcome, Done)
        assert outcome.report.sign == sign
        first[sign] = dcmread(spec.folder / outcome.results[0].path)
        assert first[sign].SeriesDescription == name
    assert first["contradiction"].ImageComments.startswith("Sign check: contradiction: the phase seems to be negated")
    assert first["contradiction"].SOPInstanceUID != first["agreement"].SOPInstanceUID  # a PACS would keep the first


def test_the_journal_keeps_the_report_of_the_newest_job(tmp_path):
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    for uid, made in (("1", REPORT), ("2", DOUBTED)):
        queue(journal, uid)
        assert report(journal, 1) is None
        journal.finish(lease(journal), (), (), made.to_json())
    journal.close()
    journal = Journal(path)
    assert report(journal, 1) == DOUBTED
    assert report(journal, 2) is None
    journal.close()


# ------------------------------------------------------------------------------------------------ for people


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_it_is_printed_whole_and_in_line(columns):
    console = Console(file=StringIO(), width=columns)
    print_report(console, DOUBTED, indent=2)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= min(columns, WIDTH)
    words = " ".join(" ".join(lines).split())
    for sentence in (DOUBTED.convention, f"contradiction: {EVIDENCE}", *REPORT.cautions, "3 of 10 recommendations"):
        assert sentence in words
    starts = {f.rule: next(line for line in lines if f.rule in line[:18] and f.measured in line) for f in POOR}
    assert len({starts[f.rule].rindex(f.recommended) for f in POOR}) == 1
    assert {starts[f.rule].endswith("not met") for f in POOR if f.met is False} == {True}
