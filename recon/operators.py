"""Linear operators with their adjoints."""

from __future__ import annotations

import numpy as np

from recon.types import FloatArray, Vector


def gradient(chi: FloatArray, scales: Vector) -> FloatArray:
    """Periodic forward differences times ``scales`` along x, y, z: float32 (3, X, Y, Z), in the unit of ``chi``.

    :func:`recon.fourier.edge_scales` makes them differences per smallest voxel edge.
    """
    return np.stack([np.float32(s) * (np.roll(chi, -1, axis) - chi) for axis, s in enumerate(scales)])


def gradient_adjoint(faces: FloatArray, scales: Vector) -> FloatArray:
    """Adjoint of :func:`gradient`: minus the divergence, float32 (X, Y, Z)."""
    adjoint = np.zeros(faces.shape[1:], dtype=np.float32)
    for axis, s in enumerate(scales):
        adjoint += np.float32(s) * (np.roll(faces[axis], 1, axis) - faces[axis])
    return adjoint
