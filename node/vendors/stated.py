"""What a site states about a manufacturer's phase images, as a convention.

For manufacturers whose sign and scale are not verified, and for scanners that differ from the verified ones of their
make. How such a scanner marks components is read as the standard has it, unless the make is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from pydicom.dataset import Dataset

from node.vendors.convention import (
    Announced,
    Component,
    Convention,
    Rescale,
    as_stored,
    common_refusal,
    standard_component,
    stored_rescale,
    text,
)


@dataclass(frozen=True, slots=True)
class Stated:
    """Sign and scale of the phase images of one manufacturer, in the words of the site that runs the scanner.

    Parameters
    ----------
    manufacturer
        Beginning of Manufacturer (0008,0070); capitals make no difference.
    phase_sign
        +1 where stored phase rises with the field, -1 where it falls.
    phase_turn
        Rescaled phase values of one turn: 8192 for -4096..4096, 6283.19 for mrad, 6.28319 for rad.
    chopper
        Whether complex images may change sign from slice to slice: if so, it is seen in the data. None: as for
        the make, or not.
    """

    manufacturer: str
    phase_sign: Literal[1, -1]
    phase_turn: float
    chopper: bool | None = None


def as_convention(stated: Stated, known: Convention | None) -> Convention:
    """The known convention of the make, or the standard's, with what the site states."""
    return replace(
        known or _STANDARD,
        name=known.name if known else stated.manufacturer.lower(),
        phase_sign=stated.phase_sign,
        chopper=(known or _STANDARD).chopper if stated.chopper is None else stated.chopper,
        radians_per_unit=lambda _low, _high: 2 * math.pi / stated.phase_turn,
        stated=True,
    )


def _scan(ds: Dataset) -> str:
    return f"acquisition {text(ds, 'AcquisitionNumber')}"


def _rescale(ds: Dataset, component: Component) -> Rescale:
    return stored_rescale(ds) or as_stored(ds, component)


_STANDARD = Convention(
    name="",
    manufacturers=(),
    phase_sign=1,
    chopper=False,
    component=standard_component,
    refusal=common_refusal,
    announced=lambda _: Announced(None, None),
    scan=_scan,
    rescale=_rescale,
    radians_per_unit=lambda _low, _high: 1.0,
)
