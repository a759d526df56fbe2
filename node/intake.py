"""What an object that came over the wire is: not for us, unusable, or an image with its header.

Reads bytes; knows no network, journal or disk.
"""

from __future__ import annotations

from io import BytesIO

import pydicom
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, EnhancedMRImageStorage, MRImageStorage

from node.codecs import IMAGE_TRANSFER_SYNTAXES, check_inflation, check_pixels
from node.errors import Unreadable
from node.headers import Header, read_header
from node.identity import uid_name
from node.site import Site

IMAGE_CLASSES = frozenset({MRImageStorage, EnhancedMRImageStorage})
"""SOP classes that can be part of an acquisition. Objects of every other class are ignored."""


class NotForUs(Exception):
    """The object is of no use to the node; the message says why, `own` whether it is one of the node's own."""

    def __init__(self, why: str, own: bool = False) -> None:
        super().__init__(why)
        self.own = own


def examine(sop_class_uid: str, sop_instance_uid: str, syntax: UID, head: bytes, data: bytes, site: Site) -> Header:
    """The header of an image that can be part of an acquisition. Pixels are checked, but not decoded.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, syntax
        As the C-STORE request and its presentation context say.
    head, data
        What comes before the data set in a file, and the data set.
    site
        What this site states about its scanners.

    Raises
    ------
    NotForUs
        Not an MR image, derived by this product, or compressed in a way that is lossy or cannot be decoded here.
    Unreadable
        Not a data set, truncated, not the object that was announced, or pixels that do not fit their header.
    """
    if sop_class_uid not in IMAGE_CLASSES:
        raise NotForUs(f"{uid_name(sop_class_uid)} is not an MR image")
    if syntax == DeflatedExplicitVRLittleEndian:
        check_inflation(data)
    try:
        ds = pydicom.dcmread(BytesIO(head + data))
        header = read_header(ds, site)
    except Exception as error:  # pydicom raises nearly anything on nonsense
        raise Unreadable(f"not a DICOM data set ({type(error).__name__})") from error
    if header.sop_instance_uid != sop_instance_uid or header.sop_class_uid != sop_class_uid:
        raise Unreadable("the data set is not the object that the C-STORE request announced, or is cut off")
    if header.own:
        raise NotForUs("derived by this product, sent back", own=True)
    if syntax not in IMAGE_TRANSFER_SYNTAXES:
        raise NotForUs(f"MR image in {uid_name(syntax)}: lossy, or not to be decoded here; send it uncompressed")
    if header.refusal and header.refusal.code == "unreadable":
        raise Unreadable(header.refusal.sentence)
    check_pixels(ds)
    return header
