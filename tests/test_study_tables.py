"""The study's tables from records made by hand: what counts as what, and whose."""

from __future__ import annotations

import math

import pytest

from phantoms.lesions import Kind
from phantoms.study.record import (
    IMAGES,
    Appearance,
    Extent,
    FindingRecord,
    Image,
    Outcome,
    PatientRecord,
    Reading,
)
from phantoms.study.statistics import clustered_mcnemar, clustered_proportion, kappa
from phantoms.study.tables import tabulate
from recon.types import BadInput

SHORT: dict[str, Outcome] = {"h": "hemorrhage", "c": "calcification", "n": "neither"}


def reading(letter: str, appearance: Appearance = "homogeneous") -> Reading:
    return Reading(SHORT[letter], appearance if letter != "n" else "heterogeneous", 1.0, 100.0)


def finding(
    kind: Kind,
    qsm: str,
    phase: str = "nn",
    in_nucleus: bool = False,
    volume_cm3: float = 1.0,
    appearance: Appearance = "homogeneous",
) -> FindingRecord:
    """A lesion that the two readers call as the letters say; TKD as phase, truth as it is."""
    true = "c" if kind == "calcification" else "h"
    calls: dict[Image, str] = {"qsm": qsm, "tkd": phase, "phase": phase, "truth": 2 * true}
    chi = -500.0 if kind == "calcification" else 500.0
    extents: dict[Image, Extent] = {
        "truth": Extent(volume_cm3, chi * volume_cm3),
        "qsm": Extent(1.1 * volume_cm3, 0.9 * chi * volume_cm3),
        "tkd": Extent(1.2 * volume_cm3, 0.8 * chi * volume_cm3),
        "phase": Extent(2 * volume_cm3, 3 * volume_cm3**0.5),
    }
    return FindingRecord(
        kind=kind,
        form="solid" if kind == "calcification" else "hematoma",
        in_nucleus=in_nucleus,
        true_volume_cm3=volume_cm3,
        centre=(1, 2, 3),
        mean_ppb={"qsm": 0.9 * chi, "tkd": 0.8 * chi, "truth": chi},
        readings={image: tuple(reading(letter, appearance) for letter in calls[image]) for image in IMAGES},
        extents=extents,
    )


def patient(number: int, *findings: FindingRecord) -> PatientRecord:
    return PatientRecord(number, "cause", 50.0, 60.0, (0.0, 0.0, 1.0), 1000 + number, findings)


BLEED, CALCIUM = "hemorrhage", "calcification"
RECORDS = (
    patient(1, finding(BLEED, "hh", "hn"), finding(BLEED, "hn", "nn"), finding(CALCIUM, "cc", "hc")),
    patient(2, finding(CALCIUM, "cc", "cc", volume_cm3=3.0), finding(CALCIUM, "hh", in_nucleus=True)),
    patient(3, finding(BLEED, "ch", "cc"), finding("mixed", "hc")),
    patient(4, finding(CALCIUM, "cn", "nc", volume_cm3=0.2)),
)
STUDY = tabulate(RECORDS)


def test_mixed_lesions_are_counted_apart() -> None:
    assert (STUDY.patients, STUDY.lesions) == (4, 7)
    assert sum(sum(r.counts.values()) for r in STUDY.appearances if r.image == "qsm" and r.reader == 1) == 8
    mixed = next(r for r in STUDY.appearances if (r.lesions, r.image, r.reader) == ("mixed", "qsm", 1))
    assert mixed.counts == {"homogeneous": 1, "primarily one sign": 0, "heterogeneous": 0, "inconspicuous": 0}


def test_sensitivity_and_specificity_are_clustered_by_patient() -> None:
    """Reader 1, QSM: hemorrhages hh/hn right, ch wrong; of the four calcifications one is called a hemorrhage."""
    rows = {(r.group, r.kind, r.measure, r.image, r.reader): r.value for r in STUDY.diagnoses}
    assert rows["all", BLEED, "sensitivity", "qsm", 1] == clustered_proportion([2, 0], [2, 1])
    assert rows["all", BLEED, "specificity", "qsm", 1] == clustered_proportion([1, 1, 1], [1, 2, 1])
    assert rows["all", CALCIUM, "sensitivity", "qsm", 1] == clustered_proportion([1, 1, 1], [1, 2, 1])
    assert rows["all", CALCIUM, "specificity", "qsm", 1] == clustered_proportion([2, 0], [2, 1])
    assert rows["outside nuclei", CALCIUM, "sensitivity", "qsm", 1].value == 1
    assert rows["outside nuclei", BLEED, "specificity", "qsm", 1].clusters == 3


