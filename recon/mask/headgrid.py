"""The coarse grid of the automatic mask: block means near 1.6 mm, in patient axes, cropped to the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from recon.mask import kernels
from recon.morphology import Ends
from recon.types import Acquisition, BoolArray, FloatArray, NoMask, Vector

S = TypeVar("S", bound=np.generic)

GRID_MM = 1.6
LAST_TE_S = 14.5e-3
MOST_ECHOES = 3
COHERENCE_BOX_MM = 5.5
ROOM_MM = 6.0
"""Air that is kept around the head."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadGrid:
    """Blocks of voxels; axis 0 runs to the patient's left, 1 to the back, 2 to the top, as nearly as the axes allow.

    Parameters
    ----------
    magnitude, coherence
        float32 (I, J, K), block mean of the first echoes' magnitude; phase coherence, 0 to 1.
    root
        float32 (X, Y, Z), root mean square magnitude of the first echoes on the acquired grid.
    voxel_mm
        Edges of a block.
    ends
        Of every axis, whether the first and the last layer are the array's: what lies beyond is unknown, not air.
    """

    magnitude: FloatArray
    coherence: FloatArray
    root: FloatArray
    voxel_mm: Vector
    ends: Ends
    block: tuple[int, int, int]
    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    crop: tuple[slice, slice, slice]
    blocks: tuple[int, int, int]

    @staticmethod
    def of(acquisition: Acquisition) -> HeadGrid:
        """The grid around everything that has signal.

        Raises
        ------
        NoMask
            If the magnitude is 0 everywhere.
        """
        edges = acquisition.geometry.voxel_mm
        nx, ny, nz = (max(1, round(GRID_MM / h)) for h in edges)
        block = np.array((nx, ny, nz))
        root, level, products, moduli = _first_echoes(acquisition, block)
        if not level.any():
            raise NoMask("no head in the magnitude: it is 0 everywhere")
        order, flipped = standing(acquisition.geometry.affine_mm)
        x, y, z = (float(edges[a] * block[a]) for a in order)
        voxel_mm = (x, y, z)
        magnitude = _turned(level, order, flipped)
        a, b, c = magnitude.shape
        crop = _signal_box(magnitude, voxel_mm)
        reach = [max(0, round((COHERENCE_BOX_MM / h - 1) / 2)) for h in voxel_mm]
        coherence = _coherence(
            [_turned(product, order, flipped)[crop] for product in products],
            [_turned(modulus, order, flipped)[crop] for modulus in moduli],
            reach,
        )
        ends = tuple((s.start == 0, s.stop == n) for s, n in zip(crop, magnitude.shape, strict=True))
        cut = np.ascontiguousarray(magnitude[crop])
        return HeadGrid(cut, coherence, root, voxel_mm, ends, (nx, ny, nz), order, flipped, crop, (a, b, c))

    def acquired(self, volume: npt.NDArray[S]) -> npt.NDArray[S]:
        """A volume of this grid in the acquired order of axes, 0 outside the crop; still of blocks."""
        whole = np.zeros(self.blocks, dtype=volume.dtype)
        whole[self.crop] = volume
        back = whole[tuple(slice(None, None, -1 if f else 1) for f in self.flipped)]
        return np.ascontiguousarray(back.transpose(np.argsort(self.order)))


