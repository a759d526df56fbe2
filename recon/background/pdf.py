"""Projection onto dipole fields (PDF)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from recon.conjugate_gradients import conjugate_gradients
from recon.fourier import dipole_kernel, irfft, rfft
from recon.solve import Step
from recon.types import BadRecipe, BoolArray, FloatArray, LocalField, Vector


@dataclass(frozen=True, slots=True)
class Pdf:
    """Background field as the field of dipoles outside the mask (Liu et al. 2011, NMR Biomed 24:1129).

    .. math:: \\min_{\\chi_b}\\; \\tfrac12 \\| W M (f - D \\chi_b) \\|^2, \\qquad \\chi_b = 0 \\text{ inside the mask}

    by conjugate gradients on the normal equations.

    Parameters
    ----------
    tolerance
        Stop when the residual of the normal equations has fallen to this fraction of its start.
    max_iterations
        Stop after this many iterations at the latest.
    """

    tolerance: float = 5e-3
    max_iterations: int = 60

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
    shape = mask.shape
    dipole = dipole_kernel(shape, voxel_mm, b0_dir)
    data = np.where(mask, weight2, np.float32(0))
    field_ppm = np.where(mask, field_ppm, np.float32(0))
    outside = (~mask).astype(np.float32)

    def field_of(chi: FloatArray) -> FloatArray:
        return irfft(dipole * rfft(chi), shape)

    # Normal equations A chi = b with A = P D W^2 D P, b = P D W^2 f; D is its own adjoint, P keeps the outside.
    chi = yield from conjugate_gradients(
        lambda chi: outside * field_of(data * field_of(chi)),
        outside * field_of(data * field_ppm),
        method.max_iterations,
        method.tolerance,
    )
    return LocalField(np.where(mask, field_ppm - field_of(chi), np.float32(0)), mask)
