"""What susceptibility is measured against: field data know it up to a constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from recon.morphology import erode
from recon.types import BadRecipe, BoolArray, FloatArray, Vector


@dataclass(frozen=True, slots=True)
class WholeBrain:
    """The mean over the brain mask is 0, as most studies have it (Bilgic et al. 2024, MRM 91:1834)."""


@dataclass(frozen=True, slots=True)
class Csf:
    """The mean over ventricular cerebrospinal fluid is 0 (Straub et al. 2017, MRM 78:204)."""


Reference = WholeBrain | Csf


@dataclass(frozen=True, slots=True)
class Ventricles:
    """Cerebrospinal fluid of the ventricles: fluid decays slowly (as in MEDI+0, Liu Z. et al. 2018, MRM 79:2795).

    Parameters
    ----------
    r2s_hz
        Highest R2* of fluid in 1/s.
    depth_mm
        Depth below the mask's surface from which fluid counts: sulci do not.
    radius_mm
        Components that come this close to the centroid of the mask count.
    volume_mm3
        Smaller components do not count, nor does less fluid than this in all.
    """

    r2s_hz: float = 5.0
    depth_mm: float = 10.0
    radius_mm: float = 30.0
    volume_mm3: float = 200.0

    def __post_init__(self) -> None:
        if not all(x > 0 for x in (self.r2s_hz, self.depth_mm, self.radius_mm, self.volume_mm3)):
            raise BadRecipe(f"Ventricles needs positive parameters, got {self}")


@dataclass(frozen=True, slots=True)
class RegionValue:
    """Susceptibility of a region that others may use as reference, in ppm on the delivered map."""

    region: str
    mean_ppm: float
    sd_ppm: float
    voxels: int


def ventricular_csf(r2s_hz: FloatArray, brain: BoolArray, voxel_mm: Vector, method: Ventricles) -> BoolArray:
    """Voxels of ventricular fluid, bool (X, Y, Z); none where nothing is found.

    Parameters
    ----------
    r2s_hz
        float32 (X, Y, Z), R2* in 1/s.
    brain
        bool (X, Y, Z), brain mask.
    """
    fluid = erode(brain, voxel_mm, method.depth_mm) & (r2s_hz < method.r2s_hz)
    labels, count = ndimage.label(fluid)
    if count == 0:
        return fluid
    voxel_mm3 = float(np.prod(voxel_mm))
    index = np.flatnonzero(labels)
    places = np.stack(np.unravel_index(index, brain.shape), axis=1)
    centroid = [
        np.average(np.arange(n), weights=brain.sum(axis=other)) for n, other in zip(brain.shape, OTHERS, strict=True)
    ]
    distance = np.linalg.norm((places - centroid) * voxel_mm, axis=1)
    owner = labels.ravel()[index]
    nearest = ndimage.minimum(distance, owner, np.arange(count + 1))
    volume = np.bincount(owner, minlength=count + 1) * voxel_mm3
    keep = (nearest <= method.radius_mm) & (volume >= method.volume_mm3)
    keep[0] = False
    found: BoolArray = keep[labels]
    return found


OTHERS = ((1, 2), (0, 2), (0, 1))


def values(chi_ppm: FloatArray, regions: dict[str, BoolArray]) -> tuple[RegionValue, ...]:
    """Mean and standard deviation of chi over every region that is not empty."""
    return tuple(
        RegionValue(
            name,
            float(chi_ppm[region].mean(dtype=np.float64)),
            float(chi_ppm[region].std(dtype=np.float64)),
            int(np.count_nonzero(region)),
        )
        for name, region in regions.items()
        if region.any()
    )
