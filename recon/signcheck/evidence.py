"""What one kind of evidence says, and the coarse grids that it is measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recon.coarse import Factors
from recon.types import FloatArray, Vector


@dataclass(frozen=True, slots=True)
class Evidence:
    """One kind of evidence; the negated phase gives the negated score and weight.

    Parameters
    ----------
    name
        What it rests on.
    score
        In its own standard errors; positive: the phase rises with the field, as it should. 0 if not measured.
    weight
        What it counts for, -1 to 1: the score over the one that suffices, or 0 where it is not credible.
    words
        What it was measured from, with numbers.
    """

    name: str
    score: float
    weight: float
    words: str


def weight_of(score: float, enough: float, credible: bool) -> float:
    """What a score counts for, when ``enough`` suffices alone."""
    return max(-1.0, min(1.0, score / enough)) if credible else 0.0


def factors_near(voxel_mm: Vector, edge_mm: float) -> tuple[Factors, Vector]:
    """Voxels per block along every axis for blocks with edges near ``edge_mm``, and the edges of the blocks."""
    x, y, z = (max(1, round(edge_mm / h)) for h in voxel_mm)
    a, b, c = voxel_mm
    return (x, y, z), (x * a, y * b, z * c)


def block_mean(volume: npt.NDArray[np.generic], factors: Factors) -> FloatArray:
    """Mean over blocks, float32; what the last blocks of an axis lack counts as 0."""
    total = np.pad(volume, [(0, -n % f) for n, f in zip(volume.shape, factors, strict=True)])
    for axis, factor in enumerate(factors):  # one after the other: sums over several are slow
        split = (*total.shape[:axis], total.shape[axis] // factor, factor, *total.shape[axis + 1 :])
        total = total.reshape(split).sum(axis=axis + 1, dtype=np.float32)
    return np.asarray(total / np.float32(np.prod(factors)))
