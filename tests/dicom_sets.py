"""Small complex gradient-echo scans as Siemens, GE and Philips write them.

The vendors' conventions are written out here once more, from their description and not from the code under test.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.misc import is_dicom
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from recon.types import Acquisition, Geometry

STUDY = "1.2.826.0.1.3680043.8.498.1"


def scan(
    seed: int = 0, shape=(7, 6, 16), echoes=2, b0_dir=(0.3, -0.2, 0.93), voxel_mm=(1.5, 2.0, 2.5)
) -> Acquisition:
    """Smooth magnitude, phase that rises with a smooth field and wraps."""
    rng = np.random.default_rng(seed)
    te_s = tuple(np.round(0.004 + 0.0061 * np.arange(echoes), 5).tolist())
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    field_hz = 70 * x + 45 * y * y - 60 * z + rng.normal(0, 2, shape)
    te = np.array(te_s)[:, None, None, None]
    magnitude = 1500 * (1 - 0.3 * (x * x + y * y)) * np.exp(-te / 0.03) * rng.uniform(0.9, 1, (echoes, *shape))
    phase = np.angle(np.exp(1j * (0.4 + 2 * np.pi * field_hz * te)))
    phase[:, 0, 0, :2] = np.pi * np.array([-0.999, 0.999])  # the whole range is used
    geometry = Geometry.of(shape, voxel_mm, b0_dir)
    return Acquisition(magnitude.astype(np.float32), phase.astype(np.float32), te_s, 123.25, geometry)


def siemens(scan: Acquisition, tags: bool = True, variants: tuple[str, ...] = ("ND",)) -> list[Dataset]:
    """VE classic: M series and P series, phase 0..4095, rescale 2 / -4096 that may be missing."""
    images = []
    for number, (variant, component) in enumerate([(v, "M") for v in variants] + [("ND", "P")], start=2):
        for echo, k, ds in _planes(scan):
            _identify(ds, f"5.{number}", number, echo * scan.geometry.shape[2] + k + 1)
            ds.Manufacturer, ds.ManufacturerModelName = "SIEMENS", "Prisma"
            ds.SequenceName = f"*fl3d{len(scan.te_s)}r"
            ds.EchoTrainLength = len(scan.te_s)
            ds.ImageType = ["ORIGINAL", "PRIMARY", component, *variant.split("\\")]
            if component == "M":
                gain = 0.7 if "NORM" in variant else 1.0
                _store(ds, gain * scan.magnitude[echo, :, :, k], 12, signed=False)
            else:
                stored = np.rint(scan.phase[echo, :, :, k] * (2048 / np.pi) + 2048) % 4096
                _store(ds, stored, 12, signed=False)
                if tags:
                    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "2", "-4096", "US"
            images.append(ds)
    return images


def siemens_xa(scan: Acquisition) -> list[Dataset]:
    """XA classic: every echo of every component is a series, without EchoNumbers."""
    images = siemens(scan)
    for ds in images:
        component, echo = ds.ImageType[2], int(ds.EchoNumbers)
        ds.Manufacturer = "Siemens Healthineers"
        ds.ImageType = ["ORIGINAL", "PRIMARY", component, "DIS2D", "MFSPLIT"]
        ds.SeriesNumber = (9000 if component == "M" else 10000) + echo
        ds.SeriesInstanceUID = f"{STUDY}.6.{ds.SeriesNumber}"
        del ds.EchoNumbers
    return images


def ge(scan: Acquisition, components: str = "MRI", chopper: bool = True) -> list[Dataset]:
    """One series; kind in (0043,102F); phase falls with the field; every second slice may be negated."""
    images, number = [], 0
    for echo, k, base in _planes(scan):
        negated = -1 if chopper and k % 2 else 1
        signal = scan.magnitude[echo, :, :, k] * np.exp(-1j * scan.phase[echo, :, :, k].astype(np.float64)) * negated
        values = {"M": np.abs(signal), "P": np.angle(signal) * 1000, "R": signal.real, "I": signal.imag}
        for component in components:
            number += 1
            ds = deepcopy(base)
            _identify(ds, "7.1", 9, number)
            ds.Manufacturer, ds.ManufacturerModelName = "GE MEDICAL SYSTEMS", "DISCOVERY MR750"
            ds.ImageType, ds.ScanningSequence, ds.SequenceVariant = ["ORIGINAL", "PRIMARY", "OTHER"], "RM", "NONE"
            ds.EchoTrainLength = 1
            _private(ds, 0x0043, "GEMS_PARM_01", 0x2F, "SS", "MPRI".index(component))
            _private(ds, 0x0019, "GEMS_ACQU_01", 0x7E, "SS", len(scan.te_s))
            _private(ds, 0x0021, "GEMS_RELA_01", 0x4F, "SS", scan.geometry.shape[2])
            _store(ds, values[component], 16, signed=True)
            images.append(ds)
    return images


def philips(scan: Acquisition, components: str = "MP") -> list[Dataset]:
    """One series; phase in mrad by rescale; magnitude, real and imaginary with a slope and a scale slope."""
    images = []
    names = {"M": "M_FFE", "P": "PHASE MAP", "R": "R_FFE", "I": "I_FFE"}
    for component in components:
        for echo, k, ds in _planes(scan):
            _identify(ds, "8.1", 2001, len(images) + 1)
            ds.Manufacturer, ds.ManufacturerModelName = "Philips", "Ingenia"
            ds.AcquisitionNumber = 20
            ds.EchoTrainLength = len(scan.te_s)
            ds.ImageType = ["ORIGINAL", "PRIMARY", names[component], component, "FFE"]
            _private(ds, 0x2001, "Philips Imaging DD 001", 0x14, "SL", len(scan.te_s))
            _private(ds, 0x2001, "Philips Imaging DD 001", 0x18, "SL", scan.geometry.shape[2])
            if component == "P":
                _store(ds, (scan.phase[echo, :, :, k] * 1000 + 3142) / 1.53455433455433, 12, signed=False)
                ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "1.53455433455433", "-3142", "mrad"
            else:
                signal = scan.magnitude[echo, :, :, k] * np.exp(1j * scan.phase[echo, :, :, k])
                value = {"M": np.abs(signal), "R": signal.real, "I": signal.imag}[component]
                slope, offset = 1.25 + echo, 0.0 if component == "M" else -2048 * (1.25 + echo)
                # precise value = (slope stored + offset) / (slope scale), with scale 0.5
                _store(ds, 0.5 * value - offset / slope, 12, signed=False)
                ds.RescaleSlope, ds.RescaleIntercept = format_number_as_ds(slope), format_number_as_ds(offset)
                ds.RescaleType = "normalized"
                _private(ds, 0x2005, "Philips MR Imaging DD 001", 0x0E, "FL", 0.5)
            images.append(ds)
    return images


_PER_FRAME = """
    EchoTime EchoNumbers ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness RescaleSlope
    RescaleIntercept RescaleType ScanningSequence SequenceVariant RepetitionTime ImagingFrequency
