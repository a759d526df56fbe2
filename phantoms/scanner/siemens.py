"""Siemens: VE11 classic; XA30 as classic ("interoperability") and as enhanced objects.

Magnitude is 12-bit, the largest of the acquisition 4095. Phase is 0..4095 with rescale 2 / -4096 in units of pi/4096
and rises with the field. Echoes are announced by EchoTrainLength and SequenceName, slices are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from phantoms.scanner.common import Exam, add_private, carried, write
from phantoms.scanner.enhanced import NAMES, describe, dimensions, enhanced, frame_groups, item, shared_groups
from phantoms.scanner.pixels import PhaseCode, Unsigned, bright, rows_of, stored_magnitude
from phantoms.simulate import Phantom
from phantoms.vendor import Vendor
from recon.types import Acquisition

PROTOCOL = "t2star_mgre_tra"
XA = "SIEMENS MR SDI 02"
PHASE = PhaseCode(slope=2.0, intercept=-4096.0, unit_rad=math.pi / 4096, turn=4096)


def as_stored(phantom: Phantom) -> Acquisition:
    """What all formats hold. A step is 2 pi/4096 rad of phase, 1/4095 of the largest magnitude."""
    acquisition = phantom.acquisition
    magnitude = stored_magnitude(acquisition.magnitude).astype(np.float32)
    return carried(phantom, magnitude, PHASE.decode(PHASE.encode(acquisition.phase)))


def write_classic(phantom: Phantom, folder: Path) -> list[Path]:
    """VE11: series M in ``M/``, series P in ``P/``, each echo by echo with slices rising."""
    exam, stored = _stored(phantom, Vendor.SIEMENS)
    width = bright(stored["M"])
    paths = []
    for component, number, time in (("M", 2, "120500"), ("P", 3, "120501")):
        ds = _header(exam, component, component, number, time, width)
        ds.ImageType = ["ORIGINAL", "PRIMARY", component, "ND"]
        ds.Manufacturer, ds.SoftwareVersions = "SIEMENS", "syngo MR E11"
        add_private(ds, 0x0051, "SIEMENS MR HEADER", {0x0F: ("LO", "HEA;HEP")})
        if component == "P":
            ds.RescaleType = "US"
        paths += write(_all_echoes(exam, ds, stored[component]), folder / component)
    return paths


def write_xa(phantom: Phantom, folder: Path) -> list[Path]:
    """XA30: every echo of a component is a series (``M1/``, ``M2/``, .., ``P1/``, ..), without EchoNumbers."""
    exam, stored = _stored(phantom, Vendor.SIEMENS_XA)
    width = bright(stored["M"])
    paths = []
    for component, first, time in (("M", 9000, "120500"), ("P", 10000, "120501")):
        for echo in range(len(phantom.acquisition.te_s)):
            name = f"{component}{echo + 1}"
            ds = _header(exam, component, name, first + echo + 1, time, width)
            ds.ImageType = ["ORIGINAL", "PRIMARY", component, "DIS2D", "MFSPLIT"]
            ds.Manufacturer, ds.SoftwareVersions = "Siemens Healthineers", "syngo MR XA30"
            if component == "M":
                ds.RescaleSlope, ds.RescaleIntercept = "1", "0"
            marks = {0x77: ("LO", ds.SequenceName), 0x78: ("CS", "DIS2D")}
            add_private(ds, 0x0021, XA, _coil_and_kind(component, echo, "NONE") | marks, block=0x11)
            paths += write(_echo(exam, ds, stored[component], echo, 1), folder / name)
    return paths


def write_enhanced(phantom: Phantom, folder: Path) -> list[Path]:
    """XA30: series M in ``M/``, series P in ``P/``, one object for each echo; a frame is a slice."""
    exam, stored = _stored(phantom, Vendor.SIEMENS_XA_ENHANCED)
    width = bright(stored["M"])
    paths = []
    for component, number, time in (("M", 9001, "120500"), ("P", 9002, "120501")):
        echoes = range(len(phantom.acquisition.te_s))
        objects = (_enhanced(exam, component, echo, stored[component], number, time, width) for echo in echoes)
        paths += write(objects, folder / component)
    return paths


def _enhanced(exam: Exam, component: str, echo: int, stored: Unsigned, number: int, time: str, width: int) -> Dataset:
    """The object of an echo."""
    slices = range(stored.shape[3])
    ds = enhanced(exam, component, number, time, _sequence_name(exam))
    ds.Manufacturer, ds.SoftwareVersions = "Siemens Healthineers", "syngo MR XA30"
    ds.SeriesDescription = ds.ProtocolName = PROTOCOL
    exam.number(ds, echo + 1)
    ds.ImageType = ["ORIGINAL", "PRIMARY", component, "NONE"]
    describe(ds, NAMES[component], "UNKNOWN")
    dimensions(ds, exam)
    ds.NumberOfFrames = len(slices)
    elements = [item(MultiCoilElementName=f"HC{n}", MultiCoilElementUsed="YES") for n in range(1, 8)]
    ds.SharedFunctionalGroupsSequence = [shared_groups(exam, "HeadNeck_20_TCS", elements)]
    ds.PerFrameFunctionalGroupsSequence = [_frame(exam, component, echo, z, width) for z in slices]
    ds.PixelData = b"".join(rows_of(stored[echo], z) for z in slices)
    return ds


def _frame(exam: Exam, component: str, echo: int, z: int, width: int) -> Dataset:
    """Functional groups of the frame of a slice."""
    kind = item(FrameType=["ORIGINAL", "PRIMARY", component, "NONE"])
    describe(kind, NAMES[component], "UNKNOWN")
    window = Dataset()
    _window(window, component, width)
    slope, intercept = ("2", "-4096") if component == "P" else ("1", "0")
    transformation = item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")
    frame = frame_groups(exam, kind, window, transformation, z, echo)
    frame.FrameContentSequence[0].DimensionIndexValues = [1, z + 1]
    private = Dataset()
    add_private(private, 0x0021, XA, _coil_and_kind(component, echo, "DIS2D"), block=0x11)
    add_private(frame, 0x0021, XA, {0xFE: ("SQ", [private])}, block=0x11)
    return frame


def _coil_and_kind(component: str, echo: int, kind: str) -> dict[int, tuple[str, object]]:
    """Private elements of XA: place in the reconstruction, coil elements, type of image."""
    return {
        0x06: ("LO", f"X_{echo + 1}_1_1_1_1_1_1_1_1_1_1_1"),
        0x4F: ("LO", "HC1-7;NC1"),
        0x75: ("CS", ["ORIGINAL", "PRIMARY", component, kind]),
    }


def _sequence_name(exam: Exam) -> str:
    return f"*fl3d{len(exam.phantom.acquisition.te_s)}r"


def _window(ds: Dataset, component: str, width: int) -> None:
    centre, width = (0, 8192) if component == "P" else (width // 2, width)
    ds.WindowCenter, ds.WindowWidth = str(centre), str(width)


def _stored(phantom: Phantom, vendor: Vendor) -> tuple[Exam, dict[str, Unsigned]]:
    acquisition = phantom.acquisition
    magnitude, phase = stored_magnitude(acquisition.magnitude), PHASE.encode(acquisition.phase)
    return Exam.of(phantom, vendor, magnitude, phase), {"M": magnitude, "P": phase}


def _header(exam: Exam, component: str, series: str, number: int, time: str, width: int) -> Dataset:
    ds = exam.classic(series, number, time)
    ds.SeriesDescription = ds.ProtocolName = PROTOCOL
    ds.SequenceVariant = ["SP", "OSP"]
    ds.SequenceName = _sequence_name(exam)
    ds.VariableFlipAngleFlag = "N"
    _window(ds, component, width)
    if component == "P":
        ds.RescaleSlope, ds.RescaleIntercept = "2", "-4096"
    return ds


def _all_echoes(exam: Exam, ds: Dataset, stored: Unsigned) -> Iterator[Dataset]:
    for echo in range(len(stored)):
        ds.EchoNumbers = echo + 1
        yield from _echo(exam, ds, stored, echo, 1 + echo * stored.shape[3])


def _echo(exam: Exam, ds: Dataset, stored: Unsigned, echo: int, first: int) -> Iterator[Dataset]:
    """The images of one echo, slices rising, with InstanceNumber from ``first``."""
    ds.AcquisitionTime = f"120100.{echo:03d}000"
    for z in range(stored.shape[3]):
        exam.number(ds, first + z)
        exam.place(ds, echo, z)
        ds.PixelData = rows_of(stored[echo], z)
        yield ds
