"""Derived series: classic MR Image Storage for QSM and GRE phase, slice for slice from the source images.

QSM is stored in ppb and GRE phase in mrad, as signed 16 bit integers without rescale and with one integer window:
the encoding that viewers agree on. Stored GRE phase is *minus* the physical high-passed phase: a paramagnetic
cylinder along B0 is dark, across B0 bright. Knows no network and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from node import __version__
from node.archive import parametric_map, segmentation
from node.errors import NotReproduced, PermanentError
from node.files import make_folder, sync_folder, write_whole
from node.identity import IMPLEMENTATION_UID, derived_uid, is_own
from node.inherit import inherited, keep_bytes
from node.load import Source
from node.provenance import Provenance, code, encoded_sequence
from node.report import Report
from recon.pipeline import Result
from recon.reference import RegionValue
from recon.types import FloatArray

__all__ = ["DeriveOptions", "Derived", "is_own", "write_derived"]

Series = Literal["qsm", "phase", "mask", "pmap", "notice"]

_INT16 = np.iinfo(np.int16)
_WRITERS = 4
"""Files that are written at once."""


@dataclass(frozen=True, slots=True)
class DeriveOptions:
    """What is written beside QSM and GRE phase.

    Parameters
    ----------
    segmentation
        The brain mask as DICOM SEG.
    parametric_map
        QSM as float32 Parametric Map: an archival copy, never the delivery.
    supplied_mask_sha256
        Digest of a mask that the user supplied instead of the automatic one; part of the identifiers.
    supersedes
        Time of derivation of the result that this one takes the place of, since further images came.
    written
        Name and SHA-256 of files that were written before and have to come out as they were.
    """

    segmentation: bool = False
    parametric_map: bool = False
    supplied_mask_sha256: str = ""
    supersedes: datetime | None = None
    written: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Derived:
    """A file that was written."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    series: Series
    sha256: str


@dataclass(frozen=True, eq=False)
class _Volume:
    """A volume on its way into a series of classic images."""

    series: Series
    number: int
    name: str
    stored: npt.NDArray[np.int16]
    echo: int
    image_type: tuple[str, ...]
    description: tuple[str, ...]
    window_width: int
    unit: Dataset
    quantity: Dataset | None

    @cached_property
    def real_world(self) -> RawDataElement:
        """Stored value = value in the unit; PS3.3 C.7.6.16.2.11."""
        item = Dataset()
        item.add(DataElement(Tag("RealWorldValueFirstValueMapped"), "SS", _INT16.min))
        item.add(DataElement(Tag("RealWorldValueLastValueMapped"), "SS", _INT16.max))
        item.RealWorldValueIntercept = 0.0
        item.RealWorldValueSlope = 1.0
        item.LUTLabel = self.series.upper()
        item.LUTExplanation = self.name
        item.MeasurementUnitsCodeSequence = [self.unit]
        if self.quantity is not None:
            quantity = Dataset()
            quantity.ValueType = "CODE"
            quantity.ConceptNameCodeSequence = [code("246205007", "SCT", "Quantity")]
            quantity.ConceptCodeSequence = [self.quantity]
            item.QuantityDefinitionSequence = [quantity]
        return encoded_sequence("RealWorldValueMappingSequence", [item])


def write_derived(
    source: Source,
    result: Result,
    report: Report,
    folder: Path,
    derived_at: datetime,
    options: DeriveOptions = DeriveOptions(),
) -> list[Derived]:
    """Write the derived series into ``folder`` (made if absent): ``<series>-<instance number>.dcm``.

    The same source, recipe, version, options and ``derived_at`` give the same bytes. Files are written under a
    temporary name, synchronised and renamed.

    Raises
    ------
    PermanentError
        The result holds NaN or infinity, or does not lie on the grid of the source.
    NotReproduced
        A file does not come out as it was written before; it stays as it is.
    """
    provenance = Provenance(
        source, result, report, derived_at, options.supplied_mask_sha256, options.supersedes
    )  # fmt: skip
    make_folder(folder)
    before = dict(options.written)

    def write(series: Series, ds: Dataset, content: bytes) -> Derived:
        path = folder / f"{series}-{ds.InstanceNumber:04d}.dcm"
        digest = write_whole(path, content, before.get(path.name, ""))
        return Derived(path, ds.SOPClassUID, ds.SOPInstanceUID, series, digest)

    with ThreadPoolExecutor(_WRITERS) as writers:  # one object is encoded while others are synchronised
        objects = _objects(source, result, provenance, options)
        writing = [writers.submit(write, series, ds, encoded(ds)) for series, ds in objects]
    sync_folder(folder)
    written = [future.result() for future in writing]
    gone = before.keys() - {item.path.name for item in written}
    if gone:
        raise NotReproduced(f"{min(gone)} does not come out any more: version or settings changed since")
    return written


