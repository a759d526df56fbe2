"""GE: one classic series that holds magnitude and either real and imaginary or phase images of every slice and echo.

Stored is the conjugate of the signal, its sign alternating from slice to slice (the "chopper"), as int16 without
rescale; phase images are its angle in mrad. ImageType is ``OTHER`` for everything; (0043,102F) tells 0 magnitude,
1 phase, 2 real, 3 imaginary. Echoes are announced by (0019,107E), while EchoTrainLength is 1; slices by (0021,104F).
Objects are in implicit VR, where private elements lose theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from phantoms.scanner import common
from phantoms.scanner.common import Exam, add_private, carried
from phantoms.scanner.pixels import bright, gain, rows_of
from phantoms.simulate import Phantom
from phantoms.vendor import Vendor
from recon.types import Acquisition, FloatArray

Signed = npt.NDArray[np.int16]

TOP = 8191
"""The largest magnitude of the acquisition."""

MAGNITUDE, PHASE, REAL, IMAGINARY = range(4)
SERIES = 9


def as_stored_complex(phantom: Phantom) -> Acquisition:
    """What the real and imaginary images hold: a step is 1/8191 of the largest magnitude in each of them."""
    real, imaginary = _complex(phantom)
    magnitude, phase = np.empty(real.shape, np.float32), np.empty(real.shape, np.float32)
    for echo, (x, y) in enumerate(zip(real, imaginary, strict=True)):
        np.hypot(x, y, out=magnitude[echo], dtype=np.float32)
        np.arctan2(y, x, out=phase[echo], dtype=np.float32)
    return carried(phantom, magnitude, _risen(phase))


def as_stored_phase(phantom: Phantom) -> Acquisition:
    """What the magnitude and phase images hold: a step is 1/8191 of the largest magnitude, and 1 mrad."""
    phase = _angle(phantom).astype(np.float32)
    phase *= np.float32(1e-3)
    return carried(phantom, _magnitude(phantom).astype(np.float32), _risen(phase))


def write_complex(phantom: Phantom, folder: Path) -> list[Path]:
    """Slices rising; in a slice echo by echo; of an echo magnitude, real, imaginary."""
    real, imaginary = _complex(phantom)
    stored = {MAGNITUDE: _magnitude(phantom), REAL: real, IMAGINARY: imaginary}
    return common.write(_images(Exam.of(phantom, Vendor.GE, *stored.values()), stored), folder)


def write_phase(phantom: Phantom, folder: Path) -> list[Path]:
    """As `write_complex`; of an echo magnitude, phase."""
    stored = {MAGNITUDE: _magnitude(phantom), PHASE: _angle(phantom)}
    return common.write(_images(Exam.of(phantom, Vendor.GE_PHASE, *stored.values()), stored), folder)


def _risen(phase: FloatArray) -> FloatArray:
    """Stored angles in rad to phase that rises with the field; in place.

    The chopper is undone by half a turn: the angle of negated components would differ in the last bits.
    """
    odd = phase[..., 1::2]
    odd += np.where(odd > 0, np.float32(-np.pi), np.float32(np.pi))
    return np.negative(phase, out=phase)


def _magnitude(phantom: Phantom) -> Signed:
    """Stored magnitude images, int16 (E, X, Y, Z)."""
    magnitude = phantom.acquisition.magnitude
    return np.asarray(np.rint(magnitude * gain(magnitude, TOP)), np.int16)


def _angle(phantom: Phantom) -> Signed:
    """Stored phase images, int16 (E, X, Y, Z): the angle of the conjugate, with the chopper, in mrad."""
    acquisition = phantom.acquisition
    angle = np.empty(acquisition.phase.shape, np.int16)
    half_turns = np.pi * (np.arange(acquisition.geometry.shape[2]) % 2)
    for echo, phase in enumerate(acquisition.phase):
        chopped = half_turns - phase
        angle[echo] = np.rint(1000 * (chopped - 2 * np.pi * np.rint(chopped / (2 * np.pi))))
    return angle


def _complex(phantom: Phantom) -> tuple[Signed, Signed]:
    """Stored real and imaginary images, int16 (E, X, Y, Z)."""
    acquisition = phantom.acquisition
    scale = gain(acquisition.magnitude, TOP)
    chopped = np.where(np.arange(acquisition.geometry.shape[2]) % 2, -scale, scale)
    real, imaginary = (np.empty(acquisition.magnitude.shape, np.int16) for _ in range(2))
    for echo, (magnitude, phase) in enumerate(zip(acquisition.magnitude, acquisition.phase, strict=True)):
        real[echo] = np.rint(magnitude * np.cos(phase) * chopped)
        imaginary[echo] = np.rint(magnitude * -np.sin(phase) * chopped)
    return real, imaginary


def _images(exam: Exam, stored: dict[int, Signed]) -> Iterator[Dataset]:
    ds = _header(exam, stored)
    width = bright(stored[MAGNITUDE])
    echoes, _, _, slices = stored[MAGNITUDE].shape
    order = ((z, echo, kind) for z in range(slices) for echo in range(echoes) for kind in stored)
    for number, (z, echo, kind) in enumerate(order, start=1):
        exam.number(ds, number)
        exam.place(ds, echo, z)
        ds.EchoNumbers = echo + 1
        ds[0x0043, 0x102F].value = kind
        centre, full = {MAGNITUDE: (width // 2, width), PHASE: (0, 6284)}.get(kind, (0, 2 * width))
        ds.WindowCenter, ds.WindowWidth = str(centre), str(full)
        ds.PixelData = rows_of(stored[kind][echo], z)
        yield ds


def _header(exam: Exam, stored: dict[int, Signed]) -> Dataset:
    echoes, _, _, slices = stored[MAGNITUDE].shape
    ds = exam.classic("complex", SERIES, "120500", ImplicitVRLittleEndian)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.Manufacturer, ds.SoftwareVersions = "GE MEDICAL SYSTEMS", ["27", "LX", "MR Software release:DV26.0"]
    ds.SeriesDescription = ds.ProtocolName = "Ax 3D mGRE"
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "RM", "NONE", "EDR_GEMS"
    ds.VariableFlipAngleFlag = "N"
    ds.EchoTrainLength = 1
    ds.ImagesInAcquisition = echoes * slices * len(stored)
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 15, 1
    add_private(ds, 0x0019, "GEMS_ACQU_01", {0x7E: ("SS", echoes), 0x9C: ("LO", "efgre3d"), 0x9E: ("LO", "EFGRE3D")})
    add_private(ds, 0x0021, "GEMS_RELA_01", {0x4F: ("SS", slices)})
    add_private(ds, 0x0043, "GEMS_PARM_01", {0x2F: ("SS", MAGNITUDE)})
    return ds
