"""How far a susceptibility map is from its truth: the figures of the QSM reconstruction challenges.

The map, the truth (float, in ppm) and the masks (bool) of a call have one shape (X, Y, Z); sums are in float64. Each
figure is taken as the public scorer of QSM-CI takes it (package qsm-ci 0.6.2), whose boxes and threshold around a
calcification were found from its answers. Knows neither phantoms nor lesions, and references nothing: where a
constant matters, the caller sees to it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from recon.types import BoolArray, FloatArray

Floats = npt.NDArray[np.float64]

LOG_SIGMA = 1.5
"""Standard deviation of the Laplacian of a Gaussian in voxels; cut off at 5 of them, 15 voxels across."""

WINDOW = 5
"""Edge of the window of XSIM in voxels."""

C1, C2 = 0.01**2, 0.001**2
"""(K1 L)^2 and (K2 L)^2 of XSIM with L = 1 ppm."""

INNER, RIM, OUTER = 3, 7, 11
"""Voxels from a calcification's bounding box to the ends of the box that holds it, of the rim around that in which
streaks are measured, and of the surroundings that it has to stand out of."""

THRESHOLD_STEP_PPM = 0.01
"""A calcification's threshold is a multiple of this."""


def nrmse_percent(chi_ppm: FloatArray, truth_ppm: FloatArray, mask: BoolArray) -> float:
    """100 |x - t| / |t| over the mask, both without their mean over it.

    Langkammer et al., Magn Reson Med 2018;79:1661, there without the means; Bilgic et al., Magn Reson Med
    2021;86:1241.
    """
    x, t = _demeaned(chi_ppm, mask), _demeaned(truth_ppm, mask)
    return float(100 * np.linalg.norm(x - t) / np.linalg.norm(t))


def detrended_percent(chi_ppm: FloatArray, truth_ppm: FloatArray, mask: BoolArray) -> float:
    """NRMSE over the mask of (x - b) / a, where x = a t + b is fitted over it: neither scale nor constant counts.

    It is 100 sqrt(1 / r^2 - 1) with r the correlation of the two, and infinite where a is 0. Over tissue or lesions
    alone the line is that of the region.

    Bilgic et al., Magn Reson Med 2021;86:1241.
    """
    x, t = _demeaned(chi_ppm, mask), _demeaned(truth_ppm, mask)
    product = x @ t
    if product == 0:
        return float("inf")
    slope = product / (t @ t)
    return float(100 * np.linalg.norm(x / slope - t) / np.linalg.norm(t))


def hfen_percent(chi_ppm: FloatArray, truth_ppm: FloatArray, mask: BoolArray) -> float:
    """High-frequency error norm: 100 |LoG x - LoG t| / |LoG t| over the mask, both 0 outside it.

    LoG is the Laplacian of a Gaussian of 1.5 voxels; the array's ends reflect.

    Ravishankar and Bresler, IEEE Trans Med Imaging 2011;30:1028; Langkammer et al., Magn Reson Med 2018;79:1661.
    """
    x, t = _within(chi_ppm, mask), _within(truth_ppm, mask)
    error, fine = (scipy.ndimage.gaussian_laplace(v, LOG_SIGMA, truncate=5)[mask] for v in (x - t, t))
    return float(100 * np.linalg.norm(error) / np.linalg.norm(fine))


def xsim(chi_ppm: FloatArray, truth_ppm: FloatArray, mask: BoolArray) -> float:
    """Mean over the mask of the structural similarity in ppm, both maps 0 outside it; 1 is perfect.

    (2 m_x m_t + C1) (2 s_xt + C2) / ((m_x^2 + m_t^2 + C1) (s_xx + s_tt + C2)), with means m and (co)variances s over
    the part of a window of 5^3 voxels that lies in the array; C1 and C2 for L = 1 ppm, K1 = 0.01 and K2 = 0.001.

    Milovic et al., Magn Reson Med 2025, doi 10.1002/mrm.30271, after Wang et al., IEEE Trans Image Process
    2004;13:600.
    """
    x, t = _within(chi_ppm, mask), _within(truth_ppm, mask)
    share = _window(np.ones_like(x))
    m_x, m_t = _window(x) / share, _window(t) / share
    s_xt = _window(x * t) / share - m_x * m_t
    s_xx, s_tt = _window(x * x) / share - m_x**2, _window(t * t) / share - m_t**2
    similarity = (2 * m_x * m_t + C1) * (2 * s_xt + C2) / ((m_x**2 + m_t**2 + C1) * (s_xx + s_tt + C2))
    return float(similarity[mask].mean())


