"""Binary morphology with radii in millimetres, by capped Euclidean distance. The array's ends are not background."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recon import morphology_kernels as kernels
from recon.types import BoolArray, FloatArray, Vector


def distance_mm(target: BoolArray, voxel_mm: Vector, cap_mm: float) -> FloatArray:
    """Distance in mm from every voxel to the nearest voxel of ``target``, float32; ``cap_mm`` where it is farther.

    Exact below the cap (separable squared distance: Felzenszwalb & Huttenlocher 2012, Theory of Computing 8:415).
    """
    squared = _squared(target, voxel_mm, cap_mm)
    return np.sqrt(squared, out=squared)


def dilate(mask: BoolArray, voxel_mm: Vector, radius_mm: float) -> BoolArray:
    """Voxels within ``radius_mm`` of the mask."""
    limit = np.float32((1.0001 * radius_mm) ** 2)
    return _squared(mask, voxel_mm, 1.001 * radius_mm + 1e-3) <= limit


def erode(mask: BoolArray, voxel_mm: Vector, radius_mm: float) -> BoolArray:
    """Voxels farther than ``radius_mm`` from everything outside the mask."""
    limit = np.float32((1.0001 * radius_mm) ** 2)
    return _squared(~mask, voxel_mm, 1.001 * radius_mm + 1e-3) > limit


def opened(mask: BoolArray, voxel_mm: Vector, radius_mm: float) -> BoolArray:
    """Erosion, then dilation."""
    return dilate(erode(mask, voxel_mm, radius_mm), voxel_mm, radius_mm)


Ends = tuple[tuple[bool, bool], ...]
"""For every axis, something about the first and the last layer of an array."""


def closed(mask: BoolArray, voxel_mm: Vector, radius_mm: float, unknown: Ends = ((False, False),) * 3) -> BoolArray:
    """Dilation, then erosion.

    The mask goes on beyond the array as it is on its faces; beyond ``unknown`` faces lies what closes most.
    """
    room = [
        [0 if side else int(np.ceil(radius_mm / edge)) + 1 for side in sides]
        for edge, sides in zip(voxel_mm, unknown, strict=True)
    ]
    inside = tuple(slice(r[0], r[0] + n) for r, n in zip(room, mask.shape, strict=True))
    wide = np.pad(mask, room, mode="edge")
    return np.ascontiguousarray(erode(dilate(wide, voxel_mm, radius_mm), voxel_mm, radius_mm)[inside])


def inner(mask: BoolArray) -> BoolArray:
    """The mask without its outermost layer: voxels whose six neighbours all belong to it."""
    core = np.empty_like(mask)
    kernels.interior(mask, core)
    return core


def joined(mask: BoolArray, seeds: BoolArray) -> BoolArray:
    """The parts of the mask that hold a voxel of ``seeds``; voxels are joined by their faces."""
    reached = np.zeros(mask.shape, dtype=np.bool_)
    stack = np.empty(mask.size, dtype=np.int32)
    kernels.flood(np.ascontiguousarray(mask), np.flatnonzero(seeds).astype(np.int32), reached, stack)
    return reached


def filled(mask: BoolArray) -> BoolArray:
    """The mask with its holes: what cannot be reached from the faces of the array."""
    shell = np.ones(mask.shape, dtype=np.bool_)
    shell[tuple(slice(1, -1) for _ in mask.shape)] = False
    return ~joined(~mask, shell)


def _squared(target: BoolArray, voxel_mm: Vector, cap_mm: float) -> npt.NDArray[np.float32]:
    """Squared distance to the target, at most the cap's."""
    far = np.float32(cap_mm**2)
    nx, ny, nz = target.shape
    x, y, z = voxel_mm
    squared, out = (np.empty(target.shape, dtype=np.float32) for _ in range(2))
    rows = np.ascontiguousarray(target).reshape(nx * ny, nz)
    kernels.nearest_rows(rows, int(cap_mm / z), np.float32(z), far, squared.reshape(nx * ny, nz))
    kernels.nearest_planes(squared, int(cap_mm / y), np.float32(y), out)
    one_plane = (1, nx, ny * nz)
    kernels.nearest_planes(out.reshape(one_plane), int(cap_mm / x), np.float32(x), squared.reshape(one_plane))
    return squared
