"""The promises of a validation run: limits are data in ``promises.toml``, quantities are functions here."""

from __future__ import annotations

import math
import operator
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from node.validate.scores import SolverScores
from phantoms.study.record import Image, PatientRecord
from phantoms.study.tables import KINDS, MEASURES, Diagnosed, Measure, Study

Level = Literal["quick", "full"]
Extent = Level | Literal["network"]
"""What a limit is for: a level, or any run that goes through DICOM."""
Unit = Literal["%", "points", ""]
Comparison = Literal["at_least", "at_most", "above"]

HOLDS: dict[Comparison, Callable[[float, float], bool]] = {
    "at_least": operator.ge,
    "at_most": operator.le,
    "above": operator.gt,
}
COMPARISONS: dict[Comparison, str] = {"at_least": "at least", "at_most": "at most", "above": "above"}
"""In words."""

READABLE_CM3 = 0.06
"""Volume from which a lesion's mean must have the true sign: about a sphere of 5 mm."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One limit. ``quantity`` is a name in ``QUANTITIES``; ``limit`` is by what it is for."""

    sentence: str
    quantity: str
    unit: Unit
    compare: Comparison
    limit: dict[Extent, float]


@dataclass(frozen=True, slots=True)
class PromiseRow:
    """A promise that was checked; ``measured`` is NaN where the run gives no such number, which breaks it."""

    id: str
    sentence: str
    quantity: str
    unit: Unit
    measured: float
    compare: Comparison
    limit: float
    held: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run has found."""

    study: Study
    patients: Sequence[PatientRecord]
    scores: Sequence[SolverScores]


Quantity = Callable[[Evidence], float]


def promises() -> dict[str, Promise]:
    """All promises by their names, in the order of the file."""
    text = files("node.validate").joinpath("promises.toml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, Promise]).validate_python(tomllib.loads(text), extra="forbid")


def check(evidence: Evidence, level: Level, through_network: bool = False) -> tuple[PromiseRow, ...]:
    """Every promise of a level, and of the way over the network, in the order of the file."""
    asked: tuple[Extent, ...] = (level, "network") if through_network else (level,)
    return tuple(
        _checked(name, promise, promise.limit[extent], evidence)
        for name, promise in promises().items()
        for extent in asked
        if extent in promise.limit
    )


def _checked(name: str, promise: Promise, limit: float, evidence: Evidence) -> PromiseRow:
    measured = QUANTITIES[promise.quantity](evidence)
    return PromiseRow(
        id=name,
        sentence=promise.sentence,
        quantity=promise.quantity,
        unit=promise.unit,
        measured=measured,
        compare=promise.compare,
        limit=limit,
        held=HOLDS[promise.compare](measured, limit),
    )


def _accuracy(kind: Diagnosed, measure: Measure, evidence: Evidence) -> float:
    return evidence.study.diagnosis("outside nuclei", kind, measure, "qsm")


def _below_truth(kind: Diagnosed, measure: Measure, evidence: Evidence) -> float:
    study = evidence.study
    return study.diagnosis("all", kind, measure, "truth") - study.diagnosis("all", kind, measure, "qsm")


def _one_sign_minus_tkd(evidence: Evidence) -> float:
    share = evidence.study.one_sign["outside nuclei"]
    return share["qsm"] - share["tkd"]


def _sensitivity_minus_tkd(evidence: Evidence) -> float:
    def reached(image: Image) -> float:
        return evidence.study.diagnosis("outside nuclei", "calcification", "sensitivity", image)

    return reached("qsm") - reached("tkd")


def _right_sign(evidence: Evidence) -> float:
    """Share of the lesions outside nuclei, large enough and not mixed, whose mean on QSM has the true sign."""
    right = [
        (finding.mean_ppb["qsm"] > 0) == (finding.kind == "hemorrhage")
        for patient in evidence.patients
        for finding in patient.findings
        if finding.kind != "mixed" and not finding.in_nucleus and finding.true_volume_cm3 >= READABLE_CM3
    ]
    return sum(right) / len(right) if right else math.nan


def _load_r2(evidence: Evidence) -> float:
    """NaN where a patient's total has the wrong sign: it has no logarithm and would drop out of the figure."""
    row = next(row for row in evidence.study.loads if row.image == "qsm")
    return row.regression.r2 if row.regression and not row.without_logarithm else math.nan


def _volume_deviation(evidence: Evidence) -> float:
    mean_cm3 = {row.image: row.mean_cm3 for row in evidence.study.volumes}
    return abs(mean_cm3["qsm"] / mean_cm3["truth"] - 1)


def _worst(score: str, worst: Callable[[list[float]], np.floating[Any]], evidence: Evidence) -> float:
    """The worst of the heads for the default recipe; NaN if one has no figure."""
    found = [head.scores[score] for head in evidence.scores if head.recipe == "default"]
    return float(worst(found)) if found else math.nan


def _network_deviation(evidence: Evidence) -> float:
    """The largest of all patients; NaN if one of them did not go over the network."""
    found = [list(patient.through_network.values()) or [math.nan] for patient in evidence.patients]
    return float(np.max([value for values in found for value in values]))


QUANTITIES: dict[str, Quantity] = {
    **{f"{measure}.{kind}": partial(_accuracy, kind, measure) for measure in MEASURES for kind in KINDS},
    **{
        f"below_truth.{measure}.{kind}": partial(_below_truth, kind, measure)
        for measure in MEASURES
        for kind in KINDS
    },
    "one_sign": lambda e: e.study.one_sign["outside nuclei"]["qsm"],
    "one_sign_minus_tkd": _one_sign_minus_tkd,
    "calcification_sensitivity_minus_tkd": _sensitivity_minus_tkd,
    "kappa": lambda e: e.study.agreement("outside nuclei", "qsm").kappa.value,
    "kappa_minus_phase_low": lambda e: e.study.agreement("outside nuclei", "phase").qsm_minus_this.low,
    "heterogeneous_on_phase": lambda e: e.study.heterogeneous["phase"],
    "right_sign_of_60_mm3": _right_sign,
    "load_r2": _load_r2,
    "volume_deviation": _volume_deviation,
    "solver.nrmse_percent": partial(_worst, "nrmse_percent", np.max),
    "solver.lesion_slope": partial(_worst, "lesion_slope", np.min),
    "solver.shadow_ppb": partial(_worst, "shadow_ppb", np.max),
    "network_deviation": _network_deviation,
}