def calcification_moment(chi_ppm: FloatArray, calcification: BoolArray, within: BoolArray) -> float:
    """Volume times mean susceptibility of a calcification as the map shows it, in ppm voxels; 0 where it does not.

    Its voxels are those in its bounding box, widened by 3 voxels, that are below a threshold: the highest of 0,
    -0.01, -0.02 ... ppm below which nothing lies around this box, up to 11 voxels from the bounding box. Voxels that
    are not ``within`` have no part in it. The challenge's deviation is |this - the truth's sum over the mask|.

    Marques et al., Magn Reson Med 2021;86:526; Bilgic et al., Magn Reson Med 2021;86:1241.
    """
    return float(_shown(chi_ppm, calcification, within).sum())


def streak_level(chi_ppm: FloatArray, truth_ppm: FloatArray, calcification: BoolArray, within: BoolArray) -> float:
    """Streaks around a calcification, relative to its own mean in the map.

    sd(x - a t - b) / |mean x over the calcification|: the line x = a t + b is fitted over the rim, the voxels of
    ``within`` between the calcification's bounding box widened by 3 voxels and by 7; the calcification's voxels are
    those of ``calcification_moment``. Infinite where the map does not show it, NaN without a rim.

    Marques et al., Magn Reson Med 2021;86:526; Bilgic et al., Magn Reson Med 2021;86:1241.
    """
    rim = _box(calcification, RIM) & ~_box(calcification, INNER) & within
    shown = _shown(chi_ppm, calcification, within)
    if not rim.any():
        return float("nan")
    if not shown.size:
        return float("inf")
    x, t = _demeaned(chi_ppm, rim), _demeaned(truth_ppm, rim)
    variance = t @ t
    residual = x - (x @ t) / variance * t if variance else x
    return float(residual.std() / abs(shown.mean()))


def _shown(chi_ppm: FloatArray, calcification: BoolArray, within: BoolArray) -> Floats:
    box = _box(calcification, INNER)
    inside: Floats = chi_ppm[box & within].astype(np.float64)
    around: Floats = chi_ppm[_box(calcification, OUTER) & ~box & within].astype(np.float64)
    threshold_ppm = THRESHOLD_STEP_PPM * np.floor(around.min(initial=0) / THRESHOLD_STEP_PPM)
    shown: Floats = inside[inside < threshold_ppm]
    return shown


def _box(mask: BoolArray, margin: int) -> BoolArray:
    """The bounding box of a mask, ``margin`` voxels wider on every side, bool (X, Y, Z)."""
    box = np.zeros_like(mask)
    box[bounds(mask, margin)] = True
    return box


def bounds(mask: BoolArray, margin: int) -> tuple[slice, ...]:
    """The bounding box of a mask, ``margin`` voxels wider on every side, as slices."""
    return tuple(slice(max(0, int(i.min()) - margin), int(i.max()) + margin + 1) for i in np.nonzero(mask))


def _demeaned(values: FloatArray, mask: BoolArray) -> Floats:
    inside: Floats = values[mask].astype(np.float64)
    inside -= inside.mean()
    return inside


def _within(values: FloatArray, mask: BoolArray) -> Floats:
    return np.where(mask, values, 0).astype(np.float64)


def _window(values: Floats) -> Floats:
    mean: Floats = scipy.ndimage.uniform_filter(values, WINDOW, mode="constant")
    return mean
