"""The tables of Chen W. et al., Radiology 2014;270:496, from the records of a study.

Mixed lesions have no right answer: they appear in the table of appearances alone. A reading of neither kind counts as
negative for both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from phantoms.study.record import APPEARANCES, IMAGES, OUTCOMES, Appearance, FindingRecord, Image, PatientRecord
from phantoms.study.statistics import (
    Interval,
    PairedDifference,
    Proportion,
    Regression,
    Test,
    bootstrap,
    clustered_mcnemar,
    clustered_proportion,
    cross_table,
    f_test,
    loglog,
    paired_t,
    table_kappa,
)
from recon.types import BadInput

Group = Literal["all", "outside nuclei"]
Diagnosed = Literal["hemorrhage", "calcification"]
Measure = Literal["sensitivity", "specificity"]
GROUPS: tuple[Group, ...] = get_args(Group)
KINDS: tuple[Diagnosed, ...] = get_args(Diagnosed)
MEASURES: tuple[Measure, ...] = get_args(Measure)
DRAWS = 2000


@dataclass(frozen=True, slots=True)
class AppearanceRow:
    """How the lesions of one group look on one image to one reader: counts in the order of ``APPEARANCES``."""

    lesions: Literal["hemorrhage", "calcification outside nuclei", "calcification in nuclei", "mixed"]
    image: Image
    reader: int
    counts: dict[Appearance, int]


@dataclass(frozen=True, slots=True)
class DiagnosisRow:
    """Sensitivity or specificity for one kind, on one image, of one reader."""

    group: Group
    kind: Diagnosed
    measure: Measure
    image: Image
    reader: int
    value: Proportion


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """QSM of the default recipe against another image for one reader: McNemar's test for clusters."""

    group: Group
    kind: Diagnosed
    measure: Measure
    against: Image
    reader: int
    test: Test


