"""Projection onto dipole fields (PDF)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from recon.coarse import BLOCK_AXES, blocks, halving, refined
from recon.conjugate_gradients import conjugate_gradients
from recon.fourier import dipole_kernel, filtered
from recon.solve import Step
from recon.types import BadRecipe, BoolArray, FloatArray, LocalField, Vector


@dataclass(frozen=True, slots=True)
class Pdf:
    """Background field as the field of dipoles outside the mask (Liu et al. 2011, NMR Biomed 24:1129).

    .. math:: \\min_{\\chi_b}\\; \\tfrac12 \\| W M (f - D \\chi_b) \\|^2, \\qquad \\chi_b = 0 \\text{ inside the mask}

    by conjugate gradients on the normal equations, which start from the solution on a grid of twice the voxel edge,
    and that from one on a coarser grid still: far sources need many iterations, and are cheap there.

    Parameters
    ----------
    tolerance
        Stop when the residual of the normal equations has fallen to this fraction of their right side.
    max_iterations
        Stop after this many iterations on each grid at the latest.
    """

    tolerance: float = 5e-3
    max_iterations: int = 40

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1 or self.max_iterations < 1:
            raise BadRecipe(f"Pdf needs 0 < tolerance < 1 and an iteration or more, got {self}")


def pdf(
    field_ppm: FloatArray, weight2: FloatArray, mask: BoolArray, voxel_mm: Vector, b0_dir: Vector, method: Pdf
) -> Generator[Step, None, LocalField]:
    """Field of the sources inside ``mask``: the total field minus the fitted field of outside dipoles.

    Parameters
    ----------
    field_ppm
        float32 (X, Y, Z), total field in ppm of B0, on a grid with a margin around the mask for the outer dipoles.
    weight2
        float32 (X, Y, Z), squared data weight W^2, mean 1 over the mask.
    mask
        bool (X, Y, Z).
    """
    field_ppm = np.where(mask, field_ppm, np.float32(0))
    system = System(np.where(mask, weight2, np.float32(0)), ~mask, voxel_mm, b0_dir)
    chi = yield from solution(system, field_ppm, method)
    return LocalField(np.where(mask, field_ppm - system.field_of(chi), np.float32(0)), mask)


def solution(system: System, field_ppm: FloatArray, method: Pdf) -> Generator[Step, None, FloatArray]:
    """Susceptibility outside that explains the field inside, float32 (X, Y, Z), ppm; coarsest grid first."""
    factors, start = halving(field_ppm.shape, system.voxel_mm), None
    if factors != (1, 1, 1):
        weight2 = blocks(system.weight2, factors).sum(axis=BLOCK_AXES)
        field = blocks(system.weight2 * field_ppm, factors).sum(axis=BLOCK_AXES)
        field /= np.maximum(weight2, np.float32(1e-12))
        outside: BoolArray = np.asarray(blocks(system.outside, factors).any(axis=BLOCK_AXES))
        x, y, z = (h * f for h, f in zip(system.voxel_mm, factors, strict=True))
        coarse = System(weight2 / np.float32(np.prod(factors)), outside, (x, y, z), system.b0_dir)
        start = refined((yield from solution(coarse, field, method)), factors) * system.free
    right = system.free * system.field_of(system.weight2 * field_ppm)
    return (yield from conjugate_gradients(system.normal, right, method.max_iterations, method.tolerance, x0=start))


class System:
    """Normal equations A chi = b with A = P D W^2 D P, b = P D W^2 f; D is its own adjoint, P keeps the outside."""

    def __init__(self, weight2: FloatArray, outside: BoolArray, voxel_mm: Vector, b0_dir: Vector) -> None:
        self.weight2, self.outside, self.voxel_mm, self.b0_dir = weight2, outside, voxel_mm, b0_dir
        self.free = outside.astype(np.float32)
        self.dipole = dipole_kernel(outside.shape, voxel_mm, b0_dir)

    def field_of(self, chi: FloatArray) -> FloatArray:
        """D chi."""
        return filtered(chi, self.dipole)

    def normal(self, chi: FloatArray) -> FloatArray:
        """A chi, for chi that is 0 inside."""
        field = self.field_of(chi)
        field *= self.weight2
        image = self.field_of(field)
        image *= self.free
        return image