def standing(affine_mm: npt.NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Which array axis runs left, back and up (the nearest to each of DICOM's axes), and which of them backwards."""
    steep = affine_mm[:3, :3] / np.linalg.norm(affine_mm[:3, :3], axis=0)
    best, axes = -1.0, (0, 1, 2)
    for i in range(3):
        for j in {0, 1, 2} - {i}:
            k = 3 - i - j
            total = abs(steep[0, i]) + abs(steep[1, j]) + abs(steep[2, k])
            if total > best + 1e-9:
                best, axes = total, (i, j, k)
    i, j, k = axes
    return axes, (bool(steep[0, i] < 0), bool(steep[1, j] < 0), bool(steep[2, k] < 0))


def _turned(volume: npt.NDArray[S], order: tuple[int, int, int], flipped: tuple[bool, bool, bool]) -> npt.NDArray[S]:
    return volume.transpose(order)[tuple(slice(None, None, -1 if f else 1) for f in flipped)]


def _first_echoes(
    acquisition: Acquisition, block: npt.NDArray[np.int64]
) -> tuple[FloatArray, FloatArray, list[npt.NDArray[np.complex64]], list[FloatArray]]:
    """Root mean square magnitude and its block means; block sums of Hermitian products, and of their moduli."""
    used = int(np.searchsorted(acquisition.te_s, LAST_TE_S, side="right"))
    used = min(max(used, 2), MOST_ECHOES, len(acquisition.te_s))
    magnitude, phase = acquisition.magnitude[:used], acquisition.phase[:used]
    x, y, z = (int(-(-n // b)) for n, b in zip(acquisition.geometry.shape, block, strict=True))
    root, level = np.empty(acquisition.geometry.shape, dtype=np.float32), np.empty((x, y, z), dtype=np.float32)
    kernels.root_mean_square(magnitude, block, root, level)
    products, moduli = [], []
    for first in range(max(1, used - 1)):
        product, modulus = np.empty((x, y, z), dtype=np.complex64), np.empty((x, y, z), dtype=np.float32)
        pair = slice(first, first + 2)
        kernels.block_products(magnitude[pair], phase[pair], block, product, modulus)
        products.append(product)
        moduli.append(modulus)
    return root, level, products, moduli


def _signal_box(magnitude: FloatArray, voxel_mm: Vector) -> tuple[slice, slice, slice]:
    """Everything brighter than a tenth of the mean of the brighter half, and some air around."""
    bright = magnitude > 0.1 * magnitude[magnitude >= magnitude.mean()].mean()
    few = 0.002 * bright.size
    spans = []
    for axis, edge in enumerate(voxel_mm):
        others = tuple(a for a in range(3) if a != axis)
        # A few bright voxels of noise are no head.
        found = np.flatnonzero(np.count_nonzero(bright, axis=others) > few / bright.shape[axis])
        room = int(np.ceil(ROOM_MM / edge))
        low, high = (int(found[0]), int(found[-1])) if found.size else (0, magnitude.shape[axis] - 1)
        spans.append(slice(max(0, low - room), min(magnitude.shape[axis], high + room + 1)))
    return spans[0], spans[1], spans[2]


def _coherence(products: list[npt.NDArray[np.complex64]], moduli: list[FloatArray], reach: list[int]) -> FloatArray:
    r"""Phase coherence :math:`\sum_p |\mathrm{box}(H_p)| / \sum_p \mathrm{box}(|H_p|)`.

    Pair by pair: odd and even echoes of a bipolar readout have phases of their own.
    """
    coherent: FloatArray = np.zeros(moduli[0].shape, dtype=np.float32)
    for product in products:
        real, imag = (box_sum(np.ascontiguousarray(part), reach) for part in (product.real, product.imag))
        coherent += np.hypot(real, imag)
    return coherent / (box_sum(np.sum(moduli, axis=0), reach) + np.float32(1e-30))


def box_sum(volume: FloatArray, reach: list[int]) -> FloatArray:
    """Sum over 2 ``reach`` + 1 voxels along every axis; voxels outside count as 0."""
    for axis, r in enumerate(reach):
        lines = np.moveaxis(volume, axis, 0)
        total = volume.copy()
        sums = np.moveaxis(total, axis, 0)
        for step in range(1, min(r, len(lines) - 1) + 1):
            sums[step:] += lines[:-step]
            sums[:-step] += lines[step:]
        volume = total
    return volume


def touched(mask: BoolArray, grid: HeadGrid) -> tuple[str, ...]:
    """The faces of the image that a mask on this grid touches, in words."""
    return tuple(
        name
        for axis, names in enumerate((("right", "left"), ("front", "back"), ("bottom", "top")))
        for side, name in enumerate(names)
        if grid.ends[axis][side] and np.take(mask, -side, axis=axis).any()
    )


def cut_faces(tissue: BoolArray, grid: HeadGrid) -> Ends:
    """Faces of the image that cut the head: 8 mm below them lies more than 60 cm2 of it.

    There the excitation may fade, and what lies beyond is unknown.
    """
    result = []
    for axis, (sides, edge) in enumerate(zip(grid.ends, grid.voxel_mm, strict=True)):
        area_mm2 = float(np.prod(grid.voxel_mm)) / edge
        inward = min(round(8.0 / edge), tissue.shape[axis] - 1)
        large = [
            int(np.count_nonzero(np.take(tissue, i, axis=axis))) * area_mm2 > 6000 for i in (inward, -1 - inward)
        ]
        result.append((sides[0] and large[0], sides[1] and large[1]))
    return tuple(result)
