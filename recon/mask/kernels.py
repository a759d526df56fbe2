"""Numba kernels of the automatic mask, nothing else: block sums, mirror image, the deformable surface.

Like those of :mod:`recon.kernels`: flat float32 loops whose result does not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from recon.jit import HALF, ONE, ZERO, cos_wrapped, kernel, sin_wrapped, wrap
from recon.types import BoolArray, ComplexArray, FloatArray


# M = sqrt(mean_e M_e^2), and its mean over every block
@kernel()
def root_mean_square(magnitude: FloatArray, block: Any, root: FloatArray, level: FloatArray) -> None:
    """Of echoes (E, X, Y, Z), into ``root`` (X, Y, Z); its block means into ``level``."""
    echoes, nx, ny, nz = magnitude.shape
    cx, cy, cz = level.shape
    share = ONE / np.float32(echoes)
    for px in numba.prange(cx):
        x0 = np.int64(px) * block[0]
        x1 = min(x0 + block[0], nx)
        row = np.empty(nz, dtype=np.float32)
        for by in range(cy):
            y0, y1 = by * block[1], min((by + 1) * block[1], ny)
            row[:] = ZERO
            for x in range(x0, x1):
                for y in range(y0, y1):
                    for z in range(nz):
                        square = ZERO
                        for e in range(echoes):
                            square += magnitude[e, x, y, z] * magnitude[e, x, y, z]
                        root[x, y, z] = np.sqrt(square * share)
                        row[z] += root[x, y, z]
            for bz in range(cz):
                z0, z1 = bz * block[2], min((bz + 1) * block[2], nz)
                s = ZERO
                for z in range(z0, z1):
                    s += row[z]
                level[px, by, bz] = s / np.float32((x1 - x0) * (y1 - y0) * (z1 - z0))


# sums over blocks of  H = M_0 M_1 exp(i (phi_1 - phi_0))  and of  |H|;  of the signal itself where there is no second
@kernel()
def block_products(magnitude: FloatArray, phase: FloatArray, block: Any, product: ComplexArray, modulus: Any) -> None:
    """Hermitian product of two neighbouring echoes (1 or 2, X, Y, Z), into ``product`` and ``modulus``."""
    echoes, nx, ny, nz = magnitude.shape
    cx, cy, cz = modulus.shape
    last = echoes - 1
    for px in numba.prange(cx):
        x0 = np.int64(px) * block[0]
        rows = np.empty((3, nz), dtype=np.float32)
        for by in range(cy):
            rows[:] = ZERO
            for x in range(x0, min(x0 + block[0], nx)):
                for y in range(by * block[1], min((by + 1) * block[1], ny)):
                    for z in range(nz):
                        first = phase[0, x, y, z] if last else ZERO
                        m = magnitude[last, x, y, z] * (magnitude[0, x, y, z] if last else ONE)
                        angle = wrap(phase[last, x, y, z] - first)
                        rows[0, z] += m * cos_wrapped(angle)
                        rows[1, z] += m * sin_wrapped(angle)
                        rows[2, z] += m
            for bz in range(cz):
                a, b, s = ZERO, ZERO, ZERO
                for z in range(bz * block[2], min((bz + 1) * block[2], nz)):
                    a += rows[0, z]
                    b += rows[1, z]
                    s += rows[2, z]
                product[px, by, bz] = complex(a, b)
                modulus[px, by, bz] = s


# class 2: inside;  class 1: inside where M > level B;  class 0: outside
@kernel()
def fine_edge(kind: Any, bias: FloatArray, magnitude: FloatArray, block: Any, level: Any, out: BoolArray) -> None:
    """The mask at full resolution (X, Y, Z) from the uint8 class and the bias of its blocks."""
    nx, ny, nz = magnitude.shape
    for px in numba.prange(nx):
        x = np.int64(px)
        for y in range(ny):
            bx, by = x // block[0], y // block[1]
            for bz in range(kind.shape[2]):
                k, least = kind[bx, by, bz], level * bias[bx, by, bz]
                for z in range(bz * block[2], min((bz + 1) * block[2], nz)):
                    out[x, y, z] = k == 2 or (k == 1 and magnitude[x, y, z] > least)


@kernel(parallel=False)
def overlap(volume: FloatArray, places: FloatArray, weight: FloatArray) -> Any:
    """Sum of the lesser of ``weight`` (N,) and of ``volume`` at ``places`` (N, 3) in voxels, linear, 0 outside."""
    nx, ny, nz = volume.shape
    total = 0.0
    for n in range(places.shape[0]):
        x, y, z = places[n, 0], places[n, 1], places[n, 2]
        i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
        u, v, w = x - np.float32(i), y - np.float32(j), z - np.float32(k)
        value = ZERO
        for di in range(2):
            for dj in range(2):
                for dk in range(2):
                    a, b, c = i + di, j + dj, k + dk
                    if 0 <= a < nx and 0 <= b < ny and 0 <= c < nz:
                        share = (u if di else ONE - u) * (v if dj else ONE - v) * (w if dk else ONE - w)
                        value += share * volume[a, b, c]
        total += min(value, weight[n])
    return total


@kernel(parallel=False, inline="always")
def sampled(volume: FloatArray, x: Any, y: Any, z: Any) -> Any:
    """Nearest voxel's value; 0 outside the array."""
    nx, ny, nz = volume.shape
    i, j, k = int(x + HALF), int(y + HALF), int(z + HALF)
    if x < -HALF or y < -HALF or z < -HALF or i >= nx or j >= ny or k >= nz:
        return ZERO
    return volume[i, j, k]


