"""DICOM files of one acquisition to arrays in physical units: scaling, sign, chopper, geometry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from recon.types import Acquisition


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image (or one frame of an enhanced object) that went into an acquisition."""

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    """1-based, None for a classic image."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """An acquisition with what its derived objects copy and refer to.

    Parameters
    ----------
    acquisition
        The arrays.
    templates
        ``templates[echo][slice]``: the magnitude (or real) image's header without pixels, as a classic image.
    images
        ``images[slice]``: every image of that slice that was used, over echoes and components.
    vendor
        Name of the convention that was applied.
    warnings
        What a reader of the result should know: distortion correction, interpolation.
    """

    acquisition: Acquisition
    templates: tuple[tuple[Dataset, ...], ...]
    images: tuple[tuple[SourceImage, ...], ...]
    vendor: str
    warnings: tuple[str, ...]


def load(paths: Iterable[Path]) -> Source:
    """Read the files of one acquisition.

    Raises
    ------
    Refused
        The images are not whole, or pixels contradict the vendor's convention.
    Unreadable
        A file is not DICOM, is truncated, or its pixels cannot be decoded.
    """
    raise NotImplementedError
