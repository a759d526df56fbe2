"""What the scanner adds to a head: receive coils with their phase offset, and shim fields."""

from __future__ import annotations

import numpy as np

from phantoms.physics import box_mean, centred_axes, in_blocks
from phantoms.protocol import Protocol
from phantoms.shapes import Axes, Chart
from recon.types import BoolArray, FloatArray


def receive_coils(rng: np.random.Generator, shading: float) -> tuple[Chart, Chart]:
    """Sensitivity and phase offset of a combined 12-channel head coil, on a coarse grid.

    Twelve loops of 60 mm radius on two rings around the head. Sensitivity is their root sum of squares, 1 at the
    centre, raised to the power ``shading``; the phase offset the mean of their phases, weighted by sensitivity, plus
    a polynomial of second order.
    """
    x, y, z = (np.arange(-half, half + 1, 8, dtype=np.float32) for half in (128, 128, 104))
    here = (x[:, None, None], y[None, :, None], z[None, None, :])
    middle = tuple(int(a.size // 2) for a in (x, y, z))
    squares = weights = phases = np.zeros((x.size, y.size, z.size), dtype=np.float32)
    for loop in range(12):
        turn = np.pi * (loop % 6 + 0.5 * (loop // 6)) / 3
        place = (118 * np.cos(turn), 136 * np.sin(turn), -35 if loop < 6 else 35)
        distance2 = sum((a - np.float32(c)) ** 2 for a, c in zip(here, place, strict=True))
        sensitivity = (distance2 + np.float32(60**2)) ** np.float32(-1.5)
        sensitivity *= np.float32(rng.uniform(0.85, 1.15))
        squares = squares + sensitivity**2
        weights = weights + sensitivity
        phases = phases + sensitivity * np.float32(rng.normal(0, 1.2))
    bias = np.sqrt(squares)
    bias = (bias / bias[middle]) ** np.float32(shading)
    polynomial = sum(c * t for c, t in zip(rng.normal(0, 0.5, 10), _quadratic((x, y, z)), strict=True))
    offset = np.asarray(phases / weights + polynomial, dtype=np.float32)
    return Chart(bias, (x, y, z)), Chart(offset, (x, y, z))


def _quadratic(axes: Axes) -> list[FloatArray]:
    """The ten polynomials of second order in position over 80 mm, shaped to broadcast."""
    u, v, w = axes[0][:, None, None] / 80, axes[1][None, :, None] / 80, axes[2][None, None, :] / 80
    terms = [np.ones((1, 1, 1)), u, v, w, u * v, u * w, v * w, u * u, v * v, w * w]
    return [term.astype(np.float32) for term in terms]


def _shim_coils(axes: Axes) -> list[FloatArray]:
    """The nine solid harmonics up to second order in position over 80 mm, shaped to broadcast."""
    one, u, v, w, uv, uw, vw, uu, vv, ww = _quadratic(axes)
    return [one, u, v, w, uv, uw, vw, uu - vv, 2 * ww - uu - vv]


def shim(rng: np.random.Generator, field_hz: FloatArray, axes: Axes, brain: BoolArray, protocol: Protocol) -> None:
    """Take what shim coils of first and second order can make out of the field of the brain, but for a few Hz.

    Their fields are harmonic: any other polynomial would pass for susceptibility.
    """
    mean = box_mean(field_hz, protocol.oversampling)[brain].astype(np.float64)
    coils = _shim_coils(centred_axes(protocol.shape, protocol.voxel_mm))
    design = np.stack([np.broadcast_to(coil, protocol.shape)[brain] for coil in coils]).astype(np.float64)
    # Without BLAS, whose sums depend on the number of threads.
    fit = np.linalg.solve(np.einsum("in,jn->ij", design, design), np.einsum("in,n->i", design, mean))
    fit -= rng.normal(0, 5.0, fit.size)

    def block(own: slice) -> None:
        for coefficient, coil in zip(fit, _shim_coils((axes[0], axes[1][own], axes[2])), strict=True):
            field_hz[:, own] -= np.float32(coefficient) * coil

    in_blocks(axes[1].size, 8, block)
