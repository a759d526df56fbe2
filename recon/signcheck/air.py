r"""The field of the air in and around the head.

Air is paramagnetic against tissue by 9.4 ppm (Schenck 1996, Med Phys 23:815), so that over the sphenoid, frontal and
ethmoid sinuses and beside the ear the field is higher along B0 and lower across it, by much more than anything in the
brain makes (Li S. et al. 1996, MRM 36:705). Where there is air, the magnitude shows:

.. math:: f(x) = s\, D * (9.4\,\mathrm{ppm} \cdot \mathrm{air})(x) + P_3(x)

with the dipole field D (Salomir 2003, Concepts Magn Reson 19B:26; Marques & Bowtell 2005, 25B:65) and a polynomial of
third order for what shim coils and the unseen rest of the body add. The slope s is 1 where the air is drawn right, -1
where the phase is negated; bone taken for air and dephasing around the sinuses make it smaller.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recon.fourier import dipole_kernel, filtered, good_size
from recon.morphology import erode, opened
from recon.signcheck.evidence import Evidence, weight_of
from recon.types import BoolArray, FloatArray, Shape, Vector

NAME = "field of the air in and around the head"
AIR_PPM = 9.4
DARK = 0.2
"""Air is darker than this share of the brain's median in the first echo."""
CUT_OUT = 0.9
"""Share of what has signal that is brain; above it, the brain was cut out, and the dark around it is no air."""
SKULL_MM = 4.0
"""What is dark and thinner than twice this is bone rather than air."""
DEPTH_MM = 6.0
"""Nearer to the mask's surface, scalp and bone that it let in are what one sees."""
SPREAD_MM = 80.0
ORDER = 3
REGION_MM = 50.0
"""Edge of the regions that the slope's standard error takes for independent."""
LEAST_VOXELS = 500
ENOUGH = 4.0
"""Score that suffices alone. Simulated heads have 3.9 and more; were the sign of every 25 mm of air drawn by lot, one
in fourteen would reach it, half of them with the wrong sign."""
SLOPES, CORRELATION = (0.1, 2.0), 0.25
"""Limits of slope and correlation, either sign, between which the air explains the field."""
TINY = 1e-12

Values = npt.NDArray[np.float64]


def without_signal(magnitude: FloatArray, brain: BoolArray) -> BoolArray:
    """What is as dark as air, outside the brain, bool (X, Y, Z)."""
    level = np.float32(DARK * np.median(magnitude[brain]))
    return (magnitude < level) & ~brain


def air_evidence(
    dark: BoolArray, field_ppm: FloatArray, brain: BoolArray, voxel_mm: Vector, b0_dir: Vector
) -> Evidence:
    """Regression of the measured field over the brain on that of the air.

    Parameters
    ----------
    dark
        bool (X, Y, Z), what has no signal, outside the brain.
    field_ppm
        float32 (X, Y, Z), total field in ppm of B0 over the brain.
    brain
        bool (X, Y, Z).
    """
    if np.count_nonzero(brain) > CUT_OUT * np.count_nonzero(~dark):
        return Evidence(NAME, 0.0, 0.0, f"{NAME}: not measured, the image shows nothing but the brain")
    air, deep = opened(dark, voxel_mm, SKULL_MM), erode(brain, voxel_mm, DEPTH_MM)
    places_mm = np.argwhere(deep) * np.array(voxel_mm)
    if len(places_mm) < LEAST_VOXELS or not air.any():
        return Evidence(NAME, 0.0, 0.0, f"{NAME}: not measured, too little of a brain or no air in the image")
    region = regions(places_mm)
    predicted = air_field(air, voxel_mm, b0_dir)[deep]
    x, y = without_shim(np.stack([predicted, field_ppm[deep]], axis=1).astype(np.float64), places_mm).T
    slope, error = jackknifed_slope(x, y, region)
    correlation = float(x @ y) / max(float(np.linalg.norm(x) * np.linalg.norm(y)), TINY)
    score = slope / max(error, TINY)
    credible = SLOPES[0] <= abs(slope) <= SLOPES[1] and abs(correlation) >= CORRELATION
    words = (
        f"{NAME}: the measured field is {slope:.2f} +- {error:.2f} of the predicted one over {region.max() + 1} "
        f"regions of the brain, correlation {correlation:.2f}"
    )
    return Evidence(NAME, score, weight_of(score, ENOUGH, credible), words)


def air_field(air: BoolArray, voxel_mm: Vector, b0_dir: Vector) -> FloatArray:
    """Field of the air in ppm of B0, float32 (X, Y, Z); beyond the faces goes on what is there."""
    room = [(n // 4, good_size(n + n // 2) - n - n // 4) for n in air.shape]
    wide = np.pad(air.astype(np.float32), room, mode="edge")
    x, y, z = wide.shape
    field = filtered(np.float32(AIR_PPM) * wide, dipole_kernel((x, y, z), voxel_mm, b0_dir))
    return field[tuple(slice(before, before + n) for (before, _), n in zip(room, air.shape, strict=True))]


def without_shim(values: Values, places_mm: Values) -> Values:
    """The columns of ``values`` (N, M) without their least-squares polynomial of third order in position (N, 3)."""
    u, v, w = ((places_mm - places_mm.mean(axis=0)) / SPREAD_MM).T
    powers = [(i, j, k) for i in range(ORDER + 1) for j in range(ORDER + 1 - i) for k in range(ORDER + 1 - i - j)]
    design = np.stack([u**i * v**j * w**k for i, j, k in powers], axis=1)
    fit: Values = np.linalg.lstsq(design.T @ design, design.T @ values, rcond=1e-10)[0]
    return values - design @ fit


def regions(places_mm: Values) -> npt.NDArray[np.intp]:
    """Number of the cube that a place (N, 3) lies in, (N,), from 0."""
    cube = np.floor((places_mm - places_mm.min(axis=0)) / REGION_MM).astype(np.intp)
    shape: Shape = tuple(cube.max(axis=0) + 1)
    return np.unique(np.ravel_multi_index(tuple(cube.T), shape), return_inverse=True)[1]


def jackknifed_slope(x: Values, y: Values, region: npt.NDArray[np.intp]) -> tuple[float, float]:
    r"""Slope of y on x through 0, and its error from leaving out one of the n regions after the other.

    .. math:: s = \frac{x \cdot y}{x \cdot x}, \qquad \sigma_s^2 = \frac{n - 1}{n} \sum_g (s_{(g)} - s)^2

    (Efron & Stein 1981, Ann Stat 9:586.) Neighbouring voxels repeat each other; regions do much less.
    """
    product, power = np.bincount(region, x * y), np.bincount(region, x * x)
    slope = product.sum() / max(power.sum(), TINY)
    without = (product.sum() - product) / np.maximum(power.sum() - power, TINY)
    share = (len(power) - 1) / len(power)
    return float(slope), float(np.sqrt(share * ((without - slope) ** 2).sum()))
