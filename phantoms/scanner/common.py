"""What headers of all vendors share: identifiers, a fictional patient, and numbers as decimal strings."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from phantoms.scanner.pixels import BITS
from phantoms.simulate import Phantom
from phantoms.vendor import Vendor
from recon.types import Acquisition, FloatArray, Geometry

NAMESPACE = uuid.UUID("6f0f7a0e-2f0c-5b0e-9a0a-5d3c1f0b7c11")
"""UIDs are ``2.25.`` and the UUIDv5 of the vendor and the phantom's content in this namespace."""

DAY = "20200101"
ACQUIRED = "120100"


def decimal(value: float, digits: int = 12) -> str:
    """A decimal string of at most 16 characters; no negative zero."""
    return format_number_as_ds(round(float(value), digits) + 0.0)


def echo_ms(te_s: float) -> str:
    """Echo time in ms."""
    return decimal(te_s * 1000, 9)


def frequency_mhz(phantom: Phantom) -> str:
    """Imaging frequency in MHz, to the Hz."""
    return decimal(phantom.acquisition.f0_mhz, 6)


@dataclass(frozen=True, slots=True)
class Placement:
    """A grid as decimal strings, by PS3.3 C.7.6.2.1.1.

    Parameters
    ----------
    orientation
        Direction cosines of a row, then of a column.
    spacing
        Distance between rows, distance between columns, in mm.
    positions
        Centre of the first voxel of each slice, in mm.
    locations
        Distance of each slice from the patient origin along the slice normal, in mm.
    """

    orientation: list[str]
    spacing: list[str]
    positions: list[list[str]]
    locations: list[str]

    @classmethod
    def of(cls, geometry: Geometry) -> Placement:
        """The strings of a grid whose third axis is the cross product of the first two."""
        affine = geometry.affine_mm
        dx, dy, dz = geometry.voxel_mm
        corners = [affine[:3, 3] + affine[:3, 2] * z for z in range(geometry.shape[2])]
        return cls(
            orientation=_decimals((affine[:3, :2] / (dx, dy)).T.ravel()),
            spacing=_decimals(np.array([dy, dx])),
            positions=[_decimals(corner) for corner in corners],
            locations=[decimal(float(affine[:3, 2] @ corner) / dz) for corner in corners],
        )

    def geometry(self, columns: int, rows: int) -> Geometry:
        """The grid that the strings describe; the slice step follows from the first and the last position."""
        row, column = np.array(self.orientation, dtype=np.float64).reshape(2, 3)
        between_rows, between_columns = map(float, self.spacing)
        first, last = (np.array(position, dtype=np.float64) for position in (self.positions[0], self.positions[-1]))
        slices = len(self.positions)
        affine = np.eye(4)
        affine[:3, :3] = np.stack(
            (row * between_columns, column * between_rows, (last - first) / (slices - 1)), axis=1
        )
        affine[:3, 3] = first
        return Geometry((columns, rows, slices), affine)


def _decimals(values: npt.NDArray[np.float64]) -> list[str]:
    return [decimal(value) for value in values]


