"""From the values of a scanner to magnitude, and phase in radians that rises with the field: scale, sign, chopper.

Refuses what contradicts the vendor's convention, and phase that was filtered. Knows no files and no headers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from node.errors import Refusal, Refused
from node.vendors.convention import Component, Convention
from recon.filtered import SAMPLES, filtered_echo
from recon.types import Acquisition, FloatArray

MIN_PHASE_SPAN = 0.75
"""Phase that fills less of its 2 pi over the whole volume is filtered, or scaled by another factor."""

MIN_CHOPPER_AGREEMENT = 0.8
"""Share of the signal in which neighbouring slices must agree on whether the sign alternates."""

_THREADS = 2
"""Of copying and converting, which memory limits; each holds the stored values of one echo and component."""

Span = tuple[float, float]
"""Lowest and highest value."""

_T = TypeVar("_T")


def each_echo(work: Callable[..., _T], *of_echoes: Iterable[Any]) -> list[_T]:
    """What `work` returns for each echo, in a few threads."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(work, *of_echoes))


def to_physical(
    volumes: Mapping[Component, FloatArray], spans: Mapping[Component, Span], convention: Convention
) -> tuple[FloatArray, FloatArray, bool]:
    """Magnitude, phase in radians that rises with the field, and whether a slice alternation was removed.

    Parameters
    ----------
    volumes
        Rescaled values, float32 (E, X, Y, Z): magnitude and phase, or real and imaginary. Overwritten by the result.
    spans
        Lowest and highest value of each.
    convention
        Of the vendor.

    Raises
    ------
    Refused
        The values contradict the convention: `suspect-magnitude`, `suspect-phase`, `ambiguous-chopper`.
    """
    magnitude, phase = volumes.values()
    if "R" in volumes:
        each_echo(_to_polar, magnitude, phase)
    else:
        if spans["M"][0] < 0:
            raise Refused(Refusal("suspect-magnitude", f"magnitude images hold negative values ({spans['M'][0]:g})"))
        factor = _radians_per_unit(spans["P"], convention)
        each_echo(lambda echo: np.multiply(echo, factor, out=echo), phase)
    chopped = convention.chopper and _alternates(magnitude[0], phase[0])
    if chopped:
        each_echo(_turn_odd_slices, phase)
    if convention.phase_sign < 0:
        each_echo(lambda echo: np.negative(echo, out=echo), phase)
    return magnitude, phase, chopped


def _to_polar(real: FloatArray, imaginary: FloatArray) -> None:
    """Real and imaginary to magnitude and phase, in place."""
    magnitude = np.hypot(real, imaginary)
    np.arctan2(imaginary, real, out=imaginary)
    real[...] = magnitude


def _turn_odd_slices(phase: FloatArray) -> None:
    odd = phase[..., 1::2]
    odd += np.where(odd > 0, np.float32(-math.pi), np.float32(math.pi))


def _radians_per_unit(span: Span, convention: Convention) -> np.float32:
    """The one factor from rescaled phase to radians for all slices and echoes; checks that phase fills its range."""
    low, high = span
    factor = convention.radians_per_unit(low, high)
    if max(-low, high) * factor > 1.01 * math.pi or (high - low) * factor < MIN_PHASE_SPAN * 2 * math.pi:
        raise Refused(
            Refusal(
                "suspect-phase",
                f"phase lies between {low * factor:.2f} and {high * factor:.2f} rad instead of filling -3.14 to 3.14:"
                " filtered, or scaled in a way that is not known",
            )
        )
    return np.float32(factor)


def _alternates(magnitude: FloatArray, phase: FloatArray) -> bool:
    """Whether complex slices (X, Y, Z) change sign from one to the next.

    The real part of ``sum c[k+1] conj(c[k])`` is negative where they do. Slices vote by their signal: beside the head
    there is noise alone.
    """
    votes = sum(
        (m[:, 1:] * m[:, :-1] * np.cos(p[:, 1:] - p[:, :-1])).sum(axis=0, dtype=np.float64)
        for m, p in zip(magnitude, phase, strict=True)
    )
    negative = float(-votes[votes < 0].sum() / max(np.abs(votes).sum(), 1e-30))
    if max(negative, 1 - negative) < MIN_CHOPPER_AGREEMENT:
        raise Refused(
            Refusal(
                "ambiguous-chopper",
                f"neighbouring slices with {negative:.0%} of the signal differ in sign: neither alternating nor"
                " continuous phase",
            )
        )
    return negative > 0.5


def check_smooth(acquisition: Acquisition) -> None:
    """Raise Refused (`filtered-phase`) if phase was high-pass filtered."""
    if echo := filtered_echo(acquisition):
        raise Refused(
            Refusal(
                "filtered-phase",
                f"phase of the echo at {1000 * echo.te_s:.1f} ms, smoothed to {SAMPLES} x {SAMPLES} k-space samples,"
                f" spreads by {echo.spread_rad:.3f} rad, unfiltered phase by {echo.least_rad:.3f} or more:"
                " high-pass filtered, as for SWI",
            )
        )