"""


def philips_enhanced(scan: Acquisition) -> Dataset:
    """All frames in one Enhanced MR object; RescaleType says US for mrad."""
    classic = philips(scan)
    top = deepcopy(classic[0])
    for keyword in _PER_FRAME.split():
        del top[keyword]
    top.SOPClassUID = top.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    top.ImageType, top.ComplexImageComponent = ["ORIGINAL", "PRIMARY", "T1", "MIXED"], "MIXED"
    top.NumberOfFrames = len(classic)
    shared = Dataset()
    shared.MRImagingModifierSequence = [Dataset()]
    shared.MRImagingModifierSequence[0].TransmitterFrequency = scan.f0_mhz
    shared.MRTimingAndRelatedParametersSequence = [Dataset()]
    shared.MRTimingAndRelatedParametersSequence[0].RepetitionTime = "40"
    top.SharedFunctionalGroupsSequence = [shared]
    top.PerFrameFunctionalGroupsSequence = [_functional_groups(ds) for ds in classic]
    top.PixelData = b"".join(ds.PixelData for ds in classic)
    return top


def _functional_groups(ds: Dataset) -> Dataset:
    groups: dict[str, dict[str, object]] = {
        "MREchoSequence": {"EffectiveEchoTime": float(ds.EchoTime)},
        "MRImageFrameTypeSequence": {
            "FrameType": ["ORIGINAL", "PRIMARY", "T1", ds.ImageType[3]],
            "ComplexImageComponent": {"M": "MAGNITUDE", "P": "PHASE"}[ds.ImageType[3]],
        },
        "PlanePositionSequence": {"ImagePositionPatient": ds.ImagePositionPatient},
        "PlaneOrientationSequence": {"ImageOrientationPatient": ds.ImageOrientationPatient},
        "PixelMeasuresSequence": {"PixelSpacing": ds.PixelSpacing, "SliceThickness": "2.5"},
        "PixelValueTransformationSequence": {
            "RescaleSlope": ds.RescaleSlope,
            "RescaleIntercept": ds.RescaleIntercept,
            "RescaleType": "US",
        },
    }
    frame = Dataset()
    for sequence, elements in groups.items():
        item = Dataset()
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        setattr(frame, sequence, [item])
    if (0x2005, 0x100E) in ds:
        private = Dataset()
        _private(private, 0x2005, "Philips MR Imaging DD 001", 0x0E, "FL", 0.5)
        _private(frame, 0x2005, "Philips MR Imaging DD 005", 0x0F, "SQ", [private], block=0x14)
    return frame


def write(images: Iterable[Dataset], folder: Path) -> list[Path]:
    """The images as files, named by their place in the list."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(images):
        path = folder / f"{number:05d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def header_only(path: Path) -> Dataset:
    """The file's dataset without pixels."""
    return dcmread(path, stop_before_pixels=True)


