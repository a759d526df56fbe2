"""Numba kernels of unwrapping, nothing else; float32."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from recon.jit import ONE, PER_TURN, TINY, TWO, ZERO, kernel, wrap
from recon.types import BoolArray, FloatArray

DONE = 3
"""Where a voxel's record says that its phase is final; before it stand the qualities of the edges to the next
neighbours along x, y, z, 0 where there is none or it waits already. One cache line holds what growing looks at."""


# gamma = (1 - |wrap(d phi)| / pi) (1 - |wrap(d phi - d phi')| / pi) (min M / max M)^2, in 1..255; 0 = no edge
@kernel()
def edge_quality(phase: FloatArray, second: FloatArray, magnitude: FloatArray, mask: BoolArray, records: Any) -> None:
    """Records uint8 (X, Y, Z, 4) of all voxels, those outside the mask done; not periodic."""
    nx, ny, nz = phase.shape
    for x in numba.prange(nx):
        for y in range(ny):
            for z in range(nz):
                record = records[x, y, z]
                inside = mask[x, y, z]
                record[DONE] = not inside
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
    phase: FloatArray, records: Any, steps: Any, seeds: Any, code: Any, link: Any, order: Any, ends: Any, start: int
) -> int:
    """Unwrap ``phase`` (N,) in place from each of ``seeds`` that is not done yet outwards, best edge first.

    Parameters
    ----------
    records
        uint8 (N, 4).
    steps
        Distance of neighbours along x, y, z in flat voxels.
    code, link
        int32 (3 N,) at most: the queue's memory. An edge that waits is 8 times its far voxel, plus 2 times its axis,
        plus 1 where it leads backwards; edges of one quality are linked, the last one first.
    order
        int32: receives the voxels as they are done, from entry ``start`` on.
    ends
        int32: receives where each seed's voxels end in it.

    Returns
    -------
    Number of seeds used.
    """
    heads = np.full(256, -1, dtype=np.int32)
    parts, count = 0, start
    for seed in seeds:
        if records[seed, DONE]:
            continue
        top, free, best = 0, -1, 0
        voxel = np.int64(seed)
        found = True
        while found:
            records[voxel, DONE] = 1
            order[count] = voxel
            count += 1
            for axis in range(3):
                for back in range(2):
                    near = voxel - back * steps[axis]
                    if near < 0 or records[near, axis] == 0:
                        continue
                    quality = records[near, axis]
                    records[near, axis] = 0
                    node = free
                    if node >= 0:
                        free = link[node]
                    else:
                        node = top
                        top += 1
                    code[node] = 8 * (near if back else voxel + steps[axis]) + 2 * axis + back
                    link[node] = heads[quality]
                    heads[quality] = node
                    best = max(best, quality)
            found = False
            while best > 0 and not found:
                node = heads[best]
                if node < 0:
                    best -= 1
                    continue
                heads[best] = link[node]
                link[node] = free
                free = node
                voxel = np.int64(code[node] >> 3)
                if records[voxel, DONE]:
                    continue
                step = steps[(code[node] >> 1) & 3]
                known = phase[voxel + step] if code[node] & 1 else phase[voxel - step]
                phase[voxel] = known + wrap(phase[voxel] - known)
                found = True
        ends[parts] = count
        parts += 1
    return parts
