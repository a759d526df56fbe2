"""Spatial phase unwrapping."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from recon import kernels
from recon.types import BoolArray, FloatArray


@dataclass(frozen=True, slots=True)
class RegionGrowing:
    """Quality-guided region growing over all edges between neighbours, best edge first.

    The quality of an edge follows ROMEO (Dymerska et al. 2021, MRM 85:2294): small phase difference, agreement
    with a second estimate of the same phase, equal magnitudes; 255 levels.
    """


def region_growing(phase: FloatArray, second: FloatArray, magnitude: FloatArray, mask: BoolArray) -> FloatArray:
    """Unwrap ``phase`` inside ``mask``; the result differs from it by multiples of 2 pi.

    Parameters
    ----------
    phase, second
        float32 (X, Y, Z), rad: the phase to unwrap, and another estimate of the same phase.
    magnitude
        float32 (X, Y, Z), the amplitude behind ``phase``.
    mask
        bool (X, Y, Z). Regions that do not touch are unwrapped each by itself.

    Returns
    -------
    float32 (X, Y, Z), rad, 0 outside the mask; the median over each region lies within [-pi, pi].
    """
    quality = np.empty((*phase.shape, 3), dtype=np.uint8)
    kernels.edge_quality(phase, second, magnitude, mask, quality)
    unwrapped = np.where(mask, phase, np.float32(0))
    waiting = np.empty(3 * phase.size, dtype=np.int32)
    heads = np.empty(256, dtype=np.int32)
    done = (~mask).astype(np.uint8).ravel()
    regions, count = ndimage.label(mask)
    labels = np.arange(1, count + 1)
    for seed in ndimage.maximum_position(magnitude, regions, labels):
        kernels.grow(unwrapped, quality, np.ravel_multi_index(seed, phase.shape), waiting, heads, done)
    turns = np.round(ndimage.median(unwrapped, regions, labels) / (2 * np.pi))
    unwrapped -= np.concatenate([[0], 2 * np.pi * turns]).astype(np.float32)[regions]
    return unwrapped
