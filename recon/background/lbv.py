"""Laplacian boundary value method (LBV)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from recon import kernels
from recon.coarse import BLOCK_AXES, blocks
from recon.morphology import inner
from recon.solve import Step
from recon.types import BadInput, BadRecipe, BoolArray, FloatArray, LocalField, Vector

HALF = (2, 2, 2)


@dataclass(frozen=True, slots=True)
class Lbv:
    r"""Background field as the solution of Laplace's equation (Zhou et al. 2014, NMR Biomed 27:312).

    .. math:: \nabla^2 f_b = 0 \text{ inside the mask}, \qquad f_b = f \text{ on its outermost layer}

    Seven-point Laplacian on the anisotropic grid, red-black successive over-relaxation, started from the solution on
    a grid of twice the voxel edge. The local field is 0 on the outermost layer: sources there are lost.

    Parameters
    ----------
    tolerance_ppm
        Stop when ten sweeps change no voxel by more than this, ppm.
    max_sweeps
        Stop after this many sweeps on each grid at the latest.
    """

    tolerance_ppm: float = 1e-3
    max_sweeps: int = 400

    def __post_init__(self) -> None:
        if not self.tolerance_ppm > 0 or self.max_sweeps < 1:
            raise BadRecipe(f"Lbv needs a positive tolerance_ppm and a sweep or more, got {self}")


def lbv(field_ppm: FloatArray, mask: BoolArray, voxel_mm: Vector, method: Lbv) -> Generator[Step, None, LocalField]:
    """Field of the sources inside ``mask``, float32 (X, Y, Z) in ppm, on the mask without its outermost layer.

    Yields
    ------
    Step with the largest change of the last ten sweeps over the tolerance.
    """
    unknown = inner(mask)
    if not unknown.any():
        raise BadInput(f"mask holds {np.count_nonzero(mask)} voxels, none of them inside: LBV needs more")
    background = np.pad(np.where(mask, field_ppm, np.float32(0)), 1)
    yield from _harmonic(background, np.pad(mask, 1), np.pad(unknown, 1), voxel_mm, method)
    local = np.where(unknown, field_ppm - background[1:-1, 1:-1, 1:-1], np.float32(0))
    return LocalField(local, unknown)


def _harmonic(
    values: FloatArray, known: BoolArray, unknown: BoolArray, voxel_mm: Vector, method: Lbv
) -> Generator[Step, None, None]:
    """Solve Laplace's equation on ``unknown`` in place; ``known`` holds them and the voxels with boundary values."""
    coarse_unknown = np.asarray(blocks(unknown, HALF).all(axis=BLOCK_AXES))
    if np.count_nonzero(coarse_unknown) > 64:
        inside = blocks(known, HALF)
        count = inside.sum(axis=BLOCK_AXES)
        coarse = (blocks(np.where(known, values, 0), HALF).sum(axis=BLOCK_AXES) / np.maximum(count, 1)).astype(
            np.float32
        )
        x, y, z = voxel_mm
        yield from _harmonic(coarse, np.asarray(count > 0), coarse_unknown, (2 * x, 2 * y, 2 * z), method)
        fine = coarse
        for axis in range(3):
            fine = np.repeat(fine, 2, axis)
        values[unknown] = fine[tuple(slice(n) for n in values.shape)][unknown]
    weights = np.array([h**-2 for h in voxel_mm])
    weights = (weights / (2 * weights.sum())).astype(np.float32)
    extent = np.count_nonzero(unknown) ** (1 / 3)
    omega = np.float32(2 / (1 + np.sin(np.pi / (extent + 1))))
    flags = unknown.astype(np.uint8)
    before = values[unknown]
    for sweep in range(1, method.max_sweeps + 1):
        for colour in range(2):
            kernels.relax_laplace(values, flags, weights, omega, colour)
        if sweep % 10 == 0:
            after = values[unknown]
            change = float(np.abs(after - before).max()) / method.tolerance_ppm
            yield Step(sweep, method.max_sweeps, change)
            if change < 1:
                return
            before = after
