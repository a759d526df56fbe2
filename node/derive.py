"""Derived series: classic MR Image Storage for QSM and GRE phase, slice for slice from the source images."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from node.identity import is_own
from node.load import Source
from recon.pipeline import Result

__all__ = ["DeriveOptions", "Derived", "is_own", "write_derived"]


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
    """

    segmentation: bool = False
    parametric_map: bool = False
    supplied_mask_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Derived:
    """A file that was written."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    series: Literal["qsm", "phase", "mask", "pmap"]
    sha256: str


def write_derived(
    source: Source,
    result: Result,
    folder: Path,
    derived_at: datetime,
    options: DeriveOptions = DeriveOptions(),
) -> list[Derived]:
    """Write the derived series into ``folder`` (made if absent), one file per instance, named by its UID.

    The same source, recipe, version, options and ``derived_at`` give the same bytes. Files are written under a
    temporary name, synchronised and renamed.
    """
    raise NotImplementedError
