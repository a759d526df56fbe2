"""What an object that came over the wire is: not for us, unusable, or an image with its header.

Reads bytes; knows no network, journal or disk.
"""

from __future__ import annotations

from io import BytesIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import get_expected_length, pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from node.errors import Unreadable
from node.headers import Header, read_header
from node.site import Site

IMAGE_CLASSES = frozenset({MRImageStorage, EnhancedMRImageStorage})
"""SOP classes that can be part of an acquisition. Objects of every other class are ignored."""

_LOSSLESS = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLossless,
)
IMAGE_TRANSFER_SYNTAXES = tuple(uid for uid in _LOSSLESS if get_decoder(uid).is_available)
"""Lossless, and decodable with what is installed: phase does not survive lossy compression."""


class NotForUs(Exception):
    """The object is of no use to the node; the message says why, `own` whether it is one of the node's own."""

    def __init__(self, why: str, own: bool = False) -> None:
        super().__init__(why)
        self.own = own


def examine(sop_class_uid: str, sop_instance_uid: str, part10: bytes, site: Site) -> Header:
    """The header of an image that can be part of an acquisition.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid
        As the C-STORE request says.
    part10
        The object as a file.
    site
        What this site states about its scanners.

    Raises
    ------
    NotForUs
        Not an MR image, derived by this product, or compressed in a way that is lossy or cannot be decoded here.
    Unreadable
        Not a data set, truncated, not the object that was announced, or pixels that cannot be decoded.
    """
    if sop_class_uid not in IMAGE_CLASSES:
        raise NotForUs(f"{UID(sop_class_uid).name} is not an MR image")
    try:
        ds = pydicom.dcmread(BytesIO(part10))
        header = read_header(ds, site)
    except Exception as error:  # pydicom raises nearly anything on nonsense
        raise Unreadable(f"not a DICOM data set ({type(error).__name__})") from error
    if header.sop_instance_uid != sop_instance_uid or header.sop_class_uid != sop_class_uid:
        raise Unreadable("the data set is not the object that the C-STORE request announced, or is cut off")
    if header.own:
        raise NotForUs("derived by this product, sent back", own=True)
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax not in IMAGE_TRANSFER_SYNTAXES:
        raise NotForUs(f"MR image in {syntax.name}: lossy, or not to be decoded here; send it uncompressed")
    if header.refusal and header.refusal.code == "unreadable":
        raise Unreadable(header.refusal.sentence)
    _check_pixels(ds)
    return header


def _check_pixels(ds: Dataset) -> None:
    if "PixelData" not in ds:
        raise Unreadable("image without pixel data: truncated?")
    try:
        expected, found = get_expected_length(ds), len(ds.PixelData or b"")
        short = found < expected
        if ds.file_meta.TransferSyntaxUID.is_encapsulated:
            pixel_array(ds)
            short = False
    except Exception as error:  # decoders raise nearly anything on nonsense
        raise Unreadable(f"pixels cannot be decoded ({type(error).__name__})") from error
    if short:
        raise Unreadable(f"truncated: {found} of {expected} bytes of pixels")
