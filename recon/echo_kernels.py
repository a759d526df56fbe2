"""Numba kernels of echo fit and unwrapping, nothing else: flat loops over voxels, float32, no fresh memory.

Each kernel's formula stands above it. No kernel sums over the volume, so results do not depend on the number of
threads.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from recon.jit import HALF, ONE, PER_TURN, TINY, TWO, TWO_PI, ZERO, cos_wrapped, kernel, sin_wrapped, wrap
from recon.types import BoolArray, ComplexArray, FloatArray


# H = sum over pairs (a, b) of M_a M_b exp(i (phi_b - phi_a)); power = sum of M_a M_b
@kernel()
def hermitian_product(
    magnitude: FloatArray, phase: FloatArray, pairs: Any, product: ComplexArray, power: FloatArray
) -> None:
    """Inter-echo Hermitian product of flat echoes (E, N) over ``pairs`` int (P, 2), into ``product``, ``power``."""
    for i in numba.prange(magnitude.shape[1]):
        re, im, total = ZERO, ZERO, ZERO
        for p in range(pairs.shape[0]):
            a, b = pairs[p, 0], pairs[p, 1]
            m = magnitude[a, i] * magnitude[b, i]
            angle = wrap(phase[b, i] - phase[a, i])
            re += m * cos_wrapped(angle)
            im += m * sin_wrapped(angle)
            total += m
        product[i] = complex(re, im)
        power[i] = total


# O = sum over the given echoes of M_e exp(i (phi_e - 2 pi f t_e))
@kernel()
def demodulated_sum(
    magnitude: FloatArray,
    phase: FloatArray,
    field_hz: FloatArray,
    te_s: FloatArray,
    echoes: Any,
    total: ComplexArray,
) -> None:
    """Sum over ``echoes`` of the complex signal with the field taken out; flat (E, N), (N,) -> (N,)."""
    for i in numba.prange(magnitude.shape[1]):
        re, im = ZERO, ZERO
        for j in range(echoes.shape[0]):
            e = echoes[j]
            angle = wrap(phase[e, i] - TWO_PI * field_hz[i] * te_s[e])
            re += magnitude[e, i] * cos_wrapped(angle)
            im += magnitude[e, i] * sin_wrapped(angle)
        total[i] = complex(re, im)


@kernel()
def trilinear(coarse: ComplexArray, block: Any, index: Any, shape: Any, fine: ComplexArray) -> None:
    """Values of ``coarse`` (means over blocks of ``block`` voxels) at the flat voxels ``index`` of ``shape``."""
    cx, cy, cz = coarse.shape
    for i in numba.prange(index.shape[0]):
        x, rest = divmod(index[i], shape[1] * shape[2])
        y, z = divmod(rest, shape[2])
        px = min(max((np.float32(x) + HALF) / np.float32(block[0]) - HALF, ZERO), np.float32(cx - 1))
        py = min(max((np.float32(y) + HALF) / np.float32(block[1]) - HALF, ZERO), np.float32(cy - 1))
        pz = min(max((np.float32(z) + HALF) / np.float32(block[2]) - HALF, ZERO), np.float32(cz - 1))
        x0, y0, z0 = int(px), int(py), int(pz)
        x1, y1, z1 = min(x0 + 1, cx - 1), min(y0 + 1, cy - 1), min(z0 + 1, cz - 1)
        fx, fy, fz = px - np.float32(x0), py - np.float32(y0), pz - np.float32(z0)
        near = (coarse[x0, y0, z0] * (ONE - fz) + coarse[x0, y0, z1] * fz) * (ONE - fy)
        near += (coarse[x0, y1, z0] * (ONE - fz) + coarse[x0, y1, z1] * fz) * fy
        far = (coarse[x1, y0, z0] * (ONE - fz) + coarse[x1, y0, z1] * fz) * (ONE - fy)
        far += (coarse[x1, y1, z0] * (ONE - fz) + coarse[x1, y1, z1] * fz) * fy
        fine[i] = near * (ONE - fx) + far * fx


# min over A, R2*, f of  sum_e |S_e exp(-i phi_0) - A exp(-R2* t_e) exp(2 pi i f t_e)|^2, Gauss-Newton:
# with m_e = A exp(-R2* t_e), y_e = S_e exp(-i phi_0 - 2 pi i f t_e):
#   df         = sum m_e t_e Im y_e / (2 pi sum m_e^2 t_e^2)
#   (dA, dR)   = least squares of Re y_e - m_e on (m_e / A, -t_e m_e)
@kernel()
def fit_echoes(
    magnitude: FloatArray,
    phase: FloatArray,
    offset: FloatArray,
    te_s: FloatArray,
    steps: int,
    limit_hz: Any,
    field_hz: FloatArray,
    r2s_hz: FloatArray,
    amplitude: FloatArray,
    lever: FloatArray,
    square: FloatArray,
) -> None:
    """Fit flat echoes (E, N) voxel by voxel; ``field_hz``, ``r2s_hz``, ``amplitude`` (N,) are start and result.

    ``lever`` receives sum m_e^2 t_e^2 (the field's Fisher information over (2 pi / sigma)^2), ``square`` the
    residual sum of squares. ``limit_hz`` bounds a single step of the field; the amplitude stays below three times the
    largest magnitude, which the fit of noise would leave by many orders.
    """
    echoes = magnitude.shape[0]
    for i in numba.prange(magnitude.shape[1]):
        f, r, a = field_hz[i], r2s_hz[i], amplitude[i]
        top = ZERO
        for e in range(echoes):
            top = max(top, magnitude[e, i])
        top *= np.float32(3)
        a = min(a, top)
        information, residual = ZERO, ZERO
        settled: Any = False
        for step in range(steps + 1):
            information, residual, slope = ZERO, ZERO, ZERO
            jaa, jar, jrr, ga, gr = ZERO, ZERO, ZERO, ZERO, ZERO
            for e in range(echoes):
                t = te_s[e]
                decay = np.exp(-r * t)
                m = a * decay
                angle = wrap(phase[e, i] - offset[i] - TWO_PI * f * t)
                re = magnitude[e, i] * cos_wrapped(angle)
                im = magnitude[e, i] * sin_wrapped(angle)
                rest = re - m
                information += m * m * t * t
                slope += m * t * im
                residual += rest * rest + im * im
                jaa += decay * decay
                jar -= decay * m * t
                jrr += m * m * t * t
                ga += decay * rest
                gr -= m * t * rest
            if step == steps or (step > 2 and settled):
                break
            df = slope / (TWO_PI * (information + TINY))
            df = min(max(df, -limit_hz), limit_hz)
            f += df
            settled = abs(df) < np.float32(1e-3)
            determinant = jaa * jrr - jar * jar
            if determinant > np.float32(1e-6) * jaa * jrr:
                a = min(max(a + (jrr * ga - jar * gr) / determinant, ZERO), top)
                r = min(max(r + (jaa * gr - jar * ga) / determinant, ZERO), np.float32(2000))
            elif jaa > ZERO:
                a = min(max(a + ga / jaa, ZERO), top)
        field_hz[i], r2s_hz[i], amplitude[i] = f, r, a
        lever[i], square[i] = information, residual


# gamma = (1 - |wrap(d phi)| / pi) (1 - |wrap(d phi - d phi')| / pi) (min M / max M)^2, in 1..255; 0 = no edge
@kernel()
def edge_quality(phase: FloatArray, second: FloatArray, magnitude: FloatArray, mask: BoolArray, quality: Any) -> None:
    """Quality of the edge from every voxel to its next neighbour, uint8 (X, Y, Z, 3); not periodic."""
    nx, ny, nz = phase.shape
    for x in numba.prange(nx):
        for y in range(ny):
            for z in range(nz):
                for axis in range(3):
                    x1, y1, z1 = x + (axis == 0), y + (axis == 1), z + (axis == 2)
                    quality[x, y, z, axis] = 0
                    if x1 == nx or y1 == ny or z1 == nz or not mask[x, y, z] or not mask[x1, y1, z1]:
                        continue
                    d = wrap(phase[x1, y1, z1] - phase[x, y, z])
                    d2 = wrap(second[x1, y1, z1] - second[x, y, z] - d)
                    a, b = magnitude[x, y, z], magnitude[x1, y1, z1]
                    ratio = min(a, b) / max(a, b, TINY)
                    g = (ONE - TWO * abs(d) * PER_TURN) * (ONE - TWO * abs(d2) * PER_TURN) * ratio * ratio
                    quality[x, y, z, axis] = 1 + int(np.float32(254) * max(g, ZERO))


@kernel(parallel=False)
def grow(phase: FloatArray, quality: Any, seed: Any, waiting: Any, heads: Any, done: Any) -> None:
    """Unwrap ``phase`` in place from flat voxel ``seed`` outwards, best edge first.

    ``heads`` int32 (256,) and ``waiting`` int32 (3 N,) are a bucket queue of edges (3 voxel + axis), linked
    through ``waiting``; -1 ends a list. ``done`` uint8 (N,) marks voxels that have their final value.
    """
    nx, ny, nz = phase.shape
    flat, edge_q = phase.reshape(-1), quality.reshape(-1)
    steps = (ny * nz, nz, 1)
    heads[:] = -1
    best = 0
    voxel = seed
    done[voxel] = 1
    while True:
        for axis in range(3):
            for side in range(2):
                coordinate = voxel // steps[axis] % (nx if axis == 0 else (ny if axis == 1 else nz))
                if side == 1 and coordinate == 0:
                    continue
                edge = 3 * (voxel - side * steps[axis]) + axis
                q = edge_q[edge]
                if q > 0:
                    edge_q[edge] = 0
                    waiting[edge] = heads[q]
                    heads[q] = edge
                    best = max(best, q)
        found = False
        while best > 0 and not found:
            edge = heads[best]
            if edge < 0:
                best -= 1
                continue
            heads[best] = waiting[edge]
            a = edge // 3
            b = a + steps[edge % 3]
            if done[a] and done[b]:
                continue
            known, voxel = (a, b) if done[a] else (b, a)
            flat[voxel] = flat[known] + wrap(flat[voxel] - flat[known])
            done[voxel] = 1
            found = True
        if not found:
            return
