"""What every inversion is given."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from recon.solve import Step
from recon.types import BadInput, BoolArray, FloatArray, LocalField, Vector, check_grid


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """The dipole inversion: find chi with D chi = f, where the data say f.

    Parameters
    ----------
    local
        Local field in ppm, and the voxels whose field counts.
    weight2
        float32 (X, Y, Z), squared data weight W^2, of mean about 1 over ``local.mask``.
    brain
        bool (X, Y, Z): where tissue is, and chi wanted; holds ``local.mask``.
    magnitude
        float32 (X, Y, Z), where anatomical edges are seen; arbitrary unit.
    csf
        bool (X, Y, Z), ventricular cerebrospinal fluid; may be empty.
    rad_per_ppm
        Phase between two echoes per ppm of field: 2 pi times imaging frequency (MHz) times echo spacing (s). A
        nonlinear data term does not see the turns of this phase.
    voxel_mm, b0_dir
        Voxel edges in mm; unit vector of B0 in array axes.
    """

    local: LocalField
    weight2: FloatArray
    brain: BoolArray
    magnitude: FloatArray
    csf: BoolArray
    rad_per_ppm: float
    voxel_mm: Vector
    b0_dir: Vector

    def __post_init__(self) -> None:
        check_grid(self.voxel_mm, self.b0_dir)
        if not 0 < self.rad_per_ppm < np.inf:
            raise BadInput(f"rad_per_ppm must be positive, got {self.rad_per_ppm}")
        shape = self.brain.shape
        volumes = {
            "local.field_ppm": self.local.field_ppm,
            "local.mask": self.local.mask,
            "weight2": self.weight2,
            "magnitude": self.magnitude,
            "csf": self.csf,
        }
        for name, volume in volumes.items():
            if volume.shape != shape:
                raise BadInput(f"{name} has shape {volume.shape}, brain {shape}")
            if volume.dtype == np.float32 and not np.isfinite(volume.sum(dtype=np.float64)):
                raise BadInput(f"{name} contains NaN or infinity")
        if np.count_nonzero(self.local.mask) < 2:
            raise BadInput(f"local.mask holds {np.count_nonzero(self.local.mask)} voxels: too few to invert")
        if (self.local.mask & ~self.brain).any():
            raise BadInput("local.mask must lie inside brain")
        if self.weight2.min() < 0 or not self.weight2[self.local.mask].any():
            raise BadInput("weight2 must not be negative, nor 0 in every voxel of local.mask")

    @property
    def masked_field_ppm(self) -> FloatArray:
        """Local field in ppm, 0 where it does not count."""
        return np.where(self.local.mask, self.local.field_ppm, np.float32(0))


Inverting = Generator[Step, None, FloatArray]
"""A running inversion; its result is chi in ppm, float32 (X, Y, Z), up to a constant."""
