"""Numba kernels, nothing else: flat loops over voxels, float32, no fresh memory.

Each kernel's formula stands above it; who calls it knows why. No kernel sums across threads, so results do not
depend on their number. Those of echo fit and unwrapping stand in :mod:`recon.echo_kernels`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from recon.jit import HALF, ONE, TINY, TWO, ZERO, kernel, sin_wrapped, wrap
from recon.types import BoolArray, ComplexArray, FloatArray


def threads() -> int:
    """Number of threads that kernels and transforms may use (``NUMBA_NUM_THREADS`` or the cores)."""
    return int(numba.get_num_threads())


# sums[x] = sum over y, z of a b
@kernel()
def plane_dots(a: FloatArray, b: FloatArray, sums: Any) -> None:
    """Scalar product of every x-plane of two volumes, float64; the order of summation is always the same."""
    nx, ny, nz = a.shape
    for x in numba.prange(nx):
        column = np.zeros(nz, dtype=np.float32)
        for y in range(ny):
            for z in range(nz):
                column[z] += a[x, y, z] * b[x, y, z]
        total = 0.0
        for z in range(nz):
            total += column[z]
        sums[x] = total


# x <- x + step d,  r <- r - step A d
@kernel()
def cg_step(x: FloatArray, residual: FloatArray, direction: FloatArray, image: FloatArray, step: Any) -> None:
    """Solution and residual of conjugate gradients one step on, flat, in place."""
    for i in numba.prange(x.shape[0]):
        x[i] += step * direction[i]
        residual[i] -= step * image[i]


# d <- s + ratio d
@kernel()
def cg_turn(direction: FloatArray, scaled: FloatArray, ratio: Any) -> None:
    """The next direction of conjugate gradients, flat, in place."""
    for i in numba.prange(direction.shape[0]):
        direction[i] = scaled[i] + ratio * direction[i]


# f - width sum_a (ds_a / mean s) df_a,  d half the difference of both neighbours, mean over the three; both limited
@kernel()
def at_middle(
    field: FloatArray, signal: FloatArray, mask: BoolArray, width: Any, limit: Any, moved: FloatArray
) -> None:
    """Field of the voxels' middles from that of their signals' middles, Hz."""
    nx, ny, nz = field.shape
    three = np.float32(3)
    for px in numba.prange(nx):
        x = np.int64(px)
        for y in range(ny):
            for z in range(nz):
                moved[x, y, z] = field[x, y, z]
                if not mask[x, y, z]:
                    continue
                for axis in range(3):
                    dx, dy, dz = int(axis == 0), int(axis == 1), int(axis == 2)
                    x0, y0, z0, x1, y1, z1 = x - dx, y - dy, z - dz, x + dx, y + dy, z + dz
                    if x0 < 0 or y0 < 0 or z0 < 0 or x1 == nx or y1 == ny or z1 == nz:
                        continue
                    if not mask[x0, y0, z0] or not mask[x1, y1, z1]:
                        continue
                    low, high = signal[x0, y0, z0], signal[x1, y1, z1]
                    mean = max((low + signal[x, y, z] + high) / three, TINY)
                    slope = min(max(HALF * (high - low) / mean, -ONE), ONE)
                    step = min(max(HALF * (field[x1, y1, z1] - field[x0, y0, z0]), -limit), limit)
                    moved[x, y, z] -= width * slope * step


# w = e r per face; e = 1 / (1 + (|dM| / (tau max M))^2) between two deep voxels, else 1
#               r = 1 / (1 + scale |dchi| / half), 1 between two voxels of data weight below 0.05; 0 out of the brain
@kernel()
def face_weights(
    chi: FloatArray,
    weight2: FloatArray,
    magnitude: FloatArray,
    brain: BoolArray,
    deep: BoolArray,
    scales: Any,
    per_half: Any,
    per_ratio: Any,
    faces: Any,
) -> None:
    """Weight of total variation, 255 = 1, into ``faces`` uint8 (3, X, Y, Z): between every voxel and the next one."""
    nx, ny, nz = chi.shape
    unsure = np.float32(0.05)
    for px in numba.prange(nx):
        x = np.int64(px)
        for axis in range(3):
            dx, dy, dz = int(axis == 0), int(axis == 1), int(axis == 2)
            for y in range(ny):
                for z in range(nz):
                    faces[axis, x, y, z] = 0
                    if x + dx == nx or y + dy == ny or z + dz == nz or not brain[x, y, z]:
                        continue
                    if not brain[x + dx, y + dy, z + dz]:
                        continue
                    w = ONE
                    if deep[x, y, z] and deep[x + dx, y + dy, z + dz]:
                        a, b = magnitude[x, y, z], magnitude[x + dx, y + dy, z + dz]
                        q = per_ratio * (a - b) / max(a, b, TINY)
                        w = ONE / (ONE + q * q)
                    if weight2[x, y, z] >= unsure or weight2[x + dx, y + dy, z + dz] >= unsure:
                        step = abs(chi[x + dx, y + dy, z + dz] - chi[x, y, z])
                        w /= ONE + per_half * scales[axis] * step
                    faces[axis, x, y, z] = max(int(np.float32(255) * w + HALF), 1)


# shrinkage of the relaxed gradient, anisotropic l1: v = rho grad chi + (1 - rho) y + u,  u = clip(v, +-t),  y = v - u
# one array per axis holds v; t = w alpha / mu1 per face, w = weight / 255, 0 on faces that leave the mask
@kernel(parallel=False, inline="always")
def relaxed(old: Any, t: Any, step: Any, keep: Any) -> Any:
    """The next v of a face from its last one; ``step`` is rho grad chi, ``keep`` is 1 - rho."""
    u = min(max(old, -t), t)
    return step + keep * (old - u) + u


@kernel(parallel=False, inline="always")
def target(v: Any, t: Any) -> Any:
    """y - u of a face."""
    return v - TWO * min(max(v, -t), t)


@kernel()
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
@kernel()
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
@kernel()
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
    keep, per_k = ONE - rho, ONE / k
    for i in numba.prange(field.shape[0]):
        v = rho * dchi[i] + keep * z[i] + u[i]
        new = v
        for _ in range(2):
            d = wrap(k * (new - field[i]))
            small = abs(d) < np.float32(1e-3)
            s = weight2[i] * (ONE if small else max(sin_wrapped(d) / (ONE if small else d), ZERO))
            new = (mu * v + s * (new - d * per_k)) / (mu + s)
        z[i] = new
        u[i] = v - new
        dchi[i] = new - (v - new)


# r = |exp(i k D chi) - exp(i k f)| / k = 2 |sin(k (D chi - f) / 2)| / k
@kernel()
def data_residual(field: FloatArray, dchi: FloatArray, weight2: FloatArray, k: Any, residual: FloatArray) -> None:
    """Weighted residual W r in ppm of every voxel, flat; 0 where the weight is 0."""
    for i in numba.prange(field.shape[0]):
        half = wrap(k * (dchi[i] - field[i])) * HALF
        residual[i] = np.sqrt(weight2[i]) * TWO * abs(sin_wrapped(half)) / k


# C = g + i z
@kernel()
def pack(g: FloatArray, z: FloatArray, pair: ComplexArray) -> None:
    """Two real volumes as one complex one, flat."""
    for i in numba.prange(g.shape[0]):
        pair[i] = complex(g[i], z[i])


@kernel()
def unpack(pair: ComplexArray, chi: FloatArray, dchi: FloatArray) -> None:
    """The real and the imaginary volume, flat."""
    for i in numba.prange(chi.shape[0]):
        chi[i], dchi[i] = pair[i].real, pair[i].imag


# chi^ = (mu1 G + mu2 D Z) / (mu1 L + mu2 D^2) with G(k) = (C(k) + C*(-k)) / 2, Z(k) = (C(k) - C*(-k)) / 2i;
# the transform of chi + i D chi is (1 + i D) chi^
@kernel()
def solve_chi(
    pair: ComplexArray, dipole: FloatArray, power: FloatArray, mu1: Any, mu2: Any, solution: ComplexArray
) -> None:
    """Solve the normal equations from the transform of g + i z, into that of chi + i D chi, (X, Y, Z).

    ``dipole`` and ``power`` are on the rfft grid: k and -k are solved for together.
    """
    nx, ny, nz = pair.shape
    for px in numba.prange(nx):
        x = np.int64(px)
        x1 = (nx - x) % nx
        for y in range(ny):
            y1 = (ny - y) % ny
            here, mirrored, d_row, power_row = pair[x, y], pair[x1, y1], dipole[x, y], power[x, y]
            out, out_mirrored = solution[x, y], solution[x1, y1]
            for z in range(d_row.shape[0]):
                z1 = nz - z if z > 0 else 0
                a, b, d = here[z], mirrored[z1], d_row[z]
                w = HALF / (mu1 * power_row[z] + mu2 * d * d)
                re = w * (mu1 * (a.real + b.real) + mu2 * d * (a.imag + b.imag))
                im = w * (mu1 * (a.imag - b.imag) + mu2 * d * (b.real - a.real))
                out[z] = complex(re - d * im, im + d * re)
                if z1 != z:
                    out_mirrored[z1] = complex(re + d * im, d * re - im)


# one colour of a red-black sweep:  b <- b + omega (mean of the neighbours, weighted by 1 / edge^2, - b)
@kernel()
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
