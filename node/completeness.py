"""Whether the images of an acquisition are all there and fit together: what lacks is named. Pure.

All that is judged here is content: every echo has the same slices in both components, evenly spaced, and no fewer
than the scanner announced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from node.errors import Refusal
from node.headers import Header
from node.places import MIN_PAUSE_S, NAMES, Planes
from node.vendors.convention import Component

MIN_SLICES = 16
"""Fewer slices hold too little of the dipole field for susceptibility."""

MAX_SHIFT_MM = 0.2
"""Images of one stack whose corners lie further apart in plane do not show the same voxels."""

SAME_DIRECTION = 1e-3
"""Largest difference of direction cosines, and of pixel spacings in mm, within a stack: more are not other digits."""

MAX_GAP = 1.1
"""Slice spacing over slice thickness of a 2D scan: more leaves out tissue whose field is seen."""


def flaw(headers: list[Header], planes: Planes, pair: tuple[Component, Component], min_echoes: int) -> Refusal | None:
    """What keeps the images of two components from being a whole acquisition; None where nothing does."""
    tes = sorted({te for _, te, _ in planes})
    locations = sorted({location for _, _, location in planes})
    return (
        _twice(planes, tes)
        or _mixed(planes, pair)
        or _lacking(headers, planes, pair, tes, locations)
        or _uneven(planes, locations)
        or _too_few(tes, locations, min_echoes)
        or _gap(headers[0], locations)
    )


def _mixed(planes: Planes, pair: tuple[Component, Component]) -> Refusal | None:
    """Whether images are of different scans, kinds or directions, although each has a place of its own."""
    found = [plane for (_, _, location), of_place in planes.items() for plane in of_place]
    at: dict[int, list[float]] = defaultdict(list)
    for (_, _, location), of_place in planes.items():
        at[location] += [plane.header.acquired_s for plane in of_place if plane.header.acquired_s]
    apart_s = max((max(times) - min(times) for times in at.values() if times), default=0.0)
    if apart_s >= MIN_PAUSE_S:
        return Refusal("mixed-acquisitions", f"images of one slice were acquired {apart_s:.0f} s apart")
    for component in pair:
        variants = sorted({"\\".join(p.variant) for p in found if p.frame.component == component})
        if len(variants) > 1:
            kinds = " and ".join(variants)
            return Refusal("mixed-variants", f"{NAMES[component]} images of different ImageType ({kinds})")
    shapes = np.array([(*p.frame.orientation, *p.frame.spacing_mm) for p in found])
    if len(shapes) and np.ptp(shapes, axis=0).max() > SAME_DIRECTION:
        return Refusal("mixed-geometry", "images are turned against each other, or differ in pixel spacing")
    return None


def _twice(planes: Planes, tes: list[int]) -> Refusal | None:
    for (component, te, location), found in sorted(planes.items()):
        if len(found) > 1:
            series = sorted({p.header.series_number or 0 for p in found})
            return Refusal(
                "duplicate-images",
                f"echo {tes.index(te) + 1}, position {location / 1e2:g} mm: {len(found)} {NAMES[component]} images"
                f" (series {', '.join(map(str, series))}); send one scan of the protocol, one copy of each image",
            )
    return None


def _lacking(
    headers: list[Header],
    planes: Planes,
    pair: tuple[Component, Component],
    tes: list[int],
    locations: list[int],
) -> Refusal | None:
    """What is missing for every echo to have the same slices in both components, and for what was announced."""
    holes = list(_holes(planes, pair, tes, locations))
    if holes:
        rest = f"; and {len(holes) - 1} more stacks are incomplete" if len(holes) > 1 else ""
        return Refusal("incomplete", holes[0] + rest)
    echoes = max((h.announced_echoes for h in headers if h.announced_echoes), default=0)
    if len(tes) < echoes:
        return Refusal("incomplete", f"{len(tes)} of {echoes} announced echoes (TE {ms(tes)})")
    if 1 < echoes < len(tes):  # some systems announce 1, whatever there is
        return Refusal("mixed-acquisitions", f"{len(tes)} echoes (TE {ms(tes)}), where {echoes} are announced")
    gaps = _gaps(locations)
    if gaps:
        found = f"{len(locations)} of {len(locations) + len(gaps)} slices"
        return Refusal("incomplete", f"every echo: {found}; {_missing(gaps)}")
    slices = max((h.announced_slices for h in headers if h.announced_slices), default=0)
    if len(locations) < slices:
        return Refusal("incomplete", f"every echo: {len(locations)} of {slices} announced slices")
    return None


def _holes(planes: Planes, pair: tuple[Component, Component], tes: list[int], locations: list[int]) -> Iterator[str]:
    for echo, te in enumerate(tes, start=1):
        for component in pair:
            missing = [loc for loc in locations if (component, te, loc) not in planes]
            if missing:
                present = f"{len(locations) - len(missing)} of {len(locations)}"
                yield f"echo {echo}: {present} {NAMES[component]} slices; {_missing(missing)}"


def _gaps(locations: list[int]) -> list[int]:
    """Positions that an evenly spaced stack lacks between its ends."""
    if len(locations) < 3:
        return []
    steps = np.diff(locations)
    step = float(np.median(steps))
    missing: list[int] = []
    for start, width in zip(locations, steps, strict=False):
        n = round(width / step)
        if n > 1 and abs(width - n * step) <= _tolerance(step):
            missing += [round(start + step * k) for k in range(1, n)]
    return missing


def _uneven(planes: Planes, locations: list[int]) -> Refusal | None:
    """Whether slices are unevenly spaced or shifted in plane."""
    if len(locations) < 2:
        return None
    steps = np.diff(locations)
    if np.ptp(steps) > 2 * _tolerance(float(np.median(steps))):
        low, high = steps.min() / 1e2, steps.max() / 1e2
        return Refusal("uneven-slices", f"slices are not evenly spaced: {low:g} to {high:g} mm apart")
    frames = [(location, found[0].frame) for (_, _, location), found in planes.items()]
    first = next(frame for location, frame in frames if location == locations[0])
    in_plane = np.reshape(first.orientation, (2, 3))
    offsets = np.array([frame.position_mm for _, frame in frames]) - first.position_mm
    shift = float(np.abs(offsets @ in_plane.T).max())
    if shift > MAX_SHIFT_MM:
        return Refusal("mixed-geometry", f"images are shifted in plane by up to {shift:.1f} mm")
    return None


def _too_few(tes: list[int], locations: list[int], min_echoes: int) -> Refusal | None:
    if len(locations) < MIN_SLICES:
        return Refusal("too-few-slices", f"{len(locations)} slices; at least {MIN_SLICES} are needed")
    if len(tes) < min_echoes:
        found = "one echo" if len(tes) == 1 else f"{len(tes)} echoes"
        return Refusal("too-few-echoes", f"{found} (TE {ms(tes)}); this site asks for at least {min_echoes}")
    return None


def _gap(header: Header, locations: list[int]) -> Refusal | None:
    """Whether slices of a 2D scan leave out tissue between them."""
    spacing_mm, thickness_mm = float(np.median(np.diff(locations))) / 1e2, header.slice_thickness_mm or 0.0
    if header.acquisition_type != "2D" or not 0 < MAX_GAP * thickness_mm < spacing_mm:
        return None
    return Refusal(
        "slice-gaps",
        f"2D slices of {thickness_mm:g} mm are {spacing_mm:g} mm apart: the field between them is unknown",
    )


def _tolerance(step: float) -> float:
    return max(2.0, 0.02 * step)


def _missing(locations: list[int]) -> str:
    shown = ", ".join(f"{loc / 1e2:g}" for loc in locations[:5])
    return f"missing position{'s' if len(locations) > 1 else ''} {shown}{', ...' if len(locations) > 5 else ''} mm"


def ms(tes: list[int]) -> str:
    """Echo times of places in words."""
    return ", ".join(f"{te / 1e2:g}" for te in tes) + " ms"


def _rounded(value: float) -> float:
    return round(value, 3) + 0.0
