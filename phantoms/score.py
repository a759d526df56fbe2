"""How well a susceptibility map meets the truth of a phantom: lesions, brain and tissue, apart from each other.

A map from field data knows susceptibility up to a constant: every measure first refers map and truth to the mean
over the true brain without its lesions, of which a large one would move the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage

from phantoms.lesions import Kind
from phantoms.simulate import Phantom
from recon.types import BadInput, BoolArray, FloatArray


@dataclass(frozen=True, slots=True)
class LesionScore:
    """One lesion: its mean in the map against its mean in the truth, over the voxels that are half lesion or more.

    ``volume_mm3`` is the lesion's own, ``error`` is (measured - true) / |true|.
    """

    kind: Kind
    volume_mm3: float
    voxels: int
    true_ppb: float
    measured_ppb: float

    @property
    def error(self) -> float:
        """Relative error of the mean; positive when the map is too high."""
        return (self.measured_ppb - self.true_ppb) / abs(self.true_ppb)

    @property
    def sign_right(self) -> bool:
        """Whether the mean has the sign of the kind: hemorrhage positive, calcification negative."""
        return (self.measured_ppb > 0) == (self.kind == "hemorrhage") and self.measured_ppb != 0


def referenced(chi_ppm: FloatArray, phantom: Phantom) -> FloatArray:
    """The map minus its mean over the true brain without lesions, float32 (X, Y, Z) in ppm.

    Raises
    ------
    BadInput
        If the map has another shape than the phantom.
    """
    if chi_ppm.shape != phantom.brain.shape:
        raise BadInput(f"chi_ppm has shape {chi_ppm.shape}, the phantom {phantom.brain.shape}")
    healthy = phantom.brain & ~_lesions(phantom)
    return chi_ppm - np.float32(chi_ppm[healthy].mean(dtype=np.float64))


def lesion_table(chi_ppm: FloatArray, phantom: Phantom) -> list[LesionScore]:
    """Every lesion of the phantom that fills at least half of one voxel, in the phantom's order."""
    measured, true = referenced(chi_ppm, phantom), referenced(phantom.chi_ppm, phantom)
    return [
        LesionScore(
            kind=placed.lesion.kind,
            volume_mm3=placed.volume_mm3,
            voxels=int(placed.mask.sum()),
            true_ppb=1000 * float(true[placed.mask].mean(dtype=np.float64)),
            measured_ppb=1000 * float(measured[placed.mask].mean(dtype=np.float64)),
        )
        for placed in phantom.lesions
        if placed.mask.any()
    ]


def nrmse_percent(chi_ppm: FloatArray, phantom: Phantom) -> float:
    """100 |map - truth| / |truth| over the true brain, both without their mean over it."""
    brain = phantom.brain
    measured, true = (v[brain].astype(np.float64) for v in (chi_ppm, phantom.chi_ppm))
    measured -= measured.mean()
    true -= true.mean()
    return float(100 * np.linalg.norm(measured - true) / np.linalg.norm(true))


def tissue_rmse_ppb(chi_ppm: FloatArray, phantom: Phantom, distance_voxels: float = 2.0) -> float:
    """Root mean square error in ppb over the true brain farther than ``distance_voxels`` from every lesion."""
    lesions = _lesions(phantom)
    tissue = phantom.brain.copy()
    if lesions.any():
        tissue &= scipy.ndimage.distance_transform_edt(~lesions) > distance_voxels
    error = (chi_ppm[tissue] - phantom.chi_ppm[tissue]).astype(np.float64)
    return float(1000 * error.std())


def _lesions(phantom: Phantom) -> BoolArray:
    union = np.zeros(phantom.brain.shape, dtype=np.bool_)
    for placed in phantom.lesions:
        union |= placed.mask
    return union
