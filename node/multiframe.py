"""Enhanced MR objects as the classic images that they would be: one flat dataset per frame.

Knows the functional groups of PS3.3 C.7.6.16 and C.8.13.5; knows nothing of vendors or of what is done with
the images.
"""

from __future__ import annotations

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import EnhancedMRImageStorage

from node.vendors.convention import text

_RENAMED = {
    "EffectiveEchoTime": "EchoTime",
    "TransmitterFrequency": "ImagingFrequency",
    "ResonantNucleus": "ImagedNucleus",
    "PulseSequenceName": "SequenceName",
    "FrameType": "ImageType",
}
_SIEMENS_TYPE = (0x0021, 0x1175)
_PRIVATE = {(0x2005, 0x140F): ((0x2005, 0x100E),), (0x0021, 0x11FE): ((0x0021, 0x114F), _SIEMENS_TYPE)}
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
    shared_groups = _groups(shared[0]) if shared else {}
    top = Dataset({tag: ds.get_item(tag) for tag in list(ds.keys()) if tag.group not in {0x5200, 0x7FE0}})
    return [_flat(top, shared_groups | _groups(item), item, index) for index, item in enumerate(per_frame)]


def _groups(item: Dataset) -> dict[int, Dataset]:
    return {e.tag: e.value[0] for e in item if e.VR == "SQ" and not e.tag.is_private and e.value}


def _flat(top: Dataset, groups: dict[int, Dataset], item: Dataset, index: int) -> Dataset:
    flat = Dataset({tag: top.get_item(tag) for tag in list(top.keys())})
    for group in groups.values():
        for element in group:
            if not element.tag.is_private:
                flat[element.tag] = element
    for enhanced, classic in _RENAMED.items():
        if enhanced in flat:
            _set(flat, classic, flat[enhanced].value)
    direction = {"ROW": "ROW", "COLUMN": "COL"}.get(text(flat, "InPlanePhaseEncodingDirection"), "")
    _set(flat, "InPlanePhaseEncodingDirection", direction)
    if "ScanningSequence" not in flat:
        _set(flat, "ScanningSequence", "SE" if flat.get("EchoPulseSequence") == "SPIN" else "GR")
    if "SequenceVariant" not in flat:
        _set(flat, "SequenceVariant", "SP" if str(flat.get("Spoiling", "NONE")) not in {"", "NONE"} else "NONE")
    flat.update(_private(item))
    kind = text(flat, "ImageType").split("\\")
    more = [value for value in text(flat, _SIEMENS_TYPE).split("\\") if value and value not in kind]
    if more:
        _set(flat, "ImageType", kind + more)
    _set(flat, "InstanceNumber", index + 1)
    return flat


def _private(item: Dataset) -> Dataset:
    """What is taken from a frame's private groups; one that lost its VR (UN) is left out."""
    taken = Dataset()
    for group, tags in _PRIVATE.items():
        if group in item and item[group].VR == "SQ" and item[group].value:
            private: Dataset = item[group].value[0]
            for tag in tags:
                if tag in private:
                    taken.add(private[tag])
    return taken


def _set(flat: Dataset, keyword: str, value: object) -> None:
    """A new element: the one that is there may belong to all frames."""
    tag = Tag(keyword)
    flat[tag] = DataElement(tag, dictionary_VR(tag), value)
