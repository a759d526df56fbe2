"""GE: classic objects of one series that holds magnitude, phase, real and imaginary images.

ImageType is `OTHER` for everything; (0043,102F) is the component: 0 magnitude, 1 phase, 2 real, 3 imaginary.
Stored phase *falls* with the field (measured below the lung, and against the scanner's own map in Hz).
Complex images may change sign from slice to slice (the "chopper"). Phase images are in mrad, older exports in
pi/4096. Echoes are announced by (0019,107E), since EchoTrainLength is 1 on a two-echo scan, and slices by
(0021,104F).
"""

from __future__ import annotations

import math

from pydicom.dataset import Dataset

from node.errors import Refusal
from node.vendors.convention import (
    Announced,
    Component,
    Convention,
    Rescale,
    common_refusal,
    count,
    number,
    stored_rescale,
    text,
    word,
)

_COMPONENT: dict[float | None, Component] = {0: "M", 1: "P", 2: "R", 3: "I"}
_HIGHEST_MRAD = 3200.0


def _component(ds: Dataset) -> Component:
    return _COMPONENT.get(number(ds, (0x0043, 0x102F)), "?")


def _refusal(ds: Dataset) -> Refusal | None:
    sequence = word(ds, (0x0019, 0x109C))
    if "b0rf" in sequence.lower():
        return Refusal("field-map-hz", f"field map in Hz, not complex gradient echo (pulse sequence {sequence})")
    return common_refusal(ds)


def _announced(ds: Dataset) -> Announced:
    thickness = number(ds, "SliceThickness") or 0.0
    spacing = number(ds, "SpacingBetweenSlices") or thickness
    # Slice interpolation (ZIP2) stores twice the locations that were announced.
    interpolated = "ZIP" in text(ds, "ScanOptions") or thickness > 1.5 * spacing
    return Announced(count(ds, (0x0019, 0x107E)), None if interpolated else count(ds, (0x0021, 0x104F)))


def _scan(ds: Dataset) -> str:
    return f"series {text(ds, 'SeriesInstanceUID')}"


def _rescale(ds: Dataset, component: Component) -> Rescale:  # noqa: ARG001
    return stored_rescale(ds) or Rescale(1.0, 0.0)


def _radians_per_unit(low: float, high: float) -> float:
    return 1e-3 if max(-low, high) <= _HIGHEST_MRAD else math.pi / 4096


GE = Convention(
    name="ge",
    manufacturers=("ge medical", "ge healthcare", "ge "),
    phase_sign=-1,
    chopper=True,
    component=_component,
    refusal=_refusal,
    announced=_announced,
    scan=_scan,
    rescale=_rescale,
    radians_per_unit=_radians_per_unit,
)
