"""Which images belong together, and whether they are whole. Pure: headers in, verdict out; no files, no clock.

What counts is content: every echo has the same slices in both components. What scanners *announce* decides only
whether that may be believed at once, and turns fewer echoes or slices than announced into `incomplete`:

========  ===============================================  ===========================================
vendor    echoes announced by                              slices announced by
========  ===============================================  ===========================================
Siemens   EchoTrainLength, or the digits of SequenceName   nothing: always waits for quiet time
Philips   (2001,1014), or EchoTrainLength                  (2001,1018)
GE        (0019,107E)                                      (0021,104F), unless slices are interpolated
========  ===============================================  ===========================================
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from node.errors import Refusal
from node.headers import Frame, Header
from node.vendors.convention import Component

State = Literal["announced", "whole", "incomplete", "refused"]

MIN_SLICES = 16
"""Fewer slices hold too little of the dipole field for susceptibility."""

MIN_ECHOES = 2
"""One echo cannot tell the field from the phase offset of the receive coils."""

MAX_SHIFT_MM = 0.2
"""Images of one stack whose corners lie further apart in plane do not show the same voxels."""

_NAMES: dict[Component, str] = {"M": "magnitude", "P": "phase", "R": "real", "I": "imaginary", "?": "unmarked"}
_EXPORT_SUFFIX = re.compile(r"(_(rr|nd|m|mag|magnitude|p|ph|pha|phase|real|imaginary))+$")


@dataclass(frozen=True, slots=True)
class Plane:
    """One frame of one object."""

    header: Header
    frame: Frame


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Where every image of a whole acquisition goes.

    Parameters
    ----------
    components
        `("R", "I")` or `("M", "P")`.
    te_s
        Echo times in s, rising.
    locations_mm
        Slice positions along the slice normal, rising.
    planes
        ``(component, echo, slice)`` to the image that holds it.
    unused
        Number of objects that are not needed: magnitudes beside R and I, the other of two magnitude variants,
        images that do not say what they hold.
    """

    components: tuple[Component, Component]
    te_s: tuple[float, ...]
    locations_mm: tuple[float, ...]
    planes: Mapping[tuple[Component, int, int], Plane]
    unused: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the images of one acquisition amount to so far.

    Parameters
    ----------
    state
        `announced`: whole, and as many echoes and slices as announced: may start at once. `whole`: every
        echo has the same slices in both components: may start after quiet time. `incomplete`: complex
        gradient echo of which images lack. `refused`: not what the node reconstructs. While images still
        arrive, both of the latter may change.
    refusal
        Why, when `incomplete` or `refused`.
    echoes, slices
        Echoes and slices seen so far.
    arrangement
        Where every image goes, when `announced` or `whole`.
    """

    state: State
    refusal: Refusal | None
    echoes: int
    slices: int
    arrangement: Arrangement | None = None


def acquisition_key(header: Header) -> str:
    """A key that all images of one acquisition share: 32 hexadecimal digits, unique over studies.

    Frame of reference, matrix, orientation, spacing, timing and protocol have to agree, not the series: magnitude and
    phase, and on some systems every echo, are series of their own. What is refused on its own is kept apart.
    """
    frame = header.frames[0] if header.frames else None
    parts = (
        header.study_uid,
        header.frame_of_reference_uid,
        header.manufacturer,
        header.scan,
        _EXPORT_SUFFIX.sub("", header.protocol.lower()),
        header.rows,
        header.columns,
        [_rounded(c) for c in frame.orientation] if frame else None,
        [_rounded(s) for s in frame.spacing_mm] if frame else None,
        [None if v is None else _rounded(v) for v in (header.slice_thickness_mm, header.tr_ms, header.flip_deg)],
        header.refusal.code if header.refusal else "",
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def judge(headers: Iterable[Header]) -> Verdict:
    """What the images of one acquisition (equal `acquisition_key`) amount to so far.

    The order of headers and repeated ones (equal SOP instance UID) make no difference.
    """
    unique = {h.sop_instance_uid: h for h in headers}
    ordered = [unique[uid] for uid in sorted(unique)]
    planes = _by_place(ordered)
    echoes = len({te for _, te, _ in planes})
    slices = len({location for _, _, location in planes})
    named = next((h.refusal for h in ordered if h.refusal), None)
    found = named or _kind_refusal(ordered, planes) or _arrange(ordered, planes)
    if isinstance(found, Arrangement):
        state: State = "announced" if _as_announced(ordered, planes, found) else "whole"
        return Verdict(state, None, echoes, slices, found)
    return Verdict("incomplete" if found.code == "incomplete" else "refused", found, echoes, slices)


_Place = tuple[Component, int, int]
"""Component, echo time in units of 10 us, location along the slice normal in units of 10 um."""

_Planes = dict[_Place, list[Plane]]


def _by_place(headers: list[Header]) -> _Planes:
    planes: _Planes = defaultdict(list)
    first = next((f for h in headers for f in h.frames), None)
    if first is None:
        return planes
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    for header in headers:
        for frame in header.frames:
            location = normal[0] * frame.position_mm[0] + normal[1] * frame.position_mm[1]
            location += normal[2] * frame.position_mm[2]
            planes[frame.component, round(frame.te_s * 1e5), round(location * 1e2)].append(Plane(header, frame))
    return planes


def _kind_refusal(headers: list[Header], planes: _Planes) -> Refusal | None:
    """Whether this is complex multi-echo gradient echo at all, of a vendor whose convention is verified."""
    components = {component for component, _, _ in planes}
    if not components & {"P", "R", "I"}:
        held = "magnitude images" if "M" in components else "images that do not say what they hold"
        return Refusal("no-phase", f"no phase, and no real and imaginary images: {len(headers)} {held}")
    if not headers[0].vendor:
        who = headers[0].manufacturer or "a manufacturer that is not named"
        return Refusal("unverified-sign", f"sign and scale of phase images of {who} are not verified")
    with_phase = sorted({te for component, te, _ in planes if component == "P"})
    with_magnitude = sorted({te for component, te, _ in planes if component == "M"})
    product = any("fm2d" in h.sequence or "gre_field_map" in h.protocol.lower() for h in headers)
    only_last = len(with_magnitude) > 1 and with_phase == with_magnitude[-1:]
    if with_phase and (product or only_last) and not components & {"R", "I"}:
        lacking = [te for te in with_magnitude if te not in with_phase]
        missing = f"phase missing for echo 1 (TE {_ms(lacking)})" if lacking else "field-map product"
        sequence = f", sequence {headers[0].sequence}" if headers[0].sequence else ""
        return Refusal("phase-difference", f"phase difference at TE {_ms(with_phase)}: {missing}{sequence}")
    return None


def _arrange(headers: list[Header], planes: _Planes) -> Arrangement | Refusal:
    """Choose R+I or M+P, the first that is whole; else say what lacks in the first that has begun."""
    pairs: tuple[tuple[Component, Component], ...] = (("R", "I"), ("M", "P"))
    present = {component for component, _, _ in planes}
    tried = [_arrange_pair(headers, planes, pair) for pair in pairs if set(pair) & present - {"M"}]
    whole = [a for a in tried if isinstance(a, Arrangement)]
    return whole[0] if whole else tried[0]


def _arrange_pair(headers: list[Header], planes: _Planes, pair: tuple[Component, Component]) -> Arrangement | Refusal:
    chosen = {place: found for place, found in planes.items() if place[0] in pair}
    for component in reversed(pair):  # phase first: magnitude follows its variant
        chosen = _one_variant(chosen, component)
    tes = sorted({te for _, te, _ in chosen})
    locations = sorted({location for _, _, location in chosen})
    refusal = next(
        filter(
            None,
            (
                _twice(chosen),
                _lacking(headers, chosen, pair, tes, locations),
                _uneven(chosen, locations),
                _too_few(tes, locations),
            ),
        ),
        None,
    )
    if refusal:
        return refusal
    placed = {
        (component, tes.index(te), locations.index(location)): found[0]
        for (component, te, location), found in chosen.items()
    }
    used = {plane.header.sop_instance_uid for plane in placed.values()}
    te_s = tuple(placed[pair[0], echo, 0].frame.te_s for echo in range(len(tes)))
    return Arrangement(pair, te_s, tuple(loc / 1e2 for loc in locations), placed, len(headers) - len(used))


def _one_variant(planes: _Planes, component: Component) -> _Planes:
    """Where a component was stored in several variants (intensity-normalised, distortion-corrected), keep one.

    Magnitude: the variant of the phase, else the one that is not normalised. Variants are never counted as echoes.
    """
    mine = {place: found for place, found in planes.items() if place[0] == component}
    if all(len(found) == 1 for found in mine.values()):
        return planes
    partner = {_variant(p) for (c, _, _), found in planes.items() if c != component for p in found}
    variants = {_variant(plane) for found in mine.values() for plane in found}

    def badness(variant: tuple[str, ...]) -> tuple[bool, bool, bool, tuple[str, ...]]:
        corrected = any(value.startswith("DIS") for value in variant)
        other = component == "M" and variant not in partner
        return other, "NORM" in variant, corrected, variant

    best = min(variants, key=badness)
    kept = {place: [p for p in found if _variant(p) == best] for place, found in mine.items()}
    others = {place: found for place, found in planes.items() if place[0] != component}
    return others | {place: found for place, found in kept.items() if found}


def _variant(plane: Plane) -> tuple[str, ...]:
    """ImageType without what tells the component."""
    marks = {plane.frame.component, "M_FFE", "PHASE MAP", "R_FFE", "I_FFE"}
    return tuple(value for value in plane.frame.image_type if value not in marks)


def _twice(planes: _Planes) -> Refusal | None:
    tes = sorted({te for _, te, _ in planes})
    for (component, te, location), found in sorted(planes.items()):
        if len(found) > 1:
            series = sorted({p.header.series_number or 0 for p in found})
            return Refusal(
                "duplicate-images",
                f"echo {tes.index(te) + 1}, position {location / 1e2:g} mm: {len(found)} {_NAMES[component]} images"
                f" (series {', '.join(map(str, series))}); send one scan of the protocol, one copy of each image",
            )
    return None


def _lacking(
    headers: list[Header],
    planes: _Planes,
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
        return Refusal("incomplete", f"{len(tes)} of {echoes} announced echoes (TE {_ms(tes)})")
    gaps = _gaps(locations)
    if gaps:
        found = f"{len(locations)} of {len(locations) + len(gaps)} slices"
        return Refusal("incomplete", f"every echo: {found}; {_missing(gaps)}")
    slices = max((h.announced_slices for h in headers if h.announced_slices), default=0)
    if len(locations) < slices:
        return Refusal("incomplete", f"every echo: {len(locations)} of {slices} announced slices")
    return None


def _holes(planes: _Planes, pair: tuple[Component, Component], tes: list[int], locations: list[int]) -> Iterator[str]:
    for echo, te in enumerate(tes, start=1):
        for component in pair:
            missing = [loc for loc in locations if (component, te, loc) not in planes]
            if missing:
                present = f"{len(locations) - len(missing)} of {len(locations)}"
                yield f"echo {echo}: {present} {_NAMES[component]} slices; {_missing(missing)}"


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


def _uneven(planes: _Planes, locations: list[int]) -> Refusal | None:
    """Whether slices are unevenly spaced or shifted in plane."""
    if len(locations) < 2:
        return None
    steps = np.diff(locations)
    if np.ptp(steps) > 2 * _tolerance(float(np.median(steps))):
        low, high = steps.min() / 1e2, steps.max() / 1e2
        return Refusal("mixed-geometry", f"slices are not evenly spaced: {low:g} to {high:g} mm apart")
    frames = [(location, found[0].frame) for (_, _, location), found in planes.items()]
    first = next(frame for location, frame in frames if location == locations[0])
    in_plane = np.reshape(first.orientation, (2, 3))
    offsets = np.array([frame.position_mm for _, frame in frames]) - first.position_mm
    shift = float(np.abs(offsets @ in_plane.T).max())
    if shift > MAX_SHIFT_MM:
        return Refusal("mixed-geometry", f"images are shifted in plane by up to {shift:.1f} mm")
    return None


def _too_few(tes: list[int], locations: list[int]) -> Refusal | None:
    if len(locations) < MIN_SLICES:
        return Refusal("too-few-slices", f"{len(locations)} slices; at least {MIN_SLICES} are needed")
    if len(tes) < MIN_ECHOES:
        return Refusal("single-echo", f"one echo (TE {_ms(tes)}); at least {MIN_ECHOES} are needed")
    return None


def _as_announced(headers: list[Header], planes: _Planes, found: Arrangement) -> bool:
    """Whether counts were announced and are met, and no component that has begun to arrive has holes."""
    announced = {(h.announced_echoes, h.announced_slices) for h in headers}
    counts = (len(found.te_s), len(found.locations_mm))
    arriving = {(c, te): 0 for c, te, _ in planes if c != "?"}
    for component, te, _ in planes:
        if component != "?":
            arriving[component, te] += 1
    full = {c for c, _ in arriving}
    whole = len(arriving) == len(full) * counts[0] and set(arriving.values()) == {counts[1]}
    return announced == {counts} and whole


def _tolerance(step: float) -> float:
    return max(2.0, 0.02 * step)


def _missing(locations: list[int]) -> str:
    shown = ", ".join(f"{loc / 1e2:g}" for loc in locations[:5])
    return f"missing position{'s' if len(locations) > 1 else ''} {shown}{', ...' if len(locations) > 5 else ''} mm"


def _ms(tes: list[int]) -> str:
    return ", ".join(f"{te / 1e2:g}" for te in tes) + " ms"


def _rounded(value: float) -> float:
    return round(value, 3) + 0.0
