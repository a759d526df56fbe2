"""Who the node is inside DICOM objects: its name, its UIDs, and how it recognises what it wrote.

Knows nothing of pixels or of what the objects contain.
"""

from __future__ import annotations

import re
from uuid import UUID, uuid5

from pydicom.dataset import Dataset
from pydicom.uid import UID

PRODUCT = "qsm-node"
"""ManufacturerModelName of every object that the node writes."""

PROCESSING_EQUIPMENT = "109102"
"""(109102, DCM, "Processing Equipment"): purpose of a ContributingEquipmentSequence item, CID 7005."""

_NAMESPACE = UUID("6f0c9f4e-5b0e-5a53-9d0b-3f3a4f6f1c52")


def derived_uid(*parts: str) -> UID:
    """A UID that is a function of ``parts`` alone: ``2.25.`` and the decimal of a UUIDv5 (PS3.5 B.2)."""
    return UID(f"2.25.{uuid5(_NAMESPACE, chr(10).join(parts)).int}")


def is_uid(text: str) -> bool:
    """Whether this can be a UID: 1 to 64 digits and dots (PS3.5 section 9.1; leading zeros occur)."""
    return re.fullmatch(r"[0-9.]{1,64}", text) is not None


def uid_name(text: str) -> str:
    """The name of a registered UID, another one as it is. What is no UID can hold anything, and is not repeated."""
    return UID(text).name if is_uid(text) else "(not a UID)"


IMPLEMENTATION_UID = derived_uid("implementation")
"""ImplementationClassUID of the files that the node writes."""


def is_own(ds: Dataset) -> bool:
    """Whether the node wrote this object: it names `qsm-node` as the equipment that processed it.

    PACS auto-routing sends derived series back to where their sources went; they must not be processed again.
    """
    if str(ds.get("ManufacturerModelName", "")) == PRODUCT:
        return True
    for item in ds.get("ContributingEquipmentSequence") or ():
        purposes = {str(code.get("CodeValue", "")) for code in item.get("PurposeOfReferenceCodeSequence") or ()}
        if PROCESSING_EQUIPMENT in purposes and str(item.get("ManufacturerModelName", "")) == PRODUCT:
            return True
    return False
