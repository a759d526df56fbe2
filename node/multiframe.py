"""Enhanced MR objects as the classic images that they would be: one flat dataset per frame.

Knows the functional groups of PS3.3 C.7.6.16 and C.8.13.5; knows nothing of vendors or of what is done with
the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import EnhancedMRImageStorage

from node.vendors.convention import text

_RENAMED = {
    Tag(enhanced): Tag(classic)
    for enhanced, classic in {
        "EffectiveEchoTime": "EchoTime",
        "TransmitterFrequency": "ImagingFrequency",
        "ResonantNucleus": "ImagedNucleus",
        "PulseSequenceName": "SequenceName",
        "FrameType": "ImageType",
    }.items()
}
_INSTANCE_NUMBER, _IMAGE_TYPE = Tag("InstanceNumber"), Tag("ImageType")
_DIRECTION = Tag("InPlanePhaseEncodingDirection")
_PHILIPS_SCALE_SLOPE = Tag(0x2005, 0x100E)
_SIEMENS_TYPE = (0x0021, 0x1175)
_PRIVATE: dict[BaseTag, tuple[BaseTag | tuple[int, int], ...]] = {
    Tag(0x2005, 0x140F): (_PHILIPS_SCALE_SLOPE,),
    Tag(0x0021, 0x11FE): ((0x0021, 0x114F), _SIEMENS_TYPE),
}
"""What is taken from private groups: Philips' scale slope; Siemens' coil elements and type of image."""


def frames(ds: Dataset) -> list[Dataset]:
    """One flat dataset per frame, in order; a classic image is its own only frame.

    Each functional group is taken from the frame, and from the shared groups where the frame lacks it.
    Private groups are left out (the position in Philips' private group is off by half a voxel), but for Philips'
    scale slope, and Siemens' coil elements and type of image: there alone stand normalisation and distortion
    correction.
    """
    per_frame = ds.get("PerFrameFunctionalGroupsSequence")
    if ds.get("SOPClassUID") != EnhancedMRImageStorage or not per_frame:
        return [ds]
    shared = ds.get("SharedFunctionalGroupsSequence")
    common = _elements(ds, lambda tag: tag.group not in {0x5200, 0x7FE0})
    shared_groups = _groups(shared[0]) if shared else {}
    return [_flat(common, shared_groups | _groups(item), item, index) for index, item in enumerate(per_frame)]


def forget_private(ds: Dataset) -> None:
    """Delete the private elements of a dataset, which are most of it, but for Philips' scale slope.

    Creators stay: in implicit VR, only they tell what a private element's bytes mean.
    """
    for tag in list(ds.keys()):
        if tag.is_private and not tag.is_private_creator and tag != _PHILIPS_SCALE_SLOPE:
            del ds[tag]


_Elements = dict[BaseTag, DataElement | RawDataElement]


def _elements(ds: Dataset, wanted: Callable[[BaseTag], bool]) -> _Elements:
    """Elements as they are, under their classic names too.

    There are thousands of frames: what nobody asks for is not decoded, and what is shared is renamed once.
    """
    kept = ((tag, ds.get_item(tag)) for tag in list(ds.keys()) if wanted(tag))
    found: _Elements = {tag: element for tag, element in kept if element is not None}
    for enhanced, classic in _RENAMED.items():
        if enhanced in found:
            found[classic] = DataElement(classic, dictionary_VR(classic), ds[enhanced].value)
    return found


def _groups(item: Dataset) -> dict[BaseTag, _Elements]:
    sequences = (item[tag] for tag in list(item.keys()) if not tag.is_private)
    return {e.tag: _elements(e.value[0], _is_public) for e in sequences if e.VR == "SQ" and e.value}


def _is_public(tag: BaseTag) -> bool:
    return not tag.is_private


def _flat(common: _Elements, groups: dict[BaseTag, _Elements], item: Dataset, index: int) -> Dataset:
    elements = dict(common)
    for group in groups.values():
        elements |= group
    flat = Dataset(elements)
    if "ScanningSequence" not in flat:
        flat.ScanningSequence = "SE" if flat.get("EchoPulseSequence") == "SPIN" else "GR"
    if "SequenceVariant" not in flat:
        flat.SequenceVariant = "SP" if str(flat.get("Spoiling", "NONE")) not in {"", "NONE"} else "NONE"
    for taken in _private(item):
        flat.add(taken)
    kind = text(flat, "ImageType").split("\\")
    more = [value for value in text(flat, _SIEMENS_TYPE).split("\\") if value and value not in kind]
    if more:
        flat[_IMAGE_TYPE] = DataElement(_IMAGE_TYPE, "CS", kind + more)
    if "InPlanePhaseEncodingDirection" in flat:
        direction = {"ROW": "ROW", "COLUMN": "COL"}.get(text(flat, "InPlanePhaseEncodingDirection"), "")
        flat[_DIRECTION] = DataElement(_DIRECTION, "CS", direction)
    flat[_INSTANCE_NUMBER] = DataElement(_INSTANCE_NUMBER, "IS", index + 1)  # the one that is there is of all frames
    return flat


def _private(item: Dataset) -> Iterator[DataElement]:
    """What is taken from a frame's private groups; one that lost its VR (UN) is left out."""
    for group, tags in _PRIVATE.items():
        if group in item and item[group].VR == "SQ" and item[group].value:
            private: Dataset = item[group].value[0]
            yield from (private[tag] for tag in tags if tag in private)