@dataclass(frozen=True, slots=True)
class AgreementRow:
    """Kappa of the two readers over the three outcomes; and QSM's kappa minus this one's."""

    group: Group
    image: Image
    kappa: Interval
    qsm_minus_this: Interval


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """Volume in cm3 of calcifications outside nuclei that show on QSM and phase: mean, sd, and against the truth."""

    image: Image
    lesions: int
    mean_cm3: float
    sd_cm3: float
    minus_truth: PairedDifference | None


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One patient: true calcium load in ppb cm3, and what an image makes of it (ppb cm3, on phase rad cm3)."""

    patient: int
    load: float
    total: float


@dataclass(frozen=True, slots=True)
class LoadRow:
    """log10 of the total on an image against log10 of the load; patients of a total without logarithm are counted."""

    image: Image
    points: tuple[LoadPoint, ...]
    without_logarithm: int
    regression: Regression | None


@dataclass(frozen=True, slots=True)
class Study:
    """All tables. Shares are means over the readers, of lesions that are not mixed."""

    patients: int
    lesions: int
    appearances: tuple[AppearanceRow, ...]
    diagnoses: tuple[DiagnosisRow, ...]
    comparisons: tuple[ComparisonRow, ...]
    agreements: tuple[AgreementRow, ...]
    volumes: tuple[VolumeRow, ...]
    loads: tuple[LoadRow, ...]
    loads_differ: Test | None
    heterogeneous: dict[Image, float]
    one_sign: dict[Group, dict[Image, float]]

    def diagnosis(self, group: Group, kind: Diagnosed, measure: Measure, image: Image) -> float:
        """Mean over the readers."""
        return float(
            np.mean(
                [
                    row.value.value
                    for row in self.diagnoses
                    if (row.group, row.kind, row.measure, row.image) == (group, kind, measure, image)
                ]
            )
        )

    def agreement(self, group: Group, image: Image) -> AgreementRow:
        """Kappa on one image."""
        return next(row for row in self.agreements if (row.group, row.image) == (group, image))


def tabulate(records: Sequence[PatientRecord]) -> Study:
    """All tables of a study.

    Raises
    ------
    BadInput
        If there is no hemorrhage or no calcification outside deep nuclei.
    """
    readers = range(len(records[0].findings[0].readings["qsm"])) if records else range(0)
    plain = [[f for f in record.findings if f.kind != "mixed"] for record in records]
    by_group: dict[Group, list[list[FindingRecord]]] = {
        "all": plain,
        "outside nuclei": [[f for f in findings if not f.in_nucleus] for findings in plain],
    }
    if not all(any(f.kind == kind for fs in by_group["outside nuclei"] for f in fs) for kind in KINDS):
        raise BadInput("a study needs a hemorrhage and a calcification outside deep nuclei")
    loads = tuple(_load(records, image) for image in IMAGES if image != "truth")
    qsm, phase = (next(row.regression for row in loads if row.image == image) for image in ("qsm", "phase"))
    return Study(
        patients=len(records),
        lesions=sum(map(len, plain)),
        appearances=tuple(_appearances(records, readers)),
        diagnoses=tuple(
            DiagnosisRow(group, kind, measure, image, reader + 1, _proportion(patients, kind, measure, image, reader))
            for group, patients in by_group.items()
            for image in IMAGES
            for kind in KINDS
            for measure in MEASURES
            for reader in readers
        ),
        comparisons=tuple(
            ComparisonRow(group, kind, measure, other, reader + 1, _mcnemar(patients, kind, measure, other, reader))
            for group, patients in by_group.items()
            for other in IMAGES
            if other != "qsm"
            for kind in KINDS
            for measure in MEASURES
            for reader in readers
        ),
        agreements=tuple(
            _agreement(group, patients, image) for group, patients in by_group.items() for image in IMAGES
        ),
        volumes=tuple(_volume(records, image) for image in IMAGES),
        loads=loads,
        loads_differ=f_test(phase, qsm) if qsm and phase else None,
        heterogeneous={image: _share(plain, image, lambda a: a == "heterogeneous") for image in IMAGES},
        one_sign={
            group: {image: _share(patients, image, lambda a: a in APPEARANCES[:2]) for image in IMAGES}
            for group, patients in by_group.items()
        },
    )


def _appearances(records: Sequence[PatientRecord], readers: range) -> list[AppearanceRow]:
    findings = [f for record in records for f in record.findings]
    groups: dict[str, list[FindingRecord]] = {
        "hemorrhage": [f for f in findings if f.kind == "hemorrhage"],
        "calcification outside nuclei": [f for f in findings if f.kind == "calcification" and not f.in_nucleus],
        "calcification in nuclei": [f for f in findings if f.kind == "calcification" and f.in_nucleus],
        "mixed": [f for f in findings if f.kind == "mixed"],
    }
    rows = []
    for lesions, members in groups.items():
        for image in IMAGES:
            for reader in readers:
                seen = Counter(f.readings[image][reader].appearance for f in members)
                counts = {appearance: seen[appearance] for appearance in APPEARANCES}
                rows.append(AppearanceRow(lesions, image, reader + 1, counts))  # type: ignore[arg-type]
    return rows


def _right(finding: FindingRecord, kind: Diagnosed, measure: Measure, image: Image, reader: int) -> bool:
    """Whether a lesion counts as a hit: called ``kind`` where it is, not called so where it is not."""
    return (finding.readings[image][reader].outcome == kind) == (measure == "sensitivity")


def _concerned(findings: Sequence[FindingRecord], kind: Diagnosed, measure: Measure) -> list[FindingRecord]:
    """The lesions that sensitivity or specificity for a kind is a share of."""
    return [f for f in findings if (f.kind == kind) == (measure == "sensitivity")]


def _proportion(
    patients: Sequence[Sequence[FindingRecord]], kind: Diagnosed, measure: Measure, image: Image, reader: int
) -> Proportion:
    concerned = [_concerned(findings, kind, measure) for findings in patients]
    hits = [sum(_right(f, kind, measure, image, reader) for f in findings) for findings in concerned]
    return clustered_proportion(hits, [len(findings) for findings in concerned])


def _mcnemar(
    patients: Sequence[Sequence[FindingRecord]], kind: Diagnosed, measure: Measure, other: Image, reader: int
) -> Test:
    differences = [
        sum(_right(f, kind, measure, "qsm", reader) - _right(f, kind, measure, other, reader) for f in concerned)
        for findings in patients
        if (concerned := _concerned(findings, kind, measure))
    ]
    return clustered_mcnemar(differences)


def _agreement(group: Group, patients: Sequence[Sequence[FindingRecord]], image: Image) -> AgreementRow:
    def table(findings: Sequence[FindingRecord], of: Image) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        first, second = ([f.readings[of][reader].outcome for f in findings] for reader in (0, 1))
        return cross_table(first, second, OUTCOMES)

    both = [np.stack([table(findings, "qsm"), table(findings, image)]) for findings in patients]
    return AgreementRow(
        group,
        image,
        bootstrap([pair[1] for pair in both], table_kappa, DRAWS, seed=0),
        bootstrap(both, lambda total: table_kappa(total[0]) - table_kappa(total[1]), DRAWS, seed=0),
    )


def _share(patients: Sequence[Sequence[FindingRecord]], image: Image, counts: Callable[[Appearance], bool]) -> float:
    return float(
        np.mean([counts(r.appearance) for findings in patients for f in findings for r in f.readings[image]])
    )


def measured(record: PatientRecord) -> list[FindingRecord]:
    """Calcifications outside deep nuclei that every reader sees on QSM and on phase."""
    return [
        f
        for f in record.findings
        if f.kind == "calcification"
        and not f.in_nucleus
        and all(r.appearance != "inconspicuous" for image in ("qsm", "phase") for r in f.readings[image])
    ]


def _volume(records: Sequence[PatientRecord], image: Image) -> VolumeRow:
    findings = [f for record in records for f in measured(record)]
    volumes = np.array([f.extents[image].volume_cm3 for f in findings])
    truth = [f.extents["truth"].volume_cm3 for f in findings]
    return VolumeRow(
        image,
        len(findings),
        float(volumes.mean()) if findings else float("nan"),
        float(volumes.std(ddof=1)) if len(findings) > 1 else float("nan"),
        paired_t(volumes.tolist(), truth) if image != "truth" and len(findings) > 1 else None,
    )


def _load(records: Sequence[PatientRecord], image: Image) -> LoadRow:
    points, lost = [], 0
    for record in records:
        findings = measured(record)
        load = -sum(f.extents["truth"].total for f in findings)
        total = sum(f.extents[image].total for f in findings) * (1 if image == "phase" else -1)
        if load > 0 and total > 0:
            points.append(LoadPoint(record.number, load, total))
        elif findings:
            lost += 1
    regression = loglog([p.load for p in points], [p.total for p in points]) if len(points) >= 3 else None
    return LoadRow(image, tuple(points), lost, regression)
