"""Spatial phase unwrapping; the type of the parameters chooses the method."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import assert_never

import numpy as np

from recon import unwrap_kernels
from recon.conjugate_gradients import conjugate_gradients
from recon.fourier import gradient_power, irfft, rfft
from recon.operators import gradient, gradient_adjoint
from recon.solve import solved
from recon.types import BadInput, BadRecipe, BoolArray, FloatArray


@dataclass(frozen=True, slots=True)
class RegionGrowing:
    """Quality-guided region growing over all edges between neighbours, best edge first.

    The quality of an edge follows ROMEO (Dymerska et al. 2021, MRM 85:2294): small phase difference, agreement
    with a second estimate of the same phase, equal magnitudes; 255 levels.
    """


@dataclass(frozen=True, slots=True)
class Laplacian:
    r"""Least-squares phase, whose Laplacian is that of the wrapped phase (Schofield & Zhu 2003, Opt Lett 28:1194).

    .. math:: \nabla^T M \nabla \phi' = \nabla^T M\, \mathcal{W}(\nabla \phi), \qquad
              \phi_u = \phi + 2\pi \,\mathrm{round}\left(\frac{\phi' - \phi}{2\pi}\right)

    with wrapped differences W and M = 0 on faces that leave the mask, by conjugate gradients with the Fourier
    solution of the unmasked equation as preconditioner (Ghiglia & Romero 1994, J Opt Soc Am A 11:107). Where noise
    leaves residues the solution bends, so it chooses the turn only. It has no growing order to go wrong, but no
    quality guides it either.

    Parameters
    ----------
    tolerance, max_iterations
        Of the conjugate gradients.
    """

    tolerance: float = 1e-3
    max_iterations: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1 or self.max_iterations < 1:
            raise BadRecipe(f"Laplacian needs 0 < tolerance < 1 and an iteration or more, got {self}")


Unwrap = RegionGrowing | Laplacian


def unwrap(
    phase: FloatArray, second: FloatArray, magnitude: FloatArray, mask: BoolArray, method: Unwrap
) -> FloatArray:
    """Unwrap ``phase`` inside ``mask``; the result differs from it by multiples of 2 pi.

    Parameters
    ----------
    phase, second
        float32 (X, Y, Z), rad: the phase to unwrap, and another estimate of the same phase.
    magnitude
        float32 (X, Y, Z), the amplitude behind ``phase``.
    mask
        bool (X, Y, Z).

    Returns
    -------
    float32 (X, Y, Z), rad, 0 outside the mask; the median over the mask (region growing: over each of its parts) lies
    within [-pi, pi].
    """
    for name, volume in (("second", second), ("magnitude", magnitude), ("mask", mask)):
        if volume.shape != phase.shape:
            raise BadInput(f"{name} has shape {volume.shape}, phase {phase.shape}")
    if mask.dtype != np.bool_:
        raise BadInput(f"mask must be bool, got {mask.dtype}")
    if not mask.any():
        raise BadInput("mask is empty")
    for name, volume in (("phase", phase), ("second", second), ("magnitude", magnitude)):
        if not np.isfinite(volume[mask]).all():
            raise BadInput(f"{name} contains NaN or infinity inside the mask")
    if magnitude[mask].min() < 0:
        raise BadInput("magnitude is negative inside the mask")
    match method:
        case RegionGrowing():
            return region_growing(phase, second, magnitude, mask)
        case Laplacian():
            return laplacian(phase, mask, method)
        case _:
            assert_never(method)


def laplacian(phase: FloatArray, mask: BoolArray, method: Laplacian) -> FloatArray:
    """Unwrap ``phase`` inside ``mask`` by :class:`Laplacian`."""
    shape = (phase.shape[0], phase.shape[1], phase.shape[2])
    faces = np.stack([mask & np.roll(mask, -1, axis) for axis in range(3)])
    for axis in range(3):
        np.moveaxis(faces[axis], axis, 0)[-1] = False
    phase = np.where(mask, phase, np.float32(0))
    steps = gradient(phase, UNIT)
    steps -= np.float32(2 * np.pi) * np.round(steps / np.float32(2 * np.pi))
    power = gradient_power(shape, UNIT)
    power[0, 0, 0] = 1
    smooth = solved(
        conjugate_gradients(
            lambda p: gradient_adjoint(faces * gradient(p, UNIT), UNIT),
            gradient_adjoint(faces * steps, UNIT),
            method.max_iterations,
            method.tolerance,
            lambda residual: irfft(rfft(residual) / power, shape),
        )
    )
    smooth += np.float32(np.angle(np.exp(1j * (phase - smooth)[mask]).mean()))
    turns = np.round((smooth - phase) / np.float32(2 * np.pi))
    unwrapped = np.where(mask, phase + np.float32(2 * np.pi) * turns, np.float32(0))
    unwrapped[mask] -= np.float32(2 * np.pi) * np.round(np.median(unwrapped[mask]) / np.float32(2 * np.pi))
    return unwrapped.astype(np.float32)


UNIT = (1.0, 1.0, 1.0)


def region_growing(phase: FloatArray, second: FloatArray, magnitude: FloatArray, mask: BoolArray) -> FloatArray:
    """Unwrap ``phase`` inside ``mask`` by :class:`RegionGrowing`, each part that does not touch another by itself."""
    records = np.empty((*phase.shape, 4), dtype=np.uint8)
    unwrap_kernels.edge_quality(phase, second, magnitude, mask, records)
    unwrapped = np.where(mask, phase, np.float32(0))
    flat, flat_records = unwrapped.reshape(-1), records.reshape(-1, 4)
    voxels = int(np.count_nonzero(mask))
    queue = np.empty(3 * voxels, dtype=np.int64)
    order, ends = np.empty(voxels, dtype=np.int32), np.zeros(voxels + 1, dtype=np.int32)
    steps = np.array([phase.shape[1] * phase.shape[2], phase.shape[2], 1])

    brightest = np.array([np.where(mask, magnitude, np.float32(-1)).argmax()])
    parts = unwrap_kernels.grow(flat, flat_records, steps, brightest, queue, order, ends[1:], 0)
    if ends[1] < voxels:
        left = np.flatnonzero(flat_records[:, unwrap_kernels.STATE] > 0)
        left = left[np.argsort(-magnitude.reshape(-1)[left], kind="stable")]
        parts += unwrap_kernels.grow(flat, flat_records, steps, left, queue, order, ends[2:], int(ends[1]))
    for start, end in pairwise(ends[: parts + 1]):
        part = order[start:end]
        turns = np.round(np.median(flat[part]) / np.float32(2 * np.pi))
        if turns != 0:
            flat[part] -= np.float32(2 * np.pi) * turns
    return unwrapped
