"""The convention table, one file per vendor.

A manufacturer that is not here has no verified sign and scale.
"""

from __future__ import annotations

from node.vendors.convention import Convention
from node.vendors.ge import GE
from node.vendors.philips import PHILIPS
from node.vendors.siemens import SIEMENS

CONVENTIONS = (SIEMENS, GE, PHILIPS)


def convention_of(manufacturer: str) -> Convention | None:
    """The convention of Manufacturer (0008,0070); None where sign and scale of its phase are not verified."""
    name = manufacturer.strip().lower()
    return next((c for c in CONVENTIONS if name.startswith(c.manufacturers)), None)
