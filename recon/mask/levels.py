"""What counts as signal, and how bright the brain is where: foreground and bias on a coarse grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from recon.types import BoolArray, FloatArray, NoMask, Vector

NEAR_MM, FAR_MM = 20.0, 60.0
"""Standard deviations of the Gaussian means over the brain: in it and near it, and far from it."""
NEAR_SHARE = 0.1
"""Where the brain fills less of the near Gaussian than this, the far one takes over."""
BIAS_RANGE = (0.35, 3.0)
"""Bias relative to its median in the brain: extrapolated to air it would make noise bright."""


def foreground(magnitude: FloatArray) -> BoolArray:
    """Voxels above Otsu's threshold of the log magnitude, without specks below 0.5 % of the largest component.

    Raises
    ------
    NoMask
        If the magnitude is the same everywhere.
    """
    log = np.log(magnitude + 1e-3 * magnitude.mean())
    tissue = log > otsu(log)
    labels, count = ndimage.label(tissue)
    if count == 0:
        raise NoMask("no head in the magnitude: it is the same everywhere")
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept: BoolArray = (sizes > 0.005 * sizes.max())[labels]
    return kept


def otsu(values: FloatArray) -> float:
    """Threshold with the largest variance between the two classes (Otsu 1979, IEEE Trans SMC 9:62)."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts), counts.sum()
    moment = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (moment[-1] * below - total * moment) ** 2 / (below * (total - below).astype(float))
    return float(centres[int(np.nanargmax(np.where(np.isfinite(between), between, -1)))])


def smooth_mean(magnitude: FloatArray, where: BoolArray, voxel_mm: Vector, sigma_mm: float) -> FloatArray:
    """Gaussian mean of the magnitude over ``where``, in the unit of the magnitude and nowhere 0."""
    block = _block(voxel_mm, sigma_mm)
    weight, level = (_block_sum(v, block) for v in (where, np.where(where, magnitude, np.float32(0))))
    mean = _ratio(level, weight, voxel_mm, block, sigma_mm)[0]
    return _spread(np.maximum(mean, np.float32(1e-6) * mean.max()), block, magnitude.shape)


def brain_level(magnitude: FloatArray, core: BoolArray, voxel_mm: Vector) -> FloatArray:
    """The brain's own magnitude everywhere, from ``core`` alone: a near Gaussian mean, far away a wider one."""
    block = _block(voxel_mm, NEAR_MM)
    weight, level = (_block_sum(v, block) for v in (core, np.where(core, magnitude, np.float32(0))))
    near, filled = _ratio(level, weight, voxel_mm, block, NEAR_MM)
    far, _ = _ratio(level, weight, voxel_mm, block, FAR_MM)
    share = np.clip(filled / np.float32(np.prod(block) * NEAR_SHARE), 0, 1)
    bias = _spread(share * near + (1 - share) * far, block, magnitude.shape)
    low, high = (np.float32(limit * np.median(bias[core])) for limit in BIAS_RANGE)
    return np.clip(bias, low, high)


def _block(voxel_mm: Vector, sigma_mm: float) -> list[int]:
    """Blocks of about a quarter sigma: a Gaussian mean needs no finer grid."""
    return [max(1, int(sigma_mm / 4 / h)) for h in voxel_mm]


def _ratio(
    level: FloatArray, weight: FloatArray, voxel_mm: Vector, block: list[int], sigma_mm: float
) -> tuple[FloatArray, FloatArray]:
    """Gaussian mean of block sums over that of their weights, and the latter."""
    sigma = [sigma_mm / h / b for h, b in zip(voxel_mm, block, strict=True)]
    smooth, mean = (ndimage.gaussian_filter(sums, sigma, truncate=3, mode="constant") for sums in (weight, level))
    return mean / np.maximum(smooth, np.float32(1e-4) * smooth.max()), smooth


def _block_sum(volume: npt.NDArray[np.generic], block: list[int]) -> FloatArray:
    """Sums over blocks; what the last block of an axis lacks counts as 0."""
    padded = np.pad(volume, [(0, -n % b) for n, b in zip(volume.shape, block, strict=True)])
    x, y, z = (n // b for n, b in zip(padded.shape, block, strict=True))
    cubes = padded.reshape(x, block[0], y, block[1], z, block[2])
    return np.asarray(cubes.sum(axis=5, dtype=np.float32).sum(axis=(1, 3)))


def _spread(coarse: FloatArray, block: list[int], shape: tuple[int, ...]) -> FloatArray:
    """Linear interpolation from the middles of blocks to voxels, axis by axis."""
    for axis, (size, n) in enumerate(zip(block, shape, strict=True)):
        last = coarse.shape[axis] - 1
        at = np.clip((np.arange(n) + 0.5) / size - 0.5, 0, last)
        low = np.minimum(at.astype(np.intp), max(last - 1, 0))
        share = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        first, second = coarse.take(low, axis=axis), coarse.take(np.minimum(low + 1, last), axis=axis)
        coarse = first + share * (second - first)
    return coarse
