"""Siemens: VE classic and XA, classic ("interoperability") and enhanced.

ImageType value 3 is the component. Phase is stored as 0..4095 for -pi..pi with rescale 2 / -4096, which may
be missing from the header; it rises with the field (measured below the lung and above the sinuses). Magnitude
and phase are two series, XA classic has one series per echo, so nothing in an image tells two scans of one
protocol apart. Echoes are announced by EchoTrainLength, or by the digits of SequenceName (`*fl3d6r`); slices
are not announced.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from pydicom.dataset import Dataset

from node.errors import Refusal, Refused
from node.vendors.convention import (
    Announced,
    Component,
    Convention,
    Rescale,
    common_refusal,
    count,
    standard_component,
    stored_rescale,
    text,
)

_ECHOES_IN_NAME = re.compile(r"fl[23]d(\d+)")
_SINGLE_COIL = re.compile(r"^[A-Z]+\d+$")


def _refusal(ds: Dataset) -> Refusal | None:
    elements: Sequence[Dataset] = ds.get("MultiCoilDefinitionSequence") or ()
    enhanced = text(elements[0], "MultiCoilElementName") if len(elements) == 1 else ""
    coil = text(ds, (0x0051, 0x100F)) or text(ds, (0x0021, 0x114F)) or enhanced
    # `H15` is one element; `HEA;HEP`, `HC1-6` and `BC` are combinations.
    if not _SINGLE_COIL.match(coil):
        # Newer systems name no element; the first of ICE_Dims is its number, `X` where they are combined.
        coil = text(ds, (0x0021, 0x1106)).split("_")[0]
    if _SINGLE_COIL.match(coil) or coil.isdigit():
        return Refusal("uncombined-coils", f"image of the single coil element {coil}: send combined images")
    return common_refusal(ds)


def _announced(ds: Dataset) -> Announced:
    named = _ECHOES_IN_NAME.search(text(ds, "SequenceName"))
    return Announced(count(ds, "EchoTrainLength") or (int(named[1]) if named else None), None)


def _scan(ds: Dataset) -> str:
    return f"acquisition {text(ds, 'AcquisitionNumber')}"


def _rescale(ds: Dataset, component: Component) -> Rescale:
    stored = stored_rescale(ds)
    if stored is None and component in {"R", "I"}:
        raise Refused(Refusal("no-scaling", f"Siemens {component} images without RescaleSlope and RescaleIntercept"))
    return stored or (Rescale(2.0, -4096.0) if component == "P" else Rescale(1.0, 0.0))


def _radians_per_unit(low: float, high: float) -> float:  # noqa: ARG001
    return math.pi / 4096


SIEMENS = Convention(
    name="siemens",
    manufacturers=("siemens",),
    phase_sign=1,
    chopper=False,
    component=standard_component,
    refusal=_refusal,
    announced=_announced,
    scan=_scan,
    rescale=_rescale,
    radians_per_unit=_radians_per_unit,
)
