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
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from node.completeness import flaw, ms
from node.errors import Refusal
from node.headers import Header
from node.places import Plane, Planes, by_place, one_variant, scans
from node.site import Site
from node.vendors.convention import Component

State = Literal["announced", "whole", "incomplete", "refused"]

_EXPORT_SUFFIX = re.compile(r"(_(rr|nd|m|mag|magnitude|p|ph|pha|phase|real|imaginary|e\d|echo\d))+$")

_SIEMENS_SEQUENCE = re.compile(r"\*?[a-z]+[23]d", re.IGNORECASE)


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
    other_scans
        Number of other scans of the same protocol that came with this one, which is the newest whole one.
    """

    components: tuple[Component, Component]
    te_s: tuple[float, ...]
    locations_mm: tuple[float, ...]
    planes: Mapping[tuple[Component, int, int], Plane]
    unused: int
    other_scans: int = 0


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


def judge(headers: Iterable[Header], site: Site = Site()) -> Verdict:  # noqa: B008  a frozen value
    """What the images of one acquisition (equal `acquisition_key`) amount to so far.

    The order of headers and repeated ones (equal SOP instance UID) make no difference. Of several scans of one
    protocol that nothing but time tells apart, the newest whole one is taken.
    """
    unique = {h.sop_instance_uid: h for h in headers}
    ordered = [unique[uid] for uid in sorted(unique)]
    planes = by_place(ordered)
    parts = scans(ordered, planes)
    if len(parts) == 1:
        return _judge_scan(ordered, planes, site)
    verdicts = [_judge_scan(part, by_place(part), site) for part in parts]
    newest = next((v for v in verdicts if v.arrangement), verdicts[0])
    if newest.arrangement is None:
        return newest
    unused = len(ordered) - len({p.header.sop_instance_uid for p in newest.arrangement.planes.values()})
    arrangement = replace(newest.arrangement, unused=unused, other_scans=len(parts) - 1)
    return replace(newest, state="whole", arrangement=arrangement)


def _judge_scan(headers: list[Header], planes: Planes, site: Site) -> Verdict:
    echoes = len({te for _, te, _ in planes})
    slices = len({location for _, _, location in planes})
    named = next((h.refusal for h in headers if h.refusal), None)
    found = named or _kind_refusal(headers, planes, site) or _arrange(headers, planes, site)
    if isinstance(found, Arrangement):
        state: State = "announced" if _as_announced(headers, planes, found) else "whole"
        return Verdict(state, None, echoes, slices, found)
    return Verdict("incomplete" if found.code == "incomplete" else "refused", found, echoes, slices)


def _kind_refusal(headers: list[Header], planes: Planes, site: Site) -> Refusal | None:
    """Whether this is complex multi-echo gradient echo at all, of a vendor whose convention is verified."""
    components = {component for component, _, _ in planes}
    if not components & {"P", "R", "I"}:
        held = "magnitude images" if "M" in components else "images that do not say what they hold"
        return Refusal("no-phase", f"no phase, and no real and imaginary images: {len(headers)} {held}")
    convention = site.convention_of(headers[0].manufacturer)
    if convention is None:
        who = headers[0].manufacturer or "a manufacturer that is not named"
        return Refusal(
            "unverified-sign", f"sign and scale of phase images of {who} are not verified, nor stated by the site"
        )
    with_phase = sorted({te for component, te, _ in planes if component == "P"})
    with_magnitude = sorted({te for component, te, _ in planes if component == "M"})
    product = any("fm2d" in h.sequence or h.field_map_product for h in headers)
    only_last = len(with_magnitude) > 1 and with_phase == with_magnitude[-1:]
    if with_phase and (product or only_last) and not components & {"R", "I"}:
        lacking = [te for te in with_magnitude if te not in with_phase]
        missing = f"phase missing for echo 1 (TE {ms(lacking)})" if lacking else "field-map product"
        sequence = f", sequence {headers[0].sequence}" if headers[0].sequence else ""
        return Refusal("phase-difference", f"phase difference at TE {ms(with_phase)}: {missing}{sequence}")
    named = any(_SIEMENS_SEQUENCE.match(h.sequence) for h in headers)
    if convention.name == "siemens" and len(with_phase) == 1 and not named:
        return Refusal(
            "ambiguous-phase",
            f"single-echo phase (TE {ms(with_phase)}) without the scanner's SequenceName:"
            " a lone phase difference looks the same",
        )
    return None


def _arrange(headers: list[Header], planes: Planes, site: Site) -> Arrangement | Refusal:
    """Choose R+I or M+P, the first that is whole; else say what lacks in the first that has begun."""
    pairs: tuple[tuple[Component, Component], ...] = (("R", "I"), ("M", "P"))
    present = {component for component, _, _ in planes}
    tried = [_arrange_pair(headers, planes, pair, site) for pair in pairs if set(pair) & present - {"M"}]
    whole = [a for a in tried if isinstance(a, Arrangement)]
    return whole[0] if whole else tried[0]


def _arrange_pair(
    headers: list[Header], planes: Planes, pair: tuple[Component, Component], site: Site
) -> Arrangement | Refusal:
    chosen = {place: found for place, found in planes.items() if place[0] in pair}
    for component in reversed(pair):  # phase first: magnitude follows its variant
        chosen = one_variant(chosen, component)
    refusal = flaw(headers, chosen, pair, site.min_echoes)
    if refusal:
        return refusal
    tes = sorted({te for _, te, _ in chosen})
    locations = sorted({location for _, _, location in chosen})
    placed = {
        (component, tes.index(te), locations.index(location)): found[0]
        for (component, te, location), found in chosen.items()
    }
    used = {plane.header.sop_instance_uid for plane in placed.values()}
    te_s = tuple(placed[pair[0], echo, 0].frame.te_s for echo in range(len(tes)))
    return Arrangement(pair, te_s, tuple(loc / 1e2 for loc in locations), placed, len(headers) - len(used))


def _as_announced(headers: list[Header], planes: Planes, found: Arrangement) -> bool:
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


def _rounded(value: float) -> int:
    """In hundredths, by boundaries that usual values keep away from: other digits must not part images."""
    return math.floor(100 * value + 0.8)
