"""DICOM files of one acquisition to arrays in physical units: scaling, sign, chopper, geometry.

Applies the convention of the vendor and checks that the pixels agree with it. Decides nothing about what belongs
together: `node.assemble` does.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from node import multiframe
from node.assemble import Arrangement, acquisition_key, judge
from node.decoder import Decoder
from node.errors import Refusal, Refused, Unreadable
from node.files import read_dataset
from node.headers import Header, read_header
from node.vendors import CONVENTIONS
from node.vendors.convention import Component, Convention, number, text
from recon.types import GAMMA_MHZ_PER_T, Acquisition, FloatArray, Geometry

MIN_PHASE_SPAN = 0.75
"""Phase that fills less of its 2 pi over the whole volume is filtered, or scaled by another factor."""

MIN_CHOPPER_AGREEMENT = 0.8
"""Share of the signal in which neighbouring slices must agree on whether the sign alternates."""

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
        ``templates[echo][slice]``: the header, without pixels, of the magnitude (or real) image, as a classic image.
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


def load(paths: Iterable[Path]) -> Source:
    """Read the files of one acquisition; their order makes no difference.

    Raises
    ------
    Refused
        The images are not one whole acquisition, or their pixels contradict the vendor's convention.
    Unreadable
        A file is not DICOM, is truncated, or its pixels cannot be decoded.
    """
    datasets: dict[str, Dataset] = {}
    headers: dict[str, Header] = {}
    for path in sorted(paths):
        ds = read_dataset(path)
        header = read_header(ds)
        if header.refusal and header.refusal.code == "unreadable":
            raise Unreadable(f"{path.name}: {header.refusal.sentence}")
        if headers.setdefault(header.sop_instance_uid, header) is header:
            datasets[header.sop_instance_uid] = ds
    if len({acquisition_key(h) for h in headers.values()}) > 1:
        raise Refused(Refusal("mixed-acquisitions", "images of more than one acquisition"))
    verdict = judge(headers.values())
    if verdict.arrangement is None:
        raise Refused(verdict.refusal or Refusal("incomplete", "no images"))
    return _load_arranged(verdict.arrangement, datasets)


def _load_arranged(arrangement: Arrangement, datasets: dict[str, Dataset]) -> Source:
    first_header = arrangement.planes[arrangement.components[0], 0, 0].header
    convention = next(c for c in CONVENTIONS if c.name == first_header.vendor)
    volumes, flats = _read_volumes(arrangement, datasets, convention)
    e, s = len(arrangement.te_s), len(arrangement.locations_mm)
    leading = arrangement.components[0]
    magnitude, phase, chopped = _physical(volumes, arrangement.components, convention)
    acquisition = Acquisition(
        magnitude=_xyz(magnitude),
        phase=_xyz(phase),
        te_s=arrangement.te_s,
        f0_mhz=imaging_frequency_mhz(flats[leading, 0, 0]),
        geometry=_geometry(arrangement, first_header),
    )
    words = (
        convention.name,
        " and ".join(
            {"M": "magnitude", "P": "phase", "R": "real", "I": "imaginary"}[c] for c in arrangement.components
        ),
        "stored phase " + ("rises" if convention.phase_sign > 0 else "falls") + " with the field",
        *(("slice sign alternation removed",) if chopped else ()),
    )
    return Source(
        acquisition=acquisition,
        templates=tuple(tuple(flats[leading, echo, k] for k in range(s)) for echo in range(e)),
        images=tuple(
            tuple(_source_image(arrangement, c, echo, k) for echo in range(e) for c in arrangement.components)
            for k in range(s)
        ),
        vendor=convention.name,
        convention="; ".join(words),
        warnings=_warnings(arrangement, flats[leading, 0, 0]),
    )


_Key = tuple[Component, int, int]


def _read_volumes(
    arrangement: Arrangement, datasets: dict[str, Dataset], convention: Convention
) -> tuple[dict[Component, FloatArray], dict[_Key, Dataset]]:
    """Rescaled values, float32 (E, Z, Y, X) for each component, and the flat header of every plane."""
    objects: dict[str, list[tuple[_Key, int]]] = defaultdict(list)
    for key, plane in arrangement.planes.items():
        objects[plane.header.sop_instance_uid].append((key, plane.frame.index))
    header = arrangement.planes[arrangement.components[0], 0, 0].header
    shape = (len(arrangement.te_s), len(arrangement.locations_mm), header.rows, header.columns)
    volumes: dict[Component, FloatArray] = {c: np.empty(shape, np.float32) for c in arrangement.components}
    flats: dict[_Key, Dataset] = {}
    units: set[str] = set()
    with Decoder() as decoder:
        for uid, places in objects.items():
            ds = datasets[uid]
            stored = decoder.pixels(ds)
            del ds.PixelData
            frames = multiframe.frames(ds)
            for key, index in places:
                component, echo, k = key
                slope, intercept, unit = convention.rescale(frames[index], component)
                if component != "P":
                    units.add(unit)
                np.multiply(stored[index], np.float32(slope), out=volumes[component][echo, k], casting="unsafe")
                volumes[component][echo, k] += np.float32(intercept)
                flats[key] = frames[index]
    if len(units) > 1:
        raise Refused(
            Refusal("no-scaling", f"images in {' and in '.join(sorted(units))} values: scale tags are missing")
        )
    return volumes, flats


def _physical(
    volumes: dict[Component, FloatArray], components: tuple[Component, Component], convention: Convention
) -> tuple[FloatArray, FloatArray, bool]:
    """Magnitude, phase that rises with the field, and whether a slice alternation was removed."""
    first, second = volumes[components[0]], volumes[components[1]]
    if components == ("R", "I"):
        magnitude, phase = np.hypot(first, second), np.arctan2(second, first)
    else:
        magnitude, phase = first, _radians(second, convention)
    if magnitude.min() < 0:
        raise Refused(Refusal("suspect-magnitude", f"magnitude images hold negative values ({magnitude.min():g})"))
    chopped = convention.chopper and _alternates(magnitude[0], phase[0])
    if chopped:
        phase[:, 1::2] += np.where(phase[:, 1::2] > 0, np.float32(-math.pi), np.float32(math.pi))
    phase *= convention.phase_sign
    return magnitude, phase, chopped


def _radians(phase: FloatArray, convention: Convention) -> FloatArray:
    """Rescaled phase to radians, by one factor for all slices and echoes; checks that it fills its range."""
    low, high = float(phase.min()), float(phase.max())
    factor = convention.radians_per_unit(low, high)
    span = (high - low) * factor
    if max(-low, high) * factor > 1.01 * math.pi or span < MIN_PHASE_SPAN * 2 * math.pi:
        raise Refused(
            Refusal(
                "suspect-phase",
                f"phase lies between {low * factor:.2f} and {high * factor:.2f} rad instead of filling -3.14 to 3.14:"
                " filtered, or scaled in a way that is not known",
            )
        )
    phase *= np.float32(factor)
    return phase


def _alternates(magnitude: FloatArray, phase: FloatArray) -> bool:
    """Whether complex slices (Z, Y, X) change sign from one to the next.

    The real part of ``sum c[k+1] conj(c[k])`` is negative where they do. Slices vote by their signal: beside the head
    there is noise alone.
    """
    products = magnitude[1:] * magnitude[:-1] * np.cos(phase[1:] - phase[:-1])
    votes = products.sum(axis=(1, 2), dtype=np.float64)
    negative = float(-votes[votes < 0].sum() / max(np.abs(votes).sum(), 1e-30))
    if max(negative, 1 - negative) < MIN_CHOPPER_AGREEMENT:
        raise Refused(
            Refusal(
                "ambiguous-chopper",
                f"neighbouring slices with {negative:.0%} of the signal differ in sign: neither alternating nor"
                " continuous phase",
            )
        )
    return negative > 0.5


def _xyz(volume: FloatArray) -> FloatArray:
    """(E, Z, Y, X) to C-ordered (E, X, Y, Z)."""
    return np.ascontiguousarray(volume.transpose(0, 3, 2, 1))


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
    if arrangement.unused:
        found.append(f"{arrangement.unused} images of the acquisition were not needed")
    return tuple(found)