# One step of every vertex x with outward normal n, mean of its neighbours m, s = m - x, s_n = (s.n) n, s_t = s - s_n:
#   u = s_t / 2 + f2(r) s_n + 0.05 f3 l n,   r = l^2 / (2 |s_n|) the local radius, l the mean edge of the mesh
#   f2 = (1 + tanh(F (1 / r - E))) / 2,   f3 = 2 (I_min - t_l) / (I_max - t_2),  t_l = (I_max - t_2) b + t_2
@kernel(parallel=False)
def deform(
    vertices: FloatArray,
    triangles: Any,
    neighbours: Any,
    degree: Any,
    relative: FloatArray,
    voxel_mm: Any,
    share: Any,
    steps: int,
) -> None:
    """Move ``vertices`` (V, 3) in mm, in place, by the forces of Smith 2002 on the magnitude ``relative`` to 1.

    ``neighbours`` int32 (V, 6), of which ``degree`` (V,) are used. Single-threaded: a step takes microseconds.
    """
    count = vertices.shape[0]
    normal, moved = np.zeros((count, 3), dtype=np.float32), np.empty((count, 3), dtype=np.float32)
    shape = relative.shape
    e, f = np.float32(0.5 * (1 / 3.33 + 1 / 10.0)), np.float32(6 / (1 / 3.33 - 1 / 10.0))
    for _ in range(steps):
        normal[:] = ZERO
        for t in range(triangles.shape[0]):
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            ux, uy, uz = (
                vertices[b, 0] - vertices[a, 0],
                vertices[b, 1] - vertices[a, 1],
                vertices[b, 2] - vertices[a, 2],
            )
            vx, vy, vz = (
                vertices[c, 0] - vertices[a, 0],
                vertices[c, 1] - vertices[a, 1],
                vertices[c, 2] - vertices[a, 2],
            )
            wx, wy, wz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
            for corner in range(3):
                v = triangles[t, corner]
                normal[v, 0] += wx
                normal[v, 1] += wy
                normal[v, 2] += wz
        edge = ZERO
        for v in range(count):
            length = ZERO
            for k in range(degree[v]):
                q = neighbours[v, k]
                dx, dy, dz = (
                    vertices[q, 0] - vertices[v, 0],
                    vertices[q, 1] - vertices[v, 1],
                    vertices[q, 2] - vertices[v, 2],
                )
                length += np.sqrt(dx * dx + dy * dy + dz * dz)
            edge += length / np.float32(degree[v])
        edge /= np.float32(count)
        for v in range(count):
            size = np.sqrt(normal[v, 0] ** 2 + normal[v, 1] ** 2 + normal[v, 2] ** 2) + np.float32(1e-9)
            nx, ny, nz = normal[v, 0] / size, normal[v, 1] / size, normal[v, 2] / size
            sx, sy, sz = ZERO, ZERO, ZERO
            for k in range(degree[v]):
                q = neighbours[v, k]
                sx += vertices[q, 0]
                sy += vertices[q, 1]
                sz += vertices[q, 2]
            m = ONE / np.float32(degree[v])
            x, y, z = vertices[v, 0], vertices[v, 1], vertices[v, 2]
            sx, sy, sz = sx * m - x, sy * m - y, sz * m - z
            along = sx * nx + sy * ny + sz * nz
            curvature = np.float32(2) * abs(along) / (edge * edge)
            smooth = HALF * (ONE + np.tanh(f * (curvature - e)))
            low, high = ONE, np.float32(0.5)
            for depth in range(1, 21):
                d = np.float32(depth)
                here = sampled(
                    relative, (x - d * nx) / voxel_mm[0], (y - d * ny) / voxel_mm[1], (z - d * nz) / voxel_mm[2]
                )
                low = min(low, here)
                if depth <= 10:
                    high = max(high, here)
            high = min(high, ONE)
            force = np.float32(2) * (low - high * share) / high
            push = np.float32(0.05) * force * edge
            pull = smooth * along - HALF * along
            moved[v, 0] = x + HALF * sx + (pull + push) * nx
            moved[v, 1] = y + HALF * sy + (pull + push) * ny
            moved[v, 2] = z + HALF * sz + (pull + push) * nz
        for v in range(count):
            for axis in range(3):
                end = np.float32(shape[axis] - 1) * voxel_mm[axis]
                vertices[v, axis] = min(max(moved[v, axis], ZERO), end)
