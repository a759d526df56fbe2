"""What a site decides about its input: sign and scale of scanners that are not known, and how few echoes will do."""

from __future__ import annotations

from dataclasses import dataclass

from node.vendors import convention_of
from node.vendors.convention import Convention
from node.vendors.stated import Stated


@dataclass(frozen=True, slots=True)
class Site:
    """The part of the configuration that reading and judging images needs.

    Parameters
    ----------
    scanners
        Conventions that the site states.
    min_echoes
        Acquisitions of fewer echoes are refused.
    """

    scanners: tuple[Stated, ...] = ()
    min_echoes: int = 1

    def convention_of(self, manufacturer: str) -> Convention | None:
        """The convention that holds for Manufacturer (0008,0070) here; None where its sign is not known."""
        return convention_of(manufacturer, self.scanners)
