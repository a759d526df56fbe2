"""Which field values to trust: data weights, and voxels at the mask's edge that must not take part."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

from recon.morphology import distance_mm, inner
from recon.types import BoolArray, FieldMap, FloatArray, Vector

LEAKAGE = 0.02
"""Share of a neighbourhood's signal that leaks into a voxel through the point-spread function."""
FLOOR_HZ = 0.5
"""Error of the field that does not come from noise."""
SIGNAL = 0.2
"""Below this share of the brain's signal in the first echo, a voxel at the mask's edge holds air or bone."""
PEEL_PASSES = 8
RIM_MM = 6.0
"""Near the edge, what the echo fit could not explain counts against a voxel; deeper inside it may be a lesion."""
EDGE = 0.2
"""Factor of W^2 on the outermost layer, where background removal is least sure."""


def field_weight(field: FieldMap, mask: BoolArray, voxel_mm: Vector) -> tuple[FloatArray, float]:
    r"""Squared data weight, float32 (X, Y, Z), mean 1 over ``mask``, 0 outside; and the error in Hz behind it.

    .. math:: W^2 \propto 1 / (\sigma_f^2 (1 + (0.02 A_{5 mm} / \sigma)^2) + (0.5 Hz)^2)

    with the field's standard deviation, the mean amplitude over 5 mm and the noise of the signal. The error is
    the one of a voxel of weight 1.
    """
    around = uniform_filter(field.amplitude, [max(1, round(5 / h)) for h in voxel_mm])
    variance = field.sd_hz**2 * (1 + (LEAKAGE * around / field.noise) ** 2) + FLOOR_HZ**2
    weight = np.where(mask, 1 / variance, np.float32(0))
    mean = float(weight[mask].mean(dtype=np.float64))
    return (weight / np.float32(mean)).astype(np.float32), mean**-0.5


def peeled(mask: BoolArray, first_magnitude: FloatArray) -> BoolArray:
    """The mask without voxels at its edge that have no signal, up to eight layers deep where they follow one another.

    Air and bone that a mask lets in have fields wrong by up to 100 Hz, and background removal takes them for boundary
    values: they spoil the map everywhere. What goes here becomes a source of the background. So a hemorrhage at the
    surface must stay: it decays fast, but the first echo still sees it.
    """
    signal = first_magnitude > SIGNAL * np.median(first_magnitude[mask])
    for _ in range(PEEL_PASSES):
        mask = inner(mask) | (mask & signal)
    return mask


def rim_weight(field: FieldMap, mask: BoolArray, voxel_mm: Vector) -> FloatArray:
    """Factor of W^2, float32 (X, Y, Z): 1 / max(1, misfit / 2)^2 within 6 mm of the mask's edge, else 1.

    A fifth of that on the outermost layer: dropping it costs 0.5 ppb of tissue error, trusting it as much.
    """
    rim = distance_mm(~mask, voxel_mm, RIM_MM) < RIM_MM
    factor = np.where(rim, 1 / np.maximum(1, field.misfit / 2) ** 2, np.float32(1))
    factor[mask & ~inner(mask)] *= EDGE
    return factor.astype(np.float32)
