"""Background field removal: one file per family; the type of the parameters chooses the method."""

from __future__ import annotations

from collections.abc import Generator
from typing import assert_never

import numpy as np

from recon.background.lbv import Lbv, lbv
from recon.background.pdf import Pdf, pdf
from recon.background.sharp import Resharp, Sharp, VSharp, resharp, sharp, v_sharp
from recon.solve import Step
from recon.types import BadInput, BoolArray, FloatArray, LocalField, Vector, check_grid

Background = Pdf | Lbv | Sharp | Resharp | VSharp

__all__ = ["Background", "Lbv", "Pdf", "Resharp", "Sharp", "VSharp", "reach_mm", "remove_background"]


def reach_mm(method: Background) -> float:
    """How deep a mask must be somewhere for the method to leave anything of it."""
    match method:
        case VSharp():
            return min(method.radii_mm)
        case Sharp() | Resharp():
            return method.radius_mm
        case _:
            return 0.0


def remove_background(
    field_ppm: FloatArray, weight2: FloatArray, mask: BoolArray, voxel_mm: Vector, b0_dir: Vector, method: Background
) -> Generator[Step, None, LocalField]:
    """Field of the sources inside ``mask``, with a method and its parameters.

    Parameters
    ----------
    field_ppm
        float32 (X, Y, Z), total field in ppm of B0, on a grid with a margin around the mask.
    weight2
        float32 (X, Y, Z), squared data weight W^2, mean 1 over the mask; for the methods that weigh.
    mask
        bool (X, Y, Z): voxels whose field is known. The others are never looked at.

    Raises
    ------
    BadInput
        If shapes differ, the mask is empty or too small for the method, its field or weight is not finite, no weight
        is positive, or the grid makes no sense.
    """
    _check(field_ppm, weight2, mask, voxel_mm, b0_dir)
    match method:
        case Pdf():
            return pdf(field_ppm, weight2, mask, voxel_mm, b0_dir, method)
        case Lbv():
            return lbv(field_ppm, mask, voxel_mm, method)
        case Sharp():
            return sharp(field_ppm, mask, voxel_mm, method)
        case Resharp():
            return resharp(field_ppm, mask, voxel_mm, method)
        case VSharp():
            return v_sharp(field_ppm, mask, voxel_mm, method)
        case _:
            assert_never(method)


def _check(field_ppm: FloatArray, weight2: FloatArray, mask: BoolArray, voxel_mm: Vector, b0_dir: Vector) -> None:
    check_grid(voxel_mm, b0_dir)
    for name, volume in (("weight2", weight2), ("mask", mask)):
        if volume.shape != field_ppm.shape:
            raise BadInput(f"{name} has shape {volume.shape}, field_ppm {field_ppm.shape}")
    if mask.dtype != np.bool_:
        raise BadInput(f"mask must be bool, got {mask.dtype}")
    if np.count_nonzero(mask) < 2:
        raise BadInput(f"mask holds {np.count_nonzero(mask)} voxels: a field cannot be told apart there")
    for name, volume in (("field_ppm", field_ppm), ("weight2", weight2)):
        if not np.isfinite(volume[mask]).all():
            raise BadInput(f"{name} contains NaN or infinity inside the mask")
    if weight2[mask].min() < 0 or not weight2[mask].any():
        raise BadInput("weight2 must not be negative, nor 0 everywhere in the mask")
