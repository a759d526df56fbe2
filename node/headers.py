"""What the node keeps of an image's header: enough to group images, to see what lacks and to refuse by name.

`read_header` turns a dataset into a small frozen `Header`. It never raises: what it cannot use becomes a `Refusal`
inside. A header holds no name, identifier or birth date of the patient; what is kept of it as JSON holds no text that
a person wrote either. Scaling is not kept: the loader reads it again from the file. Series and acquisitions are
unknown here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from pydantic import TypeAdapter
from pydicom.dataset import Dataset
from pydicom.uid import UID, EnhancedMRImageStorage, MRImageStorage

from node import multiframe
from node.errors import Refusal
from node.identity import is_own, is_uid
from node.site import Site
from node.vendors.convention import (
    Announced,
    Component,
    Convention,
    common_refusal,
    image_type,
    number,
    standard_component,
    text,
    word,
)

_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")

Position = tuple[float, float, float]
Orientation = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """One plane of one echo and one component.

    Parameters
    ----------
    index
        0-based number inside the object; 0 in a classic image.
    component
        `M`, `P`, `R`, `I`, or `?` where the image does not say.
    te_s
        Echo time in s; 0 where the image has none.
    position_mm, orientation
        ImagePositionPatient and ImageOrientationPatient.
    spacing_mm
        PixelSpacing: distance between rows, distance between columns.
    image_type
        The values of ImageType or FrameType.
    """

    index: int
    component: Component
    te_s: float
    position_mm: Position
    orientation: Orientation
    spacing_mm: tuple[float, float]
    image_type: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """What the node keeps of one DICOM object's header. Absent texts are empty, absent numbers None."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    manufacturer: str
    vendor: str
    """Name of the convention in `node.vendors`; empty where the manufacturer has none."""
    series_number: int | None
    sequence: str
    rows: int
    columns: int
    slice_thickness_mm: float | None
    tr_ms: float | None
    flip_deg: float | None
    announced_echoes: int | None
    announced_slices: int | None
    frames: tuple[Frame, ...]
    own: bool
    """Written by this product: to be recognised, not processed."""
    refusal: Refusal | None
    """Why the object, on its own, is not raw complex gradient echo."""
    acquisition_type: str = ""
    """MRAcquisitionType: 2D or 3D."""
    acquired_s: float | None = None
    """Moment of the acquisition, in seconds that only serve to compare images of one study."""
    field_map_product: bool = False
    """Whether the protocol is called after Siemens' field-map product."""
    frame_of_reference_uid: str = field(default="", compare=False)
    protocol: str = field(default="", compare=False)
    """ProtocolName, or SeriesDescription where there is none."""
    scan: str = field(default="", compare=False)
    """What separates two scans of one protocol, as far as the image alone can tell."""

    def to_json(self) -> str:
        """As one line of JSON, without `FOR_THE_KEY`; equal headers give equal text."""
        return _ADAPTER.dump_json(self, exclude=FOR_THE_KEY).decode()

    @classmethod
    def from_json(cls, line: str) -> Header:
        """The header that `to_json` wrote."""
        return _ADAPTER.validate_json(line)


FOR_THE_KEY = {"frame_of_reference_uid", "protocol", "scan"}
"""What tells acquisitions apart when an image comes. Not kept: an operator may have written a name into it."""

_ADAPTER = TypeAdapter(Header)


MIN_TE_S, MAX_TE_S = 2e-4, 1.0
"""No gradient echo comes earlier, and after a second nothing is left of the signal."""

LARGEST_MM = 1e5
"""No position is further from the patient's origin; NaN is no number at all."""

_NOTHING = Header(
    sop_class_uid="",
    sop_instance_uid="",
    study_uid="",
    series_uid="",
    manufacturer="",
    vendor="",
    series_number=None,
    sequence="",
    rows=0,
    columns=0,
    slice_thickness_mm=None,
    tr_ms=None,
    flip_deg=None,
    announced_echoes=None,
    announced_slices=None,
    frames=(),
    own=False,
    refusal=Refusal("unreadable", "header cannot be read"),
)


def read_header(ds: Dataset, site: Site = Site()) -> Header:  # noqa: B008  a frozen value
    """What the node keeps of an object's header. Never raises; pixels are not touched."""
    try:
        return _read_header(ds, site)
    except Exception:  # pydicom decodes on access, and raises nearly anything on nonsense
        return _NOTHING


def scan_name(headers: Sequence[Header]) -> str:
    """The scan that these images belong to, by the numbers of its series."""
    series = sorted({h.series_number for h in headers if h.series_number is not None})
    return f"series {', '.join(map(str, series)) or 'without number'}"


