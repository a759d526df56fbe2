"""The patients of the study: who has what, and where.

Totals are exact, everything else is drawn: lesions are shared out over patients of skewed burden, so that a few have
many and most have one or two, as in Chen W. et al., Radiology 2014;270:496. That paper's causes are not tabulated;
the mix of `CAUSES` is ours.

Volumes. Calcifications: lognormal, median 0.2 cm3, sigma 1.8, between 0.01 cm3 (what CT shows) and 35 cm3, as the
paper's 0.99 +- 4.7 cm3, one from each of as many equal shares of that distribution; in a nucleus lognormal, median
0.12 cm3, sigma 0.8, of what fits. Microbleeds: diameter 2.5-5 mm, log-uniform. Hematomas: lognormal, median 2.5 cm3,
sigma 1.1, 0.2-30 cm3. Rims of hemosiderin: a third of that. Mixed lesions: lognormal, median 1.5 cm3, sigma 0.7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from phantoms.ageing import IRON_MG_PER_100G
from phantoms.anatomy import Head, head
from phantoms.lesions import Lesion
from phantoms.pathology import STAGE_PPM, Bleed, Calcium, Stage, calcification, hemorrhage, mixed, radius_mm
from phantoms.shapes import Ellipsoid
from recon.types import BadInput, Vector

Form = Bleed | Calcium | Literal["mixed"]
Choice = TypeVar("Choice", bound=str)

ROOM_MM = 5.0
"""Lesions lie at least this far apart, were they spheres: each is read against surroundings of its own."""

LARGE_MM = 7.0
"""Lesions of this mean radius and more may reach the surface of the brain."""

TRIES = 4000


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a patient has lesions.

    ``share`` of the cohort, ages, the mean burden of each kind relative to other causes (0: has none), and the forms
    of each kind with their weights. Small calcifications are punctate and bulky ones solid, whatever the cause.
    """

    name: str
    share: float
    years: tuple[float, float]
    bleeds: Mapping[Bleed, float]
    bleeding: float
    calcium: Mapping[Calcium, float]
    calcifying: float
    in_nuclei: bool = False
    mixed: bool = False


