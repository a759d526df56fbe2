"""Deep nuclei and veins: iron and deoxygenated blood are paramagnetic and make the signal decay faster.

Susceptibility and R2* of the deep nuclei both grow with iron (Langkammer et al. 2010, Radiology 257:455; 2012,
NeuroImage 62:1593), venous blood has 0.4 ppm (Haacke et al. 2010, JMRI 32:663). Places are counted, not voxels: a
calcification decays fast and is diamagnetic, but it is one place, of whatever size, among dozens of veins and nuclei.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from recon.morphology import erode
from recon.signcheck.evidence import Evidence, block_mean, factors_near, weight_of
from recon.types import BoolArray, FloatArray, Vector

NAME = "deep nuclei and veins"
GRID_MM = 2.0
DEPTH_MM = 8.0
"""Nearer to the mask's surface, R2* tells of air and bone."""
EXCESS_HZ_PER_MHZ = 8.0 / 127.7
"""R2* above the brain's median, 8 1/s at 3 T; that of iron grows with the field."""
STRONG_PPM = 0.06
"""White matter is within this of the brain's median."""
LEAST_MM3 = 8.0
ENOUGH, MAJORITY = 3.0, 0.7
"""Score that suffices alone, and share of the places that must agree: where R2* is noise, places are tossed coins."""


def iron_evidence(
    chi_ppm: FloatArray, r2s_hz: FloatArray, brain: BoolArray, voxel_mm: Vector, f0_mhz: float
) -> Evidence:
    """Sign test over the places deep in the brain that decay fast and have susceptibility other than the brain's.

    Parameters
    ----------
    chi_ppm, r2s_hz
        float32 (X, Y, Z), susceptibility in ppm, R2* in 1/s.
    brain
        bool (X, Y, Z).
    """
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    factors, edges_mm = factors_near(voxel_mm, GRID_MM)
    chi, r2s, share = (block_mean(volume[box], factors) for volume in (chi_ppm, r2s_hz, brain))
    deep = erode(np.pad(share > 0.99, 1), edges_mm, DEPTH_MM)[1:-1, 1:-1, 1:-1]
    if not deep.any():
        return Evidence(NAME, 0.0, 0.0, f"{NAME}: not measured, no place is {DEPTH_MM:g} mm deep")
    fast = deep & (r2s > np.median(r2s[deep]) + np.float32(EXCESS_HZ_PER_MHZ * f0_mhz))
    relative = chi - np.median(chi[deep])
    least = LEAST_MM3 / float(np.prod(edges_mm))
    iron, calcium = (places(fast & (sign * relative > STRONG_PPM), least) for sign in (1, -1))
    count = iron + calcium
    score = (iron - calcium) / max(1, count) ** 0.5
    credible = max(iron, calcium) >= MAJORITY * count
    words = f"{NAME}: of {count} places deep in the brain that decay fast, {iron} are paramagnetic"
    return Evidence(NAME, score, weight_of(score, ENOUGH, credible), words)


def places(mask: BoolArray, least_voxels: float) -> int:
    """Number of connected parts, corners included, that hold ``least_voxels`` or more."""
    labels = ndimage.label(mask, np.ones((3, 3, 3)))[0]
    return int(np.count_nonzero(np.bincount(labels.ravel())[1:] >= least_voxels))