def test_neither_is_negative_for_both() -> None:
    rows = {(r.group, r.kind, r.measure, r.image, r.reader): r.value.value for r in STUDY.diagnoses}
    assert rows["all", BLEED, "sensitivity", "qsm", 2] == pytest.approx(2 / 3)  # hh, hn, ch: reader 2 says h, n, h
    assert rows["all", CALCIUM, "sensitivity", "qsm", 2] == pytest.approx(2 / 4)
    assert rows["all", CALCIUM, "specificity", "qsm", 2] == 1


def test_the_mean_is_over_readers() -> None:
    assert STUDY.diagnosis("all", BLEED, "sensitivity", "qsm") == pytest.approx(2 / 3)
    assert STUDY.diagnosis("all", CALCIUM, "sensitivity", "qsm") == pytest.approx((3 / 4 + 2 / 4) / 2)


def test_mcnemar_takes_patients_who_have_the_kind() -> None:
    """Reader 1, hemorrhage: QSM right on two more lesions of patient 1 but one, on none of patient 3."""
    row = next(
        r
        for r in STUDY.comparisons
        if (r.group, r.kind, r.measure, r.against, r.reader) == ("all", BLEED, "sensitivity", "phase", 1)
    )
    assert row.test == clustered_mcnemar([1, 0])


def test_kappa_is_between_the_readers_over_three_outcomes() -> None:
    qsm = [("h", "h"), ("h", "n"), ("c", "c"), ("c", "c"), ("h", "h"), ("c", "h"), ("c", "n")]
    expected = kappa([a for a, _ in qsm], [b for _, b in qsm], ("h", "c", "n"))
    agreement = STUDY.agreement("all", "qsm")
    assert agreement.kappa.value == pytest.approx(expected)
    assert agreement.kappa.low <= expected <= agreement.kappa.high
    assert STUDY.agreement("all", "truth").kappa.value == 1
    assert agreement.qsm_minus_this.value == 0
    assert STUDY.agreement("all", "truth").qsm_minus_this.value == pytest.approx(expected - 1)


def test_volumes_are_of_calcifications_outside_nuclei_that_show_on_both() -> None:
    """Heterogeneous on phase is visible, inconspicuous is not."""
    rows = {row.image: row for row in STUDY.volumes}
    assert rows["truth"].lesions == 3
    assert rows["truth"].mean_cm3 == pytest.approx((1 + 3 + 0.2) / 3)
    assert rows["qsm"].mean_cm3 == pytest.approx(1.1 * rows["truth"].mean_cm3)
    assert rows["truth"].minus_truth is None
    unseen = finding(CALCIUM, "cc", "cc", volume_cm3=50.0, appearance="inconspicuous")
    assert tabulate([*RECORDS, patient(5, unseen)]).volumes == STUDY.volumes


def test_totals_are_sums_of_patients_on_logarithms() -> None:
    rows = {row.image: row for row in STUDY.loads}
    assert [(p.patient, p.load, p.total) for p in rows["qsm"].points] == [
        (1, 500, 450),
        (2, 1500, 1350),
        (4, pytest.approx(100), pytest.approx(90)),
    ]
    qsm, phase = rows["qsm"].regression, rows["phase"].regression
    assert qsm is not None
    assert phase is not None
    assert (qsm.slope.value, qsm.r2) == (pytest.approx(1), pytest.approx(1))
    assert phase.slope.value == pytest.approx(0.5)
    assert STUDY.loads_differ is not None


def test_a_total_without_logarithm_is_counted_not_dropped() -> None:
    odd = finding(CALCIUM, "cc", "cc")
    odd = FindingRecord(
        kind=odd.kind, form=odd.form, in_nucleus=False, true_volume_cm3=1.0, centre=odd.centre,
        mean_ppb=odd.mean_ppb, readings=odd.readings, extents=odd.extents | {"qsm": Extent(1.0, +20.0)},
    )  # fmt: skip
    row = next(r for r in tabulate([*RECORDS, patient(5, odd)]).loads if r.image == "qsm")
    assert row.without_logarithm == 1
    assert len(row.points) == 3


def test_few_patients_leave_figures_open() -> None:
    study = tabulate(RECORDS[:2])
    assert all(row.regression is None for row in study.loads)
    assert study.loads_differ is None
    assert not math.isnan(study.volumes[0].mean_cm3)


def test_a_study_of_one_kind_is_refused() -> None:
    with pytest.raises(BadInput, match="hemorrhage and a calcification"):
        tabulate([patient(1, finding(BLEED, "hh"))])
    with pytest.raises(BadInput):
        tabulate([])
