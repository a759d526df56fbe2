"""Siemens: VE11 classic, and the classic ("interoperability") objects of XA30.

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
from phantoms.scanner.pixels import PhaseCode, Unsigned, bright, rows_of, stored_magnitude
from phantoms.simulate import Phantom
from phantoms.vendor import Vendor
from recon.types import Acquisition

PHASE = PhaseCode(slope=2.0, intercept=-4096.0, unit_rad=math.pi / 4096, turn=4096)


def as_stored(phantom: Phantom) -> Acquisition:
    """What both formats hold. A step is 2 pi/4096 rad of phase, 1/4095 of the largest magnitude."""
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
            coil_and_kind = {
                0x06: ("LO", f"X_{echo + 1}_1_1_1_1_1_1_1_1_1_1_1"),
                0x4F: ("LO", "HC1-7;NC1"),
                0x75: ("CS", ["ORIGINAL", "PRIMARY", component, "NONE"]),
                0x77: ("LO", ds.SequenceName),
                0x78: ("CS", "DIS2D"),
            }
            add_private(ds, 0x0021, "SIEMENS MR SDI 02", coil_and_kind, block=0x11)
            paths += write(_echo(exam, ds, stored[component], echo, 1), folder / name)
    return paths


def _stored(phantom: Phantom, vendor: Vendor) -> tuple[Exam, dict[str, Unsigned]]:
    acquisition = phantom.acquisition
    magnitude, phase = stored_magnitude(acquisition.magnitude), PHASE.encode(acquisition.phase)
    return Exam.of(phantom, vendor, magnitude, phase), {"M": magnitude, "P": phase}


def _header(exam: Exam, component: str, series: str, number: int, time: str, width: int) -> Dataset:
    ds = exam.classic(series, number, time)
    ds.SeriesDescription = ds.ProtocolName = "t2star_mgre_tra"
    ds.SequenceVariant = ["SP", "OSP"]
    ds.SequenceName = f"*fl3d{ds.EchoTrainLength}r"
    ds.VariableFlipAngleFlag = "N"
    if component == "P":
        ds.WindowCenter, ds.WindowWidth = "0", "8192"
        ds.RescaleSlope, ds.RescaleIntercept = "2", "-4096"
    else:
        ds.WindowCenter, ds.WindowWidth = str(width // 2), str(width)
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
