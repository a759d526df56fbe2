"""DICOM files of one acquisition to arrays in physical units, with their geometry and what derived objects need.

Decides nothing about what belongs together (`node.assemble` does), nor about sign and scale (`node.physical`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from node import multiframe
from node.assemble import Arrangement, acquisition_key, judge
from node.decoder import Decoder
from node.errors import Refusal, Refused, Unreadable
from node.files import read_dataset, reading_many
from node.headers import Header, read_header
from node.physical import Span, check_smooth, each_echo, to_physical
from node.pixels import Plane, fill, stored_planes
from node.places import NAMES
from node.site import Site
from node.vendors.convention import Component, Convention, number, text
from recon.types import GAMMA_MHZ_PER_T, Acquisition, FloatArray, Geometry

MAX_FREQUENCY_MISMATCH = 0.06
"""Between the imaging frequency and the nominal field strength (a Siemens "3 T" is 2.89 T)."""


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image, or one frame of an enhanced object, that went into an acquisition."""

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    """1-based; None for a classic image."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """An acquisition with what its derived objects copy and refer to.

    Parameters
    ----------
    acquisition
        The arrays.
    templates
        ``templates[echo][slice]``: the header of the magnitude (or real) image, as a classic image, without
        pixels and private elements.
    images
        ``images[slice]``: every image of that slice that was used, over echoes and components.
    vendor
        Name of the convention that was applied.
    convention
        The convention in words: components, sign, chopper.
    warnings
        What a reader of the result should know: distortion correction, interpolation.
    """

    acquisition: Acquisition
    templates: tuple[tuple[Dataset, ...], ...]
    images: tuple[tuple[SourceImage, ...], ...]
    vendor: str
    convention: str
    warnings: tuple[str, ...]


def load(paths: Iterable[Path], site: Site = Site()) -> Source:  # noqa: B008  a frozen value
    """Read the files of one acquisition; their order makes no difference.

    Raises
    ------
    Refused
        The images are not one whole acquisition, or their pixels contradict the vendor's convention.
    Unreadable
        A file is not DICOM, is truncated, or its pixels cannot be decoded.
    """
    objects: dict[str, _Object] = {}
    headers: dict[str, Header] = {}
    with reading_many():
        for path in sorted(paths):
            ds = read_dataset(path)
            header = read_header(ds, site)
            if header.refusal and header.refusal.code == "unreadable":
                raise Unreadable(f"{path.name}: {header.refusal.sentence}")
            if headers.setdefault(header.sop_instance_uid, header) is header:
                multiframe.forget_private(ds)
                objects[header.sop_instance_uid] = _Object(path, ds)
    if len({acquisition_key(h) for h in headers.values()}) > 1:
        raise Refused(Refusal("mixed-acquisitions", "images of more than one acquisition"))
    verdict = judge(headers.values(), site)
    if verdict.arrangement is None:
        raise Refused(verdict.refusal or Refusal("incomplete", "no images"))
    return _load_arranged(verdict.arrangement, objects, site)


@dataclass(frozen=True, slots=True, eq=False)
class _Object:
    """A file and what was read of it."""

    path: Path
    ds: Dataset


def _load_arranged(arrangement: Arrangement, objects: dict[str, _Object], site: Site) -> Source:
    first_header = arrangement.planes[arrangement.components[0], 0, 0].header
    convention = site.convention_of(first_header.manufacturer)
    assert convention is not None  # else it would have been refused
    with Decoder() as decoder:
        planes, templates = _open(arrangement, objects, convention, decoder)
        objects.clear()
        volumes, spans = _read_volumes(arrangement, planes)
    e, s = len(arrangement.te_s), len(arrangement.locations_mm)
    magnitude, phase, chopped = to_physical(volumes, spans, convention)
    acquisition = Acquisition(
        magnitude=magnitude,
        phase=phase,
        te_s=arrangement.te_s,
        f0_mhz=imaging_frequency_mhz(templates[0, 0]),
        geometry=_geometry(arrangement, first_header),
    )
    check_smooth(acquisition)
    words = (
        convention.name,
        " and ".join(NAMES[c] for c in arrangement.components),
        "stored phase " + ("rises" if convention.phase_sign > 0 else "falls") + " with the field",
        *(("sign and scale as the site states",) if convention.stated else ()),
        *(("slice sign alternation removed",) if chopped else ()),
    )
    return Source(
        acquisition=acquisition,
        templates=tuple(tuple(templates[echo, k] for k in range(s)) for echo in range(e)),
        images=tuple(
            tuple(_source_image(arrangement, c, echo, k) for echo in range(e) for c in arrangement.components)
            for k in range(s)
        ),
        vendor=convention.name,
        convention="; ".join(words),
        warnings=_warnings(arrangement, templates[0, 0]),
    )


_Key = tuple[Component, int, int]


def _open(
    arrangement: Arrangement, objects: dict[str, _Object], convention: Convention, decoder: Decoder
) -> tuple[dict[_Key, Plane], dict[tuple[int, int], Dataset]]:
    """How to read every plane, and the templates by echo and slice."""
    places: dict[str, list[tuple[_Key, int]]] = defaultdict(list)
    for key, plane in arrangement.planes.items():
        places[plane.header.sop_instance_uid].append((key, plane.frame.index))
    planes: dict[_Key, Plane] = {}
    templates: dict[tuple[int, int], Dataset] = {}
    for uid, held in places.items():
        obj = objects.pop(uid)
        frames = multiframe.frames(obj.ds)
        stored = stored_planes(obj.path, obj.ds, len(frames), decoder.pixels)
        del obj.ds.PixelData
        for (component, echo, k), index in held:
            planes[component, echo, k] = Plane(stored[index], convention.rescale(frames[index], component))
            if component == arrangement.components[0]:
                templates[echo, k] = frames[index]
    units = sorted({plane.rescale.unit for (component, _, _), plane in planes.items() if component != "P"})
    if len(units) > 1:
        sentence = f"images in {units[0]} and in {units[-1]} values: some lack the scale slope"
        raise Refused(Refusal("no-scaling", sentence))
    return planes, templates


def _read_volumes(
    arrangement: Arrangement, planes: Mapping[_Key, Plane]
) -> tuple[dict[Component, FloatArray], dict[Component, Span]]:
    """Rescaled values of each component, float32 (E, X, Y, Z), and the lowest and highest of them."""
    header = arrangement.planes[arrangement.components[0], 0, 0].header
    slices = range(len(arrangement.locations_mm))
    shape = (len(arrangement.te_s), header.columns, header.rows, len(slices))
    volumes: dict[Component, FloatArray] = {c: np.empty(shape, np.float32) for c in arrangement.components}
    spans: dict[Component, Span] = {}
    for component, volume in volumes.items():
        stacks = [[planes[component, echo, k] for k in slices] for echo in range(len(volume))]
        low, high = zip(*each_echo(fill, volume, stacks), strict=True)
        spans[component] = (min(low), max(high))
    return volumes, spans


def _geometry(arrangement: Arrangement, header: Header) -> Geometry:
    """Array index to patient coordinates: PS3.3 C.7.6.2.1.1, with the slice step taken from the positions."""
    leading, last = arrangement.components[0], len(arrangement.locations_mm) - 1
    bottom = arrangement.planes[leading, 0, 0].frame
    top = arrangement.planes[leading, 0, last].frame
    row, column = np.reshape(bottom.orientation, (2, 3))
    between_rows, between_columns = bottom.spacing_mm
    affine = np.eye(4)
    affine[:3, 0] = row * between_columns
    affine[:3, 1] = column * between_rows
    affine[:3, 2] = (np.array(top.position_mm) - bottom.position_mm) / last
    affine[:3, 3] = bottom.position_mm
    return Geometry((header.columns, header.rows, last + 1), affine)


def imaging_frequency_mhz(ds: Dataset) -> float:
    """ImagingFrequency in MHz (some write Hz), or the proton's at MagneticFieldStrength where it is absent.

    Raises
    ------
    Refused
        Neither is given, or they contradict each other: another nucleus, or a wrong header.
    """
    frequency, field = number(ds, "ImagingFrequency") or 0.0, number(ds, "MagneticFieldStrength") or 0.0
    f0 = frequency / 1e6 if frequency > 1e4 else frequency
    b0_t = field / 1e4 if field > 100 else field  # some write gauss
    nominal = GAMMA_MHZ_PER_T * b0_t
    if f0 <= 0 and nominal <= 0:
        raise Refused(Refusal("no-frequency", "neither ImagingFrequency nor MagneticFieldStrength is given"))
    if f0 > 0 and nominal > 0 and abs(f0 / nominal - 1) > MAX_FREQUENCY_MISMATCH:
        raise Refused(
            Refusal("frequency-mismatch", f"imaging frequency {f0:.3f} MHz does not belong to protons at {b0_t:g} T")
        )
    return f0 if f0 > 0 else nominal


def _source_image(arrangement: Arrangement, component: Component, echo: int, k: int) -> SourceImage:
    plane = arrangement.planes[component, echo, k]
    number_ = plane.frame.index + 1 if len(plane.header.frames) > 1 else None
    return SourceImage(plane.header.sop_class_uid, plane.header.sop_instance_uid, number_)


def _warnings(arrangement: Arrangement, ds: Dataset) -> tuple[str, ...]:
    found = []
    plane = arrangement.planes[arrangement.components[1], 0, 0]
    corrected = [value for value in plane.frame.image_type if value in {"DIS2D", "DIS3D"}]
    if corrected:
        found.append(f"distortion correction ({corrected[0]}) interpolated the phase")
    sampled = [int(n) for n in text(ds, "AcquisitionMatrix").split("\\") if n.isdigit() and int(n)]
    if len(sampled) == 2 and plane.header.rows * plane.header.columns > 1.5 * sampled[0] * sampled[1]:
        found.append(f"zero-filled from {sampled[0]}x{sampled[1]} to {plane.header.rows}x{plane.header.columns}")
    if "ZIP" in text(ds, "ScanOptions"):
        found.append("slices are interpolated (ZIP)")
    if arrangement.other_scans:
        found.append(f"the newest of {arrangement.other_scans + 1} scans of this protocol that came together")
    if arrangement.unused:
        found.append(f"{arrangement.unused} images of the acquisition were not needed")
    return tuple(found)
