"""Philips: classic objects, and one enhanced multi-frame object.

All of it is one series: magnitude, then phase, or real, then imaginary; in each the slices rising and in a slice echo
by echo. Phase is in mrad by rescale and rises with the field. The scale slope (2005,100E) turns other stored values
into precise ones, here in the phantom's own unit. Echoes are announced by EchoTrainLength and (2001,1014), slices by
(2001,1018).

In enhanced frames RescaleType says ``US`` for mrad (the unit is in the real world value mapping alone), and the
private copy of the position is off by half a voxel in plane.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from phantoms.scanner.common import Exam, add_private, carried, decimal, echo_ms, write
from phantoms.scanner.enhanced import (
    NAMES,
    describe,
    dimension,
    dimensions,
    enhanced,
    frame_groups,
    item,
    shared_groups,
)
from phantoms.scanner.pixels import TOP, PhaseCode, Unsigned, bright, gain, rows_of, stored_magnitude
from phantoms.simulate import Phantom
from phantoms.vendor import Vendor
from recon.types import Acquisition

PHASE = PhaseCode(slope=1.53455433455433, intercept=-3142.0, unit_rad=1e-3, turn=4095)
MIDDLE = 2048
"""What 0 is stored as in real and imaginary images."""
DISPLAYED = "1.28205128205128"
"""RescaleSlope of other images than phase: displayed values reach 5250."""
RESCALE = {
    "M": (DISPLAYED, "0", "normalized"),
    "P": (f"{PHASE.slope:.15g}", f"{PHASE.intercept:g}", "mrad"),
    "R": (DISPLAYED, "-2625.6410256410", "normalized"),
    "I": (DISPLAYED, "-2625.6410256410", "normalized"),
}
"""RescaleSlope, RescaleIntercept and RescaleType."""
TYPES = {"M": "M_FFE", "P": "PHASE MAP", "R": "R_FFE", "I": "I_FFE"}

SCAN, SERIES = 4, 401
IMAGING, MR_IMAGING = "Philips Imaging DD 001", "Philips MR Imaging DD 001"
MR_FRAME = "Philips MR Imaging DD 005"


def as_stored(phantom: Phantom) -> Acquisition:
    """What magnitude and phase of both formats hold: a step is 1.53 mrad, 1/4095 of the largest magnitude."""
    acquisition = phantom.acquisition
    magnitude = stored_magnitude(acquisition.magnitude).astype(np.float32)
    magnitude *= np.float32(1 / float(gain(acquisition.magnitude)))
    return carried(phantom, magnitude, PHASE.decode(PHASE.encode(acquisition.phase)))


def as_stored_complex(phantom: Phantom) -> Acquisition:
    """What real and imaginary images hold: a step is 1/2047 of the largest magnitude in each of them."""
    scale = float(gain(phantom.acquisition.magnitude, MIDDLE - 1))
    slope, intercept = map(float, RESCALE["R"][:2])
    per_step, shift = np.float32(1 / scale), np.float32(intercept / (slope * scale))
    real, imaginary = (stored.astype(np.float32) * per_step + shift for stored in _complex(phantom))
    return carried(phantom, np.hypot(real, imaginary), np.arctan2(imaginary, real))


def write_classic(phantom: Phantom, folder: Path) -> list[Path]:
    """One file per image."""
    return write(_images(_Scan.polar(phantom, Vendor.PHILIPS)), folder)


def write_complex(phantom: Phantom, folder: Path) -> list[Path]:
    """One file per image."""
    return write(_images(_Scan.cartesian(phantom)), folder)


def write_enhanced(phantom: Phantom, folder: Path) -> list[Path]:
    """One file that holds all frames."""
    return write([_enhanced(_Scan.polar(phantom, Vendor.PHILIPS_ENHANCED))], folder)


def _complex(phantom: Phantom) -> tuple[Unsigned, Unsigned]:
    """Stored real and imaginary images, 12-bit (E, X, Y, Z)."""
    acquisition = phantom.acquisition
    scale = gain(acquisition.magnitude, MIDDLE - 1)
    real, imaginary = (np.empty(acquisition.magnitude.shape, np.uint16) for _ in range(2))
    for echo, (magnitude, phase) in enumerate(zip(acquisition.magnitude, acquisition.phase, strict=True)):
        real[echo] = np.rint(magnitude * np.cos(phase) * scale) + MIDDLE
        imaginary[echo] = np.rint(magnitude * np.sin(phase) * scale) + MIDDLE
    return real, imaginary


@dataclass(frozen=True, slots=True, eq=False)
class _Scan:
    """An exam with its stored integers.

    ``scale_slope`` is (2005,100E), stored over precise value, of other images than phase. ``width`` is the window of
    magnitude, in rescaled values.
    """

    exam: Exam
    stored: dict[str, Unsigned]
    scale_slope: float
    width: int

    @classmethod
    def polar(cls, phantom: Phantom, vendor: Vendor) -> _Scan:
        """Magnitude and phase."""
        acquisition = phantom.acquisition
        magnitude, phase = stored_magnitude(acquisition.magnitude), PHASE.encode(acquisition.phase)
        return cls(
            exam=Exam.of(phantom, vendor, magnitude, phase),
            stored={"M": magnitude, "P": phase},
            scale_slope=float(gain(acquisition.magnitude)),
            width=round(bright(magnitude) * float(DISPLAYED)),
        )

    @classmethod
    def cartesian(cls, phantom: Phantom) -> _Scan:
        """Real and imaginary."""
        real, imaginary = _complex(phantom)
        return cls(
            exam=Exam.of(phantom, Vendor.PHILIPS_COMPLEX, real, imaginary),
            stored={"R": real, "I": imaginary},
            scale_slope=float(gain(phantom.acquisition.magnitude, MIDDLE - 1)),
            width=round((bright(real) - MIDDLE) * float(DISPLAYED)),
        )

    def order(self) -> Iterator[tuple[str, int, int]]:
        """Component, slice, echo of each image."""
        echoes, _, _, slices = next(iter(self.stored.values())).shape
        return ((component, z, echo) for component in self.stored for z in range(slices) for echo in range(echoes))

    def pixels(self, component: str, z: int, echo: int) -> bytes:
        """PixelData of an image."""
        return rows_of(self.stored[component][echo], z)

    def make(self, ds: Dataset) -> None:
        """The scanner and the scan, with the counts that it announces."""
        echoes, _, _, slices = next(iter(self.stored.values())).shape
        ds.Manufacturer, ds.SoftwareVersions = "Philips", ["5.7.1", "5.7.1.1"]
        ds.SeriesDescription, ds.ProtocolName = "3D mGRE", "WIP 3D mGRE"
        ds.AcquisitionNumber = SCAN
        add_private(ds, 0x2001, IMAGING, {0x14: ("SL", echoes), 0x18: ("SL", slices)})

    def mark(self, ds: Dataset, component: str) -> None:
        """The private component and scale slope of a classic image, or of a frame's private copy of it."""
        slope = TOP / (2 * math.pi) if component == "P" else self.scale_slope
        ds.ImageType = ["ORIGINAL", "PRIMARY", TYPES[component], component, "FFE"]
        add_private(ds, 0x2005, MR_IMAGING, {0x0E: ("FL", slope), 0x11: ("CS", component)})

    def window(self, ds: Dataset, component: str) -> None:
        """The window, in rescaled values."""
        centre, width = {"M": (self.width // 2, self.width), "P": (0, 6284)}.get(component, (0, 2 * self.width))
        ds.WindowCenter, ds.WindowWidth = str(centre), str(width)


def _rescale(ds: Dataset, component: str) -> None:
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = RESCALE[component]


def _real_world(component: str) -> Dataset:
    """PS3.3 C.7.6.16.2.11: the only place that names the unit in enhanced frames."""
    slope, intercept, kind = RESCALE[component]
    code, meaning = ("mrad", "milliradian") if component == "P" else ("1", "no units")
    mapping = item(LUTExplanation=f"Real World Value Mapping for {kind}", LUTLabel="Philips")
    mapping.MeasurementUnitsCodeSequence = [item(CodeValue=code, CodingSchemeDesignator="UCUM", CodeMeaning=meaning)]
    mapping.add_new("RealWorldValueFirstValueMapped", "US", 0)
    mapping.add_new("RealWorldValueLastValueMapped", "US", TOP)
    mapping.RealWorldValueIntercept, mapping.RealWorldValueSlope = float(intercept), float(slope)
    return mapping


def _images(scan: _Scan) -> Iterator[Dataset]:
    headers = {component: _classic(scan, component) for component in scan.stored}
    for number, (component, z, echo) in enumerate(scan.order(), start=1):
        ds = headers[component]
        scan.exam.number(ds, number)
        scan.exam.place(ds, echo, z)
        ds.EchoNumbers = echo + 1
        ds.PixelData = scan.pixels(component, z, echo)
        yield ds


def _classic(scan: _Scan, component: str) -> Dataset:
    ds = scan.exam.classic("complex", SERIES, "120500")
    scan.make(ds)
    scan.mark(ds, component)
    scan.window(ds, component)
    ds.ScanOptions = "FC"
    _rescale(ds, component)
    ds.RealWorldValueMappingSequence = [_real_world(component)]
    return ds


def _enhanced(scan: _Scan) -> Dataset:
    """PS3.3 A.36.2: the Enhanced MR Image."""
    exam, order = scan.exam, list(scan.order())
    ds = enhanced(exam, "complex", SERIES, "120500", "T1FFE")
    scan.make(ds)
    exam.number(ds, 1)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "T1", "MIXED"]
    describe(ds, "MIXED", "T1")
    ds.CoverageOfKSpace, ds.KSpaceFiltering = "ELLIPTICAL", "RIESZ"
    _dimensions(ds, exam)
    ds.NumberOfFrames = len(order)
    element = item(MultiCoilElementName="MULTI ELEMENT", MultiCoilElementUsed="YES")
    ds.SharedFunctionalGroupsSequence = [shared_groups(exam, "MULTI COIL", [element])]
    ds.PerFrameFunctionalGroupsSequence = [_frame(scan, *which) for which in order]
    ds.PixelData = b"".join(scan.pixels(*which) for which in order)
    return ds


def _dimensions(ds: Dataset, exam: Exam) -> None:
    """PS3.3 C.7.6.17: frames are told apart by slice, echo time and a private element, the component."""
    component = item(
        DimensionIndexPointer=Tag(0x2005, 0x1011),
        DimensionIndexPrivateCreator=MR_IMAGING,
        FunctionalGroupPointer=Tag(0x2005, 0x140F),
        FunctionalGroupPrivateCreator=MR_FRAME,
        DimensionDescriptionLabel="Private ImageTypeMR",
    )
    echo = dimension("EffectiveEchoTime", "MREchoSequence", "Effective Echo Time")
    dimensions(ds, exam, echo, component)


def _frame(scan: _Scan, component: str, z: int, echo: int) -> Dataset:
    """Functional groups of one frame."""
    exam = scan.exam
    te_ms = echo_ms(exam.phantom.acquisition.te_s[echo])
    kind = item(FrameType=["ORIGINAL", "PRIMARY", "T1", component])
    describe(kind, NAMES[component], "T1")
    window, transformation = Dataset(), Dataset()
    scan.window(window, component)
    _rescale(transformation, component)
    transformation.RescaleType = "US"
    frame = frame_groups(exam, kind, window, transformation, z, echo)
    frame.FrameContentSequence[0].DimensionIndexValues = [1, z + 1, echo + 1, "MP".index(component) + 1]
    frame.RealWorldValueMappingSequence = [_real_world(component)]
    half = exam.phantom.acquisition.geometry.affine_mm[:3, :2].sum(axis=1) / 2
    shifted = [float(at) - shift for at, shift in zip(exam.placement.positions[z], half, strict=True)]
    private = item(EchoTime=te_ms, EchoNumbers=echo + 1, ImagePositionPatient=[decimal(at) for at in shifted])
    scan.mark(private, component)
    add_private(frame, 0x2005, MR_FRAME, {0x0F: ("SQ", [private])}, block=0x14)
    return frame
