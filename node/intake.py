"""What an object that came over the wire is: not for us, unusable, or an image with its header.

Reads bytes; knows no network, journal or disk beyond the files that it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, EnhancedMRImageStorage, MRImageStorage

from node import multiframe
from node.assemble import acquisition_key
from node.codecs import IMAGE_TRANSFER_SYNTAXES, check_inflation, check_pixels
from node.errors import Refused, Unreadable
from node.headers import read_header
from node.identity import uid_name
from node.site import Site
from node.vendors.convention import number

IMAGE_CLASSES = frozenset({MRImageStorage, EnhancedMRImageStorage})
"""SOP classes that can be part of an acquisition. Objects of every other class are ignored."""

_NUMBERS = (
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "ImagingFrequency",
    "MagneticFieldStrength",
)


class NotForUs(Exception):
    """The object is of no use to the node; the message says why."""


@dataclass(frozen=True, slots=True)
class Image:
    """What the journal is told about an image.

    Parameters
    ----------
    header
        `node.headers.Header.to_json`.
    """

    study_uid: str
    key: str
    sop_instance_uid: str
    header: str


@dataclass(frozen=True, slots=True)
class Useless:
    """An object that is not taken, and why: ignored (not for us) or rejected (unusable)."""

    kind: Literal["ignored", "rejected"]
    reason: str
    sop_instance_uid: str


def not_for_us(sop_class_uid: str, syntax: UID) -> str:
    """Why objects of this class in this transfer syntax are of no use, whatever is in them; empty if they are."""
    if sop_class_uid not in IMAGE_CLASSES:
        return f"{uid_name(sop_class_uid)} is not an MR image"
    if syntax not in IMAGE_TRANSFER_SYNTAXES:
        return f"MR image in {uid_name(syntax)}: lossy, or not to be decoded here; send it uncompressed"
    return ""


def examine_files(files: Sequence[tuple[Path, int]], site: Site) -> list[Image | Useless]:
    """What came, of files with the place at which their data set begins."""
    return [_examine_file(path, start, site) for path, start in files]


def _examine_file(path: Path, start: int, site: Site) -> Image | Useless:
    content = path.read_bytes()
    try:
        return examine(content, start, site)
    except NotForUs as why:
        return Useless("ignored", str(why), _announced(content[:start]))
    except Unreadable as why:
        return Useless("rejected", str(why), _announced(content[:start]))


def _announced(head: bytes) -> str:
    return str(pydicom.dcmread(BytesIO(head)).file_meta.MediaStorageSOPInstanceUID)


def examine(content: bytes, start: int, site: Site) -> Image:
    """What the journal keeps of an image. Pixels are checked, but not decoded.

    Parameters
    ----------
    content, start
        The file, and the place at which its data set begins; before that stands what the sender announced.
    site
        What this site states about its scanners.

    Raises
    ------
    NotForUs
        Derived by this product.
    Unreadable
        Not a data set, truncated, not the object that was announced, or pixels that do not fit their header.
    """
    try:
        return _examine(content, start, site)
    except (NotForUs, Unreadable, MemoryError):
        raise
    except Exception as error:  # pydicom raises nearly anything on nonsense, also when a value is looked at
        raise Unreadable(f"not a DICOM data set ({type(error).__name__})") from error


def _examine(content: bytes, start: int, site: Site) -> Image:
    if DeflatedExplicitVRLittleEndian.encode() in content[:start]:
        check_inflation(content[start:])
    if content.startswith(b"\2\0", start):  # group 0002
        raise Unreadable("the data set begins with file meta information, which would replace what was announced")
    ds = pydicom.dcmread(BytesIO(content))
    header = read_header(ds, site)
    announced = ds.file_meta.MediaStorageSOPInstanceUID, ds.file_meta.MediaStorageSOPClassUID
    if (header.sop_instance_uid, header.sop_class_uid) != announced:
        raise Unreadable("the data set is not the object that the C-STORE request announced, or is cut off")
    if header.own:
        raise NotForUs("derived by this product, sent back")
    if header.refusal and header.refusal.code == "unreadable":
        raise Unreadable(header.refusal.sentence)
    check_pixels(ds)
    return Image(header.study_uid, acquisition_key(header), header.sop_instance_uid, header.to_json())


def compare_files(pairs: Sequence[tuple[Path, Path]], site: Site) -> list[bool]:
    """Of each two files, whether they differ in nothing that reconstruction takes from them.

    An archive may add, drop and correct what no reconstruction looks at, when it sends an image again. What cannot be
    read equals nothing.
    """
    return [_agree(first, second, site) for first, second in pairs]


def _agree(first: Path, second: Path, site: Site) -> bool:
    try:
        return _taken(pydicom.dcmread(first), site) == _taken(pydicom.dcmread(second), site)
    except MemoryError:
        raise
    except Exception:  # as above; or the disk fails
        return False


def _taken(ds: Dataset, site: Site) -> tuple[list[str], bytes]:
    """All that reconstruction takes from an image."""
    header = read_header(ds, site)
    values = [header.to_json(), *(repr(number(ds, name)) for name in _NUMBERS)]
    convention = site.convention_of(header.manufacturer)
    if convention:
        frames = multiframe.frames(ds)
        for frame in header.frames:
            try:
                values.append(repr(convention.rescale(frames[frame.index], frame.component)))
            except Refused as why:
                values.append(why.refusal.code)
    return values, ds.PixelData
