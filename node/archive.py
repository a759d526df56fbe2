"""Optional archival objects, by highdicom: the brain mask as Segmentation, QSM as float Parametric Map.

Both refer to the images of the derived QSM series. Nothing here is the delivery: many viewers cannot show them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import highdicom
import numpy as np
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.sr.coding import Code
from pydicom.tag import Tag

from node import __version__
from node.identity import PRODUCT, derived_uid
from node.inherit import OF_STUDY, keep_bytes
from node.provenance import MANUFACTURER, Provenance
from recon.pipeline import Result
from recon.types import BoolArray, FloatArray

_SERIAL = "none"
"""DeviceSerialNumber is Type 1 in enhanced equipment; software has none."""
_CHECKED = ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime")
"""What highdicom takes over only if it is standard."""


def segmentation(images: Sequence[Dataset], result: Result, provenance: Provenance) -> Dataset:
    """The brain mask as Segmentation Storage, over the images of the QSM series in array order."""
    supplied = bool(provenance.supplied_mask_sha256)
    kind = SegmentAlgorithmTypeValues.MANUAL if supplied else SegmentAlgorithmTypeValues.AUTOMATIC
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=type(result.recipe.mask).__name__,
        family=Code("123104", "DCM", "Morphological Operations"),
        version=__version__,
    )
    ds = _built(
        Segmentation,
        images,
        pixel_array=_frames(result.brain),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            SegmentDescription(
                segment_number=1,
                segment_label="Brain mask",
                segmented_property_category=Code("123037004", "SCT", "Anatomical Structure"),
                segmented_property_type=Code("12738006", "SCT", "Brain"),
                algorithm_type=kind,
                algorithm_identification=None if supplied else algorithm,
            )
        ],
        series_instance_uid=provenance.series_uid("mask"),
        series_number=provenance.series_number(3),
        sop_instance_uid=provenance.instance_uid("mask", 0),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=PRODUCT,
        software_versions=__version__,
        device_serial_number=_SERIAL,
        omit_empty_frames=False,
        content_label="BRAIN_MASK",
        series_description=provenance.series_description("QSM brain mask"),
    )
    return _settled(ds, provenance)


def parametric_map(images: Sequence[Dataset], result: Result, provenance: Provenance) -> Dataset:
    """QSM in ppb as float32 Parametric Map Storage, over the images of the QSM series in array order."""
    ppb = _frames(result.chi.chi_ppm * np.float32(1000))
    mapping = RealWorldValueMapping(
        lut_label="QSM",
        lut_explanation="Magnetic susceptibility [ppb]",
        unit=Code("[ppb]", "UCUM", "parts per billion"),
        value_range=(float(ppb.min()), float(ppb.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=Code("126396", "DCM", "Magnetic Susceptibility"),
    )
    ds = _built(
        ParametricMap,
        images,
        pixel_array=ppb,
        series_instance_uid=provenance.series_uid("pmap"),
        series_number=provenance.series_number(4),
        sop_instance_uid=provenance.instance_uid("pmap", 0),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=PRODUCT,
        software_versions=__version__,
        device_serial_number=_SERIAL,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        window_center=0,
        window_width=400,
        content_label="QSM",
        series_description=provenance.series_description("QSM parametric map [ppb]"),
    )
    for keyword in ("BodyPartExamined", "Laterality"):
        if keyword in images[0]:
            ds[keyword] = images[0][keyword]
    return _settled(ds, provenance)


def _frames(volume: FloatArray | BoolArray) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """Array [x, y, z] as frames (z, rows, columns)."""
    return np.ascontiguousarray(volume.transpose(2, 1, 0))


def _built(build: Callable[..., Dataset], images: Sequence[Dataset], **arguments: object) -> Dataset:
    """An object of highdicom that has patient and study of its source images unchanged, as these have them.

    Its warnings are not shown: they may quote the images.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = build(source_images=[_without_checked(ds) for ds in images], specific_character_set=None, **arguments)
    for tag in OF_STUDY:
        if tag in images[0] and (tag in ds or tag == Tag("SpecificCharacterSet")):
            ds[tag] = images[0].get_item(tag)
    return ds


def _without_checked(image: Dataset) -> Dataset:
    blank = Dataset()
    blank.update(image)
    for keyword in _CHECKED:
        blank[keyword] = DataElement(keyword, dictionary_VR(keyword), None)  # the image's own element is shared
    return blank


def _settled(ds: Dataset, provenance: Provenance) -> Dataset:
    """The object with the times of the derivation and with identifiers that do not change from run to run."""
    provenance.stamp(ds)
    ds.DerivationDescription = provenance.derivation()
    organization = derived_uid(ds.SOPInstanceUID, "dimensions")
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    correct_ambiguous_vr(ds, True)
    keep_bytes(ds)
    return ds
