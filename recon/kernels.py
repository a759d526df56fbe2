"""Numba kernels, nothing else: flat loops over voxels, float32, no fresh memory.

Each kernel's formula stands above it; who calls it knows why. Literals are float32 constants, because one
float64 literal would turn the loop into float64. No kernel sums over the volume, so results do not depend on the
number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import numba
import numpy as np

from recon.types import BoolArray, ComplexArray, FloatArray

F = TypeVar("F", bound=Callable[..., Any])


def _kernel(parallel: bool = True, inline: Literal["never", "always"] = "never") -> Callable[[F], F]:
    flags = {"contract", "nsz", "arcp"}
    jit = numba.njit(cache=True, parallel=parallel, inline=inline, error_model="numpy", fastmath=flags)
    return cast(Callable[[F], F], jit)


def threads() -> int:
    """Number of threads that kernels and transforms may use (``NUMBA_NUM_THREADS`` or the cores)."""
    return int(numba.get_num_threads())


ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
TWO_PI, PER_TURN = np.float32(2 * np.pi), np.float32(1 / (2 * np.pi))
TINY = np.float32(1e-12)

# Polynomials in x^2 on [-pi, pi] through the Chebyshev nodes; errors 6e-7 (sin) and 5e-7 (cos).
S0, S1, S2 = np.float32(0.99999994), np.float32(-0.16666621), np.float32(8.3327917e-3)
S3, S4, S5 = np.float32(-1.981763e-4), np.float32(2.708831e-6), np.float32(-2.0698135e-8)
C1, C2, C3 = np.float32(-0.49999988), np.float32(4.166649e-2), np.float32(-1.3887803e-3)
C4, C5, C6 = np.float32(2.476988e-5), np.float32(-2.707903e-7), np.float32(1.7245092e-9)


@_kernel(parallel=False, inline="always")
def wrap(x: Any) -> Any:
    """x modulo 2 pi, in [-pi, pi)."""
    return x - TWO_PI * np.floor(x * PER_TURN + HALF)


@_kernel(parallel=False, inline="always")
def sin_wrapped(x: Any) -> Any:
    """sin x for x in [-pi, pi]."""
    u = x * x
    return x * (S0 + u * (S1 + u * (S2 + u * (S3 + u * (S4 + u * S5)))))


@_kernel(parallel=False, inline="always")
def cos_wrapped(x: Any) -> Any:
    """cos x for x in [-pi, pi]."""
    u = x * x
    return ONE + u * (C1 + u * (C2 + u * (C3 + u * (C4 + u * (C5 + u * C6)))))


# H = sum over pairs (a, b) of M_a M_b exp(i (phi_b - phi_a)); power = sum of M_a M_b
@_kernel()
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
@_kernel()
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


@_kernel()
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
@_kernel()
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


# shrinkage of the relaxed gradient, anisotropic l1: v = rho grad chi + (1 - rho) y + u,  u = clip(v, +-t),  y = v - u
# one array per axis holds v; t = w alpha / mu1 per face, w = weight / 255, 0 on faces that leave the mask
@_kernel(parallel=False, inline="always")
def relaxed(old: Any, t: Any, step: Any, keep: Any) -> Any:
    """The next v of a face from its last one; ``step`` is rho grad chi, ``keep`` is 1 - rho."""
    u = min(max(old, -t), t)
    return step + keep * (old - u) + u


@_kernel(parallel=False, inline="always")
def target(v: Any, t: Any) -> Any:
    """y - u of a face."""
    return v - TWO * min(max(v, -t), t)


@_kernel()
def tv_step(chi: FloatArray, weights: Any, scales: Any, threshold: Any, rho: Any, v: FloatArray) -> None:
    """One proximal step of the gradient split; chi (X, Y, Z); ``weights`` uint8 and ``v`` float32 (3, X, Y, Z)."""
    nx, ny, nz = chi.shape
    keep = ONE - rho
    unit = threshold / np.float32(255)
    sx, sy, sz = rho * scales[0], rho * scales[1], rho * scales[2]
    for px in numba.prange(nx):
        x = np.int64(px)
        x1 = (x + 1) % nx
        for y in range(ny):
            y1 = (y + 1) % ny
            for z in range(nz):
                step = sx * (chi[x1, y, z] - chi[x, y, z])
                v[0, x, y, z] = relaxed(v[0, x, y, z], unit * np.float32(weights[0, x, y, z]), step, keep)
            for z in range(nz):
                step = sy * (chi[x, y1, z] - chi[x, y, z])
                v[1, x, y, z] = relaxed(v[1, x, y, z], unit * np.float32(weights[1, x, y, z]), step, keep)
            for z in range(nz):
                step = sz * (chi[x, y, z + 1 if z + 1 < nz else 0] - chi[x, y, z])
                v[2, x, y, z] = relaxed(v[2, x, y, z], unit * np.float32(weights[2, x, y, z]), step, keep)


# g = grad^T (y - u)
@_kernel()
def tv_divergence(v: FloatArray, weights: Any, scales: Any, threshold: Any, g: FloatArray) -> None:
    """Adjoint of the gradient applied to the split's target, into ``g`` (X, Y, Z)."""
    nx, ny, nz = g.shape
    unit = threshold / np.float32(255)
    for px in numba.prange(nx):
        x = np.int64(px)
        x0 = (x - 1 + nx) % nx
        for y in range(ny):
            y0 = (y - 1 + ny) % ny
            for z in range(nz):
                here = target(v[0, x, y, z], unit * np.float32(weights[0, x, y, z]))
                before = target(v[0, x0, y, z], unit * np.float32(weights[0, x0, y, z]))
                g[x, y, z] = scales[0] * (before - here)
            for z in range(nz):
                here = target(v[1, x, y, z], unit * np.float32(weights[1, x, y, z]))
                before = target(v[1, x, y0, z], unit * np.float32(weights[1, x, y0, z]))
                g[x, y, z] += scales[1] * (before - here)
            before = target(v[2, x, y, nz - 1], unit * np.float32(weights[2, x, y, nz - 1]))
            for z in range(nz):
                here = target(v[2, x, y, z], unit * np.float32(weights[2, x, y, z]))
                g[x, y, z] += scales[2] * (before - here)
                before = here


