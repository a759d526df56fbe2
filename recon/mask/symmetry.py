"""The midsagittal plane of a brain mask, and what lies on its other side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from recon.mask import kernels
from recon.types import BoolArray, FloatArray, Vector

OFFSETS_MM = np.arange(-6, 6.1, 2.0)
TURNS_DEG = np.arange(-12, 12.1, 3.0)
COARSE_MM = 6.0


@dataclass(frozen=True, slots=True, eq=False)
class MirrorPlane:
    """The plane ``normal . x = offset_mm``, x in mm from the first voxel.

    ``overlap`` is that of the mask and its mirror image (Dice).
    """

    normal: npt.NDArray[np.float64]
    offset_mm: float
    overlap: float

    def mirrored(self, points_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Mirror images of points (N, 3)."""
        beyond = points_mm @ self.normal - self.offset_mm
        return points_mm - 2 * beyond[:, None] * self.normal

    def is_mirrored(self, where: BoolArray, mask: BoolArray, voxel_mm: Vector) -> BoolArray:
        """Voxels of ``where`` whose mirror image lies in ``mask``."""
        edges = np.array(voxel_mm)
        voxels = np.nonzero(where)
        images = np.rint(self.mirrored(np.stack(voxels, axis=1) * edges) / edges).astype(np.intp)
        inside = ((images >= 0) & (images < mask.shape)).all(axis=1)
        hit = np.zeros(len(images), dtype=np.bool_)
        x, y, z = images[inside].T
        hit[inside] = mask[x, y, z]
        result = np.zeros_like(where)
        result[voxels] = hit
        return result


def midsagittal(mask: BoolArray, voxel_mm: Vector) -> MirrorPlane:
    """The plane near the middle of the first axis that carries the mask best onto itself.

    Offset, yaw (about the third axis) and roll (about the second) are searched in turn, on a grid of 6 mm.
    """
    block = [max(1, round(COARSE_MM / h)) for h in voxel_mm]
    occupied = np.pad(_block_mean(mask, block), 2)
    edges = np.array(voxel_mm) * block
    # In mm from the first voxel's centre: two blocks of padding, and a block's centre against a voxel's.
    origin = (np.array(block) - 1) / 2 * np.array(voxel_mm) - 2 * edges
    # Interpolation blurs every plane's image but that of a plane along the grid; blurred before, all are alike.
    smooth = ndimage.uniform_filter(occupied, 3)
    middle = origin + np.array(ndimage.center_of_mass(occupied)) * edges

    def plane(offset_mm: float, yaw_deg: float, roll_deg: float) -> MirrorPlane:
        yaw, roll = np.deg2rad(yaw_deg), np.deg2rad(roll_deg)
        normal = np.array([np.cos(yaw) * np.cos(roll), np.sin(yaw) * np.cos(roll), np.sin(roll)])
        return MirrorPlane(normal, float(middle @ normal) + offset_mm, 0.0)

    def overlap_in(volume: FloatArray) -> Callable[[list[float]], float]:
        voxels = np.nonzero(volume > 0)
        points, weight = np.stack(voxels, axis=1) * edges + origin, volume[voxels]
        total = float(weight.sum(dtype=np.float64))

        def overlap(where: list[float]) -> float:
            images = ((plane(*where).mirrored(points) - origin) / edges).astype(np.float32)
            return float(kernels.overlap(volume, images, weight)) / total

        return overlap

    best, search = [0.0, 0.0, 0.0], overlap_in(smooth)
    for scale in (1.0, 1.0, 0.5, 0.25):
        for which, steps in ((0, OFFSETS_MM), (2, TURNS_DEG), (1, TURNS_DEG)):
            tries = [[*best[:which], best[which] + s, *best[which + 1 :]] for s in scale * steps]
            best = max((t for t in tries if abs(t[which]) <= steps[-1] + 1e-9), key=search)
    return replace(plane(*best), overlap=overlap_in(occupied)(best))


def _block_mean(mask: BoolArray, block: list[int]) -> FloatArray:
    """Share of each block that is mask; the array is padded to whole blocks."""
    padded = np.pad(mask, [(0, -n % b) for n, b in zip(mask.shape, block, strict=True)])
    x, y, z = (n // b for n, b in zip(padded.shape, block, strict=True))
    cubes = padded.reshape(x, block[0], y, block[1], z, block[2])
    return np.asarray(cubes.mean(axis=(1, 3, 5), dtype=np.float32))
