"""The tables of the page: this run beside the paper. A number that does not exist is None or NaN."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

from node.validate import paper
from node.validate.scores import SolverScores
from phantoms.study.record import (
    APPEARANCES,
    IMAGES,
    OUTCOMES,
    Appearance,
    FindingRecord,
    Image,
    Outcome,
    PatientRecord,
)
from phantoms.study.statistics import Proportion
from phantoms.study.tables import KINDS, MEASURES, AppearanceRow, Diagnosed, Group, Measure, Study

Style = Literal["percent", "kappa", "cm3", "slope", "r2"]


@dataclass(frozen=True, slots=True)
class BesideRow:
    """One measure: what the paper has and what this run has, by image. ``style`` says how it is written."""

    label: str
    style: Style
    paper: dict[Image, float]
    here: dict[Image, float | None]


@dataclass(frozen=True, slots=True)
class ReaderCell:
    """A proportion of one reader; ``p`` of McNemar's test against QSM, None on QSM itself."""

    value: Proportion
    p: float | None


@dataclass(frozen=True, slots=True)
class ImageBlock:
    """Sensitivity and specificity on one image, in the order of kinds and measures: the readers' and their mean.

    ``paper`` has the mean and the two readers of each; it is empty where the paper has no such image.
    """

    image: Image
    means: tuple[float, ...]
    readers: tuple[tuple[ReaderCell, ...], ...]
    paper: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One score: mean, least and greatest of the heads, by recipe."""

    name: str
    cells: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Miss:
    """A lesion that a reader of QSM did not call by its kind."""

    patient: int
    finding: FindingRecord


@dataclass(frozen=True, slots=True)
class Cohort:
    """Who was read. Lesions of a patient and volumes are median, least and greatest."""

    hemorrhages: int
    calcifications: int
    in_nuclei: int
    mixed: int
    per_patient: tuple[float, float, float]
    causes: tuple[tuple[str, int, int], ...]
    volumes_cm3: tuple[tuple[str, tuple[float, float, float]], ...]
    snr: tuple[float, float, float]
    tilt_deg: tuple[float, float, float]
    age_years: tuple[float, float, float]


def beside(study: Study, group: Group) -> list[BesideRow]:
    """Accuracy, agreement and appearance of one group. The paper's numbers are of all lesions."""
    whole = group == "all"
    rows = [
        BesideRow(
            f"{kind.capitalize()}, {measure}",
            "percent",
            {i: mean for i in IMAGES if whole and (mean := paper.mean(i, kind, measure)) is not None},
            {image: study.diagnosis(group, kind, measure, image) for image in IMAGES},
        )
        for kind in KINDS
        for measure in MEASURES
    ]
    kappas: dict[Image, float | None] = {image: study.agreement(group, image).kappa.value for image in IMAGES}
    one_sign: dict[Image, float | None] = {**study.one_sign[group]}
    rows.append(BesideRow("Agreement of the two readers, kappa", "kappa", paper.KAPPA if whole else {}, kappas))
    rows.append(BesideRow("Lesions of one sign", "percent", paper.ONE_SIGN if whole else {}, one_sign))
    if whole:
        rows.append(BesideRow("Heterogeneous lesions", "percent", paper.HETEROGENEOUS, {**study.heterogeneous}))
    return rows


def measurement(study: Study) -> list[BesideRow]:
    """Volume and total of calcifications outside deep nuclei."""
    fits = {row.image: row.regression for row in study.loads}
    slopes: dict[Image, float | None] = {i: fit.slope.value if fit else None for i, fit in fits.items()}
    r2: dict[Image, float | None] = {i: fit.r2 if fit else None for i, fit in fits.items()}
    volumes: dict[Image, float | None] = {row.image: row.mean_cm3 for row in study.volumes}
    nothing: dict[Image, float | None] = {"truth": None}
    return [
        BesideRow("Mean volume", "cm3", paper.VOLUME_CM3, volumes),
        BesideRow("Total against true load, slope of logarithms", "slope", paper.SLOPE, nothing | slopes),
        BesideRow("Total against true load, R²", "r2", paper.R2, nothing | r2),
    ]


def by_reader(study: Study, group: Group) -> list[ImageBlock]:
    """Table 3 of the paper, for every image."""
    asked = [(kind, measure) for kind in KINDS for measure in MEASURES]
    values = {(r.image, r.reader, r.kind, r.measure): r.value for r in study.diagnoses if r.group == group}
    tests = {(r.against, r.reader, r.kind, r.measure): r.test.p for r in study.comparisons if r.group == group}
    readers = sorted({reader for _, reader, _, _ in values})

    def cell(image: Image, reader: int, kind: Diagnosed, measure: Measure) -> ReaderCell:
        return ReaderCell(values[image, reader, kind, measure], tests.get((image, reader, kind, measure)))

    return [
        ImageBlock(
            image=image,
            means=tuple(study.diagnosis(group, *a, image) for a in asked),
            readers=tuple(tuple(cell(image, reader, *a) for a in asked) for reader in readers),
            paper=tuple((sum(both) / 2, *both) for both in (paper.READERS[image][a] for a in asked))
            if image in paper.READERS
            else (),
        )
        for image in IMAGES
    ]