CAUSES: tuple[Cause, ...] = (
    Cause("cerebral microbleeds", 6, (60, 85), {"microbleed": 0.9, "hematoma": 0.1}, 4.0, {}, 0.0),
    Cause("intracerebral hematoma", 7, (45, 80), {"hematoma": 0.75, "hemosiderin rim": 0.25}, 0.4, {}, 0.0),
    Cause("trauma", 4, (20, 60), {"microbleed": 0.7, "hematoma": 0.3}, 2.5, {}, 0.0),
    Cause("cavernous malformation", 5, (20, 65), {"hemosiderin rim": 0.5, "microbleed": 0.5}, 1, {}, 0, mixed=True),
    Cause("neurocysticercosis", 6, (20, 60), {}, 0.0, {"solid": 0.4, "faint": 0.35, "rim": 0.25}, 4.0),
    Cause("calcified tumor", 4, (25, 70), {"hematoma": 1.0}, 0.3, {"solid": 0.85, "rim": 0.15}, 0.6),
    Cause("calcified deep nuclei", 6, (50, 85), {}, 0.0, {"solid": 1.0}, 0.6, in_nuclei=True),
)
NUCLEUS_WEIGHT: dict[str, float] = {"pallidum": 0.6, "putamen": 0.2, "dentate nucleus": 0.2}
PUNCTATE_MM3, BULKY_MM3 = 120.0, 4000.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How many of everything; ``calcifications`` includes those ``in_nuclei``."""

    patients: int
    hemorrhages: int
    calcifications: int
    in_nuclei: int
    mixed: int


PAPER = Plan(patients=38, hemorrhages=62, calcifications=89, in_nuclei=19, mixed=5)
QUICK = Plan(patients=4, hemorrhages=7, calcifications=9, in_nuclei=2, mixed=0)


@dataclass(frozen=True, slots=True)
class Finding:
    """A lesion with the form that it was drawn in, and whether it lies in a deep nucleus."""

    lesion: Lesion
    form: Form
    in_nucleus: bool


@dataclass(frozen=True, slots=True, eq=False)
class Patient:
    """One virtual patient: a head with its lesions, and how it is scanned."""

    number: int
    cause: str
    age_years: float
    head: Head
    findings: tuple[Finding, ...]
    b0_dir: Vector
    snr: float


@dataclass(frozen=True, slots=True)
class Burden:
    """What one patient is to get: cause, number of hemorrhages, volumes of calcifications, and the rest."""

    number: int
    cause: Cause
    bleeds: int
    calcium_mm3: tuple[float, ...]
    in_nuclei: int
    mixed: int


def burdens(seed: int, plan: Plan = PAPER) -> list[Burden]:
    """What every patient of a study gets, one lesion at least; equal seeds give equal burdens."""
    rng = np.random.default_rng([seed, 11])
    causes = _causes(plan.patients)
    skew = rng.gamma(0.7, size=len(causes))
    bleeds = _shared(rng, plan.hemorrhages, np.array([c.bleeding for c in causes]) * skew)
    outside = plan.calcifications - plan.in_nuclei
    calcium = _shared(rng, outside, np.array([c.calcifying for c in causes]) * skew)
    nuclei = _shared(rng, plan.in_nuclei, np.array([float(c.in_nuclei) for c in causes]))
    both = _shared(rng, plan.mixed, np.array([float(c.mixed) for c in causes]))
    quantiles = rng.permutation((np.arange(outside) + rng.uniform(size=outside)) / outside)
    volumes = iter(_lognormal(float(q), 200, 1.8, 10, 35_000) for q in quantiles)
    return [
        Burden(number, cause, bleeds[i], tuple(islice(volumes, calcium[i])), nuclei[i], both[i])
        for i, (number, cause) in enumerate(enumerate(causes, start=1))
    ]


def _causes(patients: int) -> list[Cause]:
    """Causes by their shares of the cohort, rounded by the largest remainder."""
    total = sum(cause.share for cause in CAUSES)
    exact = np.array([patients * cause.share / total for cause in CAUSES])
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: patients - counts.sum()]:
        counts[index] += 1
    return [cause for cause, count in zip(CAUSES, counts.tolist(), strict=True) for _ in range(count)]


def _shared(rng: np.random.Generator, total: int, weight: npt.NDArray[np.float64]) -> list[int]:
    """``total`` lesions over patients: one each for those who may have any, the rest by weight."""
    able = np.flatnonzero(weight)
    if total == 0:
        return [0] * weight.size
    if able.size == 0:
        raise BadInput(f"no patient of this cohort can have any of {total} lesions")
    counts = np.zeros(weight.size, dtype=int)
    counts[rng.permutation(able)[:total]] = 1
    counts += rng.multinomial(total - counts.sum(), weight / weight.sum())
    return [int(count) for count in counts]


def patient(seed: int, burden: Burden) -> Patient:
    """A patient of the study ``seed``; the head's seed is ``1000 seed + number``.

    Raises
    ------
    BadInput
        When the lesions find no room.
    """
    own = 1000 * seed + burden.number
    rng = np.random.default_rng([own, 12])
    age_years = float(rng.uniform(*burden.cause.years))
    bare = head(own, (), age_years)
    findings = _placed(rng, bare, _wanted(rng, burden))
    tilt, roll = np.deg2rad(rng.normal(0, 8, 2))
    return Patient(
        number=burden.number,
        cause=burden.cause.name,
        age_years=age_years,
        head=replace(bare, lesions=tuple(finding.lesion for finding in findings)),
        findings=findings,
        b0_dir=(float(np.sin(roll)), float(np.cos(roll) * np.sin(tilt)), float(np.cos(roll) * np.cos(tilt))),
        snr=float(rng.uniform(40, 80)),
    )


def _wanted(rng: np.random.Generator, burden: Burden) -> list[tuple[Form, float]]:
    """Form and volume in mm3 of every lesion, in the order in which they find room."""
    wanted: list[tuple[Form, float]] = []
    for _ in range(burden.in_nuclei):
        wanted.append(("in iron", _lognormal(rng.uniform(), 120, 0.8, 20, 500)))
    for volume_mm3 in burden.calcium_mm3:
        grown = _chosen(rng, burden.cause.calcium) if volume_mm3 < BULKY_MM3 else "solid"
        wanted.append(("punctate" if volume_mm3 < PUNCTATE_MM3 else grown, volume_mm3))
    for _ in range(burden.bleeds):
        form = _chosen(rng, burden.cause.bleeds)
        if form == "microbleed":
            volume_mm3 = float(np.pi / 6 * np.exp(rng.uniform(*np.log([2.5, 5.0]))) ** 3)
        else:
            volume_mm3 = _lognormal(rng.uniform(), 2500, 1.1, 200, 30_000) / (1 if form == "hematoma" else 3)
        wanted.append((form, volume_mm3))
    for _ in range(burden.mixed):
        wanted.append(("mixed", _lognormal(rng.uniform(), 1500, 0.7, 400, 8000)))
    return sorted(wanted, key=lambda lesion: (lesion[0] != "in iron", -lesion[1]))


def _lognormal(quantile: float, median: float, sigma: float, low: float, high: float) -> float:
    """A quantile of the lognormal distribution between two limits."""
    first, last = (float(norm.cdf(np.log(limit / median) / sigma)) for limit in (low, high))
    return float(median * np.exp(sigma * norm.ppf(first + quantile * (last - first))))


def _chosen(rng: np.random.Generator, weights: Mapping[Choice, float]) -> Choice:
    names = list(weights)
    share = np.array(list(weights.values()))
    return names[int(rng.choice(len(names), p=share / share.sum()))]


def _placed(rng: np.random.Generator, bare: Head, wanted: Sequence[tuple[Form, float]]) -> tuple[Finding, ...]:
    findings: list[Finding] = []
    for form, volume_mm3 in wanted:
        for _ in range(TRIES):
            finding = _drawn(rng, bare, form, volume_mm3)
            if _fits(finding, bare, findings):
                findings.append(finding)
                break
        else:
            raise BadInput(f"a {form} of {volume_mm3:.0f} mm3 finds no room in head {bare.seed}")
    return tuple(findings)


def _drawn(rng: np.random.Generator, bare: Head, form: Form, volume_mm3: float) -> Finding:
    """A lesion at a place drawn for it, whether it fits there or not."""
    if form == "in iron":
        name = _chosen(rng, NUCLEUS_WEIGHT)
        nuclei = [p.solid for p in bare.nuclei if p.tissue == name and isinstance(p.solid, Ellipsoid)]
        solid = nuclei[int(rng.integers(len(nuclei)))]
        volume_mm3 = min(volume_mm3, 0.5 * float(4 / 3 * np.pi * np.prod(solid.radii_mm)))
        shift = rng.normal(0, 0.15, 3) * np.array(solid.radii_mm)
        x, y, z = (np.array(solid.centre_mm) + shift).tolist()
        lesion = calcification(rng, form, (x, y, z), volume_mm3)
        # It takes the shape of its nucleus: a nucleus is flat or long, and holds it whole.
        radii = np.array(solid.radii_mm) * radius_mm(volume_mm3) / np.cbrt(np.prod(solid.radii_mm))
        lesion = replace(
            lesion,
            radii_mm=(float(radii[0]), float(radii[1]), float(radii[2])),
            angles_deg=solid.angles_deg,
            chi_margin_mm=0.0,
        )
        return Finding(lesion, form, in_nucleus=True)
    x, y, z = rng.uniform((-65, -85, -50), (65, 85, 62)).tolist()
    if form == "mixed":
        return Finding(mixed(rng, (x, y, z), volume_mm3), form, in_nucleus=False)
    if form == "microbleed" or form == "hematoma" or form == "hemosiderin rim":  # noqa: PLR1714  mypy narrows this
        stage: Stage = _chosen(rng, dict.fromkeys(STAGE_PPM, 1.0)) if form == "hematoma" else "chronic"
        return Finding(hemorrhage(rng, form, stage, (x, y, z), volume_mm3), form, in_nucleus=False)
    return Finding(calcification(rng, form, (x, y, z), volume_mm3), form, in_nucleus=False)


def _fits(finding: Finding, bare: Head, others: Sequence[Finding]) -> bool:
    """Whether a lesion lies in the brain, apart from the others and, if calcium, from iron that it is not in.

    Large ones may reach the surface: what would go beyond is cut off there.
    """
    centre, radius = np.array(finding.lesion.centre_mm), _radius_mm(finding.lesion)
    room = 1.0 if finding.in_nucleus else ROOM_MM
    for other in others:
        apart = float(np.linalg.norm(centre - np.array(other.lesion.centre_mm)))
        if apart < radius + _radius_mm(other.lesion) + room:
            return False
    if finding.in_nucleus:
        return True
    if finding.lesion.kind == "calcification" and _to_iron_mm(centre, bare) < radius + 1:
        return False
    depth = float(bare.depth_mm(centre[None])[0])
    return depth > (finding.lesion.reach_mm + 1 if radius < LARGE_MM else 0.7 * radius)


def _radius_mm(lesion: Lesion) -> float:
    return float(np.cbrt(np.prod(lesion.radii_mm)))


def _to_iron_mm(point_mm: npt.NDArray[np.float64], bare: Head) -> float:
    """Distance to the nearest iron-rich nucleus."""
    x, y, z = (np.array([c], dtype=np.float32) for c in point_mm)
    return min(
        float(part.solid.distance_mm((x, y, z)).item()) for part in bare.nuclei if part.tissue in IRON_MG_PER_100G
    )
