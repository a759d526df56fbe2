"""A brain mask that the user supplies, NIfTI or DICOM Segmentation, on the grid of an acquisition.

Both are matched by their geometry in the patient, whatever the order and direction of their axes. A Segmentation
must also belong to the acquisition, where that is DICOM: same frame of reference, or it refers to one of its images.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from highdicom.seg import Segmentation, segread
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.misc import is_dicom
from pydicom.uid import UID, SegmentationStorage

from node import bids
from node.errors import BadMask, Unreadable
from node.load import Source
from recon.types import BoolArray, Geometry

_GRID_TOLERANCE = 0.1
"""Of a voxel: how far a mask's grid may lie off."""
_SEGMENTATIONS = {SegmentationStorage, UID("1.2.840.10008.5.1.4.1.1.66.7")}
"""Segmentation and Label Map Segmentation Storage."""
_BRAIN = {("12738006", "SCT"), ("T-A0100", "SRT"), ("50801", "FMA")}


def read_mask(path: Path, geometry: Geometry, source: Source | None = None) -> BoolArray:
    """The mask in a file, bool on the grid of ``geometry``.

    NIfTI: what is above 0. Segmentation: its only segment, or the only one of several that is coded as brain; one
    half or more where it is fractional, nothing where it has no frame.

    Parameters
    ----------
    source
        The DICOM images of the acquisition, if they are.

    Raises
    ------
    BadMask
        It does not lie on the grid, is empty, belongs to other images, or leaves open which segment is the brain.
    Unreadable
        It is neither NIfTI nor DICOM, or damaged.
    """
    if is_dicom(path):
        mask = _from_segmentation(path, geometry, source)
    else:
        image = bids.read_image(path)
        if sorted(image.shape) != sorted(geometry.shape):
            raise _elsewhere(path, geometry)
        mask = _placed(path, bids.read_values(image) > 0, bids.RAS_TO_LPS @ image.affine, geometry, whole=True)
    if not mask.any():
        raise BadMask(f"{path.name}: the mask is empty")
    return mask


def _from_segmentation(path: Path, geometry: Geometry, source: Source | None) -> BoolArray:
    found = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"]).SOPClassUID
    if found not in _SEGMENTATIONS:
        raise BadMask(f"{path.name} is {found.name}: a mask must be DICOM Segmentation or NIfTI")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote the data set
        try:
            seg = segread(path)
            number = _brain(path, seg)
            volume = seg.get_volume(segment_numbers=[number])
        except BadMask:
            raise
        except Exception as error:
            why = type(error).__name__
            raise Unreadable(f"{path.name}: Segmentation cannot be read as a volume ({why})") from error
    if source is not None and not _belongs(seg, source):
        raise BadMask(f"{path.name} belongs to other images: neither their frame of reference nor one of them")
    return _placed(path, volume.array[..., 0] >= 0.5, volume.affine, geometry)


def _brain(path: Path, seg: Segmentation) -> int:
    """Number of the segment to use."""
    segments = {number: seg.get_segment_description(number) for number in seg.segment_numbers}
    if len(segments) == 1:
        return int(next(iter(segments)))
    types = {number: segment.segmented_property_type for number, segment in segments.items()}
    brains = [number for number, kind in types.items() if (kind.value, kind.scheme_designator) in _BRAIN]
    if len(brains) == 1:
        return int(brains[0])
    names = ", ".join(f"{number} {segment.segment_label}" for number, segment in segments.items())
    which = f"{len(brains)} of its {len(segments)} segments are coded as brain ({names})"
    raise BadMask(f"{path.name}: {which}; a mask needs one segment, or one brain among several")


def _belongs(seg: Dataset, source: Source) -> bool:
    theirs = seg.get("FrameOfReferenceUID")
    ours = source.templates[0][0].get("FrameOfReferenceUID")
    if not ours or theirs == ours:
        return True
    images = {image.sop_instance_uid for images in source.images for image in images}
    return any(
        item.ReferencedSOPInstanceUID in images
        for series in seg.get("ReferencedSeriesSequence", [])
        for item in series.get("ReferencedInstanceSequence", [])
    )


def _placed(
    path: Path, volume: BoolArray, affine_mm: npt.NDArray[np.float64], geometry: Geometry, whole: bool = False
) -> BoolArray:
    """A volume with its own affine (LPS) on the grid of ``geometry``, where their voxels coincide.

    Segmentations may leave out what is empty, and so be smaller or larger than the grid; ``whole`` volumes may not.
    """
    to_grid = np.linalg.inv(geometry.affine_mm) @ affine_mm
    turn, start = np.rint(to_grid[:3, :3]).astype(int), np.rint(to_grid[:3, 3]).astype(int)
    last = np.array(volume.shape) - 1
    corners = np.array(np.meshgrid(*((0, n) for n in last))).reshape(3, -1)
    off = to_grid[:3, :3] @ corners + to_grid[:3, 3:] - (turn @ corners + start[:, None])
    if not (abs(turn).sum(axis=0) == 1).all() or not (abs(turn).sum(axis=1) == 1).all():
        raise _elsewhere(path, geometry)
    places = turn @ np.stack(np.nonzero(volume)) + start[:, None]
    bounded = turn @ corners + start[:, None] if whole else places
    inside = (bounded >= 0) & (bounded < np.array(geometry.shape)[:, None])
    if np.abs(off).max() > _GRID_TOLERANCE or not inside.all():
        raise _elsewhere(path, geometry)
    mask = np.zeros(geometry.shape, dtype=np.bool_)
    mask[tuple(places)] = True
    return mask


def _elsewhere(path: Path, geometry: Geometry) -> BadMask:
    return BadMask(f"{path.name} does not lie on the grid of the acquisition, {geometry.shape} voxels")