def encoded(ds: Dataset) -> bytes:
    """The dataset as the bytes of a DICOM file, explicit VR little endian; equal datasets give equal bytes."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = IMPLEMENTATION_UID
    ds.file_meta.ImplementationVersionName = f"QSM_NODE_{__version__}"[:16]
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _objects(
    source: Source, result: Result, provenance: Provenance, options: DeriveOptions
) -> Iterator[tuple[Series, Dataset]]:
    numbers = _instance_numbers(source)
    qsm = _qsm(result)
    images = [_image(qsm, k, numbers[k], source, provenance) for k in range(len(numbers))]
    yield from (("qsm", ds) for ds in images)
    phase = _phase(source, result)
    yield from (("phase", _image(phase, k, numbers[k], source, provenance)) for k in range(len(numbers)))
    if options.segmentation:
        yield "mask", segmentation(images, result, provenance)
    if options.parametric_map:
        yield "pmap", parametric_map(images, result, provenance)


def _qsm(result: Result) -> _Volume:
    chi = result.chi
    stored, clipped = quantised(np.where(chi.mask, chi.chi_ppm, np.float32(0)), "QSM", "ppb")
    return _Volume(
        series="qsm",
        number=1,
        name="QSM [ppb]",
        stored=stored,
        echo=0,
        image_type=("DERIVED", "PRIMARY", "OTHER", "QSM"),
        description=(
            "Magnetic susceptibility in ppb: paramagnetic (hemorrhage, iron) positive, diamagnetic (calcification)"
            f" negative. Reference region (0 ppb): {chi.reference}. 0 outside the brain mask.",
            *(_mean_of(value) for value in result.references),
            *clipped,
        ),
        window_width=400,
        unit=code("[ppb]", "UCUM", "parts per billion"),
        quantity=code("126396", "DCM", "Magnetic Susceptibility"),
    )


def _mean_of(value: RegionValue) -> str:
    return f"Mean +- SD of {value.region}: {1000 * value.mean_ppm:.0f} +- {1000 * value.sd_ppm:.0f} ppb."


def _phase(source: Source, result: Result) -> _Volume:
    te_s = np.array(source.acquisition.te_s)
    stored, clipped = quantised(-result.highpass_rad, "GRE phase", "mrad")
    return _Volume(
        series="phase",
        number=2,
        name="HPF phase [mrad]",
        stored=stored,
        echo=int(np.argmin(np.abs(te_s - result.highpass_te_s))),
        image_type=("DERIVED", "PRIMARY", "PHASE MAP", "HPF"),
        description=(
            f"High-pass filtered phase in mrad of the echo at {result.highpass_te_s * 1e3:.4g} ms, stored as minus"
            " the physical phase, which rises with the field: a paramagnetic cylinder along B0 is dark, across B0"
            " bright, a diamagnetic one the reverse.",
            *clipped,
        ),
        window_width=2000,
        unit=code("mrad", "UCUM", "milliradian"),
        quantity=None,
    )


def quantised(values: FloatArray, name: str, unit: str) -> tuple[npt.NDArray[np.int16], tuple[str, ...]]:
    """Thousandths of ``values``, rounded, as int16; with a warning where they had to be clipped: never wrapped."""
    if not np.isfinite(values.sum(dtype=np.float64)):
        raise PermanentError(f"{name} holds values that are not finite")
    thousandths = np.rint(values * np.float32(1000))
    outside = int(np.count_nonzero((thousandths < _INT16.min) | (thousandths > _INT16.max)))
    warning = f"{outside} voxels lie outside {_INT16.min} to {_INT16.max} {unit} and were clipped."
    return np.clip(thousandths, _INT16.min, _INT16.max).astype(np.int16), (warning,) if outside else ()


def _instance_numbers(source: Source) -> list[int]:
    """1, 2, ... in the order of the source's own instance numbers; by position where these do not tell."""
    given = [int(ds.get("InstanceNumber") or 0) for ds in source.templates[0]]
    if len(set(given)) < len(given):
        return list(range(1, len(given) + 1))
    return [sorted(given).index(number) + 1 for number in given]


def _image(volume: _Volume, k: int, number: int, source: Source, provenance: Provenance) -> Dataset:
    """One classic MR image: slice ``k`` of the volume on the slice of the source."""
    ds = inherited(source.templates[volume.echo][k])
    stored = volume.stored[:, :, k].T
    if stored.shape != (ds.Rows, ds.Columns):
        raise PermanentError(f"{volume.name} has {stored.shape} rows and columns, its source {ds.Rows}, {ds.Columns}")
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = provenance.instance_uid(volume.series, k)
    ds.SeriesInstanceUID = provenance.series_uid(volume.series)
    if not ds.get("FrameOfReferenceUID"):
        ds.FrameOfReferenceUID = derived_uid(source.templates[0][0].SeriesInstanceUID, "frame of reference")
    ds.Modality = "MR"
    ds.SeriesNumber = provenance.series_number(volume.number)
    ds.SeriesDescription = provenance.series_description(volume.name)
    ds.InstanceNumber = number
    ds.ImageType = list(volume.image_type)
    ds.DerivationDescription = provenance.derivation(*volume.description)
    sources = provenance.source_images[k]
    ds[sources.tag] = sources
    provenance.stamp(ds)
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.WindowCenter = "0"
    ds.WindowWidth = str(volume.window_width)
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.add_new("PixelData", "OW", np.ascontiguousarray(stored, dtype="<i2").tobytes())
    ds[volume.real_world.tag] = volume.real_world
    keep_bytes(ds)
    return ds
