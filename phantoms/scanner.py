"""A phantom as the DICOM files that a scanner would send: Siemens classic (VE11), magnitude and phase series.

Only the header and the integer coding are this module's; the numbers come from the phantom.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from phantoms.simulate import Phantom
from recon.types import FloatArray

NAMESPACE = uuid.UUID("6f0f7a0e-2f0c-5b0e-9a0a-5d3c1f0b7c11")
"""UIDs are ``2.25.`` and the UUIDv5 of the phantom's content in this namespace."""

DAY = "20200101"
STORED_BITS = 12


@dataclass(frozen=True, slots=True)
class _Series:
    """What tells the two series apart: ImageType value 3, number, time, window."""

    component: str
    number: int
    time: str
    centre: int
    width: int


def write_dicom(phantom: Phantom, folder: Path) -> list[Path]:
    """Write magnitude and phase of every echo and slice.

    Parameters
    ----------
    phantom
        What to write. Equal phantoms give equal bytes, UIDs included.
    folder
        Made if absent. Gets ``M/`` and ``P/`` with one file per image, echo by echo.

    Returns
    -------
    list of Path
        All magnitude images, then all phase images, each echo-major with slices rising.

    Notes
    -----
    Phase is stored as 0..4095 with slope 2 and intercept -4096: (2 v - 4096) pi / 4096 rad, rising with the field.
    Magnitude is scaled so that the largest value of the acquisition is 4095.
    """
    magnitude, phase = stored_magnitude(phantom), stored_phase(phantom.acquisition.phase)
    content = hashlib.sha256(magnitude.tobytes())
    content.update(phase.tobytes())
    content.update(repr((phantom.protocol, phantom.head_seed, phantom.seed)).encode())
    key = content.hexdigest()
    bright = int(np.percentile(magnitude[0], 99))
    both = (
        (_Series("M", 2, "120500", bright // 2, bright), magnitude),
        (_Series("P", 3, "120501", 0, 8192), phase),
    )
    paths = []
    for series, stored in both:
        target = folder / series.component
        target.mkdir(parents=True, exist_ok=True)
        for number, dataset in enumerate(_images(phantom, series, stored, key), start=1):
            path = target / f"{number:05d}.dcm"
            dcmwrite(path, dataset, enforce_file_format=True)
            paths.append(path)
    return paths


def stored_magnitude(phantom: Phantom) -> npt.NDArray[np.uint16]:
    """Magnitude (E, X, Y, Z) as 12-bit integers; one scale for all echoes."""
    magnitude = phantom.acquisition.magnitude
    top = np.float32(2**STORED_BITS - 1)
    return np.asarray(np.rint(magnitude * (top / magnitude.max())), dtype=np.uint16)


def stored_phase(phase_rad: FloatArray) -> npt.NDArray[np.uint16]:
    """Phase in rad as 12-bit integers: 0 is -pi, 2048 is 0; pi comes round to 0."""
    half = 2 ** (STORED_BITS - 1)
    steps = np.rint(phase_rad * np.float32(half / np.pi)).astype(np.int32) + half
    return np.asarray(steps % (2 * half), dtype=np.uint16)


def _uid(key: str, *what: object) -> str:
    return f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(map(str, (key, *what)))).int}"


def _numbers(values: npt.NDArray[np.float64]) -> list[str]:
    """Decimal strings of at most 16 characters; no negative zero."""
    return [format_number_as_ds(float(np.round(value, 12)) + 0.0) for value in values]


def _images(phantom: Phantom, series: _Series, stored: npt.NDArray[np.uint16], key: str) -> Iterator[Dataset]:
    """Datasets of one series, echo by echo, slices rising."""
    geometry = phantom.acquisition.geometry
    affine = geometry.affine_mm
    normal = affine[:3, 2] / geometry.voxel_mm[2]
    dataset = _common(phantom, series, key)
    number = 0
    for echo, te_s in enumerate(phantom.acquisition.te_s):
        for z in range(geometry.shape[2]):
            number += 1
            position = affine[:3, 3] + affine[:3, 2] * z
            dataset.SOPInstanceUID = _uid(key, series.component, number)
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.AcquisitionTime = f"120100.{echo:03d}000"
            dataset.InstanceNumber = number
            dataset.EchoNumbers = echo + 1
            dataset.EchoTime = format_number_as_ds(round(te_s * 1000, 9))
            dataset.ImagePositionPatient = _numbers(position)
            dataset.SliceLocation = _numbers(np.array([normal @ position]))[0]
            dataset.PixelData = np.ascontiguousarray(stored[echo, :, :, z].T).tobytes()
            yield dataset


