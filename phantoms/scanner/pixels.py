"""Magnitude and phase as the integers that scanners store, and what loaders make of them.

Decoding rounds after each step, in float32: scale, shift, convert to radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recon.types import FloatArray

Unsigned = npt.NDArray[np.uint16]

BITS = 12
TOP = 2**BITS - 1
TURN = np.float32(2 * np.pi)


@dataclass(frozen=True, slots=True)
class PhaseCode:
    """Phase as unsigned integers: ``(slope stored + intercept) unit_rad`` is the angle.

    Parameters
    ----------
    slope, intercept
        Rescale, as headers have it.
    unit_rad
        What 1 means after rescale, in rad.
    turn
        Integers to a turn: this one comes round to 0.
    """

    slope: float
    intercept: float
    unit_rad: float
    turn: int

    def encode(self, phase_rad: FloatArray) -> Unsigned:
        """Phase in rad, any 2 pi branch, to the nearest integers from 0 to ``turn - 1``."""
        stored = np.empty(phase_rad.shape, dtype=np.uint16)
        per_rad, middle = np.float32(1 / (self.slope * self.unit_rad)), np.float32(-self.intercept / self.slope)
        for place, volume in zip(stored, phase_rad, strict=True):
            wrapped = volume - TURN * np.rint(volume / TURN)
            place[...] = np.rint(wrapped * per_rad + middle).astype(np.int32) % self.turn
        return stored

    def decode(self, stored: Unsigned) -> FloatArray:
        """Stored integers to rad, float32."""
        phase = stored.astype(np.float32)
        phase *= np.float32(self.slope)
        phase += np.float32(self.intercept)
        phase *= np.float32(self.unit_rad)
        return phase


def gain(magnitude: FloatArray, top: int = TOP) -> np.float32:
    """The factor that makes the largest magnitude of the acquisition ``top``: one for all echoes."""
    return np.float32(top / magnitude.max())


def stored_magnitude(magnitude: FloatArray) -> Unsigned:
    """Magnitude (E, X, Y, Z) as 12-bit integers."""
    return np.asarray(np.rint(magnitude * gain(magnitude)), dtype=np.uint16)


def bright(stored: npt.NDArray[np.integer]) -> int:
    """Upper end of a window for magnitude: few voxels of the first echo are brighter."""
    return int(np.percentile(stored[0], 99))


def rows_of(volume: npt.NDArray[np.integer], z: int) -> bytes:
    """PixelData of one slice of (X, Y, Z): row by row, little endian."""
    return np.ascontiguousarray(volume[:, :, z].T, dtype=volume.dtype.newbyteorder("<")).tobytes()