def repeated(images: list[Dataset], series_offset: int) -> list[Dataset]:
    """The scan once more, under new identifiers."""
    again = [deepcopy(ds) for ds in images]
    for ds in again:
        ds.SeriesNumber = int(ds.SeriesNumber) + series_offset
        ds.SeriesInstanceUID = f"{ds.SeriesInstanceUID}.{series_offset}"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ds.SOPInstanceUID}.{series_offset}"
    return again


def renewed(images: Iterable[Dataset], name: str) -> list[Dataset]:
    """The study as another one of that name: all UIDs are new."""
    other = [deepcopy(ds) for ds in images]
    for ds in other:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            ds[keyword].value = generate_uid(entropy_srcs=[name, ds[keyword].value])
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return other


def reversed_slices(scan: Acquisition) -> Acquisition:
    """The same patient acquired from the other end: slices and slice axis turned round."""
    affine = scan.geometry.affine_mm.copy()
    affine[:3, 3] += affine[:3, 2] * (scan.geometry.shape[2] - 1)
    affine[:3, 2] *= -1
    return replace(
        scan,
        magnitude=np.ascontiguousarray(scan.magnitude[..., ::-1]),
        phase=np.ascontiguousarray(scan.phase[..., ::-1]),
        geometry=Geometry(scan.geometry.shape, affine),
    )


def _planes(scan: Acquisition) -> Iterator[tuple[int, int, Dataset]]:
    affine = scan.geometry.affine_mm
    row, column = (affine[:3, axis] / scan.geometry.voxel_mm[axis] for axis in (0, 1))
    for echo, te_s in enumerate(scan.te_s):
        for k in range(scan.geometry.shape[2]):
            ds = Dataset()
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds.SpecificCharacterSet = "ISO_IR 100"
            ds.SOPClassUID, ds.Modality = MRImageStorage, "MR"
            ds.PatientName, ds.PatientID = "Müller^Ångström", "P1"
            ds.PatientBirthDate, ds.PatientSex = "19500101", "O"
            ds.StudyInstanceUID, ds.StudyDate, ds.StudyTime = STUDY, "20200101", "120000"
            ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = "A1", "1", ""
            ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = f"{STUDY}.2", ""
            ds.ProtocolName = ds.SeriesDescription = "gre_qsm"
            ds.BodyPartExamined, ds.PatientPosition = "BRAIN", "HFS"
            ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "SP", "", "3D"
            ds.RepetitionTime, ds.FlipAngle = "40", "15"
            ds.EchoTime, ds.EchoNumbers = format_number_as_ds(round(te_s * 1e3, 9)), echo + 1
            ds.ImagingFrequency, ds.MagneticFieldStrength = format_number_as_ds(scan.f0_mhz), "3"
            ds.AcquisitionNumber = 1
            ds.AcquisitionDate, ds.AcquisitionTime = "20200101", f"1201{echo:02d}"
            position = affine[:3, 3] + k * affine[:3, 2]
            ds.ImagePositionPatient = [format_number_as_ds(v) for v in np.round(position, 9).tolist()]
            ds.ImageOrientationPatient = [format_number_as_ds(v) for v in np.round([*row, *column], 12).tolist()]
            x, y, z = scan.geometry.voxel_mm
            ds.PixelSpacing = [format_number_as_ds(round(y, 9)), format_number_as_ds(round(x, 9))]
            ds.SliceThickness = format_number_as_ds(round(z, 9))
            yield echo, k, ds


def _identify(ds: Dataset, branch: str, series_number: int, number: int) -> None:
    ds.SeriesInstanceUID, ds.SeriesNumber = f"{STUDY}.{branch}", series_number
    ds.SOPInstanceUID = f"{STUDY}.{branch}.{number}"
    ds.InstanceNumber = number
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID


def _private(ds: Dataset, group: int, creator: str, element: int, vr: str, value: object, block: int = 0x10) -> None:
    ds.add_new((group, block), "LO", creator)
    ds.add_new((group, (block << 8) + element), vr, value)


def _store(ds: Dataset, values: np.ndarray, bits: int, signed: bool) -> None:
    """Array [x, y] as rows and columns."""
    ds.Columns, ds.Rows = values.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, bits, bits - 1, int(signed)
    ds.PixelData = np.ascontiguousarray(np.rint(values).T, dtype="<i2" if signed else "<u2").tobytes()


def dicom_files(folder: Path) -> list[Path]:
    """Every DICOM file below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and is_dicom(path))