def _common(phantom: Phantom, series: _Series, key: str) -> Dataset:
    """What every image of a series shares."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian

    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", series.component, "ND"]
    ds.SOPClassUID = MRImageStorage
    ds.Modality = "MR"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = ds.InstanceCreationDate = DAY
    ds.StudyTime = "120000"
    ds.SeriesTime = ds.ContentTime = ds.InstanceCreationTime = series.time
    ds.AccessionNumber = ""
    ds.Manufacturer = "SIEMENS"
    ds.ManufacturerModelName = "Numerical phantom"
    ds.DeviceSerialNumber = "0"
    ds.SoftwareVersions = "syngo MR E11"
    ds.InstitutionName = "Numerical phantom"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "QSM phantom"
    ds.SeriesDescription = ds.ProtocolName = "t2star_mgre_tra"

    ds.StudyInstanceUID = _uid(key, "study")
    ds.SeriesInstanceUID = _uid(key, series.component)
    ds.FrameOfReferenceUID = _uid(key, "frame")
    ds.PositionReferenceIndicator = ""
    ds.StudyID = "1"
    ds.SeriesNumber = series.number
    ds.AcquisitionNumber = 1
    _patient(ds, phantom)
    _sequence(ds, phantom)
    _pixels(ds, phantom, series)
    return ds


def _patient(ds: Dataset, phantom: Phantom) -> None:
    ds.PatientName = "QSM^PHANTOM"
    ds.PatientID = f"PHANTOM-{phantom.head_seed}-{phantom.seed}"
    ds.PatientBirthDate = "20000101"
    ds.PatientSex = "O"
    ds.PatientWeight = "70"
    ds.PatientPosition = "HFS"
    ds.BodyPartExamined = "BRAIN"

    ds.ImageComments = f"phantom: simulated, head {phantom.head_seed}, scan {phantom.seed}; not a patient"


def _sequence(ds: Dataset, phantom: Phantom) -> None:
    acquisition, protocol = phantom.acquisition, phantom.protocol
    columns, rows, _ = acquisition.geometry.shape
    dx, dy, dz = acquisition.geometry.voxel_mm
    ds.ScanningSequence = "GR"
    ds.SequenceVariant = ["SP", "OSP"]
    ds.ScanOptions = ""
    ds.MRAcquisitionType = "3D"
    ds.SequenceName = f"*fl3d{len(acquisition.te_s)}r"
    ds.AngioFlag = "N"
    ds.SliceThickness = ds.SpacingBetweenSlices = format_number_as_ds(round(dz, 9))
    ds.RepetitionTime = format_number_as_ds(round(protocol.tr_s * 1000, 9))
    ds.EchoTrainLength = len(acquisition.te_s)
    ds.FlipAngle = format_number_as_ds(protocol.flip_deg)
    ds.VariableFlipAngleFlag = "N"
    ds.NumberOfAverages = "1"
    ds.ImagingFrequency = format_number_as_ds(round(acquisition.f0_mhz, 6))
    ds.ImagedNucleus = "1H"
    ds.MagneticFieldStrength = format_number_as_ds(protocol.b0_t)
    ds.NumberOfPhaseEncodingSteps = rows
    ds.PercentSampling = "100"
    ds.PercentPhaseFieldOfView = format_number_as_ds(round(100 * rows * dy / (columns * dx), 6))
    ds.AcquisitionMatrix = [0, columns, rows, 0]
    ds.InPlanePhaseEncodingDirection = "COL"
    ds.TransmitCoilName = "Body"
    coil = ds.private_block(0x0051, "SIEMENS MR HEADER", create=True)
    coil.add_new(0x0F, "LO", "HEA;HEP")


def _pixels(ds: Dataset, phantom: Phantom, series: _Series) -> None:
    geometry = phantom.acquisition.geometry
    columns, rows, _ = geometry.shape
    dx, dy, _ = geometry.voxel_mm
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = rows, columns
    ds.PixelSpacing = _numbers(np.array([dy, dx]))
    ds.ImageOrientationPatient = _numbers((geometry.affine_mm[:3, :2] / (dx, dy)).T.ravel())
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, STORED_BITS, STORED_BITS - 1
    ds.PixelRepresentation = 0
    ds.WindowCenter, ds.WindowWidth = str(series.centre), str(series.width)
    if series.component == "P":
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "2", "-4096", "US"
