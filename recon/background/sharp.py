"""The SHARP family: background removal by the spherical mean value property of harmonic fields.

A harmonic field equals its mean over any ball, so f - S f, with the ball's kernel S, holds local sources alone
wherever the ball lies inside the mask. What is left is to undo 1 - S.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from recon.conjugate_gradients import conjugate_gradients
from recon.fourier import filtered, irfft, rfft
from recon.solve import Step
from recon.types import BadInput, BadRecipe, BoolArray, ComplexArray, FloatArray, LocalField, Shape, Vector


@dataclass(frozen=True, slots=True)
class Sharp:
    r"""One ball, truncated deconvolution (Schweser et al. 2011, NeuroImage 54:2789).

    .. math:: \hat f_l = \frac{F\{M_r (f - S_r f)\}}{1 - \hat S_r} \text{ where } |1 - \hat S_r| > t
              \text{, else } 0

    Parameters
    ----------
    radius_mm
        Radius of the ball; the mask loses as much at its edge.
    threshold
        Frequencies that 1 - S passes by less than this are dropped.
    """

    radius_mm: float = 6.0
    threshold: float = 0.05

    def __post_init__(self) -> None:
        _check(self, (self.radius_mm,), self.threshold)


@dataclass(frozen=True, slots=True)
class Resharp:
    r"""One ball, Tikhonov regularisation (Sun & Wilman 2014, MRM 71:1151).

    .. math:: \min_{f_l} \|M_r (1 - S_r) (f - f_l)\|^2 + \lambda \|f_l\|^2

    Parameters
    ----------
    radius_mm
        Radius of the ball; the mask loses as much at its edge.
    weight
        The lambda, dimensionless.
    tolerance, max_iterations
        Of the conjugate gradients.
    """

    radius_mm: float = 6.0
    weight: float = 1e-3
    tolerance: float = 1e-2
    max_iterations: int = 60

    def __post_init__(self) -> None:
        _check(self, (self.radius_mm,), self.weight)
        if not 0 < self.tolerance < 1 or self.max_iterations < 1:
            raise BadRecipe(f"Resharp needs 0 < tolerance < 1 and an iteration or more, got {self}")


@dataclass(frozen=True, slots=True)
class VSharp:
    """Balls of several radii, at each voxel the largest that fits (V-SHARP; Wu et al. 2012, MRM 67:137).

    Deconvolved with the largest ball as in :class:`Sharp`.

    Parameters
    ----------
    radii_mm
        Radii of the balls; the mask loses the smallest at its edge.
    threshold
        As in Sharp.
    """

    radii_mm: tuple[float, ...] = (12.0, 11.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0)
    threshold: float = 0.05

    def __post_init__(self) -> None:
        _check(self, self.radii_mm, self.threshold)
        if list(self.radii_mm) != sorted(set(self.radii_mm), reverse=True):
            raise BadRecipe(f"VSharp needs falling radii_mm, got {self.radii_mm}")


def _check(method: object, radii_mm: tuple[float, ...], weight: float) -> None:
    if not radii_mm or not all(r > 0 for r in radii_mm) or not 0 < weight < 1:
        raise BadRecipe(
            f"{type(method).__name__} needs positive radii and a threshold or weight in 0..1, got {method}"
        )


def sharp(
    field_ppm: FloatArray, mask: BoolArray, voxel_mm: Vector, method: Sharp
) -> Generator[Step, None, LocalField]:
    """Local field, float32 (X, Y, Z) in ppm, on the mask less the ball's radius."""
    return v_sharp(field_ppm, mask, voxel_mm, VSharp((method.radius_mm,), method.threshold))


def v_sharp(
    field_ppm: FloatArray, mask: BoolArray, voxel_mm: Vector, method: VSharp
) -> Generator[Step, None, LocalField]:
    """Local field, float32 (X, Y, Z) in ppm, on the mask less the smallest radius."""
    shape = mask.shape
    spectrum = rfft(np.where(mask, field_ppm, np.float32(0)))
    mask_spectrum = rfft(mask.astype(np.float32))
    widest: FloatArray | None = None
    local, done = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.bool_)
    for index, radius_mm in enumerate(method.radii_mm):
        ball = ball_kernel(shape, voxel_mm, radius_mm)
        fits = _fits(mask_spectrum, ball, mask)
        new = fits & ~done
        if new.any():
            widest = ball if widest is None else widest
            local[new] = (field_ppm - irfft(spectrum * ball, shape))[new]
            done |= new
        yield Step(index + 1, len(method.radii_mm), 0.0)
    if widest is None:
        raise _too_small(mask, method.radii_mm[-1])
    high = 1 - widest
    passed = np.abs(high) > method.threshold
    kept: FloatArray = np.where(passed, 1 / np.where(passed, high, 1), 0).astype(np.float32)
    return LocalField(np.where(done, filtered(local, kept), np.float32(0)), done)


def resharp(
    field_ppm: FloatArray, mask: BoolArray, voxel_mm: Vector, method: Resharp
) -> Generator[Step, None, LocalField]:
    """Local field, float32 (X, Y, Z) in ppm, on the mask less the ball's radius."""
    shape = mask.shape
    ball = ball_kernel(shape, voxel_mm, method.radius_mm)
    fits = _fits(rfft(mask.astype(np.float32)), ball, mask)
    if not fits.any():
        raise _too_small(mask, method.radius_mm)
    high: FloatArray = 1 - ball

    def normal(field: FloatArray) -> FloatArray:
        return filtered(fits * filtered(field, high), high)

    local = yield from conjugate_gradients(
        lambda field: normal(field) + np.float32(method.weight) * field,
        normal(np.where(mask, field_ppm, np.float32(0))),
        method.max_iterations,
        method.tolerance,
    )
    return LocalField(np.where(fits, local, np.float32(0)), fits)


def ball_kernel(shape: Shape, voxel_mm: Vector, radius_mm: float) -> FloatArray:
    """Transform of the ball of this radius on the rfft grid, float32, 1 at k = 0; voxels count by the part inside."""
    sub = 5
    reach = [int(np.ceil(radius_mm / h)) for h in voxel_mm]
    if any(2 * r + 1 > n for r, n in zip(reach, shape, strict=True)):
        raise BadInput(f"a ball of {radius_mm} mm does not fit on the grid {shape} of {voxel_mm} mm")
    axes = [
        (np.arange(-r * sub - sub // 2, r * sub + sub // 2 + 1) / sub * h)
        for r, h in zip(reach, voxel_mm, strict=True)
    ]
    x, y, z = axes
    inside = x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2 <= radius_mm**2
    cells = inside.reshape(*(n for r in reach for n in (2 * r + 1, sub))).mean(axis=(1, 3, 5))
    kernel = np.zeros(shape, dtype=np.float32)
    kernel[tuple(slice(2 * r + 1) for r in reach)] = cells / cells.sum()
    symbol: FloatArray = rfft(np.roll(kernel, [-r for r in reach], axis=(0, 1, 2))).real
    return symbol


def _fits(mask_spectrum: ComplexArray, ball: FloatArray, mask: BoolArray) -> BoolArray:
    """Voxels of the mask around which the whole ball lies inside it."""
    fits: BoolArray = mask & (irfft(mask_spectrum * ball, mask.shape) > 1 - 1e-4)
    return fits


def _too_small(mask: BoolArray, radius_mm: float) -> BadInput:
    return BadInput(f"mask holds {np.count_nonzero(mask)} voxels, a ball of {radius_mm} mm fits nowhere inside it")
