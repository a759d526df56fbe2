"""Background field removal: one file per method; the type of the parameters chooses the method."""

from __future__ import annotations

from collections.abc import Generator

from recon.background.pdf import Pdf, pdf
from recon.solve import Step
from recon.types import BoolArray, FloatArray, LocalField, Vector

Background = Pdf

__all__ = ["Background", "Pdf", "remove_background"]


def remove_background(
    field_ppm: FloatArray, weight2: FloatArray, mask: BoolArray, voxel_mm: Vector, b0_dir: Vector, method: Background
) -> Generator[Step, None, LocalField]:
    """Field of the sources inside ``mask``, with a method and its parameters.

    Parameters
    ----------
    field_ppm
        float32 (X, Y, Z), total field in ppm of B0, 0 outside ``mask``, on a grid with a margin around the mask.
    weight2
        float32 (X, Y, Z), squared data weight W^2, mean 1 over the mask, 0 outside; for methods that weigh.
    mask
        bool (X, Y, Z): voxels whose field is known.
    """
    return pdf(field_ppm, weight2, mask, voxel_mm, b0_dir, method)
