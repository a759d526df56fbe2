"""The grid on which the inverse problems are solved: the mask's bounding box with a margin, at good FFT sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from recon.fourier import good_size
from recon.types import BoolArray, Shape

S = TypeVar("S", bound=np.generic)

MARGIN = 12
"""Voxels around the mask: fewer let the periodic images of the sources in (2 voxels cost 5 ppb, 8 cost 0.5)."""


@dataclass(frozen=True, slots=True)
class WorkGrid:
    """A box of the full volume, embedded in a larger periodic grid.

    Parameters
    ----------
    full
        Shape of the acquired volume.
    box
        The mask's bounding box in it.
    shape
        Shape of the working grid; the box starts at voxel ``MARGIN`` of each axis.
    """

    full: Shape
    box: tuple[slice, slice, slice]
    shape: Shape

    @staticmethod
    def around(mask: BoolArray) -> WorkGrid:
        """The working grid of a mask that is not empty."""
        spans = [np.flatnonzero(mask.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
        x, y, z = (slice(int(span[0]), int(span[-1]) + 1) for span in spans)
        nx, ny, nz = (good_size(s.stop - s.start + 2 * MARGIN) for s in (x, y, z))
        fx, fy, fz = mask.shape
        return WorkGrid((fx, fy, fz), (x, y, z), (nx, ny, nz))

    @property
    def _inner(self) -> tuple[slice, ...]:
        return tuple(slice(MARGIN, MARGIN + s.stop - s.start) for s in self.box)

    def embed(self, mask: BoolArray) -> BoolArray:
        """A full mask on the working grid; its voxels keep their order."""
        work = np.zeros(self.shape, dtype=np.bool_)
        work[self._inner] = mask[self.box]
        return work

    def restore(self, work: npt.NDArray[S]) -> npt.NDArray[S]:
        """A volume of the working grid on the full one, 0 outside the box."""
        full = np.zeros(self.full, dtype=work.dtype)
        full[self.box] = work[self._inner]
        return full
