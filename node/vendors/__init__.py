"""The convention table, one file per vendor.

A manufacturer that is not here has no verified sign and scale: the site may state them.
"""

from __future__ import annotations

from collections.abc import Iterable

from node.vendors.convention import Convention
from node.vendors.ge import GE
from node.vendors.philips import PHILIPS
from node.vendors.siemens import SIEMENS
from node.vendors.stated import Stated, as_convention

CONVENTIONS = (SIEMENS, GE, PHILIPS)


def convention_of(manufacturer: str, stated: Iterable[Stated] = ()) -> Convention | None:
    """The convention of Manufacturer (0008,0070); None where sign and scale of its phase are not known.

    What the site states goes before what was verified.
    """
    name = manufacturer.strip().lower()
    known = next((c for c in CONVENTIONS if name.startswith(c.manufacturers)), None)
    of_site = next((s for s in stated if name.startswith(s.manufacturer.strip().lower())), None)
    return as_convention(of_site, known) if of_site else known
