r"""Whether phase has been high-pass filtered, as for SWI: nothing smooth is left in it.

The homodyne filter (Noll et al. 1991, IEEE Trans Med Imaging 10:154) divides the image S by its low-pass image, so
that the phase of what is left, low-passed again by fewer samples, is nearly the same everywhere. In unfiltered phase
it is not: shim, air and coils leave smooth phase that is by far the largest part of it. What a filter misses grows
with field strength and echo time, as phase does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from recon.types import Acquisition, FloatArray

SAMPLES = 8
"""In-plane k-space samples of the smooth image, along each axis: a quarter of the mildest usual filter's."""

POINTS = 16
"""Places along each axis where it is taken: twice as many, since its square holds twice the frequencies."""

SLICES = 16
"""So many, or up to twice as many, are looked at: what is smooth in the plane is smooth across it."""

LEAST_RAD, LEAST_PPM = 0.06, 0.004
"""Spread of the smooth phase below which it is missing: a constant, and what this field makes until the echo.

On heads 1-7, unfiltered echoes have 2.4 times as much or more, 1.9 times where the first echo has taken the coils'
phase out of the others; homodyne filters of 32 to 128 samples leave 0.63 of it or less.
"""


@dataclass(frozen=True, slots=True)
class SmoothPhase:
    """How far the smooth part of an echo's phase spreads over the image.

    Parameters
    ----------
    te_s
        The echo.
    spread_rad
        Circular standard deviation of the smooth phase.
    least_rad
        What unfiltered phase has at least, at this echo and field strength.
    """

    te_s: float
    spread_rad: float
    least_rad: float

    @property
    def missing(self) -> bool:
        """Whether a filter has taken it."""
        return self.spread_rad < self.least_rad


def filtered_echo(acquisition: Acquisition) -> SmoothPhase | None:
    """The first echo whose smooth phase is missing, or None.

    The first of several echoes is not asked: coil combination may have taken its smooth phase out of all of them,
    which leaves the field between the echoes as it was.
    """
    echoes = range(min(1, len(acquisition.te_s) - 1), len(acquisition.te_s))
    found = (smooth_phase(acquisition, echo) for echo in echoes)
    return next((smooth for smooth in found if smooth.missing), None)


def smooth_phase(acquisition: Acquisition, echo: int) -> SmoothPhase:
    r"""Spread of the phase of L, the image low-passed in the plane by ``SAMPLES`` samples.

    .. math:: \sqrt{-2 \ln R}, \quad R = |\sum |L| L| / \sum |L|^2

    The circular standard deviation (Mardia and Jupp 2000, Directional statistics, 2.3), weighted by signal: noise and
    what is the same everywhere count nothing. Infinite where there is no signal.
    """
    nx, ny, nz = acquisition.geometry.shape
    slices = slice(None, None, max(1, nz // SLICES))
    magnitude, phase = (volume[echo, :, :, slices] for volume in (acquisition.magnitude, acquisition.phase))
    along_x, along_y = _smoother(nx), _smoother(ny)
    real, imaginary = (
        np.matmul(along_y, np.tensordot(along_x, magnitude * part(phase), axes=1)) for part in (np.cos, np.sin)
    )
    low = (real + 1j * imaginary).astype(np.complex128)
    strength = np.abs(low)
    whole = float((strength * strength).sum())
    share = abs(complex((strength * low).sum())) / whole if whole > 0 else 0.0
    te_s = acquisition.te_s[echo]
    return SmoothPhase(
        te_s=te_s,
        spread_rad=math.sqrt(-2 * math.log(min(share, 1.0))) if share > 0 else math.inf,
        least_rad=LEAST_RAD + 2 * math.pi * acquisition.f0_mhz * LEAST_PPM * te_s,
    )


def _smoother(n: int) -> FloatArray:
    """Low-pass filter of lines of ``n`` voxels, a Hann window of ``SAMPLES`` frequencies: (POINTS, n)."""
    half = min(SAMPLES, n + 1) // 2
    k = np.arange(1 - half, half)
    window = 0.5 + 0.5 * np.cos(2 * np.pi * k / SAMPLES)
    apart = np.arange(POINTS)[:, None] / POINTS - np.arange(n) / n
    return np.asarray(np.cos(2 * np.pi * k * apart[..., None]) @ window / n, dtype=np.float32)
