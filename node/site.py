"""What a site decides: sign and scale of unknown scanners, how few echoes will do, what becomes of a doubted sign."""

from __future__ import annotations

from dataclasses import dataclass

from node.vendors import convention_of
from node.vendors.convention import Convention
from node.vendors.stated import Stated


@dataclass(frozen=True, slots=True)
class Site:
    """The part of the configuration that a reconstruction needs, from reading images to letting go of maps.

    Parameters
    ----------
    scanners
        Conventions that the site states.
    min_echoes
        Acquisitions of fewer echoes are refused.
    withhold_contradictions
        A map that the sign check contradicts is refused; else it is marked.
    """

    scanners: tuple[Stated, ...] = ()
    min_echoes: int = 1
    withhold_contradictions: bool = True

    def convention_of(self, manufacturer: str) -> Convention | None:
        """The convention that holds for Manufacturer (0008,0070) here; None where its sign is not known."""
        return convention_of(manufacturer, self.scanners)
