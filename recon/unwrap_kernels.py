"""Numba kernels of unwrapping, nothing else; float32."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from recon.jit import ONE, PER_TURN, TINY, TWO, ZERO, kernel, wrap
from recon.types import BoolArray, FloatArray

STATE = 3
"""Where a voxel's record says what it waits for: 0 when its phase is final, else the best quality of the edges
that lead to it from final voxels, 1 at first. Before it stand the qualities of the edges to the next neighbours along
x, y, z, 0 where there is none or it has been used. One cache line holds what growing looks at."""


# gamma = (1 - |wrap(d phi)| / pi) (1 - |wrap(d phi - d phi')| / pi) (min M / max M)^2, in 1..255; 0 = no edge
@kernel()
def edge_quality(phase: FloatArray, second: FloatArray, magnitude: FloatArray, mask: BoolArray, records: Any) -> None:
    """Records uint8 (X, Y, Z, 4) of all voxels, those outside the mask final; not periodic."""
    nx, ny, nz = phase.shape
    for x in numba.prange(nx):
        for y in range(ny):
            for z in range(nz):
                record = records[x, y, z]
                inside = mask[x, y, z]
                record[STATE] = inside
                for axis in range(3):
                    x1, y1, z1 = x + (axis == 0), y + (axis == 1), z + (axis == 2)
                    record[axis] = 0
                    if not inside or x1 == nx or y1 == ny or z1 == nz or not mask[x1, y1, z1]:
                        continue
                    d = wrap(phase[x1, y1, z1] - phase[x, y, z])
                    d2 = wrap(second[x1, y1, z1] - second[x, y, z] - d)
                    a, b = magnitude[x, y, z], magnitude[x1, y1, z1]
                    ratio = min(a, b) / max(a, b, TINY)
                    g = (ONE - TWO * abs(d) * PER_TURN) * (ONE - TWO * abs(d2) * PER_TURN) * ratio * ratio
                    record[axis] = 1 + int(np.float32(254) * max(g, ZERO))


@kernel(parallel=False)
def grow(
    phase: FloatArray, records: Any, steps: Any, seeds: Any, queue: Any, order: Any, ends: Any, start: int
) -> int:
    """Unwrap ``phase`` (N,) in place from each of ``seeds`` that is not final yet outwards, best edge first.

    Parameters
    ----------
    records
        uint8 (N, 4).
    steps
        Distance of neighbours along x, y, z in flat voxels.
    queue
        int64, memory for the edges that wait, three per voxel at most. Edges of one quality form a list, the last one
        first: the upper half of an entry is the next one's place or -1, the lower half 8 times the edge's far
        voxel, plus 2 times its axis, plus 1 where it leads backwards. An edge worse than another that leads to the
        same voxel would find it final, so it does not wait.
    order
        int32: receives the voxels in the order in which they become final, from entry ``start`` on.
    ends
        int32: receives where each seed's voxels end in it.

    Returns
    -------
    Number of seeds used.
    """
    heads = np.full(256, -1, dtype=np.int64)
    parts, count = 0, start
    for seed in seeds:
        if records[seed, STATE] == 0:
            continue
        used: Any = 0
        free: Any = -1
        best: Any = 0
        voxel: Any = np.int64(seed)
        while voxel >= 0:
            records[voxel, STATE] = 0
            order[count] = voxel
            count += 1
            for axis in range(3):
                for back in range(2):
                    near = voxel - back * steps[axis]
                    if near < 0 or records[near, axis] == 0:
                        continue
                    quality = np.int64(records[near, axis])
                    records[near, axis] = 0
                    far = near if back else voxel + steps[axis]
                    if quality < records[far, STATE]:
                        continue
                    records[far, STATE] = quality
                    entry = free
                    if entry >= 0:
                        free = queue[entry] >> 32
                    else:
                        entry = used
                        used += 1
                    queue[entry] = (heads[quality] << 32) | (8 * far + 2 * axis + back)
                    heads[quality] = entry
                    best = max(best, quality)
            voxel = -1
            while best > 0 and voxel < 0:
                entry = heads[best]
                if entry < 0:
                    best -= 1
                    continue
                heads[best] = queue[entry] >> 32
                edge = queue[entry] & 0xFFFFFFFF
                queue[entry] = free << 32
                free = entry
                if records[edge >> 3, STATE] == 0:
                    continue
                voxel = edge >> 3
                step = steps[(edge >> 1) & 3]
                known = phase[voxel + step if edge & 1 else voxel - step]
                phase[voxel] = known + wrap(phase[voxel] - known)
        ends[parts] = count
        parts += 1
    return parts
