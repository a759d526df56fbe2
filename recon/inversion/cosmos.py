"""COSMOS: susceptibility from several orientations of the object, the reference standard of phantom runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recon.fourier import dipole_kernel, irfft, rfft
from recon.types import BadInput, FloatArray, Vector, check_grid


def cosmos(fields_ppm: Sequence[FloatArray], b0_dirs: Sequence[Vector], voxel_mm: Vector) -> FloatArray:
    r"""Susceptibility from the local fields of one object at several directions of B0 (Liu T. 2009, MRM 61:196).

    .. math:: \min_\chi \sum_i \|D_i \chi - f_i\|^2 \quad\Rightarrow\quad
              \hat\chi = \frac{\sum_i D_i \hat f_i}{\sum_i D_i^2}

    Three directions far enough apart leave no zero but the one at k = 0.

    Parameters
    ----------
    fields_ppm
        float32 (X, Y, Z) each, local field in ppm of B0 on one grid of the object, 0 outside its mask.
    b0_dirs
        Unit vector of B0 in array axes, one per field.
    voxel_mm
        Voxel edges in mm.

    Returns
    -------
    float32 (X, Y, Z), ppm, of mean 0.

    Raises
    ------
    BadInput
        If there are fewer than two fields, they differ in shape or are not finite, or their directions leave a plane
        undetermined.
    """
    if len(fields_ppm) < 2 or len(fields_ppm) != len(b0_dirs):
        raise BadInput(
            f"fields_ppm and b0_dirs must be two or more and as many, got {len(fields_ppm)}, {len(b0_dirs)}"
        )
    shape = fields_ppm[0].shape
    if any(field.shape != shape or field.ndim != 3 for field in fields_ppm):
        raise BadInput(f"fields_ppm must be volumes of one shape, got {[field.shape for field in fields_ppm]}")
    for b0_dir in b0_dirs:
        check_grid(voxel_mm, b0_dir)
    if not all(np.isfinite(field).all() for field in fields_ppm):
        raise BadInput("fields_ppm contain NaN or infinity")
    numerator = np.zeros_like(rfft(fields_ppm[0]))
    denominator = np.zeros(numerator.shape, dtype=np.float32)
    for field, b0_dir in zip(fields_ppm, b0_dirs, strict=True):
        dipole = dipole_kernel(field.shape, voxel_mm, b0_dir)
        numerator += dipole * rfft(field)
        denominator += dipole**2
    denominator[0, 0, 0] = 1
    if denominator.min() < 1e-3:
        raise BadInput(f"b0_dirs are too close to each other to determine chi: {list(b0_dirs)}")
    return irfft(numerator / denominator, fields_ppm[0].shape)