def carried(phantom: Phantom, magnitude: FloatArray, phase: FloatArray) -> Acquisition:
    """Decoded arrays with the times, the frequency and the grid that the decimal strings carry."""
    geometry = phantom.acquisition.geometry
    return Acquisition(
        magnitude=magnitude,
        phase=phase,
        te_s=tuple(float(echo_ms(te_s)) / 1000 for te_s in phantom.acquisition.te_s),
        f0_mhz=float(frequency_mhz(phantom)),
        geometry=Placement.of(geometry).geometry(*geometry.shape[:2]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Exam:
    """A phantom on one vendor's scanner: what all its objects have in common."""

    phantom: Phantom
    key: str
    placement: Placement

    @classmethod
    def of(cls, phantom: Phantom, vendor: Vendor, *stored: npt.NDArray[np.integer]) -> Exam:
        """Identified by the vendor, the stored integers and what the phantom was made from."""
        content = hashlib.sha256(repr((vendor.value, phantom.protocol, phantom.head_seed, phantom.seed)).encode())
        for volume in stored:
            content.update(volume.data)
        return cls(phantom, content.hexdigest(), Placement.of(phantom.acquisition.geometry))

    def uid(self, *what: object) -> str:
        """The identifier of something in this exam."""
        return f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(map(str, (self.key, *what)))).int}"

    def header(
        self, sop_class: UID, series: str, number: int, time: str, syntax: UID = ExplicitVRLittleEndian
    ) -> Dataset:
        """Study, series and patient."""
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
        ds.file_meta.TransferSyntaxUID = syntax
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.Modality = "MR"
        ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.InstanceCreationDate = DAY
        ds.StudyTime = "120000"
        ds.SeriesTime = ds.ContentTime = ds.InstanceCreationTime = time
        ds.AccessionNumber = ""
        ds.ManufacturerModelName = "Numerical phantom"
        ds.DeviceSerialNumber = "0"
        ds.InstitutionName = "Numerical phantom"
        ds.ReferringPhysicianName = ""
        ds.StudyDescription = "QSM phantom"
        ds.StudyInstanceUID = self.uid("study")
        ds.SeriesInstanceUID = self.uid("series", series)
        ds.FrameOfReferenceUID = self.uid("frame")
        ds.PositionReferenceIndicator = ""
        ds.StudyID = "1"
        ds.SeriesNumber = number
        ds.AcquisitionNumber = 1

        ds.PatientName = "QSM^PHANTOM"
        ds.PatientID = f"PHANTOM-{self.phantom.head_seed}-{self.phantom.seed}"
        ds.PatientBirthDate = "20000101"
        ds.PatientSex = "O"
        ds.PatientWeight = "70"
        ds.PatientPosition = "HFS"
        ds.BodyPartExamined = "BRAIN"
        made = f"head {self.phantom.head_seed}, scan {self.phantom.seed}"
        ds.ImageComments = f"phantom: simulated, {made}; not a patient"
        self._matrix(ds)
        return ds

    def classic(self, series: str, number: int, time: str, syntax: UID = ExplicitVRLittleEndian) -> Dataset:
        """What every image of a classic series shares: `header`, the sequence and the plane's orientation."""
        ds = self.header(MRImageStorage, series, number, time, syntax)
        acquisition, protocol = self.phantom.acquisition, self.phantom.protocol
        columns, rows, _ = acquisition.geometry.shape
        dx, dy, dz = acquisition.geometry.voxel_mm
        ds.AcquisitionDate = DAY
        ds.AcquisitionTime = ACQUIRED
        ds.ScanningSequence = "GR"
        ds.SequenceVariant = "SP"
        ds.ScanOptions = ""
        ds.MRAcquisitionType = "3D"
        ds.AngioFlag = "N"
        ds.SliceThickness = ds.SpacingBetweenSlices = decimal(dz, 9)
        ds.RepetitionTime = decimal(protocol.tr_s * 1000, 9)
        ds.EchoTrainLength = len(acquisition.te_s)
        ds.FlipAngle = decimal(protocol.flip_deg)
        ds.NumberOfAverages = "1"
        ds.ImagingFrequency = frequency_mhz(self.phantom)
        ds.ImagedNucleus = "1H"
        ds.MagneticFieldStrength = decimal(protocol.b0_t)
        ds.NumberOfPhaseEncodingSteps = rows
        ds.PercentSampling = "100"
        ds.PercentPhaseFieldOfView = decimal(100 * rows * dy / (columns * dx), 6)
        ds.AcquisitionMatrix = [0, columns, rows, 0]
        ds.InPlanePhaseEncodingDirection = "COL"
        ds.TransmitCoilName = "Body"
        ds.PixelSpacing = self.placement.spacing
        ds.ImageOrientationPatient = self.placement.orientation
        return ds

    def _matrix(self, ds: Dataset) -> None:
        ds.Columns, ds.Rows, _ = self.phantom.acquisition.geometry.shape
        ds.SamplesPerPixel = 1
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, BITS, BITS - 1
        ds.PixelRepresentation = 0

    def number(self, ds: Dataset, instance: int) -> None:
        """Make the dataset the ``instance``-th object of its series."""
        ds.InstanceNumber = instance
        ds.SOPInstanceUID = self.uid(ds.SeriesNumber, instance)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID

    def place(self, ds: Dataset, echo: int, z: int) -> None:
        """Make the dataset an image of an echo and a slice."""
        ds.EchoTime = echo_ms(self.phantom.acquisition.te_s[echo])
        ds.ImagePositionPatient = self.placement.positions[z]
        ds.SliceLocation = self.placement.locations[z]


def add_private(
    ds: Dataset, group: int, creator: str, elements: dict[int, tuple[str, object]], block: int = 0x10
) -> None:
    """Private elements, VR and value of each, in the block of the group that the vendor's scanners use."""
    ds.add_new((group, block), "LO", creator)
    for element, (vr, value) in elements.items():
        ds.add_new((group, block << 8 | element), vr, value)


def write(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    """One file for each dataset as it comes, numbered from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(datasets, start=1):
        path = folder / f"{number:05d}.dcm"
        dcmwrite(path, ds, enforce_file_format=True)
        paths.append(path)
    return paths