# z = argmin W^2 (1 - cos k(z - f)) / k^2 + mu/2 (z - v)^2,  v = rho D chi + (1 - rho) z + u,  u = v - z
# by majorisation: 1 - cos d <= ... + s/2 (z - f)^2 k^2 with s = sin d / d, so z = (mu v + W^2 s f) / (mu + W^2 s)
@_kernel()
def data_step(
    field: FloatArray,
    dchi: FloatArray,
    weight2: FloatArray,
    k: Any,
    mu: Any,
    rho: Any,
    z: FloatArray,
    u: FloatArray,
) -> None:
    """One proximal step of the data split, flat arrays (N,); ``dchi`` receives the target z - u."""
    keep = ONE - rho
    for i in numba.prange(field.shape[0]):
        v = rho * dchi[i] + keep * z[i] + u[i]
        new = v
        w = weight2[i]
        if w > ZERO:
            for _ in range(2):
                d = wrap(k * (new - field[i]))
                s = max(sin_wrapped(d) / d, ZERO) if abs(d) > np.float32(1e-3) else ONE
                new = (mu * v + w * s * (new - d / k)) / (mu + w * s)
        z[i] = new
        u[i] = v - new
        dchi[i] = new - (v - new)


# r = |exp(i k D chi) - exp(i k f)| / k = 2 |sin(k (D chi - f) / 2)| / k
@_kernel()
def data_residual(field: FloatArray, dchi: FloatArray, weight2: FloatArray, k: Any, residual: FloatArray) -> None:
    """Weighted residual W r in ppm of every voxel, flat; 0 where the weight is 0."""
    for i in numba.prange(field.shape[0]):
        half = wrap(k * (dchi[i] - field[i])) * HALF
        residual[i] = np.sqrt(weight2[i]) * TWO * abs(sin_wrapped(half)) / k


# chi^ = (mu1 G + mu2 D Z) / (mu1 L + mu2 D^2)
@_kernel()
def solve_chi(
    g: ComplexArray,
    z: ComplexArray,
    dipole: FloatArray,
    power: FloatArray,
    mu1: Any,
    mu2: Any,
    dchi: ComplexArray,
) -> None:
    """Solve the normal equations on the flat rfft grid; chi^ replaces ``g``, D chi^ goes to ``dchi``."""
    for i in numba.prange(g.shape[0]):
        d = dipole[i]
        new = (mu1 * g[i] + (mu2 * d) * z[i]) * (ONE / (mu1 * power[i] + mu2 * d * d))
        g[i] = new
        dchi[i] = d * new


# gamma = (1 - |wrap(d phi)| / pi) (1 - |wrap(d phi - d phi')| / pi) (min M / max M)^2, in 1..255; 0 = no edge
@_kernel()
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


@_kernel(parallel=False)
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


# out[a, i, b] = min over |j - i| <= reach of  g[a, j, b] + ((i - j) h)^2
@_kernel()
def min_plus(g: FloatArray, reach: int, step: Any, out: FloatArray) -> None:
    """One axis of the squared distance transform (A, N, B), capped at ``reach`` voxels of edge ``step``."""
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


# one colour of a red-black sweep:  b <- b + omega (mean of the neighbours, weighted by 1 / edge^2, - b)
@_kernel()
def relax_laplace(b: FloatArray, unknown: Any, weights: Any, omega: Any, colour: int) -> None:
    """Successive over-relaxation of Laplace's equation on the unknown voxels of one colour, in place.

    ``b`` float32 and ``unknown`` uint8 (X, Y, Z); no unknown voxel lies on the array's faces. ``weights``
    float32 (3,) add up to one half.
    """
    nx, ny, nz = b.shape
    wx, wy, wz = weights[0], weights[1], weights[2]
    for px in numba.prange(1, nx - 1):
        x = np.int64(px)
        for y in range(1, ny - 1):
            for z in range(1 + (x + y + colour + 1) % 2, nz - 1, 2):
                if unknown[x, y, z]:
                    mean = wx * (b[x - 1, y, z] + b[x + 1, y, z])
                    mean += wy * (b[x, y - 1, z] + b[x, y + 1, z])
                    mean += wz * (b[x, y, z - 1] + b[x, y, z + 1])
                    b[x, y, z] += omega * (mean - b[x, y, z])
