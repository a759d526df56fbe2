"""The vendors whose files a phantom can be written as; apart from what writes them, so that naming them is cheap."""

from __future__ import annotations

from enum import StrEnum


class Vendor(StrEnum):
    """Whose scanner a phantom comes from, and in which of its formats."""

    SIEMENS = "siemens"
    GE = "ge"
    PHILIPS = "philips"
    PHILIPS_ENHANCED = "philips-enhanced"
    SIEMENS_XA = "siemens-xa"
    SIEMENS_XA_ENHANCED = "siemens-xa-enhanced"
    GE_PHASE = "ge-phase"
    PHILIPS_COMPLEX = "philips-complex"
