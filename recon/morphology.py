"""Binary morphology with radii in millimetres, by capped Euclidean distance. The array's ends are not background."""

from __future__ import annotations

import numpy as np

from recon import kernels
from recon.types import BoolArray, FloatArray, Vector


def distance_mm(target: BoolArray, voxel_mm: Vector, cap_mm: float) -> FloatArray:
    """Distance in mm from every voxel to the nearest voxel of ``target``, float32; ``cap_mm`` where it is farther.

    Exact below the cap (separable squared distance: Felzenszwalb & Huttenlocher 2012, Theory of Computing 8:415).
    """
    far = np.float32(cap_mm**2)
    squared = np.where(target, np.float32(0), far)
    for axis, edge in enumerate(voxel_mm):
        before = int(np.prod(target.shape[:axis]))
        lines = squared.reshape(before, target.shape[axis], -1)
        out = np.empty_like(lines)
        kernels.min_plus(lines, int(cap_mm / edge), np.float32(edge), out)
        squared = out.reshape(target.shape)
    return np.sqrt(np.minimum(squared, far))


def dilate(mask: BoolArray, voxel_mm: Vector, radius_mm: float) -> BoolArray:
    """Voxels within ``radius_mm`` of the mask."""
    return distance_mm(mask, voxel_mm, 1.001 * radius_mm + 1e-3) <= radius_mm


def erode(mask: BoolArray, voxel_mm: Vector, radius_mm: float) -> BoolArray:
    """Voxels farther than ``radius_mm`` from everything outside the mask."""
    return distance_mm(~mask, voxel_mm, 1.001 * radius_mm + 1e-3) > radius_mm


def opened(mask: BoolArray, voxel_mm: Vector, radius_mm: float) -> BoolArray:
    """Erosion, then dilation."""
    return dilate(erode(mask, voxel_mm, radius_mm), voxel_mm, radius_mm)


def closed(mask: BoolArray, voxel_mm: Vector, radius_mm: float) -> BoolArray:
    """Dilation, then erosion."""
    return erode(dilate(mask, voxel_mm, radius_mm), voxel_mm, radius_mm)


def inner(mask: BoolArray) -> BoolArray:
    """The mask without its outermost layer: voxels whose six neighbours all belong to it."""
    core = np.empty_like(mask)
    kernels.interior(mask, core)
    return core
