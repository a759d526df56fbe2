"""Images by what they show: component, echo, slice. And which of several images of one place is taken.

Pure: headers in, planes out. Whether the places are complete is the matter of `node.completeness`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from node.headers import Frame, Header
from node.vendors.convention import Component

NAMES: dict[Component, str] = {"M": "magnitude", "P": "phase", "R": "real", "I": "imaginary", "?": "unmarked"}


@dataclass(frozen=True, slots=True)
class Plane:
    """One frame of one object."""

    header: Header
    frame: Frame

    @property
    def variant(self) -> tuple[str, ...]:
        """ImageType without what tells the component."""
        marks = {self.frame.component, "M_FFE", "PHASE MAP", "R_FFE", "I_FFE"}
        return tuple(value for value in self.frame.image_type if value not in marks)


SAME_LOCATION_MM = 0.05
SAME_TE_S = 2e-5
"""Images whose positions or echo times differ by no more were written with other digits, not acquired elsewhere."""

MIN_PAUSE_S = 10.0
"""From the last image of a scan to the first of its repetition, by AcquisitionTime."""

Place = tuple[Component, int, int]
"""Component, echo time in units of 10 us, location along the slice normal in units of 10 um."""

Planes = dict[Place, list[Plane]]


def by_place(headers: Iterable[Header]) -> Planes:
    """Every frame at its place. The normal is that of the first frame: orientations have to agree."""
    found = [Plane(header, frame) for header in headers for frame in header.frames]
    if not found:
        return {}
    normal = np.cross(found[0].frame.orientation[:3], found[0].frame.orientation[3:])
    locations_mm = [float(normal @ plane.frame.position_mm) for plane in found]
    location_of = _levels(locations_mm, SAME_LOCATION_MM)
    te_of = _levels((plane.frame.te_s for plane in found), SAME_TE_S)
    planes: Planes = defaultdict(list)
    for plane, location in zip(found, locations_mm, strict=True):
        te_s, location_mm = te_of[plane.frame.te_s], location_of[location]
        planes[plane.frame.component, round(te_s * 1e5), round(location_mm * 1e2)].append(plane)
    return planes


def _levels(values: Iterable[float], same: float) -> dict[float, float]:
    """For each value the lowest of those that are the same: neighbours that are no further apart."""
    lowest: dict[float, float] = {}
    before = level = -np.inf
    for value in sorted(set(values)):
        level = level if value - before <= same else value
        lowest[value], before = level, value
    return lowest


def one_variant(planes: Planes, component: Component) -> Planes:
    """Where a component was stored in several variants (intensity-normalised, distortion-corrected), keep one.

    Magnitude: the variant of the phase, else the one that is not normalised. Variants are never counted as echoes.
    """
    mine = {place: found for place, found in planes.items() if place[0] == component}
    if all(len(found) == 1 for found in mine.values()):
        return planes
    partner = {p.variant for (c, _, _), found in planes.items() if c != component for p in found}
    variants = {plane.variant for found in mine.values() for plane in found}

    def badness(variant: tuple[str, ...]) -> tuple[bool, bool, bool, tuple[str, ...]]:
        corrected = any(value.startswith("DIS") for value in variant)
        other = component == "M" and variant not in partner
        return other, "NORM" in variant, corrected, variant

    best = min(variants, key=badness)
    kept = {place: [p for p in found if p.variant == best] for place, found in mine.items()}
    others = {place: found for place, found in planes.items() if place[0] != component}
    return others | {place: found for place, found in kept.items() if found}


def scans(headers: list[Header], planes: Planes) -> list[list[Header]]:
    """The headers of each scan, newest first, where one protocol was scanned several times; else all of them.

    A scan begins `MIN_PAUSE_S` or more after the one before ended. Images of a 3D scan carry one time, within a
    second. Slices of 2D scans have times of their own: there, images of one place and variant are of different scans.
    """
    if not all(header.acquired_s for header in headers):
        return [headers]
    of_3d = all(header.acquisition_type == "3D" for header in headers)
    begins = _begins_after_pauses(headers) if of_3d else _begins_at_repetitions(planes)
    parts: list[list[Header]] = [[] for _ in range(len(begins) + 1)]
    for header in headers:
        parts[bisect_right(begins, header.acquired_s or 0.0)].append(header)
    return parts[::-1]


def _begins_after_pauses(headers: list[Header]) -> list[float]:
    times = sorted({header.acquired_s or 0.0 for header in headers})
    return [time for before, time in pairwise(times) if time - before >= MIN_PAUSE_S]


def _begins_at_repetitions(planes: Planes) -> list[float]:
    times: dict[tuple[Place, tuple[str, ...]], set[float]] = defaultdict(set)
    for place, found in planes.items():
        for plane in found:
            times[place, plane.variant].add(plane.header.acquired_s or 0.0)
    repeats = max(map(len, times.values()), default=1)
    ranked = [sorted(of_place) for of_place in times.values() if len(of_place) == repeats]
    begins = [min(of_place[rank] for of_place in ranked) for rank in range(1, repeats)]
    ends = [max(of_place[rank] for of_place in ranked) for rank in range(repeats - 1)]
    return begins if all(begin >= end + MIN_PAUSE_S for begin, end in zip(begins, ends, strict=True)) else []
