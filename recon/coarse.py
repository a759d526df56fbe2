"""Coarser grids: where large structures are solved for at a fraction of the cost."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from recon.types import FloatArray, Shape, Vector

S = TypeVar("S", bound=np.generic)

Factors = tuple[int, int, int]
BLOCK_AXES = (1, 3, 5)
"""The axes of :func:`blocks` inside a block."""
LEAST = 32
"""Voxels along an axis below which nothing is gained."""


def halving(shape: Shape, voxel_mm: Vector) -> Factors:
    """2 along the axes to be halved, 1 along those that are odd, short, or coarser than the others already."""
    smallest = min(voxel_mm)
    x, y, z = (
        2 if n % 2 == 0 and n >= LEAST and edge < 1.5 * smallest else 1
        for n, edge in zip(shape, voxel_mm, strict=True)
    )
    return x, y, z


def blocks(volume: npt.NDArray[S], factors: Factors) -> npt.NDArray[S]:
    """The volume as (X/a, a, Y/b, b, Z/c, c), padded with zeros to multiples."""
    even = np.pad(volume, [(0, -n % f) for n, f in zip(volume.shape, factors, strict=True)])
    (x, y, z), (a, b, c) = even.shape, factors
    return even.reshape(x // a, a, y // b, b, z // c, c)


def refined(volume: FloatArray, factors: Factors) -> FloatArray:
    """Linear interpolation onto the grid of which ``volume`` holds blocks; periodic."""
    for axis, factor in enumerate(factors):
        if factor == 2:
            near, quarter = np.float32(0.75) * volume, np.float32(0.25) * volume
            halves = [near + np.roll(quarter, 1, axis), near + np.roll(quarter, -1, axis)]
            shape = [2 * n if a == axis else n for a, n in enumerate(volume.shape)]
            volume = np.stack(halves, axis + 1).reshape(shape)
    return volume
