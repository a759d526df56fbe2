"""What every inversion is given."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from recon.solve import Step
from recon.types import BoolArray, FloatArray, LocalField, Vector


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


Inverting = Generator[Step, None, FloatArray]
"""A running inversion; its result is chi in ppm, float32 (X, Y, Z), up to a constant."""
