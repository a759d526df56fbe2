"""Numba kernels of morphology, nothing else: capped distances, floods, interiors.

Like those of :mod:`recon.kernels`: flat loops whose result does not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from recon.jit import kernel
from recon.types import BoolArray, FloatArray


# out[a, i, b] = min over |j - i| <= reach of  g[a, j, b] + ((i - j) h)^2
@kernel()
def nearest_planes(g: FloatArray, reach: int, step: Any, out: FloatArray) -> None:
    """One axis but the last of the squared distance transform (A, N, B), capped at ``reach`` voxels of ``step``."""
    na, n, nb = g.shape
    for ai in numba.prange(na * n):
        a, i = divmod(np.int64(ai), n)
        for b in range(nb):
            out[a, i, b] = g[a, i, b]
        for j in range(max(0, i - reach), min(n, i + reach + 1)):
            d = np.float32(i - j) * step
            d2 = d * d
            for b in range(nb):
                out[a, i, b] = min(out[a, i, b], g[a, j, b] + d2)


@kernel()
def nearest_rows(target: BoolArray, reach: int, step: Any, far: Any, out: FloatArray) -> None:
    """Squared distance along the last axis to the nearest voxel of ``target`` (A, N), at most ``far``."""
    na, n = target.shape
    for pa in numba.prange(na):
        a = np.int64(pa)
        since = reach + 1
        for i in range(n):
            since = 0 if target[a, i] else since + 1
            d = np.float32(since) * step
            out[a, i] = d * d if since <= reach else far
        since = reach + 1
        for k in range(n):
            i = n - 1 - k
            since = 0 if target[a, i] else since + 1
            if since <= reach:
                d = np.float32(since) * step
                out[a, i] = min(out[a, i], d * d, far)


@kernel(parallel=False)
def flood(open_: BoolArray, seeds: Any, reached: BoolArray, stack: Any) -> None:
    """Voxels of ``open_`` that are joined by faces to one of the flat ``seeds``, into ``reached``; (X, Y, Z).

    ``stack`` int32 holds as many entries as there are voxels.
    """
    nx, ny, nz = open_.shape
    free, found = open_.reshape(-1), reached.reshape(-1)
    top = 0
    for k in range(seeds.shape[0]):
        if free[seeds[k]] and not found[seeds[k]]:
            found[seeds[k]] = True
            stack[top] = seeds[k]
            top += 1
    while top > 0:
        top -= 1
        i = stack[top]
        z = i % nz
        y = i // nz % ny
        x = i // (nz * ny)
        for side in range(6):
            step = ny * nz if side < 2 else (nz if side < 4 else 1)
            at, end = (x, nx) if side < 2 else ((y, ny) if side < 4 else (z, nz))
            if side % 2 == 0:
                if at == 0:
                    continue
                j = i - step
            else:
                if at == end - 1:
                    continue
                j = i + step
            if free[j] and not found[j]:
                found[j] = True
                stack[top] = j
                top += 1


@kernel()
def interior(mask: BoolArray, core: BoolArray) -> None:
    """Voxels (X, Y, Z) of the mask whose six neighbours belong to it; beyond the array nothing does."""
    nx, ny, nz = mask.shape
    for x in numba.prange(nx):
        for y in range(ny):
            row, out = mask[x, y], core[x, y]
            if x == 0 or y == 0 or x == nx - 1 or y == ny - 1 or nz < 3:
                out[:] = False
                continue
            left, right, front, back = mask[x - 1, y], mask[x + 1, y], mask[x, y - 1], mask[x, y + 1]
            out[0], out[nz - 1] = False, False
            for z in range(1, nz - 1):
                out[z] = row[z] & row[z - 1] & row[z + 1] & left[z] & right[z] & front[z] & back[z]