def appearances(study: Study) -> list[tuple[str, Image, dict[Appearance, str]]]:
    """Table 2 of the paper: lesions, image, and the counts of every reader by appearance, as ``12 / 13``."""
    rows: dict[tuple[str, Image], list[AppearanceRow]] = {}
    for row in study.appearances:
        rows.setdefault((row.lesions, row.image), []).append(row)
    return [
        (lesions, image, {a: " / ".join(str(row.counts[a]) for row in readers) for a in APPEARANCES})
        for (lesions, image), readers in rows.items()
        if any(sum(row.counts.values()) for row in readers)
    ]


def in_nuclei(patients: Sequence[PatientRecord]) -> dict[Image, dict[Outcome, float]]:
    """What the readers call the calcifications in deep nuclei: shares, mean of the readers; empty without any."""
    findings = [f for p in patients for f in p.findings if f.kind == "calcification" and f.in_nucleus]
    shares: dict[Image, dict[Outcome, float]] = {}
    for image in IMAGES if findings else ():
        calls = Counter(reading.outcome for f in findings for reading in f.readings[image])
        shares[image] = {outcome: calls[outcome] / calls.total() for outcome in OUTCOMES}
    return shares


def misses(patients: Sequence[PatientRecord]) -> list[Miss]:
    """Lesions that are not mixed and that a reader of QSM called something else."""
    return [
        Miss(patient.number, finding)
        for patient in patients
        for finding in patient.findings
        if finding.kind != "mixed" and any(r.outcome != finding.kind for r in finding.readings["qsm"])
    ]


def scores(heads: Sequence[SolverScores]) -> tuple[list[str], list[ScoreRow]]:
    """The recipes, and every score of each; the wall time comes first."""
    recipes = list(dict.fromkeys(head.recipe for head in heads))
    numbers = [(head.recipe, {"seconds": head.seconds} | head.scores) for head in heads]
    names = dict.fromkeys(name for _, by_name in numbers for name in by_name)

    def spread(name: str, recipe: str) -> tuple[float, float, float]:
        return _spread([by_name[name] for of, by_name in numbers if of == recipe and name in by_name])

    return recipes, [ScoreRow(name, tuple(spread(name, recipe) for recipe in recipes)) for name in names]


def cohort(patients: Sequence[PatientRecord]) -> Cohort:
    """What the patients of a run are."""
    findings = [finding for patient in patients for finding in patient.findings]
    kinds = Counter(finding.kind for finding in findings)
    causes = Counter(patient.cause for patient in patients)
    return Cohort(
        hemorrhages=kinds["hemorrhage"],
        calcifications=kinds["calcification"],
        in_nuclei=sum(f.in_nucleus for f in findings if f.kind == "calcification"),
        mixed=kinds["mixed"],
        per_patient=_middle(len(patient.findings) for patient in patients),
        causes=tuple(
            (cause, count, sum(len(p.findings) for p in patients if p.cause == cause))
            for cause, count in causes.items()
        ),
        volumes_cm3=tuple((kind, _middle(f.true_volume_cm3 for f in findings if f.kind == kind)) for kind in kinds),
        snr=_middle(patient.snr for patient in patients),
        tilt_deg=_middle(math.degrees(math.acos(min(1.0, abs(patient.b0_dir[2])))) for patient in patients),
        age_years=_middle(patient.age_years for patient in patients),
    )


def patient_seconds(patients: Sequence[PatientRecord]) -> dict[str, tuple[float, float, float]]:
    """Wall time of every step that was measured: median, least and greatest of the patients."""
    steps = dict.fromkeys(step for patient in patients for step in patient.seconds)
    return {step: _middle(p.seconds[step] for p in patients if step in p.seconds) for step in steps}


def through_network(patients: Sequence[PatientRecord]) -> dict[Image, float]:
    """Largest difference of any patient between what came back and the arrays; empty when nothing was sent."""
    largest: dict[Image, float] = {}
    for patient in patients:
        for image, difference in patient.through_network.items():
            largest[image] = max(difference, largest.get(image, 0.0))
    return largest


def _middle(values: Iterable[float]) -> tuple[float, float, float]:
    found = [float(value) for value in values]
    return median(found), min(found), max(found)


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, least and greatest of the values that exist."""
    found = [value for value in values if math.isfinite(value)]
    return (float(np.mean(found)), min(found), max(found)) if found else (math.nan, math.nan, math.nan)
