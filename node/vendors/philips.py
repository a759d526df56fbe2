"""Philips: classic and enhanced.

ImageType value 4, or (2005,1011), is the component; in enhanced frames ComplexImageComponent has to agree,
because a field map is marked REAL there. Phase is rescaled to mrad (slope 1.53455, intercept -3142), whatever
RescaleType says: enhanced objects say `US` for the same numbers. It rises with the field. Magnitude slopes
may differ between slices and echoes, so images are compared by the precise value ``(slope SV + intercept) /
(slope SS)`` with the scale slope SS = (2005,100E). One series holds everything; AcquisitionNumber numbers the
scans of a study. Echoes are announced by (2001,1014) (EchoTrainLength is the turbo factor of an MPRAGE),
slices by (2001,1018).
"""

from __future__ import annotations

import math
import struct

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from node.errors import Refusal, Refused
from node.vendors.convention import (
    COMPONENTS,
    Announced,
    Component,
    Convention,
    Rescale,
    as_stored,
    common_refusal,
    complex_image_component,
    count,
    decoded,
    image_type,
    number,
    stored_rescale,
    text,
)

_SCALE_SLOPE = (0x2005, 0x100E)


def _component(ds: Dataset) -> Component:
    kinds = image_type(ds)
    said = COMPONENTS.get(kinds[3] if len(kinds) > 3 else "", COMPONENTS.get(text(ds, (0x2005, 0x1011)), "?"))
    frame = complex_image_component(ds)
    return said if frame in {"?", said} else "?"


def _announced(ds: Dataset) -> Announced:
    return Announced(count(ds, (0x2001, 0x1014)) or count(ds, "EchoTrainLength"), count(ds, (0x2001, 0x1018)))


def _scan(ds: Dataset) -> str:
    return f"acquisition {text(ds, 'AcquisitionNumber')}"


def _scale_slope(ds: Dataset) -> float | None:
    """(2005,100E) FL; its bytes where the element lost its VR or its private creator."""
    raw = decoded(ds, Tag(_SCALE_SLOPE)) if _SCALE_SLOPE in ds else None
    if isinstance(raw, bytes) and len(raw) == 4:
        found = float(struct.unpack("<f", raw)[0])
        return found if math.isfinite(found) else None
    return number(ds, _SCALE_SLOPE)


def _rescale(ds: Dataset, component: Component) -> Rescale:
    displayed = stored_rescale(ds)
    if component == "P":
        if displayed is None:
            raise Refused(Refusal("no-scaling", "Philips phase without RescaleSlope and RescaleIntercept"))
        return displayed
    slope, intercept, _ = displayed or as_stored(ds, component)
    scale = _scale_slope(ds)
    return (
        Rescale(1 / scale, intercept / (slope * scale), "precise")
        if scale
        else Rescale(slope, intercept, "displayed")
    )


def _radians_per_unit(low: float, high: float) -> float:  # noqa: ARG001
    return 1e-3


PHILIPS = Convention(
    name="philips",
    manufacturers=("philips",),
    phase_sign=1,
    chopper=False,
    component=_component,
    refusal=common_refusal,
    announced=_announced,
    scan=_scan,
    rescale=_rescale,
    radians_per_unit=_radians_per_unit,
)