def _read_header(ds: Dataset, site: Site) -> Header:
    manufacturer, protocol = word(ds, "Manufacturer"), text(ds, "ProtocolName") or text(ds, "SeriesDescription")
    convention = site.convention_of(manufacturer)
    component_of = convention.component if convention else standard_component
    flat = multiframe.frames(ds)
    first = flat[0]
    geometries = [_geometry(f) for f in flat]
    frames = tuple(
        Frame(
            index=index,
            component=component_of(f),
            te_s=(number(f, "EchoTime") or 0.0) / 1e3,
            position_mm=geometry[0],
            orientation=geometry[1],
            spacing_mm=geometry[2],
            image_type=image_type(f),
        )
        for index, (f, geometry) in enumerate(zip(flat, geometries, strict=True))
        if geometry is not None
    )
    announced = convention.announced(first) if convention else Announced(None, None)
    return Header(
        sop_class_uid=text(ds, "SOPClassUID"),
        sop_instance_uid=text(ds, "SOPInstanceUID"),
        study_uid=text(ds, "StudyInstanceUID"),
        series_uid=text(ds, "SeriesInstanceUID"),
        frame_of_reference_uid=text(ds, "FrameOfReferenceUID"),
        manufacturer=manufacturer,
        vendor=convention.name if convention else "",
        protocol=protocol,
        series_number=_integer(ds, "SeriesNumber"),
        sequence=word(first, "SequenceName") or word(first, (0x0019, 0x109C)),
        scan=convention.scan(ds) if convention else "",
        rows=_integer(ds, "Rows") or 0,
        columns=_integer(ds, "Columns") or 0,
        slice_thickness_mm=number(first, "SliceThickness"),
        tr_ms=number(first, "RepetitionTime"),
        flip_deg=number(first, "FlipAngle"),
        announced_echoes=announced.echoes,
        announced_slices=announced.slices,
        acquisition_type=word(ds, "MRAcquisitionType"),
        acquired_s=_acquired_s(first),
        field_map_product="gre_field_map" in protocol.lower(),
        frames=frames,
        own=is_own(ds),
        refusal=_refusal(ds, flat, frames, convention),
    )


def _refusal(
    ds: Dataset, flat: list[Dataset], frames: tuple[Frame, ...], convention: Convention | None
) -> Refusal | None:
    missing = [keyword for keyword in _UIDS if not text(ds, keyword)]
    if missing:
        return Refusal("unreadable", f"object without {', '.join(missing)}")
    impossible = [keyword for keyword in _UIDS if not is_uid(text(ds, keyword))]
    if impossible:
        return Refusal("unreadable", f"object whose {', '.join(impossible)} is no UID")
    sop_class = UID(text(ds, "SOPClassUID"))
    if sop_class not in {MRImageStorage, EnhancedMRImageStorage}:
        return Refusal("not-mr-gre", f"not an MR image ({sop_class.name})")
    refuse = convention.refusal if convention else common_refusal
    geometries = {(f.orientation, f.spacing_mm) for f in frames}
    reasons = (
        (
            len(frames) < len(flat) or not text(ds, "Rows") or not text(ds, "Columns"),
            Refusal("no-geometry", "image without a possible position, orientation, pixel spacing or matrix"),
        ),
        (any(f.te_s <= 0 for f in frames), Refusal("no-echo-time", "image without echo time")),
        (
            any(not MIN_TE_S <= f.te_s <= MAX_TE_S for f in frames),
            Refusal("echo-times", f"impossible echo time: {max((f.te_s for f in frames), default=0.0) * 1e3:g} ms"),
        ),
        (
            len(geometries) > 1,
            Refusal("mixed-geometry", "frames of different orientation or pixel spacing in one object"),
        ),
    )
    if is_own(ds):
        return Refusal("own-output", "derived by this product: recognised and not processed again")
    named = next(filter(None, map(refuse, flat)), None)
    return named or next((refusal for found, refusal in reasons if found), None)


def _acquired_s(ds: Dataset) -> float | None:
    """AcquisitionDateTime, or AcquisitionDate and AcquisitionTime; None where absent or no moment."""
    stamp = text(ds, "AcquisitionDateTime") or text(ds, "AcquisitionDate") + text(ds, "AcquisitionTime")
    try:
        moment = datetime.strptime(stamp[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    fraction = re.match(r"\.\d{1,6}", stamp[14:])
    return moment.timestamp() + (float(fraction[0]) if fraction else 0.0)


def _integer(ds: Dataset, keyword: str) -> int | None:
    value = number(ds, keyword)
    return None if value is None else int(value)


def _geometry(ds: Dataset) -> tuple[Position, Orientation, tuple[float, float]] | None:
    position = _floats(ds, "ImagePositionPatient", 3)
    orientation = _floats(ds, "ImageOrientationPatient", 6)
    spacing = _floats(ds, "PixelSpacing", 2)
    if position is None or orientation is None or spacing is None:
        return None
    row, column = np.reshape(orientation, (2, 3))
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.abs(lengths - 1).max() > 1e-3 or abs(float(row @ column)) > 1e-3 or min(spacing) <= 0:
        return None
    return position, orientation, spacing  # type: ignore[return-value]


def _floats(ds: Dataset, keyword: str, n: int) -> tuple[float, ...] | None:
    try:
        values = tuple(float(part) for part in text(ds, keyword).split("\\"))
    except ValueError:
        return None
    return values if len(values) == n and all(abs(value) < LARGEST_MM for value in values) else None
